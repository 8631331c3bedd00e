"""Estimators of the gradient of an unrolled problem's loss, all from antithetic pairs.

Pair i has a perturbation z_i ~ N(0, I) and a slope d_i = (f+ - f-) / (2 sigma); the gradient is the
mean over kept pairs of z_i s(d_i), where s is the shaping (`lopt.es.shaping`).  f is the loss of a
window: its sum over inner steps, divided by K.  They differ in what is perturbed when:

    full       z fresh every outer step, f of the whole horizon.  Unbiased; T inner steps before
               theta moves.
    truncated  z fresh every window, both members start from the unperturbed ("mean") trajectory.
               Biased: sees no effect that outlives a window.
    pes        z fresh every window, members go on; z_i is replaced by xi_i, the sum of the
               episode's z_i so far.  Unbiased; variance grows with the number of windows.
    gpes       z fresh every few windows, else as pes: all that lies between pes and nres.
    nres       z fresh every episode, members go on.  Unbiased, least variance.

"Unbiased" is for the smoothed loss, and theta that stands still within an episode.  The sum of an
episode's windows estimates the gradient of its total loss divided by K: what `full` estimates in
one outer step.

Reset rule.  Windows end with episodes, so a reset falls between two windows: the later one belongs
to a new particle, and its xi starts AT the current z (starting at 0 would leave out the window's
own perturbation).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lopt import rng
from lopt.comm import Comm
from lopt.errors import ConfigError, unknown
from lopt.es.estimator import Estimate, Estimator
from lopt.es.facts import Facts
from lopt.es.pairs import DIVERGED, RAISED, HandOut, Members, Outcome, share_out
from lopt.es.perturbation import sum_rows
from lopt.es.problem import Particle, Request, UnrolledProblem
from lopt.es.shaping import ShapingState
from lopt.es.variant import Perturbed, Variant
from lopt.es.windowed import Unrolled, Window, Windowed

WHOLE = 2**31  # windows: more than any episode has


class Full(Estimator):
    """Whole episodes every outer step, nothing kept between them: any rank may run any pair.

    Pairs are handed out to whoever is free, dearest first, see `lopt.es.pairs.HandOut`.
    """

    name = "full"
    facts = Facts(
        "1/P sum z_i s_i, s_i = shaped (f+ - f-) / (2 sigma), f over the whole horizon T",
        "grad f_sigma of the episode's mean loss",
        "(D + 1) |g|^2 / P",
        "2 P T inner steps before theta moves",
        "T is short, or as the yardstick of the others",
    )

    def __init__(self, cfg: Any, problem: UnrolledProblem, comm: Comm, seed: int) -> None:
        super().__init__(cfg, problem, comm, seed)
        self._work = HandOut(comm)

    def init(self, theta: np.ndarray) -> ShapingState:
        """State before the first outer step: the shaping's alone."""
        self._check_theta(theta)
        return self.shaping.init()

    def step(
        self, theta: np.ndarray, outer_step: int, state: ShapingState
    ) -> tuple[Estimate, ShapingState]:
        """One episode of every pair; see `Estimator.step`."""
        record, asked = self._record(), self.problem

        def row(i: int) -> tuple[float, ...]:
            return (
                asked.horizon(outer_step, i),
                asked.group(outer_step, i),
                asked.cost(outer_step, i),
            )

        horizon, groups, cost = self._known.rows(range(self.pairs), row).T
        record.groups, record.inner_steps = groups.astype(np.int64), 2 * int(horizon.sum())
        losses = np.zeros((self.pairs, 2))
        mine = self._mine(cost * horizon, record.members)
        asked = (self._asked(record.members, theta, outer_step, i, int(horizon[i])) for i in mine)
        for i, done in record.members.carry_out(asked):
            losses[i] = [loss for loss, _ in done]
        coefs, state = self._coefficients(record, losses, outer_step, state)
        return record.estimate(self._sum_normals(outer_step, coefs), losses), state

    def _mine(self, costs: np.ndarray, members: Members) -> Iterable[int]:
        """This rank's pairs: those it is free for, or, where all are run at once, those it is given."""
        if not members.batched:
            return self._work.take(costs)
        owners = share_out(costs.tolist(), [0.0] * self.comm.size)
        return [i for i, owner in enumerate(owners) if owner == self.comm.rank]

    def _asked(
        self, members: Members, theta: np.ndarray, episode: int, pair: int, steps: int
    ) -> tuple[int, list[Request]]:
        both = self._perturbed(theta, rng.stream(self.seed, episode, pair)).members()
        starts = [members.start(th.array, episode, pair) for th in both]
        asked = zip(both, starts, strict=True)
        return pair, [Request(th, start, episode, pair, 0, steps) for th, start in asked]

    def gather_state(self, state: ShapingState) -> dict[str, np.ndarray] | None:
        """Named arrays on rank 0, None elsewhere."""
        return self.shaping.arrays(state) if self.comm.rank == 0 else None

    def load_state(self, arrays: Mapping[str, np.ndarray], theta: np.ndarray) -> ShapingState:
        """Inverse of `gather_state`."""
        self._check_theta(theta)
        return self.shaping.load(arrays)


class Nres(Windowed):
    """Noise-reuse ES (Li et al. 2023; ES-Single, Vicol et al. 2023): one z per episode."""

    name = "nres"
    facts = Facts(
        "1/P sum z_i s_i, f over a window of K steps, z_i kept for a whole episode",
        "an episode's windows add up to full's gradient, theta at rest",
        "(D + 1) |g|^2 / P for an episode, whatever the number of windows",
        "2 P K inner steps an outer step; the particles' states",
        "T is long; first choice for unrolled problems",
    )

    def _drawn(self, state: Unrolled, outer_step: int) -> np.ndarray:
        return state.episode


class Gpes(Windowed):
    """Generalised persistent ES (Li et al. 2023, GPES_K): one z per `cfg.resample` inner steps.

    An episode's windows fall into blocks that share a z; xi, the sum of the blocks' z so far, takes
    P x D / ranks-per-node floats of each rank.  resample = truncation is PES, resample = 0 (one
    block an episode) is noise-reuse ES.

    Raises:
        ConfigError: `resample` is no multiple of `truncation`.
    """

    name = "gpes"
    accumulates = True
    facts = Facts(
        "1/P sum xi_i s_i, f over a window of K steps, z_i fresh every R = es.resample steps, "
        "xi_i = sum of the episode's z_i so far",
        "an episode's windows add up to full's gradient, theta at rest",
        "sum_b (D + 1) |A_bb|^2 + sum_(b < c) (D |A_bc|^2 + D |A_cb|^2 + 2 A_bc.A_cb), over P: A_bc = gradient by "
        "theta in block b of an episode's losses from block max(b, c) on, a block being R steps; also for quadratic f",
        "2 P K inner steps an outer step; the particles' states; P D floats shared by a node's ranks",
        "theta moves fast against an episode, and pes with its many windows is too noisy",
    )

    def __init__(self, cfg: Any, problem: UnrolledProblem, comm: Comm, seed: int) -> None:
        super().__init__(cfg, problem, comm, seed)
        self._block = self._windows_of_a_block(cfg)

    def _windows_of_a_block(self, cfg: Any) -> int:
        """Windows that share a perturbation."""
        if cfg.resample < 0 or cfg.resample % cfg.truncation:
            nearest = max(round(cfg.resample / cfg.truncation), 1) * cfg.truncation
            raise ConfigError(
                f"es.resample = {cfg.resample} is no multiple of es.truncation = {cfg.truncation}; "
                f"nearest valid: {nearest}"
            )
        return cfg.resample // cfg.truncation or WHOLE

    def _drawn(self, state: Unrolled, outer_step: int) -> np.ndarray:
        windows = state.t // self.truncation
        since = windows % self._block
        return (state.episode + windows) - since

    def _gradient(self, coefs: np.ndarray, state: Unrolled, outer_step: int) -> np.ndarray:
        state.xi[state.t == 0] = 0
        for i in np.flatnonzero(self._drawn(state, outer_step) == outer_step).tolist():
            self._accumulate(state.xi[i], outer_step, i)
        return self._sum.rebuild(lambda out, start: sum_rows(out, coefs, state.xi))

    def _accumulate(self, xi: np.ndarray, outer_step: int, pair: int) -> None:
        """xi += this rank's slice of z."""
        address = rng.stream(self.seed, outer_step, pair)[None]
        self._noise.add(xi, self._sum.lo, np.ones(1, np.float32), address)

    def load_state(self, arrays: Mapping[str, np.ndarray], theta: np.ndarray) -> Unrolled:
        """As the others; xi is made again by the additions that made it, hence bit for bit."""
        state = super().load_state(arrays, theta)
        for i in np.flatnonzero(state.t > 0).tolist():
            first, windows = int(state.episode[i]), int(state.t[i]) // self.truncation
            for outer_step in range(first, first + windows, self._block):
                self._accumulate(state.xi[i], outer_step, i)
        return state


class Pes(Gpes):
    """Persistent ES (Vicol et al. 2021): one z per window, weighted by xi, their sum so far."""

    name = "pes"
    facts = Facts(
        "1/P sum xi_i s_i, f over a window of K steps, z_i fresh for each, xi_i = sum of the episode's z_i so far",
        "an episode's windows add up to full's gradient, theta at rest",
        "that of gpes with R = K: grows about linearly with the number of windows; full's at one window",
        "2 P K inner steps an outer step; the particles' states; P D floats shared by a node's ranks",
        "10 to 100 windows, and theta moves fast against an episode",
    )

    def _windows_of_a_block(self, cfg: Any) -> int:
        return 1


class Truncated(Windowed):
    """Truncated ES: every window perturbs a trajectory that was never perturbed before.

    The unperturbed member runs every window too: a window costs three runs instead of two.
    """

    name = "truncated"
    runs = 3
    facts = Facts(
        "1/P sum z_i s_i, f over a window of K steps from the unperturbed trajectory",
        "what acts within a window only: biased, the sign may be wrong",
        "(D + 1) |g_K|^2 / P, g_K the gradient of a window",
        "3 P K inner steps an outer step; one state per pair",
        "effects of theta are short-lived; as the negative control",
    )

    def _drawn(self, state: Unrolled, outer_step: int) -> int:
        return outer_step

    def _asked(
        self, window: Window, pair: Perturbed, before: list[Particle] | None
    ) -> list[Request]:
        """Both members from copies of the unperturbed particle, then that one itself."""
        still = Variant(pair, 0)
        mean = before[0] if before else window.start(still)
        copies = [mean and {key: array.copy() for key, array in mean.items()} for _ in range(2)]
        both = [window.of(theta, copy) for theta, copy in zip(pair.members(), copies, strict=True)]
        return [*both, window.of(still, mean)]

    def _told(self, done: list[Outcome]) -> tuple[list[float], list[Particle | None]]:
        losses, (loss, mean) = [found for found, _ in done[:2]], done[2]
        if not np.isfinite(loss):  # nothing to go on from: the pair is lost
            losses = [RAISED if np.isinf(loss) else DIVERGED] * 2
        return losses, [mean]


ESTIMATORS: dict[str, type[Estimator]] = {e.name: e for e in (Full, Truncated, Pes, Gpes, Nres)}


def make_estimator(cfg: Any, problem: UnrolledProblem, comm: Comm, seed: int) -> Estimator:
    """The estimator that `cfg.estimator` names; collective.

    Raises:
        ConfigError: unknown name, or a setting out of range.
    """
    if cfg.estimator not in ESTIMATORS:
        raise ConfigError(unknown("es.estimator", cfg.estimator, ESTIMATORS))
    return ESTIMATORS[cfg.estimator](cfg, problem, comm, seed)
