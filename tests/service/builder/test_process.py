"""The real builder process: its pipe, its limits, its end, and one artifact from a real checkpoint."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from inn_core.checkpoint import save_checkpoint
from inn_core.network import IntegralNetwork
from service.errors import BuilderFailedError, RemoteError
from service.jobs.client import BuilderClient, builder_command
from service.settings import BuilderSettings
from tests.inn_core.networks import residual_network

SETTINGS = BuilderSettings(device="cpu", threads=1, open_checkpoints=1, log_level="error")


@pytest.fixture(scope="module")
def network() -> IntegralNetwork:
    return residual_network()


@pytest.fixture(scope="module")
def checkpoint(network: IntegralNetwork, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("checkpoint") / "network.inn"
    digest = save_checkpoint(network, path)
    return {"checkpoint": str(path), "digest": digest}


async def answers(*calls: tuple[str, dict[str, Any]], settings: BuilderSettings = SETTINGS) -> list[Any]:
    """Results, or errors, of operations of one process."""
    client = BuilderClient(builder_command(settings))
    results: list[Any] = []
    try:
        for operation, params in calls:
            try:
                results.append(await client.call(operation, params, timeout_seconds=60))
            except (RemoteError, BuilderFailedError) as error:
                results.append(error)
    finally:
        await client.close()
    return results


def request(checkpoint: dict[str, str], value: int, **changes: Any) -> dict[str, Any]:
    return {**checkpoint, "unit": "params", "value": value, "quality": "refined", "multiple_of": 1, **changes}


def test_checkpoint_is_described_planned_and_exported(
    checkpoint: dict[str, str], network: IntegralNetwork, tmp_path: Path
) -> None:
    target = tmp_path / "artifact.onnx"
    full = sum(array.size for array in network.weights.values())
    described, plan, manifest, small, too_small, no_quality = asyncio.run(
        answers(
            ("describe", {"checkpoint": checkpoint["checkpoint"]}),
            ("plan", request(checkpoint, full)),
            ("export", request(checkpoint, full, path=str(target))),
            ("plan", request(checkpoint, full // 2)),
            ("plan", request(checkpoint, 1)),
            ("plan", request(checkpoint, full, quality="perfect")),
        )
    )
    assert described["name"] == network.name
    assert described["feasible"]["max"] == full
    assert manifest["params"] == full
    assert manifest["full_size"]
    assert manifest["build_key"] == plan["build_key"]
    assert {key: manifest[key] for key in plan["manifest"]} == plan["manifest"]
    data = target.read_bytes()
    assert manifest["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert manifest["bytes"] == len(data) <= plan["bytes"]
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    samples = np.asarray(network.calibration["x"][:2], dtype=np.float32)
    assert session.run(None, {"x": samples})[0].shape == (2, 5)
    assert small["build_key"] != plan["build_key"]
    assert small["bytes"] < plan["bytes"]
    assert isinstance(too_small, RemoteError)
    assert too_small.code == "budget-unreachable"
    assert too_small.fields["minimum"] == described["feasible"]["min"]
    assert isinstance(no_quality, RemoteError)
    assert no_quality.code == "quality-unavailable"


@pytest.mark.parametrize(
    ("content", "code"), [(b"", "invalid-checkpoint"), (b"no checkpoint", "invalid-checkpoint")], ids=["empty", "text"]
)
def test_hostile_checkpoint_is_refused_and_the_process_lives(
    tmp_path: Path, checkpoint: dict[str, str], content: bytes, code: str
) -> None:
    path = tmp_path / "upload.inn"
    path.write_bytes(content)
    refused, described = asyncio.run(
        answers(("describe", {"checkpoint": str(path)}), ("describe", {"checkpoint": checkpoint["checkpoint"]}))
    )
    assert isinstance(refused, RemoteError)
    assert refused.code == code
    assert described["name"]


def test_planning_does_not_load_pytorch(checkpoint: dict[str, str]) -> None:
    code = (
        "import sys; from service.builder.engine import Engine; from service.settings import BuilderSettings\n"
        "import ast; params = ast.literal_eval(sys.argv[1])\n"
        "handlers = Engine(BuilderSettings()).handlers()\n"
        "handlers['describe'](params, print); handlers['plan'](params, print)\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, repr(request(checkpoint, 10_000))], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_process_ends_with_its_standard_input() -> None:
    process = subprocess.Popen(
        builder_command(SETTINGS), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = process.communicate(b'{"id": 1, "op": "ping", "params": {}}\n', timeout=60)
    assert process.returncode == 0
    assert [line[:8] for line in out.splitlines()][:1] == [b'{"event"']
    assert err == b""


def test_memory_and_threads_are_limited() -> None:
    code = (
        "import os\nfrom service.builder.limits import limit_memory, limit_threads\n"
        "limit_threads(3)\nlimit_memory(300 << 20)\nprint(os.environ['OMP_NUM_THREADS'])\n"
        "small = bytearray(50 << 20)\n"
        "try:\n    bytearray(400 << 20)\nexcept MemoryError:\n    print('refused')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["3", "refused"]
