"""The rules against reality: ONNX Runtime and ONNX's own shape inference say whether sized graphs are right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from inn_core.graph.analysis.template import Imported, make_template
from inn_core.graph.axis import axis_groups, axis_size, kept_indices
from inn_core.graph.resized import resize_template
from tests.inn_core.graph.random_networks import IMAGE, random_network

SEEDS = range(40)
RELATIVE = 1e-5  # float32 sums in another order, and folding of BatchNormalization


def imported(seed: int) -> tuple[onnx.ModelProto, Imported]:
    model = random_network(seed)
    return model, make_template(model, {"image": IMAGE})


def with_weights(network: Imported, sizes: Mapping[str, int], weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    model = resize_template(network.template, network.structure, sizes)
    for name in network.template.weights:
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weights[name]), name))
    return model


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0]


def image(seed: int, batch: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, *IMAGE)).astype(np.float32)


def sampled(network: Imported, kept: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    full = network.structure.full_sizes()
    result = {}
    for name, axes in network.structure.weights.items():
        weight = network.weights[name]
        result[name] = weight[np.ix_(*(kept_indices(axis, full, kept) for axis in axes))] if axes else weight
    return result


@pytest.mark.parametrize("seed", SEEDS)
def test_full_size_computes_what_the_original_computes(seed: int) -> None:
    model, network = imported(seed)
    expected = run(model, image(seed))
    found = run(with_weights(network, network.structure.full_sizes(), network.weights), image(seed))
    assert np.abs(found - expected).max() <= RELATIVE * np.abs(expected).max()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_random_size_is_a_valid_model_with_the_predicted_shapes(seed: int) -> None:
    _, network = imported(seed)
    assert network.structure.groups, "a random network always has something to resize"
    random = np.random.default_rng(seed)
    for _ in range(3):
        sizes = {g.name: int(random.integers(1, g.size + 1)) for g in network.structure.groups}
        kept = {g.name: np.sort(random.permutation(g.size)[: sizes[g.name]]) for g in network.structure.groups}
        weights = sampled(network, kept)
        for name, axes in network.structure.weights.items():
            assert weights[name].shape == tuple(axis_size(axis, sizes) for axis in axes)
        model = with_weights(network, sizes, weights)
        onnx.checker.check_model(model, full_check=True)
        assert run(model, image(seed)).shape == (3, 5)


@pytest.mark.parametrize("seed", SEEDS)
def test_exactly_the_predicted_weights_have_to_change(seed: int) -> None:
    """Shrink one group: with every predicted axis cut the model runs; with any one of them left, it does not."""
    _, network = imported(seed)
    full = network.structure.full_sizes()
    everything = {name: np.arange(size) for name, size in full.items()}
    for group in network.structure.groups:
        kept = {**everything, group.name: np.arange(group.size - 1)}
        sizes = {name: len(indices) for name, indices in kept.items()}
        cut = sampled(network, kept)
        changed = {name for name in cut if cut[name].shape != network.weights[name].shape}
        assert changed == {name for name, _ in group.places}
        run(with_weights(network, sizes, cut), image(seed))
        if group.size == 2 or any(node.op_type == "Slice" for node in network.template.model.graph.node):
            continue  # a size of 1 stretches where operators broadcast; a Slice cuts the longer axis by itself
        for name, position in group.places:
            left = {**cut, name: _uncut(network, name, position, kept)}
            assert left[name].shape != cut[name].shape
            with pytest.raises(Exception, match=r"(?s)."):
                run(with_weights(network, sizes, left), image(seed))


def _uncut(network: Imported, name: str, position: int, kept: Mapping[str, np.ndarray]) -> np.ndarray:
    full = network.structure.full_sizes()
    axes = network.structure.weights[name]
    indices = [
        np.arange(network.weights[name].shape[i]) if i == position else kept_indices(axis, full, kept)
        for i, axis in enumerate(axes)
    ]
    return network.weights[name][np.ix_(*indices)]


@pytest.mark.parametrize("seed", SEEDS)
def test_shuffling_the_channels_of_groups_keeps_the_function(seed: int) -> None:
    _, network = imported(seed)
    full = network.structure.full_sizes()
    random = np.random.default_rng(seed)
    shuffled = {name: random.permutation(size) for name, size in full.items()}
    expected = run(with_weights(network, full, network.weights), image(seed))
    found = run(with_weights(network, full, sampled(network, shuffled)), image(seed))
    assert np.abs(found - expected).max() <= RELATIVE * np.abs(expected).max()


@pytest.mark.parametrize("seed", range(8))
def test_frozen_axes_are_explained(seed: int) -> None:
    _, network = imported(seed)
    for frozen in network.structure.frozen:
        assert frozen.reason
        assert not axis_groups(network.structure.weights[frozen.tensor][frozen.axis])
