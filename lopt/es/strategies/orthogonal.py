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
from lopt.es.strategies.sums import shared_scalars
from lopt.es.strategy import register_strategy
from lopt.lanes import kernel


@kernel
def reflect(q, k, v):
    """q <- R_k q, q (D,) float64, k counted from 0; v (D - k,) float64 the random direction, OVERWRITTEN."""
    x, square = q[k:], 0.0
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
        v = work[: q.size - k]
        rng.normals_into(v, 0, stream, rng.PERTURB, k)
        q[k] += coefs[k]
        reflect(q, k, v)


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
        "2 P evaluations; P D normals on a sum, i D on direction i < D; P D operations on each rank",
        "P is comparable to D; with P far below D it is as good as antithetic, and dearer",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius not in ("fixed", "chi"):
            raise UsageError(f"radius = {self.radius!r} is not valid: 'fixed' or 'chi'")

    def directions(self, state: GradientState, i: int, out: np.ndarray) -> None:
        """See `GradientStrategy.directions`."""
        n = out.size
        coefs, q, address = (
            np.zeros(i % n + 1),
            np.empty(n),
            rng.stream(state.seed, state.step, i // n),
        )
        coefs[-1] = self._radius(state, i, n)
        combine(q, coefs, address, np.empty(n))
        out[:] = q

    def sum_directions(
        self, state: GradientState, weights: np.ndarray, node: NodeSum
    ) -> np.ndarray:
        """sum_i weights[i] z_i, (D,) float32; the node makes the normals, every rank reflects."""
        n, p = state.centre.size, weights.size
        if self.radius == "fixed":
            coefs = weights * math.sqrt(n)
        else:
            coefs = weights * shared_scalars(p, n, lambda i: self._radius(state, i, n), node)
        total, address = np.zeros(n), rng.stream(state.seed, state.step)[None]
        for first in range(0, p, n):
            q, address[0, 2] = np.zeros(n), first // n
            for i in reversed(range(first, min(first + n, p))):
                k = i - first
                q[k] += coefs[i]
                reflect(q, k, node.normals(address, 0, n - k, k)[0].astype(np.float64))
            total += q
        return total.astype(np.float32)

    def _radius(self, state: GradientState, i: int, n: int) -> float:
        if self.radius == "fixed":
            return math.sqrt(n)
        # Inner words below n are the reflections'.
        z = rng.normals(n, rng.stream(state.seed, state.step, i // n), rng.PERTURB, n + i % n)
        return math.sqrt(math.fsum(z.astype(np.float64) ** 2))
