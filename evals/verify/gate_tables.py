#!/usr/bin/env python3
"""Compares `kintsugi gate` with gate_reference.py, to 1e-12, on a report and on 200 random tables of samples.

    kintsugi demo --output-dir out
    python evals/verify/gate_tables.py target/release/kintsugi out
"""

import argparse
import collections
import json
import math
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from gate_reference import losses

TABLES = 200


def check(program, out, options):
    """The largest difference of any number of a gate, and its verdicts."""
    run = subprocess.run([program, "gate", out, "--format", "json", *options], capture_output=True, text=True)
    assert run.returncode in (0, 1, 3), run.stderr
    found, report = json.loads(run.stdout), json.loads((out / "report.json").read_text())
    rows = {row["name"]: row for row in [report["baseline"], *report["variants"]]}

    def samples(name):
        return [json.loads(line) for line in (out / rows[name]["samples"]).read_text().splitlines()]

    alpha, checks, worst = found["significance"], found["checks"], 0.0
    numbers = [losses(samples("baseline"), samples(one["model"]))[one["check"]] for one in checks]
    judged = [(of_loss[3](one["limit"]), one, of_loss) for one, of_loss in zip(checks, numbers)]
    left, rejecting = len(judged), True
    for p, one, (loss, lower, upper, _) in sorted(judged, key=lambda row: row[0]):
        beyond_alpha = alpha / left
        rejecting = rejecting and p <= beyond_alpha
        left -= rejecting
        verdict = "beyond" if rejecting else "within" if upper(alpha) <= one["limit"] else "undecided"
        assert verdict == one["verdict"], (verdict, one)
        expected = {"loss": loss, "lower": lower(beyond_alpha), "upper": upper(alpha), "p_beyond": p,
                    "beyond_significance": beyond_alpha}
        for key, number in expected.items():
            if math.isfinite(number):
                worst = max(worst, abs(number - one[key]) / max(1.0, abs(number)))
            else:
                assert one[key] is None, (key, one)
    return worst, [one["verdict"] for one in checks]


def random_table(draw, template, out):
    """An output folder of made-up samples: a baseline and up to three models of any likeness to it."""
    count = draw.choice([12, 30, 31, 60, 200, 500])
    report = json.loads(json.dumps(template))
    names = [f"model{number}" for number in range(draw.randint(1, 3))]
    report["variants"] = [{**json.loads(json.dumps(template["variants"][0])), "name": name} for name in names]
    (out / "samples").mkdir(parents=True)
    sizes = [draw.randint(1, 4) for _ in range(count)]
    baseline = [(-draw.expovariate(0.6), draw.random() < 0.6, [draw.randint(0, 3) for _ in range(size)]) for size in sizes]
    for row in [report["baseline"], *report["variants"]]:
        row.update(n=count, samples=f"samples/{row['name']}.jsonl")
        noise, flips, tail = 10 ** draw.uniform(-5, 0), 10 ** draw.uniform(-3, -0.5), draw.uniform(0.1, 2)
        lines = []
        for passage, (loglikelihood, is_greedy, tops) in enumerate(baseline):
            if row is not report["baseline"]:
                loglikelihood += draw.gauss(-noise / 3, noise)
                is_greedy ^= draw.random() < flips
                tops = [9 if draw.random() < flips else top for top in tops]
            tokens = [{"id": 1, "greedy_id": top, "logprob": loglikelihood / len(tops),
                       "kl": 1e-3 * noise * draw.lognormvariate(0, tail)} for top in tops]
            lines.append(json.dumps({"doc_id": passage, "target": " x", "loglikelihood": loglikelihood, "is_greedy": is_greedy,
                                     "tokens": tokens, "prompt_hash": f"{passage}", "target_hash": "x"}))
        (out / row["samples"]).write_text("\n".join(lines) + "\n")
    (out / "report.json").write_text(json.dumps(report))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the kintsugi binary")
    parser.add_argument("out", type=Path, help="an --output-dir of kintsugi")
    args = parser.parse_args()
    worst, verdicts = check(args.program, args.out, [])
    print(f"{args.out}: {len(verdicts)} limits, largest difference {worst:.1e}")
    template, draw, seen = json.loads((args.out / "report.json").read_text()), random.Random(1), collections.Counter()
    for table in range(TABLES):
        with tempfile.TemporaryDirectory() as temporary:
            out = Path(temporary) / "out"
            random_table(draw, template, out)
            limits = ["--max-kl", f"{10 ** draw.uniform(-6, -2):.6f}", "--max-ppl-increase", f"{10 ** draw.uniform(-2, 1):.3f}%",
                      "--max-acc-loss", f"{10 ** draw.uniform(-1, 1):.2f}pp", "--min-same-top", f"{draw.uniform(80, 99.5):.1f}%",
                      "--significance", draw.choice(["0.05", "0.01", "0.1"])]
            difference, verdicts = check(args.program, out, limits)
            worst = max(worst, difference)
            seen.update(verdicts)
            assert difference <= 1e-12, (table, difference)
    print(f"{TABLES} random tables: {dict(seen)}, largest difference {worst:.1e}")


if __name__ == "__main__":
    sys.exit(main())
