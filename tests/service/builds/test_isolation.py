"""The process that serves the API never loads the numeric engine."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import pkgutil, sys
import service.store, service.builds, service.ground.errors, service.ground.settings
for package in (service.store, service.builds):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if module.name != "service.builds.worker":
            __import__(module.name)
loaded = {name.partition(".")[0] for name in sys.modules}
numeric = {"torch", "onnx", "inn_core", "models", "fastapi", "numpy"}
print(sorted(loaded & numeric), "service.builds.worker" in sys.modules)
"""


def test_store_and_jobs_load_neither_engine_nor_web() -> None:
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[] False"
