"""What a node's process loads: no numeric engine, no web framework of the hub, and little before it serves."""

from __future__ import annotations

import ast
import subprocess
import sys

FORBIDDEN = {
    *("torch", "onnx", "onnxscript", "safetensors", "scipy", "inn_core", "models", "fastapi", "pydantic"),
    *("sqlalchemy", "alembic"),
}
LATER = {"httpx"}
"""What the agent needs and serving from disk does not."""

CODE = """
import sys
import service.node.app, onnxruntime
early = set(sys.modules)
import pkgutil, service.node
for module in pkgutil.walk_packages(service.node.__path__, "service.node."):
    __import__(module.name)
print(sorted(name for name in early if "." not in name))
print(sorted(sys.modules))
"""


def loaded() -> tuple[set[str], set[str]]:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    early, late = done.stdout.splitlines()
    return set(ast.literal_eval(early)), set(ast.literal_eval(late))


def test_the_process_of_a_node_loads_neither_engine_nor_hub() -> None:
    early, late = loaded()
    assert not FORBIDDEN & {name.partition(".")[0] for name in late}
    hub = ("service.hub", "service.builds", "service.store", "service.ground.settings")
    assert not {name for name in late if name.startswith(hub)}
    assert {"service.node.agent.supervise", "httpx"} <= late
    assert not LATER & early
