"""A universally slimmable network: one set of weights whose first channels are a network at any uniform width.

Written after Yu and Huang, *Universally Slimmable Networks and Improved Training Techniques* (arXiv 1903.05134). The
sandwich rule trains the full width on the labels, and the smallest and two random widths on the full width's soft
outputs of the same step (in-place distillation); BatchNorm statistics of a width are taken again after training.

It works for every network whose constructor takes `widths` and whose smaller self has the same parameters with fewer
channels. Channels are put in order of their norm first (`channels.ordered_by_norm`) when trained weights are at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from benchmarks.rivals.torch_pruning import exported_parameters
from benchmarks.rivals.uniform import Widths, scaled_widths, uniform_widths
from inn_core.progress import Progress, no_progress
from inn_core.training.recipes.images import ByteArray, Schedule
from models.recipes.classifier import Backward, train_steps_

RANDOM_WIDTHS = 2
"""Widths beside the full and the smallest one in every step, as in the paper."""


class Maker(Protocol):
    """Constructor of a network of any widths."""

    def __call__(self, *, widths: Sequence[int]) -> nn.Module:
        """A freshly initialised network."""


def train_slimmable_(
    module: nn.Module,
    make: Maker,
    widths: Sequence[int],
    images: ByteArray,  # shape: (n, height, width)
    labels: ByteArray,  # shape: (n,)
    *,
    n_steps: int,
    smallest: float,
    schedule: Schedule,
    device: torch.device,
    bfloat16: bool,
    state_path: Path | None = None,
    progress: Progress = no_progress,
) -> None:
    """Train `module` in place so that every uniform width of it is a good network; it ends in eval mode on the CPU.

    Args:
        module: `make(widths=widths)`, trained or not.
        make: constructor.
        widths: full widths.
        images, labels: to train on, uint8.
        n_steps: gradient steps; each runs four widths.
        smallest: smallest ratio of widths, in (0, 1).
        schedule: of the optimizer, the batches and the random widths.
        device, bfloat16, progress: as in `train_steps_`.
        state_path: as in `train_steps_`: a run that was stopped goes on from there, bit by bit as it would have.

    Raises:
        TrainingStateError: `state_path` belongs to another run, or is unreadable.
    """
    slices = _Slices(make, widths)
    ratios = np.random.default_rng([schedule.seed, 3]).uniform(smallest, 1.0, (n_steps, RANDOM_WIDTHS))
    parameters = dict(module.named_parameters())

    def backward(batch: Tensor, targets: Tensor, step: int) -> float:
        logits = module(batch).float()
        loss = functional.cross_entropy(logits, targets, label_smoothing=schedule.label_smoothing)
        torch.autograd.backward(loss)
        soft = logits.detach().softmax(1)
        for ratio in (smallest, *ratios[step]):
            sized = slices.run(parameters, float(ratio), batch).float()
            torch.autograd.backward(functional.cross_entropy(sized, soft))
        return float(loss.detach())

    learn: Backward = backward
    train_steps_(
        module,
        images,
        labels,
        n_steps=n_steps,
        schedule=schedule,
        device=device,
        bfloat16=bfloat16,
        backward=learn,
        state_path=state_path,
        run=f"slimmable: widths {tuple(widths)}, smallest {smallest}, {RANDOM_WIDTHS} random ones",
        progress=progress,
    )


def slim(module: nn.Module, make: Maker, widths: Sequence[int]) -> nn.Module:
    """The network of the first channels of `module`, in eval mode, with the module's own statistics of them."""
    small = make(widths=widths)
    state = module.state_dict()
    small.load_state_dict({name: _first(state[name], tensor.shape) for name, tensor in small.state_dict().items()})
    return small.eval()


def widths_within(make: Maker, widths: Sequence[int], target: int) -> Widths:
    """The largest uniform widths of at most `target` parameters as an ONNX file counts them.

    Raises:
        ValueError: even the narrowest network is larger.
    """
    known: dict[Widths, int] = {}

    def cost(sized: Widths) -> int:
        if sized not in known:
            with torch.device("meta"):
                known[sized] = exported_parameters(make(widths=sized))
        return known[sized]

    return uniform_widths(widths, target, cost=cost)


class _Slices:
    """Runs uniform widths on slices of shared parameters, with the statistics of the batch."""

    def __init__(self, make: Maker, widths: Sequence[int]) -> None:
        self._make = make
        self._widths = widths
        self._skeletons: dict[Widths, nn.Module] = {}

    def run(self, parameters: Mapping[str, Tensor], ratio: float, batch: Tensor) -> Tensor:
        """Logits of one width."""
        skeleton = self._skeleton(scaled_widths(self._widths, ratio))
        sliced = {name: _first(parameters[name], shape.shape) for name, shape in skeleton.named_parameters()}
        logits: Tensor = functional_call(skeleton, sliced, (batch,))
        return logits

    def _skeleton(self, widths: Widths) -> nn.Module:
        if widths not in self._skeletons:
            with torch.device("meta"):
                skeleton = self._make(widths=widths).train()
            for layer in skeleton.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.track_running_stats = False  # the statistics of many widths would mix
            self._skeletons[widths] = skeleton
        return self._skeletons[widths]


def _first(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    return tensor[tuple(slice(size) for size in shape)]
