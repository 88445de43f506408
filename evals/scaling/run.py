#!/usr/bin/env python3
"""How the cost of an evaluation grows with passages, with layers and with the model.

    evals/scaling/run.py KINTSUGI --data lambada_test.jsonl --tokenizer 20B_tokenizer.json --work SCRATCH --out FOLDER

`kintsugi eval` in whole processes, the median of `--runs`: with more and more passages on the first six layers of the
410m shape, with more and more of its layers on the same passages, and for the shapes of `--shapes` on `--limit` passages.
Checkpoints (two ranks, float16) are written below SCRATCH unless they are there; one of fewer layers is made of links to
the files of the whole one. Writes `scaling.json`, raw, and `scaling.svg`; the table goes to stdout. Needs nothing but
Python.
"""

import argparse
import json
import os
import re
import subprocess
from pathlib import Path

LAYERED = "410m"
PASSAGES = [32, 64, 128, 256, 512]
LAYERS = [6, 12, 18, 24]


def kintsugi(args, *arguments):
    subprocess.run([args.kintsugi, "-q", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def whole(args, shape):
    checkpoint = args.work / f"{shape}-even"
    if not checkpoint.exists():
        kintsugi(args, "synth", "--shape", shape, "-o", checkpoint)
    return checkpoint


def first_layers(args, count):
    """The first layers of a checkpoint, as one of its own: gpt-neox numbers them from 2, and norm and head after them."""
    source = whole(args, LAYERED)
    step = (source / "latest").read_text().strip()
    files = sorted((source / step).glob("layer_*.pt"))
    numbers = sorted({int(file.name[6:8]) for file in files})
    layers, (norm, head) = numbers[1:-2], numbers[-2:]
    if count == len(layers):
        return source
    target = args.work / f"{LAYERED}-first-{count}"
    renumbered = {0: 0, norm: count + 3, head: count + 4} | {number: number for number in layers[:count]}
    (target / step / "configs").mkdir(parents=True, exist_ok=True)
    (target / "latest").write_text(step)
    for file in files:
        number = int(file.name[6:8])
        if number not in renumbered:
            continue
        link = target / step / f"layer_{renumbered[number]:02}{file.name[8:]}"
        if not link.exists():
            os.link(file, link)
    for config in (source / step / "configs").iterdir():
        text = re.sub(r'(num[-_]layers"?: *)\d+', rf"\g<1>{count}", config.read_text())
        (target / step / "configs" / config.name).write_text(text)
    return target


def measure(args, checkpoint, limit):
    """The median run."""
    folder, runs = args.work / "report", []
    for _ in range(args.runs):
        kintsugi(args, "eval", checkpoint, "--tokenizer", args.tokenizer, "--data", args.data, "--limit", limit,
                 "--device", args.device, "--restart", "--output-dir", folder)
        run = json.loads((folder / "report.json").read_text())["run"]
        runs.append({"seconds": run["seconds"], "compute_seconds": run["stages"]["compute_seconds"],
                     "tokens": run["tokens"], "peak_rss_mib": run["peak_rss_bytes"] >> 20})
    median = sorted(runs, key=lambda run: run["compute_seconds"])[len(runs) // 2]
    return median | {"runs": runs, "peak_rss_mib": max(run["peak_rss_mib"] for run in runs)}


def panel(at, title, x_name, points, y_name):
    """Points and the straight line through the first and the last, as SVG."""
    left, top, width, height = 60 + at * 330, 40, 240, 180
    x_most, y_most = max(x for x, _ in points), max(y for _, y in points) * 1.05
    place = lambda x, y: (left + x / x_most * width, top + height - y / y_most * height)
    (x0, y0), (x1, y1) = place(*points[0]), place(*points[-1])
    parts = [
        f'<text x="{left}" y="{top - 18}" font-weight="bold">{title}</text>',
        f'<path d="M{left} {top} v{height} h{width}" fill="none" stroke="#888"/>',
        f'<path d="M{x0:.1f} {y0:.1f} L{x1:.1f} {y1:.1f}" stroke="#bbb" stroke-dasharray="4 3"/>',
        f'<text x="{left + width}" y="{top + height + 32}" text-anchor="end">{x_name}</text>',
        f'<text x="{left}" y="{top - 4}" fill="#555">{y_name}</text>',
    ]
    labelled = []
    for x, y in points:
        cx, cy = place(x, y)
        parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3.5" fill="#2563a8"/>')
        if any(abs(cx - other) < 12 for other in labelled):
            continue
        labelled.append(cx)
        value = f"{y:.0f}" if y > 100 else f"{y:.3g}"
        parts.append(f'<text x="{cx:.1f}" y="{top + height + 16}" text-anchor="middle" fill="#555">{x:g}</text>')
        parts.append(f'<text x="{cx - 6:.1f}" y="{cy - 6:.1f}" text-anchor="end" fill="#555">{value}</text>')
    return "\n".join(parts)


def picture(found):
    passages = [(row["passages"], row["compute_seconds"]) for row in found["passages"]]
    layers = [(row["layers"], row["compute_seconds"]) for row in found["layers"]]
    memory = [(row["stage_mib"], row["peak_rss_mib"]) for row in found["shapes"]]
    panels = [
        panel(0, "with passages", "passages, first 6 layers of 410m", passages, "seconds"),
        panel(1, "with layers", "layers of 410m", layers, "seconds"),
        panel(2, "memory with one stage", "largest stage in the files, MiB", [(round(x), y) for x, y in memory], "peak, MiB"),
    ]
    return ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1010 280" font-family="sans-serif" font-size="11">\n'
            '<rect width="1010" height="280" fill="white"/>\n' + "\n".join(panels) + "\n</svg>\n")


def largest_stage_mib(checkpoint):
    step = checkpoint / (checkpoint / "latest").read_text().strip()
    stages = {}
    for file in step.glob("layer_*.pt"):
        stages[file.name[:8]] = stages.get(file.name[:8], 0) + file.stat().st_size
    return max(stages.values()) / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kintsugi")
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shapes", type=lambda text: text.split(","), default=["70m", "160m", "410m", "1b", "1.4b", "2.8b"])
    parser.add_argument("--limit", type=int, default=16, help="passages for layers and shapes")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    found = {
        "passages": [{"passages": count} | measure(args, first_layers(args, 6), count) for count in PASSAGES],
        "layers": [{"layers": count} | measure(args, first_layers(args, count), 4 * args.limit) for count in LAYERS],
        "shapes": [{"shape": shape, "stage_mib": largest_stage_mib(whole(args, shape))} | measure(args, whole(args, shape), args.limit)
                   for shape in args.shapes],
    }
    (args.out / "scaling.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "scaling.svg").write_text(picture(found))
    for name, rows in found.items():
        print(name)
        for row in rows:
            print("  " + ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                                   for key, value in row.items() if key != "runs"))


if __name__ == "__main__":
    main()
