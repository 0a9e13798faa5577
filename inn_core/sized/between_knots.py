"""Normalization statistics of kernels at sizes that are no knots: measured where samples are kept.

Nested sizes share channels, so moments between knots are close to those of the knots. Kernels are sampled at other
points at every size: between knots their moments are those of no channel that a knot has, and away from the size paths,
where channels are few and in no smooth order, interpolated moments can change outputs by more than a nat. So a size of
kernels costs one pass over the samples; without samples there is only interpolation, and a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from inn_core.caches import MostRecent
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.structure import Sizes
from inn_core.sized.size_statistics import MomentsByWeight

SIZES_KEPT = 16

_logger = logging.getLogger(__name__)


class BetweenKnots:
    """Moments of the sizes that were asked for last; to be cleared when parameters or statistics change."""

    def __init__(self) -> None:
        self._kept = MostRecent[tuple[int, ...], MomentsByWeight](SIZES_KEPT)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def moments(
        self,
        checkpoint: Checkpoint,
        sizes: Sizes,
        *,
        measure: Callable[[], MomentsByWeight],
        interpolate: Callable[[], MomentsByWeight],
    ) -> MomentsByWeight:
        """Moments of a size by weight name.

        Args:
            checkpoint: whose samples `measure` reads; without any, `interpolate` is used, and a warning logged.
            sizes: of every group, in the order of the checkpoint.
            measure: takes the moments from the samples.
            interpolate: takes them from the knots.
        """

        def compute() -> MomentsByWeight:
            if checkpoint.calibration:
                with torch.inference_mode(False), torch.no_grad():  # they are kept, and training may need them next
                    return measure()
            _logger.warning(
                "'%s' keeps no calibration samples, so statistics of kernels at sizes %s are interpolated and may "
                "be far off; keep samples at import",
                checkpoint.name,
                dict(sizes),
            )
            return interpolate()

        return self._kept.get(tuple(sizes.values()), compute)
