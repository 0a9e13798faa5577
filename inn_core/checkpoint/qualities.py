"""The qualities in which a checkpoint can be discretized, by what it keeps."""

from __future__ import annotations

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import QualityUnavailableError

QUALITIES = ("refined", "instant", "trained", "uniform")
"""How a size is made.

`refined` fits every size to the calibration samples. `instant` reads none: it is a closed form from stored statistics,
or, where the network was trained in all sizes, the trained size. `trained` is the trained size. `uniform` is the
paper's plain integral network: kernels sampled at a uniform partition with a classical quadrature.
"""

SIZES_AS_TRAINED = ("trained", "instant")
"""Qualities that give a network that was trained in its sizes as it was trained: below those sizes they fall off."""

SMOOTH = "smooth/"
"""Prefix of the statistic that is the smoothing order of a group."""

TRAINED = "trained/"
"""Prefix of the statistics that belong to trained sizes."""

FIRST_KNOT = "instant/0/sizes"
"""The statistic that every checkpoint with the knots of `inn_core.discretize.instant` keeps."""


def available_qualities(checkpoint: Checkpoint) -> list[str]:
    """Qualities that this network can be exported in, the default first."""
    trained = bool(checkpoint.sampling)
    needed = {
        "refined": bool(checkpoint.calibration),
        "instant": trained or FIRST_KNOT in checkpoint.statistics,
        "trained": trained,
        "uniform": all(f"{SMOOTH}{group.name}" in checkpoint.statistics for group in checkpoint.structure.groups),
    }
    return [quality for quality in QUALITIES if needed[quality]]


def check_quality(checkpoint: Checkpoint, quality: str) -> None:
    """Raise QualityUnavailableError unless the network can be exported in this quality."""
    available = available_qualities(checkpoint)
    if quality in available:
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
    raise QualityUnavailableError(quality, available, reason)
