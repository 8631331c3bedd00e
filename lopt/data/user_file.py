"""The user's own data in lopt's HDF5 layout: one file, four splits, every byte under a checksum.

The first 512 bytes (an HDF5 user block) are one line of JSON.  The rows of the data set lie in one contiguous piece
behind it and are digested block by block (SHA-256, kept in /digest); everything else in the file, /digest included, is
sealed by one SHA-256 in the first line.  So a file of any size is opened and checked in a moment, before the HDF5
library sees it, and rows are checked when they are put into memory.  FIELDS is the whole layout.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np

from lopt.data.datasets import Dataset, Ranges, Text
from lopt.data.mapped import mapped_floats
from lopt.data.readers.base import read_exactly, reading, regular_file, shown
from lopt.errors import DataError

VERSION = 1
HEADER_BYTES = 512
KINDS = ("rows", "text")
IN_MEMORY_BYTES = 1 << 28  # of float32 examples that are put into memory; larger sets are mapped
MAX_TEXT_BYTES = 1 << 32  # of int32 tokens, which are always put into memory


class Field(NamedTuple):
    """One data set of the layout; kinds: "rows" (labelled examples) and "text" (tokens)."""

    kind: str
    path: str
    dtypes: tuple[str, ...]
    axes: tuple[str, ...]
    meaning: str


FIELDS = (
    Field("rows", "/x", ("u1", "f4"), ("row", "axes of an example"),
          "examples; bytes stand for value / 255, floats lie in [0, 1]"),
    Field("rows", "/y", ("i4",), ("row",), "class of each example, an index into /classes"),
    Field("rows", "/classes", ("text",), ("class",), "names of the classes"),
    Field("text", "/tokens", ("u1", "u2", "i4"), ("token",), "the text in reading order"),
    Field("text", "/vocabulary", ("text",), ("entry",),
          "text of each token number; empty if tokens are bytes"),
    Field("both", "/splits", ("i8",), ("split", "first and end"),
          "row ranges [first, end) of train, inner_valid, outer_valid, test; adjacent"),
    Field("both", "/digest", ("u1",), ("block", "byte"),
          "SHA-256 of each block of rows; attribute rows: rows in a block"),
)  # fmt: skip


def fields(kind: str) -> list[Field]:
    """Data sets of a kind of file; the first holds the rows."""
    return [f for f in FIELDS if f.kind in (kind, "both")]


class Header(NamedTuple):
    """First line of a file: what is sealed, and where the rows lie."""

    sha256: str
    size: int
    start: int  # offset of the rows
    length: int  # bytes of the rows


class UserFile:
    """A file opened for reading, its sealed part verified.  Use as a context manager.

    Attributes:
        kind: "rows" or "text".
        shape, dtype: of the data set that holds the rows.
        splits: four row ranges, in the order of `Dataset.splits`.
        labels: (rows,) int32, of kind "rows", else empty.
        names: of the classes, or the vocabulary.
        provenance: where the data came from.

    Raises:
        DataError: missing, not of this layout, of another version, truncated or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        import h5py

        self.path = Path(path)
        size = regular_file(self.path)
        with reading(self.path):
            with open(self.path, "rb") as file:
                self._header = _read_header(file, shown(self.path))
                if self._header.size != size:
                    what = "it is cut off" if size < self._header.size else "something was appended"
                    raise DataError(
                        f"{shown(path)} has {size} bytes, {self._header.size} were written: {what}"
                    )
                if seal_of(file, self._header) != self._header.sha256:
                    raise DataError(f"{shown(path)} is damaged: its checksum is wrong")
            self._file = h5py.File(self.path, "r")
        try:
            with reading(self.path):
                self._load()
        except BaseException:
            self._file.close()
            raise

    def _load(self) -> None:
        file, where = self._file, shown(self.path)
        self.kind = str(file.attrs["kind"])
        if self.kind not in KINDS:
            raise DataError(f"{where}: unknown kind {self.kind!r}")
        self.provenance: dict[str, Any] = json.loads(file.attrs["provenance"])
        arrays = {f.path: _checked(file[f.path], f, where) for f in fields(self.kind)}
        self._data = next(iter(arrays.values()))
        self.shape, self.dtype = self._data.shape, self._data.dtype
        place = (self._data.id.get_offset(), self._data.nbytes)
        self._step = int(arrays["/digest"].attrs["rows"])
        self._digests = arrays["/digest"][()]
        if place != (self._header.start, self._header.length) or self._digests.shape != (
            -(-self.rows // self._step),
            32,
        ):
            raise DataError(f"{where}: its rows are not those that its first line seals")
        self.splits = tuple((int(lo), int(hi)) for lo, hi in arrays["/splits"][()])
        ends = [0, *(hi for _, hi in self.splits)]
        if (
            len(ends) != 5
            or ends[-1] != self.rows
            or self.splits != tuple(itertools.pairwise(ends))
            or any(lo >= hi for lo, hi in self.splits)
        ):
            raise DataError(f"{where}: splits {self.splits} do not divide {self.rows} rows in four")
        names = arrays["/vocabulary" if self.kind == "text" else "/classes"]
        self.names = tuple(names.asstr()[()].tolist())
        self.labels = np.empty(0, np.int32)
        if self.kind == "rows":
            self.labels = arrays["/y"][()].astype(np.int32)
            if self.labels.shape != (self.rows,) or not (
                0 <= self.labels.min() and self.labels.max() < len(self.names)
            ):
                raise DataError(
                    f"{where}: labels do not fit {self.rows} rows of {len(self.names)} classes"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def rows(self) -> int:
        """Number of examples or tokens."""
        return self.shape[0]

    def mapped(self) -> np.ndarray:
        """All rows as they lie in the file, as `Dataset.floats`; not verified, read when touched.

        Raises:
            DataError: as `mapped_floats`.
        """
        return mapped_floats(self.path, self._header.start, self._header.length)

    def blocks(self, lo: int, hi: int) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows as stored) in pieces that together are rows lo..hi-1, each verified.

        Raises:
            DataError: a block's checksum is wrong; names its rows.
        """
        for block in range(lo // self._step, -(-hi // self._step)):
            first, end = block * self._step, min((block + 1) * self._step, self.rows)
            with reading(self.path):
                rows = self._data[first:end]
            if (
                hashlib.sha256(memoryview(rows).cast("B")).digest()
                != self._digests[block].tobytes()
            ):
                raise DataError(
                    f"{shown(self.path)} is damaged: rows {first}..{end - 1}, wrong checksum"
                )
            yield max(lo, first), rows[max(0, lo - first) : hi - first]


def seal_of(file: BinaryIO, header: Header) -> str:
    """SHA-256 (hexadecimal) of a file's bytes but for the first line and the rows."""
    digest = hashlib.sha256()
    for lo, hi in (
        (HEADER_BYTES, header.start),
        (header.start + header.length, header.size),
    ):
        file.seek(lo)
        for at in range(lo, hi, 1 << 20):
            digest.update(read_exactly(file, min(1 << 20, hi - at), "the sealed part"))
    return digest.hexdigest()


def _read_header(file: BinaryIO, where: str) -> Header:
    head = file.read(HEADER_BYTES)
    if not head.startswith(b'{"lopt": '):
        what = (
            "an HDF5 file, but not one of lopt's"
            if head[1:4] == b"HDF"
            else "no HDF5 file of lopt's"
        )
        raise DataError(f"{where} is {what}; `lopt data import` makes one")
    try:
        content = json.loads(head)
        kind, version = content["lopt"], content["schema"]
        if kind == "data":
            header = Header(*(t(content[n]) for n, t in Header.__annotations__.items()))
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{where}: its first line is damaged or cut off") from error
    if kind != "data":
        raise DataError(f"{where} is a {kind} file, expected a data file")
    if version != VERSION:
        raise DataError(
            f"{where} has schema {version!r} of data files, this lopt reads schema {VERSION}"
        )
    end = header.start + header.length
    if not HEADER_BYTES <= header.start <= end <= header.size:
        raise DataError(f"{where}: its first line is damaged: rows at {header.start}..{end}")
    return header


def _checked(dataset: Any, field: Field, where: str) -> Any:
    """A data set of the declared type and number of axes."""
    code = "text" if dataset.dtype.kind == "O" else dataset.dtype.str.lstrip("<|")
    axes = dataset.ndim if field.path != "/x" else min(dataset.ndim, 2)
    if code not in field.dtypes or axes != len(field.axes):
        raise DataError(f"{where}: {field.path} has type {code} and shape {dataset.shape}")
    return dataset


# As data sets of the library


@dataclasses.dataclass(frozen=True, eq=False)
class UserDataset(Dataset):
    """A data set from a file of the user's; class_names in the order of the labels."""

    class_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class UserText(Text):
    """A text from a file of the user's.

    entries  text of each token number; empty if tokens are bytes
    """

    entries: tuple[str, ...] = ()


def is_path(name: str) -> bool:
    """Whether a data set's name is that of a user's file: ends in .h5 or contains a path separator."""
    path = _split_name(name)[0]
    return path.endswith(".h5") or "/" in path or os.sep in path


def load_file(name: str) -> UserDataset:
    """Labelled examples of a file that `lopt data import` wrote; the same object while the file does not change.

    Up to IN_MEMORY_BYTES of float32 are verified and put into memory.  A larger set stays in the file, which must then
    not be changed: rows are read when they are used, and only `lopt data info` verifies them.

    Args:
        name: path, or "path?rows=N" for the first N rows of each split (all of a split that has fewer).
            Rows are in random order, so these are a random sample.

    Raises:
        DataError: as `UserFile`; a text; a value outside [0, 1]; or the file cannot be mapped.
    """
    return _cached(*_key(name), "rows")


def load_text_file(name: str) -> UserText:
    """A text that `lopt data import` wrote; "path?rows=N" is the first N tokens of each split.

    Raises:
        DataError: as `UserFile`; examples instead of a text; or more than MAX_TEXT_BYTES as int32.
    """
    return _cached(*_key(name), "text")


def _split_name(name: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.*)\?rows=(.*)", name, re.DOTALL)
    return (match[1], match[2]) if match else (name, "")


def _key(name: str) -> tuple[str, str, int, int, int]:
    """Name, path, limit of rows (0: none), and what tells a new file from an old one."""
    path, limit = _split_name(name)
    if limit and not (limit.isascii() and limit.isdigit() and 0 < int(limit) < 1 << 40):
        raise DataError(f"{shown(name)}: rows = {limit}, expected a positive whole number")
    size = regular_file(Path(path))
    return name, os.path.realpath(path), int(limit or 0), size, os.stat(path).st_mtime_ns


@functools.lru_cache(maxsize=8)
def _cached(name: str, path: str, limit: int, size: int, time: int, kind: str) -> Dataset | Text:
    with UserFile(path) as file:
        if file.kind != kind:
            other = "load_text" if file.kind == "text" else "load"
            raise DataError(
                f"{shown(path)} holds {file.kind}, expected {kind}; use lopt.data.{other}"
            )
        ranges = tuple((lo, min(hi, lo + limit) if limit else hi) for lo, hi in file.splits)
        return _text(name, file, ranges) if kind == "text" else _rows(name, file, ranges)


def _adjacent(ranges: Ranges) -> Ranges:
    """Adjacent ranges of the same sizes, from 0 on."""
    return tuple(itertools.pairwise(np.cumsum([0, *(hi - lo for lo, hi in ranges)]).tolist()))


def _rows(name: str, file: UserFile, ranges: Ranges) -> UserDataset:
    """Some rows in memory if they are few, else all of them mapped."""
    shape, splits = file.shape[1:], _adjacent(ranges)
    common = {"n_classes": len(file.names), "shape": shape, "class_names": file.names}
    if 4 * math.prod(shape) * splits[-1][1] <= IN_MEMORY_BYTES:
        labels = np.concatenate([file.labels[lo:hi] for lo, hi in ranges])
        return UserDataset(name, _floats(file, ranges), labels, splits=splits, **common)
    in_bytes = file.dtype == np.uint8
    return UserDataset(name, file.mapped(), file.labels, splits=ranges, in_bytes=in_bytes, **common)


def _floats(file: UserFile, ranges: Ranges) -> np.ndarray:
    """Examples as float32 in [0, 1], flat; verified."""
    rows = sum(hi - lo for lo, hi in ranges)
    out = np.empty((rows, math.prod(file.shape[1:])), np.float32)
    at = 0
    for lo, hi in ranges:
        for first, block in file.blocks(lo, hi):
            piece = out[at : at + len(block)]
            flat = block.reshape(len(block), -1)
            if file.dtype == np.uint8:
                np.divide(flat, np.float32(255), out=piece)
            else:
                if not (flat.min() >= 0 and flat.max() <= 1):  # also catches NaN
                    end = first + len(block) - 1
                    raise DataError(
                        f"{shown(file.path)}, rows {first}..{end}: values outside [0, 1]"
                    )
                piece[...] = flat
            at += len(block)
    return out.reshape(-1)


def _text(name: str, file: UserFile, ranges: Ranges) -> UserText:
    """Some tokens, in memory."""
    splits = _adjacent(ranges)
    needed, nearest = 4 * splits[-1][1], MAX_TEXT_BYTES // 16
    if needed > MAX_TEXT_BYTES:
        raise DataError(
            f"{shown(file.path)} needs {needed / 2**30:.1f} GiB in memory, the limit is "
            f"{MAX_TEXT_BYTES / 2**30:.0f} GiB; take {shown(file.path)}?rows={nearest}, that is at most "
            "so many tokens of each split"
        )
    return UserText(name, _tokens(file, ranges), splits, len(file.names) or 256, file.names)


def _tokens(file: UserFile, ranges: Ranges) -> np.ndarray:
    """Tokens as int32."""
    limit = len(file.names) or 256
    pieces = []
    for lo, hi in ranges:
        for first, block in file.blocks(lo, hi):
            if block.max() >= limit or block.min() < 0:
                raise DataError(
                    f"{shown(file.path)}, token {first} or later: not in 0..{limit - 1}"
                )
            pieces.append(block.astype(np.int32))
    return np.concatenate(pieces)
