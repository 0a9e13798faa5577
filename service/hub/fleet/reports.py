"""What a node says of itself: bounded in every member, unknown members ignored, so that newer nodes may say more."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from service.contract.node_states import State
from service.contract.sizes import LARGEST_VALUE
from service.ground.names import DIGEST_PATTERN
from service.hub.fleet.desired import Declared
from service.signing.errors import ReplayedDocumentError

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
