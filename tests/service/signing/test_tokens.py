"""Enrolment tokens and the admin key: one spelling, no leaks, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.signing import admin_key as admin
from service.signing import enrolment_tokens as tokens
from service.signing.admin_key import AdminKey
from service.signing.enrolment_tokens import EnrolmentToken, TokenRecord
from service.signing.errors import InvalidAdminKeyError, InvalidTokenError, UnknownKeyError
from service.signing.keys import PublicKey, encode_base64url
from tests.service.signing.samples import NOW, ROOT, STRANGER

TOKEN = EnrolmentToken("0123456789ab", bytes(range(32)), ROOT.public)


def record(**changes: Any) -> TokenRecord:
    fields: dict[str, Any] = {"id": TOKEN.id, "secret_hash": TOKEN.secret_hash, "node": None, "expires": NOW + 3600}
    return TokenRecord(**(fields | changes))


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is compared in constant time while a test runs."""
    calls: list[Any] = []
    real: Callable[[Any, Any], bool] = hmac.compare_digest

    class Recording:
        @staticmethod
        def compare_digest(left: Any, right: Any) -> bool:
            calls.append((left, right))
            return real(left, right)

    monkeypatch.setattr(tokens, "hmac", Recording)
    monkeypatch.setattr(admin, "hmac", Recording)
    return calls


def test_a_token_has_four_parts_and_comes_back() -> None:
    prefix, identifier, secret, root = TOKEN.text.split(".")
    assert (prefix, identifier) == ("inn1", "0123456789ab")
    assert secret == encode_base64url(bytes(range(32)))
    assert PublicKey.parse(f"ed25519:{root}") == ROOT.public
    assert EnrolmentToken.parse(TOKEN.text) == EnrolmentToken.parse(f" {TOKEN.text}\n") == TOKEN


def test_new_tokens_differ() -> None:
    first, second = EnrolmentToken.generate(ROOT.public), EnrolmentToken.generate(ROOT.public)
    assert first.id != second.id
    assert first.secret != second.secret
    assert EnrolmentToken.parse(first.text) == first


PARTS = TOKEN.text.split(".")
WEAK = encode_base64url((1).to_bytes(32, "little"))


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "inn1",
        "....",
        TOKEN.text + ".",
        TOKEN.text[:-1],
        TOKEN.text + "A",
        TOKEN.text.replace("inn1", "inn2"),
        TOKEN.text.replace("ab.", "AB."),
        TOKEN.text.replace("0123", "012"),
        ".".join([PARTS[0], PARTS[1], PARTS[2] + "=", PARTS[3]]),
        ".".join([PARTS[0], PARTS[1], PARTS[2][:-1] + "9", PARTS[3]]),
        ".".join([PARTS[0], PARTS[1], PARTS[2], WEAK]),
        ".".join([PARTS[0], PARTS[1], PARTS[2], "é" * 43]),
        "x" * 1_000_000,
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_anything_else_is_no_token_and_is_not_shown(text: Any) -> None:
    with pytest.raises(InvalidTokenError) as caught:
        EnrolmentToken.parse(text)
    assert PARTS[2][:12] not in caught.value.message


@given(st.text(max_size=120))
def test_no_text_makes_the_parser_fail_otherwise(text: str) -> None:
    with pytest.raises(InvalidTokenError):
        EnrolmentToken.parse(text)


def test_the_hub_keeps_a_hash_only_and_nothing_shows_the_secret() -> None:
    assert TOKEN.secret_hash == hashlib.sha256(bytes(range(32))).hexdigest()
    for shown in (repr(TOKEN), repr(record())):
        assert PARTS[2] not in shown
        assert TOKEN.secret_hash not in shown
        assert repr(TOKEN.secret) not in shown


def test_a_record_lets_its_token_in_once_and_in_time(compared: list[Any]) -> None:
    record().check(TOKEN, node="a", now=NOW)
    record(node="a").check(TOKEN, node="a", now=NOW)
    assert compared == [(TOKEN.secret_hash.encode(), TOKEN.secret_hash.encode())] * 2
    for wrong, message in (
        (record(node="b"), "another node"),
        (record(expires=NOW), "expired"),
        (record(used_at=NOW - 1), "used already"),
        (record(secret_hash="0" * 64), "knows no token"),
        (record(id="ffffffffffff"), "knows no token"),
    ):
        with pytest.raises(InvalidTokenError, match=message):
            wrong.check(TOKEN, node="a", now=NOW)


def test_a_wrong_secret_learns_nothing_of_the_record() -> None:
    other = EnrolmentToken(TOKEN.id, bytes(32), ROOT.public)
    messages = set()
    for kept in (record(), record(used_at=1), record(expires=1), record(node="b")):
        with pytest.raises(InvalidTokenError) as caught:
            kept.check(other, node="a", now=NOW)
        messages.add(caught.value.message)
    assert messages == {tokens.unknown_token(TOKEN.id).message}


def test_a_token_names_the_root_key_of_its_hub() -> None:
    TOKEN.check_root(ROOT.public)
    with pytest.raises(UnknownKeyError, match=STRANGER.key_id):
        TOKEN.check_root(STRANGER.public)


def test_an_admin_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "fleet" / "admin-key"
    key = AdminKey.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    text = path.read_text().strip()
    assert len(text) == 43
    assert key.authorization == f"Bearer {text}"
    AdminKey.load_or_create(path).check(key.authorization)
    assert AdminKey.load(path).authorization == key.authorization
    assert text not in repr(key)


def test_an_admin_key_that_another_process_made_meanwhile_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "admin-key"
    path.write_text("made-by-another-process\n")
    monkeypatch.setattr(Path, "exists", lambda self: False)
    monkeypatch.setattr(admin, "make_private_folder", lambda folder: None)
    AdminKey.load_or_create(path).check("Bearer made-by-another-process")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Basic correct-horse-battery",
        "correct-horse-battery",
        "Bearer correct-horse-batterY",
        "Bearer correct-horse-battery2",
        "Bearer é",
        "Bearer \ud800",
    ],
)
def test_only_the_admin_key_opens(authorization: str | None, compared: list[Any]) -> None:
    key = AdminKey("correct-horse-battery")
    key.check("Bearer correct-horse-battery")
    key.check("bearer correct-horse-battery")
    assert len(compared) == 2
    with pytest.raises(InvalidAdminKeyError, match="administrators"):
        key.check(authorization)


@pytest.mark.parametrize("secret", ["", "short", "x" * 1025, "with space in the middle", "é" * 20, "x" * 20 + "\n"])
def test_weak_and_odd_admin_keys_are_refused(secret: str) -> None:
    with pytest.raises(InvalidAdminKeyError, match="INN_ADMIN_KEY"):
        AdminKey(secret)


def test_a_damaged_admin_key_file_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"\0" * 100, b"\xff" * 50, b"x" * 100_000):
        (tmp_path / "admin-key").write_bytes(content)
        with pytest.raises(InvalidAdminKeyError):
            AdminKey.load_or_create(tmp_path / "admin-key")
