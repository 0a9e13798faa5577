"""What a size may be asked for by: units of budgets, qualities of weights, their bounds. Of hub, node and commands."""

from __future__ import annotations

from typing import Literal, get_args

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
