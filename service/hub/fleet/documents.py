"""What comes in: desired states from administrators, reports from nodes.

Desired states are checked strictly: integers are integers, members that are not known are refused. Reports are bounded
in every member, and unknown members are ignored, so that newer nodes may say more.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.contract.node_states import State
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
from service.ground.names import DIGEST_PATTERN, NAME_PATTERN
from service.signing.errors import ReplayedDocumentError

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


Count = Annotated[int, Field(ge=0, le=LARGEST_VALUE)]
Seconds = Annotated[float, Field(ge=0, le=LARGEST_VALUE, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(ge=0, le=LARGEST_VALUE, allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]

READ = ConfigDict(extra="ignore", strict=True, frozen=True)


class Version(BaseModel):
    """A release that a node has: active, or the one before."""

    model_config: ClassVar[ConfigDict] = READ
    version: Count
    digest: Digest
    params: Count


class Progress(BaseModel):
    """How far a download is."""

    model_config: ClassVar[ConfigDict] = READ
    bytes: Count
    total: Count


class Trouble(BaseModel):
    """Why a node could not do what was wanted."""

    model_config: ClassVar[ConfigDict] = READ
    code: str = Field(max_length=64)
    detail: str = Field(max_length=2000)
    generation: Count | None = None


class Capability(BaseModel):
    """What a device has."""

    model_config: ClassVar[ConfigDict] = READ
    cores: Count | None = None
    memory_bytes: Count | None = None
    onnxruntime: str | None = Field(default=None, max_length=64)
    providers: list[Annotated[str, Field(max_length=64)]] | None = Field(default=None, max_length=32)
    machine: str | None = Field(default=None, max_length=64)


class Measured(BaseModel):
    """What a node measured of its requests since it started."""

    model_config: ClassVar[ConfigDict] = READ
    requests: Count = 0
    errors: Count = 0
    p50_ms: Milliseconds | None = None
    p95_ms: Milliseconds | None = None
    resident_bytes: Count | None = None
    uptime_seconds: Seconds | None = None


class Timing(BaseModel):
    """What a node measured of one artifact."""

    model_config: ClassVar[ConfigDict] = READ
    digest: Digest
    batch: Count
    threads: Count
    p50_ms: Milliseconds | None = None
    p95_ms: Milliseconds | None = None
    runs: Count | None = None
    resident_bytes: Count | None = None


class Trusted(BaseModel):
    """What a node believes already: nothing that expires before `time`, nor an older release than `version`, counts."""

    model_config: ClassVar[ConfigDict] = READ
    time: Count
    version: Count


class Reported(BaseModel):
    """The reported state of a node."""

    model_config: ClassVar[ConfigDict] = READ
    observed_generation: Count
    state: State
    since: Seconds
    active: Version | None = None
    previous: Version | None = None
    progress: Progress | None = None
    error: Trouble | None = None
    attempt: Count = 0
    next_retry: Seconds | None = None
    declared: Declared | None = None
    capability: Capability | None = None
    agent_version: str | None = Field(default=None, max_length=64)
    trusted: Trusted | None = None
    measured: Measured | None = None
    timings: list[Timing] = Field(default_factory=list, max_length=64)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return self.model_dump(mode="json")

    @property
    def newest_version(self) -> int:
        """The newest generation that the node has seen."""
        return max(self.observed_generation, 0 if self.trusted is None else self.trusted.version)

    def refuses_number(self, generation: int) -> bool:
        """Whether the node refuses a release since it has believed another one of this number."""
        error = self.error
        return error is not None and error.code == ReplayedDocumentError.code and error.generation == generation

    def is_news(self, before: Reported | None) -> bool:
        """Whether this differs from the report before in what decides something; numbers that flow do not."""
        flowing = {"measured", "progress", "next_retry", "trusted"}
        return before is None or self.model_dump(exclude=flowing) != before.model_dump(exclude=flowing)
