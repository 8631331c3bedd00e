"""Inner training on a GPU: a thread block trains a particle, a launch makes a whole window of all particles.

The kernels are those of the CPU (`lopt.rollout.inner_training` over the task's and the optimizer's core), so are the
addresses of all random numbers; results agree to rounding.  Compiled once for each family and optimizer, on first use.

What stays on the GPU: the constants of tasks, one copy for the process; particles, from window to window; scratch, for
each block, not for each particle: blocks take particle after particle.  Meta-parameters are made there, from theta and
the address of a perturbation.  Rows of particles and scratch begin at whole memory lines; neighbouring lanes read
neighbouring numbers.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import types

from lopt import cuda_device as device
from lopt import rng
from lopt.augment import AugmentData, memory_size
from lopt.augment import work_size as augment_work_size
from lopt.lanes import lane, lanes, sync, team, teams
from lopt.optimizer import OptData, Optimizer
from lopt.rollout import DIVERGED, FLAG, Buffers, Particle, Runner, Schedule, inner_training
from lopt.task import Task, TaskData

TEAMS_PER_PROCESSOR = 4  # blocks that have scratch; more would only wait

# Columns of the table of widths.
THETA, PARAMS, STATE, MEMORY, ROWS, TASK_WORK, OPT_WORK, AUGMENT_WORK = range(8)


def training_kernel(evaluate: Callable[..., float], step: Callable[..., int]) -> Callable:
    """The entry for a task's and an optimizer's core.

    Particle p of n: meta-parameters bases[job[p, 0]] + scales[p] * normals of address noise[p], purpose PERTURB; kept
    in row job[p, 1] of params, states, memory and status; job[p, 2:] and streams[p] are `plan` and `stream` of
    `inner_training`, train_loss[p] and outer_loss[p] its results.  Scratch has a row for each team.
    """

    def train_all(
        bases, scales, noise, job, streams, params, states, memory, status,
        floats, ints, sizes, hyper, opt_sizes, opt_hyper, augment_scale, augment_settings, splits, ceiling,
        train_loss, outer_loss, widths, thetas, grads, rows, task_work, opt_work, augment_work,
    ):  # fmt: skip
        mine = team()
        task_data, opt_data = TaskData(floats, ints, sizes, hyper), OptData(opt_sizes, opt_hyper)
        augment = AugmentData(augment_scale, augment_settings)
        theta = thetas[mine, : widths[THETA]]
        buffers = Buffers(
            grads[mine, : widths[PARAMS]], rows[mine, : widths[ROWS]], task_work[mine, : widths[TASK_WORK]],
            opt_work[mine, : widths[OPT_WORK]], augment_work[mine, : widths[AUGMENT_WORK]],
        )  # fmt: skip
        for p in range(mine, job.shape[0], teams()):
            base, place = bases[job[p, 0]], job[p, 1]
            for i in range(lane(), theta.size, lanes()):
                theta[i] = base[i]
            sync()
            if scales[p] != 0:
                rng.add_normals(theta, scales[p], 0, noise[p], rng.PERTURB, 0)
            sync()
            inner_training(
                evaluate, step, theta, params[place, : widths[PARAMS]], states[place, : widths[STATE]],
                memory[place, : widths[MEMORY]], task_data, opt_data, augment, job[p, 2:], streams[p], splits,
                ceiling, train_loss[p], outer_loss[p], status[place], buffers,
            )  # fmt: skip

    return train_all


def entry_types() -> tuple[types.Type, ...]:
    """Numba types of the entry's arguments, for compiling without a GPU."""
    f1, f2, i1, i2 = (types.Array(t, n, "C") for t in (types.float32, types.int64) for n in (1, 2))
    d1, d2 = (types.Array(types.float64, n, "C") for n in (1, 2))
    u2, w1 = types.Array(types.uint32, 2, "C"), types.Array(types.int32, 1, "C")
    return (
        f2, f1, u2, i2, u2, f2, f2, f2, i2, f1, w1, i1, f1, i1, f1, f1, d1, i1, types.float64, d2, d2, i1, f2, f2,
        i2, f2, f2, f2,
    )  # fmt: skip


@functools.cache
def compiled(evaluate: Callable[..., float], step: Callable[..., int]) -> Any:
    """The entry of two cores, one for the process."""
    return device.kernel(training_kernel(evaluate, step))


class Pool:
    """Rows on the GPU where particles live; there are as many as were ever needed at once.

    arrays    "params", "state", "memory" float32 and "status" int64, (places, padded width)
    """

    def __init__(self, widths: Mapping[str, int], queue: Any) -> None:
        self.widths, self._queue = dict(widths), queue
        self.arrays: dict[str, Any] = {}
        self._free: list[int] = []
        self._places = 0

    def take(self, particles: Sequence[Mapping[str, np.ndarray]]) -> list[int]:
        """Copy particles from the host; their places."""
        if len(particles) > len(self._free):
            self._grow(self._places + max(len(particles) - len(self._free), self._places))
        self._free.sort()
        places, self._free = self._free[: len(particles)], self._free[len(particles) :]
        for name, array in self.arrays.items():
            rows = np.zeros((len(particles), array.shape[1]), array.dtype)
            for row, particle in zip(rows, particles, strict=True):
                row[: self.widths[name]] = particle[name]
            for first, count, at in _runs(places):
                array[at : at + count].copy_to_device(rows[first : first + count], self._queue)
        return places

    def _grow(self, places: int) -> None:
        for name, width in self.widths.items():
            dtype = np.int64 if name == "status" else np.float32
            step = width if name == "status" else device.padded(width)
            array = device.empty((places, step), dtype)
            if self._places:
                array[: self._places].copy_to_device(self.arrays[name], self._queue)
            self.arrays[name] = array
        self._free += range(self._places, places)
        self._places = places

    def read(self, name: str, place: int) -> np.ndarray:
        """One array of one particle."""
        row = self.arrays[name][place : place + 1].copy_to_host(stream=self._queue)
        self._queue.synchronize()
        return row[0, : self.widths[name]].copy()

    def free(self, place: int) -> None:
        """Nobody needs the particle there any more."""
        self._free.append(place)


def _runs(places: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(index, length, first place) of each stretch of successive places."""
    begin = 0
    for i in range(1, len(places) + 1):
        if i == len(places) or places[i] != places[i - 1] + 1:
            yield begin, i - begin, places[begin]
            begin = i


class OnDevice(Mapping[str, np.ndarray]):
    """A particle on the GPU, seen as named arrays: read when asked for, its place free when nobody holds it."""

    def __init__(self, pool: Pool, place: int) -> None:
        self._pool, self.place = pool, place

    def __getitem__(self, name: str) -> np.ndarray:
        return self._pool.read(name, self.place)

    def __iter__(self) -> Iterator[str]:
        return iter(self._pool.widths)

    def __len__(self) -> int:
        return len(self._pool.widths)

    def __del__(self) -> None:
        self._pool.free(self.place)


class Job(NamedTuple):
    """What one particle is to do: `steps` inner steps from t0, batches from `stream`.

    theta     base + scale * normals of the address `noise`, purpose PERTURB
    particle  params, state, status and memory as `lopt.rollout.Particle` has them; OnDevice if it was here before
    """

    base: np.ndarray
    scale: float
    noise: np.ndarray
    particle: Mapping[str, np.ndarray]
    t0: int
    steps: int
    stream: np.ndarray


class Done(NamedTuple):
    """Losses as `Runner.advance` gives them, and the particle."""

    train_loss: np.ndarray
    outer_loss: np.ndarray
    particle: OnDevice
    diverged: bool


@dataclasses.dataclass
class Launch:
    """Work on its way; see `CudaRunner.launch`."""

    jobs: Sequence[Job]
    particles: list[OnDevice]
    train_loss: Any
    outer_loss: Any
    status: Any
    queue: Any
    schedule: Schedule

    def results(self) -> list[Done]:
        """Wait, then what became of each job."""
        arrays = (self.train_loss, self.outer_loss, self.status)
        train, outer, status = (a.copy_to_host(stream=self.queue) for a in arrays)
        self.queue.synchronize()
        return [
            Done(
                train[i, : job.steps].copy(), outer[i, : self.schedule.n_outer(job.t0, job.steps)].copy(),
                particle, bool(status[particle.place, FLAG] == DIVERGED),
            )
            for i, (job, particle) in enumerate(zip(self.jobs, self.particles, strict=True))
        ]  # fmt: skip


class CudaRunner(Runner):
    """A task and an optimizer on a GPU.  Losses of a split, and particles before their first step, are made on the host."""

    def __init__(self, task: Task, opt: Optimizer, schedule: Schedule) -> None:
        device.require()
        super().__init__(task, opt, schedule)
        n, b = task.layout.size, self._buffers
        self._queue = device.stream()
        self._pool = Pool(
            {
                "params": n, "state": opt.state_size(task.layout), "status": 3,
                "memory": memory_size(self._augment, n),
            },
            self._queue,
        )  # fmt: skip
        self._widths = np.array(
            [
                opt.theta_layout.size, n, self._pool.widths["state"], self._pool.widths["memory"], task.batch_size,
                b.task_work.size, b.opt_work.size, augment_work_size(self._augment, n),
            ],
            np.int64,
        )  # fmt: skip
        self._scratch: tuple[Any, ...] = ()
        self._teams = 0

    def launch(self, jobs: Sequence[Job]) -> Launch:
        """Start all jobs at once; returns before they are done."""
        queue, pool, n = self._queue, self._pool, len(jobs)
        particles = self._settle(jobs)
        bases, table = _distinct([job.base for job in jobs])
        s = self.schedule
        valid_every = s.valid_every if self.opt.uses_valid_loss else 0
        rows = [
            (table[i], particles[i].place, j.t0, j.steps, valid_every, s.outer_every, s.outer_batches)
            for i, j in enumerate(jobs)
        ]  # fmt: skip
        most = max(s.n_outer(j.t0, j.steps) for j in jobs)
        train = device.empty((n, max(j.steps for j in jobs)), np.float64)
        outer = device.empty((n, max(most, 1)), np.float64)
        arguments = (
            device.upload(bases, queue),
            device.upload(np.array([j.scale for j in jobs], np.float32), queue),
            device.upload(np.stack([j.noise for j in jobs]), queue),
            device.upload(np.array(rows, np.int64), queue),
            device.upload(np.stack([j.stream for j in jobs]), queue),
            *(pool.arrays[name] for name in ("params", "state", "memory", "status")),
            *self._constants, np.float64(s.ceiling), train, outer, device.upload_once(self._widths),
            *self._scratch_for(n),
        )  # fmt: skip
        entry = compiled(self.task.core, type(self.opt).core)
        entry[self._teams_for(n), device.THREADS, queue](*arguments)
        return Launch(jobs, particles, train, outer, pool.arrays["status"], queue, s)

    def _settle(self, jobs: Sequence[Job]) -> list[OnDevice]:
        """The particles of jobs on the GPU, new ones copied there."""
        new = [i for i, job in enumerate(jobs) if not isinstance(job.particle, OnDevice)]
        places = dict(zip(new, self._pool.take([jobs[i].particle for i in new]), strict=True))
        return [
            OnDevice(self._pool, places[i]) if i in places else job.particle
            for i, job in enumerate(jobs)
        ]

    @functools.cached_property
    def _constants(self) -> tuple[Any, ...]:
        arrays = (*self.task.arrays, *self._opt_data, *self._augment, self._splits)
        return tuple(device.upload_once(array) for array in arrays)

    def _teams_for(self, n: int) -> int:
        return min(n, TEAMS_PER_PROCESSOR * device.processors())

    def _scratch_for(self, n: int) -> tuple[Any, ...]:
        """Meta-parameters, gradient, rows of the batch and work, a row for each team."""
        teams = self._teams_for(n)
        if teams > self._teams:
            kinds = (THETA, PARAMS, ROWS, TASK_WORK, OPT_WORK, AUGMENT_WORK)
            self._scratch = tuple(
                device.empty(
                    (teams, device.padded(int(self._widths[kind]))),
                    np.int64 if kind == ROWS else np.float32,
                )
                for kind in kinds
            )
            self._teams = teams
        return self._scratch

    def advance(
        self, theta: np.ndarray, particle: Particle, steps: int, stream: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Runner.advance`: one particle, on one thread block."""
        before = {
            "params": particle.params, "state": particle.state, "status": particle.status,
            "memory": particle.memory,
        }  # fmt: skip
        job = Job(theta, 0.0, rng.stream(0), before, particle.t, steps, stream)
        (done,) = self.launch([job]).results()
        for name, array in before.items():
            array[:] = done.particle[name]
        particle.t += steps
        return done.train_loss, done.outer_loss


def _distinct(vectors: Sequence[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """Each vector once, stacked, and the row of every one; told apart by identity."""
    rows: dict[int, int] = {}
    kept = []
    for v in vectors:
        if id(v) not in rows:
            rows[id(v)] = len(kept)
            kept.append(v)
    return np.stack(kept), [rows[id(v)] for v in vectors]
