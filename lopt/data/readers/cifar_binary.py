"""The binary version of CIFAR-10 and CIFAR-100 (Krizhevsky 2009).

A record is the label (CIFAR-100: coarse label, fine label), one byte each, and 3 x 32 x 32 bytes: the red, then the
green, then the blue plane.  Files have no header: their size says how many records they hold.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lopt.data.readers import base
from lopt.data.readers.registry import register_reader
from lopt.errors import DataError

PLANES = (3, 32, 32)
PIXELS = 3 * 32 * 32


@register_reader("cifar10")
def read_cifar10(path: Path) -> base.Rows:
    """A folder with data_batch_1.bin ... and test_batch.bin, or one file of records.

    Raises:
        DataError: no such file, a size that is no whole number of records, a label beyond 9, or the
            Python version, which is a pickle.
    """
    return _read(path, (10,), 0, "data_batch_*.bin", "test_batch.bin", "batches.meta.txt")


@register_reader("cifar100")
def read_cifar100(path: Path, *, labels: str = "fine") -> base.Rows:
    """A folder with train.bin and test.bin, or one file of records.

    labels  "fine" (100 classes) or "coarse" (20)

    Raises:
        DataError: as for CIFAR-10, with labels beyond 99 (fine) and 19 (coarse).
    """
    if labels not in ("fine", "coarse"):
        raise DataError(f"option labels = {labels!r}, expected fine or coarse")
    column = ("coarse", "fine").index(labels)
    return _read(path, (20, 100), column, "train.bin", "test.bin", f"{labels}_label_names.txt")


def _read(
    path: Path, limits: tuple[int, ...], column: int, train: str, test: str, names: str
) -> base.Rows:
    if not path.is_dir():
        return _part([path], limits, column)
    files = sorted(path.glob(train))
    if not files:
        for name in ("data_batch_1", "train", "test_batch", "test"):
            if (path / name).is_file():
                base.regular_file(path / name)  # says what to do about a pickle
        raise DataError(f"{base.shown(path)} holds no {train} of the binary version")
    part = _part(files, limits, column)
    if (path / test).exists():
        part = base.joined(part, _part([path / test], limits, column))
    if (path / names).exists():
        part = dataclasses.replace(part, class_names=_class_names(path / names, limits[column]))
    return part


def _part(files: list[Path], limits: tuple[int, ...], column: int) -> base.Rows:
    record = len(limits) + PIXELS
    labels, origins, rows = [], [], 0
    for path in files:
        size, place = base.regular_file(path), base.shown(path)
        if size % record:
            raise DataError(
                f"{place} has {size} bytes, no whole number of records of {record}; the last one is "
                f"cut off at offset {size - size % record}: truncated, packed, or not CIFAR-{limits[-1]}"
            )
        base.check_size(place, rows + size // record, record)
        origins.append((rows, place))
        rows += size // record
        labels.append(_labels(path, limits)[:, column])

    def blocks() -> Iterator[np.ndarray]:
        for path in files:
            for block in _records(path, record):
                planes = block[:, len(limits) :].reshape(-1, *PLANES)
                yield np.ascontiguousarray(planes.transpose(0, 2, 3, 1))

    return base.Rows(
        tuple(files),
        (32, 32, 3),
        np.dtype(np.uint8),
        np.concatenate(labels).astype(np.int64),
        blocks,
        tuple(origins),
    )


def _records(path: Path, record: int) -> Iterator[np.ndarray]:
    rows = base.regular_file(path) // record
    with base.reading(path), open(path, "rb") as file:
        yield from base.stream_blocks(file, rows, (record,), np.dtype(np.uint8), base.shown(path))


def _labels(path: Path, limits: tuple[int, ...]) -> np.ndarray:
    """All labels of a file, (rows, len(limits)); the size of the file is known to fit."""
    columns = [b[:, : len(limits)].copy() for b in _records(path, len(limits) + PIXELS)]
    labels = np.concatenate(columns)
    wrong = np.argwhere(labels >= limits)
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{base.shown(path)}, row {row}: label {labels[row, column]}, expected "
            f"0..{limits[column] - 1}; not CIFAR-{limits[-1]}?"
        )
    return labels


def _class_names(path: Path, classes: int) -> tuple[str, ...]:
    if base.regular_file(path) > 1 << 16:
        raise DataError(f"{base.shown(path)} is too long for {classes} names")
    with base.reading(path):
        names = tuple(filter(None, map(str.strip, path.read_text("utf-8").splitlines())))
    if len(names) != classes or len(set(names)) != classes:
        raise DataError(f"{base.shown(path)} has {len(set(names))} names, expected {classes}")
    return names
