"""Fixtures of the store's tests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.store.catalogue import SqliteCatalogue
from service.store.interface import ArtifactStore
from service.store.local import LocalStore
from tests.service.store.stores import (
    CAPACITY_BYTES,
    SMALL_DISK_BYTES,
    STORES,
    OpenCatalogue,
    OpenStore,
    SmallDisk,
    StoreFactory,
)


@pytest.fixture(params=STORES, ids=lambda factory: factory.__name__)
def make_store(request: pytest.FixtureRequest) -> StoreFactory:
    """Opens a store of one implementation."""
    factory: StoreFactory = request.param
    return factory


@pytest.fixture
def store(make_store: StoreFactory, tmp_path: Path) -> Iterator[ArtifactStore]:
    """An empty store of `CAPACITY_BYTES`."""
    opened = make_store(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def open_store() -> Iterator[OpenStore]:
    """Opens local stores and closes them at the end."""
    opened: list[LocalStore] = []

    def open_one(root: Path, *, capacity_bytes: int = CAPACITY_BYTES, **options: Any) -> LocalStore:
        opened.append(LocalStore(root, capacity_bytes=capacity_bytes, **options))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def open_catalogue() -> Iterator[OpenCatalogue]:
    """Opens catalogues and closes them at the end."""
    opened: list[SqliteCatalogue] = []

    def open_one(root: Path, **options: Any) -> SqliteCatalogue:
        opened.append(SqliteCatalogue(root / "catalogue.sqlite", **options))
        return opened[-1]

    yield open_one
    for catalogue in opened:
        catalogue.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system in memory of `SMALL_DISK_BYTES`; where none may be mounted, a folder with a free space to match."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={SMALL_DISK_BYTES}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        yield SmallDisk(folder, lambda _: SMALL_DISK_BYTES - sum(p.stat().st_size for p in folder.rglob("*")))
        return
    yield SmallDisk(folder, lambda place: shutil.disk_usage(place).free)
    subprocess.run(["umount", "-l", folder], check=True)
