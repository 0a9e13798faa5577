"""How far a sized network is from the full one, on outputs, without labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum

import torch


class OutputKind(Enum):
    """What an output means, as far as its shape and last operator tell."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    VALUES = "values"


def output_kind(shape: Sequence[int], last_operator: str) -> OutputKind:
    """`(batch, classes)` are logits, or probabilities after a Softmax; everything else is plain values.

    Args:
        shape: with the batch axis.
        last_operator: ONNX operator that writes the output.
    """
    if len(shape) != 2 or shape[1] < 2:
        return OutputKind.VALUES
    return OutputKind.PROBABILITIES if last_operator == "Softmax" else OutputKind.LOGITS


def log_probabilities(output: torch.Tensor, kind: OutputKind) -> torch.Tensor:
    """Log-probabilities of logits or probabilities, shape `(batch, classes)`."""
    if kind is OutputKind.LOGITS:
        return torch.log_softmax(output, dim=1)
    return output.clamp_min(torch.finfo(output.dtype).tiny).log()


def divergence(full: torch.Tensor, sized: torch.Tensor, kind: OutputKind) -> torch.Tensor:
    """Divergence of each sample, shape `(batch,)`, at least 0 up to rounding.

    Kullback-Leibler divergence in nats for logits and probabilities; squared error relative to the mean power of the
    full output for values.

    Args:
        full: what is compared with.
        sized: of the same shape.
        kind: of both.
    """
    if kind is OutputKind.VALUES:
        power = full.square().mean().clamp_min(torch.finfo(full.dtype).tiny)
        return (full - sized).square().flatten(1).mean(1) / power
    log_full, log_sized = log_probabilities(full, kind), log_probabilities(sized, kind)
    return (log_full.exp() * (log_full - log_sized)).sum(1)


def mean_divergence(
    full: Mapping[str, torch.Tensor], sized: Mapping[str, torch.Tensor], kinds: Mapping[str, OutputKind]
) -> float:
    """Sum over the outputs of the mean divergence over the samples; infinity when an output is not finite."""
    total = sum(float(divergence(full[name], sized[name], kind).double().mean()) for name, kind in kinds.items())
    return total if math.isfinite(total) else math.inf
