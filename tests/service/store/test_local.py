"""What is special about the local store: its folder, its journal, its disk."""

from __future__ import annotations

import errno
import hashlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from service.ground.errors import StoreFullError, StoreInUseError, UnknownArtifactError
from service.ground.metrics import REGISTRY
from service.store import local
from tests.service.counted import Counted
from tests.service.store.stores import OpenCatalogue, OpenStore, SmallDisk, digest_of, put

MIB = 1 << 20


def place(root: Path, data: bytes, name: str | None = None) -> Path:
    """Puts a file where the store would, without the store."""
    hexadecimal = name or hashlib.sha256(data).hexdigest()
    path = root / "artifacts" / hexadecimal[:2] / f"{hexadecimal}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_start_makes_files_and_catalogue_agree(
    tmp_path: Path, open_store: OpenStore, open_catalogue: OpenCatalogue
) -> None:
    catalogue = open_catalogue(tmp_path)
    store = open_store(tmp_path, capacity_bytes=1000, journal=catalogue)
    lost, cut, kept = put(store, b"lost"), put(store, b"cut short"), put(store, b"kept")
    for digest, manifest in ((lost, "lost"), (cut, "cut"), (kept, "kept")):
        catalogue.put_build(manifest, {"digest": digest})
        catalogue.put_export(manifest, manifest, {})
    store.close()
    place(tmp_path, b"lost").unlink()
    place(tmp_path, b"cut", hashlib.sha256(b"cut short").hexdigest())
    place(tmp_path, b"adopted")
    strays = [
        place(tmp_path, b"not what its name says", "ab" + "0" * 62),
        place(tmp_path, b"odd name", "abcd"),
        tmp_path / "artifacts" / "zz" / place(tmp_path, b"kept").name,
        tmp_path / "artifacts" / "ab" / "folder",
        tmp_path / "artifacts" / "ab" / ("ab" + "1" * 62 + ".onnx"),
    ]
    strays[2].parent.mkdir()
    strays[2].write_bytes(b"kept")
    strays[3].mkdir()
    strays[4].symlink_to("/etc/passwd")

    again = open_store(tmp_path, capacity_bytes=1000, journal=catalogue)
    assert set(again.digests()) == {kept, digest_of(b"adopted")}
    assert {row[0] for row in catalogue.known_artifacts()} == {kept, digest_of(b"adopted")}
    assert again.used_bytes == len(b"kept") + len(b"adopted")
    assert not any(stray.exists() or stray.is_symlink() for stray in strays)
    assert (catalogue.export("lost"), catalogue.export("cut")) == (None, None)
    assert catalogue.export("kept") == {"digest": kept}


def test_order_of_use_survives_a_restart(tmp_path: Path, open_store: OpenStore, open_catalogue: OpenCatalogue) -> None:
    now = 100.0
    catalogue = open_catalogue(tmp_path, clock=lambda: now)
    store = open_store(tmp_path, capacity_bytes=1000, journal=catalogue)
    first, second = put(store, b"a" * 400), put(store, b"b" * 400)
    now = 200.0
    store.touch(first)
    store.close()
    catalogue.close()
    catalogue = open_catalogue(tmp_path)
    store = open_store(tmp_path, capacity_bytes=1000, journal=catalogue)
    assert store.digests() == [second, first]
    put(store, b"c" * 400)
    assert first in store
    assert second not in store


def test_lowered_capacity_is_met_at_start(tmp_path: Path, open_store: OpenStore, open_catalogue: OpenCatalogue) -> None:
    store = open_store(tmp_path, capacity_bytes=1000, journal=open_catalogue(tmp_path))
    put(store, b"a" * 400)
    newest = put(store, b"b" * 400)
    store.close()
    store = open_store(tmp_path, capacity_bytes=500, journal=open_catalogue(tmp_path))
    assert store.digests() == [newest]
    assert len(list((tmp_path / "artifacts").glob("*/*"))) == 1


def test_a_folder_belongs_to_one_store(tmp_path: Path, open_store: OpenStore) -> None:
    first = open_store(tmp_path, capacity_bytes=1000)
    with pytest.raises(StoreInUseError):
        open_store(tmp_path, capacity_bytes=1000)
    first.close()
    open_store(tmp_path, capacity_bytes=1000).close()


def test_a_killed_process_leaves_the_folder_usable(tmp_path: Path, open_store: OpenStore) -> None:
    code = (
        "import os, pathlib, sys; from service.store.local import LocalStore\n"
        "store = LocalStore(pathlib.Path(sys.argv[1]), capacity_bytes=1000)\n"
        "with store.staging() as folder:\n"
        "    (folder / 'half').write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == -9
    assert list((tmp_path / "staging").iterdir()) != []
    store = open_store(tmp_path, capacity_bytes=1000)
    assert list((tmp_path / "staging").iterdir()) == []
    store.close()


def test_evictions_and_use_are_counted(tmp_path: Path, open_store: OpenStore) -> None:
    counted = Counted()
    store = open_store(tmp_path, capacity_bytes=1000)
    assert REGISTRY.get_sample_value("inn_cache_bytes") == 0
    put(store, b"a" * 600)
    assert REGISTRY.get_sample_value("inn_cache_bytes") == 600
    put(store, b"b" * 700)
    assert counted("inn_cache_evictions_total") == 1
    assert REGISTRY.get_sample_value("inn_cache_bytes") == 700


def test_full_small_disk_loses_nothing(
    small_disk: SmallDisk, open_store: OpenStore, open_catalogue: OpenCatalogue
) -> None:
    catalogue = open_catalogue(small_disk.folder)
    store = open_store(small_disk.folder, capacity_bytes=100 * MIB, journal=catalogue, disk_free=small_disk.free)
    leased = put(store, b"a" * MIB)
    with store.lease(leased) as lease:
        idle = put(store, b"b" * (MIB // 2))
        with pytest.raises(StoreFullError) as caught:
            store.make_room(3 * MIB)
        assert caught.value.fields["needed_bytes"] == 3 * MIB
        assert 0 < caught.value.fields["free_bytes"] < 3 * MIB
        assert store.digests() == [leased, idle]
        with pytest.raises(StoreFullError):
            store.make_disk_room(3 * MIB)
        assert lease.path.read_bytes() == b"a" * MIB
        store.make_room(MIB + MIB // 2)
        assert store.digests() == [leased]
        newest = put(store, b"c" * (MIB + MIB // 2))
    assert {row[0] for row in catalogue.known_artifacts()} == {leased, newest}
    catalogue.close()
    store.close()


def test_disk_that_fills_while_adopting_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_store: OpenStore
) -> None:
    store = open_store(tmp_path, capacity_bytes=1000)
    kept = put(store, b"kept")

    def full(staged: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local, "publish", full)
    with pytest.raises(StoreFullError):
        put(store, b"new")
    monkeypatch.undo()
    assert store.digests() == [kept]
    assert list((tmp_path / "staging").iterdir()) == []
    assert put(store, b"new") in store
    store.close()


def test_full_journal_takes_the_artifact_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_store: OpenStore, open_catalogue: OpenCatalogue
) -> None:
    catalogue = open_catalogue(tmp_path)
    store = open_store(tmp_path, capacity_bytes=1000, journal=catalogue)

    def full(digest: str, size_bytes: int) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(catalogue, "artifact_added", full)
    with pytest.raises(StoreFullError):
        put(store, b"new")
    assert store.digests() == []
    assert store.used_bytes == 0
    assert list((tmp_path / "artifacts").glob("*/*")) == []
    with pytest.raises(UnknownArtifactError):
        store.lease(digest_of(b"new"))
    store.close()
