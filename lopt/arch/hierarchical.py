"""The hierarchical learned optimizer: an LSTM per tensor, an MLP per parameter, messages between them.

Source: Metz, Maheswaranathan, Freeman, Poole, Sohl-Dickstein 2020 (arXiv 2009.11243), in the form of the public JAX
re-implementation, whose trajectories it reproduces (methods 1.2-1.5).  Differs: the validation feature is 0 until a
validation loss has arrived (`valid_before_first="reference"` restores the public code's artefact).
"""

import dataclasses
import math

import numpy as np

from lopt import rng
from lopt.arch import loss_statistics as stats
from lopt.arch.per_parameter import (
    BLOCK,
    TIMES,
    TINY,
    apply_direction,
    hidden_layers,
    normalise_first_layer,
)
from lopt.errors import OptimizerError, unknown
from lopt.lanes import (
    add_partials,
    add_square_partials,
    clear_partials,
    entry_point,
    fold_partials,
    kernel,
    lane,
    lanes,
    matmul,
    sync,
)
from lopt.layout import Layout
from lopt.ops.elementary import log, sigmoid, tanh
from lopt.optimizer import STEP_SIG, TABLE_COLUMNS, Optimizer, register_optimizer, tensor_table

N_TIMES = len(TIMES)
TENSOR_FEATURES = 18  # per-tensor LSTM inputs besides the messages
PAST_STEPS = 100

# data.sizes: these slots, then the tensor table
LSTM, HIDDEN, TO_LSTM, BETWEEN, TO_MLP, DECAYS, PAST, CLIP_NORMALISED, LEARN_CLIP, ARTEFACT, TABLE = range(11)
# data.hyper: step_mult, mag_rate, clip decay, clip multiple, then the accumulator decays
STEP_MULT, MAG_RATE, CLIP_DECAY, CLIP_MULT, FIRST_DECAY = range(5)
# state, from its end: t, train statistics (3), validation statistics (3), clip t, clip q
COUNTERS = 9


@kernel
def clamp_log(x):
    """clip(log(1e-8 + |x|), -5, 5)."""
    return min(max(math.log(1e-8 + abs(x)), -5.0), 5.0)


@kernel
def sign(x):
    """-1, 0 or 1."""
    return (1.0 if x > 0 else 0.0) - (1.0 if x < 0 else 0.0)


@kernel
def mean_and_variance(partials, squares, count):
    """Mean and population variance from folded partial sums."""
    mean = np.float64(fold_partials(partials)) / count
    variance = np.float64(fold_partials(squares)) / count - mean * mean
    return mean, max(variance, 0.0)


@kernel
def clip_gradient(grad, counters, table, decay, mult, partials):
    """Clip to +-mult q / (1 - decay^t) with the old state, then update t and q with the clipped gradient."""
    t, q = np.float64(counters[7]), np.float64(counters[8])
    bound = grad.dtype.type(mult * q / (1.0 - math.exp(t * math.log(decay))))
    n_tensors = table[0]
    mean = 0.0
    for k in range(n_tensors):
        offset, size = table[1 + TABLE_COLUMNS * k], table[2 + TABLE_COLUMNS * k]
        g = grad[offset : offset + size]
        for i in range(lane(), size, lanes()):
            g[i] = min(max(g[i], -bound), bound)
        sync()
        clear_partials(partials)
        add_square_partials(g, size, partials)
        mean += np.float64(fold_partials(partials)) / size
    mean /= n_tensors
    if lane() == 0:
        counters[7] = grad.dtype.type(t + 1.0)
        counters[8] = grad.dtype.type(decay * q + (1.0 - decay) * math.sqrt(1e-8 + mean))
    sync()


@kernel
def update_accumulators(grad, m, v, hyper, n_decays):
    """m_k <- d_k m_k + (1 - d_k) g; v_k <- d_k v_k + (1 - d_k) g^2, planes of N, no bias correction."""
    n = grad.size
    tiny, zero = grad.dtype.type(TINY), grad.dtype.type(0.0)
    for k in range(n_decays):
        d = grad.dtype.type(hyper[FIRST_DECAY + k])
        a = grad.dtype.type(1.0) - d
        for i in range(lane(), n, lanes()):
            g = grad[i]
            new_m = d * m[k * n + i] + a * g
            new_v = d * v[k * n + i] + a * (g * g)
            m[k * n + i] = new_m if abs(new_m) > tiny else zero
            v[k * n + i] = new_v if new_v > tiny else zero
    sync()


@kernel
def tensor_features(row, params, grad, m, v, n_decays, table, k, train_loss, valid_loss, partials):
    """The 18 per-tensor LSTM inputs of tensor k into `row` (18,), magnitudes clipped to [-5, 5]; returns |w|."""
    n, at = params.size, 1 + TABLE_COLUMNS * k
    offset, size = table[at], table[at + 1]
    p, s = partials[:32], partials[32:64]
    w, g = params[offset : offset + size], grad[offset : offset + size]
    clear_partials(s)
    add_square_partials(g, size, s)
    norm_g = math.sqrt(np.float64(fold_partials(s)))
    clear_partials(p)
    clear_partials(s)
    add_partials(w, size, p)
    add_square_partials(w, size, s)
    mean_w, var_w = mean_and_variance(p, s, size)
    norm_w = math.sqrt((var_w + mean_w * mean_w) * size)
    clear_partials(p)
    clear_partials(s)
    for j in range(n_decays):
        add_partials(m[j * n + offset : j * n + offset + size], size, p)
        add_square_partials(m[j * n + offset : j * n + offset + size], size, s)
    mean_m, var_m = mean_and_variance(p, s, size * n_decays)
    clear_partials(p)
    clear_partials(s)
    for j in range(n_decays):
        add_partials(v[j * n + offset : j * n + offset + size], size, p)
        add_square_partials(v[j * n + offset : j * n + offset + size], size, s)
    mean_v, var_v = mean_and_variance(p, s, size * n_decays)
    if lane() == 0:
        cast = params.dtype.type
        row[0] = cast(clamp_log(norm_g))
        row[1] = cast(1.0 if table[at + 2] == 0 else -1.0)
        row[2] = cast(clamp_log(mean_m))
        row[3] = cast(sign(mean_m))
        row[4] = cast(clamp_log(mean_v))
        row[5] = cast(sign(mean_v))
        row[6] = cast(clamp_log(mean_w))
        row[7] = cast(sign(mean_w))
        row[8] = cast(clamp_log(norm_w))
        for j in range(4):
            row[9 + j] = cast(math.log(np.float64(table[at + 3 + j])) - 1.0)
        row[13] = cast(train_loss)
        row[14] = cast(valid_loss)
        row[15] = cast(clamp_log(var_m))
        row[16] = cast(clamp_log(var_v))
        row[17] = cast(clamp_log(var_w))
    sync()
    return norm_w


@kernel
def lstm_step(inputs, hidden, cell, gates, w, b):
    """One LSTM step for all tensors.

    Math: [i, j, f, o] = [x, h] w + b; c' = sigmoid(f + 1) c + sigmoid(i) tanh(j); h' = sigmoid(o) tanh(c').
    Shapes: inputs (T, X + H), its last H columns are h; hidden, cell (T, H) UPDATED; gates (T, 4 H) scratch.
    """
    matmul(inputs, w, gates)
    tensors, width = cell.shape
    one = cell.dtype.type(1.0)
    for r in range(tensors):
        for q in range(lane(), width, lanes()):
            i = gates[r, q] + b[q]
            j = gates[r, width + q] + b[width + q]
            f = gates[r, 2 * width + q] + b[2 * width + q]
            o = gates[r, 3 * width + q] + b[3 * width + q]
            c = sigmoid(f + one) * cell[r, q] + sigmoid(i) * tanh(j)
            cell[r, q] = c
            hidden[r, q] = sigmoid(o) * tanh(c)
    sync()


@kernel
def parameter_features(rows, params, grad, m, v, past, n_decays, offset, count, has_past):
    """The per-parameter inputs of `count` parameters from `offset`, before normalisation; rows (F, count).

    Order: g, w, log(|w| + 1e-8), m, v, m / sqrt(v + 1e-6), 1 / sqrt(v + 1e-6) [each for all decays], past w.
    """
    n = params.size
    one, eps, small = params.dtype.type(1.0), params.dtype.type(1e-6), params.dtype.type(1e-8)
    for i in range(lane(), count, lanes()):
        w = params[offset + i]
        rows[0, i] = grad[offset + i]
        rows[1, i] = w
        rows[2, i] = log(abs(w) + small)
    for k in range(n_decays):
        mk, vk = m[k * n + offset : k * n + offset + count], v[k * n + offset : k * n + offset + count]
        for i in range(lane(), count, lanes()):
            r = one / np.sqrt(vk[i] + eps)
            rows[3 + k, i] = mk[i]
            rows[3 + n_decays + k, i] = vk[i]
            rows[3 + 2 * n_decays + k, i] = mk[i] * r
            rows[3 + 3 * n_decays + k, i] = r
    if has_past != 0:
        for i in range(lane(), count, lanes()):
            rows[3 + 4 * n_decays, i] = past[offset + i]
    sync()


@kernel
def constant_bias(bias, w, b, first, message, t, n_tensors, norm_w, size):
    """bias = b + the first layer's response to the inputs that are the same for a whole tensor.

    They are, from row `first` of w: 11 sines of the step counter, log(n_tensors) - 1, log(|w| + 1e-8), log(size), message.
    """
    cast = w.dtype.type
    for j in range(lane(), bias.size, lanes()):
        s = np.float64(b[j])
        for i in range(N_TIMES):
            s += math.sin(t / (TIMES[i] * math.pi)) * w[first + i, j]
        s += (math.log(np.float64(n_tensors)) - 1.0) * w[first + N_TIMES, j]
        s += math.log(norm_w + 1e-8) * w[first + N_TIMES + 1, j]
        s += math.log(np.float64(size)) * w[first + N_TIMES + 2, j]
        for i in range(message.size):
            s += message[i] * w[first + N_TIMES + 3 + i, j]
        bias[j] = cast(s)
    sync()


@kernel
def clip_rows(rows, factors, scaled, w):
    """Paper switch: inputs explicitly normalised and clipped to +-10, so the first layer is w itself."""
    bound = rows.dtype.type(10.0)
    for c in range(rows.shape[0]):
        f = factors[c, 0]
        for i in range(lane(), rows.shape[1], lanes()):
            rows[c, i] = min(max(f * rows[c, i], -bound), bound)
        for j in range(lane(), scaled.shape[1], lanes()):
            scaled[c, j] = w[c, j]
    sync()


@kernel
def snapshot(params, old, new, calls):
    """Keep parameters of the past: every 100 training calls old <- new <- w, so `old` is 100 to 199 calls old."""
    if calls % PAST_STEPS == 0:
        for i in range(lane(), params.size, lanes()):
            old[i] = params[i] if calls == 0 else new[i]
            new[i] = params[i]
    sync()


@kernel
def per_parameter_network(
    params, grad, m, v, past, sizes, hyper, offset, size, w_first, w_second, w_last, biases, bias,
    message_out, work,
):  # fmt: skip
    """Update one tensor's parameters and write its mean message (C,).

    Shapes: w_first (F + constants, H), w_second (H, H), w_last (H, 2 + C); biases = second layer's H, then last's 2 + C;
    bias (H,) is the first layer's, constants folded in.  work as laid out in `scratch_sizes`.
    """
    hidden, n_decays, has_past = sizes[HIDDEN], sizes[DECAYS], sizes[PAST]
    n_features = 3 + 4 * n_decays + has_past
    block = min(BLOCK, size)
    scaled = work[: n_features * hidden].reshape(n_features, hidden)
    at = n_features * hidden
    heads_w = work[at : at + 2 * hidden].reshape(2, hidden)
    at += 2 * hidden
    sums = work[at : at + n_features * 32].reshape(n_features, 32)
    at += n_features * 32
    hidden_sums = work[at : at + hidden * 32].reshape(hidden, 32)
    at += hidden * 32
    for c in range(n_features):
        clear_partials(sums[c])
    for j in range(hidden):
        clear_partials(hidden_sums[j])
    for j in range(lane(), hidden, lanes()):
        heads_w[0, j] = w_last[j, 0]
        heads_w[1, j] = w_last[j, 1]
    sync()
    n_blocks = (size + block - 1) // block
    for b in range(n_blocks):  # first pass: RMS of the inputs
        count = min(block, size - b * block)
        rows = work[at : at + n_features * count].reshape(n_features, count)
        parameter_features(rows, params, grad, m, v, past, n_decays, offset + b * block, count, has_past)
        for c in range(n_features):
            add_square_partials(rows[c], count, sums[c])
        sync()
    normalise_first_layer(scaled, w_first, sums, size)
    step_mult, mag_rate = params.dtype.type(hyper[STEP_MULT]), params.dtype.type(hyper[MAG_RATE])
    for b in range(n_blocks):  # second pass: the network
        count = min(block, size - b * block)
        start = offset + b * block
        rows = work[at : at + n_features * count].reshape(n_features, count)
        if n_blocks > 1:
            parameter_features(rows, params, grad, m, v, past, n_decays, start, count, has_past)
        if sizes[CLIP_NORMALISED] != 0:
            clip_rows(rows, sums, scaled, w_first)
        z = at + n_features * count
        first = work[z : z + hidden * count].reshape(hidden, count)
        second = work[z + hidden * count : z + 2 * hidden * count].reshape(hidden, count)
        hidden_layers(rows, scaled, bias, w_second, biases, first, second)
        for j in range(hidden):
            add_partials(second[j], count, hidden_sums[j])
        heads = work[z : z + 2 * count].reshape(2, count)  # the first layer is not needed any more
        matmul(heads_w, second, heads)
        apply_direction(params[start : start + count], heads, biases[hidden:], step_mult, mag_rate)
    cast = params.dtype.type
    for c in range(lane(), message_out.size, lanes()):
        message_out[c] = biases[hidden + 2 + c]
    sync()
    for j in range(hidden):
        mean = fold_partials(hidden_sums[j]) / cast(size)
        for c in range(lane(), message_out.size, lanes()):
            message_out[c] += mean * w_last[j, 2 + c]
    sync()


@kernel
def hierarchical_step(theta, params, grad, state, loss, is_valid, data, work):
    """One call of the hierarchical optimizer; see `lopt.optimizer.Optimizer` and methods 1.2."""
    sizes, hyper = data.sizes, data.hyper
    counters = state[state.size - COUNTERS :]
    train, valid = counters[1:4], counters[4:7]
    t = np.float64(counters[0])
    sync()
    if lane() == 0:
        counters[0] = counters.dtype.type(t + 1.0)
    sync()
    if is_valid != 0:
        stats.update_statistics(valid, loss, stats.VALID_DECAY)
        return 0
    stats.update_statistics(train, loss, stats.TRAIN_DECAY)
    train_feature = stats.standardised(loss, train)
    valid_feature = stats.valid_feature(valid, train, sizes[ARTEFACT])

    lstm, hidden, n_decays = sizes[LSTM], sizes[HIDDEN], sizes[DECAYS]
    to_lstm, between, to_mlp = sizes[TO_LSTM], sizes[BETWEEN], sizes[TO_MLP]
    table = sizes[TABLE:]
    n_tensors, n = table[0], params.size
    n_features = 3 + 4 * n_decays + sizes[PAST]
    n_first = n_features + N_TIMES + 3 + to_mlp
    n_input = between + to_lstm + TENSOR_FEATURES

    # theta, in the order of theta_layout
    o = 0
    w_first = theta[o : o + n_first * hidden].reshape(n_first, hidden)
    o += n_first * hidden
    b_first = theta[o : o + hidden]
    o += hidden
    w_second = theta[o : o + hidden * hidden].reshape(hidden, hidden)
    o += hidden * hidden
    b_second_o = o
    o += hidden
    w_last = theta[o : o + hidden * (2 + to_lstm)].reshape(hidden, 2 + to_lstm)
    o += hidden * (2 + to_lstm)
    b_last_o = o
    o += 2 + to_lstm
    w_lstm = theta[o : o + (n_input + lstm) * 4 * lstm].reshape(n_input + lstm, 4 * lstm)
    o += (n_input + lstm) * 4 * lstm
    b_lstm = theta[o : o + 4 * lstm]
    o += 4 * lstm
    w_message = theta[o : o + lstm * to_mlp].reshape(lstm, to_mlp)
    o += lstm * to_mlp
    b_message = theta[o : o + to_mlp]
    o += to_mlp
    w_between = theta[o : o + lstm * between].reshape(lstm, between)
    o += lstm * between
    b_between = theta[o : o + between]
    o += between + between + to_lstm + 2 * lstm  # the learned initial values, read by init_state
    decay, mult = np.float64(hyper[CLIP_DECAY]), np.float64(hyper[CLIP_MULT])
    if sizes[LEARN_CLIP] != 0:
        decay = -math.expm1(np.float64(theta[o]))
        mult = math.exp(np.float64(theta[o + 1]))

    # state
    m, v = state[: n_decays * n], state[n_decays * n : 2 * n_decays * n]
    s = 2 * n_decays * n
    past = state[s : s + sizes[PAST] * n]
    if sizes[PAST] != 0:
        snapshot(params, past, state[s + n : s + 2 * n], np.int64(counters[7]) - 1)
        s += 2 * n
    h = state[s : s + n_tensors * lstm].reshape(n_tensors, lstm)
    s += n_tensors * lstm
    c = state[s : s + n_tensors * lstm].reshape(n_tensors, lstm)
    s += n_tensors * lstm
    from_mlp = state[s : s + n_tensors * to_lstm].reshape(n_tensors, to_lstm)
    s += n_tensors * to_lstm
    from_lstm = state[s : s + between]

    # scratch
    partials = work[:64]
    at = 64
    inputs = work[at : at + n_tensors * (n_input + lstm)].reshape(n_tensors, n_input + lstm)
    at += n_tensors * (n_input + lstm)
    gates = work[at : at + n_tensors * 4 * lstm].reshape(n_tensors, 4 * lstm)
    at += n_tensors * 4 * lstm
    messages = work[at : at + n_tensors * to_mlp].reshape(n_tensors, to_mlp)
    at += n_tensors * to_mlp
    norms = work[at : at + n_tensors]
    at += n_tensors
    bias = work[at : at + hidden]
    at += hidden
    biases = work[at : at + hidden + 2 + to_lstm]
    at += hidden + 2 + to_lstm

    clip_gradient(grad, counters, table, decay, mult, partials)
    update_accumulators(grad, m, v, hyper, n_decays)
    for k in range(n_tensors):
        row = inputs[k]
        for i in range(lane(), between, lanes()):
            row[i] = from_lstm[i]
        for i in range(lane(), to_lstm, lanes()):
            row[between + i] = from_mlp[k, i]
        for i in range(lane(), lstm, lanes()):
            row[n_input + i] = h[k, i]
        norm = tensor_features(
            row[between + to_lstm : n_input], params, grad, m, v, n_decays, table, k, train_feature,
            valid_feature, partials,
        )  # fmt: skip
        if lane() == 0:
            norms[k] = norm
    sync()
    lstm_step(inputs, h, c, gates, w_lstm, b_lstm)
    for i in range(lane(), between, lanes()):  # from_lstm = mean over tensors of h w + b
        total = b_between[i]
        for k in range(n_tensors):
            part = theta.dtype.type(0.0)
            for q in range(lstm):
                part += h[k, q] * w_between[q, i]
            total += part / theta.dtype.type(n_tensors)
        from_lstm[i] = total
    matmul(h, w_message, messages)
    for i in range(lane(), hidden, lanes()):
        biases[i] = theta[b_second_o + i]
    for i in range(lane(), 2 + to_lstm, lanes()):
        biases[hidden + i] = theta[b_last_o + i]
    for k in range(n_tensors):
        for i in range(lane(), to_mlp, lanes()):
            messages[k, i] += b_message[i]
    sync()
    for k in range(n_tensors):
        offset, size = table[1 + TABLE_COLUMNS * k], table[2 + TABLE_COLUMNS * k]
        constant_bias(
            bias, w_first, b_first, n_features, messages[k], t, n_tensors, np.float64(norms[k]), size
        )
        per_parameter_network(
            params, grad, m, v, past, sizes, hyper, offset, size, w_first, w_second, w_last, biases,
            bias, from_mlp[k], work[at:],
        )  # fmt: skip
    return 0


@entry_point(STEP_SIG)
def hierarchical_entry(theta, params, grad, state, loss, is_valid, data, work):
    return hierarchical_step(theta, params, grad, state, loss, is_valid, data, work)


@register_optimizer("hierarchical")
@dataclasses.dataclass(frozen=True)
class Hierarchical(Optimizer):
    """The hierarchical learned optimizer of Metz et al. 2020; 35,799 meta-parameters at the default sizes.

    lstm_hidden        H of the per-tensor LSTM
    mlp_hidden         width of the two hidden layers of the per-parameter MLP
    to_lstm, to_mlp    message channels between the levels of one tensor
    between            channels of the message from all tensors' LSTMs to each
    decays             of the momentum and second-moment accumulators (not bias corrected)
    step_mult, mag_rate   w <- w - step_mult a exp(mag_rate b)
    past_weights       paper switch: the parameter of 100 to 199 training steps ago as one more input
    clip_normalised    paper switch: normalised inputs clipped to +-10 (the bound is ours)
    learn_clip         paper switch: decay and multiple of the gradient clip are meta-parameters (log(1-decay), log mult)
    clip_decay, clip_mult   of the gradient clip
    valid_before_first "zero", or "reference": what the public code feeds before the first validation loss
    output_scale       standard deviation of the last layer's initial weights, relative to 1 / sqrt(fan in)
    """

    lstm_hidden: int = 64
    mlp_hidden: int = 32
    to_lstm: int = 16
    to_mlp: int = 17
    between: int = 18
    decays: tuple[float, ...] = (0.5, 0.9, 0.99, 0.999, 0.9999)
    step_mult: float = 1e-3
    mag_rate: float = 1e-3
    past_weights: bool = False
    clip_normalised: bool = False
    learn_clip: bool = False
    clip_decay: float = 0.99
    clip_mult: float = 10.0
    valid_before_first: str = "zero"
    output_scale: float = 1.0

    core = staticmethod(hierarchical_step)
    entry = hierarchical_entry
    uses_loss = True
    uses_valid_loss = True

    def __post_init__(self) -> None:
        for key in ("lstm_hidden", "mlp_hidden", "to_lstm", "to_mlp", "between"):
            low = 2 if key == "mlp_hidden" else 1
            if getattr(self, key) < low:
                raise OptimizerError(
                    f"hierarchical: {key} must be at least {low}, got {getattr(self, key)}"
                )
        if not self.decays or any(not 0 < d < 1 for d in self.decays):
            raise OptimizerError(f"hierarchical: decays must lie in (0, 1), got {self.decays}")
        if self.valid_before_first not in ("zero", "reference"):
            raise OptimizerError(
                unknown("valid_before_first", self.valid_before_first, ("zero", "reference"))
            )
        if not 0 < self.clip_decay < 1 or not self.clip_mult > 0:
            raise OptimizerError(
                f"hierarchical: clip_decay {self.clip_decay} must lie in (0, 1), clip_mult {self.clip_mult} above 0"
            )

    @property
    def n_features(self) -> int:
        """Per-parameter inputs that are normalised over the tensor."""
        return 3 + 4 * len(self.decays) + self.past_weights

    @property
    def theta_layout(self) -> Layout:
        h, q = self.mlp_hidden, self.lstm_hidden
        n_first = self.n_features + N_TIMES + 3 + self.to_mlp
        n_input = self.between + self.to_lstm + TENSOR_FEATURES
        tensors = [
            ("mlp/w0", (n_first, h)), ("mlp/b0", (h,)),
            ("mlp/w1", (h, h)), ("mlp/b1", (h,)),
            ("mlp/w2", (h, 2 + self.to_lstm)), ("mlp/b2", (2 + self.to_lstm,)),
            ("lstm/w", (n_input + q, 4 * q)), ("lstm/b", (4 * q,)),
            ("to_mlp/w", (q, self.to_mlp)), ("to_mlp/b", (self.to_mlp,)),
            ("between/w", (q, self.between)), ("between/b", (self.between,)),
            ("initial/between", (self.between,)), ("initial/from_mlp", (self.to_lstm,)),
            ("initial/hidden", (q,)), ("initial/cell", (q,)),
        ]  # fmt: skip
        if self.learn_clip:
            tensors.append(("clip", (2,)))
        return Layout(tensors)

    def init_theta(self, seed: int = 0) -> np.ndarray:
        """Weights N(0, 1 / fan in) (2 / fan in before a ReLU), the last layer times output_scale; the rest 0."""
        layout = self.theta_layout
        theta = np.zeros(layout.size, np.float32)
        stream = rng.stream(seed)
        for k, (name, view) in enumerate(layout.views(theta).items()):
            if not name.split("/")[-1].startswith("w"):
                continue
            gain = 2.0 if name in ("mlp/w0", "mlp/w1") else 1.0
            std = math.sqrt(gain / view.shape[0]) * (self.output_scale if name == "mlp/w2" else 1.0)
            view[...] = (std * rng.normals(view.size, stream, rng.THETA, k)).reshape(view.shape)
        if self.learn_clip:
            layout.views(theta)["clip"][:] = (math.log1p(-self.clip_decay), math.log(self.clip_mult))
        return theta

    def sizes(self, layout: Layout) -> np.ndarray:
        slots = [
            self.lstm_hidden, self.mlp_hidden, self.to_lstm, self.between, self.to_mlp,
            len(self.decays), int(self.past_weights), int(self.clip_normalised),
            int(self.learn_clip), int(self.valid_before_first == "reference"),
        ]  # fmt: skip
        return np.concatenate([np.array(slots, np.int64), tensor_table(layout)])

    def hyper(self) -> np.ndarray:
        head = (self.step_mult, self.mag_rate, self.clip_decay, self.clip_mult)
        return np.array([*head, *self.decays], np.float32)

    def state_size(self, layout: Layout) -> int:
        planes = 2 * len(self.decays) + 2 * self.past_weights
        per_tensor = 2 * self.lstm_hidden + self.to_lstm
        return planes * layout.size + per_tensor * len(layout) + self.between + COUNTERS

    def init_state(self, theta: np.ndarray, layout: Layout) -> np.ndarray:
        state = np.zeros(self.state_size(layout), theta.dtype)
        learned = self.theta_layout.views(theta)
        at = (2 * len(self.decays) + 2 * self.past_weights) * layout.size
        for name in ("initial/hidden", "initial/cell", "initial/from_mlp"):
            values = np.tile(learned[name], len(layout))
            state[at : at + values.size] = values
            at += values.size
        state[at : at + self.between] = learned["initial/between"]
        decay = self.clip_decay
        if self.learn_clip:
            decay = -math.expm1(float(learned["clip"][0]))
        state[-2:] = (1.0, 1.0 - decay)
        return state

    def work_size(self, layout: Layout) -> int:
        t, q, h, f = len(layout), self.lstm_hidden, self.mlp_hidden, self.n_features
        n_input = self.between + self.to_lstm + TENSOR_FEATURES
        shared = 64 + t * (n_input + q + 4 * q + self.to_mlp + 1) + 2 * h + 2 + self.to_lstm
        block = min(BLOCK, max(layout.sizes, default=0))
        return shared + f * h + 2 * h + 32 * (f + h) + (f + 2 * h) * block

    @classmethod
    def examples(cls) -> list["Hierarchical"]:
        small = {"lstm_hidden": 5, "mlp_hidden": 6, "to_lstm": 3, "to_mlp": 4, "between": 2}
        switches = ("past_weights", "clip_normalised", "learn_clip")
        return [cls(), cls(**small), *(cls(**small, **{s: True}) for s in switches)]
