"""Second moments kept as row and column means over the two largest axes of a tensor (Shazeer & Stern 2018)."""

import math
from typing import NamedTuple

import numpy as np

from lopt.lanes import PARTIALS, add_row_squares, kernel, lane, lanes, sync
from lopt.stretches import outer_products, outer_sums

COLUMNS = 12  # offset, size, factored, na, stride_a, nb, stride_b, n1, stride_1, n2, stride_2, state offset


@kernel
def factored_moments(grad, rows, columns, table, at, beta, eps, offset):
    """Update the means of g^2 + eps over axis a (`rows`) and over axis b (`columns`) of one tensor."""
    cast = grad.dtype.type
    na, sa, nb, sb = table[at + 3], table[at + 4], table[at + 5], table[at + 6]
    n1, s1, n2, s2 = table[at + 7], table[at + 8], table[at + 9], table[at + 10]
    mix = cast(1.0) - beta
    for r in range(lane(), n1 * n2 * nb, lanes()):
        rest, j = r // nb, r % nb
        base = offset + (rest // n2) * s1 + (rest % n2) * s2 + j * sb
        s = cast(0.0)
        for i in range(na):
            g = grad[base + i * sa]
            s += g * g + eps
        rows[r] = beta * rows[r] + mix * (s / cast(na))
    for r in range(lane(), n1 * n2 * na, lanes()):
        rest, i = r // na, r % na
        base = offset + (rest // n2) * s1 + (rest % n2) * s2 + i * sa
        s = cast(0.0)
        for j in range(nb):
            g = grad[base + j * sb]
            s += g * g + eps
        columns[r] = beta * columns[r] + mix * (s / cast(nb))
    sync()


class Runs(NamedTuple):
    """A tensor as runs: neighbours in memory along its last axis, whose row and column means advance evenly.

    Which means belong to a parameter is known for a whole run, so nothing is looked up for single parameters.
    """

    length: int
    row_step: int  # from one parameter to the next: 0 stays at a mean, 1 goes on to its neighbour
    column_step: int
    first: int  # place of (row, column) of the first run's first parameter among all `starts`


@kernel
def mean_squares(rows, columns, grad, runs, starts, offset, eps, partials):
    """`factored_moments` with beta = 0, in the order of memory, for runs along one of the two largest axes.

    Scratch: partials (any, 32).
    """
    cast = grad.dtype.type
    length, along_rows = runs.length, runs.row_step == 1
    sums, means = (rows, columns) if along_rows else (columns, rows)
    at = 2 * runs.first
    to_sum, to_mean = (at, at + 1) if along_rows else (at + 1, at)
    for i in range(lane(), sums.size, lanes()):
        sums[i] = cast(0.0)
    sync()
    for q in range(means.size):
        start = offset + q * length
        g, own = grad[start : start + length], sums[starts[to_sum + 2 * q] :]
        for i in range(lane(), length, lanes()):
            own[i] += g[i] * g[i]
    sync()
    for i in range(lane(), sums.size, lanes()):
        sums[i] = sums[i] / cast(means.size * length // sums.size) + eps
    several = partials.shape[0] if length > PARTIALS else means.size
    for first in range(0, means.size, several):
        count = min(several, means.size - first)
        start = offset + first * length
        tile = grad[start : start + count * length].reshape(count, length)
        if length > PARTIALS:
            for r in range(count):
                for k in range(lane(), PARTIALS, lanes()):
                    partials[r, k] = cast(0.0)
            add_row_squares(tile, length, partials[:count])
            sync()
        for r in range(lane(), count, lanes()):
            s = cast(0.0)
            if length > PARTIALS:
                for k in range(PARTIALS):
                    s += partials[r, k]
            else:
                for i in range(length):
                    s += tile[r, i] * tile[r, i]
            means[starts[to_mean + 2 * (first + r)]] = s / cast(length) + eps
        sync()


@kernel
def spread(target, start, values, row, column, n, runs, product):
    """target[k, start + i] = values[k, r_i] * values[k, c_i], or their sum, for n neighbours of one run.  No barrier.

    row, column: places of the first one's row and column in every row of `values`.
    """
    if runs.row_step + runs.column_step == 1:
        fixed, moving = (column, row) if runs.row_step == 1 else (row, column)
        if product:
            outer_products(target, start, values, fixed, moving, n)
        else:
            outer_sums(target, start, values, fixed, moving, n)
        return
    for k in range(target.shape[0]):
        for i in range(lane(), n, lanes()):
            a = values[k, row + i * runs.row_step]
            b = values[k, column + i * runs.column_step]
            target[k, start + i] = a * b if product else a + b


def runs_of(
    shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[tuple[int, int, int], np.ndarray]:
    """(length, row step, column step) of a tensor's runs, and (runs, 2) where each one's row and column means start."""
    size = math.prod(shape)
    na, sa, nb, sb, n1, s1, n2, s2 = axes
    steps = {(na, sa): (0, 1), (nb, sb): (1, 0), (n1, s1): (n2 * nb, n2 * na), (n2, s2): (nb, na)}
    length, step = next(((n, at) for (n, s), at in steps.items() if s == 1 and n > 1), (1, (0, 0)))
    first = np.arange(0, size, length)
    a, b, c, d = ((first // max(s, 1)) % n for n, s in ((na, sa), (nb, sb), (n1, s1), (n2, s2)))
    rest = c * n2 + d
    return (length, *step), np.stack([rest * nb + b, rest * na + a], axis=1)


def factoring(shape: tuple[int, ...], skip_unit_axes: bool = False) -> tuple[int, ...] | None:
    """(na, stride_a, nb, stride_b, n1, stride_1, n2, stride_2): the largest axis, the second largest, the other two.

    Of equal axes the later counts as larger.  None for tensors with fewer than two axes (with
    `skip_unit_axes`: longer than 1), or more than four, which keep their full second moment.
    """
    long = sum(d > 1 for d in shape) if skip_unit_axes else len(shape)
    if long < 2 or len(shape) > 4:
        return None
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    order = sorted(range(len(shape)), key=lambda i: (shape[i], i), reverse=True)
    axes = [(shape[i], strides[i]) for i in order] + [(1, 0)] * (4 - len(shape))
    return tuple(x for axis in axes for x in axis)
