"""The artifact store in a local folder: `artifacts/ab/abcd….onnx` by digest, `staging/` for files in the making.

Two locks: one for the index in memory, held for microseconds and never during input or output, so that a lease can
be taken on an event loop; one for files, held while artifacts are added or evicted. Whoever needs both takes the file
lock first.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from service.ground.errors import DigestMismatchError, StoreFullError, UnknownArtifactError
from service.ground.files import disk_full_as_error, hash_file, is_disk_full, own_folder, publish
from service.ground.metrics import counter, gauge
from service.ground.names import check_digest, digest_path
from service.store.interface import Catalogue, Lease
from service.store.scan import scan_folder

log = logging.getLogger(__name__)

# Left free on the disk for the catalogue, whose transactions must not fail when artifacts fill the disk.
DISK_MARGIN_BYTES = 1 << 20
SUFFIX = ".onnx"

_EVICTIONS = counter("inn_cache_evictions_total", "Artifacts evicted to make room.")
_USED_BYTES = gauge("inn_cache_bytes", "Bytes of all artifacts in the store.")


@dataclass(eq=False)
class _Entry:
    """An artifact in the index. `leases` is guarded by the index lock; `used` is set in one assignment."""

    digest: str
    size_bytes: int
    used: int
    leases: int = 0


class LocalStore:
    """An `ArtifactStore` in a folder of this machine; one process owns the folder.

    Args:
        root: the folder; created when missing. Staging files of an earlier process are removed. Files that the
            journal does not know are adopted when their bytes match their name, and removed otherwise.
        capacity_bytes: bytes that artifacts may take.
        journal: notes what is there and when it was used; without one, a restart takes the files as they are.
        disk_free: free bytes of the disk that holds a folder.

    Raises:
        StoreFullError: the folders cannot be made, the disk is full.
        StoreInUseError: another process has the folder open.
    """

    def __init__(
        self,
        root: Path,
        *,
        capacity_bytes: int,
        journal: Catalogue | None = None,
        disk_free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self._artifacts = root.resolve() / "artifacts"
        self._staging = root.resolve() / "staging"
        self._capacity_bytes = capacity_bytes
        self._journal = journal
        self._disk_free = disk_free
        self._entries: dict[str, _Entry] = {}
        self._used_bytes = 0
        self._clock = itertools.count(1)
        self._index_lock = threading.Lock()
        self._file_lock = threading.RLock()
        root.mkdir(parents=True, exist_ok=True)
        self._owner = own_folder(root)
        try:
            shutil.rmtree(self._staging, ignore_errors=True)
            with disk_full_as_error(root, needed_bytes=0, capacity_bytes=capacity_bytes):
                self._artifacts.mkdir(parents=True, exist_ok=True)
                self._staging.mkdir(exist_ok=True)
            self._reconcile()
        except BaseException:
            self._owner.close()
            raise

    def close(self) -> None:
        """Gives the folder up to other processes; artifacts stay."""
        self._owner.close()

    @property
    def capacity_bytes(self) -> int:
        """Bytes that artifacts may take."""
        return self._capacity_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes that artifacts take now."""
        return self._used_bytes

    def __contains__(self, digest: object) -> bool:
        return digest in self._entries

    def digests(self) -> list[str]:
        """Digests of all artifacts, least recently used first."""
        with self._index_lock:
            return [entry.digest for entry in sorted(self._entries.values(), key=lambda entry: entry.used)]

    def touch(self, digest: str) -> None:
        """Counts as a use for eviction; takes no lock and writes nothing."""
        entry = self._entries.get(digest)
        if entry is not None:
            entry.used = next(self._clock)
            if self._journal is not None:
                self._journal.artifact_used(digest)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A fresh folder to write a file in before it is adopted; removed with what is left in it."""
        folder = self._staging / uuid.uuid4().hex
        with disk_full_as_error(self._staging, needed_bytes=0, capacity_bytes=self._capacity_bytes):
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def adopt(self, staged: Path, digest: str, *, trusted: bool = False) -> int:
        """Takes a finished file over as an artifact; see `ArtifactStore.adopt`."""
        target = digest_path(self._artifacts, digest, SUFFIX)
        size_bytes = staged.stat().st_size
        if not trusted:
            found = hash_file(staged)
            if found != digest:
                raise DigestMismatchError("the staged artifact", expected=digest, found=found)
        with self._file_lock:
            if digest in self._entries:
                staged.unlink()
                self.touch(digest)
                return self._entries[digest].size_bytes
            self._evict(size_bytes, needed_on_disk=0)
            with disk_full_as_error(self._artifacts, needed_bytes=size_bytes, capacity_bytes=self._capacity_bytes):
                publish(staged, target)
                try:
                    if self._journal is not None:
                        self._journal.artifact_added(digest, size_bytes)
                except BaseException:
                    target.unlink(missing_ok=True)
                    raise
            with self._index_lock:
                self._entries[digest] = _Entry(digest, size_bytes, next(self._clock))
                self._used_bytes += size_bytes
        _USED_BYTES.set(self._used_bytes)
        log.info("artifact adopted", extra={"digest": digest, "size_bytes": size_bytes})
        return size_bytes

    def lease(self, digest: str) -> Lease:
        """The right to read an artifact; see `ArtifactStore.lease`."""
        path = digest_path(self._artifacts, digest, SUFFIX)
        with self._index_lock:
            entry = self._entries.get(digest)
            if entry is None:
                raise UnknownArtifactError(digest)
            entry.leases += 1
        lease = Lease(digest, path, entry.size_bytes, give_back=lambda: self._release(entry))
        if not path.is_file():
            lease.release()
            log.warning("artifact file is missing", extra={"digest": digest})
            with self._file_lock:
                if not path.is_file():  # nobody brought it back in the meantime
                    self._drop(digest, is_lost=True)
            raise UnknownArtifactError(digest)
        self.touch(digest)
        return lease

    def make_room(self, size_bytes: int) -> None:
        """Evicts until a new artifact of this size fits; see `ArtifactStore.make_room`."""
        with self._file_lock:
            self._evict(size_bytes, needed_on_disk=size_bytes)

    def make_disk_room(self, size_bytes: int) -> None:
        """Evicts until the disk has this much free; see `ArtifactStore.make_disk_room`."""
        with self._file_lock:
            self._evict(0, needed_on_disk=size_bytes)

    def remove(self, digest: str) -> bool:
        """Removes an artifact that nobody leases; see `ArtifactStore.remove`."""
        check_digest(digest)
        with self._file_lock:
            return self._drop(digest)

    def _release(self, entry: _Entry) -> None:
        with self._index_lock:
            entry.leases -= 1

    def _evict(self, size_bytes: int, *, needed_on_disk: int) -> None:
        """Evicts the least recently used until `size_bytes` fit in the capacity and `needed_on_disk` on the disk."""
        on_disk = needed_on_disk + DISK_MARGIN_BYTES if needed_on_disk else 0
        free_on_disk = self._disk_free(self._artifacts) if on_disk else 0
        with self._index_lock:
            idle = sorted((entry for entry in self._entries.values() if not entry.leases), key=lambda entry: entry.used)
            used_bytes = self._used_bytes
        wanted = max(used_bytes + size_bytes - self._capacity_bytes if size_bytes else 0, on_disk - free_on_disk)
        evictable = sum(entry.size_bytes for entry in idle)
        if wanted > evictable:
            can_free = self._capacity_bytes - used_bytes + evictable
            if on_disk:
                can_free = min(can_free, max(0, free_on_disk - DISK_MARGIN_BYTES) + evictable)
            raise StoreFullError(
                needed_bytes=max(size_bytes, needed_on_disk),
                capacity_bytes=self._capacity_bytes,
                free_bytes=max(0, can_free),
            )
        for entry in idle:
            if wanted <= 0:
                return
            if self._drop(entry.digest):
                wanted -= entry.size_bytes
                log.info("artifact evicted", extra={"digest": entry.digest, "size_bytes": entry.size_bytes})
                _EVICTIONS.inc()
        if wanted > 0:  # leases were taken on what looked idle a moment ago
            raise StoreFullError(
                needed_bytes=max(size_bytes, needed_on_disk), capacity_bytes=self._capacity_bytes, free_bytes=0
            )

    def _drop(self, digest: str, *, is_lost: bool = False) -> bool:
        """Removes an artifact from the index, the disk and the journal, in this order; needs the file lock.

        Leased ones stay, unless somebody deleted the file behind the store's back.
        """
        with self._index_lock:
            entry = self._entries.get(digest)
            if entry is None or (entry.leases and not is_lost):
                return False
            del self._entries[digest]
            self._used_bytes -= entry.size_bytes
        digest_path(self._artifacts, digest, SUFFIX).unlink(missing_ok=True)
        self._note_removed(digest)
        _USED_BYTES.set(self._used_bytes)
        return True

    def _note_removed(self, digest: str) -> None:
        if self._journal is None:
            return
        try:
            self._journal.artifact_removed(digest)
        except Exception as error:
            # The file is gone; a row that is left over is dropped at the next start.
            if not is_disk_full(error) and not isinstance(error, StoreFullError):
                raise
            log.warning("journal is full", extra={"digest": digest})

    def _reconcile(self) -> None:
        """Makes the index, the journal and the files agree, and evicts when the capacity was lowered."""
        noted = {} if self._journal is None else {row[0]: (row[1], row[2]) for row in self._journal.known_artifacts()}
        for item in scan_folder(self._artifacts, noted, SUFFIX):
            self._entries[item.digest] = _Entry(item.digest, item.size_bytes, next(self._clock))
            self._used_bytes += item.size_bytes
            if not item.noted and self._journal is not None:
                self._journal.artifact_added(item.digest, item.size_bytes)
        for digest in noted.keys() - self._entries.keys():
            log.warning("artifact file is missing", extra={"digest": digest})
            self._note_removed(digest)
        for digest in self.digests():
            if self._used_bytes <= self._capacity_bytes:
                break
            self._drop(digest)
        _USED_BYTES.set(self._used_bytes)
