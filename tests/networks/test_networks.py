"""Networks from elsewhere, as shipped: import gives the same network in every size, or names what it cannot take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from inn_core.errors import UnsupportedOperatorError
from inn_core.graph.analysis.source import read_onnx
from inn_core.graph.analysis.template import Imported, make_template
from inn_core.graph.axis import axis_groups, kept_indices
from inn_core.graph.cost import CostModel
from inn_core.graph.program import Program
from inn_core.graph.resized import resize_template
from tests.networks.found import NETWORKS, REFUSED, Found, package_file

pytestmark = pytest.mark.slow

SIZED = 1e-4  # relative to the full network's outputs: two engines, hundreds of float32 operations
BATCH = 2

Arrays = Mapping[str, np.ndarray]


@cache
def imported(network: Found) -> tuple[onnx.ModelProto, Imported]:
    original = network.model()
    shapes = {name: array.shape[1:] for name, array in network.feeds(BATCH).items()}
    return original, make_template(read_onnx(original.SerializeToString()), shapes)


def run(model: onnx.ModelProto, feed: Arrays) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[np.ndarray] = session.run(None, dict(feed))
    return results


def with_weights(model: onnx.ModelProto, weights: Arrays) -> onnx.ModelProto:
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for name, weight in weights.items():
        whole.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight), name))
    return whole


def worst(expected: list[np.ndarray], found: list[np.ndarray], scales: list[np.ndarray]) -> float:
    """Largest difference relative to the largest value of each scale."""
    assert [array.shape for array in expected] == [array.shape for array in found]
    return max(
        float(np.abs(a.astype(np.float64) - b).max() / np.abs(scale).max())
        for a, b, scale in zip(expected, found, scales, strict=True)
    )


def plan(network: Imported, share: float) -> dict[str, np.ndarray]:
    """Random kept channels: about a share of every group."""
    random = np.random.default_rng(int(100 * share))
    kept = {}
    for group in network.structure.groups:
        size = int(np.clip(round(group.size * share * random.uniform(0.5, 1.4)), group.minimum, group.size))
        kept[group.name] = np.sort(random.permutation(group.size)[:size])
    return kept


def sampled(network: Imported, kept: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weights at the kept positions, and full weights with zeros at all others."""
    full = network.structure.full_sizes()
    small, masked = {}, {}
    for name, axes in network.structure.weights.items():
        weight = small[name] = masked[name] = np.asarray(network.weights[name])
        if any(axis_groups(axis) for axis in axes):
            grid = np.ix_(*(kept_indices(axis, full, kept) for axis in axes))
            small[name] = weight[grid]
            masked[name] = np.zeros_like(weight)
            masked[name][grid] = weight[grid]
    return small, masked


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_full_size_computes_what_the_original_computes(network: Found) -> None:
    original, found = imported(network)
    feed = network.feeds(BATCH)
    expected = run(original, feed)
    assert worst(expected, run(with_weights(found.template.model, found.weights), feed), expected) <= network.parity


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_parameters_are_those_of_the_file(network: Found) -> None:
    """Folding removes two to four vectors of a BatchNormalization; scalars may be there for sizes only."""
    original, found = imported(network)
    cost = CostModel.of(found.template, found.structure)
    total = int(cost.evaluate("params", cost.full()[None])[0])
    shapes = float_constants(original)
    normalized = sum(
        math.prod(shapes[node.input[1]]) for node in original.graph.node if node.op_type == "BatchNormalization"
    )
    in_file = sum(size for size in map(math.prod, shapes.values()) if size > 1) - network.folded
    scalars = sum(weight.size == 1 for weight in found.weights.values())
    assert in_file - 4 * normalized <= total - scalars <= in_file - 2 * normalized
    assert int(cost.evaluate("params", cost.minimum()[None])[0]) < total / 4


def float_constants(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    tensors |= {n.output[0]: a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute}
    return {name: tuple(t.dims) for name, t in tensors.items() if t.data_type == onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_sized_network_is_the_full_one_without_the_other_channels(network: Found, share: float) -> None:
    """Zeros everywhere outside the kept channels make the full network compute what the sized one must compute."""
    _, found = imported(network)
    kept = plan(found, share)
    small, masked = sampled(found, kept)
    model = resize_template(found.template, found.structure, {name: len(channels) for name, channels in kept.items()})
    feed = network.feeds(BATCH)
    full_outputs = run(with_weights(found.template.model, found.weights), feed)
    outputs = run(with_weights(model, small), feed)
    assert worst(run(with_weights(found.template.model, masked), feed), outputs, full_outputs) <= SIZED
    program = Program(model)
    with torch.inference_mode():
        ours = program.run(
            {name: torch.from_numpy(np.array(weight)) for name, weight in small.items()},
            {name: torch.from_numpy(array) for name, array in feed.items()},
        )
    assert worst(outputs, [ours[name].numpy() for name in program.outputs], full_outputs) <= SIZED
    cost = CostModel.of(found.template, found.structure)
    row = cost.to_row({name: len(channels) for name, channels in kept.items()})
    assert int(cost.evaluate("params", row)[0]) == sum(weight.size for weight in small.values())


@pytest.mark.parametrize(("file", "operator"), REFUSED.items())
def test_what_cannot_be_imported_is_refused_by_naming_the_node(file: str, operator: str) -> None:
    """Recurrent networks with control flow: voice detectors, in the variants of one package."""
    model = onnx.load(package_file("silero_vad", f"data/{file}"))
    names = {node.name or node.output[0] for node in model.graph.node}
    shapes = {}
    for value in model.graph.input:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        shapes[value.name] = tuple(size or 576 for size in sizes[1:])
        assert helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) in (np.float32, np.int64)
    with pytest.raises(UnsupportedOperatorError) as refused:
        make_template(read_onnx(model.SerializeToString()), shapes)
    assert refused.value.fields["operator"] == operator
    assert refused.value.fields["node"] in names
