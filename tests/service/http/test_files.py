"""Conditions and ranges, by the examples and rules of RFC 9110 and RFC 9530."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http import files
from service.http.errors import RangeNotSatisfiableError
from service.http.files import (
    ArtifactResponse,
    ByteRange,
    entity_tag,
    is_not_modified,
    representation_digest,
    requested_range,
)

DIGEST = "sha256:" + hashlib.sha256(b"content").hexdigest()
OTHER = "sha256:" + "0" * 64
SIZE = 1000


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-499", (0, 500)),
        ("bytes=500-999", (500, 1000)),
        ("bytes=500-", (500, 1000)),
        ("bytes=-500", (500, 1000)),
        ("bytes=-5000", (0, 1000)),
        ("bytes=990-5000", (990, 1000)),
        ("bytes=0-0", (0, 1)),
        ("bytes = 0 - 9", (0, 10)),
        ("bytes=999-999", (999, 1000)),
        ("", None),
        ("bytes=-", None),
        ("bytes=5-4", None),
        ("bytes=a-b", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=" + "9" * 19 + "-", None),
        ("bytes=--5", None),
    ],
)
def test_one_range_is_taken_and_all_else_is_the_whole_file(header: str, expected: tuple[int, int] | None) -> None:
    wanted = requested_range({"range": header}, DIGEST, SIZE)
    assert wanted == (None if expected is None else ByteRange(*expected))


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=1000-1001", "bytes=-0", "bytes=999999999999999999-"])
def test_a_range_outside_the_file_is_told(header: str) -> None:
    with pytest.raises(RangeNotSatisfiableError) as caught:
        requested_range({"range": header}, DIGEST, SIZE)
    assert caught.value.fields["size_bytes"] == SIZE


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 1500))
def test_a_range_is_never_empty_nor_outside(first: int, last: int, size: int) -> None:
    try:
        wanted = requested_range({"range": f"bytes={first}-{last}"}, DIGEST, size)
    except RangeNotSatisfiableError:
        assert first >= size
        return
    if wanted is None:
        assert last < first
    else:
        assert (wanted.start, wanted.stop) == (first, min(last + 1, size))
        assert 0 < wanted.size_bytes <= size


def test_if_range_of_another_version_means_the_whole_file() -> None:
    header = {"range": "bytes=0-9"}
    assert requested_range({**header, "if-range": entity_tag(DIGEST)}, DIGEST, SIZE) == ByteRange(0, 10)
    for stale in (entity_tag(OTHER), f"W/{entity_tag(DIGEST)}", "Tue, 24 Nov 2026 04:00:00 GMT"):
        assert requested_range({**header, "if-range": stale}, DIGEST, SIZE) is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("*", True),
        (f'"{DIGEST}"', True),
        (f'W/"{DIGEST}"', True),
        (f'"{OTHER}", "{DIGEST}"', True),
        (f'"{OTHER}"', False),
        (DIGEST, False),
        ("", False),
    ],
)
def test_if_none_match(header: str | None, expected: bool) -> None:
    assert is_not_modified(header, DIGEST) is expected


def test_the_representation_digest_is_that_of_rfc_9530() -> None:
    encoded = base64.b64encode(hashlib.sha256(b"content").digest()).decode()
    assert representation_digest(DIGEST) == f"sha-256=:{encoded}:"


CONTENT = np.random.default_rng(0).bytes(3 * files.CACHED_BYTES + 17)


class LeaseOf:
    """A lease on a file that lies anywhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = DIGEST
        self.size_bytes = path.stat().st_size
        self.is_released = False

    def release(self) -> None:
        self.is_released = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def sent_by(lease: LeaseOf) -> bytes:
    messages: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        messages.append(message)

    asyncio.run(ArtifactResponse(lease, {})({"type": "http"}, receive, send))
    assert [message["more_body"] for message in messages[1:]] == [True] * (len(messages) - 2) + [False]
    return b"".join(message["body"] for message in messages[1:])


def no_page_cache(*arguments: Any) -> int:
    raise BlockingIOError


def none_after_the_first(*arguments: Any) -> int:
    if arguments[2] > 0:
        raise BlockingIOError
    return preadv(*arguments)


def a_few_bytes(descriptor: int, buffers: Any, *rest: Any) -> int:
    return preadv(descriptor, [memoryview(buffers[0])[:1000]], *rest)


preadv = os.preadv


@pytest.mark.parametrize("reading", [None, no_page_cache, none_after_the_first, a_few_bytes])
def test_all_bytes_are_sent_however_much_of_them_is_cached(
    reading: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(CONTENT)
    lease = LeaseOf(path)
    if reading is not None:
        monkeypatch.setattr(os, "preadv", reading)
    assert sent_by(lease) == CONTENT
    assert lease.is_released


def test_a_file_that_ends_too_soon_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(CONTENT)
    lease = LeaseOf(path)
    lease.size_bytes += 1
    with pytest.raises(OSError, match="is shorter than its"):
        sent_by(lease)
    assert lease.is_released
