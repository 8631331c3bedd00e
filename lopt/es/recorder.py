"""What a search needs of the files it writes, without knowing them: they belong to a higher layer.

`lopt.search` registers how a directory becomes a `Recorder`; anything else that has its methods can
be handed to `lopt.es.minimize(out=...)` as well.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lopt.comm import Comm

ROW = ("step", "evaluations", "mean", "lowest", "best", "lost", "moved", "wall_s")


class Snapshot(NamedTuple):
    """A search between two steps.

    settings  what must not change between interruption and resumption, JSON-able
    arrays    everything else, named arrays
    """

    settings: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Recorder(Protocol):
    """Keeps a search; all ranks call its methods, collectively, with equal arguments."""

    def saved(self) -> Snapshot | None:
        """What to go on from; None: this is a new search.

        Raises:
            StoreError: there is nothing sound to resume, or a new search would overwrite an old one.
        """

    def append(self, row: Mapping[str, float]) -> None:
        """Add the figures of a step, one for each name of `ROW`, see docs/results.md."""

    def save(self, snapshot: Snapshot, x: np.ndarray, best_x: np.ndarray, state: str) -> None:
        """Make all rows and the snapshot survive a kill.

        Args:
            x: (D,) float64, the strategy's answer so far.
            best_x: (D,) float64, where the lowest loss was seen.
            state: "running", or how the search ended.
        """


_open: list[Callable[[Path, Comm, bool], Recorder]] = []


def register_files(function: Callable[[Path, Comm, bool], Recorder]) -> None:
    """Make `function(directory, comm, resume)` the way to a recorder of a directory."""
    _open[:] = [function]


def open_files(directory: Path, comm: Comm, resume: bool) -> Recorder:
    """The recorder of a directory."""
    return _open[0](directory, comm, resume)
