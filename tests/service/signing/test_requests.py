"""Signed requests: bound to node, method, path, time and body; used once; a wrong clock can be corrected."""

from __future__ import annotations

import base64
import hashlib
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.signing.errors import (
    ClockSkewError,
    ReplayedRequestError,
    RevokedKeyError,
    UnknownKeyError,
    UnsignedRequestError,
    UntrustedSignatureError,
)
from service.signing.keys import PublicKey
from service.signing.node_requests import RequestVerifier, signed_headers
from tests.service.signing.samples import FIRST, NOW, SECOND, Clock

KEYS = {"kitchen-1": FIRST.public, "kitchen-2": SECOND.public}
REQUEST: dict[str, Any] = {"method": "PUT", "target": "/fleet/nodes/kitchen-1/reported?x=%2F", "body": b'{"a":1}'}


def headers(**changes: Any) -> dict[str, str]:
    return signed_headers(FIRST, **({"node": "kitchen-1", "time_seconds": NOW, **REQUEST} | changes))


def verifier(clock: Clock | None = None, **options: Any) -> RequestVerifier:
    return RequestVerifier(clock=clock or Clock(), **options)


def check(checker: RequestVerifier, sent: dict[str, str], **changes: Any) -> str:
    return checker.check(sent, **({**REQUEST, "key_of": KEYS.get} | changes))


def test_a_signature_covers_what_it_should() -> None:
    sent = headers(nonce="n" * 16)
    assert set(sent) == {"Inn-Node", "Inn-Time", "Inn-Nonce", "Inn-Signature"}
    message = (
        f"inn-request/1\nPUT\n/fleet/nodes/kitchen-1/reported?x=%2F\n{NOW}\n{'n' * 16}\n"
        f"{hashlib.sha256(REQUEST['body']).hexdigest()}"
    )
    assert base64.b64decode(sent["Inn-Signature"]) == FIRST.sign(message.encode())


def test_a_signed_request_names_its_node_whatever_the_case_of_its_headers() -> None:
    assert check(verifier(), headers()) == "kitchen-1"
    assert check(verifier(), {name.lower(): value for name, value in headers().items()}) == "kitchen-1"


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "GET"},
        {"method": "put"},
        {"target": "/fleet/nodes/kitchen-2/reported?x=%2F"},
        {"target": "/fleet/nodes/kitchen-1/reported?x=/"},
        {"target": "/fleet/nodes/kitchen-1/reported"},
        {"body": b'{"a":2}'},
        {"body": b""},
    ],
    ids=str,
)
def test_a_request_cannot_be_changed(changes: dict[str, Any]) -> None:
    with pytest.raises(UntrustedSignatureError):
        check(verifier(), headers(), **changes)


@pytest.mark.parametrize(
    "changes", [{"Inn-Node": "kitchen-2"}, {"Inn-Time": str(NOW + 1)}, {"Inn-Nonce": "m" * 20}], ids=str
)
def test_headers_cannot_be_changed(changes: dict[str, str]) -> None:
    with pytest.raises(UntrustedSignatureError):
        check(verifier(), headers() | changes)


@given(st.integers(0, 63), st.integers(0, 7))
def test_no_bit_of_a_signature_can_be_changed(byte: int, bit: int) -> None:
    sent = headers()
    raw = bytearray(base64.b64decode(sent["Inn-Signature"]))
    raw[byte] ^= 1 << bit
    with pytest.raises(UntrustedSignatureError):
        check(verifier(), sent | {"Inn-Signature": base64.b64encode(raw).decode()})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Inn-Node", None),
        ("Inn-Node", ""),
        ("Inn-Node", "../x"),
        ("Inn-Node", "kitchen-1\n"),
        ("Inn-Time", None),
        ("Inn-Time", ""),
        ("Inn-Time", "-1"),
        ("Inn-Time", "1e9"),
        ("Inn-Time", f"0{NOW}"),
        ("Inn-Time", f" {NOW}"),
        ("Inn-Time", "٣" * 10),
        ("Inn-Time", "9" * 10_000),
        ("Inn-Nonce", None),
        ("Inn-Nonce", "short"),
        ("Inn-Nonce", "x" * 65),
        ("Inn-Nonce", "x" * 15 + "é"),
        ("Inn-Signature", None),
        ("Inn-Signature", ""),
        ("Inn-Signature", "A" * 88),
        ("Inn-Signature", "A" * 86 + "=A"),
    ],
)
def test_missing_and_malformed_headers_are_refused(name: str, value: str | None) -> None:
    sent = headers()
    del sent[name]
    if value is not None:
        sent[name] = value
    with pytest.raises(UnsignedRequestError, match=name):
        check(verifier(), sent)


def test_nodes_that_are_not_enrolled_or_revoked_are_refused() -> None:
    with pytest.raises(UnknownKeyError, match="stranger"):
        check(verifier(), headers(node="stranger"))

    def revoked(node: str) -> PublicKey | None:
        raise RevokedKeyError(f"node '{node}' was removed")

    with pytest.raises(RevokedKeyError):
        check(verifier(), headers(), key_of=revoked)


@pytest.mark.parametrize("offset", [-301, 301, -NOW, 10**9])
def test_a_wrong_clock_learns_the_time_of_the_hub_and_can_try_again(offset: int) -> None:
    checker = verifier()
    with pytest.raises(ClockSkewError) as caught:
        check(checker, headers(time_seconds=NOW + offset))
    assert caught.value.fields["hub_time"] == NOW
    assert check(checker, headers(time_seconds=caught.value.fields["hub_time"])) == "kitchen-1"


@pytest.mark.parametrize("offset", [-300, 0, 300])
def test_clocks_may_differ_by_the_window(offset: int) -> None:
    assert check(verifier(), headers(time_seconds=NOW + offset)) == "kitchen-1"


def test_a_nonce_counts_once_for_as_long_as_its_time_does() -> None:
    clock = Clock(NOW - 300)
    checker = verifier(clock)
    sent = headers()
    check(checker, sent)
    for later in (NOW - 300, NOW, NOW + 300):
        clock.now = later
        with pytest.raises(ReplayedRequestError):
            check(checker, sent)
    clock.now = NOW + 301
    with pytest.raises(ClockSkewError):
        check(checker, sent)


def test_nodes_may_use_the_same_nonce() -> None:
    checker = verifier()
    check(checker, headers(nonce="n" * 16))
    other = signed_headers(SECOND, node="kitchen-2", time_seconds=NOW, nonce="n" * 16, **REQUEST)
    assert check(checker, other) == "kitchen-2"


def test_a_forged_request_uses_up_no_nonce() -> None:
    checker = verifier()
    sent = headers()
    with pytest.raises(UntrustedSignatureError):
        check(checker, sent, body=b"forged")
    assert check(checker, sent) == "kitchen-1"


def test_forgetting_nonces_for_want_of_room_opens_no_gap() -> None:
    clock = Clock()
    checker = verifier(clock, max_nonces=8)
    sent = [headers(time_seconds=NOW + number) for number in range(40)]
    for request in sent:
        check(checker, request)
    for request in sent:
        with pytest.raises(ReplayedRequestError):
            check(checker, request)
    assert check(checker, headers(time_seconds=NOW + 40)) == "kitchen-1"
    other = signed_headers(SECOND, node="kitchen-2", time_seconds=NOW, **REQUEST)
    assert check(checker, other) == "kitchen-2"  # one node's flood narrows nobody else's window


def test_memory_of_nonces_is_bounded_and_given_back() -> None:
    clock = Clock()
    checker = verifier(clock, max_nonces=16)
    for _ in range(200):
        sent = headers(time_seconds=int(clock.now))
        check(checker, sent)
        clock.now += 1
    (seen,) = checker._seen.values()
    assert len(seen.nonces) == len(seen.by_time) == 16
    clock.now += 1000
    check(checker, signed_headers(SECOND, node="kitchen-2", time_seconds=int(clock.now), **REQUEST))
    assert list(checker._seen) == ["kitchen-2"]
    checker.forget("kitchen-2")
    assert not checker._seen


def test_what_was_seen_before_a_restart_does_not_count_again() -> None:
    sent = headers(time_seconds=NOW - 5)
    check(verifier(), sent)
    restarted = verifier(Clock(NOW + 2), not_before=NOW)
    with pytest.raises(ClockSkewError) as caught:
        check(restarted, sent)
    assert check(restarted, headers(time_seconds=caught.value.fields["hub_time"])) == "kitchen-1"


def test_of_many_threads_with_one_request_one_passes() -> None:
    checker = verifier()
    sent = headers()
    results: list[str] = []
    barrier = threading.Barrier(8)

    def attempt() -> None:
        barrier.wait()
        try:
            results.append(check(checker, sent))
        except ReplayedRequestError:
            results.append("replayed")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=attempt) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(results) == ["kitchen-1"] + ["replayed"] * 7


def test_nonces_and_times_are_made_when_not_given() -> None:
    first, second = (signed_headers(FIRST, node="kitchen-1", **REQUEST) for _ in range(2))
    assert first["Inn-Nonce"] != second["Inn-Nonce"]
    assert RequestVerifier().check(first, key_of=KEYS.get, **REQUEST) == "kitchen-1"
