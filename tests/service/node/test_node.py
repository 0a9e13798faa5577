"""A node from its first start to a committed network, over real sockets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from tests.service.node.fake_hub import FakeHub, digest_of
from tests.service.node.nodes import FEATURES, live_node

TOLERANCE = 1e-5


def expected(content: bytes, rows: list[list[float]]) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array(rows, np.float32)})[0]


def test_a_node_enrolls_takes_a_release_up_and_answers_like_onnx_runtime(
    hub: FakeHub, small: bytes, tmp_path: Path
) -> None:
    hub.tell(hub.release(small, 1))
    with live_node(hub, tmp_path) as live:
        report = hub.wait_state("committed", 1)
        assert report["active"] == {"version": 1, "digest": digest_of(small), "params": len(small)}
        assert report["declared"] == {"model": "toy", "budget": {"unit": "params", "value": 1000}}
        assert report["error"] is None
        rows = np.random.default_rng(0).standard_normal((5, FEATURES)).tolist()
        answer = live.infer(rows, model="toy", target_params=7)
        assert answer.status_code == 200, answer.text
        assert set(answer.json()) == {"model", "params", "digest", "outputs"}
        np.testing.assert_allclose(answer.json()["outputs"]["y"], expected(small, rows), rtol=TOLERANCE)
        assert live.client.get("/readyz").status_code == 200
        assert live.status()["hub"] == {"reachable": True, "error": None}
