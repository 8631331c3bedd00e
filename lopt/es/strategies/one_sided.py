"""Estimators without antithetic pairs: the least that works, and what the others are measured by."""

import dataclasses
from typing import ClassVar

import numpy as np

from lopt.errors import UsageError
from lopt.es.facts import Facts
from lopt.es.fitness import Fitness
from lopt.es.gradient_strategy import GradientState, GradientStrategy
from lopt.es.perturbation import NodeSum
from lopt.es.strategy import register_strategy


@register_strategy("one_point")
@dataclasses.dataclass(frozen=True)
class OnePoint(GradientStrategy):
    """2 P independent points theta + sigma z_i (Wierstra et al. 2014; Salimans et al. 2017, algorithm 1).

    baseline  "mean": the mean of the other losses is subtracted from each (no bias); "none": nothing
              is; only "raw" shaping keeps that promise
    """

    baseline: str = "mean"

    facts: ClassVar[Facts] = Facts(
        "1/N sum z_i (f_i - b_i) / sigma, N = 2 P, b_i = mean of the other f",
        "grad f_sigma, any f",
        '(D + 1) |g|^2 / (N - 1); baseline "none": ((D + 1) |g|^2 + D f(theta)^2 / sigma^2) / N',
        "2 P evaluations",
        "points cannot be chosen in pairs; otherwise antithetic, which even terms of f do not disturb",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline not in ("mean", "none"):
            raise UsageError(f"baseline = {self.baseline!r} is not valid: 'mean' or 'none'")
        good = self.baseline == "mean" or self.shaping == "raw"
        self._demand("shaping", good, "'raw' if baseline is 'none', all others subtract one")

    def point(self, state: GradientState, i: int, out: np.ndarray) -> None:
        """centre + sigma z_i."""
        self.directions(state, i, out)
        out *= np.float32(self.sigma_of(state))
        out += state.centre

    def gradient(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> np.ndarray:
        """Mean over kept points of w_i z_i."""
        return self.sum_directions(state, self.point_weights(state, losses), node)

    def point_weights(self, state: GradientState, losses: np.ndarray) -> np.ndarray:
        """What z_i is multiplied with, (2 P,) float64."""
        sigma, kept = self.sigma_of(state), int((~np.isnan(losses)).sum())
        if self.baseline == "none":
            return np.nan_to_num(losses / (sigma * max(kept, 1)), nan=0.0)
        # f_i - mean of the others = (f_i - mean of all) n / (n - 1)
        return Fitness(self.shaping).points(losses, sigma) / max(kept - 1, 1)


@register_strategy("forward")
@dataclasses.dataclass(frozen=True)
class Forward(OnePoint):
    """Forward differences: the loss at theta itself is the baseline.  2 P points, the last one is theta.

    Steps whose centre was lost do not follow the losses.
    """

    baseline: str = dataclasses.field(default="mean", init=False)

    facts: ClassVar[Facts] = Facts(
        "1/N sum z_i (f_i - f(theta)) / sigma, N = 2 P - 1",
        "grad f_sigma, any f",
        "(D + 1) |g|^2 / N; curvature adds to it",
        "2 P evaluations, one at theta",
        "f(theta) is wanted anyway, or half of the pairs' points cannot be evaluated",
    )

    def point(self, state: GradientState, i: int, out: np.ndarray) -> None:
        """centre + sigma z_i; the last one is the centre."""
        if i == 2 * self.pairs - 1:
            out[:] = state.centre
        else:
            super().point(state, i, out)

    def point_weights(self, state: GradientState, losses: np.ndarray) -> np.ndarray:
        """What z_i is multiplied with, (2 P - 1,) float64: shaped loss minus that of the centre."""
        utilities = Fitness(self.shaping).points(losses, self.sigma_of(state))
        kept = ~np.isnan(losses[:-1]) & ~np.isnan(losses[-1])
        return np.where(kept, utilities[:-1] - utilities[-1], 0.0) / max(int(kept.sum()), 1)
