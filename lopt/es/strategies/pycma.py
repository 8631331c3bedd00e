"""The reference implementation of CMA-ES (package `cma`, Hansen, Akimoto & Baudis 2019) as a strategy, by ask and tell.

For what it has and `cma` of lopt has not: restricted covariances, other step sizes, its many options.
The package's object changes in place and is no array; so the state remembers what it was told, and
whoever needs the object at an earlier step, or in another process, makes it again by telling it all
of that once more.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from lopt import rng
from lopt.errors import UsageError, unknown
from lopt.es.facts import Facts
from lopt.es.perturbation import NodeSum
from lopt.es.strategies.distribution import default_population
from lopt.es.strategy import Strategy, register_strategy
from lopt.lanes import pin_blas_threads

TAKEN = ("seed", "randn", "popsize", "bounds", "integer_variables")  # lopt sees to these itself


class _Replica:
    """The package's object and all that it was told; `told` only grows."""

    def __init__(self, n: int, seed: int, strat: "Pycma") -> None:
        package = _package()
        pin_blas_threads()  # the bits must not depend on how many threads decompose a matrix
        options = {
            "popsize": strat.population or default_population(n),
            "randn": _Normals(seed),
            "seed": math.nan,  # leaves the global generator of NumPy alone
            "verbose": -9,
            **strat.options,
        }
        self._es = package.CMAEvolutionStrategy(n * [0.0], strat.sigma, options)
        self.told: list[np.ndarray] = []
        self.points = np.array(self._es.ask())

    def tell(self, losses: np.ndarray) -> None:
        """One step; lost points (NaN) get the median of the others, as the package wants it."""
        kept = ~np.isnan(losses)
        if kept.any():
            filled = np.where(kept, losses, np.median(losses[kept]))
            self._es.tell([x.copy() for x in self.points], filled.tolist())
        self.told.append(losses.copy())
        self.points = np.array(self._es.ask())

    @property
    def mean(self) -> np.ndarray:
        """(D,) float64."""
        return np.array(self._es.mean, np.float64)


class _Normals:
    """randn(*shape) from addresses: call k draws at inner step k."""

    def __init__(self, seed: int) -> None:
        self._stream, self._calls = rng.stream(seed), 0

    def __call__(self, *shape: int) -> np.ndarray:
        numbers = rng.normals(math.prod(shape), self._stream, rng.PERTURB, self._calls)
        self._calls += 1
        return numbers.reshape(shape).astype(np.float64)


@dataclasses.dataclass(frozen=True)
class PycmaState:
    """State after `step` steps.

    theta    (D,) float64, the mean
    seed     of the package's normals
    step     steps done
    points   (lambda, D) float64, of the next step
    replica  the package's object at this step, or a later one
    """

    theta: np.ndarray
    seed: int
    step: int
    points: np.ndarray
    replica: _Replica

    @property
    def told(self) -> Sequence[np.ndarray]:
        """Losses of all steps so far, (lambda,) each."""
        return self.replica.told[: self.step]


@register_strategy("pycma")
@dataclasses.dataclass(frozen=True)
class Pycma(Strategy):
    """CMA-ES of the package `cma`, with its defaults; its stopping conditions are left to the search's limits.

    population  points of a step, lambda; 0: 4 + floor(3 ln D)
    sigma       standard deviation of a coordinate at the start
    options     of `cma.CMAOptions`, as {"CMA_diagonal": True}

    Raises:
        UsageError: the package is missing, an option is unknown or lopt's own business, a setting
            out of range; one coordinate only.
    """

    population: int = 0
    sigma: float = 0.3
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    facts: ClassVar[Facts] = Facts(
        "as cma",
        "nothing of f: it sees the order of losses only; a lost point counts as the median",
        "has none; the same run for any increasing function of f",
        "package cma; lambda evaluations, 4 + 3 ln D by default; 2 D^2 floats and D^2 .. D^3 operations on each rank; "
        "resuming repeats the package's work since the start; D >= 2",
        "the reference is wanted, or one of its options; otherwise cma needs no package and resumes at once",
    )

    def __post_init__(self) -> None:
        if self.population != 0 and self.population < 4:
            raise UsageError(f"population = {self.population} is not valid: at least 4, or 0")
        if not 0 < self.sigma < math.inf:
            raise UsageError(f"sigma = {self.sigma} is not valid: a finite number above 0")
        valid = set(_package().CMAOptions.defaults()) - set(TAKEN)
        for key in self.options:
            if key not in valid:
                raise UsageError(unknown("option of cma for pycma:", key, valid))

    def init(self, n: int, seed: int) -> PycmaState:
        """See `Strategy.init`."""
        if n < 2:
            raise UsageError("pycma with 1 coordinate is not valid: at least 2; see cma")
        return self._replayed(n, seed, ())

    def _replayed(self, n: int, seed: int, told: Sequence[np.ndarray]) -> PycmaState:
        replica = _Replica(n, seed, self)
        for losses in told:
            replica.tell(losses)
        return PycmaState(replica.mean, seed, len(told), replica.points, replica)

    def n_points(self, state: PycmaState) -> int:
        """lambda."""
        return len(state.points)

    def point(self, state: PycmaState, i: int, out: np.ndarray) -> None:
        """Solution i of the package's `ask`."""
        out[:] = state.points[i]

    def tell(self, state: PycmaState, losses: np.ndarray, node: NodeSum) -> PycmaState:
        """See `Strategy.tell`; every rank does all of it."""
        if len(state.replica.told) != state.step:  # the object has gone on since
            state = self._replayed(state.theta.size, state.seed, state.told)
        replica = state.replica
        replica.tell(losses)
        return PycmaState(replica.mean, state.seed, state.step + 1, replica.points, replica)

    def arrays(self, state: PycmaState) -> dict[str, np.ndarray]:
        """Counters, and the losses of all steps, (steps, lambda)."""
        told = np.array(state.told).reshape(state.step, len(state.points))
        return {"counters": np.array([state.theta.size, state.seed], np.int64), "told": told}

    def load(self, arrays: Mapping[str, np.ndarray]) -> PycmaState:
        """Inverse of `arrays`; takes as long as the package took to get there."""
        n, seed = (int(x) for x in arrays["counters"])
        return self._replayed(n, seed, arrays["told"])


def _package() -> Any:
    try:
        import cma
    except ImportError as error:
        raise UsageError(
            "strategy 'pycma' needs the package cma: pip install 'lopt[cma]'; strategy 'cma' needs none"
        ) from error
    return cma
