"""The folder of a node: artifacts by digest, downloads in the making, and the pointers that say which of them counts.

    STORE/artifacts/<hex>.onnx   whole, hashed, synced to disk before they got their name
    STORE/staging/<hex>.part     what is there of a download
    STORE/staging/<hex>.probe    the same for a download that is only measured
    STORE/active, previous, staged   the whole release document each, flipped at once
    STORE/outcome                what became of the newest generation

A pointer is replaced by renaming a file that was synced to disk, so a node that is killed at any moment finds each of
them as it was or as it should be. `staged` is the release that the node is on its way to, from the moment it believes
it until it serves it or gives it up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from service.contract.release import Release
from service.ground.errors import DigestMismatchError, StoreFullError
from service.ground.files import (
    STAGED_PREFIX,
    disk_full_as_error,
    hash_file,
    make_private_folder,
    own_folder,
    publish,
    write_private_file,
)
from service.ground.names import check_digest
from service.node.errors import DamagedArtifactError
from service.signing.envelope import Document, parse_json
from service.signing.errors import InvalidDocumentError

log = logging.getLogger(__name__)

Pointer = Literal["active", "previous", "staged"]
POINTERS: tuple[Pointer, ...] = ("active", "previous", "staged")

OUTCOME_FILE = "outcome"
SUFFIX = ".onnx"
PART_SUFFIX = ".part"
MEASURED_SUFFIX = ".probe"
DISK_MARGIN_BYTES = 1 << 20
"""Left free for pointers and trusted state, which must never fail because an artifact filled the disk."""


@dataclass(frozen=True)
class Outcome:
    """What became of a generation: `active` while it is watched, then `committed`, `rolled-back` or `failed`.

    Attributes:
        generation: of the release.
        state: `warming` while it is loaded, else one of those.
        error: code, detail and generation of what went wrong.
        starts: how often the process started while this generation was on trial.
    """

    generation: int
    state: str
    error: dict[str, Any] | None = None
    starts: int = 0

    @property
    def is_final(self) -> bool:
        """Whether the generation was given up: it is not tried again."""
        return self.state in ("failed", "rolled-back")


@dataclass(frozen=True)
class StoredRelease:
    """A release that lies on the disk as a pointer: the document and what it says."""

    document: Document
    release: Release


class NodeStore:
    """A node's folder; one process owns it. Methods block on the disk: call them in a thread where that matters.

    Args:
        root: the folder; created when missing, with no rights for others.
        disk_free: free bytes of the disk that holds a folder.

    Raises:
        StoreInUseError: another process has it open.
        StoreFullError: the folders cannot be made.
    """

    def __init__(
        self, root: Path, *, disk_free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    ) -> None:
        self.root = root
        self._artifacts = root / "artifacts"
        self._staging = root / "staging"
        self._disk_free = disk_free
        self._held: set[str] = set()
        make_private_folder(root)
        self._owner = own_folder(root)
        try:
            with disk_full_as_error(root, needed_bytes=0):
                self._artifacts.mkdir(exist_ok=True)
                self._staging.mkdir(exist_ok=True)
            for stray in root.glob(f"{STAGED_PREFIX}*"):
                stray.unlink()
        except BaseException:
            self._owner.close()
            raise

    def close(self) -> None:
        """Give the folder up to other processes."""
        self._owner.close()

    def artifact(self, digest: str) -> Path:
        """Where the whole file of an artifact lies, or would."""
        return self._artifacts / f"{_hexadecimal(digest)}{SUFFIX}"

    def part(self, digest: str) -> Path:
        """Where a download of an artifact is written."""
        return self._staging / f"{_hexadecimal(digest)}{PART_SUFFIX}"

    def measured_part(self, digest: str) -> Path:
        """Where a download is written that is measured and removed again, out of the way of one that is to serve."""
        return self._staging / f"{_hexadecimal(digest)}{MEASURED_SUFFIX}"

    def holds(self, digest: str, size_bytes: int) -> bool:
        """Whether the artifact is there and whole: reads and hashes the file."""
        path = self.artifact(digest)
        try:
            return path.stat().st_size == size_bytes and hash_file(path) == digest
        except OSError:
            return False

    def check_whole(self, release: Release, then: str) -> Path:
        """The file of a release's artifact.

        Raises:
            DamagedArtifactError: it is damaged or gone; `then` says what happens now.
        """
        if not self.holds(release.digest, release.manifest["bytes"]):
            raise DamagedArtifactError(release.digest, then)
        return self.artifact(release.digest)

    def check_room(self, size_bytes: int) -> None:
        """Check that the disk can take that many bytes more.

        Raises:
            StoreFullError: it cannot.
        """
        free = self._disk_free(self._staging)
        if size_bytes + DISK_MARGIN_BYTES > free:
            raise StoreFullError(
                needed_bytes=size_bytes, capacity_bytes=shutil.disk_usage(self._staging).total, free_bytes=free
            )

    def adopt(self, digest: str) -> Path:
        """Give a finished download its name; it is read from the disk and hashed once more before.

        Raises:
            DigestMismatchError: the bytes have another digest; the download is removed.
            StoreFullError: the disk is full.
        """
        part = self.part(digest)
        found = hash_file(part)
        if found != digest:
            part.unlink(missing_ok=True)
            raise DigestMismatchError("the downloaded artifact", expected=digest, found=found)
        with disk_full_as_error(self._artifacts, needed_bytes=0):
            publish(part, self.artifact(digest))
        return self.artifact(digest)

    def read(self, pointer: Pointer) -> StoredRelease | None:
        """The release that a pointer holds; None when there is none or the file is damaged."""
        path = self.root / pointer
        try:
            document: Document = parse_json(path.read_bytes(), pointer)
            return StoredRelease(document, Release.parse(document["signed"]))
        except FileNotFoundError:
            return None
        except (InvalidDocumentError, OSError, KeyError, TypeError) as error:
            log.error("pointer damaged", extra={"pointer": pointer, "detail": str(error)})
            return None

    def write(self, pointer: Pointer, document: Document) -> None:
        """Make a pointer hold a release.

        Raises:
            StoreFullError: the disk is full; the pointer is as it was.
        """
        self._replace(pointer, document)

    def clear(self, pointer: Pointer) -> None:
        """Make a pointer hold nothing."""
        (self.root / pointer).unlink(missing_ok=True)

    def read_outcome(self) -> Outcome | None:
        """What became of the newest generation; None when nothing is known."""
        try:
            return Outcome(**json.loads((self.root / OUTCOME_FILE).read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            log.error("outcome damaged", extra={"detail": str(error)})
            return None

    def write_outcome(self, outcome: Outcome) -> None:
        """Note what became of a generation.

        Raises:
            StoreFullError: the disk is full; the note is as it was.
        """
        self._replace(OUTCOME_FILE, asdict(outcome))

    def clear_outcome(self) -> None:
        """Forget what became of the newest generation, since that generation counts no more."""
        (self.root / OUTCOME_FILE).unlink(missing_ok=True)

    @contextlib.contextmanager
    def held(self, digests: Collection[str]) -> Iterator[None]:
        """Keep what has these digests from `collect` while the block runs."""
        held = {_hexadecimal(digest) for digest in digests} - self._held
        self._held |= held
        try:
            yield
        finally:
            self._held -= held

    def collect(self) -> None:
        """Remove artifacts and downloads that no pointer needs and nobody holds."""
        kept = [self.read(pointer) for pointer in POINTERS]
        wanted = {_hexadecimal(item.release.digest) for item in kept if item is not None} | self._held
        for folder in (self._artifacts, self._staging):
            for path in folder.iterdir():
                if path.name.partition(".")[0] not in wanted:
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    else:
                        path.unlink(missing_ok=True)
                    log.info("file removed", extra={"file": path.name})

    def _replace(self, name: str, value: Any) -> None:
        content = json.dumps(value, separators=(",", ":")).encode()
        with disk_full_as_error(self.root, needed_bytes=len(content)):
            write_private_file(self.root / name, content)


def _hexadecimal(digest: str) -> str:
    return check_digest(digest).removeprefix("sha256:")
