"""Pairs around a shifted centre, weighted back: importance sampling with a momentum proposal.

Points theta + e, e = mu +- sigma z, have weights w = N(e; 0, sigma^2 I) / N(e; mu, sigma^2 I) =
exp(-e.mu / sigma^2 + |mu|^2 / (2 sigma^2)).  E w = 1 and E w^2 = exp(|mu|^2 / sigma^2): of n points
a fraction exp(-|mu|^2 / sigma^2) is left, which bounds the shift.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from lopt.es.facts import Facts
from lopt.es.gradient_strategy import Antithetic, GradientState
from lopt.es.perturbation import NodeSum, streams
from lopt.es.strategies.sums import dots
from lopt.es.strategy import register_strategy


def shifted_weights(along: np.ndarray, length: float) -> np.ndarray:
    """Weights of mu + sigma z and mu - sigma z, (P, 2); along = z.mu / sigma, length = |mu| / sigma."""
    return np.exp(np.stack([-along, along], axis=1) - length**2 / 2)


def baselines(losses: np.ndarray) -> np.ndarray:
    """Mean of the losses of all other kept pairs, for each pair, (P,); losses (P, 2), NaN: lost.

    0 for a pair that is alone.
    """
    kept = ~np.isnan(losses).any(axis=1)
    sums = np.where(kept, losses.sum(axis=1), 0.0)
    others = kept.sum() - kept
    return np.where(others > 0, (sums.sum() - sums) / np.maximum(2 * others, 1), 0.0)


@register_strategy("importance")
@dataclasses.dataclass(frozen=True)
class Importance(Antithetic):
    """mu is the centre's last move, shortened to `reach` sigmas if it is longer.

    reach       longest shift, in sigmas; 1 leaves 37 % of the points' worth
    normalised  divide by the sum of weights, not by their number: less variance, a bias of O(1/P)
    """

    shaping: str = "raw"
    reach: float = 0.5
    normalised: bool = False

    facts: ClassVar[Facts] = Facts(
        "1/(2 P) sum w e (f(theta + e) - b) / sigma^2, e = mu +- sigma z, w = exp(-e.mu / sigma^2 + "
        "|mu|^2 / (2 sigma^2)), b = mean of the other pairs",
        "grad f_sigma, any f; normalised: bias O(1/P)",
        "mu = 0: (D + 1) |g|^2 / P; E w^2 = exp(|mu|^2 / sigma^2)",
        '2 P evaluations; D floats of memory; P scalar products of D; shaping "raw"',
        "points ahead of the centre are wanted for their own sake; it seldom pays by variance alone",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._demand("shaping", self.shaping == "raw", "'raw', the weights need the loss itself")
        self._demand("reach", 0 <= self.reach < np.inf, "a finite number >= 0")

    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """The last move."""
        return {"move": np.zeros(n, np.float32)}

    def next_memory(
        self, state: GradientState, losses: np.ndarray, grad: np.ndarray, centre: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The move just made."""
        return {"move": centre - state.centre}

    def shift(self, state: GradientState) -> np.ndarray:
        """mu, (D,) float32."""
        move = state.memory["move"]
        length = float(np.sqrt(np.sum(np.square(move, dtype=np.float64))))
        longest = self.reach * self.sigma_of(state)
        return move if length <= longest else move * np.float32(longest / length)

    def point(self, state: GradientState, i: int, out: np.ndarray) -> None:
        """centre + mu +- sigma z."""
        super().point(state, i, out)
        out += self.shift(state)

    def gradient(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> np.ndarray:
        """Weighted mean of e (f - b) / sigma^2."""
        sigma, mu, both = self.sigma_of(state), self.shift(state), losses.reshape(-1, 2)
        table = streams(state.seed, state.step, self.pairs)
        along = dots(table, mu, node) / sigma
        length = float(np.sqrt(np.sum(np.square(mu, dtype=np.float64)))) / sigma
        weights = shifted_weights(along, length)
        kept = ~np.isnan(both).any(axis=1)
        count = weights[kept].sum() if self.normalised else 2 * max(int(kept.sum()), 1)
        u = weights * (both - baselines(both)[:, None])
        u = np.where(kept[:, None], u, 0.0) / (count if count > 0 else 1.0)
        total = self.sum_directions(state, (u[:, 0] - u[:, 1]) / sigma, node)
        return total + np.float32(u.sum() / sigma**2) * mu
