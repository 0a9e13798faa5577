"""Who is let in: tokens that work once, names that cannot be taken over, requests that cannot be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.hub.fleet.authentication import USED_TOKENS_KEPT_SECONDS, Authenticator
from service.hub.fleet.errors import NodeConflictError, UnknownTokenError
from service.signing.admin_key import AdminKey
from service.signing.enrolment_tokens import EnrolmentToken
from service.signing.errors import (
    ClockSkewError,
    InvalidAdminKeyError,
    InvalidKeyError,
    InvalidTokenError,
    ReplayedRequestError,
    UnknownKeyError,
    UntrustedSignatureError,
)
from service.signing.keys import KeyPair
from service.signing.node_requests import signed_headers
from service.signing.vault import Vault
from tests.service.hub.fleet.parts import Clock, Parts, open_parts

KEYS = [KeyPair.from_seed(bytes([number]) * 32) for number in range(4)]
TARGET = "/fleet/nodes/a/desired?after=0&wait=0"


class Desk:
    """An admission and what it stands on."""

    def __init__(self, parts: Parts, folder: Path) -> None:
        self.parts = parts
        self.vault = Vault.open(folder / "keys")
        self.admission = Authenticator(
            parts.database,
            parts.writer,
            parts.registry,
            vault=self.vault,
            admin_key=AdminKey("s" * 20),
            clock=parts.clock,
        )

    async def token(self, node: str | None = None, seconds: int = 60) -> str:
        return (await self.admission.create_token(node=node, seconds=seconds))[1]

    async def enroll(self, name: str, token: str, key: KeyPair = KEYS[0]) -> bool:
        return (await self.admission.enroll(name, token, key.public.text, labels={}, capability={}))[1]

    def check(self, key: KeyPair = KEYS[0], **changes: object) -> str:
        signed = {"node": "a", "method": "GET", "target": TARGET, "time_seconds": int(self.parts.clock())}
        headers = signed_headers(key, **{**signed, **changes})
        return self.admission.check_node(headers, method="GET", target=TARGET, body=b"").name


@asynccontextmanager
async def open_desk(folder: Path, clock: Clock) -> AsyncIterator[Desk]:
    async with open_parts(folder, clock) as parts:
        yield Desk(parts, folder)


def with_desk(folder: Path, test: Callable[[Desk], Awaitable[None]], clock: Clock | None = None) -> None:
    async def run() -> None:
        async with open_desk(folder, clock or Clock()) as desk:
            await test(desk)

    asyncio.run(run())


def test_a_token_lets_one_node_in_once_and_the_same_node_may_ask_again(tmp_path: Path) -> None:
    clock = Clock()
    kept: list[str] = []

    async def first(desk: Desk) -> None:
        kept.append(await desk.token())
        assert await desk.enroll("a", kept[0])

    async def second(desk: Desk) -> None:
        assert not await desk.enroll("a", kept[0])
        for name, key in (("a", KEYS[1]), ("b", KEYS[0]), ("b", KEYS[1])):
            with pytest.raises(InvalidTokenError):
                await desk.enroll(name, kept[0], key)
        await desk.parts.registry.remove("a")
        with pytest.raises(InvalidTokenError):
            await desk.enroll("a", kept[0])
        (shown,) = desk.admission.tokens()
        assert (shown.used_by, shown.used_at) == ("a", int(clock()))
        assert not set(shown.view()) & {"secret", "secret_hash"}

    with_desk(tmp_path, first, clock)
    with_desk(tmp_path, second, clock)


def test_of_many_at_once_a_token_lets_one_in(tmp_path: Path) -> None:
    async def run(desk: Desk) -> None:
        token = await desk.token()
        results = await asyncio.gather(
            *(desk.enroll(f"n{number}", token, KEYS[number]) for number in range(4)), return_exceptions=True
        )
        assert sum(result is True for result in results) == 1
        assert sum(isinstance(result, InvalidTokenError) for result in results) == 3
        assert len(desk.parts.registry) == 1

    with_desk(tmp_path, run)


def test_wrong_tokens_and_keys_are_refused(tmp_path: Path) -> None:
    clock = Clock()

    async def run(desk: Desk) -> None:
        token = EnrolmentToken.parse(await desk.token("a"))
        forged = EnrolmentToken(token.id, b"0" * 32, token.root)
        unknown = EnrolmentToken.generate(desk.vault.root)
        for text in (forged.text, unknown.text, "inn1.x.y.z", ""):
            with pytest.raises(InvalidTokenError):
                await desk.enroll("a", text)
        with pytest.raises(InvalidTokenError, match="another node"):
            await desk.enroll("b", token.text)
        with pytest.raises(InvalidKeyError):
            await desk.admission.enroll("a", token.text, "ed25519:AAAA", labels={}, capability={})
        clock.now += 61
        with pytest.raises(InvalidTokenError, match="expired"):
            await desk.enroll("a", token.text)
        assert len(desk.parts.registry) == 0

    with_desk(tmp_path, run, clock)


def test_only_a_token_for_this_very_name_replaces_a_key(tmp_path: Path) -> None:
    async def run(desk: Desk) -> None:
        await desk.enroll("a", await desk.token())
        token = await desk.token()
        with pytest.raises(NodeConflictError):
            await desk.enroll("a", token, KEYS[1])
        assert await desk.enroll("b", token, KEYS[1])  # it was not used up by the refusal
        assert desk.check() == "a"
        assert await desk.enroll("a", await desk.token("a"), KEYS[2])
        with pytest.raises(UntrustedSignatureError):
            desk.check(KEYS[0])
        assert desk.check(KEYS[2]) == "a"

    with_desk(tmp_path, run)


def test_requests_are_checked(tmp_path: Path) -> None:
    clock = Clock()

    async def run(desk: Desk) -> None:
        await desk.enroll("a", await desk.token())
        await desk.enroll("b", await desk.token(), KEYS[1])
        now = int(clock())
        assert desk.check(nonce="n" * 20) == "a"
        with pytest.raises(ReplayedRequestError):
            desk.check(nonce="n" * 20)
        with pytest.raises(UntrustedSignatureError):
            desk.check(KEYS[1])
        for change in ({"method": "PUT"}, {"target": TARGET + "0"}, {"body": b"{}"}):
            with pytest.raises(UntrustedSignatureError):
                desk.check(**change)
        for seconds in (now - 1000, now + 1000):
            with pytest.raises(ClockSkewError) as caught:
                desk.check(time_seconds=seconds)
            assert caught.value.fields["hub_time"] == now
        with pytest.raises(UnknownKeyError):
            desk.check(node="nobody")
        await desk.parts.registry.remove("a")
        desk.admission.forget("a")
        with pytest.raises(UnknownKeyError):
            desk.check()

    with_desk(tmp_path, run, clock)


def test_what_was_signed_before_a_restart_does_not_count_again(tmp_path: Path) -> None:
    clock = Clock()

    async def first(desk: Desk) -> None:
        await desk.enroll("a", await desk.token())
        desk.check(nonce="n" * 20)

    async def second(desk: Desk) -> None:
        with pytest.raises(ClockSkewError):
            desk.check(nonce="n" * 20, time_seconds=int(clock()) - 10)
        assert desk.check(nonce="n" * 20) == "a"

    with_desk(tmp_path, first, clock)
    clock.now += 10
    with_desk(tmp_path, second, clock)


def test_tokens_can_be_taken_back_and_old_ones_go(tmp_path: Path) -> None:
    clock = Clock()

    async def run(desk: Desk) -> None:
        token = await desk.token()
        (record,) = desk.admission.tokens()
        await desk.admission.delete_token(record.id)
        with pytest.raises(InvalidTokenError):
            await desk.enroll("a", token)
        with pytest.raises(UnknownTokenError):
            await desk.admission.delete_token(record.id)
        await desk.token(seconds=10)
        clock.now += USED_TOKENS_KEPT_SECONDS + 11
        await desk.token(seconds=10)
        assert len(desk.admission.tokens()) == 1

    with_desk(tmp_path, run, clock)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic " + "s" * 20, "s" * 20])
def test_administrators_need_the_key(tmp_path: Path, header: str | None) -> None:
    async def run(desk: Desk) -> None:
        desk.admission.check_admin("Bearer " + "s" * 20)
        with pytest.raises(InvalidAdminKeyError):
            desk.admission.check_admin(header)

    with_desk(tmp_path, run)
