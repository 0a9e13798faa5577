"""What the hub keeps, behind two protocols: artifacts by digest, and the catalogue of what leads to them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

Manifest = dict[str, Any]


@dataclass(frozen=True)
class FinishedWork:
    """A build or a curve that the catalogue has.

    Attributes:
        kind: what it is.
        model: name of the model it was made of; of a curve any that has the checkpoint now.
        result: the manifest, as its first request had it, or the curve.
        finished: seconds since the epoch.
    """

    kind: Literal["export", "curve"]
    model: str
    result: Manifest
    finished: float


class Lease:
    """The right to read an artifact; it stays in the store until every lease on it is released.

    A context manager; `release` may be called more than once and from any thread.

    Attributes:
        digest: of the artifact.
        path: its file, readable while the lease is held.
        size_bytes: of the file.
    """

    def __init__(self, digest: str, path: Path, size_bytes: int, *, give_back: Callable[[], None]) -> None:
        self.digest = digest
        self.path = path
        self.size_bytes = size_bytes
        self._give_back = give_back
        self._once = threading.Lock()

    def release(self) -> None:
        """Ends the lease; a second call does nothing."""
        if self._once.acquire(blocking=False):
            self._give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class ArtifactStore(Protocol):
    """Artifacts by digest within a byte capacity. Safe to use from several threads."""

    @property
    def capacity_bytes(self) -> int:
        """Bytes that artifacts may take; `used_bytes` never exceeds it."""
        ...

    @property
    def used_bytes(self) -> int:
        """Bytes that artifacts take now."""
        ...

    def close(self) -> None:
        """Gives up what the store holds open; artifacts stay."""
        ...

    def __contains__(self, digest: object) -> bool:
        """Whether the artifact is there now; without a lease it may be evicted a moment later. Never blocks."""
        ...

    def digests(self) -> list[str]:
        """Digests of all artifacts, least recently used first."""
        ...

    def touch(self, digest: str) -> None:
        """Counts as a use for eviction. Never blocks; an unknown digest is ignored."""
        ...

    def staging(self) -> AbstractContextManager[Path]:
        """A fresh folder to write a file in before it is adopted; removed, with what is left in it, at the end."""
        ...

    def adopt(self, staged: Path, digest: str, *, trusted: bool = False) -> int:
        """Takes a finished file over as an artifact, evicting others when needed.

        Adopting a digest that is there already changes nothing (the staged file is removed).

        Args:
            staged: a file inside a staging folder.
            digest: what its bytes must hash to.
            trusted: leave the hash unchecked, when the caller computed it from these very bytes.

        Returns:
            Its size in bytes.

        Raises:
            DigestMismatchError: the bytes have another digest; the staged file stays.
            StoreFullError: no room; no artifact was removed.
        """
        ...

    def lease(self, digest: str) -> Lease:
        """The right to read an artifact; counts as a use.

        Raises:
            InvalidRequestError: `digest` is none.
            UnknownArtifactError: it is not there.
        """
        ...

    def make_room(self, size_bytes: int) -> None:
        """Evicts least recently used artifacts until a new one of this size fits, in the capacity and on the disk.

        Raises:
            StoreFullError: it cannot fit; nothing was evicted.
        """
        ...

    def make_disk_room(self, size_bytes: int) -> None:
        """As `make_room`, for a file that is no artifact: only the free space of the disk counts."""
        ...

    def remove(self, digest: str) -> bool:
        """Removes an artifact that nobody leases.

        Returns:
            Whether it is gone; False when it is leased or was not there.
        """
        ...


@dataclass(frozen=True)
class ModelRow:
    """A registered model as the catalogue keeps it; `added` is in seconds since the epoch."""

    name: str
    digest: str
    size_bytes: int
    description: dict[str, Any]
    added: float


class Catalogue(Protocol):
    """Which models, builds, exports, artifacts and curves a hub has. Safe to use from several threads.

    What a method wrote survives a power cut when it returns. Every method that writes may raise `StoreFullError`;
    nothing was changed then.
    """

    def close(self) -> None:
        """Writes what is pending and gives up what is held open."""
        ...

    def models(self) -> list[ModelRow]:
        """All models, by name."""
        ...

    def put_model(self, name: str, digest: str, size_bytes: int, description: dict[str, Any]) -> ModelRow:
        """Adds a model or replaces the one of this name."""
        ...

    def delete_model(self, name: str) -> None:
        """Forgets a model; its artifacts stay."""
        ...

    def known_artifacts(self) -> list[tuple[str, int, float]]:
        """`(digest, size_bytes, last_used)` of every artifact, least recently used first; seconds since the epoch."""
        ...

    def artifact_added(self, digest: str, size_bytes: int) -> None:
        """Notes an artifact; noting it again keeps what leads to it."""
        ...

    def artifact_removed(self, digest: str) -> None:
        """Forgets an artifact, with the builds and exports that lead to it."""
        ...

    def artifact_used(self, digest: str) -> None:
        """Notes a use in memory, which never blocks; `flush_uses`, and any other write, makes it durable."""
        ...

    def flush_uses(self) -> None:
        """Writes the uses noted since the last time."""
        ...

    def work(self, key: str) -> FinishedWork | None:
        """What was made under a build key or a curve's key."""
        ...

    def build(self, build_key: str) -> Manifest | None:
        """Manifest of the artifact that a build key led to."""
        ...

    def export(self, request_key: str) -> Manifest | None:
        """Manifest that a request led to: that of the build, with the members that are the request's own."""
        ...

    def manifest_of(self, digest: str) -> Manifest | None:
        """Manifest of an artifact, as its first build wrote it."""
        ...

    def put_build(self, build_key: str, manifest: Manifest) -> None:
        """Notes what a build key leads to; ignored unless `manifest["digest"]` is a noted artifact."""
        ...

    def put_export(self, request_key: str, build_key: str, members: Manifest) -> None:
        """Notes what a request leads to; ignored unless the build is noted.

        Args:
            request_key: of the request.
            build_key: of the build that made the artifact.
            members: of the manifest that are the request's own, such as `budget`.
        """
        ...

    def trim(self) -> None:
        """Forgets the oldest exports and curves beyond a number, so that endless new requests cannot fill the disk.

        A forgotten export costs its next request a plan, not a build.
        """
        ...

    def curve(self, curve_key: str) -> dict[str, Any] | None:
        """A curve that was measured before."""
        ...

    def put_curve(self, curve_key: str, checkpoint: str, curve: dict[str, Any]) -> None:
        """Notes a measured curve of a checkpoint digest."""
        ...

    def delete_curves(self, checkpoint: str) -> None:
        """Forgets the curves of a checkpoint digest."""
        ...
