"""Perturbations of theta, made from their addresses by whoever needs them, and sums over them.

Perturbation z of pair i drawn at outer step t: D standard normals at address (seed, t, i), purpose
PERTURB; the members of the pair stand at theta + sigma z and theta - sigma z.  No rank keeps or
sends a perturbation.

A gradient is a sum over pairs, sum_i coef_i z_i.  On a node every rank sums its own slice of theta
over all pairs, in ascending order, into a shared array.  Each element is one chain of float32
additions in one order, whoever makes them, so the bits do not depend on the number of ranks; time
is P x D / ranks-per-node and memory is D.  Estimators that need the perturbations themselves get
them through the same array: after the exchange of losses no perturbation is made twice on a node.
"""

from collections.abc import Callable

import numpy as np

from lopt import rng
from lopt.comm import Comm, slice_of
from lopt.lanes import kernel

BLOCK = 4096  # elements summed over all pairs before the next ones: 16 KiB fit the first cache


def perturbed(theta: np.ndarray, sigma: float, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """theta + sigma z and theta - sigma z, each (D,) float32."""
    shift = np.float32(sigma) * z
    return theta + shift, theta - shift


def streams(seed: int, outer: int | np.ndarray, pairs: int) -> np.ndarray:
    """Addresses of the perturbations of all pairs, uint32 (P, 3).

    Args:
        outer: outer step at which they were drawn, one for all or (P,) of them.
    """
    table = np.empty((pairs, 3), np.uint32)
    table[:, 0], table[:, 1], table[:, 2] = seed, outer, np.arange(pairs)
    return table


@kernel
def sum_normals(out, start, coefs, streams, purpose):
    """out[j] += sum over i, ascending, of coefs[i] * (normal number start + j of streams[i]).

    Shapes: out (n,) UPDATED, coefs (P,), streams uint32 (P, 3).  A coefficient 0 costs nothing.
    """
    for first in range(0, out.size, BLOCK):
        piece = out[first : first + BLOCK]
        for i in range(coefs.size):
            if coefs[i] != 0:
                rng.add_normals(piece, coefs[i], start + first, streams[i], purpose, 0)


@kernel
def sum_rows(out, coefs, rows):
    """out[j] += sum over i, ascending, of coefs[i] * rows[i, j]; rounds as `sum_normals` does.

    Shapes: out (n,) UPDATED, coefs (P,), rows (P, n).
    """
    for i in range(coefs.size):
        if coefs[i] != 0:
            c = out.dtype.type(coefs[i])
            row = rows[i]
            for j in range(out.size):
                out[j] += c * row[j]


class NodeSum:
    """A vector of D float32 that the ranks of a node fill together.

    This rank's slice is [lo, hi).  Slices begin at multiples of 4: a block of the generator holds
    four normals and would be made twice if a cut went through it.
    """

    def __init__(self, comm: Comm, n: int) -> None:
        self._comm = comm
        lo, hi = slice_of(-(-n // 4), comm.node_rank, comm.node_size)
        self.lo, self.hi = min(4 * lo, n), min(4 * hi, n)
        self._shared = comm.shared_array(n, np.float32)

    def rebuild(self, add: Callable[[np.ndarray, int], None]) -> np.ndarray:
        """The whole vector, (D,) float32, a copy; collective over the node.

        Args:
            add: adds this rank's part to zeros, given them and the number of the first one.
        """
        self._comm.node_fence()  # a slow rank may still read the sum before this one
        mine = self._shared[self.lo : self.hi]
        mine[:] = 0
        add(mine, self.lo)
        self._comm.node_fence()
        return self._shared.copy()

    def normals(self, streams: np.ndarray, start: int, size: int, inner: int = 0) -> np.ndarray:
        """Normals start .. start + size - 1 of each address, (P, size) float32, size <= D; collective.

        For those who need perturbations themselves, not their sum: each number is made by one rank
        of the node, as many rows at a time as go into the node's vector.

        Args:
            streams: uint32 (P, 3).
        """
        made = np.empty((len(streams), size), np.float32)
        at_once = self._shared.size // size
        for first in range(0, len(streams), at_once):
            rows = made[first : first + at_once]
            table = streams[first : first + at_once]

            def add(out: np.ndarray, lo: int, table: np.ndarray = table) -> None:
                for i in range(lo // size, min(len(table), -(-(lo + out.size) // size))):
                    a, b = max(lo, i * size), min(lo + out.size, (i + 1) * size)
                    part = out[a - lo : b - lo]
                    rng.normals_into(part, start + a - i * size, table[i], rng.PERTURB, inner)

            rows[:] = self.rebuild(add)[: rows.size].reshape(rows.shape)
        return made
