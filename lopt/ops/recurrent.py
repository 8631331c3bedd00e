"""Recurrent cores over whole windows: one entry for vanilla RNN, GRU and LSTM.

A core is described by five integers and works on one flat vector of its tensors, in the order of
`lopt.ops.vanilla_rnn`, `gru` and `lstm`, followed by its initial state (h, and c of an LSTM) if
that is trained.  Times are the leading axis throughout, so that each step is one matrix.
"""

from lopt.lanes import kernel, lane, lanes, single_use, sync
from lopt.ops.activations import reads_argument
from lopt.ops.gru import gru_bwd, gru_fwd
from lopt.ops.lstm import lstm_bwd, lstm_fwd
from lopt.ops.recurrent_parts import column_sums
from lopt.ops.vanilla_rnn import vanilla_bwd, vanilla_fwd

CORES = ("vanilla", "gru", "lstm")
VANILLA, GRU, LSTM = range(3)

# Entries of a core's description: kind, activation code (vanilla only), width of the inputs E,
# width of the state H, whether the initial state is trained.
KIND, ACTIVATION, INPUTS, WIDTH, TRAINED = range(5)
CORE_SIZES = 5


@kernel
def core_tensors(spec):
    """Numbers in the tensors of a core, without a trained initial state."""
    inputs, width = spec[INPUTS], spec[WIDTH]
    if spec[KIND] == VANILLA:
        return (inputs + width + 2) * width
    if spec[KIND] == GRU:
        return 3 * (inputs + width + 1) * width
    return 4 * (inputs + width + 1) * width


@kernel
def core_states(spec):
    """Vectors in the state: 2 for an LSTM (h, c), else 1 (h)."""
    return 2 if spec[KIND] == LSTM else 1


@kernel
def core_gates(spec):
    """Numbers per example and step that the forward pass keeps in `gates`."""
    return spec[WIDTH] if spec[KIND] == VANILLA else 4 * spec[WIDTH]


@kernel
def core_kept(spec):
    """Numbers per example and step of `gates` and `dh` together.

    Gradients of a vanilla core's outputs overwrite the arguments of its activation where those are not read again.
    """
    shared = spec[KIND] == VANILLA and not reads_argument(spec[ACTIVATION])
    return core_gates(spec) + (0 if shared else spec[WIDTH])


@kernel
def core_step(spec):
    """Numbers per example of the scratch `step`."""
    return max(4 * spec[WIDTH], 2 * spec[WIDTH] + spec[INPUTS])


@kernel
def core_params(spec):
    """Numbers in the tensors of a core and its initial state, if that is trained."""
    return core_tensors(spec) + (core_states(spec) * spec[WIDTH] if spec[TRAINED] != 0 else 0)


@kernel
def core_scratch(spec, one_hot, work, steps, batch):
    """Views into scratch: x, hidden, cell, gates, dh, step as `core_fwd` and `core_bwd` take them.

    gates and dh may overlap, see `core_kept`.  The seventh is what remains of work.
    """
    width, rows = spec[WIDTH], steps * batch
    columns = 0 if one_hot != 0 else spec[INPUTS]
    cells = 0 if spec[KIND] != LSTM else steps + 1
    a = rows * columns
    b = a + (steps + 1) * batch * width
    c = b + cells * batch * width
    d = c + rows * core_gates(spec)
    e = c + rows * core_kept(spec)
    f = e + batch * core_step(spec)
    return (
        work[:a].reshape(rows, columns),
        work[a:b].reshape(steps + 1, batch, width),
        work[b:c].reshape(cells, batch, width),
        work[c:d],
        work[e - rows * width : e].reshape(steps, batch, width),
        work[e:f],
        work[f:],
    )


@kernel
def set_rows(rows, value, trained):
    """Every row becomes `value` if trained, else 0.  Shapes: rows (B, H), value (H,) if trained."""
    for r in range(rows.shape[0]):
        row = rows[r]
        for q in range(lane(), row.size, lanes()):
            row[q] = value[q] if trained else row.dtype.type(0.0)
    sync()


@single_use
def core_fwd(spec, params, x, ids, hidden, cell, gates, step):
    """Outputs hidden[1:] of a core for a window of inputs.

    Shapes: spec (CORE_SIZES,) int64; params flat; x (T B, E), or (T B, 0) and ids (T B,) for
    one-hot inputs; hidden (T + 1, B, H) OVERWRITTEN, cell alike (LSTM; else empty); gates (T B
    core_gates,) OVERWRITTEN, kept for `core_bwd`; step (B core_step,) scratch.
    """
    inputs, width, trained = spec[INPUTS], spec[WIDTH], spec[TRAINED] != 0
    steps, batch = hidden.shape[0] - 1, hidden.shape[1]
    end, size = core_tensors(spec), batch * width
    set_rows(hidden[0], params[end : end + width], trained)
    if spec[KIND] == VANILLA:
        vanilla_fwd(
            params, x, ids, hidden, gates.reshape(steps, batch, width),
            step[:size].reshape(batch, width), spec[ACTIVATION], inputs,
        )  # fmt: skip
    elif spec[KIND] == GRU:
        gru_fwd(
            params, x, ids, hidden, gates.reshape(4, steps, batch, width),
            step[:size].reshape(batch, width), inputs,
        )  # fmt: skip
    else:
        set_rows(cell[0], params[end + width : end + 2 * width], trained)
        lstm_fwd(
            params, x, ids, hidden, cell, gates.reshape(steps, batch, 4 * width),
            step[: 4 * size].reshape(batch, 4 * width), inputs,
        )  # fmt: skip


@single_use
def core_bwd(spec, params, grad, x, ids, hidden, cell, gates, dh, step):
    """Gradients of params into grad (OVERWRITTEN), and of x into x unless inputs are one-hot.

    dh (T, B, H) is the gradient of the outputs; dh and gates are OVERWRITTEN.  Everything else as
    `core_fwd` left it.
    """
    inputs, width = spec[INPUTS], spec[WIDTH]
    steps, batch = hidden.shape[0] - 1, hidden.shape[1]
    end, size = core_tensors(spec), batch * width
    dfirst = step[:size].reshape(batch, width)
    dcell = step[size : 2 * size].reshape(batch, width)
    if spec[KIND] == VANILLA:
        vanilla_bwd(
            params, grad, x, ids, hidden, gates.reshape(steps, batch, width), dh, dfirst,
            spec[ACTIVATION], inputs,
        )  # fmt: skip
    elif spec[KIND] == GRU:
        gru_bwd(
            params, grad, x, ids, hidden, gates.reshape(4, steps, batch, width), dh, dfirst,
            step[size:], inputs,
        )  # fmt: skip
    else:
        lstm_bwd(
            params, grad, x, ids, hidden, cell, gates.reshape(steps, batch, 4 * width), dh,
            dfirst, dcell, inputs,
        )  # fmt: skip
    if spec[TRAINED] != 0:
        # hidden[0] = the same row for every example, cell[0] alike
        column_sums(dfirst, grad[end : end + width])
        if spec[KIND] == LSTM:
            column_sums(dcell, grad[end + width : end + 2 * width])
