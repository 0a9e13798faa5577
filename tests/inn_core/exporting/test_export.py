"""Export end to end on small networks: the manifest tells the truth about the file, and a bad file is not published."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

import inn_core.exporting.export
from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import BudgetUnreachableError, InvalidBudgetError, ParityError, QualityUnavailableError
from inn_core.exporting.export import build_key, export_artifact
from inn_core.exporting.onnx_writer import AssembledFile, write_onnx
from inn_core.graph.resized import resize_template
from inn_core.planning.plan import Budget, Plan, choose_plan, feasible_range
from tests.inn_core.networks import concat_network, residual_network

CHECKPOINT = "sha256:" + "a" * 64
PARITY = 1e-4
FIELDS = {
    "model", "checkpoint", "digest", "budget", "params", "macs", "bytes", "quality", "method", "held_out",
    "group_sizes", "multiple_of", "inputs", "outputs", "opset", "parity", "agreement", "feasible", "full_size",
    "build_key", "seconds",
}  # fmt: skip


def export(checkpoint: Checkpoint, value: int, path: Path, **options: Any) -> dict[str, Any]:
    return export_artifact(
        checkpoint, Budget("params", value), path=path, checkpoint_digest=CHECKPOINT, device="cpu", **options
    )


def run(path: Path, samples: Mapping[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(samples))[0])


def middle(checkpoint: Checkpoint) -> int:
    return sum(feasible_range(checkpoint, "params")) // 2


def test_the_manifest_describes_the_file(real_network: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    target = middle(real_network)
    manifest = export(real_network, target, path)
    model = onnx.load(path)
    elements = sum(
        numpy_helper.to_array(tensor).size
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    )
    low, high = feasible_range(real_network, "params")
    assert manifest.keys() == FIELDS
    assert manifest["digest"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert manifest["bytes"] == path.stat().st_size
    assert manifest["params"] == elements <= target
    assert manifest["model"] == real_network.name
    assert manifest["checkpoint"] == CHECKPOINT
    assert manifest["budget"] == {"unit": "params", "value": target}
    assert manifest["group_sizes"] == choose_plan(real_network, Budget("params", target)).sizes
    assert manifest["inputs"] == [{"name": "x", "dtype": "float32", "shape": [None, 3, 8, 8]}]
    assert manifest["outputs"] == [{"name": "y", "dtype": "float32", "shape": [None, 5]}]
    assert manifest["opset"] == 17
    assert manifest["feasible"] == {"min": low, "max": high}
    assert manifest["full_size"] is False
    assert manifest["quality"] == "refined"
    assert 0 <= manifest["parity"] <= PARITY
    assert manifest["seconds"].keys() == {"plan", "discretize", "assemble", "verify"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_agreement_is_that_of_the_artifact_with_the_full_network(tmp_path: Path) -> None:
    network = residual_network()
    full, sized = tmp_path / "full.onnx", tmp_path / "sized.onnx"
    write_onnx(
        resize_template(network.template, network.structure, network.structure.full_sizes()), network.weights, full
    )
    manifest = export(network, middle(network), sized)
    expected = np.mean(run(full, network.calibration).argmax(1) == run(sized, network.calibration).argmax(1))
    assert manifest["agreement"] == pytest.approx(expected)


def test_the_full_size_has_the_weights_of_the_checkpoint(real_network: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    manifest = export(real_network, 10**9, path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    assert manifest["full_size"] is True
    assert manifest["method"] == "full"
    assert manifest["agreement"] == 1.0
    assert manifest["params"] == feasible_range(real_network, "params")[1]
    for name, array in real_network.weights.items():
        np.testing.assert_array_equal(stored[name], array)


def test_equal_requests_give_equal_bytes_and_keys(tmp_path: Path) -> None:
    """Fresh networks, so that nothing is remembered between the two."""
    first = export(concat_network(), 900, tmp_path / "1.onnx")
    second = export(concat_network(), 900, tmp_path / "2.onnx")
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


@pytest.mark.parametrize("unit", ["params", "macs", "bytes"])
def test_no_budget_is_exceeded(residual: Checkpoint, tmp_path: Path, unit: Any) -> None:
    low, high = feasible_range(residual, unit)
    for value in (low, (low + high) // 2, high - 1, high):
        manifest = export_artifact(
            residual,
            Budget(unit, value),
            path=tmp_path / "m.onnx",
            checkpoint_digest=CHECKPOINT,
            device="cpu",
            verify=False,
        )
        assert manifest[unit] <= value
        assert manifest["feasible"] == {"min": low, "max": high}


def test_multiples_are_in_the_manifest(residual: Checkpoint, tmp_path: Path) -> None:
    manifest = export(residual, 700, tmp_path / "m.onnx", multiple_of=4)
    assert manifest["multiple_of"] == 4
    assert manifest["group_sizes"] == {"a": 8, "b": 4}


def test_without_verification_nothing_is_claimed(residual: Checkpoint, tmp_path: Path) -> None:
    manifest = export(residual, 500, tmp_path / "m.onnx", verify=False)
    assert manifest["parity"] is None
    assert manifest["agreement"] is None


def test_progress_rises_to_one_through_all_stages(residual: Checkpoint, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    export(residual, 500, tmp_path / "m.onnx", progress=lambda stage, fraction: seen.append((stage, fraction)))
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert seen[-1] == ("done", 1.0)
    assert {"plan", "discretize", "assemble", "verify"} <= {stage for stage, _ in seen}


def test_a_checkpoint_without_samples_is_verified_on_random_ones(tmp_path: Path) -> None:
    network = replace(residual_network(), calibration={})
    manifest = export(network, middle(network), tmp_path / "m.onnx", quality="instant")
    assert 0 <= manifest["parity"] <= PARITY
    assert manifest["agreement"] is None


def test_a_graph_with_a_fixed_batch_is_verified_batch_by_batch(tmp_path: Path) -> None:
    network = residual_network()
    for value in (*network.template.model.graph.input, *network.template.model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    manifest = export(network, middle(network), tmp_path / "m.onnx")
    assert 0 <= manifest["parity"] <= PARITY
    assert manifest["inputs"][0]["shape"] == [3, 3, 8, 8]


@pytest.mark.parametrize(
    ("change", "quality", "available"),
    [
        ({"calibration": {}}, "refined", ["instant"]),
        ({"anchors": ()}, "instant", ["refined"]),
        ({}, "best", ["refined", "instant"]),
    ],
)
def test_a_quality_that_the_checkpoint_lacks_is_refused(
    tmp_path: Path, change: dict[str, Any], quality: str, available: list[str]
) -> None:
    with pytest.raises(QualityUnavailableError) as caught:
        export(replace(residual_network(), **change), 500, tmp_path / "m.onnx", quality=quality)
    assert caught.value.fields == {"quality": quality, "available": available}
    assert list(tmp_path.iterdir()) == []


def test_impossible_budgets_are_refused(residual: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(BudgetUnreachableError):
        export(residual, 1, tmp_path / "m.onnx")
    with pytest.raises(InvalidBudgetError):
        export(residual, 500, tmp_path / "m.onnx", multiple_of=0)
    assert list(tmp_path.iterdir()) == []


def _writing(change: Any) -> Any:
    """`write_onnx` that writes something else than it was given."""

    def write(model: onnx.ModelProto, weights: Mapping[str, Array], path: Path) -> AssembledFile:
        other_model, other_weights = change(model, dict(weights))
        return write_onnx(other_model, other_weights, path)

    return write


def _other_weight(model: onnx.ModelProto, weights: dict[str, Array]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    return model, {**weights, "fc.bias": weights["fc.bias"] + 0.01}


def _not_finite(model: onnx.ModelProto, weights: dict[str, Array]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    return model, {**weights, "fc.bias": weights["fc.bias"] * np.nan}


def _cannot_load(model: onnx.ModelProto, weights: dict[str, Array]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    model.graph.node[0].op_type = "NoSuchOperator"
    return model, weights


def _cannot_run(model: onnx.ModelProto, weights: dict[str, Array]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 99
    return model, weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_weight, "output 'y' differs by .* between ONNX Runtime and PyTorch"),
        (_not_finite, "is not finite"),
        (_cannot_load, "ONNX Runtime cannot load the artifact"),
        (_cannot_run, "ONNX Runtime cannot run the artifact"),
    ],
)
def test_an_artifact_that_computes_something_else_is_not_published(
    residual: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(inn_core.exporting.export, "write_onnx", _writing(change))
    with pytest.raises(ParityError, match=message):
        export(residual, 500, path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


PLAN = Plan({"a": 3, "b": 4}, 10, 20, 30, False)


def test_the_build_key_depends_on_everything_that_decides_the_bytes() -> None:
    key = build_key(CHECKPOINT, PLAN, "refined", {})
    assert re.fullmatch("sha256:[0-9a-f]{64}", key)
    others = [
        build_key("sha256:" + "b" * 64, PLAN, "refined", {}),
        build_key(CHECKPOINT, replace(PLAN, sizes={"a": 3, "b": 5}), "refined", {}),
        build_key(CHECKPOINT, PLAN, "instant", {}),
        build_key(CHECKPOINT, PLAN, "refined", {"seed": 1}),
    ]
    assert len({key, *others}) == 5


def test_the_build_key_ignores_the_order_of_keys() -> None:
    shuffled = replace(PLAN, sizes={"b": 4, "a": 3})
    first = build_key(CHECKPOINT, PLAN, "refined", {"x": 1, "y": [2]})
    assert build_key(CHECKPOINT, shuffled, "refined", {"y": [2], "x": 1}) == first


def test_all_qualities_of_the_full_size_share_a_key() -> None:
    full = replace(PLAN, full_size=True)
    assert build_key(CHECKPOINT, full, "refined", {}) == build_key(CHECKPOINT, full, "instant", {})
    assert build_key(CHECKPOINT, full, "refined", {}) != build_key(CHECKPOINT, PLAN, "refined", {})
