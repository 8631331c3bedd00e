"""Orthogonal directions: z_i = r_i q_i, the q of up to D pairs orthonormal and Haar-distributed.

q_i = R_1 ... R_i e_i, R_k the Householder reflection of coordinates k .. D - 1 that maps e_k to a
random direction of theirs (Stewart 1980, section 3; the columns' signs, which antithetic pairs do
not see, are left out).  So a direction, and a weighted sum of all of them (Horner's rule: R_1 (c_1
e_1 + R_2 (c_2 e_2 + ...))), takes D floats of memory and no matrix.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from lopt import rng
from lopt.errors import UsageError
from lopt.es.facts import Facts
from lopt.es.gradient_strategy import Antithetic, GradientState
from lopt.es.perturbation import NodeSum
from lopt.es.strategy import register_strategy
from lopt.lanes import kernel


@kernel
def reflect(q, k, stream, work):
    """q <- R_k q, q (D,) float64, k counted from 0; work (D,) float64, OVERWRITTEN."""
    v, x = work[: q.size - k], q[k:]
    rng.normals_into(v, 0, stream, rng.PERTURB, k)
    square = 0.0
    for j in range(v.size):
        square += v[j] * v[j]
    v[0] += math.copysign(math.sqrt(square), v[0])
    square, product = 0.0, 0.0
    for j in range(v.size):
        square += v[j] * v[j]
        product += v[j] * x[j]
    if square > 0:
        c = 2.0 * product / square
        for j in range(v.size):
            x[j] -= c * v[j]


@kernel
def combine(q, coefs, stream, work):
    """q = sum_i coefs[i] q_i of one orthonormal set, coefs (m,), m <= D; q, work (D,) float64, OVERWRITTEN."""
    q[:] = 0.0
    for i in range(coefs.size):
        k = coefs.size - 1 - i
        q[k] += coefs[k]
        reflect(q, k, stream, work)


@register_strategy("orthogonal")
@dataclasses.dataclass(frozen=True)
class Orthogonal(Antithetic):
    """Pairs in sets of D orthonormal directions; the last set may have fewer.

    radius  "fixed": r = sqrt(D); "chi": r as long as a normal vector, directions are normal then
    """

    radius: str = "fixed"

    facts: ClassVar[Facts] = Facts(
        "1/P sum z_i (f+ - f-) / (2 sigma), z_i = r_i q_i, q orthonormal in sets of D",
        'radius "chi": grad f_sigma, any f; "fixed": the same to second order in sigma',
        "P <= D: (D / P - 1) |g|^2, chi ((D + 2) / P - 1) |g|^2; 0 at P = D, fixed",
        "2 P evaluations; each rank spends P D normals on a sum, i D on direction i < D",
        "P is comparable to D; with P far below D it is as good as antithetic, and dearer",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius not in ("fixed", "chi"):
            raise UsageError(f"radius = {self.radius!r} is not valid: 'fixed' or 'chi'")

    def directions(self, state: GradientState, i: int, out: np.ndarray) -> None:
        """See `GradientStrategy.directions`."""
        n = out.size
        coefs = np.zeros(i % n + 1)
        coefs[-1] = self._radius(state, i, n)
        out[:] = self._combined(state, i // n, coefs, n)

    def sum_directions(
        self, state: GradientState, weights: np.ndarray, node: NodeSum
    ) -> np.ndarray:
        """sum_i weights[i] z_i, (D,) float32; every rank makes the whole of it: reflections need whole vectors."""
        n = state.centre.size
        total = np.zeros(n)
        radii = [self._radius(state, i, n) for i in range(weights.size)]
        coefs = weights * np.array(radii)
        for first in range(0, coefs.size, n):
            total += self._combined(state, first // n, coefs[first : first + n], n)
        return total.astype(np.float32)

    def _combined(self, state: GradientState, k: int, coefs: np.ndarray, n: int) -> np.ndarray:
        q = np.empty(n)
        combine(q, coefs, rng.stream(state.seed, state.step, k), np.empty(n))
        return q

    def _radius(self, state: GradientState, i: int, n: int) -> float:
        if self.radius == "fixed":
            return math.sqrt(n)
        # Inner words below n are the reflections'.
        z = rng.normals(n, rng.stream(state.seed, state.step, i // n), rng.PERTURB, n + i % n)
        return math.sqrt(math.fsum(z.astype(np.float64) ** 2))
