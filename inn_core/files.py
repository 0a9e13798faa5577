"""Files that are whole or absent: written aside, hashed while written, fsynced, renamed."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

_BUFFER_BYTES = 1 << 20


class HashingWriter:
    """Writes bytes and hashes them at the same time, in a second thread: both release the interpreter lock.

    Buffers given to `write` must not change until the file is closed.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._queue: SimpleQueue[bytes | memoryview | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="inn-hash", daemon=True)
        self._thread.start()
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes, or a contiguous memory view of bytes."""
        self._queue.put(data)
        self.size_bytes += len(data)
        self._file.write(data)

    def finish(self) -> str:
        """End the hash; the digest of everything written, `sha256:` plus hex."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        return f"sha256:{self._hash.hexdigest()}"

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            self._hash.update(data)


@contextmanager
def written_aside(path: Path) -> Iterator[HashingWriter]:
    """A writer to a new file beside `path` that takes its place when the block ends without an error.

    On success the bytes and the folder entry are on the disk. On an error the new file is removed and `path` is as
    it was before.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    file = open(aside, "xb", buffering=_BUFFER_BYTES)  # noqa: SIM115 - closed before the rename, below
    try:
        writer = HashingWriter(file)
        try:
            yield writer
            file.flush()
            os.fsync(file.fileno())
        finally:
            writer.finish()
            file.close()
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: str | Path) -> str:
    """Digest of a file's bytes, `sha256:` plus hex."""
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
