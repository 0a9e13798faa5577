"""Percentiles and their confidence, against scipy and against chance itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from service.node.benchmark.statistics import confidence_ranks, estimate


@given(st.integers(1, 3000), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.sampled_from([0.8, 0.95, 0.99]))
def test_ranks_are_those_of_the_binomial_distribution(n: int, quantile: float, confidence: float) -> None:
    side = (1 - confidence) / 2
    low, high = confidence_ranks(n, quantile, confidence)
    # The chance that the quantile lies below the lower value, or above the upper one, is at most `side`; one rank
    # nearer it would be more.
    slack = 1e-9
    assert binom.cdf(low - 1, n, quantile) <= side + slack
    assert binom.cdf(low, n, quantile) > side - slack
    if high <= n:
        assert binom.sf(high - 1, n, quantile) <= side + slack
    assert binom.sf(high - 2, n, quantile) > side - slack


def test_the_interval_holds_the_true_percentile_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    truth = math.exp(1.6448536269514722)  # 95th percentile of the logarithmic normal distribution
    hits = 0
    for _ in range(400):
        found = estimate(random.lognormal(size=300).tolist())
        hits += found.low_ms <= truth <= found.high_ms
    # 95 % at least; three standard deviations of 400 draws are 3.3 %.
    assert hits / 400 >= 0.95 - 0.033


def test_percentiles_keep_every_outlier() -> None:
    found = estimate([1.0] * 94 + [50.0] * 6)
    assert (found.p50_ms, found.p95_ms, found.runs) == (1.0, 50.0, 100)


def test_few_runs_say_nothing_about_the_upper_end() -> None:
    assert math.isinf(estimate([1.0] * 71).high_ms)
    assert estimate([1.0] * 72).high_ms == 1.0
    one = estimate([3.0])
    assert (one.p50_ms, one.p95_ms, one.low_ms) == (3.0, 3.0, 0.0)


def test_equal_runs_have_no_width() -> None:
    assert estimate([2.0] * 200).width == pytest.approx(0.0)
