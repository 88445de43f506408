#!/usr/bin/env python3
"""counts.py KINTSUGI BUILT OUT [--data lambada_test.jsonl --tokenizer 20B_tokenizer.json] [--work DIR]

What a layer of the 20b width takes on a GPU, counted on the fake one in BUILT (fake/README.md): launches, products, copied bytes, host
waits, peak memory; and whether copying, reading and merging it fit behind its kernels. OUT receives `counts.json` and `README.md`. About
five minutes, 4 GB of disk. Without --data the 200 passages of the demo are taken."""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "fake"))
from fake_gpu import DEMO, WIDE, FakeGpu, limited, of_a_layer, strategies  # noqa: E402

# What is assumed of the machine.
KERNELS, COPIES, DISK, CORES = 700e12, 25e9, 2e9, 16
MERGES = ["zeroth", "mean", "merge20b", "reduce-aware", "fold"]
NAMES = {"eval": "`eval`", "compare": "`compare` with four merges"}
# GiB. What is planned for every built-in merge and the noise floor.
CARDS = [78, 24, 12]


def table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def merging(gpu, data, repeats):
    """Seconds of one core for merging a layer by each strategy: a processor's time for a comparison with it less that for the baseline
    alone, which reads the same; of each size the least of some runs."""
    def of(command):
        command = [*command, "--dtype", "f16", "--threads", 1, "--limit", 4]
        runs = [of_a_layer(gpu, command, data)[1:] for _ in range(repeats)]
        two, three = (min(run.cpu_seconds for run in of_size) for of_size in zip(*runs))
        return three - two

    alone = of(["eval"])
    return {name: max(of(["compare", *strategies([name])]) - alone, 0.0) for name in MERGES}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kintsugi")
    parser.add_argument("built")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--tokenizer")
    parser.add_argument("--work", default=".scratch/cuda-host/work")
    parser.add_argument("--repeats", type=int, default=2, help="of the merges' times")
    args = parser.parse_args()
    data = {"data": args.data, "tokenizer": args.tokenizer} if args.data else DEMO
    gpu = FakeGpu(args.kintsugi, args.built, args.work)
    gibibytes = 1 << 30
    found, plans = {}, {}
    args.out.mkdir(parents=True, exist_ok=True)

    def keep(**parts):
        raw.update(parts)
        (args.out / "counts.json").write_text(json.dumps(raw, indent=1) + "\n")

    raw = {"date": time.strftime("%Y-%m-%d")}
    for name, command in WIDE.items():
        added, _, run = of_a_layer(gpu, command, data)
        report = run.report["run"]
        found[name] = limited(added) | {
            "operations": added["operations of products"],
            "pinned bytes to the device": added.get("copied bytes: to device, pinned", 0),
            "waits of streams for events": added.get("streams wait for events", 0),
            "peak bytes": run.counts["peak_bytes"]["0"],
            "passes": report["slices"],
            "tokens": report["tokens"],
        }
        keep(layer=found)
    options = ["--tokenizer", data["tokenizer"], "--data", data["data"], "--device", "cuda:0"]
    for card in CARDS:
        run = gpu.run("compare", gpu.synthetic("20b", 3), "--dtype", "f16", "--dry-run", *options, FAKE_MEM_GB=card)
        plan = [line for line in run.stdout.splitlines() if line.startswith("memory")]
        plans[card] = run.complaint() or (plan[0].removeprefix("memory").strip() if plan else "no plan")
    keep(cards=plans)
    merges = merging(gpu, data, args.repeats)
    # Embedding, norm and head aside: the third layer's files.
    layer_bytes = sum(file.stat().st_size for file in (gpu.synthetic("20b", 3) / "global_step1").glob("layer_04-*"))
    keep(**{"merge seconds of one core": merges, "layer bytes": layer_bytes})

    slowest = max(merges, key=merges.get)
    mb = lambda count: f"{count / 1e6:,.1f} MB"
    tokens = found["eval"]["tokens"]
    columns = list(found)
    counted = [[what, *(show(found[name][key]) for name in columns)] for what, key, show in [
        ("kernel launches", "kernel launches", "{:,.0f}".format),
        ("matrix products", "matrix products", "{:,.0f}".format),
        ("operations in them", "operations", "{:.3g}".format),
        ("copied to the device", "bytes to the device", mb),
        ("of that pageable", "pageable bytes to the device", mb),
        ("pageable copies", "pageable copies to the device", "{:,.0f}".format),
        ("host waits", "host waits", "{:,.0f}".format),
        ("cudaMalloc", "cudaMalloc", "{:,.0f}".format),
    ]]
    whole = [[what, *(show(found[name][key]) for name in columns)] for what, key, show in [
        ("peak memory", "peak bytes", lambda count: f"{count / gibibytes:.1f} GiB"),
        ("passes over the weights", "passes", str),
    ]]
    waits = []
    for name in columns:
        kernels = found[name]["operations"] / KERNELS
        def fits(seconds):
            return f"{seconds * 1e3:,.0f} ms{'' if seconds <= kernels else ' **longer**'}"
        merge = sum(merges[each] for each in used(name)) / CORES
        waits.append([NAMES[name], f"{kernels * 1e3:,.0f} ms", fits(found[name]["bytes to the device"] / COPIES), fits(layer_bytes / DISK),
                      fits(merges[slowest] / CORES if name != "eval" else 0.0), fits(merge)])
    cards = [[f"{card} GiB", plan] for card, plan in plans.items()]
    text = f"""# What a layer takes on a GPU, counted without one

{time.strftime("%Y-%m-%d")}. Counted on the [fake GPU](../../gpu/fake/README.md), which launches nothing: libtorch's real CUDA half, no times. The shape of
GPT-NeoX-20B (hidden 6144, 64 heads, two ranks, float16, replicas drifted by 1 %) with three layers less the same with two; {tokens:,} tokens of
{"the passages of LAMBADA" if args.data else "the demo's passages"} in chunks of 16,384. Once more:

```sh
make test-cuda-host ARGS="--only width"      # builds the fake GPU
evals/gpu/counts.py target/release/kintsugi .scratch/cuda-host/built {args.out}{" --data lambada_test.jsonl --tokenizer 20B_tokenizer.json" if args.data else ""}
```

A layer:

{table(["", *(NAMES[name] for name in columns)], counted)}
Three layers with embedding and head, on a GPU of 78 GiB:

{table(["", *(NAMES[name] for name in columns)], whole)}
What `compare` plans for all built-in merges and the noise floor (`--dry-run`):

{table(["a GPU of", "memory"], cards)}
## Is the GPU ever waiting by design?

A layer's kernels at {KERNELS / 1e12:.0f} TFLOP/s (matrix products alone) against what the host does for it meanwhile: copying at {COPIES / 1e9:.0f} GB/s, reading its
{layer_bytes / 1e6:,.0f} MB at {DISK / 1e9:.0f} GB/s, merging on {CORES} cores. What is longer than the kernels makes the GPU wait however it is overlapped.

{table(["", "kernels", "copying", "reading", f"slowest merge ({slowest})", "all its merges"], waits)}
Merging is an estimate: processor seconds of one thread of the machine that counted ({", ".join(f"{name} {seconds:.2f} s" for name, seconds in merges.items())}),
divided by {CORES}. It takes the processor's time of a comparison with that merge alone, less that of the baseline alone. Whole runs are timed, so on a machine with
other work each is good to a second or two, and one that comes out below zero is shown as 0.
"""
    (args.out / "README.md").write_text(text)
    print(text)


def used(name):
    """The merges of a run."""
    return [part for part in WIDE[name] if part in MERGES]


main()
