#!/usr/bin/env python3
"""summary.py REPORT.json CEILING.json SHAPE: where a run's time went, and its share of the measured product rate."""

import json
import sys
from pathlib import Path

LAYERS_HIDDEN = {"14m": (6, 128), "70m": (6, 512), "160m": (12, 768), "410m": (24, 1024), "1b": (16, 2048), "20b": (44, 6144)}
report, shape = json.loads(Path(sys.argv[1]).read_text()), sys.argv[3]
run = report["run"]
stages, variants = run["stages"], 1 + len(report["variants"])
text = (f"{variants} model(s), {run['tokens']} tokens in {run['slices']} pass(es), chunks of {run['chunk_tokens']}: {run['seconds']:.1f} s, "
        f"waiting for files {stages['read_seconds']:.1f} s, merging {stages['merge_seconds']:.1f} s, copying and computing "
        f"{stages['compute_seconds']:.1f} s")
ceiling = Path(sys.argv[2])
if shape in LAYERS_HIDDEN and ceiling.exists() and ceiling.stat().st_size:
    layers, hidden = LAYERS_HIDDEN[shape]
    # Of the last layer all but queries, keys and values runs at the targets only; head and attention products are left out.
    flops = variants * run["tokens"] * 24 * hidden**2 * (layers - 1 + 0.25)
    rate = json.loads(ceiling.read_text())["flops_per_second"]
    text += (f"; at least {flops / run['seconds'] / rate:.0%} of the product rate ({rate / 1e12:.0f} TFLOP/s) from start to end, "
             f"{flops / max(stages['compute_seconds'], 1e-9) / rate:.0%} while computing")
print(text)
