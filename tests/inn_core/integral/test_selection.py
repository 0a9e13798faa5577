"""Sampling takes the kept positions of every axis, as numpy would."""

from __future__ import annotations

import numpy as np
import torch

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.integral.selection import axis_selection, sample_weights, selections, take
from tests.inn_core.networks import concat_network, depthwise_network, residual_network


def tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in checkpoint.weights.items()}


def test_a_selection_is_the_sorted_start_of_the_order() -> None:
    kept = selections({"a": np.array([3, 0, 2, 1]), "b": np.array([1, 0])}, {"a": 3, "b": 2})
    np.testing.assert_array_equal(kept["a"], [0, 2, 3])
    np.testing.assert_array_equal(kept["b"], [0, 1])


def test_smaller_selections_are_part_of_larger_ones() -> None:
    network = residual_network()
    for size in range(1, 8):
        small = selections(network.orders, {"a": size, "b": 3})["a"]
        large = selections(network.orders, {"a": size + 1, "b": 3})["a"]
        assert set(small) < set(large)


def test_the_full_size_takes_the_tensors_themselves() -> None:
    network = residual_network()
    weights = tensors(network)
    found = sample_weights(network, selections(network.orders, network.structure.full_sizes()), weights)
    assert all(found[name] is weight for name, weight in weights.items())


def test_weights_at_the_kept_positions() -> None:
    network = residual_network()
    kept = selections(network.orders, {"a": 5, "b": 2})
    found = sample_weights(network, kept, tensors(network))
    a, b = kept["a"], kept["b"]
    w = network.weights
    np.testing.assert_array_equal(found["conv1.weight"], w["conv1.weight"][a])
    np.testing.assert_array_equal(found["conv2.weight"], w["conv2.weight"][np.ix_(b, a)])
    np.testing.assert_array_equal(found["conv3.weight"], w["conv3.weight"][np.ix_(a, b)])
    np.testing.assert_array_equal(found["fc.weight"], w["fc.weight"][:, a])
    np.testing.assert_array_equal(found["fc.bias"], w["fc.bias"])


def test_a_flattened_map_keeps_whole_channels_and_a_concatenation_its_parts() -> None:
    network = concat_network()
    kept = selections(network.orders, {"a": 2, "b": 5, "c": 3})
    found = sample_weights(network, kept, tensors(network))
    w = network.weights
    by_channel = w["fc.weight"].reshape(7, 16, 5)[kept["c"]].reshape(-1, 5)
    np.testing.assert_array_equal(found["fc.weight"], by_channel)
    joined = np.concatenate([w["mix.weight"][:, :4][:, kept["a"]], w["mix.weight"][:, 4:][:, kept["b"]]], axis=1)
    np.testing.assert_array_equal(found["mix.weight"], joined[kept["c"]])


def test_depthwise_filters_follow_their_channels() -> None:
    network = depthwise_network()
    kept = selections(network.orders, {"a": 3, "b": 6})
    found = sample_weights(network, kept, tensors(network))
    np.testing.assert_array_equal(found["depth.weight"], network.weights["depth.weight"][kept["a"]])


def test_activations_are_taken_along_their_axes() -> None:
    network = residual_network()
    kept = selections(network.orders, {"a": 2, "b": 6})
    chosen = axis_selection(network.structure, network.structure.values["r1"], kept)
    assert [None if item is None else item.tolist() for item in chosen] == [None, kept["a"].tolist(), None, None]
    value = torch.arange(5 * 8 * 64, dtype=torch.float32).reshape(5, 8, 8, 8)
    np.testing.assert_array_equal(take(value, chosen), value.numpy()[:, kept["a"]])
