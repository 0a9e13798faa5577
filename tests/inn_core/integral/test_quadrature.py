"""One contract for every quadrature, uniform or not; polynomial exactness and rates of convergence from theory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, special

from inn_core.errors import PartitionError
from inn_core.integral.quadrature import (
    Quadrature,
    check_edges,
    simpson_weights,
    trapezoid_weights,
    uniform_rule,
    warped_rule,
)

EXACT = 1e-12
Rule = tuple[NDArray[np.float64], NDArray[np.float64]]


def smooth_edges(k: int) -> torch.Tensor:
    """Edges that are dense on the left: images of i/k under x + x^2 over 2."""
    x = np.arange(k + 1) / k
    return torch.from_numpy((x + x**2) / 2)


def middles(edges: torch.Tensor) -> NDArray[np.float64]:
    return ((edges[1:] + edges[:-1]) / 2).numpy()


def of_points(rule: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[int], Rule]:
    def build(m: int) -> Rule:
        points = smooth_edges(m - 1) if m > 1 else torch.tensor([0.5], dtype=torch.float64)
        return points.numpy(), rule(points).numpy()

    return build


def warped(quadrature: Quadrature) -> Callable[[int], Rule]:
    def build(m: int) -> Rule:
        points, weights = warped_rule(uniform_rule(quadrature, m), smooth_edges(m))
        return points.numpy(), weights.numpy()

    return build


@dataclass(frozen=True)
class Case:
    """An implementation, the degree it is exact for (given m points), and its order (None: faster than any power)."""

    name: str
    build: Callable[[int], Rule]
    degree: Callable[[int], int]
    order: float | None


CASES = [
    Case("riemann", lambda m: uniform_rule(Quadrature.RIEMANN, m), lambda m: 1, 2),
    Case("trapezoid", lambda m: uniform_rule(Quadrature.TRAPEZOID, m), lambda m: 1, 2),
    Case("simpson", lambda m: uniform_rule(Quadrature.SIMPSON, m), lambda m: 1 if m < 3 else 3, 4),
    Case("gauss-legendre", lambda m: uniform_rule(Quadrature.GAUSS_LEGENDRE, m), lambda m: 2 * m - 1, None),
    Case("trapezoid intervals", of_points(trapezoid_weights), lambda m: 0 if m == 1 else 1, 2),
    Case("simpson intervals", of_points(simpson_weights), lambda m: 0 if m == 1 else 1 if m == 2 else 2, 4),
    Case("warped riemann", warped(Quadrature.RIEMANN), lambda m: 1, 2),
    Case("warped trapezoid", warped(Quadrature.TRAPEZOID), lambda m: 0, 2),
    Case("warped simpson", warped(Quadrature.SIMPSON), lambda m: 0, 1),
    Case("warped gauss-legendre", warped(Quadrature.GAUSS_LEGENDRE), lambda m: 0, 2),
]
patient = settings(deadline=None)  # a shared machine may stop for longer than any deadline
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
COUNTS = [1, 2, 3, 4, 5, 6, 7, 8, 16, 31, 64]


@every
@pytest.mark.parametrize("m", COUNTS)
def test_weights_are_not_negative_and_sum_to_one_at_increasing_points(case: Case, m: int) -> None:
    points, weights = case.build(m)
    assert points.shape == weights.shape == (m,)
    assert (np.diff(points) > 0).all()
    assert points[0] >= 0
    assert points[-1] <= 1
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=EXACT)


@every
@pytest.mark.parametrize("m", COUNTS)
def test_polynomials_of_the_degree_are_integrated_exactly(case: Case, m: int) -> None:
    points, weights = case.build(m)
    for power in range(min(case.degree(m), 60) + 1):
        assert weights @ points**power == pytest.approx(1 / (power + 1), abs=EXACT), power


@every
def test_error_falls_at_the_rate_of_the_rule(case: Case) -> None:
    integral = integrate.quad(lambda x: np.exp(np.sin(5 * x)), 0, 1, epsabs=1e-14)[0]
    counts = np.array([33, 65, 129, 257])
    errors = []
    for m in counts:
        points, weights = case.build(int(m))
        errors.append(abs(weights @ np.exp(np.sin(5 * points)) - integral))
    if case.order is None:
        assert max(errors) < EXACT
    else:
        assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] >= case.order - 0.2


@pytest.mark.parametrize("m", [2, 3, 5, 8, 21, 64, 300])
def test_gauss_legendre_is_that_of_scipy(m: int) -> None:
    points, weights = special.roots_legendre(m)
    found = uniform_rule(Quadrature.GAUSS_LEGENDRE, m)
    assert found[0] == pytest.approx((points + 1) / 2, abs=1e-14)
    assert found[1] == pytest.approx(weights / 2, rel=1e-9)


def test_gauss_legendre_of_many_points_integrates_a_high_power() -> None:
    points, weights = uniform_rule(Quadrature.GAUSS_LEGENDRE, 2048)
    assert weights @ points**4000 == pytest.approx(1 / 4001, rel=1e-9)


@pytest.mark.parametrize("m", [3, 5, 7, 11, 4, 6, 12])
def test_simpson_is_that_of_scipy_with_a_three_eighths_block_for_even_counts(m: int) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=m)
    h = 1 / (m - 1)
    expected = (
        integrate.simpson(values, dx=h)
        if m % 2
        else ((integrate.simpson(values[:-3], dx=h) if m > 4 else 0) + 3 * h / 8 * (values[-4:] @ [1, 3, 3, 1]))
    )
    assert uniform_rule(Quadrature.SIMPSON, m)[1] @ values == pytest.approx(expected, abs=EXACT)


@patient
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=25))
def test_trapezoid_on_any_points_is_that_of_scipy_with_its_ends_continued(unsorted: list[float]) -> None:
    points = np.sort(unsorted)
    values = np.cos(points)
    expected = integrate.trapezoid(values, points) + points[0] * values[0] + (1 - points[-1]) * values[-1]
    weights = trapezoid_weights(torch.from_numpy(points)).numpy()
    assert weights @ values == pytest.approx(expected, abs=EXACT)
    assert (weights >= 0).all()


@patient
@given(st.lists(st.floats(0.51, 1.0), min_size=2, max_size=30).filter(lambda widths: len(widths) % 2 == 0))
def test_simpson_on_pairs_of_unequal_intervals_is_that_of_scipy(widths: list[float]) -> None:
    points = np.concatenate([[0], np.cumsum(widths)])
    points = points / points[-1]
    values = np.sin(3 * points)
    weights = simpson_weights(torch.from_numpy(points)).numpy()
    assert weights @ values == pytest.approx(integrate.simpson(values, x=points), abs=EXACT)


@patient
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=25))
def test_simpson_on_any_points_has_no_negative_weight(unsorted: list[float]) -> None:
    weights = simpson_weights(torch.tensor(sorted(unsorted), dtype=torch.float64))
    assert float(weights.min()) >= -EXACT
    assert float(weights.sum()) == pytest.approx(1, abs=EXACT)


def test_simpson_falls_back_to_the_trapezoid_where_a_weight_would_be_negative() -> None:
    points = torch.tensor([0.0, 0.1, 0.5, 0.75, 1.0], dtype=torch.float64)  # 0.1 and 0.4 differ by a factor of 4
    assert simpson_weights(points).tolist() == pytest.approx([0.05, 0.25, 0.2 + 0.25 / 3, 1 / 3, 0.25 / 3], abs=EXACT)
    block = torch.tensor([0.0, 0.01, 0.9, 1.0], dtype=torch.float64)
    assert simpson_weights(block).tolist() == pytest.approx(trapezoid_weights(block).tolist(), abs=EXACT)


@pytest.mark.parametrize("quadrature", Quadrature)
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("m", [1, 2, 5, 8])
def test_a_uniform_warp_gives_the_rule_itself(quadrature: Quadrature, k: int, m: int) -> None:
    rule = uniform_rule(quadrature, m)
    points, weights = warped_rule(rule, torch.arange(k + 1, dtype=torch.float64) / k)
    assert points.numpy() == pytest.approx(rule[0], abs=EXACT)
    assert weights.numpy() == pytest.approx(rule[1], abs=EXACT)


def test_a_warped_rule_is_the_substitution_rule_inside_cells() -> None:
    """Where the map is straight around a point, its weight is the rule's times the slope there."""
    rule = uniform_rule(Quadrature.GAUSS_LEGENDRE, 40)
    points, weights = warped_rule(rule, torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64))
    slope = np.where(rule[0] < 0.5, 0.4, 1.6)
    assert weights.numpy() == pytest.approx(rule[1] * slope, abs=EXACT)  # an even count: no point stands for both
    assert weights.numpy() @ points.numpy() ** 3 == pytest.approx(1 / 4, rel=1e-3)


@pytest.mark.parametrize("rule", [trapezoid_weights, simpson_weights], ids=["trapezoid", "simpson"])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 8])
def test_gradients_reach_the_points(rule: Callable[[torch.Tensor], torch.Tensor], m: int) -> None:
    points = (torch.arange(m, dtype=torch.float64) + 0.5) / m
    points = points + 0.2 / m * torch.sin(torch.arange(m))
    assert torch.autograd.gradcheck(rule, (points.requires_grad_(),))


@pytest.mark.parametrize("quadrature", Quadrature)
def test_gradients_reach_the_edges(quadrature: Quadrature) -> None:
    inner = torch.tensor([0.2, 0.45, 0.8], dtype=torch.float64, requires_grad=True)

    def build(inner: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        edges = torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])
        return warped_rule(uniform_rule(quadrature, 5), edges)

    assert torch.autograd.gradcheck(build, (inner,))


@pytest.mark.parametrize("quadrature", Quadrature)
def test_no_points_are_refused(quadrature: Quadrature) -> None:
    with pytest.raises(PartitionError, match="found 0 points"):
        uniform_rule(quadrature, 0)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([0.0, 0.5, 0.9], "from exactly 0 to exactly 1"),
        ([0.1, 1.0], "from exactly 0 to exactly 1"),
        ([0.0], "from exactly 0 to exactly 1"),
        ([0.0, 0.7, 0.6, 1.0], "point 2 is 0.6"),
        ([0.0, float("nan"), 1.0], "point 1 is nan"),
    ],
)
def test_edges_that_do_not_rise_from_0_to_1_are_refused(edges: list[float], message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        check_edges(torch.tensor(edges, dtype=torch.float64))


@pytest.mark.parametrize("rule", [trapezoid_weights, simpson_weights])
def test_points_that_fall_are_refused(rule: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(PartitionError, match="sort them"):
        rule(torch.tensor([0.1, 0.5, 0.4]))
