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
    start_loss   f(x0)
    evaluations  points evaluated, repeated tries of a lost one not counted
    lost         (3,) int64, points lost so far, see `REASONS`
    mean         mean of the kept losses of the last step; f(x0) before the first
    wall_s       wall time of rank 0 in this search, resumed parts added up
    """

    best_theta: np.ndarray
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
            "losses": np.array([self.best_loss, self.start_loss, self.mean, self.wall_s]),
            "counters": np.array([self.evaluations, *self.lost], np.int64),
        }

    @classmethod
    def load(cls, arrays: Mapping[str, np.ndarray]) -> "Progress":
        """Inverse of `arrays`."""
        best, start, mean, wall = (float(v) for v in arrays["losses"])
        evaluations, *lost = (int(v) for v in arrays["counters"])
        theta = arrays["best_theta"].copy()
        return cls(theta, best, start, evaluations, np.array(lost), mean, wall)


class Search:
    """One search on one rank: the strategy's state and the steps over it.  Collective throughout.

    Args:
        coords, box, strat: the map to x, the objective, the strategy.
        noisy: equal points may have different losses: the best one seen means nothing then.
        team: ranks that share the work.
    """

    state: StrategyState
    progress: Progress

    def __init__(
        self, coords: Coordinates, box: BlackBox, strat: Strategy, noisy: bool, team: Team
    ) -> None:
        self.coords, self.box, self.strat = coords, box, strat
        self.noisy, self.team = noisy, team
        self._node = team.node_sum(coords.n)
        strat.prepare(coords.n, team.comm)
        self._since = time.perf_counter()
        self._sent_before = team.comm.sent["scalars"]

    def begin(self, seed: int) -> None:
        """First state, after two looks at x0.

        Raises:
            UsageError: f(x0) is no finite number, or not the same twice.
        """
        self.state = self.strat.init(self.coords.n, seed)
        loss = self._look_at_start()
        theta = self.state.theta.copy()
        lost = np.zeros(len(REASONS), np.int64)
        self.progress = Progress(theta, loss, loss, START_CALLS, lost, loss)

    def go_on(self, arrays: Mapping[str, np.ndarray]) -> None:
        """The state of a saved search.

        Raises:
            UsageError: the objective is not the one that the search began with.
        """
        self.state = self.strat.load(_below("strategy/", arrays))
        self.progress = Progress.load(_below("progress/", arrays))
        loss = self._look_at_start()
        if loss != self.progress.start_loss and not self.noisy:
            raise UsageError(
                f"f(x0) = {loss!r}, it was {self.progress.start_loss!r} when the search began: "
                "resume with the same objective"
            )

    def arrays(self) -> dict[str, np.ndarray]:
        """All that `go_on` needs."""
        return {
            **{f"strategy/{k}": v for k, v in self.strat.arrays(self.state).items()},
            **{f"progress/{k}": v for k, v in self.progress.arrays().items()},
        }

    def _look_at_start(self) -> float:
        (values, _), note = self.box.start(self.coords.x0, START_KEY, self.team.comm)
        if np.isnan(values).any():
            raise UsageError(f"the search cannot begin, f(x0) has no value: {note or 'see rank 0'}")
        first, second = (float(v) for v in values)
        if first != second and not self.noisy:
            raise UsageError(
                f"f(x0) = {first!r} at first and {second!r} when asked again: the objective "
                "remembers its calls, draws random numbers or depends on the rank; make it a "
                "function of its arguments (keyed=True hands it a number to draw from), or say "
                "noisy=True"
            )
        return first

    def step(self) -> tuple[dict[str, float], Losses]:
        """One step; the row for the file, and the losses.

        If more than half of the points are lost the state stays as it is.
        """
        state, n = self.state, self.strat.n_points(self.state)
        losses = self.box.step(self._point, n, self.coords.n, self._key(state.step), self.team)
        progress = self.progress
        progress.evaluations += n
        progress.lost = progress.lost + losses.lost
        lowest = math.nan
        if not np.isnan(losses.values).all():
            progress.mean = float(np.nanmean(losses.values))
            lowest = self._track_best(losses.values)
        if 2 * losses.lost.sum() <= n:
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

    def _key(self, step: int) -> int:
        return step + 1 if self.box.keyed else START_KEY

    def _point(self, i: int) -> np.ndarray:
        return self.coords.x(self._theta(i))

    def _theta(self, i: int) -> np.ndarray:
        """Point i of the next step, in the strategy's coordinates."""
        theta = np.empty_like(self.state.theta)
        self.strat.point(self.state, i, theta)
        return theta

    def _track_best(self, values: np.ndarray) -> float:
        i = int(np.nanargmin(values))
        if values[i] < self.progress.best_loss:
            self.progress.best_theta, self.progress.best_loss = self._theta(i), float(values[i])
        return float(values[i])

    def _clock(self) -> None:
        now = time.perf_counter()
        self.progress.wall_s += now - self._since
        self._since = now

    def result(self, end: str, note: str, limits: Limits) -> Any:
        """The outcome; evaluates the strategy's answer once."""
        progress, comm = self.progress, self.team.comm
        theta, key = self.state.theta, self._key(self.state.step)
        last = self.box.single(self.coords.x(theta), key, comm)
        loss = last
        if not self.noisy and not last <= progress.best_loss:
            theta, loss = progress.best_theta, progress.best_loss
        if limits.target is not None and loss <= limits.target and end != "lost":
            end = "target"
        message = ENDS[end] + (f": {note}" if note else "")
        good = end != "lost" and math.isfinite(loss) and (limits.target is None or end == "target")
        self._clock()
        return _result(
            x=self.coords.x(theta),
            fun=loss,
            x_last=self.coords.x(self.state.theta),
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
        best = progress.best_theta
        return _result(
            x=self.coords.x(self.state.theta if self.noisy else best),
            fun=progress.mean if self.noisy else progress.best_loss,
            x_last=self.coords.x(self.state.theta),
            mean=progress.mean,
            nit=self.state.step,
            nfev=progress.evaluations,
            lost=_lost(progress.lost),
            seconds=progress.wall_s,
        )


def limit_reached(search: Search, limits: Limits) -> str:
    """Which limit stands before the next step, or ""."""
    progress, step = search.progress, search.state.step
    if limits.target is not None:
        reached = progress.mean if search.noisy else progress.best_loss
        if reached <= limits.target:
            return "target"
    if limits.steps is not None and step >= limits.steps:
        return "finished"
    if limits.max_evaluations is not None:
        after = progress.evaluations + search.strat.n_points(search.state) + END_CALLS
        if after > limits.max_evaluations:
            return "evaluations"
    return ""


def _result(**fields: Any) -> Any:
    from scipy.optimize import OptimizeResult  # takes longer to load than all of lopt

    return OptimizeResult(**fields)


def _lost(counts: np.ndarray) -> dict[str, int]:
    return dict(zip(REASONS, counts.tolist(), strict=True))


def _below(head: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k[len(head) :]: v for k, v in arrays.items() if k.startswith(head)}
