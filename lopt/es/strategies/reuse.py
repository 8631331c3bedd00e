"""The previous step's evaluations used again, weighted by the balance heuristic (Veach & Guibas 1995).

A sample x of the union of both steps, a fraction a of it old, has the density a p_old + (1 - a)
p_new; so mean w (x - theta) (f - b) / sigma^2 with w = p_new / (a p_old + (1 - a) p_new) is a
gradient at the new centre, and w <= 1 / (1 - a), where the plain p_new / p_old has no bound.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from lopt.es.facts import Facts
from lopt.es.gradient_strategy import Antithetic, GradientState
from lopt.es.perturbation import NodeSum, streams, sum_normals
from lopt.es.strategies.sums import dots
from lopt.es.strategy import register_strategy
from lopt.rng import PERTURB


def balance_weights(log_ratio: np.ndarray, old: float) -> np.ndarray:
    """p_new / (a p_old + (1 - a) p_new) from log(p_new / p_old), float64, a = old, 0 <= a < 1."""
    if old == 0:
        return np.ones_like(log_ratio)
    return np.exp(-np.logaddexp(math.log(old) - log_ratio, math.log1p(-old)))


def baselines(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """a x mean of the old losses + (1 - a) x mean of the new ones, the own pair left out, for each pair, (2 P,).

    Its expectation is the same for old and new pairs.  The mean of all other pairs would not do: it
    has one old pair less for the old ones, and as weights of the old do not add up to those of the
    new, what it differs by would be a bias of O(1 / P).  A pair that is alone in its step takes the
    mean of the other step, for want of better, with just that bias.

    Args:
        old, new: (P, 2) losses, NaN: lost; a is the kept pairs' fraction of old ones, and neither
            step lost all.
    """
    (mean_old, left_old, n_old), (mean_new, left_new, n_new) = _means(old), _means(new)
    a = n_old / (n_old + n_new)
    of_old = mean_new if n_old == 1 else a * left_old + (1 - a) * mean_new
    of_new = mean_old if n_new == 1 else a * mean_old + (1 - a) * left_new
    return np.concatenate([np.broadcast_to(b, len(old)) for b in (of_old, of_new)])


def _means(losses: np.ndarray) -> tuple[float, np.ndarray, int]:
    """Mean over the kept pairs, the same without each pair, (P,), and their number."""
    kept = ~np.isnan(losses).any(axis=1)
    sums, n = np.where(kept, losses.sum(axis=1), 0.0), int(kept.sum())
    return sums.sum() / (2 * n), (sums.sum() - sums) / (2 * np.maximum(n - kept, 1)), n


@register_strategy("reuse")
@dataclasses.dataclass(frozen=True)
class Reuse(Antithetic):
    """Antithetic pairs of this step and of the one before.

    reach       farthest move of the centre, in sigmas, after which the old ones still count
    normalised  divide by the sum of weights, not by their number: less variance, a bias of O(1/P)
    """

    shaping: str = "raw"
    sigma: float = 0.2
    learning_rate: float = 0.02
    reach: float = 1.0
    normalised: bool = False

    facts: ClassVar[Facts] = Facts(
        "1/N sum w_i (x_i - theta) (f_i - b_i) / sigma^2 over both steps' N = 4 P points, "
        "w = p_new / (a p_old + (1 - a) p_new) <= 1 / (1 - a), a = 1/2, b_i = half the mean of each step, pair i left out",
        "grad f_sigma, any f, for a move that does not depend on the old samples; the optimizer's does a "
        "little.  normalised: bias O(1/P)",
        "centre not moved: (D + 1) |g|^2 / (2 P); no closed form else",
        '2 P evaluations; D + 2 P numbers of memory; 2 P scalar products of D; shaping "raw"',
        "steps are shorter than sigma as a whole, learning rate below sigma / sqrt(D) for Adam; evaluations are "
        "dear",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._demand("shaping", self.shaping == "raw", "'raw', losses of two steps are compared")
        self._demand("reach", self.reach > 0, "above 0")

    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """Losses of the step before, lost as long as there was none, and its centre."""
        return {"losses": np.full(2 * self.pairs, np.nan), "centre": np.zeros(n, np.float32)}

    def next_memory(
        self, state: GradientState, losses: np.ndarray, grad: np.ndarray, centre: np.ndarray
    ) -> dict[str, np.ndarray]:
        """What the next step uses again."""
        both = losses.reshape(-1, 2)
        lost = np.isnan(both).any(axis=1)
        used = np.where(lost[:, None], np.nan, both).reshape(-1)
        return {"losses": used, "centre": state.centre}

    def gradient(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> np.ndarray:
        """Weighted mean over the union."""
        sigma, new = self.sigma_of(state), losses.reshape(-1, 2)
        move = state.centre - state.memory["centre"]
        length = float(np.sqrt(np.sum(np.square(move, dtype=np.float64)))) / sigma
        old = state.memory["losses"].reshape(-1, 2)
        kept = [int((~np.isnan(both).any(axis=1)).sum()) for both in (old, new)]
        if 0 in kept or length > self.reach:
            return super().gradient(state, losses, node)
        table = np.concatenate(
            [streams(state.seed, t, self.pairs) for t in (state.step - 1, state.step)]
        )
        along = dots(table, move, node) / sigma
        # log(p_new / p_old) at centre +- sigma z, the centre old or new
        shift = np.repeat([-(length**2) / 2, length**2 / 2], self.pairs)
        log_ratio = np.stack([along + shift, -along + shift], axis=1)
        weights = balance_weights(log_ratio, kept[0] / sum(kept))
        both = np.concatenate([old, new])
        per_z, per_move = self._coefficients(both, weights, sigma)
        total = self._summed(table, per_z, node)
        return total - np.float32(per_move) * move

    def _coefficients(
        self, losses: np.ndarray, weights: np.ndarray, sigma: float
    ) -> tuple[np.ndarray, float]:
        """What each z is multiplied with, (2 P,), and the move; losses and weights (2 P, 2), old first."""
        kept = ~np.isnan(losses).any(axis=1)
        count = weights[kept].sum() if self.normalised else 2 * kept.sum()
        u = weights * (losses - baselines(losses[: self.pairs], losses[self.pairs :])[:, None])
        u = np.where(kept[:, None], u, 0.0) / count
        per_z = (u[:, 0] - u[:, 1]) / sigma
        return per_z, float(u[: self.pairs].sum()) / sigma**2

    @staticmethod
    def _summed(table: np.ndarray, weights: np.ndarray, node: NodeSum) -> np.ndarray:
        coefs = weights.astype(np.float32)
        return node.rebuild(lambda out, start: sum_normals(out, start, coefs, table, PERTURB))
