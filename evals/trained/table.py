"""The rows of run.sh's reports as a Markdown table. usage: table.py OUT"""

import json
import sys
from pathlib import Path


def verdicts(row):
    return ", ".join(f"{verdict['criterion']} {verdict['verdict']}" for verdict in row.get("verdicts", []))


def main():
    out = Path(sys.argv[1])
    print("| drift | type | merge | perplexity | accuracy % | mean KL, nats | same top % | largest change, nats | flips | verdicts |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for type in ("f32", "bf16"):
        for drift in ("0", "0.01", "0.05"):
            path = out / f"{drift}-{type}" / "report.json"
            if not path.is_file():
                continue
            report = json.loads(path.read_text())
            base = report["baseline"]
            print(f"| {drift} | {type} | unmerged | {base['perplexity']:.3f} | {100 * base['acc']:.2f} | | | | | |")
            for row in report["variants"]:
                samples = lambda name: [json.loads(line) for line in open(path.parent / "samples" / f"{name}.jsonl")]
                pairs = list(zip(samples("baseline"), samples(row["name"])))
                largest = max(abs(a["loglikelihood"] - b["loglikelihood"]) for a, b in pairs)
                lost = sum(a["is_greedy"] and not b["is_greedy"] for a, b in pairs)
                gained = sum(b["is_greedy"] and not a["is_greedy"] for a, b in pairs)
                name = " = ".join(f"`{name}`" for name in [row["name"], *row.get("also", [])])
                fidelity = row["fidelity"]
                print(f"| {drift} | {type} | {name} | {row['perplexity']:.3f} | {100 * row['acc']:.2f} | {fidelity['kl_mean']:.1e} | "
                      f"{fidelity['same_top1_pct']:.2f} | {largest:.3f} | {lost} / {gained} | {verdicts(row)} |")


if __name__ == "__main__":
    main()
