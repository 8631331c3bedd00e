"""Rows of a large file as an array that is never in memory as a whole.

The system reads the pages that are touched, shares them between the processes of a machine, and drops them when memory
runs short.
"""

import mmap
from pathlib import Path

import numpy as np

from lopt.data.readers.base import shown
from lopt.errors import DataError


class _Map:
    """A map of a file for reading, which NumPy takes for an array of float32.

    It is not flagged read-only, because Numba's declared signatures refuse such arrays; writing to it ends the process.
    A copy-on-write map would be writable, but its whole length counts as memory of the process (RLIMIT_DATA, overcommit).
    """

    def __init__(self, path: Path, start: int, count: int) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        address = np.frombuffer(self._map, np.uint8).ctypes.data + start
        self.__array_interface__ = {
            "version": 3,
            "typestr": "<f4",
            "shape": (count,),
            "data": (address, False),
        }


def mapped_floats(path: Path, start: int, length: int) -> np.ndarray:
    """`length` bytes of a file from offset `start` on as (ceil(length / 4),) float32, read when they are touched.

    Raises:
        DataError: the file cannot be mapped, or is too short; or `start` is no multiple of 4.
    """
    count, size = -(-length // 4), path.stat().st_size
    if start % 4 or start + 4 * count > size:
        raise DataError(
            f"{shown(path)}: rows at {start}..{start + length} of {size} bytes cannot be mapped; import it again"
        )
    try:
        return np.asarray(_Map(path, start, count))
    except OSError as error:
        raise DataError(f"cannot map {shown(path)} into memory: {error.strerror}") from error
