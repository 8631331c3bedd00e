"""Data sets as immutable values, made once per process and shared by all tasks.

Where the embedded files come from and under which licence: LICENCES.md beside this file.
"""

import dataclasses
import functools
import importlib.resources
import io
import itertools
import lzma
import math
from collections.abc import Callable

import numpy as np

from lopt import rng
from lopt.errors import DataError, unknown

SPLIT_PERCENT = (70, 10, 10, 10)  # train, inner_valid, outer_valid, test

Ranges = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled examples, rows in a fixed random order.

    Attributes:
        name: as `load` knows it.
        floats: (rows * features,) float32 in [0, 1], row-major.  For kernels, which only read it;
            it is not flagged read-only because Numba's declared signatures refuse such arrays.
            If `in_bytes`: (ceil(rows * features / 4),), each float four bytes, which stand for byte / 255.
        ints: (rows,) int32 labels, 0 <= label < n_classes.  For kernels, as `floats`.
        n_classes: number of classes.
        shape: shape of one example, product = features; images are (height, width, channels).
        splits: four disjoint row ranges [lo, hi): train, inner_valid, outer_valid, test.
        in_bytes: `floats` holds bytes.
    """

    name: str
    floats: np.ndarray
    ints: np.ndarray
    n_classes: int
    shape: tuple[int, ...]
    splits: Ranges
    in_bytes: bool = False

    @property
    def rows(self) -> int:
        """Number of examples."""
        return self.ints.size

    @property
    def features(self) -> int:
        """Numbers per example."""
        return math.prod(self.shape)

    @functools.cached_property
    def x(self) -> np.ndarray:
        """Examples, (rows, features) float32, a read-only view of `floats`.

        Raises:
            DataError: the set is `in_bytes`, so there is no such array.
        """
        if self.in_bytes:
            raise DataError(f"{self.name} is not in memory as float32; take(rows) gives some rows")
        return _read_only(self.floats.reshape(self.rows, -1))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some examples, (k, features) float32 in [0, 1], a copy."""
        if not self.in_bytes:
            return self.x[rows]
        stored = self.floats.view(np.uint8)[: self.rows * self.features]
        return stored.reshape(self.rows, -1)[rows] / np.float32(255)

    @functools.cached_property
    def y(self) -> np.ndarray:
        """Labels, (rows,) int32, a read-only view of `ints`."""
        return _read_only(self.ints)


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A text as tokens (bytes, unless it has another vocabulary), in reading order.

    Attributes:
        name: as `load_text` knows it.
        ints: (n,) int32 tokens, 0 <= token < vocabulary.  For kernels, which only read it.
        splits: four disjoint ranges [lo, hi) of contiguous text, in the order of `Dataset.splits`.
        vocabulary: number of different tokens there can be.
    """

    name: str
    ints: np.ndarray
    splits: Ranges
    vocabulary: int = 256

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """The tokens, (n,) int32, a read-only view of `ints`."""
        return _read_only(self.ints)


def split_ranges(n: int) -> Ranges:
    """Four adjacent ranges that cover [0, n) in the proportions of SPLIT_PERCENT.

    Raises:
        DataError: n is too small for four non-empty ranges.
    """
    ends = [n * percent // 100 for percent in np.cumsum((0, *SPLIT_PERCENT)).tolist()]
    ranges = tuple(itertools.pairwise(ends))
    if any(lo >= hi for lo, hi in ranges):
        raise DataError(f"{n} rows are too few for four splits; nearest valid: 7")
    return ranges


def from_arrays(
    name: str, x: np.ndarray, y: np.ndarray, n_classes: int, shape: tuple[int, ...]
) -> Dataset:
    """A data set from examples in any order: rows are permuted (always alike), then split.

    The permutation sorts the random words of address (seed 0, purpose DATA); it depends on the
    number of rows only, so splits stay the same on every machine and in every version.

    Args:
        x: (rows, *shape) or (rows, prod(shape)), values in [0, 1].
        y: (rows,) integer labels, 0 <= label < n_classes.

    Raises:
        DataError: sizes disagree, a value is not finite or outside its range, or too few rows.
    """
    rows = len(y)
    if x.shape[0] != rows or x.size != rows * int(np.prod(shape)):
        raise DataError(f"{name}: x has shape {x.shape}, y asks for ({rows}, {tuple(shape)})")
    splits = split_ranges(rows)
    if not (x.min() >= 0 and x.max() <= 1):  # also catches NaN
        raise DataError(f"{name}: x spans [{x.min()}, {x.max()}], expected [0, 1]")
    if y.min() < 0 or y.max() >= n_classes:
        raise DataError(f"{name}: labels span [{y.min()}, {y.max()}], expected 0..{n_classes - 1}")
    words = rng.integers(rows, 0, 2**32, rng.stream(0), rng.DATA)
    order = np.argsort(words, kind="stable")
    floats = np.ascontiguousarray(x.reshape(rows, -1)[order], np.float32).ravel()
    return Dataset(name, floats, y[order].astype(np.int32), n_classes, tuple(shape), splits)


@functools.cache
def digits() -> Dataset:
    """Handwritten digits: 1797 rows, 8 x 8 x 1 grey values k / 16, 10 classes (UCI)."""
    with np.load(io.BytesIO(_resource("digits.npz")), allow_pickle=False) as file:
        x, y = file["x"], file["y"]
    return from_arrays("digits", x.astype(np.float32) / np.float32(16), y, 10, (8, 8, 1))


@functools.cache
def blobs(
    rows: int = 2000, features: int = 16, classes: int = 4, spread: float = 0.5, seed: int = 0
) -> Dataset:
    """Gaussian clusters, one per class, scaled together into [0, 1]; classes of equal size.

    Args:
        spread: standard deviation of a cluster; centres are drawn from a unit normal.

    Raises:
        DataError: fewer than 2 classes, fewer than 10 rows or 1 feature, or spread is not positive.
    """
    limits = {"rows": (rows, 10), "features": (features, 1), "classes": (classes, 2)}
    for option, (value, lowest) in limits.items():
        if value < lowest:
            raise DataError(f"blobs: {option} = {value}, nearest valid: {lowest}")
    if not 0 < spread < np.inf:
        raise DataError(f"blobs: spread = {spread}, expected a positive number")
    stream = rng.stream(seed)
    centres = rng.normals(classes * features, stream, rng.DATA, inner=1).reshape(classes, features)
    noise = rng.normals(rows * features, stream, rng.DATA, inner=2).reshape(rows, features)
    y = np.arange(rows) % classes
    x = centres[y] + np.float32(spread) * noise
    x = (x - x.min()) / (x.max() - x.min())
    return from_arrays("blobs", x, y, classes, (features,))


@functools.cache
def kjv() -> Text:
    """The first 500,000 characters of the King James Bible without verse labels (ASCII)."""
    text = lzma.decompress(_resource("kjv.txt.xz"))
    tokens = np.frombuffer(text, np.uint8).astype(np.int32)
    return Text("kjv", tokens, split_ranges(tokens.size))


# `lopt.data.generators` adds its own.
DATASETS: dict[str, Callable[[], Dataset]] = {"digits": digits, "blobs": blobs}
TEXTS: dict[str, Callable[[], Text]] = {"kjv": kjv}


def load(name: str) -> Dataset:
    """The data set of that name; the same object on every call in a process.

    A name that ends in .h5 or contains a path separator is a file of the user's, see `load_file`;
    `lopt.data.optional` has sets that must be installed first.

    Raises:
        DataError: unknown name; names the nearest one and lists all.
    """
    from lopt.data import optional, user_file

    if user_file.is_path(name):
        return user_file.load_file(name)
    if name in optional.DATASETS:
        return optional.DATASETS[name]()
    if name not in DATASETS:
        raise DataError(unknown("data set", name, {*DATASETS, *optional.DATASETS}))
    return DATASETS[name]()


def load_text(name: str) -> Text:
    """The text of that name; the same object on every call in a process.

    Files of the user's and optional sets: as for `load`.

    Raises:
        DataError: unknown name; names the nearest one and lists all.
    """
    from lopt.data import optional, user_file

    if user_file.is_path(name):
        return user_file.load_text_file(name)
    if name in optional.TEXTS:
        return optional.TEXTS[name]()
    if name not in TEXTS:
        raise DataError(unknown("text", name, {*TEXTS, *optional.TEXTS}))
    return TEXTS[name]()


def _resource(file: str) -> bytes:
    return (importlib.resources.files("lopt.data") / file).read_bytes()


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
