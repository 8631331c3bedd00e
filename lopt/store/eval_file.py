"""Evaluation files: raw traces of every optimizer on every task, and the final-loss table made of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lopt.errors import StoreError
from lopt.store import container, schema


class EvalRow(NamedTuple):
    """One line of the final-loss table; `rate` is NaN for a default, `entrant` an index."""

    task: str
    family: str
    variant: str  # "learned", "default" or "tuned"
    entrant: int
    rate: float
    mean: float
    se: float
    n_bad: int


class Results(Protocol):
    """What `save_eval` stores; the arrays' axes are those of docs/results.md."""

    tasks: Sequence[str]
    entrants: Sequence[str]
    families: Sequence[str]
    rates: np.ndarray  # (entrant,), NaN: default
    steps: np.ndarray  # (M,)
    outer_loss: np.ndarray  # (task, entrant, seed, M)
    test_loss: np.ndarray  # (task, entrant, seed)
    status: np.ndarray  # (task, entrant, seed)
    seconds: np.ndarray  # (task, entrant, seed)


def save_eval(
    path: str | Path, results: Results, rows: Sequence[Any], provenance: Mapping[str, Any]
) -> Path:
    """Write an evaluation file; `rows` have the attributes of `EvalRow`.

    Raises:
        StoreError: `path` exists (ask `refuse_existing` before the work), or a write failed, or arrays do not fit.
    """
    path = Path(path)
    container.refuse_existing(path)
    tasks = list(results.tasks)
    rates = np.asarray(results.rates, np.float64)
    column = lambda name, dtype: np.array([getattr(r, name) for r in rows], dtype)  # noqa: E731
    datasets = {
        "/task": tasks,
        "/optimizer": list(results.entrants),
        "/seed": np.arange(results.test_loss.shape[2], dtype=np.int64),
        "/step": results.steps,
        "/entrant/family": list(results.families),
        "/entrant/learning_rate": rates,
        "/entrant/is_tuned": np.isfinite(rates).astype(np.int64),
        "/trace/outer_loss": results.outer_loss,
        "/trace/test_loss": results.test_loss,
        "/trace/status": results.status,
        "/trace/wall_s": results.seconds,
        "/table/task": np.array([tasks.index(r.task) for r in rows], np.int64),
        "/table/entrant": column("entrant", np.int64),
        "/table/family": [r.family for r in rows],
        "/table/variant": [r.variant for r in rows],
        "/table/learning_rate": column("rate", np.float64),
        "/table/mean": column("mean", np.float64),
        "/table/se": column("se", np.float64),
        "/table/n_bad": column("n_bad", np.int64),
    }
    image = container.seal("eval", {"provenance": dict(provenance)}, datasets)
    temporary = container.write_temporary(path, image)
    try:
        container.replace(temporary, path)
    except OSError as error:
        raise container.write_failed(path, error, temporary) from error
    return path


class EvalReader:
    """Content of an evaluation file, read at once.

    tasks, entrants, families   names; rates (entrant,) float64, NaN: default; is_tuned (entrant,) bool
    steps                       (M,) int64, inner steps done at each loss
    outer_loss                  (task, entrant, seed, M) float32
    test_loss, status, seconds  (task, entrant, seed)
    seeds                       number of seeds
    rows                        the final-loss table, a list of `EvalRow`
    provenance                  dict

    Raises:
        StoreError: missing, empty, foreign, of another schema, truncated or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with container.unsealed(self.path, "eval") as file:
            self.provenance = container.get_attributes(file, "eval")["provenance"]
            data = {p: container.get_array(file, p) for p in schema.dataset_paths(file)}
        self.tasks = tuple(data["/task"])
        self.entrants = tuple(data["/optimizer"])
        self.families = tuple(data["/entrant/family"])
        self.rates = data["/entrant/learning_rate"]
        self.is_tuned = data["/entrant/is_tuned"] != 0
        self.steps = data["/step"]
        self.seeds = data["/seed"].size
        self.outer_loss = data["/trace/outer_loss"]
        self.test_loss = data["/trace/test_loss"]
        self.status = data["/trace/status"]
        self.seconds = data["/trace/wall_s"]
        self.rows = self._table(
            {p[7:]: v.tolist() for p, v in data.items() if p.startswith("/table/")}
        )

    def _table(self, table: dict[str, list[Any]]) -> list[EvalRow]:
        for name, size in (("task", len(self.tasks)), ("entrant", len(self.entrants))):
            if any(not 0 <= i < size for i in table[name]):
                raise StoreError(f"{self.path}: /table/{name} points outside the {size} there are")
        names = ("family", "variant", "entrant", "learning_rate", "mean", "se", "n_bad")
        columns = zip(table["task"], *(table[n] for n in names), strict=True)
        return [EvalRow(self.tasks[task], *rest) for task, *rest in columns]
