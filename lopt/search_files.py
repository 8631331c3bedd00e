"""Where `lopt.es.minimize(out=DIR)` keeps a search: search.h5 and the checkpoints; only rank 0 writes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lopt.comm import Comm
from lopt.errors import StoreError
from lopt.es.recorder import Snapshot, register_files


class SearchFiles:
    """The recorder of a directory, see `lopt.es.recorder.Recorder`.

    The rows are written before the checkpoint that relies on them: there are never too few.

    Raises:
        StoreError: rank 0: `resume` is False and there is a search, or True and there is none.
    """

    def __init__(self, out: Path, comm: Comm, resume: bool) -> None:
        self._out, self._comm, self._resume = out, comm, resume
        self._rows: list[dict[str, float]] = []
        self._sessions: list[dict[str, Any]] = []  # provenance: start and resumes
        self._began = False
        self._checkpoint: Any = None
        if comm.rank != 0:
            return
        from lopt import store  # HDF5 is loaded where it is used only

        self._store = store
        if not resume:
            for name in ("search.h5", "checkpoint.h5"):
                store.refuse_existing(out / name)
            return
        self._checkpoint = store.load_checkpoint(out)
        old = store.SearchReader(out / "search.h5")
        rows = int(self._checkpoint.meta["rows"])
        if old.rows < rows:
            raise StoreError(f"{old.path} has {old.rows} rows, its checkpoint is of row {rows}")
        self._rows = [old.row(i) for i in range(rows)]
        self._sessions = old.provenance

    def saved(self) -> Snapshot | None:
        """The checkpoint on every rank, None if the search is new."""
        if not self._resume:
            return None
        found = self._checkpoint
        settings = self._comm.bcast(found.meta["settings"] if found else None)
        return Snapshot(settings, self._comm.bcast_arrays(found.arrays if found else None))

    def append(self, row: Mapping[str, float]) -> None:
        """Keep a row for the next `save`."""
        if self._comm.rank == 0:
            self._rows.append(dict(row))

    def save(self, snapshot: Snapshot, x: np.ndarray, best_x: np.ndarray, state: str) -> None:
        """Write both files, one after the other."""
        if self._comm.rank != 0:
            return
        settings = snapshot.settings
        if not self._began:
            origin = self._store.provenance(settings["seed"], self._comm.size, "cpu")
            self._sessions = [*self._sessions, {"first_row": len(self._rows), **origin}]
            self._began = True
        path = self._out / "search.h5"
        self._store.save_search(path, self._rows, x, best_x, state, settings, self._sessions)
        meta = {"settings": settings, "rows": len(self._rows)}
        self._store.save_checkpoint(self._out, snapshot.arrays, meta)


register_files(SearchFiles)
