"""Small networks made of ONNX models through the real analysis, for tests of the numeric core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.fitting.channel_order import NestedOrder
from inn_core.fitting.runtime import LoadedNetwork
from inn_core.graph.analysis.template import make_template
from inn_core.graph.cost import CostModel
from inn_core.planning.size_path import build_path
from tests.inn_core.graph.tiny import Shape, model_of, node

CPU = torch.device("cpu")


def integral(
    model: onnx.ModelProto, samples: Mapping[str, Array], *, orders: Mapping[str, Sequence[int]] | None = None
) -> Checkpoint:
    """An integral network without the costly part of an import: channels in the given order, or as they are."""
    found = make_template(model, {name: array.shape[1:] for name, array in samples.items()})
    cost = CostModel.of(found.template, found.structure)
    plain = {
        group.name: NestedOrder(
            np.array((orders or {}).get(group.name, range(group.size)), dtype=np.int64),
            np.linspace(1.0, 0.0, group.size + 1),
        )
        for group in found.structure.groups
    }
    curves = {name: order.damage for name, order in plain.items()}
    return Checkpoint(
        name="small",
        template=found.template,
        weights=found.weights,
        structure=found.structure,
        orders={name: order.order for name, order in plain.items()},
        paths={unit: build_path(cost, curves, unit=unit) for unit in ("params", "macs")},
        curves=curves,
        calibration=samples,
    )


def engine_of(checkpoint: Checkpoint) -> LoadedNetwork:
    """The engine on the CPU."""
    return LoadedNetwork.of(checkpoint, CPU)


def mlp(features: int = 6, hidden: int = 12, outputs: int = 5, *, activation: str = "Relu") -> onnx.ModelProto:
    """Two hidden layers; `Identity` as activation makes it linear."""
    return model_of(
        [
            node("Gemm", "x w1 b1", "h1"),
            node(activation, "h1", "a1"),
            node("Gemm", "a1 w2 b2", "h2"),
            node(activation, "h2", "a2"),
            node("Gemm", "a2 w3 b3", "y"),
        ],
        weights={
            "w1": (features, hidden),
            "b1": (hidden,),
            "w2": (hidden, hidden),
            "b2": (hidden,),
            "w3": (hidden, outputs),
            "b3": (outputs,),
        },
        inputs={"x": (features,)},
    )


def residual_convnet(channels: int = 8) -> onnx.ModelProto:
    """A stem, a residual block and a linear classifier on pooled channels."""
    image: dict[str, Shape] = {"x": (3, 8, 8)}
    pad = [1, 1, 1, 1]
    return model_of(
        [
            node("Conv", "x w0 b0", "s", pads=pad, strides=[2, 2]),
            node("Relu", "s", "r0"),
            node("Conv", "r0 w1 b1", "c1", pads=pad),
            node("Relu", "c1", "r1"),
            node("Conv", "r1 w2 b2", "c2", pads=pad),
            node("Add", "c2 r0", "sum"),
            node("Relu", "sum", "r2"),
            node("GlobalAveragePool", "r2", "p"),
            node("Flatten", "p", "f"),
            node("Gemm", "f w3 b3", "y"),
        ],
        weights={
            "w0": (channels, 3, 3, 3),
            "b0": (channels,),
            "w1": (channels, channels, 3, 3),
            "b1": (channels,),
            "w2": (channels, channels, 3, 3),
            "b2": (channels,),
            "w3": (channels, 5),
            "b3": (5,),
        },
        inputs=image,
    )


def gaussian(count: int, *shape: int, seed: int = 0) -> Array:
    """Seeded standard normal samples."""
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def smooth_images(count: int, side: int = 8, seed: int = 0) -> Array:
    """Images whose channels and neighbouring pixels are correlated, as those of real data are."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(count, 3, side // 4, side // 4)) + random.normal(size=(count, 1, 1, 1))
    fine = np.kron(coarse, np.ones((1, 1, 4, 4))) + 0.2 * random.normal(size=(count, 3, side, side))
    return fine.astype(np.float32)
