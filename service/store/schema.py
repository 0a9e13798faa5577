"""The schema of an SQLite file: its revisions, and bringing a file of an earlier version up to date with Alembic.

A folder holds the revisions, a file each, numbered from 1; the number of the last one is the version of the schema.
A file keeps its version twice: Alembic's own table, and `PRAGMA user_version`, by which versions of the service that
know no Alembic refuse what they cannot read. Both change in the transaction that changes the tables.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from service.ground.errors import InvalidCatalogueError, StoreInUseError
from service.ground.files import publish

log = logging.getLogger(__name__)

BUSY_TIMEOUT_SECONDS = 10.0
_ENVIRONMENT = Path(__file__).with_name("migrations")

# Alembic keeps what it works on in a global.
_alembic_lock = threading.Lock()


@dataclass(frozen=True)
class Schema:
    """What the tables of a file are to be.

    Attributes:
        revisions: folder of the revisions, whose ids are "1", "2", and so on.
        version: the last of them.
        what: the file holds, for messages, such as "catalogue".
    """

    revisions: Path
    version: int
    what: str


def backup_path(path: Path, version: int) -> Path:
    """Where the copy of a file lies that was made before it was taken from `version` to a later one."""
    return path.with_name(f"{path.name}.version-{version}")


def bring_up_to_date(path: Path, schema: Schema) -> None:
    """Makes the tables of a new file, or those of an earlier version what they are today, in one transaction.

    A copy of a file of an earlier version is kept beside it (`backup_path`). A process that is killed on the way
    leaves the file as it was, and the next start does it again. A file that is up to date is left alone.

    Raises:
        InvalidCatalogueError: the file is none of this kind, or one of a later version.
        StoreInUseError: the file has to change, and another process has it open.
        sqlite3.Error: the disk is full, or the file is damaged; nothing was changed.
    """
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)) as connection:
        try:
            found, stamped = _stored_version(connection)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                raise _none_of_this_kind(path, schema) from error
            raise
        if found > schema.version:
            raise _too_new(path, schema, found)
        if found < schema.version or not stamped:
            _forbid_others(connection, path)
            with _alembic_lock:
                _migrate(connection, path, schema)


def _stored_version(connection: sqlite3.Connection) -> tuple[int, bool]:
    """Version of the schema, 0 of a file without tables, and whether Alembic knows of it."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchall()
    return version, bool(tables)


def _forbid_others(connection: sqlite3.Connection, path: Path) -> None:
    """SQLite leaves write-ahead mode only for the sole user of a file; `Database` goes back to it."""
    try:
        connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise StoreInUseError(str(path.parent)) from error
        raise


def _migrate(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)  # what is done is one line of our own
    # Imported here: they take a fifth of a second, and a file that is up to date does without.
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import StaticPool

    config = Config()
    config.set_main_option("script_location", _quoted(_ENVIRONMENT))
    config.set_main_option("version_locations", _quoted(schema.revisions))
    config.set_main_option("path_separator", "newline")
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    try:
        with engine.connect() as wrapped, wrapped.begin():
            wrapped.exec_driver_sql("BEGIN IMMEDIATE")  # the driver begins none before a change of tables
            found, stamped = _stored_version(connection)
            config.attributes["connection"] = wrapped
            if found == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise _none_of_this_kind(path, schema)
            if 0 < found < schema.version:
                _back_up(path, found)
            if found and not stamped:  # written before the service knew Alembic
                command.stamp(config, str(found))
            command.upgrade(config, str(schema.version))
            if broken := connection.execute("PRAGMA foreign_key_check").fetchall():
                raise sqlite3.IntegrityError(f"the migration of {path} left rows that refer to nothing: {broken[:3]}")
            connection.execute(f"PRAGMA user_version = {schema.version}")
    except DBAPIError as error:
        raise (error.orig or error) from error
    log.info("schema is up to date", extra={"file": str(path), "found": found, "version": schema.version})


def _back_up(path: Path, version: int) -> None:
    """A copy of the file as it is, whole or absent. Nobody writes meanwhile: the caller has begun a transaction."""
    target = backup_path(path, version)
    staged = target.with_name(f"{target.name}.staged")
    staged.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("VACUUM INTO ?", (str(staged),))
        shutil.copymode(path, staged)
        publish(staged, target)
    finally:
        staged.unlink(missing_ok=True)
    log.info("file copied before its schema changes", extra={"file": str(path), "copy": str(target)})


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%%")


def _none_of_this_kind(path: Path, schema: Schema) -> InvalidCatalogueError:
    return InvalidCatalogueError(f"{path} is no {schema.what}; move it away and start again")


def _too_new(path: Path, schema: Schema, found: int) -> InvalidCatalogueError:
    copies = [backup_path(path, version) for version in range(schema.version, 0, -1)]
    kept = next((copy for copy in copies if copy.is_file()), None)
    way_back = "" if kept is None else f", put the copy '{kept}' from before the change in its place"
    return InvalidCatalogueError(
        f"{path} has schema version {found}, written by a later version of the service; this one knows up to "
        f"{schema.version}: use the version that wrote it{way_back}, or take another store folder"
    )
