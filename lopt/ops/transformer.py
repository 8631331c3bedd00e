"""Pre-norm residual blocks of transformers and mixers, forward and backward.

    attention part     x += drop(heads(norm(x) wqkv + bqkv) wo + bo)
    feed-forward part  x += drop(gelu(norm(x) w1 + b1) w2 + b2)

drop is dropout (`lopt.ops.dropout`), as Vaswani et al. 2017, section 5.4, have it; heads drop attention weights too.

Sizes: B examples of T positions, M = B T rows of width D; H heads of K numbers, A = H K; F hidden units.  The three
projections of the attention share one tensor (D, 3 A), columns q | k | v: one large product instead of three.

A part's parameters are a flat slice in the order of `attention_tensors` or `feed_forward_tensors`; its `saved` slice
keeps what the backward pass needs and must survive until then; `work` is scratch; dropout takes the uniforms of `noise`
from number `first` on.  In the backward pass d (M, D) is the gradient of the part's result and becomes that of its input.
"""

from typing import Any

import numpy as np

from lopt.lanes import kernel, lane, lanes, single_use, sync
from lopt.ops.attention import (
    attention_backward_reference,
    attention_bwd,
    attention_fwd,
    attention_reference,
    merge_heads,
    split_heads,
)
from lopt.ops.dense import dense_bwd, dense_bwd_input, dense_fwd
from lopt.ops.dropout import thinned
from lopt.ops.gelu import gelu_bwd, gelu_fwd, gelu_reference
from lopt.ops.norm import (
    LAYER_EPS,
    layer_norm_bwd,
    layer_norm_fwd,
    norm_backward_reference,
    norm_reference,
    norm_work,
)

Tensors = list[tuple[str, tuple[int, ...]]]
Views = dict[str, np.ndarray]
Mask = np.ndarray | float


def norm_tensors(width: int, prefix: str = "") -> Tensors:
    """Names and shapes of the parameters of a norm."""
    return [(f"{prefix}gamma", (width,)), (f"{prefix}beta", (width,))]


def attention_tensors(width: int, inner: int, prefix: str = "") -> Tensors:
    """Names and shapes of the parameters of an attention part, inner = A."""
    return [
        *norm_tensors(width, f"{prefix}attn_"),
        (f"{prefix}wqkv", (width, 3 * inner)),
        (f"{prefix}bqkv", (3 * inner,)),
        (f"{prefix}wo", (inner, width)),
        (f"{prefix}bo", (width,)),
    ]


def feed_forward_tensors(width: int, hidden: int, prefix: str = "") -> Tensors:
    """Names and shapes of the parameters of a feed-forward part."""
    return [
        *norm_tensors(width, f"{prefix}mlp_"),
        (f"{prefix}w1", (width, hidden)),
        (f"{prefix}b1", (hidden,)),
        (f"{prefix}w2", (hidden, width)),
        (f"{prefix}b2", (width,)),
    ]


@kernel
def attention_params(width, inner):
    """Numbers in the parameters of an attention part."""
    return 2 * width + (width + 1) * 3 * inner + (inner + 1) * width


@kernel
def feed_forward_params(width, hidden):
    """Numbers in the parameters of a feed-forward part."""
    return 2 * width + (width + 1) * hidden + (hidden + 1) * width


@kernel
def attention_saved(batch, length, width, heads, inner):
    """Numbers that an attention part saves: norm | q k v of the groups | probabilities | their results."""
    m = batch * length
    return m * (2 * width + 1) + 4 * m * inner + batch * heads * length * length


@kernel
def feed_forward_saved(m, width, hidden):
    """Numbers that a feed-forward part saves: norm | hidden units before and after the activation."""
    return m * (2 * width + 1) + 2 * m * hidden


def parts_work(m, length, width, inner, hidden):
    """Numbers of scratch that both parts need, forward and backward."""
    heads = 6 * m * inner + 2 * length * length + length
    skip = max(3 * inner, hidden, width) * m + m * width + norm_work(width)
    return max(heads, skip)


@kernel
def add_into(y, x):
    """y += x.  Shapes: (n,) both."""
    for i in range(lane(), y.size, lanes()):
        y[i] += x[i]
    sync()


@kernel
def norm_fwd(x, params, saved):
    """Layer norm with gamma | beta = params (2 D,); saved (M (2 D + 1),) = result | xhat | rstd OVERWRITTEN."""
    m, c = x.shape
    n = m * c
    layer_norm_fwd(
        x,
        params[:c],
        params[c : 2 * c],
        LAYER_EPS,
        saved[n : 2 * n].reshape(m, c),
        saved[2 * n : 2 * n + m],
        saved[:n].reshape(m, c),
    )


@kernel
def norm_bwd(params, saved, d, grad, work):
    """d (M, D), the gradient of the result of `norm_fwd`, becomes that of x; grad (2 D,) OVERWRITTEN."""
    m, c = d.shape
    n = m * c
    layer_norm_bwd(
        saved[n : 2 * n].reshape(m, c),
        saved[2 * n : 2 * n + m],
        params[:c],
        d,
        grad[:c],
        grad[c : 2 * c],
        work[: norm_work(c)],
    )


@single_use
def attention_part_fwd(x, params, saved, work, batch, heads, inner, causal, noise, first):
    """x (M, D) UPDATED."""
    m, c = x.shape
    length, a = m // batch, m * inner
    norm_fwd(x, params, saved)
    o = 2 * c
    qkv = work[: 3 * a].reshape(m, 3 * inner)
    dense_fwd(
        saved[: m * c].reshape(m, c),
        params[o : o + c * 3 * inner].reshape(c, 3 * inner),
        params[o + c * 3 * inner : o + (c + 1) * 3 * inner],
        qkv,
    )
    s = m * (2 * c + 1)
    for part in range(3):
        split_heads(qkv, batch, heads, part * inner, saved[s + part * a : s + (part + 1) * a])
    groups, probs = batch * heads, s + 4 * a
    result = work[:a]
    attention_fwd(
        saved[s : s + a],
        saved[s + a : s + 2 * a],
        saved[s + 2 * a : s + 3 * a],
        groups,
        length,
        causal,
        result,
        saved[probs : probs + groups * length * length],
        work[a : a + 2 * length + length * length],
        noise,
        first,
    )
    merged = saved[s + 3 * a : s + 4 * a].reshape(m, inner)
    merge_heads(result, batch, heads, 0, merged)
    o += (c + 1) * 3 * inner
    y = work[: m * c]
    dense_fwd(
        merged,
        params[o : o + inner * c].reshape(inner, c),
        params[o + inner * c : o + (inner + 1) * c],
        y.reshape(m, c),
    )
    second, room = first + groups * length * length, work[m * c : 2 * m * c]
    add_into(x.reshape(m * c), thinned(y, noise.keep, noise, second, room))


@single_use
def attention_part_bwd(d, params, grad, saved, work, batch, heads, inner, noise, first):
    """d (M, D) UPDATED; grad, the part's gradient, OVERWRITTEN."""
    m, c = d.shape
    length, a, groups = m // batch, m * inner, batch * heads
    s, o = m * (2 * c + 1), 2 * c + (c + 1) * 3 * inner
    # x += drop(merged wo + bo)
    second, room = first + groups * length * length, work[a : a + m * c]
    dy = thinned(d.reshape(m * c), noise.keep, noise, second, room).reshape(m, c)
    dense_bwd(
        saved[s + 3 * a : s + 4 * a].reshape(m, inner),
        dy,
        grad[o : o + inner * c].reshape(inner, c),
        grad[o + inner * c : o + (inner + 1) * c],
    )
    dmerged, dgroups = work[:a].reshape(m, inner), work[a : 2 * a]
    dense_bwd_input(params[o : o + inner * c].reshape(inner, c), dy, dmerged)
    # merged = heads(q, k, v)
    split_heads(dmerged, batch, heads, 0, dgroups)
    probs = s + 4 * a
    attention_bwd(
        saved[s : s + a],
        saved[s + a : s + 2 * a],
        saved[s + 2 * a : s + 3 * a],
        saved[probs : probs + groups * length * length],
        dgroups,
        groups,
        length,
        work[3 * a : 4 * a],
        work[4 * a : 5 * a],
        work[5 * a : 6 * a],
        work[6 * a : 6 * a + 2 * length * length + length],
        noise,
        first,
    )
    dqkv = work[: 3 * a].reshape(m, 3 * inner)
    for part in range(3):
        merge_heads(work[(3 + part) * a : (4 + part) * a], batch, heads, part * inner, dqkv)
    # q | k | v = norm(x) wqkv + bqkv
    o = 2 * c
    dense_bwd(
        saved[: m * c].reshape(m, c),
        dqkv,
        grad[o : o + c * 3 * inner].reshape(c, 3 * inner),
        grad[o + c * 3 * inner : o + (c + 1) * 3 * inner],
    )
    w = params[o : o + c * 3 * inner].reshape(c, 3 * inner)
    norm_dense_bwd(w, dqkv, params, saved, d, grad, work[3 * a :])


@single_use
def feed_forward_part_fwd(x, params, saved, work, hidden, noise, first):
    """x (M, D) UPDATED."""
    m, c = x.shape
    norm_fwd(x, params, saved)
    s, o = m * (2 * c + 1), 2 * c
    z, h = saved[s : s + m * hidden], saved[s + m * hidden : s + 2 * m * hidden]
    dense_fwd(
        saved[: m * c].reshape(m, c),
        params[o : o + c * hidden].reshape(c, hidden),
        params[o + c * hidden : o + (c + 1) * hidden],
        z.reshape(m, hidden),
    )
    gelu_fwd(z, h)
    o += (c + 1) * hidden
    y = work[: m * c]
    dense_fwd(
        h.reshape(m, hidden),
        params[o : o + hidden * c].reshape(hidden, c),
        params[o + hidden * c : o + (hidden + 1) * c],
        y.reshape(m, c),
    )
    room = work[m * c : 2 * m * c]
    add_into(x.reshape(m * c), thinned(y, noise.keep, noise, first, room))


@single_use
def feed_forward_part_bwd(d, params, grad, saved, work, hidden, noise, first):
    """d (M, D) UPDATED; grad, the part's gradient, OVERWRITTEN."""
    m, c = d.shape
    s, o = m * (2 * c + 1), 2 * c + (c + 1) * hidden
    # x += drop(h w2 + b2)
    room = work[m * hidden : m * (hidden + c)]
    dy = thinned(d.reshape(m * c), noise.keep, noise, first, room).reshape(m, c)
    dense_bwd(
        saved[s + m * hidden : s + 2 * m * hidden].reshape(m, hidden),
        dy,
        grad[o : o + hidden * c].reshape(hidden, c),
        grad[o + hidden * c : o + (hidden + 1) * c],
    )
    dz = work[: m * hidden]
    dense_bwd_input(params[o : o + hidden * c].reshape(hidden, c), dy, dz.reshape(m, hidden))
    # h = gelu(z)
    gelu_bwd(saved[s : s + m * hidden], dz)
    # z = norm(x) w1 + b1
    o = 2 * c
    dense_bwd(
        saved[: m * c].reshape(m, c),
        dz.reshape(m, hidden),
        grad[o : o + c * hidden].reshape(c, hidden),
        grad[o + c * hidden : o + (c + 1) * hidden],
    )
    w = params[o : o + c * hidden].reshape(c, hidden)
    norm_dense_bwd(w, dz.reshape(m, hidden), params, saved, d, grad, work[m * hidden :])


@single_use
def norm_dense_bwd(w, dy, params, saved, d, grad, work):
    """d += the gradient of x through norm(x) w, given dy; the norm's part of grad OVERWRITTEN."""
    m, c = d.shape
    dnorm = work[: m * c]
    dense_bwd_input(w, dy, dnorm.reshape(m, c))
    norm_bwd(params, saved, dnorm.reshape(m, c), grad, work[m * c :])
    add_into(d.reshape(m * c), dnorm)


def norm_layer_reference(x: np.ndarray, t: Views, prefix: str) -> tuple[np.ndarray, Any]:
    """Layer norm over the last axis in plain NumPy, and what its backward pass needs."""
    rows = x.reshape(-1, x.shape[-1])
    gamma, beta = t[f"{prefix}gamma"], t[f"{prefix}beta"]
    y, xhat, rstd = norm_reference(rows, gamma, beta, LAYER_EPS, 1, rows.shape[1])
    return y.reshape(x.shape), (xhat, rstd)


def norm_layer_backward_reference(
    dy: np.ndarray, t: Views, prefix: str, tape: Any, grads: Views
) -> np.ndarray:
    """Gradient of x; those of gamma and beta go into grads."""
    rows = dy.reshape(-1, dy.shape[-1])
    dx, grads[f"{prefix}gamma"], grads[f"{prefix}beta"] = norm_backward_reference(
        *tape, t[f"{prefix}gamma"], rows, 1, rows.shape[1]
    )
    return dx.reshape(dy.shape)


def attention_part_reference(
    x: np.ndarray, t: Views, prefix: str, heads: int, causal: bool, weights: Mask, mask: Mask
) -> tuple[np.ndarray, Any]:
    """Result (B, T, D) of the part in plain NumPy, and what its backward pass needs.

    weights (B, H, T, T) and mask (B, T, D) are what dropout multiplies by.
    """
    y, norm = norm_layer_reference(x, t, f"{prefix}attn_")
    qkv = np.einsum("btd,de->bte", y, t[f"{prefix}wqkv"]) + t[f"{prefix}bqkv"]
    q, k, v = (part.reshape(*x.shape[:2], heads, -1) for part in np.split(qkv, 3, axis=2))
    out, p = attention_reference(q, k, v, causal, weights)
    merged = out.reshape(*x.shape[:2], -1)
    branch = np.einsum("bta,ad->btd", merged, t[f"{prefix}wo"]) + t[f"{prefix}bo"]
    return x + mask * branch, (y, norm, q, k, v, p, merged, weights, mask)


def attention_part_backward_reference(
    d: np.ndarray, t: Views, prefix: str, tape: Any, grads: Views
) -> np.ndarray:
    """Gradient of the part's input; those of its parameters go into grads."""
    y, norm, q, k, v, p, merged, weights, mask = tape
    dbranch = mask * d
    grads[f"{prefix}wo"] = np.einsum("bta,btd->ad", merged, dbranch)
    grads[f"{prefix}bo"] = dbranch.sum(axis=(0, 1))
    dmerged = np.einsum("btd,ad->bta", dbranch, t[f"{prefix}wo"])
    parts = attention_backward_reference(q, k, v, p, dmerged.reshape(q.shape), weights)
    dqkv = np.concatenate([part.reshape(merged.shape) for part in parts], axis=2)
    grads[f"{prefix}wqkv"] = np.einsum("btd,bte->de", y, dqkv)
    grads[f"{prefix}bqkv"] = dqkv.sum(axis=(0, 1))
    dy = np.einsum("bte,de->btd", dqkv, t[f"{prefix}wqkv"])
    return d + norm_layer_backward_reference(dy, t, f"{prefix}attn_", norm, grads)


def feed_forward_part_reference(
    x: np.ndarray, t: Views, prefix: str, mask: Mask = 1.0
) -> tuple[np.ndarray, Any]:
    """Result (B, T, D) of the part in plain NumPy, and what its backward pass needs; mask (B, T, D): dropout's."""
    y, norm = norm_layer_reference(x, t, f"{prefix}mlp_")
    z = np.einsum("btd,df->btf", y, t[f"{prefix}w1"]) + t[f"{prefix}b1"]
    h, derivative = gelu_reference(z)
    branch = np.einsum("btf,fd->btd", h, t[f"{prefix}w2"]) + t[f"{prefix}b2"]
    return x + mask * branch, (y, norm, h, derivative, mask)


def feed_forward_part_backward_reference(
    d: np.ndarray, t: Views, prefix: str, tape: Any, grads: Views
) -> np.ndarray:
    """Gradient of the part's input; those of its parameters go into grads."""
    y, norm, h, derivative, mask = tape
    dbranch = mask * d
    grads[f"{prefix}w2"] = np.einsum("btf,btd->fd", h, dbranch)
    grads[f"{prefix}b2"] = dbranch.sum(axis=(0, 1))
    dz = np.einsum("btd,fd->btf", dbranch, t[f"{prefix}w2"]) * derivative
    grads[f"{prefix}w1"] = np.einsum("btd,btf->df", y, dz)
    grads[f"{prefix}b1"] = dz.sum(axis=(0, 1))
    dy = np.einsum("btf,df->btd", dz, t[f"{prefix}w1"])
    return d + norm_layer_backward_reference(dy, t, f"{prefix}mlp_", norm, grads)
