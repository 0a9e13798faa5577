"""Changes that come together share a transaction; one that contradicts the file fails alone."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from service.ground.errors import StoreFullError
from service.hub.fleet.coordination import Change, GroupWriter
from service.store.database import Database
from service.store.schema import Schema

REVISION = """
from alembic import op
revision, down_revision = "1", None
def upgrade():
    op.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY, note TEXT) STRICT")
"""


def insert(number: int, note: str = "") -> Change:
    return lambda connection: connection.execute("INSERT INTO numbers VALUES (?, ?)", (number, note))


def open_database(folder: Path) -> Database:
    (folder / "v1_numbers.py").write_text(REVISION)
    return Database(folder / "numbers.sqlite", Schema(folder, 1, "list of numbers"))


def numbers(database: Database) -> list[int]:
    return [row[0] for row in database.read("SELECT number FROM numbers ORDER BY number")]


def test_many_changes_at_once_take_few_transactions(tmp_path: Path) -> None:
    database = open_database(tmp_path)

    async def run() -> int:
        writer = GroupWriter(database)
        threads = 0
        to_thread = asyncio.to_thread

        async def counted(*arguments: object) -> object:
            nonlocal threads
            threads += 1
            return await to_thread(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "to_thread", counted)
            await asyncio.gather(*(writer.commit(insert(number)) for number in range(200)))
        return threads

    assert asyncio.run(run()) <= 3
    assert numbers(database) == list(range(200))
    database.close()


def test_a_change_that_contradicts_the_file_fails_alone_and_as_a_whole(tmp_path: Path) -> None:
    database = open_database(tmp_path)

    async def run() -> list[BaseException | None]:
        writer = GroupWriter(database)
        return await asyncio.gather(
            writer.commit(insert(1)),
            writer.commit(insert(2), insert(1)),
            writer.commit(insert(3)),
            return_exceptions=True,
        )

    first, second, third = asyncio.run(run())
    assert (first, third) == (None, None)
    assert isinstance(second, sqlite3.IntegrityError)
    assert numbers(database) == [1, 3]
    database.close()


def test_what_follows_a_change_happens_in_order_also_when_nobody_waits(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    seen: list[int] = []

    async def run() -> None:
        writer = GroupWriter(database)
        tasks = [
            asyncio.create_task(writer.commit(insert(number), then=lambda number=number: seen.append(number)))
            for number in range(20)
        ]
        await asyncio.sleep(0)
        for task in tasks[5:10]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await writer.close()

    asyncio.run(run())
    assert seen == numbers(database) == list(range(20))
    database.close()


def test_a_full_disk_is_told_to_everyone_and_passes(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    pages = database._connection.execute("PRAGMA page_count").fetchone()[0]

    async def run() -> None:
        writer = GroupWriter(database)
        database._connection.execute(f"PRAGMA max_page_count = {pages}")
        results = await asyncio.gather(
            writer.commit(insert(1, "x" * 100_000)), writer.commit(insert(2)), return_exceptions=True
        )
        assert all(isinstance(result, StoreFullError) for result in results), results
        assert numbers(database) == []
        database._connection.execute("PRAGMA max_page_count = 100000")
        await writer.commit(insert(3))

    asyncio.run(run())
    assert numbers(database) == [3]
    database.close()
