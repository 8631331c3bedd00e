"""Turning the losses of one step of a black-box search into the weights of its directions.

Unlike `lopt.es.shaping`, which follows the loss differences of tasks over a whole run, nothing is
remembered here: a step is shaped by its own losses, all of them together.  f are the kept losses:

    raw          u = f - mean f          the only one whose estimate is a gradient of f
    standardise  u = (f - mean f) / std f
    ranks        u = rank / (n - 1) - 1/2, equal losses share their mean rank: sum u = 0, -1/2 <= u
                 <= 1/2, the same for any increasing function of f (Salimans et al. 2017, 2.1; for
                 n = 2 P this is their centred rank)
    sign         u = sign(f - median f)
    clip         u = clip(f - mean f, -3 std f, 3 std f)

The weight of a pair is (u+ - u-) / 2, by these exceptions: for "sign" it is sign(f+ - f-), for
"clip" the difference is clipped at 3 of its root mean squares.  Where the losses have a unit left
("raw", "clip") weights are divided by sigma, so that the mean of z times the weight is a slope.
The others forget the scale of f; for a linear f "standardise" estimates g / |g|.
"""

import dataclasses

import numpy as np

from lopt.errors import UsageError, unknown

RULES = ("ranks", "raw", "standardise", "sign", "clip")
SCALED = ("raw", "clip")  # those that keep the unit of the loss
CLIP = 3.0  # standard deviations or root mean squares


@dataclasses.dataclass(frozen=True)
class Fitness:
    """One of the rules above, by name.

    Raises:
        UsageError: unknown name.
    """

    rule: str = "ranks"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UsageError(unknown("shaping", self.rule, RULES))

    def points(self, losses: np.ndarray, sigma: float = 1.0) -> np.ndarray:
        """Weights of single points, (n,) float64; lost ones (NaN) get 0."""
        kept = ~np.isnan(losses)
        weights = np.zeros(losses.shape)
        if kept.any():
            weights[kept] = self._utilities(losses[kept])
        return weights / sigma if self.rule in SCALED else weights

    def pairs(self, losses: np.ndarray, sigma: float) -> np.ndarray:
        """Weights of antithetic pairs, (P,) float64, from losses (P, 2) at +sigma z and -sigma z.

        A pair with a lost member (NaN) gets 0, and none of its losses counts.
        """
        kept = ~np.isnan(losses).any(axis=1)
        both = losses[kept]
        weights = np.zeros(len(losses))
        if both.size == 0:
            return weights
        if self.rule in ("sign", "raw", "clip"):
            half = (both[:, 0] - both[:, 1]) / 2
            weights[kept] = self._difference(half) / (sigma if self.rule in SCALED else 1.0)
            return weights
        u = self._utilities(both.reshape(-1)).reshape(both.shape)
        weights[kept] = (u[:, 0] - u[:, 1]) / 2
        return weights

    def _difference(self, half: np.ndarray) -> np.ndarray:
        if self.rule == "sign":
            return np.sign(half)
        if self.rule == "clip":
            bound = CLIP * _root_mean_square(half)
            return np.clip(half, -bound, bound)
        return half

    def _utilities(self, f: np.ndarray) -> np.ndarray:
        """u of n >= 1 kept losses."""
        if self.rule == "ranks":
            return centred_ranks(f)
        if self.rule == "sign":
            return np.sign(f - np.median(f))
        u = f - f.mean()
        if self.rule == "raw":
            return u
        spread = _root_mean_square(u)
        if self.rule == "clip":
            return np.clip(u, -CLIP * spread, CLIP * spread)
        return u / spread if spread > 0 else np.zeros_like(u)


def centred_ranks(f: np.ndarray) -> np.ndarray:
    """rank / (n - 1) - 1/2 of n losses, float64; equal losses share their mean rank; n = 1: 0."""
    if f.size == 1:
        return np.zeros(1)
    _, group, count = np.unique(f, return_inverse=True, return_counts=True)
    last = np.cumsum(count) - 1
    rank = last - (count - 1) / 2
    return rank[group] / (f.size - 1) - 0.5


def _root_mean_square(x: np.ndarray) -> float:
    """Scaled by the largest magnitude, so that squares of 1e200 do not overflow."""
    top = float(np.abs(x).max())
    return top * float(np.sqrt(np.mean(np.square(x / top)))) if top > 0 else 0.0
