"""Unification of axes: refinement into products and sums, and what cannot be unified is frozen with a reason."""

from __future__ import annotations

import pytest

from inn_core.graph.analysis.factors import (
    factors_of,
    fixed_axis,
    freeze,
    fresh_axis,
    product_of,
    reason_of,
    resolve,
    size_of,
    sum_of,
    unify,
)


def sizes(axis: object) -> list[list[int]]:
    return [[item if isinstance(item, int) else item.size for item in segment] for segment in resolve(axis)]  # type: ignore[arg-type]


def test_equal_axes_share_one_factor() -> None:
    a, b, c = (fresh_axis(8, name) for name in "abc")
    unify(a, b, "here")
    unify(b, c, "here")
    assert resolve(a) == resolve(b) == resolve(c)
    assert len(factors_of(sum_of([a, b, c]))) == 1


def test_a_concatenation_refines_its_consumer_into_a_sum() -> None:
    a, b, consumer = fresh_axis(3, "a"), fresh_axis(5, "b"), fresh_axis(8, "w")
    unify(consumer, sum_of([a, b]), "concat")
    assert sizes(consumer) == [[3], [5]]
    assert factors_of(consumer) == factors_of(a) + factors_of(b)


def test_a_reshape_refines_into_a_product() -> None:
    flat = fresh_axis(384, "flat")
    heads, width = fresh_axis(12, "heads"), fresh_axis(32, "width")
    unify(flat, product_of([heads, width], "reshape"), "reshape")
    assert sizes(flat) == [[12, 32]]


def test_n_equal_parts_are_n_times_the_part() -> None:
    part = fresh_axis(4, "c")
    assert resolve(sum_of([part, part])) == resolve(product_of([fixed_axis(2), part], "x"))


def test_fixing_one_end_fixes_everything_coupled_with_the_first_reason() -> None:
    a, b = fresh_axis(6, "a"), fresh_axis(6, "b")
    unify(a, b, "node 'add'")
    freeze(b, "graph output")
    assert factors_of(a) == []
    assert reason_of(a) == "graph output"


def test_a_slice_then_a_concat_of_the_same_parts_unifies() -> None:
    whole = fresh_axis(48, "w")
    first, second = fresh_axis(24, "first"), fresh_axis(24, "second")
    unify(whole, sum_of([first, second]), "split")
    again = fresh_axis(48, "again")
    unify(again, sum_of([second, first]), "concat")
    assert factors_of(whole) == [factors_of(first)[0], factors_of(second)[0]]
    assert factors_of(again) == [factors_of(second)[0], factors_of(first)[0]]


def test_sums_with_different_cuts_are_cut_where_either_is() -> None:
    left = sum_of([fresh_axis(2, "a"), fresh_axis(6, "b")])
    right = sum_of([fresh_axis(5, "c"), fresh_axis(3, "d")])
    unify(left, right, "add")
    assert resolve(left) == resolve(right)
    assert sizes(left) == [[2], [3], [3]]


def test_what_cannot_be_unified_is_frozen_with_the_node_named() -> None:
    six = product_of([fresh_axis(2, "a"), fresh_axis(3, "b")], "x")
    other = product_of([fresh_axis(3, "c"), fresh_axis(2, "d")], "x")
    unify(six, other, "node 'odd'")
    assert factors_of(six) == factors_of(other) == []
    assert "node 'odd'" in (reason_of(six) or "")


def test_an_axis_never_contains_itself() -> None:
    a = fresh_axis(4, "a")
    doubled = product_of([fixed_axis(2), a], "x")
    shifted = sum_of([a, fresh_axis(4, "b")])
    unify(doubled, shifted, "loop")  # b must be a: fine
    assert resolve(doubled) == resolve(shifted)
    assert size_of(doubled) == 8


@pytest.mark.parametrize("size", [0, 1])
def test_sizes_0_and_1_have_nothing_to_resize(size: int) -> None:
    assert factors_of(fresh_axis(size, "a")) == []
