"""Statistics of comparisons: speed-ups over tuned baselines, win rates, means over tasks with bootstrap intervals.

Numbers in, numbers out.  One number a task: seeds are replicates of a task and are averaged before anything is said about
tasks, so that intervals are over tasks.  A lower loss is better everywhere.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000
TRIM = 0.25  # of the tasks at either end, left out of an interquartile mean


class SpeedUp(NamedTuple):
    """Steps that a baseline needs to reach a loss, over the steps that were used.

    saturated   it did not get there: `value` is what it would be at its last step, a lower bound
    """

    value: float
    saturated: bool


class Summary(NamedTuple):
    """A number per task, over tasks: median, interquartile mean, and the latter's bootstrap interval.

    n       tasks with a value (those without are left out)
    median, q25, q75   quartiles
    iqm, low, high     interquartile mean and its percentile interval; NaN ends with a single task
    """

    n: int
    median: float
    q25: float
    q75: float
    iqm: float
    low: float
    high: float


def best_so_far(curves: np.ndarray) -> np.ndarray:
    """Running minimum along the last axis."""
    return np.minimum.accumulate(curves, axis=-1)


def envelope(curves: np.ndarray) -> np.ndarray:
    """Lowest loss that any variant of a baseline has reached by each step: (variant, M) -> (M,), never rising."""
    return best_so_far(np.asarray(curves, np.float64).min(axis=0))


def speed_up(steps: np.ndarray, curve: np.ndarray, baseline: np.ndarray, at: float) -> SpeedUp:
    """How many times fewer steps an optimizer used than a baseline needs for the same loss.

    Both curves count as the lowest loss so far and are read linearly between their points.  Where the baseline stands
    still at exactly that loss it needs the number of steps nearest to `at`: equals are equally fast.

    Args:
        steps: (M,) rising steps of both curves.
        curve: (M,) losses of the optimizer.
        baseline: (M,) losses of the baseline, as a rule an `envelope` over learning rates.
        at: steps the optimizer used, in (0, steps[-1]].

    Raises:
        ValueError: `at` outside the curve.
    """
    if not 0 < at <= steps[-1]:
        raise ValueError(f"at = {at:g} must be above 0 and at most {steps[-1]:g}, the last step")
    mine, theirs = best_so_far(np.asarray(curve)), best_so_far(np.asarray(baseline))
    goal = float(np.interp(at, steps, mine))
    if theirs[-1] > goal:
        return SpeedUp(float(steps[-1]) / at, True)
    # Losses fall along the curve: searching among -losses, which rise.
    first = _crossing(steps, theirs, goal, int(np.searchsorted(-theirs, -goal, "left")))
    last = _crossing(steps, theirs, goal, int(np.searchsorted(-theirs, -goal, "right")))
    return SpeedUp(min(max(at, first), last) / at, False)


def _crossing(steps: np.ndarray, losses: np.ndarray, goal: float, k: int) -> float:
    """The step in the interval that ends at point k where a falling curve meets `goal`."""
    if k == 0 or k == losses.size:
        return float(steps[min(k, losses.size - 1)])
    share = (losses[k - 1] - goal) / (losses[k - 1] - losses[k])
    return float(steps[k - 1] + share * (steps[k] - steps[k - 1]))


def best_of(selection: np.ndarray, report: np.ndarray, trials: int) -> np.ndarray:
    """What a search of so many trials reports: that of the first `trials` with the lowest mean selection loss.

    Args:
        selection: (trial, seed) losses that choose; not finite counts as worst.
        report: (trial, seed) losses that are reported.
        trials: how many of the ordered trials are tried.

    Returns: (seed,) losses of the chosen trial.

    Raises:
        ValueError: fewer trials than asked for.
    """
    if not 0 < trials <= len(selection):
        raise ValueError(f"trials = {trials}: there are {len(selection)}")
    mean = np.where(np.isfinite(selection), selection, np.inf).mean(axis=1)
    return report[int(np.argmin(mean[:trials]))]


def log_ratio(loss: float, reference: float, lowest: float = 0.0) -> float:
    """log of the excess of a loss over that of another; NaN where no lowest loss is known or one reaches it."""
    mine, theirs = loss - lowest, reference - lowest
    if not (0 < mine < math.inf and 0 < theirs < math.inf):
        return math.nan
    return math.log(mine / theirs)


def win_rate(losses: Sequence[float], references: Sequence[float]) -> float:
    """Share of the tasks on which a loss is below the reference's; an equal one counts half."""
    return float(np.mean(_won(losses, references)))


def win_interval(losses: Sequence[float], references: Sequence[float]) -> tuple[float, float]:
    """95 % interval of `win_rate` over tasks (Wilson 1927): it has a width where all are won, too.

    Half a win, of an odd number of ties, is none at the lower end and a whole one at the upper.  NaN ends without tasks.
    """
    n = len(losses)
    if n == 0:
        return math.nan, math.nan
    won = float(_won(losses, references).sum())
    ends = (stats.binomtest(f(won), n) for f in (math.floor, math.ceil))
    low, high = (e.proportion_ci(CONFIDENCE, "wilson") for e in ends)
    return float(low.low), float(high.high)


def _won(losses: Sequence[float], references: Sequence[float]) -> np.ndarray:
    """1, 0 or, of equal losses, 1/2 of each task."""
    a, b = np.asarray(losses, np.float64), np.asarray(references, np.float64)
    return (a < b) + 0.5 * (a == b)


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the middle half (Agarwal et al. 2021, arXiv 2108.13264, section 4.3)."""
    return stats.trim_mean(values, TRIM, axis=axis)


def summary(values: Sequence[float], seed: int = 0) -> Summary:
    """Median, quartiles, interquartile mean and its 95 % percentile bootstrap interval over tasks.

    Differences of two optimizers on the same tasks make it a paired comparison.  NaN values are left out.
    """
    x = np.asarray(values, np.float64)
    x = x[~np.isnan(x)]
    if x.size == 0:
        return Summary(0, *([math.nan] * 6))
    q25, median, q75 = np.quantile(x, (0.25, 0.5, 0.75))
    low = high = math.nan
    if x.size > 1:
        found = stats.bootstrap(
            (x,), interquartile_mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE,
            method="percentile", vectorized=True, random_state=np.random.default_rng(seed),
        )  # fmt: skip
        low, high = (float(v) for v in found.confidence_interval)
    middle = float(interquartile_mean(x))
    return Summary(x.size, float(median), float(q25), float(q75), middle, low, high)
