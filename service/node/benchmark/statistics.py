"""Percentiles of latencies with the interval that the true 95th percentile lies in, whatever their distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from service.node.benchmark.device_info import percentile_of

CONFIDENCE = 0.95
PERCENTILE = 95.0
# Standard deviations below the mean at which a binomial probability is too little to matter; a loop over all would be
# felt by the requests that the same event loop answers.
NEGLIGIBLE = 10.0


@dataclass(frozen=True)
class Estimate:
    """Latencies of one artifact.

    Attributes:
        p50_ms, p95_ms: the percentiles (nearest rank) of all runs.
        low_ms, high_ms: the 95th percentile lies between them with `CONFIDENCE`; infinite where the runs are too few
            to say (fewer than 72).
        runs: how many.
    """

    p50_ms: float
    p95_ms: float
    low_ms: float
    high_ms: float
    runs: int

    @property
    def width(self) -> float:
        """Of the confidence interval, relative to the percentile."""
        return (self.high_ms - self.low_ms) / self.p95_ms


def estimate(milliseconds: Sequence[float]) -> Estimate:
    """Percentiles of runs, and where the true 95th percentile lies.

    Args:
        milliseconds: of every run, at least one.
    """
    ordered = sorted(milliseconds)
    p50, p95 = percentile_of(ordered, 50.0), percentile_of(ordered, PERCENTILE)
    assert p50 is not None, "no runs"
    assert p95 is not None, "no runs"
    low, high = confidence_ranks(len(ordered), PERCENTILE / 100.0, CONFIDENCE)
    return Estimate(
        p50_ms=p50,
        p95_ms=p95,
        low_ms=ordered[low - 1] if low >= 1 else 0.0,
        high_ms=ordered[high - 1] if high <= len(ordered) else math.inf,
        runs=len(ordered),
    )


def confidence_ranks(n: int, quantile: float, confidence: float) -> tuple[int, int]:
    """Ranks, from 1, of two of `n` ordered values between which the quantile lies with at least this confidence.

    The number of values below the quantile is binomial, whatever their distribution. Equal chances are allowed to both
    sides. A lower rank of 0 or an upper one of `n + 1` says that `n` values are too few.
    """
    side = (1.0 - confidence) / 2.0
    first = max(0, math.floor(n * quantile - NEGLIGIBLE * math.sqrt(n * quantile * (1.0 - quantile))))
    low, high = 0, n + 1
    below = 0.0
    for count in range(first, n + 1):
        below += math.exp(
            math.lgamma(n + 1)
            - math.lgamma(count + 1)
            - math.lgamma(n - count + 1)
            + count * math.log(quantile)
            + (n - count) * math.log1p(-quantile)
        )
        if below <= side:
            low = count + 1
        if below >= 1.0 - side:
            high = count + 1
            break
    return low, high
