"""Bodies are read within their limits, however they arrive."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from service.ground.errors import BodyTooLargeError, UnreadableBodyError
from service.http.body import body_chunks, parse_json_object, parse_small_json_object, read_body
from service.http.errors import BodyTimeoutError, UnsupportedEncodingError


def request(chunks: list[bytes], headers: dict[str, str] | None = None, *, end: str = "done") -> Request:
    """A request whose body comes in chunks and then is `done`, `cut` or `silent`."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if end == "done":
        messages[-1]["more_body"] = False
    elif end == "cut":
        messages.append({"type": "http.disconnect"})

    async def receive() -> dict[str, object]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


def read(chunks: list[bytes], headers: dict[str, str] | None = None, *, limit: int = 100, inflated: int = 200) -> bytes:
    return asyncio.run(read_body(request(chunks, headers), limit_bytes=limit, inflated_limit_bytes=inflated))


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8), st.integers(0, 100))
def test_a_body_comes_back_whole_or_is_refused_whatever_its_chunks(chunks: list[bytes], limit: int) -> None:
    whole = b"".join(chunks)
    if len(whole) > limit:
        with pytest.raises(BodyTooLargeError):
            read(chunks, limit=limit)
    else:
        assert read(chunks, limit=limit) == whole


def test_a_declared_length_is_refused_before_anything_is_read() -> None:
    incoming = request([b"never read"], {"content-length": "101"})
    with pytest.raises(BodyTooLargeError, match="100 bytes"):
        asyncio.run(read_body(incoming, limit_bytes=100, inflated_limit_bytes=100))
    assert asyncio.run(incoming.receive())["body"] == b"never read"


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_bodies_are_inflated(encoding: str, compress) -> None:
    content = b"[" + b"0," * 50 + b"0]"
    packed = compress(content)
    assert read([packed[:7], packed[7:]], {"content-encoding": encoding}) == content


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_small_body_that_inflates_without_end_is_refused(compress) -> None:
    packed = compress(bytes(50_000_000))
    encoding = "gzip" if compress is gzip.compress else "deflate"
    with pytest.raises(BodyTooLargeError, match="inflated"):
        read([packed], {"content-encoding": encoding}, limit=len(packed), inflated=1_000_000)


@pytest.mark.parametrize(
    "spoil", [lambda packed: packed[:-5], lambda packed: packed + b"more", lambda packed: b"no gzip"]
)
def test_damaged_compressed_data_is_unreadable(spoil) -> None:
    with pytest.raises(UnreadableBodyError):
        read([spoil(gzip.compress(b"content"))], {"content-encoding": "gzip"})


def test_other_encodings_are_not_guessed() -> None:
    with pytest.raises(UnsupportedEncodingError, match="'br'"):
        read([b"x"], {"content-encoding": "br"})


def test_a_client_that_stops_sending_is_given_up() -> None:
    async def collect() -> None:
        async for _ in body_chunks(request([b"x"], end="silent"), limit_bytes=10, idle_seconds=0.01):
            pass

    with pytest.raises(BodyTimeoutError):
        asyncio.run(collect())


def test_a_client_that_goes_away_is_no_error_of_the_body() -> None:
    async def collect() -> None:
        async for _ in body_chunks(request([b"x"], end="cut"), limit_bytes=10):
            pass

    with pytest.raises(ClientDisconnect):
        asyncio.run(collect())


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=4), values, max_size=4))
def test_objects_are_read_as_the_standard_library_reads_them(document: dict[str, object]) -> None:
    body = json.dumps(document).encode()
    assert parse_json_object(body) == document
    assert parse_small_json_object(body) == document


@pytest.mark.parametrize("parse", [parse_json_object, parse_small_json_object])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b'"text"',
        b"{'a': 1}",
        b'{"a": 1} trailing',
        b'{"a": \xff}',
        b"\xff\xfe{\x00}\x00",
        b'{"a": nan}',
        b'{"a": ' + b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"e",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_json_object_is_unreadable(parse, body: bytes) -> None:
    with pytest.raises(UnreadableBodyError) as caught:
        parse(body)
    assert len(caught.value.message) < 400


def test_numbers_that_json_does_not_have_are_kept_for_whoever_can_name_their_place() -> None:
    document = parse_json_object(b'{"x": [NaN, Infinity, -Infinity, 1e999]}')
    assert [math.isfinite(value) for value in document["x"]] == [False] * 4


def test_a_member_given_twice_is_refused_where_bodies_are_small() -> None:
    with pytest.raises(UnreadableBodyError, match="'a' is given twice"):
        parse_small_json_object(b'{"a": 1, "b": 2, "a": 3}')


def test_integers_of_any_size_are_exact_where_bodies_are_small() -> None:
    assert parse_small_json_object(b'{"a": 123456789012345678901234567890}') == {"a": 123456789012345678901234567890}
