"""Helpers of the store's tests: digests, puts, the implementations under test, and a small disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.store.catalogue import SqliteCatalogue
from service.store.interface import ArtifactStore
from service.store.local import LocalStore

CAPACITY_BYTES = 1000
SMALL_DISK_BYTES = 4 << 20

StoreFactory = Callable[[Path], ArtifactStore]
OpenStore = Callable[..., LocalStore]
OpenCatalogue = Callable[..., SqliteCatalogue]


@dataclass(frozen=True)
class SmallDisk:
    """A folder on a small disk, and the free bytes of that disk."""

    folder: Path
    free: Callable[[Path], int]


def digest_of(data: bytes) -> str:
    """The digest of bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def put(store: ArtifactStore, data: bytes) -> str:
    """Stages and adopts bytes; returns their digest."""
    with store.staging() as folder:
        (folder / "file").write_bytes(data)
        store.adopt(folder / "file", digest_of(data))
    return digest_of(data)


def plain_store(root: Path) -> ArtifactStore:
    """A local store that remembers nothing but its files."""
    return LocalStore(root, capacity_bytes=CAPACITY_BYTES)


def noted_store(root: Path) -> ArtifactStore:
    """A local store with a catalogue for its journal."""
    return LocalStore(root, capacity_bytes=CAPACITY_BYTES, journal=SqliteCatalogue(root / "catalogue.sqlite"))


# Every implementation of `ArtifactStore` adds itself here and inherits the contract suite.
STORES: list[StoreFactory] = [plain_store, noted_store]
