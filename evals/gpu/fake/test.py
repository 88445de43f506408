#!/usr/bin/env python3
"""test.py KINTSUGI BUILT [--checkpoints DIR] [--work DIR] [--only TEXT] [--record]

The whole CUDA host path on the fake GPU in BUILT (see README.md): every reference checkpoint in three types, `compare`, `explain`,
`merge`, two GPUs, small cards, GPUs that cannot be used, and what a layer at the 20b width takes against `limits.json`. Exit code
1 if anything fails. `--record` writes what was measured into `limits.json` instead."""

import argparse
import json
import re
import sys
import time
from pathlib import Path

from fake_gpu import DEMO, HERE, ROOT, WIDE, FakeGpu, limited, of_a_layer, strategies

LIMITS = HERE / "limits.json"
DTYPES = ("f32", "f16", "bf16")
# Kernels of fused attention, by libtorch's names.
FUSED = ("flash_fwd", "fmha_cutlass")


class Tests:
    def __init__(self, args):
        self.args, self.done, self.failed = args, 0, []
        self.gpu = FakeGpu(args.kintsugi, args.built, args.work)
        folders = [Path(args.checkpoints)] if args.checkpoints else [ROOT.parent / "shared/checkpoints", ROOT / "tests/fixtures/checkpoints"]
        found = {}
        for folder in folders:
            if folder.is_dir():
                found = found or {each.name: each for each in sorted(folder.iterdir()) if (each / "latest").exists()}
        self.checkpoints = found or sys.exit("no checkpoints")

    def check(self, name, test):
        """`test` returns what is wrong."""
        if self.args.only and self.args.only not in name:
            return
        clock = time.perf_counter()
        wrong = test()
        self.done += 1
        print(f"{'FAIL' if wrong else 'ok  '} {name} ({time.perf_counter() - clock:.1f} s){': ' if wrong else ''}{wrong}", flush=True)
        if wrong:
            self.failed.append(name)

    def on(self, command, checkpoint, *options, device="cuda", **environment):
        tokenizer, data = checkpoint / "tokenizer.json", checkpoint / "lambada_style.jsonl"
        texts = ["--tokenizer", tokenizer, "--data", data] if data.exists() else ["--tokenizer", DEMO["tokenizer"], "--data", DEMO["data"]]
        return self.gpu.run(command, checkpoint, *texts, "--device", device, *options, **environment)

    # ---- the host path

    def evaluation(self, checkpoint, dtype):
        run = self.on("eval", checkpoint, "--dtype", dtype)
        if run.complaint():
            return run.complaint()
        if not run.kernels(*FUSED):
            return "attention is not fused"
        wide = run.counter("products: 16 bits in, float32 out")
        return "" if dtype == "f32" or wide else "logits are of 16 bits"

    def comparison(self, checkpoint):
        run = self.on("compare", checkpoint, "--allow-inexact", "--bootstrap-replicates", 10)
        if run.complaint():
            return run.complaint()
        # Strategies that make the same model are one row.
        names = sum(1 + len(row.get("also", [])) for row in run.report["variants"])
        return "" if names >= 5 and run.report["noise_floor"] else "variants are missing"

    def explanation(self, checkpoint):
        return self.on("explain", checkpoint, "--allow-inexact").complaint()

    def calibration(self, checkpoint):
        target = self.gpu.work / "merged"
        run = self.gpu.run("merge", checkpoint, "--strategy", "fold-calibrated", "--tokenizer", checkpoint / "tokenizer.json", "--device",
                           "cuda", "--overwrite", "-o", target)
        narrow = any("Half" in name or "half" in name for name in run.counts["kernels"]) if run.counts else False
        return run.complaint() or ("it calibrates in float16" if narrow else "") or ("nothing ran" if not run.counts["launches"] else "")

    def two_gpus(self, checkpoint, command):
        run = self.on(command, checkpoint, "--chunk-tokens", 512, FAKE_GPUS=2)
        if run.complaint():
            return run.complaint()
        return "" if len(run.counts["peak_bytes"]) == 2 and run.report["run"]["device"] == "cuda:0,cuda:1" else "one GPU did it all"

    def small_card(self, gibibytes, command):
        """A model whose weights, logits and chunks do not fit at once: chunks are halved."""
        run = self.on(command, self.gpu.synthetic("160m", 2), "--dtype", "f16", "--chunk-tokens", 16384, FAKE_MEM_GB=gibibytes)
        return run.complaint() or ("" if run.counter("cudaMalloc refused") else "the card was not too small: lower it")

    def refused_handle(self, checkpoint):
        run = self.on("eval", checkpoint, FAKE_CUBLAS_REFUSES=1)
        return run.complaint() or ("" if run.counter("cuBLAS handles refused") == 1 else "no handle was refused")

    # ---- GPUs that cannot be used

    def refuses(self, checkpoint, device, code, texts, **environment):
        run = self.on("eval", checkpoint, device=device, **environment)
        missing = [text for text in texts if text not in run.stderr]
        longest = max(len(run.stderr.splitlines()), 1)
        if run.code != code or missing or longest > 12:
            return f"exit {run.code}, {longest} lines, without {missing}: {run.stderr[:400]}"
        return ""

    def doctor(self):
        run = self.gpu.run("doctor", FAKE_GPUS=2, FAKE_MEM_GB=24)
        texts = ["cuda:0", "cuda:1", "FAKE GPU", "compute capability 9.0", "24.0 GiB", "driver for CUDA 13.0"]
        # Nothing is computed here, and a doctor must see that.
        texts.append("DOES NOT WORK")
        missing = [text for text in texts if text not in run.stdout]
        return run.complaint() or (f"without {missing}: {run.stdout}" if missing else "")

    def plan(self, gibibytes, *options, slices=None):
        """At the 20b width, with all passages of LAMBADA where they are there: the memory that a dry run names is enough, nothing is
        refused, and there are as many slices as it says."""
        shared = ROOT.parent / "shared/data"
        lambada = {"data": shared / "lambada/lambada_test.jsonl", "tokenizer": shared / "tokenizers/20B_tokenizer.json"}
        data = lambada if all(path.exists() for path in lambada.values()) else DEMO
        texts = ("--tokenizer", data["tokenizer"], "--data", data["data"])
        of = ("compare", self.gpu.synthetic("20b", 3), *texts, "--device", "cuda:0", *options)
        plan = self.gpu.run(*of, "--dry-run", FAKE_MEM_GB=gibibytes).stdout
        run = self.gpu.run(*of, FAKE_MEM_GB=gibibytes)
        if run.complaint():
            return run.complaint()
        planned, peak = float(re.search(r"at most ([\d.]+) GiB of each GPU", plan)[1]), run.counts["peak_bytes"]["0"] / 2**30
        found = run.report["run"]["slices"]
        expected = int((re.search(r"(\d+) slices", plan) or [0, 1])[1])
        print(f"     {gibibytes} GiB: {found} slices, peak {peak:.2f} GiB of {planned:.2f} planned")
        if peak > planned or planned > gibibytes or run.counter("cudaMalloc refused"):
            return f"peak {peak:.2f} GiB of {planned:.2f} planned, {run.counter('cudaMalloc refused')} refused"
        return "" if found == expected and slices in (None, found) else f"{found} slices, not {slices or expected}"

    # ---- a layer at the 20b width

    def layer(self, name):
        added, _, three = of_a_layer(self.gpu, WIDE[name])
        found = limited(added)
        known = json.loads(LIMITS.read_text()) if LIMITS.exists() else {}
        if self.args.record:
            known[name] = found
            LIMITS.write_text(json.dumps(known, indent=1) + "\n")
            return ""
        beyond = [f"{what} {count:.0f}, limit {known[name][what]:.0f}" for what, count in found.items() if count > known[name][what]]
        below = [f"{what} {count:.0f} of {known[name][what]:.0f}" for what, count in found.items() if count < known[name][what]]
        if below:
            print(f"     {name}: limits can be lowered: {', '.join(below)}")
        return ", ".join(beyond)

    def all(self):
        for dtype in DTYPES:
            for name, checkpoint in self.checkpoints.items():
                self.check(f"eval {name} {dtype}", lambda: self.evaluation(checkpoint, dtype))
        for name, checkpoint in self.checkpoints.items():
            self.check(f"compare {name}", lambda: self.comparison(checkpoint))
        sequential = next(path for name, path in self.checkpoints.items() if name.startswith("sequential"))
        some = self.checkpoints.get("parallel-residual-tp2-fp16-drift", sequential)
        for checkpoint in (some, sequential):
            self.check(f"explain {checkpoint.name}", lambda: self.explanation(checkpoint))
        self.check("merge, calibrated", lambda: self.calibration(sequential))
        for command in ("eval", "compare"):
            self.check(f"two GPUs, {command}", lambda: self.two_gpus(some, command))
            self.check(f"two GPUs, {command}, streams of every rank", lambda: self.two_gpus(sequential, command))
        for gibibytes, command in ((0.5, "eval"), (0.4, "eval"), (0.9, "compare")):
            self.check(f"{gibibytes} GiB, {command}", lambda: self.small_card(gibibytes, command))
        self.check("a cuBLAS handle refused", lambda: self.refused_handle(some))
        old = "the NVIDIA driver is too old: it supports CUDA 12.4"
        for what, environment, reason in [("an old driver", {"FAKE_DRIVER": 12040}, old), ("an old GPU", {"FAKE_SM": 70}, "compute capability 7.0"),
                                          ("no GPU", {"FAKE_GPUS": 0}, "no CUDA-capable device")]:
            self.check(f"{what}, auto", lambda: self.refuses(some, "auto", 0, ["no GPU can be used", reason, "device cpu"], **environment))
            self.check(f"{what}, cuda", lambda: self.refuses(some, "cuda", 2, [reason, "hint:"], **environment))
        self.check("auto takes the GPU", lambda: self.refuses(some, "auto", 0, ["device cuda:0: FAKE GPU, compute capability 9.0"]))
        self.check("a GPU that is not there", lambda: self.refuses(some, "cuda:3", 2, ["there are 2, counted from 0"], FAKE_GPUS=2))
        self.check("too little memory for anything", lambda: self.refuses(some, "cuda", 2, ["out of memory", "hint:"], FAKE_MEM_GB=0.004))
        self.check("doctor", self.doctor)
        self.check("78 GiB, eight models at the 20b width", lambda: self.plan(78, slices=1))
        merges = strategies(["zeroth", "mean", "reduce-aware"])
        for gibibytes in (24, 12):
            self.check(f"{gibibytes} GiB, four models at the 20b width", lambda: self.plan(gibibytes, *merges))
        self.check("12 GiB, float32 at the 20b width", lambda: self.plan(12, "--dtype", "f32", *merges))
        for name in WIDE:
            self.check(f"a layer at the 20b width, {name}", lambda: self.layer(name))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("kintsugi")
parser.add_argument("built")
parser.add_argument("--checkpoints", help="default: ../shared/checkpoints, else tests/fixtures/checkpoints")
parser.add_argument("--work", default=".scratch/cuda-host/work", help="where checkpoints of the 20b width go, 4 GB")
parser.add_argument("--only", help="tests whose name has this in it")
parser.add_argument("--record", action="store_true")
tests = Tests(parser.parse_args())
tests.all()
print(f"{tests.done - len(tests.failed)} of {tests.done} as they should be")
sys.exit(bool(tests.failed))
