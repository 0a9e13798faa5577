"""The interface of artifact stores: immutable files by digest, leased while in use, evicted when room is needed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self


class Lease(Protocol):
    """The right to read an artifact; it stays in the store until every lease on it is released.

    A context manager; `release` may be called more than once and from any thread.
    """

    @property
    def digest(self) -> str:
        """Digest of the artifact."""
        ...

    @property
    def path(self) -> Path:
        """Its file, readable while the lease is held."""
        ...

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        ...

    def release(self) -> None:
        """Ends the lease."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class StoreJournal(Protocol):
    """Where a store notes what it holds, so that a restart knows; the catalogue is one."""

    def known_artifacts(self) -> Iterable[tuple[str, int, float]]:
        """`(digest, size_bytes, last_used)` of every artifact noted, in seconds since the epoch."""
        ...

    def artifact_added(self, digest: str, size_bytes: int) -> None:
        """Notes a new artifact durably."""
        ...

    def artifact_removed(self, digest: str) -> None:
        """Forgets an artifact and whatever leads to it."""
        ...

    def artifact_used(self, digest: str) -> None:
        """Notes that an artifact was used now; may be written later, must be cheap."""
        ...


class StoreObserver(Protocol):
    """Who wants to know what happens in a store, for metrics. Called from any thread; must not block or raise."""

    def artifact_evicted(self, size_bytes: int) -> None:
        """An artifact was removed to make room."""
        ...

    def used_bytes_changed(self, used_bytes: int) -> None:
        """The artifacts of the store now take this many bytes."""
        ...


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
