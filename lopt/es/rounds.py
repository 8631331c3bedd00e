"""Several searches in one run: populations that share evaluations, exchanges, limits and files.

In a round those populations that are furthest behind make a step, all their points in one hand-out
and one exchange; without an interruption that is all of them.  Each is the search that it would be
alone: with its own start and seed, same bits, whoever else is in the run.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lopt.comm import Comm
from lopt.errors import UsageError
from lopt.es.black_box import REASONS, BlackBox, Team
from lopt.es.recorder import Recorder, Snapshot
from lopt.es.search import (
    END_CALLS,
    ENDS,
    START_CALLS,
    START_KEY,
    Limits,
    Search,
    as_result,
    mix_of,
)
from lopt.es.tasks import PROBES, Mix, Tasks, measured, probes, unscaled


class Keeper:
    """Rows and checkpoints of a search, if anyone wants them."""

    def __init__(self, files: Recorder | None, settings: dict[str, Any], search: Search) -> None:
        self._files, self._settings, self._search = files, settings, search
        self._saved_at = 0.0

    @property
    def wanted(self) -> bool:
        """Whether anything is kept."""
        return self._files is not None

    def age(self) -> float:
        """Seconds of this rank's clock since the last checkpoint."""
        return self._search.progress.wall_s - self._saved_at

    def append(self, row: Mapping[str, float]) -> None:
        """Keep a row for the next `save`."""
        if self._files is not None:
            self._files.append(row)

    def save(self, state: str) -> None:
        """Collective."""
        if self._files is None:
            return
        search = self._search
        snapshot = Snapshot(self._settings, search.arrays())
        self._files.save(snapshot, search.answer(), search.best(), state)
        self._saved_at = search.progress.wall_s


@dataclasses.dataclass
class Population:
    """A search in a run.

    saved  what it goes on from, None: it is new
    end    how it ended, a name of `ENDS`; "": it has not
    note   more about that
    """

    search: Search
    keeper: Keeper
    seed: int
    saved: Snapshot | None
    end: str = ""
    note: str = ""


class Rounds:
    """The populations of a run, their common objective and ranks.  Collective throughout."""

    def __init__(self, populations: list[Population], box: BlackBox, team: Team) -> None:
        self.populations, self.box, self.team = populations, box, team

    def begin(self) -> None:
        """First states, after two looks at every start; those of saved searches.

        Raises:
            UsageError: f(x0) has no value or changes, a task has no unit, or a saved search had
                another objective.
        """
        xs = [p.search.coords.x0 for p in self.populations]
        looks, note = self.box.start(xs, START_KEY, self.team.comm)
        for k, p in enumerate(self.populations):
            where = f" of population {k}" if len(xs) > 1 else ""
            _refuse(looks[k], note, p.search.noisy, where)
        mix, probed = self._mix(looks[0, 0])
        for p, look in zip(self.populations, looks, strict=True):
            if p.saved:
                p.search.go_on(p.saved.arrays, look)
            else:
                p.search.begin(p.seed, look, mix, START_CALLS + probed)
                p.keeper.save("running")  # killed before its first checkpoint it can be resumed too
            probed = 0

    def _mix(self, centre: np.ndarray) -> tuple[Mix | None, int]:
        """How losses of tasks add up, around the first start; points evaluated to find out."""
        tasks, first = self.box.f, self.populations[0]
        if not isinstance(tasks, Tasks):
            return None, 0
        if not tasks.normalise:
            return unscaled(tasks), 0
        if first.saved:
            return mix_of(first.saved.arrays), 0
        coords, strat = first.search.coords, first.search.strat
        x = coords.x(probes(coords.n, first.seed, getattr(strat, "sigma", 0.1)))
        raw = self.box.evaluate(x.__getitem__, len(x), coords.n, START_KEY, self.team)
        return measured(tasks, centre, raw), 2 * PROBES

    def run(
        self, limits: Limits, callback: Callable[[Any], Any] | None, save_seconds: float
    ) -> None:
        """Rounds until a limit; checkpoints at the end too."""
        asks = callback is not None or limits.minutes is not None
        asks |= any(p.keeper.wanted for p in self.populations)
        while live := self._live(limits):
            self._round(live)
            if not asks:
                continue
            asked = callback is not None and _asked(callback, self.so_far())
            seconds = max(p.search.progress.wall_s for p in self.populations)
            late = limits.minutes is not None and seconds >= 60 * limits.minutes
            due = any(p.keeper.age() >= save_seconds for p in self.populations if p.keeper.wanted)
            asked, late, due = _agree(self.team.comm, asked, late, due)
            if due:
                for p in self.populations:
                    p.keeper.save(p.end or "running")
            if asked or late:
                self._end_all("callback" if asked else "time")
        for p in self.populations:
            p.keeper.save(p.end)

    def _live(self, limits: Limits) -> list[Population]:
        """Those that make the next step: the ones furthest behind.  Ends all that a limit stops."""
        live = [p for p in self.populations if not p.end]
        steps = [p.search.state.step for p in live]
        if len(set(steps)) == 1 and (end := self._limit(live, limits)):
            for p in live:
                reached = end != "target" or _reached(p.search, limits)
                p.end = end if reached else "another"
            return []
        return [p for p, step in zip(live, steps, strict=True) if step == min(steps)]

    def _limit(self, live: list[Population], limits: Limits) -> str:
        """Which limit stands before the next step of all, or ""."""
        if limits.target is not None and any(_reached(p.search, limits) for p in live):
            return "target"
        if limits.steps is not None and live[0].search.state.step >= limits.steps:
            return "finished"
        if limits.max_evaluations is not None:
            done = sum(p.search.progress.evaluations + END_CALLS for p in self.populations)
            if done + sum(p.search.n_points() for p in live) > limits.max_evaluations:
                return "evaluations"
        return ""

    def _end_all(self, end: str) -> None:
        for p in self.populations:
            p.end = p.end or end

    def _round(self, live: list[Population]) -> None:
        """One step of some populations that have made equally many."""
        first = np.cumsum([0, *(p.search.n_points() for p in live)])

        def make(i: int) -> np.ndarray:
            k = int(np.searchsorted(first, i, side="right")) - 1
            return live[k].search.point(i - int(first[k]))

        search = live[0].search
        raw = self.box.evaluate(make, int(first[-1]), search.coords.n, search.key, self.team)
        for p, lo, hi in zip(live, first[:-1], first[1:], strict=True):
            row, losses = p.search.take(raw[lo:hi])
            n_lost = int(losses.lost.sum())
            if 2 * n_lost > hi - lo:
                p.end, p.note = "lost", self._why(p.search, losses.lost, int(hi - lo))
            else:
                p.keeper.append(row)

    def _why(self, search: Search, lost: np.ndarray, n: int) -> str:
        first = f" (first on this rank: {self.box.note})" if self.box.note else ""
        what = ", ".join(f"{k} {why}" for k, why in zip(lost, REASONS, strict=True) if k)
        return f"step {search.state.step} lost {lost.sum()} of {n}: {what}{first}"

    def result(self, limits: Limits) -> Any:
        """The outcome; evaluates each population's answer once."""
        searches = [p.search for p in self.populations]
        xs, keys = [s.answer() for s in searches], [s.key for s in searches]
        raw = self.box.once(xs, keys, self.team.comm)
        found = [
            p.search.result(p.end, p.note, limits, raw[k : k + 1])
            for k, p in enumerate(self.populations)
        ]
        return _together(found)

    def so_far(self) -> Any:
        """What a callback is given."""
        return _together([p.search.so_far() for p in self.populations])


def _together(results: list[Any]) -> Any:
    """The result of the population with the lowest loss, all of them, and what they took together."""
    if len(results) == 1:
        return results[0]
    funs = np.array([r.fun for r in results])
    best = 0 if np.isnan(funs).all() else int(np.nanargmin(funs))
    lost = {reason: sum(r.lost[reason] for r in results) for reason in REASONS}
    totals = {"nfev": sum(r.nfev for r in results), "lost": lost}
    return as_result(**{**results[best], **totals, "best": best, "populations": results})


def _reached(search: Search, limits: Limits) -> bool:
    progress = search.progress
    return (progress.mean if search.noisy else progress.best_loss) <= limits.target


def _refuse(looks: np.ndarray, note: str, noisy: bool, where: str) -> None:
    """Looks (2, T) at a start, the same twice unless noisy."""
    if not np.isfinite(looks).all():
        raise UsageError(
            f"the search cannot begin, f(x0){where} has no value: {note or 'see rank 0'}"
        )
    for t in np.flatnonzero(looks[0] != looks[1]) if not noisy else ():
        task = f" of task {t}" if looks.shape[1] > 1 else ""
        raise UsageError(
            f"f(x0){where}{task} = {float(looks[0, t])!r} at first and {float(looks[1, t])!r} when "
            "asked again: the objective remembers its calls, draws random numbers or depends on the "
            "rank; make it a function of its arguments (keyed=True hands it a number to draw from), "
            "or say noisy=True"
        )


def _asked(callback: Callable[[Any], Any], result: Any) -> bool:
    try:
        return bool(callback(result))
    except StopIteration:
        return True


def _agree(comm: Comm, asked: bool, late: bool, due: bool) -> tuple[bool, bool, bool]:
    """A callback counts if any rank's asked to stop, the clock is rank 0's."""
    flags = np.array([asked, late and comm.rank == 0, due and comm.rank == 0], np.float64)
    comm.allreduce_scalars(flags, "control")
    return bool(flags[0] > 0), bool(flags[1] > 0), bool(flags[2] > 0)


def given_up(populations: list[Population]) -> str:
    """Why every population was given up, or ""."""
    if any(p.end != "lost" for p in populations):
        return ""
    return f"{ENDS['lost']}: {populations[0].note}"
