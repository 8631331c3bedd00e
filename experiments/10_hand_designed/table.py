"""Normalised losses: 1 is the untrained task, 0 the lowest test loss that any entrant of the file has reached."""

import numpy as np

from lopt import optlist
from lopt.config import Section
from lopt.judgement import final_losses
from lopt.store import Curves


class Config(Section, kw_only=True):
    """config.toml."""

    trials: tuple[int, ...]
    resolution: float
    bins: int


def normalised(curves: Curves, trials: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Rows of the table by name, a loss for each task, at most 1; NaN without runs.

    Medians over seeds.  Learned optimizers first (the best of all settings that they bring), then those at their
    defaults, then searches: the best of some settings for each task, and one setting for all tasks, which hindsight chooses.
    """
    rows = {
        family: best_of(curves, family, len(curves.members(family)))
        for family in (*curves.kinds("learned"), *curves.kinds("default"))
    }
    for family in curves.kinds("tuned"):
        n = len(curves.members(family))
        for k in sorted({*(k for k in trials if k < n), n}):
            rows[f"{family}: {k} trial{'s' if k > 1 else ''}"] = best_of(curves, family, k)
    settings = {k: alone(curves, k) for k in range(len(curves.entrants))}
    tasks = range(len(curves.tasks))
    start = [np.median(curves.runs["valid"][curves.runs["task"] == i, 0]) for i in tasks]
    columns = {**rows, **settings}
    final = np.stack(list(columns.values()), axis=1)
    unit = np.where(np.isnan(final), np.nan, optlist.normalised(final, np.array(start)))
    found = dict(zip(columns, unit.T, strict=True))
    one = {
        f"{family}: one for all": min(
            (found[k] for k in curves.members(family)),
            key=lambda x: np.mean(np.nan_to_num(x, nan=1.0)),
        )
        for family in curves.kinds("tuned")
    }
    return {name: found[name] for name in rows} | one


def best_of(curves: Curves, family: str, trials: int) -> np.ndarray:
    """Test loss on every task of the best of some trials, which validation losses choose."""
    found = [final_losses(curves, i, family, trials) for i in range(len(curves.tasks))]
    return np.array([np.nan if x is None else np.median(x) for x in found])


def alone(curves: Curves, entrant: int) -> np.ndarray:
    """Test loss on every task of one setting."""
    rows = [curves.rows(i, entrant) for i in range(len(curves.tasks))]
    return np.array([np.median(curves.runs["test"][r]) if r.size else np.nan for r in rows])


def markdown(losses: dict[str, np.ndarray]) -> str:
    """A line for each row: mean and quartiles over tasks, and how often it is worse than untrained."""
    lines = [
        "| optimizer | tasks | mean | median | upper quartile | untrained |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in losses.items():
        x = values[~np.isnan(values)]
        if x.size:
            cells = [f"{v:.4f}" for v in (x.mean(), np.median(x), np.quantile(x, 0.75))]
            lost = f"{100 * np.mean(x == 1):.0f} %"
            lines.append(f"| {name} | {x.size} | {' | '.join(cells)} | {lost} |")
    return "\n".join(lines)
