"""What `adafac_mlp` looks at: accumulators, factored second moments, inputs per parameter.

Of a factored tensor's 28 inputs twelve are the same for all parameters of a row or of a column: the means and their
inverse roots.  They enter the first layer as a bias per row and a bias per column; 16 inputs are left, and those are
products (`adafac_factored.py`).  Of a tensor that is not factored six inputs occur twice: 22 are left, those six with
the sum of both weights.
"""

import math
from typing import NamedTuple

import numpy as np

from lopt.arch.factored import COLUMNS, Runs, factored_moments, mean_squares, spread
from lopt.arch.per_parameter import TINY
from lopt.lanes import kernel, lane, lanes, sync

N_DECAYS = 3  # momenta, and factored second moments; one full second moment beside them
DECAYS = 2 * N_DECAYS + 1
N_FEATURES = 28
FACTORED, FULL = 16, 22  # of them, those that differ between parameters
VECTORS = 2  # derived from each factored moment: its factor and 1 / sqrt(moment + 1e-8)
TABLE = COLUMNS + 4  # columns per tensor: as in factored.py, then its runs


class Tensor(NamedTuple):
    """One tensor: its place, and how its second moment is factored."""

    offset: int
    size: int
    own: int  # place of its moments among those of all tensors
    n_rows: int  # row means; 0 if not factored
    n_moments: int  # row and column means, or the full moment
    runs: Runs


class Moments(NamedTuple):
    """Second moments of one tensor, row means before column means; for each decay, and what is derived from them."""

    values: (
        np.ndarray
    )  # (3, any): the state's, of which a tensor's own are [:, own : own + n_moments]
    factors: np.ndarray  # (3, any)
    inverses: np.ndarray  # (3, any)


@kernel
def tensor_of(table, at):
    """The Tensor that starts at an entry of the table."""
    rest, factored = table[at + 7] * table[at + 9], table[at + 2] != 0
    n_rows = rest * table[at + 5] if factored else 0
    n_moments = n_rows + rest * table[at + 3] if factored else table[at + 1]
    end = at + COLUMNS
    runs = Runs(table[end], table[end + 1], table[end + 2], table[end + 3])
    return Tensor(table[at], table[at + 1], table[at + 11], n_rows, n_moments, runs)


@kernel
def update_accumulators(grad, state, decays, start, count):
    """m_k <- d_k m_k + (1 - d_k) g, v <- d v + (1 - d) g^2 for `count` parameters; decays (7, 2): of m (3), of v, others."""
    n, cast = grad.size, grad.dtype.type
    g = grad[start : start + count]
    tiny, zero = cast(TINY), cast(0.0)
    for k in range(N_DECAYS):
        mk, d = state[k * n + start : k * n + start + count], decays[k, 0]
        a = decays[k, 1]
        for i in range(lane(), count, lanes()):
            new = d * mk[i] + a * g[i]
            mk[i] = new if abs(new) > tiny else zero
    v, d = state[N_DECAYS * n + start : N_DECAYS * n + start + count], decays[N_DECAYS, 0]
    a = decays[N_DECAYS, 1]
    for i in range(lane(), count, lanes()):
        new = d * v[i] + a * (g[i] * g[i])
        v[i] = new if new > tiny else zero
    sync()


@kernel
def new_moments(fresh, grad, table, at, tensor, starts, partials):
    """fresh = row and column means of g^2 + 1e-30 of one tensor, or all of it if not factored."""
    cast = grad.dtype.type
    eps, g = cast(1e-30), grad[tensor.offset : tensor.offset + tensor.size]
    if tensor.n_rows > 0:
        rows, columns = fresh[: tensor.n_rows], fresh[tensor.n_rows : tensor.n_moments]
        if tensor.runs.row_step + tensor.runs.column_step == 1:
            mean_squares(rows, columns, grad, tensor.runs, starts, tensor.offset, eps, partials)
        else:
            for i in range(lane(), tensor.n_moments, lanes()):
                fresh[i] = cast(0.0)
            sync()
            factored_moments(grad, rows, columns, table, at, cast(0.0), eps, tensor.offset)
    else:
        for i in range(lane(), tensor.size, lanes()):
            fresh[i] = g[i] * g[i] + eps
        sync()


@kernel
def mix_moments(moments, fresh, decay):
    """moments <- d moments + (1 - d) fresh; decay = (d, 1 - d)."""
    d, a = decay[0], decay[1]
    for i in range(lane(), moments.size, lanes()):
        moments[i] = d * moments[i] + a * fresh[i]
    sync()


@kernel
def derive(factors, inverses, moments, n_rows, nb):
    """Per row and column mean, what features need: factors, and inverses = 1 / sqrt(moment + 1e-8).

    Factor of a row: 1 / sqrt(max(row / (mean of the rows over axis b + 1e-9), 1e-9)), of a column
    1 / sqrt(max(column, 1e-9)).  nb: length of axis b, along which rows are contiguous.
    """
    cast = moments.dtype.type
    one, floor = cast(1.0), cast(1e-9)
    for i in range(lane(), moments.size, lanes()):
        inverses[i] = one / math.sqrt(moments[i] + cast(1e-8))
    for i in range(n_rows + lane(), moments.size, lanes()):
        factors[i] = one / math.sqrt(max(moments[i], floor))
    for r in range(lane(), n_rows // nb, lanes()):
        mean = cast(0.0)
        for j in range(nb):
            mean += moments[r * nb + j]
        mean = mean / cast(nb) + floor
        for j in range(nb):
            factors[r * nb + j] = one / math.sqrt(max(moments[r * nb + j] / mean, floor))
    sync()


@kernel
def adam_like_features(rows, count, params, grad, m, v, offset):
    """Rows 0-9: g, w, m (3), v, m / sqrt(v + 1e-6) (3), 1 / sqrt(v + 1e-6)."""
    n = params.size
    one, eps = params.dtype.type(1.0), params.dtype.type(1e-6)
    w, g, u = (
        params[offset : offset + count],
        grad[offset : offset + count],
        v[offset : offset + count],
    )
    row_g, row_w, row_v, row_inverse = rows[0], rows[1], rows[5], rows[9]
    for i in range(lane(), count, lanes()):
        row_g[i] = g[i]
        row_w[i] = w[i]
    for i in range(lane(), count, lanes()):
        row_v[i] = u[i]
        row_inverse[i] = one / math.sqrt(u[i] + eps)
    for k in range(N_DECAYS):
        row_m, row_normalised = rows[2 + k], rows[6 + k]
        mk = m[k * n + offset : k * n + offset + count]
        for i in range(lane(), count, lanes()):
            row_m[i] = mk[i]
            row_normalised[i] = mk[i] * row_inverse[i]
    sync()


@kernel
def spread_over_block(block, values, own, tensor, starts, start, count, product):
    """block[k, i] = values[k, r_i] * values[k, c_i], or their sum, for `count` parameters from `start`, run by run.

    Shapes: block (K, >= count), values (>= K, any): from `own` on the tensor's row means, then its column means.
    """
    runs = tensor.runs
    first = start - tensor.offset
    run = first // runs.length
    i, j, at = 0, first - run * runs.length, 2 * (runs.first + run)
    while i < count:
        end = min(count, i + runs.length - j)
        row = own + starts[at] + j * runs.row_step
        column = own + tensor.n_rows + starts[at + 1] + j * runs.column_step
        spread(block, i, values, row, column, end - i, runs, product)
        i, j, at = end, 0, at + 2
    sync()


@kernel
def full_features(rows, count, k, moments):
    """The same of decay k for a tensor with fewer than two axes; rows 16-18: moments, 19-21: 1 / sqrt of them."""
    cast = rows.dtype.type
    one, small, floor, eps = cast(1.0), cast(1e-8), cast(1e-9), cast(1e-6)
    g, m = rows[0], rows[2 + k]
    row_g, row_m, row_moment, row_inverse = rows[10 + k], rows[13 + k], rows[16 + k], rows[19 + k]
    for i in range(lane(), count, lanes()):
        moment = moments[i]
        row_g[i] = g[i] / math.sqrt(max(moment + floor, floor))
        row_m[i] = m[i] / math.sqrt(moment + eps)
    for i in range(lane(), count, lanes()):
        row_moment[i] = moments[i]
        row_inverse[i] = one / math.sqrt(moments[i] + small)
    sync()


@kernel
def features(rows, count, params, grad, state, moments, tensor, start):
    """The 22 rows of `count` parameters from `start` of a tensor that is not factored."""
    adam_like_features(rows, count, params, grad, state, state[N_DECAYS * params.size :], start)
    first = tensor.own + start - tensor.offset
    for k in range(N_DECAYS):
        full_features(rows, count, k, moments.values[k, first : first + count])


@kernel
def update_tensor_moments(grad, moments, fresh, table, at, tensor, starts, decays, partials):
    """Second moments of one tensor for all decays, and what is derived from them."""
    new_moments(fresh, grad, table, at, tensor, starts, partials)
    begin, end = tensor.own, tensor.own + tensor.n_moments
    for k in range(N_DECAYS):
        own = moments.values[k, begin:end]
        mix_moments(own, fresh, decays[N_DECAYS + 1 + k])
        if tensor.n_rows > 0:
            factors, inverses = moments.factors[k, begin:end], moments.inverses[k, begin:end]
            derive(factors, inverses, own, tensor.n_rows, table[at + 5])
