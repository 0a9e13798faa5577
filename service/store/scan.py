"""What a store finds in its folder at start: artifacts it noted, whole files it did not, and strays, removed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.ground.files import hash_file
from service.ground.names import digest_path, is_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """An artifact on the disk; `noted` says whether the journal knew it, `last_used` is in seconds since the epoch."""

    digest: str
    size_bytes: int
    last_used: float
    noted: bool


def scan_folder(folder: Path, noted: Mapping[str, tuple[int, float]], suffix: str) -> list[Found]:
    """Lists the artifacts of a folder and removes whatever else lies there.

    A noted file is trusted when its size is right (it was fsynced before it was noted); any other must hash to its
    name. Files with wrong names, wrong bytes, links and folders in the place of files are removed.

    Args:
        folder: holds `ab/abcd…<suffix>`.
        noted: `digest -> (size_bytes, last_used)` of the journal.
        suffix: how the names end.

    Returns:
        The artifacts, least recently used first.
    """
    found: list[Found] = []
    for path in sorted(folder.glob("*/*")):
        digest = f"sha256:{path.name.removesuffix(suffix)}"
        status = path.lstat()
        in_place = (
            is_digest(digest)
            and path == digest_path(folder, digest, suffix)
            and path.is_file()
            and not path.is_symlink()
        )
        known = noted.get(digest)
        if in_place and known is not None and known[0] == status.st_size:
            found.append(Found(digest, status.st_size, known[1], True))
        elif in_place and hash_file(path) == digest:
            log.info("unknown artifact adopted", extra={"digest": digest})
            found.append(Found(digest, status.st_size, status.st_mtime, False))
        else:
            log.warning("stray file removed", extra={"file": path.name})
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    return sorted(found, key=lambda item: (item.last_used, item.digest))
