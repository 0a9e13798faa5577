"""Signed documents: JSON in the one form of RFC 8785, signatures over it, and a reader that refuses what is odd.

A document is `{"signed": {"type": …, …}, "signatures": [{"key_id", "signature"}]}`. A signature covers
`inn-service <type>`, a line feed and the canonical form of `signed`: one made for a document of one type never holds
for another, nor for anything else that a key signs.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Never

import rfc8785

from service.signing.errors import InvalidDocumentError, RevokedKeyError, UnknownKeyError, UntrustedSignatureError
from service.signing.fields import MAX_INTEGER, array, key_id, members, text
from service.signing.keys import SIGNATURE_BYTES, KeyPair, PublicKey

MAX_DOCUMENT_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_SIGNATURES = 8
TYPE_PATTERN = r"^inn-[a-z]{1,32}/[0-9]{1,4}$"
_CONTEXT = b"inn-service "
_MAX_INTEGER_DIGITS = 16

Document = dict[str, Any]
"""`{"signed": …, "signatures": …}`, as JSON gives it."""


def parse_json(content: bytes, what: str) -> Any:
    """Read JSON that has one meaning only.

    Args:
        content: UTF-8 without a byte order mark.
        what: name of the document, for messages.

    Returns:
        The value. An integer that a double cannot hold exactly is given as a float, as other readers see it.

    Raises:
        InvalidDocumentError: longer than `MAX_DOCUMENT_BYTES` (found before anything is read), not JSON, a member
            twice in one object, NaN or an infinity, deeper than `MAX_DEPTH`, or text that is not Unicode.
    """
    if len(content) > MAX_DOCUMENT_BYTES:
        raise InvalidDocumentError(what, f"it has {len(content):,} bytes, at most {MAX_DOCUMENT_BYTES:,} are read")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise InvalidDocumentError(what, "an object has a member twice; which one counts is anyone's guess")
        return found

    def constant(name: str) -> Never:
        raise InvalidDocumentError(what, f"{name} is no number of JSON")

    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant, parse_int=_integer
        )
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, InvalidDocumentError):
            raise
        raise InvalidDocumentError(what, f"it is no JSON that can be read ({str(exc)[:120]})") from exc
    check_plain(value, what)
    return value


def check_plain(value: Any, what: str) -> None:
    """Check that a value is JSON: its types exactly, finite numbers, Unicode text, at most `MAX_DEPTH` deep.

    Raises:
        InvalidDocumentError: it is not.
    """
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        kind = type(item)
        if kind in (dict, list):
            if depth == MAX_DEPTH:
                raise InvalidDocumentError(what, f"it is more than {MAX_DEPTH} levels deep")
            if kind is dict:
                pending.extend((key, -1) for key in item)
                item = item.values()
            pending.extend((child, depth + 1) for child in item)
        elif depth == -1 and kind is not str:
            raise InvalidDocumentError(what, f"the member name {item!r} is no text")
        elif kind is str:
            try:
                item.encode()
            except UnicodeEncodeError as exc:
                raise InvalidDocumentError(what, "a text holds half a surrogate pair") from exc
        elif kind is int:
            if abs(item) > MAX_INTEGER:
                raise InvalidDocumentError(what, f"an integer is beyond ±{MAX_INTEGER}; no double holds it exactly")
        elif kind is float:
            if not math.isfinite(item):
                raise InvalidDocumentError(what, f"{item} is no number of JSON")
        elif item is not None and kind is not bool:
            raise InvalidDocumentError(what, f"a value of type {kind.__name__} is none of JSON")


def canonical(value: Any, what: str = "the document") -> bytes:
    """The one form of a JSON value, RFC 8785: members by name, shortest numbers, no space.

    Raises:
        InvalidDocumentError: the value is not JSON (see `check_plain`).
    """
    check_plain(value, what)
    return rfc8785.dumps(value)


def sign(signed: Mapping[str, Any], keys: Sequence[KeyPair]) -> Document:
    """Sign with one key or several.

    Args:
        signed: content with the member `type`.
        keys: who signs, in this order, at most `MAX_SIGNATURES`.

    Returns:
        The document; `signed` in it is a copy.

    Raises:
        InvalidDocumentError: `signed` has no type, is not JSON, or makes a document that readers would refuse.
    """
    kind = text(signed.get("type"), "/signed/type", maximum_length=40, pattern=TYPE_PATTERN)
    if not 1 <= len(keys) <= MAX_SIGNATURES:
        raise InvalidDocumentError("/signatures", f"1 to {MAX_SIGNATURES} keys sign, not {len(keys)}")
    content = canonical(dict(signed), kind)
    message = _message(kind, content)
    document = {
        "signed": json.loads(content, parse_int=_integer),
        "signatures": [
            {"key_id": key.key_id, "signature": base64.b64encode(key.sign(message)).decode()} for key in keys
        ],
    }
    if len(canonical(document, kind)) > MAX_DOCUMENT_BYTES:
        raise InvalidDocumentError(kind, f"it has more than {MAX_DOCUMENT_BYTES:,} bytes; nobody would read it")
    return document


def verify(
    document: bytes | Mapping[str, Any],
    trusted: Mapping[str, PublicKey],
    kind: str,
    *,
    revoked: Collection[str] = (),
) -> dict[str, Any]:
    """The signed content, when a trusted key signed it as a document of this type.

    Signatures of keys that are not trusted are passed over (a root rotation has the old and the new one's); a
    signature that names a trusted key and does not hold makes the document untrusted whatever else it has.

    Args:
        document: bytes as received, or what `parse_json` made of them.
        trusted: the keys that count, by id.
        kind: the type expected, such as `inn-release/1`.
        revoked: ids of keys that are known not to count, for a better error.

    Returns:
        A copy of `signed`; whether its members mean anything is for the caller to check.

    Raises:
        InvalidDocumentError: the document is malformed or has another type.
        UnknownKeyError: no trusted key is among the signers.
        RevokedKeyError: none is, and a revoked one is.
        UntrustedSignatureError: a signature does not hold.
    """
    value = parse_json(document, kind) if isinstance(document, bytes) else document
    if not isinstance(document, bytes):
        check_plain(document, kind)
    outer = members(value, kind, required=("signed", "signatures"))
    signatures = _signatures(outer["signatures"], kind)
    signed = outer["signed"]
    if type(signed) is not dict or signed.get("type") != kind:
        found = repr(signed.get("type"))[:60] if type(signed) is dict else "nothing"
        raise InvalidDocumentError(f"{kind}/signed/type", f"it is {found}, expected '{kind}'")
    content = canonical(signed, kind)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise InvalidDocumentError(kind, f"it has {len(content):,} bytes, at most {MAX_DOCUMENT_BYTES:,} are read")
    message = _message(kind, content)
    counting = [name for name in signatures if name in trusted]
    for name in counting:
        if not trusted[name].is_signature(signatures[name], message):
            raise UntrustedSignatureError(
                f"the signature of key {name} does not hold for this {kind} document; it was changed or forged: "
                "fetch it anew, and ask who runs the hub if that does not help",
                key_id=name,
            )
    if not counting:
        _refuse_signers(list(signatures), kind, trusted, revoked)
    parsed: dict[str, Any] = json.loads(content, parse_int=_integer)
    return parsed


def trusted_time(*, clock: float, seen: Sequence[int] = ()) -> int:
    """The time to judge expiry by: the greatest of a clock that may be wrong and of all signed times seen so far.

    Args:
        clock: what the device believes, seconds since the epoch.
        seen: the last trusted time and the `issued` of verified documents.
    """
    return max((int(clock), *seen))


def _refuse_signers(
    signers: Sequence[str], kind: str, trusted: Mapping[str, PublicKey], revoked: Collection[str]
) -> Never:
    gone = [name for name in signers if name in revoked]
    if gone:
        raise RevokedKeyError(
            f"this {kind} document is signed by key {gone[0]}, which was revoked; wait for one signed anew",
            key_id=gone[0],
        )
    raise UnknownKeyError(
        f"this {kind} document is signed by {', '.join(signers)}; trusted are {', '.join(sorted(trusted)) or 'none'}: "
        "fetch the keyring anew, or enroll with a token of the hub that it comes from",
        key_ids=list(signers),
    )


def _signatures(value: Any, kind: str) -> dict[str, bytes]:
    where = f"{kind}/signatures"
    entries = array(value, where, minimum=1, maximum=MAX_SIGNATURES)
    found: dict[str, bytes] = {}
    for position, entry in enumerate(entries):
        fields = members(entry, f"{where}/{position}", required=("key_id", "signature"))
        name = key_id(fields["key_id"], f"{where}/{position}/key_id")
        if name in found:
            raise InvalidDocumentError(f"{where}/{position}/key_id", f"{name} is there twice")
        found[name] = decode_signature(fields["signature"], f"{where}/{position}/signature")
    return found


def decode_signature(value: object, where: str) -> bytes:
    """The 64 bytes of a signature in base64, in its one spelling.

    Raises:
        UntrustedSignatureError: it is none.
    """
    if isinstance(value, str) and len(value) == 4 * ((SIGNATURE_BYTES + 2) // 3) and value.isascii():
        try:
            content = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            content = b""
        if len(content) == SIGNATURE_BYTES and base64.b64encode(content).decode() == value:
            return content
    raise UntrustedSignatureError(f"{where} is no signature: {SIGNATURE_BYTES} bytes in base64 are needed")


def _message(kind: str, content: bytes) -> bytes:
    return _CONTEXT + kind.encode() + b"\n" + content


def _integer(digits: str) -> int | float:
    # Long ones first: reading them is slow, and no double holds them exactly.
    if len(digits) > _MAX_INTEGER_DIGITS + 1 or abs(int(digits)) > MAX_INTEGER:
        return float(digits)
    return int(digits)
