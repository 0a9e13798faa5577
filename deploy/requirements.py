"""Prints what to install for the extras named on the command line, one requirement a line.

So an image gets its dependencies in a layer of their own, which a change of our code leaves alone. Reads pyproject.toml
in the current folder; needs Python 3.11 and no packages.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


def requirements(project: Mapping[str, object], extras: Sequence[str]) -> Iterator[str]:
    """The base requirements and those of `extras`, with extras that name other extras of the project resolved.

    Args:
        project: the table `project` of a pyproject.toml.
        extras: names from its optional dependencies.

    Yields:
        Requirements as written there, in their order.

    Raises:
        SystemExit: there is no such extra.
    """
    base, optional = project["dependencies"], project["optional-dependencies"]
    assert isinstance(base, list)
    assert isinstance(optional, dict)
    yield from base
    own = re.compile(rf"{re.escape(str(project['name']))}\[([a-z,\s-]+)\]$")
    waiting = list(extras)
    while waiting:
        extra = waiting.pop(0)
        if extra not in optional:
            raise SystemExit(f"error: there is no extra '{extra}'; there are: {', '.join(optional)}")
        for requirement in optional[extra]:
            others = own.match(requirement)
            if others:
                waiting += [name.strip() for name in others[1].split(",")]
            else:
                yield requirement


if __name__ == "__main__":
    table = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    print("\n".join(requirements(table, sys.argv[1:])))
