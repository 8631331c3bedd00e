"""Curves files: many inner training runs of many optimizers, a row a run, replaced as a whole while they grow."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from lopt.errors import StoreError
from lopt.store import container, schema

RUN_COLUMNS = (
    "task",
    "entrant",
    "seed",
    "train",
    "valid",
    "test",
    "status",
    "status_step",
    "wall_s",
)
INDEX_COLUMNS = ("task", "entrant", "seed", "status", "status_step")


@dataclasses.dataclass(frozen=True)
class EntrantInfo:
    """What a curves file says of an optimizer.

    label    its name, one of a kind in the file
    family   what it is a variant of: all trials of a search share it
    variant  "learned", "default" or "tuned" (one trial of a search over hyper-parameters)
    trial    number in the order of the search; 0 for a single setting
    spec     JSON of what it was built from; another spec is another optimizer, whatever its label
    """

    label: str
    family: str
    variant: str
    trial: int
    spec: str


@dataclasses.dataclass(frozen=True)
class Curves:
    """Content of a curves file.

    settings     what all runs share: steps, batches per loss, ceiling
    provenance   one entry for each time the file was gone on with
    tasks, families, lowest   names, families, lowest known losses (-inf: none known) of the tasks
    entrants     the optimizers
    steps        (M,) int64 inner steps done at each loss, 0 first
    runs         columns by name: task, entrant, seed, status, status_step (R,) int64; test, wall_s (R,) float64;
                 train, valid (R, M) float32: loss of training batches, mean since the step before, and outer-validation
                 loss
    """

    settings: dict[str, Any]
    provenance: list[dict[str, Any]]
    tasks: tuple[str, ...]
    families: tuple[str, ...]
    lowest: np.ndarray
    entrants: tuple[EntrantInfo, ...]
    steps: np.ndarray
    runs: dict[str, np.ndarray]

    def rows(self, task: int, entrant: int) -> np.ndarray:
        """Rows of one optimizer on one task, by seed."""
        mine = np.flatnonzero((self.runs["task"] == task) & (self.runs["entrant"] == entrant))
        return mine[np.argsort(self.runs["seed"][mine], kind="stable")]

    def members(self, family: str) -> list[int]:
        """Entrants of a family, by trial."""
        mine = [k for k, e in enumerate(self.entrants) if e.family == family]
        return sorted(mine, key=lambda k: self.entrants[k].trial)

    def kinds(self, variant: str) -> list[str]:
        """Families of a variant, in the file's order."""
        return list(dict.fromkeys(e.family for e in self.entrants if e.variant == variant))


def no_runs(points: int) -> dict[str, np.ndarray]:
    """The columns of an empty file."""
    found: dict[str, np.ndarray] = {n: np.zeros(0, np.int64) for n in INDEX_COLUMNS}
    found |= {n: np.zeros(0) for n in ("test", "wall_s")}
    return found | {n: np.zeros((0, points), np.float32) for n in ("train", "valid")}


def save_curves(path: str | Path, curves: Curves) -> Path:
    """Write a curves file, atomically replacing an older one.

    Raises:
        StoreError: arrays do not fit each other; disk full or any other failure (an older file is intact).
    """
    path = Path(path)
    entrants = curves.entrants
    datasets = {
        "/task": list(curves.tasks),
        "/family": list(curves.families),
        "/lowest": np.asarray(curves.lowest, np.float64),
        "/entrant": [e.label for e in entrants],
        "/entrants/family": [e.family for e in entrants],
        "/entrants/variant": [e.variant for e in entrants],
        "/entrants/trial": np.array([e.trial for e in entrants], np.int64),
        "/entrants/spec": [e.spec for e in entrants],
        "/step": np.asarray(curves.steps, np.int64),
        **{f"/runs/{n}": curves.runs[n] for n in RUN_COLUMNS},
    }
    attributes = {"settings": curves.settings, "provenance": curves.provenance}
    temporary = container.write_temporary(path, container.seal("curves", attributes, datasets))
    try:
        container.replace(temporary, path)
    except OSError as error:
        raise container.write_failed(path, error, temporary) from error
    return path


def read_curves(path: str | Path) -> Curves:
    """Content of a curves file.

    Raises:
        StoreError: missing, empty, foreign, of another schema, truncated or damaged; a run points outside the tasks or
            entrants.
    """
    path = Path(path)
    with container.unsealed(path, "curves") as file:
        attributes = container.get_attributes(file, "curves")
        data = {p: container.get_array(file, p, packed=True) for p in schema.dataset_paths(file)}
        columns = zip(
            data["/entrant"],
            *(data[f"/entrants/{n}"].tolist() for n in ("family", "variant", "trial", "spec")),
            strict=True,
        )
        entrants = tuple(EntrantInfo(*row) for row in columns)
        for entrant in entrants:
            json.loads(entrant.spec)
    runs = {n: data[f"/runs/{n}"] for n in RUN_COLUMNS}
    for name, size in (("task", data["/task"].size), ("entrant", len(entrants))):
        if ((runs[name] < 0) | (runs[name] >= size)).any():
            raise StoreError(f"{path}: /runs/{name} points outside the {size} there are")
    return Curves(
        attributes["settings"], attributes["provenance"], tuple(data["/task"]),
        tuple(data["/family"]), data["/lowest"], entrants, data["/step"], runs,
    )  # fmt: skip
