"""The real builder process: its pipe, its limits, its end, and one artifact from a real checkpoint."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import orjson
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from inn_core.checkpoint.storage import save_checkpoint
from inn_core.importing.pipeline import import_network
from service.builds.worker.limits import chosen_threads
from service.builds.worker_process import BuilderClient, builder_command
from service.ground.errors import BuilderFailedError, CoreError
from service.ground.settings import BuilderSettings

Images = NDArray[np.float32]

SETTINGS = BuilderSettings(device="cpu", threads=1, open_checkpoints=1, log_level="error")
PARAMETERS = 14_682
PARITY = 1e-4  # relative, float32 on two engines
FULL_SIZE_PARITY = 1e-5  # relative, the same weights on one engine


def small_model() -> onnx.ModelProto:
    """Two convolutions and a linear layer with seeded weights: 14,682 parameters."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (32, 1, 3, 3), "b1": (32,), "w2": (48, 32, 3, 3), "b2": (48,), "w3": (10, 48), "b3": (10,)}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), name) for name, shape in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: bytes, images: Images) -> Images:
    """The logits that ONNX Runtime computes."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits: Images = session.run(None, {"image": images})[0]
    return logits


@pytest.fixture(scope="module")
def images() -> Images:
    return np.random.default_rng(1).normal(size=(64, 1, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(images: Images, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("checkpoint")
    onnx.save(small_model(), folder / "small.onnx")
    network = import_network(folder / "small.onnx", {"image": images}, name="small", device="cpu")
    return {"checkpoint": str(folder / "small.inn"), "digest": save_checkpoint(network, folder / "small.inn")}


async def answers(*calls: tuple[str, dict[str, Any]], settings: BuilderSettings = SETTINGS) -> list[Any]:
    """Results, or errors, of operations of one process."""
    client = BuilderClient(builder_command(settings))
    results: list[Any] = []
    try:
        for operation, params in calls:
            try:
                results.append(await client.call(operation, params, timeout_seconds=60))
            except (CoreError, BuilderFailedError) as error:
                results.append(error)
    finally:
        await client.close()
    return results


def request(checkpoint: dict[str, str], value: int, **changes: Any) -> dict[str, Any]:
    return {**checkpoint, "unit": "params", "value": value, "quality": "refined", "multiple_of": 1, **changes}


@pytest.fixture(scope="module")
def answered(checkpoint: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process answers to everything that a hub asks for; artifacts lie at the path `folder / name`."""
    folder = tmp_path_factory.mktemp("artifacts")
    half = PARAMETERS // 2
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "warm": ("warm", {}),
        "described": ("describe", {"checkpoint": checkpoint["checkpoint"]}),
        "curve": ("curve", {**checkpoint, "params": [half], "quality": "instant"}),
        "too small": ("plan", request(checkpoint, 1)),
        "no quality": ("plan", request(checkpoint, PARAMETERS, quality="perfect")),
        "no multiple": ("plan", request(checkpoint, PARAMETERS, multiple_of=0)),
    }
    for name, value, quality in (
        ("full", PARAMETERS + 1, "refined"),
        ("refined", half, "refined"),
        ("instant", half, "instant"),
        ("again", half, "instant"),
    ):
        params = request(checkpoint, value, quality=quality)
        calls[f"plan {name}"] = ("plan", params)
        calls[name] = ("export", {**params, "path": str(folder / name)})
    results = asyncio.run(answers(*calls.values()))
    return {"folder": folder, **dict(zip(calls, results, strict=True))}


def test_full_size_is_the_imported_network(answered: dict[str, Any], images: Images) -> None:
    manifest = answered["full"]
    assert answered["described"]["name"] == "small"
    assert answered["described"]["feasible"]["max"] == manifest["params"] == PARAMETERS
    assert manifest["full_size"]
    original = run(small_model().SerializeToString(), images)
    logits = run((answered["folder"] / "full").read_bytes(), images)
    np.testing.assert_allclose(logits, original, atol=FULL_SIZE_PARITY * np.abs(original).max())


@pytest.mark.parametrize("quality", ["refined", "instant"])
def test_smaller_artifact_keeps_its_budget(answered: dict[str, Any], images: Images, quality: str) -> None:
    manifest, path = answered[quality], answered["folder"] / quality
    counted = sum(int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer if tensor.data_type == 1)
    assert counted == manifest["params"] <= PARAMETERS // 2
    assert manifest["quality"] == quality
    assert manifest["parity"] <= PARITY
    assert run(path.read_bytes(), images).shape == (64, 10)


@pytest.mark.parametrize("name", ["full", "refined", "instant"])
def test_plan_foretells_the_build_and_the_manifest_tells_of_the_file(answered: dict[str, Any], name: str) -> None:
    plan, manifest = answered[f"plan {name}"], answered[name]
    data = (answered["folder"] / name).read_bytes()
    assert manifest["build_key"] == plan["build_key"]
    assert {key: manifest[key] for key in plan["manifest"]} == plan["manifest"]
    assert manifest["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert manifest["bytes"] == len(data) <= plan["bytes"]


def test_same_build_gives_the_same_bytes(answered: dict[str, Any]) -> None:
    assert answered["plan again"] == answered["plan instant"]
    assert answered["again"]["digest"] == answered["instant"]["digest"]


def test_builds_with_other_numbers_of_threads_give_equal_bytes_or_have_other_keys(
    checkpoint: dict[str, str], tmp_path: Path
) -> None:
    """Sums are split over threads, and rounding with them."""
    for quality in ("refined", "instant"):
        builds = []
        for threads in (1, 2):
            path = tmp_path / f"{quality}-{threads}"
            params = request(checkpoint, PARAMETERS // 2, quality=quality)
            plan, manifest = asyncio.run(
                answers(
                    ("plan", params),
                    ("export", {**params, "path": str(path)}),
                    settings=SETTINGS.model_copy(update={"threads": threads}),
                )
            )
            assert plan["build_key"] == manifest["build_key"]
            builds.append((manifest["build_key"], path.read_bytes()))
        (first_key, first), (second_key, second) = builds
        assert first_key != second_key or first == second


def test_the_full_size_has_one_key_whatever_the_threads(checkpoint: dict[str, str]) -> None:
    params = request(checkpoint, PARAMETERS + 1)
    keys = {
        asyncio.run(answers(("plan", params), settings=SETTINGS.model_copy(update={"threads": threads})))[0][
            "build_key"
        ]
        for threads in (1, 2)
    }
    assert len(keys) == 1


def test_threads_are_those_of_the_settings_or_one_for_each_core() -> None:
    assert chosen_threads(3) == 3
    assert 1 <= chosen_threads(0) <= len(os.sched_getaffinity(0))
    assert chosen_threads(0) == chosen_threads(0)


def test_curve_is_measured(answered: dict[str, Any]) -> None:
    assert answered["curve"]["full"]["params"] == PARAMETERS
    (point,) = answered["curve"]["points"]
    assert point["params"] <= PARAMETERS // 2


@pytest.mark.parametrize(
    ("name", "code"),
    [("too small", "budget-unreachable"), ("no quality", "quality-unavailable"), ("no multiple", "invalid-budget")],
)
def test_impossible_request_is_refused_by_the_plan(answered: dict[str, Any], name: str, code: str) -> None:
    assert isinstance(answered[name], CoreError)
    assert answered[name].code == code
    if name == "too small":
        assert answered[name].fields["minimum"] == answered["described"]["feasible"]["min"]


def test_hostile_checkpoints_are_refused_and_the_process_lives(checkpoint: dict[str, str], tmp_path: Path) -> None:
    whole = Path(checkpoint["checkpoint"]).read_bytes()
    uploads = {"empty": b"", "text": b"no checkpoint", "cut": whole[:-1], "huge header": b"\xff" * 8 + whole[8:]}
    calls = []
    for name, content in uploads.items():
        (tmp_path / name).write_bytes(content)
        calls.append(("describe", {"checkpoint": str(tmp_path / name)}))
    *refused, described = asyncio.run(answers(*calls, ("describe", {"checkpoint": checkpoint["checkpoint"]})))
    assert all(isinstance(error, CoreError) for error in refused)
    assert {error.code for error in refused} <= {"invalid-checkpoint", "digest-mismatch"}
    assert described["name"] == "small"


def test_planning_does_not_load_pytorch(checkpoint: dict[str, str]) -> None:
    code = (
        "import sys; from service.builds.worker.operations import Operations\n"
        "from service.ground.settings import BuilderSettings\n"
        "import ast; params = ast.literal_eval(sys.argv[1])\n"
        "handlers = Operations(BuilderSettings()).handlers()\n"
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
    assert process.stdin is not None
    assert process.stdout is not None
    ready = orjson.loads(process.stdout.readline())
    assert ready == {"event": "ready", "pid": process.pid}
    process.stdin.write(b'{"id": 1, "op": "ping", "params": {}}\n')
    process.stdin.flush()
    assert orjson.loads(process.stdout.readline()) == {"id": 1, "result": {}}
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest, errors) == (0, b"", b"")


def test_memory_and_threads_are_limited() -> None:
    code = (
        "import os\nfrom service.builds.worker.limits import limit_memory, limit_threads\n"
        "limit_threads(3)\nlimit_memory(300 << 20)\nprint(os.environ['OMP_NUM_THREADS'])\n"
        "small = bytearray(50 << 20)\n"
        "try:\n    bytearray(400 << 20)\nexcept MemoryError:\n    print('refused')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["3", "refused"]
