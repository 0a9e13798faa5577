"""Files of packages are found in the given folders first, then in the environment, and nothing is imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.super_resolution.packages import package_file
from inn_core.training.recipes.fashion_mnist import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package = tmp_path / "apart" / "json"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('a package with data must not be imported')\n")
    (package / "weights.bin").write_bytes(b"weights")
    return tmp_path / "apart"


def test_a_folder_comes_before_the_environment(folder: Path) -> None:
    path = package_file("json", "weights.bin", requirement="json", folders=[folder])
    assert path.read_bytes() == b"weights"


def test_what_the_folder_lacks_is_found_in_the_environment(folder: Path) -> None:
    path = package_file("json", "decoder.py", requirement="json", folders=[folder])
    assert path == Path(sys.modules["json"].__file__ or "").parent / "decoder.py"


def test_a_missing_package_is_named_with_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'no_such_package' is not installed; run: pip install .*'no-such==1.0'"):
        package_file("no_such_package", "a", requirement="no-such==1.0", folders=[tmp_path])


def test_a_missing_file_is_told_apart_from_a_missing_package(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no file 'photograph\.png' in .*apart"):
        package_file("json", "photograph.png", requirement="json", folders=[folder])
