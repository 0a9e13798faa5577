"""Pictures of curves: formats, and what is said when one cannot be drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from service.commands.curve import draw
from service.ground.errors import CoreError

POINTS = {
    "full": {"params": 1000, "macs": 5, "bytes": 9, "accuracy": None, "agreement": 1.0, "seconds": 0.0},
    "points": [
        {"params": 100, "macs": 1, "bytes": 2, "accuracy": None, "agreement": 0.5, "seconds": 0.1},
        {"params": 500, "macs": 2, "bytes": 4, "accuracy": None, "agreement": 0.9, "seconds": 0.1},
    ],
}


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plot_writes_the_format_of_its_ending(tmp_path: Path, ending: str, magic: bytes) -> None:
    path = tmp_path / f"curve.{ending}"
    draw(POINTS, path)
    assert path.read_bytes().startswith(magic)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_plot_without_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(CoreError, match="pip install matplotlib") as caught:
        draw(POINTS, tmp_path / "curve.png")
    assert caught.value.code == "missing-package"


def test_plot_refuses_an_unknown_ending(tmp_path: Path) -> None:
    with pytest.raises(CoreError, match=r"'\.bmpx'") as caught:
        draw(POINTS, tmp_path / "curve.bmpx")
    assert caught.value.code == "invalid-evaluation"
