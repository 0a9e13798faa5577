"""A node: its folder, its trust, what it serves and the agent that keeps it there, opened and closed together.

A node serves from its disk before anything of the agent is even imported: the client of the hub and all that comes with
it take longer to load than the network itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.ground.errors import ServiceError
from service.inference.providers import CPU
from service.node.benchmark.device_info import capability, resident_bytes
from service.node.deployment.recovery import recover
from service.node.errors import NotEnrolledError
from service.node.serving import Network, Serving
from service.node.settings import EdgeSettings
from service.node.status import Status
from service.node.store import NodeStore
from service.node.trust.store import TrustStore
from service.signing.enrolment_tokens import EnrolmentToken

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Node:
    """Everything that routes and the agent need; `base_bytes` is the memory of the process without any network."""

    settings: EdgeSettings
    store: NodeStore
    identity: TrustStore
    serving: Serving
    status: Status
    base_bytes: int


@asynccontextmanager
async def open_node(
    settings: EdgeSettings, *, ended: Callable[[ServiceError], None] = lambda error: None
) -> AsyncIterator[Node]:
    """Open a node, serve what is on its disk, and start its agent.

    Args:
        settings: of the node.
        ended: told why the agent ended for good while there is nothing to serve.

    Raises:
        NotEnrolledError: the node has neither a hub nor a token for one.
        InvalidTokenError: the token is none.
        StoreInUseError, StoreFullError, NodeMismatchError, InvalidNodeStateError: the folder cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        store = await asyncio.to_thread(NodeStore, settings.store)
        stack.callback(store.close)
        identity = await asyncio.to_thread(TrustStore, settings.store, settings.node)
        _check_enrolment(settings, identity)
        serving = Serving(threads=settings.threads)
        stack.push_async_callback(serving.close)
        declared = {"model": settings.model, "budget": settings.budget.to_json()}
        if settings.quality is not None:
            declared["quality"] = settings.quality
        status = Status(serving, declared=declared, capability=capability([CPU]), trusted=identity.proof)
        base_bytes = resident_bytes()
        trial = await recover(store, serving, status)
        node = Node(settings, store, identity, serving, status, base_bytes)
        task = asyncio.create_task(_run_agent(node, trial, ended), name="agent")
        stack.push_async_callback(_stop, task)
        yield node


def _check_enrolment(settings: EdgeSettings, identity: TrustStore) -> None:
    """A node needs a hub, or a token for one."""
    if settings.token is not None:
        EnrolmentToken.parse(settings.token)
    elif not identity.is_enrolled:
        raise NotEnrolledError(settings.node)


async def _run_agent(node: Node, trial: Network | None, ended: Callable[[ServiceError], None]) -> None:
    try:
        # In a thread, since it takes a second on a small machine, and requests are served already.
        agents = await asyncio.to_thread(importlib.import_module, "service.node.agent.supervise")
        await agents.run_agent(node, trial)
    except ServiceError as error:
        log.error("agent ended", extra={"code": error.code, "detail": error.message})
        if node.serving.current is None:
            ended(error)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
