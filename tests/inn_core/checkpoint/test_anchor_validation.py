"""Forged knots are refused when a checkpoint is read, not when a size is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inn_core.arrays import Array
from inn_core.checkpoint.anchor_validation import anchor_faults
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import load_checkpoint, save_checkpoint
from inn_core.errors import InvalidCheckpointError
from inn_core.planning.plan import Budget, choose_plan

DEMO = Path(__file__).parents[3] / "models" / "checkpoints" / "fashion_resnet_imported.inn"
Change = Callable[[dict[str, Array]], None]


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    return load_checkpoint(DEMO)


def test_the_knots_of_the_demo_checkpoint_are_sound(demo: Checkpoint) -> None:
    assert list(anchor_faults(demo)) == []
    assert choose_plan(demo, Budget("params", 100_000)).params <= 100_000


def first(arrays: dict[str, Array], kind: str) -> str:
    return next(name for name in arrays if name.startswith(f"instant/1/{kind}/"))


def cut_weight(arrays: dict[str, Array]) -> None:
    name = first(arrays, "weights")
    arrays[name] = arrays[name][:-1]


def nan_weight(arrays: dict[str, Array]) -> None:
    name = first(arrays, "weights")
    arrays[name] = np.full_like(arrays[name], np.nan)


def drop_weight(arrays: dict[str, Array]) -> None:
    del arrays[first(arrays, "weights")]


def cut_correlation(arrays: dict[str, Array]) -> None:
    name = first(arrays, "correlation")
    arrays[name] = arrays[name][:-1]


def drop_scale(arrays: dict[str, Array]) -> None:
    del arrays[first(arrays, "scale")]


def other_units(arrays: dict[str, Array]) -> None:
    for kind in ("scale", "mean"):
        name = first(arrays, kind)
        arrays[name] = np.ones(7, dtype=np.float32)


def growing(arrays: dict[str, Array]) -> None:
    arrays["instant/1/sizes"] = arrays["instant/1/sizes"] + 1000


def empty_group(arrays: dict[str, Array]) -> None:
    arrays["instant/1/sizes"] = np.zeros_like(arrays["instant/1/sizes"])


def gap(arrays: dict[str, Array]) -> None:
    del arrays["instant/1/sizes"]


CHANGES = [cut_weight, nan_weight, drop_weight, cut_correlation, drop_scale, other_units, growing, empty_group, gap]


@pytest.mark.parametrize("change", CHANGES)
def test_a_forged_knot_is_refused(demo: Checkpoint, change: Change, tmp_path: Path) -> None:
    arrays = dict(demo.statistics)
    change(arrays)
    forged = replace(demo, statistics=arrays)
    assert list(anchor_faults(forged))
    with pytest.raises(InvalidCheckpointError, match=r"knot|statistics"):
        save_checkpoint(forged, tmp_path / "forged.inn")
    assert not (tmp_path / "forged.inn").exists()
