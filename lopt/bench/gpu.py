"""Rollouts and updates on a GPU, and what the CUDA compilers say of their kernels, for which none is needed."""

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from lopt import cuda_device as device
from lopt import rng
from lopt.bench.cpu import SMALL, operations
from lopt.bench.measure import Figure
from lopt.cuda_compiler import STATIC_SHARED, compile_entry, missing
from lopt.cuda_rollout import (
    TEAMS_PER_PROCESSOR,
    CudaRunner,
    Job,
    entry_types,
    training_kernel,
)
from lopt.errors import DeviceError
from lopt.layout import Layout
from lopt.optimizer import OPTIMIZERS, optimizer
from lopt.rollout import Schedule
from lopt.task import TASKS
from lopt.tasks import parse_task

ASKED = {"hierarchical": 1e6, "adafac_mlp": 5e6, "adam": None}  # inner steps/s, small task
MEMBERS = 4096  # particles of a launch: thousands keep all multiprocessors busy
STEPS = 50  # inner steps of a launch
REPEATS = 3
BIG = Layout([(f"w{k}", (5000, 2500)) for k in range(8)])  # 1e8 parameters
UPDATES = ("adam", "adafac_mlp")
COPY_TIMES = 3.0  # an update may take so many times a copy of what it reads and writes


def figures() -> Iterator[Figure]:
    """What the compilers say, then what a GPU reaches."""
    for name in ASKED:
        yield from compiled(name)
    try:
        device.require()
    except DeviceError as error:
        for name, asked in ASKED.items():
            yield Figure(rollout_label(name), None, "inner steps/s", asked, note=str(error))
        for name in UPDATES:
            yield Figure(update_label(name), None, "ns/parameter", note=str(error))
        return
    for name, asked in ASKED.items():
        yield rollout(name, asked)
    rate = copy_rate()
    yield Figure("copy of 2 GiB on the GPU", rate / 1e9, "GB/s, read and written")
    for name in UPDATES:
        yield update_alone(name, rate)


def rollout_label(name: str) -> str:
    """Name of a row."""
    return f"{name} rollouts on a GPU, small task, {MEMBERS} particles"


def update_label(name: str) -> str:
    """Name of a row."""
    return f"{name} update alone on a GPU, 1e8 parameters"


def compiled(name: str) -> Iterator[Figure]:
    """Registers, spills and shared memory of the rollout of an MLP, for compute capability 9.0."""
    if missing():
        yield Figure(f"{name} on mlp, compiled for CUDA", None, "", note=missing())
        return
    found = compile_entry(training_kernel(TASKS["mlp"].core, OPTIMIZERS[name].core), entry_types())
    what = f"{name} on mlp, by the CUDA compiler:"
    yield Figure(f"{what} registers", found.registers, "a lane", device.LANE_REGISTERS, True)
    yield Figure(f"{what} spilled", found.spills, "bytes a lane")
    yield Figure(f"{what} static shared memory", found.shared, "bytes", STATIC_SHARED, True)
    teams = found.teams(device.THREADS)
    yield Figure(f"{what} teams at once", teams, "a multiprocessor", TEAMS_PER_PROCESSOR)


def rollout(name: str, asked: float | None) -> Figure:
    """Inner steps per second of all particles of a launch together, validation calls included."""
    task, opt = parse_task(SMALL), optimizer(name)
    runner = CudaRunner(task, opt, Schedule(outer_every=10**6))
    theta, address = opt.init_theta(), rng.stream(0)
    start = vars(runner.start(theta, address))
    addresses = [rng.stream(0, 0, i // 2) for i in range(MEMBERS)]
    state = {"t0": 0, "particles": [start] * MEMBERS}

    def window() -> None:
        jobs = [
            Job(theta, (-1) ** i * 0.01, addresses[i], particle, state["t0"], STEPS, addresses[i])
            for i, particle in enumerate(state["particles"])
        ]
        done = runner.launch(jobs).results()
        state["particles"] = [d.particle for d in done]
        state["t0"] += STEPS

    seconds = wall_seconds(window)
    floor = device.peak() / (operations(opt, task.layout) + task.operations)
    return Figure(
        rollout_label(name), MEMBERS * STEPS / seconds, "inner steps/s", asked, floor=floor
    )


def copy_rate() -> float:
    """Bytes per second that a copy on the GPU reads and writes, both together."""
    cuda = device.require()
    source, target = (device.empty((2**28,), np.float32) for _ in range(2))

    def copy() -> None:
        target.copy_to_device(source)
        cuda.synchronize()

    return 2 * source.nbytes / wall_seconds(copy)


def update_alone(name: str, rate: float) -> Figure:
    """Nanoseconds per parameter of `opt.update`."""
    opt = optimizer(name)
    start = rng.normals(BIG.size, rng.stream(0), rng.INIT)
    params = {n: device.upload(v, 0) for n, v in BIG.views(start).items()}
    grads = {n: device.upload(v, 0) for n, v in BIG.views(np.float32(0.01) * start).items()}
    state = opt.init(params, opt.init_theta())
    seconds = wall_seconds(lambda: opt.update(params, grads, state, loss=1.0))
    floor = 4.0 * (2 * opt.state_size(BIG) + 3 * BIG.size) / rate
    unit = 1e9 / BIG.size
    asked = COPY_TIMES * floor * unit
    return Figure(
        update_label(name), seconds * unit, "ns/parameter", asked, True, floor=floor * unit
    )


def wall_seconds(run: Callable[[], object]) -> float:
    """Median of repeats after a first call, which compiles."""
    run()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
