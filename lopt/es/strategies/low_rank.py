"""Low-rank noise for matrices: EGGROLL (Sarkar et al. 2025, section 3).

A matrix of theta, (m, n), is perturbed by E = A B^T / sqrt(r), A (m, r) and B (n, r) standard
normal: entries are uncorrelated with unit variance, and E is as likely as -E, so antithetic
estimates stay unbiased for linear and quadratic losses.  A pair costs r (m + n) random numbers, not
m n.  Deviations: any shaping and optimizer; the factored forward pass, the method's main gain, is
the objective's own business.
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
def add_product(out, start, coef, a, b):
    """out[e] += coef * sum over l of a[l, i] b[l, j], start + e = i n + j.

    Shapes: out (any,) float32 UPDATED, a (r, m), b (r, n) float32.
    """
    n = b.shape[1]
    for i in range(start // n, (start + out.size + n - 1) // n):
        lo, hi = max(start, i * n), min(start + out.size, (i + 1) * n)
        row = out[lo - start : hi - start]
        for k in range(a.shape[0]):
            c = coef * a[k, i]
            column = b[k, lo - i * n : hi - i * n]
            for j in range(row.size):
                row[j] += c * column[j]


@register_strategy("low_rank")
@dataclasses.dataclass(frozen=True)
class LowRank(Antithetic):
    """Antithetic pairs with low-rank noise on the matrices of theta, ordinary noise on the rest.

    shapes  of the pieces of theta, in order, as ((64, 32), (32,)); pieces with two axes are
            matrices; () stands for one vector
    rank    r, of a matrix's noise

    Raises:
        UsageError: theta has another size than the shapes.
    """

    shapes: tuple[tuple[int, ...], ...] = ()
    rank: int = 1

    facts: ClassVar[Facts] = Facts(
        "1/P sum E_i (f+ - f-) / (2 sigma), E = A B^T / sqrt(r) for each (m, n) matrix",
        "grad f for a linear or quadratic f; other smoothing than normal noise at fourth order",
        "one matrix: (m n + 1 + (2 m + 2 n + 2) / r) |g|^2 / P",
        "2 P evaluations; shapes; r (m + n) normals a matrix and pair",
        "theta is large matrices, and noise or batched forward passes are what costs",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._demand("rank", self.rank >= 1, "at least 1")
        good = all(len(s) >= 1 and min(s) >= 1 for s in self.shapes)
        self._demand("shapes", good, "shapes of sizes at least 1")

    def init(self, n: int, seed: int) -> GradientState:
        """See `Strategy.init`."""
        size = sum(map(math.prod, self.shapes))
        if self.shapes and size != n:
            raise UsageError(f"shapes = {self.shapes} hold {size} coordinates, theta has {n}")
        return super().init(n, seed)

    def directions(self, state: GradientState, i: int, out: np.ndarray) -> None:
        """See `GradientStrategy.directions`."""
        out[:] = 0
        self._add(state, i, np.float32(1), out, 0)

    def sum_directions(
        self, state: GradientState, weights: np.ndarray, node: NodeSum
    ) -> np.ndarray:
        """sum_i weights[i] E_i, (D,) float32."""
        coefs = weights.astype(np.float32)

        def add(out: np.ndarray, start: int) -> None:
            for i in np.flatnonzero(coefs):
                self._add(state, int(i), coefs[i], out, start)

        return node.rebuild(add)

    def _add(
        self, state: GradientState, i: int, coef: np.float32, out: np.ndarray, start: int
    ) -> None:
        """out += coef times the part [start, start + out.size) of direction i."""
        address, offset = rng.stream(state.seed, state.step, i), 0
        for piece, shape in enumerate(self.shapes or ((state.centre.size,),)):
            size = math.prod(shape)
            lo, hi = max(start, offset), min(start + out.size, offset + size)
            if lo < hi:
                part = out[lo - start : hi - start]
                if len(shape) == 2:
                    # Inner word 0 belongs to ordinary noise.
                    z = rng.normals(self.rank * sum(shape), address, rng.PERTURB, 1 + piece)
                    a, b = np.split(z, [self.rank * shape[0]])
                    scale = np.float32(coef / math.sqrt(self.rank))
                    add_product(
                        part, lo - offset, scale, a.reshape(self.rank, -1), b.reshape(self.rank, -1)
                    )
                else:
                    rng.add_normals(part, coef, lo, address, rng.PERTURB, 0)
            offset += size
