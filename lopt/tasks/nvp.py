"""RealNVP flows of flattened images (TaskSet's nvp family, task set specification 3.9).

Dinh, Sohl-Dickstein & Bengio 2017, "Density estimation using Real NVP".
"""

import dataclasses
import functools
from typing import Any, Self

import numpy as np

from lopt.errors import TaskError
from lopt.lanes import kernel, lane, lanes, single_use, sync
from lopt.ops.activations import ACTIVATIONS
from lopt.ops.elementary import exp
from lopt.ops.images import IMAGE_SIZES
from lopt.ops.mlp_stack import (
    stack_activations,
    stack_bwd,
    stack_bwd_reference,
    stack_fwd,
    stack_fwd_reference,
    stack_size,
    stack_units,
)
from lopt.task import TaskData, register_task
from lopt.tasks.flow_common import (
    HALF_LOG_TAU,
    FlowTask,
    add_first_columns,
    base_density,
    clear,
    first_columns,
    flow_loss,
    gather_columns,
    noisy_images,
    scatter_columns,
)
from lopt.tasks.images import IMAGE_DATA

SEED_OFFSET = 123919936  # of the published sampler's seeds

# Behind the image block of data.sizes; widths 0..L and K - 1 permutations of D follow.
_ACTIVATION, _DIMENSION, _BLOCKS, _LAYERS, _SIZE, _UNITS, _WIDTHS = (
    IMAGE_SIZES + k for k in range(7)
)


@single_use
def coupling_fwd(v, out, terms):
    """Last e columns of v <- (v - t) w with w = e^-s; terms[d + j] += sum of column j of s.

    Shapes: v (B, D) UPDATED, D = d + e; out (B, 2 e) = (t, s), UPDATED to (t, w); terms (D,).
    """
    batch, n = v.shape
    e = out.shape[1] // 2
    sums = terms[n - e :]
    for r in range(batch):
        y, t, s = v[r, n - e :], out[r, :e], out[r, e:]
        for j in range(lane(), e, lanes()):
            sums[j] += s[j]
            w = exp(-s[j])
            y[j] = (y[j] - t[j]) * w
            s[j] = w
    sync()


@single_use
def coupling_bwd(v, out, dv, scale):
    """Gradients of one coupling, given dv of its result; the loss has scale * sum of s.

    Shapes: v (B, D), out (B, 2 e) as `coupling_fwd` left them; out UPDATED to (dt, ds), dv (B, D)
    to the gradient of the coupling's input, save for what flows through the net.
    """
    batch, n = v.shape
    e = out.shape[1] // 2
    for r in range(batch):
        x, d, t, w = v[r, n - e :], dv[r, n - e :], out[r, :e], out[r, e:]
        for j in range(lane(), e, lanes()):
            # x = (y - t) w, w = e^-s
            dy = d[j] * w[j]
            t[j] = -dy
            w[j] = scale - d[j] * x[j]
            d[j] = dy
    sync()


@kernel
def nvp_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean -log p of a RealNVP and its gradient; see `lopt.task.Task`.

    data.sizes: image block, activation code, D, blocks K, layers L of a net, its parameters, its
    units, widths 0..L, inverse permutations K-2..0.
    Scratch: for blocks K-1..0 v (B, D) and the activations of its net, from the first d columns of
    v to (t, s) | gradient of v (B, D) | terms (D,) | partials (32,).
    """
    sizes, batch = data.sizes, rows.size
    n, blocks, net = sizes[_DIMENSION], sizes[_BLOCKS], sizes[_SIZE]
    widths = sizes[_WIDTHS : _WIDTHS + sizes[_LAYERS] + 1]
    orders, code = sizes[_WIDTHS + sizes[_LAYERS] + 1 :], sizes[_ACTIVATION]
    d, e2 = widths[0], widths[widths.size - 1]
    units = batch * sizes[_UNITS]
    stride = batch * n + units
    end = blocks * stride
    last = end + batch * n
    dv = work[end:last].reshape(batch, n)
    terms, partials = work[last : last + n], work[last + n : last + n + 32]
    scale = work.dtype.type(1.0) / work.dtype.type(batch)

    clear(terms)
    noisy_images(data, rows, stream, split, step, work[: batch * n].reshape(batch, n))
    for i in range(blocks):
        k, at = blocks - 1 - i, i * stride
        v, stack = work[at : at + batch * n].reshape(batch, n), work[at + batch * n : at + stride]
        if i > 0:
            before = work[at - stride : at - stride + batch * n].reshape(batch, n)
            gather_columns(before, orders[(i - 1) * n : i * n], v)
        first_columns(v, stack[: batch * d].reshape(batch, d))
        stack_fwd(params[k * net : (k + 1) * net], widths, code, batch, stack)
        coupling_fwd(v, stack[units - batch * e2 :].reshape(batch, e2), terms)
    first_columns(work[end - stride : end - stride + batch * n].reshape(batch, n), dv)
    base_density(dv, terms, scale)
    loss = flow_loss(terms, n, batch, partials)
    if with_grad == 0:
        return loss
    for k in range(blocks):
        i = blocks - 1 - k
        at, p = i * stride, k * net
        v, stack = work[at : at + batch * n].reshape(batch, n), work[at + batch * n : at + stride]
        # v[d:] = (v[d:] - t) e^-s,  (t, s) = net(v[:d])
        coupling_bwd(v, stack[units - batch * e2 :].reshape(batch, e2), dv, scale)
        dx = stack[: batch * d if i > 0 else 0]
        stack_bwd(params[p : p + net], grad[p : p + net], widths, code, batch, stack, dx)
        if i > 0:
            # v = before[order]
            add_first_columns(dx.reshape(batch, d), dv)
            scatter_columns(dv, orders[(i - 1) * n : i * n], v)
            dv = v
    return loss


@register_task(
    "nvp",
    model=(
        "mean over B of -log p(x + 0.01 n), p by K affine couplings v1 <- (v1 - t(v0)) e^-s(v0) "
        "to a standard normal"
    ),
    data=IMAGE_DATA,
    source="TaskSet (Metz et al. 2020), nvp_family; Dinh et al. 2017",
    deviations="stand-in data",
)
@dataclasses.dataclass(frozen=True)
class Nvp(FlowTask):
    """Density of images by affine couplings: the first half of the columns moves the second.

    Each of K blocks: v1 <- (v1 - t) e^-s, where (t, s) = MLP(v0), v0 the first floor(D / 2) columns
    and v1 the rest; between blocks the permutation RandomState(k).permutation(D) is undone.  s is
    not clipped: with large initial weights the first losses may be infinite.
    Options: see `FlowTask` and `ImageTask`.

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    core = staticmethod(nvp_evaluate)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dimension < 2:
            raise TaskError(f"images of {self.dimension} number cannot be split; nearest valid: 2")

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        d = self.dimension // 2
        return (d, *self.hidden, 2 * (self.dimension - d))

    @functools.cached_property
    def orders(self) -> tuple[np.ndarray, ...]:
        """Inverse permutations K-2, ..., 0, in the order in which the flow undoes them."""
        d, ks = self.dimension, reversed(range(self.blocks - 1))
        return tuple(np.argsort(np.random.RandomState(k).permutation(d)) for k in ks)

    @functools.cached_property
    def arrays(self) -> TaskData:
        w = self.widths
        own = [ACTIVATIONS.index(self.activation), self.dimension, self.blocks, len(w) - 1]
        own += [stack_size(w), stack_units(w), *w]
        sizes = np.concatenate([np.array(self.image_sizes + own, np.int64), *self.orders])
        hyper = np.array(self.image_hyper, np.float32)
        return TaskData(self.dataset.floats, self.dataset.ints, sizes, hyper)

    def activations(self, batch: int) -> int:
        """Of every block the stack and the half that it moves."""
        w = self.widths
        moved = self.dimension - w[0]
        return batch * self.blocks * (stack_activations(w, self.activation) + moved)

    def work_size(self, batch: int) -> int:
        d, w = self.dimension, self.widths
        return batch * (self.blocks * (d + stack_units(w)) + d) + d + 32

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        tensors, half = self.layout.views(params), self.widths[0]
        v = self.noisy_batch(rows, stream, split, step)
        batch, tapes, total = len(v), [], 0.0
        for i in range(self.blocks):
            prefix = f"net{self.blocks - 1 - i}_"
            if i > 0:
                v = v[:, self.orders[i - 1]]
            out, tape = stack_fwd_reference(tensors, v[:, :half], self.activation, prefix)
            t, s = np.split(out, 2, axis=1)
            v = np.concatenate([v[:, :half], (v[:, half:] - t) * np.exp(-s)], axis=1)
            total += s.sum()
            tapes.append((prefix, tape, s, v))
        loss = (total + 0.5 * (v**2).sum()) / batch + self.dimension * HALF_LOG_TAU
        grads, dv = {}, v / batch
        for i, (prefix, tape, s, x) in reversed(list(enumerate(tapes))):
            dy = dv[:, half:] * np.exp(-s)
            ds = 1.0 / batch - dv[:, half:] * x[:, half:]
            some, dv0 = stack_bwd_reference(tensors, tape, np.concatenate([-dy, ds], 1), prefix)
            grads |= some
            dv = np.concatenate([dv[:, :half] + dv0, dy], axis=1)
            if i > 0:
                dv = dv[:, np.argsort(self.orders[i - 1])]
        return float(loss), self.layout.flatten(grads, np.float64)

    @classmethod
    def sample_config(cls, seed: int) -> dict[str, Any]:
        """Configuration `nvp_family_seed<seed>` of TaskSet as published: all fields, as drawn."""
        return cls.drawn_config(np.random.RandomState(seed + SEED_OFFSET))

    @classmethod
    def sample(cls, seed: int) -> Self:
        """Task `nvp_family_seed<seed>` of TaskSet on a stand-in for its data."""
        return cls(**cls.drawn_options(cls.sample_config(seed)))

    @classmethod
    def examples(cls) -> list[Self]:
        """One block and several, one hidden layer, two, and none."""
        return [
            cls(hidden=(9,), blocks=1, activation="tanh", batch_size=7),
            cls(hidden=(8, 5), blocks=3, activation="sigmoid", batch_size=5),
            cls(hidden=(), blocks=2, initialiser="orthogonal", batch_size=3, center=True),
        ]
