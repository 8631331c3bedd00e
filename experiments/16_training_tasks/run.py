"""Meta-train the same small optimizer on few and on many tasks, and measure it on tasks that it saw and that it did not.

python experiments/16_training_tasks/run.py --out runs/training_tasks

Killed and started again it goes on where it was.
"""

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from plot import draw

from lopt import config as cfg
from lopt import scores
from lopt.comm import aborting, get_comm
from lopt.comparison import TaskList, compare, read
from lopt.config import Section
from lopt.judgement import final_losses
from lopt.store import Curves, read_curves
from lopt.sweep import trained
from lopt.tasks import task

HERE = Path(__file__).parent
ZERO = "theta = 0"
OWN, FRESH, FAMILIES = "its own training tasks", "new tasks of the same families", "new families"  # fmt: skip


class Judged(Section, kw_only=True):
    """What trained optimizers are measured on: so many of their own tasks, lists of others; and the comparison."""

    own: int
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=HERE / "config.toml")
    args = parser.parse_args()
    config, folder, comm = read(args.config, Config), args.config.parent, get_comm()
    pool = cfg.load(folder / config.pool).tasks
    path, own = args.out / "judged.h5", {}
    with aborting(comm):
        for count in config.counts:
            for seed in range(config.seeds):
                drawn = first_tasks(pool, count, seed)
                own[count, seed] = [name_of(spec) for spec in drawn[: config.judged.own]]
                run = {**config.lopt.get("train", {}), "seed": seed}
                given = cfg.convert({**config.lopt, "tasks": drawn, "train": run}, cfg.Config)
                trained(given, args.out / label(count, seed), comm)
        lists = {g: read(folder / f, TaskList).tasks for g, f in groups(config).items()}
        if comm.rank == 0:
            write_comparison(config, own, lists, args.out)
        comm.barrier()
        compare(args.out / "judged.toml", path, comm)
    if comm.rank != 0:
        return 0
    found = all_scores(read_curves(path), own, lists)
    draw(found, config.counts, args.out / "training_tasks.png")
    return report(found, config.counts, HERE / "expected.toml")


def groups(config: Config) -> dict[str, str]:
    """Lists of tasks that no run was trained on."""
    return {FRESH: config.judged.fresh, FAMILIES: config.judged.families}


def first_tasks(pool: tuple[cfg.TaskSpec, ...], count: int, seed: int) -> list[cfg.TaskSpec]:
    """The first tasks of the pool in an order drawn from the seed.

    In the pool's own order the first tasks are all of one kind: number and variety would be changed together.
    """
    return [pool[k] for k in np.random.default_rng(seed).permutation(len(pool))[:count]]


def name_of(spec: cfg.TaskSpec) -> str:
    """What a task is called in a comparison."""
    return task(spec.family, spec.augment, **spec.options).name


def label(count: int, seed: int) -> str:
    """Of a run: its folder and its name among the entrants."""
    return f"tasks{count}_seed{seed}"


def write_comparison(
    config: Config,
    own: dict[tuple[int, int], list[str]],
    lists: dict[str, tuple[str, ...]],
    out: Path,
) -> None:
    """judged.toml and its list of tasks: theta = 0 and the weights of every run."""
    entrants = [{"family": ZERO, "optimizer": config.lopt["optimizer"]["name"]}]
    entrants[0]["options"] = config.lopt["optimizer"]["options"]
    for run in own:
        entrants.append({"family": label(*run), "weights": f"{label(*run)}/weights.h5"})
    judged = config.judged
    sizes = {k: getattr(judged, k) for k in ("steps", "points", "seeds", "outer_batches")}
    tree = {**sizes, "tasks": "judged_tasks.toml", "entrants": entrants}
    (out / "judged.toml").write_text(tomli_w.dumps(tree))
    tasks = list(
        dict.fromkeys(name for names in (*own.values(), *lists.values()) for name in names)
    )
    (out / "judged_tasks.toml").write_text(tomli_w.dumps({"tasks": tasks}))


def all_scores(
    curves: Curves, own: dict[tuple[int, int], list[str]], lists: dict[str, tuple[str, ...]]
) -> dict[str, np.ndarray]:
    """(count, seed) interquartile mean over tasks of the log ratio of test losses to theta = 0, by group of tasks."""
    counts, seeds = (list(dict.fromkeys(axis)) for axis in zip(*own, strict=True))
    found = {g: np.zeros((len(counts), len(seeds))) for g in (OWN, *lists)}
    for (count, seed), names in own.items():
        for group, tasks in {OWN: names, **lists}.items():
            ratios = [log_ratio(curves, curves.tasks.index(n), label(count, seed)) for n in tasks]
            found[group][counts.index(count), seeds.index(seed)] = scores.summary(ratios).iqm
    return found


def log_ratio(curves: Curves, place: int, run: str) -> float:
    """log of the test loss of a run's optimizer over that of theta = 0, medians of the seeds."""
    losses = [final_losses(curves, place, family, 1) for family in (run, ZERO)]
    mine, reference = (float(np.median(x)) for x in losses)
    return scores.log_ratio(mine, reference, float(curves.lowest[place]))


def report(found: dict[str, np.ndarray], counts: tuple[int, ...], expected: Path) -> int:
    """Mean and range over runs, and the verdict."""
    print(f"| training tasks | {' | '.join(found)} |\n|---|" + "---|" * len(found))
    for k, count in enumerate(counts):
        cells = [f"{v[k].mean():+.3f} ({v[k].min():+.3f} to {v[k].max():+.3f})" for v in found.values()]  # fmt: skip
        print(f"| {count} | {' | '.join(cells)} |")
    few_to_many = {g: float(v[-1].mean() - v[0].mean()) for g, v in found.items()}
    bounds = tomllib.loads(expected.read_text())
    missed = []
    for group, (low, high) in ((g, bounds[g]) for g in found):
        change = few_to_many[group]
        print(f"{group}: {change:+.3f} from {counts[0]} to {counts[-1]} tasks, expected {low} to {high}")  # fmt: skip
        if not low <= change <= high:
            missed.append(group)
    print(f"NOT as expected: {', '.join(missed)}" if missed else "as expected")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
