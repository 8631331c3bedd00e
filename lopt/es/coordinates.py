"""From a strategy's coordinates to the user's: x0 + scale * theta, bounds by reflection, integers by rounding.

theta = 0 is x0, to the bit.  Outside its bounds a coordinate stays at the bound for a margin and is
mirrored back from there, as often as needed: the search sees a continuous landscape without walls,
and nothing is ever evaluated out of bounds.  (Mirrored at the bound itself, a landscape has slope 0
there for antithetic pairs: a search that begins at a bound would never leave it.)  An integer
coordinate is mirrored half a unit out of its bounds and then rounded, so that all its values have
cells of equal width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lopt.errors import UsageError

INTEGER_SCALE = 5.0  # least default scale of an integer: sigma = 0.1 then reaches the neighbours


class Coordinates:
    """The map from theta (D,) float32 to x (D,) float64.

    Args:
        x0: (D,) or a number; where the search begins.
        scale: distance in x that theta = 1 stands for, a number or (D,), above 0.  By default the
            distance between the bounds of a coordinate that has two, else 1; of an integer at
            least 5.
        bounds: D pairs (lower, upper), None or infinite where there is none, or a
            `scipy.optimize.Bounds`.
        integers: numbers of the coordinates that are integers, or (D,) bool.
        margin: of the bounds, in units of scale; about the size of a perturbation.

    Attributes: n (= D), x0, scale, lower, upper (D,) float64, is_integer (D,) bool.

    Raises:
        UsageError: shapes that do not fit, x0 out of its bounds or not an integer where one is
            wanted; names the coordinate and the nearest valid value.
    """

    def __init__(
        self,
        x0: Any,
        scale: Any = None,
        bounds: Any = None,
        integers: Sequence[int] | Sequence[bool] | np.ndarray | None = None,
        margin: float = 0.1,
    ) -> None:
        self.x0 = _start(x0)
        self.n = self.x0.size
        self.lower, self.upper = _bounds(bounds, self.n)
        self.is_integer = _integers(integers, self.n)
        self._least = np.where(self.is_integer, np.ceil(self.lower), self.lower)
        self._greatest = np.where(self.is_integer, np.floor(self.upper), self.upper)
        self._check_start()
        self.scale = self._scale(scale)
        outside = np.where(self.is_integer, 0.5, margin * self.scale)
        self._low, self._high = self._least - outside, self._greatest + outside
        self._bounded = bool(np.isfinite(self.lower).any() or np.isfinite(self.upper).any())

    def _check_start(self) -> None:
        for i in np.flatnonzero(self._least > self._greatest):
            raise UsageError(
                f"bounds[{i}] = ({self.lower[i]:g}, {self.upper[i]:g}): no integer between them"
            )
        whole = np.where(self.is_integer, np.rint(self.x0), self.x0)
        nearest = np.clip(whole, self._least, self._greatest)
        for i in np.flatnonzero(nearest != self.x0):
            why = "not an integer" if whole[i] != self.x0[i] else "out of its bounds"
            raise UsageError(f"x0[{i}] = {self.x0[i]:g} is {why}; nearest valid: {nearest[i]:g}")

    def _scale(self, scale: Any) -> np.ndarray:
        if scale is None:
            span = self.upper - self.lower
            natural = np.where(np.isfinite(span) & (span > 0), span, 1.0)
            return np.where(self.is_integer, np.maximum(natural, INTEGER_SCALE), natural)
        given = np.asarray(scale, np.float64)
        if given.shape not in ((), (1,), (self.n,)):
            raise UsageError(f"scale has shape {given.shape}, valid: a number or ({self.n},)")
        if not (np.isfinite(given) & (given > 0)).all():
            raise UsageError(f"scale = {scale} is not valid: finite numbers above 0")
        return np.broadcast_to(given, (self.n,)).copy()

    def x(self, theta: np.ndarray) -> np.ndarray:
        """x of theta, float64, a new array of the same shape, (D,) or (n, D)."""
        x = self.x0 + self.scale * theta.astype(np.float64)
        if self._bounded:
            x = _mirrored(x, self._low, self._high)
        if self.is_integer.any():
            x = np.where(self.is_integer, np.rint(x), x)
        return np.clip(x, self._least, self._greatest) if self._bounded else x

    def arrays(self) -> dict[str, np.ndarray]:
        """What a resumed search must find unchanged."""
        return {
            "x0": self.x0,
            "scale": self.scale,
            "lower": self.lower,
            "upper": self.upper,
            "is_integer": self.is_integer.astype(np.int64),
        }


def _mirrored(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """x where it is inside, its mirror image where not: a triangle wave between two bounds."""
    x, low, high = np.broadcast_arrays(x, low, high)
    y = x.copy()
    has_low, has_high = np.isfinite(low), np.isfinite(high)
    out = (x < low) | (x > high)
    both = out & has_low & has_high
    span = high[both] - low[both]
    phase = np.mod(x[both] - low[both], 2 * span)
    y[both] = low[both] + np.minimum(phase, 2 * span - phase)
    below = out & has_low & ~has_high
    y[below] = 2 * low[below] - x[below]
    above = out & has_high & ~has_low
    y[above] = 2 * high[above] - x[above]
    return y


def _start(x0: Any) -> np.ndarray:
    start = np.atleast_1d(np.asarray(x0))
    if start.ndim != 1 or start.size == 0 or start.dtype.kind not in "biuf":
        raise UsageError(
            f"x0 is {start.dtype} of shape {start.shape}, valid: real numbers of shape (D,), D >= 1"
        )
    start = start.astype(np.float64)
    for i in np.flatnonzero(~np.isfinite(start)):
        raise UsageError(f"x0[{i}] = {start[i]} is not valid: a finite number")
    return start


def _bounds(bounds: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds, (D,) float64 each, infinite where there is none."""
    if bounds is None:
        return np.full(n, -np.inf), np.full(n, np.inf)
    if hasattr(bounds, "lb"):
        sides = [np.asarray(side, np.float64) for side in (bounds.lb, bounds.ub)]
    else:
        pairs = list(bounds)
        if len(pairs) != n or any(len(pair) != 2 for pair in pairs):
            raise UsageError(f"bounds of {len(pairs)} entries, valid: {n} pairs (lower, upper)")
        none = (-np.inf, np.inf)
        sides = [
            np.array([none[k] if pair[k] is None else pair[k] for pair in pairs], np.float64)
            for k in (0, 1)
        ]
    if any(side.shape not in ((), (1,), (n,)) for side in sides):
        raise UsageError(f"bounds of shape {sides[0].shape}, {sides[1].shape}, valid: ({n},)")
    lower, upper = (np.broadcast_to(side, (n,)).copy() for side in sides)
    for i in np.flatnonzero(~((lower <= upper) & (lower < np.inf) & (upper > -np.inf))):
        raise UsageError(f"bounds[{i}] = ({lower[i]}, {upper[i]}) is not valid: lower <= upper")
    return lower, upper


def _integers(integers: Any, n: int) -> np.ndarray:
    chosen = np.zeros(n, bool)
    if integers is None:
        return chosen
    given = np.asarray(integers)
    if given.dtype == bool and given.shape == (n,):
        return given.copy()
    if given.size and (given.dtype.kind not in "iu" or given.ndim != 1):
        raise UsageError(f"integers = {integers} is not valid: coordinate numbers or {n} booleans")
    for i in given.tolist():
        if not 0 <= i < n:
            raise UsageError(f"integers: there is no coordinate {i}, valid: 0 to {n - 1}")
        chosen[i] = True
    return chosen
