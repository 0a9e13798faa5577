"""Signed requests of nodes: four headers that bind a request to a node, a moment and its content; none counts twice."""

from __future__ import annotations

import base64
import hashlib
import heapq
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from service.ground.names import NAME_PATTERN
from service.signing.envelope import decode_signature
from service.signing.errors import (
    ClockSkewError,
    ReplayedRequestError,
    UnknownKeyError,
    UnsignedRequestError,
    UntrustedSignatureError,
)
from service.signing.fields import MAX_SECONDS
from service.signing.keys import KeyPair, PublicKey

NODE_HEADER = "Inn-Node"
TIME_HEADER = "Inn-Time"
NONCE_HEADER = "Inn-Nonce"
SIGNATURE_HEADER = "Inn-Signature"

WINDOW_SECONDS = 300
NONCE_BYTES = 18
MAX_NONCES_PER_NODE = 4096
"""About 400 kB. A node of a fleet sends a request in seconds; one that sends more only narrows its own window."""

_NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")
_TIME = re.compile(r"0|[1-9][0-9]{0,11}")
_NODE = re.compile(NAME_PATTERN)


def signed_headers(
    key: KeyPair,
    *,
    node: str,
    method: str,
    target: str,
    body: bytes = b"",
    time_seconds: int | None = None,
    nonce: str | None = None,
) -> dict[str, str]:
    """The headers that sign a request.

    Args:
        key: the node's own key.
        node: its name.
        method: of the request, such as `GET`.
        target: raw path and query as they are sent, such as `/fleet/nodes/a/desired?after=3`.
        body: all of it.
        time_seconds: seconds since the epoch as the hub counts them; the system's clock when not given.
        nonce: 16 to 64 URL-safe characters never used before; random when not given.
    """
    seconds = int(time.time()) if time_seconds is None else time_seconds
    fresh = secrets.token_urlsafe(NONCE_BYTES) if nonce is None else nonce
    signature = key.sign(_message(method, target, seconds, fresh, body))
    return {
        NODE_HEADER: node,
        TIME_HEADER: str(seconds),
        NONCE_HEADER: fresh,
        SIGNATURE_HEADER: base64.b64encode(signature).decode(),
    }


@dataclass(frozen=True)
class RequestClaim:
    """What the headers of a request say; nothing of it is proven until `RequestVerifier.check` was passed."""

    node: str
    time_seconds: int
    nonce: str
    signature: bytes

    @classmethod
    def read(cls, headers: Mapping[str, str]) -> RequestClaim:
        """Read the headers.

        Args:
            headers: by name, in any case when the mapping is one of HTTP; a plain dict needs names as sent or in lower
                case.

        Raises:
            UnsignedRequestError: one is missing or malformed.
        """
        node = _header(headers, NODE_HEADER, _NODE)
        seconds = int(_header(headers, TIME_HEADER, _TIME))
        nonce = _header(headers, NONCE_HEADER, _NONCE)
        encoded = _header(headers, SIGNATURE_HEADER, re.compile(r"[A-Za-z0-9+/=]{88}"))
        try:
            signature = decode_signature(encoded, SIGNATURE_HEADER)
        except UntrustedSignatureError as exc:
            raise UnsignedRequestError(exc.message) from exc
        return cls(node, min(seconds, MAX_SECONDS), nonce, signature)


@dataclass
class _Seen:
    """Nonces of one node; `floor` is the greatest time of those forgotten for want of room."""

    nonces: set[str] = field(default_factory=set)
    by_time: list[tuple[int, str]] = field(default_factory=list)
    floor: int = -1


class RequestVerifier:
    """Checks the signatures of requests and remembers nonces while they could be used again. Thread-safe.

    Args:
        clock: seconds since the epoch.
        window_seconds: how far the time of a request may be from the clock.
        max_nonces: nonces kept for each node. When a node sends more in the window, the oldest is forgotten and
            requests as old as that one are refused from then on, so that forgetting opens no gap.
        not_before: requests signed before this time are refused as skewed. A hub gives its own start: a restart
            forgets the nonces, and this keeps what was seen before it from counting again. When the clock is set
            back behind it, time goes on from there, as `running` tells it: nodes follow, and are not locked out.
        running: seconds that never go back.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        window_seconds: int = WINDOW_SECONDS,
        max_nonces: int = MAX_NONCES_PER_NODE,
        not_before: int = 0,
        running: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._running = running
        self._began = running()
        self._window = window_seconds
        self._max_nonces = max_nonces
        self._not_before = not_before
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()
        self._swept = 0

    def check(
        self,
        headers: Mapping[str, str],
        *,
        method: str,
        target: str,
        body: bytes,
        key_of: Callable[[str], PublicKey | None],
    ) -> str:
        """The name of the node that signed this request.

        Args:
            headers: of the request.
            method: of the request.
            target: raw path and query as received.
            body: all of it.
            key_of: the enrolled key of a node, None for a node that is not enrolled; may raise `RevokedKeyError`.

        Raises:
            UnsignedRequestError: a header is missing or malformed.
            ClockSkewError: the time is too far from the clock.
            UnknownKeyError: the node is not enrolled.
            UntrustedSignatureError: the signature does not hold for this request.
            ReplayedRequestError: the nonce was seen, or might have been.
        """
        claim = RequestClaim.read(headers)
        now = self._now()
        if abs(claim.time_seconds - now) > self._window or claim.time_seconds < self._not_before:
            raise ClockSkewError(request_time=claim.time_seconds, hub_time=now, window_seconds=self._window)
        key = key_of(claim.node)
        if key is None:
            raise UnknownKeyError(
                f"no node '{claim.node}' is enrolled here; enroll it with a token ('inn fleet token')", node=claim.node
            )
        message = _message(method, target, claim.time_seconds, claim.nonce, body)
        if not key.is_signature(claim.signature, message):
            raise UntrustedSignatureError(
                f"the signature does not hold for this request and the key of node '{claim.node}'; "
                "enroll the node anew if it lost its key",
                node=claim.node,
            )
        self._remember(claim, now)
        return claim.node

    def forget(self, node: str) -> None:
        """Drop the nonces of a node whose key no longer counts."""
        with self._lock:
            self._seen.pop(node, None)

    def _now(self) -> int:
        now = self._clock()
        return int(now if now >= self._not_before else self._not_before + self._running() - self._began)

    def _remember(self, claim: RequestClaim, now: int) -> None:
        with self._lock:
            self._sweep(now)
            seen = self._seen.setdefault(claim.node, _Seen())
            _expire(seen, now - self._window)
            if claim.nonce in seen.nonces or claim.time_seconds <= seen.floor:
                raise ReplayedRequestError(
                    f"this request of node '{claim.node}' was seen before, or may have been; "
                    "sign each request with a nonce of its own",
                    node=claim.node,
                )
            seen.nonces.add(claim.nonce)
            heapq.heappush(seen.by_time, (claim.time_seconds, claim.nonce))
            if len(seen.by_time) > self._max_nonces:
                seconds, nonce = heapq.heappop(seen.by_time)
                seen.nonces.discard(nonce)
                seen.floor = max(seen.floor, seconds)

    def _sweep(self, now: int) -> None:
        """Forget nodes that have been silent for a whole window; looked at once in a window."""
        if 0 <= now - self._swept < self._window:
            return
        self._swept = now
        for node, seen in list(self._seen.items()):
            _expire(seen, now - self._window)
            if not seen.by_time and seen.floor < now - self._window:
                del self._seen[node]


def _expire(seen: _Seen, before: int) -> None:
    while seen.by_time and seen.by_time[0][0] < before:
        seen.nonces.discard(heapq.heappop(seen.by_time)[1])


def _header(headers: Mapping[str, str], name: str, pattern: re.Pattern[str]) -> str:
    value = headers.get(name)
    if value is None:
        value = headers.get(name.lower())
    if value is None:
        raise UnsignedRequestError(f"the header {name} is missing; nodes sign each request, see /docs", header=name)
    if pattern.fullmatch(value) is None:
        raise UnsignedRequestError(f"the header {name} is malformed; nodes sign each request, see /docs", header=name)
    return value


def _message(method: str, target: str, seconds: int, nonce: str, body: bytes) -> bytes:
    digest = hashlib.sha256(body).hexdigest()
    return f"inn-request/1\n{method}\n{target}\n{seconds}\n{nonce}\n{digest}".encode()
