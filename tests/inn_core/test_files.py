"""Files are whole or absent."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from inn_core.files import file_digest, written_aside


def test_bytes_and_digest_are_those_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    parts = [b"head", b"", os.urandom(3_000_000), b"tail"]
    with written_aside(path) as writer:
        for part in parts:
            writer.write(part)
    assert path.read_bytes() == b"".join(parts)
    assert writer.size_bytes == len(b"".join(parts))
    assert writer.finish() == f"sha256:{hashlib.sha256(b''.join(parts)).hexdigest()}" == file_digest(path)


def test_nothing_is_there_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with written_aside(path) as writer:
        writer.write(b"new")
        assert not path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def break_off() -> None:
        with written_aside(path) as writer:
            writer.write(b"new")
            raise error

    with pytest.raises(error):
        break_off()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "x"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)

    def write() -> None:
        with written_aside(path) as writer:
            writer.write(b"new")

    with pytest.raises(OSError, match="No space left"):
        write()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_a_missing_folder_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_aside(tmp_path / "missing" / "x"):
        pass
