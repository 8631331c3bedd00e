"""Meta-train the same small optimizer on few and on many tasks, and measure it on tasks that it saw and that it did not.

python experiments/16_training_tasks/run.py --out runs/training_tasks

Killed and started again it goes on where it was.
"""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from plot import PICTURE, draw, report

from lopt import config as cfg
from lopt import scores
from lopt.comm import aborting, get_comm
from lopt.comparison import TaskList, compare, read
from lopt.config import Section
from lopt.experiment import begin, command_line, save_results
from lopt.judgement import median_curve
from lopt.store import Curves, read_curves
from lopt.sweep import trained
from lopt.tasks import task

HERE = Path(__file__).parent
ZERO = "theta = 0"
SHARED = "the training task that all counts share"
FRESH, FAMILIES = "new tasks of the same families", "new families"


class Judged(Section, kw_only=True):
    """What trained optimizers are measured on: two lists of tasks, and the comparison."""

    fresh: str
    families: str
    steps: int
    points: int
    seeds: int
    outer_batches: int


class Config(Section, kw_only=True):
    """config.toml; `lopt` is a configuration of `lopt train` without tasks, `pool` one whose tasks are taken."""

    counts: tuple[int, ...]
    seeds: int
    pool: str
    judged: Judged
    lopt: dict[str, Any]


def main() -> int:
    """Runs, comparison, picture, table; the exit code says whether expected.toml was met."""
    args, config = begin(command_line(__doc__), HERE, Config)
    folder, comm = args.config.parent, get_comm()
    pool = cfg.load(folder / config.pool).tasks
    path, shared = args.out / "judged.h5", {}
    with aborting(comm):
        for count in config.counts:
            for seed in range(config.seeds):
                drawn = first_tasks(pool, count, seed)
                shared[count, seed] = name_of(drawn[0])
                run = {**config.lopt.get("train", {}), "seed": seed}
                given = cfg.convert({**config.lopt, "tasks": drawn, "train": run}, cfg.Config)
                trained(given, args.out / label(count, seed), comm)
        lists = {g: read(folder / f, TaskList).tasks for g, f in groups(config).items()}
        if comm.rank == 0:
            write_comparison(config, shared, lists, args.out)
        comm.barrier()
        compare(args.out / "judged.toml", path, comm)
    if comm.rank != 0:
        return 0
    found = all_scores(read_curves(path), shared, lists)
    save_results(args.out / "gains.h5", found, groups=list(found), counts=config.counts)
    draw(args.out, args.out / PICTURE)
    return report(args.out)


def groups(config: Config) -> dict[str, str]:
    """Lists of tasks that no run was trained on."""
    return {FRESH: config.judged.fresh, FAMILIES: config.judged.families}


def first_tasks(pool: tuple[cfg.TaskSpec, ...], count: int, seed: int) -> list[cfg.TaskSpec]:
    """The first tasks of the pool in an order drawn from the seed.

    In the pool's own order the first tasks are all of one kind: number and variety would be changed together.  A run of
    more tasks has those of the runs of fewer, so that the first one is everybody's.
    """
    return [pool[k] for k in np.random.default_rng(seed).permutation(len(pool))[:count]]


def name_of(spec: cfg.TaskSpec) -> str:
    """What a task is called in a comparison."""
    return task(spec.family, spec.augment, **spec.options).name


def label(count: int, seed: int) -> str:
    """Of a run: its folder and its name among the entrants."""
    return f"tasks{count}_seed{seed}"


def write_comparison(
    config: Config, shared: dict[tuple[int, int], str], lists: dict[str, tuple[str, ...]], out: Path
) -> None:
    """judged.toml and its list of tasks: theta = 0 and the weights of every run."""
    entrants = [{"family": ZERO, "optimizer": config.lopt["optimizer"]["name"]}]
    entrants[0]["options"] = config.lopt["optimizer"]["options"]
    for run in shared:
        entrants.append({"family": label(*run), "weights": f"{label(*run)}/weights.h5"})
    judged = config.judged
    sizes = {k: getattr(judged, k) for k in ("steps", "points", "seeds", "outer_batches")}
    tree = {**sizes, "tasks": "judged_tasks.toml", "entrants": entrants}
    (out / "judged.toml").write_text(tomli_w.dumps(tree))
    tasks = list(dict.fromkeys([*shared.values(), *itertools.chain(*lists.values())]))
    (out / "judged_tasks.toml").write_text(tomli_w.dumps({"tasks": tasks}))


def all_scores(
    curves: Curves, shared: dict[tuple[int, int], str], lists: dict[str, tuple[str, ...]]
) -> dict[str, np.ndarray]:
    """(mean | interquartile mean, count, seed) over tasks of the gain over theta = 0, by group of tasks."""
    counts, seeds = (list(dict.fromkeys(axis)) for axis in zip(*shared, strict=True))
    found = {g: np.zeros((2, len(counts), len(seeds))) for g in (SHARED, *lists)}
    for (count, seed), first in shared.items():
        for group, tasks in {SHARED: (first,), **lists}.items():
            gains = [gain(curves, curves.tasks.index(n), label(count, seed)) for n in tasks]
            own = np.mean(gains), scores.interquartile_mean(np.array(gains))
            found[group][:, counts.index(count), seeds.index(seed)] = own
    return found


def gain(curves: Curves, place: int, run: str) -> float:
    """What was meta-trained: mean in the course of a training of log(validation loss / that of theta = 0).

    Losses are medians of the seeds, above the task's lowest one.
    """
    (own,), (zero,) = curves.members(run), curves.members(ZERO)
    pair = zip(median_curve(curves, place, own), median_curve(curves, place, zero), strict=True)
    lowest = float(curves.lowest[place])
    return float(np.mean([scores.log_ratio(a, b, lowest) for a, b in list(pair)[1:]]))


if __name__ == "__main__":
    sys.exit(main())
