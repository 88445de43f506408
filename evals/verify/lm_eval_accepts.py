#!/usr/bin/env python3
"""Whether lm-evaluation-harness's own tools take the files of `lm-eval/`.

    kintsugi demo --output-dir out
    python evals/verify/lm_eval_accepts.py out [--data evals/demo/passages.jsonl]

Needs `pip install lm-eval` (checked with 0.4.13) and pandas. With --data the harness itself is run on the same passages with a
model that gives kintsugi's own answers: every hash, every number and every field must be the harness's.
"""

import argparse
import json
import math
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from lm_eval import utils

REQUIRED = {
    "results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config", "git_hash",
    "date", "pretty_env_info", "transformers_version", "lm_eval_version", "upper_git_hash", "task_hashes", "model_source",
    "model_name", "model_name_sanitized", "system_instruction", "system_instruction_sha", "fewshot_as_multiturn",
    "chat_template", "chat_template_sha", "total_evaluation_time_seconds",
}


def models(folder: Path):
    """Folder, results and samples of every model, found as zeno_visualize.py finds them."""
    for directory in sorted(path for path in folder.rglob("*") if path.is_dir()):
        files = [path.as_posix() for path in directory.iterdir() if path.is_file()]
        results = utils.get_results_filenames(files)
        if not results:
            continue
        latest = json.loads(Path(utils.get_latest_filename(results)).read_text(encoding="utf-8"))
        [task] = latest["configs"]
        samples = [
            path for path in utils.get_sample_results_filenames(files)
            if utils.get_file_task_name(Path(path).name) == utils.sanitize_task_name(task)
        ]
        lines = Path(utils.get_latest_filename(samples)).read_text(encoding="utf-8").splitlines()
        yield directory.name, task, latest, [json.loads(line) for line in lines]


def check_hashes(task, results, samples):
    for sample in samples:
        dumped = json.dumps(sample["doc"], indent=2, ensure_ascii=False)
        assert sample["doc_hash"] == utils.hash_string(dumped), sample["doc_id"]
        context, target = (sample["arguments"]["gen_args_0"][f"arg_{place}"] for place in (0, 1))
        assert sample["prompt_hash"] == utils.hash_string(context), sample["doc_id"]
        assert sample["target_hash"] == utils.hash_string(target), sample["doc_id"]
        assert sample["doc"]["text"] == context + target and sample["target"] == target
    whole = "".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples)
    assert results["task_hashes"][task] == utils.hash_string(whole)


def check_table(name, task, results):
    table = utils.make_table(results)
    row = results["results"][task]
    for metric in ("acc", "perplexity"):
        shown = f"{row[f'{metric},none']:.4f}".rstrip("0")
        assert shown in table, (name, table)
    print(f"{name}\n{table}")


def check_zeno(results, samples, task):
    """What zeno_visualize.py takes out of the files (generate_dataset, generate_system_df)."""
    import pandas as pd

    config = results["configs"][task]
    json.dumps(results["config"]["model_args"])
    assert config["output_type"] == "loglikelihood" and not config.get("filter_list")
    metrics = {metric["metric"]: [s[metric["metric"]] for s in samples] for metric in config["metric_list"]}
    frame = pd.DataFrame({
        "id": [s["doc_id"] for s in samples],
        "data": [s["arguments"]["gen_args_0"]["arg_0"] for s in samples],
        "labels": [s["arguments"]["gen_args_0"]["arg_1"] for s in samples],
        "output": [s["filtered_resps"][0][1] for s in samples],
        **metrics,
    })
    assert frame["id"].is_unique and set(frame["output"]) <= {"True", "False"}
    assert math.isclose(frame["acc"].mean(), results["results"][task]["acc,none"])
    assert math.isclose(math.exp(-frame["perplexity"].mean()), results["results"][task]["perplexity,none"], rel_tol=1e-12)


def check_comparator(found, task):
    """model_comparator.py's z-value of every model against the first."""
    first = found[0][2]["results"][task]
    for name, _, results, _ in found[1:]:
        other = results["results"][task]
        spread = math.hypot(first["acc_stderr,none"], other["acc_stderr,none"])
        print(f"{name}: z = {(first['acc,none'] - other['acc,none']) / spread:+.3f} against {found[0][0]}")


def run_harness(data: Path, task: str, answers: dict, folder: Path):
    """The harness on the same passages, answered as `answers` say: its results and samples as it saves them."""
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Recorded(LM):
        def loglikelihood(self, requests, **_):
            return [answers[request.args] for request in requests]

        def loglikelihood_rolling(self, requests, **_):
            raise NotImplementedError

        def generate_until(self, requests, **_):
            raise NotImplementedError

    definition = {
        "task": task, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data.resolve())}},
        "output_type": "loglikelihood", "test_split": "test",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}", "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "should_decontaminate": True, "doc_to_decontamination_query": "{{text}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
        "metadata": {"version": 1.0},
    }
    results = lm_eval.simple_evaluate(
        model=Recorded(), tasks=[definition], task_manager=TaskManager(include_defaults=False), log_samples=True
    )
    tracker = EvaluationTracker(output_path=str(folder))
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    tracker.save_results_samples(task_name=task, samples=samples[task])
    [saved] = folder.rglob("results_*.json")
    [lines] = folder.rglob("samples_*.jsonl")
    read = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    return json.loads(saved.read_text(encoding="utf-8")), read


def check_against_harness(name, task, results, samples, data):
    answers = {}
    for sample in samples:
        arguments = sample["arguments"]["gen_args_0"]
        answers[(arguments["arg_0"], arguments["arg_1"])] = (sample["perplexity"], bool(sample["acc"]))
    with tempfile.TemporaryDirectory() as folder:
        theirs, their_samples = run_harness(data, task, answers, Path(folder))
    assert len(samples) == len(their_samples)
    for ours, other in zip(samples, their_samples):
        assert ours == other, f"{name}, passage {ours['doc_id']}:\n{ours}\n{other}"
    mine, row = results["results"][task], theirs["results"][task]
    assert mine.keys() == row.keys(), (mine.keys(), row.keys())
    for key in row:
        # The harness bootstraps this one; kintsugi has it by the delta method.
        tolerance = 0.05 if key == "perplexity_stderr,none" else 1e-12
        same = math.isclose(mine[key], row[key], rel_tol=tolerance) if isinstance(row[key], float) else mine[key] == row[key]
        assert same, f"{name}: {key} is {mine[key]}, the harness has {row[key]}"
    missing = theirs.keys() - results.keys()
    assert not missing, f"{name}: fields the harness writes and kintsugi does not: {missing}"
    assert results["task_hashes"] == theirs["task_hashes"]
    print(f"{name}: all {len(samples)} samples, every metric and the task hash are the harness's own (the standard error of the perplexity within 5 %)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="an --output-dir of kintsugi")
    parser.add_argument("--data", type=Path, help="the passages (JSONL): also run the harness on them")
    args = parser.parse_args()
    found = list(models(args.output / "lm-eval"))
    assert found, f"no results in {args.output / 'lm-eval'}"
    for name, task, results, samples in found:
        missing = REQUIRED - results.keys()
        assert not missing, f"{name}: {missing}"
        check_hashes(task, results, samples)
        check_table(name, task, results)
        check_zeno(results, samples, task)
    check_comparator(found, found[0][1])
    if args.data:
        for name, task, results, samples in found:
            check_against_harness(name, task, results, samples, args.data)
    print(f"lm-evaluation-harness {version('lm_eval')} takes all {len(found)} models")


if __name__ == "__main__":
    sys.exit(main())
