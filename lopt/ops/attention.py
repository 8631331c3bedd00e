"""Scaled dot-product attention of many heads, forward and backward (Vaswani et al. 2017, "Attention is all you need",
section 3.2.1).

    out_i = sum_j p_ij v_j,   p_i = softmax over j of q_i . k_j / sqrt(K),   j <= i only if causal

A group is one head of one example: B H groups, each with T positions and K numbers per position, its q, k, v and out
contiguous (T, K) matrices one after the other, so that every product is a matrix product.

Dropout of weights (`lopt.ops.dropout`) multiplies p_ij by its own factor before the sum over j.

Probabilities are kept transposed, probs[group, j, i] = p_ij: sums over j then run side by side for all i, which fills
the vector unit and gives the same bits for any number of lanes without partial sums.
"""

import math

import numpy as np

from lopt.lanes import kernel, lane, lanes, matmul, single_use, sync
from lopt.ops.dropout import thinned
from lopt.ops.elementary import exp


@kernel
def split_heads(x, batch, heads, first, out):
    """out[b, h, t, :] = x[b T + t, first + h K : first + (h + 1) K], columns of a matrix as groups.

    Shapes: x (B T, any >= first + H K); out (B H T K,) OVERWRITTEN.
    """
    m = x.shape[0]
    length = m // batch
    key = out.size // (m * heads)
    for b in range(batch):
        for h in range(heads):
            group = out[(b * heads + h) * length * key : (b * heads + h + 1) * length * key]
            start = first + h * key
            for t in range(lane(), length, lanes()):
                source = x[b * length + t, start : start + key]
                target = group[t * key : (t + 1) * key]
                for j in range(key):
                    target[j] = source[j]
    sync()


@kernel
def merge_heads(groups, batch, heads, first, x):
    """The inverse of `split_heads`: columns first .. first + H K of x OVERWRITTEN."""
    m = x.shape[0]
    length = m // batch
    key = groups.size // (m * heads)
    for b in range(batch):
        for h in range(heads):
            group = groups[(b * heads + h) * length * key : (b * heads + h + 1) * length * key]
            start = first + h * key
            for t in range(lane(), length, lanes()):
                target = x[b * length + t, start : start + key]
                source = group[t * key : (t + 1) * key]
                for j in range(key):
                    target[j] = source[j]
    sync()


@kernel
def _column_softmax(p, scale, causal, top, total):
    """Each column i of p becomes the softmax of scale times its first i + 1 (causal) or all numbers; the rest is 0.

    Shapes: p (T, T) UPDATED; scratch top, total (T,).  Every lane has columns of its own.  NaN in, NaN out.
    """
    n = p.shape[0]
    zero, one = p.dtype.type(0.0), p.dtype.type(1.0)
    for i in range(lane(), n, lanes()):
        top[i] = p[0, i]
        total[i] = zero
    for j in range(1, n):
        first = j if causal != 0 else 0  # queries before it do not see key j
        row, high = p[j, first:], top[first:]
        for i in range((lane() - first) % lanes(), row.size, lanes()):
            high[i] = max(high[i], row[i])
    for j in range(n):
        first = j if causal != 0 else 0
        row, high, sums = p[j, first:], top[first:], total[first:]
        for i in range((lane() - first) % lanes(), row.size, lanes()):
            row[i] = exp(scale * (row[i] - high[i]))
            sums[i] += row[i]
    for i in range(lane(), n, lanes()):
        total[i] = one / total[i]
    for j in range(n):
        first = j if causal != 0 else 0
        row, sums, unseen = p[j, first:], total[first:], p[j, :first]
        for i in range((lane() - first) % lanes(), row.size, lanes()):
            row[i] *= sums[i]
        for i in range(lane(), first, lanes()):
            unseen[i] = zero
    sync()


@single_use
def attention_fwd(q, k, v, groups, length, causal, out, probs, scratch, noise, first):
    """Shapes: q, k, v (G T K,); out (G T K,), probs (G T T,) OVERWRITTEN; scratch (2 T + T T,).

    noise: a `Dropout`; number i of probs meets its uniform number first + i.
    """
    key = q.size // (groups * length)
    n, square = length * key, length * length
    scale = q.dtype.type(1.0 / math.sqrt(key))
    for g in range(groups):
        flat = probs[g * square : (g + 1) * square]
        p = flat.reshape(length, length)
        # p^T = k q^T
        matmul(
            k[g * n : (g + 1) * n].reshape(length, key),
            q[g * n : (g + 1) * n].reshape(length, key).T,
            p,
        )
        _column_softmax(p, scale, causal, scratch[:length], scratch[length : 2 * length])
        room = scratch[2 * length : 2 * length + square]
        left = thinned(flat, noise.attention_keep, noise, first + g * square, room)
        # out = p v
        matmul(
            left.reshape(length, length).T,
            v[g * n : (g + 1) * n].reshape(length, key),
            out[g * n : (g + 1) * n].reshape(length, key),
        )


@single_use
def attention_bwd(q, k, v, probs, dout, groups, length, dq, dk, dv, scratch, noise, first):
    """dq, dk, dv OVERWRITTEN with the gradients, given that of out.

    Shapes: all as in `attention_fwd`; probs as it left them; scratch (2 T T + T,).
    """
    key = q.size // (groups * length)
    n, square = length * key, length * length
    scale = q.dtype.type(1.0 / math.sqrt(key))
    slopes, room = scratch[:square], scratch[square : 2 * square]
    inner, keep = scratch[2 * square : 2 * square + length], noise.attention_keep
    for g in range(groups):
        part, here = slice(g * n, (g + 1) * n), first + g * square
        flat = probs[g * square : (g + 1) * square]
        p, d = flat.reshape(length, length), dout[part].reshape(length, key)
        # out = p v
        left = thinned(flat, keep, noise, here, room)
        matmul(left.reshape(length, length), d, dv[part].reshape(length, key))
        matmul(v[part].reshape(length, key), d.T, slopes.reshape(length, length))
        ds = thinned(slopes, keep, noise, here, room).reshape(length, length)
        # p = softmax(scale s): ds = scale p (dp - sum_j p_j dp_j)
        for i in range(lane(), length, lanes()):
            inner[i] = q.dtype.type(0.0)
        for j in range(length):
            row, weight = ds[j], p[j]
            for i in range(lane(), length, lanes()):
                inner[i] += weight[i] * row[i]
        for j in range(length):
            row, weight = ds[j], p[j]
            for i in range(lane(), length, lanes()):
                row[i] = scale * weight[i] * (row[i] - inner[i])
        # s = q k^T
        matmul(ds.T, k[part].reshape(length, key), dq[part].reshape(length, key))
        matmul(ds, q[part].reshape(length, key), dk[part].reshape(length, key))


def attention_reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool, mask: np.ndarray | float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """(out, p) in plain NumPy; q, k, v (B, T, H, K); mask (B, H, T, T), what dropout multiplies p by."""
    scores = np.einsum("bihk,bjhk->bhij", q, k) / math.sqrt(q.shape[-1])
    if causal:
        i = np.arange(q.shape[1])
        scores = np.where(i[:, None] >= i, scores, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return np.einsum("bhij,bjhk->bihk", p * mask, v), p


def attention_backward_reference(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    p: np.ndarray,
    dout: np.ndarray,
    mask: np.ndarray | float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dq, dk, dv) in plain NumPy, with the Jacobian of the softmax written out."""
    dv = np.einsum("bhij,bihk->bjhk", p * mask, dout)
    dp = np.einsum("bihk,bjhk->bhij", dout, v) * mask
    jacobian = np.einsum("bhij,jl->bhijl", p, np.eye(p.shape[-1]))
    jacobian -= np.einsum("bhij,bhil->bhijl", p, p)
    ds = np.einsum("bhijl,bhil->bhij", jacobian, dp) / math.sqrt(q.shape[-1])
    dq, dk = np.einsum("bhij,bjhk->bihk", ds, k), np.einsum("bhij,bihk->bjhk", ds, q)
    return dq, dk, dv
