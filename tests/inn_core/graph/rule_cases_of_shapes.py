"""The second half of the table of `rule_cases`: operators that pool, resize, reduce, rearrange, or have no rule."""

from __future__ import annotations

from tests.inn_core.graph.rule_cases import ENDS, FREE, HEAD, KEPT, PAD, STEM, STEM_WEIGHTS, Case, between
from tests.inn_core.graph.tiny import node

SPATIAL = {
    "max pooling": between(node("MaxPool", "h", "m", kernel_shape=[2, 2], strides=[2, 2])),
    "average pooling": between(node("AveragePool", "h", "m", kernel_shape=[3, 3], pads=PAD)),
    "global pooling": between(node("GlobalMaxPool", "h", "m")),
    "mean over pixels": between(node("ReduceMean", "h axes", "m", keepdims=1), integers={"axes": [2, 3]}),
    "mean over pixels, dropped": Case(
        [STEM, node("ReduceMean", "h axes", "m", keepdims=0), node("Gemm", "m w2", "y")],
        {**STEM_WEIGHTS, "w2": (6, 5)},
        {"w1": "a 3 1 1", "w2": "a 5"},
        integers={"axes": [-2, -1]},
    ),
    "mean over channels": Case(
        [STEM, node("ReduceMean", "h axes", "y", keepdims=1)],
        STEM_WEIGHTS,
        {"w1": "6 3 1 1"},
        {"w1:0": "reduced over at node 'y' (ReduceMean)"},
        integers={"axes": [1]},
    ),
    "sum of everything": Case(
        [STEM, node("ReduceSum", "h axes", "y", keepdims=0)],
        STEM_WEIGHTS,
        {"w1": "6 3 1 1"},
        {"w1:0": "reduced over at node 'y' (ReduceSum)"},
        integers={"axes": [1, 2, 3]},
    ),
    "position of the largest channel": Case(
        [STEM, node("ArgMax", "h", "i", axis=1), node("Cast", "i", "y", to=1)],
        STEM_WEIGHTS,
        {"w1": "6 3 1 1"},
        {"w1:0": "compared over at node 'i' (ArgMax)"},
    ),
    "largest channels": Case(
        [STEM, node("TopK", "h k", "y i", axis=1)],
        STEM_WEIGHTS,
        {"w1": "6 3 1 1"},
        {"w1:0": "ranked over at node 'y' (TopK)"},
        integers={"k": [2]},
    ),
    "padded pixels": between(node("Pad", "h pads", "m"), integers={"pads": [0, 0, 1, 1, 0, 0, 1, 1]}),
    "padded channels": Case(
        [STEM, node("Pad", "h pads", "m"), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "w2": (5, 8, 1, 1)},
        {"w1": "6 3 1 1", "w2": "5 8 1 1"},
        {"w1:0": "padded at node 'm' (Pad)"},
        integers={"pads": [0, 1, 0, 0, 0, 1, 0, 0]},
    ),
    "padding of listed axes": between(
        node("Pad", "h pads - axes", "m"), integers={"pads": [1, 1, 1, 1], "axes": [-1, 2]}, opset=18
    ),
    "resize by scales": between(
        node("Resize", "h - scales", "m", mode="nearest"),
        floats={"scales": [1.0, 1.0, 2.0, 2.0]},
        axes={**FREE, "scales": "4"},
        frozen={"scales:0": "Resize"},
    ),
    "resize of listed axes to sizes": between(
        node("Resize", "h - - sizes", "m", mode="nearest", axes=[2, 3]), integers={"sizes": [7, 5]}
    ),
    "depth to space, depth last": Case(
        [node("Conv", "x w1", "h"), node("DepthToSpace", "h", "m", blocksize=2), node("Conv", "m w2", "y")],
        {"w1": (12, 3, 1, 1), "w2": (5, 3, 1, 1)},
        {"w1": "4*a 3 1 1", "w2": "5 a 1 1"},
    ),
    "depth to space, depth first": Case(
        [
            node("Conv", "x w1", "h"),
            node("DepthToSpace", "h", "m", blocksize=2, mode="CRD"),
            node("Conv", "m w2", "y"),
        ],
        {"w1": (12, 3, 1, 1), "w2": (5, 3, 1, 1)},
        {"w1": "a*4 3 1 1", "w2": "5 a 1 1"},
    ),
    "space to depth": Case(
        [STEM, node("SpaceToDepth", "h", "m", blocksize=2), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "w2": (5, 24, 1, 1)},
        {"w1": "a 3 1 1", "w2": "5 4*a 1 1"},
    ),
}

SHAPE = {
    "concat": Case(
        [STEM, node("Conv", "x w3", "g"), node("Concat", "h g", "m", axis=1), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "w3": (4, 3, 1, 1), "w2": (5, 10, 1, 1)},
        {"w1": "a 3 1 1", "w3": "b 3 1 1", "w2": "5 a+b 1 1"},
    ),
    "concat with itself": Case(
        [STEM, node("Relu", "h", "r"), node("Concat", "h r", "m", axis=1), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "w2": (5, 12, 1, 1)},
        {"w1": "a 3 1 1", "w2": "5 2*a 1 1"},
    ),
    "concat with the input": Case(
        [STEM, node("Concat", "x h", "m", axis=1), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "w2": (5, 9, 1, 1)},
        {"w1": "a 3 1 1", "w2": "5 3+a 1 1"},
    ),
    "concat of pixels": Case(
        [STEM, node("Conv", "x w3", "g"), node("Concat", "h g", "m", axis=2), HEAD],
        {**ENDS, "w3": (6, 3, 1, 1)},
        {**FREE, "w3": "a 3 1 1"},
    ),
    "flatten": Case(
        [STEM, node("Flatten", "h", "f"), node("Gemm", "f w2", "y")],
        {**STEM_WEIGHTS, "w2": (96, 5)},
        {"w1": "a 3 1 1", "w2": "a*16 5"},
    ),
    "reshape to one row": Case(
        [STEM, node("Reshape", "h shape", "f"), node("Gemm", "f w2", "y")],
        {**STEM_WEIGHTS, "w2": (96, 5)},
        {"w1": "a 3 1 1", "w2": "a*16 5"},
        integers={"shape": [0, 96]},
    ),
    "reshape with a computed length": Case(
        [STEM, node("Reshape", "h shape", "f"), node("Gemm", "f w2", "y")],
        {**STEM_WEIGHTS, "w2": (96, 5)},
        {"w1": "a 3 1 1", "w2": "a*16 5"},
        integers={"shape": [0, -1]},
    ),
    "channel shuffle": Case(
        [
            STEM,
            node("Reshape", "h apart", "r"),
            node("Transpose", "r", "t", perm=[0, 2, 1, 3, 4]),
            node("Reshape", "t together", "m"),
            HEAD,
        ],
        ENDS,
        {"w1": "a*b 3 1 1", "w2": "5 b*a 1 1"},
        integers={"apart": [0, 2, 3, 4, 4], "together": [0, 6, 4, 4]},
    ),
    "channels last and back": between(
        node("Transpose", "h", "t", perm=[0, 2, 3, 1]),
        node("Relu", "t", "r"),
        node("Transpose", "r", "m", perm=[0, 3, 1, 2]),
    ),
    "squeeze and unsqueeze": between(
        node("GlobalAveragePool", "h", "p"),
        node("Squeeze", "p last", "s"),
        node("Unsqueeze", "s ends", "m"),
        integers={"last": [2, 3], "ends": [-1, -2]},
    ),
    "split": Case(
        [
            STEM,
            node("Split", "h sizes", "p q", axis=1),
            node("Conv", "p w2", "s"),
            node("Conv", "q w3", "t"),
            node("Add", "s t", "y"),
        ],
        {**STEM_WEIGHTS, "w2": (5, 2, 1, 1), "w3": (5, 4, 1, 1)},
        {"w1": "a+b 3 1 1", "w2": "5 a 1 1", "w3": "5 b 1 1"},
        integers={"sizes": [2, 4]},
    ),
    "split into equal parts that meet again": Case(
        [
            STEM,
            node("Split", "h", "p q", axis=1, num_outputs=2),
            node("Sigmoid", "q", "g"),
            node("Mul", "p g", "m"),
            node("Conv", "m w2", "y"),
        ],
        {**STEM_WEIGHTS, "w2": (5, 3, 1, 1)},
        {"w1": "2*a 3 1 1", "w2": "5 a 1 1"},
    ),
    "slice of channels": Case(
        [STEM, node("Slice", "h start end axis", "m"), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "w2": (5, 3, 1, 1)},
        {"w1": "a+b 3 1 1", "w2": "5 b 1 1"},
        integers={"start": [3], "end": [6], "axis": [1]},
    ),
    "slice of pixels": between(
        node("Slice", "h start end axis", "m"), integers={"start": [1, 0], "end": [3, 2], "axis": [2, 3]}
    ),
    "every other channel": Case(
        [STEM, node("Slice", "h start end axis step", "m"), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "w2": (5, 3, 1, 1)},
        {"w1": "6 3 1 1", "w2": "5 3 1 1"},
        {"w1:0": "cut with step 2 from 0 to 6 at node 'm' (Slice)"},
        integers={"start": [0], "end": [6], "axis": [1], "step": [2]},
    ),
    "channels counted from the end": Case(
        [STEM, node("Slice", "h start end axis", "m"), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "w2": (5, 2, 1, 1)},
        {"w1": "6 3 1 1", "w2": "5 2 1 1"},
        {"w1:0": "at node 'm' (Slice)"},
        integers={"start": [-2], "end": [2**63 - 1], "axis": [1]},
    ),
    "gather of channels": Case(
        [STEM, node("Gather", "h places", "m", axis=1), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "w2": (5, 2, 1, 1)},
        {"w1": "6 3 1 1", "w2": "5 2 1 1"},
        {"w1:0": "indexed at node 'm' (Gather)"},
        integers={"places": [4, 1]},
    ),
    "expand": between(
        node("GlobalAveragePool", "h", "p"), node("Expand", "p shape", "m"), integers={"shape": [1, 6, 4, 4]}
    ),
    "tile": Case(
        [STEM, node("Tile", "h repeats", "m"), node("Conv", "m w2", "y")],
        {**STEM_WEIGHTS, "w2": (5, 12, 1, 1)},
        {"w1": "a 3 1 1", "w2": "5 2*a 1 1"},
        integers={"repeats": [1, 2, 1, 1]},
    ),
}

NO_RULE = {
    "triangle of a map": between(
        node("Trilu", "h", "m"), axes=KEPT, frozen={"w1:0": "no rule for node 'm' (Trilu)", "w2:1": "node 'y' (Conv)"}
    ),
}

SHAPES_CHANGE = {**SPATIAL, **SHAPE, **NO_RULE}
