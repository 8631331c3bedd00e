"""Does this machine's GPU give what the CPU gives, and how fast?  All of it in one file: python -m lopt.gpu_check OUT.h5

The first ten losses of every run agree to 1e-4; later, rounding grows in chaotic training and only distributions can
be compared: a Kolmogorov-Smirnov test of the last outer-validation losses over seeds.  The runs of both devices are
rows of a curves file; the figures of `lopt bench --suite gpu` stand in its provenance.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from lopt import cuda_device as device
from lopt import rng, store
from lopt.bench import gpu, line, report
from lopt.bench.cpu import SMALL
from lopt.bench.measure import Figure
from lopt.cuda_rollout import CudaRunner, Job
from lopt.errors import LoptError, UsageError
from lopt.optimizer import optimizer
from lopt.rollout import Particle, Runner, Schedule
from lopt.tasks import parse_task

SEEDS, STEPS, FIRST = 64, 60, 10
CLOSE = 1e-4  # relative, of the first losses
FALSE_ALARM = 1e-4  # of the test of distributions
SCHEDULE = Schedule(outer_every=10, outer_batches=2)
CASES = (
    (SMALL, "adam"), (SMALL, "adafac_mlp"), (SMALL, "hierarchical"), (SMALL, "anchored"),
    ("quadratic:dims=20", "adafac_mlp"), ("logistic:batch_size=16", "adafac_mlp"),
    ('conv_pooling:data=textures16,channels=[8],strides=[2],padding=["same"],batch_size=16', "adam"),
)  # fmt: skip


def cpu_runs(task_name: str, opt_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Losses of training (seeds, steps) and outer validation (seeds, m)."""
    runner = Runner(parse_task(task_name), optimizer(opt_name), SCHEDULE)
    theta, found = runner.opt.init_theta(), []
    for seed in range(SEEDS):
        address = rng.stream(seed)
        found.append(runner.advance(theta, runner.start(theta, address), STEPS, address))
    return tuple(np.stack(x) for x in zip(*found, strict=True))


def gpu_runs(task_name: str, opt_name: str) -> tuple[np.ndarray, np.ndarray]:
    """The same in one launch."""
    runner = CudaRunner(parse_task(task_name), optimizer(opt_name), SCHEDULE)
    theta, jobs = runner.opt.init_theta(), []
    for seed in range(SEEDS):
        address = rng.stream(seed)
        jobs.append(
            Job(theta, 0.0, address, arrays(runner.start(theta, address)), 0, STEPS, address)
        )
    done = runner.launch(jobs).results()
    return np.stack([d.train_loss for d in done]), np.stack([d.outer_loss for d in done])


def arrays(particle: Particle) -> dict[str, np.ndarray]:
    """A particle as a launch takes it."""
    return {name: getattr(particle, name) for name in ("params", "state", "status", "memory")}


def compared(label: str, cpu: tuple, gpu_: tuple) -> Iterator[Figure]:
    """First losses, then distributions."""
    first, there = cpu[0][:, :FIRST], gpu_[0][:, :FIRST]
    error = float(np.max(np.abs(there - first) / np.maximum(np.abs(first), 1e-12)))
    yield Figure(f"{label}: first {FIRST} losses, GPU against CPU", error, "relative", CLOSE, True)
    p = float(stats.ks_2samp(cpu[1][:, -1], gpu_[1][:, -1]).pvalue)
    yield Figure(f"{label}: last losses of {SEEDS} seeds, same law", p, "p-value", FALSE_ALARM)


def check(path: Path) -> bool:
    """All comparisons and figures, printed as they come and written to a file; whether every comparison holds."""
    device.require()
    store.refuse_existing(path)
    rows, figures, begin = [], [], time.perf_counter()
    for task_name, opt_name in CASES:
        runs = cpu_runs(task_name, opt_name), gpu_runs(task_name, opt_name)
        rows.append((task_name, opt_name, runs))
        for figure in compared(f"{opt_name} on {task_name.partition(':')[0]}", *runs):
            print(line(figure), flush=True)
            figures.append(figure)
    good = all(f.reached for f in figures)
    for figure in gpu.figures():
        print(line(figure), flush=True)
        figures.append(figure)
    save(path, rows, figures, time.perf_counter() - begin)
    print(f"{report(figures)}\n{path}: {'all comparisons hold' if good else 'COMPARISONS FAILED'}")
    return good


def save(path: Path, rows: list, figures: list[Figure], seconds: float) -> None:
    """Runs of both devices as curves, figures in the provenance."""
    tasks = tuple(dict.fromkeys(task for task, _, _ in rows))
    labels = [f"{opt} on {d}" for _, opt, _ in rows for d in ("cpu", "cuda")]
    entrants = tuple(
        store.EntrantInfo(label, label.split()[0], "default", 0, json.dumps(label))
        for label in dict.fromkeys(labels)
    )
    place = {e.label: k for k, e in enumerate(entrants)}
    points = np.arange(0, STEPS + 1, SCHEDULE.outer_every)
    columns: dict[str, list[Any]] = {name: [] for name in store.no_runs(points.size)}
    for task, opt, runs in rows:
        for where, (train, outer) in zip(("cpu", "cuda"), runs, strict=True):
            for seed in range(SEEDS):
                means = train[seed].reshape(-1, SCHEDULE.outer_every).mean(axis=1)
                values = {
                    "task": tasks.index(task), "entrant": place[f"{opt} on {where}"], "seed": seed,
                    "train": np.append(train[seed, 0], means), "valid": np.append(np.nan, outer[seed]),
                    "test": np.nan, "status": 0, "status_step": -1, "wall_s": np.nan,
                }  # fmt: skip
                for name, value in values.items():
                    columns[name].append(value)
    made = {n: np.array(columns[n], a.dtype) for n, a in store.no_runs(points.size).items()}
    origin = {
        **store.provenance(0, 1, "cuda"), "seconds": seconds, "figures": [f._asdict() for f in figures],
    }  # fmt: skip
    built = [parse_task(t) for t in tasks]
    store.save_curves(
        path,
        store.Curves(
            {"steps": STEPS, "outer_batches": SCHEDULE.outer_batches, "test_batches": 0, "ceiling": SCHEDULE.ceiling},
            [origin], tasks, tuple(t.family for t in built), np.array([t.lowest_loss for t in built]), entrants,
            points, made,
        ),
    )  # fmt: skip


if __name__ == "__main__":
    try:
        if len(sys.argv) != 2:
            raise UsageError("usage: python -m lopt.gpu_check OUT.h5")
        sys.exit(0 if check(Path(sys.argv[1])) else 1)
    except LoptError as error:
        print(f"lopt: error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
