"""Nodes and an administrator for tests: what they send to a hub over HTTP, signed as real ones do."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from service.contract.release import Release
from service.signing.envelope import Document
from service.signing.keyring import Keyring
from service.signing.keys import KeyPair, PublicKey
from service.signing.node_requests import signed_headers

ADMIN_KEY = "an-admin-key-for-tests"
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}
PARAMS_EACH = 9
"""Parameters of one unit of the toy network."""


@dataclass
class Admin:
    """An administrator."""

    client: httpx.Client

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """Sends a request with the admin key."""
        headers = {**ADMIN, **options.pop("headers", {})}
        return self.client.request(method, path, json=body, headers=headers, **options)

    def token(self, node: str | None = None) -> str:
        """A fresh enrolment token."""
        answer = self.call("POST", "/fleet/tokens", {"node": node})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def node(self, name: str) -> dict[str, Any]:
        """A node as the hub shows it."""
        answer = self.call("GET", f"/fleet/nodes/{name}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def set(self, name: str, value: int, **more: Any) -> int:
        """Sets a budget in parameters; returns the generation."""
        body = {"model": "toy", "budget": {"unit": "params", "value": value}, **more}
        answer = self.call("PUT", f"/fleet/nodes/{name}/desired", body)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["generation"])

    def rollout(self, rollout_id: str) -> dict[str, Any]:
        """A rollout as the hub shows it."""
        return dict(self.call("GET", f"/fleet/rollouts/{rollout_id}").json())


@dataclass
class Node:
    """A simulated node: it believes the hub, and does at once whatever it is told."""

    client: httpx.Client
    name: str
    key: KeyPair = field(default_factory=KeyPair.generate)
    root: PublicKey | None = None
    known: int = 0
    active: dict[str, Any] | None = None

    def enroll(self, token: str, **labels: str) -> httpx.Response:
        """Asks to be let in."""
        body = {"node": self.name, "token": token, "public_key": self.key.public.text, "labels": labels}
        answer = self.client.post("/fleet/enroll", json=body)
        if answer.is_success:
            self.root = PublicKey.parse(answer.json()["root"]["public"])
        return answer

    def send(self, method: str, target: str, body: Any = None, **changes: Any) -> httpx.Response:
        """Sends a signed request; `changes` go to `signed_headers`."""
        content = b"" if body is None else json.dumps(body).encode()
        headers = signed_headers(
            self.key, **{"node": self.name, "method": method, "target": target, "body": content, **changes}
        )
        return self.client.request(method, target, content=content or None, headers=headers)

    def desired(self, *, after: int | None = None, wait: float = 0) -> dict[str, Any] | None:
        """What the hub wants, when there is news."""
        known = self.known if after is None else after
        answer = self.send("GET", f"/fleet/nodes/{self.name}/desired?after={known}&wait={wait}")
        if answer.status_code == 204:
            return None
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def opened(self, document: Document) -> Release:
        """A release, verified as a node does."""
        assert self.root is not None
        keyring = Keyring.open(self.client.get("/fleet/keyring").content, self.root)
        release = Release.open(document, keyring)
        release.check_node(self.name)
        release.check_current(int(time.time()))
        return release

    def report(self, state: str, generation: int | None = None, **more: Any) -> None:
        """Says how it is."""
        answer = self.send("PUT", f"/fleet/nodes/{self.name}/reported", self.state(state, generation, **more))
        assert answer.status_code == 204, answer.text

    def state(self, state: str, generation: int | None = None, **more: Any) -> dict[str, Any]:
        """The body of a report."""
        return {
            "observed_generation": self.known if generation is None else generation,
            "state": state,
            "since": 1.0,
            "active": self.active,
            "agent_version": "test",
            **more,
        }

    def follow(self, *, wait: float = 20, state: str = "committed") -> dict[str, Any]:
        """Takes up the next release and says that it keeps it."""
        told = self.desired(wait=wait)
        assert told is not None, "there is no news"
        assert told["release"] is not None, told
        release = self.opened(told["release"])
        assert release.version == told["generation"] > self.known
        self.known = release.version
        self.active = {"version": release.version, "digest": release.digest, "params": release.manifest["params"]}
        self.report(state)
        return told


def enrolled(client: httpx.Client, name: str, **labels: str) -> Node:
    """A node that was let in."""
    node = Node(client, name)
    answer = node.enroll(Admin(client).token(), **labels)
    assert answer.status_code == 201, answer.text
    return node
