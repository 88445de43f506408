"""Every number of a gate, recomputed from the samples of its report. Needs scipy; `gate_tables.py` checks `kintsugi gate` with it."""
import math
from statistics import NormalDist, fmean

from scipy.stats import binom

NORMAL = NormalDist()


def tail(z):
    return math.erfc(z / math.sqrt(2)) / 2


def root(low, high, holds):
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if holds(middle) else (low, middle)
    return middle


def tango(b, c, n):
    """Loss, lower bound, upper bound and p-value of an accuracy: b passages lost, c gained, of n."""
    def score(b, c, delta):
        linear, constant = -b - c + (2 * n - b + c) * delta, -c * delta * (1 - delta)
        square = math.sqrt(max(linear**2 - 8 * n * constant, 0))
        q = -2 * constant / (linear + square) if linear > 0 else (square - linear) / (4 * n)
        return b - c - n * delta, math.sqrt(max(n * (2 * q + delta * (1 - delta)), 0))
    def lower(b, c, z):
        return root(-1, (b - c) / n, lambda d: score(b, c, d)[0] >= z * score(b, c, d)[1])
    def p(limit):
        distance, spread = score(b, c, limit)
        return tail(distance / spread) if distance > 0 else 1.0
    return (b - c) / n, lambda a: lower(b, c, -NORMAL.inv_cdf(a)), lambda a: -lower(c, b, -NORMAL.inv_cdf(a)), p


def clopper_pearson(k, n):
    """The same of k passages that differ, of n."""
    return (k / n, lambda a: root(0, k / n, lambda s: binom.sf(k - 1, n, s) < a) if k else 0.0,
            lambda a: root(k / n, 1, lambda s: binom.cdf(k, n, s) > a) if k < n else 1.0,
            lambda limit: binom.sf(k - 1, n, limit) if k > limit * n else 1.0)


def hall(values, reach):
    """The same of a mean: the t statistic without its skewness, and a tail that was not seen."""
    n, mean, spread = len(values), fmean(values), math.sqrt(fmean((x - fmean(values)) ** 2 for x in values))
    slope = fmean(((x - mean) / spread) ** 3 for x in values) / (3 * math.sqrt(n)) if spread else 0.0
    def quantile(z):
        cube = 3 * slope * (z - slope / 2)
        return (math.expm1(math.log1p(cube) / 3) if cube > -0.5 else math.cbrt(1 + cube) - 1) / slope if slope else z
    def bound(a, z, farthest):
        return mean - quantile(z) * spread / math.sqrt(n - 1) + math.log(1 / a) / n * reach * (farthest - mean)
    def lower(a, z):
        return bound(a, z, min(values)) if n >= 30 else -math.inf
    return (mean, lambda a: lower(a, -NORMAL.inv_cdf(a)), lambda a: bound(a, NORMAL.inv_cdf(a), max(values)) if n >= 30 else math.inf,
            lambda limit: tail(root(-37, 37, lambda z: lower(tail(z), z) > limit)))


def losses(baseline, model):
    pairs, n, sizes = list(zip(baseline, model)), len(model), [len(y["tokens"]) for y in model]
    right = [(x["is_greedy"], y["is_greedy"]) for x, y in pairs]
    sums, changes = [sum(t["kl"] for t in y["tokens"]) for y in model], 0
    for x, y in pairs:
        changes += any(s["greedy_id"] != t["greedy_id"] for s, t in zip(x["tokens"], y["tokens"]))
    ratio, size = math.fsum(sums) / sum(sizes), sum(sizes) / n
    return {"accuracy loss": tango(right.count((True, False)), right.count((False, True)), n),
            "perplexity increase": hall([x["loglikelihood"] - y["loglikelihood"] for x, y in pairs], 1),
            "KL divergence": hall([ratio + (total - ratio * k) / size for total, k in zip(sums, sizes)], 2),
            "same top token": clopper_pearson(changes, n)}
