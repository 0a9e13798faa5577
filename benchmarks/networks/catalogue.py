"""The networks of the pipelines, and how to import one without planning: its template, weights and groups."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from benchmarks.networks import nin, vgg
from benchmarks.rivals.slimmable import Maker
from benchmarks.rivals.uniform import Widths
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.analysis.source import read_onnx
from inn_core.graph.analysis.template import make_template
from inn_core.training.recipes.fashion_mnist import IMAGE_SIZE
from models import fashion_resnet
from models.recipes.fashion_resnet import write_onnx


@dataclass(frozen=True)
class Network:
    """An architecture of the benchmark.

    Attributes:
        make: constructor with the argument `widths`.
        widths: full widths.
        quick_widths: of a network for tests.
        head: name of the last layer, whose outputs are the classes.
    """

    make: Maker
    widths: Widths
    quick_widths: Widths
    head: str = "head"


NETWORKS: Mapping[str, Network] = {
    "fashion_resnet": Network(fashion_resnet.FashionResNet, fashion_resnet.WIDTHS, (8, 8, 8)),
    "nin": Network(nin.NetworkInNetwork, nin.WIDTHS, (8, 8, 8)),
    "vgg": Network(vgg.Vgg, vgg.WIDTHS, (8,) * len(vgg.WIDTHS)),
}


def bare_checkpoint(module: nn.Module, *, name: str) -> Checkpoint:
    """Template, weights and groups of a module in eval mode; no orders, paths or samples, which rivals do not need."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(module, path)
        imported = make_template(read_onnx(path), {"image": (1, IMAGE_SIZE, IMAGE_SIZE)})
    return Checkpoint(name, imported.template, imported.weights, imported.structure, {}, {}, {})
