#!/usr/bin/env python3
"""kintsugi beside transformers + lm-evaluation-harness: same machine, threads, passages and weights, in one run.

    evals/peers/bench.py --data lambada_test.jsonl --tokenizer 20B_tokenizer.json [--shapes 70m,160m,410m] [--limit 256]

For every shape: `kintsugi synth` writes a checkpoint of two ranks, `kintsugi merge --format hf` makes transformers'
model of it (folders that are there already are used again). Then, `--runs` times over and alternating:

- lm-eval in a process of its own, float32, at the batch size that was fastest in a trial; its clock starts after the
  model is loaded and a warm-up, and bootstrapping is off;
- `kintsugi eval`, the whole process by the clock: start, reading, tokenizing, computing, report;
- `kintsugi eval --dtype bf16` where the processor multiplies bfloat16;
- `kintsugi compare` with the baseline and five merges, of replicas that drifted and of replicas that did not.

Everything goes to `OUT/results.json`, raw; medians and ratios to stdout. Run inside the environment that
`make bench-peers` sets up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

LAYERS_HIDDEN = {
    "14m": (6, 128), "70m": (6, 512), "160m": (12, 768), "410m": (24, 1024), "1b": (16, 2048), "1.4b": (24, 2048),
    "2.8b": (32, 2560), "6.9b": (32, 4096),
}
TORCH_NAMES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
MERGES = ["zeroth", "mean", "merge20b", "reduce-aware", "fold"]
TASK = {
    "task": "lambada_file",
    "dataset_path": "json",
    "output_type": "loglikelihood",
    "test_split": "test",
    "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
    "doc_to_target": "{{' '+text.split(' ')[-1]}}",
    "metric_list": [
        {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
    ],
    "metadata": {"version": 1.0},
}


def peak_rss():
    """Bytes."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def with_bf16(args):
    """Whether to measure bfloat16 beside float32: on processors that multiply it."""
    flags = Path("/proc/cpuinfo").read_text()
    return args.device == "cpu" and args.dtype == "f32" and ("avx512_bf16" in flags or "amx_bf16" in flags)


# ---- the worker: one process of lm-eval, driven line by line ----


def worker(args):
    import torch

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    if args.worker == "ceiling":
        kinds = {args.dtype} | ({"bf16"} if with_bf16(args) else set())
        print(json.dumps({kind: ceiling(torch, args.device, getattr(torch, TORCH_NAMES[kind])) for kind in sorted(kinds)}))
        return
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(args.worker, dtype=getattr(torch, TORCH_NAMES[args.dtype])).eval().to(args.device)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=args.tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    task = TASK | {"dataset_kwargs": {"data_files": {"test": args.data}}}
    for line in sys.stdin:
        batch_size, limit = json.loads(line)
        peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=args.device, max_length=2048)
        clock = time.perf_counter()
        found = lm_eval.simple_evaluate(
            model=peer, tasks=[task], limit=limit, bootstrap_iters=0, log_samples=False, verbosity="ERROR"
        )
        seconds = time.perf_counter() - clock
        metrics = found["results"]["lambada_file"]
        print(json.dumps({
            "seconds": seconds, "perplexity": metrics["perplexity,none"], "acc": metrics["acc,none"],
            "peak_rss_bytes": peak_rss(),
        }), file=args.answers, flush=True)


def ceiling(torch, device, kind):
    """The fastest matrix product of any of these sizes, FLOP/s: the median of seven, the best of all sizes."""
    best = 0.0
    for rows, inner, columns in [(1024, 512, 1536), (1024, 1024, 4096), (1024, 4096, 1024), (2048, 2048, 2048), (4096, 4096, 4096)]:
        x, weight = (torch.randn(size, inner, dtype=kind, device=device) for size in (rows, columns))
        repeats = max(1, int(2e10 / (2 * rows * inner * columns)))
        torch.nn.functional.linear(x, weight)
        times = []
        for _ in range(7):
            clock = time.perf_counter()
            for _ in range(repeats):
                torch.nn.functional.linear(x, weight)
            if device != "cpu":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - clock) / repeats)
        best = max(best, 2 * rows * inner * columns / statistics.median(times))
    return best


class Peer:
    """lm-eval with a model loaded."""

    def __init__(self, args, model):
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1",
                                    "TOKENIZERS_PARALLELISM": "true", "TRANSFORMERS_VERBOSITY": "error",
                                    # As in kintsugi: cuDNN's attention makes a plan for every number and length of passages.
                                    "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}
        command = [sys.executable, __file__, "--worker", str(model), "--threads", str(args.threads),
                   "--data", args.data, "--tokenizer", args.tokenizer, "--device", args.device, "--dtype", args.dtype]
        log = open(Path(args.out) / "lm-eval.log", "a")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)

    def run(self, batch_size, limit):
        self.process.stdin.write(json.dumps([batch_size, limit]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("lm-eval has ended: see lm-eval.log")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def kintsugi(args, *arguments):
    subprocess.run([args.kintsugi, "-q", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def evaluation(args, command, checkpoint, *options):
    """One run of `eval` or `compare`: its wall time and what the report says."""
    folder = Path(args.out) / "report"
    clock = time.perf_counter()
    kintsugi(args, command, checkpoint, "--tokenizer", args.tokenizer, "--data", args.data, "--limit", args.limit,
             "--device", args.device, "--threads", args.threads, "--restart", "--output-dir", folder,
             *(options or ("--dtype", args.dtype)))
    seconds = time.perf_counter() - clock
    report = json.loads((folder / "report.json").read_text())
    run, baseline = report["run"], report["baseline"]
    return {
        "seconds": seconds, "stages": run["stages"], "tokens": run["tokens"], "peak_rss_bytes": run["peak_rss_bytes"],
        "perplexity": baseline["perplexity"], "acc": baseline["acc"], "chunk_tokens": run["chunk_tokens"],
    }


def needed_flops(args, shape, tokens):
    """Floating-point operations of the matrix products that the metrics depend on: all layers for all tokens, but of
    the last one only queries, keys and values, and the head at the targets. Attention's own products are left out."""
    layers, hidden = LAYERS_HIDDEN[shape]
    targets = tokens_of_targets(args)
    vocabulary = 50432
    return 24 * hidden**2 * ((layers - 1) * tokens) + 6 * hidden**2 * tokens + (18 * hidden**2 + 2 * hidden * vocabulary) * targets


def tokens_of_targets(args):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(args.tokenizer)
    count = 0
    for line in Path(args.data).read_text().splitlines()[: args.limit]:
        context, _, _ = json.loads(line)["text"].rpartition(" ")
        count += len(tokenizer.encode(json.loads(line)["text"]).ids) - len(tokenizer.encode(context).ids)
    return count


def prepare(args, shape, drift):
    """A checkpoint of two ranks; where its replicas agree, transformers' model of it too."""
    checkpoint = Path(args.work) / f"{shape}-{'drift' if drift else 'even'}"
    if not checkpoint.exists():
        kintsugi(args, "synth", "--shape", shape, "--drift", drift, "-o", checkpoint)
    model = Path(args.work) / f"{shape}-hf"
    if not drift and not model.exists():
        kintsugi(args, "merge", checkpoint, "--strategy", "reduce-aware", "--format", "hf", "--tokenizer", args.tokenizer, "-o", model)
    return checkpoint, model


def measure(args, shape, ceilings):
    even, model = prepare(args, shape, 0)
    drifted, _ = prepare(args, shape, 0.01)
    merges = [part for name in MERGES for part in ("--strategy", name)] + ["--no-noise-floor", "--dtype", args.dtype]
    runs = {name: [] for name in ["lm-eval", "eval", "eval bf16", "compare even", "eval drifted", "compare drifted"]}
    trials = {}
    if not args.no_peer:
        peer = Peer(args, model)
        peer.run(8, min(16, args.limit))
        for batch_size in args.batch_sizes:
            trials[batch_size] = peer.run(batch_size, min(args.limit, args.trial_limit))["seconds"]
        best = min(trials, key=trials.get)
        print(f"{shape}: lm-eval by batch size: " + ", ".join(f"{k}: {v:.1f} s" for k, v in trials.items()), file=sys.stderr)
    for _ in range(args.runs):
        if not args.no_peer:
            runs["lm-eval"].append(peer.run(best, args.limit) | {"batch_size": best})
        runs["eval"].append(evaluation(args, "eval", even))
        if with_bf16(args):
            runs["eval bf16"].append(evaluation(args, "eval", even, "--dtype", "bf16"))
        if not args.no_compare:
            runs["compare even"].append(evaluation(args, "compare", even, *merges))
            runs["eval drifted"].append(evaluation(args, "eval", drifted))
            runs["compare drifted"].append(evaluation(args, "compare", drifted, *merges))
    if not args.no_peer:
        peer.close()
    return {"shape": shape, "trials": trials, "runs": {name: found for name, found in runs.items() if found}} | summary(args, shape, runs, ceilings)


def summary(args, shape, runs, ceilings):
    def median(name, of=lambda run: run["seconds"]):
        return statistics.median(map(of, runs[name]))

    def ratio(slow, fast, of=lambda run: run["seconds"]):
        """Of runs that stood side by side."""
        return statistics.median(of(a) / of(b) for a, b in zip(runs[slow], runs[fast], strict=True))

    tokens = runs["eval"][0]["tokens"]
    compute = lambda run: run["stages"]["compute_seconds"]
    flops = needed_flops(args, shape, tokens)
    found = {"tokens": tokens, "needed_flops": flops, "tokens_per_second": {}, "peak_rss_bytes": {}, "utilisation": {}, "ratios": {}}
    for name in filter(runs.get, runs):
        if "compare" not in name:
            found["tokens_per_second"][name] = tokens / median(name)
        found["peak_rss_bytes"][name] = max(run["peak_rss_bytes"] for run in runs[name])
    found["utilisation"]["eval"] = flops / median("eval", compute) / ceilings[args.dtype]
    if runs["eval bf16"]:
        found["utilisation"]["eval bf16"] = flops / median("eval bf16", compute) / ceilings["bf16"]
        found["ratios"]["bf16 : f32, whole process"] = ratio("eval", "eval bf16")
        found["ratios"]["bf16 : f32, compute part"] = ratio("eval", "eval bf16", compute)
    if runs["lm-eval"]:
        found["ratios"]["eval : lm-eval, tokens per second"] = ratio("lm-eval", "eval")
        ours, theirs = runs["eval"][0], runs["lm-eval"][0]
        off = abs(ours["perplexity"] / theirs["perplexity"] - 1)
        found["metrics"] = {"perplexity": [ours["perplexity"], theirs["perplexity"]], "acc": [ours["acc"], theirs["acc"]]}
        # In 16 bits two programs round differently, and a near tie may fall to either side.
        wide = args.dtype == "f32"
        found["metrics_agree"] = off <= (1e-3 if wide else 2e-2) and abs(ours["acc"] - theirs["acc"]) <= (1e-9 if wide else 2e-3)
    if runs["compare even"]:
        found["ratios"]["compare with 5 merges : eval, replicas agree"] = ratio("compare even", "eval")
        found["ratios"]["compare with 5 merges : eval, replicas drifted"] = ratio("compare drifted", "eval drifted")
    return found


def table(results):
    print("ceiling: " + ", ".join(f"{kind} {flops / 1e9:.0f} GFLOP/s" for kind, flops in results["ceilings"].items()))
    for shape in results["shapes"]:
        print(f"\n{shape['shape']}: {shape['tokens']} tokens, {shape['needed_flops'] / 1e12:.2f} TFLOP needed")
        for name, speed in shape["tokens_per_second"].items():
            used = shape["utilisation"].get(name)
            share = f", compute part at {used:.0%} of the ceiling" if used else ""
            print(f"  {name}: {speed:.0f} tokens/s, peak {shape['peak_rss_bytes'][name] / 2**20:.0f} MiB{share}")
        for name, value in shape["ratios"].items():
            print(f"  {name}: {value:.2f} ×")
        if "metrics" in shape:
            print(f"  {'same metrics' if shape['metrics_agree'] else 'METRICS DIFFER'}: " + ", ".join(f"{name} {ours:.6g} and {theirs:.6g}" for name, (ours, theirs) in shape["metrics"].items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="passages, one {\"text\": …} a line")
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json of the GPT-NeoX family")
    parser.add_argument("--shapes", type=lambda text: text.split(","), default=["70m", "160m", "410m"])
    parser.add_argument("--limit", type=int, default=256, help="passages")
    parser.add_argument("--trial-limit", type=int, default=64, help="passages of a trial of a batch size")
    parser.add_argument("--batch-sizes", type=lambda text: [int(part) for part in text.split(",")], default=[4, 8, 16, 32, 64])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=TORCH_NAMES, default="f32", help="of both; bf16 is measured besides where a CPU has it")
    parser.add_argument("--kintsugi", default=str(Path(__file__).parents[2] / "target/release/kintsugi"))
    parser.add_argument("--work", default=".scratch/peers", help="where checkpoints go")
    parser.add_argument("--out", default=".scratch/peers", help="where results go")
    parser.add_argument("--no-peer", action="store_true", help="kintsugi alone")
    parser.add_argument("--no-compare", action="store_true", help="eval alone")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        # What libraries print must not mix with answers.
        args.answers, sys.stdout = sys.stdout, sys.stderr
        if args.worker == "ceiling":
            sys.stdout = args.answers
        return worker(args)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    Path(args.work).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--worker", "ceiling", "--threads", str(args.threads), "--data", args.data,
               "--tokenizer", args.tokenizer, "--device", args.device, "--dtype", args.dtype]
    ceilings = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    results = {"command": sys.argv[1:], "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "threads": args.threads, "limit": args.limit,
               "ceilings": ceilings, "shapes": []}
    for shape in args.shapes:
        results["shapes"].append(measure(args, shape, ceilings))
        (Path(args.out) / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    table(results)
    if not all(shape.get("metrics_agree", True) for shape in results["shapes"]):
        sys.exit("the metrics differ")


if __name__ == "__main__":
    main()
