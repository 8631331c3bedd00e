"""Ranks with clocks of their own, played one after the other in one process: nothing waits."""

import heapq
from collections.abc import Sequence

from lopt.comm import SerialComm
from lopt.es.pairs import HandOut


class OneOf(SerialComm):
    """One of several ranks that share a counter."""

    def __init__(self, size: int, counter: list[int]) -> None:
        super().__init__()
        self.size, self._shared = size, counter

    def work_counter(self) -> "OneOf":
        """Itself."""
        return self

    def next(self) -> int:
        """The shared counter's next number."""
        self._shared[0] += 1
        return self._shared[0] - 1


class Clocks:
    """The hand-out of estimators and searches on ranks whose clocks only work moves."""

    def __init__(self, ranks: int) -> None:
        counter = [0]
        self.handouts = [HandOut(OneOf(ranks, counter)) for _ in range(ranks)]

    def round(self, costs: Sequence[float], order: Sequence[int]) -> tuple[float, list[int]]:
        """Time at which the last rank is done, and the pieces in the order they were given out."""
        given: list[int] = []
        asking = [(0.0, r, h.take(order)) for r, h in enumerate(self.handouts)]
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
