"""The statistics that a network keeps of its sizes: good for the parameters that were measured, and for no others."""

from __future__ import annotations

from inn_core.errors import StatisticsMissingError
from inn_core.sized.between_knots import BetweenKnots
from inn_core.sized.kernel_parameters import KernelParameters, Written
from inn_core.sized.size_statistics import SizeStatistics


class KeptStatistics:
    """Statistics of every size, and a record of the parameters that they are of.

    Attributes:
        between: moments that were measured at sizes that are no knots.
    """

    def __init__(self) -> None:
        self.between = BetweenKnots()
        self._statistics: SizeStatistics | None = None
        self._written: Written | None = None

    def keep_(self, statistics: SizeStatistics, parts: KernelParameters) -> None:
        """Keep the statistics of the parameters as they are now."""
        self._statistics, self._written = statistics, parts.written()
        self.between.clear()

    def forget_(self) -> None:
        """Forget everything; to be called by whoever changes how sizes are sampled."""
        self._statistics, self._written = None, None
        self.between.clear()

    def is_current(self, parts: KernelParameters) -> bool:
        """Whether there are statistics, and they are those of the parameters."""
        return self._written is not None and parts.is_unchanged(self._written)

    def stay_current_(self, parts: KernelParameters) -> None:
        """Take the parameters as they are now for those that were measured: they were copied, moved or rounded."""
        self._written = parts.written()

    def current(self, parts: KernelParameters) -> SizeStatistics:
        """The statistics.

        Raises:
            StatisticsMissingError: there are none, or the parameters changed since they were measured.
        """
        if self._statistics is None or not self.is_current(parts):
            raise StatisticsMissingError(
                "the parameters changed since the statistics of the sizes were measured; "
                "call measure_(), or train() to normalize with the batch"
            )
        return self._statistics
