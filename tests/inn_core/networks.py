"""Small integral networks written by hand, and cost-only networks in the shape of real ones, for the tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import AnchorNetwork, Checkpoint
from inn_core.graph.axis import Axis, axis_size, fixed
from inn_core.graph.cost import CostModel
from inn_core.graph.structure import FrozenAxis, Group, SizeAttribute, SizeConstant, Structure, Template, Term
from inn_core.planning.size_path import build_path

Weights = dict[str, tuple[Axis, ...]]
SAMPLES = 48
IMAGE = 8


def channels(*names: str) -> Axis:
    """An axis made of whole groups one after the other."""
    return tuple((name,) for name in names)


def picture(depth: Axis, side: int) -> tuple[Axis, ...]:
    """Axes of a square feature map of one sample."""
    return (fixed(1), depth, fixed(side), fixed(side))


def residual_network() -> Checkpoint:
    """Three convolutions with a residual add, global pooling and a classifier."""
    a, b = channels("a"), channels("b")
    weights: Weights = {
        "conv1.weight": (a, fixed(3), fixed(3), fixed(3)),
        "conv1.bias": (a,),
        "conv2.weight": (b, a, fixed(3), fixed(3)),
        "conv2.bias": (b,),
        "conv3.weight": (a, b, fixed(1), fixed(1)),
        "fc.weight": (fixed(5), a),
        "fc.bias": (fixed(5),),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv1.weight", "conv1.bias"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "conv2.weight", "conv2.bias"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Conv", ["r2", "conv3.weight"], ["c3"], name="conv3"),
        helper.make_node("Add", ["c3", "r1"], ["s"], name="add"),
        helper.make_node("Relu", ["s"], ["r3"], name="relu3"),
        helper.make_node("GlobalAveragePool", ["r3"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], name="fc", transB=1),
    ]
    macs = (Term(64 * 27, (a,)), Term(64 * 9, (b, a)), Term(64, (a, b)), Term(5, (a,)))
    values = {
        **dict.fromkeys(("c1", "r1", "c3", "s", "r3"), picture(a, 8)),
        **dict.fromkeys(("c2", "r2"), picture(b, 8)),
        "p": picture(a, 1),
        "f": (fixed(1), a),
    }
    return real_network("residual", nodes, weights, {"a": 8, "b": 6}, macs, values)


def concat_network() -> Checkpoint:
    """Two branches, a concat, and a flattened map whose length is a constant of the graph."""
    a, b, c = channels("a"), channels("b"), channels("c")
    weights: Weights = {
        "left.weight": (a, fixed(3), fixed(3), fixed(3)),
        "right.weight": (b, fixed(3), fixed(1), fixed(1)),
        "right.bias": (b,),
        "mix.weight": (c, channels("a", "b"), fixed(3), fixed(3)),
        "mix.bias": (c,),
        "fc.weight": ((("c", 16),), fixed(5)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "left.weight"], ["l"], name="left", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "right.weight", "right.bias"], ["r"], name="right"),
        helper.make_node("Concat", ["l", "r"], ["j"], name="concat", axis=1),
        helper.make_node("Relu", ["j"], ["h"], name="relu"),
        helper.make_node("Conv", ["h", "mix.weight", "mix.bias"], ["m"], name="mix", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Tanh", ["m"], ["t"], name="tanh"),
        helper.make_node("Reshape", ["t", "shape"], ["f"], name="reshape"),
        helper.make_node("MatMul", ["f", "fc.weight"], ["y"], name="fc"),
    ]
    macs = (Term(64 * 27, (a,)), Term(64 * 3, (b,)), Term(16 * 9, (c, channels("a", "b"))), Term(5, ((("c", 16),),)))
    return real_network(
        "concat",
        nodes,
        weights,
        {"a": 4, "b": 6, "c": 7},
        macs,
        {
            "l": picture(a, 8),
            "r": picture(b, 8),
            **dict.fromkeys(("j", "h"), picture(channels("a", "b"), 8)),
            **dict.fromkeys(("m", "t"), picture(c, 4)),
            "f": (fixed(1), (("c", 16),)),
        },
        constants={"shape": np.array([0, 7 * 16], dtype=np.int64)},
        size_constants=(SizeConstant("shape", 1, (("c", 16),)),),
    )


def depthwise_network() -> Checkpoint:
    """A depthwise separable convolution: the `group` attribute follows the channels."""
    a, b = channels("a"), channels("b")
    weights: Weights = {
        "stem.weight": (a, fixed(3), fixed(3), fixed(3)),
        "stem.bias": (a,),
        "depth.weight": (a, fixed(1), fixed(3), fixed(3)),
        "depth.bias": (a,),
        "point.weight": (b, a, fixed(1), fixed(1)),
        "fc.weight": (fixed(5), b),
        "fc.bias": (fixed(5),),
    }
    nodes = [
        helper.make_node("Conv", ["x", "stem.weight", "stem.bias"], ["s"], name="stem"),
        helper.make_node("Relu", ["s"], ["sr"], name="relu1"),
        helper.make_node("Conv", ["sr", "depth.weight", "depth.bias"], ["d"], name="depth", group=8),
        helper.make_node("Relu", ["d"], ["dr"], name="relu2"),
        helper.make_node("Conv", ["dr", "point.weight"], ["p"], name="point"),
        helper.make_node("GlobalAveragePool", ["p"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], name="fc", transB=1),
    ]
    macs = (Term(36 * 27, (a,)), Term(16 * 9, (a,)), Term(16, (b, a)), Term(5, (b,)))
    values = {
        **dict.fromkeys(("s", "sr"), picture(a, 6)),
        **dict.fromkeys(("d", "dr"), picture(a, 4)),
        "p": picture(b, 4),
        "g": picture(b, 1),
        "f": (fixed(1), b),
    }
    group = SizeAttribute("depth", "group", a)
    return real_network("depthwise", nodes, weights, {"a": 8, "b": 6}, macs, values, attributes=(group,))


def real_network(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    weights: Weights,
    sizes: dict[str, int],
    macs: tuple[Term, ...],
    values: dict[str, tuple[Axis, ...]],
    *,
    constants: dict[str, Array] | None = None,
    size_constants: tuple[SizeConstant, ...] = (),
    attributes: tuple[SizeAttribute, ...] = (),
) -> Checkpoint:
    """A network that runs: input `x` (batch, 3, 8, 8), output `y` (batch, 5), seeded weights."""
    rng = np.random.default_rng(7)
    graph = helper.make_graph(
        list(nodes),
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, IMAGE, IMAGE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        initializer=[numpy_helper.from_array(array, key) for key, array in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="test")
    shapes = {key: tuple(axis_size(axis, sizes) for axis in axes) for key, axes in weights.items()}
    arrays = {key: rng.normal(0.0, 0.4, shape).astype(np.float32) for key, shape in shapes.items()}
    groups = tuple(Group(group, size, 1, _places(weights, group)) for group, size in sizes.items())
    structure = Structure(
        groups=groups,
        weights=weights,
        values={"x": picture(fixed(3), IMAGE), **values, "y": (fixed(1), fixed(5))},
        constants=size_constants,
        attributes=attributes,
        macs=macs,
        frozen=(FrozenAxis("fc.weight", 0, 5, "graph output"),),
    )
    return finished(
        name,
        Template(model, {key: (shape, TensorProto.FLOAT) for key, shape in shapes.items()}),
        structure,
        arrays,
        calibration={"x": rng.normal(size=(SAMPLES, 3, IMAGE, IMAGE)).astype(np.float32)},
    )


def finished(
    name: str,
    template: Template,
    structure: Structure,
    weights: dict[str, Array],
    *,
    calibration: dict[str, Array] | None = None,
) -> Checkpoint:
    """Adds seeded orders and convex-looking damage curves, and the size paths that follow from them."""
    rng = np.random.default_rng(11)
    cost = CostModel.of(template, structure)
    curves = {}
    for group in structure.groups:
        removed = 1.0 - np.arange(group.size + 1) / group.size
        curves[group.name] = 10.0 ** rng.uniform(-2.5, -1.5) * removed ** rng.uniform(1.2, 3.0)
    return Checkpoint(
        name=name,
        template=template,
        weights=weights,
        structure=structure,
        orders={group.name: rng.permutation(group.size).astype(np.int64) for group in structure.groups},
        paths={unit: build_path(cost, curves, unit=unit) for unit in ("params", "macs")},
        curves=curves,
        anchors=(AnchorNetwork(structure.full_sizes(), {}, {}),),
        unknown={"mean/a": np.arange(3, dtype=np.float32)},
        calibration=calibration or {},
        provenance={"source": "sha256:" + "0" * 64, "tools": {"onnx": onnx.__version__}},
    )


class Shapes:
    """Collects the convolutions of a cost-only network."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.weights: Weights = {}
        self.macs: list[Term] = []

    def group(self, name: str, size: int) -> Axis:
        """A new group, as an axis."""
        self.sizes[name] = size
        return channels(name)

    def conv(self, name: str, output: Axis, source: Axis, kernel: int, pixels: int) -> None:
        """A convolution with bias whose output map has so many pixels."""
        self.weights[f"{name}.weight"] = (output, source, fixed(kernel), fixed(kernel))
        self.weights[f"{name}.bias"] = (output,)
        self.macs.append(Term(pixels * kernel * kernel, (output, source)))

    def network(self, name: str, *, smallest: float = 0.06) -> Checkpoint:
        """The network, with an empty graph and weights that take no memory; groups shrink to a share of their size."""
        shapes = {key: tuple(axis_size(axis, self.sizes) for axis in axes) for key, axes in self.weights.items()}
        groups = tuple(
            Group(group, size, max(1, round(size * smallest)), _places(self.weights, group))
            for group, size in self.sizes.items()
        )
        structure = Structure(groups, self.weights, {}, (), (), tuple(self.macs), ())
        template = Template(onnx.ModelProto(), {key: (shape, TensorProto.FLOAT) for key, shape in shapes.items()})
        zero = np.zeros((), dtype=np.float32)
        return finished(name, template, structure, {key: np.broadcast_to(zero, s) for key, s in shapes.items()})


def basic_resnet() -> Checkpoint:
    """Residual network for 28x28 images: widths 32/64/128, two basic blocks a stage, normalization folded."""
    s = Shapes()
    source = s.group("stem", 32)
    s.conv("stem", source, fixed(1), 3, 784)
    for stage, (width, pixels) in enumerate(((32, 784), (64, 196), (128, 49))):
        stream = source if stage == 0 else s.group(f"stage{stage}", width)
        for block in range(2):
            name = f"stage{stage}.{block}"
            inner = s.group(name, width)
            s.conv(f"{name}.conv1", inner, source, 3, pixels)
            s.conv(f"{name}.conv2", stream, inner, 3, pixels)
            if source is not stream:
                s.conv(f"{name}.shortcut", stream, source, 1, pixels)
            source = stream
    s.conv("fc", fixed(10), source, 1, 1)
    return s.network("basic_resnet")


def resnet50_shape() -> Checkpoint:
    """ResNet-50 for 224x224 images, normalization folded: 25.5 M parameters, 37 groups."""
    s = Shapes()
    source = s.group("stem", 64)
    s.conv("stem", source, fixed(3), 7, 112 * 112)
    for stage, (width, blocks, side) in enumerate(((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7))):
        stream = s.group(f"stage{stage}", 4 * width)
        for block in range(blocks):
            name, pixels = f"stage{stage}.{block}", side * side
            first, second = s.group(f"{name}.a", width), s.group(f"{name}.b", width)
            s.conv(f"{name}.conv1", first, source, 1, pixels)
            s.conv(f"{name}.conv2", second, first, 3, pixels)
            s.conv(f"{name}.conv3", stream, second, 1, pixels)
            if block == 0:
                s.conv(f"{name}.shortcut", stream, source, 1, pixels)
            source = stream
    s.conv("fc", fixed(1000), source, 1, 1)
    return s.network("resnet50")


def _places(weights: Weights, group: str) -> tuple[tuple[str, int], ...]:
    return tuple(
        (name, position)
        for name, axes in weights.items()
        for position, axis in enumerate(axes)
        if any(group in segment for segment in axis)
    )
