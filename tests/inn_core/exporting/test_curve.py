"""The size/quality curve, against ONNX Runtime on artifacts and closed forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import inn_core.exporting.curve
from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.discretize.discretize import discretize
from inn_core.errors import BudgetUnreachableError, InvalidEvaluationError
from inn_core.exporting.curve import agreement, check_samples, curve, spaced_targets
from inn_core.graph.resized import resize_template
from inn_core.importing.pipeline import import_network
from inn_core.planning.plan import Budget, choose_plan, feasible_range
from tests.inn_core.sized_networks import small_transposed

CLASSES = 4
SAMPLES = 300  # more than one batch


@pytest.fixture(scope="module")
def small_model() -> onnx.ModelProto:
    """Two convolutions and a classifier with seeded weights."""
    random = np.random.default_rng(0)
    shapes = {
        "w1": (12, 2, 3, 3),
        "b1": (12,),
        "w2": (10, 12, 3, 3),
        "b2": (10,),
        "w3": (CLASSES, 10),
        "b3": (CLASSES,),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    arrays = {name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def checkpoint(small_model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("network") / "small.onnx"
    onnx.save(small_model, path)
    samples = np.random.default_rng(1).normal(size=(64, 2, 6, 6)).astype(np.float32)
    return import_network(path, {"x": samples}, name="small", device="cpu")


@pytest.fixture(scope="module")
def samples() -> Array:
    return np.random.default_rng(2).normal(size=(SAMPLES, 2, 6, 6)).astype(np.float32)


def run_onnx(model: onnx.ModelProto, weights: Mapping[str, Array], samples: Array) -> Array:
    """Output of a model in ONNX Runtime with the given weights as its initializers."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.initializer.extend(numpy_helper.from_array(np.array(array), name) for name, array in weights.items())
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": samples})
    return np.asarray(output)


def test_points_are_what_onnx_runtime_finds(
    checkpoint: Checkpoint, small_model: onnx.ModelProto, samples: Array
) -> None:
    full = run_onnx(small_model, {}, samples)
    labels = np.random.default_rng(3).integers(0, CLASSES, SAMPLES)
    largest = feasible_range(checkpoint, "params")[1]
    target = largest // 2
    result = curve(checkpoint, data={"x": samples, "labels": labels}, params=[target], device="cpu")

    assert result["full"]["params"] == largest == sum(array.size for array in checkpoint.weights.values())
    assert result["full"]["accuracy"] == np.mean(full.argmax(1) == labels)
    assert result["full"]["agreement"] == 1.0
    (point,) = result["points"]
    plan = choose_plan(checkpoint, Budget("params", target))
    weights = discretize(checkpoint, plan, quality="refined", device="cpu").weights
    sized = run_onnx(resize_template(checkpoint.template, checkpoint.structure, plan.sizes), weights, samples)
    assert point["params"] == sum(array.size for array in weights.values()) <= target
    assert point["accuracy"] == pytest.approx(np.mean(sized.argmax(1) == labels), abs=1 / SAMPLES)  # near ties
    assert point["agreement"] == pytest.approx(np.mean(sized.argmax(1) == full.argmax(1)), abs=1 / SAMPLES)
    assert point["seconds"] > 0


def test_without_labels_accuracy_is_none(checkpoint: Checkpoint, samples: Array) -> None:
    result = curve(checkpoint, data={"x": samples}, params=[10**9], quality="instant", device="cpu")
    assert result["full"]["accuracy"] is None
    assert result["points"][0]["accuracy"] is None


def test_a_target_above_the_largest_size_is_the_full_network(checkpoint: Checkpoint, samples: Array) -> None:
    result = curve(checkpoint, data={"x": samples}, params=[10**9], device="cpu")
    point, full = result["points"][0], result["full"]
    assert point["agreement"] == 1.0
    assert {key: point[key] for key in ("params", "macs", "bytes")} == {
        key: full[key] for key in ("params", "macs", "bytes")
    }


def test_default_is_ten_sizes_on_the_calibration_samples(checkpoint: Checkpoint) -> None:
    fractions: list[float] = []
    result = curve(
        checkpoint, quality="instant", device="cpu", progress=lambda stage, fraction: fractions.append(fraction)
    )
    params = [point["params"] for point in result["points"]]
    assert len(params) == 10
    assert params == sorted(params)
    assert (params[0], params[-1]) == feasible_range(checkpoint, "params")
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_labels_beside_whole_numbers_of_another_dtype_are_cast(checkpoint: Checkpoint) -> None:
    samples = np.random.default_rng(4).integers(0, 4, (8, 2, 6, 6))
    as_bytes = curve(checkpoint, data={"x": samples.astype(np.uint8)}, params=[400], quality="instant", device="cpu")
    as_floats = curve(checkpoint, data={"x": samples.astype(np.float32)}, params=[400], quality="instant", device="cpu")
    assert as_bytes["points"][0]["agreement"] == as_floats["points"][0]["agreement"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "no array 'x'; it has: nothing"),
        ({"image": np.zeros((3, 2, 6, 6))}, "no array 'x'; it has: image"),
        ({"x": np.zeros((3, 2, 6))}, r"shape \(3, 2, 6\); the network takes \(n, 2, 6, 6\)"),
        ({"x": np.zeros((3, 1, 6, 6))}, r"the network takes \(n, 2, 6, 6\)"),
        ({"x": np.zeros((0, 2, 6, 6))}, "at least one"),
        ({"x": np.full((2, 2, 6, 6), np.nan)}, "not finite"),
        ({"x": np.zeros((2, 2, 6, 6), dtype=str)}, "not numbers"),
        ({"x": np.zeros((3, 2, 6, 6)), "labels": np.zeros(2, dtype=np.int64)}, r"'labels' has shape \(2,\)"),
        ({"x": np.zeros((3, 2, 6, 6)), "labels": np.zeros(3)}, "dtype float64"),
    ],
)
def test_data_that_does_not_fit_is_refused(checkpoint: Checkpoint, data: dict[str, Array], message: str) -> None:
    with pytest.raises(InvalidEvaluationError, match=message):
        curve(checkpoint, data=data, device="cpu")


def test_samples_are_checked_without_running_the_network(
    checkpoint: Checkpoint, samples: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `curve` says of them, from the graph alone."""
    monkeypatch.setattr(inn_core.exporting.curve, "_run", None)
    check_samples(checkpoint, None)
    check_samples(checkpoint, {"x": samples, "labels": np.zeros(len(samples), np.int64)})
    with pytest.raises(InvalidEvaluationError):
        check_samples(checkpoint, {"x": samples[:, :1]})
    with pytest.raises(InvalidEvaluationError):
        check_samples(checkpoint, {"x": samples, "labels": np.zeros(len(samples) + 1, np.int64)})
    images = small_transposed()
    check_samples(images, {"x": images.calibration["x"]})
    labelled = {"x": images.calibration["x"], "labels": np.zeros(24, np.int64)}
    with pytest.raises(InvalidEvaluationError, match="labels need an output of shape"):
        check_samples(images, labelled)


def test_a_checkpoint_without_samples_needs_data(checkpoint: Checkpoint) -> None:
    with pytest.raises(InvalidEvaluationError, match="keeps no samples; give evaluation data"):
        curve(replace(checkpoint, calibration={}), device="cpu")


def test_a_target_below_the_smallest_size_is_refused(checkpoint: Checkpoint, samples: Array) -> None:
    with pytest.raises(BudgetUnreachableError):
        curve(checkpoint, data={"x": samples}, params=[1], device="cpu")


def test_targets_have_equal_ratios_between_both_ends() -> None:
    targets = spaced_targets(1000, 512_000, n_points=10)
    assert targets == [1000 * 2**power for power in range(10)]
    assert spaced_targets(5, 7) == [5, 6, 7]
    assert spaced_targets(9, 9) == [9]


def test_agreement_of_classes_is_the_share_of_equal_winners() -> None:
    full = np.eye(4)
    sized = np.eye(4)[[0, 1, 2, 0]] * 7
    assert agreement(full, sized) == 0.75


def test_agreement_of_values_falls_with_the_relative_error() -> None:
    full = np.array([[[3.0, 4.0]]])
    assert agreement(full, full) == 1.0
    assert agreement(full, full * 0.9) == pytest.approx(0.9)
    assert agreement(full, full * -5) == 0.0
    assert agreement(full * 0, full * 0) == 1.0
    assert agreement(full * 0, full) == 0.0
