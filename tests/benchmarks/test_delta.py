"""Tensors of two sizes are matched channel by channel, and the verdict follows from the bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.delta.report import report, savings
from benchmarks.delta.tensors import compare
from inn_core.checkpoint.storage import load_checkpoint
from inn_core.exporting.export import export_artifact
from inn_core.planning.plan import Budget

DEMO = Path(__file__).parent.parent.parent / "models" / "checkpoints" / "fashion_resnet.inn"


@pytest.fixture(scope="module")
def network():
    return load_checkpoint(DEMO, verify=False)


def export(network, params: int, path: Path) -> dict[str, Any]:
    return export_artifact(
        network,
        Budget("params", params),
        quality="instant",
        path=path,
        checkpoint_digest="sha256:" + "0" * 64,
        device="cpu",
        threads=1,
        verify=False,
    )


def test_an_artifact_shares_everything_with_itself(network, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    sizes = export(network, 20_000, path)["group_sizes"]
    same = compare(network, sizes, sizes, path, path)
    assert (same.shared, same.equal, same.distance) == (1.0, 1.0, 0.0)
    assert (same.missing_bytes, same.changed_bytes) == (0, 0)
    assert not any(same.difference)


def test_channels_are_matched_by_what_they_are_not_by_where_they_stand(network, tmp_path: Path) -> None:
    """Numbers of the full network, cut to the channels of a plan, are equal to those of the full network."""
    full, cut = tmp_path / "full.onnx", tmp_path / "cut.onnx"
    whole = export(network, 10**9, full)
    sizes = export(network, 40_000, cut)["group_sizes"]
    model = onnx.load(cut)
    for tensor in model.graph.initializer:
        if tensor.name in network.weights:
            array = network.weights[tensor.name]
            for position, axis in enumerate(network.structure.weights[tensor.name]):
                array = np.take(array, positions(network, axis, sizes), axis=position)
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    onnx.save(model, cut)
    found = compare(network, whole["group_sizes"], sizes, full, cut)
    assert (found.shared, found.equal) == (1.0, 1.0)
    back = compare(network, sizes, whole["group_sizes"], cut, full)
    assert back.equal == 1.0
    n_cut = sum(numpy_helper.to_array(t).size for t in model.graph.initializer if t.name in network.weights)
    assert back.missing_bytes == 4 * (whole["params"] - n_cut)


def positions(network, axis: Any, sizes: dict[str, int]) -> np.ndarray:
    """Positions that stay along an axis of the full network, by going through its factors one number at a time."""
    kept: list[int] = []
    offset = 0
    for segment in axis:
        places = [0]
        for factor in segment:
            if isinstance(factor, int):
                extent, stay = factor, list(range(factor))
            else:
                order = network.orders[factor]
                extent, stay = len(order), sorted(order[: sizes[factor]].tolist())
            places = [place * extent + one for place in places for one in stay]
        kept += [offset + place for place in places]
        offset += int(
            np.prod([factor if isinstance(factor, int) else len(network.orders[factor]) for factor in segment])
        )
    return np.array(kept, dtype=np.int64)


def row(*, whole: int, delta: int) -> dict[str, Any]:
    ways = {name: {"bytes": whole, "seconds": 0.1} for name in ("gzip", "zstd 3", "zstd 19", "lzma")}
    ways |= {"shuffled, zstd 19": {"bytes": whole, "seconds": 0.1}, "float16": {"bytes": 1}}
    ways |= {"float16, zstd 19": {"bytes": 1, "seconds": 0.1}}
    ways |= {name: {"bytes": delta, "seconds": 0.1} for name in ("zstd --patch-from", "bsdiff")}
    ways |= {"tensor difference, zstd 19": {"bytes": delta, "seconds": 0.1}}
    ways |= {name: {"bytes": 1} for name in ("changed or missing numbers", "missing rows and columns")}
    found = {"bytes": [90, 100], "methods": ["sequential"] * 2, "shared": 0.9, "equal": 0.1, "distance": 0.1}
    key = {"network": "n", "checkpoint": "n", "quality": "refined", "pair": [0.5, 0.54]}
    return {"key": key, "found": found | {"ways": ways, "unpack": {"zstd 19": 0.01}}, "environment": {"load": 1.0}}


def test_a_delta_counts_against_the_best_way_to_send_the_whole() -> None:
    assert savings(row(whole=80, delta=60)["found"]) == pytest.approx((0.8, 0.6, 0.25))
    assert savings(row(whole=80, delta=95)["found"]) == pytest.approx((0.8, 0.95, 0.0))
    assert savings(row(whole=120, delta=90)["found"]) == pytest.approx((1.0, 0.9, 0.1))


def test_the_verdict_says_whether_it_pays() -> None:
    assert "a delta pays" in report([row(whole=80, delta=60)])
    assert "a delta does not pay" in report([row(whole=80, delta=70)])
