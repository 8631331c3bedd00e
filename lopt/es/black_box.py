"""Evaluating a user's objective: whatever it does wrong becomes a lost point, points go to any rank.

The losses of a step are one float64 array, a row for each point and a column for each task, zero
where a rank did nothing; its sum over ranks is exact, so every rank holds the same bits, and 8 bytes
a loss are all that is exchanged.  A lost one is a non-finite number that also says why.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lopt.comm import Comm, get_comm
from lopt.errors import UsageError, unknown
from lopt.es.pairs import HandOut
from lopt.es.perturbation import NodeSum
from lopt.es.tasks import Mix, Tasks, combined
from lopt.lanes import pin_blas_threads

NOT_FINITE, RAISED, NO_NUMBER = math.nan, math.inf, -math.inf  # in the exchange; NaN afterwards
REASONS = ("not finite", "raised an exception", "not a real number")  # in this order
FAULTS = ("drop", "penalise", "retry")
TRIES = 3  # of a point, with fault="retry"
BLOCK = 32  # points of a batched call, unless told otherwise
BLOCK_BYTES = 1 << 25

Maker = Callable[[int], np.ndarray]  # x of a point by number, (D,) float64


class Team:
    """The ranks of a communicator, with the shared memory that all searches on them use in turn.

    Windows of MPI are scarce and live as long as the process.
    """

    def __init__(self, comm: Comm) -> None:
        if comm.size > 1:  # a second BLAS thread would fight with the neighbouring rank
            pin_blas_threads()
        self.comm = comm
        self.work = HandOut(comm)
        self._sums: dict[int, NodeSum] = {}

    def node_sum(self, n: int) -> NodeSum:
        """Sums of n coordinates."""
        if n not in self._sums:
            self._sums[n] = NodeSum(self.comm, n)
        return self._sums[n]


@functools.cache
def _lasting(comm: Comm) -> Team:
    return Team(comm)


_launched = functools.cache(get_comm)  # once per process


def team_of(comm: Comm | None) -> Team:
    """The team of a communicator; None: of the ranks that the launcher started.

    Alone, every search has a team of its own: an interrupted one (Ctrl-C) leaves nothing behind.
    """
    comm = _launched() if comm is None else comm
    return _lasting(comm) if comm.size > 1 else Team(comm)


class Losses(NamedTuple):
    """Losses of a step.

    values  (n,) float64, NaN: lost (a penalised point has the worst kept loss)
    lost    (3,) int64, points lost by reason, see `REASONS`
    """

    values: np.ndarray
    lost: np.ndarray


@dataclasses.dataclass
class BlackBox:
    """An objective and what to do when it fails.

    f        f(x) -> float, x (D,) float64; batched: f(X) -> (n,), X (n, D); keyed: f(x, key); or
             several of them, as `Tasks`
    batched  0: one point a call; n: at most n of them
    keyed    f takes a second argument, an int
    fault    "drop": the point does not count; "penalise": it counts as the worst of its step;
             "retry": tried again up to twice, batches row by row, then dropped
    note     text of the first fault on this rank

    Raises:
        UsageError: not callable, or an unknown policy.
    """

    f: Callable[..., Any] | Tasks
    batched: int = 0
    keyed: bool = False
    fault: str = "drop"
    note: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.f) and not isinstance(self.f, Tasks):
            raise UsageError(f"the objective is {type(self.f).__name__}, valid: a callable")
        self.fs = self.f.fs if isinstance(self.f, Tasks) else (self.f,)
        if self.fault not in FAULTS:
            raise UsageError(unknown("fault", self.fault, FAULTS))
        if self.batched < 0:
            raise UsageError(f"batched = {self.batched} is not valid: points of a call, 1 or more")

    def evaluate(self, make: Maker, n: int, d: int, key: int, team: Team) -> np.ndarray:
        """Losses of points 0 .. n - 1 of D = d coordinates, (n, T), lost ones not finite; collective."""
        losses = np.zeros((n, len(self.fs)))
        # The size of a block may decide how the objective rounds, so it depends on no rank.
        size = max(1, min(self.batched, BLOCK_BYTES // (8 * d)))
        for piece in team.work.take(np.ones(-(-n // size) * len(self.fs))):
            k, t = divmod(piece, len(self.fs))
            lo, hi = k * size, min((k + 1) * size, n)
            losses[lo:hi, t] = self._block(make, lo, hi, key, t)
        team.comm.allreduce_scalars(losses.reshape(-1))
        return losses

    def judged(self, losses: np.ndarray, mix: Mix | None) -> Losses:
        """The losses of a step's points by the policy of faults, from what `evaluate` gave for them."""
        values = combined(losses, mix)
        counts = [(values == w).sum() for w in (RAISED, NO_NUMBER)]
        lost = np.array([np.isnan(values).sum(), *counts])
        values[~np.isfinite(values)] = np.nan
        if self.fault == "penalise" and 0 < lost.sum() < values.size:
            values[np.isnan(values)] = np.nanmax(values)
        return Losses(values, lost)

    def start(self, xs: Sequence[np.ndarray], key: int, comm: Comm) -> tuple[np.ndarray, str]:
        """Each x evaluated twice, (K, 2, T), and what was wrong with the first one; collective.

        The second value comes from another rank, of its second call: it differs from the first if
        f remembers calls or depends on the rank.
        """
        losses = np.zeros((len(xs), 2, len(self.fs)))
        for k, x in enumerate(xs):
            first, second = k % comm.size, (k + comm.size - 1) % comm.size
            for t in range(len(self.fs)):
                if comm.rank == first:
                    losses[k, 0, t] = self._point(x, key, t)
                if comm.rank == second:
                    again = losses[k, 0, t] if comm.size == 1 else self._point(x, key, t)
                    losses[k, 1, t] = self._point(x, key, t) if math.isfinite(again) else again
        comm.allreduce_scalars(losses.reshape(-1))
        return losses, comm.bcast(self.note or "")

    def once(self, xs: Sequence[np.ndarray], keys: Sequence[int], comm: Comm) -> np.ndarray:
        """Losses of each x with its key, (K, T), lost ones not finite; one call each; collective."""
        losses = np.zeros((len(xs), len(self.fs)))
        for k, (x, key) in enumerate(zip(xs, keys, strict=True)):
            if comm.rank == k % comm.size:
                losses[k] = [self._point(x, key, t) for t in range(len(self.fs))]
        comm.allreduce_scalars(losses.reshape(-1))
        return losses

    def _block(self, make: Maker, lo: int, hi: int, key: int, t: int) -> np.ndarray | float:
        if not self.batched:
            return self._point(make(lo), key, t)
        block = np.stack([make(i) for i in range(lo, hi)])
        losses = self._guarded(block, key, t, hi - lo)
        if self.fault == "retry":
            for i in np.flatnonzero(~np.isfinite(losses)):
                losses[i] = self._point(block[i], key, t)
        return losses

    def _point(self, x: np.ndarray, key: int, t: int) -> float:
        loss = NOT_FINITE
        for _ in range(TRIES if self.fault == "retry" else 1):
            given = x.copy()  # what the objective does to it must not reach the next try
            loss = (
                float(self._guarded(given[None], key, t, 1)[0])
                if self.batched
                else self._guarded(given, key, t, 0)
            )
            if math.isfinite(loss):
                break
        return loss

    def _guarded(self, x: np.ndarray, key: int, t: int, rows: int) -> Any:
        """f_t(x): a float, or with rows > 0 an array of as many; lost ones are not finite."""
        try:
            y = self.fs[t](x, key) if self.keyed else self.fs[t](x)
            return self._numbers(y, rows) if rows else self._number(y)
        except Exception as error:
            self._keep(f"{type(error).__name__}: {error}")
            return np.full(rows, RAISED) if rows else RAISED

    def _number(self, y: Any) -> float:
        if not isinstance(y, float):
            array = np.asarray(y)
            if array.size != 1 or array.dtype.kind not in "biuf":
                self._keep(f"f returned {_described(y)}, valid: a real number")
                return NO_NUMBER
            y = float(array.reshape(-1)[0])
        if not math.isfinite(y):
            self._keep(f"f returned {y}")
            return NOT_FINITE
        return float(y) + 0.0  # -0.0 becomes 0.0, as it would by adding other ranks' 0.0

    def _numbers(self, y: Any, rows: int) -> np.ndarray:
        array = np.asarray(y)
        if array.shape != (rows,) or array.dtype.kind not in "biuf":
            self._keep(f"f returned {_described(y)} for {rows} points, valid: real ({rows},)")
            return np.full(rows, NO_NUMBER)
        losses = array.astype(np.float64) + 0.0
        bad = ~np.isfinite(losses)
        if bad.any():
            self._keep(f"f returned {losses[bad][0]}")
            losses[bad] = NOT_FINITE
        return losses

    def _keep(self, text: str) -> None:
        if self.note is None:
            self.note = text


def _described(y: Any) -> str:
    if isinstance(y, np.ndarray):
        return f"an array of {y.dtype} {y.shape}"
    return f"{type(y).__name__} {y!r:.40}"
