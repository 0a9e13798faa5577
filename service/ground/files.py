"""Files that are whole or absent: written aside, hashed on the way, fsynced, renamed; a full disk has its own error.

Also files that only their owner may read, and the two locks of folders.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from service.ground.errors import BodyTooLargeError, StoreFullError, StoreInUseError

FILE_MODE = 0o600
FOLDER_MODE = 0o700
STAGED_PREFIX = ".staged-"
_FULL = (errno.ENOSPC, errno.EDQUOT)
# The second is what opening a file in write-ahead mode meets on a full disk.
_SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of the system or of SQLite says that the disk is full."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) in _SQLITE_FULL


@contextmanager
def disk_full_as_error(folder: Path, *, needed_bytes: int, capacity_bytes: int | None = None) -> Iterator[None]:
    """Turns "no space left" (ENOSPC, EDQUOT, SQLITE_FULL) inside the block into `StoreFullError`.

    Args:
        folder: a folder on the disk in question, for the figures in the message.
        needed_bytes: what the block wanted to write.
        capacity_bytes: of the store; the size of the disk when not given.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, StoreFullError) or not is_disk_full(error):
            raise
        usage = shutil.disk_usage(folder)
        raise StoreFullError(
            needed_bytes=needed_bytes,
            capacity_bytes=usage.total if capacity_bytes is None else capacity_bytes,
            free_bytes=usage.free,
        ) from error


def hash_file(path: Path) -> str:
    """Digest of a file's bytes, `sha256:` plus hex, read in blocks of 1 MiB."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def sync(path: Path) -> None:
    """Forces the bytes of a file, or the entries of a folder, to the disk (a rename is only durable after this)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(staged: Path, target: Path) -> None:
    """Moves a finished file to its place at once and durably: fsync, rename, fsync of the folder.

    Both must be on one file system. `target` is replaced when it exists.
    """
    new_folder = not target.parent.exists()
    target.parent.mkdir(parents=True, exist_ok=True)
    sync(staged)
    os.replace(staged, target)
    sync(target.parent)
    if new_folder:
        sync(target.parent.parent)


def write_file(path: Path, content: bytes, *, mode: int | None = None, replace: bool = True) -> None:
    """Writes a small file aside, forces it to the disk and moves it to its place.

    Args:
        path: in a folder that exists.
        content: all of it.
        mode: of the file; as the process makes files when not given.
        replace: whether a file that is there may be replaced.

    Raises:
        FileExistsError: there is one and `replace` is false; it is left as it was.
    """
    staged = path.with_name(f"{STAGED_PREFIX}{secrets.token_hex(8)}")
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if replace:
            os.replace(staged, path)
        else:
            os.link(staged, path)
    finally:
        staged.unlink(missing_ok=True)
    sync(path.parent)


def write_private_file(path: Path, content: bytes, *, replace: bool = True) -> None:
    """`write_file` with mode 0600."""
    write_file(path, content, mode=FILE_MODE, replace=replace)


def make_private_folder(path: Path) -> None:
    """Creates a folder that only its owner may enter, or takes the rights of others from one that is there."""
    path.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    if path.stat().st_mode & 0o777 != FOLDER_MODE:
        path.chmod(FOLDER_MODE)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file at `path` while the block runs; other processes and threads wait for it.

    The system frees the lock when its process dies, so nothing has to be cleaned up after a crash.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def own_folder(root: Path) -> BinaryIO:
    """Locks a folder until the returned file is closed; the system closes it when the process dies.

    Raises:
        StoreInUseError: another process has it.
    """
    file = (root / "lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StoreInUseError(str(root)) from error
    return file


class HashingWriter:
    """Writes an upload to a file while hashing it, and stops at a limit.

    Use as a context manager; `digest` and `size_bytes` hold what was written so far. The file is not fsynced here:
    `publish` does that. Not thread-safe.
    """

    def __init__(self, path: Path, *, limit_bytes: int, what: str = "the upload") -> None:
        self.path = path
        self.size_bytes = 0
        self._limit_bytes = limit_bytes
        self._what = what
        self._hash = hashlib.sha256()
        self._file = path.open("xb")

    @property
    def digest(self) -> str:
        """`sha256:` plus hex of the bytes written so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Appends a chunk.

        Raises:
            BodyTooLargeError: the file would pass the limit; nothing of the chunk is written.
            StoreFullError: the disk is full.
        """
        size = memoryview(chunk).nbytes
        if self.size_bytes + size > self._limit_bytes:
            raise BodyTooLargeError(self._limit_bytes, self._what)
        with disk_full_as_error(self.path.parent, needed_bytes=size):
            self._file.write(chunk)
        self._hash.update(chunk)
        self.size_bytes += size

    def close(self) -> None:
        """Flushes and closes the file.

        Raises:
            StoreFullError: the disk is full.
        """
        with disk_full_as_error(self.path.parent, needed_bytes=self.size_bytes):
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
