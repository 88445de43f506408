"""Running kintsugi on the fake GPU, and counting what one layer of a model takes there."""

import json
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
DEMO = {"tokenizer": ROOT / "evals/demo/tokenizer.json", "data": ROOT / "evals/demo/passages.jsonl"}


class Run:
    """What a run left: exit code, output, the fake GPU's counts, the program's report, and the processor's seconds."""

    def __init__(self, code, stdout, stderr, counts, report, cpu_seconds):
        self.code, self.stdout, self.stderr, self.counts, self.report, self.cpu_seconds = code, stdout, stderr, counts, report, cpu_seconds

    def counter(self, name):
        return self.counts["counters"].get(name, 0)

    def kernels(self, *parts):
        return sum(count for name, count in self.counts["kernels"].items() if any(part in name for part in parts))

    def complaint(self):
        """What is wrong with a run that should have gone well; empty if nothing is."""
        if self.counts and self.counts["violations"]:
            return "; ".join(f"{what} ({count:.0f} times)" for what, count in self.counts["violations"].items())
        if self.code:
            return f"exit {self.code}: {' | '.join(self.stderr.strip().splitlines()[-4:])[:600]}"
        return "" if self.counts else "nothing was counted"


def cpu_seconds_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class FakeGpu:
    def __init__(self, kintsugi, built, work):
        self.kintsugi, self.built, self.work = Path(kintsugi).resolve(), Path(built), Path(work)
        self.work.mkdir(parents=True, exist_ok=True)

    def run(self, *arguments, **environment):
        """kintsugi with these arguments; FAKE_* and other variables by name."""
        counts, out = self.work / "counts.json", self.work / "out"
        counts.unlink(missing_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        arguments = [str(argument) for argument in arguments]
        if arguments[0] in ("eval", "compare"):
            arguments += ["--output-dir", str(out)]
        environment = os.environ | {name: str(value) for name, value in environment.items()}
        command = ["bash", str(HERE / "run.sh"), str(self.built), str(counts), str(self.kintsugi), *arguments]
        before = cpu_seconds_of_children()
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        cpu_seconds = cpu_seconds_of_children() - before
        read = lambda path: json.loads(path.read_text()) if path.exists() else None
        return Run(done.returncode, done.stdout, done.stderr, read(counts), read(out / "report.json"), cpu_seconds)

    def synthetic(self, shape, layers):
        """A checkpoint of two ranks with drift; one that is there is used again."""
        folder = self.work / f"{shape}-{layers}"
        if not folder.exists():
            subprocess.run([self.kintsugi, "-q", "synth", "--shape", shape, "--layers", str(layers), "--drift", "0.01",
                            "-o", folder], check=True, stdout=subprocess.DEVNULL)
        return folder

    def without_last_layer(self, whole):
        """The checkpoint less its last layer, made of links: gpt-neox numbers layers from 2, and norm and head after them."""
        source, target = whole / "global_step1", whole.with_name(f"{whole.name}-less-one")
        shutil.rmtree(target, ignore_errors=True)
        (target / "global_step1/configs").mkdir(parents=True)
        (target / "latest").write_text("global_step1")
        files = sorted(source.glob("layer_*.pt"))
        numbers = sorted({int(file.name[6:8]) for file in files})
        last, (norm, head) = numbers[-3], numbers[-2:]
        for file in files:
            number = int(file.name[6:8])
            if number != last:
                os.link(file, target / "global_step1" / f"layer_{number - (number in (norm, head)):02}{file.name[8:]}")
        for config in (source / "configs").iterdir():
            fewer = lambda found: f"{found[1]}{int(found[2]) - 1}"
            (target / "global_step1/configs" / config.name).write_text(re.sub(r'(num[-_]layers"?: *)(\d+)', fewer, config.read_text()))
        return target


def strategies(names):
    return ["--no-noise-floor", *(part for name in names for part in ("--strategy", name))]


# What is measured at the width of GPT-NeoX-20B: the baseline alone, and with the merges that people compare.
WIDE = {
    "eval": ["eval", "--dtype", "f16"],
    "compare": ["compare", "--dtype", "f16", *strategies(["zeroth", "mean", "reduce-aware", "fold"])],
}


def of_a_layer(gpu, command, data=DEMO, shape="20b", **environment):
    """The counts that a layer adds, by name: those of three layers without those of two. The last layer, of which only the rows
    of the targets are computed, is in both. With them both runs."""
    options = ["--tokenizer", data["tokenizer"], "--data", data["data"], "--device", "cuda:0"]
    whole = gpu.synthetic(shape, 3)
    two, three = (gpu.run(command[0], checkpoint, *command[1:], *options, **environment) for checkpoint in (gpu.without_last_layer(whole), whole))
    for run in (two, three):
        if run.complaint():
            raise SystemExit(f"{' '.join(command)}: {run.complaint()}")
    names = two.counts["counters"].keys() | three.counts["counters"].keys()
    added = {name: three.counter(name) - two.counter(name) for name in names}
    added["launches"] = three.counts["launches"] - two.counts["launches"]
    added["cpu seconds"] = three.cpu_seconds - two.cpu_seconds
    return added, two, three


def limited(added):
    """The counts of a layer that have a limit."""
    return {
        "kernel launches": added["launches"],
        "matrix products": added["products"],
        # For events it is the reader thread that waits, until weights are copied.
        "host waits": added["host waits"] - added.get("host waits: event", 0),
        "pageable copies to the device": added.get("copies: to device, pageable", 0),
        "pageable bytes to the device": added.get("copied bytes: to device, pageable", 0),
        "bytes to the device": sum(added.get(f"copied bytes: to device, {how}", 0) for how in ("pageable", "pinned")),
        "cudaMalloc": added.get("cudaMalloc", 0),
    }
