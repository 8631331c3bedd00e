"""NumPy archives (.npz): arrays x and y; read as a stream, never unpickled."""

import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from lopt.data.readers import base
from lopt.data.readers.registry import register_reader
from lopt.errors import DataError, unknown


@register_reader("npz")
def read_npz(
    path: Path, *, x: str = "x", y: str = "y", x_test: str = "", y_test: str = ""
) -> base.Rows:
    """Arrays of a NumPy archive, compressed or not.

    x, y             names of examples (rows, ...) and labels (rows,)
    x_test, y_test   names of the arrays of a test set, if it has its own

    Raises:
        DataError: no archive, damaged, an array missing, of Python objects, in Fortran order or of a
            size that disagrees with the file.
    """
    base.regular_file(path)
    with base.reading(path):
        train = part(path, x, y)
        return base.joined(train, part(path, x_test, y_test)) if x_test or y_test else train


def part(path: Path, x: str, y: str) -> base.Rows:
    """Examples and labels out of the arrays of those names; read them within `base.reading`."""
    place = f"{base.shown(path)}: array {x!r}"
    with zipfile.ZipFile(path) as archive:
        with _array(archive, path, y) as (file, shape, dtype):
            name = f"{base.shown(path)}: array {y!r}"
            base.check_size(name, shape[0] if shape else 0, dtype.itemsize)
            labels = np.concatenate(
                list(base.stream_blocks(file, shape[0], shape[1:], dtype, name))
            )
        with _array(archive, path, x) as (_, shape, dtype):
            pass
    example = base.example_shape(place, shape)
    rows = shape[0]
    base.check_size(place, rows, int(np.prod(example)) * dtype.itemsize)
    if dtype.kind not in "biuf":
        raise DataError(f"{place} has type {dtype}, expected numbers")
    labels = base.labels_from(f"{base.shown(path)}: array {y!r}", labels, rows)

    def blocks() -> Iterator[np.ndarray]:
        with base.reading(path), zipfile.ZipFile(path) as archive:  # noqa: SIM117
            with _array(archive, path, x) as (file, _, _):
                yield from base.stream_blocks(file, rows, example, dtype, place)

    return base.Rows((path,), example, dtype, labels, blocks, ((0, place),))


class _array:
    """Opens a member of the archive after its header has been checked: (stream, shape, dtype)."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, name: str) -> None:
        members = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
        if name not in members:
            raise DataError(
                f"{base.shown(path)}: {unknown('array', name, itertools.islice(members, 20))}"
            )
        self._place, self._info = f"{base.shown(path)}: array {name!r}", members[name]
        self._file = archive.open(self._info)

    def __enter__(self) -> tuple[IO[bytes], tuple[int, ...], np.dtype]:
        try:
            return self._open()
        except BaseException:
            self._file.close()
            raise

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _open(self) -> tuple[IO[bytes], tuple[int, ...], np.dtype]:
        version = np.lib.format.read_magic(self._file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise DataError(f"{self._place} has .npy format {version}, expected (1, 0) or (2, 0)")
        shape, fortran, dtype = readers[version](self._file)
        if dtype.hasobject:
            raise DataError(
                f"{self._place} holds Python objects, that is a pickle, which is never loaded; "
                "save it as an array of numbers"
            )
        if fortran and len(shape) > 1:
            raise DataError(
                f"{self._place} is in Fortran order, which cannot be read row by row; "
                "save np.ascontiguousarray of it"
            )
        # before the type is used for anything: no element of 0 bytes, no negative length
        if dtype.itemsize < 1 or any(n < 0 for n in shape):
            raise DataError(f"{self._place} has shape {shape} and type {dtype}")
        claimed = dtype.itemsize
        for n in shape:
            claimed *= n
        there = self._info.file_size - self._file.tell()
        if claimed != there:
            raise DataError(f"{self._place} claims {claimed} bytes, but {there} bytes are there")
        packed = self._info.compress_type != zipfile.ZIP_STORED
        base.check_claim(self._place, claimed, self._info.compress_size, packed)
        return self._file, shape, dtype
