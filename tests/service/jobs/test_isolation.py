"""The process that serves the API never loads the numeric engine."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import pkgutil, sys
import service.artifacts, service.jobs, service.errors, service.settings
for package in (service.artifacts, service.jobs):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        __import__(module.name)
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"torch", "onnx", "inn_core", "models", "fastapi", "numpy"}), "service.builder" in sys.modules)
"""


def test_store_and_jobs_load_neither_engine_nor_web() -> None:
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[] False"
