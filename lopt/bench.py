"""How fast this machine runs lopt, with the sgemm rate of the same process as the yardstick.

Machines differ and are noisy: every figure is a median of repeats, quoted with the 2048^3 sgemm rate that the same
process reached, and beside the target of the project where one exists.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lopt import rng
from lopt.comm import SerialComm
from lopt.errors import CommError
from lopt.es import minimize, strategy
from lopt.es.perturbation import NodeSum, streams, sum_normals
from lopt.lanes import pin_blas_threads
from lopt.optimizer import optimizer
from lopt.rollout import Runner, Schedule
from lopt.store import RunReader
from lopt.task import TRAIN, Task
from lopt.tasks import parse_task, task

Figure = dict[str, Any]
ROLLOUT_TARGETS = {
    "hierarchical": 3500.0,
    "adam": 30000.0,
}  # inner steps / s on one core, small task
SMALL_TASK = {"data": "digits", "hidden": (32,), "batch_size": 64}
MATRIX_TASKS = {  # matrix-dominated: loss and gradient should reach 35 % of sgemm
    "MLP 64-128-128-10, batch 64": "mlp:hidden=[128,128],batch_size=64",
    "LSTM language model, hidden 64": (
        "char_rnn_language_model:cell=lstm,cell_dim=64,embed_dim=64,length=32,batch_size=64,"
        'cell_initialisers=["sonnet"]'
    ),
    "transformer language model, width 64": "transformer_lm:vocab=128,width=64,heads=4,layers=2,length=32,batch_size=32",
    "3 x 3 x 32 convolutions on 16 x 16": (
        'conv_pooling:data=textures16,channels=[32,32,32],strides=[1,1,1],padding=["same","same","same"],batch_size=64'
    ),
}
MATRIX_SHARE = 35.0  # %
REPEATS = 5
ENOUGH_S = 1.0  # stop repeating a step after so many seconds
EXAMPLE_CONFIG = Path(__file__).parent.parent / "experiments" / "01_digits" / "config.toml"


def run_suite(suite: str) -> list[Figure]:
    """Figures of a suite, or of all.

    cpu: rollouts, loss and gradient; es: noise, sums over it, memory and bytes of a step; mpi:
    start-up, memory, two ranks; gpu.
    """
    from lopt.bench_noise import noise  # it needs what is defined here

    suites: dict[str, Callable[[], list[Figure]]] = {
        "cpu": cpu,
        "es": lambda: [*es(), *noise()],
        "mpi": mpi,
        "gpu": gpu,
    }
    chosen = suites.values() if suite == "all" else [suites[suite]]
    return [figure for run in chosen for figure in run()]


def report(figures: Sequence[Figure]) -> str:
    """The figures as a table."""
    lines = [f"{'what':58s} {'measured':>12s} {'target':>10s}  unit"]
    for f in figures:
        target = "" if f.get("target") is None else f"{f['target']:.4g}"
        value = "-" if f["value"] is None else f"{f['value']:.4g}"
        lines.append(f"{f['name']:58s} {value:>12s} {target:>10s}  {f['unit']}")
    return "\n".join(lines)


def figure(name: str, value: float | None, unit: str, target: float | None = None) -> Figure:
    """One measured number; a value of None means it could not be measured, and `unit` says why."""
    return {"name": name, "value": value, "unit": unit, "target": target}


def median_seconds(
    run: Callable[[], object], repeats: int = 7, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median time of a call, after one warm-up; wall time unless another clock is given."""
    run()
    times = []
    for _ in range(repeats):
        begin = clock()
        run()
        times.append(clock() - begin)
    return statistics.median(times)


def step_ms(task: Task) -> float:
    """Milliseconds of a core for one loss and gradient on a training batch: lower quartile of calls after the first.

    The thread's own time, so that other processes on the machine hardly count.
    """
    pin_blas_threads()
    stream = rng.stream(0)
    params, rows = task.init(stream), np.empty(task.batch_size, np.int64)
    grad = np.empty_like(params)
    work = np.zeros(task.work_size(rows.size), np.float32)
    times: list[float] = []
    for step in range(REPEATS + 1):
        rows[:] = rng.integers(rows.size, *task.splits[TRAIN], stream, rng.BATCH + TRAIN, step)
        begin = time.thread_time()
        task.entry(params, grad, task.arrays, rows, stream, TRAIN, step, work, 1)
        times.append(time.thread_time() - begin)
        if sum(times) > ENOUGH_S and step > 0:
            break
    return 1e3 * float(np.quantile(times[1:], 0.25))


def sgemm_rate(n: int = 2048, clock: Callable[[], float] = time.perf_counter) -> float:
    """GFLOP/s of an n x n x n float32 matrix product on one thread: the yardstick."""
    pin_blas_threads()
    a, b = (np.random.default_rng(i).random((n, n), np.float32) for i in range(2))
    out = np.empty((n, n), np.float32)
    return 2 * n**3 / median_seconds(lambda: np.dot(a, b, out), 5, clock) / 1e9


def cpu() -> list[Figure]:
    """Rollouts of the small task on one core."""
    sgemm = sgemm_rate()
    found = [figure("sgemm 2048^3, one thread", sgemm, "GFLOP/s")]
    small = task("mlp", **SMALL_TASK)
    found.append(
        figure(
            "small task, loss + gradient (sgd rollout)",
            1e-3 * rollout_rate(small, "sgd"),
            "1000/s",
            45.0,
        )
    )
    for name in ("adam", "mlp", "adafac_mlp", "hierarchical"):
        rate = rollout_rate(small, name)
        label = f"{name} rollout, small task (64-32-10, batch 64)"
        found.append(figure(label, rate, "inner steps/s", ROLLOUT_TARGETS.get(name)))
    return found + matrix_tasks()


def matrix_tasks() -> list[Figure]:
    """Loss and gradient of matrix-dominated tasks: % of the sgemm rate measured right before each."""
    found = []
    for label, name in MATRIX_TASKS.items():
        t = parse_task(name)
        share = [100 * t.operations / (1e6 * step_ms(t)) / sgemm_rate() for _ in range(3)]
        found.append(figure(label, statistics.median(share), "% of sgemm", MATRIX_SHARE))
    return found


def rollout_rate(task_, name: str) -> float:
    """Inner steps per second of a rollout without outer-validation losses."""
    opt = optimizer(name)
    runner = Runner(task_, opt, Schedule(outer_every=10**6))
    theta, stream = opt.init_theta(), rng.stream(0)
    steps = 400 if opt.uses_loss else 4000
    particle = runner.start(theta, stream)
    return steps / median_seconds(lambda: runner.advance(theta, particle, steps, stream))


def es() -> list[Figure]:
    """Noise and sums over it, a whole step of antithetic ES, its memory and its bytes."""
    clock = time.thread_time  # the thread's own time: other processes hardly count
    found = [figure("sgemm 2048^3, one thread", sgemm_rate(clock=clock), "GFLOP/s")]
    for n, pairs in ((35_000, 256), (1_000_000, 64)):
        per_element = 1e9 / n / pairs
        found.append(
            figure(
                f"noise + accumulation, {n} x {pairs}",
                per_element * median_seconds(_sum_over_pairs(n, pairs), 3, clock),
                "ns/element",
                4.0,
            )
        )
        found.append(
            figure(
                f"ask + tell of antithetic ES, {n} x {pairs} points",
                per_element * median_seconds(ask_and_tell(n, pairs // 2), 3, clock),
                "ns/element",
            )
        )
    for pairs in (4, 64):
        label = f"peak memory of its step, 2000000 x {2 * pairs} points"
        floats = floats_of_a_step(2_000_000, pairs)
        found.append(figure(label, floats, "floats/coordinate", 10.0))
    return [*found, figure("allreduced bytes of an outer step", bytes_of_a_pair(), "/pair", 16.0)]


def _sum_over_pairs(n: int, pairs: int) -> Callable[[], object]:
    """The gradient of `pairs` losses: every perturbation made once and added up."""
    node = NodeSum(SerialComm(), n)
    table, coefs = streams(0, 0, pairs), np.full(pairs, 0.1, np.float32)
    return lambda: node.rebuild(
        lambda out, start: sum_normals(out, start, coefs, table, rng.PERTURB)
    )


def ask_and_tell(n: int, pairs: int) -> Callable[[], object]:
    """A step without evaluations: all points made one by one, then the next state."""
    strat, node = strategy("antithetic", pairs=pairs), NodeSum(SerialComm(), n)
    state, point = strat.init(n, 0), np.empty(n, np.float32)
    losses = np.random.default_rng(0).random(2 * pairs)

    def step() -> None:
        for i in range(2 * pairs):
            strat.point(state, i, point)
        strat.tell(state, losses, node)

    return step


# What a process of its own takes for a step beyond what it had before, in bytes.
_MEMORY = """
import resource, sys
from lopt.bench import ask_and_tell
def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n, pairs = int(sys.argv[1]), int(sys.argv[2])
ask_and_tell(5000, 2)()
before = peak()
ask_and_tell(n, pairs)()
print(peak() - before)
"""


def floats_of_a_step(n: int, pairs: int) -> float:
    """Peak memory of a process that makes and tells all points of n coordinates, in floats (4 bytes) for each."""
    ask_and_tell(5000, 2)()  # so that the other process finds its kernels on disk
    command = [sys.executable, "-c", _MEMORY, str(n), str(pairs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) / (4 * n)


def bytes_of_a_pair(pairs: int = 7, steps: int = 10) -> float:
    """Bytes that a rank gives to the exchange in a step, per pair: a long search less a short one."""
    sent = []
    for n in (1, 1 + steps):
        comm = SerialComm()
        minimize(
            lambda x: float(x @ x),
            np.ones(3),
            strategy="antithetic",
            pairs=pairs,
            steps=n,
            comm=comm,
        )
        sent.append(sum(comm.sent.values()))
    return (sent[1] - sent[0]) / (steps * pairs)


def mpi() -> list[Figure]:
    """Start-up to the second outer step and memory, cold and warm; two ranks against one."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        cache = {"NUMBA_CACHE_DIR": str(Path(scratch) / "cache")}
        for label, target in (("empty", 90.0), ("warm", 5.0)):
            seconds, peak = _train(Path(scratch) / label, 1, 2, cache)
            found.append(
                figure(f"lopt train to the 2nd outer step, {label} cache", seconds, "s", target)
            )
            found.append(figure(f"peak memory of a rank, {label} cache", peak, "MiB", 350.0))
        try:
            rates = [_inner_rate(Path(scratch) / f"run{k}", 1 + k % 2, cache) for k in range(6)]
        except CommError as error:
            return [*found, figure("two ranks over one", None, str(error))]
        one, two = np.median(rates[0::2]), np.median(rates[1::2])
        found.append(figure("meta-training, one rank", one, "inner steps/s"))
        found.append(figure("meta-training, two ranks over one", two / one, "x", 1.85))
    return found


def gpu() -> list[Figure]:
    """Nothing to measure: rollouts on a GPU are not built yet."""
    return [figure("GPU rollouts", None, "not available in this version")]


def mpirun() -> str:
    """The mpirun beside this Python, or on the path.

    Raises:
        CommError: there is none.
    """
    beside = Path(sys.executable).parent / "mpirun"
    found = os.environ.get("LOPT_MPIRUN") or (
        str(beside) if beside.exists() else shutil.which("mpirun")
    )
    if not found:
        raise CommError("no mpirun: install lopt[mpi] or set LOPT_MPIRUN")
    return found


# The command, telling at its end how much memory its own process took at most.
_COMMAND = """
import resource, sys
from lopt.cli import main
try:
    main(sys.argv[1:])
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def _train(out: Path, ranks: int, outer_steps: int, env: dict[str, str]) -> tuple[float, float]:
    """Seconds of a training run, and peak memory of one of its ranks in MiB."""
    launcher = [] if ranks == 1 else [mpirun(), "-n", str(ranks)]
    settings = {
        "train.outer_steps": outer_steps,
        "train.minutes": 0,
        "train.checkpoint_minutes": 60,
    }
    sets = [x for k, v in settings.items() for x in ("--set", f"{k}={v}")]
    command = [sys.executable, "-c", _COMMAND, "train", "--config", str(EXAMPLE_CONFIG)]
    begin = time.perf_counter()
    done = subprocess.run(
        [*launcher, *command, "--out", str(out), *sets],
        env={**os.environ, **env},
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - begin, int(done.stderr.split()[-1]) / 1024


def _inner_rate(out: Path, ranks: int, env: dict[str, str]) -> float:
    """Inner steps per second of meta-training: the median outer step after the first three."""
    _train(out, ranks, 15, env)
    run = RunReader(out / "run.h5")
    return float(np.median(np.diff(run["inner_steps"])[2:] / np.diff(run["wall_s"])[2:]))
