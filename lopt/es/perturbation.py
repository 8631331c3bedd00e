"""Perturbations of theta, made from their addresses by whoever needs them, and sums over them.

Perturbation z of pair i drawn at outer step t: D standard normals at address (seed, t, i), purpose PERTURB; the members of
the pair stand at theta + sigma z and theta - sigma z.  No rank keeps or sends a perturbation.

A gradient is a sum over pairs, sum_i coef_i z_i.  On a node every rank sums its own slice of theta over all pairs in
ascending order into a shared array.  Each element is one chain of float32 additions in one order, whoever does it, so the
bits do not depend on the number of ranks; time is P x D / ranks-per-node and memory is D.
"""

from collections.abc import Callable

import numpy as np

from lopt import rng
from lopt.comm import Comm
from lopt.lanes import kernel

BLOCK = 4096  # elements summed over all pairs before the next ones: 16 KiB, stays in the first cache


def perturbed(theta: np.ndarray, sigma: float, stream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """theta + sigma z and theta - sigma z, each (D,) float32; z is made once."""
    step = np.float32(sigma) * rng.normals(theta.size, stream, rng.PERTURB)
    return theta + step, theta - step


def streams(seed: int, outer: int | np.ndarray, pairs: int) -> np.ndarray:
    """Addresses of the perturbations of all pairs, uint32 (P, 3); `outer` is one outer step or (P,) of them."""
    table = np.empty((pairs, 3), np.uint32)
    table[:, 0], table[:, 1], table[:, 2] = seed, outer, np.arange(pairs)
    return table


@kernel
def sum_normals(out, start, coefs, streams, purpose):
    """out[j] += sum over i, ascending, of coefs[i] * (normal number start + j of streams[i]).

    Shapes: out (n,) UPDATED, coefs (P,), streams uint32 (P, 3).  Pairs of coefficient 0 cost nothing.
    """
    for first in range(0, out.size, BLOCK):
        piece = out[first : first + BLOCK]
        for i in range(coefs.size):
            if coefs[i] != 0:
                rng.add_normals(piece, coefs[i], start + first, streams[i], purpose, 0)


@kernel
def sum_rows(out, coefs, rows):
    """out[j] += sum over i, ascending, of coefs[i] * rows[i, j]; the roundings of `sum_normals`.

    Shapes: out (n,) UPDATED, coefs (P,), rows (P, n).
    """
    for i in range(coefs.size):
        if coefs[i] != 0:
            c = out.dtype.type(coefs[i])
            row = rows[i]
            for j in range(out.size):
                out[j] += c * row[j]


def node_slice(n: int, comm: Comm) -> tuple[int, int]:
    """The part [a, b) of a vector of n elements that this rank sums for its node; a is a multiple of 4.

    Four normals come out of one block of the generator, so other cuts would make some blocks twice.
    """
    blocks = -(-n // 4)
    cuts = [4 * (blocks * r // comm.node_size) for r in (comm.node_rank, comm.node_rank + 1)]
    return min(cuts[0], n), min(cuts[1], n)


class NodeSum:
    """A vector of D float32 that the ranks of a node fill together, slice by slice."""

    def __init__(self, comm: Comm, n: int) -> None:
        self._comm = comm
        self.lo, self.hi = node_slice(n, comm)
        self._shared = comm.shared_array(n, np.float32)

    def rebuild(self, add: Callable[[np.ndarray, int], None]) -> np.ndarray:
        """Collective on the node: `add(out, start)` adds this rank's slice to zeros; returns a copy of all of it.

        Between two calls there must be a collective operation of all ranks (the exchange of losses), or a fast rank could
        write into what a slow one still reads.
        """
        mine = self._shared[self.lo : self.hi]
        mine[:] = 0
        add(mine, self.lo)
        self._comm.node_fence()
        return self._shared.copy()


def rebuild_plain(coefs: np.ndarray, streams: np.ndarray, n: int) -> np.ndarray:
    """sum_i coefs[i] z_i, (n,) float32, by one rank alone: what the node-shared sum must equal to the bit."""
    out = np.zeros(n, np.float32)
    sum_normals(out, 0, coefs, streams, rng.PERTURB)
    return out
