"""Reading idx files: what is in comes out, and damaged files are refused with the file's name."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from inn_core.training.recipes.fashion_mnist import CLASS_NAMES, DatasetError, demo_images, fashion_mnist, read_idx


def idx_bytes(array: np.ndarray, *, kind: int = 0x08) -> bytes:
    """The idx format, written from its description: magic, sizes, elements."""
    sizes = b"".join(struct.pack(">I", size) for size in array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes()


def write_split(folder: Path, images: np.ndarray, labels: np.ndarray, *, stem: str = "train") -> None:
    """Write images and labels under the names of the data set, gzipped."""
    (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
    (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(5, 28, 28), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    return np.array([3, 1, 4, 1, 9], dtype=np.uint8)


def test_images_and_labels_come_back_as_written(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    write_split(tmp_path, images, labels, stem="t10k")
    found_images, found_labels = fashion_mnist("test", folder=tmp_path)
    np.testing.assert_array_equal(found_images, images)
    np.testing.assert_array_equal(found_labels, labels)


def test_unpacked_files_are_read_too(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    np.testing.assert_array_equal(fashion_mnist("train", folder=tmp_path)[0], images)


def test_missing_file_names_the_package_to_install(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"train-images.*apt-get install dataset-fashion-mnist"):
        fashion_mnist("train", folder=tmp_path)


def test_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="'dev' does not exist; use one of: train, test"):
        fashion_mnist("dev", folder=tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 4, 9, 15, 16, 700])
def test_cut_file_is_refused(tmp_path: Path, images: np.ndarray, keep: int) -> None:
    path = tmp_path / "cut"
    path.write_bytes(idx_bytes(images)[:keep])
    with pytest.raises(DatasetError, match="cut"):
        read_idx(path)


def test_cut_gzip_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "cut.gz"
    whole = gzip.compress(idx_bytes(images))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"cut\.gz"):
        read_idx(path)


def test_garbled_gzip_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "garbled.gz"
    whole = bytearray(gzip.compress(idx_bytes(images)))
    whole[200:300] = b"\xff" * 100
    path.write_bytes(bytes(whole))
    with pytest.raises(DatasetError, match="garbled"):
        read_idx(path)


def test_longer_file_than_its_header_says_is_refused(tmp_path: Path, labels: np.ndarray) -> None:
    path = tmp_path / "long"
    path.write_bytes(idx_bytes(labels) + b"x")
    with pytest.raises(DatasetError, match="holds 6 elements"):
        read_idx(path)


def test_other_element_types_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "floats"
    path.write_bytes(idx_bytes(np.zeros(3, dtype=">f4"), kind=0x0D))
    with pytest.raises(DatasetError, match="0x0d"):
        read_idx(path)


def test_labels_of_other_images_are_refused(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    write_split(tmp_path, images, labels[:4])
    with pytest.raises(DatasetError, match="expected one each"):
        fashion_mnist("train", folder=tmp_path)


def test_label_out_of_range_is_refused(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    labels[2] = 10
    write_split(tmp_path, images, labels)
    with pytest.raises(DatasetError, match="go up to 10"):
        fashion_mnist("train", folder=tmp_path)


def test_images_of_another_size_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    write_split(tmp_path, np.zeros((5, 28, 27), dtype=np.uint8), labels)
    with pytest.raises(DatasetError, match=r"\(5, 28, 27\)"):
        fashion_mnist("train", folder=tmp_path)


def test_demo_images_hold_thirty_of_each_class() -> None:
    images, labels = demo_images()
    assert images.shape == (300, 28, 28)
    assert images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [30] * len(CLASS_NAMES)
