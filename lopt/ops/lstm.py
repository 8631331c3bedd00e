"""LSTM core (task set specification 1.7): one matrix for inputs and state, forget offset 1."""

from lopt.lanes import inlined, lane, lanes, matmul, single_use, sync
from lopt.ops.elementary import sigmoid, tanh
from lopt.ops.recurrent_parts import (
    add_row,
    column_sums,
    inputs_bwd,
    inputs_fwd,
    inputs_grad,
)

CANDIDATE, FORGET = 1, 2  # of the blocks i, j, f, o of the gates

# Few arrays per loop: LLVM compares the addresses of all of them before it takes the vector path.


@inlined
def _sigmoid_row(a, s, b, offset):
    for q in range(lane(), a.size, lanes()):
        a[q] = sigmoid(a[q] + s[q] + b[q] + offset)


@inlined
def _tanh_row(a, s, b):
    for q in range(lane(), a.size, lanes()):
        a[q] = tanh(a[q] + s[q] + b[q])


@inlined
def _cell_row(gates, before, after):
    """after = f before + i j."""
    width = after.size
    i, j, f = gates[:width], gates[width : 2 * width], gates[2 * width : 3 * width]
    for q in range(lane(), width, lanes()):
        after[q] = f[q] * before[q] + i[q] * j[q]


@inlined
def _output_row(o, cell, hidden):
    for q in range(lane(), hidden.size, lanes()):
        hidden[q] = o[q] * tanh(cell[q])


@single_use
def lstm_fwd(params, x, ids, hidden, cell, gates, step, inputs):
    """One LSTM over a whole window, keeping what the backward pass needs.

    Math: [i, j, f, o] = [x, h] w + b; c' = s(f + 1) c + s(i) tanh(j); h' = s(o) tanh(c'), s the
    sigmoid.  Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000 for f.
    Shapes: params w (E + H, 4 H) | b (4 H,); x (T B, E), or ids (T B,) where x is one-hot; hidden
    and cell (T + 1, B, H), [0] given, the rest OVERWRITTEN; gates (T, B, 4 H) OVERWRITTEN with
    s(i), tanh(j), s(f + 1), s(o); step scratch (B, 4 H).
    """
    steps, batch, width = hidden.shape[0] - 1, hidden.shape[1], hidden.shape[2]
    g = 4 * width
    wh = params[inputs * g : (inputs + width) * g].reshape(width, g)
    b = params[(inputs + width) * g : (inputs + width + 1) * g]
    zero, one = params.dtype.type(0.0), params.dtype.type(1.0)
    inputs_fwd(x, ids, params[: inputs * g].reshape(inputs, g), gates.reshape(steps * batch, g))
    for t in range(steps):
        matmul(hidden[t], wh, step)
        for r in range(batch):
            a, s = gates[t, r], step[r]
            for k in range(4):
                part = a[k * width : (k + 1) * width]
                added, bias = s[k * width : (k + 1) * width], b[k * width : (k + 1) * width]
                if k == CANDIDATE:
                    _tanh_row(part, added, bias)
                else:
                    _sigmoid_row(part, added, bias, one if k == FORGET else zero)
            _cell_row(a, cell[t, r], cell[t + 1, r])
            _output_row(a[3 * width :], cell[t + 1, r], hidden[t + 1, r])
        sync()


@inlined
def _output_row_bwd(o, cell, dh, dc):
    """o becomes the gradient of its argument; dc += that of the new cell."""
    one = o.dtype.type(1.0)
    for q in range(lane(), o.size, lanes()):
        # h' = s(o) tanh(c')
        squashed, gate = tanh(cell[q]), o[q]
        dc[q] += dh[q] * gate * (one - squashed * squashed)
        o[q] = dh[q] * squashed * gate * (one - gate)


@inlined
def _candidate_row_bwd(i, j, dc):
    """i and j become the gradients of their arguments."""
    one = i.dtype.type(1.0)
    for q in range(lane(), i.size, lanes()):
        # c' = ... + s(i) tanh(j)
        gate, candidate = i[q], j[q]
        i[q] = dc[q] * candidate * gate * (one - gate)
        j[q] = dc[q] * gate * (one - candidate * candidate)


@inlined
def _forget_row_bwd(f, before, dc):
    """f becomes the gradient of its argument, dc that of the old cell."""
    one = f.dtype.type(1.0)
    for q in range(lane(), f.size, lanes()):
        # c' = s(f + 1) c + ...
        gate = f[q]
        f[q] = dc[q] * before[q] * gate * (one - gate)
        dc[q] *= gate


@single_use
def lstm_bwd(params, grad, x, ids, hidden, cell, gates, dh, dstep, dc, inputs):
    """Gradients of all of `params` into grad (OVERWRITTEN), back through time.

    gates are OVERWRITTEN with the gradients of their arguments, x with its gradient, dh (T, B, H)
    is the gradient of the outputs, OVERWRITTEN.  dstep and dc (B, H) end as the gradients of the
    initial hidden and cell state.
    """
    steps, batch, width = hidden.shape[0] - 1, hidden.shape[1], hidden.shape[2]
    g = 4 * width
    wx = params[: inputs * g].reshape(inputs, g)
    wh = params[inputs * g : (inputs + width) * g].reshape(width, g)
    for r in range(batch):
        row, other = dc[r], dstep[r]
        for q in range(lane(), width, lanes()):
            row[q] = dc.dtype.type(0.0)
            other[q] = dc.dtype.type(0.0)
    sync()
    for back in range(steps):
        t = steps - 1 - back
        for r in range(batch):
            a, d, dnew = gates[t, r], dh[t, r], dc[r]
            add_row(d, dstep[r])
            _output_row_bwd(a[3 * width :], cell[t + 1, r], d, dnew)
            _candidate_row_bwd(a[:width], a[width : 2 * width], dnew)
            _forget_row_bwd(a[2 * width : 3 * width], cell[t, r], dnew)
        # [i, j, f, o] = ... + h w
        matmul(gates[t], wh.T, dstep)
    da = gates.reshape(steps * batch, g)
    before = hidden[:steps].reshape(steps * batch, width)
    # [i, j, f, o] = x wx + h wh + b
    matmul(before.T, da, grad[inputs * g : (inputs + width) * g].reshape(width, g))
    column_sums(da, grad[(inputs + width) * g : (inputs + width + 1) * g])
    inputs_bwd(x, ids, da, grad[: inputs * g].reshape(inputs, g))
    inputs_grad(wx, da, x)
