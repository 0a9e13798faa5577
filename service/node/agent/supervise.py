"""Keeps a node at what its hub wants: enrolls, asks, takes releases up, measures, reports; each on its own.

Asking never waits for a download and neither does reporting, so a node hears of a newer release while it fetches an
older one, and gives that up. Nothing here can stop the node from serving: what goes wrong is reported and tried again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from service.contract.measurement_order import MeasurementOrder
from service.contract.release import Release
from service.ground.errors import ServiceError, StoreFullError
from service.node.agent.backoff import MOST_SECONDS, Backoff
from service.node.agent.conditions import Condition, Conditions
from service.node.agent.enrolment import enroll
from service.node.agent.measuring import Measurer
from service.node.benchmark.run import MeasurementFailedError
from service.node.deployment.deployer import Deployer
from service.node.download import Pace
from service.node.errors import TRANSIENT, UNVERIFIED, HubRefusedError
from service.node.hub_client import Desired, HubClient, code_and_detail
from service.node.node import Node
from service.node.serving import Network
from service.node.status import error_of
from service.node.store import StoredRelease
from service.signing.envelope import Document
from service.signing.errors import ExpiredDocumentError, ReplayedDocumentError, RevokedKeyError, UnknownKeyError

log = logging.getLogger(__name__)

AFTER_DEFECT_SECONDS = 5.0
KEYRING_SECONDS = 3600.0
"""Between two looks at the hub's keyring when nothing else asks for one: a revoked key counts no longer than that."""
REPORT_SECONDS = 0.05
"""Pause before a report, so that states that pass in one moment make one report."""


async def run_agent(node: Node, trial: Network | None) -> None:
    """Run the agent of an open node until cancelled; arguments and errors as of `Agent.run`."""
    settings = node.settings
    hub = HubClient(settings.hub, node=settings.node, key=node.identity.key, stall_seconds=settings.stall_seconds)
    pace = Pace(grace_seconds=settings.download_grace_seconds)
    take_up = Deployer(node.store, node.identity, node.serving, node.status, pace=pace)
    try:
        await Agent(node, hub, take_up, Measurer(node, hub, pace=pace)).run(trial)
    finally:
        await hub.close()


class Agent:
    """The part of a node that talks to the hub. Lives on one event loop.

    Args:
        node: the node.
        hub: client of its hub.
        take_up: takes releases up.
        measurer: measures sizes.
    """

    def __init__(self, node: Node, hub: HubClient, take_up: Deployer, measurer: Measurer) -> None:
        self._settings = node.settings
        self._store = node.store
        self._identity = node.identity
        self._serving = node.serving
        self._status = node.status
        self._hub = hub
        self._take_up = take_up
        self._after = 0
        self._target: StoredRelease | None = None
        self._renewed = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._doubts = Conditions(node.status, self._is_working)
        self._keyring_looked = -math.inf
        self._measurer = measurer
        self._probe: MeasurementOrder | None = None
        self._probing: asyncio.Task[None] | None = None

    async def run(self, trial: Network | None) -> None:
        """Go on until cancelled.

        Args:
            trial: network whose trial a former process began.

        Raises:
            EnrolmentRefusedError: the hub does not take this node in, and it has no other hub.
        """
        try:
            if trial is not None:
                self._start(self._watch(trial))
            await enroll(self._settings, self._identity, self._hub, status=self._status, backoff=self._pauses())
            if trial is None:
                await self._forever(self._go_on_from_disk, once=True)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forever(self._ask), name="ask")
                group.create_task(self._forever(self._report), name="report")
                group.create_task(self._forever(self._measurer.keep_measuring), name="measure")
        finally:
            await self._stop_probe()
            if self._work is not None:
                await self._take_up.cancel(self._work)

    async def _forever(self, step: Callable[[], Awaitable[None]], *, once: bool = False) -> None:
        """Run a loop; a defect in it is logged and must not end the others."""
        while True:
            try:
                await step()
            except Exception:
                log.exception("defect in the agent", extra={"part": step.__name__})
                await asyncio.sleep(AFTER_DEFECT_SECONDS)
            if once:
                return

    def _pauses(self, *, most_seconds: float = MOST_SECONDS) -> Backoff:
        return Backoff(self._settings.retry_seconds, most_seconds)

    # Asking

    async def _ask(self) -> None:
        pauses = self._pauses(most_seconds=max(self._settings.poll_seconds, self._settings.retry_seconds))
        while True:
            try:
                if time.monotonic() - self._keyring_looked >= KEYRING_SECONDS:
                    await self._renew_keyring()
                    # Problems are not signed: one that was made up must not hide what comes with its number.
                    self._after = min(self._after, self._identity.release_version)
                answer = await self._hub.desired(after=self._after, wait_seconds=self._settings.poll_seconds)
                self._status.hub_answered()
                is_news = answer is not None and await self._consider(answer)
            except ServiceError as error:
                pause = pauses.failed(error)
                self._refuse(error, attempt=pauses.attempt, pause=pause)
                await asyncio.sleep(pause)
                continue
            if answer is None or is_news:
                pauses.succeeded()
                self._doubts.end("hub")
            else:
                # The same again: the hub waits for something of this node, or cannot do what is wanted.
                await asyncio.sleep(pauses.failed())

    async def _consider(self, answer: Desired) -> bool:
        """Act on an answer; returns whether there was anything new in it."""
        is_news = False
        if answer.budget is not None:
            self._measurer.budget = answer.budget
        if answer.problem is not None:
            is_news = self._note_problem(answer)
        if answer.probe is not None:
            is_news = await self._measure(answer.probe) or is_news
        if answer.release is not None:
            is_news = await self._aim(answer.release) or is_news
        return is_news

    async def _aim(self, document: Document) -> bool:
        """Make a release what the node is on its way to; returns whether it was not already."""
        release: Release = await self._verified(document, self._identity.accept_release)
        kept = StoredRelease(document, release)
        self._after = release.version
        if self._is_working() and self._target is not None and self._target.release.version == release.version:
            if release.issued > self._target.release.issued:
                self._target = kept  # signed anew
                await asyncio.to_thread(self._store.write, "staged", document)
                self._renewed.set()
            return False
        current = self._serving.current
        outcome = await asyncio.to_thread(self._store.read_outcome)
        if outcome is not None and outcome.generation == release.version and outcome.is_final:
            return False
        if current is not None and current.release.content_digest == release.content_digest:
            self._show_again(current)
            return False
        await self._stop_probe()
        await self._stop_work()
        await asyncio.to_thread(self._store.write, "staged", document)
        self._target = kept
        self._start(self._reach())
        return True

    def _show_again(self, current: Network) -> None:
        """What serves is what is wanted: say so, when something else was on its way that was given up."""
        version = current.release.version
        if self._is_working() or self._status.observed_generation == version:
            return
        if current is self._take_up.trial:
            self._start(self._watch(current))
        else:
            self._doubts.forget()
            self._status.enter("committed", generation=version)

    async def _verified(self, document: Document, check: Callable[[Document], Any]) -> Any:
        """What `check` makes of a document, with the newest keyring the hub has."""
        signed = document.get("signed")
        if isinstance(signed, dict) and signed.get("version") != self._identity.release_version:
            await self._renew_keyring()
        try:
            return await asyncio.to_thread(check, document)
        except (UnknownKeyError, RevokedKeyError, ExpiredDocumentError):
            await self._renew_keyring()
            return await asyncio.to_thread(check, document)

    async def _renew_keyring(self) -> None:
        """Take the hub's keyring when it is newer; one that does not count changes nothing."""
        believed = self._identity.release_version
        try:
            document = await self._hub.keyring()
            await asyncio.to_thread(self._identity.accept_keyring, document)
        except ServiceError as error:
            log.warning("keyring not renewed", extra={"code": error.code, "detail": error.message})
            return
        self._keyring_looked = time.monotonic()
        if self._identity.release_version < believed:
            log.warning("releases of a revoked key count no more", extra={"version": believed})
            await self._forget_target()

    async def _forget_target(self) -> None:
        """Give up what the node is on its way to, and what became of it: a number says nothing any more."""
        self._after = min(self._after, self._identity.release_version)
        await self._stop_probe()
        await self._stop_work()
        self._target = None
        await asyncio.to_thread(self._store.clear, "staged")
        await asyncio.to_thread(self._store.clear_outcome)

    def _note_problem(self, answer: Desired) -> bool:
        """The hub cannot make what is wanted: say so, and stay with what serves."""
        assert answer.problem is not None
        code, detail = code_and_detail(answer.problem, "hub-problem")
        error = {"code": code, "detail": detail, "generation": answer.generation}
        self._after = max(self._after, answer.generation)
        if error == self._status.error and self._status.observed_generation == answer.generation:
            return False
        log.error("hub cannot make what is wanted", extra={"code": code, "detail": detail})
        if not self._is_working():
            self._status.enter(self._doubts.forget(), generation=answer.generation, error=error)
        return True

    def _refuse(self, error: ServiceError, *, attempt: int, pause: float) -> None:
        """Note why an answer of the hub changed nothing."""
        log.warning("hub not followed", extra={"code": error.code, "detail": error.message, "attempt": attempt})
        if not isinstance(error, UNVERIFIED):
            self._status.hub_failed(error)
            refused = isinstance(error, HubRefusedError) and error.status < 500
            if not refused and not isinstance(error, StoreFullError):
                return
        # The hub has to know whether it was its own release that is refused, or one that somebody sent again.
        number = error.fields["version"] if isinstance(error, ReplayedDocumentError) else None
        self._doubts.show("hub", Condition(error_of(error, number), attempt, pause))

    # Working

    def _is_working(self) -> bool:
        return self._work is not None and not self._work.done()

    def _start(self, work: Any) -> None:
        self._doubts.forget()
        self._work = asyncio.create_task(work, name="take up")

    async def _stop_work(self) -> None:
        if self._work is not None:
            await self._take_up.cancel(self._work)
            self._work = None

    async def _watch(self, network: Network) -> None:
        pauses = self._pauses()
        while True:
            try:
                await self._take_up.watch(network)
                return
            except ServiceError as error:  # the disk is full: what became of the trial cannot be noted
                pause = pauses.failed(error)
                log.error("trial not ended", extra={"code": error.code, "detail": error.message})
                self._status.fail(error_of(error, network.release.version), attempt=pauses.attempt, pause_seconds=pause)
                await asyncio.sleep(pause)
            except Exception:  # such as a disk that fails for a moment
                log.exception("defect while watching", extra={"version": network.release.version})
                await asyncio.sleep(pauses.failed())

    async def _reach(self) -> None:
        """Take the target up, as often as it takes."""
        pauses = self._pauses()
        attempt, done_bytes = 0, 0
        while True:
            assert self._target is not None
            kept = self._target
            self._renewed.clear()
            try:
                await self._take_up.run(kept, self._hub)
                return
            except TRANSIENT as error:
                if error.fields.get("done_bytes", 0) > done_bytes:
                    pauses.succeeded()  # a download that gets on is not the one to wait long
                    done_bytes = error.fields["done_bytes"]
                if isinstance(error, ExpiredDocumentError | HubRefusedError):
                    # Asked again, the hub signs anew, or makes an artifact anew that it no longer has.
                    self._after = min(self._after, kept.release.version - 1)
                attempt += 1
                pause = pauses.failed(error)
                log.warning("take up failed", extra={"code": error.code, "detail": error.message, "attempt": attempt})
                self._status.fail(error_of(error, kept.release.version), attempt=attempt, pause_seconds=pause)
                await self._rest(pause)
            except Exception:  # such as a disk that fails for a moment; nothing was noted that says otherwise
                attempt += 1
                pause = pauses.failed()
                log.exception("defect while taking up", extra={"version": kept.release.version})
                defect = {"code": "service-error", "detail": "see the log", "generation": kept.release.version}
                self._status.fail(defect, attempt=attempt, pause_seconds=pause)
                await self._rest(pause)

    async def _rest(self, seconds: float) -> None:
        """Wait, but not longer than until the target is signed anew."""
        try:
            async with asyncio.timeout(seconds):
                await self._renewed.wait()
        except TimeoutError:
            return

    async def _go_on_from_disk(self) -> None:
        """Go on with the release that a former process was on its way to; needs the hub only for what is missing."""
        kept = await asyncio.to_thread(self._store.read, "staged")
        if kept is None:
            return
        try:
            await asyncio.to_thread(self._identity.check_release, kept.document)
        except ServiceError as error:
            log.warning("staged release dropped", extra={"code": error.code, "detail": error.message})
            await asyncio.to_thread(self._store.clear, "staged")
            return
        self._target = kept
        self._start(self._reach())

    # Measuring and reporting

    async def _measure(self, document: Document) -> bool:
        """Begin with a probe; returns whether it was new."""
        probe: MeasurementOrder = await self._verified(document, self._identity.check_order)
        self._after = max(self._after, probe.version)
        if self._probe == probe:
            return False
        await self._stop_probe()
        self._probe = probe
        self._probing = asyncio.create_task(self._measure_all(probe), name="probe")
        return True

    async def _stop_probe(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
            self._probing = None
        self._doubts.end("probe")

    async def _measure_all(self, probe: MeasurementOrder) -> None:
        pauses = self._pauses()
        while True:
            try:
                await self._measurer.probe(probe)
                self._status.observe(probe.version)
                self._doubts.end("probe")
                return
            except MeasurementFailedError as error:
                log.warning("probe not finished", extra={"code": error.code, "detail": error.message})
                self._status.observe(probe.version)
                self._doubts.show("probe", Condition(error_of(error, probe.version)))
                return
            except ServiceError as error:
                pause = pauses.failed(error)
                log.warning("probe interrupted", extra={"code": error.code, "detail": error.message})
                if isinstance(error, HubRefusedError):
                    self._after = min(self._after, probe.version - 1)  # asked again, the hub makes artifacts anew
                self._doubts.show("probe", Condition(error_of(error, probe.version), pauses.attempt, pause))
                await asyncio.sleep(pause)
            except Exception:  # such as no memory for the process that measures
                log.exception("defect while measuring", extra={"version": probe.version})
                await asyncio.sleep(pauses.failed())

    async def _report(self) -> None:
        pauses = self._pauses(most_seconds=max(self._settings.poll_seconds, self._settings.retry_seconds))
        while True:
            self._status.changed.clear()
            try:
                await self._hub.report(self._status.reported())
                pauses.succeeded()
            except ServiceError as error:
                self._status.hub_failed(error)
                await asyncio.sleep(pauses.failed(error))
                continue
            try:
                async with asyncio.timeout(self._settings.poll_seconds):
                    await self._status.changed.wait()
                    await asyncio.sleep(REPORT_SECONDS)
            except TimeoutError:
                continue
