"""The kernel of MLPs whose hidden layers have a norm, dropout or both: h_k = f(drop(norm(h_{k-1} w_k + b_k))).

Parameters lie in the order w_1 b_1 gamma_1 beta_1 w_2 ..., each vector only where it is asked for, then the linear
readout with its bias.
"""

import numpy as np

from lopt import rng
from lopt.lanes import kernel, lane, lanes, matmul, single_use, sync
from lopt.ops.activations import activate_bwd, activate_fwd
from lopt.ops.dense import dense_bwd, dense_bwd_input, dense_fwd, from_byte, gather_examples
from lopt.ops.dropout import drop
from lopt.ops.losses import cross_entropy
from lopt.ops.norm import (
    batch_norm_bwd,
    batch_norm_fwd,
    frozen_norm_bwd,
    frozen_norm_fwd,
    layer_norm_bwd,
    layer_norm_fwd,
    norm_work,
)

NORMS = ("layer", "batch", "virtual", "frozen", "none")
LAYER, FROZEN, NONE = (NORMS.index(n) for n in ("layer", "frozen", "none"))
# data.sizes: layers L, activation, norm, whether hidden layers have gamma, beta and a bias, rows R of the reference
# batch (0: none), whether data.floats holds bytes, widths 0..L.  data.hyper: input scale and shift, eps of the norm,
# probability to keep a unit.
_LAYERS, _ACTIVATION, _NORM, _GAMMA, _BETA, _BIAS, _REFERENCE, _IN_BYTES, _WIDTHS = range(9)
_SCALE, _SHIFT, EPS, KEEP = range(4)


@kernel
def copy_reference(examples, in_bytes, scale, shift, x):
    """x = scale * examples + shift, the first rows of the data; see `gather_examples`.  Shape: x (R, n) OVERWRITTEN."""
    flat = x.reshape(x.size)
    if in_bytes != 0:
        stored = examples.view(np.uint8)
        for i in range(lane(), flat.size, lanes()):
            flat[i] = scale * from_byte(stored[i]) + shift
    else:
        for i in range(lane(), flat.size, lanes()):
            flat[i] = scale * examples[i] + shift
    sync()


@single_use
def norm_layer_fwd(kind, counted, eps, gamma, beta, kept, y, partials):
    """y = norm of the matrix that `kept` begins with; kept (M m + M + m,) becomes xhat | rstd for the backward pass."""
    rows, m = y.shape
    xhat, rstd = kept[: rows * m].reshape(rows, m), kept[rows * m :]
    if kind == LAYER:
        layer_norm_fwd(xhat, gamma, beta, eps, xhat, rstd, y)
    elif kind >= FROZEN:
        frozen_norm_fwd(xhat, gamma, beta, eps, xhat, y)
    else:
        batch_norm_fwd(xhat, counted, gamma, beta, eps, xhat, rstd, y, partials)


@single_use
def norm_layer_bwd(kind, counted, eps, gamma, kept, d, dgamma, dbeta, partials):
    """d, the gradient of y, becomes that of the matrix."""
    rows, m = d.shape
    xhat, rstd = kept[: rows * m].reshape(rows, m), kept[rows * m :]
    if kind == LAYER:
        layer_norm_bwd(xhat, rstd, gamma, d, dgamma, dbeta, partials)
    elif kind >= FROZEN:
        frozen_norm_bwd(xhat, gamma, eps, d, dgamma, dbeta, partials)
    else:
        batch_norm_bwd(xhat, counted, rstd, gamma, d, dgamma, dbeta, partials)


@kernel
def layer_ends(sizes, n, m):
    """Where the weights, bias, gamma and beta of a hidden layer end in its parameters."""
    a = n * m
    b = a + sizes[_BIAS] * m
    c = b + sizes[_GAMMA] * m
    return a, b, c, c + sizes[_BETA] * m


@single_use
def hidden_fwd(params, data, total, x, room, stream, purpose, step, first, sums):
    """h = f(drop(norm(x w + b))).

    Shapes: params those of the layer; x (total, n); room (3 total m + total + m,) becomes xhat | rstd | y | h, y the
    argument of f; `first` numbers the layer's first uniform; sums (norm_work(m),) scratch.
    """
    sizes, n = data.sizes, x.shape[1]
    m = (room.size - total) // (3 * total + 1)
    size, kept = total * m, total * m + total + m
    a, b, c, end = layer_ends(sizes, n, m)
    y, h = room[kept : kept + size], room[kept + size :]
    z, w = room[:size].reshape(total, m), params[:a].reshape(n, m)
    if sizes[_BIAS] != 0:
        dense_fwd(x, w, params[a:b], z)
    else:
        matmul(x, w, z)
    counted = sizes[_REFERENCE] if sizes[_REFERENCE] > 0 else total
    norm_layer_fwd(
        sizes[_NORM], counted, data.hyper[EPS], params[b:c], params[c:end], room[:kept],
        y.reshape(total, m), sums,
    )  # fmt: skip
    keep = y.dtype.type(data.hyper[KEEP])
    if keep < 1:
        rng.uniforms_into(h, first, stream, purpose, step)
        sync()
        drop(y, h, keep)
    activate_fwd(y, h, sizes[_ACTIVATION])


@single_use
def hidden_bwd(params, grad, data, total, x, room, d, stream, purpose, step, first, sums):
    """Gradient of the layer's parameters into grad (OVERWRITTEN); d, that of h, becomes that of x w + b.

    Shapes: d (total, m), else as in `hidden_fwd`, which left `room`; y is OVERWRITTEN.
    """
    sizes, n, m = data.sizes, x.shape[1], d.shape[1]
    size, kept = total * m, total * m + total + m
    a, b, c, end = layer_ends(sizes, n, m)
    y, flat = room[kept : kept + size], d.reshape(size)
    # h = f(y)
    activate_bwd(y, room[kept + size :], flat, sizes[_ACTIVATION])
    keep = y.dtype.type(data.hyper[KEEP])
    if keep < 1:
        # y = drop(y)
        rng.uniforms_into(y, first, stream, purpose, step)
        sync()
        drop(flat, y, keep)
    # y = norm(z)
    counted = sizes[_REFERENCE] if sizes[_REFERENCE] > 0 else total
    norm_layer_bwd(
        sizes[_NORM], counted, data.hyper[EPS], params[b:c], room[:kept], d, grad[b:c],
        grad[c:end], sums,
    )  # fmt: skip
    # z = x w + b
    dw = grad[:a].reshape(n, m)
    if sizes[_BIAS] != 0:
        dense_bwd(x, d, dw, grad[a:b])
    else:
        matmul(x.T, d, dw)


@kernel
def norm_mlp_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean softmax cross-entropy of an MLP with norms and dropout and its gradient; see `lopt.task.Task`.

    M = R + B rows, the reference batch on top.
    Scratch: h_0 (M, n_0) | for each hidden layer xhat, rstd (M m + M + m), y (M, m), h (M, m) | logits (B, C) |
    two gradient buffers of the largest width | losses (B,) | partials (32,) | sums of the norm.
    """
    sizes, batch, purpose = data.sizes, rows.size, rng.NOISE + split
    layers, reference, widths = sizes[_LAYERS], sizes[_REFERENCE], sizes[_WIDTHS:]
    total, n = reference + batch, widths[0]
    scale, shift = params.dtype.type(data.hyper[_SCALE]), params.dtype.type(data.hyper[_SHIFT])
    in_bytes, top = sizes[_IN_BYTES], reference * n
    copy_reference(data.floats, in_bytes, scale, shift, work[:top].reshape(reference, n))
    inputs = work[top : total * n].reshape(batch, n)
    gather_examples(data.floats, in_bytes, rows, scale, shift, inputs)
    widest, first = n, 0
    h, o, p = 0, total * n, 0  # offsets: layer's input and what follows it in work, its weights
    sums = work[work.size - norm_work(_largest(widths)) :]
    for k in range(layers - 1):
        n, m = widths[k], widths[k + 1]
        widest = max(widest, m)
        end, q = o + 3 * total * m + total + m, p + layer_ends(sizes, n, m)[3]
        x = work[h : h + total * n].reshape(total, n)
        hidden_fwd(
            params[p:q], data, total, x, work[o:end], stream, purpose, step, first, sums[: norm_work(m)]
        )  # fmt: skip
        h, o, p = end - total * m, end, q
        first += total * m
    n, m = widths[layers - 1], widths[layers]
    last = work[h + reference * n : h + total * n].reshape(batch, n)
    logits = work[o : o + batch * m].reshape(batch, m)
    w = params[p : p + n * m].reshape(n, m)
    dense_fwd(last, w, params[p + n * m : p + n * m + m], logits)
    free = o + batch * m
    losses = free + 2 * total * widest
    loss = cross_entropy(
        logits,
        data.ints,
        rows,
        work[losses : losses + batch],
        work[losses + batch : losses + batch + 32],
    )
    if with_grad == 0:
        return loss
    # logits = h w + b on the rows of the batch
    dense_bwd(last, logits, grad[p : p + n * m].reshape(n, m), grad[p + n * m : p + n * m + m])
    for back in range(layers - 1):
        k = layers - 2 - back
        n, m = widths[k], widths[k + 1]
        start = free + (back % 2) * total * widest
        d = work[start : start + total * m]
        if back == 0:
            _zero(d[: reference * m])
            dense_bwd_input(w, logits, d[reference * m :].reshape(batch, m))
        end, q = o, p
        o -= 3 * total * m + total + m
        h = o - total * n
        p -= layer_ends(sizes, n, m)[3]
        first -= total * m
        x, dz = work[h:o].reshape(total, n), d.reshape(total, m)
        hidden_bwd(
            params[p:q], grad[p:q], data, total, x, work[o:end], dz, stream, purpose, step, first,
            sums[: norm_work(m)],
        )  # fmt: skip
        if k > 0:
            # z = x w
            start = free + ((back + 1) % 2) * total * widest
            w = params[p : p + n * m].reshape(n, m)
            dense_bwd_input(w, dz, work[start : start + total * n].reshape(total, n))
    return loss


@kernel
def _largest(widths):
    """The largest width."""
    widest = widths[0]
    for k in range(1, widths.size):
        widest = max(widest, widths[k])
    return widest


@kernel
def _zero(x):
    """x = 0."""
    for i in range(lane(), x.size, lanes()):
        x[i] = x.dtype.type(0.0)
    sync()
