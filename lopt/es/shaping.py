"""Turning the loss differences of pairs into the weights of their perturbations.

Everything starts from the slope of a pair, d = (f+ - f-) / (2 sigma): for a linear f it is z.g, so
mean(z d) is an unbiased gradient.  The estimate is the mean over kept pairs of z s, where s is the
shaped slope:
    raw         s = d
    normalised  s = d / r                 for a linear f an estimate of g / |g|: tasks of any loss
                                          scale have an equal say
    clipped     s = clip(d, -3 r, 3 r)    keeps the scale of d, bounds what one pair can do
    sign        s = sign(d)               ignores magnitudes (VeLO, Metz et al. 2022)
r is the running root mean square of the slopes of the pair's group (its task), the current outer
step included.  It follows from the gathered losses, so every rank computes the same bits.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from lopt.errors import ConfigError, unknown

DIFFERENCES = ("raw", "normalised", "clipped", "sign")
DECAY = 0.95  # of the running mean square, per outer step in which the group has a kept pair
CLIP = 3.0  # in units of r


class ShapingState(NamedTuple):
    """Statistics per group; G grows with the largest group index seen.

    mean_square  (G,) float64, running mean square of slopes
    count        (G,) int64, outer steps that went into it
    """

    mean_square: np.ndarray
    count: np.ndarray


@dataclasses.dataclass(frozen=True)
class Shaping:
    """One of the rules above, by name.

    Raises:
        ConfigError: unknown name.
    """

    difference: str = "raw"

    def __post_init__(self) -> None:
        if self.difference not in DIFFERENCES:
            raise ConfigError(unknown("es.difference", self.difference, DIFFERENCES))

    def init(self) -> ShapingState:
        """Nothing seen yet."""
        return ShapingState(np.zeros(0), np.zeros(0, np.int64))

    def apply(
        self, slopes: np.ndarray, groups: np.ndarray, state: ShapingState
    ) -> tuple[np.ndarray, ShapingState]:
        """Shaped slopes (P,) float64, and the new state.

        Args:
            slopes: (P,) float64; NaN marks a lost pair: it gets 0 and leaves the statistics alone.
            groups: (P,) int, >= 0.
        """
        kept = ~np.isnan(slopes)
        state = _track(slopes[kept], groups[kept], state)
        d = np.where(kept, slopes, 0.0)
        if self.difference == "raw":
            return d, state
        if self.difference == "sign":
            return np.sign(d), state
        r = np.zeros_like(d)
        r[kept] = np.sqrt(state.mean_square[groups[kept]])
        if self.difference == "clipped":
            return np.clip(d, -CLIP * r, CLIP * r), state
        return np.divide(d, r, out=np.zeros_like(d), where=r > 0), state

    def arrays(self, state: ShapingState) -> dict[str, np.ndarray]:
        """The state as named arrays."""
        return {f"shaping/{name}": array for name, array in state._asdict().items()}

    def load(self, arrays: dict[str, np.ndarray]) -> ShapingState:
        """Inverse of `arrays`."""
        return ShapingState(*(arrays[f"shaping/{name}"].copy() for name in ShapingState._fields))


def _track(slopes: np.ndarray, groups: np.ndarray, state: ShapingState) -> ShapingState:
    """State with one more outer step; fsum is exact, so no order of summation can matter."""
    size = max(state.count.size, int(groups.max(initial=-1)) + 1)
    mean_square, count = np.zeros(size), np.zeros(size, np.int64)
    mean_square[: state.count.size], count[: state.count.size] = state
    for g in np.unique(groups):
        mine = slopes[groups == g]
        count[g] += 1
        # An exponential average that starts from nothing: the bias correction is in the weight.
        weight = (1 - DECAY) / (1 - DECAY ** int(count[g]))
        mean_square[g] += weight * (math.fsum(mine * mine) / mine.size - mean_square[g])
    return ShapingState(mean_square, count)
