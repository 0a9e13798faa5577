"""What a size may be asked for by: units of budgets, qualities of weights, their bounds. Of hub, node and commands."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

CountedUnit = Literal["params", "macs", "bytes"]
"""What the hub knows of a size before it is made."""

MeasuredUnit = Literal["latency_ms", "memory_bytes"]
"""What only the device itself can measure."""

Unit = Literal[CountedUnit, MeasuredUnit]
Quality = Literal["refined", "instant", "trained", "uniform"]

COUNTED_UNITS: tuple[CountedUnit, ...] = get_args(CountedUnit)
MEASURED_UNITS: tuple[MeasuredUnit, ...] = get_args(MeasuredUnit)
UNITS: tuple[Unit, ...] = get_args(Unit)
QUALITIES: tuple[Quality, ...] = get_args(Quality)

LARGEST_VALUE = 2**53 - 1
"""Integers in signed documents are those that a double holds exactly."""

LARGEST_TARGET = 2**62
"""Of an export: far above any network, and safe as a 64 bit integer everywhere."""

LARGEST_MULTIPLE = 1024
LARGEST_BATCH = 4096
LARGEST_THREADS = 1024
PERCENTILES = (50, 95)
"""Percentiles of run times that nodes report."""


class Budget(Struct, frozen=True):
    """What a network may need.

    Attributes:
        unit: what is counted or measured.
        value: at most this much.
        batch, threads, percentile: how latency and memory are measured; they mean nothing for the other units.
    """

    unit: Unit
    value: Annotated[float, Meta(gt=0, le=LARGEST_VALUE)]
    batch: Annotated[int, Meta(ge=1, le=LARGEST_BATCH)] = 1
    threads: Annotated[int, Meta(ge=1, le=LARGEST_THREADS)] = 1
    percentile: Literal[50, 95] = 95

    def to_json(self) -> dict[str, Any]:
        """As the fleet's routes have it."""
        whole = self.value.is_integer() if isinstance(self.value, float) else True
        document: dict[str, Any] = {"unit": self.unit, "value": int(self.value) if whole else self.value}
        if self.unit in MEASURED_UNITS:
            document |= {"batch": self.batch, "threads": self.threads, "percentile": self.percentile}
        return document


def is_budget(value: Any) -> bool:
    """Whether a JSON value is a budget, as `Budget.to_json` gives it."""
    try:
        # A number that is none, NaN, is within all bounds.
        return math.isfinite(msgspec.convert(value, Budget).value)
    except msgspec.ValidationError:
        return False
