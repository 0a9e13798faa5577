"""The command line from a network to an artifact: import, inspect, export, verify and curve of a small ONNX file."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

from service.cli import app

CLASSES = 4
CHANNELS = (12, 16)
SAMPLES = 64
FULL_SIZE_TOLERANCE = 1e-5
"""Relative; float32 convolutions summed in another order."""


def inn(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    result = inn(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def small_network() -> onnx.ModelProto:
    """Two convolutions, global pooling and a classifier, with seeded weights."""
    random = np.random.default_rng(3)
    first, second = CHANNELS
    weights = {
        "conv1.weight": random.normal(0, 0.4, (first, 1, 3, 3)),
        "conv1.bias": random.normal(0, 0.1, first),
        "conv2.weight": random.normal(0, 0.1, (second, first, 3, 3)),
        "conv2.bias": random.normal(0, 0.1, second),
        "head.weight": random.normal(0, 0.3, (CLASSES, second)),
        "head.bias": np.zeros(CLASSES),
    }
    nodes = [
        helper.make_node("Conv", ["image", "conv1.weight", "conv1.bias"], ["c1"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "conv2.weight", "conv2.bias"], ["c2"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "head.weight", "head.bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def count_parameters(path: Path) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer if tensor.data_type == 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.onnx, calibration.npz (with labels, which are kept out) and the imported small.inn."""
    folder = tmp_path_factory.mktemp("network")
    onnx.save(small_network(), folder / "small.onnx")
    images = np.random.default_rng(5).random((SAMPLES, 1, 8, 8), dtype=np.float32)
    np.savez(folder / "calibration.npz", image=images, labels=np.arange(SAMPLES) % CLASSES)
    done("import", folder / "small.onnx", "--calibration", folder / "calibration.npz", "-o", folder / "small.inn")
    return folder


@pytest.fixture(scope="module")
def description(folder: Path) -> dict[str, Any]:
    return dict(json.loads(done("inspect", folder / "small.inn", "--json")))


def test_inspect_shows_groups_and_what_is_frozen(folder: Path, description: dict[str, Any]) -> None:
    assert description["name"] == "small"
    assert sorted(group["size"] for group in description["groups"]) == sorted(CHANNELS)
    assert description["feasible"]["max"] == count_parameters(folder / "small.onnx")
    assert [tensor["name"] for tensor in description["inputs"]] == ["image"]
    digest = hashlib.sha256((folder / "small.inn").read_bytes()).hexdigest()
    assert description["checkpoint"] == f"sha256:{digest}"
    table = done("inspect", folder / "small.inn")
    for text in ("2 groups", "conv1.weight:0", "head.weight:0", "refined", digest):
        assert text in table


def test_export_meets_the_budget_and_writes_its_manifest_beside(folder: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "half.onnx"
    target = count_parameters(folder / "small.onnx") // 2
    manifest = json.loads(done("export", folder / "small.inn", "--params", target, "-o", artifact, "--json"))
    assert count_parameters(artifact) == manifest["params"] <= target
    assert manifest["digest"] == f"sha256:{hashlib.sha256(artifact.read_bytes()).hexdigest()}"
    assert manifest["bytes"] == artifact.stat().st_size
    assert json.loads((tmp_path / "half.onnx.json").read_text()) == manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.onnx", "half.onnx.json"]
    assert "is intact" in done("verify", artifact)


@pytest.mark.parametrize("unit", ["params", "macs", "bytes"])
def test_every_unit_is_an_upper_bound(unit: str, folder: Path, description: dict[str, Any], tmp_path: Path) -> None:
    target = description["feasible_by_unit"][unit]["max"] * 2 // 3
    manifest = json.loads(
        done(
            "export",
            folder / "small.inn",
            f"--{unit}",
            target,
            "-o",
            tmp_path / "a.onnx",
            "--quality",
            "instant",
            "--json",
        )
    )
    assert manifest[unit] <= target
    assert manifest["budget"] == {"unit": unit, "value": target}


def test_room_for_everything_gives_the_network_that_came_in(folder: Path, tmp_path: Path) -> None:
    manifest = json.loads(done("export", folder / "small.inn", "--params", 10**9, "-o", tmp_path / "a.onnx", "--json"))
    assert manifest["full_size"] is True
    image = np.random.default_rng(9).random((5, 1, 8, 8), dtype=np.float32)
    expected, found = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]
        for path in (folder / "small.onnx", tmp_path / "a.onnx")
    )
    assert np.abs(found - expected).max() <= FULL_SIZE_TOLERANCE * np.abs(expected).max()


def test_the_same_export_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        done("export", folder / "small.inn", "--params", 900, "-o", tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_budget_below_the_smallest_size_leaves_no_file(
    folder: Path, description: dict[str, Any], tmp_path: Path
) -> None:
    result = inn("export", folder / "small.inn", "--params", 3, "-o", tmp_path / "a.onnx")
    assert result.exit_code == 1
    assert "error[budget-unreachable]: " in result.stderr
    assert f"{description['feasible']['min']:,}" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["0", "-5"])
def test_a_budget_that_is_none_is_an_error_of_ours(value: str, folder: Path, tmp_path: Path) -> None:
    result = inn("export", folder / "small.inn", f"--params={value}", "-o", tmp_path / "a.onnx")
    assert result.exit_code == 1
    assert "error[invalid-budget]: " in result.stderr


def test_a_changed_artifact_is_found(folder: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "a.onnx"
    done("export", folder / "small.inn", "--params", 900, "-o", artifact)
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    result = inn("verify", artifact)
    assert result.exit_code == 1
    assert result.stderr.startswith("error[digest-mismatch]: ")


def test_a_changed_checkpoint_is_found(folder: Path, description: dict[str, Any], tmp_path: Path) -> None:
    assert "is intact" in done("verify", folder / "small.inn", "--digest", description["checkpoint"])
    data = bytearray((folder / "small.inn").read_bytes())
    data[-10] ^= 1
    (tmp_path / "changed.inn").write_bytes(data)
    result = inn("verify", tmp_path / "changed.inn")
    assert result.exit_code == 1
    assert result.stderr.startswith("error[")
    assert result.stdout == ""
    other = inn("verify", folder / "small.inn", "--digest", "sha256:" + "0" * 64)
    assert other.stderr.startswith("error[digest-mismatch]: ")


def test_curve_measures_accuracy_and_draws(folder: Path, tmp_path: Path) -> None:
    full = count_parameters(folder / "small.onnx")
    plot = tmp_path / "curve.png"
    data = folder / "calibration.npz"
    arguments = ("curve", folder / "small.inn", "--data", data, "--params", f"800,{full}", "--plot", plot)
    curve = json.loads(done(*arguments, "--json"))
    assert curve["full"]["params"] == full
    assert [point["params"] <= target for point, target in zip(curve["points"], (800, full), strict=True)] == [
        True,
        True,
    ]
    assert curve["points"][1]["agreement"] == 1.0
    assert 0.0 <= curve["points"][0]["accuracy"] <= 1.0
    assert plot.read_bytes().startswith(b"\x89PNG")
    table = done("curve", folder / "small.inn", "--params", "800").splitlines()
    assert table[0].split() == ["params", "of", "full", "macs", "bytes", "accuracy", "agreement", "seconds"]


def test_a_quadrature_makes_another_uniform_network(folder: Path, tmp_path: Path) -> None:
    """Without a quality it means `uniform`, which is the only one that it goes with."""

    def exported(*options: str) -> dict[str, Any]:
        text = done("export", folder / "small.inn", "--params", 900, *options, "-o", tmp_path / "a.onnx", "--json")
        manifest: dict[str, Any] = json.loads(text)
        return manifest

    plain = exported("--quality", "uniform")
    other = exported("--quadrature", "simpson,linear")
    assert other["quality"] == other["method"] == "uniform"
    assert other["digest"] != plain["digest"]
    assert other["build_key"] != plain["build_key"]
    sizes = ("curve", folder / "small.inn", "--params", "900", "--json")
    assert json.loads(done(*sizes, "--quadrature", "simpson,linear"))["points"][0]["params"] == other["params"]
    for options in (("--quadrature", "euler"), ("--quadrature", "simpson", "--quality", "instant")):
        result = inn("export", folder / "small.inn", "--params", 900, *options, "-o", tmp_path / "b.onnx")
        assert result.exit_code == 1
        assert "error[invalid-partition]: " in result.stderr


def test_statistics_only_keeps_no_samples(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "quiet.inn"
    calibration = folder / "calibration.npz"
    text = done(
        "import", folder / "small.onnx", "--calibration", calibration, "--statistics-only", "-o", output, "--json"
    )
    assert json.loads(text)["qualities"] == ["instant", "uniform"]
    manifest = json.loads(done("export", output, "--params", 900, "-o", tmp_path / "a.onnx", "--json"))
    assert manifest["quality"] == "instant"
    result = inn("export", output, "--params", 900, "--quality", "refined", "-o", tmp_path / "b.onnx")
    assert result.exit_code == 1
    assert "error[quality-unavailable]: " in result.stderr


def test_a_frozen_axis_keeps_its_size_and_says_so(folder: Path, tmp_path: Path) -> None:
    text = done(
        *("import", folder / "small.onnx", "--calibration", folder / "calibration.npz", "--name", "other"),
        *("--freeze", "conv1.weight:0", "-o", tmp_path / "frozen.inn", "--json"),
    )
    description = json.loads(text)
    assert description["name"] == "other"
    assert [group["size"] for group in description["groups"]] == [CHANNELS[1]]
    assert any(axis["tensor"] == "conv1.weight" and axis["axis"] == 0 for axis in description["frozen"])


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"labels": np.zeros(8)}, "invalid-calibration"),
        ({"image": np.zeros((8, 1, 8, 9), dtype=np.float32)}, "invalid-calibration"),
        ({"image": np.full((8, 1, 8, 8), np.nan, dtype=np.float32)}, "invalid-calibration"),
    ],
    ids=["missing", "wrong shape", "not finite"],
)
def test_samples_that_do_not_fit_are_refused(arrays: dict[str, Any], code: str, folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", **arrays)
    output = tmp_path / "a.inn"
    result = inn("import", folder / "small.onnx", "--calibration", tmp_path / "c.npz", "-o", output)
    assert result.exit_code == 1
    assert f"error[{code}]: " in result.stderr
    assert not output.exists()


def test_a_file_that_is_no_onnx_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    output = tmp_path / "a.inn"
    result = inn("import", tmp_path / "text.onnx", "--calibration", folder / "calibration.npz", "-o", output)
    assert result.exit_code == 1
    assert "error[invalid-onnx]: " in result.stderr
    assert not output.exists()


FACTORY = """
import torch
from torch import nn


def factory():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]
    return nn.Sequential(*layers).eval(), (torch.zeros(2, 1, 8, 8),)
"""


@pytest.fixture
def beside_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module that only lies there, and nothing of it left in this process afterwards."""
    (tmp_path / "network_beside_me.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("network_beside_me", None)


def test_a_torch_module_beside_the_user_can_be_imported(beside_a_module: Path) -> None:
    samples = np.random.default_rng(1).random((32, 1, 8, 8), dtype=np.float32)
    np.savez("c.npz", input=samples)
    text = done("import", "network_beside_me:factory", "--calibration", "c.npz", "-o", "net.inn", "--json")
    assert json.loads(text)["feasible"]["max"] == 6 * 9 + 6 + 6 * 3 + 3


@pytest.mark.parametrize("source", ["nowhere_to_be_found:factory", "network_beside_me:missing"])
def test_a_factory_that_is_not_there_is_an_error_of_ours(source: str, beside_a_module: Path) -> None:
    np.savez("c.npz", input=np.zeros((8, 1, 8, 8), dtype=np.float32))
    result = inn("import", source, "--calibration", "c.npz", "-o", "net.inn")
    assert result.exit_code == 1, result.output
    assert "error[" in result.stderr
    assert not (beside_a_module / "net.inn").exists()
