"""What the hub keeps of nodes, generations and tokens: values that do not change, and one node that does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from service.contract.node_states import NEW, STALE
from service.ground.errors import ServiceError
from service.hub.fleet.documents import Desired, Reported
from service.signing.fields import MAX_SECONDS

Kind = Literal["release", "probe"]

ADMIN, DECLARED, ROLLBACK, PLANNED, RETRIED = "admin", "declared", "rollback", "planned", "retried"
"""Origins of a generation, besides `rollout:<id>`: `planned` and `retried` ones continue the one they grew from."""


@dataclass(frozen=True)
class Problem:
    """Why a generation has no release; `is_final` when trying again would not help."""

    code: str
    detail: str
    fields: Mapping[str, Any]
    is_final: bool

    @classmethod
    def of(cls, error: ServiceError, *, is_final: bool) -> Problem:
        """What an error says."""
        return cls(error.code, error.message, dict(error.fields), is_final)

    def as_error(self) -> ServiceError:
        """The error again, for whoever shows problems."""
        error = ServiceError(self.detail, **self.fields)
        error.code = self.code
        return error


@dataclass(frozen=True)
class Generation:
    """One desired state of a node, and what became of it.

    Attributes:
        number: grows with every change; never used twice for one node's name.
        root: number of the generation that somebody asked for; planning continues it under further numbers.
        kind: what is sent to the node: a release, or sizes to measure.
        origin: who asked: see the constants, or `rollout:<id>`.
        desired: the desired state.
        rollback: whether its content is older than that before, on purpose.
        content: `{"manifest", "self_test"}` of a release, `{"ladder", "inputs"}` of a probe; None until it is known.
        document: the signed document, made from the content.
        problem: why there is no content.
        search: what the device measured so far, for budgets that only it can measure.
        created: seconds since the epoch.
        committed: when the node said it keeps it.
    """

    number: int
    root: int
    kind: Kind
    origin: str
    desired: Desired
    rollback: bool
    created: float
    content: Mapping[str, Any] | None = None
    document: Mapping[str, Any] | None = None
    problem: Problem | None = None
    search: Mapping[str, Any] | None = None
    committed: float | None = None

    @property
    def is_ready(self) -> bool:
        """Whether there is something to tell the node."""
        return self.document is not None or (self.problem is not None and self.problem.is_final)

    @property
    def digest(self) -> str | None:
        """Digest of the artifact that is to be served, when it is known."""
        if self.kind != "release" or self.content is None:
            return None
        return str(self.content["manifest"]["digest"])

    def view(self) -> dict[str, Any]:
        """As nodes and people see it."""
        manifest = self.content["manifest"] if self.kind == "release" and self.content is not None else {}
        return {
            "generation": self.number,
            **self.desired.document(),
            "origin": self.origin,
            "rollback": self.rollback,
            "digest": manifest.get("digest"),
            "params": manifest.get("params"),
            "quality": manifest.get("quality", self.desired.quality),
        }


@dataclass(frozen=True)
class Token:
    """What the hub keeps of an enrolment token."""

    id: str
    secret_hash: str = field(repr=False)
    node: str | None
    created: float
    expires: int
    used_at: int | None = None
    used_by: str | None = None

    def view(self) -> dict[str, Any]:
        """As administrators see it."""
        return {
            "id": self.id,
            "node": self.node,
            "created": self.created,
            "expires": self.expires,
            "used_at": self.used_at,
            "used_by": self.used_by,
        }


@dataclass(eq=False)
class Node:
    """An enrolled node, in memory. Belongs to one event loop.

    Attributes:
        generation: the greatest number given out for its name.
        last_seen: when it was heard of, seconds since the epoch, for people.
        heard: the same by a clock that never goes back, in seconds; -inf while this process has not heard of it.
        declared: the model and budget it was last started with.
        waiting: those who wait for the next thing that the node should know.
        is_dirty: whether something is not in the file yet.
    """

    name: str
    public_key: str
    labels: dict[str, str]
    capability: dict[str, Any]
    enrolled: float
    last_seen: float
    generation: int = 0
    current: Generation | None = None
    reported: Reported | None = None
    declared: dict[str, Any] | None = None
    waiting: set[asyncio.Future[None]] = field(default_factory=set)
    heard: float = -math.inf
    is_dirty: bool = False
    was_stale: bool = False

    def next_generation(self) -> int:
        """The next number; it is never given out again, also when what it was for fails."""
        self.generation += 1
        return self.generation

    def wake(self) -> None:
        """Lets go on who waits for the node."""
        waiting, self.waiting = self.waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def state(self, *, is_stale: bool) -> str:
        """State as shown: that of the report, unless there is none or it is too old."""
        if is_stale:
            return STALE
        return NEW if self.reported is None else self.reported.state

    @property
    def trusted_time(self) -> int:
        """The time by which the node judges expiry, as it says; 0 while it has said nothing."""
        trusted = None if self.reported is None else self.reported.trusted
        return 0 if trusted is None else min(trusted.time, MAX_SECONDS)

    @property
    def has_committed(self) -> bool:
        """Whether the node says that it keeps what the current generation says."""
        report, current = self.reported, self.current
        return (
            report is not None
            and current is not None
            and report.state == "committed"
            and report.observed_generation == current.number
            and report.active is not None
            and report.active.digest == current.digest
        )
