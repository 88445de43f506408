#!/usr/bin/env python3
"""The errors of Tango's one-sided bounds at the limit itself, by enumeration: python evals/verify/tango_errors.py (numpy, scipy)."""

import numpy as np
from scipy.stats import binom, norm

Z, MOST = norm.isf(0.05), 160
GAINED = [0, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1]


def statistic(b, c, n, delta):
    linear, constant = -b - c + (2 * n - b + c) * delta, -c * delta * (1 - delta)
    square = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0))
    share = np.where(linear > 0, -2 * constant / np.where(linear + square > 0, linear + square, 1), (square - linear) / (4 * n))
    return (b - c - n * delta) / np.sqrt(np.maximum(n * (2 * share + delta * (1 - delta)), 1e-300))


print("| passages | limit, points | false *within* | false *beyond* |\n|---|---|---|---|")
for n in [30, 60, 200, 539, 600, 1000, 2000]:
    counts = np.arange(min(n, MOST) + 1.0)
    b, c = np.meshgrid(counts, counts, indexing="ij")
    for limit in [0.001, 0.005, 0.01, 0.05]:
        # Larger shares have outcomes that were not enumerated.
        shares = [share for share in GAINED if (2 * share + limit) * n < 0.6 * MOST]
        if not shares:
            continue
        t, errors = statistic(b, c, n, limit), []
        for share in shares:
            chance = binom.pmf(b, n, share + limit) * binom.pmf(c, np.maximum(n - b, 0), share / (1 - share - limit)) * (b + c <= n)
            errors.append([chance[t <= -Z].sum(), chance[t >= Z].sum()])
        within, beyond = 100 * np.max(errors, axis=0)
        print(f"| {n} | {100 * limit:g} | {within:.1f} | {beyond:.1f} |")
