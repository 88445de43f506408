"""Does transformers compute, with what `kintsugi merge --format hf` wrote, what `kintsugi compare` measured?

For each checkpoint and strategy: run `compare`, write the merge in small shards, load it with AutoModelForCausalLM and
AutoTokenizer in float32, score every passage, and compare log-likelihoods and greedy answers passage by passage. Exits
with 1 if any passage differs by more than the tolerance. Needs torch and transformers (4.56 or later).

    python evals/verify/hf_loglikelihoods.py target/release/kintsugi CHECKPOINT… --data lambada_style.jsonl
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


def samples(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def passages(path):
    with open(path) as lines:
        return [json.loads(line)["text"] for line in lines if line.strip()]


def encode(tokenizer, text):
    """lm-evaluation-harness's pair: split at the last space, encode the whole, cut after the context's tokens."""
    context = " ".join(text.split(" ")[:-1])
    whole = tokenizer.encode(context + " " + text.split(" ")[-1], add_special_tokens=False)
    return whole, len(tokenizer.encode(context, add_special_tokens=False))


@torch.inference_mode()
def score(model, whole, context_length):
    logits = model(torch.tensor([whole[:-1]])).logits[0].float()
    rows = torch.log_softmax(logits, -1)[context_length - 1 :]
    target = torch.tensor(whole[context_length:])
    total = rows.gather(1, target[:, None]).double().sum().item()
    return total, bool((rows.argmax(-1) == target).all())


def verify(kintsugi, checkpoint, data, strategies, tolerance):
    worst_of_all = 0.0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        asked = [flag for strategy in strategies for flag in ("--strategy", strategy)]
        compare = [kintsugi, "-q", "compare", checkpoint, "--data", data, "--dtype", "f32", "--device", "cpu"]
        report = folder / "report"
        subprocess.run([*compare, *asked, "--no-noise-floor", "--output-dir", report], check=True, stdout=subprocess.DEVNULL)
        for strategy in strategies:
            merged = folder / strategy
            merge = [kintsugi, "-q", "merge", checkpoint, "-o", merged, "--strategy", strategy, "--format", "hf"]
            subprocess.run([*merge, "--max-shard-size", "1MB"], check=True, stdout=subprocess.DEVNULL)
            model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
            tokenizer = AutoTokenizer.from_pretrained(merged)
            texts = passages(data)
            worst, flips = 0.0, 0
            expected = samples(report / "samples" / f"{strategy}.jsonl")
            for sample in expected:
                total, greedy = score(model, *encode(tokenizer, texts[sample["doc_id"]]))
                worst = max(worst, abs(total - sample["loglikelihood"]))
                flips += greedy != sample["is_greedy"]
            verdict = "agree" if worst <= tolerance and not flips else "DIFFER"
            print(f"{Path(checkpoint).name}  {strategy}  {type(model).__name__}  {len(expected)} passages  "
                  f"largest difference {worst:.2e}  flips {flips}  {verdict}", flush=True)
            worst_of_all = max(worst_of_all, float("inf") if flips else worst)
    return worst_of_all


def main():
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kintsugi")
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--data", default="lambada_style.jsonl", help="a file, or the name of one in every checkpoint")
    parser.add_argument("--strategy", action="append", help="default: zeroth, mean, reduce-aware, fold")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    strategies = args.strategy or ["zeroth", "mean", "reduce-aware", "fold"]
    worst = 0.0
    for checkpoint in args.checkpoints:
        beside = Path(checkpoint) / args.data
        data = beside if beside.is_file() else Path(args.data)
        worst = max(worst, verify(args.kintsugi, checkpoint, data, strategies, args.tolerance))
    sys.exit(0 if worst <= args.tolerance else 1)


if __name__ == "__main__":
    main()
