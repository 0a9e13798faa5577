"""Rows of integral networks: the paper's pipelines A and B, on kernels.

A trains kernels at partitions of random sizes and looks at the full size: by the sandwich rule, whose steps train the
full size and three others, or by Algorithm 1, whose steps train one. B leaves the weights alone: kernels of the trained
network are sampled at uniform or tuned partitions, with channels in the smoothing order or as they are.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.pipelines.data import Part
from benchmarks.pipelines.run import Run
from benchmarks.rivals.folding import uniform_sizes
from benchmarks.rows import Json
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.cost import PATH_UNITS, CostModel
from inn_core.graph.structure import Sizes
from inn_core.integral.channel_permutation import smoothing_orders
from inn_core.integral.kernel_sampler import KernelSampler
from inn_core.planning.size_path import build_path
from inn_core.sized.batch_norm import Moments
from inn_core.training.integral_network import IntegralNetwork
from inn_core.training.loop import Batch, Batches, train_sizes_
from inn_core.training.partition_tuning import STEPS, tune_partitions_
from inn_core.training.recipes.images import Schedule, augmented_batches, lay_out_, to_pixels
from inn_core.training.settings import SizeTraining
from inn_core.training.state import seconds_taken
from models.recipes.classifier import endless_batches

FROM_DISCRETE = "integral from discrete"
FROM_SCRATCH = "integral from scratch"
RULES = {"": "sandwich", ", Algorithm 1": "random"}
"""How the names of the methods of pipeline A end -> rule of a step."""
ORDERS = ("smoothing order", "channels as they are")
SMALLEST = 0.25
"""Share of the parameters down to which pipeline A draws partitions."""

TUNING_BATCH = 64
CHUNK = 250


def pipeline_a(run: Run) -> None:
    """Integral networks at full size: from the discrete network, and from random weights."""
    steps = max(run.options.steps)
    for ending, rule in RULES.items():
        if run.wants(FROM_DISCRETE + ending) and steps:
            details = {"steps": steps, "rate": run.options.rate}
            run.row(FROM_DISCRETE + ending, 1.0, partial(_from_discrete, run, steps, rule), **details)
        if run.wants(FROM_SCRATCH + ending):
            run.row(FROM_SCRATCH + ending, 1.0, partial(_from_scratch, run, rule), epochs=run.options.epochs)


def pipeline_b(run: Run, shares: Sequence[float]) -> None:
    """Sizes with the same share of every group, without any change to a weight."""
    for order in ORDERS:
        for tuned in (False, True):
            method = f"integral, {'tuned' if tuned else 'uniform'} partition, {order}"
            if run.wants(method):
                for share in shares:
                    run.row(method, share, partial(_sampled, run, share, order, tuned=tuned))


def _sampled(run: Run, share: float, order: str, *, tuned: bool) -> Json:
    """A row of pipeline B; `raw` matches no statistics, `reestimated` those of every normalized node."""
    checkpoint = calibrated(run)
    sizes = uniform_sizes(checkpoint, run.target(share))
    readings: dict[str, dict[str, float | None]] = {}
    started = time.perf_counter()
    for reading, normalize in (("raw", False), ("reestimated", True)):
        sampler = KernelSampler(checkpoint, _orders(checkpoint, order))
        network = IntegralNetwork(checkpoint, sampler=sampler, normalize=normalize)
        if tuned:
            steps = 2 if run.options.quick else STEPS
            tune_partitions_(network, [sizes], _Calibration(run), steps=steps, bfloat16=run.options.bfloat16)
        chunks = _chunks(run)
        moments = network.moments(sizes, chunks)
        readings[reading] = run.judge_logits(partial(_logits, network, sizes, moments))
    cost = CostModel.of(checkpoint.template, checkpoint.structure)
    row = cost.to_row(sizes)
    return {
        "params": int(cost.evaluate("params", row)[0]),
        "macs": int(cost.evaluate("macs", row)[0]),
        "seconds": round(time.perf_counter() - started, 3),
        **readings,
    }


def _from_discrete(run: Run, steps: int, rule: str) -> Json:
    schedule = run.schedule()
    found = _trained(
        run,
        calibrated(run),
        _settings(run, schedule, rule, epochs=1),
        batches=_Steps(run.data.train, schedule, steps),
        seed=schedule.seed,
        state=run.file(f"integral-from-discrete-{rule}-{steps}-{schedule.peak_rate:g}", ".pt"),
    )
    return {**found, "steps": steps}


def _from_scratch(run: Run, rule: str) -> Json:
    schedule = Schedule(seed=run.options.seed, epochs=run.options.epochs)
    batches = _Epochs(run.data.train, schedule)
    found = _trained(
        run,
        calibrated(run, run.untrained),
        _settings(run, schedule, rule, epochs=schedule.epochs),
        batches=batches,
        seed=schedule.seed,
        state=run.file(f"integral-from-scratch-{rule}-{schedule.epochs}", ".pt"),
    )
    return {**found, "steps": schedule.epochs * len(batches)}


def _settings(run: Run, schedule: Schedule, rule: str, *, epochs: int) -> SizeTraining:
    return SizeTraining(
        epochs=epochs,
        peak_rate=schedule.peak_rate,
        warmup_share=schedule.warmup_share,
        weight_decay=schedule.weight_decay,
        rule=rule,
        bfloat16=run.options.bfloat16,
    )


def _trained(
    run: Run, checkpoint: Checkpoint, settings: SizeTraining, *, batches: Batches, seed: int, state: Path
) -> Json:
    """Train kernels at random partitions, then measure the full size with statistics of the calibration images."""
    sampler = KernelSampler(checkpoint, smoothing_orders(checkpoint, seed=seed))
    network = IntegralNetwork(checkpoint, sampler=sampler, smallest=SMALLEST, independent=1.0, seed=seed)
    lay_out_(network, torch.channels_last)
    progress = run.progress("kernels at random partitions")
    train_sizes_(network, batches, settings=settings, task_loss=_task_loss, state_path=state, progress=progress)
    full = network.full_sizes
    moments = network.moments(full, _chunks(run))
    cost = CostModel.of(checkpoint.template, checkpoint.structure)
    return {
        "params": int(cost.evaluate("params", cost.full()[None])[0]),
        "macs": int(cost.evaluate("macs", cost.full()[None])[0]),
        "seconds": round(seconds_taken(state), 3),
        "raw": run.judge_logits(partial(_logits, network, full, moments)),
        "reestimated": None,
    }


def calibrated(run: Run, bare: Checkpoint | None = None) -> Checkpoint:
    """A bare checkpoint, by default that of the discrete network, with calibration images and size paths.

    All groups shrink alike along the paths.
    """
    bare = bare or run.checkpoint
    curves = {group.name: np.linspace(1.0, 0.0, group.size + 1) for group in bare.structure.groups}
    cost = CostModel.of(bare.template, bare.structure)
    return replace(
        bare,
        orders={group.name: np.arange(group.size) for group in bare.structure.groups},
        curves=curves,
        paths={unit: build_path(cost, curves, unit=unit) for unit in PATH_UNITS},
        calibration={"image": run.data.calibration_pixels().numpy()},
    )


def _orders(checkpoint: Checkpoint, order: str) -> Mapping[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    if order == ORDERS[0]:
        return smoothing_orders(checkpoint)
    return {group.name: np.arange(group.size) for group in checkpoint.structure.groups}


def _logits(network: IntegralNetwork, sizes: Sizes, moments: Mapping[str, Moments], pixels: Tensor) -> Tensor:
    chunks = [{"image": part} for part in pixels.split(CHUNK)]
    (logits,) = network.outputs(sizes, chunks, moments).values()
    return logits


def _chunks(run: Run) -> list[dict[str, Tensor]]:
    return [{"image": part} for part in run.data.calibration_pixels().split(CHUNK)]


def _task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), labels, label_smoothing=Schedule.label_smoothing)


class _Epochs:
    """All training images, augmented: the batches of a network that is trained from scratch."""

    def __init__(self, part: Part, schedule: Schedule) -> None:
        self._part = part
        self._schedule = schedule

    def __len__(self) -> int:
        return math.ceil(len(self._part.images) / self._schedule.batch_images)

    def epoch(self, number: int) -> Iterator[Batch]:
        yield from _laid_out(augmented_batches(self._part.images, self._part.labels, self._schedule, number))


class _Steps:
    """So many batches in one epoch, those of a network that is trained on for as many steps."""

    def __init__(self, part: Part, schedule: Schedule, n_steps: int) -> None:
        self._part = part
        self._schedule = schedule
        self._n_steps = n_steps

    def __len__(self) -> int:
        return self._n_steps

    def epoch(self, number: int) -> Iterator[Batch]:
        assert number == 0, "there is one epoch"
        batches = endless_batches(self._part.images, self._part.labels, self._schedule)
        yield from _laid_out(itertools.islice(batches, self._n_steps))


def _laid_out(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Batch]:
    for pixels, labels in batches:
        yield (pixels.contiguous(memory_format=torch.channels_last),), labels


class _Calibration:
    """Calibration images in small batches; labels are not looked at."""

    def __init__(self, run: Run) -> None:
        self._images = run.data.calibration.images

    def __len__(self) -> int:
        return max(1, len(self._images) // TUNING_BATCH)

    def epoch(self, number: int) -> Iterator[Batch]:
        order = np.random.default_rng([number, 4]).permutation(len(self._images))
        for index in range(len(self)):
            yield (to_pixels(self._images[order[index * TUNING_BATCH : (index + 1) * TUNING_BATCH]]),), None
