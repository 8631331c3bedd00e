"""What is measured: outer steps of small problems, on one rank or several, and their costs by part.

mpirun -n 2 python experiments/04_scaling/workloads.py rollouts        # seconds of outer steps, as JSON
"""

import json
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import tomli_w

from lopt import config as cfg
from lopt.cluster_model import Costs, Pairs
from lopt.comm import Comm, SerialComm, aborting, get_comm
from lopt.es import OuterOptimizer, Window, make_estimator
from lopt.es.problem import Particle, UnrolledProblem
from lopt.lanes import pin_blas_threads
from lopt.layout import Layout
from lopt.meta import MetaProblem
from lopt.train import meta_problem

CONFIG = tomllib.loads((Path(__file__).parent / "config.toml").read_text())
NAMES = ("rollouts", "mix", "noise", "book")
WARM_UP = 1  # steps that are not counted
MEETINGS = 500
LR = 1e-6  # of theta while it is measured: all steps are alike


class Still:
    """A problem whose rollouts take no time."""

    def __init__(self, n_theta: int) -> None:
        self.n_theta = n_theta

    def horizon(self, episode: int, pair: int) -> int:
        """One inner step."""
        return 1

    def group(self, episode: int, pair: int) -> int:
        """One task."""
        return 0

    def cost(self, episode: int, pair: int) -> float:
        """All equal."""
        return 1.0

    def start(self, theta: np.ndarray, episode: int, pair: int) -> Particle:
        """Nothing to remember."""
        return {}

    def run(
        self, theta: np.ndarray, state: Particle, episode: int, pair: int, t0: int, steps: int
    ) -> Window:
        """Some loss."""
        return Window(float(theta[0]), state, False, steps)


class Timed:
    """Another problem, with the seconds that each pair's runs took."""

    def __init__(self, problem: UnrolledProblem, pairs: int) -> None:
        self._problem, self.n_theta = problem, problem.n_theta
        self.horizon, self.group, self.cost = problem.horizon, problem.group, problem.cost
        self.seconds = np.zeros(pairs)

    def start(self, theta: np.ndarray, episode: int, pair: int) -> Particle:
        """See `UnrolledProblem.start`."""
        begin = time.perf_counter()
        state = self._problem.start(theta, episode, pair)
        self.seconds[pair] += time.perf_counter() - begin
        return state

    def run(
        self, theta: np.ndarray, state: Particle, episode: int, pair: int, t0: int, steps: int
    ) -> Window:
        """See `UnrolledProblem.run`."""
        begin = time.perf_counter()
        window = self._problem.run(theta, state, episode, pair, t0, steps)
        self.seconds[pair] += time.perf_counter() - begin
        return window


class InTurn:
    """Pair i on rank i mod ranks, in the place of `lopt.es.pairs.HandOut`."""

    def __init__(self, comm: Comm) -> None:
        self._comm = comm

    def take(self, costs: Sequence[float]) -> Sequence[int]:
        """This rank's."""
        return range(self._comm.rank, len(costs), self._comm.size)


class Onlooker(SerialComm):
    """A rank that gets no pair, so that only what is done for all pairs is left, with nobody to share it."""

    def __init__(self, pairs: int) -> None:
        super().__init__()
        self.rank, self.size, self.node_of = pairs, pairs + 1, np.zeros(pairs + 1, np.int64)

    def work_counter(self) -> "Onlooker":
        """A counter that others have emptied."""
        return self

    def next(self) -> int:
        """More than there are."""
        return 2**62


class Done(NamedTuple):
    """Outer steps of a workload on one rank.

    step       (T,) seconds
    phases     rollout, exchange and rebuild, (T,) seconds each
    pairs      (T, P) seconds of each pair's rollouts, 0 on other ranks than its own
    predicted  (T, P) costs predicted of them
    """

    step: np.ndarray
    phases: dict[str, np.ndarray]
    pairs: np.ndarray
    predicted: np.ndarray


def settings(name: str, pairs: int | None = None) -> tuple[cfg.Config, UnrolledProblem]:
    """Configuration and problem of a workload."""
    pin_blas_threads()
    if name in ("noise", "book"):
        config = load(CONFIG["rollouts"]["lopt"])
        es = msgspec.structs.replace(
            config.es, pairs=CONFIG[name]["pairs"], truncation=1, horizon=(1, 1)
        )
        problem: UnrolledProblem = Still(CONFIG[name]["n_theta"])
    else:
        config = load(CONFIG[name]["lopt"])
        es, problem = config.es, meta_problem(config)
    es = es if pairs is None else msgspec.structs.replace(es, pairs=pairs)
    return msgspec.structs.replace(config, es=es), problem


def load(table: dict[str, Any]) -> cfg.Config:
    """A configuration of lopt from a part of this experiment's."""
    return cfg.loads(tomli_w.dumps(table))


def outer_steps(
    config: cfg.Config, problem: UnrolledProblem, comm: Comm, steps: int, in_turn: bool = False
) -> Done:
    """Outer steps with a theta that hardly moves; the first ones are not counted."""
    es = config.es
    timed = Timed(problem, es.pairs)
    estimator = make_estimator(es, timed, comm, config.train.seed)
    if in_turn:
        estimator._work = InTurn(comm)
    outer_cfg = msgspec.structs.replace(config.outer, options={"learning_rate": LR})
    outer = OuterOptimizer(outer_cfg, Layout((("theta", (problem.n_theta,)),)), 10**6)
    theta = np.zeros(problem.n_theta, np.float32)
    if isinstance(problem, MetaProblem):
        theta = problem.opt.init_theta(config.train.seed)
        problem.time_tasks(theta, comm)
    state, outer_state = estimator.init(theta), outer.init(theta)
    rows: list[tuple] = []
    for t in range(WARM_UP + steps):
        timed.seconds[:] = 0
        comm.barrier()
        begin = time.perf_counter()
        estimate, state = estimator.step(theta, t, state)
        theta, outer_state = outer.step(theta, estimate.grad, outer_state)
        taken = time.perf_counter() - begin
        predicted = [problem.cost(t, i) * problem.horizon(t, i) for i in range(es.pairs)]
        rows.append((taken, estimate.seconds, timed.seconds.copy(), predicted))
    step, phases, pairs, predicted = zip(*rows[WARM_UP:], strict=True)
    by_phase = {k: np.array([p[k] for p in phases]) for k in phases[0]}
    return Done(np.array(step), by_phase, np.array(pairs), np.array(predicted))


def costs_of(name: str, done: Done) -> tuple[Costs, list[Pairs]]:
    """Costs of a workload from its outer steps on one rank, and from those of a rank without pairs.

    Returns: the costs, and the pairs of each outer step.
    """
    config, problem = settings(name)
    pairs, d, few = config.es.pairs, problem.n_theta, 3
    lots = min(4096, max(pairs, 40_000_000 // d))
    many = watched(*settings(name, lots), lots)
    little = watched(*settings(name, few), few)
    more = {key: max(0.0, many[key] - little[key]) / (lots - few) for key in many}
    ask, noise = more["ask"], more["rebuild"] / d
    book = max(0.0, more["rollout"] - ask)
    coordinates = max(0.0, little["rebuild"] + little["outer"] - few * d * noise) / d
    step = max(0.0, little["rollout"] - few * (ask + book)) + many["exchange"]
    # What a pair takes beside its runs: its perturbation, two shifted thetas, calls.
    beside = np.median(done.phases["rollout"] - done.pairs.sum(axis=1)) - little["rollout"]
    beside = max(0.0, float(beside) - (pairs - few) * (ask + book)) / pairs
    seconds = done.pairs + beside
    costs = Costs(np.sort(seconds, axis=None), ask, book, step, noise, d, coordinates)
    return costs, [Pairs(s, p) for s, p in zip(seconds, done.predicted, strict=True)]


def watched(config: cfg.Config, problem: UnrolledProblem, pairs: int) -> dict[str, float]:
    """Seconds of an outer step by phase on a rank that gets none of the pairs, which all get a weight."""
    onlooker = Onlooker(pairs)
    estimator = make_estimator(config.es, problem, onlooker, config.train.seed)
    onlooker.allreduce_scalars = lambda losses, kind="scalars": _made_up(losses)
    rows, asking = estimator._known.rows, [0.0]

    def timed_rows(*arguments: Any) -> np.ndarray:
        begin = time.perf_counter()
        known = rows(*arguments)
        asking[0] += time.perf_counter() - begin
        return known

    estimator._known.rows = timed_rows
    theta = np.zeros(problem.n_theta, np.float32)
    outer = OuterOptimizer(config.outer, Layout((("theta", theta.shape),)), 10**6)
    state, outer_state = estimator.init(theta), outer.init(theta)
    found: dict[str, list[float]] = {}
    for t in range(WARM_UP + 9):
        asking[0] = 0.0
        estimate, state = estimator.step(theta, t, state)
        begin = time.perf_counter()
        outer.step(theta, estimate.grad, outer_state)
        spent = {"ask": asking[0], "outer": time.perf_counter() - begin}
        for key, value in {**estimate.seconds, **spent}.items():
            found.setdefault(key, []).append(value)
    return {key: float(np.median(values[WARM_UP:])) for key, values in found.items()}


def _made_up(losses: np.ndarray) -> None:
    losses[:] = np.random.default_rng(0).random(losses.size)


def meeting(comm: Comm) -> float:
    """Seconds that the ranks of the node take to wait for each other."""
    comm.node_barrier()
    begin = time.perf_counter()
    for _ in range(MEETINGS):
        comm.node_fence()
    return (time.perf_counter() - begin) / MEETINGS


def main(name: str, *how: str) -> None:
    """One rank of a real run; rank 0 prints what `Done` holds, pairs of all ranks; or seconds of a meeting.

    how: "in turn": pairs are not handed out; "apart": every rank for itself, all at once.
    """
    comm = get_comm()
    with aborting(comm, debug=True):
        if name == "meeting":
            seconds = meeting(comm)
            if comm.rank == 0:
                print(json.dumps(seconds))
            return
        alone = SerialComm() if "apart" in how else comm
        comm.barrier()
        done = outer_steps(*settings(name), alone, CONFIG[name]["steps"], "in turn" in how)
        if "apart" not in how:
            comm.allreduce_scalars(done.pairs.reshape(-1), "control")
        comm.barrier()
        if comm.rank == 0:
            print(json.dumps(msgspec.to_builtins(done._asdict(), enc_hook=np.ndarray.tolist)))


if __name__ == "__main__":
    main(*sys.argv[1:])
