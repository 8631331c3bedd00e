"""Strategies that estimate a gradient and hand it to an outer optimizer.

A subclass says where the points are and how their losses become a gradient; this class does what
all of them share: settings, outer optimizer, weight decay, checkpointing.  As it stands it is
antithetic ES: points 2 i and 2 i + 1 are centre + sigma z_i and centre - sigma z_i, and

    g = 1/P' sum over the P' kept pairs of w_i z_i,   w = shaped (f+ - f-) / (2 sigma)

(Salimans et al. 2017, algorithm 2, with antithetic pairs and ranks as in 2.1; deviation: any outer
optimizer, any shaping of `lopt.es.fitness`).  With shaping "raw" it is unbiased for the gradient of
the smoothed loss E f(theta + sigma z), with total variance (D + 1) |g|^2 / P for a linear f.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from lopt import rng
from lopt.errors import UsageError
from lopt.es.facts import Facts
from lopt.es.fitness import Fitness
from lopt.es.outer import OuterOptimizer, OuterState
from lopt.es.perturbation import NodeSum, streams, sum_normals
from lopt.es.strategy import Strategy, register_strategy
from lopt.layout import Layout


@dataclasses.dataclass(frozen=True)
class GradientState:
    """State of a strategy that follows a gradient.

    theta   (D,) float32, the answer: the average of the centres (`ema`), or the centre itself
    seed    first word of all addresses
    step    steps done
    centre  (D,) float32, where the next points are made around
    outer   state of the outer optimizer
    memory  whatever else the strategy remembers, named arrays; not to be changed in place
    """

    theta: np.ndarray
    seed: int
    step: int
    centre: np.ndarray
    outer: OuterState
    memory: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class GradientStrategy(Strategy):
    """Base of strategies that step an outer optimizer along an estimated gradient.

    pairs           antithetic pairs P of a step
    sigma           standard deviation of a coordinate's perturbation
    shaping         "ranks", "raw", "standardise", "sign" or "clip", see `lopt.es.fitness`
    optimizer       any hand-made optimizer of lopt that has a learning rate
    learning_rate   in units of theta per step
    options         further options of the optimizer, as {"beta1": 0.8}
    weight_decay    adds this times the centre to the gradient: pulls towards the start
    clip            largest magnitude of a gradient coordinate
    warmup          steps of linear learning-rate warm-up
    decay_steps     steps after which a cosine has brought the learning rate to final_fraction of
                    itself; 0: constant
    final_fraction  of the learning rate
    ema             decay per step of the average of centres that is the answer; 0: the last centre

    Raises:
        UsageError: a setting out of range.
    """

    pairs: int = 32
    sigma: float = 0.1
    shaping: str = "ranks"
    optimizer: str = "adam"
    learning_rate: float = 0.05
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weight_decay: float = 0.0
    clip: float = math.inf
    warmup: int = 0
    decay_steps: int = 0
    final_fraction: float = 0.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        self._demand("pairs", self.pairs >= 1, "at least 1")
        self._demand("sigma", 0 < self.sigma < math.inf, "a finite number above 0")
        good = 0 < self.learning_rate < math.inf
        self._demand("learning_rate", good, "a finite number above 0")
        self._demand("weight_decay", 0 <= self.weight_decay < math.inf, "a finite number >= 0")
        self._demand("decay_steps", self.decay_steps >= 0, "at least 0")
        self._outer(1)  # refuses the rest
        Fitness(self.shaping)

    def _demand(self, key: str, good: bool, valid: str) -> None:
        if not good:
            raise UsageError(f"{key} = {getattr(self, key)} is not valid: {valid}")

    # What subclasses override.

    def n_points(self, state: GradientState) -> int:
        """Two of each pair."""
        return 2 * self.pairs

    def directions(self, state: GradientState, i: int, out: np.ndarray) -> None:
        """Write z_i, the direction of pair i, into out, (D,) float32; unit scale, zero mean."""
        rng.normals_into(out, 0, rng.stream(state.seed, state.step, i), rng.PERTURB, 0)

    def point(self, state: GradientState, i: int, out: np.ndarray) -> None:
        """Point 2 k is centre + sigma z_k, point 2 k + 1 is centre - sigma z_k."""
        self.directions(state, i // 2, out)
        out *= np.float32(self.sigma_of(state) if i % 2 == 0 else -self.sigma_of(state))
        out += state.centre

    def sigma_of(self, state: GradientState) -> float:
        """Standard deviation of the next step's perturbations."""
        return self.sigma

    @abc.abstractmethod
    def gradient(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> np.ndarray:
        """Estimate at `state.centre`, (D,) float32, from losses (n_points,) float64, NaN: lost.

        Collective over the node if `node` is used.
        """

    def first_memory(self, n: int) -> dict[str, np.ndarray]:
        """`GradientState.memory` before the first step in n coordinates."""
        return {}

    def next_memory(
        self, state: GradientState, losses: np.ndarray, grad: np.ndarray, centre: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The memory after a step that brought the centre from `state.centre` to `centre`."""
        return state.memory

    # What all share.

    def init(self, n: int, seed: int) -> GradientState:
        """Centre at 0; see `Strategy.init`."""
        zero = np.zeros(n, np.float32)
        return GradientState(zero, seed, 0, zero, self._outer(n).init(zero), self.first_memory(n))

    def tell(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> GradientState:
        """Estimate, step, remember; see `Strategy.tell`."""
        grad = self.gradient(state, losses, node)
        outer = self._outer(grad.size)
        pulled = grad + np.float32(self.weight_decay) * state.centre if self.weight_decay else grad
        centre, outer_state = outer.step(state.centre, pulled, state.outer)
        return GradientState(
            outer.average(outer_state) if self.ema else centre,
            state.seed,
            state.step + 1,
            centre,
            outer_state,
            self.next_memory(state, losses, grad, centre),
        )

    def sum_directions(
        self, state: GradientState, weights: np.ndarray, node: NodeSum
    ) -> np.ndarray:
        """sum_i weights[i] z_i of independent normal directions, (D,) float32, memory O(D)."""
        coefs = weights.astype(np.float32)
        table = streams(state.seed, state.step, coefs.size)
        return node.rebuild(lambda out, start: sum_normals(out, start, coefs, table, rng.PERTURB))

    def arrays(self, state: GradientState) -> dict[str, np.ndarray]:
        """See `Strategy.arrays`."""
        outer = self._outer(state.theta.size).state_arrays(state.outer)
        return {
            "theta": state.theta,
            "centre": state.centre,
            "counters": np.array([state.seed, state.step], np.int64),
            **{f"outer/{k}": v for k, v in outer.items()},
            **{f"memory/{k}": v for k, v in state.memory.items()},
        }

    def load(self, arrays: Mapping[str, np.ndarray]) -> GradientState:
        """Inverse of `arrays`."""
        seed, step = (int(x) for x in arrays["counters"])
        theta = arrays["theta"].copy()
        outer = self._outer(theta.size).load_arrays(_below("outer/", arrays))
        memory = {k: v.copy() for k, v in _below("memory/", arrays).items()}
        return GradientState(theta, seed, step, arrays["centre"].copy(), outer, memory)

    def learning_rate_of(self, state: GradientState) -> float:
        """Learning rate of the next step, after warm-up and cosine."""
        return self._outer(1).learning_rate(state.step)

    def _outer(self, n: int) -> OuterOptimizer:
        cfg = SimpleNamespace(
            optimizer=self.optimizer,
            options={"learning_rate": self.learning_rate, **self.options},
            clip=self.clip,
            warmup=self.warmup,
            schedule="cosine" if self.decay_steps else "constant",
            final_fraction=self.final_fraction,
            ema=self.ema,
        )
        return OuterOptimizer(cfg, Layout((("theta", (n,)),)), max(self.decay_steps, 1))


@register_strategy("antithetic")
@dataclasses.dataclass(frozen=True)
class Antithetic(GradientStrategy):
    """Antithetic pairs along independent normal directions: OpenES (Salimans et al. 2017)."""

    facts: ClassVar[Facts] = Facts(
        "1/P sum z_i (f+ - f-) / (2 sigma)",
        "grad f_sigma, any f",
        "(D + 1) |g|^2 / P, curvature adds nothing; evaluation noise tau^2 adds D tau^2 / (2 P sigma^2)",
        "2 P evaluations",
        "losses are noisy, or a policy's, or D is large: with ranks losses of any scale, with raw a gradient that "
        "can be trusted; a smooth loss without noise is for cma and sep_cma",
    )

    def gradient(self, state: GradientState, losses: np.ndarray, node: NodeSum) -> np.ndarray:
        """Mean over kept pairs of w_i z_i."""
        return self.sum_directions(state, self.pair_weights(state, losses), node)

    def pair_weights(self, state: GradientState, losses: np.ndarray) -> np.ndarray:
        """What z_i is multiplied with, (P,) float64: shaped slopes over the number of kept pairs."""
        both = losses.reshape(-1, 2)
        kept = int((~np.isnan(both).any(axis=1)).sum())
        return Fitness(self.shaping).pairs(both, self.sigma_of(state)) / max(kept, 1)


def _below(head: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k[len(head) :]: v for k, v in arrays.items() if k.startswith(head)}
