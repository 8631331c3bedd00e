"""A comparison of optimizers on a fixed set of tasks: what a TOML file names, run on ranks, kept in one curves file.

    steps = 2000                      # inner steps of every run
    tasks = "tasks.toml"              # names of tasks, beside this file
    [[entrants]]
    weights = "anchored"              # a learned one: a shipped name or a file
    [[entrants]]
    optimizer = "adam"                # at its defaults, or with `options`
    [[entrants]]
    family = "adam, 15 rates"         # a search: `rates`, `random` settings of its space, or an ordered `list`
    optimizer = "adam"
    rates = [1e-4, 1e-3]

A file is gone on with: runs that are in it are not made again, so a new entrant costs its own runs only.
"""

import dataclasses
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lopt import store
from lopt.comm import Comm
from lopt.config import Section, convert
from lopt.errors import ConfigError, DataError, StoreError, TaskError
from lopt.es.pairs import HandOut
from lopt.evaluate import TEST_BATCHES, loss_steps, train_all
from lopt.optimizer import Optimizer, optimizer
from lopt.rollout import Schedule
from lopt.search_spaces import random_setting
from lopt.task import Task
from lopt.tasks import parse_task


class EntrantSpec(Section, kw_only=True):
    """One optimizer, or the ordered trials of a search.

    family   name in tables and pictures; that of the weights or the optimizer if omitted
    weights  a learned optimizer: name of a shipped one, or a file relative to the configuration
    options  options of the optimizer (of a learned one: those that change nothing about its theta)
    cosine   the learning rate falls to 0 over the steps of the comparison
    rates    trials: learning rates (of a learned one: `rate`)
    random   trials: so many settings out of the optimizer's search space
    list     trials: the first `trials` settings of a file written by `lopt optlist`, all if 0
    seeds    starting points; 0: as many as the comparison says
    """

    family: str = ""
    optimizer: str = ""
    weights: str = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    cosine: bool = False
    rates: tuple[float, ...] = ()
    random: int = 0
    list: str = ""
    trials: int = 0
    seeds: int = 0

    def __post_init__(self) -> None:
        if bool(self.optimizer) + bool(self.weights) + bool(self.list) != 1:
            raise ConfigError(
                f"entrants: {self.family!r} needs exactly one of optimizer, weights and list"
            )
        if bool(self.rates) + bool(self.random) + bool(self.list) > 1:
            raise ConfigError(
                f"entrants: {self.family!r} has several of rates, random and list; one is a search"
            )


class Runs(Section, kw_only=True):
    """What is run on each task; `points` losses are taken in the course of a run, each the mean of `outer_batches` batches."""

    entrants: tuple[EntrantSpec, ...]
    steps: int
    points: int = 50
    seeds: int = 5
    outer_batches: int = 5

    def __post_init__(self) -> None:
        for key in ("steps", "points", "seeds", "outer_batches"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} = {getattr(self, key)}: must be at least 1")
        if self.steps % self.points:
            raise ConfigError(f"points = {self.points}: must divide steps = {self.steps}")


class ComparisonConfig(Runs, kw_only=True):
    """A comparison: runs on the tasks of a `TaskList`, a file beside this one."""

    tasks: str


class TaskList(Section, kw_only=True):
    """Names of tasks; `optional` ones are left out where their data are not installed."""

    tasks: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


class SettingList(Section, kw_only=True):
    """An ordered list of settings: optimizer, options, cosine."""

    settings: tuple[dict[str, Any], ...]
    origin: dict[str, Any] = msgspec.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Entrant:
    """One optimizer of a comparison, ready to run; seeds: of its own, 0 for those of the comparison."""

    info: store.EntrantInfo
    opt: Optimizer
    theta: np.ndarray
    seeds: int


def read(path: Path, kind: type[Section]) -> Any:
    """A TOML file as one of the sections above.

    Raises:
        ConfigError: unreadable, no TOML, unknown key, wrong type; names the file.
    """
    try:
        return convert(tomllib.loads(path.read_text()), kind)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error


def built_tasks(path: Path) -> tuple[dict[str, Task], list[str]]:
    """Tasks of a list by name, and why optional ones are left out.

    Raises:
        ConfigError: as `read`, or no task is left.  TaskError: a name that stands for no task.
    """
    listed = read(path, TaskList)
    found, missing = {name: parse_task(name) for name in listed.tasks}, []
    for name in listed.optional:
        try:
            found[name] = parse_task(name)
        except TaskError as error:
            if not isinstance(error.__cause__, DataError):
                raise
            missing.append(f"{name} is left out: {error}")
    if not found:
        raise ConfigError(f"{path}: not one task is left; {'; '.join(missing) or 'it names none'}")
    return found, missing


def entrants_of(specs: Iterable[EntrantSpec], folder: Path, steps: int) -> list[Entrant]:
    """The trials that sections stand for, in order; one for each that is no search.

    Args:
        folder: where files of weights and lists are that sections name.
        steps: inner steps over which a cosine falls.

    Raises:
        OptimizerError, StoreError, ConfigError: as the optimizers, weights and lists they name.
    """
    found = []
    for spec in specs:
        found += (_learned if spec.weights else _named)(spec, folder, steps)
    return found


def _named(spec: EntrantSpec, folder: Path, steps: int) -> list[Entrant]:
    """An optimizer by its name, at one setting or at those of a search."""
    settings, name = [dict(spec.options)], spec.optimizer
    if spec.rates:
        settings = [{**spec.options, "learning_rate": rate} for rate in spec.rates]
    elif spec.random:
        settings = [{**random_setting(name, k), **spec.options} for k in range(spec.random)]
    elif spec.list:
        listed = read(folder / spec.list, SettingList).settings
        if spec.trials > len(listed):
            raise ConfigError(
                f"entrants: {spec.family!r} asks for {spec.trials} trials, {spec.list} has {len(listed)}"
            )
        settings = [dict(s) for s in listed[: spec.trials or len(listed)]]
        name = spec.list
    search = len(settings) > 1 or bool(spec.rates or spec.random or spec.list)
    family = spec.family or (f"cosine {name}" if spec.cosine else name)
    found = []
    for trial, setting in enumerate(settings):
        given = {"optimizer": spec.optimizer, "cosine": spec.cosine, **setting}
        label = f"{family} #{trial}" if search else family
        variant = "tuned" if search else "default"
        info = store.EntrantInfo(label, family, variant, trial, json.dumps(given, sort_keys=True))
        opt = build_setting(given, steps)
        found.append(Entrant(info, opt, opt.init_theta(), spec.seeds))
    return found


def build_setting(setting: dict[str, Any], steps: int) -> Optimizer:
    """The optimizer of a setting: its name, whether its rate falls along a cosine over `steps`, and its options."""
    options = {k: v for k, v in setting.items() if k not in ("optimizer", "cosine")}
    if setting.get("cosine"):
        options["total_steps"] = steps
    return optimizer(setting["optimizer"], **options)


def _learned(spec: EntrantSpec, folder: Path, steps: int) -> list[Entrant]:
    """A learned optimizer, alone or at several rates of its own; the first is what a user gets."""
    file = folder / spec.weights
    weights = store.load_weights(file if file.exists() else spec.weights)
    options = dict(spec.options)
    if spec.cosine:
        options["total_steps"] = steps
    found = []
    for trial, rate in enumerate(spec.rates or (None,)):
        given = options if rate is None else {**options, "rate": rate}
        opt = weights.optimizer(**given)
        family = spec.family or weights.path.stem
        label = family if rate is None else f"{family} #{trial}"
        text = json.dumps({"digest": weights.digest, **opt.config()}, sort_keys=True)
        info = store.EntrantInfo(label, family, "learned", trial, text)
        found.append(Entrant(info, opt, weights.theta, spec.seeds))
    return found


def compare(config_path: Path, out: Path, comm: Comm, show: bool = True) -> list[str]:
    """Make the runs of a configuration that a curves file lacks; collective.

    Returns: notes: tasks left out, runs dropped since what they were made by has changed.

    Raises:
        ConfigError: the configuration or its list of tasks.  TaskError: a task.  Else as `compare_on`.
    """
    config = read(config_path, ComparisonConfig)
    tasks, notes = built_tasks(config_path.parent / config.tasks)
    return notes + compare_on(tasks, config, config_path.parent, out, comm, show)


def compare_on(
    tasks: Mapping[str, Task], config: Runs, folder: Path, out: Path, comm: Comm, show: bool = True
) -> list[str]:
    """Make the runs on some tasks that a curves file lacks; collective.  The file is replaced after every task.

    Args:
        tasks: by the names they have in the file.
        folder: where files of weights and lists are that entrants name.

    Returns: notes: runs dropped since what they were made by has changed.

    Raises:
        ConfigError, OptimizerError, StoreError: as what the configuration names; StoreError also if the file was made
            with other steps, points, batches.
    """
    entrants = entrants_of(config.entrants, folder, config.steps)
    labels = [e.info.label for e in entrants]
    if twice := sorted({x for x in labels if labels.count(x) > 1}):
        raise ConfigError(f"entrants: two are called {twice[0]!r}; give one another family")
    schedule = Schedule(
        outer_every=config.steps // config.points, outer_batches=config.outer_batches
    )
    known, notes = _known(out, config, schedule, entrants, comm)
    hand_out = HandOut(comm)
    for number, (name, task) in enumerate(tasks.items(), 1):
        known = _with_task(known, name, task)
        missing = _missing(known, known.tasks.index(name), entrants, config.seeds)
        if not missing:
            continue
        if show and comm.rank == 0:
            print(f"{number} of {len(tasks)} tasks, {len(missing)} runs: {name}", flush=True)
        items = [(0, j, k) for j, k in missing]
        found = train_all([task], entrants, items, config.steps, schedule, hand_out, comm, show)
        known = _with_runs(known, name, [(entrants[j].info.label, k) for j, k in missing], found)
        if comm.rank == 0:
            store.save_curves(out, known)
    return notes


def _known(
    out: Path,
    config: Runs,
    schedule: Schedule,
    entrants: Sequence[Entrant],
    comm: Comm,
) -> tuple[store.Curves, list[str]]:
    """What the file holds, with all entrants entered and without the runs of those that have changed."""
    settings = {
        "steps": config.steps, "outer_batches": config.outer_batches,
        "test_batches": TEST_BATCHES, "ceiling": schedule.ceiling,
    }  # fmt: skip
    steps = loss_steps(config.steps, schedule)
    origin, notes = [store.provenance(0, comm.size, "cpu")], []
    none = np.zeros(0)
    old = store.Curves(settings, [], (), (), none, (), steps, store.no_runs(steps.size))
    if comm.bcast(out.exists()):
        old = store.read_curves(out)
        if old.settings != settings or old.steps.tolist() != steps.tolist():
            raise StoreError(
                f"{out} was made with {old.settings}, {old.steps.size} points; now it is {settings}, "
                f"{steps.size} points: choose another name"
            )
    now = {e.info.label: e.info for e in entrants}
    changed = [e.label for e in old.entrants if now.get(e.label, e).spec != e.spec]
    if changed:
        notes.append(f"runs of {', '.join(changed)} are made again: they were of other settings")
    kept = [now.get(e.label, e) for e in old.entrants]
    all_infos = (*kept, *(e for label, e in now.items() if e not in kept))
    stale = [k for k, e in enumerate(old.entrants) if e.label in changed]
    keep = ~np.isin(old.runs["entrant"], stale)
    runs = {n: c[keep] for n, c in old.runs.items()}
    return dataclasses.replace(
        old, provenance=[*old.provenance, *origin], entrants=all_infos, runs=runs
    ), notes


def _with_task(known: store.Curves, name: str, task: Task) -> store.Curves:
    """The same with a task entered."""
    if name in known.tasks:
        return known
    return dataclasses.replace(
        known,
        tasks=(*known.tasks, name),
        families=(*known.families, task.family),
        lowest=np.append(known.lowest, task.lowest_loss),
    )


def _missing(
    known: store.Curves, task: int, entrants: Sequence[Entrant], seeds: int
) -> list[tuple[int, int]]:
    """(entrant, seed) of the runs of a task that are not there; entrants are numbered as given."""
    places = {e.label: k for k, e in enumerate(known.entrants)}
    found = []
    for j, entrant in enumerate(entrants):
        have = known.runs["seed"][known.rows(task, places[entrant.info.label])]
        found += [(j, k) for k in range(entrant.seeds or seeds) if k not in have]
    return found


def _with_runs(
    known: store.Curves, task: str, runs: Sequence[tuple[str, int]], found: dict[str, np.ndarray]
) -> store.Curves:
    """The same with runs of one task, (label of the entrant, seed) each."""
    places = {e.label: k for k, e in enumerate(known.entrants)}
    new = {
        "task": np.full(len(runs), known.tasks.index(task)),
        "entrant": np.array([places[label] for label, _ in runs]),
        "seed": np.array([seed for _, seed in runs]),
        **found,
    }
    columns = {
        n: np.concatenate([c, new[n]]).astype(c.dtype, copy=False) for n, c in known.runs.items()
    }
    return dataclasses.replace(known, runs=columns)
