"""Objects that R saved, as far as data sets need them: vectors, factors and data frames in R's binary (XDR) form.

Source: R Internals, section 1.8 "Serialization Formats".  Nothing is run: functions, environments and calls are refused.
"""

import bz2
import gzip
import lzma
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lopt.errors import DataError

NIL, REFERENCE = 254, 255
SYMBOL, PAIRS, CHARS, LOGICAL, INTEGER, REAL, STRINGS, LIST = 1, 2, 9, 10, 13, 14, 16, 19
NUMBERS = {LOGICAL: np.dtype(">i4"), INTEGER: np.dtype(">i4"), REAL: np.dtype(">f8")}
MISSING = -(2**31)  # R's NA of integers
HAS_ATTRIBUTES, HAS_TAG = 1 << 9, 1 << 10
MAX_DEPTH = 100


class Vector(NamedTuple):
    """A vector of R: an array of numbers, or a list of texts (None: missing) or of objects; and its attributes."""

    values: Any
    attributes: Mapping[str, Any]

    @property
    def names(self) -> list[str]:
        """Names of the elements, of a data frame its columns."""
        return self.attributes["names"].values

    def column(self, name: str) -> np.ndarray:
        """A column of a data frame as float64, or as text if it is a factor.

        Raises:
            DataError: an integer or a class is missing.
        """
        found = self.values[self.names.index(name)]
        missing = found.values == MISSING
        if missing.any():
            raise DataError(f"column {name}, row {missing.argmax()}: missing")
        if "levels" in found.attributes:
            return np.array(found.attributes["levels"].values)[found.values - 1]
        return found.values.astype(np.float64)


def read_rda(data: bytes) -> dict[str, Any]:
    """The objects of an .rda file by name.

    Raises:
        DataError: not one, or an object of another kind.
    """
    for start, unpack in (
        (b"\xfd7zXZ", lzma.decompress), (b"\x1f\x8b", gzip.decompress), (b"BZh", bz2.decompress)
    ):  # fmt: skip
        if data.startswith(start):
            data = unpack(data)
    if data[:5] not in (b"RDX2\n", b"RDX3\n"):
        raise DataError(f"starts with {data[:5]!r}, which is no .rda file")
    return unserialize(data[5:])


def unserialize(data: bytes) -> Any:
    """The object that a serialised stream holds.

    Raises:
        DataError: not in XDR form, or an object of another kind.
    """
    if data[:2] != b"X\n":
        raise DataError(f"starts with {data[:2]!r}, expected R's XDR form")
    return _Stream(data).item(0)


class _Stream:
    """Reads one object after the other; symbols are kept, as later ones refer to them by number."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._symbols = data, 2, []
        version, _, _ = self._integer(), self._integer(), self._integer()
        if version == 3:  # names its native encoding
            self._bytes(self._integer())

    def _bytes(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if count < 0 or len(piece) < count:
            raise DataError(f"ends early, at offset {len(self._data)}")
        self._at += count
        return piece

    def _integer(self) -> int:
        return struct.unpack(">i", self._bytes(4))[0]

    def item(self, depth: int) -> Any:
        """The next object."""
        flags = self._integer()
        kind = flags & 255
        if kind == NIL:
            return None
        if kind == REFERENCE:
            return self._symbols[(flags >> 8 or self._integer()) - 1]
        if kind == SYMBOL:
            self._symbols.append(self.item(depth + 1))
            return self._symbols[-1]
        if kind == CHARS:
            count = self._integer()
            return None if count < 0 else self._bytes(count).decode("utf-8")
        if depth > MAX_DEPTH:
            raise DataError(f"objects nested deeper than {MAX_DEPTH}")
        if kind == PAIRS:
            return self._pairs(flags, depth)
        return self._vector(flags, depth)

    def _pairs(self, flags: int, depth: int) -> dict[str, Any]:
        """A list of tagged values, one cell behind the other."""
        found = {}
        while flags & 255 == PAIRS:
            if flags & HAS_ATTRIBUTES or not flags & HAS_TAG:
                raise DataError("a list without names")
            name = self.item(depth + 1)
            found[name] = self.item(depth + 1)
            flags = self._integer()
        return found

    def _vector(self, flags: int, depth: int) -> Vector:
        kind, values = flags & 255, None
        if kind not in (*NUMBERS, STRINGS, LIST):
            raise DataError(f"an object of R's type {kind}, expected vectors and lists")
        count = self._integer()
        if kind in NUMBERS:
            dtype = NUMBERS[kind]
            values = np.frombuffer(self._bytes(count * dtype.itemsize), dtype)
        else:
            values = [self.item(depth + 1) for _ in range(count)]
        attributes = self.item(depth + 1) if flags & HAS_ATTRIBUTES else {}
        return Vector(values, attributes)
