"""What every reader yields, and the checks they share: regular files, honest sizes, errors that name the place."""

import bisect
import contextlib
import dataclasses
import gzip
import lzma
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lopt.errors import DataError, LoptError

BLOCK_BYTES = 4 << 20  # rows are read, converted and written in blocks of at most this (or one row)
MAX_ROWS = 1 << 26  # labels and order are held in memory: 20 bytes a row
MAX_ROW_BYTES = 1 << 24
DEFLATE_RATIO = 1032  # no honest deflate stream expands by more
PICKLE_STARTS = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))

# What the standard library, NumPy and h5py raise on damaged content.
DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    MemoryError,
    ArithmeticError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Labelled examples of somebody's files, to be read in one direction.

    Attributes:
        files: what is read, for the record of origin; one folder stands for the files in it.
        shape: of one example; images are (height, width, channels).
        dtype: of the values in `blocks`: a boolean, integer or float type.
        labels: (rows,) integers or texts (a NumPy type or str objects).
        class_names: names of the classes 0, 1, ... if the source has them, else ().
        n_test: the last rows that the source itself sets aside for testing.
        blocks: starts an iterator of (k, *shape) arrays of at most `block_rows` rows, together all rows.
        origins: (first row, text) of each piece, ascending; names the place of a bad row.
        notes: what the user should know about the reading.
        default_scale: how the format's values get into [0, 1] if the user says nothing.
    """

    files: tuple[Path, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    labels: np.ndarray
    blocks: Callable[[], Iterator[np.ndarray]]
    origins: tuple[tuple[int, str], ...]
    class_names: tuple[str, ...] = ()
    n_test: int = 0
    notes: tuple[str, ...] = ()
    default_scale: str = "none"

    @property
    def rows(self) -> int:
        """Number of examples."""
        return len(self.labels)

    def place(self, row: int) -> str:
        """ "file, row r", r counted from 0 within the piece that holds the row."""
        first, text = self.origins[bisect.bisect_right(self.origins, row, key=lambda o: o[0]) - 1]
        return f"{text}, row {row - first}"


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
    """A text as token numbers, to be read in one direction.

    Attributes:
        files: what is read.
        count: number of tokens.
        vocabulary: text of each token number; () for bytes.
        blocks: starts an iterator of 1-D integer arrays, together all tokens.
        notes: as of `Rows`.
    """

    files: tuple[Path, ...]
    count: int
    vocabulary: tuple[str, ...]
    blocks: Callable[[], Iterator[np.ndarray]]
    notes: tuple[str, ...] = ()


Source = Rows | Tokens


def joined(train: Rows, test: Rows) -> Rows:
    """Rows of `train` followed by those of `test`, which become the source's own test set.

    Raises:
        DataError: examples of different shape or type.
    """
    here, there = (f"{p.shape} {p.dtype}" for p in (train, test))
    if here != there:
        raise DataError(
            f"{test.origins[0][1]}: examples are {there}, but {here} in {train.origins[0][1]}"
        )

    def blocks() -> Iterator[np.ndarray]:
        yield from train.blocks()
        yield from test.blocks()

    return dataclasses.replace(
        train,
        files=train.files + test.files,
        labels=np.concatenate((train.labels, test.labels)),
        blocks=blocks,
        origins=train.origins + tuple((first + train.rows, text) for first, text in test.origins),
        n_test=test.rows,
        notes=train.notes + test.notes,
    )


def block_rows(row_bytes: int) -> int:
    """Rows in a block of BLOCK_BYTES, at least one."""
    return max(1, BLOCK_BYTES // max(1, row_bytes))


def example_shape(place: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of an example from that of an array: (rows, n), (rows, h, w) or (rows, h, w, channels).

    Raises:
        DataError: another number of axes, an empty one, or channels that do not come last.
    """
    if len(shape) not in (2, 3, 4):
        raise DataError(
            f"{place} has shape {shape}, expected (rows, n), (rows, height, width) or "
            "(rows, height, width, channels)"
        )
    if min(shape) < 1:
        raise DataError(f"{place} has shape {shape}: it is empty")
    if len(shape) == 4 and shape[3] > 4:
        raise DataError(
            f"{place} has shape {shape}: {shape[3]} channels, expected 1 to 4 on the last axis; "
            "transpose it to (rows, height, width, channels)"
        )
    return (*shape[1:], 1) if len(shape) == 3 else tuple(shape[1:])


def check_size(place: str, rows: int, row_bytes: int) -> None:
    """Refuse what could not be held: too many rows or too large a row.

    Raises:
        DataError: names the limit.
    """
    if not 0 < rows <= MAX_ROWS:
        raise DataError(f"{place}: {rows} rows, expected 1..{MAX_ROWS}")
    if row_bytes > MAX_ROW_BYTES:
        raise DataError(f"{place}: {row_bytes} bytes in a row, at most {MAX_ROW_BYTES}")


def check_claim(place: str, claimed: int, stored: int, packed: bool) -> None:
    """Compare a size a header claims with what lies on disk, before anything is allocated.

    Raises:
        DataError: more bytes claimed than `stored` bytes can hold, packed or not.
    """
    if claimed > stored * (DEFLATE_RATIO if packed else 1):
        raise DataError(
            f"{place} claims {claimed} bytes, but {stored} bytes"
            + (" of packed data cannot hold them" if packed else " are there")
        )


def labels_from(place: str, labels: np.ndarray, rows: int) -> np.ndarray:
    """Labels as read, (rows,) or (rows, 1), checked for type and number.

    Raises:
        DataError: not one per row, or neither integers nor text.
    """
    if labels.shape not in ((rows,), (rows, 1)):
        hint = "; for one-hot labels store their argmax" if labels.ndim == 2 else ""
        raise DataError(f"{place} has shape {labels.shape}, expected ({rows},){hint}")
    labels = labels.reshape(rows)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    if labels.dtype.kind not in "biuU":
        raise DataError(f"{place} has type {labels.dtype}, expected integers or text")
    return labels


def regular_file(path: Path) -> int:
    """Size in bytes of a regular file, links followed.

    Raises:
        DataError: missing, a folder, a pipe, a device, empty, unreadable, or a Python pickle.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{shown(path)} is not a regular file")
        with open(path, "rb") as file:
            head = file.read(2)
    except OSError as error:
        raise DataError(f"cannot read {shown(path)}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise DataError(f"cannot read {shown(path)}: {error}") from error
    if not head:
        raise DataError(f"{shown(path)} is empty")
    if head in PICKLE_STARTS:
        raise DataError(
            f"{shown(path)} is a Python pickle, which can run code when read and is never loaded; "
            "for CIFAR take the binary version (cifar-10-binary or cifar-100-binary), "
            "else save plain arrays as .npz"
        )
    return status.st_size


def is_packed(path: Path) -> bool:
    """Whether a file is gzip, by its first bytes."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def open_stream(path: Path) -> BinaryIO:
    """A plain or gzip file, opened for reading its bytes."""
    return gzip.open(path, "rb") if is_packed(path) else open(path, "rb")


def read_exactly(file: BinaryIO, count: int, place: str) -> bytearray:
    """The next `count` bytes, gathered in small pieces: memory never exceeds what is there.

    Raises:
        DataError: the file ends before; names the offset.
    """
    data = bytearray()
    while len(data) < count:
        piece = file.read(min(count - len(data), 1 << 20))
        if not piece:
            raise DataError(
                f"{place}: ends {count - len(data)} bytes early, at offset {file.tell()}"
            )
        data += piece
    return data


def stream_blocks(
    file: BinaryIO, rows: int, shape: tuple[int, ...], dtype: np.dtype, place: str
) -> Iterator[np.ndarray]:
    """Rows that lie one after another in a stream, block by block.

    Raises:
        DataError: the stream ends early, or goes on after the last row.
    """
    row_bytes = int(np.prod(shape)) * dtype.itemsize
    step = block_rows(row_bytes)
    for lo in range(0, rows, step):
        k = min(step, rows - lo)
        data = read_exactly(file, k * row_bytes, f"{place}, rows {lo}..{lo + k - 1}")
        yield np.frombuffer(data, dtype).reshape(k, *shape)
    if file.read(1):  # a packed stream checks its checksum here
        raise DataError(f"{place} goes on after its last row, {rows - 1}")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever damaged content raises into a DataError that names the file."""
    try:
        yield
    except LoptError:
        raise
    except DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{shown(path)} is damaged: {reason[:200]}") from error


def shown(path: Path | str) -> str:
    """A path as text that can be printed, whatever bytes its name has."""
    text = str(path)
    return text if text.isprintable() else ascii(text)
