"""Run a recipe: train all sizes of its network, resume after a stop, measure the statistics, give a checkpoint."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import InvalidTrainingError
from inn_core.progress import Progress, no_progress
from inn_core.training.integral_network import IntegralNetwork
from inn_core.training.loop import Batch, Batches, train_sizes_
from inn_core.training.recipes.images import is_bfloat16_faster
from inn_core.training.recipes.recipe import Recipe
from inn_core.training.settings import SizeTraining
from inn_core.training.state import Finished, peek_state

Note = Callable[[str], None]
"""Takes one line for people."""

STATISTICS_SAMPLES = 1024  # training samples, for a checkpoint that keeps none
_TRAINED = 0.95  # share of the work done after training


@dataclass(frozen=True)
class RunSettings(SizeTraining):
    """Settings of a run, with what else decides it, so that the state of another run is never gone on with.

    Attributes:
        run: digest of the start's weights, the options of the network and the data.
    """

    run: str = ""


class SizesTrained(NamedTuple):
    """What a run has made.

    Attributes:
        checkpoint: the same bytes whenever and however often interrupted the run was, so without its seconds.
        seconds: of training and of measuring the statistics, without steps that were lost in a stop.
    """

    checkpoint: Checkpoint
    seconds: float


def run_recipe(
    recipe: Recipe,
    *,
    state_path: Path | None = None,
    device: torch.device,
    progress: Progress = no_progress,
    note: Note = lambda text: None,
) -> SizesTrained:
    """Train the sizes of a recipe's network.

    A run that was stopped goes on from its state and ends with the parameters that it would have had (on one machine,
    with one number of threads).

    Args:
        recipe: what to train.
        state_path: where the run saves its state, every minute and after every epoch; the caller removes it.
        device: where to train.
        progress: told the epoch and the finished share.
        note: told where the run goes on and how each epoch went.

    Returns:
        The start with trained sizes, whose provenance has the recipe, and the seconds that it took.

    Raises:
        TrainingStateError: `state_path` belongs to another run, or is unreadable.
        InvalidTrainingError: there are no batches, or the loss is not finite.
    """
    if not len(recipe.batches):
        raise InvalidTrainingError("an epoch has no batches; give more samples or a smaller batch")
    start = recipe.start()
    lent = start if start.calibration else replace(start, calibration=_training_samples(start, recipe.batches))
    network = IntegralNetwork(
        lent,
        normalize=recipe.normalize,
        smallest=recipe.smallest,
        independent=recipe.independent,
        seed=recipe.seed,
    ).to(device)
    batches = _Placed(recipe.batches, device)
    saved = peek_state(state_path)
    settings = recipe.settings
    if recipe.is_fastest:
        # Measured once: another measurement of the same run could come out otherwise.
        known = saved[0].get("bfloat16") if saved is not None else None
        fastest = _is_bfloat16_faster(network, batches, device) if known is None else bool(known)
        settings = replace(settings, bfloat16=fastest)
    n_steps = settings.epochs * len(batches)
    resumed_at, before = saved[1] if saved is not None else Finished(0, 0.0)
    started = time.monotonic() - before  # as if the run had never been stopped

    def report(stage: str, fraction: float) -> None:
        nonlocal resumed_at
        if resumed_at:  # only now it is known that the state is one of this run
            note(f"going on after step {resumed_at:,} of {n_steps:,} with the state '{state_path}'")
            resumed_at = 0
        progress(stage, _TRAINED * fraction)

    def after_epoch(epoch: int, loss: float) -> None:
        note(f"epoch {epoch} of {settings.epochs}: loss {loss:.4f}, {time.monotonic() - started:.0f} s")

    train_sizes_(
        network,
        batches,
        settings=RunSettings(**asdict(settings), run=_run_digest(recipe, lent)),
        task_loss=recipe.task_loss,
        state_path=state_path,
        progress=report,
        after_epoch=after_epoch,
    )
    progress("statistics of every size", _TRAINED)
    network.measure_(*_statistics_samples(recipe, lent))
    seconds = time.monotonic() - started
    trained = network.to_checkpoint()
    training = {
        "recipe": recipe.name,
        "settings": asdict(settings),
        "labels": recipe.task_loss is not None,
        "steps": n_steps,
        "normalise": recipe.normalize,  # spelt as before: the state of a stopped run is found by this digest
        "smallest": recipe.smallest,
        "independent": recipe.independent,
        "seed": recipe.seed,
        "data": recipe.data,
    }
    progress("trained", 1.0)
    provenance = {**start.provenance, "training": training}
    return SizesTrained(replace(trained, calibration=start.calibration, provenance=provenance), seconds)


class _Placed:
    """Batches on a device, images with channels last, which is the faster layout."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self._batches = batches
        self._device = device

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, number: int) -> Iterator[Batch]:
        for inputs, targets in self._batches.epoch(number):
            placed = targets.to(self._device) if isinstance(targets, Tensor) else targets
            yield tuple(self._place(tensor) for tensor in inputs), placed

    def _place(self, tensor: Tensor) -> Tensor:
        if tensor.ndim == 4:
            return tensor.to(self._device, memory_format=torch.channels_last)
        return tensor.to(self._device)


def _is_bfloat16_faster(network: IntegralNetwork, batches: _Placed, device: torch.device) -> bool:
    outputs = network.checkpoint.template.model.graph.output
    inputs, _ = next(iter(batches.epoch(0)))
    if len(inputs) != 1 or len(outputs) != 1 or not inputs[0].is_floating_point():
        return False
    return is_bfloat16_faster(lambda: copy.deepcopy(network).train(), inputs[0], device=device)


def _statistics_samples(recipe: Recipe, start: Checkpoint) -> list[Tensor]:
    """The recipe's samples for statistics in the order of the graph inputs; none when it has none."""
    if recipe.statistics is None:
        return []
    names = [value.name for value in start.template.model.graph.input]
    return [torch.from_numpy(np.ascontiguousarray(recipe.statistics[name])) for name in names]


def _training_samples(start: Checkpoint, batches: Batches) -> dict[str, Array]:
    """The first inputs of an epoch, for a checkpoint that keeps no samples."""
    names = [value.name for value in start.template.model.graph.input]
    parts: list[tuple[Tensor, ...]] = []
    count = 0
    for inputs, _ in batches.epoch(0):
        parts.append(inputs)
        count += len(inputs[0])
        if count >= STATISTICS_SAMPLES:
            break
    return {
        name: torch.cat(tensors)[:STATISTICS_SAMPLES].numpy()
        for name, tensors in zip(names, zip(*parts, strict=True), strict=True)
    }


def _run_digest(recipe: Recipe, start: Checkpoint) -> str:
    """Digest of what decides a run beside its settings. Of the data, the first batch and what the recipe says."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor | np.ndarray):
            array = value.numpy() if isinstance(value, Tensor) else value
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        else:
            digest.update(repr(value).encode())

    add((recipe.name, recipe.data, recipe.normalize, recipe.smallest, recipe.independent, recipe.seed))
    for name, weight in start.weights.items():
        add(name)
        add(np.asarray(weight))
    inputs, targets = next(iter(recipe.batches.epoch(0)))
    for tensor in inputs:
        add(tensor)
    if isinstance(targets, Tensor):
        add(targets)
    return f"sha256:{digest.hexdigest()}"
