"""Layer norm, batch norm, virtual and frozen batch norm as forward and backward pairs.

All of them: y = gamma xhat + beta with xhat = (x - mean) rstd and rstd = 1 / sqrt(var + eps), the variance biased.  They
differ in the numbers that mean and variance are taken over:
    layer norm           the C numbers of a row: every row for itself (Ba et al. 2016, "Layer normalization", eq. 4)
    batch norm           the M numbers of a column (Ioffe & Szegedy 2015, "Batch normalization", alg. 1)
    virtual batch norm   the first R numbers of a column, those of a fixed reference batch that passes through the same
                         network on top of the batch (Salimans et al. 2016, "Improved techniques for training GANs",
                         section 3.5).  A row's result then does not depend on the other rows of the batch, and the
                         gradient flows through the reference rows too.  Deviation: there an example joins the reference
                         batch for its own statistics; here it does not.
    frozen batch norm    nothing: mean 0 and variance 1, what moving averages start from.  Batch norm in inference mode
                         whose averages nobody ever updated, as some fixed tasks of TaskSet have it
`x` is a matrix (M, C): for an image batch (B, H, W, C) its (B H W, C) view, so that the statistics of a channel run over
examples and positions.

Evaluation: there are no running averages and hence no other mode.  Batch norm uses the statistics of the rows it is
given on every split, as the fixed convolutional tasks of TaskSet do (task set specification 1.6): a loss is a pure
function of parameters and batch.  Where that is unwanted, because batches are small, virtual batch norm is the remedy.

gamma and beta are optional, each for itself: empty arrays leave them out.  Mean and variance are taken
in two passes, and the second corrects the first: large means cost no precision.
"""

import math

import numpy as np

from lopt.lanes import PARTIALS, kernel, lane, lanes, sync

LAYER_EPS = 1e-5  # the usual one of layer norm; batch norm has none that is usual


@kernel
def _scale_shift(xhat, gamma, beta, y):
    """y = gamma xhat + beta, rows shared out among the lanes.  No barrier."""
    m, c = xhat.shape
    for r in range(lane(), m, lanes()):
        source, target = xhat[r], y[r]
        if gamma.size == 0:
            for j in range(c):
                target[j] = source[j]
        else:
            for j in range(c):
                target[j] = gamma[j] * source[j]
        if beta.size != 0:
            for j in range(c):
                target[j] += beta[j]


@kernel
def layer_norm_fwd(x, gamma, beta, eps, xhat, rstd, y):
    """y = gamma (x - mean) rstd + beta, mean and variance of each row.

    Shapes: x (M, C); gamma, beta (C,) or empty; xhat and y (M, C) and rstd (M,) OVERWRITTEN.  xhat and rstd are for
    the backward pass.  x may be xhat.
    """
    m, c = x.shape
    zero, one, share = x.dtype.type(0.0), x.dtype.type(1.0), x.dtype.type(1.0 / c)
    for r in range(lane(), m, lanes()):
        source, target = x[r], xhat[r]
        total = x.dtype.type(0.0)
        for j in range(c):
            total += source[j]
        mean = total * share
        rest, squares = x.dtype.type(0.0), x.dtype.type(0.0)
        for j in range(c):
            target[j] = source[j] - mean
            rest += target[j]
            squares += target[j] * target[j]
        rest *= share  # what the mean lost to rounding
        variance = squares * share - rest * rest
        variance = zero if variance < zero else variance
        scale = one / x.dtype.type(math.sqrt(variance + x.dtype.type(eps)))
        for j in range(c):
            target[j] = scale * (target[j] - rest)
        rstd[r] = scale
    _scale_shift(xhat, gamma, beta, y)
    sync()


@kernel
def layer_norm_bwd(xhat, rstd, gamma, d, dgamma, dbeta, partials):
    """d, the gradient of y, becomes that of x.

    Shapes: xhat (M, C) and rstd (M,) as `layer_norm_fwd` left them; gamma (C,) or empty; d (M, C) UPDATED; dgamma,
    dbeta (C,) OVERWRITTEN or empty; scratch partials (norm_work(C),).
    """
    # y = gamma xhat + beta
    column_sums(xhat, d, d.shape[0], partials)
    _store_sums(partials, d.shape[1], dgamma, dbeta)
    m, c = d.shape
    share = d.dtype.type(1.0 / c)
    for r in range(lane(), m, lanes()):
        h, g = xhat[r], d[r]
        if gamma.size != 0:
            for j in range(c):
                g[j] *= gamma[j]
        # xhat = (x - mean) rstd
        total, moment = d.dtype.type(0.0), d.dtype.type(0.0)
        for j in range(c):
            total += g[j]
            moment += g[j] * h[j]
        total, moment, scale = total * share, moment * share, rstd[r]
        for j in range(c):
            g[j] = scale * (g[j] - total - h[j] * moment)
    sync()


@kernel
def batch_norm_fwd(x, counted, gamma, beta, eps, xhat, rstd, y, partials):
    """y = gamma (x - mean) rstd + beta, mean and variance of each column over its first `counted` rows.

    counted = M is batch norm; counted = R < M is virtual batch norm with the R rows of the reference batch on top.
    Shapes: x (M, C); gamma, beta (C,) or empty; xhat and y (M, C) and rstd (C,) OVERWRITTEN; scratch partials
    (norm_work(C),).  x may be xhat.
    """
    m, c = x.shape
    zero, one, share = x.dtype.type(0.0), x.dtype.type(1.0), x.dtype.type(1.0 / counted)
    column_sums(x, x, counted, partials)
    mean = partials[:c]  # the sums, about to become the means
    for j in range(lane(), c, lanes()):
        mean[j] *= share
    sync()
    for r in range(lane(), m, lanes()):
        source, target = x[r], xhat[r]
        for j in range(c):
            target[j] = source[j] - mean[j]
    sync()
    column_sums(xhat, xhat, counted, partials)
    rest, squares = partials[:c], partials[c : 2 * c]
    for j in range(lane(), c, lanes()):
        rest[j] *= share  # what the mean lost to rounding
        variance = squares[j] * share - rest[j] * rest[j]
        variance = zero if variance < zero else variance
        rstd[j] = one / x.dtype.type(math.sqrt(variance + x.dtype.type(eps)))
    sync()
    for r in range(lane(), m, lanes()):
        target = xhat[r]
        for j in range(c):
            target[j] = rstd[j] * (target[j] - rest[j])
    _scale_shift(xhat, gamma, beta, y)
    sync()


@kernel
def batch_norm_bwd(xhat, counted, rstd, gamma, d, dgamma, dbeta, partials):
    """d, the gradient of y, becomes that of x.

    Shapes: xhat (M, C) and rstd (C,) as `batch_norm_fwd` left them; gamma (C,) or empty; d (M, C) UPDATED; dgamma,
    dbeta (C,) OVERWRITTEN or empty; scratch partials (norm_work(C),).
    """
    # y = gamma xhat + beta
    column_sums(xhat, d, d.shape[0], partials)
    _store_sums(partials, d.shape[1], dgamma, dbeta)
    m, c = d.shape
    share = d.dtype.type(1.0 / counted)
    total, moment = partials[:c], partials[c : 2 * c]
    factor = partials[2 * c : 3 * c]
    for j in range(lane(), c, lanes()):
        factor[j] = rstd[j] if gamma.size == 0 else gamma[j] * rstd[j]
        total[j] *= share
        moment[j] *= share
    sync()
    # xhat = (x - mean) rstd; mean and rstd hear of every row, only the counted ones are heard
    for r in range(lane(), m, lanes()):
        h, g = xhat[r], d[r]
        if r < counted:
            for j in range(c):
                g[j] = factor[j] * (g[j] - total[j] - h[j] * moment[j])
        else:
            for j in range(c):
                g[j] *= factor[j]
    sync()


@kernel
def frozen_norm_fwd(x, gamma, beta, eps, xhat, y):
    """y = gamma x / sqrt(1 + eps) + beta.

    Shapes: x (M, C); gamma, beta (C,) or empty; xhat and y (M, C) OVERWRITTEN.  x may be xhat.
    """
    m, c = x.shape
    scale = x.dtype.type(1.0) / x.dtype.type(math.sqrt(x.dtype.type(1.0) + x.dtype.type(eps)))
    for r in range(lane(), m, lanes()):
        source, target = x[r], xhat[r]
        for j in range(c):
            target[j] = scale * source[j]
    _scale_shift(xhat, gamma, beta, y)
    sync()


@kernel
def frozen_norm_bwd(xhat, gamma, eps, d, dgamma, dbeta, partials):
    """d, the gradient of y, becomes that of x; shapes as in `batch_norm_bwd`."""
    # y = gamma xhat + beta
    if dgamma.size + dbeta.size > 0:
        column_sums(xhat, d, d.shape[0], partials)
        _store_sums(partials, d.shape[1], dgamma, dbeta)
    # xhat = x / sqrt(1 + eps)
    m, c = d.shape
    scale = d.dtype.type(1.0) / d.dtype.type(math.sqrt(d.dtype.type(1.0) + d.dtype.type(eps)))
    for r in range(lane(), m, lanes()):
        g = d[r]
        if gamma.size == 0:
            for j in range(c):
                g[j] *= scale
        else:
            for j in range(c):
                g[j] *= gamma[j] * scale
    sync()


@kernel
def norm_work(columns):
    """Numbers of scratch that a norm of that many columns needs."""
    return 2 * (1 + PARTIALS) * columns


@kernel
def column_sums(a, b, rows, partials):
    """partials[:C] = sums of the columns of b and partials[C:2 C] = those of a b, over the first `rows` rows.

    In 32 runs of consecutive rows that are then added in order: the same bits for any number of lanes.
    Shapes: a, b (M, C); partials (norm_work(C),) OVERWRITTEN.
    """
    c = b.shape[1]
    run = (rows + PARTIALS - 1) // PARTIALS
    for k in range(lane(), PARTIALS, lanes()):
        start = 2 * c * (1 + k)
        plain, products = partials[start : start + c], partials[start + c : start + 2 * c]
        for j in range(c):
            plain[j] = b.dtype.type(0.0)
            products[j] = b.dtype.type(0.0)
        for r in range(k * run, min((k + 1) * run, rows)):
            x, y = a[r], b[r]
            for j in range(c):
                plain[j] += y[j]
                products[j] += x[j] * y[j]
    sync()
    first, rest = partials[: 2 * c], partials[2 * c :]
    for j in range(lane(), 2 * c, lanes()):
        first[j] = b.dtype.type(0.0)
    for k in range(PARTIALS):
        part = rest[2 * c * k : 2 * c * (k + 1)]
        for j in range(lane(), 2 * c, lanes()):
            first[j] += part[j]
    sync()


@kernel
def _store_sums(partials, c, dgamma, dbeta):
    """What `column_sums` of xhat and d left are the gradients of beta and gamma."""
    for j in range(lane(), dbeta.size, lanes()):
        dbeta[j] = partials[j]
    for j in range(lane(), dgamma.size, lanes()):
        dgamma[j] = partials[c + j]
    sync()


def norm_reference(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float, axis: int, counted: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, xhat, rstd) in plain NumPy: layer norm with axis 1, (virtual) batch norm with axis 0.

    Statistics over the first `counted` entries of the axis; gamma and beta broadcast over rows, 1 and 0 leave them out.
    """
    part = x[:counted] if axis == 0 else x[:, :counted]
    mean = part.mean(axis=axis, keepdims=True)
    rstd = 1.0 / np.sqrt(((part - mean) ** 2).mean(axis=axis, keepdims=True) + eps)
    xhat = (x - mean) * rstd
    return gamma * xhat + beta, xhat, rstd


def norm_backward_reference(
    xhat: np.ndarray, rstd: np.ndarray, gamma: np.ndarray, dy: np.ndarray, axis: int, counted: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dgamma, dbeta) in plain NumPy: the chain rule over x, mean and variance, term by term."""
    g = gamma * dy
    dx = g * rstd
    dmean = -dx.sum(axis=axis, keepdims=True)
    dvar = (g * xhat).sum(axis=axis, keepdims=True) * -0.5 * rstd**2
    inside = (slice(counted), slice(None)) if axis == 0 else (slice(None), slice(counted))
    dx[inside] += dmean / counted
    dx[inside] += dvar * 2.0 * (xhat / rstd)[inside] / counted
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)
