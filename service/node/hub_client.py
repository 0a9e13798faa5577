"""The client of the hub: signed requests, bounded answers, no redirects, nothing inflated.

Whatever the hub sends is taken as if by a stranger: an answer has a largest size and a longest time, a redirect or a
compressed answer is refused, and only what the trust rules accept later counts.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from service.contract.sizes import is_budget
from service.node.errors import HubRefusedError, HubUnreachableError, InvalidAnswerError
from service.signing.envelope import MAX_DOCUMENT_BYTES, Document
from service.signing.fields import MAX_SECONDS
from service.signing.keys import KeyPair
from service.signing.node_requests import signed_headers

CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0
"""Longest silence of the hub in the middle of an answer."""
ANSWER_SECONDS = 30.0
"""Longest time of a whole answer, beyond the time that the hub was asked to wait."""
ANSWER_BYTES = 2 * MAX_DOCUMENT_BYTES + (64 << 10)
"""A release, a probe and what surrounds them."""
PROBLEM_BYTES = 64 << 10


@dataclass(frozen=True)
class Desired:
    """What the hub answers when asked what to run; only what is in `release` and `probe` is signed."""

    generation: int
    budget: Mapping[str, Any] | None
    release: Document | None
    probe: Document | None
    problem: Mapping[str, Any] | None


@dataclass(frozen=True)
class Enrolment:
    """What the hub answers a node that it takes in; nothing of it is verified."""

    root: Any
    keyring: Document


class HubClient:
    """Talks to one hub as one node. Close it with `close`.

    Args:
        url: of the hub.
        node: name of this node.
        key: its key, which signs every request.
        stall_seconds: see `STALL_SECONDS`.
        answer_seconds: see `ANSWER_SECONDS`.
    """

    def __init__(
        self,
        url: str,
        *,
        node: str,
        key: KeyPair,
        stall_seconds: float = STALL_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._url = httpx.URL(url.rstrip("/"))
        self._node = node
        self._key = key
        self._stall_seconds = stall_seconds
        self._answer_seconds = answer_seconds
        self._offset_seconds = 0
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(stall_seconds, connect=CONNECT_SECONDS),
            follow_redirects=False,
            trust_env=False,
            headers={"accept-encoding": "identity", "user-agent": "inn-edge"},
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def enroll(self, members: Mapping[str, Any]) -> Enrolment:
        """Ask to be taken in; the token in `members` authenticates this one request.

        Raises:
            HubUnreachableError, HubRefusedError, InvalidAnswerError: see `_ask`.
        """
        answer = await self._ask("POST", "/fleet/enroll", members, signed=False)
        if not isinstance(answer, dict) or not isinstance(answer.get("root"), dict):
            raise InvalidAnswerError("the answer to the enrolment", "it has no root key")
        return Enrolment(answer["root"].get("public"), _document(answer.get("keyring"), "the keyring"))

    async def keyring(self) -> Document:
        """The hub's keyring; errors as of `_ask`."""
        return _document(await self._ask("GET", "/fleet/keyring"), "the keyring")

    async def desired(self, *, after: int, wait_seconds: float) -> Desired | None:
        """What this node should run, as soon as there is something newer than `after`.

        Returns:
            None when the time passed without any.
        """
        path = f"{self._path}/desired?after={after}&wait={wait_seconds:g}"
        answer = await self._ask("GET", path, wait_seconds=wait_seconds)
        if answer is None:
            return None
        generation = answer.get("generation") if isinstance(answer, dict) else None
        if type(generation) is not int or generation < 0:
            raise InvalidAnswerError("the desired state", "it has no generation")
        problem = answer.get("problem")
        if problem is not None and not isinstance(problem, dict):
            raise InvalidAnswerError("the desired state", "its problem is no object")
        release, probe = (
            None if answer.get(name) is None else _document(answer[name], f"the {name}")
            for name in ("release", "probe")
        )
        desired = answer.get("desired")
        budget = desired.get("budget") if isinstance(desired, dict) else None
        return Desired(generation, budget if is_budget(budget) else None, release, probe, problem)

    async def report(self, reported: Mapping[str, Any]) -> None:
        """Tell the hub how this node is; errors as of `_ask`."""
        await self._ask("PUT", f"{self._path}/reported", reported)

    @asynccontextmanager
    async def artifact(self, digest: str, *, start: int) -> AsyncIterator[httpx.Response]:
        """An open answer with the bytes of an artifact from `start` on; its body is read with `aiter_raw`.

        Raises:
            HubUnreachableError, HubRefusedError, InvalidAnswerError: see `_ask`; 200 and 206 are not among them.
        """
        ranged = {"range": f"bytes={start}-", "if-range": f'"{digest}"'} if start else {}
        async with self._open("GET", f"/artifacts/{digest}", b"", ranged) as response:
            if response.status_code not in (200, 206):
                raise await self._refusal(response)
            yield response

    @property
    def _path(self) -> str:
        return f"/fleet/nodes/{quote(self._node, safe='')}"

    async def _ask(
        self, method: str, path: str, body: Any = None, *, signed: bool = True, wait_seconds: float = 0.0
    ) -> Any:
        """Send a request and read its answer.

        Returns:
            The JSON of the answer, None for an empty one.

        Raises:
            HubUnreachableError: no connection, or it broke or took too long.
            HubRefusedError: the answer is a problem.
            InvalidAnswerError: it is nothing that the protocol has.
        """
        content = b"" if body is None else json.dumps(body, allow_nan=False).encode()
        for corrected in (False, True):
            try:
                async with (
                    asyncio.timeout(self._answer_seconds + wait_seconds),
                    self._open(method, path, content, {}, signed=signed, wait_seconds=wait_seconds) as response,
                ):
                    if response.status_code in (200, 201):
                        return _parsed(await _read(response, ANSWER_BYTES))
                    if response.status_code == 204:
                        return None
                    refusal = await self._refusal(response)
            except TimeoutError as error:
                raise HubUnreachableError("its answer took too long") from error
            if corrected or refusal.problem != "clock-skew" or "hub_time" not in refusal.fields:
                raise refusal
            # Only signatures of requests follow the hub's time: what it says is not signed.
            self._offset_seconds = refusal.fields["hub_time"] - int(time.time())
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        content: bytes,
        headers: Mapping[str, str],
        *,
        signed: bool = True,
        wait_seconds: float = 0.0,
    ) -> AsyncIterator[httpx.Response]:
        url = self._url.copy_with(raw_path=self._url.raw_path.rstrip(b"/") + path.encode())
        sent = dict(headers)
        if content:
            sent["content-type"] = "application/json"
        if signed:
            sent |= signed_headers(
                self._key,
                node=self._node,
                method=method,
                target=path,
                body=content,
                # Within what a header may hold: the hub answers any such time with its own.
                time_seconds=min(max(0, int(time.time()) + self._offset_seconds), MAX_SECONDS),
            )
        timeout = httpx.Timeout(self._stall_seconds + wait_seconds, connect=CONNECT_SECONDS)
        try:
            async with self._client.stream(method, url, content=content, headers=sent, timeout=timeout) as response:
                encoding = response.headers.get("content-encoding", "identity").lower()
                if encoding != "identity":
                    raise InvalidAnswerError("the answer of the hub", f"it is compressed ({encoding[:20]}) unasked")
                if response.is_redirect or 300 <= response.status_code < 400:
                    raise InvalidAnswerError("the answer of the hub", "it leads to another address")
                yield response
        except httpx.TransportError as error:
            raise HubUnreachableError(f"{type(error).__name__}: {str(error)[:120]}".rstrip(": ")) from error

    async def _refusal(self, response: httpx.Response) -> HubRefusedError:
        """The error that an answer stands for."""
        try:
            body: Any = _parsed(await _read(response, PROBLEM_BYTES))
        except InvalidAnswerError:
            body = None
        if not isinstance(body, dict):
            body = {}
        code, detail = code_and_detail(body, "no-problem")
        wait = body.get("retry_after")
        error = HubRefusedError(response.status_code, code, detail, wait if type(wait) is int and wait >= 0 else None)
        if type(body.get("hub_time")) is int:
            error.fields["hub_time"] = body["hub_time"]
        return error


def code_and_detail(problem: Mapping[str, Any], otherwise: str) -> tuple[str, str]:
    """Code and detail of a problem as text that can be shown and reported, whatever the hub wrote."""
    code = str(problem.get("type", "")).rpartition("/")[2][:64] or otherwise
    detail = str(problem.get("detail") or problem.get("title") or otherwise)[:1000]
    return code.encode("ascii", "replace").decode(), detail.encode("utf-8", "replace").decode()


async def _read(response: httpx.Response, limit_bytes: int) -> bytes:
    """The body, at most so many bytes."""
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > limit_bytes:
            raise InvalidAnswerError("the answer of the hub", f"it is longer than {limit_bytes:,} bytes")
    return bytes(content)


def _parsed(content: bytes) -> Any:
    if not content:
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidAnswerError("the answer of the hub", "it is not JSON") from error


def _document(value: Any, what: str) -> Document:
    if not isinstance(value, dict):
        raise InvalidAnswerError(what, "it is no object")
    return value
