"""Which extra of the package brings an optional module, and the error that says so when it is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from service.ground.errors import CoreError

HUB_MODULES = ("torch", "onnx", "onnxscript", "safetensors", "sqlalchemy", "alembic", "onnxruntime")
"""Optional modules that the extra `hub` installs."""


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported; looks for it without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # a module without a spec, or one that was blocked
        return False


def require(modules: Iterable[str], *, extra: str) -> None:
    """Checks that optional modules are there.

    Args:
        modules: their names.
        extra: of the package, that brings them.

    Raises:
        CoreError: `missing-extra`, naming the first that is not installed.
    """
    for module in modules:
        if not is_installed(module):
            raise missing_extra(module, extra=extra)


def missing_extra(module: str, *, extra: str = "hub") -> CoreError:
    """The error for an optional module that is not installed (`missing-extra`)."""
    return CoreError(
        "missing-extra",
        f"this command needs the Python package '{module}', which is not installed; "
        f"install the extra that brings it: pip install 'inn-service[{extra}]'",
        {"module": module, "extra": extra},
    )
