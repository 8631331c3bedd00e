"""The hierarchical learned optimizer: an LSTM per tensor, an MLP per parameter, messages between them.

Source: Metz, Maheswaranathan, Freeman, Poole, Sohl-Dickstein 2020 (arXiv 2009.11243), in the form of the public JAX
re-implementation, whose trajectories it reproduces (methods 1.2-1.5).  Differs: the validation feature is 0 until a
validation loss has arrived (`valid_before_first="reference"` restores the public code's artefact).

Its parts: features.py and gradient_clip.py (what it sees), lstm.py (per tensor), per_parameter.py (per parameter, and the
output head `apply_direction`), loss_statistics.py, hierarchical_views.py (memory).
"""

import dataclasses
import math

import numpy as np

from lopt import rng
from lopt.arch import features as see
from lopt.arch import hierarchical_views as views
from lopt.arch import loss_statistics as stats
from lopt.arch.gradient_clip import clip_gradient
from lopt.arch.lstm import lstm_step, mean_message
from lopt.arch.per_parameter import (
    BLOCK,
    KEPT,
    apply_direction,
    clear_rows,
    hidden_layers,
    inverse_rms,
    place_of,
    scale_rows,
)
from lopt.errors import OptimizerError, unknown
from lopt.lanes import add_row_squares, add_row_sums, kernel, lane, lanes, matmul, sync
from lopt.layout import Layout
from lopt.optimizer import TABLE_COLUMNS, Optimizer, nonempty_table, register_optimizer


@kernel
def look_at_tensor(k, params, grad, memory, work, sizes, decays, train_loss, valid_loss):
    """Accumulators and features of tensor k: rows per parameter (kept if there is room), their 1 / RMS, the LSTM's inputs."""
    table, net, n_decays = sizes[views.TABLE :], work.network, sizes[views.DECAYS]
    at, n = 1 + TABLE_COLUMNS * k, params.size
    offset, size = table[at], table[at + 1]
    clear_rows(net.sums)
    clear_rows(net.squares)
    summed = 3 + 2 * n_decays  # of w, m and v; that of log |w| comes along
    for start in range(offset, offset + size, BLOCK):
        rows = net.rows[place_of(n, offset, k, start)]
        count = min(BLOCK, offset + size - start)
        see.update_accumulators(count, grad, memory, decays, n_decays, start)
        see.parameter_features(rows, count, params, grad, memory, n_decays, start)
        add_row_sums(rows[1:summed], count, net.sums[1:summed])
        add_row_squares(rows, count, net.squares)
        sync()
    matmul(net.sums, net.ones, work.sums)
    matmul(net.squares, net.ones, work.squares)
    inverse_rms(work.factors[k].reshape(work.sums.shape), work.squares, size)
    mean_w = np.float64(work.sums[1, 0]) / size
    variance_w = see.variance_about(
        params[offset : offset + size], mean_w, net.heads[:1], net.sums[:1]
    )
    row, own = work.inputs[k], sizes[views.BETWEEN] + sizes[views.TO_LSTM]
    see.tensor_features(
        row[own : own + see.TENSOR_FEATURES], work.sums, work.squares, variance_w, n_decays, table,
        at, train_loss, valid_loss,
    )  # fmt: skip
    for i in range(lane(), memory.between.size, lanes()):
        row[i] = memory.between[i]
    for i in range(lane(), memory.from_mlp.shape[1], lanes()):
        row[memory.between.size + i] = memory.from_mlp[k, i]
    for i in range(lane(), memory.hidden.shape[1], lanes()):
        row[own + see.TENSOR_FEATURES + i] = memory.hidden[k, i]
    if lane() == 0:
        work.norms[k] = math.sqrt(work.squares[1, 0])
    sync()


@kernel
def tensor_network(weights, memory, work, table, features, t):
    """LSTM of all tensors, the message between them, and the bias of each tensor's first MLP layer."""
    hidden, cell = memory.hidden, memory.cell
    if hidden.shape[1] > 0:
        lstm_step(work.inputs, hidden, cell, work.gates, weights.lstm, weights.lstm_bias)
        mean_message(
            hidden, weights.between, weights.between_bias, memory.between, work.mean, work.product
        )  # fmt: skip
        matmul(hidden, weights.to_mlp, work.messages)
    see.constant_inputs(work.constants, table, work.norms, work.messages, weights.to_mlp_bias, t)
    matmul(work.constants, weights.mlp.first[features:], work.biases)
    tensors, width = work.biases.shape
    for k in range(tensors):
        for j in range(lane(), width, lanes()):
            work.biases[k, j] += weights.mlp.first_bias[j]
    sync()


@kernel
def move_tensor(k, params, grad, weights, memory, work, sizes, step_mult, mag_rate):
    """The MLP of every parameter of tensor k: update them and write the mean second hidden layer."""
    table, net, mlp, n = sizes[views.TABLE :], work.network, weights.mlp, params.size
    offset, size = table[1 + TABLE_COLUMNS * k], table[2 + TABLE_COLUMNS * k]
    factors = work.factors[k].reshape(work.sums.shape)
    clip, n_decays = sizes[views.CLIP_NORMALISED] != 0, sizes[views.DECAYS]
    scale_rows(net.scaled, mlp.first, factors)
    clear_rows(net.hidden_sums)
    for start in range(offset, offset + size, BLOCK):
        count = min(BLOCK, offset + size - start)
        rows = net.rows[place_of(n, offset, k, start)]
        if n > KEPT:
            see.parameter_features(rows, count, params, grad, memory, n_decays, start)
        if clip:
            see.clip_rows(rows, count, factors)
        first = mlp.first if clip else net.scaled
        hidden_layers(net, rows, count, first, work.biases[k], mlp)
        add_row_sums(net.second, count, net.hidden_sums)
        apply_direction(params[start : start + count], net, mlp, step_mult, mag_rate)
    mean = work.means[k]
    matmul(net.hidden_sums, net.ones, mean.reshape(mean.size, 1))
    for j in range(lane(), mean.size, lanes()):
        mean[j] /= mean.dtype.type(size)
    sync()


@kernel
def hierarchical_step(theta, params, grad, state, loss, is_valid, data, work):
    """One call of the hierarchical optimizer; see `lopt.optimizer.Optimizer` and methods 1.2."""
    sizes, hyper, n = data.sizes, data.hyper, params.size
    memory = views.memory_of(state, sizes, n)
    t = np.float64(memory.t[0])
    sync()
    if lane() == 0:
        memory.t[0] = state.dtype.type(t + 1.0)
    sync()
    if is_valid != 0:
        stats.update_statistics(memory.valid, loss, stats.VALID_DECAY)
        return 0
    stats.update_statistics(memory.train, loss, stats.TRAIN_DECAY)
    train_loss = stats.standardised(loss, memory.train)
    valid_loss = stats.valid_feature(memory.valid, memory.train, sizes[views.ARTEFACT])

    weights = views.weights_of(theta, sizes)
    room = views.work_of(work, sizes)
    table, n_tensors = sizes[views.TABLE :], sizes[views.TABLE]
    decay, mult = np.float64(hyper[views.CLIP_DECAY]), np.float64(hyper[views.CLIP_MULT])
    if sizes[views.LEARN_CLIP] != 0:
        decay = max(-math.expm1(np.float64(weights.clip[0])), 0.0)
        mult = math.exp(np.float64(weights.clip[1]))
    if memory.past.size > 0:
        see.snapshot(params, memory.past, memory.recent, np.int64(memory.clip[0]) - 1)
    clip_gradient(grad, memory.clip, table, decay, mult, room.network.squares[0])
    decays = hyper[views.FIRST_DECAY :]
    for k in range(n_tensors):
        look_at_tensor(k, params, grad, memory, room, sizes, decays, train_loss, valid_loss)
    tensor_network(weights, memory, room, table, views.feature_count(sizes), t)
    step_mult = params.dtype.type(hyper[views.STEP_MULT])
    mag_rate = params.dtype.type(hyper[views.MAG_RATE])
    for k in range(n_tensors):
        move_tensor(k, params, grad, weights, memory, room, sizes, step_mult, mag_rate)
    matmul(room.means, weights.mlp.last, room.outputs)
    for k in range(n_tensors):
        for c in range(lane(), memory.from_mlp.shape[1], lanes()):
            memory.from_mlp[k, c] = room.outputs[k, 2 + c] + weights.mlp.last_bias[2 + c]
    sync()
    return 0


@register_optimizer("hierarchical")
@dataclasses.dataclass(frozen=True)
class Hierarchical(Optimizer):
    """The hierarchical learned optimizer of Metz et al. 2020; 35,799 meta-parameters at the default sizes.

    lstm_hidden        H of the per-tensor LSTM; 0: none, hence no messages, and the per-parameter MLP is alone
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
    uses_loss = True
    uses_valid_loss = True

    def __post_init__(self) -> None:
        lowest = {"lstm_hidden": 0, "mlp_hidden": 2, "to_lstm": 1, "to_mlp": 1, "between": 1}
        for key, low in lowest.items():
            if getattr(self, key) < low:
                raise OptimizerError(
                    f"hierarchical: {key} must be at least {low}, got {getattr(self, key)}"
                )
        if not self.decays or any(not 0 < d < 1 for d in self.decays):
            raise OptimizerError(f"hierarchical: decays must lie in (0, 1), got {self.decays}")
        for key in ("step_mult", "mag_rate"):
            if not 0 < getattr(self, key) < math.inf:
                raise OptimizerError(
                    f"hierarchical: {key} must be positive, got {getattr(self, key)}"
                )
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
    def channels(self) -> tuple[int, int, int]:
        """Of the messages to the LSTM, between tensors, and to the MLP; none without an LSTM."""
        return (self.to_lstm, self.between, self.to_mlp) if self.lstm_hidden > 0 else (0, 0, 0)

    @property
    def theta_layout(self) -> Layout:
        h, q = self.mlp_hidden, self.lstm_hidden
        to_lstm, between, to_mlp = self.channels
        n_first = self.n_features + see.CONSTANTS + to_mlp
        n_input = between + to_lstm + see.TENSOR_FEATURES
        tensors = [
            ("mlp/w0", (n_first, h)), ("mlp/b0", (h,)),
            ("mlp/w1", (h, h)), ("mlp/b1", (h,)),
            ("mlp/w2", (h, 2 + to_lstm)), ("mlp/b2", (2 + to_lstm,)),
            ("lstm/w", (n_input + q, 4 * q)), ("lstm/b", (4 * q,)),
            ("to_mlp/w", (q, to_mlp)), ("to_mlp/b", (to_mlp,)),
            ("between/w", (q, between)), ("between/b", (between,)),
            ("initial/between", (between,)), ("initial/from_mlp", (to_lstm,)),
            ("initial/hidden", (q,)), ("initial/cell", (q,)),
        ]  # fmt: skip
        if self.learn_clip:
            tensors.append(("clip", (2,)))
        return Layout((name, shape) for name, shape in tensors if 0 not in shape)

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
            layout.views(theta)["clip"][:] = (
                math.log1p(-self.clip_decay),
                math.log(self.clip_mult),
            )
        return theta

    def sizes(self, layout: Layout) -> np.ndarray:
        slots = [
            self.lstm_hidden, self.mlp_hidden, *self.channels,
            len(self.decays), int(self.past_weights), int(self.clip_normalised),
            int(self.learn_clip), int(self.valid_before_first == "reference"),
        ]  # fmt: skip
        return np.concatenate([np.array(slots, np.int64), nonempty_table(layout)])

    def hyper(self) -> np.ndarray:
        head = (self.step_mult, self.mag_rate, self.clip_decay, self.clip_mult)
        return np.array([*head, *self.decays], np.float32)

    def state_size(self, layout: Layout) -> int:
        return views.state_elements(self.sizes(layout), layout.size)

    def work_size(self, layout: Layout) -> int:
        return views.work_elements(self.sizes(layout), layout.size)

    def init_state(self, theta: np.ndarray, layout: Layout) -> np.ndarray:
        sizes = self.sizes(layout)
        state = np.zeros(views.state_elements(sizes, layout.size), theta.dtype)
        memory = views.memory_of(state, sizes, layout.size)
        learned = self.theta_layout.views(theta)
        if self.lstm_hidden > 0:
            for name in ("hidden", "cell", "from_mlp", "between"):
                getattr(memory, name)[:] = learned[f"initial/{name}"]
        decay = float(self.hyper()[views.CLIP_DECAY])  # rounded as the kernel's, so that
        if self.learn_clip:
            decay = max(-math.expm1(float(learned["clip"][0])), 0.0)
        memory.clip[:] = (1.0, 1.0 - decay)  # the first clip is clip_mult
        return state

    @classmethod
    def examples(cls) -> list["Hierarchical"]:
        small = {"lstm_hidden": 5, "mlp_hidden": 6, "to_lstm": 3, "to_mlp": 4, "between": 2}
        switches = ("past_weights", "clip_normalised", "learn_clip")
        return [
            cls(),
            cls(**small),
            cls(lstm_hidden=0),
            *(cls(**small, **{s: True}) for s in switches),
        ]
