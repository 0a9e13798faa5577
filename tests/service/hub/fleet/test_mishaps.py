"""Mishaps of a hub: its clock is set back, a name is used again, the upkeep meets a defect."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.hub.fleet import fleet
from service.hub.fleet.authentication import Authenticator
from service.hub.fleet.documents import Change
from service.hub.fleet.records import ADMIN
from service.signing.admin_key import AdminKey
from service.signing.errors import ClockSkewError, ReplayedRequestError
from service.signing.keys import KeyPair
from service.signing.node_requests import RequestVerifier, signed_headers
from service.signing.vault import Vault
from tests.service.hub.fleet.parts import Clock, desired, open_parts, reported

KEY = KeyPair.from_seed(b"k" * 32)
TARGET = "/fleet/nodes/n0/desired?after=0&wait=0"


def signed(seconds: int) -> dict[str, str]:
    return signed_headers(KEY, node="n0", method="GET", target=TARGET, time_seconds=seconds)


def test_a_clock_that_is_set_back_does_not_lock_the_fleet_out(tmp_path: Path) -> None:
    async def run() -> None:
        clock = Clock()
        async with open_parts(tmp_path, clock) as parts:
            admission = Authenticator(
                parts.database,
                parts.writer,
                parts.registry,
                vault=Vault.open(tmp_path / "keys"),
                admin_key=AdminKey("s" * 20),
                clock=clock,
            )
            await parts.enroll("n0")
            clock.now -= 3600  # the time that it started with was wrong
            with pytest.raises(ClockSkewError) as caught:
                admission.check_node(signed(int(clock())), method="GET", target=TARGET, body=b"")
            told = caught.value.fields["hub_time"]
            assert admission.check_node(signed(told), method="GET", target=TARGET, body=b"").name == "n0"

    asyncio.run(run())


def test_while_a_clock_is_behind_its_start_the_time_of_requests_goes_on() -> None:
    clock, running = Clock(5000.0), Clock(70.0)
    verifier = RequestVerifier(clock=clock, running=running, not_before=5000, max_nonces=4)

    def check(headers: dict[str, str]) -> str:
        return verifier.check(headers, method="GET", target=TARGET, body=b"", key_of=lambda node: KEY.public)

    first = signed(5000)
    check(first)
    clock.now = 100.0
    for seconds in range(0, 4000, 200):
        running.now = 70.0 + seconds
        check(signed(5000 + seconds))
    with pytest.raises(ClockSkewError):
        check(first)
    clock.now = 9500.0
    last = signed(9500)
    check(last)
    with pytest.raises(ReplayedRequestError):
        check(last)


def test_what_a_node_was_started_with_counts_also_when_the_hub_was_restored(tmp_path: Path) -> None:
    async def run() -> None:
        async with open_parts(tmp_path) as parts:
            node = await parts.enroll("n0")
            await parts.registry.set_desired("n0", desired(10), origin=ADMIN)
            assert node.current is not None
            declared = {"model": "toy", "budget": {"unit": "params", "value": 70}}
            report = reported("committed", node.current, observed_generation=57, declared=declared)
            await parts.registry.report(node, report)
            assert (node.current.number, node.current.desired) == (58, desired(70))

    asyncio.run(run())


def test_a_name_that_is_used_again_during_a_rollout_without_a_budget_is_left_out(tmp_path: Path) -> None:
    async def run() -> None:
        async with open_parts(tmp_path) as parts:
            for number in range(3):
                node = await parts.enroll(f"n{number}")
                await parts.registry.set_desired(node.name, desired(number + 1), origin=ADMIN)
                await parts.commit(node)
            rollout = await parts.rollouts.create(Change(model="other"), selector={}, canary_share=0.3)
            canary, again, other = rollout.members
            assert (canary.is_canary, again.outcome) == (True, "waiting")
            await parts.registry.remove(again.node)
            await parts.enroll(again.node)
            await parts.commit(parts.registry.get(canary.node))
            await parts.rollouts.advance()
            await parts.commit(parts.registry.get(other.node))
            await parts.rollouts.advance()
            ended = parts.rollouts.get(rollout.id)
            assert ended.stage == "done"
            assert {one.node: one.outcome for one in ended.members} == {
                canary.node: "committed",
                again.node: "superseded",
                other.node: "committed",
            }

    asyncio.run(run())


def test_a_defect_in_one_part_of_the_upkeep_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise KeyError("defect")

    asyncio.run(fleet._logged(broken()))
    assert "defect" in caplog.text
