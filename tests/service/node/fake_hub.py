"""A hub for tests of nodes: the fleet's routes as documented, signed with the project's trust, free to misbehave.

It runs in a thread of its own behind a real socket. Tests set what it answers and look at what nodes said.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from service.contract.measurement_order import MeasurementOrder, Rung
from service.contract.release import Policy, Release
from service.inference.reference_outputs import make
from service.inference.session import open_session
from service.signing.enrolment_tokens import EnrolmentToken
from service.signing.errors import ClockSkewError
from service.signing.keyring import Keyring, KeyringEntry
from service.signing.keys import KeyPair, PublicKey
from service.signing.node_requests import RequestVerifier

TIMEOUT_SECONDS = 30.0
DAY = 86_400
SEED = "c0ffee00"
MODEL = "toy"
QUICK = Policy(watch_seconds=0.0, watch_requests=0)

Behaviour = Callable[[Request, bytes], Awaitable[Response]]


def digest_of(content: bytes) -> str:
    """Digest of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class FakeHub:
    """State and routes of the hub; `clock` may be moved."""

    def __init__(self) -> None:
        self.root = KeyPair.generate()
        self.signing = KeyPair.generate()
        self.url = ""
        self.clock: Callable[[], float] = time.time
        self.keyring_version = 1
        self.revoked: list[PublicKey] = []
        self.artifacts: dict[str, bytes] = {}
        self.reports: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.enrolled: dict[str, PublicKey] = {}
        self.token = EnrolmentToken.generate(self.root.public)
        self.answer: dict[str, Any] | None = None
        self.serve_artifact: Behaviour = whole_or_range
        self.before: Callable[[Request], Awaitable[Response | None]] | None = None
        self._opened = int(time.time())
        self._changed = threading.Condition()
        self._verifier = RequestVerifier(clock=lambda: self.clock())

    # What tests set

    def release(
        self,
        content: bytes,
        version: int,
        *,
        node: str = "n1",
        policy: Policy = QUICK,
        lifetime: int = 30 * DAY,
        issued: int | None = None,
        signed_by: KeyPair | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """A signed release of an artifact, which the hub then has; `changes` go into its content."""
        self.artifacts[digest_of(content)] = content
        now = int(self.clock()) if issued is None else issued
        release = Release(
            node=node,
            version=version,
            issued=now,
            expires=now + lifetime,
            rollback=False,
            manifest=changes.pop("manifest", None) or manifest_of(content),
            self_test=changes.pop("self_test", None) or vectors_of(content),
            policy=policy,
        )
        assert not changes
        return release.to_document([signed_by or self.signing])

    def probe(self, contents: list[bytes], version: int, *, node: str = "n1", batch: int = 1) -> dict[str, Any]:
        """A signed probe of artifacts, which the hub then has."""
        for content in contents:
            self.artifacts[digest_of(content)] = content
        now = int(self.clock())
        ladder = tuple(Rung(digest_of(one), len(one), params=10 * len(one), macs=10 * len(one)) for one in contents)
        inputs = manifest_of(contents[0])["inputs"]
        probe = MeasurementOrder(node, version, now, now + DAY, ladder, batch, 1, 95, inputs)
        return probe.to_document([self.signing])

    def tell(self, document: Mapping[str, Any] | None, **members: Any) -> None:
        """Let nodes be told a release (or other members) from now on."""
        with self._changed:
            if document is None and not members:
                self.answer = None
            else:
                generation = members.pop("generation", None) or document["signed"]["version"]
                self.answer = {
                    "generation": generation,
                    "desired": {"model": MODEL, "budget": {"unit": "params", "value": 1000}},
                    "release": copy.deepcopy(document),
                    "probe": None,
                    "problem": None,
                    **members,
                }
            self._changed.notify_all()

    def wait_report(
        self, predicate: Callable[[dict[str, Any]], bool], *, seconds: float = TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        """The first report, of those there are and those to come, that the predicate holds for."""
        deadline = time.monotonic() + seconds
        seen = 0
        with self._changed:
            while True:
                for report in self.reports[seen:]:
                    if predicate(report):
                        return report
                seen = len(self.reports)
                left = deadline - time.monotonic()
                assert left > 0, f"no such report; the last were {self.reports[-3:]}"
                self._changed.wait(left)

    def wait_state(self, state: str, version: int, **options: float) -> dict[str, Any]:
        """The first report of this state and observed generation."""
        return self.wait_report(
            lambda report: (report["state"], report["observed_generation"]) == (state, version), **options
        )

    def states(self) -> list[str]:
        """All reported states, equal neighbours once."""
        found: list[str] = []
        for report in self.reports:
            if not found or found[-1] != report["state"]:
                found.append(report["state"])
        return found

    def keyring(self) -> dict[str, Any]:
        """The keyring document."""
        entries = [KeyringEntry(self.signing.public, "active")]
        entries += [KeyringEntry(public, "revoked") for public in self.revoked]
        keyring = Keyring(
            self.keyring_version, self._opened, self._opened + 365 * DAY, tuple(entries), self.root.public
        )
        return keyring.to_document([self.root])

    def rotate(self, signing: KeyPair | None = None) -> None:
        """Sign with a new key from now on and revoke the old one."""
        self.revoked.append(self.signing.public)
        self.signing = signing or KeyPair.generate()
        self.keyring_version += 1

    # Routes

    def app(self) -> Starlette:
        """The ASGI app."""
        return Starlette(
            routes=[
                Route("/fleet/enroll", self._guarded(self._enroll), methods=["POST"]),
                Route("/fleet/keyring", self._guarded(self._keyring)),
                Route("/fleet/nodes/{node}/desired", self._guarded(self._desired)),
                Route("/fleet/nodes/{node}/reported", self._guarded(self._reported), methods=["PUT"]),
                Route("/artifacts/{digest}", self._guarded(self._artifact)),
            ]
        )

    def _guarded(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            self.asked.append((request.method, request.url.path, dict(request.headers)))
            if self.before is not None and (response := await self.before(request)) is not None:
                return response
            if request.url.path != "/fleet/enroll":
                try:
                    self._verifier.check(
                        request.headers,
                        method=request.method,
                        target=request.scope["raw_path"].decode()
                        + (f"?{request.scope['query_string'].decode()}" if request.scope["query_string"] else ""),
                        body=await request.body(),
                        key_of=self.enrolled.get,
                    )
                except ClockSkewError as error:
                    return problem(401, "clock-skew", hub_time=error.fields["hub_time"])
            return await endpoint(request)

        return guarded

    async def _enroll(self, request: Request) -> Response:
        body = await request.json()
        token = EnrolmentToken.parse(body["token"])
        if token.secret != self.token.secret:
            return problem(401, "invalid-token")
        self.enrolled[body["node"]] = PublicKey.parse(body["public_key"])
        root = {"key_id": self.root.key_id, "public": self.root.public.text}
        return JSONResponse({"node": body["node"], "root": root, "keyring": self.keyring()}, 201)

    async def _keyring(self, request: Request) -> Response:
        return JSONResponse(self.keyring())

    async def _desired(self, request: Request) -> Response:
        after = int(request.query_params["after"])
        deadline = time.monotonic() + float(request.query_params["wait"])
        while time.monotonic() < deadline and not await request.is_disconnected():
            answer = self.answer
            if answer is not None and answer["generation"] > after:
                return JSONResponse(answer)
            await asyncio.sleep(0.02)
        return Response(status_code=204)

    async def _reported(self, request: Request) -> Response:
        report = json.loads(await request.body())
        with self._changed:
            self.reports.append(report)
            self._changed.notify_all()
        return Response(status_code=204)

    async def _artifact(self, request: Request) -> Response:
        content = self.artifacts.get(request.path_params["digest"])
        if content is None:
            return problem(404, "unknown-artifact")
        return await self.serve_artifact(request, content)


def problem(status: int, code: str, **members: Any) -> Response:
    """A problem as the hub writes them."""
    body = {"type": f"/problems/{code}", "title": code, "status": status, "detail": f"{code} it is", **members}
    return JSONResponse(body, status, media_type="application/problem+json")


async def whole_or_range(request: Request, content: bytes) -> Response:
    """The artifact, or the rest of it, as the hub serves it."""
    asked = request.headers.get("range")
    headers = {"etag": f'"{digest_of(content)}"'}
    if asked is None or request.headers.get("if-range", headers["etag"]) != headers["etag"]:
        return Response(content, headers=headers, media_type="application/octet-stream")
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    headers["content-range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return Response(content[start:], 206, headers, media_type="application/octet-stream")


def cut_after(share: float) -> Behaviour:
    """Sends this share of the artifact, then breaks the connection; the second time it sends the rest."""
    used = False

    async def cut(request: Request, content: bytes) -> Response:
        nonlocal used
        if used:
            return await whole_or_range(request, content)
        used = True

        async def parts() -> AsyncIterator[bytes]:
            yield content[: int(share * len(content))]
            await asyncio.sleep(0.05)
            raise ConnectionError("cut by the test")

        return StreamingResponse(parts(), headers={"content-length": str(len(content))})

    return cut


def manifest_of(content: bytes, **changes: Any) -> dict[str, Any]:
    """A manifest of an artifact, as far as nodes rely on it."""
    session = _session(content)
    tensors = {
        name: [
            {
                "name": spec.name,
                "dtype": spec.dtype.name,
                "shape": [size if isinstance(size, int) else None for size in spec.shape],
            }
            for spec in specs
        ]
        for name, specs in (("inputs", session.inputs), ("outputs", session.outputs))
    }
    return {
        "model": MODEL,
        "checkpoint": digest_of(b"checkpoint"),
        "digest": digest_of(content),
        "params": len(content),
        "macs": len(content),
        "bytes": len(content),
        "quality": "instant",
        **tensors,
        **changes,
    }


def vectors_of(content: bytes) -> dict[str, Any]:
    """Self-test vectors of an artifact."""
    return make(_session(content), seed=SEED)


def _session(content: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "artifact.onnx"
        path.write_bytes(content)
        return open_session(
            path, digest=digest_of(content), size_bytes=len(content), threads=1, providers=("CPUExecutionProvider",)
        )


@contextmanager
def running(app: Any, **options: Any) -> Iterator[str]:
    """Serve an app on a free port of loopback, in a thread; gives its address; `options` go to uvicorn."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            **{
                "log_level": "critical",
                "access_log": False,
                "timeout_graceful_shutdown": 1,
                "lifespan": "on",
                **options,
            },
        )
    )
    started = threading.Event()
    run_startup = server.startup

    async def startup(sockets: list[socket.socket] | None = None) -> None:
        try:
            await run_startup(sockets)
        finally:
            started.set()

    server.startup = startup  # the only way to learn of the moment it answers without asking again and again
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        assert started.wait(TIMEOUT_SECONDS)
        assert server.started
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(TIMEOUT_SECONDS)
        listening.close()
    assert not thread.is_alive()


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A running hub."""
    hub = FakeHub()
    with running(hub.app()) as url:
        hub.url = url
        yield hub
