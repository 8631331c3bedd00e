"""Minimise any black box with a search strategy: `minimize`, and the same as a method of SciPy.

Every rank runs the same loop and holds the same bits: points are pure functions of the state, their
losses meet in one exchange, and the state follows from them.  The number of ranks leaves no trace
in a result, nor does an interruption.
"""

import dataclasses
import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lopt import rng
from lopt.comm import Comm
from lopt.errors import UsageError
from lopt.es.black_box import BLOCK, BlackBox, team_of
from lopt.es.coordinates import Coordinates
from lopt.es.recorder import Recorder, open_files
from lopt.es.rounds import Keeper, Population, Rounds, given_up
from lopt.es.search import Limits, Search
from lopt.es.strategies import Cma
from lopt.es.strategy import Strategy, strategy
from lopt.es.tasks import Tasks

SEPARABLE = (
    100  # coordinates from which a full covariance matrix learns too slowly, and costs too much
)


def minimize(
    f: Callable[..., Any] | Tasks,
    x0: Any,
    *,
    strategy: str | Strategy | None = None,
    steps: int | None = None,
    max_evaluations: int | None = None,
    target: float | None = None,
    minutes: float | None = None,
    seed: int = 0,
    populations: int = 1,
    bounds: Any = None,
    integers: Any = None,
    scale: Any = None,
    batched: bool | int = False,
    noisy: bool = False,
    keyed: bool = False,
    fault: str = "drop",
    callback: Callable[[Any], Any] | None = None,
    out: str | Path | Recorder | None = None,
    resume: bool = False,
    save_seconds: float = 30.0,
    comm: Comm | None = None,
    **options: Any,
) -> Any:
    """Minimise f, without derivatives; under mpirun the ranks share the work.

    res = minimize(f, x0, max_evaluations=10_000)
    res = minimize(f, x0, pairs=32, sigma=0.1, steps=300)  # antithetic ES

    Results have the same bits for any number of ranks, and whether or not a run was interrupted,
    if f is a function of its arguments.

    Args:
        f: f(x) -> real number, x (D,) float64; any callable, a Numba function too; or several to
            be minimised together, `Tasks([f, g])`.
        x0: (D,), where the search begins, or (populations, D); f(x0) must be a finite number.
        strategy: name of a strategy, see `lopt.es.STRATEGIES`, or one made by `lopt.es.strategy`;
            by default the one that `usual_strategy` names.
        steps: steps at most.
        max_evaluations: evaluations at most, at least 3: two at the start and one at the end of
            each population.  One of a point is one, whatever the number of tasks.
        target: stop when a loss (noisy or keyed: the mean of a step) is not above it.
        minutes: wall time at most, looked at after every step.
        seed: 0 <= seed < 2**32; another one gives another search.
        populations: independent searches in this run, with seeds seed, seed + 1, ...: each has the
            bits that it would have alone, and their points keep more ranks busy.
        bounds, integers, scale: see `lopt.es.coordinates.Coordinates`; sigma and learning rate of
            a strategy are in units of `scale`.
        batched: f takes up to 32 points at once, (n, D), and returns (n,); a number: at most so
            many.  The unit of work that a rank takes.
        noisy: equal points may have different losses; otherwise that is an error.
        keyed: f takes a second argument, an int that is the same for all points of a step: noise
            drawn from it is common to the points that are compared (common random numbers).
        fault: what becomes of a point whose f raises or returns no finite real number: "drop",
            "penalise" (counts as the worst of its step) or "retry" (up to twice, then dropped).
        callback: callback(result so far) after every step, on every rank; a true value or
            StopIteration ends the search.  The result has x, fun, x_last, mean, nit, nfev, lost.
        out: directory for search.h5 (see docs/results.md) and checkpoints, or a `Recorder`;
            populations have directories population_0, population_1, ... in it.
        resume: go on from the checkpoint in `out`, with any number of ranks and other limits.
        save_seconds: wall time between two checkpoints.
        comm: ranks to use; by default those that the launcher started.
        options: settings of the strategy named, as pairs=32, sigma=0.1.

    Returns:
        A `scipy.optimize.OptimizeResult`: x (D,) float64 and fun, the lowest loss seen (noisy or
        keyed: the strategy's last answer); x_last and fun_last, the strategy's last answer; success
        (the target was reached; without one: the search was not given up), status, message, nit,
        nfev, lost (points by reason), seconds, bytes_sent (to the exchange by this rank), fun_tasks
        (T,) float64, what each task (or f) gave at x.  Of several populations the one with the
        lowest fun, nfev and lost of all; populations, the result of each, and best, its number.

    Raises:
        UsageError: an argument out of range, f(x0) no finite number or not the same twice, resumed
            with other settings.
        StoreError: `out` holds a search and `resume` is False, or nothing sound to resume.

    Warns:
        RuntimeWarning: every population was given up, since more than half of a step's points
            were lost.
    """
    limits = Limits(steps, max_evaluations, target, minutes)
    starts = _starts(x0, populations)
    for k in (0, populations - 1):
        rng.stream(seed + k)  # refuses what is no 32-bit word
    if strategy is None:
        strategy = usual_strategy(np.size(starts[0]), noisy or keyed, options)
    strat, team = _strategy(strategy, options), team_of(comm)
    box = BlackBox(f, BLOCK if batched is True else int(batched), keyed, fault)
    files = _files(out, resume, populations, team.comm)
    found = []
    for k, start in enumerate(starts):
        coords = Coordinates(start, scale, bounds, integers, getattr(strat, "sigma", 0.1))
        search = Search(coords, box, strat, noisy or keyed, team)
        settings = _settings(strat, seed + k, coords, box, noisy)
        saved = None if files[k] is None else files[k].saved()
        if saved is not None:
            _check_settings(saved.settings, settings)
        found.append(Population(search, Keeper(files[k], settings, search), seed + k, saved))
    rounds = Rounds(found, box, team)
    rounds.begin()
    rounds.run(limits, callback, save_seconds)
    if why := given_up(found):
        warnings.warn(why, RuntimeWarning, stacklevel=2)
    return rounds.result(limits)


def _starts(x0: Any, populations: int) -> list[Any]:
    """A start for each population."""
    if populations < 1:
        raise UsageError(f"populations = {populations} is not valid: at least 1")
    if populations == 1 or np.ndim(x0) < 2:
        return [x0] * populations
    if len(x0) != populations:
        raise UsageError(f"x0 has {len(x0)} rows for populations = {populations}: one row for each")
    return list(x0)


def _files(
    out: str | Path | Recorder | None, resume: bool, populations: int, comm: Comm
) -> list[Recorder | None]:
    """A recorder for each population, None if nothing is kept; collective."""
    if out is None and resume:
        raise UsageError("resume = True is not valid without out, the directory to resume from")
    if not isinstance(out, str | Path):
        if out is not None and populations > 1:
            raise UsageError("out is a Recorder, valid for several populations: a directory")
        return [out] * populations
    if populations == 1:
        return [open_files(Path(out), comm, resume)]
    parts = [Path(out) / f"population_{k}" for k in range(populations)]
    # Killed while the first checkpoints were written, it has some of them only.
    there = comm.bcast([k == 0 or any(part.glob("checkpoint*")) for k, part in enumerate(parts)])
    return [open_files(p, comm, resume and old) for p, old in zip(parts, there, strict=True)]


def usual_strategy(n: int, noisy: bool, options: Collection[str]) -> str:
    """Name of the strategy for n coordinates where the user names none.

    "antithetic" if losses are noisy (noisy or keyed), or a setting is given that "cma" does not
    have, as pairs; else "cma", from `SEPARABLE` coordinates on "sep_cma".  At equal evaluations of
    smooth functions they win by orders of magnitude (experiments/05_es_quality): their sigma
    follows the distance to the optimum, antithetic's stays.
    """
    if noisy or not set(options) <= {field.name for field in dataclasses.fields(Cma)}:
        return "antithetic"
    return "cma" if n < SEPARABLE else "sep_cma"


def _strategy(chosen: str | Strategy, options: dict[str, Any]) -> Strategy:
    if isinstance(chosen, str):
        return strategy(chosen, **options)
    if not isinstance(chosen, Strategy):
        raise UsageError(f"strategy is {type(chosen).__name__}, valid: a name or a Strategy")
    if options:
        raise UsageError(
            f"{', '.join(options)}: settings of a strategy go with its name; it was given ready-made"
        )
    return chosen


def _settings(
    strat: Strategy, seed: int, coords: Coordinates, box: BlackBox, noisy: bool
) -> dict[str, Any]:
    """What decides the course of a search, as JSON reads it back; arrays as digests."""
    settings = {
        "strategy": strat.name,
        "options": dataclasses.asdict(strat),
        "seed": seed,
        "batched": box.batched,
        "keyed": box.keyed,
        "fault": box.fault,
        "noisy": noisy,
        "tasks": [*box.f.shares(), box.f.normalise] if isinstance(box.f, Tasks) else None,
        "coordinates": coords.n,
        **{k: hashlib.sha256(v.tobytes()).hexdigest() for k, v in coords.arrays().items()},
    }
    return json.loads(json.dumps(settings))


def _check_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on with another search."""
    for key in sorted(set(old) | set(new)):
        if old.get(key) != new.get(key):
            raise UsageError(
                f"resuming with {key} = {new.get(key)!r:.100}, the search began with "
                f"{old.get(key)!r:.100}; only limits, callback and ranks may change"
            )


def scipy_method(
    fun: Callable[..., Any],
    x0: Any,
    args: tuple[Any, ...] = (),
    *,
    bounds: Any = None,
    callback: Callable[..., Any] | None = None,
    constraints: Any = (),
    jac: Any = None,
    hess: Any = None,
    hessp: Any = None,
    maxiter: int | None = None,
    maxfev: int | None = None,
    disp: bool = False,
    **options: Any,
) -> Any:
    """For `scipy.optimize.minimize(fun, x0, method=lopt.es.scipy_method, options={...})`.

    Options are arguments of `minimize` and settings of the strategy; SciPy's maxiter and maxfev
    mean steps and max_evaluations.  The callback is called as SciPy does: with the keyword
    `intermediate_result` if that is its only parameter, else with x.

    Raises:
        UsageError: as `minimize`; also if there are constraints.

    Warns:
        RuntimeWarning: derivatives were given; they are not used.
    """
    if constraints not in ((), [], None):
        raise UsageError("lopt.es.scipy_method takes no constraints; bounds can be given")
    if any(derivative not in (None, False) for derivative in (jac, hess, hessp)):
        warnings.warn("lopt.es.scipy_method uses no derivatives", RuntimeWarning, stacklevel=3)
    given = {"steps": maxiter, "max_evaluations": maxfev}
    options = {**{k: v for k, v in given.items() if v is not None}, **options}
    adapted = None if callback is None else _adapted(callback)
    f = (lambda x, *key: fun(x, *key, *args)) if args else fun
    result = minimize(f, x0, bounds=bounds, callback=adapted, **options)
    if disp:
        print(result.message)
    return result


def _adapted(callback: Callable[..., Any]) -> Callable[[Any], Any]:
    """A callback of SciPy's as one of `minimize`."""
    if set(inspect.signature(callback).parameters) == {"intermediate_result"}:
        return lambda result: callback(intermediate_result=result)
    return lambda result: callback(result.x)
