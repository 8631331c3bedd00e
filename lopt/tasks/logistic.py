"""Multinomial logistic regression with an L2 penalty: the simplest task on labelled data."""

import dataclasses
import functools
from typing import ClassVar, Self

import numpy as np

from lopt import rng
from lopt.data import DATASETS, Dataset, blobs, load, split_ranges
from lopt.errors import DataError, TaskError, unknown
from lopt.lanes import (
    add_square_partials,
    clear_partials,
    fold_partials,
    kernel,
    lane,
    lanes,
    sync,
)
from lopt.layout import Layout
from lopt.ops.dense import dense_bwd, dense_fwd, gather_examples
from lopt.ops.losses import cross_entropy, cross_entropy_reference
from lopt.task import Task, TaskData, register_task
from lopt.tasks.checks import check_batch_size, check_integer, check_not_negative

GENERATED = ("blobs", "teacher")
GENERATED_ROWS = 2000


@kernel
def logistic_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean cross-entropy of x w + b plus l2/2 |w|^2 and its gradient; see `lopt.task.Task`.

    data.sizes: features n, classes m, whether data.floats holds bytes.  data.hyper: l2.
    Scratch: x (B, n) | logits (B, m) | losses (B,) | partials (32,).
    """
    n, m, batch = data.sizes[0], data.sizes[1], rows.size
    one, zero = params.dtype.type(1.0), params.dtype.type(0.0)
    l2, half = params.dtype.type(data.hyper[0]), params.dtype.type(0.5)
    x = work[: batch * n].reshape(batch, n)
    logits = work[batch * n : batch * (n + m)].reshape(batch, m)
    losses = work[batch * (n + m) : batch * (n + m + 1)]
    partials = work[batch * (n + m + 1) : batch * (n + m + 1) + 32]
    w, b = params[: n * m], params[n * m : n * m + m]
    gather_examples(data.floats, data.sizes[2], rows, one, zero, x)
    dense_fwd(x, w.reshape(n, m), b, logits)
    loss = cross_entropy(logits, data.ints, rows, losses, partials)
    clear_partials(partials)
    add_square_partials(w, n * m, partials)
    loss += half * l2 * fold_partials(partials)
    if with_grad != 0:
        dw = grad[: n * m]
        dense_bwd(x, logits, dw.reshape(n, m), grad[n * m : n * m + m])
        # loss += l2 / 2 |w|^2
        for i in range(lane(), n * m, lanes()):
            dw[i] += l2 * w[i]
        sync()
    return loss


@functools.cache
def teacher(features: int, classes: int, instance: int) -> Dataset:
    """2000 rows x ~ N(0, 1) with labels drawn from softmax(x W): a problem whose model is right.

    Entries of W ~ N(0, 9 / features), so that logits have standard deviation 3.  Made in float64
    from keyed random numbers.
    """
    stream = rng.stream(instance)
    n, rows = features, GENERATED_ROWS
    x = rng.normals(rows * n, stream, rng.DATA, inner=1).astype(np.float64).reshape(rows, n)
    w = rng.normals(n * classes, stream, rng.DATA, inner=2).astype(np.float64)
    u = rng.uniforms(rows, stream, rng.DATA, inner=3).astype(np.float64)
    logits = x @ (w.reshape(n, classes) * (3.0 / np.sqrt(n)))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    y = (u[:, None] >= p.cumsum(axis=1)[:, :-1]).sum(axis=1)
    floats = x.astype(np.float32).ravel()
    return Dataset("teacher", floats, y.astype(np.int32), classes, (features,), split_ranges(rows))


@register_task(
    "logistic",
    model="mean over B of softmax cross-entropy of W x + b, plus l2 / 2 |W|^2",
    data="any labelled examples, Gaussian clusters, or a linear teacher",
    source="textbook",
    deviations="none",
)
@dataclasses.dataclass(frozen=True)
class Logistic(Task):
    """Multinomial logistic regression with an L2 penalty; convex.

    data         a data set that `lopt.data.load` knows; "blobs", Gaussian clusters; or "teacher", a linear model
    features     numbers per example of generated data (blobs, teacher), which have 2000 examples
    classes      classes of generated data
    instance     which generated data
    l2           penalty l2/2 |w|^2 on the weights, not on the biases
    init_std     standard deviation of the initial weights; biases start at 0
    batch_size   examples per mini-batch

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    data: str = "digits"
    features: int = 16
    classes: int = 4
    instance: int = 0
    l2: float = 1e-4
    init_std: float = 0.0
    batch_size: int = 64

    core = staticmethod(logistic_evaluate)
    convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_integer("features", self.features, 1)
        check_integer("classes", self.classes, 2)
        check_integer("instance", self.instance, 0, 2**32 - 1)
        check_not_negative("l2", self.l2)
        check_not_negative("init_std", self.init_std)
        try:
            rows = self.dataset.rows
        except DataError as error:
            names = {*DATASETS, *GENERATED}  # the loader does not know of the generated ones
            known = str(error).startswith("unknown data set")
            text = unknown("data set", self.data, names) if known else str(error)
            raise TaskError(f"data: {text}") from error
        check_batch_size(self.batch_size, rows, self.data)

    @property
    def dataset(self) -> Dataset:
        """The examples; made once per process and kept."""
        if self.data == "teacher":
            return teacher(self.features, self.classes, self.instance)
        if self.data == "blobs":
            return blobs(GENERATED_ROWS, self.features, self.classes, seed=self.instance)
        return load(self.data)

    @functools.cached_property
    def layout(self) -> Layout:
        n, m = self.dataset.features, self.dataset.n_classes
        return Layout((("w", (n, m)), ("b", (m,))))

    @functools.cached_property
    def arrays(self) -> TaskData:
        d = self.dataset
        sizes = np.array([d.features, d.n_classes, int(d.in_bytes)], np.int64)
        return TaskData(d.floats, d.ints, sizes, np.array([self.l2], np.float32))

    @functools.cached_property
    def splits(self) -> tuple[tuple[int, int], ...]:
        return self.dataset.splits

    def activations(self, batch: int) -> int:
        return batch * (self.dataset.features + self.dataset.n_classes)

    def work_size(self, batch: int) -> int:
        return batch * (self.dataset.features + self.dataset.n_classes + 1) + 32

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        w = self.layout.sizes[0]
        params[:w] = np.float32(self.init_std) * rng.normals(w, stream, rng.INIT)
        return params

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        w, b = self.layout.views(params).values()
        l2 = float(self.arrays.hyper[0])
        x, y = self.dataset.take(rows).astype(np.float64), self.dataset.y[rows]
        loss, dz = cross_entropy_reference(x @ w + b, y)
        grads = {"w": x.T @ dz + l2 * w, "b": dz.sum(axis=0)}
        return loss + 0.5 * l2 * float((w**2).sum()), self.layout.flatten(grads, np.float64)

    @classmethod
    def examples(cls) -> list[Self]:
        """Every source of data, with and without penalty, two classes and more."""
        return [
            cls(batch_size=13, init_std=0.3, l2=0.1),
            cls(data="blobs", batch_size=5, init_std=1.0, l2=0.0),
            cls(data="teacher", features=33, classes=2, instance=3, batch_size=32, init_std=0.5),
        ]
