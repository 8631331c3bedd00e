"""A sigma for each coordinate, learned from the same pairs: PGPE with symmetric sampling (Sehnke et al. 2010)."""

import dataclasses
from typing import ClassVar

import numpy as np

from lopt.es.facts import Facts
from lopt.es.fitness import SCALED, Fitness
from lopt.es.gradient_strategy import Antithetic, GradientState
from lopt.es.perturbation import NodeSum
from lopt.es.strategies.sums import means, squares
from lopt.es.strategy import register_strategy

LARGEST_CHANGE = 1.25  # of a sigma in one step, up or down


@register_strategy("pgpe")
@dataclasses.dataclass(frozen=True)
class Pgpe(Antithetic):
    """Points centre +- sigma_j z_j; sigma_j follows the likelihood gradient, in logarithms.

    The step handed to the outer optimizer is the natural gradient of the centre, sigma_j^2 times the
    plain one, as in the paper; u are shaped losses, which have no unit.  Deviation: multiplicative
    sigma update, bounded per step.

    sigma_rate  of the logarithm of sigma; 0: sigma stays
    """

    optimizer: str = "sgd"
    learning_rate: float = 2.0
    sigma_rate: float = 0.5

    facts: ClassVar[Facts] = Facts(
        "step_j = 1/P sum sigma_j z_ij (u+ - u-) / 2; s_j = 1/P sum (z_ij^2 - 1) (u+ + u-) / 2; "
        "sigma_j <- sigma_j exp(-rate s_j)",
        "sigma_j^2 dJ/dtheta_j and sigma_j dJ/dsigma_j (up to O(1/P)), J = E u, u as shaped",
        "step, u = f linear, sigma_j = 1: (D + 1) |g|^2 / P",
        "2 P evaluations; D floats of memory; shaping without unit (ranks, standardise, sign)",
        "coordinates differ in scale and no one knows how; policies",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        good = self.shaping not in SCALED
        self._demand(
            "shaping", good, "'ranks', 'standardise' or 'sign', sigma needs losses without unit"
        )
        self._demand("sigma_rate", 0 <= self.sigma_rate < np.inf, "a finite number >= 0")

    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """The sigmas."""
        return {"sigma": np.full(n, self.sigma, np.float32)}

    def point(self, state: GradientState, i: int, out: np.ndarray) -> None:
        """Point 2 k is centre + sigma_j z_j, point 2 k + 1 is centre - sigma_j z_j."""
        self.directions(state, i // 2, out)
        out *= state.memory["sigma"] if i % 2 == 0 else -state.memory["sigma"]
        out += state.centre

    def tell(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> GradientState:
        """The centre first, with the sigmas that its points were made with."""
        after = super().tell(state, losses, node)
        kept = ~np.isnan(means(losses))
        utilities = Fitness(self.shaping).points(np.where(np.repeat(kept, 2), losses, np.nan))
        weights = means(utilities) / max(int(kept.sum()), 1)
        change = np.exp(
            -np.float32(self.sigma_rate) * squares(state.seed, state.step, weights, node)
        )
        bounded = np.clip(change, np.float32(1 / LARGEST_CHANGE), np.float32(LARGEST_CHANGE))
        return dataclasses.replace(after, memory={"sigma": state.memory["sigma"] * bounded})

    def gradient(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> np.ndarray:
        """Natural gradient of the centre."""
        return state.memory["sigma"] * super().gradient(state, losses, node)
