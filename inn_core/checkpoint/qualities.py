"""The qualities in which a checkpoint can be discretized, by what it keeps."""

from __future__ import annotations

from inn_core.checkpoint.checkpoint import QUALITIES, Checkpoint
from inn_core.errors import QualityUnavailableError

SIZES_AS_TRAINED = ("trained", "instant")
"""Qualities that give a network that was trained in its sizes as it was trained: below those sizes they fall off."""


def check_quality(checkpoint: Checkpoint, quality: str) -> None:
    """Raise QualityUnavailableError unless the network can be exported in this quality."""
    if quality in checkpoint.qualities:
        return
    if quality not in QUALITIES:
        reason = "there is no such quality"
    elif quality == "refined":
        reason = f"checkpoint '{checkpoint.name}' keeps no calibration samples"
    elif quality == "trained":
        reason = f"checkpoint '{checkpoint.name}' was not trained in its sizes (inn train does that)"
    elif quality == "uniform":
        reason = f"checkpoint '{checkpoint.name}' keeps no smoothing orders; import it again"
    else:
        reason = f"checkpoint '{checkpoint.name}' keeps no knots"
    raise QualityUnavailableError(quality, checkpoint.qualities, reason)
