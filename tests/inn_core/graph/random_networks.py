"""Random convolutional networks as ONNX models, built from the blocks that real ones use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE = (3, 12, 12)


class Builder:
    """Grows a network value by value; remembers channels and spatial size of each."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.values: list[tuple[str, int, int]] = []  # name, channels, height = width
        self.count = 0

    def weight(self, *shape: int, scale: float | None = None) -> str:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        values = self.random.normal(size=shape) * (scale if scale is not None else 1 / np.sqrt(fan_in))
        return self.constant(values.astype(np.float32), f"w{self.count}")

    def constant(self, array: np.ndarray, name: str) -> str:
        self.count += 1
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, inputs: Sequence[str], channels: int, size: int, **attributes: object) -> str:
        self.count += 1
        output = f"v{self.count}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], f"{operator}_{self.count}", **attributes))
        self.values.append((output, channels, size))
        return output

    @property
    def last(self) -> tuple[str, int, int]:
        return self.values[-1]

    def conv(self, channels: int, kernel: int = 3, *, groups: int = 1, bias: bool = True) -> None:
        name, found, size = self.last
        inputs = [name, self.weight(channels, found // groups, kernel, kernel)]
        if bias:
            inputs.append(self.weight(channels, scale=0.1))
        pad = kernel // 2
        self.node("Conv", inputs, channels, size, kernel_shape=[kernel] * 2, pads=[pad] * 4, group=groups)

    def batch_norm(self) -> None:
        name, channels, size = self.last
        rest = [self.constant(self.random.uniform(0.5, 1.5, channels).astype(np.float32), f"bn{self.count}")]
        rest += [self.weight(channels, scale=0.1) for _ in range(2)]
        rest += [self.constant(self.random.uniform(0.5, 1.5, channels).astype(np.float32), f"var{self.count}")]
        self.node("BatchNormalization", [name, *rest], channels, size)

    def activation(self) -> None:
        name, channels, size = self.last
        kind = self.random.integers(4)
        if kind == 3:
            self.node("PRelu", [name, self.weight(channels, 1, 1, scale=0.2)], channels, size)
        else:
            self.node(("Relu", "LeakyRelu", "Sigmoid")[kind], [name], channels, size)

    def residual(self) -> None:
        name, channels, size = self.last
        self.conv(channels)
        self.activation()
        self.conv(channels)
        self.node("Add", [self.last[0], name], channels, size)

    def depthwise(self) -> None:
        self.conv(self.last[1], groups=self.last[1])

    def grouped(self) -> None:
        channels = self.last[1]
        groups = 2 if channels % 2 == 0 else 1
        self.conv(channels, groups=groups)

    def concat(self) -> None:
        _, _, size = self.last
        fitting = [value for value in self.values if value[2] == size]
        other = fitting[self.random.integers(len(fitting))]
        name, channels, _ = self.last
        self.node("Concat", [name, other[0]], channels + other[1], size, axis=1)

    def split(self) -> None:
        name, channels, size = self.last
        first = channels // 2
        if first == 0 or first == channels:
            return
        self.count += 1
        sizes = self.constant(np.asarray([first, channels - first]), f"sizes{self.count}")
        outputs = [f"v{self.count}a", f"v{self.count}b"]
        self.nodes.append(helper.make_node("Split", [name, sizes], outputs, f"Split_{self.count}", axis=1))
        self.values += [(outputs[0], first, size), (outputs[1], channels - first, size)]

    def slice(self) -> None:
        name, channels, size = self.last
        if channels < 4:
            return
        bounds = [self.constant(np.asarray([value]), f"b{self.count}") for value in (1, channels - 1, 1)]
        self.node("Slice", [name, *bounds], channels - 2, size)

    def gate(self) -> None:
        name, channels, size = self.last
        self.node("GlobalAveragePool", [name], channels, 1)
        self.conv(max(2, channels // 2), 1)
        self.activation()
        self.conv(channels, 1)
        gate = self.node("Sigmoid", [self.last[0]], channels, 1)
        self.node("Mul", [name, gate], channels, size)

    def shuffle(self) -> None:
        name, channels, size = self.last
        if channels % 2:
            return
        apart = self.constant(np.asarray([0, 2, channels // 2, size, size]), f"apart{self.count}")
        together = self.constant(np.asarray([0, channels, size, size]), f"together{self.count}")
        self.count += 1
        a, b = f"s{self.count}a", f"s{self.count}b"
        self.nodes.append(helper.make_node("Reshape", [name, apart], [a], f"Reshape_{self.count}a"))
        self.nodes.append(helper.make_node("Transpose", [a], [b], f"Transpose_{self.count}", perm=[0, 2, 1, 3, 4]))
        self.node("Reshape", [b, together], channels, size)

    def pool(self) -> None:
        name, channels, size = self.last
        if size % 2 == 0:
            self.node("MaxPool", [name], channels, size // 2, kernel_shape=[2, 2], strides=[2, 2])

    def upsample(self) -> None:
        name, channels, size = self.last
        out = int(self.random.integers(2, 6))
        weight = self.weight(channels, out, 2, 2)
        self.node("ConvTranspose", [name, weight], out, size * 2, kernel_shape=[2, 2], strides=[2, 2])

    def depth_to_space(self) -> None:
        self.conv(4 * int(self.random.integers(1, 4)))
        name, channels, size = self.last
        mode = ("DCR", "CRD")[self.random.integers(2)]
        self.node("DepthToSpace", [name], channels // 4, size * 2, blocksize=2, mode=mode)

    def head(self, classes: int = 5) -> onnx.ModelProto:
        name, channels, size = self.last
        if self.random.integers(2):
            self.node("GlobalAveragePool", [name], channels, 1)
            self.node("Flatten", [self.last[0]], channels, 1)
            features = channels
        else:
            shape = self.constant(np.asarray([0, channels * size * size]), "flat")
            self.node("Reshape", [name, shape], channels * size * size, 1)
            features = channels * size * size
        weight, bias = self.weight(classes, features), self.weight(classes, scale=0.1)
        self.nodes.append(helper.make_node("Gemm", [self.last[0], weight, bias], ["logits"], "head", transB=1))
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *IMAGE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


BLOCKS = (
    "batch_norm", "activation", "residual", "depthwise", "grouped", "concat", "split", "slice", "gate", "shuffle",
    "pool", "upsample", "depth_to_space",
)  # fmt: skip


def random_network(seed: int, n_blocks: int = 6) -> onnx.ModelProto:
    """A network of random blocks; equal seeds give equal networks."""
    builder = Builder(seed)
    builder.values.append(("image", IMAGE[0], IMAGE[1]))
    builder.conv(int(builder.random.integers(4, 9)))
    for _ in range(n_blocks):
        getattr(builder, BLOCKS[builder.random.integers(len(BLOCKS))])()
        if builder.random.integers(3) == 0 and builder.last[2] <= 24:
            builder.conv(int(builder.random.integers(3, 9)), bias=bool(builder.random.integers(2)))
    return builder.head()
