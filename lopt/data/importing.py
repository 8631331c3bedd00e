"""From any source a reader knows to one file in lopt's layout: order, splits, classes, scaling, origin."""

import datetime
import hashlib
import importlib.metadata
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lopt import rng
from lopt.data.datasets import SPLIT_PERCENT, split_ranges
from lopt.data.readers.base import Rows, Tokens, shown
from lopt.data.readers.registry import guess_format, open_source
from lopt.data.user_writer import Writer
from lopt.errors import DataError
from lopt.progress import Progress

SCALES = ("none", "column", "all")
MAX_CLASSES = 1 << 16
SPARE_BYTES = 1 << 20  # what a file needs beside its rows, more or less


def import_data(
    source: str | Path,
    out: str | Path,
    format: str = "",
    options: Mapping[str, Any] | None = None,
    scale: str = "",
    classes: int = 0,
    relabel: bool = False,
    show: bool = False,
) -> tuple[str, ...]:
    """Write a source of the user's as one HDF5 file that `load` or `load_text` takes; returns notes.

    Examples go into a fixed random order, that of `from_arrays`, then 70, 10, 10 and 10 % into the four
    splits.  A test set of the source's own becomes the split test; the rest is divided 7 : 1 : 1.  A
    text keeps its order.  Nothing but a block of rows, the labels and the order is held in memory.

    Args:
        format, options: see `lopt.data.readers`; the format is guessed if empty.
        scale: how values get into [0, 1].  none: bytes are divided by 255, floats must lie there
            already; column: each feature by its smallest and largest value in train; all: all features
            by one pair.  Values of other splits beyond that range are cut to it and counted in the
            notes.  Empty: column for tables, else none.
        classes: labels must be 0..classes-1; 0: they must be 0..n-1 with every one in use.
        relabel: number the labels that occur 0..n-1 in ascending order.
        show: report progress.

    Raises:
        DataError: what the reader refuses, a value that is not finite or out of range (names the row),
            labels out of range, one class only, too few rows, a full disk, or `out` exists.
    """
    source, out = Path(source), Path(out)
    format = format or guess_format(source)
    opened = open_source(source, format, options)
    origin = {
        "source": shown(source),
        "format": format,
        "options": {k: str(v) for k, v in (options or {}).items()},
        "scale": scale or getattr(opened, "default_scale", ""),
        "date_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "lopt": _version(),
    }
    if isinstance(opened, Tokens):
        if scale or classes or relabel:
            raise DataError(f"{shown(source)} is a text: scale, classes and relabel do not apply")
        return _import_text(opened, out, origin, show)
    return _import_rows(opened, out, origin, classes, relabel, show)


def _version() -> str:
    try:
        return importlib.metadata.version("lopt")
    except importlib.metadata.PackageNotFoundError:  # used from a checkout
        return "not installed"


# Examples


def _import_rows(
    source: Rows, out: Path, origin: dict[str, Any], classes: int, relabel: bool, show: bool
) -> tuple[str, ...]:
    codes, names = class_codes(source, classes, relabel)
    position, splits = row_order(source)
    scaling = Scaling(source, origin["scale"])
    scaling.fit(position < splits[0][1])
    shape = (source.rows, *source.shape)
    _check_disk(out, int(np.prod(shape)) * np.dtype(scaling.stored).itemsize)
    origin["files"] = _digests(source.files)
    origin["notes"] = list(source.notes)
    labels = np.empty(source.rows, np.int32)
    labels[position] = codes
    arrays = {"y": labels, "classes": names, "splits": splits}
    with (
        Progress(source.rows, "row", show) as progress,
        Writer(out, "rows", shape, scaling.stored, arrays, origin) as writer,
    ):
        for lo, block in _blocks(source):
            writer.put(position[lo : lo + len(block)], scaling.apply(lo, block))
            progress.update(lo + len(block))
    return (*source.notes, *scaling.notes)


def _blocks(source: Rows) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, block) of all rows, exactly as many as there are labels."""
    lo = 0
    for block in source.blocks():
        if lo + len(block) > source.rows:
            raise DataError(f"{source.place(0)} and on: the source grew while it was read")
        yield lo, block
        lo += len(block)
    if lo != source.rows:
        raise DataError(f"{source.place(0)} and on: the source shrank while it was read")


def row_order(source: Rows) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """Place in the file of each row of the source, and the splits."""
    n_rest = source.rows - source.n_test
    words = [
        rng.integers(n, 0, 2**32, rng.stream(0), rng.DATA) for n in (n_rest, source.n_test) if n
    ]
    orders = [np.argsort(w, kind="stable") for w in words]
    position = np.empty(source.rows, np.int64)
    first = 0
    for order in orders:
        position[first + order] = first + np.arange(order.size)
        first += order.size
    if not source.n_test:
        return position, _ranges(source.rows, source.place(0))
    shares = np.array(SPLIT_PERCENT[:3])
    ends = [0, *(n_rest * np.cumsum(shares) // shares.sum()).tolist(), source.rows]
    if n_rest < 9:
        raise DataError(
            f"{source.place(0)}: {n_rest} rows are too few for three splits, at least 9"
        )
    return position, tuple(itertools.pairwise(ends))


def _ranges(n: int, place: str) -> tuple[tuple[int, int], ...]:
    try:
        return split_ranges(n)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def class_codes(
    source: Rows, classes: int = 0, relabel: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as (rows,) int32 0..n-1, and the names of the classes; options and refusals as of `import_data`."""
    labels = source.labels
    if labels.dtype.kind in "UO":
        if classes:
            raise DataError(
                f"{source.place(0)}: labels are text, classes = {classes} needs integers"
            )
        relabel = True
    elif labels.dtype.kind == "b":
        labels = labels.astype(np.int64)
    found, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    if len(found) < 2:
        raise DataError(f"{source.place(0)}: every label is {found[0]!s}; a task needs two classes")
    if len(found) > MAX_CLASSES:
        raise DataError(f"{source.place(0)}: {len(found)} different labels, at most {MAX_CLASSES}")
    names = tuple(str(v) for v in found.tolist())
    if not relabel:
        n = classes or len(source.class_names) or len(found)
        wrong = np.flatnonzero((found < 0) | (found >= n))
        if wrong.size:
            k = wrong[0]
            raise DataError(
                f"{source.place(int(first[k]))}: label {found[k]}, expected 0..{n - 1}"
                + ("" if classes else f" ({len(found)} different labels); give classes or relabel")
            )
        codes = labels
        names = source.class_names if len(source.class_names) == n else tuple(map(str, range(n)))
    for name in names:
        if "\0" in name or not name.isprintable():
            raise DataError(f"{source.place(0)}: {name!a} is no printable name of a class")
    return codes.astype(np.int32), names


class Scaling:
    """How the values of a source get into [0, 1]."""

    def __init__(self, source: Rows, scale: str) -> None:
        if scale not in SCALES:
            raise DataError(f"scale = {scale!r}, expected one of {', '.join(SCALES)}")
        kind = source.dtype
        if scale == "none" and kind != np.uint8 and kind.kind != "f":
            raise DataError(
                f"{source.place(0)}: values of type {kind} need a scale (column or all); "
                "only bytes and floats in [0, 1] go without"
            )
        self._source, self._scale = source, scale
        self.stored = "u1" if scale == "none" and kind == np.uint8 else "f4"
        self._cut, self._largest = 0, 0

    def fit(self, in_train: np.ndarray) -> None:
        """Smallest and largest value, over the rows of train only; checks that all are finite."""
        if self._scale == "none":
            return
        features = int(np.prod(self._source.shape))
        low, high = np.full(features, np.inf), np.full(features, -np.inf)
        for lo, block in _blocks(self._source):
            values = self._finite(lo, block)[in_train[lo : lo + len(block)]]
            if len(values):
                low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
        if self._scale == "all":
            low, high = np.full(features, low.min()), np.full(features, high.max())
        with np.errstate(over="ignore"):
            span = high - low
        if not np.isfinite(span).all():
            raise DataError(f"{self._source.place(0)}: values span more than a float64 holds")
        self._low, self._span = low, np.where(span > 0, span, 1)

    def apply(self, lo: int, block: np.ndarray) -> np.ndarray:
        """Rows lo, lo + 1, ... as stored."""
        if self.stored == "u1":
            self._largest = max(self._largest, int(block.max()))
            return block
        values = self._finite(lo, block)
        if self._scale == "none":
            wrong = np.flatnonzero(((values < 0) | (values > 1)).any(axis=1))
            if wrong.size:
                row = values[wrong[0]]
                raise DataError(
                    f"{self._source.place(lo + int(wrong[0]))}: values span [{row.min():.6g}, "
                    f"{row.max():.6g}], expected [0, 1]; choose a scale (column or all)"
                )
            return values.astype(np.float32)
        with np.errstate(over="ignore"):  # a row far outside the range of train
            values = (values - self._low) / self._span
        self._cut += int(np.count_nonzero((values < 0) | (values > 1)))
        return np.clip(values, 0, 1).astype(np.float32)

    def _finite(self, lo: int, block: np.ndarray) -> np.ndarray:
        """The block as (rows, features) float64.

        Raises:
            DataError: a value is not finite; names its row and number in the row.
        """
        values = block.reshape(len(block), -1).astype(np.float64)
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0].tolist()
            raise DataError(
                f"{self._source.place(lo + row)}: value {column} is {values[row, column]}"
            )
        return values

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, once all rows went through `apply`."""
        found = []
        if self._cut:
            found.append(f"{self._cut} values beyond the range of train were cut to it")
        if self.stored == "u1" and self._largest < 128:
            found.append(
                f"the largest value is {self._largest} of 255, so examples lie in "
                f"[0, {self._largest / 255:.3f}]; scale = all would spread them"
            )
        return tuple(found)


# Texts


def _import_text(source: Tokens, out: Path, origin: dict[str, Any], show: bool) -> tuple[str, ...]:
    splits = _ranges(source.count, shown(source.files[0]))
    entries = len(source.vocabulary) or 256
    stored = next(t for t in ("u1", "u2", "i4") if entries - 1 <= np.iinfo(t).max)
    _check_disk(out, source.count * np.dtype(stored).itemsize)
    origin["files"] = _digests(source.files)
    arrays = {"vocabulary": source.vocabulary, "splits": splits}
    done = 0
    with (
        Progress(source.count, "token", show) as progress,
        Writer(out, "text", (source.count,), stored, arrays, origin) as writer,
    ):
        for block in source.blocks():
            if done + len(block) > source.count:
                raise DataError(f"{shown(source.files[0])} grew while it was read")
            if len(block):
                writer.put(np.arange(done, done + len(block)), block)
            done += len(block)
            progress.update(done)
        if done != source.count:
            raise DataError(f"{shown(source.files[0])} shrank while it was read")
    return source.notes


# Both


def _check_disk(out: Path, needed: int) -> None:
    """Refuse before hours of work what the disk cannot hold."""
    folder = out.absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise DataError(f"{shown(out)} needs {needed} bytes, {free} are free on its disk")


def _digests(files: tuple[Path, ...]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of what was read; a folder counts as the list of those of its files."""
    found = []
    for path in files:
        if path.is_dir():
            listing, size = hashlib.sha256(), 0
            for root, folders, names in os.walk(path):
                folders.sort()
                for name in sorted(names):
                    file = Path(root, name)
                    if file.is_file():
                        size += file.stat().st_size
                        line = f"{file.relative_to(path)}\0{_digest(file)}\n"
                        listing.update(line.encode("utf-8", "surrogateescape"))
            found.append({"name": shown(path.name), "bytes": size, "sha256": listing.hexdigest()})
        else:
            digest = _digest(path)
            found.append({"name": shown(path.name), "bytes": path.stat().st_size, "sha256": digest})
    return found


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {shown(path)}: {error.strerror}") from error
