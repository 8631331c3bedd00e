"""Objectives of the `losg` family that are functions of one vector, and of a batch of data rows.

Source: Wichrowska et al. 2017, "Learned Optimizers that Scale and Generalize", with the settings of
TaskSet (Metz et al. 2020); task set specification 4.1.

Every kernel takes (x, grad, data, [rows,] work, with_grad) and returns the loss as float64:
    x, grad  (N,)  parameters; gradient, OVERWRITTEN if with_grad, else untouched
    data     TaskData whose `sizes` and `hyper` begin with the objective's own entries
    work     scratch, as many elements as each docstring says
Sums over a batch are sums, not means.
"""

import math

import numpy as np

from lopt.lanes import PARTIALS, kernel, lane, lanes, matmul, sum32, sync
from lopt.ops.elementary import cos, sin
from lopt.tasks.quadratic import squared_norm

EPS = 1e-6  # the published guard of divisions, powers and logarithms
TINY = 1e-12  # added to losses whose published minimum is "0, but not quite"


@kernel
def residual(w, y, x, d):
    """d = w x - y; w (n, n); y, x and d (n,), d OVERWRITTEN."""
    n = x.size
    matmul(w, x.reshape(n, 1), d.reshape(n, 1))
    for i in range(lane(), n, lanes()):
        d[i] -= y[i]
    sync()


@kernel
def quadratic_loss(x, grad, data, work, with_grad):
    """|W x - y|^2 / 2.  data.floats: W (n, n), y (n,).  work: d (n,) | partials (32,)."""
    n = x.size
    w, d = data.floats[: n * n].reshape(n, n), work[:n]
    residual(w, data.floats[n * n :], x, d)
    f = np.float64(0.5) * np.float64(squared_norm(d, work[n : n + PARTIALS]))
    if with_grad:
        # f = |d|^2 / 2, d = W x - y: dx = W^T d
        matmul(w.T, d.reshape(n, 1), grad.reshape(n, 1))
    return f


@kernel
def absolute_extremes(x, low, high):
    """(min |x_i|, max |x_i|), NaN if an element is; low and high (32,) scratch."""
    n = x.size
    for k in range(lane(), PARTIALS, lanes()):
        low[k] = high[k] = abs(x[0])
        for i in range(k, n, PARTIALS):
            a = abs(x[i])
            if not a >= low[k] and low[k] == low[k]:  # a NaN comes in and stays
                low[k] = a
            if not a <= high[k] and high[k] == high[k]:
                high[k] = a
    sync()
    lowest, highest = low[0], high[0]
    for k in range(1, PARTIALS):
        if not low[k] >= lowest and lowest == lowest:
            lowest = low[k]
        if not high[k] <= highest and highest == highest:
            highest = high[k]
    sync()
    return lowest, highest


@kernel
def norm_loss(x, grad, data, work, with_grad):
    """(sum_i a_i^p)^(1/p), a = |W x - y| + 1e-6.

    data.hyper: p.  data.floats: W (n, n), y (n,).  work: d (n,) | powers (n,) | partials (64,).
    Powers are float64 and of a / max a, so that neither p = 5 nor the exponent 1/p = 10 overflows
    or loses digits: with S = sum (a / max a)^p, 1 <= S <= n, the loss is max a S^(1/p).
    """
    n = x.size
    d, powers, partials = work[:n], work[n : 2 * n], work[2 * n : 2 * n + PARTIALS]
    cast = x.dtype.type
    p = np.float64(data.hyper[0])
    w = data.floats[: n * n].reshape(n, n)
    residual(w, data.floats[n * n :], x, d)
    _, top = absolute_extremes(d, partials, work[2 * n + PARTIALS : 2 * n + 2 * PARTIALS])
    top = np.float64(top) + EPS
    for i in range(lane(), n, lanes()):
        t = (abs(np.float64(d[i])) + EPS) / top
        powers[i] = cast(math.pow(t, p))
        # f = (sum a^p)^(1/p): da = S^(1/p - 1) t^(p - 1), dd = sign(d) da
        slope = math.pow(t, p - 1.0)
        d[i] = cast(math.copysign(slope, d[i]) if d[i] != 0 else 0.0)
    sync()
    s = np.float64(sum32(powers, n, partials))
    if with_grad:
        matmul(w.T, d.reshape(n, 1), grad.reshape(n, 1))
        factor = math.pow(s, 1.0 / p - 1.0)
        for i in range(lane(), n, lanes()):
            grad[i] = cast(factor * np.float64(grad[i]))
        sync()
    return top * math.pow(s, 1.0 / p)


@kernel
def dependency_chain_loss(x, grad, work, with_grad):
    """n x_0^2 + sum_i x_i^2 / (x_{i-1}^2 + 1e-6), n = N - 1.  work: terms (n,) | partials (32,)."""
    n = x.size - 1
    eps, two, count = x.dtype.type(EPS), x.dtype.type(2.0), x.dtype.type(n)
    terms, before, here = work[:n], x[:n], x[1:]
    for i in range(lane(), n, lanes()):
        terms[i] = here[i] * here[i] / (before[i] * before[i] + eps)
    sync()
    chain = np.float64(sum32(terms, n, work[n : n + PARTIALS]))
    if with_grad:
        after = grad[1:]
        # terms_i = x_i^2 / q, q = x_{i-1}^2 + eps: dx_i = 2 x_i / q, dx_{i-1} = -2 x_{i-1} terms_i / q
        for i in range(lane(), n, lanes()):
            after[i] = two * here[i] / (before[i] * before[i] + eps)
        if lane() == 0:
            grad[0] = two * count * x[0]
        sync()
        for i in range(lane(), n, lanes()):
            grad[i] -= two * before[i] * terms[i] / (before[i] * before[i] + eps)
        sync()
    first = np.float64(x[0])
    return np.float64(n) * first * first + chain


@kernel
def min_max_well_loss(x, grad, work, with_grad):
    """max x^2 + 1 / min x^2 - 2 + 1e-12.  work: is_low (n,) | is_high (n,) | partials (64,).

    Only the extreme coordinates have a gradient; ties share it equally.  A coordinate of 0 makes
    the loss infinite.
    """
    n = x.size
    cast = x.dtype.type
    is_low, is_high = work[:n], work[n : 2 * n]
    partials = work[2 * n : 2 * n + PARTIALS]
    low, high = absolute_extremes(x, partials, work[2 * n + PARTIALS : 2 * n + 2 * PARTIALS])
    a, b = np.float64(low), np.float64(high)
    if with_grad:
        for i in range(lane(), n, lanes()):
            is_low[i] = cast(1.0 if abs(x[i]) == low else 0.0)
            is_high[i] = cast(1.0 if abs(x[i]) == high else 0.0)
        sync()
        lows = np.float64(sum32(is_low, n, partials))
        highs = np.float64(sum32(is_high, n, partials))
        # f = max x^2 + 1 / min x^2: dx = 2 x / ties at the maximum, -2 / x^3 / ties at the minimum
        for i in range(lane(), n, lanes()):
            v = np.float64(x[i])
            g = 0.0 if a == a else a  # a NaN anywhere is a NaN everywhere
            if is_high[i] > 0:
                g += 2.0 * v / highs
            if is_low[i] > 0:
                g -= 2.0 / (v * v * v) / lows
            grad[i] = cast(g)
        sync()
    return b * b + 1.0 / (a * a) - 2.0 + TINY


@kernel
def batch_moments(examples, rows, sums, squares):
    """Column sums of a batch and of its squares; sums and squares (n,) OVERWRITTEN."""
    n = sums.size
    zero = sums.dtype.type(0.0)
    for j in range(lane(), n, lanes()):
        sums[j] = zero
        squares[j] = zero
    for r in range(rows.size):
        start = rows[r] * n
        row = examples[start : start + n]
        for j in range(lane(), n, lanes()):
            sums[j] += row[j]
            squares[j] += row[j] * row[j]
    sync()


@kernel
def sum_of_quadratics_loss(x, grad, data, rows, work, with_grad):
    """sum_b (|x - d_b|^2 - |d_b|^2) + 1e-12, d_b a row of data.floats.

    work: sums (n,) | squares (n,) | terms (n,) | partials (32,).
    """
    n = x.size
    sums, squares, terms = work[:n], work[n : 2 * n], work[2 * n : 3 * n]
    batch, two = x.dtype.type(rows.size), x.dtype.type(2.0)
    batch_moments(data.floats, rows, sums, squares)
    for j in range(lane(), n, lanes()):
        terms[j] = x[j] * (batch * x[j] - two * sums[j])
    sync()
    f = np.float64(sum32(terms, n, work[3 * n : 3 * n + PARTIALS])) + TINY
    if with_grad:
        # f = sum_j x_j (B x_j - 2 sum_b d_bj)
        for j in range(lane(), n, lanes()):
            grad[j] = two * (batch * x[j] - sums[j])
        sync()
    return f


@kernel
def projection_quadratic_loss(x, grad, data, rows, work, with_grad):
    """sum_b sum_j (x_j d_bj)^2.  work: as `sum_of_quadratics_loss`."""
    n = x.size
    sums, squares, terms = work[:n], work[n : 2 * n], work[2 * n : 3 * n]
    two = x.dtype.type(2.0)
    batch_moments(data.floats, rows, sums, squares)
    for j in range(lane(), n, lanes()):
        terms[j] = x[j] * x[j] * squares[j]
    sync()
    f = np.float64(sum32(terms, n, work[3 * n : 3 * n + PARTIALS]))
    if with_grad:
        # f = sum_j x_j^2 sum_b d_bj^2
        for j in range(lane(), n, lanes()):
            grad[j] = two * x[j] * squares[j]
        sync()
    return f


@kernel
def outward_snake_loss(x, grad, data, rows, work, with_grad):
    """sum_b d_b0 / (|x| + 1e-6) + sum_b sum_i (x_{i+1} - pi cos x_i)^2 d_{b,i+1}^2.

    work: sums (n,) | squares (n,) | bends (n,) | terms (n,) | partials (32,).
    """
    n = x.size
    sums, squares, bends, terms = (
        work[:n],
        work[n : 2 * n],
        work[2 * n : 3 * n],
        work[3 * n : 4 * n],
    )
    partials = work[4 * n : 4 * n + PARTIALS]
    cast = x.dtype.type
    pi, two = cast(math.pi), cast(2.0)
    batch_moments(data.floats, rows, sums, squares)
    after, weights = x[1:], squares[1:]
    for i in range(lane(), n - 1, lanes()):
        bends[i] = after[i] - pi * cos(x[i])
        terms[i] = bends[i] * bends[i] * weights[i]
    sync()
    path = np.float64(sum32(terms, n - 1, partials))
    radius = math.sqrt(np.float64(squared_norm(x, partials)))
    pull, reach = np.float64(sums[0]), radius + EPS
    if with_grad:
        # pull / (radius + eps): dx = -pull x / (radius (radius + eps)^2), taken as 0 at x = 0
        inward = cast(-pull / (radius * reach * reach) if radius != 0.0 else 0.0)
        for i in range(lane(), n, lanes()):
            grad[i] = inward * x[i]
        sync()
        # bends_i^2 w_i, bends_i = x_{i+1} - pi cos x_i: dx_i = 2 bends_i w_i pi sin x_i
        for i in range(lane(), n - 1, lanes()):
            grad[i] += two * bends[i] * weights[i] * pi * sin(x[i])
        sync()
        ahead = grad[1:]
        # ... and dx_{i+1} = 2 bends_i w_i
        for i in range(lane(), n - 1, lanes()):
            ahead[i] += two * bends[i] * weights[i]
        sync()
    return pull / reach + path
