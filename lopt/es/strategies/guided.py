"""Guided ES: part of the noise in the subspace of recent gradients (Maheswaranathan et al. 2019, section 3).

Their noise has the covariance S = (alpha / D) I + ((1 - alpha) / k) U U^T of trace 1, U (D, k)
orthonormal.  Here it is C = D S, so that sigma means what it does elsewhere and alpha = 1 is plain
antithetic ES.  Deviation: their surrogate gradients come from outside; a black box has none, so the
subspace is that of the last k estimates.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from lopt import rng
from lopt.es.facts import Facts
from lopt.es.gradient_strategy import Antithetic, GradientState
from lopt.es.perturbation import NodeSum
from lopt.es.strategy import register_strategy

SUBSPACE = 1  # inner word of z' at a pair's address; z has 0


def orthonormal(rows: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the rows' span, (k', D) float64, k' <= k; rows (k, D).

    Gram-Schmidt, twice; a row that depends on earlier ones (to 1e-6 of its length) gives nothing.
    """
    basis: list[np.ndarray] = []
    for row in rows.astype(np.float64):
        length = math.sqrt(np.sum(row * row))
        left = row / length if length > 0 else row
        for _ in range(2):
            for q in basis:
                left = left - np.sum(q * left) * q
        rest = math.sqrt(np.sum(left * left))
        if rest > 1e-6:
            basis.append(left / rest)
    return np.array(basis).reshape(len(basis), rows.shape[1])


@register_strategy("guided")
@dataclasses.dataclass(frozen=True)
class Guided(Antithetic):
    """Antithetic pairs along z = sqrt(alpha) z0 + sqrt((1 - alpha) D / k) U z'.

    alpha     share of the noise that knows no direction, above 0
    subspace  k, estimates whose span guides
    """

    shaping: str = "raw"
    alpha: float = 0.5
    subspace: int = 2

    facts: ClassVar[Facts] = Facts(
        "1/P sum z_i (f+ - f-) / (2 sigma), z = sqrt(alpha) z0 + sqrt((1 - alpha) D / k) U z'",
        "C grad f for a linear or quadratic f, C = alpha I + (1 - alpha) (D / k) U U^T: a descent direction, "
        "biased",
        "(|C g|^2 + D g.C g) / P",
        "2 P evaluations; k D floats of memory",
        "D is large, P small, and the gradient turns slowly; with an optimizer that keeps directions (sgd, "
        "momentum)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._demand("alpha", 0 < self.alpha <= 1, "in (0, 1]")
        self._demand("subspace", self.subspace >= 1, "at least 1")

    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """The last estimates, newest first; a row of zeros where there is none."""
        return {"estimates": np.zeros((self.subspace, n), np.float32)}

    def next_memory(
        self, state: GradientState, losses: np.ndarray, grad: np.ndarray, centre: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The new estimate in front, the oldest gone."""
        return {"estimates": np.concatenate([grad[None], state.memory["estimates"][:-1]])}

    def directions(self, state: GradientState, i: int, out: np.ndarray) -> None:
        """See `GradientStrategy.directions`."""
        super().directions(state, i, out)
        basis = orthonormal(state.memory["estimates"])
        if len(basis):
            everywhere, inside = self._shares(len(basis), out.size)
            within = self._within(state, i, len(basis))
            out *= np.float32(everywhere)
            out += _combined(basis, inside * within)

    def sum_directions(
        self, state: GradientState, weights: np.ndarray, node: NodeSum
    ) -> np.ndarray:
        """sum_i weights[i] z_i, (D,) float32, memory O(k D)."""
        total = super().sum_directions(state, weights, node)
        basis = orthonormal(state.memory["estimates"])
        if not len(basis):
            return total
        everywhere, inside = self._shares(len(basis), total.size)
        within = np.zeros(len(basis))
        for i, weight in enumerate(weights):
            within += weight * self._within(state, i, len(basis))
        return np.float32(everywhere) * total + _combined(basis, inside * within)

    def _shares(self, k: int, n: int) -> tuple[float, float]:
        return math.sqrt(self.alpha), math.sqrt((1 - self.alpha) * n / k)

    def _within(self, state: GradientState, i: int, k: int) -> np.ndarray:
        """z', (k,) float64."""
        address = rng.stream(state.seed, state.step, i)
        return rng.normals(k, address, rng.PERTURB, SUBSPACE).astype(np.float64)


def _combined(basis: np.ndarray, coefs: np.ndarray) -> np.ndarray:
    """sum_j coefs[j] basis[j], (D,) float32, in one order."""
    total = np.zeros(basis.shape[1])
    for c, q in zip(coefs, basis, strict=True):
        total += c * q
    return total.astype(np.float32)
