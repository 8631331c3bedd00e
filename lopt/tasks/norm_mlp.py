"""MLP classification with a norm in every hidden layer; not a family of TaskSet."""

import dataclasses
import functools
import itertools
from typing import Self

import numpy as np

from lopt.data import DATASETS, Dataset, load
from lopt.errors import TaskError, unknown
from lopt.lanes import entry_point, kernel, lane, lanes, matmul, sync
from lopt.layout import Layout
from lopt.ops.activations import ACTIVATIONS, activate_bwd, activate_fwd, activate_reference
from lopt.ops.dense import dense_bwd, dense_bwd_input, dense_fwd, gather_fwd
from lopt.ops.losses import cross_entropy, cross_entropy_reference
from lopt.ops.norm import (
    batch_norm_bwd,
    batch_norm_fwd,
    layer_norm_bwd,
    layer_norm_fwd,
    norm_backward_reference,
    norm_reference,
    norm_work,
)
from lopt.task import EVALUATE_SIG, TRAIN, Task, TaskData, register_task
from lopt.tasks.checks import check_batch_size, check_flag, check_integer, check_widths
from lopt.tasks.images import IMAGE_DATA
from lopt.tasks.initialisers import check_initialiser, draw

NORMS = ("layer", "batch", "virtual")
EPS = (1e-5, 1e-3, 1e-3)  # of each, as the libraries behind TaskSet have them
_LAYERS, _ACTIVATION, _NORM, _AFFINE, _REFERENCE, _WIDTHS = range(6)


@kernel
def copy_reference(examples, scale, shift, x):
    """x = scale * examples + shift, the first rows of the data.  Shapes: examples (any >= R n,), x (R, n) OVERWRITTEN."""
    flat = x.reshape(x.size)
    for i in range(lane(), flat.size, lanes()):
        flat[i] = scale * examples[i] + shift
    sync()


@kernel
def norm_layer_fwd(kind, counted, eps, gamma, beta, kept, y, partials):
    """y = norm of the matrix that `kept` begins with; kept (M m + M + m,) becomes xhat | rstd for the backward pass."""
    rows, m = y.shape
    xhat, rstd = kept[: rows * m].reshape(rows, m), kept[rows * m :]
    if kind == 0:
        layer_norm_fwd(xhat, gamma, beta, eps, xhat, rstd, y)
    else:
        batch_norm_fwd(xhat, counted, gamma, beta, eps, xhat, rstd, y, partials)


@kernel
def norm_layer_bwd(kind, counted, gamma, kept, d, dgamma, dbeta, partials):
    """d, the gradient of y, becomes that of the matrix."""
    rows, m = d.shape
    xhat, rstd = kept[: rows * m].reshape(rows, m), kept[rows * m :]
    if kind == 0:
        layer_norm_bwd(xhat, rstd, gamma, d, dgamma, dbeta, partials)
    else:
        batch_norm_bwd(xhat, counted, rstd, gamma, d, dgamma, dbeta, partials)


@kernel
def norm_mlp_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean softmax cross-entropy of an MLP with norms and its gradient; see `lopt.task.Task`.

    data.sizes: layers L, activation, norm, whether it has gamma and beta, rows R of the reference batch (0: none),
    widths 0..L.  data.hyper: input scale and shift, eps of the norm.  M = R + B rows, the reference batch on top.
    Scratch: h_0 (M, n_0) | for each hidden layer xhat, rstd (M m + M + m), y (M, m), h (M, m) | logits (B, C) |
    two gradient buffers of the largest width | losses (B,) | partials (32,) | sums of the norm.
    """
    sizes, batch = data.sizes, rows.size
    layers, code, kind = sizes[_LAYERS], sizes[_ACTIVATION], sizes[_NORM]
    reference, widths = sizes[_REFERENCE], sizes[_WIDTHS:]
    total, n = reference + batch, widths[0]
    counted = reference if reference > 0 else total
    scale, shift = params.dtype.type(data.hyper[0]), params.dtype.type(data.hyper[1])
    copy_reference(data.floats, scale, shift, work[: reference * n].reshape(reference, n))
    gather_fwd(data.floats, rows, scale, shift, work[reference * n : total * n].reshape(batch, n))
    widest = n
    h, o, p = (
        0,
        total * n,
        0,
    )  # offsets of the layer's input and of what follows it in work, of its weights in params
    sums = work[work.size - norm_work(_largest(widths)) :]
    for k in range(layers - 1):
        n, m = widths[k], widths[k + 1]
        widest = max(widest, m)
        size, kept = total * m, total * m + total + m
        z, y = work[o : o + size].reshape(total, m), work[o + kept : o + kept + size]
        # z = h w
        matmul(work[h : h + total * n].reshape(total, n), params[p : p + n * m].reshape(n, m), z)
        p += n * m
        a = sizes[_AFFINE] * m
        norm_layer_fwd(
            kind,
            counted,
            data.hyper[2],
            params[p : p + a],
            params[p + a : p + 2 * a],
            work[o : o + kept],
            y.reshape(total, m),
            sums[: norm_work(m)],
        )
        p += 2 * a
        h = o + kept + size
        activate_fwd(y, work[h : h + size], code)
        o = h + size
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
        m = widths[k + 1]
        size, kept = total * m, total * m + total + m
        start = free + (back % 2) * total * widest
        d = work[start : start + size]
        if back == 0:
            _zero(d[: reference * m])
            dense_bwd_input(w, logits, d[reference * m :].reshape(batch, m))
        # h = f(y)
        y = h - size
        activate_bwd(work[y:h], work[h : h + size], d, code)
        # y = norm(z)
        a = sizes[_AFFINE] * m
        p -= 2 * a
        norm_layer_bwd(
            kind,
            counted,
            params[p : p + a],
            work[y - kept : y],
            d.reshape(total, m),
            grad[p : p + a],
            grad[p + a : p + 2 * a],
            sums[: norm_work(m)],
        )
        # z = h w
        n = widths[k]
        p -= n * m
        h = y - kept - total * n
        dz, w = d.reshape(total, m), params[p : p + n * m].reshape(n, m)
        matmul(work[h : h + total * n].reshape(total, n).T, dz, grad[p : p + n * m].reshape(n, m))
        if k > 0:
            start = free + ((back + 1) % 2) * total * widest
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


@entry_point(EVALUATE_SIG)
def norm_mlp_entry(params, grad, data, rows, stream, split, step, work, with_grad):
    return norm_mlp_evaluate(params, grad, data, rows, stream, split, step, work, with_grad)


@register_task(
    "norm_mlp",
    model=(
        "mean over B of softmax cross-entropy of an MLP whose hidden layers are normalised: "
        "batch, layer or virtual batch norm before the activation"
    ),
    data=IMAGE_DATA,
    source="Ioffe & Szegedy 2015; Ba et al. 2016; Salimans et al. 2016",
    deviations="batch norm uses the statistics of the batch at hand on all splits",
)
@dataclasses.dataclass(frozen=True)
class NormMlp(Task):
    """Softmax classification by a multi-layer perceptron with normalised hidden layers.

    h_k = f(norm(h_{k-1} w_k)) in the hidden layers, without bias: the norm would remove it; then a linear readout.

    data            name of an embedded data set
    hidden          widths of the hidden layers, one at least
    norm            "layer", "batch" or "virtual", see `lopt.ops.norm`.  Batch norm uses the statistics of the batch it
                    is given, on every split; virtual batch norm those of the first rows of the training split
    reference_rows  rows of the reference batch of virtual batch norm
    affine          the norms have a gamma, starting at 1, and a beta, starting at 0
    activation      one of TaskSet's nine, or "linear"
    initialiser     law of the weights, see `lopt.tasks.initialisers.draw`, and its scale `init_scale`
    batch_size      examples per mini-batch
    center          inputs 2x - 1 instead of x

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    data: str = "digits"
    hidden: tuple[int, ...] = (32,)
    norm: str = "batch"
    reference_rows: int = 32
    affine: bool = True
    activation: str = "relu"
    initialiser: str = "he_normal"
    init_scale: float = 1.0
    batch_size: int = 64
    center: bool = False

    core = staticmethod(norm_mlp_evaluate)
    entry = norm_mlp_entry

    def __post_init__(self) -> None:
        if self.data not in DATASETS:
            raise TaskError(unknown("data", self.data, DATASETS))
        check_widths("hidden", self.hidden)
        if not self.hidden:
            raise TaskError("hidden = [], valid: one width at least; nearest: [1]")
        if self.norm not in NORMS:
            raise TaskError(unknown("norm", self.norm, NORMS))
        lo, hi = self.dataset.splits[TRAIN]
        check_integer("reference_rows", self.reference_rows, 2, hi - lo)
        check_flag("affine", self.affine)
        if self.activation not in ACTIVATIONS:
            raise TaskError(unknown("activation", self.activation, ACTIVATIONS))
        check_initialiser(self.initialiser, self.init_scale)
        check_batch_size(self.batch_size, self.dataset.rows)
        check_flag("center", self.center)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The examples; the training split comes first."""
        return load(self.data)

    @property
    def reference_count(self) -> int:
        """Rows of the reference batch, 0 if there is none."""
        return self.reference_rows if self.norm == "virtual" else 0

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Features, hidden widths, classes."""
        return (self.dataset.features, *self.hidden, self.dataset.n_classes)

    @functools.cached_property
    def layout(self) -> Layout:
        tensors: list[tuple[str, tuple[int, ...]]] = []
        for k, (n, m) in enumerate(itertools.pairwise(self.widths[:-1])):
            affine = [(f"gamma{k}", (m,)), (f"beta{k}", (m,))] if self.affine else []
            tensors += [(f"w{k}", (n, m)), *affine]
        return Layout([*tensors, ("w_out", self.widths[-2:]), ("b_out", self.widths[-1:])])

    @functools.cached_property
    def arrays(self) -> TaskData:
        kind = NORMS.index(self.norm)
        flags = [ACTIVATIONS.index(self.activation), kind, int(self.affine), self.reference_count]
        sizes = [len(self.widths) - 1, *flags, *self.widths]
        hyper = (2.0, -1.0, EPS[kind]) if self.center else (1.0, 0.0, EPS[kind])
        return TaskData(
            self.dataset.floats,
            self.dataset.ints,
            np.array(sizes, np.int64),
            np.array(hyper, np.float32),
        )

    @functools.cached_property
    def splits(self) -> tuple[tuple[int, int], ...]:
        return self.dataset.splits

    def work_size(self, batch: int) -> int:
        w, total = self.widths, self.reference_count + batch
        layers = sum(3 * total * m + total + m for m in self.hidden)
        ends = total * w[0] + batch * w[-1] + 2 * total * max(w[:-1]) + batch + 32
        return ends + layers + int(norm_work(max(w)))

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        for k, (name, view) in enumerate(self.layout.views(params).items()):
            if name.startswith("w"):
                view[...] = draw(self.initialiser, self.init_scale, view.shape, stream, k)
            elif name.startswith("gamma"):
                view[...] = 1.0
        return params

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        t, top = self.layout.views(params), self.reference_count
        h = self.dataset.x[[*range(top), *rows]].astype(np.float64)
        h = 2 * h - 1 if self.center else h
        axis, eps = int(self.norm == "layer"), float(self.arrays.hyper[2])
        tape = []
        for k in range(len(self.hidden)):
            z = h @ t[f"w{k}"]
            counted = top or z.shape[axis]
            gamma, beta = t.get(f"gamma{k}", np.ones(1)), t.get(f"beta{k}", np.zeros(1))
            y, xhat, rstd = norm_reference(z, gamma, beta, eps, axis, counted)
            tape.append((h, xhat, rstd, gamma, counted))
            h, derivative = activate_reference(self.activation, y)
            tape[-1] += (derivative,)
        logits = h[top:] @ t["w_out"] + t["b_out"]
        loss, dz = cross_entropy_reference(logits, self.dataset.y[rows])
        grads = {"w_out": h[top:].T @ dz, "b_out": dz.sum(axis=0)}
        dh = np.zeros_like(h)
        dh[top:] = dz @ t["w_out"].T
        for k, (x, xhat, rstd, gamma, counted, derivative) in reversed(list(enumerate(tape))):
            dz, dgamma, dbeta = norm_backward_reference(
                xhat, rstd, gamma, dh * derivative, axis, counted
            )
            if self.affine:
                grads |= {f"gamma{k}": dgamma, f"beta{k}": dbeta}
            grads[f"w{k}"] = x.T @ dz
            dh = dz @ t[f"w{k}"].T
        return loss, self.layout.flatten(grads, np.float64)

    @classmethod
    def examples(cls) -> list[Self]:
        """Every norm with and without gamma and beta."""
        small = functools.partial(cls, hidden=(7, 5), batch_size=6, reference_rows=5)
        return [
            *(small(norm=n, activation="tanh") for n in NORMS),
            *(small(norm=n, affine=False, hidden=(6,), center=True) for n in NORMS),
        ]
