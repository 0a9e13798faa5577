"""Making artifacts again that were evicted, with makers that tests control."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.ground.errors import DigestMismatchError, ServiceError, StoreFullError
from service.hub.fleet.reconciler import Reconciler
from service.hub.fleet.records import ADMIN, Generation, Node
from tests.service.hub.fleet.parts import Parts, desired, open_parts

RUNG = {"digest": "sha256:" + "1" * 64, "bytes": 1, "params": 1, "macs": 1}
GONE = DigestMismatchError("made again", expected="a", found="b")
FULL = StoreFullError(needed_bytes=1, capacity_bytes=1, free_bytes=0)


class Contents:
    """Has nothing, and meets an error when it is to make something again."""

    def __init__(self, error: ServiceError) -> None:
        self.error = error
        self.asked: list[Mapping[str, Any]] = []

    def has(self, digest: str) -> bool:
        """Nothing is there."""
        return False

    def qualities(self, model: str) -> list[str]:
        """The best one first."""
        return ["refined", "instant"]

    async def restore(self, manifest: Mapping[str, Any]) -> None:
        """Fails."""
        self.asked.append(manifest)
        raise self.error


async def probing(parts: Parts) -> tuple[Node, Generation]:
    """A node that was asked to measure."""
    node = await parts.enroll("a")
    made = await parts.registry.set_desired("a", desired(10), origin=ADMIN)
    search = {"unit": "macs", "feasible": [1, 9], "rungs": [{**RUNG, "target": None, "value": None}]}
    content = {"ladder": [RUNG], "inputs": []}
    node.current = replace(made, kind="probe", content=content, search=search, document={"signed": {}})
    return node, node.current


@pytest.mark.parametrize(("error", "begins_anew"), [(GONE, True), (FULL, False)])
def test_a_probe_of_a_checkpoint_that_was_replaced_begins_anew(
    tmp_path: Path, error: ServiceError, begins_anew: bool
) -> None:
    async def run() -> None:
        async with open_parts(tmp_path) as parts:
            contents, settled = Contents(error), []
            planner = Reconciler(
                contents=contents,  # type: ignore[arg-type]
                signer=None,  # type: ignore[arg-type]
                writer=parts.writer,
                settled=lambda node: settled.append(node.name),
            )
            node, before = await probing(parts)
            planner.restore(node, before)
            planner.restore(node, before)  # once is enough
            for _ in range(100):
                await asyncio.sleep(0.01)
                if settled:
                    break
            assert [(one["quality"], one["digest"]) for one in contents.asked] == [("instant", RUNG["digest"])]
            assert node.current is not None
            if begins_anew:
                assert (node.current.number, node.current.kind) == (before.number, "release")
                assert (node.current.content, node.current.search, node.current.document) == (None, None, None)
                assert settled == ["a"]
            else:
                assert node.current is before
            await planner.close()

    asyncio.run(run())
