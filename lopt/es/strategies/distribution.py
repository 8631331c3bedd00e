"""What strategies share that move a whole distribution by the order of their points: SNES, CMA-ES, sep-CMA-ES."""

import abc
import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from lopt import rng
from lopt.errors import UsageError
from lopt.es.perturbation import NodeSum, streams, sum_normals
from lopt.es.strategy import Strategy


@dataclasses.dataclass(frozen=True)
class DistributionState:
    """State of such a strategy.

    theta   (D,) float64, the mean: sigma shrinks with the distance to an optimum, far below what
            float32 tells apart
    seed    first word of all addresses
    step    steps done
    memory  other float64 arrays, not to be changed in place
    """

    theta: np.ndarray
    seed: int
    step: int
    memory: dict[str, np.ndarray]


def default_population(n: int) -> int:
    """4 + floor(3 ln D) (Hansen 2016, table 1; also Schaul et al. 2011)."""
    return 4 + math.floor(3 * math.log(n))


@dataclasses.dataclass(frozen=True)
class Distribution(Strategy):
    """Base: points from normals z_i at (seed, step, i), kept ones put in order, best first.

    population  points of a step, lambda; 0: 4 + floor(3 ln D)
    sigma       standard deviation of a coordinate at the start

    Raises:
        UsageError: a setting out of range.
    """

    population: int = 0
    sigma: float = 0.3

    def __post_init__(self) -> None:
        if self.population != 0 and self.population < 4:
            raise UsageError(f"population = {self.population} is not valid: at least 4, or 0")
        if not 0 < self.sigma < math.inf:
            raise UsageError(f"sigma = {self.sigma} is not valid: a finite number above 0")

    @abc.abstractmethod
    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """`DistributionState.memory` at the start."""

    @abc.abstractmethod
    def next_memory(
        self, state: DistributionState, order: np.ndarray, node: NodeSum
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Mean and memory after a step; order: numbers of the kept points, best first, at least one."""

    def init(self, n: int, seed: int) -> DistributionState:
        """See `Strategy.init`."""
        return DistributionState(np.zeros(n), seed, 0, self.first_memory(n))

    def n_points(self, state: DistributionState) -> int:
        """lambda."""
        return self.population or default_population(state.theta.size)

    def tell(
        self, state: DistributionState, losses: np.ndarray, node: NodeSum
    ) -> DistributionState:
        """See `Strategy.tell`; equal losses keep the order of their numbers."""
        order = np.argsort(losses, kind="stable")[: int((~np.isnan(losses)).sum())]
        mean, memory = self.next_memory(state, order, node)
        return DistributionState(mean, state.seed, state.step + 1, memory)

    def arrays(self, state: DistributionState) -> dict[str, np.ndarray]:
        """See `Strategy.arrays`."""
        counters = np.array([state.seed, state.step], np.int64)
        memory = {f"memory/{k}": v for k, v in state.memory.items()}
        return {"counters": counters, "theta": state.theta, **memory}

    def load(self, arrays: Mapping[str, np.ndarray]) -> DistributionState:
        """Inverse of `arrays`."""
        seed, step = (int(x) for x in arrays["counters"])
        head = "memory/"
        memory = {k[len(head) :]: v.copy() for k, v in arrays.items() if k.startswith(head)}
        return DistributionState(arrays["theta"].copy(), seed, step, memory)


def normals_of(state: DistributionState, i: int) -> np.ndarray:
    """z_i, (D,) float64."""
    address = rng.stream(state.seed, state.step, i)
    return rng.normals(state.theta.size, address, rng.PERTURB).astype(np.float64)


def weighted_sum(state: DistributionState, weights: np.ndarray, node: NodeSum) -> np.ndarray:
    """sum_i weights[i] z_i, (D,) float64 of float32 precision, memory O(D); collective."""
    coefs = weights.astype(np.float32)
    table = streams(state.seed, state.step, coefs.size)
    total = node.rebuild(lambda out, lo: sum_normals(out, lo, coefs, table, rng.PERTURB))
    return total.astype(np.float64)


def by_number(order: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights of points by number, from those by rank; what has no rank gets 0."""
    spread = np.zeros(int(order.max()) + 1)
    spread[order[: weights.size]] = weights
    return spread
