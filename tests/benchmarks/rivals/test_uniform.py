"""Uniform widths: never over the target, and nothing larger in equal shares fits."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.networks.catalogue import NETWORKS
from benchmarks.pipelines.run import SHARES
from benchmarks.rivals.slimmable import widths_within
from benchmarks.rivals.torch_pruning import exported_parameters
from benchmarks.rivals.uniform import Widths, scaled_widths, uniform_widths

FULL = (16, 24, 32)


def chain(widths: Widths) -> int:
    """Weights of 1x1 convolutions in a row."""
    return widths[0] + sum(a * b for a, b in pairwise(widths))


@given(st.integers(min_value=3, max_value=chain(FULL)))
def test_the_target_is_never_passed_and_uniform_rounding_is_never_beaten(target: int) -> None:
    found = uniform_widths(FULL, target, cost=chain)
    assert chain(found) <= target
    ratios = [step / 100 for step in range(101)]
    best = max(chain(scaled_widths(FULL, r)) for r in ratios if chain(scaled_widths(FULL, r)) <= target)
    assert chain(found) >= best


def test_all_widths_fit_a_large_target() -> None:
    assert uniform_widths(FULL, 10**9, cost=chain) == FULL


def test_a_target_below_the_narrowest_network_is_an_error() -> None:
    with pytest.raises(ValueError, match="narrowest network costs 3"):
        uniform_widths(FULL, 2, cost=chain)


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("share", SHARES)
def test_every_size_of_the_benchmark_is_hit_within_three_percent(name: str, share: float) -> None:
    network = NETWORKS[name]
    target = int(share * exported_parameters(network.make(widths=network.widths)))
    widths = widths_within(network.make, network.widths, target)
    assert 0.97 * target < exported_parameters(network.make(widths=widths)) <= target
    shares = [width / full for width, full in zip(widths, network.widths, strict=True)]
    assert max(shares) - min(shares) <= 3 / min(network.widths)
