"""Settings of the hub's processes, read once from `INN_…` environment variables and passed down.

`ApiSettings` is for the process that serves HTTP, `BuilderSettings` for the child processes it spawns. Nothing else in
`service` reads the environment. Units are in the names; every default works on a laptop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

Device = Literal["auto", "cpu", "cuda"]
LogLevel = Literal["debug", "info", "warning", "error"]

# What the hub has in its own settings and passes on to its builders.
BuilderDevice = Annotated[
    Device, Field(description="Where networks are discretized: `auto` takes CUDA when there is one.")
]
BuilderThreads = Annotated[
    int,
    Field(
        ge=0,
        le=1024,
        description="Threads of one builder process, which decide the last bits of a build; 0 takes one for each core.",
    ),
]
BuilderMemory = Annotated[
    int | None,
    Field(ge=256 * MIB, description="Memory one builder process may take; not limited when unset."),
]
OpenCheckpoints = Annotated[
    int, Field(ge=1, le=64, description="Checkpoints that one builder process keeps open between requests.")
]


class BuilderSettings(BaseSettings):
    """What a builder process needs to know; the hub passes these on from its own settings."""

    model_config = SettingsConfigDict(env_prefix="INN_BUILDER_", env_nested_delimiter="__", frozen=True, extra="forbid")

    device: BuilderDevice = "auto"
    threads: BuilderThreads = 0
    memory_bytes: BuilderMemory = None
    open_checkpoints: OpenCheckpoints = 2
    log_level: LogLevel = Field(default="info", description="Least severe log line that a builder process writes.")


class ApiSettings(BaseSettings):
    """Settings of the hub (`inn serve`). Every field is an environment variable: `INN_` plus its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="INN_", env_nested_delimiter="__", frozen=True, extra="forbid")

    store: Path = Field(
        default=Path("store"), description="Folder of checkpoints, artifacts and the catalogue; created when missing."
    )
    store_capacity_bytes: int = Field(
        default=10 * GIB,
        ge=1 * MIB,
        description="Bytes that artifacts may take before the least recently used go; checkpoints do not count.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; loopback unless told otherwise.")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    wait_seconds: float = Field(
        default=30.0,
        ge=0.0,
        le=3600.0,
        description="How long a request waits for its build before it answers 202 with a job.",
    )
    max_body_bytes: int = Field(default=64 * MIB, ge=1 * KIB, description="Largest body of a request, as sent.")
    max_inflated_bytes: int = Field(
        default=256 * MIB, ge=1 * KIB, description="Largest body of a request after its content encoding is undone."
    )
    max_checkpoint_bytes: int = Field(
        default=2 * GIB, ge=1 * KIB, description="Largest checkpoint that may be uploaded."
    )
    queue_limit: int = Field(
        default=64, ge=1, le=100_000, description="Different builds that may wait or run at one time."
    )
    build_timeout_seconds: float = Field(default=1800.0, gt=0.0, description="How long one build may run.")
    plan_timeout_seconds: float = Field(
        default=120.0, gt=0.0, description="How long choosing a plan or checking an uploaded checkpoint may take."
    )
    jobs_kept: int = Field(default=1000, ge=1, description="Finished jobs whose state can still be asked for.")
    jobs_kept_seconds: float = Field(
        default=3600.0, gt=0.0, description="How long the state of a finished job is kept."
    )
    device: BuilderDevice = "auto"
    builder_processes: int = Field(default=1, ge=1, le=64, description="Builds that may run at the same time.")
    builder_threads: BuilderThreads = 0
    builder_memory_bytes: BuilderMemory = None
    builder_open_checkpoints: OpenCheckpoints = 2
    sessions_max: int = Field(default=32, ge=1, description="Sessions that may be loaded at one time.")
    session_memory_bytes: int = Field(
        default=4 * GIB, ge=1 * MIB, description="Bytes of artifacts that may be loaded in sessions at one time."
    )
    ort_threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads of one ONNX Runtime session; 0 takes one for each processor core.",
    )
    admin_key: SecretStr | None = Field(
        default=None,
        description="Key of the routes for administrators; the one in `fleet/admin-key` of the store when unset.",
    )
    fleet_release_days: float = Field(
        default=30.0, gt=0.0, le=3650.0, description="How long a node may take up what was signed for it."
    )
    fleet_poll_seconds: float = Field(
        default=30.0,
        ge=1.0,
        le=86_400.0,
        description="How often nodes are expected to ask; one that is silent three times as long is stale.",
    )
    log_level: LogLevel = Field(default="info", description="Least severe log line that is written.")

    def builder_settings(self) -> BuilderSettings:
        """The settings that the hub passes to each builder process it spawns."""
        return BuilderSettings(
            device=self.device,
            threads=self.builder_threads,
            memory_bytes=self.builder_memory_bytes,
            open_checkpoints=self.builder_open_checkpoints,
            log_level=self.log_level,
        )
