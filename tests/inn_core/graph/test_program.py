"""Whole graphs: against ONNX Runtime and stored outputs, node by node, on meta, with gradients, with bad input."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, version_converter
from onnx.backend.test.loader import DATA_DIR
from torch import Tensor, nn

from inn_core.errors import (
    ExecutionError,
    ExternalDataError,
    InvalidInputError,
    InvalidOnnxError,
    UnsupportedOperatorError,
)
from inn_core.graph.node import read_nodes
from inn_core.graph.operators.dtypes import tensor_from_proto
from inn_core.graph.program import Program

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""float32 sums in another order, through ten layers."""

NOT_CONVERTIBLE = {"test_PReLU_1d_multiparam", "test_PReLU_2d_multiparam", "test_PReLU_3d_multiparam"}
"""The version converter of ONNX keeps their slopes of shape (channels,), which no longer broadcast."""


def _weights(model: onnx.ModelProto) -> dict[str, Tensor]:
    return {p.name: tensor_from_proto(p) for p in model.graph.initializer if p.data_type == TensorProto.FLOAT}


def _template(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its float initializers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [proto for proto in model.graph.initializer if proto.data_type != TensorProto.FLOAT]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy


def _graph(
    nodes: list[onnx.NodeProto], inputs: list[str], outputs: list[str], initializers: tuple[TensorProto, ...] = ()
) -> onnx.ModelProto:
    """A model with float inputs of one free axis."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return rng.standard_normal((4, 3, 16, 16)).astype(np.float32)


def test_network_equals_onnx_runtime(small_network: onnx.ModelProto, run_onnx: Any, images: Any) -> None:
    (wanted,) = run_onnx(small_network, {"image": images})
    program = Program(_template(small_network))
    assert set(program.weights) == {"w1", "b1", "w2", "w3", "b3", "w4", "b4"}
    found = program.run(_weights(small_network), {"image": torch.from_numpy(images)})
    np.testing.assert_allclose(found["logits"].numpy(), wanted, RELATIVE, ABSOLUTE)


def test_initializers_of_the_model_are_default_weights(small_network: onnx.ModelProto, images: Any) -> None:
    image = {"image": torch.from_numpy(images)}
    weights = _weights(small_network)
    program = Program(small_network)
    with_defaults = program.run({}, image)["logits"]
    assert torch.equal(with_defaults, program.run(weights, image)["logits"])
    shifted = program.run({"b4": weights["b4"] + 1}, image)["logits"]
    torch.testing.assert_close(shifted, with_defaults + 1)


def _stored_cases(kind: str) -> Iterator[tuple[str, onnx.ModelProto, list[TensorProto], list[TensorProto]]]:
    for folder in sorted(Path(DATA_DIR, kind).iterdir()):
        data = folder / "test_data_set_0"
        if data.exists() and folder.name not in NOT_CONVERTIBLE:
            model = version_converter.convert_version(onnx.load(str(folder / "model.onnx")), 13)
            stored: list[list[TensorProto]] = []
            for stem in ("input", "output"):
                names = sorted(data.glob(f"{stem}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
                stored.append([TensorProto.FromString(path.read_bytes()) for path in names])
            yield folder.name, model, stored[0], stored[1]


@pytest.mark.parametrize(("kind", "expected"), [("pytorch-converted", 79), ("pytorch-operator", 35)])
def test_models_stored_with_onnx_give_their_stored_outputs(kind: str, expected: int) -> None:
    count = 0
    for name, model, inputs, outputs in _stored_cases(kind):
        program = Program(model)
        found = program.run({}, dict(zip(program.inputs, map(tensor_from_proto, inputs), strict=True)))
        for output, proto in zip(program.outputs, outputs, strict=True):
            wanted = tensor_from_proto(proto)
            torch.testing.assert_close(
                found[output],
                wanted,
                rtol=1e-3,
                atol=1e-6,
                equal_nan=True,
                msg=lambda text, name=name: f"{name}: {text}",
            )
        count += 1
    assert count >= expected


@pytest.mark.parametrize("name", ["densenet121", "inception_v1", "resnet50", "shufflenet", "squeezenet"])
def test_networks_stored_with_onnx_give_their_stored_outputs(name: str) -> None:
    folder = Path(DATA_DIR, "light")
    program = Program(onnx.load(str(folder / f"light_{name}.onnx")))
    ramp = torch.arange(3 * 224 * 224, dtype=torch.float32) / (3 * 224 * 224)
    with torch.inference_mode():
        (found,) = program.run({}, {program.inputs[0]: ramp.reshape(1, 3, 224, 224)}).values()
    wanted = tensor_from_proto(TensorProto.FromString((folder / f"light_{name}_output_0.pb").read_bytes()))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


class _Exported(nn.Module):
    """What a user may write: attention over a small map, gates, normalization, resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.norm = nn.GroupNorm(2, 8)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.layer_norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        value = self.stem(image)
        value = value * self.gate(value) + nn.functional.gelu(self.norm(value))
        value = nn.functional.interpolate(value, scale_factor=0.5, mode="bilinear")
        tokens = value.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(*[self.layer_norm(tokens)] * 3, need_weights=False)[0]
        result: Tensor = self.head(tokens.mean(1))
        return result


def test_exported_torch_module_gives_the_output_of_the_module(images: Any) -> None:
    torch.manual_seed(0)
    module = _Exported().eval()
    image = torch.from_numpy(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(module, (image,), dynamo=True, opset_version=18, verbose=False)
    assert exported is not None
    program = Program(exported.model_proto)
    with torch.inference_mode():
        (found,) = program.run({}, {program.inputs[0]: image}).values()
        torch.testing.assert_close(found, module(image), rtol=RELATIVE, atol=ABSOLUTE)


def test_steps_and_run_agree_and_dead_values_are_dropped(small_network: onnx.ModelProto, images: Any) -> None:
    program = Program(_template(small_network))
    weights, inputs = _weights(small_network), {"image": torch.from_numpy(images)}
    whole = program.run(weights, inputs, keep=["c2"])
    assert set(whole) == {"logits", "c2"}
    environment = program.begin(inputs)
    for index in range(len(program.nodes)):
        program.step(index, environment, weights)
        program.release(index, environment, ["c2"])
        alive = set(environment) - {"c2"}
        later = {name for node in program.nodes[index + 1 :] for name in node.inputs}
        assert alive <= later | set(program.outputs)
    assert torch.equal(environment["logits"], whole["logits"])
    assert torch.equal(environment["c2"], whole["c2"])


def test_last_use_is_the_last_reader_and_outputs_never_die() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Add", ["a", "x"], ["b"]),
        helper.make_node("Relu", ["a"], ["unread"]),
    ]
    program = Program(_graph(nodes, ["x"], ["b"]))
    assert dict(program.last_use) == {"x": 1, "a": 2, "b": 3, "unread": 2}


def test_graph_outputs_may_be_inputs_and_weights() -> None:
    weight = onnx.numpy_helper.from_array(np.ones(2, dtype=np.float32), "w")
    program = Program(_graph([helper.make_node("Identity", ["x"], ["y"])], ["x"], ["x", "w", "y"], (weight,)))
    found = program.run({}, {"x": torch.zeros(3)})
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"x": [0] * 3, "w": [1] * 2, "y": [0] * 3}


def test_gradient_of_every_weight_equals_finite_differences(small_network: onnx.ModelProto, images: Any) -> None:
    program = Program(_template(small_network))
    weights = {name: tensor.double() for name, tensor in _weights(small_network).items()}
    image = {"image": torch.from_numpy(images[:1]).double()}
    names = ["b1", "w2", "b3", "b4"]

    def run(*values: Tensor) -> Tensor:
        return program.run(weights | dict(zip(names, values, strict=True)), image)["logits"]

    assert torch.autograd.gradcheck(run, [weights[name].clone().requires_grad_() for name in names])


def test_described_shapes_are_those_of_a_run(small_network: onnx.ModelProto, images: Any) -> None:
    program = Program(_template(small_network))
    weights = _weights(small_network)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    every = [name for node in program.nodes for name in node.outputs]
    for batch in (1, 3):
        facts = program.describe(shapes, {"image": (batch, 3, 16, 16)})
        values = program.run(weights, {"image": torch.from_numpy(images[:batch])}, keep=every)
        for name in every:
            assert (facts.shapes[name], facts.dtypes[name]) == (tuple(values[name].shape), values[name].dtype), name
        assert facts.known["target"].tolist() == [batch, -1]
        assert facts.known["shape"].tolist() == [batch, 16, 4, 4]
        assert not {"c1", "logits", "w1", "image"} & set(facts.known)
        assert program.value_shapes(shapes, {"image": (batch, 3, 16, 16)}) == dict(facts.shapes)


def test_describe_refuses_shapes_that_depend_on_data() -> None:
    program = Program(_graph([helper.make_node("NonZero", ["x"], ["y"], "find")], ["x"], ["y"]))
    with pytest.raises(UnsupportedOperatorError, match=r"'find'.*depends on the values of the data"):
        program.describe({}, {"x": (3,)})


def test_describe_reads_known_weights(rng: np.random.Generator) -> None:
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear")
    program = Program(_graph([node], ["x"], ["y"]))
    scales = {"scales": torch.tensor([2.5])}
    assert program.describe({}, {"x": (4,)}, known_weights=scales).shapes["y"] == (10,)
    with pytest.raises(UnsupportedOperatorError, match="depends on the values"):
        program.describe({"scales": (1,)}, {"x": (4,)})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"missing: 'image', unknown: none"),
        ({"image": torch.zeros(1, 3, 16, 16), "mask": torch.zeros(1)}, r"unknown: 'mask'"),
        ({"image": torch.zeros(3, 16, 16)}, r"'image' has 4 axes .*found shape \[3, 16, 16\]"),
        ({"image": torch.zeros(1, 3, 16, 16, dtype=torch.int64)}, r"'image' has element type FLOAT, found torch.int64"),
    ],
)
def test_bad_inputs_are_named(inputs: dict[str, Tensor], message: str, small_network: onnx.ModelProto) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Program(small_network).run({}, inputs)


def test_missing_weight_is_named(small_network: onnx.ModelProto) -> None:
    weights = _weights(small_network)
    del weights["w2"]
    with pytest.raises(InvalidInputError, match=r"'depthwise' .*'w2'"):
        Program(_template(small_network)).run(weights, {"image": torch.zeros(1, 3, 16, 16)})


def test_value_to_keep_must_exist(small_network: onnx.ModelProto) -> None:
    with pytest.raises(InvalidInputError, match="'nonsense'"):
        Program(small_network).run({}, {"image": torch.zeros(1, 3, 16, 16)}, keep=["nonsense"])


def test_shapes_that_do_not_fit_name_the_node(small_network: onnx.ModelProto) -> None:
    weights = _weights(small_network) | {"w2": torch.zeros(7, 1, 3, 3)}
    with pytest.raises(ExecutionError, match=r"'depthwise' \(Conv\).*w2 \[7, 1, 3, 3\]"):
        Program(_template(small_network)).run(weights, {"image": torch.zeros(1, 3, 16, 16)})


@pytest.mark.parametrize(("domain", "operator"), [("", "LSTM"), ("com.example", "Relu")])
def test_unknown_operators_are_named(domain: str, operator: str) -> None:
    node = helper.make_node(operator, ["x"], ["y"], "odd", domain=domain)
    with pytest.raises(UnsupportedOperatorError, match=f"'odd'.*{operator}"):
        Program(_graph([node], ["x"], ["y"]))


def test_output_that_is_not_computed_is_refused() -> None:
    nodes = [helper.make_node("LayerNormalization", ["x", "s"], ["y", "mean", "deviation", "more"], "norm")]
    with pytest.raises(UnsupportedOperatorError, match=r"'norm'.*output 3"):
        Program(_graph(nodes, ["x"], ["y"])).run({"s": torch.ones(3)}, {"x": torch.zeros(3)})


def test_cycles_and_wrong_order_are_refused() -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], "first"), helper.make_node("Relu", ["a"], ["b"])]
    with pytest.raises(InvalidOnnxError, match="'first' reads 'b'"):
        Program(_graph(nodes, ["x"], ["b"]))


def test_values_written_twice_are_refused() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Abs", ["x"], ["a"], "second")]
    with pytest.raises(InvalidOnnxError, match="'second' writes 'a'"):
        Program(_graph(nodes, ["x"], ["a"]))


@pytest.mark.parametrize("opset", [6, 99])
def test_operator_sets_out_of_range_are_refused(opset: int) -> None:
    model = _graph([helper.make_node("Relu", ["x"], ["y"])], ["x"], ["y"])
    model.opset_import[0].version = opset
    with pytest.raises(InvalidOnnxError, match=f"operator set {opset}; 7 to "):
        Program(model)


def test_external_data_and_foreign_types_are_refused() -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    away = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    with pytest.raises(ExternalDataError, match="'w'"):
        Program(_graph([node], ["x"], ["y"], (away,)))
    for kind, values in (("COMPLEX64", [1j]), ("STRING", [b"text"]), ("UINT64", [1])):
        foreign = helper.make_tensor("w", getattr(TensorProto, kind), [1], values)
        with pytest.raises(InvalidOnnxError, match=f"'w' has element type {kind}"):
            Program(_graph([node], ["x"], ["y"], (foreign,)))
    short = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], raw_data=b"\0" * 4)
    with pytest.raises(InvalidOnnxError, match=r"'w' does not hold the \[4\] elements"):
        Program(_graph([node], ["x"], ["y"], (short,)))


def test_unnamed_and_equal_names_become_unique() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], "Relu_0"),
        helper.make_node("Relu", ["b"], ["c"], "Relu_0"),
        helper.make_node("Foo", ["c"], ["d"], domain="org.example", values=[1, 2], text="café", scale=0.5),
    ]
    read = read_nodes(_graph(nodes, ["x"], ["d"]).graph)
    assert [node.name for node in read] == ["Relu_0_1", "Relu_0", "Relu_0_2", "org.example.Foo_3"]
    assert read[3].operator == "org.example.Foo"
    assert dict(read[3].attributes) == {"values": [1, 2], "text": "café", "scale": 0.5}
