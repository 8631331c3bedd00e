"""CMA-ES and sep-CMA-ES, as baselines (Hansen 2016, "The CMA evolution strategy: a tutorial", figure 6).

Default constants.  The worse half of the points counts with negative weights in C, and not in the
mean ("active" CMA).  What keeps C positive: the full matrix scales a bad y_k to the length of a
typical one, as in the source; of the diagonal no variance falls below `LEAST` of itself in a step
(deviation: the lengths of all points would cost as much as all else).
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import numpy as np

from lopt.errors import UsageError
from lopt.es.facts import Facts
from lopt.es.perturbation import NodeSum, streams
from lopt.es.strategies.distribution import (
    Distribution,
    DistributionState,
    by_number,
    normals_of,
    weighted_sum,
)
from lopt.es.strategies.sums import squares
from lopt.es.strategy import register_strategy
from lopt.lanes import pin_blas_threads

MAX_DIMENSIONS = 10_000  # of full CMA-ES: 800 MB a matrix
CHUNK = 256  # steps whose outer products are added at once
LEAST = 0.5  # part of a variance of sep-CMA-ES that is left after a step


class Constants(NamedTuple):
    """Constants of a population in n coordinates.

    weights    (mu,) of the better half, best first, their sum is 1
    negative   (lambda - mu,) of the worse half, in C alone
    effective  mu_eff
    """

    weights: np.ndarray
    negative: np.ndarray
    effective: float
    c_sigma: float
    damping: float
    c_c: float
    c_1: float
    c_mu: float
    norm: float  # E |N(0, I)|


def constants(n: int, population: int, separable: bool) -> Constants:
    """Hansen's defaults; separable: learning rates of the diagonal times (n + 2) / 3 (Ros & Hansen 2008)."""
    mu = population // 2
    raw = math.log((population + 1) / 2) - np.log(np.arange(1, population + 1))
    worse = np.minimum(raw[mu:], 0)
    weights = raw[:mu] / raw[:mu].sum()
    effective = 1 / float(np.sum(weights**2))
    c_sigma = (effective + 2) / (n + effective + 5)
    damping = 1 + 2 * max(0.0, math.sqrt((effective - 1) / (n + 1)) - 1) + c_sigma
    c_c = (4 + effective / n) / (n + 4 + 2 * effective / n)
    faster = (n + 2) / 3 if separable else 1.0
    c_1 = 2 / ((n + 1.3) ** 2 + effective)
    c_mu = 2 * (effective - 2 + 1 / effective) / ((n + 2) ** 2 + effective)
    c_1 = min(1.0, faster * c_1)
    c_mu = min(1 - c_1, faster * c_mu)
    norm = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
    bounds = [1 + c_1 / c_mu, 1 + 2 * worse.sum() ** 2 / np.sum(worse**2) / (effective + 2)]
    if not separable:
        bounds.append((1 - c_1 - c_mu) / (n * c_mu))
    negative = worse * (min(bounds) / -worse.sum())
    return Constants(weights, negative, effective, c_sigma, damping, c_c, c_1, c_mu, norm)


class _Step(NamedTuple):
    """What both kinds do alike in a step: new paths and sigma, and the weights of the old C's terms."""

    path_sigma: np.ndarray
    path_c: np.ndarray
    sigma: np.ndarray
    keep: float  # weight of the old C


def _paths(
    c: Constants, state: DistributionState, whitened: np.ndarray, move: np.ndarray, total: float
) -> _Step:
    """whitened: C^(-1/2) (mean' - mean) / sigma; move: (mean' - mean) / sigma; total: of C's weights."""
    old, n = state.memory, whitened.size
    path_sigma = (1 - c.c_sigma) * old["path_sigma"]
    path_sigma += math.sqrt(c.c_sigma * (2 - c.c_sigma) * c.effective) * whitened
    length = math.sqrt(np.sum(path_sigma**2))
    started = math.sqrt(1 - (1 - c.c_sigma) ** (2 * (state.step + 1)))
    stalled = length / started / c.norm >= 1.4 + 2 / (n + 1)  # sigma is about to grow a lot
    path_c = (1 - c.c_c) * old["path_c"]
    keep = 1 - c.c_1 - c.c_mu * total
    if stalled:
        keep += c.c_1 * c.c_c * (2 - c.c_c)
    else:
        path_c = path_c + math.sqrt(c.c_c * (2 - c.c_c) * c.effective) * move
    sigma = old["sigma"] * math.exp(c.c_sigma / c.damping * (length / c.norm - 1))
    return _Step(path_sigma, path_c, sigma, keep)


class _Cma(Distribution):
    """What both kinds share."""

    separable: ClassVar[bool]

    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """Step size and paths."""
        return {
            "sigma": np.array([self.sigma]),
            "path_sigma": np.zeros(n),
            "path_c": np.zeros(n),
        }

    def _constants(
        self, state: DistributionState, order: np.ndarray
    ) -> tuple[Constants, np.ndarray, np.ndarray]:
        """Constants, and weights by rank in the mean and in C: of the kept points, the former's sum is 1 again."""
        c = constants(state.theta.size, self.n_points(state), self.separable)
        weights = c.weights[: order.size]
        weights = weights / weights.sum()
        return c, weights, np.concatenate([weights, c.negative])[: order.size]


@register_strategy("cma")
@dataclasses.dataclass(frozen=True)
class Cma(_Cma):
    """Full covariance matrix.  C is decomposed every 1 / (10 D (c_1 + c_mu)) steps, or every one.

    Raises:
        UsageError: more than 10000 coordinates.
    """

    separable: ClassVar[bool] = False

    facts: ClassVar[Facts] = Facts(
        "mean += sigma sum w_k y_(k), y = C^(1/2) z; C from its path and sum w_k y_(k) y_(k)^T; sigma from the "
        "length of its path",
        "nothing of f: it sees the order of losses only",
        "has none; the same run for any increasing function of f",
        "lambda evaluations, 4 + 3 ln D by default; 2 D^2 floats and D^2 .. D^3 operations on each rank",
        "f is smooth, has no noise, may be ill-conditioned, and D is at most some hundred; evaluations are dearer than "
        "D^2 operations",
    )

    def init(self, n: int, seed: int) -> DistributionState:
        """See `Strategy.init`."""
        if n > MAX_DIMENSIONS:
            raise UsageError(
                f"cma with {n} coordinates is not valid: at most {MAX_DIMENSIONS}; see sep_cma"
            )
        return super().init(n, seed)

    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """C, its eigenvectors (columns), roots of its eigenvalues, and the step they are of."""
        shape = {
            "covariance": np.eye(n),
            "basis": np.eye(n),
            "scales": np.ones(n),
            "decomposed": np.zeros(1),
        }
        return {**super().first_memory(n), **shape}

    def point(self, state: DistributionState, i: int, out: np.ndarray) -> None:
        """mean + sigma C^(1/2) z, C^(1/2) = basis x scales."""
        pin_blas_threads()  # with more threads products round differently
        m = state.memory
        out[:] = state.theta + m["sigma"] * (m["basis"] @ (m["scales"] * normals_of(state, i)))

    def next_memory(
        self, state: DistributionState, order: np.ndarray, node: NodeSum
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See `Distribution.next_memory`."""
        pin_blas_threads()
        m, (c, weights, signed) = state.memory, self._constants(state, order)
        z = weighted_sum(state, by_number(order, weights), node)
        move = m["basis"] @ (m["scales"] * z)
        step = _paths(c, state, m["basis"] @ z, move, signed.sum())
        covariance = step.keep * m["covariance"]
        covariance += c.c_1 * np.outer(step.path_c, step.path_c)
        covariance += c.c_mu * self._spread(state, order, signed, node)
        memory = {
            **m,
            "sigma": step.sigma,
            "path_sigma": step.path_sigma,
            "path_c": step.path_c,
            "covariance": covariance,
        }
        age = state.step + 1 - float(m["decomposed"][0])
        if age * 10 * z.size * (c.c_1 + c.c_mu) >= 1:
            memory |= _decomposed(covariance, state.step + 1)
        return state.theta + m["sigma"] * move, memory

    def _spread(
        self, state: DistributionState, order: np.ndarray, weights: np.ndarray, node: NodeSum
    ) -> np.ndarray:
        """sum_k weights[k] y_k y_k^T, (D, D); y_k of a negative weight as long as a typical one."""
        m, table = state.memory, streams(state.seed, state.step, int(order.max()) + 1)
        total = np.zeros_like(m["covariance"])
        for lo in range(0, order.size, CHUNK):
            z = node.normals(table[order[lo : lo + CHUNK]], 0, state.theta.size).astype(np.float64)
            w, y = weights[lo : lo + CHUNK], (z * m["scales"]) @ m["basis"].T
            total += (y.T * np.where(w < 0, w * z.shape[1] / np.sum(z**2, axis=1), w)) @ y
        return total


def _decomposed(covariance: np.ndarray, step: int) -> dict[str, np.ndarray]:
    even = (covariance + covariance.T) / 2
    values, basis = np.linalg.eigh(even)
    least = 1e-28 * float(values[-1])  # rounding can take a tiny eigenvalue below 0
    return {
        "covariance": even,
        "basis": np.ascontiguousarray(basis),
        "scales": np.sqrt(np.maximum(values, least)),
        "decomposed": np.array([float(step)]),
    }


@register_strategy("sep_cma")
@dataclasses.dataclass(frozen=True)
class SepCma(_Cma):
    """Diagonal covariance matrix: memory O(D), sums by slices of the node."""

    separable: ClassVar[bool] = True

    facts: ClassVar[Facts] = Facts(
        "as cma with a diagonal C, learning rates c_1 and c_mu times (D + 2) / 3",
        "nothing of f: it sees the order of losses only",
        "has none; the same run for any increasing function of f",
        "lambda evaluations, 4 + 3 ln D by default; 4 D floats of memory",
        "f is smooth and has no noise, coordinates differ in scale and hardly interact: faster than cma there, at any D; "
        "not if f is rotated",
    )

    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """The diagonal of C."""
        return {**super().first_memory(n), "variance": np.ones(n)}

    def point(self, state: DistributionState, i: int, out: np.ndarray) -> None:
        """mean + sigma sqrt(variance_j) z_j."""
        m = state.memory
        out[:] = state.theta + m["sigma"] * np.sqrt(m["variance"]) * normals_of(state, i)

    def next_memory(
        self, state: DistributionState, order: np.ndarray, node: NodeSum
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See `Distribution.next_memory`."""
        m, (c, weights, signed) = state.memory, self._constants(state, order)
        z = weighted_sum(state, by_number(order, weights), node)
        move, total = np.sqrt(m["variance"]) * z, signed.sum()
        step = _paths(c, state, z, move, total)
        second = total + squares(state.seed, state.step, by_number(order, signed), node)
        factor = np.maximum(step.keep + c.c_mu * second.astype(np.float64), LEAST)
        variance = factor * m["variance"] + c.c_1 * step.path_c**2
        memory = {
            "sigma": step.sigma,
            "path_sigma": step.path_sigma,
            "path_c": step.path_c,
            "variance": variance,
        }
        return state.theta + m["sigma"] * move, memory
