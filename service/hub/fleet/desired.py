"""What a node should run: a model, a budget, how to reach it and what to watch after the switch.

Checked strictly where it comes in: integers are integers, members that are not known are refused.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.contract.release import MAX_LATENCY_MS, MAX_WATCH_REQUESTS, MAX_WATCH_SECONDS
from service.contract.sizes import (
    LARGEST_BATCH,
    LARGEST_MULTIPLE,
    LARGEST_THREADS,
    LARGEST_VALUE,
    MEASURED_UNITS,
    Quality,
    Unit,
)
from service.ground.names import NAME_PATTERN

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


class Budget(BaseModel):
    """What a node allows."""

    model_config: ClassVar[ConfigDict] = STRICT

    unit: Unit = Field(description="What is counted; `latency_ms` and `memory_bytes` are measured on the device.")
    value: int | float = Field(gt=0, le=LARGEST_VALUE, allow_inf_nan=False, description="At most this much.")
    batch: int = Field(
        default=1, ge=1, le=LARGEST_BATCH, description="Rows of one run, for `latency_ms` and `memory_bytes`."
    )
    threads: int = Field(default=1, ge=1, le=LARGEST_THREADS, description="Threads of one run, for measured budgets.")
    percentile: Literal[50, 95] = Field(default=95, description="Of the run times, for `latency_ms`.")

    @model_validator(mode="after")
    def _counts_are_integers(self) -> Self:
        if self.unit != "latency_ms" and not isinstance(self.value, int):
            raise ValueError(f"a budget in {self.unit} is an integer")
        return self

    @property
    def is_measured(self) -> bool:
        """Whether the device has to measure sizes before one can be chosen."""
        return self.unit in MEASURED_UNITS


class Policy(BaseModel):
    """When a node goes back by itself after a switch."""

    model_config: ClassVar[ConfigDict] = STRICT

    max_error_share: float = Field(default=0.05, ge=0.0, le=1.0, description="Most of the requests that may fail.")
    max_p95_ms: float | None = Field(
        default=None, gt=0.0, le=MAX_LATENCY_MS, allow_inf_nan=False, description="Slowest p95."
    )
    watch_seconds: float = Field(
        default=30.0, ge=0.0, le=MAX_WATCH_SECONDS, description="How long the node watches at least."
    )
    watch_requests: int = Field(
        default=20, ge=0, le=MAX_WATCH_REQUESTS, description="Requests it waits for before it judges."
    )


class Change(BaseModel):
    """What a client may ask for: the desired state without its generation. `budget` may be left out in rollouts."""

    model_config: ClassVar[ConfigDict] = STRICT

    model: str = Field(pattern=NAME_PATTERN, description="Name of a registered model.")
    budget: Budget | None = None
    quality: Quality | None = Field(default=None, description="The best that the checkpoint offers when not given.")
    multiple_of: int = Field(default=1, ge=1, le=LARGEST_MULTIPLE, description="Make group sizes multiples of this.")
    policy: Policy = Policy()


class Desired(Change):
    """What one node should run."""

    budget: Budget

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return self.model_dump(mode="json")


class Declared(BaseModel):
    """What a node was started with."""

    model_config: ClassVar[ConfigDict] = STRICT

    model: str = Field(pattern=NAME_PATTERN)
    budget: Budget
    quality: Quality | None = None
