"""The file of a black-box search: one row per step, and the answer so far."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lopt.errors import StoreError
from lopt.store import container, schema

_STEPS = "/steps/"
ROW = tuple(f.name for f in schema.fields("search", attributes=False) if f.path.startswith(_STEPS))


def save_search(
    path: str | Path,
    rows: Sequence[Mapping[str, float]],
    x: np.ndarray,
    best_x: np.ndarray,
    state: str,
    settings: Mapping[str, Any],
    provenance: Sequence[Mapping[str, Any]],
) -> Path:
    """Write the file of a search, replacing the one before.

    Args:
        rows: a value for every column, in the order of the steps.
        x, best_x: (D,) float64.

    Raises:
        StoreError: a row does not have the columns, or the write failed; the old file is intact.
    """
    path = Path(path)
    for row in rows:
        if wrong := sorted(set(row) ^ set(ROW)):
            raise StoreError(f"columns {wrong} of a row do not match {list(ROW)}")
    types = {f.name: f.dtype for f in schema.fields("search", attributes=False)}
    datasets = {
        "/state": state,
        "/x": x,
        "/best_x": best_x,
        **{f"{_STEPS}{name}": np.array([r[name] for r in rows], types[name]) for name in ROW},
    }
    attributes = {"settings": dict(settings), "provenance": [dict(p) for p in provenance]}
    temporary = container.write_temporary(path, container.seal("search", attributes, datasets))
    try:
        container.replace(temporary, path)
    except OSError as error:
        raise container.write_failed(path, error, temporary) from error
    return path


class SearchReader:
    """Content of the file of a search, read at once; `reader["best"]` is a column, shape (rows,).

    rows        steps done
    x, best_x   (D,) float64
    state       "running" (also after a kill), or how the search ended
    settings    dict; provenance: list of dicts, one for the start and one for each resume

    Raises:
        StoreError: missing, empty, foreign, of another schema, truncated or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with container.unsealed(self.path, "search") as file:
            texts = container.get_attributes(file, "search")
            self.settings: dict[str, Any] = texts["settings"]
            self.provenance: list[dict[str, Any]] = texts["provenance"]
            self.state = str(container.get_array(file, "/state"))
            self.x = container.get_array(file, "/x")
            self.best_x = container.get_array(file, "/best_x")
            self._columns = {n: container.get_array(file, f"{_STEPS}{n}") for n in ROW}
        self.rows = self._columns["step"].size

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._columns:
            raise KeyError(f"no column {name!r} in a search file (valid: {', '.join(ROW)})")
        return self._columns[name]

    def row(self, i: int) -> dict[str, float]:
        """Row i as it was given to `save_search`."""
        return {name: column[i].item() for name, column in self._columns.items()}
