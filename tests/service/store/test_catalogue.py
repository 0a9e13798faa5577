"""The catalogue: rows that survive, rows that go together, files that are no catalogue."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.ground.errors import InvalidCatalogueError, StoreFullError
from service.store.catalogue import SCHEMA, SqliteCatalogue
from tests.service.store.stores import OpenCatalogue

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def test_everything_is_there_after_a_restart(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    first = open_catalogue(tmp_path, clock=lambda: 100.0)
    first.put_model("net", ONE, 5, {"groups": [1, 2], "name": "ü"})
    first.artifact_added(TWO, 7)
    first.put_build("build", {"digest": TWO, "params": 3, "budget": {"value": 3}})
    first.put_export("export", "build", {"budget": {"value": 4}})
    first.put_curve("curve", ONE, {"points": []})
    first.close()
    again = open_catalogue(tmp_path)
    (row,) = again.models()
    assert (row.name, row.digest, row.size_bytes, row.added) == ("net", ONE, 5, 100.0)
    assert row.description == {"groups": [1, 2], "name": "ü"}
    assert again.known_artifacts() == [(TWO, 7, 100.0)]
    assert again.build("build") == again.manifest_of(TWO) == {"digest": TWO, "params": 3, "budget": {"value": 3}}
    assert again.export("export") == {"digest": TWO, "params": 3, "budget": {"value": 4}}
    assert again.curve("curve") == {"points": []}


def test_builds_and_exports_go_with_their_artifact(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    catalogue = open_catalogue(tmp_path)
    for digest, key in ((ONE, "one"), (TWO, "two")):
        catalogue.artifact_added(digest, 7)
        catalogue.put_build(key, {"digest": digest})
        catalogue.put_export(key, key, {})
    catalogue.artifact_removed(ONE)
    assert (catalogue.build("one"), catalogue.export("one"), catalogue.manifest_of(ONE)) == (None, None, None)
    assert catalogue.build("two") == catalogue.export("two") == {"digest": TWO}


def test_export_of_an_artifact_that_is_gone_is_not_noted(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    catalogue = open_catalogue(tmp_path)
    catalogue.put_build("build", {"digest": ONE})
    catalogue.put_export("export", "build", {})
    assert catalogue.build("build") is None
    assert catalogue.export("export") is None


def test_building_again_keeps_the_exports_of_a_build(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    catalogue = open_catalogue(tmp_path)
    catalogue.artifact_added(ONE, 7)
    catalogue.put_build("build", {"digest": ONE, "seconds": 1})
    catalogue.put_export("export", "build", {"budget": 4})
    catalogue.put_build("build", {"digest": ONE, "seconds": 2})
    assert catalogue.export("export") == {"digest": ONE, "seconds": 2, "budget": 4}


def test_trim_forgets_the_oldest(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    now = 0.0
    catalogue = open_catalogue(tmp_path, clock=lambda: now)
    catalogue.artifact_added(ONE, 7)
    catalogue.put_build("build", {"digest": ONE})
    for number in (2, 0, 1, 4, 3):
        now = float(number)
        catalogue.put_export(str(number), "build", {})
        catalogue.put_curve(str(number), ONE, {})
    catalogue.trim(exports=3, curves=2)
    assert [number for number in range(5) if catalogue.export(str(number)) is not None] == [2, 3, 4]
    assert [number for number in range(5) if catalogue.curve(str(number)) is not None] == [3, 4]
    catalogue.trim()
    assert catalogue.export("4") is not None


def test_noting_an_artifact_again_keeps_what_leads_to_it(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    catalogue = open_catalogue(tmp_path)
    catalogue.artifact_added(ONE, 7)
    catalogue.put_build("build", {"digest": ONE})
    catalogue.artifact_added(ONE, 7)
    assert catalogue.build("build") == {"digest": ONE}


def test_uses_are_written_with_the_next_write_and_never_go_back(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    now = 100.0
    catalogue = open_catalogue(tmp_path, clock=lambda: now)
    catalogue.artifact_added(ONE, 7)
    now = 200.0
    catalogue.artifact_used(ONE)
    assert catalogue.known_artifacts() == [(ONE, 7, 100.0)]
    catalogue.put_curve("curve", ONE, {})
    assert catalogue.known_artifacts() == [(ONE, 7, 200.0)]
    now = 150.0
    catalogue.artifact_used(ONE)
    catalogue.flush_uses()
    assert catalogue.known_artifacts() == [(ONE, 7, 200.0)]


def test_a_killed_process_loses_no_committed_row(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    code = (
        "import os, pathlib, sys; from service.store.catalogue import SqliteCatalogue\n"
        "catalogue = SqliteCatalogue(pathlib.Path(sys.argv[1]))\n"
        f"catalogue.artifact_added({ONE!r}, 7); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "catalogue.sqlite"
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    assert [row[0] for row in open_catalogue(tmp_path).known_artifacts()] == [ONE]


def test_threads_may_share_it(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    catalogue = open_catalogue(tmp_path)
    digests = [f"sha256:{number:064x}" for number in range(40)]

    def work(start: int) -> None:
        for digest in digests[start::4]:
            catalogue.artifact_added(digest, 1)
            catalogue.artifact_used(digest)
            catalogue.put_build(digest, {"digest": digest})
            catalogue.put_export(digest, digest, {})
            assert catalogue.export(digest) == {"digest": digest}

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row[0] for row in catalogue.known_artifacts()) == digests
    assert all(catalogue.export(digest) for digest in digests)


def test_full_disk_changes_nothing(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    catalogue = open_catalogue(tmp_path)
    catalogue.artifact_added(ONE, 7)
    catalogue.artifact_used(ONE)
    pages = catalogue._database._connection.execute("PRAGMA page_count").fetchone()[0]
    catalogue._database._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFullError):
        catalogue.put_model("net", ONE, 5, {"text": "x" * 1_000_000})
    assert catalogue.models() == []
    assert [row[0] for row in catalogue.known_artifacts()] == [ONE]
    catalogue._database._connection.execute("PRAGMA max_page_count = 1000000")
    catalogue.put_model("net", ONE, 5, {"text": "x" * 1_000_000})
    assert len(catalogue.models()) == 1


@pytest.mark.parametrize("content", [b"no database at all, but some text" * 40, b"SQLite format 3\x00" + b"\xff" * 200])
def test_file_that_is_no_catalogue_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "catalogue.sqlite"
    path.write_bytes(content)
    with pytest.raises(InvalidCatalogueError, match=r"catalogue\.sqlite"):
        SqliteCatalogue(path)
    assert path.read_bytes() == content


def test_other_schema_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.sqlite"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA.version + 1}")
    connection.close()
    with pytest.raises(InvalidCatalogueError, match=str(SCHEMA.version + 1)):
        SqliteCatalogue(path)
