"""A rollout as a value, and its next step as a pure function: canaries, a while to bake, the rest; or back.

canary ── all committed ──▶ baking ── bake_seconds ──▶ rest ── all settled ──▶ done
   └───────────── max_failures nodes failed ──────────────┴──▶ aborted, with those that were changed put back
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from service.hub.fleet.documents import Change

Stage = Literal["canary", "baking", "rest", "done", "aborted"]
Outcome = Literal["waiting", "updating", "committed", "failed", "superseded", "restored", "untouched", "kept"]

ENDED: tuple[Stage, ...] = ("done", "aborted")
REMOVED = "the node was removed"
CHANGED: tuple[Outcome, ...] = ("updating", "committed", "failed")


@dataclass(frozen=True)
class Member:
    """One node of a rollout.

    Attributes:
        node: its name.
        is_canary: whether it goes first.
        outcome: `waiting` for its stage, `updating`, `committed`, `failed`; `superseded` when it got another desired
            state or was removed; after an abort `restored`, `untouched`, or `kept` when it had nothing to go back to.
        generation: that the rollout gave it.
        before: the generation it had.
        since: when it got its generation, seconds since the epoch.
        reason: why it failed.
    """

    node: str
    is_canary: bool
    outcome: Outcome = "waiting"
    generation: int | None = None
    before: int | None = None
    since: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Rollout:
    """A change for all nodes with some labels.

    Attributes:
        id: 16 hexadecimal digits.
        name: for people.
        selector: labels that the nodes had at its beginning.
        change: what they get; without a budget each keeps its own.
        canary_share: share of the nodes that go first, at least one node.
        max_failures: it is aborted as soon as so many nodes have failed.
        bake_seconds: how long it waits after the last canary.
        created: seconds since the epoch.
        members: by name, canaries first.
        stage: see the module's description.
        is_paused: whether it holds still.
        baked_from: when the last canary was settled.
        reason: why it was aborted.
    """

    id: str
    name: str | None
    selector: Mapping[str, str]
    change: Change
    canary_share: float
    max_failures: int
    bake_seconds: float
    created: float
    members: tuple[Member, ...]
    stage: Stage = "canary"
    is_paused: bool = False
    baked_from: float | None = None
    reason: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing will happen any more."""
        return self.stage in ENDED

    def document(self) -> dict[str, Any]:
        """As it is kept: everything, as JSON."""
        return {**asdict(replace(self, members=())), "change": self.change.model_dump(mode="json")} | {
            "members": [asdict(member) for member in self.members]
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Rollout:
        """What `document` gave."""
        members = tuple(Member(**member) for member in document["members"])
        return cls(**{**document, "change": Change.model_validate(document["change"]), "members": members})

    def view(self) -> dict[str, Any]:
        """As people see it."""
        counts: dict[str, int] = {}
        for member in self.members:
            counts[member.outcome] = counts.get(member.outcome, 0) + 1
        change = self.change.model_dump(mode="json")
        return {
            "id": self.id,
            "name": self.name,
            "selector": dict(self.selector),
            **change,
            "canary_share": self.canary_share,
            "max_failures": self.max_failures,
            "bake_seconds": self.bake_seconds,
            "state": "paused" if self.is_paused and not self.has_ended else self.stage,
            "stage": self.stage,
            "reason": self.reason,
            "created": self.created,
            "counts": counts,
            "nodes": [
                {
                    "node": member.node,
                    "canary": member.is_canary,
                    "outcome": member.outcome,
                    "generation": member.generation,
                    "reason": member.reason,
                }
                for member in self.members
            ],
        }


@dataclass(frozen=True)
class NodeView:
    """What a rollout needs to know of a node: the root of its generation, whether it committed or failed, is stale."""

    root: int | None
    has_committed: bool
    failure: str | None
    is_stale: bool


@dataclass(frozen=True)
class Step:
    """What comes next: the rollout as it is then, and the members to change or to put back."""

    rollout: Rollout
    start: tuple[Member, ...] = ()
    put_back: tuple[Member, ...] = ()


def n_canaries(n_nodes: int, share: float) -> int:
    """How many nodes go first: that share of them, rounded down, but at least one."""
    return max(1, min(n_nodes, math.floor(share * n_nodes + 1e-9)))


def choose_members(rollout_id: str, nodes: Sequence[tuple[str, bool]], share: float) -> tuple[Member, ...]:
    """The members, canaries first.

    Args:
        rollout_id: decides which nodes go first, so that it is not always the same ones.
        nodes: names, and whether a node is stale: those go first only when there are no others.
        share: of canaries.
    """
    ordered = sorted(nodes, key=lambda node: (node[1], hashlib.sha256(f"{rollout_id} {node[0]}".encode()).digest()))
    first = {name for name, _ in ordered[: n_canaries(len(ordered), share)]}
    return tuple(
        sorted((Member(name, name in first) for name, _ in nodes), key=lambda one: (not one.is_canary, one.node))
    )


def step(rollout: Rollout, views: Mapping[str, NodeView], now: float, *, stale_seconds: float) -> Step:
    """What to do now; the caller gives the generations it makes to the members with `started` and `put_back`.

    Args:
        rollout: as it is.
        views: of the members that are still enrolled.
        now: seconds since the epoch.
        stale_seconds: a node that was silent when its turn came gets as long to be heard of.
    """
    if rollout.has_ended:
        return Step(rollout)
    members = tuple(_judged(member, views.get(member.node), now, stale_seconds) for member in rollout.members)
    rollout = replace(rollout, members=members)
    if rollout.is_paused:
        return Step(rollout)
    failed = [member for member in members if member.outcome == "failed"]
    if len(failed) >= rollout.max_failures:
        return abort(rollout, f"{len(failed)} of {len(members)} nodes failed; first: {failed[0].node}")
    if rollout.stage == "canary":
        canaries = [member for member in members if member.is_canary]
        waiting = tuple(member for member in canaries if member.outcome == "waiting")
        if waiting:
            return Step(rollout, start=waiting)
        if all(member.outcome != "updating" for member in canaries):
            rollout = replace(rollout, stage="baking", baked_from=now)
    if rollout.stage == "baking":
        assert rollout.baked_from is not None, "it is set with the stage"
        # A clock that was set back must not make it wait for ever.
        if not 0 <= now - rollout.baked_from < rollout.bake_seconds:
            rollout = replace(rollout, stage="rest")
    if rollout.stage == "rest":
        waiting = tuple(member for member in members if member.outcome == "waiting")
        if waiting:
            return Step(rollout, start=waiting)
        if all(member.outcome != "updating" for member in members):
            rollout = replace(rollout, stage="done")
    return Step(rollout)


def abort(rollout: Rollout, reason: str) -> Step:
    """The end of a rollout: those that were changed go back, the others stay untouched."""
    members = tuple(
        replace(member, outcome="untouched") if member.outcome == "waiting" else member for member in rollout.members
    )
    back = tuple(member for member in members if member.outcome in CHANGED)
    return Step(replace(rollout, members=members, stage="aborted", reason=reason, is_paused=False), put_back=back)


def with_members(rollout: Rollout, changed: Mapping[str, Member]) -> Rollout:
    """The rollout with some members replaced, by node."""
    return replace(rollout, members=tuple(changed.get(member.node, member) for member in rollout.members))


def _judged(member: Member, view: NodeView | None, now: float, stale_seconds: float) -> Member:
    if member.outcome not in ("updating", "committed"):
        if view is None and member.outcome == "waiting":
            return replace(member, outcome="superseded", reason=REMOVED)
        return member
    if view is None:
        return replace(member, outcome="superseded", reason=REMOVED)
    if view.root != member.generation:
        return replace(member, outcome="superseded", reason="the node got another desired state")
    if view.failure is not None:
        return replace(member, outcome="failed", reason=view.failure)
    assert member.since is not None, "it is set with the outcome"
    if view.is_stale and not 0 <= now - member.since < stale_seconds:
        return replace(member, outcome="failed", reason="stale: the node was not heard of")
    if view.has_committed:
        return replace(member, outcome="committed")
    return member
