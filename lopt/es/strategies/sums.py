"""Sums and scalar products over perturbations that are made where they are needed, and forgotten.

What a node computes together follows the rule of `NodeSum`: every number is made by one rank, in an
order that does not depend on the number of ranks.
"""

from collections.abc import Callable

import numpy as np

from lopt import rng
from lopt.es.perturbation import BLOCK, NodeSum, streams
from lopt.lanes import kernel


@kernel
def sum_squares(out, start, coefs, streams, purpose, work):
    """out[j] += sum over i, ascending, of coefs[i] * (z_ij**2 - 1), z_ij = normal start + j of streams[i].

    Shapes: out (n,) UPDATED, coefs (P,), streams uint32 (P, 3), work (BLOCK,) of out's dtype, OVERWRITTEN.
    """
    one = out.dtype.type(1)
    for first in range(0, out.size, BLOCK):
        piece = out[first : first + BLOCK]
        z = work[: piece.size]
        for i in range(coefs.size):
            if coefs[i] != 0:
                c = out.dtype.type(coefs[i])
                rng.normals_into(z, start + first, streams[i], purpose, 0)
                for j in range(piece.size):
                    piece[j] += c * (z[j] * z[j] - one)


@kernel
def dot_normals(h, stream, purpose, work):
    """z . h with z = normals 0 .. n - 1 of the address, summed in float64; h (n,), work (BLOCK,) float32."""
    total = 0.0
    for first in range(0, h.size, BLOCK):
        piece = h[first : first + BLOCK]
        z = work[: piece.size]
        rng.normals_into(z, first, stream, purpose, 0)
        for j in range(piece.size):
            total += np.float64(z[j]) * np.float64(piece[j])
    return total


def squares(seed: int, step: int, weights: np.ndarray, node: NodeSum) -> np.ndarray:
    """sum_i weights[i] (z_i**2 - 1) over the normal directions of a step, (D,) float32, memory O(D)."""
    coefs = weights.astype(np.float32)
    table = streams(seed, step, coefs.size)
    work = np.empty(BLOCK, np.float32)
    return node.rebuild(lambda out, lo: sum_squares(out, lo, coefs, table, rng.PERTURB, work))


def dots(table: np.ndarray, h: np.ndarray, node: NodeSum) -> np.ndarray:
    """z_i . h, (P,) float64 rounded to float32; table uint32 (P, 3) addresses, h (D,).

    Collective: each product is made by one rank of the node.
    """
    work = np.empty(BLOCK, np.float32)
    return shared_scalars(
        len(table), h.size, lambda i: dot_normals(h, table[i], rng.PERTURB, work), node
    )


def shared_scalars(n: int, d: int, value: Callable[[int], float], node: NodeSum) -> np.ndarray:
    """value(0) .. value(n - 1), each called on one rank of the node; (n,) float64, of float32 precision.

    They travel in the node's vector of d coordinates, far apart, so that all slices get some.
    """
    found = np.empty(n)
    for first in range(0, n, d):
        count = min(d, n - first)
        gap = d // count

        def add(out: np.ndarray, start: int, first=first, count=count, gap=gap) -> None:
            for i in range(-(-start // gap), min(count, -(-(start + out.size) // gap))):
                out[i * gap - start] = value(first + i)

        found[first : first + count] = node.rebuild(add)[: count * gap : gap]
    return found


def means(losses: np.ndarray) -> np.ndarray:
    """(f+ + f-) / 2 of pairs, (P,) float64, NaN where a member is lost; losses (2 P,)."""
    return losses.reshape(-1, 2).mean(axis=1)


def halves(losses: np.ndarray) -> np.ndarray:
    """(f+ - f-) / 2 of pairs, (P,) float64, NaN where a member is lost; losses (2 P,)."""
    both = losses.reshape(-1, 2)
    return (both[:, 0] - both[:, 1]) / 2


def left_out(values: np.ndarray) -> np.ndarray:
    """(value - mean of the other kept values) / number kept; 0 for lost ones (NaN), or a single one.

    Weights of an estimate with the leave-one-out baseline: the baseline of a sample is independent
    of it, so it costs no bias.
    """
    kept = ~np.isnan(values)
    weights = np.zeros(values.shape)
    if kept.sum() > 1:
        weights[kept] = (values[kept] - values[kept].mean()) / (kept.sum() - 1)
    return weights


def averaged(old: np.ndarray, new: np.ndarray, decay: float, count: int) -> np.ndarray:
    """Exponential average after its `count`-th value; the bias correction is in the weight."""
    return old + np.float32((1 - decay) / (1 - decay**count)) * (new - old)
