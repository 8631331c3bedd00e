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
from lopt.es.black_box import BLOCK, REASONS, BlackBox, team_of
from lopt.es.coordinates import Coordinates
from lopt.es.recorder import Recorder, Snapshot, open_files
from lopt.es.search import ENDS, Limits, Search, limit_reached
from lopt.es.strategies import Cma
from lopt.es.strategy import Strategy, strategy

SEPARABLE = (
    100  # coordinates from which a full covariance matrix learns too slowly, and costs too much
)


def minimize(
    f: Callable[..., Any],
    x0: Any,
    *,
    strategy: str | Strategy | None = None,
    steps: int | None = None,
    max_evaluations: int | None = None,
    target: float | None = None,
    minutes: float | None = None,
    seed: int = 0,
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
        f: f(x) -> real number, x (D,) float64; any callable, a Numba function too.
        x0: (D,), where the search begins; f(x0) must be a finite number.
        strategy: name of a strategy, see `lopt.es.STRATEGIES`, or one made by `lopt.es.strategy`;
            by default the one that `usual_strategy` names.
        steps: steps at most.
        max_evaluations: evaluations at most, at least 3: two at the start and one at the end.
        target: stop when a loss (noisy or keyed: the mean of a step) is not above it.
        minutes: wall time at most, looked at after every step.
        seed: 0 <= seed < 2**32; another one gives another search.
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
        out: directory for search.h5 (see docs/results.md) and checkpoints, or a `Recorder`.
        resume: go on from the checkpoint in `out`, with any number of ranks and other limits.
        save_seconds: wall time between two checkpoints.
        comm: ranks to use; by default those that the launcher started.
        options: settings of the strategy named, as pairs=32, sigma=0.1.

    Returns:
        A `scipy.optimize.OptimizeResult`: x (D,) float64 and fun, the lowest loss seen (noisy or
        keyed: the strategy's last answer); x_last and fun_last, the strategy's last answer; success
        (the target was reached; without one: the search was not given up), status, message, nit,
        nfev, lost (points by reason), seconds, bytes_sent (to the exchange by this rank).

    Raises:
        UsageError: an argument out of range, f(x0) no finite number or not the same twice, resumed
            with other settings.
        StoreError: `out` holds a search and `resume` is False, or nothing sound to resume.

    Warns:
        RuntimeWarning: given up, since more than half of a step's points were lost.
    """
    limits = Limits(steps, max_evaluations, target, minutes)
    rng.stream(seed)  # refuses what is no 32-bit word
    if strategy is None:
        strategy = usual_strategy(np.size(x0), noisy or keyed, options)
    strat = _strategy(strategy, options)
    coords = Coordinates(x0, scale, bounds, integers, getattr(strat, "sigma", 0.1))
    box = BlackBox(f, BLOCK if batched is True else int(batched), keyed, fault)
    team = team_of(comm)
    search = Search(coords, box, strat, noisy or keyed, team)
    if out is None and resume:
        raise UsageError("resume = True is not valid without out, the directory to resume from")
    files = open_files(Path(out), team.comm, resume) if isinstance(out, str | Path) else out
    settings = _settings(strat, seed, coords, box, noisy)
    saved = None if files is None else files.saved()
    if saved is None:
        search.begin(seed)
    else:
        _check_settings(saved.settings, settings)
        search.go_on(saved.arrays)
    keeper = _Keeper(files, settings, search, save_seconds)
    if saved is None:
        keeper.save("running")  # killed before its first checkpoint it can be resumed too
    end, note = _loop(search, limits, callback, keeper)
    keeper.save(end)
    if end == "lost":
        warnings.warn(f"{ENDS[end]}: {note}", RuntimeWarning, stacklevel=2)
    return search.result(end, note, limits)


class _Keeper:
    """Rows and checkpoints of a search, if anyone wants them."""

    def __init__(
        self, files: Recorder | None, settings: dict[str, Any], search: Search, seconds: float
    ) -> None:
        self._files, self._settings, self._search = files, settings, search
        self._seconds, self._saved_at = seconds, search.progress.wall_s

    @property
    def wanted(self) -> bool:
        return self._files is not None

    def due(self) -> bool:
        """By this rank's clock."""
        return self.wanted and self._search.progress.wall_s - self._saved_at >= self._seconds

    def append(self, row: Mapping[str, float]) -> None:
        if self._files is not None:
            self._files.append(row)

    def save(self, state: str) -> None:
        """Collective."""
        if self._files is None:
            return
        search, x = self._search, self._search.coords.x
        best = x(search.progress.best_theta)
        snapshot = Snapshot(self._settings, search.arrays())
        self._files.save(snapshot, x(search.state.theta), best, state)
        self._saved_at = search.progress.wall_s


def _loop(
    search: Search, limits: Limits, callback: Callable[[Any], Any] | None, keeper: _Keeper
) -> tuple[str, str]:
    """Steps until a limit; how it ended, and details."""
    progress = search.progress
    asks = callback is not None or keeper.wanted or limits.minutes is not None
    while not (end := limit_reached(search, limits)):
        row, losses = search.step()
        n_lost, n = int(losses.lost.sum()), losses.values.size
        if 2 * n_lost > n:
            first = f" (first on this rank: {search.box.note})" if search.box.note else ""
            what = ", ".join(f"{k} {w}" for k, w in zip(losses.lost, REASONS, strict=True) if k)
            return "lost", f"step {search.state.step} lost {n_lost} of {n}: {what}{first}"
        keeper.append(row)
        if asks:
            asked = callback is not None and _asked(callback, search)
            late = limits.minutes is not None and progress.wall_s >= 60 * limits.minutes
            asked, late, due = _agree(search.team.comm, asked, late, keeper.due())
            if due:
                keeper.save("running")
            if asked or late:
                return ("callback" if asked else "time"), ""
    return end, ""


def _asked(callback: Callable[[Any], Any], search: Search) -> bool:
    try:
        return bool(callback(search.so_far()))
    except StopIteration:
        return True


def _agree(comm: Comm, asked: bool, late: bool, due: bool) -> tuple[bool, bool, bool]:
    """A callback counts if any rank's asked to stop, the clock is rank 0's."""
    flags = np.array([asked, late and comm.rank == 0, due and comm.rank == 0], np.float64)
    comm.allreduce_scalars(flags, "control")
    return bool(flags[0] > 0), bool(flags[1] > 0), bool(flags[2] > 0)


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
