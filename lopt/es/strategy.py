"""What a search strategy for a black box is: ask, evaluate, tell, with explicit state.

A step of any strategy: `n_points` points, each a pure function of the state and its number, so that any rank can make
any of them; losses of all points meet in one exchange; `tell` turns them into the next state, the same bits on every
rank.  Nothing of size P x D is kept.

Strategies move theta in coordinates of their own in which 0 is the start and 1 is a sensible distance;
`lopt.es.minimize` maps theta to the user's x in float64 (x0 + scale * theta, bounds, integers), so that single
precision is relative to the distance from the start.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from lopt.comm import Comm
from lopt.errors import UsageError
from lopt.es.facts import Facts
from lopt.es.perturbation import NodeSum
from lopt.registry import build


class StrategyState(Protocol):
    """Known of every strategy's state.

    theta  (D,) float32, or float64 if sigma may shrink below what float32 tells apart; where the
           strategy stands: its answer if it stops now
    seed   first word of all addresses, 0 <= seed < 2**32
    step   steps done; second word of the addresses of the next one
    """

    theta: np.ndarray
    seed: int
    step: int


class Strategy(abc.ABC):
    """Settings of a strategy, a frozen dataclass; `register_strategy` names it.  What changes is in its state.

    Raises:
        UsageError: a setting out of range; names it and what is valid.
    """

    name: ClassVar[str]
    facts: ClassVar[Facts]

    def prepare(self, n: int, comm: Comm) -> None:  # noqa: B027, most have nothing to prepare
        """What all states in n coordinates share in memory; collective, before a search begins or goes on."""

    @abc.abstractmethod
    def init(self, n: int, seed: int) -> StrategyState:
        """State before the first step at theta = 0 of n coordinates."""

    @abc.abstractmethod
    def n_points(self, state: StrategyState) -> int:
        """Evaluations that the next step asks for; n_points >= 1."""

    @abc.abstractmethod
    def point(self, state: StrategyState, i: int, out: np.ndarray) -> None:
        """Write point i of the next step into out, (D,) of theta's dtype; same bits whoever asks, in any order."""

    @abc.abstractmethod
    def tell(self, state: StrategyState, losses: np.ndarray, node: NodeSum) -> StrategyState:
        """The state after the step; inputs are left untouched.  Collective over the node if `node` is used.

        Args:
            losses: (n_points,) float64, to be minimised; NaN: lost, its pair (or point) must not count.
            node: sums over perturbations, see `lopt.es.perturbation.NodeSum`.
        """

    @abc.abstractmethod
    def arrays(self, state: StrategyState) -> dict[str, np.ndarray]:
        """The state as named arrays."""

    @abc.abstractmethod
    def load(self, arrays: Mapping[str, np.ndarray]) -> StrategyState:
        """Inverse of `arrays`."""


STRATEGIES: dict[str, type[Strategy]] = {}


def register_strategy(name: str) -> Callable[[type[Strategy]], type[Strategy]]:
    """Class decorator: make a strategy known by name to `minimize`, the tests and the documentation."""

    def add(cls: type[Strategy]) -> type[Strategy]:
        cls.name = name
        STRATEGIES[name] = cls
        return cls

    return add


def strategy(name: str, **options: Any) -> Strategy:
    """Build a strategy by name.

    Raises:
        UsageError: unknown name or option, or a value the strategy refuses; names the nearest valid one.
    """
    return build(STRATEGIES, "strategy", UsageError, name, options)
