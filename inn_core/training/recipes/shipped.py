"""Files that ship with the package, found in a checkout and in an installed wheel alike."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[2]
FOLDERS = (_PACKAGE / "data", _PACKAGE.parent / "models")
"""Where they are in a wheel, and in a checkout."""


def shipped_file(name: str) -> Path:
    """The path of a file by its name below `models/`, such as `checkpoints/fashion_resnet.inn`; it need not exist."""
    return next((folder / name for folder in FOLDERS if (folder / name).is_file()), FOLDERS[-1] / name)
