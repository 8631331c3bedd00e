"""Writes the HDF5 layout of `lopt.data.user_file`, rows in any order, none of them kept in memory."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from lopt.data.readers.base import block_rows, read_exactly, shown
from lopt.data.user_file import HEADER_BYTES, VERSION, Field, Header, fields, seal_of
from lopt.errors import DataError

LIBVER = ("v110", "v110")  # read by HDF5 1.10 and later


class Writer:
    """Writes one file; rows may come in any order and are never all in memory.

    Use as a context manager: on success the file is sealed, flushed and renamed into place, on failure
    nothing is left.

    Args:
        kind: "rows" or "text".
        rows, dtype: shape and type of the rows' data set.
        arrays: the other data sets but /digest, by name.
        provenance: where the data came from; must go into JSON.

    Raises:
        DataError: the file exists already, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        shape: tuple[int, ...],
        dtype: str,
        arrays: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> None:
        if os.path.lexists(path):
            raise DataError(
                f"{shown(path)} exists already and is not overwritten; choose another name"
            )
        self._path, self._temporary = path, path.with_name(f".{path.name}.tmp")
        self._row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
        self._rows, self._step = shape[0], block_rows(self._row_bytes)
        self._dtype = np.dtype(f"<{dtype}")
        with _writing(path, self._temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._frame(kind, shape, arrays, provenance)
            self._file = open(self._temporary, "r+b", buffering=0)  # noqa: SIM115

    def _frame(
        self, kind: str, shape: tuple[int, ...], arrays: Mapping, provenance: Mapping
    ) -> None:
        """Everything but rows and digests, which get their place."""
        import h5py

        with h5py.File(self._temporary, "w", libver=LIBVER, userblock_size=HEADER_BYTES) as file:
            file.attrs["kind"] = kind
            file.attrs["provenance"] = json.dumps(provenance)
            holder, *others = fields(kind)
            blocks = -(-self._rows // self._step)
            self._start = _reserve(file, holder, shape, self._dtype)
            digest = next(f for f in others if f.path == "/digest")
            self._digest = _reserve(file, digest, (blocks, 32), np.dtype("u1"))
            file["digest"].attrs["rows"] = self._step
            for field in others:
                if field is not digest:
                    _describe(_create(file, field, arrays[field.path[1:]]), field)

    def __enter__(self) -> Self:
        return self

    def put(self, positions: np.ndarray, block: np.ndarray) -> None:
        """Write row i of `block` as row positions[i] of the file.

        Raises:
            DataError: disk full, or any other failure.
        """
        data = memoryview(np.ascontiguousarray(block, self._dtype)).cast("B")
        size = self._row_bytes
        with _writing(self._path, self._temporary):
            if np.array_equal(positions, np.arange(positions[0], positions[0] + len(positions))):
                self._write(self._start + int(positions[0]) * size, data)
                return
            for i, position in enumerate(positions.tolist()):
                self._write(self._start + position * size, data[i * size : (i + 1) * size])

    def _write(self, offset: int, data: memoryview) -> None:
        while data:
            n = os.pwrite(self._file.fileno(), data, offset)
            offset, data = offset + n, data[n:]

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self._file.close()
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            return
        with _writing(self._path, self._temporary), self._file:
            self._digest_rows()
            self._seal()
            os.fsync(self._file.fileno())
        with _writing(self._path, self._temporary):
            os.replace(self._temporary, self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _digest_rows(self) -> None:
        for block, lo in enumerate(range(0, self._rows, self._step)):
            self._file.seek(self._start + lo * self._row_bytes)
            length = min(self._step, self._rows - lo) * self._row_bytes
            digest = hashlib.sha256(
                read_exactly(self._file, length, shown(self._temporary))
            ).digest()
            self._write(self._digest + 32 * block, memoryview(digest))

    def _seal(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        header = Header("", size, self._start, self._rows * self._row_bytes)
        header = header._replace(sha256=seal_of(self._file, header))
        line = json.dumps({"lopt": "data", "schema": VERSION, **header._asdict()}).encode()
        self._write(0, memoryview(line.ljust(HEADER_BYTES - 1) + b"\n"))


def _reserve(file: Any, field: Field, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Offset of a contiguous data set that will be written past the HDF5 library."""
    import h5py

    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    space = h5py.h5s.create_simple(shape)
    kind = h5py.h5t.py_create(dtype)
    identifier = h5py.h5d.create(file.id, field.path.encode(), kind, space, creation)
    _describe(h5py.Dataset(identifier), field)
    return identifier.get_offset()


def _create(file: Any, field: Field, values: Any) -> Any:
    import h5py

    if field.dtypes == ("text",):
        return file.create_dataset(
            field.path, data=np.array(list(values), object), dtype=h5py.string_dtype("utf-8")
        )
    return file.create_dataset(field.path, data=np.asarray(values, f"<{field.dtypes[0]}"))


def _describe(dataset: Any, field: Field) -> None:
    dataset.attrs["meaning"] = field.meaning
    dataset.attrs["axes"] = ", ".join(field.axes)


@contextlib.contextmanager
def _writing(path: Path, temporary: Path) -> Iterator[None]:
    """Turn a failure to write into a DataError, without leaving the temporary file."""
    try:
        yield
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DataError(f"cannot write {shown(path)}: {reason}") from error
