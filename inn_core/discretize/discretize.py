"""From an integral network and a plan to the weights of a discrete one, in any quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from inn_core.arrays import Array
from inn_core.checkpoint.calibration import calibration_samples
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.qualities import check_quality
from inn_core.discretize.instant import instant_weights
from inn_core.discretize.uniform import trained_weights, uniform_weights
from inn_core.errors import PartitionError
from inn_core.fitting.channel_statistics import output_kinds
from inn_core.fitting.distillation import affordable_epochs, distill, prepare_teacher
from inn_core.fitting.divergence import mean_divergence
from inn_core.fitting.lockstep import METHODS, LockstepFit, Method, SizedModel
from inn_core.fitting.runtime import (
    Chunk,
    LoadedNetwork,
    affordable_samples,
    choose_device,
    run_outputs,
    split_blocks,
    spread,
)
from inn_core.graph.program import Program
from inn_core.integral.kernel import KernelSampling
from inn_core.integral.selection import selections
from inn_core.planning.plan import Plan, planner_of
from inn_core.progress import Progress, no_progress, scaled
from inn_core.sized.codec import is_trained

MANY_SAMPLES = 512  # an eighth of so many is enough to judge by


@dataclass(frozen=True)
class Discretized:
    """Weights of a discrete model.

    Attributes:
        weights: by initializer name, in the dtypes of the checkpoint.
        method: how they were made: `full`, `instant`, `trained`, `uniform`, `one-shot`, `hybrid`, `sequential` or
            `distilled`.
        held_out: divergence from the full network on calibration samples that the choice of the method did not fit
            (nats for classifiers, relative squared error otherwise), or None where nothing was chosen.
    """

    weights: dict[str, Array]
    method: str
    held_out: float | None


def discretize(
    checkpoint: Checkpoint,
    plan: Plan,
    *,
    quality: str = "refined",
    quadrature: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Discretized:
    """Make the weights of a plan.

    Args:
        checkpoint: the integral network.
        plan: a size for every group.
        quality: `refined` fits one-shot, hybrid and sequential least squares to most of the calibration samples, keeps
            what is best on the others, and fits it again to all; `instant` is closed form, without data; `trained`
            takes the size as the network's own sampler does, which selects channels where nested sizes were trained
            and samples kernels where kernels were; `uniform` samples kernels at a uniform partition.
        quadrature: how `uniform` samples, as in `KernelSampling.parse`; Riemann's rule and cubic when left out.
        device: `auto`, `cpu` or `cuda`.
        progress: told the finished share.

    Returns:
        The weights; at the full size those of the checkpoint, untouched.

    Raises:
        QualityUnavailableError: the checkpoint does not keep what the quality needs.
        PartitionError: the quadrature is unknown, or the quality is another than `uniform`.
        DeviceError: there is no such device.
    """
    check_quality(checkpoint, quality)
    sampling = uniform_sampling(quality, quadrature)
    target = choose_device(device)
    if plan.full_size:
        return Discretized({name: np.asarray(array) for name, array in checkpoint.weights.items()}, "full", None)
    if quality == "uniform":
        weights = uniform_weights(checkpoint, plan.sizes, device=target, sampling=sampling)
        return Discretized(weights, "uniform", None)
    if quality == "trained" or (quality == "instant" and is_trained(checkpoint)):
        return Discretized(trained_weights(checkpoint, plan.sizes, device=target), "trained", None)
    if quality == "instant":
        return Discretized(instant_weights(checkpoint, plan.sizes, device=target), "instant", None)
    return refine(checkpoint, plan.sizes, LoadedNetwork.of(checkpoint, target), progress=progress or no_progress)


def uniform_sampling(quality: str, quadrature: str | None) -> KernelSampling | None:
    """How kernels are sampled; None where it was not said.

    Raises:
        PartitionError: see `discretize`.
    """
    if quadrature is not None and quality != "uniform":
        raise PartitionError(
            f"quadrature '{quadrature}' goes with quality uniform and not with {quality}; leave it out"
        )
    return None if quadrature is None else KernelSampling.parse(quadrature)


def refine(
    checkpoint: Checkpoint,
    sizes: Mapping[str, int],
    loaded: LoadedNetwork,
    *,
    methods: Sequence[Method] = METHODS,
    progress: Progress = no_progress,
) -> Discretized:
    """Fit all methods, choose on held-out samples, fit the best again on all samples.

    Of more samples than the walk may hold in memory an even part is used. Where a size is cheap enough to train, a
    distilled version of the best is one more candidate; if it wins, it stays as it was judged, for fitting it again
    would cost as much as everything else.
    """
    available = len(next(iter(checkpoint.calibration.values())))
    walking = 1 + sum(method.sequential for method in methods)
    chosen = spread(available, affordable_samples(loaded.program, loaded.structure, walking))
    fit_part, judge_part = split_blocks(len(chosen), held_out=0.25 if len(chosen) < MANY_SAMPLES else 0.125)
    fit_on, hold_out = chosen[fit_part], chosen[judge_part]
    fit_samples = calibration_samples(checkpoint, fit_on)
    fitted, program = fit_methods(
        checkpoint, sizes, loaded, methods, loaded.chunks(fit_samples), scaled(progress, 0.0, 0.4)
    )
    judge = loaded.chunks(calibration_samples(checkpoint, hold_out))
    full_outputs = run_outputs(loaded.program, loaded.weights, judge)
    kinds = output_kinds(loaded.program, full_outputs)

    def score(weights: Mapping[str, torch.Tensor]) -> float:
        return mean_divergence(full_outputs, run_outputs(program, weights, judge), kinds)

    scores = {name: score(weights) for name, weights in fitted.items()}
    best = min(methods, key=lambda method: scores[method.name])
    trained = _trained(checkpoint, sizes, loaded)
    trained_score = score(trained) if trained is not None else math.inf
    cost = planner_of(checkpoint).cost
    macs = int(cost.evaluate("macs", cost.to_row(sizes))[0])
    epochs = affordable_epochs(macs, len(fit_on), loaded.device)
    if epochs:
        report = scaled(progress, 0.4, 0.8)
        teacher = prepare_teacher(loaded, fit_samples)
        start = fitted[best.name] if trained is None or scores[best.name] < trained_score else trained
        taught = distill(checkpoint, loaded, program, start, sizes, teacher, epochs=epochs, progress=report)
        taught_score = score(taught)
        if taught_score < min(scores[best.name], trained_score):
            progress("distilling", 1.0)
            return Discretized(to_arrays(taught), "distilled", taught_score)
    if trained is not None and trained_score <= scores[best.name]:
        progress("judging", 1.0)
        return Discretized(to_arrays(trained), "trained", trained_score)
    needed = [method for method in methods if method.name in (best.name, best.towards)]
    report = scaled(progress, 0.8 if epochs else 0.4, 1.0)
    chunks = loaded.chunks(calibration_samples(checkpoint, chosen))
    final, _ = fit_methods(checkpoint, sizes, loaded, needed, chunks, report)
    return Discretized(to_arrays(final[best.name]), best.name, scores[best.name])


def _trained(checkpoint: Checkpoint, sizes: Mapping[str, int], loaded: LoadedNetwork) -> dict[str, torch.Tensor] | None:
    """The trained size, where there is one: one more candidate, and where distillation starts if it is the best."""
    if not is_trained(checkpoint):
        return None
    weights = trained_weights(checkpoint, sizes, device=loaded.device)
    return {name: torch.from_numpy(array).to(loaded.device) for name, array in weights.items()}


def fit_methods(
    checkpoint: Checkpoint,
    sizes: Mapping[str, int],
    loaded: LoadedNetwork,
    methods: Sequence[Method],
    chunks: Sequence[Chunk],
    progress: Progress = no_progress,
) -> tuple[dict[str, dict[str, torch.Tensor]], Program]:
    """Weights of one plan by each method, and the sized program."""
    kept = selections(checkpoint.orders, sizes)
    candidates = [
        SizedModel(method.name, checkpoint, loaded.weights, kept, method, device=loaded.device) for method in methods
    ]
    fitted = LockstepFit(checkpoint, loaded.program, loaded.weights, candidates).run(chunks, progress)
    return fitted, candidates[0].program


def to_arrays(weights: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """Tensors as arrays on the CPU."""
    return {name: tensor.cpu().contiguous().numpy() for name, tensor in weights.items()}
