#!/usr/bin/env python3
"""Whether `gate` judges lm-evaluation-harness's own samples as it judges kintsugi's.

    python evals/verify/lm_eval_gate.py target/release/kintsugi

Needs `pip install "lm-eval[hf]"` (checked with 0.4.13). Exports three merges of the demo's checkpoint for transformers, lets the harness
evaluate them on the demo's passages on the CPU, and judges `reduce-aware` and `mean` against `fold`: once from the harness's
samples, once from kintsugi's own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = ["fold", "reduce-aware", "mean"]
TASK = """\
task: demo
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
output_type: loglikelihood
test_split: test
doc_to_text: "{{{{text.split(' ')[:-1]|join(' ')}}}}"
doc_to_target: "{{{{' '+text.split(' ')[-1]}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""


def gate(program, folders, limits):
    arguments = ["--baseline", folders["fold"]] + [f"--model={name}={folders[name]}" for name in MODELS[1:]]
    found = subprocess.run([program, "gate", *arguments, *limits, "--format", "json"], capture_output=True, text=True)
    assert found.returncode in (0, 1, 3), found.stderr
    return found.returncode, json.loads(found.stdout)["checks"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the kintsugi binary")
    program = parser.parse_args().program
    demo = Path(__file__).resolve().parents[1] / "demo"
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        tasks = work / "tasks"
        tasks.mkdir()
        (tasks / "demo.yaml").write_text(TASK.format(data=demo / "passages.jsonl"), encoding="utf-8")
        subprocess.run([program, "demo", "--output-dir", work / "ours", "--quiet"], check=True, stdout=subprocess.DEVNULL)
        theirs = {}
        for name in MODELS:
            export = work / name
            subprocess.run([program, "merge", demo / "checkpoint", "-o", export, "--strategy", name, "--format", "hf",
                            "--tokenizer", demo / "tokenizer.json", "--quiet"], check=True)
            theirs[name] = work / "theirs" / name
            subprocess.run([sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "8",
                            "--model_args", f"pretrained={export},dtype=float32", "--tasks", "demo", "--include_path", tasks,
                            "--log_samples", "--output_path", theirs[name]], check=True, stdout=subprocess.DEVNULL)
        ours = {name: work / "ours" / "lm-eval" / name for name in MODELS}
        for limits in [["--max-ppl-increase", "1%", "--max-acc-loss", "0.5pp"], ["--max-ppl-increase", "0.3%"], []]:
            (code, own), (their_code, harness) = gate(program, ours, limits), gate(program, theirs, limits)
            assert code == their_code, (code, their_code)
            assert len(own) == len(harness) > 0
            for one, other in zip(own, harness):
                key = (one["model"], one["check"])
                assert key == (other["model"], other["check"])
                assert one["verdict"] == other["verdict"], (one, other)
                print(f"{' '.join(limits) or 'built-in limits'}: {key[0]}, {key[1]}: {one['verdict']} of both; "
                      f"bounds differ by at most {max(abs(one[end] - other[end]) for end in ('lower', 'upper')):.1e}")
            print(f"exit code {code} of both")


if __name__ == "__main__":
    sys.exit(main())
