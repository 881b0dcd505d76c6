"""Statistics of cells: mean and standard deviation, and differences paired by seed with Student's interval."""

import math
import statistics
from dataclasses import dataclass

from repel.cli.compare import Cell

__all__ = ["Difference", "difference", "mean_std", "t_quantile"]


def mean_std(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1), None for a single value; NaN where a value is not finite."""
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan if len(values) > 1 else None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


@dataclass
class Difference:
    """Cell minus reference over the seeds that both have: mean, and half the width of its 95 % interval or None."""

    seeds: list[int]
    mean: float
    half: float | None


def difference(cell: Cell, reference: Cell, metric: str) -> Difference | None:
    """Paired by seed, with Student's interval, mean ± t(0.975, n - 1) s / sqrt(n); None without a common seed."""
    ours, theirs = cell.values(metric), reference.values(metric)
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    mean, std = mean_std([ours[seed] - theirs[seed] for seed in seeds])
    half = None if std is None else t_quantile(len(seeds) - 1) * std / math.sqrt(len(seeds))
    return Difference(seeds, mean, half)


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """t with P(|T| < t) = confidence, for Student's T with so many degrees of freedom, to 1e-12 relative."""
    low, high = 0.0, 1.0
    while _t_probability(high, freedom) < confidence:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_probability(middle, freedom) < confidence else (low, middle)
    return high


def _t_probability(t: float, freedom: int) -> float:
    """P(|T| < t), the finite series of Abramowitz and Stegun 1964, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (k + 1) / (k + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
