"""IDX files (MNIST and its family), plain or gzip.

Format, as published with MNIST (LeCun, Cortes, Burges): two zero bytes, a type code, the number of axes, each
axis's length as a big-endian 32-bit number, then the values, big-endian, row-major.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from lopt.data.readers import base
from lopt.data.readers.registry import register_reader
from lopt.errors import DataError

TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


class Header(NamedTuple):
    """First bytes of an IDX file."""

    dtype: np.dtype
    shape: tuple[int, ...]


@register_reader("idx")
def read_idx(path: Path, *, labels: str = "", test: str = "", test_labels: str = "") -> base.Rows:
    """A file of images with its file of labels, or a folder with such pairs for training and test.

    labels             file of the labels; if empty, `path` with "images-idx3" replaced by "labels-idx1"
    test, test_labels  the same for the source's own test set
    In a folder the names decide: "train" for training, "t10k" or "test" for test.

    Raises:
        DataError: wrong magic number, truncated, longer than its header says, or sizes that disagree.
    """
    if path.is_dir():
        if labels or test or test_labels:
            raise DataError(
                f"{base.shown(path)} is a folder: its files are paired by name, without options"
            )
        path, test = _pair(path)
    train = _part(path, labels)
    return base.joined(train, _part(Path(test), test_labels)) if test else train


def _pair(folder: Path) -> tuple[Path, str]:
    """Images of training and test in a folder; test "" if there are none."""
    with base.reading(folder):
        names = sorted(f.name for f in folder.iterdir() if "images-idx3-ubyte" in f.name)
    test = [n for n in names if "t10k" in n or "test" in n]
    train = [n for n in names if n not in test]
    if len(train) != 1 or len(test) > 1:
        raise DataError(
            f"{base.shown(folder)} holds {len(train)} training and {len(test)} test files of images "
            f"({', '.join(map(base.shown, names)) or 'none'}); name the file"
        )
    return folder / train[0], str(folder / test[0]) if test else ""


def _part(path: Path, labels: str) -> base.Rows:
    place = base.shown(path)
    header = _check(path)
    partner = Path(labels) if labels else _partner(path)
    other = _check(partner)
    if len(other.shape) != 1 or other.dtype.kind == "f":
        raise DataError(
            f"{base.shown(partner)} has {other.dtype} of shape {other.shape}: no labels"
        )
    shape = base.example_shape(place, header.shape)
    rows = header.shape[0]
    if other.shape[0] != rows:
        raise DataError(
            f"{base.shown(partner)} has {other.shape[0]} labels, {place} has {rows} examples"
        )
    base.check_size(place, rows, int(np.prod(shape)) * header.dtype.itemsize)
    values = np.concatenate(list(_values(partner, other, ())))

    def blocks() -> Iterator[np.ndarray]:
        yield from _values(path, header, shape)

    return base.Rows(
        (path, partner), shape, header.dtype, values.astype(np.int64), blocks, ((0, place),)
    )


def _partner(path: Path) -> Path:
    """The file of labels that belongs to a file of images, by its name."""
    stem = path.name.removesuffix(".gz")
    if "images-idx3" not in stem:
        raise DataError(f"{base.shown(path)}: name its file of labels (option labels)")
    stem = stem.replace("images-idx3", "labels-idx1")
    for name in (stem, f"{stem}.gz"):
        if (path.parent / name).exists():
            return path.parent / name
    raise DataError(f"{base.shown(path)}: its labels {stem} are not beside it (option labels)")


def _check(path: Path) -> Header:
    """The header of a file whose size agrees with it."""
    size = base.regular_file(path)
    with base.reading(path), base.open_stream(path) as file:
        header = _header(file, path)
        claimed = header.dtype.itemsize
        for n in header.shape:
            claimed *= n
        if base.is_packed(path):
            base.check_claim(base.shown(path), claimed, size, packed=True)
        elif claimed != size - file.tell():
            raise DataError(
                f"{base.shown(path)} claims {claimed} bytes behind its header, "
                f"but {size - file.tell()} are there"
            )
    return header


def _header(file: BinaryIO, path: Path) -> Header:
    place = base.shown(path)
    magic = bytes(base.read_exactly(file, 4, place))
    if magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= 4:
        raise DataError(
            f"{place} starts with {magic.hex(' ')}, which is no IDX file (MNIST images: 00 00 08 03, "
            "labels: 00 00 08 01)"
        )
    lengths = base.read_exactly(file, 4 * magic[3], place)
    shape = tuple(int(n) for n in np.frombuffer(lengths, ">u4"))
    return Header(np.dtype(TYPES[magic[2]]), shape)


def _values(path: Path, header: Header, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Blocks of rows behind the header, in the machine's byte order."""
    with base.reading(path), base.open_stream(path) as file:
        if _header(file, path) != header:
            raise DataError(f"{base.shown(path)} changed while it was read")
        for block in base.stream_blocks(
            file, header.shape[0], shape, header.dtype, base.shown(path)
        ):
            yield block.astype(header.dtype.newbyteorder("="), copy=False)
