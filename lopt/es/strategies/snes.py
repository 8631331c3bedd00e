"""Separable natural evolution strategies (Schaul, Glasmachers & Schmidhuber 2011, algorithm 2)."""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from lopt.errors import UsageError
from lopt.es.facts import Facts
from lopt.es.perturbation import NodeSum
from lopt.es.strategies.distribution import (
    Distribution,
    DistributionState,
    by_number,
    normals_of,
    weighted_sum,
)
from lopt.es.strategies.sums import squares
from lopt.es.strategy import register_strategy


def utilities(n: int) -> np.ndarray:
    """u_k of n points, best first, (n,) float64: max(0, ln(n / 2 + 1) - ln k) over their sum, minus 1 / n."""
    u = np.maximum(0.0, math.log(n / 2 + 1) - np.log(np.arange(1, n + 1)))
    return u / u.sum() - 1 / n


@register_strategy("snes")
@dataclasses.dataclass(frozen=True)
class Snes(Distribution):
    """A normal distribution with a sigma for each coordinate, moved along its natural gradient.

    rate        of the mean
    sigma_rate  of the logarithm of sigma; 0: (3 + ln D) / (5 sqrt(D))
    """

    rate: float = 1.0
    sigma_rate: float = 0.0

    facts: ClassVar[Facts] = Facts(
        "mean_j += rate sigma_j sum u_i z_ij; sigma_j <- sigma_j exp(sigma_rate / 2 sum u_i (z_ij^2 - 1)), "
        "u_k = max(0, ln(lambda/2 + 1) - ln k) normalised - 1 / lambda",
        "nothing of f: it sees the order of losses only",
        "has none; the same run for any increasing function of f",
        "lambda evaluations, 4 + 3 ln D by default; D floats of memory",
        "D is large, coordinates differ in scale and hardly interact; default population without noise",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rate < math.inf:
            raise UsageError(f"rate = {self.rate} is not valid: a finite number above 0")
        if not 0 <= self.sigma_rate < math.inf:
            raise UsageError(f"sigma_rate = {self.sigma_rate} is not valid: a finite number >= 0")

    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """The sigmas."""
        return {"sigma": np.full(n, self.sigma)}

    def point(self, state: DistributionState, i: int, out: np.ndarray) -> None:
        """mean + sigma_j z_j."""
        out[:] = state.theta + state.memory["sigma"] * normals_of(state, i)

    def next_memory(
        self, state: DistributionState, order: np.ndarray, node: NodeSum
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See `Distribution.next_memory`."""
        sigma, n = state.memory["sigma"], state.theta.size
        weights = by_number(order, utilities(order.size))
        rate = self.sigma_rate or (3 + math.log(n)) / (5 * math.sqrt(n))
        spread = squares(state.seed, state.step, weights, node).astype(np.float64)
        moved = state.theta + self.rate * sigma * weighted_sum(state, weights, node)
        return moved, {"sigma": sigma * np.exp(rate / 2 * spread)}
