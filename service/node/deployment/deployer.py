"""Takes a release up: download, check, load, switch, watch; commits it, or goes back by itself.

Each step is noted on the disk before it counts, in an order that a node killed between any two of them understands when
it starts again (`recovery.py`). A newer release cancels the task that does this, through `cancel`, which waits while
pointers and the serving network are being changed together. What serves is committed or on trial; `previous` always
holds the last committed one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from service.ground.errors import ServiceError, StoreFullError
from service.inference.errors import InferenceFailedError
from service.inference.reference_outputs import SelfTestFailedError, inputs_of
from service.node.deployment.trial import Trial
from service.node.download import Pace, download
from service.node.errors import DamagedArtifactError
from service.node.hub_client import HubClient
from service.node.serving import Network, Serving
from service.node.status import Status, error_of
from service.node.store import NodeStore, Outcome, StoredRelease
from service.node.trust.store import TrustStore

log = logging.getLogger(__name__)

JUDGE_SECONDS = 0.05
"""Pause between two looks at a trial, however many requests come."""


class Deployer:
    """Takes releases up, one at a time. Lives on one event loop.

    Args:
        store, identity, serving, status: of the node.
        pace: how slow a download may be.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        store: NodeStore,
        identity: TrustStore,
        serving: Serving,
        status: Status,
        *,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._identity = identity
        self._serving = serving
        self._status = status
        self._pace = pace
        self._clock = clock
        self._settling = asyncio.Lock()
        self.trial: Network | None = None

    async def cancel(self, task: asyncio.Task[None]) -> None:
        """End a task that runs or watches here, between two changes of what serves; returns when it has ended."""
        async with self._settling:
            task.cancel()
        await asyncio.wait([task])

    async def run(self, kept: StoredRelease, hub: HubClient) -> None:
        """Take a release up that `staged` points to.

        Raises:
            ServiceError: of `errors.TRANSIENT`: the same may work later; nothing has changed. Whatever is wrong with
                the release itself is noted as its outcome and not raised.
        """
        release = kept.release
        current = self._serving.current
        if current is not None and current.release.digest == release.digest:
            network = current.renamed(kept)
            if current is not self.trial:
                async with self._settling:
                    await self._take_over_quietly(network)
                return
        else:
            try:
                await self._fetch(kept, hub)
                network = await self._warm(kept)
            except (InferenceFailedError, SelfTestFailedError) as error:
                async with self._settling:
                    await self._give_up(release.version, error)
                return
        release.check_current(self._identity.trusted_time)
        async with self._settling:
            await self._switch(network)
        await self.watch(network)

    async def watch(self, network: Network) -> None:
        """Watch the network that serves until its trial is over; then commit it, or go back."""
        self.trial = network
        release = network.release
        watch = Trial(release.policy, network.window, self._clock())
        self._status.enter("active", generation=release.version)
        while (judgement := watch.judge(self._clock())) is None:
            await self._next_look(network, watch)
        if judgement == "good" and watch.missing_requests():
            await self._ask_itself(network, watch.missing_requests())
            judgement = watch.judge(self._clock())
        async with self._settling:
            if isinstance(judgement, ServiceError):
                await self._roll_back(network, judgement)
            else:
                await self._commit(network)

    async def _give_up(self, version: int, error: ServiceError) -> None:
        """Note that a generation cannot be taken up; what serves goes on."""
        reported = error_of(error, version)
        log.error("release given up", extra={"version": version, "code": error.code, "detail": error.message})
        await asyncio.to_thread(self._store.write_outcome, Outcome(version, "failed", reported))
        await asyncio.to_thread(self._store.clear, "staged")
        self._status.enter("failed", generation=version, error=reported)
        await asyncio.to_thread(self._store.collect)

    async def _roll_back(self, network: Network, error: ServiceError) -> None:
        """Serve what was committed before a network on trial; without any, that network goes on as `failed`."""
        version = network.release.version
        reported = error_of(error, version)
        log.error("release rolled back", extra={"version": version, "code": error.code, "detail": error.message})
        last = self._serving.fallback or await self._reopened()
        state = "failed" if last is None else "rolled-back"
        if last is not None:
            self._serving.switch(last, fallback=None)
            self._status.previous = None
        self.trial = None
        try:
            await asyncio.to_thread(self._note_rolled_back, Outcome(version, state, reported), last)
        except StoreFullError as full:  # then a start from this disk goes on with the trial, and comes back here
            log.error("going back not noted", extra={"version": version, "detail": full.message})
        self._status.enter(state, generation=version, error=reported)

    def _note_rolled_back(self, outcome: Outcome, last: Network | None) -> None:
        self._store.write_outcome(outcome)
        if last is not None:
            self._store.write("active", last.kept.document)
            self._store.clear("previous")
        self._store.collect()

    async def _fetch(self, kept: StoredRelease, hub: HubClient) -> None:
        release, status = kept.release, self._status
        digest, size_bytes = release.digest, int(release.manifest["bytes"])
        if not await asyncio.to_thread(self._store.holds, digest, size_bytes):
            status.enter("downloading", generation=release.version)

            def progress(n_bytes: int) -> None:
                status.progress = {"bytes": n_bytes, "total": size_bytes}

            await download(hub, self._store, digest=digest, size_bytes=size_bytes, progress=progress, pace=self._pace)
            status.enter("verifying")
            await asyncio.to_thread(self._store.adopt, digest)
        status.enter("staged", generation=release.version)

    async def _warm(self, kept: StoredRelease) -> Network:
        release = kept.release
        noted = await asyncio.to_thread(self._store.read_outcome)
        trial = Outcome(release.version, "warming")
        if noted is None or (noted.generation, noted.state) != (trial.generation, trial.state):
            await asyncio.to_thread(self._store.write_outcome, trial)
        self._status.enter("warming", generation=release.version)
        return await self._serving.open(kept, self._store.artifact(release.digest))

    async def _switch(self, network: Network) -> None:
        current = self._serving.current
        if current is not None and current is not self.trial:
            await asyncio.to_thread(self._store.write, "previous", current.kept.document)
            self._status.previous = current.release
            fallback: Network | None = current
        else:
            fallback = self._serving.fallback
        await asyncio.to_thread(self._store.write_outcome, Outcome(network.release.version, "active"))
        await asyncio.to_thread(self._store.write, "active", network.kept.document)
        self._serving.switch(network, fallback=fallback)
        self.trial = network
        await asyncio.to_thread(self._store.clear, "staged")

    async def _take_over_quietly(self, network: Network) -> None:
        """A new release of the very artifact that is committed: there is nothing to watch."""
        await asyncio.to_thread(self._store.write, "active", network.kept.document)
        self._serving.switch(network, fallback=None)
        await asyncio.to_thread(self._store.clear, "staged")
        await self._commit(network)

    async def _commit(self, network: Network) -> None:
        version = network.release.version
        await asyncio.to_thread(self._store.write_outcome, Outcome(version, "committed"))
        self.trial = None
        self._serving.settle()
        self._status.enter("committed", generation=version)
        log.info("release committed", extra={"version": version, "digest": network.release.digest})
        await asyncio.to_thread(self._store.collect)

    async def _next_look(self, network: Network, watch: Trial) -> None:
        network.window.changed.clear()
        left = max(0.0, watch.ends() - self._clock())
        try:
            async with asyncio.timeout(left):
                await network.window.changed.wait()
                await asyncio.sleep(min(JUDGE_SECONDS, left))
        except TimeoutError:
            return

    async def _ask_itself(self, network: Network, n_requests: int) -> None:
        """Run made-up rows where too few clients came to judge the latency that the policy bounds."""
        arrays = inputs_of(network.batcher.session.inputs, seed=network.release.self_test["seed"], rows=1)
        for _ in range(n_requests):
            try:
                await network.infer(arrays)
            except InferenceFailedError:
                return  # a network that refuses made-up values cannot be judged by them

    async def _reopened(self) -> Network | None:
        """The last committed network, opened from the disk."""
        kept = await asyncio.to_thread(self._store.read, "previous")
        if kept is None:
            return None
        try:
            path = await asyncio.to_thread(self._store.check_whole, kept.release, "there is nothing to go back to")
            return await self._serving.open(kept, path)
        except (DamagedArtifactError, InferenceFailedError, SelfTestFailedError) as error:
            log.error("previous network unusable", extra={"code": error.code, "detail": error.message})
            return None
