"""`anchored`: Adam's direction plus a learned correction, with one learned step size per tensor.

Source: the project's own, out of parts of Celo and Celo2 (arXiv 2501.12670, 2602.19142) and of Metz et al. 2020: the
correction is normalised with Adam's direction to unit RMS over the tensor, the step is relative to the initial scale of
the layer, an LSTM per tensor (or a linear map) gives its multiple.  theta = 0 is Adam (0.9, 0.999) whose direction is
brought to unit RMS in every tensor, so that meta-training begins at a baseline.

Its parts: anchored_features.py (what it sees of a parameter), orthogonal.py (of a matrix), anchored_head.py (step size),
anchored_views.py (memory).
"""

import dataclasses
import math

import numpy as np

from lopt import rng
from lopt.arch import anchored_features as see
from lopt.arch import anchored_head as rate_head
from lopt.arch import anchored_views as views
from lopt.arch.orthogonal import columns_of, orthogonal_factor, orthogonal_sizes
from lopt.arch.per_parameter import BLOCK, KEPT, clear_rows
from lopt.arch.schedules import check_total_steps, falling
from lopt.errors import OptimizerError
from lopt.lanes import (
    add_row_squares,
    add_square_partials,
    clear_partials,
    fold_partials,
    kernel,
    lane,
    lanes,
    matmul,
    sum32,
    sync,
)
from lopt.layout import Layout
from lopt.optimizer import TABLE_COLUMNS, Optimizer, nonempty_table, register_optimizer


@kernel
def look_at_tensor(k, params, grad, memory, work, sizes, t):
    """Rows of tensor k (kept if there is room), their 1 / RMS, and the inputs of its head if there is one."""
    table, n = sizes[views.TABLE :], params.size
    at = 1 + TABLE_COLUMNS * k
    offset, size = table[at], table[at + 1]
    root2 = math.sqrt(-math.expm1((t + 1.0) * math.log(see.V_DECAYS[0])))  # sqrt(1 - b2^t)
    clear_partials(work.partials)
    add_square_partials(grad[offset : offset + size], size, work.partials)
    rms_g = math.sqrt(np.float64(fold_partials(work.partials)) / size)
    v = memory.v[offset : offset + size]
    rms_v = math.sqrt(np.float64(sum32(v, size, work.partials)) / size)
    clear_rows(work.squares)
    clear_rows(work.products)
    for start in range(offset, offset + size, BLOCK):
        count = min(BLOCK, offset + size - start)
        rows = views.rows_of(work, n, start, count).array
        see.parameter_rows(
            rows, params, grad, memory.m, memory.v, rms_g, rms_v, see.EPS * root2, start
        )
        add_row_squares(rows, count, work.squares)
        if sizes[views.HEAD] != 0:
            see.add_products(rows[see.G], rows[see.M], work.products[0])
            see.add_products(rows[see.G], rows[see.M + 1], work.products[1])
        sync()
    if lane() == 0:
        work.norms[k, 0] = work.norms.dtype.type(rms_g)
        work.norms[k, 1] = work.norms.dtype.type(rms_v)
    rms = work.rms
    for c in range(see.FEATURES):
        total = math.sqrt(np.float64(fold_partials(work.squares[c])) / size)
        if lane() == 0:
            rms[c] = rms.dtype.type(total)
            work.factors[k, c] = rms.dtype.type(see.inverse_root(total * total))
    sync()
    if sizes[views.HEAD] != 0:
        look_for_head(k, memory, work, table, size, rms_v, t)


@kernel
def look_for_head(k, memory, work, table, size, rms_v, t):
    """Inputs of tensor k's step size, out of what `look_at_tensor` left in work.rms and work.products."""
    root2 = math.sqrt(-math.expm1((t + 1.0) * math.log(see.V_DECAYS[0])))
    correct1 = -math.expm1((t + 1.0) * math.log(see.M_DECAYS[0]))
    rms, kept = work.rms, rate_head.COSINE
    for c in range(2):
        product = np.float64(fold_partials(work.products[c])) / size
        scale = np.float64(rms[see.G]) * np.float64(rms[see.M + c])
        cosine = product / scale if scale > 0.0 else 0.0
        if lane() == 0:
            new = kept * np.float64(memory.cosines[k, c]) + (1.0 - kept) * cosine
            memory.cosines[k, c] = rms.dtype.type(new)
    sync()
    rms_adam = np.float64(rms[see.NORMALISED]) * root2 / correct1
    signal = np.float64(rms[see.M + 1]) / rms_v if rms_v > 0.0 else 0.0
    rate_head.head_inputs(
        work.inputs[k], table, 1 + TABLE_COLUMNS * k, memory.losses, np.float64(memory.scales[k]),
        np.float64(work.typical[0]), rms_adam, memory.cosines[k], signal, t,
    )  # fmt: skip


@kernel
def mixed_weights(mixed, weights, factors):
    """Rows of (1 + H, 13): weights of the direction, then of each hidden unit, with 1 / RMS folded in."""
    one = mixed.dtype.type(1.0)
    for c in range(lane(), see.FEATURES, lanes()):
        anchor = one if c == see.NORMALISED else mixed.dtype.type(0.0)
        # direction = adam / rms(adam) + direct . inputs + outer . relu(hidden inputs + bias)
        mixed[0, c] = (anchor + weights.direct[c]) * factors[c]
        for j in range(mixed.shape[0] - 1):
            mixed[1 + j, c] = weights.hidden[c, j] * factors[c]
    sync()


@kernel
def add_hidden(direction, units, bias, outer):
    """direction (n,) += outer . relu(units + bias); units (H, n)."""
    zero = direction.dtype.type(0.0)
    for j in range(units.shape[0]):
        row, b, w = units[j], bias[j], outer[j]
        for i in range(lane(), direction.size, lanes()):
            z = row[i] + b
            direction[i] += w * (z if z > zero else zero)
    sync()


@kernel
def add_orthogonal(direction, factor, weight):
    """direction (n,) += weight factor, n entries of an orthogonal factor; weight of unit RMS over the tensor."""
    for i in range(lane(), direction.size, lanes()):
        direction[i] += weight * factor[i]
    sync()


@kernel
def look_at_matrix(k, memory, weights, work, sizes, offset, size):
    """What the orthogonal factor of tensor k's fastest momentum is multiplied by; 0 where it is not looked at.

    The factor is left in work.matrix[1, :size].
    """
    columns = columns_of(sizes[views.TABLE :], 1 + TABLE_COLUMNS * k)
    if sizes[views.MATRIX] == 0 or columns == 0 or weights.orthogonal[0] == 0.0:
        return 0.0
    inverse_norm = np.float64(work.factors[k, see.M]) / math.sqrt(size)
    first, factor = work.matrix[0, :size], work.matrix[1, :size]
    orthogonal_factor(
        memory.m[offset : offset + size], columns, inverse_norm, first, factor, work.grams
    )
    clear_partials(work.partials)
    add_square_partials(factor, size, work.partials)
    mean_square = np.float64(fold_partials(work.partials)) / size
    return np.float64(weights.orthogonal[0]) * see.inverse_root(mean_square)


@kernel
def move_tensor(k, params, grad, memory, weights, work, sizes, root2, decay):
    """Direction of tensor k into grad, then w <- w - rate (direction / rms(direction) + decay w)."""
    table, n, cast = sizes[views.TABLE :], params.size, params.dtype.type
    offset, size = table[1 + TABLE_COLUMNS * k], table[2 + TABLE_COLUMNS * k]
    mixed_weights(work.mixed, weights, work.factors[k])
    rms_g, rms_v = np.float64(work.norms[k, 0]), np.float64(work.norms[k, 1])
    of_matrix = look_at_matrix(k, memory, weights, work, sizes, offset, size)
    clear_partials(work.partials)
    for start in range(offset, offset + size, BLOCK):
        count = min(BLOCK, offset + size - start)
        rows = views.rows_of(work, n, start, count).array
        if n > KEPT:
            see.parameter_rows(
                rows, params, grad, memory.m, memory.v, rms_g, rms_v, see.EPS * root2, start
            )
        out = work.out[: work.mixed.shape[0] * count].reshape(work.mixed.shape[0], count)
        matmul(work.mixed, rows, out)
        add_hidden(out[0], out[1:], weights.bias, weights.outer)
        if of_matrix != 0.0:
            at = start - offset
            add_orthogonal(out[0], work.matrix[1, at : at + count], cast(of_matrix))
        own = grad[start : start + count]
        for i in range(lane(), count, lanes()):
            own[i] = out[0, i]
        sync()
        add_square_partials(own, count, work.partials)
    mean_square = np.float64(fold_partials(work.partials)) / size
    rate = np.float64(work.rates[k])
    step, shrink = cast(rate * see.inverse_root(mean_square)), cast(1.0 - rate * decay)
    own, direction = params[offset : offset + size], grad[offset : offset + size]
    for i in range(lane(), size, lanes()):
        own[i] = shrink * own[i] - step * direction[i]
    sync()


@kernel
def scheduled(t, total, decay):
    """Factor of all step sizes at step t: a cosine to 0 over `total` steps, else 1 / sqrt(1 + t / decay), else 1."""
    if total == 0.0 and decay > 0.0:
        return 1.0 / math.sqrt(1.0 + t / decay)
    return falling(t, total)


@kernel
def anchored_step(theta, params, grad, state, loss, is_valid, data, work):
    """One call; see `lopt.optimizer.Optimizer`."""
    sizes, hyper, n = data.sizes, data.hyper, params.size
    memory = views.memory_of(state, sizes, n)
    if is_valid != 0:
        if sizes[views.SEES_VALID] != 0:
            rate_head.update_valid_loss(memory.losses, loss)
        return 0
    weights, room = views.weights_of(theta, sizes), views.work_of(work, sizes, n)
    table, t = sizes[views.TABLE :], np.float64(memory.losses[rate_head.N_TRAIN])
    if t == 0.0:
        rate_head.initial_scales(memory.scales, params, table, room.partials)
    views.typical_scale(room.typical, memory.scales, table)
    rate_head.update_train_loss(memory.losses, loss)
    see.update_averages(grad, memory.m, memory.v)
    for k in range(table[0]):
        look_at_tensor(k, params, grad, memory, room, sizes, t)
    rate_head.log_multiples(
        room.rates, room.inputs, room.gates, memory.hidden, memory.cell, weights.rate,
        weights.lstm, weights.lstm_bias, weights.recurrent,
    )  # fmt: skip
    schedule = scheduled(
        t, np.float64(sizes[views.TOTAL_STEPS]), np.float64(sizes[views.DECAY_STEPS])
    )
    for k in range(lane(), table[0], lanes()):
        scale = np.float64(memory.scales[k])
        if sizes[views.GROWS] != 0:
            usual = rate_head.usual_scale(table, 1 + TABLE_COLUMNS * k)
            scale = rate_head.grown_scale(scale, np.float64(room.factors[k, see.W]), usual)
        rate = schedule * np.float64(hyper[views.RATE]) * scale
        room.rates[k] = room.rates.dtype.type(rate * math.exp(np.float64(room.rates[k])))
    sync()
    root2 = math.sqrt(-math.expm1((t + 1.0) * math.log(see.V_DECAYS[0])))
    for k in range(table[0]):
        move_tensor(
            k, params, grad, memory, weights, room, sizes, root2, np.float64(hyper[views.DECAY])
        )
    return 0


@register_optimizer("anchored")
@dataclasses.dataclass(frozen=True)
class Anchored(Optimizer):
    """Adam's direction plus a learned correction of unit RMS, and a learned step size per tensor; 13 meta-parameters up.

    hidden        hidden ReLU units of the correction; 0: it is linear in the inputs
    head          whether the step size of a tensor is learned; else it is `rate` times the layer's scale
    lstm_hidden   cells of the LSTM behind the step size; 0: the step size is linear in the tensor's inputs
    valid_loss    whether the optimizer sees validation losses (the generalisation gap is an input of the head)
    rate          step of theta = 0, relative to the initial RMS of the layer; the user's knob, if one is wanted
    grow          whether a layer that starts small is followed: its scale is the larger of its initial RMS and of its
                  present one, the latter up to that of a usual initialisation, 1 / sqrt(fan in)
    weight_decay  decoupled: w <- w - rate (direction + weight_decay w)
    orthogonal    whether the direction of a matrix also has a learned share of the orthogonal factor of its momentum; a
                  step then costs ten more products of that matrix with itself
    total_steps   length of a cosine decay of all steps to 0; 0: none
    decay_steps   without total_steps: step t is 1 / sqrt(1 + t / decay_steps) of the first; 0: constant
    """

    hidden: int = 0
    head: bool = True
    lstm_hidden: int = 0
    valid_loss: bool = False
    rate: float = 0.01
    grow: bool = False
    weight_decay: float = 0.0
    orthogonal: bool = False
    total_steps: int = 0
    decay_steps: int = 0

    core = staticmethod(anchored_step)

    def __post_init__(self) -> None:
        for key in ("hidden", "lstm_hidden", "decay_steps"):
            if getattr(self, key) < 0:
                raise OptimizerError(f"anchored: {key} must be >= 0, got {getattr(self, key)}")
        check_total_steps("anchored", self.total_steps)
        for key in ("lstm_hidden", "valid_loss"):
            if getattr(self, key) and not self.head:
                raise OptimizerError(
                    f"anchored: {key} = {getattr(self, key)} is for a head, and head is false"
                )
        if not 0 < self.rate < math.inf:
            raise OptimizerError(f"anchored: rate must be positive, got {self.rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise OptimizerError(f"anchored: weight_decay must be >= 0, got {self.weight_decay}")

    @property
    def uses_loss(self) -> bool:
        """Whether an update needs the training loss: only the head looks at it."""
        return self.head

    @property
    def uses_valid_loss(self) -> bool:
        """Whether rollouts show it validation losses."""
        return self.valid_loss

    @property
    def theta_layout(self) -> Layout:
        h, q = self.hidden, self.lstm_hidden
        tensors = [("direction/direct", (see.FEATURES,))]
        tensors += [
            ("direction/w0", (see.FEATURES, h)),
            ("direction/b0", (h,)),
            ("direction/w1", (h,)),
        ]
        tensors += [("rate/direct", (rate_head.INPUTS * int(self.head),)), ("rate/recurrent", (q,))]
        tensors += [("rate/lstm", (rate_head.INPUTS + q, 4 * q)), ("rate/lstm_bias", (4 * q,))]
        tensors += [("direction/orthogonal", (int(self.orthogonal),))]
        return Layout((name, shape) for name, shape in tensors if 0 not in shape)

    def init_theta(self, seed: int = 0) -> np.ndarray:
        """Inner weights N(0, 2 / fan in) before a ReLU and N(0, 1 / fan in) of the LSTM; all outputs 0: unit-RMS Adam."""
        layout = self.theta_layout
        theta, stream = np.zeros(layout.size, np.float32), rng.stream(seed)
        for k, (name, view) in enumerate(layout.views(theta).items()):
            if name in ("direction/w0", "rate/lstm"):
                std = math.sqrt((2.0 if name == "direction/w0" else 1.0) / view.shape[0])
                view[...] = (std * rng.normals(view.size, stream, rng.THETA, k)).reshape(view.shape)
        return theta

    def sizes(self, layout: Layout) -> np.ndarray:
        slots = [self.hidden, self.lstm_hidden, int(self.head), self.total_steps, self.decay_steps]
        slots += [int(self.valid_loss), int(self.grow)]
        slots += orthogonal_sizes(layout) if self.orthogonal else (0, 0)
        return np.concatenate([np.array(slots, np.int64), nonempty_table(layout)])

    def hyper(self) -> np.ndarray:
        return np.array([self.rate, self.weight_decay], np.float32)

    def state_size(self, layout: Layout) -> int:
        return views.state_elements(self.sizes(layout), layout.size)

    def work_size(self, layout: Layout) -> int:
        return views.work_elements(self.sizes(layout), layout.size)

    def init_state(self, theta: np.ndarray, layout: Layout) -> np.ndarray:
        return np.zeros(self.state_size(layout), theta.dtype)

    @classmethod
    def examples(cls) -> list["Anchored"]:
        full = {
            "hidden": 4,
            "lstm_hidden": 3,
            "valid_loss": True,
            "weight_decay": 0.1,
            "orthogonal": True,
        }
        return [cls(), cls(hidden=8, head=False), cls(**full), cls(total_steps=7)]
