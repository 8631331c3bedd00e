"""GRU core (task set specification 1.7): nine tensors; the update gate multiplies the candidate."""

from lopt.lanes import inlined, lane, lanes, matmul, single_use, sync
from lopt.ops.elementary import sigmoid, tanh
from lopt.ops.recurrent_parts import (
    add_into,
    add_row,
    column_sums,
    inputs_bwd,
    inputs_fwd,
    inputs_grad,
)

UPDATE, RESET, CANDIDATE, RESTRICTED = range(4)  # blocks of `gates`; the last is r h


@inlined
def _sigmoid_row(a, s, b):
    for q in range(lane(), a.size, lanes()):
        a[q] = sigmoid(a[q] + s[q] + b[q])


@inlined
def _tanh_row(a, s, b):
    for q in range(lane(), a.size, lanes()):
        a[q] = tanh(a[q] + s[q] + b[q])


@inlined
def _product_row(y, a, b):
    for q in range(lane(), y.size, lanes()):
        y[q] = a[q] * b[q]


@inlined
def _mix_row(after, z, before, c):
    one = z.dtype.type(1.0)
    for q in range(lane(), z.size, lanes()):
        after[q] = (one - z[q]) * before[q] + z[q] * c[q]


@inlined
def block_of(params, k, inputs, width):
    """Tensors (w, u, b) of block k of a flat (w (E, H) | u (H, H) | b (H,)) x 3."""
    n, m = inputs * width, width * width
    o = k * (n + m + width)
    w = params[o : o + n].reshape(inputs, width)
    u = params[o + n : o + n + m].reshape(width, width)
    return w, u, params[o + n + m : o + n + m + width]


@single_use
def gru_fwd(params, x, ids, hidden, gates, step, inputs):
    """One GRU over a whole window, keeping what the backward pass needs.

    Math: z = s(x wz + h uz + bz); r = s(x wr + h ur + br); c = tanh(x wh + (r h) uh + bh);
    h' = (1 - z) h + z c, s the sigmoid.  Source: Cho et al. 2014, eq. 5-8, with z for their 1 - z.
    Shapes: params (w (E, H) | u (H, H) | b (H,)) for z, r, c; x (T B, E), or ids (T B,) where x is
    one-hot; hidden (T + 1, B, H), [0] given, the rest OVERWRITTEN; gates (4, T, B, H) OVERWRITTEN
    with z, r, c, r h; step scratch (B, H).
    """
    steps, batch, width = hidden.shape[0] - 1, hidden.shape[1], hidden.shape[2]
    wz, uz, bz = block_of(params, UPDATE, inputs, width)
    wr, ur, br = block_of(params, RESET, inputs, width)
    wh, uh, bh = block_of(params, CANDIDATE, inputs, width)
    z, r, c, rh = gates[UPDATE], gates[RESET], gates[CANDIDATE], gates[RESTRICTED]
    inputs_fwd(x, ids, wz, z.reshape(steps * batch, width))
    inputs_fwd(x, ids, wr, r.reshape(steps * batch, width))
    inputs_fwd(x, ids, wh, c.reshape(steps * batch, width))
    for t in range(steps):
        matmul(hidden[t], uz, step)
        for k in range(batch):
            _sigmoid_row(z[t, k], step[k], bz)
        matmul(hidden[t], ur, step)
        for k in range(batch):
            _sigmoid_row(r[t, k], step[k], br)
            _product_row(rh[t, k], r[t, k], hidden[t, k])
        matmul(rh[t], uh, step)
        for k in range(batch):
            _tanh_row(c[t, k], step[k], bh)
            _mix_row(hidden[t + 1, k], z[t, k], hidden[t, k], c[t, k])
        sync()


@inlined
def _keep_row_bwd(z, dh, dbefore):
    one = z.dtype.type(1.0)
    for q in range(lane(), z.size, lanes()):
        # h' = (1 - z) h + ...
        dbefore[q] = dh[q] * (one - z[q])


@inlined
def _mix_row_bwd(z, c, before, dh):
    """z and c become the gradients of their arguments."""
    one = z.dtype.type(1.0)
    for q in range(lane(), z.size, lanes()):
        # h' = (1 - z) h + z c
        gate, candidate = z[q], c[q]
        z[q] = dh[q] * (candidate - before[q]) * gate * (one - gate)
        c[q] = dh[q] * gate * (one - candidate * candidate)


@inlined
def _reset_row_bwd(r, before, drh, dbefore):
    """r becomes the gradient of its argument."""
    one = r.dtype.type(1.0)
    for q in range(lane(), r.size, lanes()):
        # rh = r h
        gate = r[q]
        dbefore[q] += drh[q] * gate
        r[q] = drh[q] * before[q] * gate * (one - gate)


@single_use
def gru_bwd(params, grad, x, ids, hidden, gates, dh, dbefore, step, inputs):
    """Gradients of all of `params` into grad (OVERWRITTEN), back through time.

    z, r, c in gates are OVERWRITTEN with the gradients of their arguments, x with its gradient, dh
    (T, B, H) is the gradient of the outputs, OVERWRITTEN.  dbefore (B, H) ends as the gradient of
    the initial state.  Scratch: step (B max(E, H),).
    """
    steps, batch, width = hidden.shape[0] - 1, hidden.shape[1], hidden.shape[2]
    wz, uz, _ = block_of(params, UPDATE, inputs, width)
    wr, ur, _ = block_of(params, RESET, inputs, width)
    wh, uh, _ = block_of(params, CANDIDATE, inputs, width)
    z, r, c, rh = gates[UPDATE], gates[RESET], gates[CANDIDATE], gates[RESTRICTED]
    flat = step[: batch * width]
    back_rows = flat.reshape(batch, width)
    for back in range(steps):
        t = steps - 1 - back
        for k in range(batch):
            d = dh[t, k]
            if back > 0:
                add_row(d, dbefore[k])
            _keep_row_bwd(z[t, k], d, dbefore[k])
            _mix_row_bwd(z[t, k], c[t, k], hidden[t, k], d)
        # c's argument = ... + rh uh
        matmul(c[t], uh.T, back_rows)
        for k in range(batch):
            _reset_row_bwd(r[t, k], hidden[t, k], back_rows[k], dbefore[k])
        # z's argument = ... + h uz, r's = ... + h ur
        matmul(z[t], uz.T, back_rows)
        add_into(dbefore.reshape(batch * width), flat)
        matmul(r[t], ur.T, back_rows)
        add_into(dbefore.reshape(batch * width), flat)
    before = hidden[:steps].reshape(steps * batch, width)
    for k in range(3):
        # argument = x w + h u + b, for the candidate x w + (r h) u + b
        da = gates[k].reshape(steps * batch, width)
        state = before if k != CANDIDATE else rh.reshape(steps * batch, width)
        dw, du, db = block_of(grad, k, inputs, width)
        matmul(state.T, da, du)
        column_sums(da, db)
        inputs_bwd(x, ids, da, dw)
    if x.shape[1] > 0:
        dx = step[: batch * inputs]
        for t in range(steps):
            target = x[t * batch : (t + 1) * batch]
            inputs_grad(wz, z[t], target)
            inputs_grad(wr, r[t], dx.reshape(batch, inputs))
            add_into(target.reshape(batch * inputs), dx)
            inputs_grad(wh, c[t], dx.reshape(batch, inputs))
            add_into(target.reshape(batch * inputs), dx)
