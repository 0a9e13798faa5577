"""From a generation to what its node is told: content, signature, or the problem that stands in the way.

One task for each node whose generation is not ready. Causes that pass are tried again, ever more slowly; meanwhile the
node is told nothing and goes on with what it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from service.contract.sizes import LARGEST_VALUE
from service.ground.errors import DigestMismatchError, ServiceError
from service.hub.fleet.coordination import GroupWriter
from service.hub.fleet.documents import Desired
from service.hub.fleet.errors import DeviceBudgetError, DeviceNotMeasuredError
from service.hub.fleet.records import Generation, Node, Problem
from service.hub.fleet.release_content import INSTANT, ReleaseContentBuilder, is_final
from service.hub.fleet.release_signing import Signer
from service.hub.fleet.sizing import budget_search as device
from service.hub.fleet.sizing.search import choose_ladder, unit_for
from service.hub.fleet.tables import update_generation

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 300.0


@dataclass(frozen=True)
class _Outcome:
    """What a generation came to."""

    generation: Generation
    retry: bool = False


class Reconciler:
    """Makes generations ready. Belongs to one event loop.

    Args:
        contents: makes what releases hold.
        signer: signs it.
        writer: of the fleet's database.
        settled: told of a node whose generation has become ready, or has met a problem.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        *,
        contents: ReleaseContentBuilder,
        signer: Signer,
        writer: GroupWriter,
        settled: Callable[[Node], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._contents = contents
        self._signer = signer
        self._writer = writer
        self._settled = settled
        self._sleep = sleep
        self._tasks: dict[str, tuple[int, asyncio.Task[None]]] = {}
        self._restoring: dict[str, asyncio.Task[None]] = {}

    def ensure(self, node: Node) -> None:
        """Sees to it that the current generation of a node becomes ready; what it had before is given up."""
        current = node.current
        running = self._tasks.get(node.name)
        if running is not None:
            if current is not None and running[0] == current.number:
                return
            running[1].cancel()
            del self._tasks[node.name]
        if current is None or current.is_ready:
            return
        task = asyncio.create_task(self._run(node, current), name="fleet planner")
        self._tasks[node.name] = (current.number, task)
        task.add_done_callback(lambda done: self._ended(node.name, done))

    def forget(self, node: Node) -> None:
        """Gives up what is being made for a node that is gone."""
        running = self._tasks.pop(node.name, None)
        if running is not None:
            running[1].cancel()

    def restore(self, node: Node, generation: Generation) -> None:
        """Makes the artifacts of a ready generation again, in the background, when the store has lost them."""
        try:
            needed = self._artifacts_of(generation)
        except ServiceError as error:  # the model is gone
            log.warning("artifacts not restored", extra={"node": node.name, "code": error.code})
            return
        for manifest in needed:
            digest = manifest["digest"]
            if self._contents.has(digest) or digest in self._restoring:
                continue
            task = asyncio.create_task(self._restore(node, generation, manifest), name="fleet restore")
            self._restoring[digest] = task
            task.add_done_callback(partial(self._restored, digest))

    async def sign_again(self, node: Node, generation: Generation) -> None:
        """Puts a fresh signature on the current generation of a node; durable when it returns."""
        await self._keep(node, replace(generation, document=self._signer.document(node, generation)))

    def is_fresh(self, node: Node, generation: Generation) -> bool:
        """Whether what is ready can be sent to its node as it is."""
        return generation.document is None or self._signer.is_fresh(node, generation.document)

    async def close(self) -> None:
        """Gives everything up."""
        tasks = [task for _, task in self._tasks.values()] + list(self._restoring.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        running = self._tasks.get(name)
        if running is not None and running[1] is task:
            del self._tasks[name]
        if not task.cancelled() and task.exception() is not None:
            log.error("planning ended", exc_info=task.exception(), extra={"node": name})

    async def _run(self, node: Node, generation: Generation) -> None:
        delay = FIRST_RETRY_SECONDS
        while True:
            try:
                outcome = await self._attempt(node, generation)
                await self._keep(node, outcome.generation)
                if not outcome.retry:
                    return
            except ServiceError as error:  # the disk is full
                log.warning("generation not written", extra={"node": node.name, "code": error.code})
            await self._sleep(delay)
            delay = min(2 * delay, LONGEST_RETRY_SECONDS)

    async def _attempt(self, node: Node, generation: Generation) -> _Outcome:
        try:
            made = await self._made(generation)
            if made.problem is None:
                made = replace(made, document=self._signer.document(node, made))
            return _Outcome(made)
        except ServiceError as error:
            final = is_final(error)
            log.info(
                "generation not ready",
                extra={"node": node.name, "generation": generation.number, "code": error.code, "final": final},
            )
            return _Outcome(replace(generation, problem=Problem.of(error, is_final=final)), retry=not final)

    async def _keep(self, node: Node, generation: Generation) -> None:
        def apply() -> None:
            current = node.current
            if current is not None and current.number == generation.number:
                node.current = replace(generation, committed=current.committed or generation.committed)
                node.wake()
                self._settled(node)

        await self._writer.commit(update_generation(node.name, generation), then=apply)

    async def _made(self, generation: Generation) -> Generation:
        """The generation with its content."""
        if generation.content is not None:
            return replace(generation, problem=None)
        desired = generation.desired
        budget = desired.budget
        if budget.unit == "latency_ms" or budget.unit == "memory_bytes":
            return await self._searched(generation)
        manifest = await self._contents.manifest(desired, unit=budget.unit, value=int(budget.value))
        return replace(generation, content=await self._contents.content(manifest), problem=None)

    async def _searched(self, generation: Generation) -> Generation:
        """The next step of a search: sizes to measure, or the release that it led to."""
        desired, budget = generation.desired, generation.desired.budget
        search: device.Search = dict(generation.search) if generation.search else await self._ladder(desired)
        unit = device.unit_of(search)
        while not (missing := device.unmeasured(search)):
            if not search["rungs"]:
                raise DeviceNotMeasuredError(desired.model)
            decision = device.decide(search, budget)
            if decision.kind == "unreachable":
                raise DeviceBudgetError(desired.model, unit=budget.unit, value=float(budget.value), best=decision.best)
            manifest = await self._contents.manifest(desired, unit=unit, value=decision.target)
            if decision.kind != "export":
                search["release"] = {"target": decision.target, "expected": decision.best}
                content = await self._contents.content(manifest)
                return replace(generation, kind="release", content=content, search=search, problem=None)
            search = device.with_export(search, manifest, decision.target)
        inputs = search["inputs"]
        return replace(
            generation, kind="probe", content={"ladder": missing, "inputs": inputs}, search=search, problem=None
        )

    def _artifacts_of(self, generation: Generation) -> list[Mapping[str, Any]]:
        """What tells which artifacts a generation needs: of its release, or of what is to be measured."""
        content, desired = generation.content, generation.desired
        if content is None:
            return []
        if generation.kind == "release":
            return [content["manifest"]]
        search = dict(generation.search or {"rungs": []})
        best = desired.quality or self._contents.qualities(desired.model)[0]
        ladder = self._ladder_quality(desired) or best
        return [
            {
                **rung,
                "model": desired.model,
                "quality": best if device.is_export(search, rung["digest"]) else ladder,
                "multiple_of": desired.multiple_of,
            }
            for rung in content["ladder"]
        ]

    def _ladder_quality(self, desired: Desired) -> str | None:
        """The quality that takes least to make, if the model has it."""
        return INSTANT if INSTANT in self._contents.qualities(desired.model) else None

    async def _ladder(self, desired: Desired) -> device.Search:
        """Sizes from the smallest to the full one, in the quality that takes least to make."""
        unit = unit_for(desired.budget.unit)
        quality = self._ladder_quality(desired)
        full = await self._contents.manifest(desired, unit=unit, value=LARGEST_VALUE, quality=quality)
        feasible: Mapping[str, int] = full["feasible"]
        targets = choose_ladder((feasible["min"], feasible["max"]))
        rungs = [await self._contents.manifest(desired, unit=unit, value=target, quality=quality) for target in targets]
        search = device.new_search(desired.budget, feasible, rungs)
        search["inputs"] = full["inputs"]
        return search

    def _restored(self, digest: str, task: asyncio.Task[None]) -> None:
        self._restoring.pop(digest, None)

    async def _restore(self, node: Node, generation: Generation, manifest: Mapping[str, Any]) -> None:
        try:
            if not await self._is_made_again(manifest) and generation.kind == "probe" and node.current is generation:
                # Of a checkpoint that was replaced: begin anew with the one of now.
                await self._keep(node, replace(generation, kind="release", content=None, document=None, search=None))
        except ServiceError as error:
            log.warning("artifact not restored", extra={"digest": manifest["digest"], "code": error.code})

    async def _is_made_again(self, manifest: Mapping[str, Any]) -> bool:
        """Makes an artifact again; returns whether it is the same one."""
        try:
            await self._contents.restore(manifest)
        except DigestMismatchError as error:
            log.warning("artifact cannot be made again", extra={"digest": manifest["digest"], "detail": error.message})
            return False
        return True
