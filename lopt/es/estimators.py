"""Estimators of the gradient of an unrolled problem's loss, all from antithetic pairs.

Pair i has a perturbation z_i ~ N(0, I) and a slope d_i = (f+ - f-) / (2 sigma); the gradient is the mean over kept pairs of
z_i s(d_i), s being the shaping (`lopt.es.shaping`).  With K the truncation and f the loss of a window (its sum over inner
steps, divided by K), they differ in what is perturbed when (methods 2.9):

    full       z fresh every outer step, f of the whole horizon      unbiased, slow: T inner steps before theta moves
    truncated  z fresh every window, both members start from the     biased: sees no effect that outlives a window
               unperturbed ("mean") trajectory
    pes        z fresh every window, members go on; z_i is replaced  unbiased (Vicol et al. 2021), variance grows with the
               by xi_i, the sum of the episode's z_i so far          number of windows
    nres       z fresh every episode, members go on                  unbiased, least variance (Li et al. 2023; Vicol 2023)

"Unbiased" is for the smoothed loss and for theta that stands still within an episode.  The mean over an episode's windows,
times their number, estimates the gradient of the sum over the horizon divided by K: what `full` estimates at once.

Reset rule.  Windows end with episodes, so a reset falls between windows: the window after it belongs to a new particle, and
its xi starts AT the current z (an accumulator that started at 0 would leave out the window's own perturbation).

Step-unlocked.  The first episode of each pair is cut after a random number of windows, so that later on every outer step
mixes early and late windows.  The cut is at a multiple of K: windows keep their full length.
"""

import abc
import dataclasses
import time
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lopt import rng
from lopt.comm import Comm
from lopt.errors import ConfigError, unknown
from lopt.es.pairs import DIVERGED, RAISED, Members, exchange, refuse_many_lost, share_out
from lopt.es.perturbation import NodeSum, perturbed, streams, sum_normals, sum_rows
from lopt.es.problem import Particle, UnrolledProblem
from lopt.es.shaping import Shaping, ShapingState

CUT = 1  # inner word of the address of a first episode's cut; the problem's own draws have 0


class Estimate(NamedTuple):
    """What one outer step found; equal bits on all ranks but for `seconds` and `fault`.

    grad         (D,) float32, gradient of the loss (minimise: step against it)
    losses       (P, 2) float64, windows of the + and - members; NaN: lost
    groups       (P,) int64, task of each pair
    n_lost       pairs that did not count
    inner_steps  inner steps that the outer step asked of all ranks together
    seconds      wall time on this rank: "rollout", "exchange" (waiting included), "rebuild"
    bytes_sent   bytes this rank gave to the network
    fault        text of the first exception that the problem raised on this rank in this outer step, if any
    """

    grad: np.ndarray
    losses: np.ndarray
    groups: np.ndarray
    n_lost: int
    inner_steps: int
    seconds: dict[str, float]
    bytes_sent: int
    fault: str | None


class Estimator(abc.ABC):
    """Common to all: settings, the exchange, shaping, the node-shared sum.  All state is in what `init` returns.

    Args:
        cfg: attributes pairs, sigma, truncation, difference ("raw", "normalised", "clipped", "sign"), diverged ("drop",
            "clip"); see `lopt.config.EsConfig`.
        problem: the objective.
        comm: ranks that share the work; every method is collective.
        seed: first word of all addresses, 0 <= seed < 2**32.

    Raises:
        ConfigError: a setting out of range.
    """

    name: ClassVar[str]

    def __init__(self, cfg: Any, problem: UnrolledProblem, comm: Comm, seed: int) -> None:
        _check(cfg)
        self.problem, self.comm, self.seed = problem, comm, seed
        self.pairs, self.sigma, self.truncation = cfg.pairs, cfg.sigma, cfg.truncation
        self.shaping = Shaping(cfg.difference)
        self._clip_diverged = cfg.diverged == "clip"
        self._sum = NodeSum(comm, problem.n_theta)

    @abc.abstractmethod
    def init(self, theta: np.ndarray) -> Any:
        """State before the first outer step."""

    @abc.abstractmethod
    def step(self, theta: np.ndarray, outer_step: int, state: Any) -> tuple[Estimate, Any]:
        """Estimate the gradient at theta (D,) float32.  `state` is used up: go on with the one returned.

        Raises:
            LostPairsError: more than half of the pairs were lost; raised on every rank.
        """

    @abc.abstractmethod
    def gather_state(self, state: Any) -> dict[str, np.ndarray] | None:
        """The state as named arrays on rank 0, None elsewhere."""

    @abc.abstractmethod
    def load_state(self, arrays: Mapping[str, np.ndarray], theta: np.ndarray) -> Any:
        """The state from all of `gather_state`'s arrays, given to every rank; any number of ranks will do."""

    def _finish(
        self, work: "_Work", losses: np.ndarray, outer_step: int, shaping: ShapingState
    ) -> tuple[np.ndarray, ShapingState]:
        """Exchange losses; returns the coefficients (P,) float32 of the perturbations, and the shaping's new state."""
        sent = self.comm.sent["scalars"]
        work.lap("rollout")
        _, raised, diverged = exchange(self.comm, losses)
        work.lap("exchange")
        work.bytes_sent = self.comm.sent["scalars"] - sent
        work.n_lost = raised + diverged
        refuse_many_lost(outer_step, self.pairs, raised, diverged, work.members.fault)
        slopes = (losses[:, 0] - losses[:, 1]) / (2 * self.sigma)
        shaped, shaping = self.shaping.apply(slopes, work.groups, shaping)
        return (shaped / (self.pairs - work.n_lost)).astype(np.float32), shaping

    def _estimate(self, work: "_Work", losses: np.ndarray, grad: np.ndarray) -> Estimate:
        work.lap("rebuild")
        return Estimate(
            grad, losses, work.groups, work.n_lost, work.inner_steps, work.seconds, work.bytes_sent,
            work.members.fault,
        )  # fmt: skip

    def _work(self) -> "_Work":
        return _Work(Members(self.problem, self._clip_diverged))

    def _normals(self, outer: int | np.ndarray, coefs: np.ndarray) -> np.ndarray:
        """sum_i coefs[i] z_i of perturbations drawn at `outer` (one outer step, or one per pair)."""
        table = streams(self.seed, outer, self.pairs)
        return self._sum.rebuild(
            lambda out, start: sum_normals(out, start, coefs, table, rng.PERTURB)
        )


@dataclasses.dataclass
class _Work:
    """Book-keeping of one outer step."""

    members: Members
    groups: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    n_lost: int = 0
    inner_steps: int = 0
    bytes_sent: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    _since: float = dataclasses.field(default_factory=time.perf_counter)

    def lap(self, phase: str) -> None:
        """Book the time since the last lap."""
        now = time.perf_counter()
        self.seconds[phase] = now - self._since
        self._since = now


class Full(Estimator):
    """Whole episodes every outer step, nothing kept between them: any rank may run any pair.

    Pairs are handed out by a one-sided counter, dearest first.  One counter serves the whole run: in an outer step the
    ranks take exactly P + size numbers, each rank one that is too large, so all know where the next step begins.
    """

    name = "full"

    def __init__(self, cfg: Any, problem: UnrolledProblem, comm: Comm, seed: int) -> None:
        super().__init__(cfg, problem, comm, seed)
        self._counter = comm.work_counter()
        self._handed_out = 0

    def init(self, theta: np.ndarray) -> ShapingState:
        return self.shaping.init()

    def step(
        self, theta: np.ndarray, outer_step: int, state: ShapingState
    ) -> tuple[Estimate, ShapingState]:
        work, p = self._work(), range(self.pairs)
        work.groups = np.array([self.problem.group(outer_step, i) for i in p], np.int64)
        horizon = [self.problem.horizon(outer_step, i) for i in p]
        cost = [self.problem.cost(outer_step, i) * horizon[i] for i in p]
        order = sorted(p, key=lambda i: -cost[i])
        losses = np.zeros((self.pairs, 2))
        while (k := self._counter.next() - self._handed_out) < self.pairs:
            pair = order[k]
            losses[pair] = self._pair(work.members, theta, outer_step, pair, horizon[pair])
        self._handed_out += self.pairs + self.comm.size
        work.inner_steps = 2 * sum(horizon)
        coefs, state = self._finish(work, losses, outer_step, state)
        return self._estimate(work, losses, self._normals(outer_step, coefs)), state

    def _pair(
        self, members: Members, theta: np.ndarray, episode: int, pair: int, steps: int
    ) -> list[float]:
        thetas = perturbed(theta, self.sigma, rng.stream(self.seed, episode, pair))
        starts = [members.start(th, episode, pair) for th in thetas]
        return [
            members.run(th, s, episode, pair, 0, steps)[0]
            for th, s in zip(thetas, starts, strict=True)
        ]

    def gather_state(self, state: ShapingState) -> dict[str, np.ndarray] | None:
        return _shaping_arrays(state) if self.comm.rank == 0 else None

    def load_state(self, arrays: Mapping[str, np.ndarray], theta: np.ndarray) -> ShapingState:
        return _load_shaping(arrays)


@dataclasses.dataclass
class Unrolled:
    """State of an estimator that goes window by window.

    Known to every rank, (P,) each; t == 0 says that the next outer step begins a new episode:
        episode    int64, outer step at which the episode began; -1 before the first
        t          int64, inner steps done
        end        int64, inner steps after which it ends
        group      int64, its task
        cost       float64, predicted cost of an inner step
        owner      int64, rank that runs it
    particles  of the pairs this rank owns: [+, -], or [unperturbed] for truncated ES
    shaping    statistics of the slopes
    xi         (P, this rank's slice of D) float32 for PES, empty otherwise; follows from the addresses, so it is rebuilt
               and not saved
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


class Windowed(Estimator):
    """Window by window: particles stay with the rank that owns their pair.

    A pair changes owner only where its episode does, when there is nothing to move; owners are chosen by predicted cost,
    by the same rule on every rank.  Who owns a pair leaves no trace in the numbers.
    """

    accumulates: ClassVar[bool] = False

    @abc.abstractmethod
    def _drawn(self, state: Unrolled, outer_step: int) -> int | np.ndarray:
        """Outer step at which the perturbation in use was drawn: one for all, or one per pair."""

    @abc.abstractmethod
    def _pair(
        self, members: Members, theta: np.ndarray, stream: np.ndarray, state: Unrolled, pair: int,
        steps: int,
    ) -> tuple[list[float], list[Particle] | None]:  # fmt: skip
        """Losses of + and - in the next window, and the pair's particles after it (None: lost)."""

    def _gradient(self, coefs: np.ndarray, state: Unrolled, outer_step: int) -> np.ndarray:
        return self._normals(self._drawn(state, outer_step), coefs)

    def init(self, theta: np.ndarray) -> Unrolled:
        ints = [np.zeros(self.pairs, np.int64) for _ in range(4)]
        width = self._sum.hi - self._sum.lo if self.accumulates else 0
        return Unrolled(
            np.full(self.pairs, -1), *ints[:3], np.zeros(self.pairs), ints[3], {}, self.shaping.init(),
            np.zeros((self.pairs, width), np.float32),
        )  # fmt: skip

    def step(
        self, theta: np.ndarray, outer_step: int, state: Unrolled
    ) -> tuple[Estimate, Unrolled]:
        work = self._work()
        self._begin_episodes(state, outer_step)
        work.groups = state.group.copy()
        steps = np.minimum(self.truncation, state.end - state.t)
        work.inner_steps = self._runs * int(steps.sum())
        table = streams(self.seed, self._drawn(state, outer_step), self.pairs)
        losses, after = np.zeros((self.pairs, 2)), {}
        for pair in np.flatnonzero(state.owner == self.comm.rank).tolist():
            losses[pair], after[pair] = self._pair(
                work.members, theta, table[pair], state, pair, int(steps[pair])
            )
        coefs, state.shaping = self._finish(work, losses, outer_step, state.shaping)
        grad = self._gradient(coefs, state, outer_step)
        state.t += steps
        state.t[(state.t >= state.end) | np.isnan(losses).any(axis=1)] = 0
        state.particles = {pair: after[pair] for pair in after if state.t[pair] > 0}
        return self._estimate(work, losses, grad), state

    _runs: ClassVar[int] = 2  # members that run in a window

    def _begin_episodes(self, state: Unrolled, outer_step: int) -> None:
        """Give every pair at t = 0 a new episode and an owner."""
        fresh = np.flatnonzero(state.t == 0).tolist()
        for i in fresh:
            first = state.episode[i] < 0
            horizon = self.problem.horizon(outer_step, i)
            state.episode[i] = outer_step
            state.end[i] = self._cut(horizon, outer_step, i) if first else horizon
            self._describe(state, i)
        self._share_out(state, fresh)

    def _describe(self, state: Unrolled, pair: int) -> None:
        episode = int(state.episode[pair])
        state.group[pair] = self.problem.group(episode, pair)
        state.cost[pair] = self.problem.cost(episode, pair)

    def _share_out(self, state: Unrolled, pairs: list[int]) -> None:
        """Owners for `pairs`; all others stay where they are."""
        staying = np.ones(self.pairs, bool)
        staying[pairs] = False
        loads = np.bincount(state.owner[staying], state.cost[staying], self.comm.size)
        state.owner[pairs] = share_out(state.cost[pairs].tolist(), loads.tolist())

    def _cut(self, horizon: int, outer_step: int, pair: int) -> int:
        """Inner steps of a first episode: 1, 2, ... or all of its windows, equally likely."""
        windows = -(-horizon // self.truncation)
        address = rng.stream(self.seed, outer_step, pair)
        kept = int(rng.integers(1, 1, windows + 1, address, rng.HORIZON, CUT)[0])
        return min(kept * self.truncation, horizon)

    def gather_state(self, state: Unrolled) -> dict[str, np.ndarray] | None:
        mine = {
            f"particle/{pair}/{member}/{key}": array
            for pair, particles in state.particles.items()
            for member, particle in enumerate(particles)
            for key, array in particle.items()
        }
        if self.comm.rank == 0:
            known = {"episode": state.episode, "t": state.t, "end": state.end}
            mine = {**known, **_shaping_arrays(state.shaping), **mine}
        return self.comm.gather_arrays(mine)

    def load_state(self, arrays: Mapping[str, np.ndarray], theta: np.ndarray) -> Unrolled:
        state = self.init(theta)
        state.episode, state.t, state.end = (arrays[k].copy() for k in ("episode", "t", "end"))
        going = np.flatnonzero(state.t > 0).tolist()
        for pair in going:
            self._describe(state, pair)
        self._share_out(state, going)
        for name, array in arrays.items():
            if name.startswith("particle/"):
                _, pair, member, key = name.split("/", 3)
                if state.owner[int(pair)] == self.comm.rank:
                    particles = state.particles.setdefault(int(pair), [])
                    while len(particles) <= int(member):
                        particles.append({})
                    particles[int(member)][key] = array.copy()
        state.shaping = _load_shaping(arrays)
        return state


def _both(
    members: Members, thetas: tuple[np.ndarray, np.ndarray], state: Unrolled, pair: int, steps: int
) -> tuple[list[float], list[Particle] | None]:
    """Members that go on from where they stand, or start."""
    episode, t0 = int(state.episode[pair]), int(state.t[pair])
    before = state.particles.get(pair) or [members.start(th, episode, pair) for th in thetas]
    done = [
        members.run(th, s, episode, pair, t0, steps) for th, s in zip(thetas, before, strict=True)
    ]
    return [loss for loss, _ in done], [particle for _, particle in done]


class Nres(Windowed):
    """Noise-reuse ES (Li et al. 2023; ES-Single, Vicol et al. 2023): one perturbation per episode."""

    name = "nres"

    def _drawn(self, state: Unrolled, outer_step: int) -> np.ndarray:
        return state.episode

    def _pair(self, members, theta, stream, state, pair, steps):
        return _both(members, perturbed(theta, self.sigma, stream), state, pair, steps)


class Pes(Windowed):
    """Persistent ES (Vicol et al. 2021): a perturbation per window, weights by their sum xi over the episode.

    Needs P x D / ranks-per-node floats for xi.
    """

    name = "pes"
    accumulates = True

    def _drawn(self, state: Unrolled, outer_step: int) -> int:
        return outer_step

    def _pair(self, members, theta, stream, state, pair, steps):
        return _both(members, perturbed(theta, self.sigma, stream), state, pair, steps)

    def _gradient(self, coefs: np.ndarray, state: Unrolled, outer_step: int) -> np.ndarray:
        self._accumulate(state, outer_step, state.t == 0)
        return self._sum.rebuild(lambda out, start: sum_rows(out, coefs, state.xi))

    def _accumulate(self, state: Unrolled, outer_step: int, fresh: np.ndarray) -> None:
        """xi += this window's z; a new episode's xi starts at it."""
        table = streams(self.seed, outer_step, self.pairs)
        state.xi[fresh] = 0
        for i in range(self.pairs):
            rng.add_normals(state.xi[i], 1.0, self._sum.lo, table[i], rng.PERTURB, 0)

    def load_state(self, arrays: Mapping[str, np.ndarray], theta: np.ndarray) -> Unrolled:
        """As the others; xi is made again by the additions that made it, so it has the same bits."""
        state = super().load_state(arrays, theta)
        for i in np.flatnonzero(state.t > 0).tolist():
            windows = -(-int(state.t[i]) // self.truncation)
            for outer in range(int(state.episode[i]), int(state.episode[i]) + windows):
                address = rng.stream(self.seed, outer, i)
                rng.add_normals(state.xi[i], 1.0, self._sum.lo, address, rng.PERTURB, 0)
        return state


class Truncated(Windowed):
    """Truncated ES: each window perturbs a trajectory that was never perturbed before.

    The unperturbed member runs every window too, so a window costs three runs instead of two.
    """

    name = "truncated"
    _runs = 3

    def _drawn(self, state: Unrolled, outer_step: int) -> int:
        return outer_step

    def _pair(self, members, theta, stream, state, pair, steps):
        episode, t0 = int(state.episode[pair]), int(state.t[pair])
        before = state.particles.get(pair)
        mean = before[0] if before else members.start(theta, episode, pair)
        losses = []
        for th in perturbed(theta, self.sigma, stream):
            copy = None if mean is None else {k: v.copy() for k, v in mean.items()}
            losses.append(members.run(th, copy, episode, pair, t0, steps)[0])
        loss, mean = members.run(theta, mean, episode, pair, t0, steps)
        if not np.isfinite(loss):  # there is nothing to go on from: the pair is lost
            return [RAISED if np.isinf(loss) else DIVERGED] * 2, None
        return losses, [mean]


ESTIMATORS: dict[str, type[Estimator]] = {e.name: e for e in (Full, Truncated, Pes, Nres)}


def make_estimator(cfg: Any, problem: UnrolledProblem, comm: Comm, seed: int) -> Estimator:
    """The estimator that `cfg.estimator` names; collective.

    Raises:
        ConfigError: unknown name, or a setting out of range.
    """
    if cfg.estimator not in ESTIMATORS:
        raise ConfigError(unknown("es.estimator", cfg.estimator, ESTIMATORS))
    return ESTIMATORS[cfg.estimator](cfg, problem, comm, seed)


def _check(cfg: Any) -> None:
    checks = {
        "pairs": (cfg.pairs >= 1, "at least 1"),
        "sigma": (0 < cfg.sigma < float("inf"), "a finite number above 0"),
        "truncation": (cfg.truncation >= 1, "at least 1"),
    }
    for key, (good, valid) in checks.items():
        if not good:
            raise ConfigError(f"es.{key} = {getattr(cfg, key)} is not valid: {valid}")
    if cfg.diverged not in ("drop", "clip"):
        raise ConfigError(unknown("es.diverged", cfg.diverged, ("drop", "clip")))


def _shaping_arrays(state: ShapingState) -> dict[str, np.ndarray]:
    return {"shaping/mean_square": state.mean_square, "shaping/count": state.count}


def _load_shaping(arrays: Mapping[str, np.ndarray]) -> ShapingState:
    return ShapingState(*(arrays[f"shaping/{k}"].copy() for k in ShapingState._fields))
