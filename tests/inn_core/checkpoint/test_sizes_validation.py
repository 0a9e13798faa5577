"""Stored sizes of a checkpoint that were forged or damaged are refused, before they are written and when read."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint, InconsistentCheckpointError
from inn_core.checkpoint.part_arrays import part_arrays
from inn_core.checkpoint.safetensors import read_tensors, write_tensors
from inn_core.checkpoint.sizes_validation import MOST_KNOTS, anchor_faults, trained_faults
from inn_core.checkpoint.storage import load_checkpoint, save_checkpoint
from inn_core.errors import InnError, InvalidCheckpointError
from inn_core.exporting.export import export_artifact
from inn_core.planning.plan import Budget, choose_plan, feasible_range
from inn_core.training.integral_network import IntegralNetwork
from tests.inn_core.graph.tiny import model_of, node
from tests.inn_core.sized_networks import small_residual, smoothed, with_arrays, with_kernels
from tests.inn_core.trained_networks import gaussian, integral

Change = Callable[[dict[str, Array]], None]


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    """Kernels with a tuned partition, so that every kind of array is there."""
    network = with_kernels(smoothed(small_residual()))
    sampler = network.sampler
    group = next(iter(network.full_sizes))
    sampler.tuned = {group: [torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64)]}
    network.measure_()
    return network.to_checkpoint()


def first(arrays: dict[str, Array], part: str) -> str:
    return next(name for name in arrays if name.startswith(("trained/", "smooth/")) and part in name)


def _drop(part: str) -> Change:
    def change(arrays: dict[str, Array]) -> None:
        del arrays[first(arrays, part)]

    return change


def _set(part: str, make: Callable[[Array], Array]) -> Change:
    def change(arrays: dict[str, Array]) -> None:
        name = first(arrays, part)
        arrays[name] = make(arrays[name])

    return change


def _stray(arrays: dict[str, Array]) -> None:
    arrays["trained/unknown"] = np.zeros(1, dtype=np.float32)


def _unordered(arrays: dict[str, Array]) -> None:
    """Finding them again may take minutes, so a file may not ask for it."""
    for name in [name for name in arrays if name.startswith("smooth/")]:
        del arrays[name]


def _foreign(kind: str) -> Change:
    def change(arrays: dict[str, Array]) -> None:
        arrays[f"trained/{kind}/b3"] = np.ones(5, dtype=np.float32)

    return change


def _half_ordered(arrays: dict[str, Array]) -> None:
    del arrays[next(name for name in arrays if name.startswith("smooth/"))]


def _no_permutation(arrays: dict[str, Array]) -> None:
    name = next(name for name in arrays if name.startswith("smooth/"))
    arrays[name] = np.zeros_like(arrays[name])


CHANGES: dict[str, Change] = {
    "a mean is missing": _drop("params/1/mean/"),
    "a knot is missing": _drop("params/0/sizes"),
    "a scale is missing": _drop("scale/"),
    "a shift is cut": _set("shift/", lambda array: array[:-1]),
    "a mean is not finite": _set("macs/1/mean/", lambda array: np.full_like(array, np.nan)),
    "a variance is negative": _set("params/0/variance/", lambda array: array - 1e6),
    "a variance is of another type": _set("params/0/variance/", lambda array: array.astype(np.float64)),
    "sizes grow": _set("params/1/sizes", lambda array: array + 1000),
    "sizes are zero": _set("macs/1/sizes", np.zeros_like),
    "sizes have another shape": _set("macs/1/sizes", lambda array: array[:-1]),
    "edges fall": _set("partition/", lambda array: array[::-1].copy()),
    "edges end early": _set("partition/", lambda array: array * 0.5),
    "an array belongs to nothing": _stray,
    "a group lacks its smoothing order": _half_ordered,
    "all smoothing orders are missing": _unordered,
    "a smoothing order is a number": _set("smooth/", lambda _: np.array(0)),
    "a smoothing order is of another type": _set("smooth/", lambda array: array.astype(np.int32)),
    "a scale belongs to no node": _foreign("scale"),
    "sizes are not integers": _set("params/1/sizes", lambda array: array.astype(np.float64)),
    "the first knot is not the full network": _set("params/0/sizes", lambda array: array - 1),
    "a variance is infinite": _set("macs/0/variance/", lambda array: np.full_like(array, np.inf)),
    "a scale is not finite": _set("scale/", lambda array: np.full_like(array, np.inf)),
    "a shift is a matrix": _set("shift/", lambda array: array[None]),
    "edges are not finite": _set("partition/", lambda array: np.full_like(array, np.nan)),
    "edges are of another type": _set("partition/", lambda array: array.astype(np.float32)),
    "edges are a number": _set("partition/", lambda _: np.array(1.0)),
    "edges have another count than their name": _set("partition/", lambda array: np.linspace(0, 1, 9)),
    "a mean of a group that grew": _set("params/1/mean/", lambda array: np.zeros(len(array) + 1, np.float32)),
    "a smoothing order is no permutation": _no_permutation,
}


def _begin_late(array: Array) -> Array:
    """It rises, and ends at 1."""
    return np.concatenate([[array[1] / 2], array[1:]])


def test_a_partition_that_begins_late_is_named(trained: Checkpoint) -> None:
    arrays = part_arrays(trained)
    _set("partition/", _begin_late)(arrays)
    (fault,) = trained_faults(with_arrays(trained, arrays))
    assert "cells does not rise from 0 to 1" in fault


@pytest.mark.parametrize("unit", ["params", "macs"])
def test_a_first_knot_that_is_sound_and_not_the_full_network_is_named(trained: Checkpoint, unit: str) -> None:
    """Every knot takes the place of the one before it."""
    arrays: dict[str, Array] = {}
    for name, array in part_arrays(trained).items():
        start, _, rest = name.partition(f"trained/{unit}/")
        number, _, kind = rest.partition("/")
        if start or not kind:
            arrays[name] = array
        elif number != "0":
            arrays[f"trained/{unit}/{int(number) - 1}/{kind}"] = array
    faults = list(trained_faults(with_arrays(trained, arrays)))
    assert faults == [f"knot 0 for {unit} is not the full network"]


def test_more_knots_than_training_makes_are_refused(trained: Checkpoint, tmp_path: Path) -> None:
    """The smallest one, again and again."""
    arrays = part_arrays(trained)
    last = sum(name.startswith("trained/params/") and name.endswith("/sizes") for name in arrays) - 1
    own = {name.split("/", 3)[3]: array for name, array in arrays.items() if name.startswith(f"trained/params/{last}/")}
    for number in range(last + 1, MOST_KNOTS + 1):
        assert list(trained_faults(with_arrays(trained, arrays))) == []
        arrays |= {f"trained/params/{number}/{kind}": array for kind, array in own.items()}
    with pytest.raises(InvalidCheckpointError, match=f"more than {MOST_KNOTS} knots for params; measure them again"):
        save_checkpoint(with_arrays(trained, arrays), tmp_path / "forged.inn")


def test_sound_sizes_have_no_faults_and_come_back(trained: Checkpoint, tmp_path: Path) -> None:
    assert list(trained_faults(trained)) == []
    save_checkpoint(trained, tmp_path / "trained.inn")
    found = load_checkpoint(tmp_path / "trained.inn")
    assert found.trained is not None
    assert trained.trained is not None
    assert found.trained.sampling == trained.trained.sampling
    assert IntegralNetwork(found).sampler.describe() == dict(trained.trained.sampling)


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_forged_array_is_refused(trained: Checkpoint, change: Change, tmp_path: Path) -> None:
    arrays = part_arrays(trained)
    change(arrays)
    with pytest.raises((InconsistentCheckpointError, InvalidCheckpointError)):  # it cannot be made, or not written
        save_checkpoint(with_arrays(trained, arrays), tmp_path / "forged.inn")
    assert not (tmp_path / "forged.inn").exists()


@pytest.mark.parametrize(
    "sampling",
    [{"kind": "magic"}, {"kind": "nested", "more": "x"}, {"kind": "kernel"}, {"kind": 3}, {"interpolation": "cubic"}],
)
def test_an_unknown_sampling_is_refused(trained: Checkpoint, sampling: dict[str, str], tmp_path: Path) -> None:
    assert trained.trained is not None
    forged = replace(trained, trained=replace(trained.trained, sampling=sampling))
    with pytest.raises(InvalidCheckpointError, match="sampling"):
        save_checkpoint(forged, tmp_path / "forged.inn")


def test_trained_arrays_without_a_sampling_are_refused(trained: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "forged.inn"
    save_checkpoint(trained, path)
    content = read_tensors(path, verify=True)
    header = json.loads(content.text)
    del header["sampling"]
    write_tensors(path, content.tensors, json.dumps(header))
    with pytest.raises(InvalidCheckpointError, match="never trained"):
        load_checkpoint(path)


def test_a_scale_of_a_node_that_is_not_linear_is_refused(tmp_path: Path) -> None:
    """Both bounds of a clip are weights of the checkpoint, too, and have no axis."""
    model = model_of(
        [node("Gemm", "x w1 b1", "h"), node("Clip", "h low high", "a"), node("Gemm", "a w2 b2", "y")],
        weights={"w1": (6, 8), "b1": (8,), "w2": (8, 5), "b2": (5,)},
        floats={"low": 0.0, "high": 6.0},
        inputs={"x": (6,)},
    )
    trained = IntegralNetwork(integral(model, {"x": gaussian(16, 6)})).to_checkpoint()
    path = tmp_path / "n.inn"
    save_checkpoint(trained, path)
    content = read_tensors(path, verify=True)
    header, tensors = json.loads(content.text), dict(content.tensors)
    header["statistics"].append("trained/scale/low")
    tensors["s/trained/scale/low"] = np.ones((), dtype=np.float32)
    write_tensors(path, tensors, json.dumps(header))
    with pytest.raises(InvalidCheckpointError, match="'low' has a scale and belongs to no node"):
        load_checkpoint(path)


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_forged_file_is_refused_with_and_without_reading_every_byte(
    trained: Checkpoint, change: Change, tmp_path: Path
) -> None:
    """Written as an attacker would: the digest is right."""
    path = tmp_path / "n.inn"
    save_checkpoint(trained, path)
    content = read_tensors(path, verify=True)
    header, tensors = json.loads(content.text), dict(content.tensors)
    arrays = {name: tensors.pop(f"s/{name}") for name in header["statistics"]}
    change(arrays)
    header["statistics"] = list(arrays)
    write_tensors(path, tensors | {f"s/{name}": array for name, array in arrays.items()}, json.dumps(header))
    for verify in (True, False):
        with pytest.raises(InvalidCheckpointError, match=r"'n\.inn' is not a usable checkpoint"):
            load_checkpoint(path, verify=verify)


@pytest.mark.parametrize("quality", ["trained", "uniform", "refined"])
def test_numbers_that_overflow_when_folded_end_in_an_error_of_ours(
    trained: Checkpoint, quality: str, tmp_path: Path
) -> None:
    """Each is finite, so the file is sound; their product is not."""
    arrays = part_arrays(trained)
    for name, array in part_arrays(trained).items():
        if name.startswith("trained/scale/"):
            arrays[name] = np.full_like(array, 3e38)
        elif "/variance/" in name:
            arrays[name] = np.zeros_like(array)
    forged = with_arrays(trained, arrays)
    save_checkpoint(forged, tmp_path / "n.inn")
    budget = Budget("params", sum(feasible_range(forged, "params")) // 2)
    path = tmp_path / "n.onnx"
    options = {"quality": quality, "checkpoint_digest": "sha256:" + "0" * 64, "device": "cpu"}
    with suppress(InnError):
        export_artifact(load_checkpoint(tmp_path / "n.inn"), budget, path=path, **options)
        assert all(np.isfinite(numpy_helper.to_array(each)).all() for each in onnx.load(path).graph.initializer)


DEMO = Path(__file__).parents[3] / "models" / "checkpoints" / "fashion_resnet_imported.inn"


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    return load_checkpoint(DEMO)


def test_the_knots_of_the_demo_checkpoint_are_sound(demo: Checkpoint) -> None:
    assert list(anchor_faults(demo)) == []
    assert choose_plan(demo, Budget("params", 100_000)).params <= 100_000


def of_the_first_knot(arrays: dict[str, Array], kind: str) -> str:
    return next(name for name in arrays if name.startswith(f"instant/1/{kind}/"))


def cut_weight(arrays: dict[str, Array]) -> None:
    name = of_the_first_knot(arrays, "weights")
    arrays[name] = arrays[name][:-1]


def nan_weight(arrays: dict[str, Array]) -> None:
    name = of_the_first_knot(arrays, "weights")
    arrays[name] = np.full_like(arrays[name], np.nan)


def drop_weight(arrays: dict[str, Array]) -> None:
    del arrays[of_the_first_knot(arrays, "weights")]


def cut_correlation(arrays: dict[str, Array]) -> None:
    name = of_the_first_knot(arrays, "correlation")
    arrays[name] = arrays[name][:-1]


def drop_scale(arrays: dict[str, Array]) -> None:
    del arrays[of_the_first_knot(arrays, "scale")]


def other_units(arrays: dict[str, Array]) -> None:
    for kind in ("scale", "mean"):
        name = of_the_first_knot(arrays, kind)
        arrays[name] = np.ones(7, dtype=np.float32)


def growing(arrays: dict[str, Array]) -> None:
    arrays["instant/1/sizes"] = arrays["instant/1/sizes"] + 1000


def empty_group(arrays: dict[str, Array]) -> None:
    arrays["instant/1/sizes"] = np.zeros_like(arrays["instant/1/sizes"])


def gap(arrays: dict[str, Array]) -> None:
    del arrays["instant/1/sizes"]


KNOT_CHANGES = [
    cut_weight,
    nan_weight,
    drop_weight,
    cut_correlation,
    drop_scale,
    other_units,
    growing,
    empty_group,
    gap,
]


@pytest.mark.parametrize("change", KNOT_CHANGES)
def test_a_forged_knot_is_refused(demo: Checkpoint, change: Change, tmp_path: Path) -> None:
    arrays = part_arrays(demo)
    change(arrays)
    with pytest.raises((InconsistentCheckpointError, InvalidCheckpointError), match=r"knot|statistics"):
        save_checkpoint(with_arrays(demo, arrays), tmp_path / "forged.inn")
    assert not (tmp_path / "forged.inn").exists()


@pytest.mark.parametrize("change", KNOT_CHANGES)
def test_a_file_with_a_forged_knot_is_refused(demo: Checkpoint, change: Change, tmp_path: Path) -> None:
    """Written as an attacker would: the digest is right."""
    content = read_tensors(DEMO, verify=True)
    header, tensors = json.loads(content.text), dict(content.tensors)
    arrays = {name: tensors.pop(f"s/{name}") for name in header["statistics"]}
    change(arrays)
    header["statistics"] = list(arrays)
    path = tmp_path / "n.inn"
    write_tensors(path, tensors | {f"s/{name}": array for name, array in arrays.items()}, json.dumps(header))
    with pytest.raises(InvalidCheckpointError, match=r"knot|statistics"):
        load_checkpoint(path)
