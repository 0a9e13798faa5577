"""Version of the installed package."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.cache
def version() -> str:
    """Version of the installed package, `0` when it runs from a folder that is not installed."""
    try:
        return importlib.metadata.version("inn-service")
    except importlib.metadata.PackageNotFoundError:
        return "0"
