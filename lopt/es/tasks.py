"""Several objectives of one x, minimised together: their weighted mean, each in units of its own.

Losses of different tasks have different scales, and the largest would decide alone.  So the loss of
task t is measured from f_t(x0), in units of s_t = root mean square of f_t(x) - f_t(x0) over `PROBES`
antithetic pairs of points around x0, as far apart as a step's points are.  What is minimised,

    F(x) = sum_t w_t (f_t(x) - f_t(x0)) / s_t,   sum_t w_t = 1,

is a fixed function: 0 at x0, the same for 1000 f_t + 5 in place of f_t, and good for any strategy.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lopt import rng
from lopt.errors import UsageError

PROBES = 8  # pairs of points that measure the tasks


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Objectives for `minimize(Tasks([f, g, h]), x0)`; ranks share the evaluations of every point.

    fs         callables, all alike: f(x), batched or keyed as `minimize` is told
    weights    of the tasks, above 0; None: equal
    normalise  measure each task as above; False: F(x) = sum_t w_t f_t(x)

    Raises:
        UsageError: no tasks, one that is not callable, or weights that do not fit.
    """

    fs: Sequence[Callable[..., Any]]
    weights: Sequence[float] | None = None
    normalise: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "fs", tuple(self.fs))
        if not self.fs:
            raise UsageError("tasks = [] is not valid: at least one objective")
        for t, f in enumerate(self.fs):
            if not callable(f):
                raise UsageError(f"task {t} is {type(f).__name__}, valid: a callable")
        given = np.ones(len(self.fs)) if self.weights is None else np.array(self.weights, float)
        if given.shape != (len(self.fs),) or not (np.isfinite(given) & (given > 0)).all():
            raise UsageError(
                f"weights = {self.weights} is not valid: {len(self.fs)} finite numbers above 0"
            )

    def shares(self) -> np.ndarray:
        """Weights of sum 1, (T,) float64."""
        weights = np.ones(len(self.fs)) if self.weights is None else np.array(self.weights, float)
        return weights / weights.sum()


class Mix(NamedTuple):
    """How the losses of tasks become one, (T,) float64 each: sum of weight * (loss - centre) / scale."""

    centre: np.ndarray
    scale: np.ndarray
    weight: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """As named arrays."""
        return self._asdict()

    @classmethod
    def load(cls, arrays: Mapping[str, np.ndarray]) -> "Mix":
        """Inverse of `arrays`."""
        return cls(*(arrays[name].copy() for name in cls._fields))


def unscaled(tasks: Tasks) -> Mix:
    """Weights alone."""
    shares = tasks.shares()
    return Mix(np.zeros(shares.size), np.ones(shares.size), shares)


def probes(n: int, seed: int, sigma: float) -> np.ndarray:
    """theta of the points that measure the tasks, (2 PROBES, n) float32: + and - of each pair in turn."""
    z = [rng.normals(n, rng.stream(seed, 0, i), rng.PROBE) for i in range(PROBES)]
    return np.float32(sigma) * np.stack([sign * row for row in z for sign in (1, -1)])


def measured(tasks: Tasks, centre: np.ndarray, losses: np.ndarray) -> Mix:
    """The mix from losses at x0, (T,), and at the probes, (2 PROBES, T); not finite: lost, not counted.

    Raises:
        UsageError: a task does not change, or is lost at more than half of the probes.
    """
    scale = np.empty(centre.size)
    for t, column in enumerate(losses.T):
        kept = column[np.isfinite(column)]
        if 2 * kept.size < column.size:
            raise UsageError(
                f"task {t} has no value at {column.size - kept.size} of {column.size} points around x0"
            )
        scale[t] = math.sqrt(np.mean((kept - centre[t]) ** 2))
        if not 0 < scale[t] < math.inf:
            raise UsageError(
                f"task {t} does not change at {kept.size} points around x0 (or overflows), so it has no unit: "
                "take a larger sigma or scale, or weights and normalise=False"
            )
    return Mix(centre, scale, tasks.shares())


def combined(losses: np.ndarray, mix: Mix | None) -> np.ndarray:
    """(n, T) losses to (n,), column by column so that bits do not depend on n; None: T is 1.

    A point with a loss that is not finite has the first such one.
    """
    if mix is None:
        return losses[:, 0].copy()
    found = np.zeros(len(losses))
    with np.errstate(over="ignore", invalid="ignore"):
        for t, column in enumerate(losses.T):
            finite = np.where(np.isfinite(column), column, 0.0)
            found += mix.weight[t] * ((finite - mix.centre[t]) / mix.scale[t])
    found[~np.isfinite(found)] = np.nan
    bad = ~np.isfinite(losses)
    lost = bad.any(axis=1)
    found[lost] = losses[lost, bad[lost].argmax(axis=1)]
    return found
