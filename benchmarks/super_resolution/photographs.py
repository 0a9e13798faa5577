"""Photographs from installed packages, split by source file, to train, calibrate and measure super-resolution on.

Nothing is shipped. Training and calibration take wallpapers (Debian's packages `mate-backgrounds` and
`lomiri-wallpapers-16.04`), reduced so that what JPEG and the camera left behind is gone; evaluation takes the sample
photographs that people know from scikit-image, scikit-learn and scipy, as they are. No photograph is in two splits.

Pillow reads them and makes the small versions: `halved` is its bicubic filter, which low-passes before it decimates.
"""

from __future__ import annotations

import bz2
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.super_resolution.packages import FOLDERS, package_file
from inn_core.errors import MissingPackageError
from inn_core.training.recipes.fashion_mnist import DatasetError

if TYPE_CHECKING:
    from types import ModuleType

    from PIL.Image import Image

ByteArray = NDArray[np.uint8]

WALLPAPERS = Path("/usr/share/backgrounds")
"""Where Debian's packages put their wallpapers."""

LONGEST_SIDE = 640  # of a wallpaper once it is reduced, 2 to 8 times: sharp to the pixel, as the sample photographs are

_RACCOON = (768, 1024, 3)  # scipy's `face.dat` is bare bytes, bzip2


@dataclass(frozen=True)
class Source:
    """One photograph.

    Attributes:
        name: unique.
        package: what to install, as apt or pip names it.
        file: below `WALLPAPERS` for a Debian package, below the module's folder otherwise.
        module: the Python package that holds it, None for a Debian package.
    """

    name: str
    package: str
    file: str
    module: str | None = None


def _mate(name: str) -> Source:
    return Source(name, "mate-backgrounds", f"mate/nature/{name}.jpg")


def _lomiri(name: str) -> Source:
    return Source(name, "lomiri-wallpapers-16.04", f"{name}.jpg")


def _skimage(file: str) -> Source:
    return Source(Path(file).stem, "scikit-image", f"data/{file}", "skimage")


SPLITS: dict[str, tuple[Source, ...]] = {
    "training": (
        _lomiri("Bridge_by_Sander_Klootwijk"),
        _lomiri("Dragonfly_by_Bolly"),
        _lomiri("Picture_1A_by_freespace"),
        _lomiri("Wine_by_Jakkub_Mede"),
        _lomiri("friends_by_Aitzol_Berasategi"),
        _lomiri("life_by_Aitzol_Berasategi"),
        _lomiri("picosdeeuropa_by_Aitzol_Berasategi"),
        _lomiri("sunset_by_Aitzol_Berasategi"),
        _mate("Blinds"),
        _mate("Dune"),
        _mate("FreshFlower"),
        _mate("Garden"),
        _mate("LadyBird"),
        _mate("TwoWings"),
        _mate("Wood"),
    ),
    "calibration": (
        _lomiri("Picture_0B_by_freespace"),
        _lomiri("aitzgorri_by_Aitzol_Berasategi"),
        _lomiri("free_by_Peter_Nerlich"),
        _lomiri("greentock_by_Peter_Nerlich"),
        _lomiri("seeding_by_Clements_Engelhardt"),
        _mate("Aqua"),
        _mate("GreenMeadow"),
        _mate("RainDrops"),
        _mate("YellowFlower"),
    ),
    "evaluation": (
        _skimage("astronaut.png"),
        _skimage("chelsea.png"),
        _skimage("coffee.png"),
        _skimage("motorcycle_left.png"),
        _skimage("rocket.jpg"),
        Source("china", "scikit-learn", "datasets/images/china.jpg", "sklearn"),
        Source("flower", "scikit-learn", "datasets/images/flower.jpg", "sklearn"),
        Source("raccoon", "scipy==1.9.3", "misc/face.dat", "scipy"),
    ),
}
"""Which photograph serves for what."""


def photographs(
    split: str, *, wallpapers: str | Path = WALLPAPERS, folders: Sequence[str | Path] = FOLDERS
) -> dict[str, ByteArray]:
    """The photographs of one split.

    Args:
        split: `training`, `calibration` or `evaluation`.
        wallpapers: folder of the Debian packages' files.
        folders: of Python packages, searched before the environment.

    Returns:
        By name, in a fixed order; RGB bytes of shape `(height, width, 3)`, height and width even.

    Raises:
        DatasetError: the split does not exist, or a file is missing or damaged; the message names the package.
        MissingPackageError: Pillow is not installed.
    """
    if split not in SPLITS:
        raise DatasetError(f"split '{split}' does not exist; use one of: {', '.join(SPLITS)}")
    return {source.name: _even(_read(source, Path(wallpapers), folders)) for source in SPLITS[split]}


def halved(
    image: ByteArray,  # shape: (height, width, 3), both even
) -> ByteArray:
    """The image at half of its height and width: Pillow's bicubic filter (a = -0.5), widened by two."""
    height, width = image.shape[:2]
    return _resized(image, height // 2, width // 2)


def doubled(
    image: ByteArray,  # shape: (height, width, 3)
) -> ByteArray:
    """The image at twice its height and width by bicubic interpolation (Pillow): what a network has to beat."""
    height, width = image.shape[:2]
    return _resized(image, 2 * height, 2 * width)


def patches(
    images: Sequence[ByteArray],  # shapes: (height, width, 3), both even
    *,
    side: int,
    margin: int = 0,
    per_image: int,
    seed: int,
) -> tuple[ByteArray, ByteArray]:
    """Random pairs of small and large patches; the small image is made before it is cut.

    Args:
        side: of the part of the small patch that the large one shows, in pixels.
        margin: further pixels on every side of the small patch, for networks without padding.
        per_image: patches of each image; those of one image are neighbours in the result.
        seed: of the positions.

    Returns:
        Small patches `(n, 3, side + 2 margin, side + 2 margin)` and large ones `(n, 3, 2 side, 2 side)`, bytes.

    Raises:
        DatasetError: an image is too small for one patch.
    """
    random = np.random.default_rng(seed)
    window = side + 2 * margin
    small, large = [], []
    for image in images:
        low = halved(image)
        rooms = [size - window + 1 for size in low.shape[:2]]
        if min(rooms) < 1:
            raise DatasetError(
                f"an image of {image.shape[0]} x {image.shape[1]} pixels has no patch of {window} x {window} once it "
                "is halved; use larger images or smaller patches"
            )
        for _ in range(per_image):
            top, left = (int(random.integers(room)) for room in rooms)
            small.append(low[top : top + window, left : left + window])
            top, left = 2 * (top + margin), 2 * (left + margin)
            large.append(image[top : top + 2 * side, left : left + 2 * side])
    return np.stack(small).transpose(0, 3, 1, 2), np.stack(large).transpose(0, 3, 1, 2)


def _read(source: Source, wallpapers: Path, folders: Sequence[str | Path]) -> ByteArray:
    if source.module is None:
        path = wallpapers / source.file
        if not path.is_file():
            raise DatasetError(
                f"photograph '{path}' does not exist; install Debian's package {source.package} "
                f"(apt-get install {source.package}) or name the folder that holds {source.file}"
            )
        return _decoded(path, source.package, LONGEST_SIDE)
    path = package_file(source.module, source.file, requirement=source.package, folders=folders)
    return _raccoon(path) if path.suffix == ".dat" else _decoded(path, source.package, None)


def _raccoon(path: Path) -> ByteArray:
    try:
        data = bz2.decompress(path.read_bytes())
        return np.frombuffer(data, dtype=np.uint8).reshape(_RACCOON)
    except (OSError, EOFError, ValueError) as exc:
        raise DatasetError(f"photograph '{path}' cannot be read: {exc}; install scipy==1.9.3 again") from exc


def _decoded(path: Path, package: str, longest_side: int | None) -> ByteArray:
    images = _pillow()
    try:
        with images.open(path) as opened:
            image: Image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError) as exc:
        raise DatasetError(f"photograph '{path}' cannot be read: {exc}; install {package} again") from exc
    if longest_side is not None and max(image.size) > longest_side:
        share = longest_side / max(image.size)
        width, height = (max(2, round(size * share)) for size in image.size)
        image = image.resize((width, height), images.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


def _resized(image: ByteArray, height: int, width: int) -> ByteArray:
    images = _pillow()
    resized = images.fromarray(np.ascontiguousarray(image)).resize((width, height), images.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.uint8)


def _even(image: ByteArray) -> ByteArray:
    height, width = (size // 2 * 2 for size in image.shape[:2])
    return image[:height, :width]


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as exc:
        raise MissingPackageError("pillow", "to read and resize photographs") from exc
    return Image
