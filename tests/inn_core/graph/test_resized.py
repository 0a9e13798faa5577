"""Resized templates: their integers follow the sizes, and they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import InvalidOnnxError
from inn_core.graph.axis import axis_size
from inn_core.graph.resized import resize_template
from inn_core.graph.structure import SizeAttribute, SizeConstant
from tests.inn_core.networks import concat_network, depthwise_network


def resized(checkpoint: Checkpoint, sizes: Mapping[str, int]) -> onnx.ModelProto:
    return resize_template(checkpoint.template, checkpoint.structure, sizes)


def attribute(model: onnx.ModelProto, node: str, name: str) -> int:
    (found,) = [a.i for n in model.graph.node if n.name == node for a in n.attribute if a.name == name]
    return int(found)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_any_size_is_a_valid_model_that_runs(real_network: Checkpoint, random: Any) -> None:
    sizes = {g.name: random.randint(1, g.size) for g in real_network.structure.groups}
    model = resized(real_network, sizes)
    for name, axes in real_network.structure.weights.items():
        shape = [axis_size(axis, sizes) for axis in axes]
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, dtype=np.float32), name))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": np.ones((2, 3, 8, 8), dtype=np.float32)})
    assert output.shape == (2, 5)


def test_constants_and_attributes_follow_the_sizes() -> None:
    concat = resized(concat_network(), {"a": 1, "b": 1, "c": 3})
    assert numpy_helper.to_array(concat.graph.initializer[0]).tolist() == [0, 3 * 16]
    depthwise = resized(depthwise_network(), {"a": 5, "b": 1})
    assert attribute(depthwise, "depth", "group") == 5


def test_the_full_size_is_the_template(real_network: Checkpoint) -> None:
    assert resized(real_network, real_network.structure.full_sizes()) == real_network.template.model


def test_the_template_itself_does_not_change() -> None:
    network = concat_network()
    before = network.template.model.SerializeToString()
    resized(network, {"a": 1, "b": 1, "c": 1})
    assert network.template.model.SerializeToString() == before


def test_shapes_recorded_for_the_full_size_go() -> None:
    network = concat_network()
    value = helper.make_tensor_value_info("m", TensorProto.FLOAT, ["batch", 7, 4, 4])
    network.template.model.graph.value_info.append(value)
    assert len(resized(network, {"a": 1, "b": 1, "c": 1}).graph.value_info) == 0


def test_an_attribute_that_is_not_there_is_added() -> None:
    network = depthwise_network()
    (depth,) = [node for node in network.template.model.graph.node if node.name == "depth"]
    del depth.attribute[:]
    assert attribute(resized(network, {"a": 3, "b": 1}), "depth", "group") == 3


@pytest.mark.parametrize(
    ("constant", "message"),
    [
        (SizeConstant("nowhere", 0, (("c",),)), "belongs in constant 'nowhere'"),
        (SizeConstant("shape", 2, (("c",),)), "'shape' holds 2 values of int64"),
        (SizeConstant("shape", -1, (("c",),)), "'shape' holds 2 values of int64"),
        (SizeConstant("shape", 0, ((2**70,),)), "but the size 1180591620717411303424 belongs"),
    ],
)
def test_a_constant_that_does_not_exist_is_an_error(constant: SizeConstant, message: str) -> None:
    network = concat_network()
    broken = replace(network, structure=replace(network.structure, constants=(constant,)))
    with pytest.raises(InvalidOnnxError, match=message):
        resized(broken, network.structure.full_sizes())


@pytest.mark.parametrize(
    "item", [SizeAttribute("nowhere", "group", (("a",),)), SizeAttribute("left", "g", ((2**64,),))]
)
def test_an_attribute_that_cannot_be_set_is_an_error(item: SizeAttribute) -> None:
    network = concat_network()
    broken = replace(network, structure=replace(network.structure, attributes=(item,)))
    with pytest.raises(InvalidOnnxError, match=f"node '{item.node}'"):
        resized(broken, network.structure.full_sizes())
