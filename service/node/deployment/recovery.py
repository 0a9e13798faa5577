"""What a node does first: find out from its disk where it stopped, and serve again before it says a word to its hub."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from service.ground.errors import ServiceError, StoreFullError
from service.inference.errors import InferenceFailedError
from service.inference.reference_outputs import SelfTestFailedError
from service.node.errors import CrashedInTrialError, DamagedArtifactError
from service.node.serving import Network, Serving
from service.node.status import Status, error_of
from service.node.store import NodeStore, Outcome, StoredRelease

log = logging.getLogger(__name__)

STARTS_MAX = 3
"""A size is given up when the process started so often while it was on trial: it is likely what ends the process."""


async def recover(store: NodeStore, serving: Serving, status: Status) -> Network | None:
    """Serve what the pointers say, or the last good size when that is damaged.

    Args:
        store, serving, status: of the node.

    Returns:
        The network whose trial goes on, when the node stopped in the middle of one.
    """
    outcome = await asyncio.to_thread(_count_start, store)
    active, previous = await asyncio.to_thread(_settled_pointers, store, outcome)
    await asyncio.to_thread(store.collect)
    status.previous = None if previous is None else previous.release
    error: ServiceError | None = None
    for kept in (active, previous):
        if kept is None:
            continue
        try:
            path = await asyncio.to_thread(store.check_whole, kept.release, "the last good size serves instead")
            network = await serving.open(kept, path)
        except (DamagedArtifactError, InferenceFailedError, SelfTestFailedError) as problem:
            log.error("network unusable", extra={"code": problem.code, "detail": problem.message})
            error = error or problem
            continue
        serving.switch(network, fallback=None)
        if error is not None:
            status.previous = None
        break
    _show(status, serving.current, outcome, error)
    if outcome is None or outcome.state != "active" or serving.current is None:
        return None
    return serving.current if serving.current.release.version == outcome.generation else None


def _count_start(store: NodeStore) -> Outcome | None:
    """What became of the newest generation; one that was on trial too often has failed by now."""
    outcome = store.read_outcome()
    if outcome is None or outcome.state not in ("warming", "active"):
        return outcome
    outcome = replace(outcome, starts=outcome.starts + 1)
    if outcome.starts >= STARTS_MAX:
        state = "failed" if outcome.state == "warming" else "rolled-back"
        error = error_of(CrashedInTrialError(outcome.starts), outcome.generation)
        outcome = replace(outcome, state=state, error=error)
        log.error("release given up", extra={"version": outcome.generation, "code": error["code"]})
    try:
        store.write_outcome(outcome)
    except StoreFullError as error:
        log.error("start not counted", extra={"detail": error.message})
    return outcome


def _settled_pointers(store: NodeStore, outcome: Outcome | None) -> tuple[StoredRelease | None, StoredRelease | None]:
    """`active` and `previous`, with what an end in the middle of going back or giving up has left undone."""
    active, previous = store.read("active"), store.read("previous")
    if outcome is None:
        return active, previous
    staged = store.read("staged")
    is_active = active is not None and active.release.version == outcome.generation
    if staged is not None and staged.release.version == outcome.generation and (outcome.is_final or is_active):
        store.clear("staged")
    if outcome.is_final and is_active and previous is not None:
        try:
            store.write("active", previous.document)
        except StoreFullError as error:  # the pointers stay, so the next start comes back here
            log.error("going back not noted", extra={"version": outcome.generation, "detail": error.message})
        else:
            store.clear("previous")
        return previous, None
    return active, previous


def _show(status: Status, current: Network | None, outcome: Outcome | None, error: ServiceError | None) -> None:
    generation = 0 if outcome is None else outcome.generation
    if error is not None:
        status.enter("failed", generation=generation, error=error_of(error, generation))
    elif outcome is not None and outcome.is_final:
        status.enter(outcome.state, generation=generation, error=outcome.error)
    elif current is None:
        status.enter("idle", generation=0)
    else:
        status.enter("committed", generation=current.release.version)
