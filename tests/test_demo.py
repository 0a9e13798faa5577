"""The demo, as `make demo` runs it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
CHANCE = 10.0
"""Percent of right answers that guessing one of ten classes gives."""


@pytest.mark.slow
def test_the_demo_prints_a_size_a_line_and_leaves_nothing_running() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    heading, *lines = done.stdout.splitlines()
    assert heading.split()[:2] == ["asked", "got"]
    rows = [line.replace(",", "").replace("%", "").split() for line in lines]
    asked, got, _, size_bytes, accuracy, agreement = np.array([row[:6] for row in rows], dtype=float).T
    assert len(rows) == 4
    assert (got <= asked).all()
    assert (np.diff(got) < 0).all()
    assert (np.diff(size_bytes) < 0).all()
    assert (accuracy > 5 * CHANCE).all()
    assert agreement[0] == 100.0
