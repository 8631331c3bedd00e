"""What evolution strategies need to know about an unrolled problem.

An *episode* is one unroll: `horizon` inner steps, cut into *windows* of K = `truncation` inner
steps (the last one may be shorter).  A pair runs one episode after the other; an episode is
addressed by (episode, pair), where `episode` is the outer step at which it began.  All random
numbers of an episode follow from that address, so both members of the pair see the same problem
(common random numbers), and so does every rank and every resumed run.

A window never crosses the end of an episode: a reset falls between two windows, never inside one.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from lopt.es.variant import Variant

Particle = Mapping[str, np.ndarray]
"""State of one member of a pair: named arrays, all that is needed to go on with its episode."""


class Window(NamedTuple):
    """What a member did in one window.

    loss         sum of the outer losses of the window's inner steps, divided by K: every inner
                 step of an episode has equal weight, a short last window weighs less, and the
                 windows of an episode add up to its total
    state        the particle after the window
    lost         the member diverged; its loss stands for nothing, unless it was clipped on purpose
    inner_steps  inner steps made: as many as were asked for, unless `lost`
    """

    loss: float
    state: Particle
    lost: bool
    inner_steps: int


class Request(NamedTuple):
    """What one member of a pair is to do: inner steps [t0, t0 + steps) of an episode.

    state   the particle at t0; None if it could not be made
    """

    theta: Variant
    state: Particle | None
    episode: int
    pair: int
    t0: int
    steps: int


class UnrolledProblem(Protocol):
    """An objective that is the sum over the steps of an unroll.

    `horizon`, `group` and `cost` are pure functions of the address: every rank asks for every pair.
    An exception in `start` or `run` loses the pair for that outer step; the other methods are not
    guarded.
    """

    n_theta: int

    def horizon(self, episode: int, pair: int) -> int:
        """Inner steps of the episode, at least 1."""

    def group(self, episode: int, pair: int) -> int:
        """Index >= 0 of the task; loss differences are normalised within a group."""

    def cost(self, episode: int, pair: int) -> float:
        """Predicted cost of one inner step, any unit; decides who works, never what comes out."""

    def start(self, theta: np.ndarray, episode: int, pair: int) -> Particle:
        """The particle before inner step 0; theta (D,) float32 is the member's, perturbed."""

    def run(
        self, theta: np.ndarray, state: Particle, episode: int, pair: int, t0: int, steps: int
    ) -> Window:
        """Inner steps [t0, t0 + steps) of the episode; `state` may be changed and returned."""


class BatchedProblem(UnrolledProblem, Protocol):
    """A problem that runs many members at once, for devices that need thousands to be busy.

    batched   True: estimators call `run_many` with all of a rank's requests instead of `run` with each
    """

    batched: bool

    def run_many(self, requests: Sequence[Request]) -> list[Window]:
        """What `run` gives for each, none without a state; an exception loses all of them."""
