"""Networks of every kind as integral ones, and what a size of them computes by other means, for tests of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.part_arrays import read_parts
from inn_core.graph.program import Program
from inn_core.graph.structure import Template
from inn_core.integral.kernel_sampler import KernelSampler
from inn_core.training.integral_network import IntegralNetwork
from tests.inn_core.graph.tiny import model_of, node
from tests.inn_core.networks import concat_network, depthwise_network
from tests.inn_core.trained_networks import gaussian, integral, mlp, residual_convnet, smooth_images

Sizes = Mapping[str, int]

CLOSE = 1e-5  # float32 networks a few layers deep


def transposed_convnet(channels: int = 6) -> onnx.ModelProto:
    """Down and up again: a strided convolution, a transposed one, and a last convolution that makes an image."""
    return model_of(
        [
            node("Conv", "x w0 b0", "c0", pads=[1, 1, 1, 1], strides=[2, 2]),
            node("Relu", "c0", "r0"),
            node("ConvTranspose", "r0 w1 b1", "t1", strides=[2, 2]),
            node("Relu", "t1", "r1"),
            node("Conv", "r1 w2 b2", "y", pads=[1, 1, 1, 1]),
        ],
        weights={
            "w0": (channels, 3, 3, 3),
            "b0": (channels,),
            "w1": (channels, channels + 2, 2, 2),
            "b1": (channels + 2,),
            "w2": (3, channels + 2, 3, 3),
            "b2": (3,),
        },
        inputs={"x": (3, 8, 8)},
    )


def small_mlp() -> Checkpoint:
    """A multilayer perceptron with random channel orders."""
    random = np.random.default_rng(5)
    plain = integral(mlp(), {"x": gaussian(48, 6)})
    orders = {group.name: random.permutation(group.size).tolist() for group in plain.structure.groups}
    return integral(mlp(), {"x": gaussian(48, 6)}, orders=orders)


def small_residual() -> Checkpoint:
    """A residual network with random channel orders."""
    random = np.random.default_rng(6)
    images = {"x": smooth_images(48)}
    plain = integral(residual_convnet(), images)
    orders = {group.name: random.permutation(group.size).tolist() for group in plain.structure.groups}
    return integral(residual_convnet(), images, orders=orders)


def small_transposed() -> Checkpoint:
    """The network with a transposed convolution; its output is an image."""
    return integral(transposed_convnet(), {"x": smooth_images(24)})


def without_statistics(checkpoint: Checkpoint) -> Checkpoint:
    """Without the statistics that the hand-written networks carry for tests of other parts."""
    return replace(checkpoint, anchors=(), unknown={})


KINDS: dict[str, Callable[[], Checkpoint]] = {
    "mlp": small_mlp,
    "residual": small_residual,
    "transposed": small_transposed,
    "concat": lambda: without_statistics(concat_network()),
    "depthwise": lambda: without_statistics(depthwise_network()),
}
"""`concat` has a Reshape whose constant follows the sizes, `depthwise` an attribute that does."""


def in_precision(checkpoint: Checkpoint, dtype: type) -> Checkpoint:
    """The same network in half or double precision, samples and all."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = onnx.ModelProto()
    model.CopyFrom(checkpoint.template.model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    weights = {name: (shape, kind) for name, (shape, _) in checkpoint.template.weights.items()}
    return replace(
        checkpoint,
        template=Template(model, weights),
        weights={name: array.astype(dtype) for name, array in checkpoint.weights.items()},
        calibration={name: array.astype(dtype) for name, array in checkpoint.calibration.items()},
    )


def smoothed(checkpoint: Checkpoint, seed: int = 1) -> Checkpoint:
    """With random smoothing orders, so that no test depends on the solver."""
    random = np.random.default_rng(seed)
    orders = {group.name: random.permutation(group.size) for group in checkpoint.structure.groups}
    return replace(checkpoint, channel_permutations=orders)


def smooth_orders(checkpoint: Checkpoint) -> dict[str, Array]:
    """The smoothing orders of a checkpoint by group."""
    return dict(checkpoint.channel_permutations)


def with_arrays(checkpoint: Checkpoint, arrays: Mapping[str, Array]) -> Checkpoint:
    """With other stored sizes, given as the arrays of a file."""
    sampling = checkpoint.trained.sampling if checkpoint.trained is not None else {}
    return replace(checkpoint, **read_parts(arrays, checkpoint.structure.groups, sampling))


def with_kernels(checkpoint: Checkpoint, **options: object) -> IntegralNetwork:
    """An integral network that samples kernels in the smoothing orders of a checkpoint."""
    return IntegralNetwork(checkpoint, sampler=KernelSampler(checkpoint, smooth_orders(checkpoint)), **options)


def inputs_of(checkpoint: Checkpoint) -> Tensor:
    """The calibration samples."""
    return torch.from_numpy(np.array(checkpoint.calibration["x"]))


def own_output(checkpoint: Checkpoint, inputs: Tensor) -> Tensor:
    """What the checkpoint's own weights compute."""
    program = Program(checkpoint.template.model)
    weights = {name: torch.from_numpy(np.array(array)) for name, array in checkpoint.weights.items()}
    return program.run(weights, {"x": inputs})[program.outputs[0]]


def shares(checkpoint: Checkpoint, share: float) -> dict[str, int]:
    """Every group at a share of its size."""
    return {group.name: max(1, round(group.size * share)) for group in checkpoint.structure.groups}


def shaken_(network: IntegralNetwork, seed: int = 0, amount: float = 0.1) -> IntegralNetwork:
    """Move every parameter, as a few steps of training would, so that nothing is at its start."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += amount * parameter.abs().mean() * torch.randn(parameter.shape, generator=random)
    return network


class Repeated:
    """Batches of fixed samples; every epoch in an order of its own."""

    def __init__(self, inputs: Tensor, targets: Tensor, batch: int) -> None:
        self.inputs, self.targets, self.batch = inputs, targets, batch

    def __len__(self) -> int:
        return len(self.inputs) // self.batch

    def epoch(self, number: int) -> Sequence[tuple[tuple[Tensor, ...], Tensor]]:  # a list is an iterable of batches
        """Samples in an order that depends on the number alone."""
        order = torch.from_numpy(np.random.default_rng(number).permutation(len(self.inputs)))
        parts = order.split(self.batch)[: len(self)]
        return [((self.inputs[part],), self.targets[part]) for part in parts]


def close(found: Tensor, expected: Tensor, tolerance: float = CLOSE) -> None:
    """Assert equality up to a tolerance relative to the largest value, at least 1."""
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)
