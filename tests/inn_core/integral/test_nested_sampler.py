"""Nested sampling against numpy: the first channels of the nested order, in the order of the full network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.axis import axis_size, kept_indices
from inn_core.integral.nested_sampler import NestedSampler
from tests.inn_core.sized_networks import KINDS, shares, small_residual


@pytest.fixture(scope="module", params=sorted(KINDS))
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return KINDS[request.param]()


@pytest.mark.parametrize("share", [0.01, 0.4, 0.8, 1.0])
def test_weights_are_those_of_the_kept_channels(checkpoint: Checkpoint, share: float) -> None:
    sizes, full = shares(checkpoint, share), checkpoint.structure.full_sizes()
    kept = {name: np.sort(order[: sizes[name]]) for name, order in checkpoint.orders.items()}
    sampler = NestedSampler(checkpoint)
    for name, axes in checkpoint.structure.weights.items():
        array = checkpoint.weights[name]
        found = sampler.sized(torch.from_numpy(np.array(array)), axes, sizes, integrated=1)
        expected = array[np.ix_(*(kept_indices(axis, full, kept) for axis in axes))] if axes else array
        np.testing.assert_array_equal(found.numpy(), expected)


def test_carried_values_stay_with_their_channels(checkpoint: Checkpoint) -> None:
    """Each channel carries its own number; what the source lacks is marked."""
    sampler, full = NestedSampler(checkpoint), checkpoint.structure.full_sizes()
    source, target = shares(checkpoint, 0.5), shares(checkpoint, 0.8)
    for axes in checkpoint.structure.weights.values():
        for axis in axes:
            own = torch.arange(float(axis_size(axis, full)))

            def at(sizes: dict[str, int], numbers: torch.Tensor = own, along: object = axis) -> torch.Tensor:
                return sampler.sized(numbers, (along,), sizes)

            larger, known = sampler.carried(at(source), axis, source, target)
            assert torch.equal(larger[known], at(target)[known])
            assert set(at(target)[known].tolist()) == set(at(source).tolist())
            smaller, all_known = sampler.carried(at(target), axis, target, source)
            assert bool(all_known.all())
            assert torch.equal(smaller, at(source))
            same, known = sampler.carried(own, axis, full, full)
            assert torch.equal(same, own)
            assert bool(known.all())


def test_the_full_size_is_the_largest_and_nothing_is_copied() -> None:
    checkpoint = small_residual()
    sampler = NestedSampler(checkpoint)
    weight = torch.zeros(8, 3, 3, 3)
    assert sampler.sized(weight, checkpoint.structure.weights["w0"], checkpoint.structure.full_sizes()) is weight
    assert [sampler.largest(group) for group in checkpoint.structure.groups] == [8, 8]
    assert sampler.describe() == {"kind": "nested"}
