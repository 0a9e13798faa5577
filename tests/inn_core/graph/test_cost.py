"""Costs against Python integers, published figures and the files that are really written."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import GraphTooLargeError
from inn_core.exporting.onnx_writer import write_onnx
from inn_core.graph.axis import Axis, axis_size
from inn_core.graph.cost import UNITS, CostModel
from inn_core.graph.polynomial import compile_polynomial
from inn_core.graph.resized import resize_template
from inn_core.graph.structure import Term
from tests.inn_core.networks import resnet50_shape

FULL = {"a": 7, "b": 11, "c": 3}
EXTRA_BYTES_PER_WEIGHT = 12  # lengths of dimensions, raw data and record, each a few bytes shorter at most

factors = st.one_of(st.sampled_from(sorted(FULL)), st.integers(0, 5))
axes = st.lists(st.lists(factors, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3).map(tuple)
terms = st.lists(st.builds(Term, st.integers(0, 9), st.lists(axes, max_size=3).map(tuple)), max_size=5)
plans = st.fixed_dictionaries({name: st.integers(1, size) for name, size in FULL.items()})


def exact(items: list[Term], sizes: dict[str, int]) -> int:
    """The cost by its definition, in Python integers."""
    return sum(t.coefficient * math.prod(axis_size(axis, sizes) for axis in t.axes) for t in items)


def row(sizes: dict[str, int]) -> np.ndarray:
    return np.array([sizes[name] for name in FULL], dtype=np.int64)


@given(terms, plans)
def test_polynomial_equals_the_products_of_sums(items: list[Term], sizes: dict[str, int]) -> None:
    polynomial = compile_polynomial(items, FULL, constant=4)
    assert polynomial.values(row(sizes)[None, :]).tolist() == [exact(items, sizes) + 4]
    assert polynomial.maximum == exact(items, FULL) + 4


@given(terms, plans, st.lists(st.integers(-3, 3), min_size=2, max_size=2))
def test_changes_are_differences_of_one_group(items: list[Term], sizes: dict[str, int], steps: list[int]) -> None:
    found = compile_polynomial(items, FULL).changes(row(sizes), np.array([steps] * len(FULL)))
    expected = [
        [exact(items, {**sizes, name: sizes[name] + step}) - exact(items, sizes) for step in steps] for name in FULL
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-6)


@given(terms, plans)
def test_interactions_are_mixed_derivatives(items: list[Term], sizes: dict[str, int]) -> None:
    """Where both groups occur at most once in a product, the derivative is the difference of one channel more."""
    found = compile_polynomial(items, FULL).interactions(row(sizes))
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_array_equal(np.diag(found), 0)
    for (i, first), (j, second) in permutations(enumerate(FULL), 2):
        if any(_degree(t, first) > 1 or _degree(t, second) > 1 for t in items):
            continue
        corners = [{**sizes, first: sizes[first] + x, second: sizes[second] + y} for x in (0, 1) for y in (0, 1)]
        neither, only_second, only_first, both = (exact(items, corner) for corner in corners)
        assert found[i, j] == both - only_first - only_second + neither


def _degree(term: Term, group: str) -> int:
    """Highest power of a group in a term."""
    return sum(max(segment.count(group) for segment in axis) for axis in term.axes)


def test_large_costs_stay_exact_beyond_float64() -> None:
    items = [Term(2**40 + 1, ((("a",),), (("b",),))), Term(1, ((("c",),),))]
    polynomial = compile_polynomial(items, {"a": 1000, "b": 1000, "c": 3})
    assert polynomial.maximum > 2**53
    assert polynomial.values(np.array([[999, 997, 1]])).tolist() == [(2**40 + 1) * 999 * 997 + 1]


def test_costs_past_64_bits_are_refused() -> None:
    axis: Axis = (("a",),)
    with pytest.raises(GraphTooLargeError, match="units of cost"):
        compile_polynomial([Term(2**40, (axis, axis))], {"a": 2**13})


def test_terms_that_explode_are_refused() -> None:
    names = {f"g{i}": 2 for i in range(200)}
    wide: Axis = tuple((name,) for name in names)
    with pytest.raises(GraphTooLargeError, match="cost terms"):
        compile_polynomial([Term(1, (wide, wide, wide))], names)


def test_resnet50_costs_what_its_paper_says() -> None:
    """25,557,032 published parameters less 2 x 26,560 of normalization plus 26,560 biases; 3.8e9 multiply-adds."""
    cost = CostModel.of(resnet50_shape().template, resnet50_shape().structure)
    assert cost.evaluate("params", cost.full()[None, :]).tolist() == [25_557_032 - 26_560]
    assert cost.evaluate("macs", cost.full()[None, :])[0] == pytest.approx(3.8e9, rel=0.02)


def test_no_cost_rises_when_a_group_shrinks(wide_network: Checkpoint) -> None:
    cost = CostModel.of(wide_network.template, wide_network.structure)
    random = np.random.default_rng(0)
    sizes = random.integers(cost.minimum() + 1, cost.full() + 1, (50, len(cost.groups)))
    smaller = sizes - np.eye(len(cost.groups), dtype=np.int64)[random.integers(0, len(cost.groups), 50)]
    for unit in UNITS:
        assert (cost.evaluate(unit, smaller) <= cost.evaluate(unit, sizes)).all()


def test_bytes_and_params_are_those_of_the_written_file(real_network: Checkpoint, tmp_path: Path) -> None:
    cost = CostModel.of(real_network.template, real_network.structure)
    random = np.random.default_rng(1)
    plans = [cost.full(), cost.minimum(), *random.integers(cost.minimum(), cost.full() + 1, (5, len(cost.groups)))]
    for number, plan in enumerate(plans):
        sizes = cost.to_sizes(plan)
        weights = {
            name: np.zeros([axis_size(axis, sizes) for axis in axes], dtype=np.float32)
            for name, axes in real_network.structure.weights.items()
        }
        file = write_onnx(
            resize_template(real_network.template, real_network.structure, sizes), weights, tmp_path / "sized.onnx"
        )
        bound = int(cost.evaluate("bytes", plan[None, :])[0])
        assert file.size_bytes <= bound <= file.size_bytes + EXTRA_BYTES_PER_WEIGHT * len(weights)
        assert number > 0 or bound == file.size_bytes
        assert cost.evaluate("params", plan[None, :]).tolist() == [sum(array.size for array in weights.values())]


def test_savings_are_what_one_channel_less_costs(wide_network: Checkpoint) -> None:
    cost = CostModel.of(wide_network.template, wide_network.structure)
    one_less = cost.full()[None, :] - np.eye(len(cost.groups), dtype=np.int64)
    for unit in UNITS:
        expected = cost.polynomials[unit].maximum - cost.evaluate(unit, one_less)
        np.testing.assert_array_equal(cost.savings(unit, cost.full()), expected)


def test_rows_and_sizes_are_inverse(residual: Checkpoint) -> None:
    cost = CostModel.of(residual.template, residual.structure)
    sizes = {"a": 5, "b": 2}
    assert cost.to_sizes(cost.to_row(sizes)[0]) == sizes
