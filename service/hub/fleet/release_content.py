"""From a desired size to what a release holds: the manifest of an artifact and vectors to test a copy of it with.

Nodes that want the same share the work: an export is shared by `ExportService`, self-tests are remembered by digest.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

from service.builds.exports import Export
from service.contract.export_request import ExportRequest, default_quality
from service.contract.sizes import CountedUnit
from service.ground.errors import DigestMismatchError, ServiceError
from service.hub.fleet.documents import Desired
from service.inference import reference_outputs as self_test
from service.inference.session_pool import SessionPool

log = logging.getLogger(__name__)

SELF_TEST_ROWS = 2
SELF_TESTS_IN_MEMORY = 1000
INSTANT = "instant"
# Members that only make sense in the answer to one request.
_NOT_SHIPPED = ("url", "cached", "seconds")

Content = dict[str, Any]


class Exporter(Protocol):
    """What is needed of `ExportService`."""

    def lookup(self, request: ExportRequest) -> dict[str, Any] | None:
        """The manifest of an export whose artifact is there."""
        ...

    async def submit(self, request: ExportRequest) -> Export:
        """An export, to be waited for."""
        ...


class Models(Protocol):
    """What is needed of `ModelRegistry`."""

    def get(self, name: str) -> Any:
        """The model of this name, which has a `description`."""
        ...


class Artifacts(Protocol):
    """What is needed of an `ArtifactStore`."""

    def __contains__(self, digest: object) -> bool:
        """Whether the artifact is there now."""
        ...


class ReleaseContentBuilder:
    """Makes what releases hold. Belongs to one event loop.

    Args:
        exports: makes artifacts.
        models: descriptions of models.
        store: where artifacts lie.
        sessions: runs them, for their self-tests.
    """

    def __init__(self, *, exports: Exporter, models: Models, store: Artifacts, sessions: SessionPool) -> None:
        self._exports = exports
        self._models = models
        self._store = store
        self._sessions = sessions
        self._self_tests: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._testing: dict[str, asyncio.Task[dict[str, Any]]] = {}

    def qualities(self, model: str) -> list[str]:
        """Qualities that a model offers, the best first.

        Raises:
            UnknownModelError: there is no such model.
        """
        description: Mapping[str, Any] = self._models.get(model).description
        offered = description.get("qualities")
        return list(offered) if isinstance(offered, list) and offered else [default_quality(description)]

    async def manifest(self, desired: Desired, *, unit: CountedUnit, value: int, quality: str | None = None) -> Content:
        """The manifest of the largest size within a target, exported when it is not there.

        Args:
            desired: model, quality and rounding.
            unit, value: the target.
            quality: takes the place of the desired one.

        Raises:
            ServiceError: why there is none.
        """
        chosen = quality or desired.quality or self.qualities(desired.model)[0]
        return await self._export(ExportRequest(desired.model, unit, value, chosen, desired.multiple_of))

    async def content(self, manifest: Mapping[str, Any]) -> Content:
        """What a release of this artifact holds.

        Raises:
            ServiceError: the artifact is gone again, or cannot be loaded.
        """
        digest = manifest["digest"]
        vectors = self._self_tests.get(digest)
        if vectors is None:
            task = self._testing.get(digest)
            if task is None:
                task = self._testing[digest] = asyncio.create_task(self._test(digest), name="self-test")
                task.add_done_callback(lambda done: self._testing.pop(digest, None))
            vectors = await asyncio.shield(task)
        return {"manifest": dict(manifest), "self_test": vectors}

    def has(self, digest: str) -> bool:
        """Whether the artifact is in the store now."""
        return digest in self._store

    async def restore(self, manifest: Mapping[str, Any]) -> None:
        """Makes an artifact again that was evicted; the same checkpoint gives the same bytes.

        Raises:
            DigestMismatchError: the model has another checkpoint now.
            ServiceError: it cannot be made.
        """
        found = await self._export(
            ExportRequest(
                manifest["model"],
                "params",
                max(1, manifest["params"]),
                manifest["quality"],
                manifest.get("multiple_of", 1),
            )
        )
        if found["digest"] != manifest["digest"]:
            raise DigestMismatchError(
                f"model '{manifest['model']}' made again", expected=manifest["digest"], found=found["digest"]
            )

    async def _export(self, request: ExportRequest) -> Content:
        manifest = self._exports.lookup(request)
        if manifest is None:
            export = await self._exports.submit(request)
            try:
                await export.wait()
            except asyncio.CancelledError:
                export.cancel("the fleet no longer wants it")
                raise
            manifest = export.result()
        return {name: value for name, value in manifest.items() if name not in _NOT_SHIPPED}

    async def _test(self, digest: str) -> dict[str, Any]:
        async with self._sessions.use(digest) as batcher:
            # From the digest, so that a hub that makes the vectors again makes the same ones.
            seed = digest.removeprefix("sha256:")[:32]
            vectors = await asyncio.to_thread(self_test.make, batcher.session, seed=seed, rows=SELF_TEST_ROWS)
        self._self_tests[digest] = vectors
        if len(self._self_tests) > SELF_TESTS_IN_MEMORY:
            self._self_tests.popitem(last=False)
        return vectors


TRANSIENT = frozenset(
    {
        "queue-full",
        "not-ready",
        "store-full",
        "builder-failed",
        "build-timeout",
        "job-cancelled",
        "sessions-busy",
        "unknown-artifact",
    }
)
"""Codes of causes that pass: the hub tries again by itself, and the node is told nothing meanwhile."""


def is_final(error: ServiceError) -> bool:
    """Whether trying again would not help."""
    return error.code not in TRANSIENT
