"""Imports end to end: the network in, any size out, ONNX Runtime and PyTorch agreeing on every artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import load_checkpoint, save_checkpoint
from inn_core.errors import InvalidCalibrationError, InvalidFreezeError, InvalidNameError, InvalidOnnxError
from inn_core.exporting.export import export_artifact
from inn_core.importing.pipeline import import_network
from inn_core.planning.plan import Budget, feasible_range
from inn_core.planning.summary import describe
from tests.inn_core import factories
from tests.inn_core.graph.tiny import Shape, model_of, node, run
from tests.inn_core.trained_networks import gaussian, mlp, residual_convnet, smooth_images

PARITY = 1e-4
FULL_SIZE = 1e-5


def classifier_of_pixels() -> onnx.ModelProto:
    """Flattened map, depthwise and grouped convolutions, a concat and a gate."""
    pad = [1, 1, 1, 1]
    return model_of(
        [
            node("Conv", "x w0 b0", "s", pads=pad),
            node("Relu", "s", "r"),
            node("Conv", "r wd bd", "d", group=8, pads=pad),
            node("Clip", "d low high", "e"),
            node("Conv", "e wg bg", "g", group=2),
            node("PRelu", "g slope", "a"),
            node("Concat", "a r", "j", axis=1),
            node("GlobalAveragePool", "j", "p"),
            node("Conv", "p wa ba", "pa"),
            node("Sigmoid", "pa", "ps"),
            node("Mul", "j ps", "m"),
            node("AveragePool", "m", "v", kernel_shape=[4, 4], strides=[4, 4]),
            node("Flatten", "v", "f"),
            node("Gemm", "f w3 b3", "y"),
        ],
        weights={
            "w0": (8, 3, 3, 3), "b0": (8,), "wd": (8, 1, 3, 3), "bd": (8,), "wg": (8, 4, 1, 1), "bg": (8,),
            "slope": (8, 1, 1), "wa": (16, 16, 1, 1), "ba": (16,), "w3": (64, 5), "b3": (5,),
        },
        floats={"low": 0.0, "high": 6.0},
        inputs={"x": (3, 8, 8)},
    )  # fmt: skip


def super_resolution() -> onnx.ModelProto:
    """Values out: twice the side by depth-to-space, on top of a nearest-neighbour copy."""
    pad = [1, 1, 1, 1]
    return model_of(
        [
            node("Conv", "x w0 b0", "s", pads=pad),
            node("Relu", "s", "r"),
            node("Conv", "r w1 b1", "t", pads=pad),
            node("Add", "t r", "u"),
            node("Conv", "u w2 b2", "v", pads=pad),
            node("DepthToSpace", "v", "up", blocksize=2, mode="CRD"),
            node("Resize", "x - scales", "base", mode="nearest"),
            node("Add", "up base", "y"),
        ],
        weights={
            "w0": (8, 3, 3, 3), "b0": (8,), "w1": (8, 8, 3, 3), "b1": (8,), "w2": (12, 8, 3, 3), "b2": (12,),
        },
        floats={"scales": [1.0, 1.0, 2.0, 2.0]},
        inputs={"x": (3, 8, 8)},
    )  # fmt: skip


def two_inputs() -> onnx.ModelProto:
    """A product of two branches."""
    return model_of(
        [
            node("Gemm", "first wa ba", "a"),
            node("Relu", "a", "ar"),
            node("Gemm", "second wb bb", "b"),
            node("Sigmoid", "b", "bs"),
            node("Mul", "ar bs", "m"),
            node("Gemm", "m w b0", "y"),
        ],
        weights={"wa": (6, 10), "ba": (10,), "wb": (4, 10), "bb": (10,), "w": (10, 5), "b0": (5,)},
        inputs={"first": (6,), "second": (4,)},
    )


def transposed() -> onnx.ModelProto:
    """A decoder: dense, grouped and depthwise transposed convolutions."""
    return model_of(
        [
            node("Conv", "x w0", "s"),
            node("Relu", "s", "r"),
            node("ConvTranspose", "r wt bt", "t", strides=[2, 2]),
            node("Relu", "t", "tr"),
            node("ConvTranspose", "tr wg", "g", group=2),
            node("Relu", "g", "gr"),
            node("ConvTranspose", "gr wd", "d", group=8),
            node("Conv", "d w2", "y"),
        ],
        weights={
            "w0": (6, 3, 1, 1), "wt": (6, 8, 2, 2), "bt": (8,), "wg": (8, 4, 1, 1), "wd": (8, 1, 2, 2),
            "w2": (3, 8, 1, 1),
        },
        inputs={"x": (3, 4, 4)},
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, Shape]]] = {
    "residual": (residual_convnet, {"x": (3, 8, 8)}),
    "pixels": (classifier_of_pixels, {"x": (3, 8, 8)}),
    "super-resolution": (super_resolution, {"x": (3, 8, 8)}),
    "two-inputs": (two_inputs, {"first": (6,), "second": (4,)}),
    "transposed": (transposed, {"x": (3, 4, 4)}),
}


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "network.onnx"
    onnx.save_model(model, path)
    return path


def imported(model: onnx.ModelProto, samples: Mapping[str, Array], folder: Path, **options: Any) -> Checkpoint:
    return import_network(saved(model, folder), samples, name="tiny", device="cpu", **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_size_of_a_network_is_what_pytorch_computes(name: str, tmp_path: Path) -> None:
    """Import, save, load, export in both qualities: parity in ONNX Runtime, budget kept, full size as imported."""
    build, shapes = NETWORKS[name]
    samples = {key: gaussian(48, *shape, seed=i) for i, (key, shape) in enumerate(shapes.items())}
    network = imported(build(), samples, tmp_path)
    digest = save_checkpoint(network, tmp_path / "n.inn")
    network = load_checkpoint(tmp_path / "n.inn")
    assert network.structure.groups
    smallest, largest = feasible_range(network, "params")
    for quality in ("refined", "instant"):
        for value in (smallest, (smallest + largest) // 2, (smallest + 9 * largest) // 10):
            manifest = export_artifact(
                network, Budget("params", value), quality=quality, path=tmp_path / "a.onnx",
                checkpoint_digest=digest, device="cpu",
            )  # fmt: skip
            assert manifest["params"] <= value
            assert 0 <= manifest["parity"] <= PARITY
            onnx.checker.check_model(onnx.load(tmp_path / "a.onnx"), full_check=True)
    export_artifact(
        network, Budget("params", 10**9), path=tmp_path / "full.onnx", checkpoint_digest=digest, device="cpu"
    )
    few = {key: array[:5] for key, array in samples.items()}
    for ours, expected in zip(run(onnx.load(tmp_path / "full.onnx"), few), run(build(), few), strict=True):
        np.testing.assert_allclose(ours, expected, atol=FULL_SIZE * np.abs(expected).max())


def test_a_torch_module_comes_in_through_its_factory(tmp_path: Path) -> None:
    samples = smooth_images(32)
    network = import_network(
        "tests.inn_core.factories:small", {"image": samples, "labels": np.zeros(32)}, name="small", device="cpu"
    )
    assert set(network.calibration) == {"image"}
    assert network.template.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    export_artifact(
        network, Budget("params", 10**9), path=tmp_path / "m.onnx", checkpoint_digest="sha256:" + "0" * 64, device="cpu"
    )
    module, _ = factories.small()
    expected = module.eval()(torch.from_numpy(samples)).detach().numpy()
    (found,) = run(onnx.load(tmp_path / "m.onnx"), {"image": samples})
    np.testing.assert_allclose(found, expected, atol=FULL_SIZE * np.abs(expected).max())
    assert {group.size for group in network.structure.groups} == {8}


def test_provenance_says_what_came_in(tmp_path: Path) -> None:
    network = imported(mlp(), {"x": gaussian(20, 6)}, tmp_path, freeze=[("w1", 1)])
    found = network.provenance
    assert found["source"] == "network.onnx"
    assert str(found["source_graph_digest"]).startswith("sha256:")
    assert found["calibration_samples"] == 20
    assert found["frozen"] == ["w1:1"]
    assert "measured on 20 samples" in str(found["allocation"])
    assert str(tmp_path) not in str(found)


def test_what_is_frozen_keeps_its_size_in_every_artifact(tmp_path: Path) -> None:
    network = imported(mlp(), {"x": gaussian(40, 6)}, tmp_path, freeze=[("w1", 1)])
    assert [group.name for group in network.structure.groups] == ["w2:1"]
    assert ("w1", 1, "frozen by the user") in {(f.tensor, f.axis, f.reason) for f in network.structure.frozen}
    path = tmp_path / "a.onnx"
    smallest = feasible_range(network, "params")[0]
    export_artifact(
        network, Budget("params", smallest), path=path, checkpoint_digest="sha256:" + "0" * 64, device="cpu"
    )
    shapes = {tensor.name: tuple(tensor.dims) for tensor in onnx.load(path).graph.initializer}
    assert shapes["w1"] == (6, 12)
    assert shapes["w2"] == (12, 1)


def test_an_operator_without_a_rule_is_shown_by_inspect_and_the_rest_is_resized(tmp_path: Path) -> None:
    model = model_of(
        [
            node("Conv", "x w1", "h"),
            node("Trilu", "h", "t", "triangle"),
            node("Conv", "t w2", "g"),
            node("Relu", "g", "r"),
            node("Conv", "r w3", "y"),
        ],
        weights={"w1": (6, 3, 1, 1), "w2": (7, 6, 1, 1), "w3": (2, 7, 1, 1)},
        inputs={"x": (3, 4, 4)},
    )
    shown = describe(imported(model, {"x": gaussian(20, 3, 4, 4)}, tmp_path))
    reasons = {(entry["tensor"], entry["axis"]): entry["reason"] for entry in shown["frozen"]}
    assert reasons["w1", 0] == "no rule for node 'triangle' (Trilu)"
    assert [(group["name"], group["size"]) for group in shown["groups"]] == [("w2", 7)]


def test_with_statistics_only_no_sample_is_kept(tmp_path: Path) -> None:
    samples = gaussian(40, 6)
    network = imported(mlp(), {"x": samples}, tmp_path, statistics_only=True)
    assert not network.calibration
    assert network.qualities == ["instant", "uniform"]
    save_checkpoint(network, tmp_path / "n.inn")
    data = (tmp_path / "n.inn").read_bytes()
    assert all(row.tobytes() not in data for row in samples)


def test_a_network_with_nothing_to_resize_has_one_size(tmp_path: Path) -> None:
    model = model_of([node("Gemm", "x w", "y")], weights={"w": (6, 5)}, inputs={"x": (6,)})
    network = imported(model, {"x": gaussian(10, 6)}, tmp_path)
    assert network.structure.groups == ()
    assert feasible_range(network, "params") == (30, 30)
    manifest = export_artifact(
        network, Budget("params", 30), path=tmp_path / "a.onnx", checkpoint_digest="sha256:" + "0" * 64, device="cpu"
    )
    assert manifest["full_size"] is True


def test_orders_paths_and_curves_fit_the_groups(tmp_path: Path) -> None:
    network = imported(residual_convnet(), {"x": smooth_images(40)}, tmp_path)
    sizes = network.structure.full_sizes()
    for name, size in sizes.items():
        assert sorted(network.orders[name]) == list(range(size))
        assert network.curves[name].shape == (size + 1,)
        assert (np.diff(network.curves[name]) <= 0).all()
    for path in network.paths.values():
        assert np.bincount(path, minlength=len(sizes)).tolist() == [size - 1 for size in sizes.values()]


def test_progress_rises_through_all_stages(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    imported(mlp(), {"x": gaussian(40, 6)}, tmp_path, progress=lambda stage, share: seen.append((stage, share)))
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert seen[0] == ("reading", 0.0)
    assert seen[-1] == ("done", 1.0)
    assert {"statistics", "ordering", "allocation", "knots"} <= {stage for stage, _ in seen}


@pytest.mark.parametrize("name", ["", "a b", "../up", ".hidden", "x" * 65, "new\nline", "ends\n"])
def test_names_that_could_be_paths_or_worse_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidNameError, match="is not allowed; use 1 to 64 letters"):
        import_network(saved(mlp(), tmp_path), {"x": gaussian(10, 6)}, name=name, device="cpu")


def test_bad_imports_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InvalidOnnxError, match=r"there is no file '.*missing.onnx'; give an .onnx file or"):
        import_network(tmp_path / "missing.onnx", {}, name="n")
    with pytest.raises(InvalidCalibrationError, match="calibration array 'x' is missing; found: image"):
        imported(mlp(), {"image": gaussian(10, 6)}, tmp_path)
    with pytest.raises(InvalidCalibrationError, match=r"array 'x' has samples of shape \[7\], the network takes \[6\]"):
        imported(mlp(), {"x": gaussian(10, 7)}, tmp_path)
    with pytest.raises(InvalidFreezeError, match="there is no tensor 'w9'"):
        imported(mlp(), {"x": gaussian(10, 6)}, tmp_path, freeze=[("w9", 0)])
