"""The qualities in which a checkpoint can be discretized, by what it keeps."""

from __future__ import annotations

from inn_core.errors import QualityUnavailableError
from inn_core.network import Checkpoint

QUALITIES = ("refined", "instant")
"""`refined` fits every size to the calibration samples; `instant` is a closed form from stored statistics."""

FIRST_KNOT = "instant/0/sizes"
"""The statistic that every checkpoint with the knots of `inn_core.instant` keeps."""


def available_qualities(network: Checkpoint) -> list[str]:
    """Qualities that this network can be exported in, the default first."""
    needed = {"refined": bool(network.calibration), "instant": FIRST_KNOT in network.statistics}
    return [quality for quality in QUALITIES if needed[quality]]


def check_quality(network: Checkpoint, quality: str) -> None:
    """Raise QualityUnavailableError unless the network can be exported in this quality."""
    available = available_qualities(network)
    if quality in available:
        return
    if quality not in QUALITIES:
        reason = "there is no such quality"
    elif quality == "refined":
        reason = f"checkpoint '{network.name}' keeps no calibration samples"
    else:
        reason = f"checkpoint '{network.name}' keeps no knots"
    raise QualityUnavailableError(quality, available, reason)
