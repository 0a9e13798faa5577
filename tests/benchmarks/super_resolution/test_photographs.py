"""Photographs: splits share no file, patches show the same place, and what is missing is named."""

from __future__ import annotations

import bz2
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.super_resolution.photographs import LONGEST_SIDE, SPLITS, doubled, halved, patches, photographs
from inn_core.training.recipes.fashion_mnist import DatasetError


def gradient(height: int, width: int) -> np.ndarray:
    """Red rises by 2 a row, green by 2 a column: interpolation of a plane is exact away from the border."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([2 * rows, 2 * columns, np.full_like(rows, 90)], axis=2).astype(np.uint8)


@pytest.fixture
def wallpapers(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for number, source in enumerate(SPLITS["calibration"]):
        path = tmp_path / source.file
        path.parent.mkdir(parents=True, exist_ok=True)
        image = random.integers(0, 256, (41 + number, 61, 3), dtype=np.uint8)
        Image.fromarray(image).resize((900, 611) if not number else (61, 41)).save(path)
    return tmp_path


def test_no_file_is_in_two_splits() -> None:
    files = [(source.package, source.file) for split in SPLITS.values() for source in split]
    names = [source.name for split in SPLITS.values() for source in split]
    assert len(set(files)) == len(files)
    assert len(set(names)) == len(names)
    assert set(SPLITS) == {"training", "calibration", "evaluation"}


def test_wallpapers_are_reduced_and_even(wallpapers: Path) -> None:
    images = photographs("calibration", wallpapers=wallpapers)
    assert list(images) == [source.name for source in SPLITS["calibration"]]
    large, *others = images.values()
    assert large.shape == (round(611 * LONGEST_SIDE / 900) // 2 * 2, LONGEST_SIDE, 3)
    assert all(image.shape == (40, 60, 3) and image.dtype == np.uint8 for image in others)


def test_missing_photographs_name_the_package(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"apt-get install (mate-backgrounds|lomiri-wallpapers-16\.04)"):
        photographs("training", wallpapers=tmp_path)


def test_damaged_photographs_name_the_package(wallpapers: Path) -> None:
    path = wallpapers / SPLITS["calibration"][0].file
    for damaged in (path.read_bytes()[:200], b"", b"not a picture"):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=f"install {SPLITS['calibration'][0].package} again"):
            photographs("calibration", wallpapers=wallpapers)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DatasetError, match="'test' does not exist; use one of: training, calibration, evaluation"):
        photographs("test")


def test_evaluation_reads_pictures_and_bare_bytes_from_packages(tmp_path: Path) -> None:
    expected = gradient(768, 1024)
    for source in SPLITS["evaluation"]:
        assert source.module is not None
        path = tmp_path / source.module / source.file
        path.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / source.module / "__init__.py").touch()
        if path.suffix == ".dat":
            path.write_bytes(bz2.compress(expected.tobytes()))
        else:
            Image.fromarray(expected[:31, :45]).save(path)
    images = photographs("evaluation", folders=[tmp_path])
    np.testing.assert_array_equal(images["raccoon"], expected)
    np.testing.assert_array_equal(images["astronaut"], expected[:30, :44])
    (tmp_path / "scipy" / "misc" / "face.dat").write_bytes(bz2.compress(b"short"))
    with pytest.raises(DatasetError, match=r"install scipy==1\.9\.3 again"):
        photographs("evaluation", folders=[tmp_path])


def test_halving_and_doubling_keep_a_plane() -> None:
    image = gradient(60, 80)
    small = halved(image)
    assert small.shape == (30, 40, 3)
    # the middle of two neighbours lies half a step, 1, above the first; the border is bent by missing neighbours
    np.testing.assert_array_equal(small[4:-4, 4:-4], (image[::2, ::2] + [1, 1, 0])[4:-4, 4:-4])
    large = doubled(small)
    assert large.shape == image.shape
    assert np.abs(large.astype(int) - image)[8:-8, 8:-8].max() <= 1


@pytest.mark.parametrize("margin", [0, 3])
def test_a_large_patch_shows_the_middle_of_the_small_one(margin: int) -> None:
    image = gradient(100, 120)
    small, large = patches([image, image[:80]], side=8, margin=margin, per_image=5, seed=0)
    assert small.shape == (10, 3, 8 + 2 * margin, 8 + 2 * margin)
    assert large.shape == (10, 3, 16, 16)
    inner = small[:, :, margin : margin + 8, margin : margin + 8].astype(int)
    # away from the borders of the photographs the small pixel is the mean of its four, of a plane: their middle
    means = large.reshape(10, 3, 8, 2, 8, 2).mean((3, 5))
    assert np.median(np.abs(inner - means)) <= 0.5
    assert np.abs(inner - means).max() <= 2


def test_patches_follow_the_seed_and_need_room() -> None:
    image = gradient(100, 120)
    first, again, other = (patches([image], side=8, per_image=6, seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    with pytest.raises(DatasetError, match="no patch of 60 x 60"):
        patches([image], side=60, per_image=1, seed=0)
