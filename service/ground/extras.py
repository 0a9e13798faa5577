"""Which extra of the package brings an optional module, and the error that says so when it is not installed."""

from __future__ import annotations

import importlib.util

from service.ground.errors import CoreError

HUB_MODULES = ("torch", "onnx", "onnxscript", "safetensors", "sqlalchemy", "alembic", "onnxruntime")
"""Optional modules that the extra `hub` installs."""


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported; looks for it without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # a module without a spec, or one that was blocked
        return False


def missing_extra(module: str) -> CoreError:
    """The error for a module of `HUB_MODULES` that is not installed (`missing-extra`)."""
    return CoreError(
        "missing-extra",
        f"this command needs the Python package '{module}', which is not installed; "
        "install the extra that brings it: pip install 'inn-service[hub]'",
        {"module": module, "extra": "hub"},
    )
