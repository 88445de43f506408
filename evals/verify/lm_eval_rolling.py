#!/usr/bin/env python3
"""Compares `--task text_perplexity` with lm-evaluation-harness's own loglikelihood_rolling on a merge in transformers' format.

    python evals/verify/lm_eval_rolling.py target/release/kintsugi CHECKPOINT TEXT…

TEXT is a text file or JSONL with a `text` in every line. Needs torch, transformers and lm-eval (0.4.13 was used)."""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager
from lm_eval.api.task import ConfigurableTask

METRICS = ["word_perplexity", "byte_perplexity", "bits_per_byte"]


def texts(path):
    raw = path.read_bytes().decode()
    if raw.lstrip().startswith("{"):
        return [json.loads(line)["text"] for line in raw.splitlines() if line.strip()]
    return [raw]


def ours(kintsugi, model, path, folder):
    command = [kintsugi, "eval", model, "--task", "text_perplexity", "--data", path, "--device", "cpu", "--dtype", "f32"]
    subprocess.run([*command, "--output-dir", folder, "-q"], check=True, stdout=subprocess.DEVNULL)
    (results,) = (folder / "lm-eval" / "baseline").glob("results_*.json")
    return json.loads(results.read_text())["results"]["text_perplexity"]


def harness(model, path, folder):
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(path)))
    task = ConfigurableTask(config={
        "task": "text_perplexity",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in METRICS],
    })
    arguments = {"pretrained": str(model), "dtype": "float32", "device": "cpu"}
    out = lm_eval.simple_evaluate(model="hf", model_args=arguments, tasks=[task], batch_size=1, task_manager=TaskManager())
    return {key.split(",")[0]: value for key, value in out["results"]["text_perplexity"].items()}


def main():
    kintsugi, checkpoint, *paths = sys.argv[1:]
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model = folder / "merged"
        merge = [kintsugi, "merge", checkpoint, "-o", model, "--format", "hf", "--dtype", "f32", "-q"]
        subprocess.run(merge, check=True, stdout=subprocess.DEVNULL)
        for number, path in enumerate(map(Path, paths)):
            own, theirs = ours(kintsugi, model, path, folder / f"out{number}"), harness(model, path, folder)
            for name in METRICS:
                found, expected = own[f"{name},none"], theirs[name]
                worst = max(worst, abs(math.log(found / expected)))
                print(f"{path.name}: {name}: kintsugi {found:.9f}, lm-evaluation-harness {expected:.9f}")
    print(f"largest relative difference {worst:.1e}")
    return 0 if worst < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
