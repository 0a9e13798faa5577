"""The export benchmark counts and shows what it says, on a network small enough for a test."""

from __future__ import annotations

import cProfile
import hashlib
import pstats
import resource
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from benchmarks.export import __main__ as export
from benchmarks.export.process import busiest, count_work_, peak_memory_bytes, seconds_by_part
from benchmarks.export.report import report
from benchmarks.networks import resnet50
from inn_core.fitting.least_squares import NormalEquations


@pytest.fixture
def measured() -> dict[str, Any]:
    stages = {"plan": 0.001, "discretize": 0.1, "assemble": 0.05, "verify": 0.4}
    row = {"params": 500, "bytes": 2_000_000, "plain": 0.2, "verified": 0.6, "limit": 0.1, "over_limit": 2.0}
    memory = {"peak_bytes": 500e6, "baseline_bytes": 200e6, "load_seconds": 0.1, "seconds": 0.2}
    functions = [{"function": "solve.py:1 add", "calls": 3, "seconds": 0.5}]
    peak = {"macs": 1e10, "bytes": 1e10}
    instant = {
        "load": [0.5, 0.6],
        "checkpoint_bytes": 200e6,
        "exporter": {"seconds": 4.0, "params": 500},
        "sizes": [{"share": 0.5, "stages": stages, **row}],
        "memory": memory,
        "functions": functions,
        "moved": {"read": 3e6, "written": 2e6},
        "peak": peak,
    }
    refined = {
        **memory,
        "manifest": {"seconds": {"discretize": 10.0}, "method": "hybrid", "params": 500},
        "parts": {"solve": 4.0},
        "functions": functions,
        "normal_macs": 2e10,
        "peak": peak,
        "seconds": 400.0,
        "share": 0.5,
        "samples": 64,
        "full_macs": 4e9,
        "load": [9.0],
    }
    machine = {"cpu": "C", "threads": 2, "cores": 2, "memory_bytes": 2**34, "python": "3", "torch": "2", "onnx": "1"}
    return {"instant": instant, "refined": refined, "machine": {**machine, "numpy": "2"}}


def test_the_network_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = resnet50.ResNet50()
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032


def test_the_half_network_has_just_under_half_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resnet50, "make_network", lambda *, width: resnet50.ResNet50(width=width))
    count = resnet50.count_folded_parameters(export.half_network(25_530_472))
    assert 0.98 * 25_530_472 / 2 < count <= 25_530_472 / 2


def test_normalization_statistics_keep_activations_near_unit_variance() -> None:
    network = resnet50.make_network(width=0.125, stages=((1, 16), (1, 32)))
    image = torch.from_numpy(resnet50.make_images(8))
    with torch.inference_mode():
        outputs = network.stem[1](network.stem[0](image))
    np.testing.assert_allclose(outputs.var((0, 2, 3)).numpy(), 1.0, rtol=1e-3)


def test_images_are_smooth_and_come_from_bytes() -> None:
    images = resnet50.make_images(2)
    again = resnet50.make_images(2)
    assert images.shape == (2, 3, 224, 224)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, again)
    assert len(np.unique(images)) <= 256
    assert np.abs(np.diff(images, axis=3)).mean() < 0.2 * images.std()


def test_work_is_a_triangle_of_the_gram_and_the_right_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NormalEquations, "add", NormalEquations.add)  # puts the method back after the test
    work = count_work_(NormalEquations)
    equations = NormalEquations(2, 5, 3, device=torch.device("cpu"))
    inputs = torch.randn(2, 11, 5)
    equations.add(inputs, torch.randn(2, 11, 3))
    assert work["macs"] == 2 * 11 * (5 * 3 + 5 * 3)
    assert equations.rows == 11


def test_parts_take_the_time_of_their_functions_with_all_they_call(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = cProfile.Profile()
    equations = NormalEquations(1, 40, 3, device=torch.device("cpu"))
    rows, targets = torch.randn(1, 500, 40), torch.randn(1, 500, 3)
    profile.enable()
    for _ in range(20):
        equations.add(rows, targets)
    profile.disable()
    stats = pstats.Stats(profile)
    parts = seconds_by_part(stats)
    assert parts["solve"] == parts["distill"] == 0.0
    assert 0.8 * stats.total_tt < parts["normal equations"] <= stats.total_tt  # type: ignore[attr-defined]
    assert any("bmm" in row["function"] and row["calls"] == 40 for row in busiest(stats))


def test_peak_memory_is_what_the_kernel_counts() -> None:
    found = peak_memory_bytes()
    assert found == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.05)


def test_time_of_writing_leaves_the_bytes_on_the_disk(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    assert export.time_writing(data, tmp_path / "f") > 0
    assert hashlib.sha256((tmp_path / "f").read_bytes()).digest() == hashlib.sha256(data).digest()
    export.time_writing(data[:10], tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == data[:10]


@pytest.mark.slow
def test_the_exporter_writes_one_file_with_a_free_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resnet50, "IMAGE_SIZE", 8)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    assert export.time_exporter(module, tmp_path / "m.onnx") > 0
    model = onnx.load(tmp_path / "m.onnx")
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer) == 4 * 3 * 9 + 4


def test_medians_are_over_rounds_and_verification_comes_from_verified_exports() -> None:
    def one(plain: float, verified: float, limit: float) -> dict[str, Any]:
        def timed(seconds: float, verify: float) -> dict[str, Any]:
            return {"seconds": seconds, "stages": {"plan": seconds / 2, "verify": verify}}

        return {"plain": timed(plain, 0.0), "verified": timed(verified, verified / 2), "limit": limit}

    found = export.medians([one(1.0, 4.0, 0.5), one(2.0, 6.0, 0.5), one(9.0, 8.0, 1.0)])
    assert found["plain"] == 2.0
    assert found["verified"] == 6.0
    assert found["over_limit"] == 4.0
    assert found["stages"] == {"plan": 1.0, "verify": 3.0}


def test_the_report_judges_every_target(measured: dict[str, Any]) -> None:
    text = report(measured)
    assert "| torch exporter over instant, half size | 20.00 | at least 15 | yes |" in text
    assert "| instant over hash + write + fsync, half size | 2.00 | at most 4 | yes |" in text
    assert "| peak memory over the checkpoint's size | 1.50 | at most 3 | yes |" in text
    assert "| seconds | 400.00 | at most 360 | **no** |" in text
    assert "| solve | 4.00 |" in text
    assert "| other | 6.00 |" in text
    assert "2.0 s at the 10 G a second" in text


def test_the_report_says_when_the_machine_was_busy(measured: dict[str, Any]) -> None:
    text = report(measured)
    assert text.count("measure again") == 1
    measured["refined"]["load"] = [1.0]
    assert "measure again" not in report(measured)


def test_parts_that_were_not_measured_are_left_out(measured: dict[str, Any]) -> None:
    del measured["instant"]
    text = report(measured)
    assert "## instant" not in text
    assert "## refined, ResNet-50 shape at 50 %" in text
