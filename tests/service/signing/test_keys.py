"""Keys: the vectors of RFC 8032, one spelling only, weak keys refused, files that only their owner reads."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from service.signing.errors import InvalidKeyError
from service.signing.keys import KeyPair, PublicKey, decode_base64url, encode_base64url
from tests.service.signing.samples import FIRST, SECOND

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P

# RFC 8032, section 7.1, tests 1 to 3: secret key, public key, message, signature.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe"
        "24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302a"
        "eeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed2"
        "8dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), VECTORS)
def test_signatures_are_those_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    key = KeyPair.from_seed(bytes.fromhex(seed))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert key.public.is_signature(bytes.fromhex(signature), bytes.fromhex(message))
    assert not key.public.is_signature(bytes.fromhex(signature), bytes.fromhex(message) + b"x")


def test_a_key_id_is_the_start_of_the_hash_of_the_public_bytes() -> None:
    key = KeyPair.generate()
    assert key.key_id == key.public.key_id == hashlib.sha256(key.public.raw).hexdigest()[:16]


def test_public_keys_travel_as_text_and_come_back() -> None:
    assert PublicKey.parse(FIRST.public.text) == FIRST.public
    assert PublicKey.parse(FIRST.public.text) != SECOND.public
    assert FIRST.public.text.startswith("ed25519:")
    assert "=" not in FIRST.public.text


def _other_last_character(text: str) -> str:
    """Another spelling of the same bytes: the last character carries two bits that mean nothing."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        b"ed25519:",
        "",
        "ed25519:",
        FIRST.public.text.removeprefix("ed25519:"),
        FIRST.public.text + "=",
        FIRST.public.text + "\n",
        FIRST.public.text[:-1],
        FIRST.public.text.replace("ed25519", "ED25519"),
        "ed25519:" + "é" * 43,
        "ed25519:" + "+" * 43,
        _other_last_character(FIRST.public.text),
    ],
)
def test_anything_else_is_no_public_key(value: object) -> None:
    with pytest.raises(InvalidKeyError):
        PublicKey.parse(value)


def _x_of(y: int) -> int | None:
    """The x-coordinate of a point of Ed25519 (RFC 8032, section 5.1.3), or None."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    for candidate in (root, root * pow(2, (P - 1) // 4, P) % P):
        if candidate * candidate % P == square:
            return candidate
    return None


def _doubled(x: int, y: int) -> tuple[int, int]:
    product = D * x * x * y * y
    return (
        2 * x * y * pow(1 + product, -1, P) % P,
        (y * y + x * x) * pow(1 - product, -1, P) % P,
    )


ORDER_8 = [
    int.from_bytes(bytes.fromhex(text), "little")
    for text in (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
]


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", [0, 1, P - 1, *ORDER_8])
def test_points_of_small_order_are_no_keys(y: int, sign: int) -> None:
    x = _x_of(y)
    assert x is not None
    point = (x, y)
    for _ in range(3):
        point = _doubled(*point)
    assert point == (0, 1)  # eight times the point is nothing
    with pytest.raises(InvalidKeyError, match="weak"):
        PublicKey((y | sign << 255).to_bytes(32, "little"))


def test_why_points_of_small_order_are_refused() -> None:
    neutral = (1).to_bytes(32, "little")
    forged = neutral + bytes(32)
    Ed25519PublicKey.from_public_bytes(neutral).verify(forged, b"anything at all")
    with pytest.raises(InvalidKeyError):
        PublicKey(neutral)


@pytest.mark.parametrize("y", [P, P + 1, 2**255 - 1])
def test_a_point_has_one_spelling(y: int) -> None:
    with pytest.raises(InvalidKeyError, match="weak"):
        PublicKey(y.to_bytes(32, "little"))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_keys_have_32_bytes(size: int) -> None:
    with pytest.raises(InvalidKeyError, match=f"has {size}"):
        PublicKey(bytes(size))
    with pytest.raises(InvalidKeyError, match=f"has {size}"):
        KeyPair.from_seed(bytes(size))


@given(st.binary(max_size=80))
def test_base64url_has_one_spelling(content: bytes) -> None:
    text = encode_base64url(content)
    assert decode_base64url(text, n_bytes=len(content)) == content
    for wrong in (text + "=", text + "A", " " + text, text + "\n"):
        assert decode_base64url(wrong, n_bytes=len(content)) is None


def test_saved_keys_are_for_their_owner_only_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    before = os.umask(0)
    try:
        FIRST.save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyPair.load(path).public == FIRST.public
    assert load_pem_private_key(path.read_bytes(), None).public_key() == Ed25519PublicKey.from_public_bytes(
        FIRST.public.raw
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pem"]


def test_saving_replaces_only_when_told_to(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    FIRST.save(path)
    with pytest.raises(FileExistsError):
        SECOND.save(path, replace=False)
    assert KeyPair.load(path).public == FIRST.public
    SECOND.save(path)
    assert KeyPair.load(path).public == SECOND.public
    assert len(list(tmp_path.iterdir())) == 1


def test_files_without_such_a_key_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    FIRST.save(path)
    pem = path.read_bytes()
    private = load_pem_private_key(pem, None)
    encrypted = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    other = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"nothing", pem[: len(pem) // 2], b"\0" * 10_000, encrypted, other, pem + b" " * 5000):
        path.write_bytes(content)
        with pytest.raises(InvalidKeyError, match=r"key\.pem"):
            KeyPair.load(path)
    with pytest.raises(FileNotFoundError):
        KeyPair.load(tmp_path / "none.pem")


def test_a_private_key_never_shows_itself() -> None:
    assert repr(FIRST) == f"KeyPair({FIRST.key_id})"
