"""One search of a black box: what is known between two steps, a step, when to stop, the outcome."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from lopt.errors import UsageError
from lopt.es.black_box import REASONS, BlackBox, Losses, Team
from lopt.es.coordinates import Coordinates
from lopt.es.strategy import Strategy, StrategyState
from lopt.es.tasks import Mix

STEPS = 1000  # where no limit is given
START_KEY = 0  # of the evaluations before the first step; step t has t + 1
START_CALLS, END_CALLS = 2, 1  # evaluations before the first step and after the last

# How a search ends: state in its file, and the message of its result.
ENDS = {
    "target": "the target was reached",
    "finished": "all steps were done",
    "evaluations": "the evaluations were used up",
    "time": "the minutes were used up",
    "callback": "the callback asked to stop",
    "lost": "more than half of the points were lost",
    "another": "another population reached the target",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """When to stop; None: no limit.  Without steps, evaluations, target and minutes: 1000 steps.

    Raises:
        UsageError: a limit out of range.
    """

    steps: int | None = None
    max_evaluations: int | None = None
    target: float | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        least = {"steps": 0, "max_evaluations": START_CALLS + END_CALLS, "minutes": 0}
        for key, low in least.items():
            if (value := getattr(self, key)) is not None and not value >= low:
                raise UsageError(f"{key} = {value} is not valid: at least {low}")
        if self.target is not None and math.isnan(self.target):
            raise UsageError("target = nan is not valid: a number")
        if all(getattr(self, f.name) is None for f in dataclasses.fields(self)):
            object.__setattr__(self, "steps", STEPS)


@dataclasses.dataclass
class Progress:
    """What a search knows between two steps, beside the strategy's state.

    best_theta   (D,) in the dtype of the strategy's points, and best_loss: the lowest loss seen
    best_tasks   (T,) float64, losses of the tasks there
    start_loss   f(x0)
    evaluations  points evaluated, repeated tries of a lost one not counted
    lost         (3,) int64, points lost so far, see `REASONS`
    mean         mean of the kept losses of the last step; f(x0) before the first
    wall_s       wall time of rank 0 in this search, resumed parts added up
    """

    best_theta: np.ndarray
    best_tasks: np.ndarray
    best_loss: float
    start_loss: float
    evaluations: int
    lost: np.ndarray
    mean: float
    wall_s: float = 0.0

    def arrays(self) -> dict[str, np.ndarray]:
        """As named arrays."""
        return {
            "best_theta": self.best_theta,
            "best_tasks": self.best_tasks,
            "losses": np.array([self.best_loss, self.start_loss, self.mean, self.wall_s]),
            "counters": np.array([self.evaluations, *self.lost], np.int64),
        }

    @classmethod
    def load(cls, arrays: Mapping[str, np.ndarray]) -> "Progress":
        """Inverse of `arrays`."""
        best, start, mean, wall = (float(v) for v in arrays["losses"])
        evaluations, *lost = (int(v) for v in arrays["counters"])
        seen = arrays["best_theta"].copy(), arrays["best_tasks"].copy()
        return cls(*seen, best, start, evaluations, np.array(lost), mean, wall)


class Search:
    """One search on one rank: the strategy's state and what its losses do to it.

    Args:
        coords, box, strat: the map to x, the objective, the strategy.
        noisy: equal points may have different losses: the best one seen means nothing then.
        team: ranks that share the work.
    """

    state: StrategyState
    progress: Progress
    mix: Mix | None

    def __init__(
        self, coords: Coordinates, box: BlackBox, strat: Strategy, noisy: bool, team: Team
    ) -> None:
        self.coords, self.box, self.strat = coords, box, strat
        self.noisy, self.team = noisy, team
        self._node = team.node_sum(coords.n)
        strat.prepare(coords.n, team.comm)
        self._since = time.perf_counter()
        self._sent_before = team.comm.sent["scalars"]

    def begin(self, seed: int, looks: np.ndarray, mix: Mix | None, evaluations: int) -> None:
        """First state; looks (2, T) losses at x0, evaluations: points evaluated so far."""
        self.mix, self.state = mix, self.strat.init(self.coords.n, seed)
        loss = float(self.box.judged(looks[:1], mix).values[0])
        theta = self.state.theta.copy()
        lost = np.zeros(len(REASONS), np.int64)
        self.progress = Progress(theta, looks[0], loss, loss, evaluations, lost, loss)

    def go_on(self, arrays: Mapping[str, np.ndarray], looks: np.ndarray) -> None:
        """The state of a saved search.

        Raises:
            UsageError: the objective is not the one that the search began with.
        """
        self.state = self.strat.load(below("strategy/", arrays))
        self.progress = Progress.load(below("progress/", arrays))
        self.mix = mix_of(arrays)
        loss = float(self.box.judged(looks[:1], self.mix).values[0])
        if loss != self.progress.start_loss and not self.noisy:
            raise UsageError(
                f"f(x0) = {loss!r}, it was {self.progress.start_loss!r} when the search began: "
                "resume with the same objective"
            )

    def arrays(self) -> dict[str, np.ndarray]:
        """All that `go_on` needs."""
        mix = self.mix.arrays() if self.mix else {}
        return {
            **{f"strategy/{k}": v for k, v in self.strat.arrays(self.state).items()},
            **{f"progress/{k}": v for k, v in self.progress.arrays().items()},
            **{f"mix/{k}": v for k, v in mix.items()},
        }

    @property
    def key(self) -> int:
        """What a keyed objective draws from in the next step."""
        return self.state.step + 1 if self.box.keyed else START_KEY

    def n_points(self) -> int:
        """Points of the next step."""
        return self.strat.n_points(self.state)

    def point(self, i: int) -> np.ndarray:
        """x of point i of the next step, (D,) float64."""
        return self.coords.x(self._theta(i))

    def _theta(self, i: int) -> np.ndarray:
        theta = np.empty_like(self.state.theta)
        self.strat.point(self.state, i, theta)
        return theta

    def take(self, raw: np.ndarray) -> tuple[dict[str, float], Losses]:
        """The step that the losses of all points make, (n_points, T); the row for the file, and the losses.

        If more than half of the points are lost the state stays as it is.  Collective.
        """
        state, losses, progress = self.state, self.box.judged(raw, self.mix), self.progress
        progress.evaluations += len(raw)
        progress.lost = progress.lost + losses.lost
        lowest = math.nan
        if not np.isnan(losses.values).all():
            progress.mean = float(np.nanmean(losses.values))
            lowest = self._track_best(losses.values, raw)
        if 2 * losses.lost.sum() <= len(raw):
            self.state = self.strat.tell(state, losses.values, self._node)
        self._clock()
        row = {
            "step": self.state.step,
            "evaluations": progress.evaluations,
            "mean": progress.mean,
            "lowest": lowest,
            "best": progress.best_loss,
            "lost": int(losses.lost.sum()),
            "moved": float(np.linalg.norm((self.state.theta - state.theta).astype(np.float64))),
            "wall_s": progress.wall_s,
        }
        return row, losses

    def _track_best(self, values: np.ndarray, raw: np.ndarray) -> float:
        seen = np.where(np.isfinite(raw).all(axis=1), values, np.inf)  # not what a penalty made
        i = int(seen.argmin())
        if seen[i] < self.progress.best_loss:
            self.progress.best_theta, self.progress.best_tasks = self._theta(i), raw[i].copy()
            self.progress.best_loss = float(values[i])
        return float(seen[i])

    def _clock(self) -> None:
        now = time.perf_counter()
        self.progress.wall_s += now - self._since
        self._since = now

    def answer(self) -> np.ndarray:
        """Where the strategy stands, x (D,) float64."""
        return self.coords.x(self.state.theta)

    def best(self) -> np.ndarray:
        """Where the lowest loss was seen, x (D,) float64."""
        return self.coords.x(self.progress.best_theta)

    def result(self, end: str, note: str, limits: Limits, raw: np.ndarray) -> Any:
        """The outcome; raw (1, T): losses at the strategy's answer."""
        progress, comm = self.progress, self.team.comm
        last = float(self.box.judged(raw, self.mix).values[0])
        x, loss, tasks = self.answer(), last, raw[0]
        if not self.noisy and not last <= progress.best_loss:
            x, loss, tasks = self.best(), progress.best_loss, progress.best_tasks
        if limits.target is not None and loss <= limits.target and end != "lost":
            end = "target"
        message = ENDS[end] + (f": {note}" if note else "")
        good = end != "lost" and math.isfinite(loss) and (limits.target is None or end == "target")
        self._clock()
        return as_result(
            x=x,
            fun=loss,
            fun_tasks=tasks,
            x_last=self.answer(),
            fun_last=last,
            success=good,
            status=list(ENDS).index(end),
            message=message,
            nit=self.state.step,
            nfev=progress.evaluations + END_CALLS,
            lost=_lost(progress.lost),
            seconds=progress.wall_s,
            bytes_sent=comm.sent["scalars"] - self._sent_before,
        )

    def so_far(self) -> Any:
        """What a callback is given."""
        progress = self.progress
        return as_result(
            x=self.answer() if self.noisy else self.best(),
            fun=progress.mean if self.noisy else progress.best_loss,
            x_last=self.answer(),
            mean=progress.mean,
            nit=self.state.step,
            nfev=progress.evaluations,
            lost=_lost(progress.lost),
            seconds=progress.wall_s,
        )


def as_result(**fields: Any) -> Any:
    """A `scipy.optimize.OptimizeResult`."""
    from scipy.optimize import OptimizeResult  # takes longer to load than all of lopt

    return OptimizeResult(**fields)


def _lost(counts: np.ndarray) -> dict[str, int]:
    return dict(zip(REASONS, counts.tolist(), strict=True))


def below(head: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those arrays whose names begin with `head`, without it."""
    return {k[len(head) :]: v for k, v in arrays.items() if k.startswith(head)}


def mix_of(arrays: Mapping[str, np.ndarray]) -> Mix | None:
    """How a saved search adds up its tasks; None: it has one only."""
    found = below("mix/", arrays)
    return Mix.load(found) if found else None
