"""Train the sizes of any checkpoint on samples: the recipe of `inn train N.inn --data D.npz`.

With `labels` among the samples the full network is trained on them (cross-entropy); without, it is its own teacher, and
images are also mixed with each other, so that few samples go further.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.samples import LABELS, checked_arrays, checked_labels, fixed_batch, input_dtypes
from inn_core.errors import InnError
from inn_core.fitting.distillation import random_box
from inn_core.fitting.divergence import log_probabilities, output_kind
from inn_core.fitting.runtime import spread
from inn_core.graph.axis import axis_size
from inn_core.graph.program import Program
from inn_core.sized.batch_norm import normalized_nodes
from inn_core.training.loop import Batch
from inn_core.training.recipes.recipe import STATISTICS_SAMPLES, Recipe
from inn_core.training.settings import SizeTraining
from inn_core.training.step import TaskLoss

MIXED_SHARE = 0.5
"""Of a batch of images without labels, which get a box of another image."""

STEPS = 3000
EPOCHS = (4, 100)  # at least, at most
BATCH = 128
FEWEST_BATCHES = 16  # in an epoch; smaller batches are taken until there are so many
SMALLEST_BATCH = 32

_NORMALIZED = {"optimizer": "sgd", "peak_rate": 0.05}
_PLAIN = {"optimizer": "adam", "peak_rate": 1e-3}  # without normalization the safe rate of SGD depends on the weights


class TrainingDataError(InnError, ValueError):
    """Training samples or labels are missing, have the wrong shape, or do not belong together."""

    code = "invalid-training-data"


class SampleBatches:
    """Samples in batches, in a new order each epoch; an incomplete last batch is left out.

    Args:
        inputs: arrays by graph input, samples first, in that order.
        dtypes: what the graph reads, by input; arrays may be stored smaller.
        labels: classes, or None.
        batch: samples in a batch, at most all.
        seed: of order and mixtures.
    """

    def __init__(
        self,
        inputs: Mapping[str, Array],
        dtypes: Mapping[str, np.dtype[Any]],
        labels: NDArray[np.int64] | None,
        *,
        batch: int,
        seed: int = 0,
    ) -> None:
        self._inputs = inputs
        self._dtypes = dtypes
        self._labels = labels
        self._batch = batch
        self._seed = seed
        first = next(iter(inputs.values()))
        self._count = len(first)
        self._is_mixed = labels is None and len(inputs) == 1 and first.ndim == 4

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._count // self._batch

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch; the targets are classes, or None."""
        random = np.random.default_rng([self._seed, number])
        order = random.permutation(self._count)
        for index in range(len(self)):
            chosen = order[index * self._batch : (index + 1) * self._batch]
            arrays = [array[chosen].astype(self._dtypes[name]) for name, array in self._inputs.items()]
            if self._is_mixed:
                _mix_(arrays[0], random)
            targets = None if self._labels is None else torch.from_numpy(self._labels[chosen])
            yield tuple(torch.from_numpy(array) for array in arrays), targets


def sizes_recipe(
    checkpoint: Checkpoint, arrays: Mapping[str, Array], *, seed: int = 0, labelled: bool = True
) -> Recipe:
    """A recipe that trains the sizes of a checkpoint on samples.

    Args:
        checkpoint: imported or trained.
        arrays: one per graph input, samples first, and `labels`, classes of shape `(n,)`, where there are any.
        seed: of the order of the samples and the sizes.
        labelled: whether to use the labels.

    Raises:
        TrainingDataError: the samples do not fit the network.
    """
    inputs = checked_arrays(checkpoint, arrays, what="training", fewest=2, refuse=TrainingDataError)
    count = len(next(iter(inputs.values())))
    labels = _checked_labels(checkpoint, arrays, count) if labelled and LABELS in arrays else None
    batch = _batch_size(checkpoint, count)
    low, high = EPOCHS
    weights = {name: torch.empty(shape, device="meta") for name, (shape, _) in checkpoint.template.weights.items()}
    program = Program(checkpoint.template.model)
    is_normalized = bool(normalized_nodes(checkpoint.structure, program, weights))
    kind: dict[str, Any] = _NORMALIZED if is_normalized else _PLAIN
    dtypes = input_dtypes(checkpoint)
    kept = spread(count, STATISTICS_SAMPLES)
    return Recipe(
        name=checkpoint.name,
        start=lambda: checkpoint,
        batches=SampleBatches(inputs, dtypes, labels, batch=batch, seed=seed),
        task_loss=None if labels is None else _cross_entropy(program),
        settings=SizeTraining(epochs=min(max(round(STEPS * batch / count), low), high), **kind),
        statistics={name: array[kept].astype(dtypes[name]) for name, array in inputs.items()},
        is_fastest=_classes(checkpoint) is not None,
        seed=seed,
        data=_digest(inputs, labels),
        description=f"all sizes of '{checkpoint.name}' on {count:,} samples",
    )


def _cross_entropy(program: Program) -> TaskLoss:
    """Of the only output, which holds logits or, after a Softmax, probabilities."""
    writers = {name: node.operator for node in program.nodes for name in node.outputs}
    operator = writers.get(program.outputs[0], "")

    def loss(output: Any, classes: Any) -> Tensor:
        kind = output_kind(output.shape, operator)
        return functional.nll_loss(log_probabilities(output.float(), kind), classes.to(output.device))

    return loss


def _mix_(images: Array, random: np.random.Generator) -> None:
    """Paste a box of another image of the batch into some of the images; source: CutMix, arXiv 1905.04899."""
    count, _, height, width = images.shape
    donors = images[random.permutation(count)]
    for index in range(round(MIXED_SHARE * count)):
        box = (index, slice(None), *random_box(height, width, random))
        images[box] = donors[box]


def _batch_size(checkpoint: Checkpoint, count: int) -> int:
    fixed = fixed_batch(checkpoint)
    if fixed is not None:
        if fixed > count:
            raise TrainingDataError(
                f"the network takes {fixed} samples at a time and there are {count}; give at least {fixed}", found=count
            )
        return fixed
    batch = BATCH
    while batch > SMALLEST_BATCH and count < batch * FEWEST_BATCHES:
        batch //= 2
    return min(batch, count)


def _checked_labels(checkpoint: Checkpoint, arrays: Mapping[str, Array], count: int) -> NDArray[np.int64]:
    classes = _classes(checkpoint)
    if classes is None:
        raise TrainingDataError(
            "labels need a network with one output of shape (samples, classes); train this one without (--unlabelled)"
        )
    labels = checked_labels(arrays[LABELS], count, refuse=TrainingDataError)
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise TrainingDataError(
            f"'{LABELS}' go from {int(labels.min())} to {int(labels.max())}; the network has {classes} classes, "
            f"0 to {classes - 1}"
        )
    return labels


def _classes(checkpoint: Checkpoint) -> int | None:
    """Width of the only output, when it is a table of more than one column."""
    outputs = checkpoint.template.model.graph.output
    axes = checkpoint.structure.values.get(outputs[0].name, ())
    if len(outputs) != 1 or len(axes) != 2:
        return None
    size = axis_size(axes[1], checkpoint.structure.full_sizes())
    return size if size > 1 else None


def _digest(inputs: Mapping[str, Array], labels: NDArray[np.int64] | None) -> str:
    digest = hashlib.sha256()
    for array in (*inputs.values(), *(() if labels is None else (labels,))):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return f"sha256:{digest.hexdigest()}"
