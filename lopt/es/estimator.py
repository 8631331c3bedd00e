"""What an estimator of the outer gradient is, and what all of them share.

One outer step, the same for all: every rank evaluates some pairs; one exchange of 2 P losses; every
rank turns them into the same P coefficients; the ranks of a node rebuild the gradient together.
"""

import abc
import dataclasses
import time
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lopt.comm import Comm
from lopt.errors import ConfigError, UsageError, unknown
from lopt.es.facts import Facts
from lopt.es.noise import Counter, Noise, Table, shared_table
from lopt.es.pairs import Members, NodeTable, exchange, refuse_many_lost
from lopt.es.perturbation import NodeSum, streams
from lopt.es.problem import UnrolledProblem
from lopt.es.shaping import Shaping, ShapingState
from lopt.es.variant import Perturbed


class Estimate(NamedTuple):
    """What one outer step found; equal bits on all ranks but for `seconds` and `fault`.

    grad         (D,) float32, gradient of the loss: step against it
    losses       (P, 2) float64, windows of the + and - members; NaN: lost
    groups       (P,) int64, task of each pair
    n_lost       pairs that did not count
    inner_steps  inner steps that the outer step asked of all ranks together
    seconds      wall time of this rank: "rollout", "exchange" (waiting included), "rebuild"
    bytes_sent   bytes this rank gave to the exchange
    fault        text of the first exception that the problem raised on this rank, if any
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
    """Settings and machinery; what changes from step to step is in the state that `init` makes.

    Args:
        cfg: attributes pairs, sigma, truncation, difference ("raw", "normalised", "clipped",
            "sign"), diverged ("drop", "clip") and noise_table (numbers of a table that all
            perturbations are slices of, 0: none), as `lopt.config.EsConfig` has them.
        problem: the objective.
        comm: the ranks that share the work; every method is collective.
        seed: first word of all addresses, 0 <= seed < 2**32.

    Raises:
        ConfigError: a setting out of range.
        UsageError: the noise table is shorter than theta.
    """

    name: ClassVar[str]
    facts: ClassVar[Facts]

    def __init__(self, cfg: Any, problem: UnrolledProblem, comm: Comm, seed: int) -> None:
        _check(cfg)
        self.problem, self.comm, self.seed = problem, comm, seed
        self.pairs, self.sigma, self.truncation = cfg.pairs, cfg.sigma, cfg.truncation
        self.shaping = Shaping(cfg.difference)
        self._clip_diverged = cfg.diverged == "clip"
        self._sum = NodeSum(comm, problem.n_theta)
        self._known = NodeTable(comm, self.pairs, 3)  # of pairs: horizon, task, cost
        self._noise: Noise = Counter()
        if cfg.noise_table:
            self._noise = Table(shared_table(cfg.noise_table, comm), problem.n_theta)

    @abc.abstractmethod
    def init(self, theta: np.ndarray) -> Any:
        """State before the first outer step.

        Raises:
            UsageError: theta is not (D,) float32.
        """

    @abc.abstractmethod
    def step(self, theta: np.ndarray, outer_step: int, state: Any) -> tuple[Estimate, Any]:
        """Gradient at theta (D,) float32.  `state` is used up: go on with the one returned.

        Outer steps count up by one.

        Raises:
            LostPairsError: more than half of the pairs were lost; raised on every rank.
        """

    @abc.abstractmethod
    def gather_state(self, state: Any) -> dict[str, np.ndarray] | None:
        """The state as named arrays on rank 0, None elsewhere."""

    @abc.abstractmethod
    def load_state(self, arrays: Mapping[str, np.ndarray], theta: np.ndarray) -> Any:
        """The state from `gather_state`'s arrays, given to every rank; any number of them will do.

        What follows has the same bits as if the run had not been interrupted.
        """

    def _check_theta(self, theta: np.ndarray) -> None:
        if theta.shape != (self.problem.n_theta,) or theta.dtype != np.float32:
            raise UsageError(
                f"theta is {theta.dtype} {theta.shape}, the problem needs float32 "
                f"({self.problem.n_theta},)"
            )

    def _record(self) -> "Record":
        return Record(Members(self.problem, self._clip_diverged))

    def _coefficients(
        self, record: "Record", losses: np.ndarray, outer_step: int, shaping: ShapingState
    ) -> tuple[np.ndarray, ShapingState]:
        """Exchange the losses.

        Returns: what each perturbation is multiplied with, (P,) float32, and the shaping's state.
        """
        record.lap("rollout")
        before = self.comm.sent["scalars"]
        raised, diverged = exchange(self.comm, losses)
        record.bytes_sent = self.comm.sent["scalars"] - before
        record.lap("exchange")
        record.n_lost = raised + diverged
        refuse_many_lost(outer_step, self.pairs, raised, diverged, record.members.fault)
        slopes = (losses[:, 0] - losses[:, 1]) / (2 * self.sigma)
        shaped, shaping = self.shaping.apply(slopes, record.groups, shaping)
        return (shaped / (self.pairs - record.n_lost)).astype(np.float32), shaping

    def _sum_normals(self, outer: int | np.ndarray, coefs: np.ndarray) -> np.ndarray:
        """sum_i coefs[i] z_i of the perturbations drawn at `outer`: one outer step, or (P,)."""
        table = streams(self.seed, outer, self.pairs)
        return self._sum.rebuild(lambda out, start: self._noise.add(out, start, coefs, table))

    def _perturbed(self, theta: np.ndarray, stream: np.ndarray) -> Perturbed:
        """theta of both members of the pair with that address."""
        return Perturbed(theta, self.sigma, self._noise, stream)


@dataclasses.dataclass
class Record:
    """Book-keeping of one outer step; the fields of `Estimate` as they become known."""

    members: Members
    groups: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    n_lost: int = 0
    inner_steps: int = 0
    bytes_sent: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    _since: float = dataclasses.field(default_factory=time.perf_counter)

    def lap(self, phase: str) -> None:
        """Book the time since the last lap under `phase`."""
        now = time.perf_counter()
        self.seconds[phase] = now - self._since
        self._since = now

    def estimate(self, grad: np.ndarray, losses: np.ndarray) -> Estimate:
        """The outcome; the time since the exchange was the rebuilding."""
        self.lap("rebuild")
        return Estimate(
            grad,
            losses,
            self.groups,
            self.n_lost,
            self.inner_steps,
            self.seconds,
            self.bytes_sent,
            self.members.fault,
        )


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
