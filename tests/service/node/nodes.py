"""Whole nodes for tests: the app behind a real socket, in a thread, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from service.contract.sizes import Budget
from service.node.app import create_app
from service.node.node import Node
from service.node.settings import EdgeSettings
from tests.service.node.fake_hub import MODEL, TIMEOUT_SECONDS, FakeHub, running

FEATURES = 4


@dataclass(frozen=True)
class LiveNode:
    """A running node and a client of it."""

    app: Any
    url: str
    client: httpx.Client

    @property
    def node(self) -> Node:
        """Its parts."""
        node: Node = self.app.state.node
        return node

    def infer(self, rows: Any = None, **members: Any) -> httpx.Response:
        """Posts an inference."""
        return self.client.post("/infer", json={"inputs": {"x": rows or [[1.0] * FEATURES]}, **members})

    def status(self) -> dict[str, Any]:
        """What `/status` shows."""
        shown: dict[str, Any] = self.client.get("/status").json()
        return shown


def settings_of(fleet: FakeHub, store: Path, /, **changes: Any) -> EdgeSettings:
    """Settings with short pauses."""
    settings = EdgeSettings(
        hub=fleet.url,
        node="n1",
        model=MODEL,
        budget=Budget("params", 1000),
        store=store,
        token=fleet.token.text,
        poll_seconds=1.0,
        retry_seconds=0.05,
        stall_seconds=2.0,
        download_grace_seconds=5.0,
    )
    return replace(settings, **changes)


@contextmanager
def live_node(fleet: FakeHub, store: Path, /, **changes: Any) -> Iterator[LiveNode]:
    """A node of a hub with its folder at `store`."""
    app = create_app(settings_of(fleet, store, **changes))
    with running(app) as url, httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
        yield LiveNode(app, url, client)
