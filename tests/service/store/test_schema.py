"""Files of every earlier version open and keep their rows; a migration is whole or absent, whatever stops it."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from service.ground.errors import InvalidCatalogueError, StoreFullError, StoreInUseError
from service.hub.fleet import tables
from service.store import catalogue, schema
from service.store.catalogue import SqliteCatalogue
from service.store.database import Database
from service.store.schema import Schema, backup_path, bring_up_to_date
from tests.service.store.stores import SmallDisk

# Files that earlier versions of the service wrote, kept for ever: `<name>_v<version>.sqlite`.
FILES = Path(__file__).parent / "earlier_versions"
SCHEMAS = {"catalogue": catalogue.SCHEMA, "fleet": tables.SCHEMA}
EARLIER = sorted(FILES.glob("*.sqlite"))
# What a later version does away with on purpose: (table, column) by the version that no longer has it.
DROPPED = {("catalogue", 2): [("artifacts", "created")]}

FIRST = """
from alembic import op
revision, down_revision = "1", None
def upgrade():
    op.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY) STRICT")
"""
SECOND = """
from alembic import op
revision, down_revision = "2", "1"
def upgrade():
    op.execute("ALTER TABLE numbers ADD COLUMN note TEXT")
"""
THIRD = """
from alembic import op
revision, down_revision = "3", "2"
def upgrade():
    op.execute("CREATE TABLE more (number INTEGER) STRICT")
    op.execute("DELETE FROM numbers WHERE number > 1")
    {then}
"""


def rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables but Alembic's, by table."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: [dict(row) for row in connection.execute(f"SELECT * FROM {name} ORDER BY rowid")]
            for name in names
            if name != "alembic_version"
        }


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (number,) = connection.execute("PRAGMA user_version").fetchone()
        return int(number)


@pytest.fixture
def numbers(tmp_path: Path) -> Callable[..., Schema]:
    """Makes a schema of one to three revisions; the last one does something more at its end."""

    def make(last: int, then: str = "pass") -> Schema:
        folder = tmp_path / f"revisions of % {last}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, text in enumerate((FIRST, SECOND, THIRD.format(then=then))[:last], start=1):
            (folder / f"v{number}_numbers.py").write_text(text)
        return Schema(folder, last, "list of numbers")

    return make


def old_file(path: Path, first: Schema) -> Path:
    """A file of the first version with two rows, as it was written before the service knew Alembic."""
    bring_up_to_date(path, first)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("DROP TABLE alembic_version")
        connection.execute("INSERT INTO numbers VALUES (1), (2)")
    return path


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_version_of_every_file_has_a_fixture(name: str) -> None:
    earlier = {int(path.stem.rpartition("_v")[2]) for path in EARLIER if path.name.startswith(name)}
    assert earlier >= set(range(1, SCHEMAS[name].version)) | {1}


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_revisions_are_numbered_up_to_the_version(name: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).with_name("migrations")))
    config.set_main_option("version_locations", str(SCHEMAS[name].revisions))
    config.set_main_option("path_separator", "newline")
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert revisions == [str(number) for number in range(SCHEMAS[name].version, 0, -1)]


@pytest.mark.parametrize("earlier", EARLIER, ids=lambda path: path.stem)
def test_file_of_an_earlier_version_keeps_every_row(tmp_path: Path, earlier: Path) -> None:
    name, _, number = earlier.stem.rpartition("_v")
    path = Path(shutil.copy(earlier, tmp_path))
    before = rows(path)
    Database(path, SCHEMAS[name]).close()
    for later in range(int(number) + 1, SCHEMAS[name].version + 1):
        for table, column in DROPPED.get((name, later), []):
            for row in before[table]:
                del row[column]
    assert sum(len(of_table) for of_table in before.values()) >= 8
    assert rows(path) == before
    assert version(path) == SCHEMAS[name].version
    assert backup_path(path, int(number)).exists() == (int(number) < SCHEMAS[name].version)

    found = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in tmp_path.iterdir()}
    Database(path, SCHEMAS[name]).close()
    assert {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in tmp_path.iterdir()} == found


def test_catalogue_of_the_first_version_is_usable(tmp_path: Path) -> None:
    path = Path(shutil.copy(FILES / "catalogue_v1.sqlite", tmp_path))
    before = rows(path)
    opened = SqliteCatalogue(path)
    (model,) = opened.models()
    assert (model.name, model.size_bytes) == ("fashion_resnet", 4063169)
    assert model.description["qualities"] == ["refined", "instant", "trained"]
    assert sorted(size for _, size, _ in opened.known_artifacts()) == [245531, 685506]
    for export in before["exports"]:
        manifest = opened.export(export["request_key"])
        assert manifest is not None
        assert manifest == {**(opened.build(export["build_key"]) or {}), "budget": manifest["budget"]}
        assert opened.manifest_of(manifest["digest"]) is not None
    curve = opened.curve(before["curves"][0]["curve_key"])
    assert curve is not None
    assert [point["params"] for point in curve["points"]] == [59975, 169962]
    for key in (before["builds"][0]["build_key"], before["curves"][0]["curve_key"]):
        work = opened.work(key)
        assert work is not None
        assert work.model == "fashion_resnet"

    opened.artifact_added(f"sha256:{'a' * 64}", 5)
    opened.delete_curves(model.digest)
    opened.artifact_removed(opened.known_artifacts()[0][0])
    assert len(opened.known_artifacts()) == 2
    opened.close()
    assert [len(rows(path)[table]) for table in ("builds", "exports", "curves")] == [1, 1, 0]
    assert rows(backup_path(path, 1)) == before


def test_fleet_of_the_first_version_is_usable(tmp_path: Path) -> None:
    database = tables.open_fleet_database(Path(shutil.copy(FILES / "fleet_v1.sqlite", tmp_path)))
    nodes = {node.name: node for node in tables.load_nodes(database)}
    assert sorted(nodes) == ["n0", "n1", "n2", "spare"]
    assert [nodes[name].labels["site"] for name in sorted(nodes)] == ["east", "west", "east", "west"]
    current = nodes["n1"].current
    assert current is not None
    assert current.desired.budget.value == 201
    assert nodes["n1"].has_committed
    assert nodes["spare"].current is not None
    assert nodes["spare"].current.problem is not None
    assert nodes["spare"].current.problem.fields == {"minimum": 154, "unit": "params"}
    assert [generation.number for generation in tables.load_committed(database, "n1")] == [2, 1]
    assert tables.load_name(database, "gone") == 1
    assert [(token.id, token.used_by) for token in tables.load_tokens(database)] == [
        ("aaaa1111", None),
        ("bbbb2222", "n1"),
    ]
    (rollout,) = tables.load_rollouts(database)
    assert rollout["change"]["budget"]["unit"] == "latency_ms"
    with database.write() as connection:
        tables.delete_node("n1")(connection)
    assert tables.load_committed(database, "n1") == []
    database.close()


def test_all_revisions_in_between_are_run(tmp_path: Path, numbers: Callable[..., Schema]) -> None:
    path = old_file(tmp_path / "numbers.sqlite", numbers(1))
    bring_up_to_date(path, numbers(3))
    assert rows(path) == {"numbers": [{"number": 1, "note": None}], "more": []}
    assert rows(backup_path(path, 1)) == {"numbers": [{"number": 1}, {"number": 2}]}
    assert backup_path(path, 1).stat().st_mode == path.stat().st_mode


def test_killed_migration_changes_nothing_and_the_next_start_finishes_it(
    tmp_path: Path, numbers: Callable[..., Schema]
) -> None:
    path = old_file(tmp_path / "numbers.sqlite", numbers(1))
    before = rows(path)
    deadly = numbers(3, "import os, signal; op.execute('SELECT 1'); os.kill(os.getpid(), signal.SIGKILL)")
    program = (
        "import sys; from pathlib import Path; from service.store.schema import Schema, bring_up_to_date\n"
        "bring_up_to_date(Path(sys.argv[1]), Schema(Path(sys.argv[2]), 3, 'list of numbers'))"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, path, deadly.revisions],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert rows(path) == before
    assert version(path) == 1
    backup_path(path, 1).with_name(f"{path.name}.version-1.staged").write_bytes(b"half a copy")
    bring_up_to_date(path, numbers(3))
    assert rows(path)["numbers"] == [{"number": 1, "note": None}]
    assert rows(backup_path(path, 1)) == before
    assert sorted(file.name for file in tmp_path.glob("numbers*")) == ["numbers.sqlite", "numbers.sqlite.version-1"]


@pytest.mark.parametrize(
    ("then", "error"),
    [
        ("raise RuntimeError('half of it')", RuntimeError),
        ("op.execute('INSERT INTO numbers VALUES (1, NULL)')", sqlite3.IntegrityError),
        (
            "op.execute('CREATE TABLE lost (number INTEGER REFERENCES numbers) STRICT'); "
            "op.execute('INSERT INTO lost VALUES (7)')",
            sqlite3.IntegrityError,
        ),
    ],
    ids=["fault", "contradiction", "broken reference"],
)
def test_failed_migration_changes_nothing(
    tmp_path: Path, numbers: Callable[..., Schema], then: str, error: type[Exception]
) -> None:
    path = old_file(tmp_path / "numbers.sqlite", numbers(1))
    before = rows(path)
    with pytest.raises(error):
        bring_up_to_date(path, numbers(3, then))
    assert rows(path) == before
    assert version(path) == 1


def test_file_that_another_process_has_open_is_not_migrated(tmp_path: Path, numbers: Callable[..., Schema]) -> None:
    path = old_file(tmp_path / "numbers.sqlite", numbers(1))
    before = rows(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT * FROM numbers").fetchall()
        with pytest.raises(StoreInUseError):
            bring_up_to_date(path, numbers(3))
        assert rows(path) == before
    bring_up_to_date(path, numbers(3))
    assert version(path) == 3


def test_file_of_a_later_version_is_refused_and_kept(tmp_path: Path, numbers: Callable[..., Schema]) -> None:
    path = old_file(tmp_path / "numbers.sqlite", numbers(1))
    bring_up_to_date(path, numbers(3))
    before = path.read_bytes()
    with pytest.raises(InvalidCatalogueError) as caught:
        Database(path, numbers(1))
    assert str(caught.value) == (
        f"{path} has schema version 3, written by a later version of the service; this one knows up to 1: use the "
        f"version that wrote it, put the copy '{path}.version-1' from before the change in its place, or take another "
        "store folder"
    )
    assert path.read_bytes() == before
    os.replace(backup_path(path, 1), path)
    bring_up_to_date(path, numbers(1))
    assert rows(path) == {"numbers": [{"number": 1}, {"number": 2}]}


def test_database_of_another_program_is_refused_and_kept(tmp_path: Path, numbers: Callable[..., Schema]) -> None:
    path = tmp_path / "numbers.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    with pytest.raises(InvalidCatalogueError, match="is no list of numbers; move it away"):
        bring_up_to_date(path, numbers(1))
    assert rows(path) == {"songs": []}


@pytest.mark.parametrize("left_bytes", [0, 100_000], ids=["nothing", "too little for the copy"])
def test_full_disk_leaves_the_file_as_it_was(
    small_disk: SmallDisk, numbers: Callable[..., Schema], left_bytes: int
) -> None:
    if small_disk.free(small_disk.folder) != shutil.disk_usage(small_disk.folder).free:
        pytest.skip("no small file system may be mounted here")
    path = old_file(small_disk.folder / "numbers.sqlite", numbers(1))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO numbers VALUES (?)", ((number,) for number in range(3, 20_000)))
    before = rows(path)
    filler = small_disk.folder / "filler"
    filler.write_bytes(bytes(small_disk.free(small_disk.folder) - left_bytes))
    with pytest.raises(StoreFullError):
        Database(path, numbers(3))
    assert list(small_disk.folder.glob("*.version-1*")) == []
    filler.unlink()
    assert rows(path) == before
    Database(path, numbers(3)).close()
    assert version(path) == 3
