"""What all tasks on images share: the data set, its augmentation, and the batch in NumPy float64.

The kernel that makes the batch is `lopt.ops.images.gather_images`.
Source: task set specification 2.1 and 2.2.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from lopt import rng
from lopt.data import Dataset, load
from lopt.errors import TaskError
from lopt.ops.images import IMAGE_HYPER, IMAGE_SIZES
from lopt.task import Task
from lopt.tasks.checks import (
    check_batch_size,
    check_flag,
    check_integer,
    check_not_negative,
    checked_data,
)

AUGMENTATION = (
    "crop", "flip_lr", "flip_ud", "colour", "brightness", "saturation", "hue", "contrast",
)  # fmt: skip
PLAIN = (0, False, False, False, 0.0, 0.0, 0.0, 0.0)  # no augmentation

# Published image data sets and the embedded ones of the same shape and classes.
STAND_INS = {
    "mnist": "digits28",
    "fashion_mnist": "digits28",
    "cifar10": "textures32",
    "cifar100": "textures32_100",
    "coil100_32x32": "textures32_72",
    "colorectal_histology_32x32": "textures32_8",
    "deep_weeds_32x32": "textures32_9",
    "food101_32x32": "textures32_101",
    "food101_64x64": "textures64_101",
    "imagenet_resized/16x16": "textures16_1000",
    "imagenet_resized/32x32": "textures32_1000",
    "sun397_32x32": "textures32_397",
}

IMAGE_DATA = (
    "images: embedded digits, generated textures, or a file; published sets by stand-ins of their shape and "
    "class count"
)


@dataclasses.dataclass(frozen=True)
class ImageTask(Task):
    """Options of a task on a data set of images.

    data          name of a data set, see `lopt.data.load`; examples that are no images count as
                  one row of grey pixels, and take no augmentation
    batch_size    examples per mini-batch
    center        inputs 2x - 1 instead of x
    n_train       training examples used, the first ones; 0, or more than there are: all of them
    augmentation  () for none, else (crop, flip_lr, flip_ud, colour, brightness, saturation, hue,
                  contrast): pixels cropped from height and width, flags, ranges of the four colour
                  changes, which act on RGB images if `colour`; active on all splits, as published
    stands_for    published data set for which `data` stands in; only a record
    just_train    drawn by TaskSet's samplers, without effect on images; only a record

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    data: str = "digits"
    batch_size: int = 64
    center: bool = False
    n_train: int = 0
    augmentation: tuple[Any, ...] = ()
    stands_for: str = ""
    just_train: bool = False

    def __post_init__(self) -> None:
        checked_data("data", self.data)
        check_batch_size(self.batch_size, self.dataset.rows, self.data)
        check_flag("center", self.center)
        check_integer("n_train", self.n_train, 0)
        check_flag("just_train", self.just_train)
        if self.augmentation != ():
            _check_augmentation(self.augmentation, self.dataset.shape)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The examples."""
        return load(self.data)

    @functools.cached_property
    def stored_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of a stored image."""
        shape = self.dataset.shape
        return shape if len(shape) == 3 else (1, self.dataset.features, 1)

    @functools.cached_property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image after the crop."""
        height, width, channels = self.stored_shape
        crop = self._augmentation["crop"]
        return height - crop, width - crop, channels

    @functools.cached_property
    def splits(self) -> tuple[tuple[int, int], ...]:
        (lo, hi), *others = self.dataset.splits
        return ((lo, min(hi, lo + self.n_train) if self.n_train else hi), *others)

    @functools.cached_property
    def image_sizes(self) -> list[int]:
        """First entries of `arrays.sizes`, as `gather_images` reads them."""
        a = self._augmentation
        flags = (a["flip_lr"], a["flip_ud"], self._recoloured, self.dataset.in_bytes)
        sizes = [*self.stored_shape, a["crop"], *map(int, flags)]
        assert len(sizes) == IMAGE_SIZES
        return sizes

    @functools.cached_property
    def image_hyper(self) -> list[float]:
        """First entries of `arrays.hyper`, as `gather_images` reads them."""
        scale, shift = (2.0, -1.0) if self.center else (1.0, 0.0)
        hyper = [scale, shift, *(float(self._augmentation[name]) for name in AUGMENTATION[4:])]
        assert len(hyper) == IMAGE_HYPER
        return hyper

    @property
    def _augmentation(self) -> dict[str, Any]:
        return dict(zip(AUGMENTATION, self.augmentation or PLAIN, strict=True))

    @property
    def _recoloured(self) -> bool:
        return bool(self._augmentation["colour"]) and self.stored_shape[2] == 3

    def reference_batch(
        self, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> np.ndarray:
        """What `gather_images` makes, (B, pixels) float64, the colours by way of HSV as published."""
        a, (height, width, channels) = self._augmentation, self.input_shape
        x = self.dataset.take(rows).astype(np.float64).reshape(-1, *self.stored_shape)
        u = rng.uniforms(8 * rows.size, stream, rng.AUGMENT + split, step).astype(np.float64)
        u = u.reshape(-1, 8)
        top, left = np.floor(u[:, :2] * (a["crop"] + 1)).astype(int).T
        out = np.empty((rows.size, height, width, channels))
        for r in range(rows.size):
            image = x[r, top[r] : top[r] + height, left[r] : left[r] + width]
            image = image[:, ::-1] if a["flip_lr"] and u[r, 2] < 0.5 else image
            image = image[::-1] if a["flip_ud"] and u[r, 3] < 0.5 else image
            out[r] = self._recolour(image, 2 * u[r, 4:] - 1) if self._recoloured else image
        return self.image_hyper[0] * out.reshape(rows.size, -1) + self.image_hyper[1]

    def _recolour(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Brightness, saturation, hue, contrast of one image, by four numbers in [-1, 1)."""
        # the ranges as the kernel has them
        brightness, saturation, hue, contrast = np.array(self.image_hyper[2:], np.float32) * u
        h, s, v = _to_hsv(image + brightness)
        image = _to_rgb(h, np.clip(s * (1 + saturation), 0, 1), v)
        h, s, v = _to_hsv(image)
        image = _to_rgb((h + hue) % 1, s, v)
        mean = image.mean((0, 1))
        return (image - mean) * (1 + contrast) + mean


def image_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `ImageTask` for the image block that `samplers.image_data` drew.

    The published data set becomes its embedded stand-in, and stays on record as `stands_for`.
    Other keys of `config` are ignored.
    """
    augmentation = config["augmentation"]
    return {
        "data": STAND_INS[config["dataset"]],
        "stands_for": config["dataset"],
        "augmentation": tuple(augmentation[n] for n in AUGMENTATION) if augmentation else (),
        "batch_size": config["batch_size"],
        "n_train": config["n_train"] or 0,
        "just_train": config["just_train"],
    }


def _check_augmentation(values: object, shape: tuple[int, ...]) -> None:
    if not isinstance(values, tuple) or len(values) != len(AUGMENTATION):
        raise TaskError(f"augmentation = {values!r}, valid: () or ({', '.join(AUGMENTATION)})")
    if len(shape) != 3:
        raise TaskError(f"augmentation = {values!r}, valid for examples of shape {shape}: ()")
    a = dict(zip(AUGMENTATION, values, strict=True))
    check_integer("augmentation: crop", a["crop"], 0, min(shape[:2]) - 1)
    for name in AUGMENTATION[1:4]:
        check_flag(f"augmentation: {name}", a[name])
    for name in AUGMENTATION[4:]:
        check_not_negative(f"augmentation: {name}", a[name])
    if a["saturation"] > 1:
        raise TaskError(f"augmentation: saturation = {a['saturation']}, valid: 0 to 1; nearest: 1")
    if a["hue"] > 1:
        raise TaskError(f"augmentation: hue = {a['hue']}, valid: 0 to 1; nearest: 1")


def _to_hsv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in [0, 1), saturation 1 - min / max (0 where max <= 0), value; each without last axis."""
    r, g, b = np.moveaxis(rgb, -1, 0)
    v, low = rgb.max(-1), rgb.min(-1)
    c = v - low
    d = np.where(c > 0, c, 1)
    sixth = np.select([r == v, g == v], [((g - b) / d) % 6, 2 + (b - r) / d], 4 + (r - g) / d)
    s = np.where(v > 0, c / np.where(v > 0, v, 1), 0)
    return sixth / 6, s, v


def _to_rgb(h: np.ndarray, s: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Inverse of `_to_hsv` for s in [0, 1]."""
    sector = np.floor(6 * h).astype(int) % 6
    f = 6 * h - np.floor(6 * h)
    p, q, t = v * (1 - s), v * (1 - s * f), v * (1 - s * (1 - f))
    rgb = [(v, t, p), (q, v, p), (p, v, t), (p, q, v), (t, p, v), (v, p, q)]
    return np.stack([np.choose(sector, [rgb[k][c] for k in range(6)]) for c in range(3)], -1)
