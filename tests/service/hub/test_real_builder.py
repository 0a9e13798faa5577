"""From a checkpoint to numbers over HTTP with the real builder: export, artifact, inference, curve."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from inn_core.checkpoint.storage import save_checkpoint
from inn_core.importing.pipeline import import_network
from tests.service.hub.live_hub import LiveHub, live_hub

RELATIVE = 1e-5  # float32, full size: weights are permuted at most
PARITY = 1e-4


def images(n_samples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((n_samples, 1, 6, 6)).astype(np.float32)


def network() -> bytes:
    """A convolution, a rectifier, pooling, a linear layer."""
    random = np.random.default_rng(0)
    weights = {
        "kernel": random.standard_normal((12, 1, 3, 3)) / 3,
        "kernel_bias": random.standard_normal(12),
        "matrix": random.standard_normal((4, 12)) / 4,
        "bias": random.standard_normal(4),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel", "kernel_bias"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
            helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
            helper.make_node("Gemm", ["f", "matrix", "bias"], ["y"], name="linear", transB=1),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    """A hub with real builders and the model `small`."""
    folder = tmp_path_factory.mktemp("real")
    source = folder / "small.onnx"
    source.write_bytes(network())
    checkpoint = folder / "small.inn"
    save_checkpoint(import_network(source, {"x": images(32, 1)}, name="small", device="cpu"), checkpoint)
    with live_hub(folder, imports=[checkpoint], real_builders=True, builder_threads=1) as running:
        yield running


def run(content: bytes, samples: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": samples})[0]


def full_params(real: LiveHub) -> int:
    full: int = real.client.get("/models/small").json()["feasible"]["max"]
    return full


def test_the_full_size_computes_what_the_imported_network_did(real: LiveHub) -> None:
    samples = images(3, 2)
    answer = real.client.post("/infer", json={"model": "small", "inputs": {"x": samples.tolist()}}).json()
    weights = onnx.load_model_from_string(network()).graph.initializer
    assert answer["params"] == sum(numpy_helper.to_array(weight).size for weight in weights)
    expected = run(network(), samples)
    assert np.abs(answer["outputs"]["y"] - expected).max() <= RELATIVE * np.abs(expected).max()


@pytest.mark.parametrize("quality", ["instant", "refined"])
def test_an_artifact_is_within_its_target_and_inference_is_that_of_onnx_runtime(real: LiveHub, quality: str) -> None:
    target = full_params(real) // 2
    body = {"model": "small", "target_params": target, "quality": quality}
    manifest = real.client.post("/export", json=body).json()
    content = real.client.get(manifest["url"]).content
    assert manifest["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert manifest["bytes"] == len(content)
    weights = onnx.load_model_from_string(content).graph.initializer
    floats = [weight for weight in weights if weight.data_type == TensorProto.FLOAT]
    assert manifest["params"] == sum(numpy_helper.to_array(weight).size for weight in floats) <= target
    assert manifest["parity"] <= PARITY
    samples = images(5, 3)
    answer = real.client.post("/infer", json={**body, "inputs": {"x": samples.tolist()}}).json()
    assert answer["digest"] == manifest["digest"]
    expected = run(content, samples)
    assert np.abs(answer["outputs"]["y"] - expected).max() <= RELATIVE * np.abs(expected).max()
    assert real.client.post("/export", json=body).json()["cached"] is True


def test_targets_that_cannot_be_met_and_curves(real: LiveHub) -> None:
    problem = real.client.post("/export", json={"model": "small", "target_params": 1}).json()
    feasible = real.client.get("/models/small").json()["feasible"]
    assert problem["type"] == "/problems/budget-unreachable"
    assert (problem["minimum"], problem["maximum"]) == (feasible["min"], feasible["max"])
    curve = real.client.get("/models/small/curve", params={"params": f"{feasible['min']},{feasible['max']}"}).json()
    assert [point["params"] for point in curve["points"]] == [feasible["min"], feasible["max"]]
    assert curve["points"][-1]["agreement"] == 1.0


def test_uploads_are_read_by_the_builder(real: LiveHub) -> None:
    content = (real.settings.store.parent / "small.inn").read_bytes()
    created = real.client.put("/models/again", content=content)
    assert created.status_code == 201
    assert created.json()["feasible"] == real.client.get("/models/small").json()["feasible"]
    damages = {
        content[:-100]: "digest-mismatch",
        content[:1000]: "invalid-checkpoint",
        bytes(1000): "invalid-checkpoint",
    }
    for damaged, code in damages.items():
        refused = real.client.put("/models/damaged", content=damaged)
        assert refused.json()["type"] == f"/problems/{code}"
        assert str(real.settings.store) not in refused.text
    assert real.client.get("/models/damaged").status_code == 404
