"""Meta-training of an optimizer, seen as an unrolled problem that evolution strategies can work on.

A pair's episode is one inner training run: a task, a horizon and all its random numbers follow from the address
(seed, episode, pair), so both members of the pair, every rank and every resumed run see the same problem.
"""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lopt import rng
from lopt.comm import Comm
from lopt.cuda_rollout import Job
from lopt.errors import ConfigError, TaskError
from lopt.es.problem import Request, Window
from lopt.optimizer import Optimizer
from lopt.rollout import Particle, Runner, Schedule, runner_on
from lopt.task import OUTER_VALID, Task

SCALE_SEED = 2**32 - 1  # an address of its own, so that scales do not depend on the run's seed
INITIAL_SEEDS = 4  # initialisations averaged to find a task's loss before training
INITIAL_BATCHES = 8
LOG_FLOOR = 1e-6  # normalised loss


class Scale(NamedTuple):
    """Affine map of a task's loss: 1 before training, 0 at the lowest known loss."""

    low: float
    high: float

    def normalise(self, loss: np.ndarray) -> np.ndarray:
        """(loss - low) / (high - low), the paper's normalisation (methods 1.1)."""
        return (loss - self.low) / (self.high - self.low)


class Objective(NamedTuple):
    """What of the normalised losses is averaged: themselves or their logarithms.  The clip and the floor are ours."""

    log: bool
    clip: tuple[float, float]

    def of(self, normalised: np.ndarray) -> np.ndarray:
        """The terms of the meta-loss; in a logarithm, whatever is below LOG_FLOOR counts as that."""
        clipped = np.clip(normalised, *self.clip)
        return np.log(np.maximum(clipped, LOG_FLOOR)) if self.log else clipped


def initial_scale(runner: Runner) -> Scale:
    """Lowest known loss and mean outer-validation loss at initialisation, over fixed addresses.

    Raises:
        TaskError: the task starts at its lowest loss, or its initial loss is not finite.
    """
    task = runner.task
    losses = [
        runner.split_loss(task.init(stream), OUTER_VALID, stream, 0, INITIAL_BATCHES)
        for stream in (rng.stream(SCALE_SEED, pair=i) for i in range(INITIAL_SEEDS))
    ]
    scale = Scale(float(task.lowest_loss), float(np.mean(losses)))
    if not scale.high > scale.low or scale.high >= runner.schedule.ceiling:
        raise TaskError(
            f"task {task.name} cannot be normalised: initial loss {scale.high}, lowest {scale.low}"
        )
    return scale


class MetaProblem:
    """An optimizer's meta-loss on a weighted set of tasks (an `lopt.es.problem.UnrolledProblem`).

    Args:
        tasks: the tasks; pair i of an episode draws one of them with probability proportional to `weights`.
        horizon: inner steps of an episode, (low, high), drawn log-uniformly and rounded to whole windows (to
            `schedule.outer_every` where a window is longer than `low`): windows of equal length weigh the same, and
            ranks with equally many pairs finish together.
        truncation: K, inner steps of a window; losses of a window are summed and divided by K.
        objective: what of the normalised outer-validation losses a window averages.
        seed: first word of all addresses.

    Raises:
        ConfigError: truncation is no multiple of `schedule.outer_every` (a window would hold no outer loss).
        TaskError: a task that cannot be normalised.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        weights: Sequence[float],
        opt: Optimizer,
        schedule: Schedule,
        horizon: tuple[int, int],
        truncation: int,
        objective: Objective,
        seed: int,
        device: str = "cpu",
    ) -> None:
        if truncation % schedule.outer_every:
            raise ConfigError(
                f"es.truncation = {truncation} is no multiple of inner.outer_every = {schedule.outer_every}"
            )
        self.opt, self.seed = opt, seed
        self.n_theta = opt.theta_layout.size
        self._runners = [runner_on(device, task, opt, schedule) for task in tasks]
        self.batched = device == "cuda"
        self._scales = [initial_scale(runner) for runner in self._runners]
        self._cumulative = np.cumsum(np.asarray(weights, float) / np.sum(weights))
        self._horizon, self._truncation, self._objective = horizon, truncation, objective
        self._costs = [t.operations / 2 + opt.state_size(t.layout) for t in tasks]
        self.tasks = tuple(tasks)

    def time_tasks(self, theta: np.ndarray, comm: Comm) -> None:
        """Predict costs from now on by the seconds that an inner step of each task takes; collective.

        Each task is timed by one rank, by the thread's own time.  Counted operations say little here:
        one of a matrix product and one of an optimizer differ a hundred times in what they cost.
        """
        seconds = np.zeros(len(self.tasks))
        for k in range(comm.rank, seconds.size, comm.size):
            seconds[k] = _step_seconds(self._runners[k], theta)
        comm.allreduce_scalars(seconds, "control")
        self._costs = seconds.tolist()

    def group(self, episode: int, pair: int) -> int:
        """Index of the episode's task."""
        u = rng.uniforms(1, rng.stream(self.seed, episode, pair), rng.TASK)[0]
        return min(int(np.searchsorted(self._cumulative, u, side="right")), len(self.tasks) - 1)

    def horizon(self, episode: int, pair: int) -> int:
        """Inner steps T of the episode, a multiple of the window or of the outer-validation interval."""
        low, high = self._horizon
        u = float(rng.uniforms(1, rng.stream(self.seed, episode, pair), rng.HORIZON)[0])
        whole = self._truncation <= low
        every = self._truncation if whole else self._runners[0].schedule.outer_every
        steps = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
        return max(every, round(steps / every) * every)

    def cost(self, episode: int, pair: int) -> float:
        """Predicted cost of one inner step: multiply-adds of the task and elements of the optimizer's state.

        After `time_tasks` seconds.
        """
        return self._costs[self.group(episode, pair)]

    def start(self, theta: np.ndarray, episode: int, pair: int) -> dict[str, np.ndarray]:
        """Particle at the task's initial parameters."""
        runner = self._runners[self.group(episode, pair)]
        return _pack(runner.start(theta, rng.stream(self.seed, episode, pair)))

    def run(
        self, theta: np.ndarray, state: dict, episode: int, pair: int, t0: int, steps: int
    ) -> Window:
        """Inner steps [t0, t0 + steps); the loss is the sum of the objective's terms per step, divided by K."""
        group = self.group(episode, pair)
        particle = Particle(state["params"], state["state"], state["status"], state["memory"], t0)
        runner = self._runners[group]
        _, outer = runner.advance(theta, particle, steps, rng.stream(self.seed, episode, pair))
        return Window(self._loss(group, outer, steps), _pack(particle), particle.diverged, steps)

    def _loss(self, group: int, outer: np.ndarray, steps: int) -> float:
        terms = self._objective.of(self._scales[group].normalise(outer))
        return float(terms.mean()) * steps / self._truncation

    def run_many(self, requests: Sequence[Request]) -> list[Window]:
        """`run` of each, on a GPU: one launch for each task, all tasks side by side."""
        tasks: dict[int, list[int]] = {}
        for i, r in enumerate(requests):
            tasks.setdefault(self.group(r.episode, r.pair), []).append(i)
        launches = {
            group: self._runners[group].launch([self._job(requests[i]) for i in members])
            for group, members in tasks.items()
        }
        windows = {}
        for group, members in tasks.items():
            for i, done in zip(members, launches[group].results(), strict=True):
                steps = requests[i].steps
                loss = self._loss(group, done.outer_loss, steps)
                windows[i] = Window(loss, done.particle, done.diverged, steps)
        return [windows[i] for i in range(len(requests))]

    def _job(self, r: Request) -> Job:
        stream = rng.stream(self.seed, r.episode, r.pair)
        return Job(*r.theta.recipe, r.state, r.t0, r.steps, stream)


def _step_seconds(runner: Runner, theta: np.ndarray) -> float:
    """Thread's seconds of an inner step: the mean from one outer-validation loss to the next, after a first step."""
    stream, steps = rng.stream(SCALE_SEED), runner.schedule.outer_every
    particle = runner.start(theta, stream)
    runner.advance(theta, particle, 1, stream)
    begin = time.thread_time()
    runner.advance(theta, particle, steps, stream)
    return (time.thread_time() - begin) / steps


def _pack(particle: Particle) -> dict[str, np.ndarray]:
    return {
        "params": particle.params,
        "state": particle.state,
        "status": particle.status,
        "memory": particle.memory,
    }
