"""The qualities in which a checkpoint can be discretized, by what it keeps."""

from __future__ import annotations

from inn_core.errors import QualityUnavailableError
from inn_core.network import Checkpoint

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
"""The statistic that every checkpoint with the knots of `inn_core.instant` keeps."""


def available_qualities(network: Checkpoint) -> list[str]:
    """Qualities that this network can be exported in, the default first."""
    trained = bool(network.sampling)
    needed = {
        "refined": bool(network.calibration),
        "instant": trained or FIRST_KNOT in network.statistics,
        "trained": trained,
        "uniform": all(f"{SMOOTH}{group.name}" in network.statistics for group in network.structure.groups),
    }
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
    elif quality == "trained":
        reason = f"checkpoint '{network.name}' was not trained in its sizes (inn train does that)"
    elif quality == "uniform":
        reason = f"checkpoint '{network.name}' keeps no smoothing orders; import it again"
    else:
        reason = f"checkpoint '{network.name}' keeps no knots"
    raise QualityUnavailableError(quality, available, reason)
