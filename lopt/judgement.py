"""What a curves file says about a learned optimizer: two fair fights, never mixed, and where it loses.

Default against default: nobody is tuned.  Equal trials: k settings of each side, the first k of its search, chosen per
task by outer-validation loss at the end; a learned optimizer that brings one setting uses one.  Final losses are test
losses.  The speed-up is over the lower envelope of the validation curves of the file's first search.  Seeds count by
their median.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lopt import scores
from lopt.errors import UsageError, unknown
from lopt.rollout import DIVERGED, OK
from lopt.store import Curves

BUDGETS = (1, 10, 100)
SPEED_AT = 0.5  # share of the steps at which speed-ups are measured: up to 1 / share can be seen
WORST = 3  # tasks named as those where it loses most to a rival


def best_runs(curves: Curves, task: int, family: str, trials: int) -> np.ndarray:
    """Rows of a family's best of `trials` settings, by seed; none if a run is missing."""
    rows = [curves.rows(task, entrant) for entrant in curves.members(family)[:trials]]
    seeds = min((own.size for own in rows), default=0)
    if seeds == 0:
        return np.zeros(0, np.int64)
    same = np.array([own[:seeds] for own in rows])
    return scores.best_of(final_valid(curves, same), same, len(same))


def final_losses(curves: Curves, task: int, family: str, trials: int) -> np.ndarray | None:
    """Test losses of a family's best of `trials` settings, by seed; None if a run is missing."""
    rows = best_runs(curves, task, family, trials)
    return curves.runs["test"][rows] if rows.size else None


def best_losses(curves: Curves, task: int, family: str) -> np.ndarray:
    """Test losses of a family, by seed; of a search: of the trial with the lowest validation loss.

    Raises:
        UsageError: a run is missing.
    """
    found = final_losses(curves, task, family, len(curves.members(family)))
    if found is None:
        raise UsageError(f"no runs of {family!r} on {curves.tasks[task]}, or not of all its trials")
    return found


def final_valid(curves: Curves, rows: np.ndarray) -> np.ndarray:
    """What settings are chosen by: outer-validation loss of runs, mean over the last tenth of the points."""
    return _last_tenth(curves, rows, "valid")


def final_train(curves: Curves, rows: np.ndarray) -> np.ndarray:
    """What stands beside test losses: loss of training batches, mean over the last tenth of the points."""
    return _last_tenth(curves, rows, "train")


def _last_tenth(curves: Curves, rows: np.ndarray, column: str) -> np.ndarray:
    last = max(1, curves.steps.size // 10)
    return curves.runs[column][rows, -last:].mean(axis=-1, dtype=np.float64)


def median_curve(
    curves: Curves, task: int, entrant: int, column: str = "valid"
) -> np.ndarray | None:
    """Median over seeds of a curve, (M,); None without runs."""
    rows = curves.rows(task, entrant)
    return np.median(curves.runs[column][rows], axis=0) if rows.size else None


def speed_ups(curves: Curves, learned: str, search: str) -> dict[str, scores.SpeedUp]:
    """By task: steps that the envelope of a search needs for the learned optimizer's loss, over the steps it used."""
    found, at = {}, SPEED_AT * float(curves.steps[-1])
    for i, name in enumerate(curves.tasks):
        mine = median_curve(curves, i, curves.members(learned)[0])
        theirs = [median_curve(curves, i, j) for j in curves.members(search)]
        if mine is not None and theirs and all(c is not None for c in theirs):
            found[name] = scores.speed_up(curves.steps, mine, scores.envelope(np.array(theirs)), at)
    return found


class TaskResult(NamedTuple):
    """How two optimizers ended on one task.

    loss, rival_loss   test losses, medians of the seeds
    log_ratio, train   log of the excess test loss over the rival's, and of training losses; NaN without a known lowest
    """

    task: str
    family: str
    loss: float
    rival_loss: float
    log_ratio: float
    train: float


def task_results(curves: Curves, learned: str, rival: str, trials: int) -> list[TaskResult]:
    """Ends of a learned optimizer and a rival, so many trials each or as many as one has, on tasks with runs of both."""
    found = []
    for i, (name, family) in enumerate(zip(curves.tasks, curves.families, strict=True)):
        pair = [best_runs(curves, i, f, trials) for f in (learned, rival)]
        seeds = min(rows.size for rows in pair)  # the same starting points for both
        if seeds == 0:
            continue
        a, b = (float(np.median(curves.runs["test"][rows[:seeds]])) for rows in pair)
        train = (float(np.median(final_train(curves, rows[:seeds]))) for rows in pair)
        lowest = float(curves.lowest[i])
        ratio = scores.log_ratio(a, b, lowest)
        found.append(TaskResult(name, family, a, b, ratio, scores.log_ratio(*train, lowest)))
    return found


def duel(curves: Curves, learned: str, rival: str, trials: int) -> dict[str, Any]:
    """Final losses of the learned optimizer against a rival at so many trials each, over tasks; see `task_results`.

    Returns:
        trials      those of the learned one, those of the rival
        tasks       those with runs of both
        win_rate, win_low, win_high   test losses; 95 % interval
        log_ratio   of test losses: a `scores.Summary`, over tasks with a known lowest loss
        train       the median log ratio of training losses
        by_family   tasks, known (those with a log ratio), win_rate, log_ratio (median)
        loses_most  the tasks with the largest log ratios above 0
    """
    found = task_results(curves, learned, rival, trials)
    mine, theirs = np.array([r.loss for r in found]), np.array([r.rival_loss for r in found])
    ratios = np.array([r.log_ratio for r in found])
    low, high = scores.win_interval(mine, theirs)
    return {
        "trials": [min(trials, len(curves.members(f))) for f in (learned, rival)],
        "tasks": len(found),
        "win_rate": scores.win_rate(mine, theirs) if found else math.nan,
        "win_low": low,
        "win_high": high,
        "log_ratio": scores.summary(ratios)._asdict(),
        "train": _median(np.array([r.train for r in found])),
        "by_family": by_family([r.family for r in found], lambda k: {
            "tasks": int(k.sum()),
            "known": int(np.isfinite(ratios[k]).sum()),
            "win_rate": scores.win_rate(mine[k], theirs[k]),
            "log_ratio": _median(ratios[k]),
        }),
        "loses_most": _worst({r.task: r.log_ratio for r in found}),
    }  # fmt: skip


def by_family(
    families: Sequence[str], figures: Callable[[np.ndarray], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Figures of each family's tasks, given as a mask over tasks."""
    named = np.array(families)
    return {str(f): figures(named == f) for f in dict.fromkeys(families)}


def judge(curves: Curves, learned: str) -> dict[str, Any]:
    """All that a card says of a learned optimizer, as plain values.

    Raises:
        UsageError: no learned entrant of that name in the file.
    """
    if learned not in curves.kinds("learned"):
        raise UsageError(unknown("learned entrant", learned, curves.kinds("learned")))
    own = np.isin(curves.runs["entrant"], curves.members(learned)[:1])
    status = curves.runs["status"][own]
    defaults = {f: duel(curves, learned, f, 1) for f in curves.kinds("default")}
    return _plain({
        "learned": learned,
        "trials": len(curves.members(learned)),
        "tasks": len(curves.tasks),
        "steps": int(curves.steps[-1]),
        "seeds": int(np.unique(curves.runs["seed"][own]).size),
        "diverged": float(np.mean(status == DIVERGED)) if status.size else math.nan,
        "clipped": float(np.mean((status != OK) & (status != DIVERGED))) if status.size else math.nan,
        "default_against_default": defaults,
        "equal_trials": {f: _budgets(curves, learned, f) for f in curves.kinds("tuned")},
        "speed_up": {f: _speed(curves, learned, f) for f in curves.kinds("tuned")[:1]},
    })  # fmt: skip


def _budgets(curves: Curves, learned: str, search: str) -> dict[str, Any]:
    """Duels at 1, 10, 100 trials as far as the search goes, and at all of them."""
    n = len(curves.members(search))
    return {str(k): duel(curves, learned, search, k) for k in sorted({*BUDGETS, n}) if k <= n}


def _speed(curves: Curves, learned: str, search: str) -> dict[str, Any]:
    found = speed_ups(curves, learned, search)
    families = [curves.families[curves.tasks.index(name)] for name in found]
    values = np.array([s.value for s in found.values()])
    saturated = np.array([s.saturated for s in found.values()])
    return {
        "ceiling": 1 / SPEED_AT,
        **scores.summary(values)._asdict(),
        "saturated": float(saturated.mean()) if values.size else math.nan,
        "by_family": by_family(families, lambda k: {
            "tasks": int(k.sum()), "median": _median(values[k]), "saturated": float(saturated[k].mean()),
        }),
    }  # fmt: skip


def _worst(ratios: dict[str, float]) -> dict[str, float]:
    lost = sorted((item for item in ratios.items() if item[1] > 0), key=lambda item: -item[1])
    return dict(lost[:WORST])


def _median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else math.nan


def _plain(value: Any) -> Any:
    """Floats of four significant digits, NaN as None: what JSON can hold and a card needs."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value
