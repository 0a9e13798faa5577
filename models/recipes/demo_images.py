"""Cut the images that ship with the demo out of the test set: `python -m models.recipes.demo_images`.

Writes `models/demo/fashion_images.npz`: `images` (300 test images, uint8, shape (300, 28, 28)), `labels` (uint8, 30 of
each class) and `class_names`. They are the first 30 of each class, in the order of the test set.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inn_core.errors import InnError
from inn_core.files import written_aside
from inn_core.training.recipes.fashion_mnist import CLASS_NAMES, DEFAULT_FOLDER, DEMO_IMAGES, ByteArray, fashion_mnist

IMAGES_PER_CLASS = 30


def first_of_each_class(labels: ByteArray, *, per_class: int) -> NDArray[np.int64]:
    """Positions of the first `per_class` occurrences of every label, increasing."""
    chosen = [np.flatnonzero(labels == label)[:per_class] for label in range(len(CLASS_NAMES))]
    return np.sort(np.concatenate(chosen))


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the test set, write the file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.recipes.demo_images")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the *-ubyte.gz files")
    parser.add_argument("--output", type=Path, default=DEMO_IMAGES)
    options = parser.parse_args(arguments)
    try:
        images, labels = fashion_mnist("test", folder=options.data)
    except InnError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return 1
    chosen = first_of_each_class(labels, per_class=IMAGES_PER_CLASS)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images[chosen], labels=labels[chosen], class_names=np.array(CLASS_NAMES))
    with written_aside(options.output) as writer:
        writer.write(buffer.getvalue())
    print(f"{options.output}: {len(chosen)} images, {options.output.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
