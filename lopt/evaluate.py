"""Comparing optimizers on tasks: the same initial parameters and batches for everyone, baselines default and tuned.

A tuned baseline is the learning rate, out of a declared list, with the lowest final outer-validation loss averaged over
the seeds, chosen per task; what is reported is the loss on the test split, which chose nothing.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lopt import rng, store
from lopt.comm import Comm, SerialComm
from lopt.errors import UsageError
from lopt.es.pairs import HandOut
from lopt.optimizer import Optimizer, optimizer
from lopt.progress import Progress
from lopt.rollout import FLAG, FLAG_STEP, OK, Runner, Schedule
from lopt.task import OUTER_VALID, TEST, Task
from lopt.tasks import parse_task

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
TEST_BATCHES = 32


@dataclasses.dataclass(frozen=True)
class Entrant:
    """One optimizer in a comparison.

    family  what it is a variant of: "learned" or the baseline's name
    rate    learning rate of a tuning variant; None for the learned optimizer and for a baseline's default
    """

    family: str
    opt: Optimizer
    theta: np.ndarray
    rate: float | None = None

    @property
    def label(self) -> str:
        """Name in tables and plots."""
        return self.family if self.rate is None else f"{self.family} lr={self.rate:g}"


@dataclasses.dataclass(frozen=True)
class Results:
    """Raw outcome; statistics are computed when they are read.

    tasks, entrants      names, in axis order; `families` and `rates` (NaN: default) per entrant
    steps                (M,) inner steps done at each outer-validation loss, 0 first
    outer_loss           (task, entrant, seed, M)
    test_loss            (task, entrant, seed) after the last step
    status               (task, entrant, seed) 0 ok, 1 ceiling, 2 diverged
    seconds              (task, entrant, seed) wall time of the rollout
    """

    tasks: tuple[str, ...]
    entrants: tuple[str, ...]
    families: tuple[str, ...]
    rates: np.ndarray
    steps: np.ndarray
    outer_loss: np.ndarray
    test_loss: np.ndarray
    status: np.ndarray
    seconds: np.ndarray


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the final-loss table: a family's default or tuned variant on one task."""

    task: str
    family: str
    variant: str  # "learned", "default" or "tuned"
    entrant: int  # index into Results.entrants
    rate: float  # NaN: default
    mean: float
    se: float
    n_bad: int


def baseline_entrants(names: Sequence[str], rates: Sequence[float] = RATES) -> list[Entrant]:
    """Each baseline at its default and at every learning rate.

    Raises:
        UsageError: a baseline without a learning rate, or an unknown one.
    """
    found = []
    for name in names:
        default = optimizer(name)
        if not hasattr(default, "learning_rate"):
            raise UsageError(f"baseline {name!r} has no learning rate to tune")
        found.append(Entrant(name, default, default.init_theta()))
        for rate in rates:
            variant = dataclasses.replace(default, learning_rate=rate)
            found.append(Entrant(name, variant, variant.init_theta(), rate))
    return found


def evaluate(
    tasks: Sequence[Task],
    entrants: Sequence[Entrant],
    steps: int,
    seeds: int,
    schedule: Schedule,
    comm: Comm | None = None,
    show: bool = False,
) -> Results:
    """Train every task with every entrant from `seeds` starting points; work is handed out to ranks as they ask.

    Seed k is the address (k, 0, 0) for every entrant, so all see the same initial parameters and batches.

    Raises:
        UsageError: steps < schedule.outer_every, or seeds < 1.
    """
    if seeds < 1:
        raise UsageError(f"seeds must be at least 1, got {seeds}")
    comm = comm or SerialComm()
    shape = (len(tasks), len(entrants), seeds)
    hand_out = HandOut(comm)
    found = train_all(
        tasks, entrants, list(np.ndindex(shape)), steps, schedule, hand_out, comm, show
    )
    runs = {name: column.reshape(*shape, *column.shape[1:]) for name, column in found.items()}
    return Results(
        tuple(t.name for t in tasks),
        tuple(e.label for e in entrants),
        tuple(e.family for e in entrants),
        np.array([np.nan if e.rate is None else e.rate for e in entrants]),
        loss_steps(steps, schedule),
        runs["valid"],
        runs["test"],
        runs["status"],
        runs["wall_s"],
    )


def loss_steps(steps: int, schedule: Schedule) -> np.ndarray:
    """Inner steps at which losses are taken: 0, outer_every, 2 outer_every, ...; (M,) int64."""
    return np.arange(schedule.n_outer(0, steps) + 1) * schedule.outer_every


def train_all(
    tasks: Sequence[Task],
    entrants: Sequence[Any],
    items: Sequence[tuple[int, int, int]],
    steps: int,
    schedule: Schedule,
    hand_out: HandOut,
    comm: Comm,
    show: bool = False,
) -> dict[str, np.ndarray]:
    """One training run for each item (task, entrant, seed), handed out to ranks as they ask; collective.

    Args:
        entrants: have `opt` and `theta`.

    Returns: columns over items as in `store.Curves`: train, valid (n, M); test, wall_s, status, status_step (n,).

    Raises:
        UsageError: steps < schedule.outer_every.
    """
    if steps < schedule.outer_every:
        raise UsageError(f"steps must be at least {schedule.outer_every}, got {steps}")
    m, total = loss_steps(steps, schedule).size, len(items)
    flat = np.zeros((total, 2 * m + 4))  # zero where not ours
    runners: dict[tuple[int, int], Runner] = {}
    costs = [tasks[i].operations for i, _, _ in items]
    with Progress(total, "run", show and comm.rank == 0) as progress:
        for done, item in enumerate(hand_out.take(costs), 1):
            i, j, k = items[item]
            if (i, j) not in runners:
                runners = {(i, j): Runner(tasks[i], entrants[j].opt, schedule)}
            flat[item] = _train_once(runners[i, j], entrants[j].theta, steps, int(k))
            progress.update(min(done * comm.size, total - 1))  # if all ranks are as far as this one
        progress.update(total)
    comm.allreduce_scalars(flat.reshape(-1))
    test, status, at, seconds = flat[:, 2 * m :].T
    codes = {"status": status.astype(np.int64), "status_step": at.astype(np.int64)}
    curves = {"train": flat[:, :m], "valid": flat[:, m : 2 * m]}
    return {**curves, "test": test.copy(), "wall_s": seconds.copy(), **codes}


def _train_once(runner: Runner, theta: np.ndarray, steps: int, seed: int) -> np.ndarray:
    """Train losses, outer-validation losses, test loss, status, its step, seconds of one run; flat."""
    stream, schedule = rng.stream(seed), runner.schedule
    begin = time.perf_counter()
    particle = runner.start(theta, stream)
    first = runner.split_loss(particle.params, OUTER_VALID, stream, 0, schedule.outer_batches)
    train, outer = runner.advance(theta, particle, steps, stream)
    seconds = time.perf_counter() - begin
    windows = train[: outer.size * schedule.outer_every].reshape(-1, schedule.outer_every)
    test = schedule.ceiling
    if not particle.diverged:
        test = runner.split_loss(particle.params, TEST, stream, 0, TEST_BATCHES)
    status, at = particle.status[[FLAG, FLAG_STEP]]
    return np.array([train[0], *windows.mean(axis=1), first, *outer, test, status, at, seconds])


def table(results: Results) -> list[Row]:
    """Final test loss of the learned optimizer and of each baseline, default and tuned, per task."""
    rows = []
    for i, task in enumerate(results.tasks):
        final = results.outer_loss[i, :, :, -1].mean(axis=1)
        for family in dict.fromkeys(results.families):
            mine = [j for j, f in enumerate(results.families) if f == family]
            plain = [j for j in mine if np.isnan(results.rates[j])]
            tuned = [j for j in mine if not np.isnan(results.rates[j])]
            rows += [_row(results, i, task, j, _plain_name(family)) for j in plain]
            if tuned:
                rows.append(_row(results, i, task, min(tuned, key=lambda j: final[j]), "tuned"))
    return rows


def _plain_name(family: str) -> str:
    return "learned" if family == "learned" else "default"


def _row(results: Results, i: int, task: str, j: int, variant: str) -> Row:
    losses = results.test_loss[i, j]
    se = float(losses.std(ddof=1) / np.sqrt(losses.size)) if losses.size > 1 else float("nan")
    n_bad = int((results.status[i, j] != OK).sum())
    return Row(
        task,
        results.families[j],
        variant,
        j,
        float(results.rates[j]),
        float(losses.mean()),
        se,
        n_bad,
    )


def verdict(rows: Sequence[Row], task: str, steps: int) -> str:
    """One honest line: the learned optimizer's test loss against the best default and the best tuned baseline."""
    mine = [r for r in rows if r.task == task]
    learned = next((r for r in mine if r.variant == "learned"), None)
    best = {
        v: min((r for r in mine if r.variant == v), key=lambda r: r.mean, default=None)
        for v in ("default", "tuned")
    }
    texts = []
    for variant, rival in best.items():
        if rival is None:
            continue
        name = rival.family if variant == "default" else f"{rival.family} at lr {rival.rate:g}"
        label = f"best {variant} baseline ({name}, {rival.mean:.4f} +- {rival.se:.4f})"
        if learned is None:
            texts.append(label)
            continue
        margin = 2 * float(np.hypot(learned.se, rival.se))
        if abs(learned.mean - rival.mean) <= margin:
            word = "ties with"
        else:
            word = "beats" if learned.mean < rival.mean else "loses to"
        texts.append(f"{word} the {label}")
    head = f"{task}, test loss after {steps} steps"
    if learned is not None:
        head += f": learned {learned.mean:.4f} +- {learned.se:.4f}"
    return f"{head} {'; '.join(texts)}." if texts else f"{head}."


def run_evaluation(
    comm: Comm,
    weights: str | None,
    tasks_spec: str,
    steps: int,
    seeds: int,
    baselines: str,
    rates: str | None,
    out: Path,
) -> str:
    """What `lopt eval` does: read weights, evaluate, write the file; returns the table and one verdict per task.

    Raises:
        UsageError: unreadable task specs, baselines or rates.  StoreError: unreadable weights, or `out` exists.
    """
    if comm.rank == 0:
        store.refuse_existing(out)
    specs = [spec.strip() for spec in tasks_spec.split(";") if spec.strip()]
    tasks = [parse_task(spec) for spec in specs]
    entrants = baseline_entrants([b for b in baselines.split(",") if b], _rates(rates))
    origin: dict[str, object] = {"steps": steps, "seeds": seeds, "test_batches": TEST_BATCHES}
    if weights is not None:
        loaded = store.load_weights(weights)
        entrants.insert(0, Entrant("learned", loaded.optimizer(), loaded.theta))
        origin["weights"] = loaded.provenance
    schedule = Schedule(outer_every=max(1, steps // 100), outer_batches=4)
    results = evaluate(tasks, entrants, steps, seeds, schedule, comm, show=True)
    results = dataclasses.replace(results, tasks=tuple(specs))
    rows = table(results)
    if comm.rank == 0:
        store.save_eval(out, results, rows, {**store.provenance(0, comm.size, "cpu"), **origin})
    return "\n".join([text_table(rows), *(verdict(rows, spec, steps) for spec in specs)])


def _rates(text: str | None) -> Sequence[float]:
    if text is None:
        return RATES
    try:
        return [float(r) for r in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--rates {text!r}: learning rates separated by commas, such as 1e-3,1e-2"
        ) from error


def text_table(rows: Sequence[Row]) -> str:
    """The final-loss table as text, best first in each task."""
    lines = []
    for task in dict.fromkeys(r.task for r in rows):
        lines.append(f"{task}: test loss (mean +- standard error)")
        for r in sorted((r for r in rows if r.task == task), key=lambda r: r.mean):
            name = r.family if r.variant == "learned" else f"{r.family}, {r.variant}"
            rate = f" (lr {r.rate:g})" if r.variant == "tuned" else ""
            bad = f"   {r.n_bad} runs clipped or diverged" if r.n_bad else ""
            lines.append(f"  {name + rate:32s} {r.mean:9.4f} +- {r.se:.4f}{bad}")
    return "\n".join(lines)
