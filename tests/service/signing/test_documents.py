"""Signed documents: the examples of RFC 8785, a reader that takes one meaning only, and no way to change anything."""

from __future__ import annotations

import base64
import copy
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from service.ground.errors import ServiceError
from service.signing.envelope import MAX_DEPTH, MAX_DOCUMENT_BYTES, canonical, parse_json, sign, trusted_time, verify
from service.signing.errors import InvalidDocumentError, RevokedKeyError, UnknownKeyError, UntrustedSignatureError
from tests.service.signing.samples import FIRST, SECOND, STRANGER, release_content

KIND = "inn-release/1"
TRUSTED = {FIRST.key_id: FIRST.public, SECOND.key_id: SECOND.public}

# RFC 8785, appendix B: the bits of a double and its text.
NUMBERS = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Half surrogate pairs are no text.
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(("bits", "text"), NUMBERS)
def test_numbers_are_written_as_in_rfc_8785(bits: str, text: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(value) == text.encode()
    assert canonical(parse_json(text.encode(), "x")) == text.encode()


def test_the_example_of_rfc_8785_section_3_2_2() -> None:
    source = rb"""{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"""
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(parse_json(source, "x")) == expected.encode()


def test_members_are_sorted_as_in_rfc_8785_section_3_2_3() -> None:
    source = rb"""{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
      "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control",
      "\u00f6": "Latin Small Letter O With Diaeresis"}"""
    order = list(json.loads(canonical(parse_json(source, "x"))).values())
    assert order == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


@given(JSON_VALUES)
def test_the_canonical_form_survives_any_way_of_sending(value: Any) -> None:
    form = canonical(value)
    for sent in (form, json.dumps(value).encode(), json.dumps(value, indent=2, ensure_ascii=False).encode()):
        assert canonical(parse_json(sent, "x")) == form


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{}{}",
        b'{"a":1,}',
        b"{'a':1}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e400}',
        b'{"a":' + b"9" * 400 + b"}",
        b'{"a":' + b"9" * 10_000 + b"}",
        b'{"a":1,"a":1}',
        b'{"b":{"a":1,"\\u0061":2}}',
        b'{"a":"\\ud800"}',
        b'{"\\udfff":1}',
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b'{"a":"\x01"}',
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'"' + b"a" * MAX_DOCUMENT_BYTES + b'"',
    ],
)
def test_json_with_no_meaning_or_two_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidDocumentError):
        parse_json(content, "x")


def test_limits_are_where_they_are_said_to_be() -> None:
    parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "x")
    parse_json(b'"' + b"a" * (MAX_DOCUMENT_BYTES - 2) + b'"', "x")


@pytest.mark.parametrize(
    "value",
    [
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": 2**53},
        {"a": 10**5000},
        {"a": (1, 2)},
        {"a": b"x"},
        {"a": {1}},
        {1: "a"},
        {None: 1},
        {("a",): 1},
        {"a": "\ud800"},
        {"\ud800": 1},
    ],
)
def test_values_that_are_no_json_have_no_canonical_form(value: Any) -> None:
    with pytest.raises(InvalidDocumentError):
        canonical(value)


def test_a_value_that_holds_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["me"] = value
    with pytest.raises(InvalidDocumentError, match="deep"):
        canonical(value)


def test_a_signature_covers_the_type_and_the_canonical_form() -> None:
    content = {"type": "inn-test/1", "b": 1, "a": [True, None, "x"]}
    document = sign(content, [FIRST])
    assert document["signed"] == content
    (entry,) = document["signatures"]
    assert entry["key_id"] == FIRST.key_id
    message = b'inn-service inn-test/1\n{"a":[true,null,"x"],"b":1,"type":"inn-test/1"}'
    key = Ed25519PublicKey.from_public_bytes(FIRST.public.raw)
    key.verify(base64.b64decode(entry["signature"]), message)


def test_a_document_is_verified_in_any_json_it_comes_in() -> None:
    document = sign(release_content(), [FIRST])
    sent = json.dumps(document, indent=3).encode()
    assert verify(document, TRUSTED, KIND) == verify(sent, TRUSTED, KIND) == document["signed"] == release_content()


def test_a_verified_document_is_a_copy() -> None:
    document = sign(release_content(), [FIRST])
    verify(document, TRUSTED, KIND)["manifest"]["params"] = 1
    assert verify(document, TRUSTED, KIND)["manifest"]["params"] == 4982


def test_a_signature_over_another_type_never_holds() -> None:
    release = sign(release_content(), [FIRST])
    probe = sign({**release_content(), "type": "inn-probe/1"}, [FIRST])
    with pytest.raises(InvalidDocumentError, match="inn-probe/1"):
        verify(probe, TRUSTED, KIND)
    with pytest.raises(UntrustedSignatureError):
        verify({"signed": release["signed"], "signatures": probe["signatures"]}, TRUSTED, KIND)
    bare = base64.b64encode(FIRST.sign(canonical(release_content()))).decode()
    with pytest.raises(UntrustedSignatureError):
        verify(
            {"signed": release["signed"], "signatures": [{"key_id": FIRST.key_id, "signature": bare}]}, TRUSTED, KIND
        )


def test_unknown_and_revoked_signers_have_their_own_errors() -> None:
    document = sign(release_content(), [STRANGER])
    with pytest.raises(UnknownKeyError, match=STRANGER.key_id):
        verify(document, TRUSTED, KIND)
    with pytest.raises(UnknownKeyError, match="none"):
        verify(document, {}, KIND)
    with pytest.raises(RevokedKeyError, match=STRANGER.key_id):
        verify(document, TRUSTED, KIND, revoked=[STRANGER.key_id])


def test_one_trusted_signature_is_enough_and_none_of_them_may_be_wrong() -> None:
    document = sign(release_content(), [STRANGER, FIRST])
    assert verify(document, TRUSTED, KIND) == release_content()
    both = sign(release_content(), [FIRST, SECOND])
    assert verify(both, TRUSTED, KIND) == release_content()
    both["signatures"][1]["signature"] = both["signatures"][0]["signature"]
    with pytest.raises(UntrustedSignatureError, match=SECOND.key_id):
        verify(both, TRUSTED, KIND)


def test_a_stranger_cannot_sign_in_the_name_of_a_trusted_key() -> None:
    document = sign(release_content(), [STRANGER])
    document["signatures"][0]["key_id"] = FIRST.key_id
    with pytest.raises(UntrustedSignatureError):
        verify(document, TRUSTED, KIND)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list) and value:
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(child, (*path, key))
    else:
        yield path


SIGNED = sign(release_content(), [FIRST])
LEAVES = list(leaves(SIGNED))


def holder(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path[:-1]:
        document = document[step]
    return document


@given(st.sampled_from(LEAVES), JSON_VALUES)
def test_no_member_can_be_changed(path: tuple[Any, ...], value: Any) -> None:
    document = copy.deepcopy(SIGNED)
    inner = holder(document, path)
    before = canonical(document)
    inner[path[-1]] = value
    if canonical(document) == before:
        assert verify(document, TRUSTED, KIND)
    else:
        with pytest.raises(ServiceError):
            verify(document, TRUSTED, KIND)


@pytest.mark.parametrize("path", LEAVES, ids=str)
def test_no_member_can_be_removed_or_added(path: tuple[Any, ...]) -> None:
    document = copy.deepcopy(SIGNED)
    del holder(document, path)[path[-1]]
    with pytest.raises(ServiceError):
        verify(document, TRUSTED, KIND)
    document = copy.deepcopy(SIGNED)
    inner = holder(document, path)
    if isinstance(inner, dict):
        inner["more"] = 1
    else:
        inner.append(1)
    with pytest.raises(ServiceError):
        verify(document, TRUSTED, KIND)


@given(st.data())
def test_no_bit_of_a_signature_can_be_changed(data: st.DataObject) -> None:
    raw = bytearray(base64.b64decode(SIGNED["signatures"][0]["signature"]))
    raw[data.draw(st.integers(0, 63))] ^= 1 << data.draw(st.integers(0, 7))
    document = copy.deepcopy(SIGNED)
    document["signatures"][0]["signature"] = base64.b64encode(raw).decode()
    with pytest.raises(UntrustedSignatureError):
        verify(document, TRUSTED, KIND)


GOOD = SIGNED["signatures"][0]


@pytest.mark.parametrize(
    "signatures",
    [
        None,
        {},
        [],
        [GOOD] * 2,
        [{**GOOD, "key_id": f"{number:016x}"} for number in range(9)],
        [{"key_id": FIRST.key_id}],
        [{**GOOD, "alg": "none"}],
        [{**GOOD, "key_id": FIRST.key_id.upper()}],
        [{**GOOD, "key_id": 7}],
        [{**GOOD, "signature": None}],
        [{**GOOD, "signature": ""}],
        [{**GOOD, "signature": GOOD["signature"].rstrip("=")}],
        [{**GOOD, "signature": GOOD["signature"] + "\n"}],
        [{**GOOD, "signature": "!" + GOOD["signature"][1:]}],
        # the last character before the padding carries four bits that mean nothing
        [{**GOOD, "signature": GOOD["signature"][:85] + chr(ord(GOOD["signature"][85]) + 1) + "=="}],
    ],
)
def test_malformed_signatures_are_refused(signatures: Any) -> None:
    with pytest.raises((InvalidDocumentError, UntrustedSignatureError)):
        verify({"signed": SIGNED["signed"], "signatures": signatures}, TRUSTED, KIND)


@pytest.mark.parametrize(
    "document",
    [[], {}, {"signed": {}}, {**SIGNED, "more": 1}, {**SIGNED, "signed": []}, {**SIGNED, "signed": {"type": True}}],
)
def test_malformed_documents_are_refused(document: Any) -> None:
    with pytest.raises(InvalidDocumentError):
        verify(document, TRUSTED, KIND)


@pytest.mark.parametrize("kind", [None, "", "release/1", "inn-release", "inn-release/1\n", "inn-Release/1", 7])
def test_only_a_proper_type_is_signed(kind: Any) -> None:
    with pytest.raises(InvalidDocumentError):
        sign({"type": kind}, [FIRST])


def test_what_nobody_would_read_is_not_signed() -> None:
    with pytest.raises(InvalidDocumentError, match="bytes"):
        sign({"type": "inn-test/1", "a": "x" * MAX_DOCUMENT_BYTES}, [FIRST])
    with pytest.raises(InvalidDocumentError, match="0"):
        sign({"type": "inn-test/1"}, [])
    with pytest.raises(InvalidDocumentError, match="9"):
        sign({"type": "inn-test/1"}, [FIRST] * 9)


def test_trusted_time_never_goes_back() -> None:
    assert trusted_time(clock=1000.9) == 1000
    assert trusted_time(clock=0, seen=[500, 2000, 1500]) == 2000
    assert trusted_time(clock=3000, seen=[2000]) == 3000
