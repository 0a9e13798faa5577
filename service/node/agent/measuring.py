"""Measures on this device what the hub asks for: the sizes of a probe, and now and then the size that serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from service.contract.measurement_order import MeasurementOrder, Rung
from service.contract.sizes import MEASURED_UNITS
from service.node.benchmark.run import MeasurementFailedError, measure_artifact, measure_ladder
from service.node.download import Pace, download
from service.node.hub_client import HubClient
from service.node.node import Node

log = logging.getLogger(__name__)

AGAIN_SECONDS = 600.0
"""Between two measurements of the size that serves, when the budget is one that the device measures."""

SOON_SECONDS = 30.0
"""The same when the last one was out of the budget: the hub shrinks a size only when several say so."""


class Measurer:
    """Measures artifacts for the hub. Lives on one event loop.

    Args:
        node: on whose device.
        hub: where artifacts come from.
        pace: how slow a download may be.
    """

    def __init__(self, node: Node, hub: HubClient, *, pace: Pace) -> None:
        self._node = node
        self._hub = hub
        self._pace = pace
        self._measuring = asyncio.Lock()
        self.budget: Mapping[str, Any] = node.settings.budget.to_json()
        """What the hub says this node is to keep to; the batch and threads of measurements are taken from it."""

    async def probe(self, probe: MeasurementOrder) -> None:
        """Measure the artifacts of a probe; each row is reported as soon as it is there.

        Raises:
            MeasurementFailedError: some could not be measured.
            ServiceError: an artifact could not be fetched.
        """
        store = self._node.store
        with store.held([rung.digest for rung in probe.ladder]):
            async with self._measuring:
                rows = await measure_ladder(
                    probe.ladder,
                    batch=probe.batch,
                    threads=probe.threads,
                    fetched=self._fetched,
                    report=lambda row: self._node.status.add_timings([row]),
                    is_busy=self._is_busy,
                    base_bytes=self._node.base_bytes,
                )
        measured = {row["digest"] for row in rows}
        for rung in probe.ladder:
            if rung.digest not in measured:
                raise MeasurementFailedError(rung.digest, "it could not be measured, so larger ones were not tried")

    async def keep_measuring(self) -> None:
        """Measure the size that serves, now and then, for as long as the budget is one of this device."""
        while True:
            current = self._node.serving.current
            last = None if current is None else current.release.digest
            pause = AGAIN_SECONDS
            if current is not None and last is not None and self.budget.get("unit") in MEASURED_UNITS:
                row = await self._measure_current(last, int(current.release.manifest["bytes"]))
                if row is not None and self._is_over(row):
                    pause = SOON_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._node.serving.wait_for_other(last)
            except TimeoutError:
                continue

    def _is_over(self, row: Mapping[str, Any]) -> bool:
        """Whether a measured row is out of the budget."""
        unit, limit = self.budget["unit"], self.budget["value"]
        found = row["resident_bytes"] if unit == "memory_bytes" else row[f"p{self.budget.get('percentile', 95)}_ms"]
        return found is not None and bool(found > limit)

    async def _measure_current(self, digest: str, size_bytes: int) -> Mapping[str, Any] | None:
        """Measure and report the size that serves; None when it could not be measured."""
        with self._node.store.held([digest]):
            async with self._measuring:
                try:
                    row = await measure_artifact(
                        self._node.store.artifact(digest),
                        digest=digest,
                        size_bytes=size_bytes,
                        batch=int(self.budget.get("batch", 1)),
                        threads=int(self.budget.get("threads", 1)),
                        is_busy=self._is_busy,
                        base_bytes=self._node.base_bytes,
                    )
                except MeasurementFailedError as error:
                    log.warning("active artifact not measured", extra={"digest": digest, "detail": error.message})
                    return None
        self._node.status.add_timings([row])
        return row

    @contextlib.asynccontextmanager
    async def _fetched(self, rung: Rung) -> AsyncIterator[Path]:
        """The verified file of an artifact; one that was fetched to be measured goes, whatever happened to it."""
        store = self._node.store
        if await asyncio.to_thread(store.holds, rung.digest, rung.bytes):
            yield store.artifact(rung.digest)
            return
        part = store.measured_part(rung.digest)
        await download(
            self._hub,
            store,
            digest=rung.digest,
            size_bytes=rung.bytes,
            progress=lambda n_bytes: None,
            pace=self._pace,
            part=part,
        )
        try:
            yield part
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)

    def _is_busy(self) -> bool:
        return self._node.serving.in_flight > 0
