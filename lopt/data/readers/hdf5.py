"""HDF5 files of any origin: data sets x and y, read in blocks of rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lopt.data.readers import base
from lopt.data.readers.registry import register_reader
from lopt.errors import DataError, unknown

if TYPE_CHECKING:
    import h5py

MAX_CHUNK_BYTES = 1 << 28  # HDF5 unpacks a chunk in one piece


@register_reader("hdf5")
def read_hdf5(
    path: Path, *, x: str = "x", y: str = "y", x_test: str = "", y_test: str = ""
) -> base.Rows:
    """Data sets of an HDF5 file.

    x, y             paths of examples (rows, ...) and labels (rows,) in the file
    x_test, y_test   paths of a test set, if it has its own

    Raises:
        DataError: no HDF5 file, damaged, a data set missing, of an odd type, kept in another file, or of
            a size that disagrees with what is stored.
    """
    base.regular_file(path)
    with base.reading(path):
        train = _part(path, x, y)
        return base.joined(train, _part(path, x_test, y_test)) if x_test or y_test else train


def _part(path: Path, x: str, y: str) -> base.Rows:
    import h5py

    place, place_y = (f"{base.shown(path)}: {name}" for name in (x, y))
    with h5py.File(path, "r") as file:
        data, labels = _dataset(file, x, place), _dataset(file, y, place_y)
        shape, dtype = data.shape, data.dtype
        if dtype.kind not in "biuf":
            raise DataError(f"{place} has type {dtype}, expected numbers")
        example = base.example_shape(place, shape)
        rows = shape[0]
        base.check_size(place, rows, int(np.prod(example)) * dtype.itemsize)
        if labels.shape not in ((rows,), (rows, 1)):
            raise DataError(f"{place_y} has shape {labels.shape}, expected ({rows},)")
        values = labels[()]
    found = base.labels_from(place_y, _texts(values), rows)

    def blocks() -> Iterator[np.ndarray]:
        step = base.block_rows(int(np.prod(example)) * dtype.itemsize)
        with base.reading(path), h5py.File(path, "r") as file:
            data = _dataset(file, x, place)
            if data.shape != shape or data.dtype != dtype:
                raise DataError(f"{place} changed while it was read")
            for lo in range(0, rows, step):
                block = data[lo : lo + step]
                yield block.reshape(len(block), *example)

    return base.Rows((path,), example, dtype, found, blocks, ((0, place),))


def _dataset(file: "h5py.File", name: str, place: str) -> "h5py.Dataset":
    """A data set that lies in this file and whose size is honest."""
    import h5py

    item: h5py.Group | h5py.Dataset = file
    for part in filter(None, name.split("/")):
        if not isinstance(item, h5py.Group) or part not in item:
            raise DataError(
                f"{base.shown(file.filename)}: {unknown('data set', name, _names(file))}"
            )
        if isinstance(item.get(part, getlink=True), h5py.ExternalLink):
            raise DataError(f"{place} is a link into another file; give that file")
        item = item[part]
    if not isinstance(item, h5py.Dataset):
        raise DataError(f"{place} is a group, not a data set; valid: {', '.join(_names(file))}")
    if item.external or item.is_virtual:
        raise DataError(f"{place} is kept in other files; give a file that holds the values")
    if item.shape is None:
        raise DataError(f"{place} is empty")
    if (
        item.chunks
        and int(np.prod(item.chunks, dtype=object)) * item.dtype.itemsize > MAX_CHUNK_BYTES
    ):
        raise DataError(f"{place} has chunks of {item.chunks}, at most {MAX_CHUNK_BYTES} bytes")
    text = h5py.check_string_dtype(item.dtype)
    if item.dtype.hasobject and text is None:
        raise DataError(f"{place} has type {item.dtype}, expected numbers or text")
    if not item.dtype.hasobject:  # texts of variable length lie elsewhere in the file
        claimed = int(np.prod(item.shape, dtype=object)) * item.dtype.itemsize
        stored = min(item.id.get_storage_size(), Path(file.filename).stat().st_size)
        base.check_claim(place, claimed, stored, packed=item.chunks is not None)
    return item


def _names(file: "h5py.File", limit: int = 20) -> list[str]:
    """Paths of the first data sets of a file."""
    found: list[str] = []

    def collect(name: str, item: object) -> bool | None:
        if hasattr(item, "shape"):
            found.append(name)
        return True if len(found) >= limit else None

    file.visititems(collect)
    return found


def _texts(values: np.ndarray) -> np.ndarray:
    """Variable-length texts, which h5py gives as bytes objects, as an array of str."""
    if values.dtype.kind != "O":
        return values
    flat = [v.decode("utf-8") if isinstance(v, bytes) else v for v in values.reshape(-1)]
    if not all(isinstance(v, str) for v in flat):
        raise DataError(f"labels of type {type(flat[0]).__name__}, expected integers or text")
    return np.array(flat, dtype=np.str_).reshape(values.shape)
