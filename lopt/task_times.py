"""What one training step of every task costs on one core of this machine.

lopt tasks time --all --out F.h5; python -m lopt.task_times F.h5 docs/task_times.md
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lopt import store
from lopt.bench import sgemm_rate, step_ms
from lopt.bench.page import filled
from lopt.progress import Progress
from lopt.task import TASKS
from lopt.tasks import parse_task
from lopt.tasks.catalogue import SEEDS, entries


def chosen(
    names: Iterable[str], everything: bool, seeds: int = SEEDS
) -> tuple[list[tuple[str, str]], int]:
    """(name, family) of the tasks asked for, and how many configurations of the task set cannot be built.

    Without names: one of each family, or the whole task set.
    """
    if everything:
        found = list(entries(seeds))
        return [(e.name, e.family) for e in found if e.task is not None], sum(
            e.task is None for e in found
        )
    specs = list(names) or [t.name for cls in TASKS.values() for t in cls.examples()[:1]]
    return [(s, parse_task(s).family) for s in specs], 0


def time_tasks(names: Iterable[str], everything: bool, seeds: int, out: Path | None) -> str:
    """Time tasks, write a timing file if `out` is given; returns a summary (all lines if there are few)."""
    if out is not None:
        store.refuse_existing(out)
    tasks, refused = chosen(names, everything, seeds)
    ms, params = [], []
    with Progress(len(tasks), "task", True) as progress:
        for i, (name, _) in enumerate(tasks):
            built = parse_task(name)
            ms.append(step_ms(built))
            params.append(built.layout.size)
            progress.update(i + 1, name)
    if out is not None:
        origin = {**store.provenance(0, 1, "cpu"), "sgemm_gflops": sgemm_rate(), "refused": refused}
        store.save_times(out, [n for n, _ in tasks], [f for _, f in tasks], params, ms, origin)
    return summary(tasks, params, np.array(ms), refused)


def summary(tasks: list[tuple[str, str]], params: list[int], ms: np.ndarray, refused: int) -> str:
    """Per task if there are at most 40, else per family."""
    if len(tasks) <= 40:
        lines = [f"{'ms per step':>12s}  {'params':>9s}  task"]
        lines += [f"{m:12.4f}  {p:9d}  {n}" for m, p, (n, _) in zip(ms, params, tasks, strict=True)]
        return "\n".join(lines)
    left = f"{refused} configurations cannot be built and were left out"
    return f"{table([f for _, f in tasks], ms)}\n\n{left}"


def table(families: Sequence[str], ms: np.ndarray) -> str:
    """Milliseconds of the tasks of each family, Markdown."""
    lines = ["| family | tasks | median ms | largest ms | < 100 ms |", "|---|---|---|---|---|"]
    named = np.array(families)
    for family in [*sorted(set(families)), "all"]:
        part = ms if family == "all" else ms[named == family]
        share = 100 * (part < 100).mean()
        lines.append(
            f"| {family} | {part.size} | {np.median(part):.4f} | {part.max():.1f} | {share:.1f} % |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    source, page = (Path(argument) for argument in sys.argv[1:])
    times = store.TimesReader(source)
    page.write_text(filled(page.read_text(), {"times": table(times.families, times.ms)}))
