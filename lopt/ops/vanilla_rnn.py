"""Vanilla recurrent core (task set specification 1.7): two matrices, two biases."""

from lopt.lanes import inlined, lane, lanes, matmul, single_use, sync
from lopt.ops.activations import activate_bwd, activate_fwd
from lopt.ops.recurrent_parts import (
    add_into,
    column_sums,
    inputs_bwd,
    inputs_fwd,
    inputs_grad,
)


@inlined
def _sum_row(a, s, bx, bh):
    for q in range(lane(), a.size, lanes()):
        a[q] += s[q] + bx[q] + bh[q]


@single_use
def vanilla_fwd(params, x, ids, hidden, gates, step, code, inputs):
    """h_t = f(x_t wx + bx + h_{t-1} wh + bh), f the activation `code`.

    Shapes: params wx (E, H) | bx (H,) | wh (H, H) | bh (H,); x (T B, E), or ids (T B,) where x is
    one-hot; hidden (T + 1, B, H), [0] given, the rest OVERWRITTEN; gates (T, B, H) OVERWRITTEN with
    the arguments of f; step scratch (B, H).
    """
    steps, batch, width = hidden.shape[0] - 1, hidden.shape[1], hidden.shape[2]
    n, size = inputs * width, batch * width
    bx = params[n : n + width]
    wh = params[n + width : n + width + width * width].reshape(width, width)
    bh = params[n + width + width * width : n + 2 * width + width * width]
    inputs_fwd(x, ids, params[:n].reshape(inputs, width), gates.reshape(steps * batch, width))
    for t in range(steps):
        matmul(hidden[t], wh, step)
        a = gates[t]
        for r in range(batch):
            _sum_row(a[r], step[r], bx, bh)
        sync()
        activate_fwd(a.reshape(size), hidden[t + 1].reshape(size), code)


@single_use
def vanilla_bwd(params, grad, x, ids, hidden, gates, dh, step, code, inputs):
    """Gradients of all of `params` into grad (OVERWRITTEN), back through time.

    x is OVERWRITTEN with its gradient; dh (T, B, H), the gradients of the outputs, is OVERWRITTEN
    with those of the arguments of f, and may lie in gates where f' does not read them; step[:B] (B, H) ends as the
    gradient of the initial state.
    """
    steps, batch, width = hidden.shape[0] - 1, hidden.shape[1], hidden.shape[2]
    n, size, square = inputs * width, batch * width, width * width
    wx = params[:n].reshape(inputs, width)
    wh = params[n + width : n + width + square].reshape(width, width)
    for back in range(steps):
        t = steps - 1 - back
        d = dh[t].reshape(size)
        if back > 0:
            add_into(d, step.reshape(size))
        # h_t = f(a_t)
        activate_bwd(gates[t].reshape(size), hidden[t + 1].reshape(size), d, code)
        # a_t = ... + h_{t-1} wh
        matmul(dh[t], wh.T, step)
    da = dh.reshape(steps * batch, width)
    before = hidden[:steps].reshape(steps * batch, width)
    # a = x wx + bx + h wh + bh
    matmul(before.T, da, grad[n + width : n + width + square].reshape(width, width))
    column_sums(da, grad[n : n + width])
    bh = grad[n + width + square : n + 2 * width + square]
    for q in range(lane(), width, lanes()):
        bh[q] = grad[n + q]
    sync()
    inputs_bwd(x, ids, da, grad[:n].reshape(inputs, width))
    inputs_grad(wx, da, x)
