"""The token-mixing part of an MLP-mixer, forward and backward (Tolstikhin et al. 2021, "MLP-Mixer", eq. 1).

    x[b, :, j] += gelu(norm(x)[b, :, j] w1 + b1) w2 + b2     for every example b and channel j

The channel-mixing part is the feed-forward part of `lopt.ops.transformer`.  Sizes: B examples of T tokens and D channels,
M = B T, F hidden units.  Tokens and channels change places first, so that each product is one large matrix product.
Parameters, `saved`, `work` and d as in `lopt.ops.transformer`.
"""

from typing import Any

import numpy as np

from lopt.lanes import kernel, single_use
from lopt.ops.dense import dense_bwd, dense_bwd_input, dense_fwd
from lopt.ops.gelu import gelu_bwd, gelu_fwd, gelu_reference
from lopt.ops.norm import norm_work
from lopt.ops.tokens import swap
from lopt.ops.transformer import (
    Tensors,
    Views,
    add_into,
    norm_bwd,
    norm_fwd,
    norm_layer_backward_reference,
    norm_layer_reference,
    norm_tensors,
)


def mixing_tensors(width: int, length: int, hidden: int, prefix: str = "") -> Tensors:
    """Names and shapes of the parameters of a token-mixing part."""
    return [
        *norm_tensors(width, f"{prefix}mix_"),
        (f"{prefix}mix_w1", (length, hidden)),
        (f"{prefix}mix_b1", (hidden,)),
        (f"{prefix}mix_w2", (hidden, length)),
        (f"{prefix}mix_b2", (length,)),
    ]


@kernel
def mixing_params(width, length, hidden):
    """Numbers in the parameters of a token-mixing part."""
    return 2 * width + (length + 1) * hidden + (hidden + 1) * length


@kernel
def mixing_saved(batch, width, length, hidden):
    """Numbers that it saves: norm | its result, swapped | hidden units before and after the activation."""
    return batch * length * (3 * width + 1) + 2 * batch * width * hidden


def mixing_work(batch, width, length, hidden):
    """Numbers of scratch that it needs, forward and backward."""
    return batch * width * (2 * length + hidden) + norm_work(width)


@single_use
def mixing_part_fwd(x, params, saved, work, batch, hidden):
    """x (M, D) UPDATED."""
    m, c = x.shape
    length, n, rows = m // batch, m * c, batch * c
    norm_fwd(x, params, saved)
    s = n + n + m
    y, z = saved[s : s + n], saved[s + n : s + n + rows * hidden]
    h = saved[s + n + rows * hidden : s + n + 2 * rows * hidden]
    swap(saved[:n], length, c, y)
    o = 2 * c
    dense_fwd(
        y.reshape(rows, length),
        params[o : o + length * hidden].reshape(length, hidden),
        params[o + length * hidden : o + (length + 1) * hidden],
        z.reshape(rows, hidden),
    )
    gelu_fwd(z, h)
    o += (length + 1) * hidden
    mixed, back = work[:n], work[n : 2 * n]
    dense_fwd(
        h.reshape(rows, hidden),
        params[o : o + hidden * length].reshape(hidden, length),
        params[o + hidden * length : o + (hidden + 1) * length],
        mixed.reshape(rows, length),
    )
    swap(mixed, c, length, back)
    add_into(x.reshape(n), back)


@single_use
def mixing_part_bwd(d, params, grad, saved, work, batch, hidden):
    """d (M, D) UPDATED; grad, the part's gradient, OVERWRITTEN."""
    m, c = d.shape
    length, n, rows = m // batch, m * c, batch * c
    s, o = n + n + m, 2 * c + (length + 1) * hidden
    y, z = saved[s : s + n].reshape(rows, length), saved[s + n : s + n + rows * hidden]
    h = saved[s + n + rows * hidden : s + n + 2 * rows * hidden].reshape(rows, hidden)
    dmixed, dnorm = work[:n].reshape(rows, length), work[n : 2 * n]
    dz = work[2 * n : 2 * n + rows * hidden]
    # x += swap(h w2 + b2)
    swap(d.reshape(n), length, c, work[:n])
    dense_bwd(
        h,
        dmixed,
        grad[o : o + hidden * length].reshape(hidden, length),
        grad[o + hidden * length : o + (hidden + 1) * length],
    )
    w2 = params[o : o + hidden * length].reshape(hidden, length)
    dense_bwd_input(w2, dmixed, dz.reshape(rows, hidden))
    # h = gelu(z)
    gelu_bwd(z, dz)
    # z = swap(norm(x)) w1 + b1
    o = 2 * c
    dense_bwd(
        y,
        dz.reshape(rows, hidden),
        grad[o : o + length * hidden].reshape(length, hidden),
        grad[o + length * hidden : o + (length + 1) * hidden],
    )
    w1 = params[o : o + length * hidden].reshape(length, hidden)
    dense_bwd_input(w1, dz.reshape(rows, hidden), dmixed)
    swap(work[:n], c, length, dnorm)
    norm_bwd(params, saved, dnorm.reshape(m, c), grad, work[2 * n + rows * hidden :])
    add_into(d.reshape(n), dnorm)


def mixing_part_reference(x: np.ndarray, t: Views, prefix: str) -> tuple[np.ndarray, Any]:
    """Result (B, T, D) of the part in plain NumPy, and what its backward pass needs."""
    y, norm = norm_layer_reference(x, t, f"{prefix}mix_")
    z = np.einsum("btd,tf->bdf", y, t[f"{prefix}mix_w1"]) + t[f"{prefix}mix_b1"]
    h, derivative = gelu_reference(z)
    mixed = np.einsum("bdf,ft->btd", h, t[f"{prefix}mix_w2"])
    return x + mixed + t[f"{prefix}mix_b2"][:, None], (y, norm, h, derivative)


def mixing_part_backward_reference(
    d: np.ndarray, t: Views, prefix: str, tape: Any, grads: Views
) -> np.ndarray:
    """Gradient of the part's input; those of its parameters go into grads."""
    y, norm, h, derivative = tape
    grads[f"{prefix}mix_w2"] = np.einsum("bdf,btd->ft", h, d)
    grads[f"{prefix}mix_b2"] = d.sum(axis=(0, 2))
    dz = np.einsum("btd,ft->bdf", d, t[f"{prefix}mix_w2"]) * derivative
    grads[f"{prefix}mix_w1"] = np.einsum("btd,bdf->tf", y, dz)
    grads[f"{prefix}mix_b1"] = dz.sum(axis=(0, 1))
    dy = np.einsum("bdf,tf->btd", dz, t[f"{prefix}mix_w1"])
    return d + norm_layer_backward_reference(dy, t, f"{prefix}mix_", norm, grads)
