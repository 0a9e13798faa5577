"""One tiny graph per operator rule, with what has to come out: written from the definitions of the operators.

`axes` is the expected type of every weight: one word an axis, groups as letters in the order of the structure, sums
with `+`, products with `*`. `frozen` is a part of the reason why a weight axis keeps its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from numpy.typing import ArrayLike

from tests.inn_core.graph.tiny import Shape, model_of, node

PAD = [1, 1, 1, 1]


@dataclass(frozen=True)
class Case:
    """A graph from `x` to `y` and the expected types of its weights."""

    nodes: Sequence[onnx.NodeProto]
    weights: Mapping[str, Shape]
    axes: Mapping[str, str]
    frozen: Mapping[str, str] = field(default_factory=dict)
    integers: Mapping[str, ArrayLike] = field(default_factory=dict)
    floats: Mapping[str, ArrayLike] = field(default_factory=dict)
    inputs: Mapping[str, Shape] = field(default_factory=lambda: {"x": (3, 4, 4)})
    opset: int = 18

    def model(self) -> onnx.ModelProto:
        """The graph as an ONNX model."""
        return model_of(
            self.nodes,
            weights=self.weights,
            integers=self.integers,
            floats=self.floats,
            inputs=self.inputs,
            opset=self.opset,
        )


STEM = node("Conv", "x w1", "h")
HEAD = node("Conv", "m w2", "y")
STEM_WEIGHTS: dict[str, Shape] = {"w1": (6, 3, 1, 1)}
ENDS: dict[str, Shape] = {**STEM_WEIGHTS, "w2": (5, 6, 1, 1)}
FREE = {"w1": "a 3 1 1", "w2": "5 a 1 1"}
KEPT = {"w1": "6 3 1 1", "w2": "5 6 1 1"}


def between(
    *nodes: onnx.NodeProto,
    axes: Mapping[str, str] = FREE,
    frozen: Mapping[str, str] | None = None,
    more: Mapping[str, Shape] | None = None,
    integers: Mapping[str, ArrayLike] | None = None,
    floats: Mapping[str, ArrayLike] | None = None,
    opset: int = 18,
) -> Case:
    """Nodes from `h` to `m` between a convolution to 6 channels and one to 5."""
    return Case(
        [STEM, *nodes, HEAD],
        {**ENDS, **(more or {})},
        axes,
        frozen or {},
        integers or {},
        floats or {},
        opset=opset,
    )


LINEAR = {
    "conv": Case(
        [node("Conv", "x w1 b1", "h", pads=PAD), node("Conv", "h w2 b2", "y")],
        {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (5, 6, 1, 1), "b2": (5,)},
        {"w1": "a 3 3 3", "b1": "a", "w2": "5 a 1 1", "b2": "5"},
        {"w1:1": "graph input", "w2:0": "graph output", "b2:0": "graph output"},
    ),
    "conv 1-d": Case(
        [node("Conv", "x w1", "h", pads=[1, 1]), node("Conv", "h w2", "y")],
        {"w1": (6, 3, 3), "w2": (5, 6, 1)},
        {"w1": "a 3 3", "w2": "5 a 1"},
        inputs={"x": (3, 8)},
    ),
    "conv 3-d": Case(
        [node("Conv", "x w1", "h"), node("Conv", "h w2", "y")],
        {"w1": (6, 2, 3, 2, 1), "w2": (5, 6, 1, 1, 1)},
        {"w1": "a 2 3 2 1", "w2": "5 a 1 1 1"},
        inputs={"x": (2, 4, 3, 2)},
    ),
    "conv in groups": Case(
        [STEM, node("Conv", "h wg bg", "m", group=2), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "wg": (8, 3, 1, 1), "bg": (8,), "w2": (5, 8, 1, 1)},
        {"w1": "2*a 3 1 1", "wg": "2*b a 1 1", "bg": "2*b", "w2": "5 2*b 1 1"},
    ),
    "conv by channel": Case(
        [STEM, node("Conv", "h wd bd", "m", group=6, pads=PAD), HEAD],
        {**ENDS, "wd": (6, 1, 3, 3), "bd": (6,)},
        {"w1": "a 3 1 1", "wd": "a 1 3 3", "bd": "a", "w2": "5 a 1 1"},
    ),
    "conv by channel, twice as many": Case(
        [STEM, node("Conv", "h wd bd", "m", group=6), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "wd": (12, 1, 1, 1), "bd": (12,), "w2": (5, 12, 1, 1)},
        {"w1": "a 3 1 1", "wd": "a*2 1 1 1", "bd": "a*2", "w2": "5 a*2 1 1"},
    ),
    "conv by channel of the input": Case(
        [node("Conv", "x wd", "h", group=3), node("Conv", "h w2", "y")],
        {"wd": (3, 1, 1, 1), "w2": (5, 3, 1, 1)},
        {"wd": "3 1 1 1", "w2": "5 3 1 1"},
    ),
    "transposed conv": Case(
        [STEM, node("ConvTranspose", "h wt bt", "m", strides=[2, 2]), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "wt": (6, 7, 2, 2), "bt": (7,), "w2": (5, 7, 1, 1)},
        {"w1": "a 3 1 1", "wt": "a b 2 2", "bt": "b", "w2": "5 b 1 1"},
    ),
    "transposed conv in groups": Case(
        [STEM, node("ConvTranspose", "h wt bt", "m", group=2), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "wt": (6, 4, 2, 2), "bt": (8,), "w2": (5, 8, 1, 1)},
        {"w1": "2*a 3 1 1", "wt": "2*a b 2 2", "bt": "2*b", "w2": "5 2*b 1 1"},
    ),
    "transposed conv by channel": Case(
        [STEM, node("ConvTranspose", "h wt", "m", group=6, strides=[2, 2]), HEAD],
        {**ENDS, "wt": (6, 1, 2, 2)},
        {"w1": "a 3 1 1", "wt": "a 1 2 2", "w2": "5 a 1 1"},
    ),
    "gemm": Case(
        [node("Gemm", "x w1 b1", "h"), node("Gemm", "h w2 b2", "y")],
        {"w1": (4, 6), "b1": (6,), "w2": (6, 5), "b2": (5,)},
        {"w1": "4 a", "b1": "a", "w2": "a 5", "b2": "5"},
        inputs={"x": (4,)},
    ),
    "gemm, second transposed": Case(
        [node("Gemm", "x w1 b1", "h", transB=1), node("Gemm", "h w2", "y", transB=1)],
        {"w1": (6, 4), "b1": (1, 6), "w2": (5, 6)},
        {"w1": "a 4", "b1": "1 a", "w2": "5 a"},
        inputs={"x": (4,)},
    ),
    "gemm, first transposed": Case(
        [node("Gemm", "x w1", "h"), node("Transpose", "h", "t"), node("Gemm", "t w2", "y", transA=1)],
        {"w1": (4, 6), "w2": (6, 5)},
        {"w1": "4 a", "w2": "a 5"},
        inputs={"x": (4,)},
    ),
    "matmul": Case(
        [node("MatMul", "x w1", "h"), node("Add", "h b1", "s"), node("Relu", "s", "r"), node("MatMul", "r w2", "y")],
        {"w1": (4, 6), "b1": (6,), "w2": (6, 5)},
        {"w1": "4 a", "b1": "a", "w2": "a 5"},
        inputs={"x": (7, 4)},
    ),
    "matmul of two activations": Case(
        [
            node("MatMul", "x wq", "q"),
            node("MatMul", "x wk", "k"),
            node("Transpose", "k", "kt", perm=[0, 2, 1]),
            node("MatMul", "q kt", "y"),
        ],
        {"wq": (4, 6), "wk": (4, 6)},
        {"wq": "4 a", "wk": "4 a"},
        inputs={"x": (7, 4)},
    ),
    "einsum": Case(
        [node("Einsum", "x w1", "h", equation="bij,jk->bik"), node("Einsum", "h w2", "y", equation="bik,kl->bil")],
        {"w1": (4, 6), "w2": (6, 5)},
        {"w1": "4 a", "w2": "a 5"},
        inputs={"x": (7, 4)},
    ),
    "weight used twice": Case(
        [
            node("Gemm", "x w1", "h"),
            node("Gemm", "h ws", "s"),
            node("Relu", "s", "r"),
            node("Gemm", "r ws", "t"),
            node("Gemm", "t w2", "y"),
        ],
        {"w1": (4, 6), "ws": (6, 6), "w2": (6, 5)},
        {"w1": "4 a", "ws": "a a", "w2": "a 5"},
        inputs={"x": (4,)},
    ),
}

ELEMENTWISE = {
    "activations": between(
        node("Relu", "h", "a1"),
        node("HardSwish", "a1", "a2"),
        node("Erf", "a2", "a3"),
        node("LeakyRelu", "a3", "m", alpha=0.2),
    ),
    "identity and dropout": between(node("Identity", "h", "i"), node("Dropout", "i ratio", "m"), floats={"ratio": 0.5}),
    "clip": between(
        node("Clip", "h low high", "m"), more={"low": (), "high": ()}, axes={**FREE, "low": "", "high": ""}
    ),
    "slopes by channel": between(node("PRelu", "h s", "m"), more={"s": (6, 1, 1)}, axes={**FREE, "s": "a 1 1"}),
    "one slope": between(node("PRelu", "h s", "m"), more={"s": (1, 1, 1)}, axes={**FREE, "s": "1 1 1"}),
    "scale by channel": between(node("Mul", "h s", "m"), more={"s": (1, 6, 1, 1)}, axes={**FREE, "s": "1 a 1 1"}),
    "map added to all channels": between(node("Add", "h s", "m"), more={"s": (4, 4)}, axes={**FREE, "s": "4 4"}),
    "sum of branches": Case(
        [STEM, node("Conv", "x w3", "g"), node("Add", "h g", "m"), HEAD],
        {**ENDS, "w3": (6, 3, 1, 1)},
        {**FREE, "w3": "a 3 1 1"},
    ),
    "mean of three": Case(
        [STEM, node("Conv", "x w3", "g"), node("Relu", "h", "r"), node("Mean", "h g r", "m"), HEAD],
        {**ENDS, "w3": (6, 3, 1, 1)},
        {**FREE, "w3": "a 3 1 1"},
    ),
    "one channel stretches to many": Case(
        [STEM, node("Conv", "x w3", "g"), node("Mul", "h g", "m"), HEAD],
        {**ENDS, "w3": (1, 3, 1, 1)},
        {**FREE, "w3": "1 3 1 1"},
    ),
    "sum with the input": Case(
        [node("Conv", "x w1", "h"), node("Add", "h x", "m"), node("Conv", "m w2", "y")],
        {"w1": (3, 3, 1, 1), "w2": (5, 3, 1, 1)},
        {"w1": "3 3 1 1", "w2": "5 3 1 1"},
        {"w1:0": "node 'm' (Add)"},
    ),
    "gate": Case(
        [
            STEM,
            node("GlobalAveragePool", "h", "p"),
            node("Conv", "p ws bs", "s"),
            node("Relu", "s", "r"),
            node("Conv", "r we be", "e"),
            node("Sigmoid", "e", "g"),
            node("Mul", "h g", "m"),
            HEAD,
        ],
        {**ENDS, "ws": (4, 6, 1, 1), "bs": (4,), "we": (6, 4, 1, 1), "be": (6,)},
        {**FREE, "ws": "b a 1 1", "bs": "b", "we": "a b 1 1", "be": "a"},
    ),
    "selection": between(
        node("Relu", "h", "r"),
        node("Greater", "h r", "c"),
        node("Where", "c h r", "m"),
    ),
    "softmax over channels": between(
        node("Softmax", "h", "m", axis=1), axes=KEPT, frozen={"w1:0": "normalized over at node 'm' (Softmax)"}
    ),
    "logarithm of softmax over channels": between(
        node("LogSoftmax", "h", "m", axis=1), axes=KEPT, frozen={"w1:0": "normalized over at node 'm' (LogSoftmax)"}
    ),
    "largest channel as one, others zero": between(
        node("Hardmax", "h", "m", axis=1), axes=KEPT, frozen={"w1:0": "compared over at node 'm' (Hardmax)"}
    ),
    "softmax over pixels": between(node("Softmax", "h", "m", axis=3)),
    "norm over channels": between(
        node("LpNormalization", "h", "m", axis=1, p=2), axes=KEPT, frozen={"w1:0": "node 'm' (LpNormalization)"}
    ),
    "local response": between(node("LRN", "h", "m", size=3), axes=KEPT, frozen={"w1:0": "node 'm' (LRN)"}),
    "instance normalization": between(
        node("InstanceNormalization", "h s b", "m"), more={"s": (6,), "b": (6,)}, axes={**FREE, "s": "a", "b": "a"}
    ),
    "layer normalization over channels": Case(
        [node("MatMul", "x w1", "h"), node("LayerNormalization", "h s b", "m", axis=-1), node("MatMul", "m w2", "y")],
        {"w1": (4, 6), "s": (6,), "b": (6,), "w2": (6, 5)},
        {"w1": "4 6", "s": "6", "b": "6", "w2": "6 5"},
        {f"{name}": "normalized over at node 'm' (LayerNormalization)" for name in ("w1:1", "s:0", "b:0", "w2:0")},
        inputs={"x": (7, 4)},
    ),
    "group normalization": between(
        node("GroupNormalization", "h s b", "m", num_groups=2),
        more={"s": (6,), "b": (6,)},
        axes={**KEPT, "s": "6", "b": "6"},
        frozen=dict.fromkeys(("w1:0", "s:0", "b:0", "w2:1"), "normalized over at node 'm' (GroupNormalization)"),
        opset=21,
    ),
    "batch normalization that cannot be folded": between(
        node("Relu", "h", "r"),
        node("BatchNormalization", "r s b s2 v", "m"),
        more={"s": (6,), "b": (6,), "s2": (6,)},
        floats={"v": [0.5, 1.0, 1.5, 2.0, 0.7, 0.9]},
        axes={**FREE, "s_1": "a 1 1", "b_1": "a 1 1"},
    ),
    "cumulative sum": between(
        node("CumSum", "h one", "m"),
        integers={"one": 1},
        axes=KEPT,
        frozen={"w1:0": "summed along at node 'm' (CumSum)"},
    ),
}

SHAPES_STAY = {**LINEAR, **ELEMENTWISE}
