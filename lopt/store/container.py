"""What all files share: the first line, atomic replacement, sealed images, errors in lopt's own words."""

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from lopt.errors import LoptError, StoreError
from lopt.store import schema

# Superblock, object headers and indices of this format carry checksums; older HDF5 (1.10) still reads it.
LIBVER = ("v110", "v110")
HEADER_BYTES = 512
PACKED_FROM = 4096  # elements; curves of a comparison are many and smooth
DEFLATE_AT_MOST = 1032  # bytes made of one (RFC 1951: 258 of 2 bits)
PACKING = {"compression": "gzip", "shuffle": True}
SIGNATURE = b"\x89HDF\r\n\x1a\n"
# What h5py and the decoding of damaged content raise.
DAMAGE = (
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    MemoryError,
    ArithmeticError,
)


class Header(NamedTuple):
    """First line of a file: kind, and the SHA-256 of what it seals (hexadecimal)."""

    kind: str
    sha256: str
    size: int | None  # bytes of a sealed file; None for one that grows


def pack_header(kind: str, sha256: str, size: int | None = None) -> bytes:
    """The first `HEADER_BYTES` bytes of a file."""
    content = {"lopt": kind, "schema": schema.VERSION, "sha256": sha256, "bytes": size}
    return json.dumps(content).encode().ljust(HEADER_BYTES - 1) + b"\n"


def read_header(path: Path) -> Header:
    """Kind of a file, without HDF5.

    Raises:
        StoreError: missing, empty, foreign, damaged first line, or of another schema version.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise StoreError(f"{path} is empty")
    if not head.startswith(b'{"lopt": '):
        what = (
            "an HDF5 file, but not one of lopt's"
            if head.startswith(SIGNATURE)
            else "not a lopt file"
        )
        raise StoreError(f"{path} is {what}")
    try:
        content = json.loads(head)
        version, size = content["schema"], content["bytes"]
        header = Header(
            content["lopt"], str(content["sha256"]), None if size is None else int(size)
        )
    except DAMAGE as error:
        raise StoreError(f"{path}: its first line is damaged or cut off") from error
    if version != schema.VERSION:
        older = isinstance(version, int) and version < schema.VERSION
        raise StoreError(
            f"{path} has {'the older ' if older else ''}schema {version!r}, this lopt reads schema {schema.VERSION}"
            + ("" if older else "; a newer lopt may have written it")
        )
    if header.kind not in schema.KINDS:
        raise StoreError(f"{path}: unknown kind of file {header.kind!r}")
    return header


def kind_of(path: str | Path) -> str:
    """ "run", "checkpoint", "weights" or "eval"; raises as `read_header`."""
    return read_header(Path(path)).kind


def expect_kind(path: Path, kind: str) -> Header:
    """The header of a file that must be of one kind.

    Raises:
        StoreError: as `read_header`, or of another kind.
    """
    header = read_header(path)
    if header.kind != kind:
        raise StoreError(f"{path} is a {header.kind} file, expected a {kind} file")
    return header


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever damaged content raises into a StoreError that names the file."""
    try:
        yield
    except LoptError as error:
        named = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise StoreError(named) from error
    except DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreError(f"{path} is damaged: {reason}") from error


# Writing


def refuse_existing(path: str | Path) -> None:
    """Called before work whose result would go to `path`.

    Raises:
        StoreError: there is something already.
    """
    if os.path.lexists(path):
        raise StoreError(f"{path} exists already and is not overwritten; choose another name")


def write_temporary(path: Path, data: bytes | memoryview) -> Path:
    """Write and fsync `data` beside `path`, under the temporary name that is returned.

    Raises:
        StoreError: disk full or any other failure; the temporary file is removed, `path` untouched.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
    except OSError as error:
        raise write_failed(path, error, temporary) from error
    return temporary


def temporary_name(path: Path) -> Path:
    """One fixed name: what a killed writer left behind is overwritten by the next."""
    return path.with_name(f".{path.name}.tmp")


def replace(source: Path, target: Path) -> None:
    """Rename, replacing `target`, and make the renaming durable."""
    os.replace(source, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_failed(path: Path, error: BaseException, temporary: Path | None = None) -> StoreError:
    """The error to raise after a failed write; removes the temporary file."""
    if temporary is not None:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    text, code = str(error), getattr(error, "errno", None)
    within = re.search(r"error message = '([^']+)'", text)  # HDF5 wraps what the system said
    if within:
        reason = within.group(1)
    else:
        reason = os.strerror(code) if code else (text.splitlines() or [type(error).__name__])[0]
    return StoreError(f"cannot write {path}: {reason}; what was there before is intact")


# Sealed files: written in one piece, never changed


def seal(kind: str, attributes: Mapping[str, Any], datasets: Mapping[str, Any]) -> memoryview:
    """Bytes of a whole file with the datasets and attributes of `kind`, described by the table, and its SHA-256.

    Built in memory, so that a full disk meets one plain write and not the HDF5 library.

    Raises:
        StoreError: a dataset or attribute is missing or not in the table, or cannot be stored.
    """
    image = io.BytesIO()
    with h5py.File(image, "w", libver=LIBVER, userblock_size=HEADER_BYTES) as file:
        put_attributes(file, kind, attributes)
        put_datasets(file, kind, datasets)
        schema.check(file, kind)
        schema.attach_scales(file, kind)
    view = image.getbuffer()
    digest = hashlib.sha256(view[HEADER_BYTES:]).hexdigest()
    view[:HEADER_BYTES] = pack_header(kind, digest, len(view))
    return view


def put_attributes(file: h5py.File, kind: str, values: Mapping[str, Any]) -> None:
    """Write all root attributes of a kind; "json" ones are serialised here."""
    table = schema.fields(kind, attributes=True)
    _expect_names(kind, "attributes", values, [f.name for f in table])
    for field in table:
        value = values[field.name]
        file.attrs[field.name] = schema.encode(
            field.dtype, json.dumps(value) if field.dtype == "json" else value
        )


def get_attributes(file: h5py.File, kind: str) -> dict[str, Any]:
    """Inverse of `put_attributes`."""
    found = {}
    for field in schema.fields(kind, attributes=True):
        if field.name not in file.attrs:
            raise StoreError(f"attribute {field.name} is missing")
        text = bytes(file.attrs[field.name]).decode()
        found[field.name] = json.loads(text) if field.dtype == "json" else text
    return found


def put_datasets(file: h5py.File, kind: str, values: Mapping[str, Any]) -> None:
    """Write datasets by path; a wildcard of the table takes all paths below it."""
    table = schema.fields(kind, attributes=False)
    wild = {p: f for f in table if f.dtype == "any" for p in values if p.startswith(f.path[:-1])}
    plain = {f.path: f for f in table if f.dtype != "any"}
    _expect_names(kind, "datasets", values, [*plain, *wild])
    for path, field in {**plain, **wild}.items():
        data = schema.encode(field.dtype, values[path])
        packed = PACKING if kind == "curves" and np.size(data) >= PACKED_FROM else {}
        schema.describe(file.create_dataset(path, data=data, track_order=False, **packed), field)


def _expect_names(kind: str, what: str, given: Mapping[str, Any], wanted: list[str]) -> None:
    if wrong := sorted(set(given) ^ set(wanted)):
        raise StoreError(f"{kind} file: {what} {wrong} do not match the schema's {sorted(wanted)}")


@contextlib.contextmanager
def unsealed(path: Path, kind: str) -> Iterator[h5py.File]:
    """A sealed file opened for reading, after its length and checksum have been verified.

    Raises:
        StoreError: as `expect_kind`; truncated; checksum wrong; datasets not as in the table.
    """
    header = expect_kind(path, kind)
    with reading(path), open(path, "rb") as raw:
        size = os.fstat(raw.fileno()).st_size
        if size != header.size:
            raise StoreError(f"{path} is truncated or padded: {size} bytes, expected {header.size}")
        raw.seek(HEADER_BYTES)
        if hashlib.file_digest(raw, "sha256").hexdigest() != header.sha256:
            raise StoreError(f"{path} is damaged: its content does not match its checksum")
        with h5py.File(raw, "r") as file:
            schema.check(file, kind)
            yield file


def get_array(file: h5py.File, path: str, packed: bool = False) -> np.ndarray:
    """A whole dataset of a sealed file, refused before memory is allocated if the file cannot hold what it claims.

    Claimed and stored bytes are equal, or it may be packed and deflate can have made the one of the other.
    """
    dataset = file[path]
    stored = dataset.id.get_storage_size()
    claimed = dataset.dtype.itemsize * int(np.prod(dataset.shape, dtype=object))
    squeezed = packed and dataset.compression == "gzip"
    if claimed != stored and not (squeezed and claimed <= DEFLATE_AT_MOST * stored):
        raise StoreError(
            f"dataset {path} claims shape {dataset.shape}, {claimed} bytes, but {stored} bytes are stored"
        )
    return schema.decode(np.asarray(dataset[()]))
