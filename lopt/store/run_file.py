"""The run file: an append-only log that may be read while it grows and after its writer was killed.

A row is written to every column first, then the row counter `/done` is bumped: a killed run leaves a file that is
short, never wrong.  Each cell carries a checksum, the texts are covered by one in the first line, and HDF5 guards its
own structures, so that damage is noticed wherever it falls.
"""

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from lopt.errors import StoreError
from lopt.layout import Layout
from lopt.store import container, schema
from lopt.store.live import LiveFile
from lopt.store.provenance import provenance

STATES = ("running", "finished", "time", "signal", "failed")
STATE_BYTES = max(len(s) for s in STATES)
CHUNK_BYTES = 8192  # a chunk is rewritten with every row it takes up
MEMBERS = ("+", "-")
PAUSES_S = (0.001, 0.01, 0.03)  # beside a living writer a read can meet half a write: look again

CHECKSUM = "checksum"
COLUMNS = {
    f.name: f
    for f in schema.fields("run", attributes=False)
    if f.path.startswith("/outer/") and f.name != CHECKSUM
}


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    return file[f"/outer/{name}"]


def _cell(name: str, value: object, shape: tuple[int, ...]) -> np.ndarray:
    """One row's value of a column, in the type and shape of the file."""
    cell = schema.encode(COLUMNS[name].dtype, value)
    if cell.shape != shape:
        raise StoreError(f"column {name} has shape {cell.shape} in this row, expected {shape}")
    return cell


def _checksums(values: np.ndarray, first_row: int) -> np.ndarray:
    """CRC-32 of each row of a column, uint32; starting from the row number, so that no row passes for another."""
    raw = memoryview(np.ascontiguousarray(values).reshape(-1)).cast("B")
    width = len(raw) // len(values) if len(values) else 0
    sums = (zlib.crc32(raw[i * width : (i + 1) * width], first_row + i) for i in range(len(values)))
    return np.fromiter(sums, np.uint32, len(values))


def _text_digest(attributes: Mapping[str, Any], axes: Mapping[str, Sequence[str]]) -> str:
    content = json.dumps([dict(attributes), {k: list(v) for k, v in axes.items()}], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _axes(layout: Layout, phases: Sequence[str]) -> dict[str, Sequence[str]]:
    return {"phase": phases, "block": layout.names, "member": MEMBERS, "column": tuple(COLUMNS)}


class RunReader:
    """A run file opened for reading, whether or not its writer is alive.

    `reader["meta_loss"]` is a column, shape (rows, ...); names and meanings in docs/results.md.

    rows          complete rows when the file was opened
    config_text   TOML
    theta_layout  Layout of theta
    tasks, phases names, in the order of `pair_groups` and `phase_s`
    provenance    list of dicts, one for the start and one for each resume
    state         "running" (also after a kill), "finished", "time", "signal" or "failed"

    Raises:
        StoreError: missing, empty, foreign, of another schema, truncated or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        for pause in (*PAUSES_S, None):
            header = container.expect_kind(self.path, "run")
            try:
                self._open()
                with container.reading(self.path):
                    self._read_header(header)
                return
            except StoreError:
                self.close()
                if pause is None:
                    raise
                time.sleep(pause)

    def _open(self) -> None:
        self._live: LiveFile | None = None
        self._file: h5py.File | None = None
        with container.reading(self.path):
            self._live = LiveFile(self.path, container.HEADER_BYTES)
            self._file = h5py.File(self._live, "r")

    def _read_header(self, header: container.Header) -> None:
        file = self._file
        schema.check(file, "run")
        texts = container.get_attributes(file, "run")
        names = ("phase", "block", "member", "column")
        axes = {name: schema.decode(file[f"/axes/{name}"][()]).tolist() for name in names}
        if _text_digest(texts, axes) != header.sha256:
            raise StoreError(f"{self.path} is damaged: its texts do not match their checksum")
        self.config_text: str = texts["config"]
        self.theta_layout = Layout.from_json(json.dumps(texts["theta_layout"]))
        self.tasks = tuple(texts["tasks"])
        self.provenance: list[dict[str, Any]] = texts["provenance"]
        self.phases = tuple(axes["phase"])
        self.state = bytes(file["state"][()]).decode().rstrip()
        if self.state not in STATES:
            raise StoreError(f"{self.path} is damaged: unknown state {self.state!r}")
        self.rows = self._read_rows()

    def _read_rows(self) -> int:
        """The row counter; it can be at most one behind the columns, even beside a living writer."""
        steps = _dataset(self._file, "outer_step")
        before = steps.shape[0]
        rows = int(self._file["done"][()])
        for name in (*COLUMNS, CHECKSUM):
            dataset = _dataset(self._file, name)
            dataset.id.refresh()
            if not before - 1 <= rows <= dataset.shape[0]:
                raise StoreError(
                    f"{self.path} is damaged: {rows} rows counted, {dataset.shape[0]} in {name}"
                )
        return rows

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in COLUMNS:
            raise KeyError(f"no column {name!r} in a run file (valid: {', '.join(COLUMNS)})")
        for pause in () if self.ended else PAUSES_S:
            try:
                return self._column(name)
            except StoreError:
                time.sleep(pause)
                self.close()
                self._open()
        return self._column(name)

    def _column(self, name: str) -> np.ndarray:
        with container.reading(self.path):
            dataset = _dataset(self._file, name)
            # Every counted row has been written; asked before memory is allocated.
            claimed = (
                dataset.dtype.itemsize * self.rows * int(np.prod(dataset.shape[1:], dtype=object))
            )
            if claimed > dataset.id.get_storage_size():
                raise StoreError(f"column {name} claims {claimed} bytes, more than are stored")
            values = dataset[: self.rows]
            known = _dataset(self._file, CHECKSUM)[: self.rows, list(COLUMNS).index(name)]
            wrong = np.flatnonzero(_checksums(values, 0) != known)
            if wrong.size:
                raise StoreError(f"row {wrong[0]} of column {name} does not match its checksum")
        return values

    @property
    def ended(self) -> bool:
        """Whether the run said good-bye; a killed one did not."""
        return self.state != "running"

    @property
    def n_pairs(self) -> int:
        """Antithetic pairs P of an outer step."""
        return _dataset(self._file, "pair_losses").shape[1]

    def close(self) -> None:
        """Close the file."""
        for file in (self._file, self._live):
            if file is not None:
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RunWriter:
    """The single writer of a run file; made by `create` or `resume`."""

    def __init__(self, path: Path, file: h5py.File, rows: int) -> None:
        self.path, self.rows = path, rows
        self._file: h5py.File | None = file
        self._failure: StoreError | None = None
        self._columns = {name: _dataset(file, name) for name in COLUMNS}
        self._checksum, self._done = _dataset(file, CHECKSUM), file["done"]

    @classmethod
    def create(
        cls, path: str | Path, *, config_text: str, theta_layout: Layout, tasks: Sequence[str],
        phases: Sequence[str], pairs: int, seed: int, ranks: int, device: str,
    ) -> Self:  # fmt: skip
        """Start a new run file.

        Raises:
            StoreError: `path` exists, or cannot be written.
        """
        container.refuse_existing(path)
        attributes = {
            "config": config_text,
            "theta_layout": json.loads(theta_layout.to_json()),
            "tasks": list(tasks),
            "provenance": [{"first_row": 0, **provenance(seed, ranks, device)}],
        }
        return cls._write_new(Path(path), attributes, _axes(theta_layout, phases), pairs, None, 0)

    @classmethod
    def resume(
        cls, path: str | Path, rows: int, *, config_text: str, seed: int, ranks: int, device: str
    ) -> Self:
        """Go on after the first `rows` rows of an existing file; later rows are dropped.

        HDF5 does not reopen a file whose SWMR writer was killed, so the rows move to a new file that takes its name.

        Raises:
            StoreError: the file is not sound, has fewer rows, or cannot be written; it is then left as it was.
        """
        path = Path(path)
        with RunReader(path) as old:
            if not 0 <= rows <= old.rows:
                raise StoreError(f"{path} has {old.rows} complete rows, cannot resume after {rows}")
            session = {"first_row": rows, **provenance(seed, ranks, device)}
            attributes = {
                "config": config_text,
                "theta_layout": json.loads(old.theta_layout.to_json()),
                "tasks": list(old.tasks),
                "provenance": [*old.provenance, session],
            }
            axes = _axes(old.theta_layout, old.phases)
            return cls._write_new(path, attributes, axes, old.n_pairs, old, rows)

    @classmethod
    def _write_new(
        cls, path: Path, attributes: dict[str, Any], axes: Mapping[str, Sequence[str]], pairs: int,
        old: RunReader | None, rows: int,
    ) -> Self:  # fmt: skip
        """Write a file with the first `rows` rows of `old` under a temporary name, rename it, go on in SWMR mode."""
        temporary = container.temporary_name(path)
        file = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = h5py.File(
                temporary, "w", libver=container.LIBVER, locking=False,
                userblock_size=container.HEADER_BYTES,
            )  # fmt: skip
            _lay_out(file, attributes, axes, pairs)
            if old is not None:
                _copy_rows(old, file, rows)
            file["done"][()] = rows
            file.flush()
            header = container.pack_header("run", _text_digest(attributes, axes))
            with open(temporary, "r+b") as raw:  # HDF5 leaves the user block to us
                raw.write(header)
                raw.flush()
                os.fsync(raw.fileno())
            file.swmr_mode = True
            container.replace(temporary, path)
        except StoreError:
            _abandon(file, temporary)
            raise
        except (OSError, RuntimeError, ValueError) as error:
            _abandon(file, temporary)
            raise container.write_failed(path, error) from error
        return cls(path, file, rows)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row: a value for every column, scalars or arrays of the column's shape.

        Raises:
            StoreError: a column is missing, unknown or of the wrong shape or type (nothing is written then), or the
                write failed, e.g. on a full disk (the rows before stay readable).
        """
        file = self._open_file()
        if wrong := sorted(set(row) ^ set(COLUMNS)):
            raise StoreError(f"columns {wrong} of this row do not match {list(COLUMNS)}")
        cells = {n: _cell(n, row[n], d.shape[1:]) for n, d in self._columns.items()}
        sums = [_checksums(cell[None], self.rows)[0] for cell in cells.values()]
        try:
            for name, dataset in self._columns.items():
                _grow(dataset, self.rows + 1)
                dataset[self.rows] = cells[name]
            _grow(self._checksum, self.rows + 1)
            self._checksum[self.rows] = np.array(sums, np.uint32)
            file.flush()
            self._done[()] = self.rows + 1
            file.flush()
        except (OSError, RuntimeError, ValueError) as error:
            raise self._give_up(error) from error
        self.rows += 1

    def sync(self) -> None:
        """Make all rows survive a power failure; call it before the checkpoint that relies on them."""
        self._open_file()
        try:
            with open(self.path, "r+b") as raw:
                os.fsync(raw.fileno())
        except OSError as error:
            raise container.write_failed(self.path, error) from error

    def finish(self, state: str) -> None:
        """Say how the run ended ("finished", "time", "signal" or "failed") and close.

        Raises:
            StoreError: unknown state, or the write failed.
        """
        if state not in STATES[1:]:
            raise StoreError(f"unknown end of a run {state!r} (valid: {', '.join(STATES[1:])})")
        file = self._open_file()
        try:
            file["state"][()] = _state_text(state)
            file.flush()
            self.sync()
            file.close()
        except (OSError, RuntimeError) as error:
            raise self._give_up(error) from error
        self._file = None

    def close(self) -> None:
        """Close without an end state, as if killed."""
        _abandon(self._file, None)
        self._file = None

    def _give_up(self, error: BaseException) -> StoreError:
        """Close after a failed write; later calls raise the same error again."""
        self.close()
        self._failure = container.write_failed(self.path, error)
        return self._failure

    def _open_file(self) -> h5py.File:
        if self._file is None:
            raise self._failure or StoreError(f"{self.path} is closed for writing")
        return self._file


def _grow(dataset: h5py.Dataset, rows: int) -> None:
    if dataset.shape[0] != rows:
        dataset.resize(rows, axis=0)


def _copy_rows(old: RunReader, file: h5py.File, rows: int) -> None:
    """Copy the first rows of every column, one column in memory at a time."""
    _grow(_dataset(file, CHECKSUM), rows)
    for i, name in enumerate(COLUMNS):
        values = old[name][:rows]
        _grow(_dataset(file, name), rows)
        _dataset(file, name)[...] = values
        _dataset(file, CHECKSUM)[:, i] = _checksums(values, 0)


def _state_text(state: str) -> np.bytes_:
    """All states in one length, as the dataset's type needs it."""
    return np.bytes_(state.encode().ljust(STATE_BYTES))


def _lay_out(
    file: h5py.File, attributes: Mapping[str, Any], axes: Mapping[str, Sequence[str]], pairs: int
) -> None:
    """All datasets, empty: HDF5 allows no new ones once readers may be there."""
    container.put_attributes(file, "run", attributes)
    lengths = {**{name: len(labels) for name, labels in axes.items()}, "pair": pairs}
    fixed = {
        "/done": np.int64(0),
        "/state": _state_text(STATES[0]),
        **{f"/axes/{n}": schema.encode("text", list(labels)) for n, labels in axes.items()},
    }
    for field in schema.fields("run", attributes=False):
        if field.path in fixed:
            dataset = file.create_dataset(field.path, data=fixed[field.path])
        else:
            shape = tuple(lengths[a] for a in field.axes[1:])
            width = max(1, np.dtype(field.dtype).itemsize * int(np.prod(shape)))
            chunk = (max(1, min(1024, CHUNK_BYTES // width)), *(max(1, n) for n in shape))
            dataset = file.create_dataset(
                field.path, (0, *shape), field.dtype, maxshape=(None, *shape), chunks=chunk
            )
        schema.describe(dataset, field)
    schema.attach_scales(file, "run")


def _abandon(file: h5py.File | None, temporary: Path | None) -> None:
    """Close a file as a killed writer would leave it, and remove the temporary one.

    After a failed write HDF5 keeps trying to write what it still holds, and crashes the process when
    that fails too; so its descriptor is pointed at the null device first.
    """
    if file is not None:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, file.id.get_vfd_handle())
        os.close(null)
        with contextlib.suppress(OSError, RuntimeError):
            file.close()
    if temporary is not None:
        temporary.unlink(missing_ok=True)
