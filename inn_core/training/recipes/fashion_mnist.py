"""Fashion-MNIST from its idx files: the one data set that the demo network is trained and measured on.

The files are those of Debian's package `dataset-fashion-mnist` (MIT licence), which are the original ones. The idx
format: four bytes (0, 0, element type, number of axes), one big-endian 32-bit size per axis, then the elements.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inn_core.errors import InnError
from inn_core.training.recipes.shipped import shipped_file

DEFAULT_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts its files."""

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Names of the labels 0 to 9, as the authors of the data set give them."""

IMAGE_SIZE = 28

DEMO_IMAGES = shipped_file("demo/fashion_images.npz")
"""300 test images that ship with the package, so that the demo needs no data set."""

_UNSIGNED_BYTE = 0x08
_FILES = {"train": "train", "test": "t10k"}

ByteArray = NDArray[np.uint8]


class DatasetError(InnError, ValueError):
    """A data file is missing or is not what its name says."""

    code = "invalid-dataset"


def read_idx(path: str | Path) -> ByteArray:
    """Read one idx file of unsigned bytes, gzipped or plain.

    Args:
        path: the file; a name that ends in `.gz` is unpacked.

    Returns:
        Array of the shape that the file states, uint8.

    Raises:
        DatasetError: the file is missing, damaged, of another element type, or its length differs from its header.
    """
    path = Path(path)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError as exc:
        raise DatasetError(
            f"data file '{path}' does not exist; install Debian's package dataset-fashion-mnist "
            "(apt-get install dataset-fashion-mnist) or name the folder that holds its *-ubyte.gz files"
        ) from exc
    except (OSError, EOFError, zlib.error) as exc:
        raise DatasetError(f"data file '{path}' cannot be read: {exc}; install it again") from exc
    if len(data) < 4 or data[:2] != b"\0\0":
        raise DatasetError(f"data file '{path}' starts with {data[:4]!r}; an idx file starts with two zero bytes")
    kind, n_axes = data[2], data[3]
    if kind != _UNSIGNED_BYTE:
        raise DatasetError(f"data file '{path}' has element type {kind:#04x}; only unsigned bytes (0x08) are read")
    header_bytes = 4 + 4 * n_axes
    if len(data) < header_bytes:
        raise DatasetError(f"data file '{path}' ends inside its header; install it again")
    shape = struct.unpack(f">{n_axes}I", data[4:header_bytes])
    expected_bytes = 1
    for size in shape:
        expected_bytes *= size
    found_bytes = len(data) - header_bytes
    if found_bytes != expected_bytes:
        raise DatasetError(
            f"data file '{path}' holds {found_bytes:,} elements, its header says {shape} = {expected_bytes:,}; "
            "install it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header_bytes).reshape(shape)


def fashion_mnist(split: str, *, folder: str | Path = DEFAULT_FOLDER) -> tuple[ByteArray, ByteArray]:
    """Images and labels of Fashion-MNIST.

    Args:
        split: "train" (60,000 images) or "test" (10,000 images).
        folder: holds `train-images-idx3-ubyte.gz` and its three siblings, gzipped or not.

    Returns:
        Images, shape `(n, 28, 28)`, and labels 0 to 9, shape `(n,)`; both uint8.

    Raises:
        DatasetError: a file is missing or damaged, or images and labels do not belong together.

    Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST", arXiv 1708.07747.
    """
    if split not in _FILES:
        raise DatasetError(f"split '{split}' does not exist; use one of: {', '.join(_FILES)}")
    images = read_idx(_locate(Path(folder), f"{_FILES[split]}-images-idx3-ubyte"))
    labels = read_idx(_locate(Path(folder), f"{_FILES[split]}-labels-idx1-ubyte"))
    if images.ndim != 3 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise DatasetError(f"the {split} images in '{folder}' have shape {images.shape}; expected (n, 28, 28)")
    if labels.shape != images.shape[:1]:
        raise DatasetError(
            f"'{folder}' has {labels.shape} {split} labels for {len(images):,} images; expected one each"
        )
    if labels.size and int(labels.max()) >= len(CLASS_NAMES):
        raise DatasetError(f"the {split} labels in '{folder}' go up to {int(labels.max())}; expected 0 to 9")
    return images, labels


def demo_images() -> tuple[ByteArray, ByteArray]:
    """Images and labels that ship with the package: 30 test images of each class, in the order of the test set.

    Returns:
        Images, shape `(300, 28, 28)`, and labels 0 to 9, shape `(300,)`; both uint8. The demo network takes
        `images[:, None].astype(float32) / 255`.
    """
    with np.load(DEMO_IMAGES, allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]


def _locate(folder: Path, stem: str) -> Path:
    plain = folder / stem
    return plain if plain.is_file() else folder / f"{stem}.gz"
