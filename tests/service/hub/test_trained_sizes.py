"""Qualities `trained` and `uniform` over HTTP, with the real builder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from inn_core.checkpoint.storage import save_checkpoint
from inn_core.training.integral_network import IntegralNetwork
from tests.service.hub.live_hub import LiveHub, live_hub
from tests.service.training import samples, small_checkpoint

RELATIVE = 1e-5  # float32 on two engines


@pytest.fixture(scope="module")
def network() -> IntegralNetwork:
    """An integral network whose parameters were changed, and its statistics measured."""
    found = IntegralNetwork(replace(small_checkpoint(), name="trained"))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    found.eval().measure_()
    return found


@pytest.fixture(scope="module")
def hub(network: IntegralNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    """A hub with a trained checkpoint and one that keeps neither trained sizes nor smoothing orders."""
    folder = tmp_path_factory.mktemp("hub")
    network.save(folder / "trained.inn")
    save_checkpoint(replace(small_checkpoint(), name="plain", channel_permutations={}), folder / "plain.inn")
    imports = [folder / "trained.inn", folder / "plain.inn"]
    with live_hub(folder, imports=imports, real_builders=True, builder_threads=1) as running:
        yield running


def run(content: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": images})[0])


def test_models_say_which_qualities_they_offer(hub: LiveHub) -> None:
    assert hub.client.get("/models/trained").json()["qualities"] == ["refined", "instant", "trained", "uniform"]
    assert hub.client.get("/models/plain").json()["qualities"] == ["refined"]


def test_an_artifact_of_quality_trained_computes_what_the_integral_network_does_at_its_size(
    hub: LiveHub, network: IntegralNetwork
) -> None:
    target = hub.client.get("/models/trained").json()["feasible"]["max"] // 2
    body = {"model": "trained", "target_params": target, "quality": "trained"}
    manifest = hub.client.post("/export", json=body).json()
    assert manifest["quality"] == "trained"
    content = hub.client.get(manifest["url"]).content
    images = samples(6)["x"]
    with torch.no_grad():
        expected = network(torch.from_numpy(np.asarray(images)), sizes=manifest["group_sizes"]).numpy()
    assert np.abs(run(content, np.asarray(images)) - expected).max() <= RELATIVE * np.abs(expected).max()


def test_an_artifact_of_quality_uniform_is_within_its_target(hub: LiveHub) -> None:
    target = hub.client.get("/models/trained").json()["feasible"]["max"] // 2
    body = {"model": "trained", "target_params": target, "quality": "uniform"}
    manifest = hub.client.post("/export", json=body).json()
    weights = onnx.load_model_from_string(hub.client.get(manifest["url"]).content).graph.initializer
    floats = [weight for weight in weights if weight.data_type == onnx.TensorProto.FLOAT]
    assert manifest["params"] == sum(numpy_helper.to_array(weight).size for weight in floats) <= target
    other = hub.client.post("/export", json={**body, "quality": "trained"}).json()
    assert manifest["digest"] != other["digest"]


@pytest.mark.parametrize("quality", ["trained", "uniform"])
def test_what_a_checkpoint_lacks_is_a_problem(hub: LiveHub, quality: str) -> None:
    target = hub.client.get("/models/plain").json()["feasible"]["max"] // 2
    members = {"target_params": target, "quality": quality}
    problems = [
        hub.client.post("/export", json={"model": "plain", **members}),
        hub.client.post("/infer", json={"model": "plain", **members, "inputs": {"x": samples(2)["x"].tolist()}}),
        hub.client.get("/models/plain/curve", params={"params": str(target), "quality": quality}),
    ]
    for answer in problems:
        assert answer.status_code == 422, answer.text
        assert answer.json()["type"] == "/problems/quality-unavailable"
        assert answer.json()["available"] == ["refined"]


@pytest.mark.parametrize("quality", ["trained", "uniform"])
def test_the_curve_of_a_quality_can_be_asked_for(hub: LiveHub, quality: str) -> None:
    feasible = hub.client.get("/models/trained").json()["feasible"]
    params = {"params": f"{feasible['max'] // 2},{feasible['max']}", "quality": quality}
    small, full = hub.client.get("/models/trained/curve", params=params).json()["points"]
    assert small["params"] <= feasible["max"] // 2
    assert full["agreement"] == 1.0
