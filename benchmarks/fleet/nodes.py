"""Simulated nodes as tasks of one process: they ask, verify, download, and report as real ones do, but run no network.

Each has a connection, a key and an enrolment of its own. A release counts only when its signature, its node and its
version do, a download only when its digest does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving.light_client import LightClient, Traffic
from service.contract.release import Release
from service.signing.enrolment_tokens import EnrolmentToken
from service.signing.envelope import Document
from service.signing.keyring import Keyring
from service.signing.keys import KeyPair
from service.signing.node_requests import signed_headers

Json = dict[str, Any]

LABEL = {"group": "benchmark"}
POLL_SECONDS = 30.0
"""As `inn edge` has it when not told otherwise."""


@dataclass
class Change:
    """One change of the desired state on its way to the nodes.

    Attributes:
        nodes: how many there are.
        with_artifact: whether nodes download what the release names.
        began: when it was asked for, by `time.monotonic`.
        heard, fetched, committed: seconds after `began` at which a node had the verified release, had the artifact,
            and had been answered that it reported it as committed.
        complete: set when all have committed.
    """

    nodes: int
    with_artifact: bool
    began: float = field(default_factory=time.monotonic)
    heard: list[float] = field(default_factory=list)
    fetched: list[float] = field(default_factory=list)
    committed: list[float] = field(default_factory=list)
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, moments: list[float]) -> None:
        """Add this moment to one of the lists."""
        moments.append(time.monotonic() - self.began)
        if len(self.committed) == self.nodes:
            self.complete.set()


class SimulatedNode:
    """A node. Lives on one event loop.

    Args:
        address: of the hub.
        name: of the node.
        traffic: counts requests and bytes.
        poll_seconds: how long a question waits for news; a report follows each that brought none.
    """

    def __init__(self, address: str, name: str, traffic: Traffic, *, poll_seconds: float = POLL_SECONDS) -> None:
        self.name = name
        self._client = LightClient(address, traffic)
        self._poll_seconds = poll_seconds
        self._key = KeyPair.generate()
        self._keyring: Keyring | None = None
        self._known = 0
        self._active: Json | None = None
        self.change: Change | None = None

    async def enroll(self, token: str) -> None:
        """Be taken in, and believe the hub that the token is of."""
        body = {"node": self.name, "token": token, "public_key": self._key.public.text, "labels": LABEL}
        answer = (await self._client.send("POST", "/fleet/enroll", json.dumps(body).encode())).json(201)
        self._keyring = Keyring.open(answer["keyring"], EnrolmentToken.parse(token).root)

    async def run(self) -> None:
        """Ask and report until cancelled."""
        try:
            while True:
                target = f"desired?after={self._known}&wait={self._poll_seconds:g}"
                told = await self._send("GET", target, expected=(200, 204))
                if told is None:
                    await self._report("committed" if self._active else "idle")
                else:
                    await self._take_up(told)
        finally:
            self._client.close()

    async def _take_up(self, told: Json) -> None:
        if told["release"] is None:
            raise SystemExit(f"error: the hub has no release for {self.name}: {told['problem']}")
        release = self._verified(told["release"])
        change = self.change
        assert change is not None, "nothing was changed"
        change.note(change.heard)
        if change.with_artifact:
            await self._download(release.digest, release.manifest["bytes"])
            change.note(change.fetched)
        self._known = release.version
        self._active = {"version": release.version, "digest": release.digest, "params": release.manifest["params"]}
        await self._report("active")
        await self._report("committed")
        change.note(change.committed)

    def _verified(self, document: Document) -> Release:
        assert self._keyring is not None, "a node is enrolled before it runs"
        release = Release.open(document, self._keyring)
        release.check_node(self.name)
        release.check_current(int(time.time()))
        if release.version <= self._known:
            raise SystemExit(f"error: {self.name} was told version {release.version} after {self._known}")
        return release

    async def _download(self, digest: str, size_bytes: int) -> None:
        hashed = hashlib.sha256()
        target = f"/artifacts/{digest}"
        headers = signed_headers(self._key, node=self.name, method="GET", target=target)
        answer = await self._client.send("GET", target, headers=headers, take=hashed.update)
        answer.json(200)
        if f"sha256:{hashed.hexdigest()}" != digest or int(answer.headers["content-length"]) != size_bytes:
            raise SystemExit(f"error: {self.name} was sent something else than {digest}")

    async def _report(self, state: str) -> None:
        body = {
            "observed_generation": self._known,
            "state": state,
            "since": time.time(),
            "active": self._active,
            "agent_version": "benchmark",
        }
        await self._send("PUT", "reported", body, expected=(204,))

    async def _send(self, method: str, action: str, body: Json | None = None, *, expected: tuple[int, ...]) -> Any:
        target = f"/fleet/nodes/{self.name}/{action}"
        content = b"" if body is None else json.dumps(body).encode()
        headers = signed_headers(self._key, node=self.name, method=method, target=target, body=content)
        return (await self._client.send(method, target, content, headers)).json(*expected)
