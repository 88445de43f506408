#!/usr/bin/env python3
"""The GPU's float16 matrix-product rate, FLOP/s: the best of the sizes of the 20b shape, the median of 20 runs each."""

import json
import statistics

import torch

ROWS, HIDDEN = 16384, 6144
best = {}
for columns, inner in [(3 * HIDDEN // 2, HIDDEN), (2 * HIDDEN, HIDDEN), (HIDDEN, 2 * HIDDEN), (8192, 8192)]:
    x = torch.randn(ROWS, inner, device="cuda", dtype=torch.float16)
    weight = torch.randn(columns, inner, device="cuda", dtype=torch.float16)
    times = []
    for _ in range(25):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        torch.nn.functional.linear(x, weight)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    best[f"{ROWS}x{inner}x{columns}"] = 2 * ROWS * inner * columns / statistics.median(times[5:])
print(json.dumps({"flops_per_second": max(best.values()), "sizes": best}))
