"""A builder process that makes real ONNX files of a toy family: `y = relu(x A) B`, as wide as the budget allows.

The loop and the pipe are those of the service. A checkpoint is `CHECKPOINT_MAGIC` and a JSON object with `name`. Files
in the folder given as the only argument steer it: `builds.log` gets a line for every export; while `hold` exists,
exports wait in their stage `fit`; `crash` makes the next export die by SIGKILL with half a file written; `break` makes
it fail for no known reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from inn_core.errors import BudgetUnreachableError, InnError, InvalidCheckpointError
from service.builds.worker.__main__ import take_over_stdout
from service.builds.worker.loop import Report, serve

CHECKPOINT_MAGIC = b"toy checkpoint "
FEATURES, CLASSES, HIDDEN = 6, 3, 64
PARAMS_EACH = FEATURES + CLASSES  # parameters of one hidden unit
FULL_PARAMS = PARAMS_EACH * HIDDEN
OVERHEAD_BYTES = 168  # of the largest file; smaller ones have a few bytes less


def toy_weights(hidden: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `hidden` units of the full network."""
    random = np.random.default_rng(7)
    first = random.standard_normal((FEATURES, HIDDEN)).astype(np.float32)
    second = random.standard_normal((HIDDEN, CLASSES)).astype(np.float32)
    return first[:, :hidden], second[:hidden]


def toy_network(hidden: int) -> bytes:
    """The ONNX file of one size."""
    first, second = toy_weights(hidden)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "second"], ["y"]),
        ],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString(deterministic=True))


def cost(unit: str, hidden: int) -> int:
    """What a size costs."""
    params = PARAMS_EACH * hidden
    return params if unit in ("params", "macs") else 4 * params + OVERHEAD_BYTES


def choose_hidden(params: Mapping[str, Any]) -> int:
    """The largest size within the budget."""
    unit, step = params["unit"], params["multiple_of"]
    fitting = [hidden for hidden in range(step, HIDDEN + 1, step) if cost(unit, hidden) <= params["value"]]
    if not fitting:
        raise BudgetUnreachableError(
            target=params["value"], minimum=cost(unit, step), maximum=cost(unit, HIDDEN), unit=unit
        )
    return fitting[-1]


class ToyEngine:
    """The operations; see the module."""

    def __init__(self, control: Path) -> None:
        self._control = control

    def warm(self, params: Mapping[str, Any], report: Report) -> dict[str, Any]:
        return {}

    def describe(self, params: Mapping[str, Any], report: Report) -> dict[str, Any]:
        content = Path(params["checkpoint"]).read_bytes()
        if not content.startswith(CHECKPOINT_MAGIC):
            raise InvalidCheckpointError("the file is no checkpoint: it does not begin like one")
        return {
            "name": json.loads(content.removeprefix(CHECKPOINT_MAGIC))["name"],
            "feasible": {"min": PARAMS_EACH, "max": FULL_PARAMS},
            "inputs": [{"name": "x", "dtype": "float32", "shape": [None, FEATURES]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [None, CLASSES]}],
            "qualities": ["refined", "instant"],
        }

    def plan(self, params: Mapping[str, Any], report: Report) -> dict[str, Any]:
        hidden = choose_hidden(params)
        key = hashlib.sha256(f"{params['digest']} {hidden} {params['quality']}".encode()).hexdigest()
        return {"build_key": f"sha256:{key}", "bytes": cost("bytes", hidden), "manifest": self._of_request(params)}

    def export(self, params: Mapping[str, Any], report: Report) -> dict[str, Any]:
        with (self._control / "builds.log").open("a") as log:
            log.write(f"{os.getpid()} {params['value']}\n")
        hidden = choose_hidden(params)
        content = toy_network(hidden)
        path = Path(params["path"])
        report("fit", 0.25)
        self._misbehave(path, content)
        while (self._control / "hold").exists():
            time.sleep(0.005)
        report("assemble", 0.75)
        path.write_bytes(content)
        return {
            "model": "toy",
            "checkpoint": params["digest"],
            "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "params": cost("params", hidden),
            "macs": cost("macs", hidden),
            "bytes": len(content),
            "quality": params["quality"],
            "group_sizes": {"hidden": hidden},
            "inputs": [{"name": "x", "dtype": "float32", "shape": [None, FEATURES]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [None, CLASSES]}],
            "opset": 17,
            "parity": 0.0,
            "agreement": hidden / HIDDEN,
            "full_size": hidden == HIDDEN,
            "seconds": {"fit": 0.001, "assemble": 0.001},
            **self._of_request(params),
        }

    def curve(self, params: Mapping[str, Any], report: Report) -> dict[str, Any]:
        with (self._control / "curves.log").open("a") as log:
            log.write(f"{params['params']}\n")
        while (self._control / "hold").exists():
            time.sleep(0.005)
        points = params["params"] or [PARAMS_EACH, FULL_PARAMS]
        full = {"params": FULL_PARAMS, "macs": FULL_PARAMS, "bytes": cost("bytes", HIDDEN)}
        return {"full": full, "points": [{"params": n, "macs": n, "bytes": 4 * n, "agreement": 1.0} for n in points]}

    def _of_request(self, params: Mapping[str, Any]) -> dict[str, Any]:
        step, unit = params["multiple_of"], params["unit"]
        return {
            "budget": {"unit": unit, "value": params["value"]},
            "multiple_of": step,
            "feasible": {"min": cost(unit, step), "max": cost(unit, HIDDEN // step * step)},
        }

    def _misbehave(self, path: Path, content: bytes) -> None:
        crash = self._control / "crash"
        if crash.exists():
            crash.unlink()
            path.write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        if (self._control / "break").exists():
            raise RuntimeError("a secret of the builder in /a/path")


def main() -> None:
    """Answers requests until the hub is gone."""
    engine = ToyEngine(Path(sys.argv[1]))
    operations = ("warm", "describe", "plan", "export", "curve")
    serve(
        {"ping": lambda params, report: {}, **{name: getattr(engine, name) for name in operations}},
        requests=sys.stdin.buffer,
        responses=take_over_stdout(),
        known_errors=(InnError,),
    )


if __name__ == "__main__":
    main()
