"""Downsampled ImageNet (Chrabaszcz, Loshchilov, Hutter 2017, arXiv 1707.08819) as NumPy archives.

An archive has `data`, bytes of one row a picture: the red, then the green, then the blue plane of S x S, S = 16, 32 or
64; and `labels`, 1..1000.  Its `mean` is not needed.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lopt.data.readers import base
from lopt.data.readers.npz import part
from lopt.data.readers.registry import register_reader
from lopt.errors import DataError

CLASSES = 1000
TRAIN, TEST = "train_data_batch_*.npz", "val_data.npz"


@register_reader("imagenet")
def read_imagenet(path: Path) -> base.Rows:
    """A folder with train_data_batch_1.npz ... and val_data.npz (which becomes the test set), or one archive.

    Labels 1..1000 become 0..999; class names are the published numbers.

    Raises:
        DataError: no such file, pictures that are no three square planes of bytes or differ in size, a label outside
            1..1000, or what `npz` refuses.
    """
    if not path.is_dir():
        base.regular_file(path)
        return _pictures(path)
    files = sorted(path.glob(TRAIN), key=lambda file: (len(file.name), file.name))  # 2 before 10
    if not files:
        raise DataError(f"{base.shown(path)} holds no {TRAIN} of downsampled ImageNet")
    train = _pictures(files[0])
    for file in files[1:]:
        train = base.joined(train, _pictures(file))
    train = dataclasses.replace(train, n_test=0)
    return base.joined(train, _pictures(path / TEST)) if (path / TEST).exists() else train


def _pictures(path: Path) -> base.Rows:
    base.regular_file(path)
    with base.reading(path):
        flat = part(path, "data", "labels")
    place = flat.origins[0][1]
    side = math.isqrt(math.prod(flat.shape) // 3)
    if flat.shape != (3 * side * side,) or flat.dtype != np.uint8:
        raise DataError(
            f"{place} has rows of {flat.shape} {flat.dtype}, expected (3 * S * S,) uint8: three planes of S x S bytes"
        )
    if flat.labels.dtype.kind not in "iu":
        raise DataError(f"{place}: labels of type {flat.labels.dtype}, expected integers")
    wrong = np.flatnonzero((flat.labels < 1) | (flat.labels > CLASSES))
    if wrong.size:
        raise DataError(
            f"{flat.place(int(wrong[0]))}: label {flat.labels[wrong[0]]}, expected 1..{CLASSES}"
        )

    def blocks() -> Iterator[np.ndarray]:
        for block in flat.blocks():
            planes = block.reshape(-1, 3, side, side)
            yield np.ascontiguousarray(planes.transpose(0, 2, 3, 1))

    return dataclasses.replace(
        flat,
        shape=(side, side, 3),
        labels=flat.labels.astype(np.int64) - 1,
        blocks=blocks,
        class_names=tuple(map(str, range(1, CLASSES + 1))),
    )
