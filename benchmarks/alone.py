"""Train one network of an asked size alone, from scratch: `python -m benchmarks.alone --share 0.25`.

The bar for every method that makes many sizes of one network: uniform widths whose parameters are in (0.97 T, T],
trained as long as the full network was. It is one row of `python -m benchmarks.pipelines --part alone`, whose options
it takes, and goes to the same file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.pipelines.__main__ import main as pipelines


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and measure; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alone", description=__doc__)
    parser.add_argument("--share", type=float, required=True, help="of the full network's parameters, in (0, 1]")
    given, others = parser.parse_known_args(arguments)
    return pipelines(["--part", "alone", "--shares", str(given.share), *others])


if __name__ == "__main__":
    sys.exit(main())
