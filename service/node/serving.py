"""The network that a node serves, and how another takes its place without a request noticing.

A request takes the network that serves when it comes and keeps it until its answer is made; a switch is one assignment.
So both sessions are open for a while, and the old one is closed by nobody: it goes when its last request has gone.
While a new network is watched, the one before stays open: going back is one assignment, too, and a request that the new
one cannot run is answered by the old one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from service.contract.release import Release
from service.ground.errors import NotReadyError, ServiceError
from service.inference import reference_outputs as self_test
from service.inference.batcher import Batcher
from service.inference.errors import InferenceFailedError
from service.inference.memory import release_free_memory
from service.inference.providers import CPU
from service.inference.session import Session, open_session, show_sessions
from service.inference.tensors import Array
from service.node.benchmark.device_info import Window, available_cores
from service.node.store import StoredRelease

log = logging.getLogger(__name__)

BATCH_ROWS_MAX = 32
WARM_RUNS = 3
CLOSE_SECONDS = 2.0
"""Until memory is given back after a switch: requests in flight have ended by then."""


class Network:
    """An open session with the release that it belongs to and what was measured of its requests."""

    def __init__(self, kept: StoredRelease, batcher: Batcher) -> None:
        self.kept = kept
        self.batcher = batcher
        self.window = Window()

    @property
    def release(self) -> Release:
        """The release that it belongs to."""
        return self.kept.release

    @property
    def model(self) -> str:
        """The model that it is a size of."""
        return str(self.release.manifest["model"])

    def renamed(self, kept: StoredRelease) -> Network:
        """The same session as part of another release, with nothing measured yet."""
        return Network(kept, self.batcher)

    async def infer(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run the network on checked arrays and note the time; errors as of `Batcher.infer`."""
        started = time.perf_counter()
        outputs = await self.batcher.infer(arrays)
        self.window.answered(time.perf_counter() - started)
        return outputs


class Serving:
    """Opens networks, and holds the one that serves. Lives on one event loop.

    Args:
        threads: of one run.
        providers: ONNX Runtime providers.
    """

    def __init__(self, *, threads: int, providers: Sequence[str] = (CPU,)) -> None:
        self._threads = threads
        self._providers = providers
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="inn-edge-load")
        self._runners = ThreadPoolExecutor(max(2, available_cores()), thread_name_prefix="inn-edge-run")
        self._closing: asyncio.TimerHandle | None = None
        self._switched = asyncio.Event()
        self.in_flight = 0
        self.current: Network | None = None
        self.fallback: Network | None = None

    def take(self) -> Network:
        """The network that serves now.

        Raises:
            NotReadyError: there is none yet.
        """
        if self.current is None:
            raise NotReadyError("this node has no network yet; GET /status says what it waits for")
        return self.current

    async def open(self, kept: StoredRelease, path: Path) -> Network:
        """Open the artifact of a release, check its self-test vectors and warm it up, in a thread.

        Raises:
            InferenceFailedError: ONNX Runtime cannot load the file.
            SelfTestFailedError: it does not compute what it should.
        """
        loop = asyncio.get_running_loop()
        session = await loop.run_in_executor(self._loader, self._open, kept.release, path)
        batcher = Batcher(session, self._runners, rows_max=BATCH_ROWS_MAX)
        return Network(kept, batcher)

    def switch(self, network: Network, *, fallback: Network | None) -> None:
        """Let a network serve every request from now on; keep `fallback` open beside it."""
        self.current, self.fallback = network, fallback
        self._switched.set()
        log.info("network switched", extra={"digest": network.release.digest, "version": network.release.version})
        self._let_go()

    async def wait_for_other(self, digest: str | None) -> None:
        """Wait until a network with another digest serves."""
        while self.current is None or self.current.release.digest == digest:
            self._switched.clear()
            await self._switched.wait()

    def settle(self) -> None:
        """Let go of the network that was kept open beside the one that serves."""
        self.fallback = None
        self._let_go()

    async def infer(self, network: Network, arrays: Mapping[str, Array]) -> tuple[Network, dict[str, Array]]:
        """Run a network that `take` gave; while it is on trial, the one before answers what it cannot run.

        Such a request counts as failed for the network on trial, unless the one before cannot run it either: then it
        is the client's.

        Returns:
            The network that answered, and the outputs.
        """
        self.in_flight += 1
        try:
            return await self._infer(network, arrays)
        finally:
            self.in_flight -= 1

    async def _infer(self, network: Network, arrays: Mapping[str, Array]) -> tuple[Network, dict[str, Array]]:
        try:
            return network, await network.infer(arrays)
        except Exception as error:
            if isinstance(error, ServiceError) and not isinstance(error, InferenceFailedError):
                raise  # too many at a time: that says nothing about this network
            other = self.fallback if network is self.current else None
            if other is None or not _are_alike(other, network):
                network.window.failed()
                raise
            try:
                outputs = await other.batcher.infer(arrays)
            except InferenceFailedError:
                raise error from None
            network.window.failed()
            return other, outputs

    async def close(self) -> None:
        """Let go of everything once what runs has ended."""
        if self._closing is not None:
            self._closing.cancel()
        self.current = self.fallback = None
        await asyncio.to_thread(self._runners.shutdown)
        await asyncio.to_thread(self._loader.shutdown)

    def _open(self, release: Release, path: Path) -> Session:
        session = open_session(
            path,
            digest=release.digest,
            size_bytes=path.stat().st_size,
            threads=self._threads,
            providers=self._providers,
        )
        self_test.check(session, release.self_test)
        warm_up(session, seed=release.self_test["seed"])
        return session

    def _let_go(self) -> None:
        networks = [network for network in (self.current, self.fallback) if network is not None]
        show_sessions(len(networks), sum(network.batcher.session.size_bytes for network in networks))
        if self._closing is not None:
            self._closing.cancel()
        self._closing = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._trim)

    def _trim(self) -> None:
        self._loader.submit(release_free_memory)


def _are_alike(one: Network, other: Network) -> bool:
    """Whether two networks take and give the same for the same model."""
    first, second = one.batcher.session, other.batcher.session
    return one.model == other.model and (first.inputs, first.outputs) == (second.inputs, second.outputs)


def warm_up(session: Session, *, seed: str) -> None:
    """Run a session a few times, so that the first request is not the slow one, if it takes made-up inputs."""
    try:
        arrays = self_test.inputs_of(session.inputs, seed=seed, rows=1)
        for _ in range(WARM_RUNS):
            session.run(arrays)
    except InferenceFailedError:
        log.info("network refuses made-up inputs", extra={"digest": session.digest})
