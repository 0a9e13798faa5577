"""Rows: measured once, kept over runs, never lost to another process or to a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.rows import Rows

KEY = {"method": "ours", "share": 0.25, "seed": 0}


def must_not_run() -> dict[str, Any]:
    raise AssertionError("measured again")


def test_a_row_is_measured_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.json"
    assert Rows(path, environment={"threads": 1}).measured(KEY, lambda: {"params": 7}) == {"params": 7}
    assert Rows(path).measured(KEY, must_not_run) == {"params": 7}
    assert Rows(path).all() == [{"key": KEY, "found": {"params": 7}, "environment": {"threads": 1}}]
    assert [file.name for file in path.parent.iterdir()] == ["rows.json"]


@pytest.mark.parametrize("other", [{"seed": 1}, {"share": 0.5}, {"steps": 100}])
def test_another_key_is_another_row(tmp_path: Path, other: dict[str, Any]) -> None:
    rows = Rows(tmp_path / "rows.json")
    rows.measured(KEY, lambda: {"params": 7})
    assert rows.find({**KEY, **other}) is None
    assert rows.measured({**KEY, **other}, lambda: {"params": 8}) == {"params": 8}


def test_a_row_of_another_process_is_kept(tmp_path: Path) -> None:
    first, second = Rows(tmp_path / "rows.json"), Rows(tmp_path / "rows.json")

    def measure() -> dict[str, Any]:
        second.measured({**KEY, "seed": 1}, lambda: {"params": 8})
        return {"params": 7}

    first.measured(KEY, measure)
    assert [row["key"]["seed"] for row in first.all()] == [1, 0]


def test_a_failed_measurement_leaves_the_rows_as_they_were(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.json")
    rows.measured(KEY, lambda: {"params": 7})
    with pytest.raises(AssertionError, match="measured again"):
        rows.measured({**KEY, "seed": 1}, must_not_run)
    assert len(rows.all()) == 1


def test_no_file_means_no_rows(tmp_path: Path) -> None:
    assert Rows(tmp_path / "rows.json").all() == []
