#!/usr/bin/env python3
"""summary.py REPORT.json CEILING.json: where the time went, and the compute part's share of the ceiling (20b shape)."""

import json
import sys

LAYERS, HIDDEN = 44, 6144
report, ceiling = (json.load(open(path)) for path in sys.argv[1:3])
run = report["run"]
stages, variants = run["stages"], 1 + len(report["variants"])
# Of the last layer all but queries, keys and values runs at the targets only; head and attention products are left out.
flops = variants * run["tokens"] * 24 * HIDDEN**2 * (LAYERS - 1 + 0.25)
share = flops / stages["compute_seconds"] / ceiling["flops_per_second"]
print(f"{variants} variant(s), {run['tokens']} tokens, {run['slices']} slice(s), chunks of {run['chunk_tokens']}: {run['seconds']:.1f} s, "
      f"waiting for files {stages['read_seconds']:.1f} s, merging {stages['merge_seconds']:.1f} s, "
      f"copying and computing {stages['compute_seconds']:.1f} s; at least {share:.0%} of the ceiling")
