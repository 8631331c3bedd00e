"""Estimators that go window by window: episodes, owners of pairs, checkpoints.

Particles stay on the rank that owns their pair.  A pair changes its owner only when it begins a new
episode, where there is nothing to move; owners are chosen by predicted cost, by the same rule on
every rank.  Who owns a pair leaves no trace in the numbers.

Step-unlocked.  The first episode of each pair is cut after a random number of windows, so that
every later outer step mixes early and late windows.  The cut is at a multiple of K: no window is
shortened by it.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import numpy as np

from lopt import rng
from lopt.es.estimator import Estimate, Estimator
from lopt.es.pairs import Members, Outcome, share_out
from lopt.es.perturbation import streams
from lopt.es.problem import Particle, Request
from lopt.es.shaping import ShapingState
from lopt.es.variant import Perturbed, Variant

SAVED = ("episode", "t", "end")  # group, cost and owner follow
CUT = 1  # inner word of the address of a first episode's cut; a problem's draws of HORIZON have 0


@dataclasses.dataclass
class Unrolled:
    """State of a windowed estimator.

    Known to every rank, (P,) each; t == 0 says that the next outer step begins a new episode:
        episode  int64, outer step at which the episode began; -1 before the first
        t        int64, inner steps done
        end      int64, inner steps after which it ends
        group    int64, its task
        cost     float64, predicted cost of an inner step
        owner    int64, rank that runs it
    particles    of the pairs this rank owns: [+, -], or [unperturbed] for truncated ES
    shaping      statistics of the slopes
    xi           (P, this rank's slice of D) float32 for PES, empty for others; it follows from the
                 addresses, so it is never saved
    """

    episode: np.ndarray
    t: np.ndarray
    end: np.ndarray
    group: np.ndarray
    cost: np.ndarray
    owner: np.ndarray
    particles: dict[int, list[Particle]]
    shaping: ShapingState
    xi: np.ndarray


class Window(NamedTuple):
    """One window of one pair: inner steps [t0, t0 + steps) of its episode."""

    members: Members
    episode: int
    pair: int
    t0: int
    steps: int

    def start(self, theta: Variant) -> Particle | None:
        """A particle at inner step 0; None if that failed."""
        return self.members.start(theta.array, self.episode, self.pair)

    def of(self, theta: Variant, state: Particle | None) -> Request:
        """The window of one member."""
        return Request(theta, state, self.episode, self.pair, self.t0, self.steps)


class Windowed(Estimator):
    """One window of every pair per outer step; subclasses say what is perturbed when."""

    runs: ClassVar[int] = 2  # member runs that a window costs
    accumulates: ClassVar[bool] = False  # whether `xi` is kept

    @abc.abstractmethod
    def _drawn(self, state: Unrolled, outer_step: int) -> int | np.ndarray:
        """Outer step at which the perturbation in use was drawn: one for all pairs, or (P,)."""

    def _asked(
        self, window: Window, pair: Perturbed, before: list[Particle] | None
    ) -> list[Request]:
        """What is to be run in the window; here both members, from where they stand or from the start.

        Args:
            before: the pair's particles, None at the start of an episode.
        """
        both = pair.members()
        starts = before or [window.start(theta) for theta in both]
        return [window.of(theta, start) for theta, start in zip(both, starts, strict=True)]

    def _told(self, done: list[Outcome]) -> tuple[list[float], list[Particle | None]]:
        """Losses of + and -, and the pair's particles, from what became of `_asked`."""
        return [loss for loss, _ in done], [particle for _, particle in done]

    def _gradient(self, coefs: np.ndarray, state: Unrolled, outer_step: int) -> np.ndarray:
        """Coefficients (P,) to gradient (D,)."""
        return self._sum_normals(self._drawn(state, outer_step), coefs)

    def init(self, theta: np.ndarray) -> Unrolled:
        """State before the first outer step; see `Estimator.init`."""
        self._check_theta(theta)
        width = self._sum.hi - self._sum.lo if self.accumulates else 0
        return Unrolled(
            episode=np.full(self.pairs, -1, np.int64),
            t=np.zeros(self.pairs, np.int64),
            end=np.zeros(self.pairs, np.int64),
            group=np.zeros(self.pairs, np.int64),
            cost=np.zeros(self.pairs),
            owner=np.zeros(self.pairs, np.int64),
            particles={},
            shaping=self.shaping.init(),
            xi=np.zeros((self.pairs, width), np.float32),
        )

    def step(
        self, theta: np.ndarray, outer_step: int, state: Unrolled
    ) -> tuple[Estimate, Unrolled]:
        """One window of every pair; see `Estimator.step`."""
        record = self._record()
        self._begin_episodes(state, outer_step)
        record.groups = state.group.copy()
        steps = np.minimum(self.truncation, state.end - state.t)
        record.inner_steps = self.runs * int(steps.sum())
        table = streams(self.seed, self._drawn(state, outer_step), self.pairs)
        losses, after = np.zeros((self.pairs, 2)), {}
        mine = np.flatnonzero(state.owner == self.comm.rank).tolist()

        def asked(i: int) -> tuple[int, list[Request]]:
            window = Window(
                record.members, int(state.episode[i]), i, int(state.t[i]), int(steps[i])
            )
            return i, self._asked(window, self._perturbed(theta, table[i]), state.particles.get(i))

        for i, done in record.members.carry_out(map(asked, mine)):
            losses[i], after[i] = self._told(done)
        coefs, state.shaping = self._coefficients(record, losses, outer_step, state.shaping)
        grad = self._gradient(coefs, state, outer_step)
        state.t += steps
        state.t[(state.t >= state.end) | np.isnan(losses).any(axis=1)] = 0
        state.particles = {i: particles for i, particles in after.items() if state.t[i] > 0}
        return record.estimate(grad, losses), state

    def _begin_episodes(self, state: Unrolled, outer_step: int) -> None:
        """Give every pair at t = 0 a new episode and an owner."""
        fresh = np.flatnonzero(state.t == 0).tolist()
        first = state.episode < 0
        state.episode[fresh] = outer_step

        def end(i: int) -> int:
            horizon = self.problem.horizon(outer_step, i)
            return self._cut(horizon, outer_step, i) if first[i] else horizon

        self._assign(state, fresh, end)

    def _cut(self, horizon: int, outer_step: int, pair: int) -> int:
        """Inner steps of a first episode: 1, 2, ... or all of its windows, equally likely."""
        windows = -(-horizon // self.truncation)
        address = rng.stream(self.seed, outer_step, pair)
        kept = int(rng.integers(1, 1, windows + 1, address, rng.HORIZON, CUT)[0])
        return min(kept * self.truncation, horizon)

    def _assign(self, state: Unrolled, pairs: list[int], end: Callable[[int], int]) -> None:
        """End, group, cost and owner of `pairs`; all other pairs stay where they are.  Collective over the node."""

        def row(i: int) -> tuple[float, ...]:
            episode = int(state.episode[i])
            return end(i), self.problem.group(episode, i), self.problem.cost(episode, i)

        state.end[pairs], state.group[pairs], state.cost[pairs] = self._known.rows(pairs, row).T
        staying = np.ones(self.pairs, bool)
        staying[pairs] = False
        loads = np.bincount(state.owner[staying], state.cost[staying], self.comm.size)
        state.owner[pairs] = share_out(state.cost[pairs].tolist(), loads.tolist())

    def gather_state(self, state: Unrolled) -> dict[str, np.ndarray] | None:
        """Named arrays on rank 0, None elsewhere; see `Estimator.gather_state`."""
        arrays = {
            f"particle/{i}/{member}/{key}": array
            for i, particles in state.particles.items()
            for member, particle in enumerate(particles)
            for key, array in particle.items()
        }
        if self.comm.rank == 0:
            arrays |= {key: getattr(state, key) for key in SAVED}
            arrays |= self.shaping.arrays(state.shaping)
        return self.comm.gather_arrays(arrays)

    def load_state(self, arrays: Mapping[str, np.ndarray], theta: np.ndarray) -> Unrolled:
        """Inverse of `gather_state` on any number of ranks; see `Estimator.load_state`."""
        state = self.init(theta)
        for key in SAVED:
            getattr(state, key)[:] = arrays[key]
        self._assign(state, np.flatnonzero(state.t > 0).tolist(), lambda i: int(state.end[i]))
        found: dict[int, dict[int, Particle]] = {}
        for name, array in arrays.items():
            if name.startswith("particle/"):
                _, pair, member, key = name.split("/", 3)
                if state.owner[int(pair)] == self.comm.rank:
                    particles = found.setdefault(int(pair), {})
                    particles.setdefault(int(member), {})[key] = array.copy()
        state.particles = {i: [p[m] for m in sorted(p)] for i, p in found.items()}
        state.shaping = self.shaping.load(arrays)
        return state
