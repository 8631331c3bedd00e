"""Ranks with clocks of their own, played one after the other in one process: nothing waits."""

import heapq
from collections.abc import Sequence

import numpy as np

from lopt.comm import SerialComm
from lopt.es.pairs import HandOut


class OneOf(SerialComm):
    """One of several ranks; those of a node share a counter."""

    def __init__(self, rank: int, node_of: np.ndarray, counters: list[int]) -> None:
        super().__init__()
        self.rank, self.size, self.node_of = rank, node_of.size, node_of
        self.node_size = int((node_of == node_of[rank]).sum())
        self._counters = counters

    def work_counter(self) -> "OneOf":
        """Itself."""
        return self

    def next(self) -> int:
        """The node's next number."""
        self._counters[self.node_of[self.rank]] += 1
        return self._counters[self.node_of[self.rank]] - 1


class Clocks:
    """The hand-out of estimators and searches on ranks whose clocks only work moves.

    per_node  ranks of a node; 0: all
    """

    def __init__(self, ranks: int, per_node: int = 0) -> None:
        node_of = np.arange(ranks) // (per_node or ranks)
        counters = [0] * ranks
        self.handouts = [HandOut(OneOf(r, node_of, counters)) for r in range(ranks)]

    def round(self, costs: Sequence[float], predicted: Sequence[float]) -> tuple[float, list[int]]:
        """Time at which the last rank is done, and the pieces in the order they were given out."""
        given: list[int] = []
        asking = [(0.0, r, h.take(predicted)) for r, h in enumerate(self.handouts)]
        last = 0.0
        while asking:
            now, r, pieces = heapq.heappop(asking)
            i = next(pieces, None)
            if i is None:
                last = max(last, now)
            else:
                given.append(i)
                heapq.heappush(asking, (now + costs[i], r, pieces))
        return last, given
