"""Smoothing orders: never worse than the identity, right on curves, and over every weight that a group touches."""

from __future__ import annotations

import itertools
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import InvalidInputError, InvalidWeightsError
from inn_core.graph.axis import kept_indices
from inn_core.graph.structure import Group, Structure
from inn_core.integral import channel_permutation as smoothing
from inn_core.integral import tsp as tour
from inn_core.integral.channel_permutation import group_blocks, smooth_order, smoothing_orders, total_variation


def curve(n: int) -> NDArray[np.float64]:
    """Rows along a smooth curve that does not come near itself."""
    time = np.linspace(0, 1, n)[:, None]
    return np.concatenate([10 * time, np.sin(3 * time), np.cos(np.pi * time * np.arange(1, 4))], axis=1)


def structure(group: Group, weights: dict[str, Any], *more: Group) -> Structure:
    return Structure((group, *more), weights, {}, (), (), (), ())


def variation_by_definition(checkpoint: Any, name: str, order: NDArray[np.int64]) -> float:
    """Sum over the group's places of the L1 norm of the difference between channels that follow each other."""
    found = checkpoint.structure
    full = found.full_sizes()
    (group,) = [group for group in found.groups if group.name == name]
    everything = {other: np.arange(size) for other, size in full.items()}
    total = 0.0
    for tensor, place in group.places:
        weight = checkpoint.weights[tensor].astype(np.float64)
        axis = tuple(segment for segment in found.weights[tensor][place] if name in segment)
        assert axis == found.weights[tensor][place], "written for axes of which every segment holds the group"
        slices = [
            weight.take(kept_indices(axis, full, {**everything, name: np.array([channel])}), axis=place)
            for channel in order
        ]
        total += sum(float(np.abs(a - b).sum()) for a, b in itertools.pairwise(slices))
    return total


def test_total_variation_is_the_sum_of_distances_between_neighbours() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
    order = np.random.default_rng(1).permutation(30)
    expected = np.diag(cdist(rows[order].astype(float), rows[order].astype(float), "cityblock"), 1).sum()
    assert total_variation(rows, order) == pytest.approx(expected, rel=1e-12)
    assert total_variation(rows, order[::-1].copy()) == pytest.approx(expected, rel=1e-12)


def test_total_variation_does_not_depend_on_the_size_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(31, 7))
    order = np.random.default_rng(1).permutation(31)
    expected = total_variation(rows, order)
    for size in (1, 14, 50):
        monkeypatch.setattr(smoothing, "CHUNK_ELEMENTS", size)
        assert total_variation(rows, order) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_shuffled_samples_of_a_smooth_curve_come_back_in_order(dtype: type) -> None:
    place = np.random.default_rng(0).permutation(60)
    order = place[smooth_order(curve(60)[place].astype(dtype), seed=0)]
    assert np.array_equal(order, np.arange(60)) or np.array_equal(order, np.arange(60)[::-1])


@pytest.mark.parametrize("size", [1, 37, 400])
def test_distances_are_those_of_scipy_whatever_the_chunks(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoothing, "CHUNK_ELEMENTS", size)
    rows = np.random.default_rng(0).normal(size=(12, 5, 3))
    bias = np.random.default_rng(1).normal(size=12)
    joined = np.concatenate([rows.reshape(12, -1), bias[:, None]], axis=1)
    found = smoothing._distances([rows, bias], 12, 2.0, 0)
    assert np.allclose(found, cdist(joined, joined, "cityblock") / 2.0, rtol=1e-5)


def test_estimated_distances_lead_to_the_same_order_on_a_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    place = np.random.default_rng(0).permutation(40)
    rows = curve(40)[place] @ np.random.default_rng(1).normal(size=(5, 2000))
    exact = smooth_order(rows, seed=0)
    monkeypatch.setattr(smoothing, "MOST_WORK", 40 * 40 * 200)
    estimate = smoothing._distances([rows], 40, 1.0, 7)
    assert np.array_equal(estimate, smoothing._distances([rows], 40, 1.0, 7))
    off_diagonal = ~np.eye(40, dtype=bool)
    ratio = estimate[off_diagonal] / cdist(rows, rows, "cityblock")[off_diagonal]
    assert 0.7 < ratio.min() < ratio.max() < 1.3  # 200 of 2,000 coordinates: standard error about 5 %
    assert not np.allclose(ratio, 1.0, rtol=1e-4)
    assert total_variation(rows, smooth_order(rows, seed=7)) <= 1.02 * total_variation(rows, exact)


def test_more_channels_than_one_search_takes_are_ordered_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a curve nothing is lost; elsewhere the order is a permutation that is nearly as good as the one search."""
    monkeypatch.setattr(smoothing, "LARGEST_SEARCH", 25)
    place = np.random.default_rng(0).permutation(90)
    order = place[smooth_order(curve(90)[place], seed=0)]
    assert order.tolist() in (list(range(90)), list(range(89, -1, -1)))
    rows = np.random.default_rng(2).normal(size=(90, 3))
    found = smooth_order(rows, seed=0)
    monkeypatch.undo()
    assert np.array_equal(np.sort(found), np.arange(90))
    assert total_variation(rows, found) < 0.7 * total_variation(rows, np.arange(90))
    assert total_variation(rows, found) < 1.6 * total_variation(rows, smooth_order(rows, seed=0))


def search_in_few_addresses(_: int, n: int) -> None:
    """In a process of its own, whose kicks are left out: they take time, not memory."""
    torch.set_num_threads(1)
    tour.KICKS_PER_POINT = 0
    smoothing.LARGEST_SEARCH = 300
    smooth_order(curve(40), seed=0)
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    limit = int(line.split()[1]) * 1024 + 96 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    place = np.random.default_rng(0).permutation(n)
    rows = np.linspace(0, 1, n)[place, None].astype(np.float32)
    assert total_variation(rows, smooth_order(rows, seed=0)) < 1.01


@pytest.mark.slow
def test_a_huge_group_is_ordered_in_little_memory() -> None:
    """Distances of all pairs of 6,000 channels would take 144 MB, and twice that as a matrix."""
    torch.multiprocessing.spawn(search_in_few_addresses, args=(6_000,), nprocs=1)


@settings(max_examples=30, deadline=None)
@given(
    rows=arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.tuples(st.integers(0, 10), st.integers(0, 5)),
        elements=st.one_of(st.sampled_from([0.0, -0.0, 1.0]), st.floats(-60000, 60000, width=16, allow_subnormal=True)),
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_never_worse_than_the_identity(rows: NDArray[Any], seed: int) -> None:
    order = smooth_order(rows, seed=seed)
    identity = np.arange(len(rows))
    assert np.array_equal(np.sort(order), identity)
    before, after = total_variation(rows, identity), total_variation(rows, order)
    assert after <= before
    assert np.array_equal(order, smooth_order(rows, seed=seed))


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (2, 3), (5, 0)])
def test_where_there_is_nothing_to_order_the_identity_stays(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape)
    assert smooth_order(rows, seed=0).tolist() == list(range(shape[0]))


@pytest.mark.parametrize("value", [0.0, 3.0, 1e300, 5e-324])
def test_equal_rows_keep_their_order(value: float) -> None:
    assert smooth_order(np.full((20, 4), value), seed=0).tolist() == list(range(20))
    assert total_variation(np.full((20, 4), value), np.arange(20)) == 0.0


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1.5e307])
def test_huge_and_tiny_weights_are_ordered_as_any(scale: float) -> None:
    place = np.random.default_rng(0).permutation(50)
    order = place[smooth_order(curve(50)[place] * scale, seed=0)]
    assert order.tolist() in (list(range(50)), list(range(49, -1, -1)))


def test_a_large_common_offset_hides_nothing() -> None:
    place = np.random.default_rng(0).permutation(50)
    order = place[smooth_order(curve(50)[place] + 1e9, seed=0)]
    assert order.tolist() in (list(range(50)), list(range(49, -1, -1)))


def test_duplicate_rows_are_neighbours() -> None:
    kind = np.random.default_rng(0).integers(0, 6, size=48)
    rows = np.random.default_rng(1).normal(size=(6, 9))[kind]
    order = smooth_order(rows, seed=0)
    assert np.count_nonzero(np.diff(kind[order])) == 5


@pytest.mark.parametrize(("value", "found"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_rows_that_are_not_finite_are_refused(value: float, found: str) -> None:
    rows = np.zeros((4, 3))
    rows[2, 1] = value
    with pytest.raises(InvalidWeightsError, match=found):
        smooth_order(rows, seed=0)


def test_rows_without_two_axes_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"\(4, 3, 2\)"):
        smooth_order(np.zeros((4, 3, 2)), seed=0)


def test_blocks_of_products_and_sums_are_the_slices_of_each_channel() -> None:
    """A concatenation of a flattened 2x3 map of the group, a frozen part and a channel shuffle of the group."""
    group = Group("a", 4, 1, (("w", 1),))
    found = structure(group, {"w": (((2,),), (("a", 6), (5,), (2, "a")))})
    weight = np.random.default_rng(0).normal(size=(2, 4 * 6 + 5 + 2 * 4))
    blocks = group_blocks(found, {"w": weight}, group)
    assert [name for name, _ in blocks] == ["w", "w"]
    axis = found.weights["w"][1]
    for channel in range(4):
        kept = kept_indices(axis, {"a": 4}, {"a": np.array([channel])})
        kept = kept[(kept < 24) | (kept >= 29)]
        joined = np.concatenate([block[channel].reshape(2, -1) for _, block in blocks], axis=1)
        assert np.array_equal(joined, weight[:, kept])


def test_orders_of_real_networks_are_permutations_that_lower_the_variation(real_network: Checkpoint) -> None:
    orders = smoothing_orders(real_network)
    assert set(orders) == {group.name for group in real_network.structure.groups}
    lower = 0
    for group in real_network.structure.groups:
        order, identity = orders[group.name], np.arange(group.size)
        assert np.array_equal(np.sort(order), identity)
        rows = np.concatenate(
            [
                block.reshape(group.size, -1)
                for _, block in group_blocks(real_network.structure, real_network.weights, group)
            ],
            axis=1,
        )
        before, after = total_variation(rows, identity), total_variation(rows, order)
        assert after < before or np.array_equal(order, identity)
        lower += after < before
    assert lower


def test_every_place_of_a_group_counts() -> None:
    """The producer says nothing about the order, one consumer knows half of it and the other the rest."""
    place = np.random.default_rng(0).permutation(30)
    position = np.arange(30.0)[place]
    weights = {
        "w": np.ones((30, 5), np.float32),
        "first": np.minimum(position, 15).astype(np.float32)[None, :].repeat(3, 0),
        "second": np.maximum(position, 15).astype(np.float32)[None, :],
    }
    group = Group("a", 30, 1, (("w", 0), ("first", 1), ("second", 1)))
    axes = {"w": ((("a",),), ((5,),)), "first": (((3,),), (("a",),)), "second": (((1,),), (("a",),))}
    checkpoint = SimpleNamespace(structure=structure(group, axes), weights=weights)
    found: list[tuple[str, float]] = []
    orders = smoothing_orders(cast(Checkpoint, checkpoint), progress=lambda stage, share: found.append((stage, share)))
    assert place[orders["a"]].tolist() in (list(range(30)), list(range(29, -1, -1)))
    assert variation_by_definition(checkpoint, "a", orders["a"]) == pytest.approx(3 * 15 + 14)
    assert [stage for stage, _ in found] == ["smoothing", "smoothing"]
    assert [share for _, share in found] == [0.0, 1.0]


def test_a_weight_that_is_not_finite_is_named() -> None:
    group = Group("a", 3, 1, (("w", 0),))
    checkpoint = SimpleNamespace(
        structure=structure(group, {"w": ((("a",),),)}), weights={"w": np.array([1, np.nan, 2])}
    )
    with pytest.raises(InvalidWeightsError, match="'w' holds NaN"):
        smoothing_orders(cast(Checkpoint, checkpoint))
