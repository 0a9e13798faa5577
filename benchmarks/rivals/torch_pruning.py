"""Torch-Pruning at an asked size: search its channel ratio until the exported network has that many parameters.

Needs the package `torch-pruning` 1.6.1 (`pip install --no-deps torch-pruning==1.6.1`), which is no dependency of this
project. Torch-Pruning takes a channel ratio, not a size, so the ratio is searched on a fresh copy of the network each
time, and the largest network that is not over the target is taken.
"""

from __future__ import annotations

import copy
import importlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_LAYER_SHARE = 0.95
"""Most of a layer that may go (`max_pruning_ratio`); without it global ratios remove whole layers."""

WITHIN, AIM = 0.99, 0.995
"""A size counts as hit when it is in (WITHIN * target, target]; the search aims at the middle."""

MOST_PROBES = 20
CLOSEST_RATIOS = 2e-4
"""The search ends when the ratio is known this well: with 128 channels it decides the width of every layer."""


@dataclass(frozen=True)
class Setting:
    """One way to run Torch-Pruning.

    Attributes:
        name: shown in the table.
        importance: name of the importance class, and its arguments.
        global_pruning, isomorphic: as Torch-Pruning has them.
        steps: iterative steps.
        uses_labels: gradients of the loss on the calibration labels are refilled before every step.
    """

    name: str
    importance: str
    arguments: tuple[tuple[str, Any], ...] = ()
    global_pruning: bool = False
    isomorphic: bool = False
    steps: int = 1
    uses_labels: bool = False


SETTINGS = (
    Setting("LAMP, global", "LAMPImportance", (("p", 2),), global_pruning=True),
    Setting("LAMP, isomorphic", "LAMPImportance", (("p", 2),), global_pruning=True, isomorphic=True),
    Setting("L2, uniform", "GroupMagnitudeImportance", (("p", 2),)),
    Setting("Taylor, global (labels)", "GroupTaylorImportance", global_pruning=True, steps=3, uses_labels=True),
    Setting("L1, uniform", "GroupMagnitudeImportance", (("p", 1),)),
    Setting("L2, isomorphic", "GroupMagnitudeImportance", (("p", 2),), global_pruning=True, isomorphic=True),
    Setting("LAMP, uniform", "LAMPImportance", (("p", 2),)),
    Setting("FPGM, uniform", "FPGMImportance", (("p", 2),)),
    Setting("BN scale, uniform", "BNScaleImportance"),
    Setting("Taylor, uniform (labels)", "GroupTaylorImportance", steps=3, uses_labels=True),
)


@dataclass(frozen=True)
class Pruned:
    """A pruned network that is not over its target."""

    module: nn.Module
    params: int
    macs: int
    seconds: float
    is_hit: bool


def load() -> Any:
    """The package, or an error that says how to get it."""
    try:
        return importlib.import_module("torch_pruning")
    except ImportError as exc:
        raise SystemExit(
            "the rival is not installed: pip install --no-deps torch-pruning==1.6.1, or leave it out with --no-rival"
        ) from exc


def prune_to(
    module: nn.Module,
    target: int,
    *,
    setting: Setting,
    images: Tensor,  # shape: (n, channels, height, width)
    labels: Tensor,  # shape: (n,)
    classifier: str,
) -> Pruned:
    """Prune a copy of `module` to at most `target` exported parameters, as close as the ratio allows.

    Args:
        module: the trained network, in eval mode; it is not changed.
        target: parameters, counted by `exported_parameters`.
        setting: how to prune.
        images, labels: calibration samples; only settings with `uses_labels` look at them.
        classifier: name of the last layer, whose outputs must stay.

    Returns:
        The largest network found that is not over the target, with the seconds of the whole search.
    """
    package = load()
    started = time.perf_counter()
    # the root of the parameters is about linear in the ratio: interpolate, but halve every third time to be safe
    low, low_root = 0.0, math.sqrt(exported_parameters(module))
    high, high_root = 1.0, 0.0
    best: tuple[int, nn.Module] | None = None
    for probe in range(MOST_PROBES):
        if high - low < CLOSEST_RATIOS:
            break
        share = (low_root - math.sqrt(AIM * target)) / (low_root - high_root)
        ratio = low + (high - low) * (0.5 if probe % 3 == 2 else min(max(share, 0.02), 0.98))
        candidate = _prune(package, module, ratio, setting, images, labels, classifier)
        params = exported_parameters(candidate)
        if params > target:
            low, low_root = ratio, math.sqrt(params)
        else:
            high, high_root = ratio, math.sqrt(params)
            if best is None or params > best[0]:
                best = params, candidate
            if params > WITHIN * target:
                break
    if best is None:
        raise ValueError(f"Torch-Pruning ({setting.name}) found no network of at most {target:,} parameters")
    seconds = time.perf_counter() - started
    return Pruned(best[1], best[0], count_macs(best[1], images[:1]), seconds, best[0] > WITHIN * target)


def reestimate_statistics(module: nn.Module, images: Tensor) -> nn.Module:
    """A copy whose BatchNorm statistics are those of `images`, taken in one pass over all of them together."""
    copied = copy.deepcopy(module)
    for layer in copied.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.reset_running_stats()
            layer.momentum = 1.0
    copied.train()
    with torch.no_grad():
        copied(images)
    return copied.eval()


def exported_parameters(module: nn.Module) -> int:
    """Parameters of the network as an ONNX file has them: BatchNorm folded into the convolution before it.

    Every convolution and linear layer counts its weight and one bias per output channel; BatchNorm counts nothing.
    """
    total = 0
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            total += layer.weight.numel() + layer.out_channels
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel() + layer.out_features
    return total


def count_macs(module: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers for one sample, shape `(1, channels, height, width)`."""
    total = 0

    def add(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        positions = output[0].numel() // output.shape[1]
        total += layer.weight.numel() * positions

    handles: list[Any] = [
        layer.register_forward_hook(add) for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            module(image)
    finally:
        for handle in handles:
            handle.remove()
    return total


def _prune(
    package: Any, module: nn.Module, ratio: float, setting: Setting, images: Tensor, labels: Tensor, classifier: str
) -> nn.Module:
    candidate = copy.deepcopy(module).eval()
    importance: Callable[..., Tensor] = getattr(package.importance, setting.importance)(**dict(setting.arguments))
    pruner = package.pruner.BasePruner(
        candidate,
        images[:2],
        importance=importance,
        pruning_ratio=ratio,
        global_pruning=setting.global_pruning,
        isomorphic=setting.isomorphic,
        max_pruning_ratio=LARGEST_LAYER_SHARE,
        iterative_steps=setting.steps,
        ignored_layers=[candidate.get_submodule(classifier)],
    )
    for _ in range(setting.steps):
        if setting.uses_labels:
            candidate.zero_grad()
            torch.autograd.backward(functional.cross_entropy(candidate(images), labels))
        pruner.step()
    candidate.zero_grad()
    return candidate
