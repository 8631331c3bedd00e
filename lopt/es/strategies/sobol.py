"""Quasi-random directions: scrambled Sobol points through the inverse normal distribution function."""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from lopt.errors import UsageError
from lopt.es.facts import Facts
from lopt.es.gradient_strategy import Antithetic, GradientState
from lopt.es.perturbation import NodeSum
from lopt.es.strategy import register_strategy

MAX_DIMENSIONS = 21_201  # of SciPy's direction numbers
BITS = 30  # of a coordinate; half a unit more keeps it away from 0, which has no normal


@functools.lru_cache(maxsize=1)
def _engine(seed: int, step: int, n: int) -> Any:
    from scipy.stats import qmc  # takes longer to load than all of lopt

    scramble = np.random.default_rng([seed, step])
    return qmc.Sobol(n, scramble=True, bits=BITS, seed=scramble)


def _uniforms(seed: int, step: int, i: int, n: int) -> np.ndarray:
    """Point i of the step's sequence, (n,) float64, in (0, 1)."""
    engine = _engine(seed, step, n)
    if engine.num_generated > i:
        engine.reset()
    if engine.num_generated < i:
        engine.fast_forward(i - engine.num_generated)
    return engine.random(1)[0] + 2.0 ** -(BITS + 1)


def _normals(uniforms: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri(uniforms).astype(np.float32)


@register_strategy("sobol")
@dataclasses.dataclass(frozen=True)
class Sobol(Antithetic):
    """Antithetic pairs along scrambled Sobol points (`scipy.stats.qmc`), scrambled anew every step.

    Raises:
        UsageError: more than 21201 coordinates.
    """

    facts: ClassVar[Facts] = Facts(
        "1/P sum z_i (f+ - f-) / (2 sigma), z_i = Phi^-1(u_i), u scrambled Sobol",
        "grad f_sigma, any f: each z_i alone is normal",
        "no closed form; not above antithetic's in low dimensions, equal to it in high ones",
        "2 P evaluations, best with P a power of 2; D <= 21201; 7 kB a coordinate while scrambling, each rank, each step",
        "D is at most a few dozen; beyond that antithetic is as good and cheaper",
    )

    def init(self, n: int, seed: int) -> GradientState:
        """See `Strategy.init`."""
        if n > MAX_DIMENSIONS:
            raise UsageError(f"sobol with {n} coordinates is not valid: at most {MAX_DIMENSIONS}")
        return super().init(n, seed)

    def directions(self, state: GradientState, i: int, out: np.ndarray) -> None:
        """See `GradientStrategy.directions`."""
        out[:] = _normals(_uniforms(state.seed, state.step, i, out.size))

    def sum_directions(
        self, state: GradientState, weights: np.ndarray, node: NodeSum
    ) -> np.ndarray:
        """sum_i weights[i] z_i, (D,) float32; normals are made by slices, uniforms by every rank."""
        coefs, n = weights.astype(np.float32), state.centre.size

        def add(out: np.ndarray, start: int) -> None:
            for i, c in enumerate(coefs):
                u = _uniforms(state.seed, state.step, i, n)
                out += c * _normals(u[start : start + out.size])

        return node.rebuild(add)
