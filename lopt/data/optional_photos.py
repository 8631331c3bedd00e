"""Crops of real photos that come with other packages, a data set of RGB images; see `lopt.data.optional`."""

import functools
import importlib.util
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lopt import rng
from lopt.data.datasets import SPLIT_PERCENT, Dataset
from lopt.data.optional import DATASETS, expect, package_folder
from lopt.data.readers.base import reading
from lopt.errors import DataError

# Package, folder in it; photos with the first 16 digits of their SHA-256.
PHOTOS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("skimage", "data"): {
        "astronaut.png": "88431cd9653ccd53",
        "chelsea.png": "596aa1e7cb875eb7",
        "coffee.png": "cc02f8ca188b167c",
        "hubble_deep_field.jpg": "3a19c5dd8a927a93",
        "ihc.png": "f8dd1aa387ddd1f4",
        "motorcycle_left.png": "db18e9c415761740",
        "retina.jpg": "38a07f36f27f095e",
        "rocket.jpg": "c2dd0de7c538df8d",
    },
    ("sklearn", "datasets/images"): {
        "china.jpg": "8378025ad2519d64",
        "flower.jpg": "a77f6ec41e353afd",
    },
}
INSTALL = 'pip install "lopt[photos]"'
SIDE, CROPS = 32, 600  # pixels; crops of a photo
# Per cent of a photo's width: where the strips of the four splits begin and end.
STRIPS = (0, 55, 70, 85, 100)


@functools.cache
def photos32() -> Dataset:
    """6000 crops of 32 x 32 x 3 from ten photos; the class is the photo.

    Crops of different splits come from different strips of a photo, so they share no pixel.  Places are keyed random
    numbers.

    Raises:
        DataError: scikit-image, scikit-learn or Pillow is not installed, or a photo has other contents.
    """
    return crops([_decoded(path, pin) for path, pin in _files()])


def crops(pictures: list[np.ndarray]) -> Dataset:
    """The crops of some pictures (height, width, 3) of bytes, CROPS of each, as a data set."""
    counts = [CROPS * percent // 100 for percent in SPLIT_PERCENT]
    x, y, ends = [], [], [0]
    for split, count in enumerate(counts):
        for k, picture in enumerate(pictures):
            x.append(_cut(picture, split, count, rng.stream(k)))
            y += [k] * count
        ends.append(len(y))
    order = np.argsort(rng.integers(len(y), 0, 2**32, rng.stream(0), rng.DATA), kind="stable")
    splits = tuple(itertools.pairwise(ends))
    order = np.concatenate([order[(lo <= order) & (order < hi)] for lo, hi in splits])
    floats = np.concatenate(x)[order].astype(np.float32).reshape(-1) / np.float32(255)
    labels = np.array(y, np.int32)[order]
    return Dataset("photos32", floats, labels, len(pictures), (SIDE, SIDE, 3), splits)


def _cut(picture: np.ndarray, split: int, count: int, stream: np.ndarray) -> np.ndarray:
    """Some crops from the strip of a split, (count, SIDE, SIDE, 3)."""
    height, width, _ = picture.shape
    left, right = (width * percent // 100 for percent in STRIPS[split : split + 2])
    tops = rng.integers(count, 0, height - SIDE + 1, stream, rng.DATA, 2 * split + 1)
    lefts = rng.integers(count, left, right - SIDE + 1, stream, rng.DATA, 2 * split + 2)
    return np.stack([picture[t : t + SIDE, s : s + SIDE] for t, s in zip(tops, lefts, strict=True)])


def _files() -> list[tuple[Path, str]]:
    return [
        (package_folder(package) / folder / name, pin)
        for (package, folder), photos in PHOTOS.items()
        for name, pin in photos.items()
    ]


def _decoded(path: Path, pin: str) -> np.ndarray:
    expect(path, pin, INSTALL)
    if importlib.util.find_spec("PIL") is None:
        raise DataError(f"photos need Pillow, which is not installed: {INSTALL}")
    import PIL.Image

    with reading(path), PIL.Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


DATASETS["photos32"] = photos32
