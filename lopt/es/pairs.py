"""Evaluating pairs: faults become lost pairs, losses meet in one exchange, work is shared out.

Losses of an outer step are one float64 vector of 2 P numbers, zero where a rank did nothing.  Its
sum over ranks is exact, so every rank holds the same bits.  A member without a usable loss is a
non-finite number that also says why; adding zeros leaves it alone, so the reasons cost no byte.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from lopt.comm import Comm, slice_of
from lopt.errors import LostPairsError
from lopt.es.problem import Particle, Request, UnrolledProblem, Window
from lopt.lanes import kernel

DIVERGED, RAISED = math.nan, math.inf  # what stands in the exchange for a lost member

Outcome = tuple[float, Particle | None]
"""Loss of a member, not finite if it is lost, and its particle afterwards."""


@dataclasses.dataclass
class Members:
    """Runs members of pairs and turns what goes wrong into lost members.

    clip_diverged  a finite loss of a diverged member counts (the problem clipped it); otherwise the
                   member is lost
    fault          text of the first exception on this rank
    """

    problem: UnrolledProblem
    clip_diverged: bool
    fault: str | None = None

    def start(self, theta: np.ndarray, episode: int, pair: int) -> Particle | None:
        """A particle at inner step 0; None if the problem raised."""
        try:
            return self.problem.start(theta, episode, pair)
        except Exception as error:
            return self._note(error)

    @property
    def batched(self) -> bool:
        """Whether the problem wants all requests of a rank at once."""
        return getattr(self.problem, "batched", False)

    def carry_out(
        self, asked: Iterable[tuple[int, list[Request]]]
    ) -> Iterator[tuple[int, list[Outcome]]]:
        """What became of the requests of pair after pair: each pair's before the next is asked for, or all at once."""
        if not self.batched:
            for pair, requests in asked:
                yield pair, [self._run(request) for request in requests]
            return
        pairs = list(asked)
        done = iter(self._run_many([request for _, requests in pairs for request in requests]))
        for pair, requests in pairs:
            yield pair, [next(done) for _ in requests]

    def _run(self, request: Request) -> Outcome:
        theta, state, *rest = request
        if state is None:
            return RAISED, None
        try:
            return self._judged(self.problem.run(theta.array, state, *rest), request.steps)
        except Exception as error:
            return RAISED, self._note(error)

    def _run_many(self, requests: list[Request]) -> list[Outcome]:
        able = [r for r in requests if r.state is not None]
        try:
            windows = iter(self.problem.run_many(able) if able else [])
            return [
                (RAISED, None) if r.state is None else self._judged(next(windows), r.steps)
                for r in requests
            ]
        except Exception as error:
            return [(RAISED, self._note(error))] * len(requests)

    def _judged(self, window: Window, steps: int) -> Outcome:
        loss, lost = float(window.loss), bool(window.lost)
        if window.inner_steps != steps and not lost:
            raise ValueError(f"run made {window.inner_steps} of {steps} inner steps")
        if not math.isfinite(loss) or (lost and not self.clip_diverged):
            return DIVERGED, None
        return loss + 0.0, window.state  # -0.0 becomes 0.0, as it would by adding other ranks' 0.0

    def _note(self, error: Exception) -> None:
        if self.fault is None:
            self.fault = f"{type(error).__name__}: {error}"


def exchange(comm: Comm, losses: np.ndarray) -> tuple[int, int]:
    """Sum (P, 2) losses over ranks, in place; those of lost members become NaN.

    Returns: pairs lost to an exception, pairs lost to divergence.
    """
    comm.allreduce_scalars(losses.reshape(-1))
    raised = np.isinf(losses).any(axis=1)
    lost = ~np.isfinite(losses).all(axis=1)
    losses[~np.isfinite(losses)] = np.nan
    return int(raised.sum()), int((lost & ~raised).sum())


def refuse_many_lost(
    outer_step: int, pairs: int, raised: int, diverged: int, fault: str | None
) -> None:
    """Stop where a gradient would stand on less than half of the pairs.

    Raises:
        LostPairsError: more than half of the pairs were lost; counts the reasons.
    """
    if 2 * (raised + diverged) <= pairs:
        return
    first = f" (first on this rank: {fault})" if fault else ""
    raise LostPairsError(
        f"outer step {outer_step} lost {raised + diverged} of {pairs} pairs, at most half may be "
        f"lost: {raised} raised an exception{first}, {diverged} diverged"
    )


class NodeTable:
    """A row of numbers for each pair that every rank must know, found out by the ranks of a node together.

    Asking the problem costs microseconds a pair; with as many pairs as ranks of a large cluster that
    would be more than the rollouts.
    """

    def __init__(self, comm: Comm, pairs: int, columns: int) -> None:
        self._comm = comm
        self._shared = comm.shared_array(pairs * columns, np.float64).reshape(pairs, columns)

    def rows(self, pairs: Sequence[int], row: Callable[[int], Sequence[float]]) -> np.ndarray:
        """row(i) of each of `pairs`, (n, columns) float64, each called on one rank of the node; collective."""
        lo, hi = slice_of(len(pairs), self._comm.node_rank, self._comm.node_size)
        self._comm.node_fence()  # a slow rank may still read the rows before these
        for k in range(lo, hi):
            self._shared[k] = row(pairs[k])
        self._comm.node_fence()
        return self._shared[: len(pairs)].copy()


def dearest_first(costs: Sequence[float]) -> list[int]:
    """Numbers of the pieces of work by falling cost, ties by number: what is left for the end is small."""
    return np.argsort(-np.asarray(costs, np.float64), kind="stable").tolist()


class HandOut:
    """Gives each piece of work to one rank.  Making one is collective.

    A node gets the pieces that `share_out` gives to its ranks; within the node whoever is free takes
    the dearest one left, by a counter in shared memory.  One counter serves the whole run, since
    windows of MPI are scarce: in a round of n pieces the ranks of a node take exactly n + node_size
    numbers, each rank one that is too large, so all know at which number the next round begins.
    """

    def __init__(self, comm: Comm) -> None:
        self._comm, self._counter, self._taken = comm, comm.work_counter(), 0

    def take(self, costs: Sequence[float]) -> Iterator[int]:
        """Numbers of the pieces that this rank gets.  To be run to its end, on every rank.

        Args:
            costs: predicted cost of every piece, the same on every rank.
        """
        mine = self._of_my_node(costs)
        while (k := self._counter.next() - self._taken) < len(mine):
            yield mine[k]
        self._taken += len(mine) + self._comm.node_size

    def _of_my_node(self, costs: Sequence[float]) -> list[int]:
        order, node_of = dearest_first(costs), self._comm.node_of
        if self._comm.node_size == self._comm.size:
            return order
        owners = share_out(costs, np.zeros(self._comm.size))
        here = node_of[owners] == node_of[self._comm.rank]
        return [i for i in order if here[i]]


def share_out(costs: Sequence[float], loads: Sequence[float]) -> list[int]:
    """A rank for each piece of work: largest cost first, always to the rank with least to do.

    Graham's longest-processing-time rule (1969); ties go to the lower index, so all ranks agree
    without talking.

    Args:
        costs: predicted cost of each piece.
        loads: what each rank has to do already.
    """
    costs, total = np.asarray(costs, np.float64), np.array(loads, np.float64)
    owners = np.empty(costs.size, np.int64)
    order, heap = np.argsort(-costs, kind="stable"), np.argsort(total, kind="stable")
    _give_to_least_loaded(order, costs, total, heap, owners)
    return owners.tolist()


@kernel
def _give_to_least_loaded(order, costs, loads, heap, owners):
    """Piece after piece in this order to the first rank of the heap.

    Shapes: order (P,), costs (P,), owners (P,) OVERWRITTEN; loads (R,) UPDATED; heap (R,) UPDATED: ranks, a binary
    heap by load, ties by rank.
    """
    for i in order:
        first = heap[0]
        owners[i] = first
        loads[first] += costs[i]
        at, child = 0, 1
        while child < heap.size:
            if child + 1 < heap.size and _before(loads, heap[child + 1], heap[child]):
                child += 1
            if _before(loads, first, heap[child]):
                break
            heap[at] = heap[child]
            at, child = child, 2 * child + 1
        heap[at] = first


@kernel
def _before(loads, a, b):
    return loads[a] < loads[b] or (loads[a] == loads[b] and a < b)
