"""Files that only their owner may read, whole or absent, and the lock of a folder that processes share.

The same promises as `service/ground/files.py` gives for artifacts, but with modes, and for a few bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

FILE_MODE = 0o600
FOLDER_MODE = 0o700
STAGED_PREFIX = ".staged-"


def make_private_folder(path: Path) -> None:
    """Create a folder that only its owner may enter, or take the rights of others from one that is there."""
    path.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    if path.stat().st_mode & 0o777 != FOLDER_MODE:
        path.chmod(FOLDER_MODE)


def write_private_file(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file of mode 0600 aside, force it to the disk and move it to its place.

    Args:
        path: in a folder that exists.
        content: all of it.
        replace: whether a file that is there may be replaced.

    Raises:
        FileExistsError: there is one and `replace` is false; it is left as it was.
    """
    staged = path.with_name(f"{STAGED_PREFIX}{secrets.token_hex(8)}")
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, FILE_MODE)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if replace:
            os.replace(staged, path)
        else:
            os.link(staged, path)
    finally:
        staged.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Force the entries of a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path` while the block runs; other processes and threads wait for it.

    The system frees the lock when its process dies, so nothing has to be cleaned up after a crash.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
