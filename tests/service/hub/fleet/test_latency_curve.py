"""The curve of a device: exact where the model is, never falling, in agreement with scipy's own methods."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression, nnls

from service.hub.fleet.sizing.curve import Measured, Size, fit, rising
from service.hub.fleet.sizing.curve import _non_negative as non_negative

FEASIBLE = (10_000, 20_000_000)
# Interpolation on a grid of 1024 points over three decades.
GRID_ERROR = 1e-3

positive = st.floats(0.01, 1000.0)


def size_of(macs: float) -> Size:
    return Size(macs=int(macs), params=int(macs) // 30, bytes=5_000 + int(macs) // 8)


def ladder_of(latency, targets=(10_000, 100_000, 1_000_000, 4_000_000, 20_000_000)) -> list[Measured]:
    return [Measured(size_of(target), latency(size_of(target))) for target in targets]


@given(st.floats(0.0, 5.0), st.floats(1e-8, 1e-5), st.floats(0.0, 1e-6))
def test_a_device_with_overhead_macs_and_bytes_is_predicted_between_its_rungs(
    overhead: float, per_mac: float, per_byte: float
) -> None:
    def latency(size: Size) -> float:
        return overhead + per_mac * size.macs + per_byte * size.bytes

    curve = fit(ladder_of(latency), feasible=FEASIBLE, unit="macs")
    for macs in (30_000, 500_000, 2_500_000, 9_000_000):
        assert curve.value(macs) == pytest.approx(latency(size_of(macs)), rel=GRID_ERROR)
        assert curve.value(curve.largest(latency(size_of(macs)))) == pytest.approx(latency(size_of(macs)), rel=1e-9)


@given(st.lists(positive, min_size=2, max_size=8))
def test_the_curve_rises_and_passes_through_rising_measurements(values: list[float]) -> None:
    targets = np.geomspace(*FEASIBLE, len(values)).astype(int)
    ordered = sorted(values)
    curve = fit(
        [Measured(size_of(t), v) for t, v in zip(targets, ordered, strict=True)], feasible=FEASIBLE, unit="macs"
    )
    assert (np.diff(curve.values) >= 0).all()
    for target, value in zip(targets, ordered, strict=True):
        assert curve.value(int(target)) == pytest.approx(value, rel=1e-9)


@given(st.lists(positive, min_size=1, max_size=12))
def test_rising_is_the_isotonic_regression_of_the_logarithms(values: list[float]) -> None:
    expected = np.exp(isotonic_regression(np.log(values)).x)
    np.testing.assert_allclose(rising(np.array(values)), expected, rtol=1e-9)


@given(st.integers(0, 10_000))
def test_coefficients_are_those_of_non_negative_least_squares(seed: int) -> None:
    random = np.random.default_rng(seed)
    features = np.column_stack([np.ones(6), random.uniform(1e3, 1e7, 6), random.uniform(1e3, 1e6, 6)])
    values = random.uniform(0.1, 10.0, 6)
    relative = features / values[:, None]
    scales = np.linalg.norm(relative, axis=0)
    expected, _ = nnls(relative / scales, np.ones(6))
    np.testing.assert_allclose(non_negative(features, values) * scales, expected, atol=1e-6)


def test_beyond_the_rungs_a_larger_network_is_expected_to_take_longer() -> None:
    curve = fit(ladder_of(lambda size: 0.1 + 1e-6 * size.macs)[:3], feasible=FEASIBLE, unit="macs")
    # Bytes are taken to grow in proportion to the size there, which these do not quite.
    assert curve.value(20_000_000) == pytest.approx(20.1, rel=0.05)


def test_one_measurement_is_enough_for_a_curve() -> None:
    curve = fit([Measured(size_of(1_000_000), 2.0)], feasible=FEASIBLE, unit="macs")
    assert curve.value(1_000_000) == pytest.approx(2.0)
    assert curve.largest(1e-9) == FEASIBLE[0]


def test_several_measurements_of_one_size_count_as_their_median() -> None:
    rungs = ladder_of(lambda size: 1e-6 * size.macs)
    again = [Measured(rungs[2].size, value) for value in (1.0, 1.0, 50.0)]
    curve = fit([*rungs, *again], feasible=FEASIBLE, unit="macs")
    assert curve.value(1_000_000) == pytest.approx(1.0, rel=1e-6)


def test_memory_is_searched_by_bytes() -> None:
    rungs = ladder_of(lambda size: 6e7 + 1.5 * size.bytes)
    curve = fit(rungs, feasible=(6_250, 2_505_000), unit="bytes")
    assert curve.value(1_000_000) == pytest.approx(6e7 + 1.5e6, rel=GRID_ERROR)
