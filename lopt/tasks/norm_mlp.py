"""MLP classification with a norm, dropout or both in every hidden layer.

Not one of TaskSet's sampled families; its fixed MLP tasks with layer norm, dropout, and a batch norm that never sees a
batch are members (task set specification 6.6).
"""

import dataclasses
import functools
import itertools
from typing import Self

import numpy as np

from lopt import rng
from lopt.data import Dataset, load
from lopt.errors import TaskError, unknown
from lopt.layout import Layout
from lopt.ops.activations import ACTIVATIONS, activate_reference, held
from lopt.ops.losses import cross_entropy_reference
from lopt.ops.norm import norm_backward_reference, norm_reference, norm_work
from lopt.task import TRAIN, Task, TaskData, register_task
from lopt.tasks.checks import (
    check_batch_size,
    check_flag,
    check_integer,
    check_keep,
    check_widths,
    checked_data,
)
from lopt.tasks.images import IMAGE_DATA
from lopt.tasks.initialisers import check_initialiser, draw
from lopt.tasks.norm_core import EPS, KEEP, NORMS, norm_mlp_evaluate

# What each norm adds to the variance, as the libraries behind TaskSet do.
ADDED = (1e-5, 1e-3, 1e-3, 1e-3, 0.0)


@register_task(
    "norm_mlp",
    model=(
        "mean over B of softmax cross-entropy of an MLP whose hidden layers are f(drop(norm(h W + b))): "
        "layer, batch, virtual or frozen batch norm, and dropout"
    ),
    data=IMAGE_DATA,
    source=(
        "Ioffe & Szegedy 2015; Ba et al. 2016; Salimans et al. 2016; Srivastava et al. 2014; TaskSet "
        "(Metz et al. 2020), fixed tasks"
    ),
    deviations="batch norm uses the statistics of the batch at hand on all splits",
)
@dataclasses.dataclass(frozen=True)
class NormMlp(Task):
    """Softmax classification by a multi-layer perceptron with norms or dropout in its hidden layers.

    h_k = f(drop(norm(h_{k-1} w_k + b_k))) in the hidden layers, then a linear readout with a bias.

    data            name of a data set, see `lopt.data.load`; images as rows of pixels
    hidden          widths of the hidden layers, one at least
    norm            "layer", "batch", "virtual" or "frozen", see `lopt.ops.norm`; or "none".  Batch norm uses the
                    statistics of the batch it is given, on every split; virtual batch norm those of the first rows of
                    the training split
    reference_rows  rows of the reference batch of virtual batch norm
    gamma, beta     the norms have a gamma, starting at 1; a beta, starting at 0
    bias            hidden layers have a bias in front of the norm; batch norm removes it, and layer norm its mean
    keep            probability to keep a unit, which is then divided by it; 1: no dropout.  Acts on all splits
    activation      one of TaskSet's nine, or "linear"
    initialiser     law of the weights, see `lopt.tasks.initialisers.draw`, and its scale `init_scale`
    batch_size      examples per mini-batch
    center          inputs 2x - 1 instead of x
    stands_for      published data set for which `data` stands in; only a record

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    data: str = "digits"
    hidden: tuple[int, ...] = (32,)
    norm: str = "batch"
    reference_rows: int = 32
    gamma: bool = True
    beta: bool = True
    bias: bool = False
    keep: float = 1.0
    activation: str = "relu"
    initialiser: str = "he_normal"
    init_scale: float = 1.0
    batch_size: int = 64
    center: bool = False
    stands_for: str = ""

    core = staticmethod(norm_mlp_evaluate)

    def __post_init__(self) -> None:
        checked_data("data", self.data)
        check_widths("hidden", self.hidden)
        if not self.hidden:
            raise TaskError("hidden = [], valid: one width at least; nearest: [1]")
        if self.norm not in NORMS:
            raise TaskError(unknown("norm", self.norm, NORMS))
        lo, hi = self.dataset.splits[TRAIN]
        check_integer("reference_rows", self.reference_rows, 2, hi - lo)
        for option in ("gamma", "beta", "bias", "center"):
            check_flag(option, getattr(self, option))
        check_keep("keep", self.keep)
        if self.activation not in ACTIVATIONS:
            raise TaskError(unknown("activation", self.activation, ACTIVATIONS))
        check_initialiser(self.initialiser, self.init_scale)
        check_batch_size(self.batch_size, self.dataset.rows, self.data)

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

    @property
    def _vectors(self) -> tuple[str, ...]:
        """Names of the vectors that each hidden layer has besides its weights."""
        normed = self.norm != "none"
        has = {"b": self.bias, "gamma": self.gamma and normed, "beta": self.beta and normed}
        return tuple(name for name, there in has.items() if there)

    @functools.cached_property
    def layout(self) -> Layout:
        tensors: list[tuple[str, tuple[int, ...]]] = []
        for k, (n, m) in enumerate(itertools.pairwise(self.widths[:-1])):
            tensors += [(f"w{k}", (n, m)), *((f"{name}{k}", (m,)) for name in self._vectors)]
        return Layout([*tensors, ("w_out", self.widths[-2:]), ("b_out", self.widths[-1:])])

    @functools.cached_property
    def arrays(self) -> TaskData:
        kind = NORMS.index(self.norm)
        flags = [int(name in self._vectors) for name in ("gamma", "beta", "b")]
        codes = [ACTIVATIONS.index(self.activation), kind, *flags, self.reference_count]
        sizes = [len(self.widths) - 1, *codes, int(self.dataset.in_bytes), *self.widths]
        inputs = (2.0, -1.0) if self.center else (1.0, 0.0)
        return TaskData(
            self.dataset.floats,
            self.dataset.ints,
            np.array(sizes, np.int64),
            np.array([*inputs, ADDED[kind], self.keep], np.float32),
        )

    @functools.cached_property
    def splits(self) -> tuple[tuple[int, int], ...]:
        return self.dataset.splits

    def activations(self, batch: int) -> int:
        """Of a hidden layer what the norm makes of it and divides by, and what it passes on."""
        w, total = self.widths, self.reference_count + batch
        normed = self.norm != "none"
        layers = total * (normed + held(self.activation)) * sum(self.hidden)
        deviations = {"layer": total * len(self.hidden), "frozen": 0, "none": 0}
        divisors = deviations.get(self.norm, sum(self.hidden))
        return total * w[0] + layers + divisors + batch * w[-1]

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

    def _norm_reference(self, z: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> tuple:
        """y, and a function from dy to the gradients of z, gamma and beta."""
        eps = float(self.arrays.hyper[EPS])
        if self.norm in ("frozen", "none"):
            s = 1.0 / np.sqrt(1.0 + eps)

            def back(dy: np.ndarray) -> tuple:
                return gamma * s * dy, (s * z * dy).sum(axis=0), dy.sum(axis=0)

            return gamma * s * z + beta, back
        axis = int(self.norm == "layer")
        counted = self.reference_count or z.shape[axis]
        y, xhat, rstd = norm_reference(z, gamma, beta, eps, axis, counted)
        return y, lambda dy: norm_backward_reference(xhat, rstd, gamma, dy, axis, counted)

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        t, top = self.layout.views(params), self.reference_count
        h = self.dataset.take(np.array([*range(top), *rows])).astype(np.float64)
        h = 2 * h - 1 if self.center else h
        keep, first, tape = float(self.arrays.hyper[KEEP]), 0, []
        for k, m in enumerate(self.hidden):
            gamma, beta = t.get(f"gamma{k}", np.ones(1)), t.get(f"beta{k}", np.zeros(1))
            z = h @ t[f"w{k}"] + t.get(f"b{k}", 0.0)
            y, back = self._norm_reference(z, gamma, beta)
            u = rng.uniforms(z.size, stream, rng.NOISE + split, step, first).reshape(z.shape)
            mask = (u < keep) / keep
            tape.append((h, back, mask))
            h, derivative = activate_reference(self.activation, y * mask)
            tape[-1] += (derivative,)
            first += len(z) * m
        logits = h[top:] @ t["w_out"] + t["b_out"]
        loss, dz = cross_entropy_reference(logits, self.dataset.y[rows])
        grads = {"w_out": h[top:].T @ dz, "b_out": dz.sum(axis=0)}
        dh = np.zeros_like(h)
        dh[top:] = dz @ t["w_out"].T
        for k, (x, back, mask, derivative) in reversed(list(enumerate(tape))):
            dz, dgamma, dbeta = back(dh * derivative * mask)
            found = {"b": dz.sum(axis=0), "gamma": dgamma, "beta": dbeta}
            grads |= {f"{name}{k}": found[name] for name in self._vectors}
            grads[f"w{k}"] = x.T @ dz
            dh = dz @ t[f"w{k}"].T
        return loss, self.layout.flatten(grads, np.float64)

    @classmethod
    def examples(cls) -> list[Self]:
        """Every norm with and without gamma, beta and bias; dropout alone and behind a norm."""
        small = functools.partial(cls, hidden=(7, 5), batch_size=6, reference_rows=5)
        return [
            *(small(norm=n, activation="tanh") for n in NORMS[:3]),
            *(small(norm=n, gamma=False, beta=False, hidden=(6,), center=True) for n in NORMS[:3]),
            small(norm="frozen", gamma=False, bias=True, activation="elu"),
            small(norm="layer", bias=True, keep=0.75),
            small(norm="none", bias=True, keep=0.5, activation="swish"),
        ]
