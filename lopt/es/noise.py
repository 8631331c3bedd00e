"""Where perturbations come from: made anew from their addresses, or slices of one shared table.

An address (seed, outer, pair) stands for z, D standard normals.  `Counter` makes them by the
generator whenever they are needed: no memory, and all numbers are independent.  `Table` takes them
out of one block of M normals that every perturbation of every step is a slice of (Salimans et al.
2017, section 2.1): no arithmetic, but memory on every node, and slices overlap.

What overlapping costs.  Over random tables the estimate stays unbiased; the mean over N pairs has
the relative squared error (D + 1) (1 / N + c / (M - D + 1)) for a linear loss, where
c = (D + (E^2 + O^2) / |g|^2) / (D + 1), E and O the sums of the even and odd coordinates of its
gradient g: 1 for coordinates in no order, 3/2 for equal ones.  A table of M numbers is worth about
M pairs, whatever D is: it does no harm as long as a run averages over far fewer.
"""

from typing import Protocol

import numpy as np

from lopt import rng
from lopt.comm import Comm, SerialComm, slice_of
from lopt.errors import UsageError
from lopt.es.perturbation import BLOCK, sum_normals
from lopt.lanes import kernel


class Noise(Protocol):
    """Standard normals of addresses, and sums over them."""

    def fill(self, out: np.ndarray, stream: np.ndarray) -> None:
        """Write z of an address, uint32 (3,), into out, (D,) float32."""

    def add(self, out: np.ndarray, start: int, coefs: np.ndarray, streams: np.ndarray) -> None:
        """out[j] += sum over i, ascending, of coefs[i] * z_i[start + j].

        Args:
            out: (n,) float32.
            start: number of the first coordinate.
            coefs: (P,) float32; a 0 costs nothing.
            streams: uint32 (P, 3) addresses.
        """


class Counter:
    """z made by the counter-based generator: number j of purpose PERTURB is z_j."""

    def fill(self, out: np.ndarray, stream: np.ndarray) -> None:
        """See `Noise.fill`."""
        rng.normals_into(out, 0, stream, rng.PERTURB, 0)

    def add(self, out: np.ndarray, start: int, coefs: np.ndarray, streams: np.ndarray) -> None:
        """See `Noise.add`."""
        sum_normals(out, start, coefs, streams, rng.PERTURB)


class Table:
    """z_j = numbers[place + j]; the place is drawn at the address, all M - D + 1 equally likely.

    Args:
        numbers: (M,) float32, see `shared_table`.
        n: D, coordinates of z.

    Raises:
        UsageError: the table is shorter than z, or has more than 2^32 places.
    """

    def __init__(self, numbers: np.ndarray, n: int) -> None:
        self._numbers, self._n = numbers, n
        self._count = numbers.size - n + 1
        if not 1 <= self._count <= 2**32:
            raise UsageError(
                f"a noise table of {numbers.size} numbers for perturbations of {n}; valid: {n} to "
                f"{n + 2**32 - 1}, better 1000 x pairs or more"
            )

    def fill(self, out: np.ndarray, stream: np.ndarray) -> None:
        """See `Noise.fill`."""
        place = self.places(stream[None])[0]
        out[:] = self._numbers[place : place + self._n]

    def add(self, out: np.ndarray, start: int, coefs: np.ndarray, streams: np.ndarray) -> None:
        """See `Noise.add`; rounds as sums over made numbers do."""
        sum_slices(out, start, coefs, self._numbers, self.places(streams))

    def places(self, streams: np.ndarray) -> np.ndarray:
        """Where the slices of addresses begin, (P,) int64; streams uint32 (P, 3)."""
        places = np.empty(len(streams), np.int64)
        draw_places(places, self._count, streams)
        return places


@kernel
def draw_places(out, count, streams):
    """out[i] = an integer in [0, count) of address streams[i]; out int64 (P,), streams uint32 (P, 3)."""
    for i in range(out.size):
        rng.integers_into(out[i : i + 1], 0, count, streams[i], rng.TABLE_PLACE, 0)


@kernel
def sum_slices(out, start, coefs, numbers, places):
    """out[j] += sum over i, ascending, of coefs[i] * numbers[places[i] + start + j].

    Shapes: out (n,) UPDATED, coefs (P,), numbers (M,), places int64 (P,).  A coefficient 0 costs nothing.
    """
    for first in range(0, out.size, BLOCK):
        piece = out[first : first + BLOCK]
        for i in range(coefs.size):
            if coefs[i] != 0:
                c = out.dtype.type(coefs[i])
                at = places[i] + start + first
                row = numbers[at : at + piece.size]
                for j in range(piece.size):
                    piece[j] += c * row[j]


# A table is a function of its size alone; kept for the process, windows of MPI live as long.
_tables: dict[int, np.ndarray] = {}
_of_nodes: dict[tuple[int, Comm], np.ndarray] = {}


def table(size: int) -> np.ndarray:
    """The table of M = size numbers, float32: the one that this node shares, or this process's own."""
    if size not in _tables:
        _tables[size] = _made(size, SerialComm())
    return _tables[size]


def shared_table(size: int, comm: Comm) -> np.ndarray:
    """The same numbers, once per node, made by its ranks together; collective over the node."""
    if comm.node_size == 1:
        return table(size)
    if (size, comm) not in _of_nodes:
        _tables[size] = _of_nodes[size, comm] = _made(size, comm)
    return _of_nodes[size, comm]


def _made(size: int, comm: Comm) -> np.ndarray:
    if size < 1:
        raise UsageError(f"a noise table of {size} numbers is not valid: at least 1")
    numbers = comm.shared_array(size, np.float32)
    lo, hi = (min(4 * k, size) for k in slice_of(-(-size // 4), comm.node_rank, comm.node_size))
    rng.normals_into(numbers[lo:hi], lo, rng.stream(0), rng.TABLE, 0)
    comm.node_fence()
    return numbers
