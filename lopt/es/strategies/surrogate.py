"""A local model fitted to the losses by least squares, and a jump to its minimum within a trust region.

Two small regressions on the same pairs: half differences on z give the slope, means above f(theta)
on z^2 the curvature.  With P >= D pairs they are exact on linear functions and diagonal quadratics,
where Monte Carlo is left with the accidental correlations of the z.  With fewer pairs the slope is
the solution of least norm, a projection of g with mean (P / D) g, hence times D / P.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from lopt.errors import UsageError
from lopt.es.facts import Facts
from lopt.es.gradient_strategy import Antithetic, GradientState
from lopt.es.perturbation import BLOCK, NodeSum, streams
from lopt.es.strategies.sums import halves, means
from lopt.es.strategy import register_strategy
from lopt.lanes import pin_blas_threads

SHRINKS, GROWS = 0.25, 0.75  # of the predicted decrease: below, above
BISECTIONS = 100


def least_squares(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """b that minimises |x b - y|^2 + ridge (mean square column of x) |b|^2, x (n, k), n >= k, float64."""
    gram = x.T @ x
    penalty = ridge * float(np.trace(gram)) / len(gram)
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), x.T @ y)


def jump(g: np.ndarray, h: np.ndarray, radius: float) -> np.ndarray:
    """p that minimises g.p + sum h_j p_j^2 / 2 within |p| <= radius; all (D,) float64.

    p = -g / (h + shift), the least shift >= 0 that makes h + shift positive and p short enough.
    """
    length = math.sqrt(np.sum(g**2))
    if length == 0:
        return np.zeros_like(g)
    lo = max(0.0, -float(h.min()))
    hi = lo + length / radius  # |p| <= length / (hi - lo) there
    if h.min() > 0 and math.sqrt(np.sum((g / h) ** 2)) <= radius:
        return -g / h
    for _ in range(BISECTIONS):
        mid = (lo + hi) / 2
        if mid in (lo, hi):
            break
        # Compared without dividing by what may be 0 at the lower end.
        if np.sum((g / (h + mid)) ** 2) > radius**2:
            lo = mid
        else:
            hi = mid
    return -g / (h + hi)


@register_strategy("surrogate")
@dataclasses.dataclass(frozen=True)
class Surrogate(Antithetic):
    """Fit, jump, compare what the model promised with what came, adapt the trust region.

    The region's radius starts at reach x sigma x sqrt(D), a sample's typical distance times reach;
    it is halved when less than 1/4 of the promised decrease came, doubled after a jump to its edge
    that kept more than 3/4.  A bad jump is not taken back: its end is where the next model is
    fitted, and the best point seen is kept by the search.  Perturbations shrink with the region, down to `least` x sigma.  The
    jump is handed to the outer optimizer as a gradient; plain sgd with learning rate 1 makes it.

    model   "linear", or "quadratic": a curvature for each coordinate, P >= D needed
    ridge   penalty on coefficients, relative to the mean square of a regressor
    reach   radius at the start, in typical distances of samples
    least   smallest sigma, as a fraction of `sigma`

    Raises:
        UsageError: too few pairs for the model.
    """

    shaping: str = "raw"
    optimizer: str = "sgd"
    learning_rate: float = 1.0
    model: str = "linear"
    ridge: float = 0.0
    reach: float = 1.0
    least: float = 0.01

    facts: ClassVar[Facts] = Facts(
        "g = argmin sum ((f+ - f-) / (2 sigma) - z_i.g)^2, of least norm and times D / P if P < D; h from "
        "(f+ + f-)/2 - f(theta) = sigma^2 / 2 sum h_j z_ij^2; step: minimum of the model in |p| <= radius",
        "g: gradient of linear and even f; h: curvature of diagonal quadratics",
        "P >= D: 0; P < D: (D / P - 1) |g|^2.  Evaluation noise tau^2, P > D + 1: D tau^2 / (2 sigma^2 (P - D - 1))",
        "2 P + 1 evaluations, one at theta, quadratic: P >= D; P D min(P, D) operations and min(P, D) (P + D) floats on each "
        'rank; shaping "raw"',
        "D is small enough for P >= D, f is smooth and hardly noisy (else ridge)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._demand(
            "shaping", self.shaping == "raw", "'raw', a model is fitted to the loss itself"
        )
        if self.model not in ("linear", "quadratic"):
            raise UsageError(f"model = {self.model!r} is not valid: 'linear' or 'quadratic'")
        self._demand("ridge", 0 <= self.ridge < math.inf, "a finite number >= 0")
        self._demand("reach", 0 < self.reach < math.inf, "a finite number above 0")
        self._demand("least", 0 < self.least <= 1, "in (0, 1]")

    def init(self, n: int, seed: int) -> GradientState:
        """See `Strategy.init`."""
        if self.model == "quadratic" and self.pairs < n:
            raise UsageError(
                f"pairs = {self.pairs} is not valid for a quadratic model of {n} coordinates: "
                f"at least {n}"
            )
        return super().init(n, seed)

    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """The jump, and its region: radius, f(theta) at its start, promised decrease, length over radius."""
        region = np.array([self.reach * self.sigma * math.sqrt(n), np.nan, np.nan, np.nan])
        return {"jump": np.zeros(n, np.float32), "region": region}

    def n_points(self, state: GradientState) -> int:
        """Two of each pair, and the centre."""
        return 2 * self.pairs + 1

    def point(self, state: GradientState, i: int, out: np.ndarray) -> None:
        """As antithetic; the last one is the centre."""
        if i == 2 * self.pairs:
            out[:] = state.centre
        else:
            super().point(state, i, out)

    def sigma_of(self, state: GradientState) -> float:
        """As a fraction of `sigma`, what the radius is of its first one, from `least` to 1."""
        first = self.reach * self.sigma * math.sqrt(state.centre.size)
        return self.sigma * min(max(float(state.memory["region"][0]) / first, self.least), 1.0)

    def tell(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> GradientState:
        """Fit, adapt the radius, jump.  Perturbations of this step had the sigma of the old radius."""
        pin_blas_threads()  # with more threads products round differently
        level, g, h = self.fit(state, losses, node)
        radius, before, promised, at = (float(v) for v in state.memory["region"])
        if not math.isnan(before - level):
            came = before - level
            if came < SHRINKS * promised:
                radius /= 2
            elif came > GROWS * promised and at > 0.99:
                radius *= 2
        p = jump(g, h, radius)
        promised = -float(np.sum(g * p) + np.sum(h * p * p) / 2)
        length = math.sqrt(np.sum(p**2))
        region = np.array([radius, level, promised, length / radius])
        memory = {"jump": p.astype(np.float32), "region": region}
        return super().tell(dataclasses.replace(state, memory=memory), losses, node)

    def gradient(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> np.ndarray:
        """Minus the jump."""
        return -state.memory["jump"]

    def fit(
        self, state: GradientState, losses: np.ndarray, node: NodeSum
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """f(theta), slope and curvature (both (D,) float64), from losses (2 P + 1,); collective.

        Curvature is 0 for the linear model, or where lost points leave too few.
        """
        sigma, n, level = self.sigma_of(state), state.centre.size, float(losses[-1])
        kept = np.flatnonzero(~np.isnan(means(losses[:-1])))
        slopes, rises = halves(losses[:-1])[kept] / sigma, means(losses[:-1])[kept] - level
        if kept.size < n:
            return level, self._least_norm(state, kept, slopes, node), np.zeros(n)
        table = streams(state.seed, state.step, self.pairs)[kept]
        z = node.normals(table, 0, n).astype(np.float64)
        g = least_squares(z, slopes, self.ridge)
        if self.model == "linear" or math.isnan(level):
            return level, g, np.zeros(n)
        return level, g, least_squares(sigma**2 / 2 * z**2, rises, self.ridge)

    def _least_norm(
        self, state: GradientState, kept: np.ndarray, slopes: np.ndarray, node: NodeSum
    ) -> np.ndarray:
        """D / P' times the slope of least norm, from fewer pairs than coordinates; memory O(P^2 + D)."""
        n, p = state.centre.size, kept.size
        weights, table = np.zeros(self.pairs), streams(state.seed, state.step, self.pairs)[kept]
        if p:
            gram = np.zeros((p, p))
            for lo in range(0, n, BLOCK):
                z = node.normals(table, lo, min(BLOCK, n - lo)).astype(np.float64)
                gram += z @ z.T
            penalty = self.ridge * n
            weights[kept] = np.linalg.solve(gram + penalty * np.eye(p), slopes) * n / p
        return self.sum_directions(state, weights, node).astype(np.float64)
