"""Distillation without labels: a few epochs of gradient descent on the full network's outputs, after least squares.

Least squares fits node by node; at the smallest sizes what is left is the joint, non-linear part. A short descent on
the divergence of the outputs, and on the features before the last linear node, takes it up. Samples are few, so images
are also mixed with each other (a box of one pasted into another): the full network says what the mixture means.

Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531); CutMix (Yun et al., 1905.04899) for the boxes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.fitting.channel_statistics import output_kinds
from inn_core.fitting.divergence import OutputKind, divergence
from inn_core.fitting.runtime import Chunk, LoadedNetwork, to_chunks
from inn_core.graph.linear_nodes import linear_nodes
from inn_core.graph.program import Program
from inn_core.integral.selection import axis_selection, selections, take
from inn_core.progress import Progress, no_progress

Tensors = dict[str, torch.Tensor]

MIXED_COPIES = 3  # mixtures per image
BATCH = 64
LEARNING_RATE = 1.5e-3
FEATURE_WEIGHT = 0.5  # of the feature error, relative to its variance, beside the divergence in nats
EPOCHS = (6, 8)  # fewer do little or harm, more add little
WORK = {"cpu": 4e11, "cuda": 3e13}  # multiply-accumulates: seven seconds on two cores, or on a GPU
MAX_POOL_ELEMENTS = 2**26
_BACKWARD = 3  # a training step costs three forward passes


@dataclass(frozen=True)
class TeacherOutputs:
    """What the full network says of the samples.

    Attributes:
        inputs: samples and their mixtures, by graph input.
        outputs: the full network's float outputs.
        feature: name of the input of the last linear node, or None where that is a graph input.
        features: the full network's values of it, all channels.
    """

    inputs: Tensors
    outputs: Tensors
    feature: str | None
    features: torch.Tensor | None
    kinds: Mapping[str, OutputKind]


def affordable_epochs(macs: int, count: int, device: torch.device) -> int:
    """Epochs over `count` samples and their mixtures that the work allows; 0 when too few to be of use."""
    pool = count * (1 + MIXED_COPIES)
    epochs = int(WORK.get(device.type, WORK["cpu"]) / max(1.0, float(macs) * pool * _BACKWARD))
    return min(epochs, EPOCHS[1]) if epochs >= EPOCHS[0] else 0


def prepare_teacher(loaded: LoadedNetwork, samples: Mapping[str, Array], *, seed: int = 0) -> TeacherOutputs:
    """Mix the samples and run the full network on them once."""
    pool = _mixed(samples, np.random.default_rng(seed))
    chunks = to_chunks(pool, loaded.chunk, loaded.device)
    last = _last_features(loaded.program, loaded.weights)
    outputs: list[Tensors] = []
    features: list[torch.Tensor] = []
    with torch.no_grad():  # not inference mode: the results take part in autograd later
        for chunk in chunks:
            result = loaded.program.run(loaded.weights, chunk, keep=[last] if last else [])
            outputs.append({name: result[name] for name in loaded.program.outputs})
            if last:
                features.append(result[last])
    joined = {name: torch.cat([part[name] for part in outputs]) for name in loaded.program.outputs}
    kinds = output_kinds(loaded.program, joined)
    inputs = {name: torch.cat([chunk[name] for chunk in chunks]) for name in pool}
    return TeacherOutputs(inputs, joined, last, torch.cat(features) if last else None, kinds)


def distill(
    checkpoint: Checkpoint,
    loaded: LoadedNetwork,
    program: Program,
    weights: Mapping[str, torch.Tensor],
    sizes: Mapping[str, int],
    teacher: TeacherOutputs,
    *,
    epochs: int,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Tensors:
    """Improve the weights of a sized network.

    Args:
        program: of the sized network.
        weights: where to start; left unchanged.
        sizes: of the groups.
        teacher: outputs of the full network.
        epochs: over all samples.
        seed: order of the samples.

    Returns:
        New weights; equal arguments give equal weights on one machine.
    """
    trained = _trained_names(program, weights)
    current = {name: _fast_layout(tensor.clone(), name in trained) for name, tensor in weights.items()}
    optimizer = torch.optim.Adam([current[name] for name in trained], lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    wanted = None
    if teacher.feature is not None and teacher.features is not None:
        axes = checkpoint.structure.values[teacher.feature]
        kept = selections(checkpoint.orders, sizes)
        wanted = take(teacher.features, axis_selection(checkpoint.structure, axes, kept))
    count = len(next(iter(teacher.inputs.values())))
    steps = epochs * max(count // BATCH, 1)
    step = 0
    with torch.enable_grad():
        for _ in range(epochs):
            order = torch.randperm(count, generator=generator).to(loaded.device)
            for start in range(0, max(count - BATCH + 1, 1), BATCH):
                chosen = order[start : start + BATCH]
                for group in optimizer.param_groups:
                    group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
                optimizer.zero_grad()
                _loss(program, current, teacher, wanted, chosen).backward()
                optimizer.step()
                step += 1
                progress("distilling", step / steps)
    return {name: tensor.detach().contiguous() for name, tensor in current.items()}


def _loss(
    program: Program,
    weights: Tensors,
    teacher: TeacherOutputs,
    wanted: torch.Tensor | None,
    chosen: torch.Tensor,
) -> torch.Tensor:
    inputs: Chunk = {name: tensor[chosen] for name, tensor in teacher.inputs.items()}
    result = program.run(weights, inputs, keep=[teacher.feature] if teacher.feature else [])
    loss = torch.zeros((), device=chosen.device)
    for name, kind in teacher.kinds.items():
        loss = loss + divergence(teacher.outputs[name][chosen], result[name], kind).mean()
    if wanted is not None and teacher.feature is not None:
        variance = wanted[chosen].var().clamp_min(1e-12)
        loss = loss + FEATURE_WEIGHT * (result[teacher.feature] - wanted[chosen]).square().mean() / variance
    return loss


def _mixed(samples: Mapping[str, Array], random: np.random.Generator) -> dict[str, Array]:
    """The samples, and for a single image input copies with a box of another image each."""
    (first, *others) = samples.items()
    name, images = first
    if others or images.ndim != 4 or images.dtype.kind != "f" or images.size * (1 + MIXED_COPIES) > MAX_POOL_ELEMENTS:
        return dict(samples)
    copies = [images]
    height, width = images.shape[2:]
    for _ in range(MIXED_COPIES):
        mixed = images.copy()
        donors = random.permutation(len(images))
        for i, donor in enumerate(donors):
            box = (slice(None), *random_box(height, width, random))
            mixed[i][box] = images[donor][box]
        copies.append(mixed)
    return {name: np.concatenate(copies)}


def random_box(height: int, width: int, random: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a random box, a quarter to four fifths of each side, somewhere in an image."""
    box_height, box_width = (max(1, round(size * random.uniform(0.25, 0.8))) for size in (height, width))
    top, left = random.integers(0, height - box_height + 1), random.integers(0, width - box_width + 1)
    return slice(top, top + box_height), slice(left, left + box_width)


def _last_features(program: Program, weights: Mapping[str, torch.Tensor]) -> str | None:
    entries = linear_nodes(program.nodes, weights)
    return entries[-1].data if entries and entries[-1].data not in program.inputs else None


def _trained_names(program: Program, weights: Mapping[str, torch.Tensor]) -> set[str]:
    entries = linear_nodes(program.nodes, weights)
    return {name for entry in entries for name in (entry.weight, entry.bias) if name is not None}


def _fast_layout(tensor: torch.Tensor, is_trained: bool) -> torch.Tensor:
    """Channels last makes small convolutions about a fifth faster on CPUs."""
    if tensor.ndim == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor.requires_grad_() if is_trained else tensor
