"""Masked autoregressive flows of flattened images (TaskSet's maf family, task set specification 3.10).

Papamakarios, Pavlakou & Murray 2017, "Masked autoregressive flow for density estimation"; masks: Germain, Gregor, Murray &
Larochelle 2015, "MADE: masked autoencoder for distribution estimation".
"""

import dataclasses
import functools
import itertools
from typing import Any, Self

import numpy as np

from lopt import rng
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
from lopt.tasks.checks import check_flag, check_integer
from lopt.tasks.flow_common import (
    HALF_LOG_TAU,
    FlowTask,
    add_first_columns,
    base_density,
    clear,
    flow_loss,
    noisy_images,
    scatter_columns,
)
from lopt.tasks.images import IMAGE_DATA

SEED_OFFSET = 6123348  # of the published sampler's seeds
S_RANGE = (-5.0, 3.0)  # of the clip of s

# Behind the image block of data.sizes; widths 0..L, cuts and K - 1 permutations of D follow.
_ACTIVATION, _BLOCKS, _LAYERS, _SIZE, _UNITS, _CUTS, _WIDTHS = (IMAGE_SIZES + k for k in range(7))


@kernel
def mask_stack(params, widths, cuts, masked):
    """masked OVERWRITTEN with params, row i of each weight matrix 0 before column cuts[i].

    Shapes: params, masked (stack_size(widths),); cuts (n_0 + ... + n_{L-1},) int64, those of the
    first layer's rows first.
    """
    zero = masked.dtype.type(0.0)
    p, c = 0, 0
    for k in range(widths.size - 1):
        n, m = widths[k], widths[k + 1]
        for i in range(n + 1):
            cut = cuts[c + i] if i < n else 0  # behind the weights, the bias
            source, target = params[p + cut : p + m], masked[p + cut : p + m]
            for j in range(lane(), m - cut, lanes()):
                target[j] = source[j]
            target = masked[p : p + cut]
            for j in range(lane(), cut, lanes()):
                target[j] = zero
            p += m
        c += n
    sync()


@kernel
def mask_gradient(grad, widths, cuts):
    """Gradient of `masked` to that of params in `mask_stack`, in place."""
    p, c = 0, 0
    for k in range(widths.size - 1):
        n, m = widths[k], widths[k + 1]
        for i in range(n):
            # masked[i, :cut] = 0
            row = grad[p + i * m : p + i * m + cuts[c + i]]
            for j in range(lane(), row.size, lanes()):
                row[j] = grad.dtype.type(0.0)
        p += n * m + m
        c += n
    sync()


@single_use
def affine_fwd(y, out, terms):
    """x = (y - t) w with w = e^-s and s clipped to [-5, 3]; terms[j] += sum of column j of s.

    Shapes: y (B, D); out (B, 2 D) = (t_0, s_0, t_1, s_1, ...), UPDATED to (x_0, w_0, ...).
    """
    batch, n = y.shape
    low, high = out.dtype.type(S_RANGE[0]), out.dtype.type(S_RANGE[1])
    for r in range(batch):
        source, target = y[r], out[r]
        for j in range(lane(), n, lanes()):
            s = target[2 * j + 1]
            s = low if s < low else s  # a NaN stays one
            s = high if s > high else s
            w = exp(-s)
            terms[j] += s
            target[2 * j] = (source[j] - target[2 * j]) * w
            target[2 * j + 1] = w
    sync()


@single_use
def affine_bwd(out, dv, scale):
    """Gradients of one block, given dv of its result x; the loss has scale * sum of s.

    Shapes: out (B, 2 D) as `affine_fwd` left it, UPDATED to (dt_0, ds_0, ...); dv (B, D) UPDATED to
    the gradient of y, save for what flows through the net.  The clip of s counts as the identity.
    """
    batch, n = dv.shape
    for r in range(batch):
        target, d = out[r], dv[r]
        for j in range(lane(), n, lanes()):
            # x = (y - t) w, w = e^-s
            x, dy = target[2 * j], d[j] * target[2 * j + 1]
            target[2 * j] = -dy
            target[2 * j + 1] = scale - d[j] * x
            d[j] = dy
    sync()


@kernel
def even_columns(out, v):
    """v (B, D) OVERWRITTEN with columns 0, 2, 4, ... of out (B, 2 D)."""
    batch, n = v.shape
    for r in range(batch):
        source, target = out[r], v[r]
        for j in range(lane(), n, lanes()):
            target[j] = source[2 * j]
    sync()


@kernel
def gather_even_columns(out, order, v):
    """v[:, j] = out[:, 2 order[j]].  Shapes: out (B, 2 D), order (D,) int64, v (B, D)."""
    batch, n = v.shape
    for r in range(batch):
        source, target = out[r], v[r]
        for j in range(lane(), n, lanes()):
            target[j] = source[2 * order[j]]
    sync()


@kernel
def maf_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean -log p of a masked autoregressive flow and its gradient; see `lopt.task.Task`.

    data.sizes: image block, activation code, blocks K, layers L of a net, its parameters, its
    units, number of cuts, widths 0..L, cuts, permutations after K-1..1.
    Scratch: activations of the nets of blocks K-1..0, from v to (t, s) | masked parameters (N,) |
    gradient of v (B, D) | terms (D,) | partials (32,).
    """
    sizes, batch = data.sizes, rows.size
    blocks, net, code = sizes[_BLOCKS], sizes[_SIZE], sizes[_ACTIVATION]
    cut = _WIDTHS + sizes[_LAYERS] + 1
    widths, cuts = sizes[_WIDTHS:cut], sizes[cut : cut + sizes[_CUTS]]
    orders, n = sizes[cut + sizes[_CUTS] :], widths[0]
    stride = batch * sizes[_UNITS]
    end = blocks * stride
    begin = end + blocks * net
    last = begin + batch * n
    masked, dv = work[end:begin], work[begin:last].reshape(batch, n)
    terms, partials = work[last : last + n], work[last + n : last + n + 32]
    scale = work.dtype.type(1.0) / work.dtype.type(batch)

    clear(terms)
    noisy_images(data, rows, stream, split, step, work[: batch * n].reshape(batch, n))
    for i in range(blocks):
        p, at = (blocks - 1 - i) * net, i * stride
        stack, inner = work[at : at + stride], masked[p : p + net]
        v = stack[: batch * n].reshape(batch, n)
        out = stack[stride - batch * 2 * n :].reshape(batch, 2 * n)
        if i > 0:
            before = work[at - batch * 2 * n : at].reshape(batch, 2 * n)
            gather_even_columns(before, orders[(i - 1) * n : i * n], v)
        mask_stack(params[p : p + net], widths, cuts, inner)
        stack_fwd(inner, widths, code, batch, stack)
        affine_fwd(v, out, terms)
    even_columns(work[end - batch * 2 * n : end].reshape(batch, 2 * n), dv)
    base_density(dv, terms, scale)
    loss = flow_loss(terms, n, batch, partials)
    if with_grad == 0:
        return loss
    for k in range(blocks):
        i, p = blocks - 1 - k, k * net
        stack = work[i * stride : (i + 1) * stride]
        v, last_layer = stack[: batch * n].reshape(batch, n), stack[stride - batch * 2 * n :]
        # x = (v - t) e^-s,  (t, s) = net(v)
        affine_bwd(last_layer.reshape(batch, 2 * n), dv, scale)
        inner, outcome = masked[p : p + net], grad[p : p + net]
        stack_bwd(inner, outcome, widths, code, batch, stack, stack[: batch * n if i > 0 else 0])
        mask_gradient(outcome, widths, cuts)
        if i > 0:
            # v = x_before[order]; nothing needs last_layer any more
            add_first_columns(v, dv)
            dx = last_layer[: batch * n].reshape(batch, n)
            scatter_columns(dv, orders[(i - 1) * n : i * n], dx)
            dv = dx
    return loss


def degrees(n: int, dimension: int) -> np.ndarray:
    """Degrees of n hidden units, ascending: evenly spread over 1..D-1."""
    return 1 + (2 * np.arange(n) + 1) * (dimension - 1) // (2 * n)


def made_cuts(widths: tuple[int, ...]) -> list[np.ndarray]:
    """For each layer the first column that row i of the weights may reach, by MADE's degrees.

    Input i has degree i + 1, and so have the outputs 2 i and 2 i + 1.  A hidden unit sees the units
    of its own degree and below, an output only those strictly below.  Units stand in the order of
    their degrees, so a mask is a staircase and one number per row describes it.
    """
    d = widths[0]
    hidden = [degrees(n, d) for n in widths[1:-1]]
    units = [np.arange(1, d + 1), *hidden]
    cuts = [np.searchsorted(b, a, "left") for a, b in itertools.pairwise(units)]
    return [*cuts, np.searchsorted(np.repeat(units[0], 2), units[-1], "right")]


def upstream_cuts(widths: tuple[int, ...]) -> list[np.ndarray]:
    """The same of the published masks: D blocks of n // D units in every layer of n units.

    Block i reaches the units of block i and later, in the first layer of block i + 1 and later.
    Units left over reach nothing.  Where a hidden layer has fewer than D units its blocks are
    empty: the first layer's mask is all ones and the later ones' all zeros.
    """
    d, cuts = widths[0], []
    for k, (n, m) in enumerate(itertools.pairwise(widths)):
        reach = np.full(n, m)
        block = np.repeat(np.arange(d), n // d)
        reach[: block.size] = (block + (k == 0)) * (m // d)
        cuts.append(reach)
    return cuts


@register_task(
    "maf",
    model=(
        "mean over B of -log p(x + 0.01 n), p by K masked affine maps v <- (v - t(v)) e^-s(v) to "
        "a standard normal"
    ),
    data=IMAGE_DATA,
    source="TaskSet (Metz et al. 2020), maf_family; Papamakarios et al. 2017; Germain et al. 2015",
    deviations=(
        "stand-in data; autoregressive masks for any width (upstream=True: the published masks, "
        "which leave constants); masks act in the forward pass"
    ),
)
@dataclasses.dataclass(frozen=True)
class Maf(FlowTask):
    """Density of images by K affine maps, each column moved as a function of those before it.

    Each of K blocks: v <- (v - t) e^-s, where (t, s) = MADE(v) and s is clipped to [-5, 3], with a
    gradient that ignores the clip; fixed random permutations of the columns in between.
    Masks multiply the weights in the forward pass, so masked weights have no gradient; they start
    at 0.  By default masks follow MADE's degrees, autoregressive for any hidden widths.

    instance   names the permutations; upstream draws them unseeded
    upstream   the published masks: blocks of n // D units.  All sampled configurations have fewer
               hidden units than columns, which leaves (t, s) a constant per column, whatever the
               image: the nets are biases.  Under optimizers that assign weights directly upstream
               even loses its masks, which is not reproduced.
    Further options: see `FlowTask` and `ImageTask`.

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    instance: int = 0
    upstream: bool = False

    core = staticmethod(maf_evaluate)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("instance", self.instance, 0, 2**32 - 1)
        check_flag("upstream", self.upstream)

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        return (self.dimension, *self.hidden, 2 * self.dimension)

    @functools.cached_property
    def cuts(self) -> list[np.ndarray]:
        """For each layer and each row of its weights, the first column that is not masked."""
        return upstream_cuts(self.widths) if self.upstream else made_cuts(self.widths)

    @functools.cached_property
    def orders(self) -> tuple[np.ndarray, ...]:
        """K - 1 permutations, in the order in which the flow applies them."""
        stream, last = rng.stream(self.instance), 2**32
        words = (
            rng.integers(self.dimension, 0, last, stream, rng.TASK, k)
            for k in range(self.blocks - 1)
        )
        return tuple(np.argsort(w, kind="stable") for w in words)

    @functools.cached_property
    def arrays(self) -> TaskData:
        w = self.widths
        own = [ACTIVATIONS.index(self.activation), self.blocks, len(w) - 1, stack_size(w)]
        own += [stack_units(w), sum(c.size for c in self.cuts), *w]
        first = np.array(self.image_sizes + own, np.int64)
        sizes = np.concatenate([first, *self.cuts, *self.orders]).astype(np.int64)
        hyper = np.array(self.image_hyper, np.float32)
        return TaskData(self.dataset.floats, self.dataset.ints, sizes, hyper)

    def activations(self, batch: int) -> int:
        """Of every block the stack, and the last block's result."""
        each = stack_activations(self.widths, self.activation)
        return batch * (self.blocks * each + self.dimension)

    def work_size(self, batch: int) -> int:
        d, w = self.dimension, self.widths
        return batch * (self.blocks * stack_units(w) + d) + self.layout.size + d + 32

    def init(self, stream: np.ndarray) -> np.ndarray:
        return self._masked(super().init(stream))

    def _masked(self, params: np.ndarray) -> np.ndarray:
        """A copy in which masked weights are 0, in the dtype of params."""
        params = params.copy()
        matrices = (w for w in self.layout.views(params).values() if w.ndim == 2)
        for w, cuts in zip(matrices, itertools.cycle(self.cuts), strict=False):
            w[np.arange(w.shape[1]) < cuts[:, None]] = 0.0
        return params

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        tensors = self.layout.views(self._masked(params))
        v = self.noisy_batch(rows, stream, split, step)
        batch, tapes, total = len(v), [], 0.0
        for i in range(self.blocks):
            prefix = f"net{self.blocks - 1 - i}_"
            if i > 0:
                v = v[:, self.orders[i - 1]]
            out, tape = stack_fwd_reference(tensors, v, self.activation, prefix)
            t, s = out[:, ::2], np.clip(out[:, 1::2], *S_RANGE)
            v = (v - t) * np.exp(-s)
            total += s.sum()
            tapes.append((prefix, tape, s, v))
        loss = (total + 0.5 * (v**2).sum()) / batch + self.dimension * HALF_LOG_TAU
        grads, dv = {}, v / batch
        for i, (prefix, tape, s, x) in reversed(list(enumerate(tapes))):
            dy = dv * np.exp(-s)
            dout = np.stack([-dy, 1.0 / batch - dv * x], axis=2).reshape(batch, -1)
            some, through_net = stack_bwd_reference(tensors, tape, dout, prefix)
            grads |= some
            dv = dy + through_net
            if i > 0:
                dv = dv[:, np.argsort(self.orders[i - 1])]
        return float(loss), self._masked(self.layout.flatten(grads, np.float64))

    @classmethod
    def sample_config(cls, seed: int) -> dict[str, Any]:
        """Configuration `maf_family_seed<seed>` of TaskSet as published: all fields, as drawn."""
        return cls.drawn_config(np.random.RandomState(seed + SEED_OFFSET))

    @classmethod
    def sample(cls, seed: int, upstream: bool = False) -> Self:
        """Task `maf_family_seed<seed>` of TaskSet on a stand-in for its data; masks: see `Maf`."""
        options = cls.drawn_options(cls.sample_config(seed))
        return cls(**options, instance=seed, upstream=upstream)

    @classmethod
    def examples(cls) -> list[Self]:
        """One block and several; narrow nets with both kinds of masks, and upstream's wide ones."""
        return [
            cls(hidden=(9,), blocks=1, activation="tanh", batch_size=7),
            cls(hidden=(8, 5), blocks=3, activation="elu", initialiser="he_normal", batch_size=5),
            cls(hidden=(9,), blocks=2, activation="swish", batch_size=3, upstream=True),
            cls(hidden=(70,), batch_size=3, upstream=True),
        ]
