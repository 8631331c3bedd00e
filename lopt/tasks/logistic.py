"""Multinomial logistic regression with an L2 penalty: convex, the simplest task on real data."""

import dataclasses
import functools

import numpy as np

from lopt import rng
from lopt.data import load
from lopt.errors import TaskError
from lopt.lanes import entry_point, kernel, lane, lanes, sum32, sync
from lopt.layout import Layout
from lopt.ops.dense import dense_bwd, dense_fwd
from lopt.ops.losses import cross_entropy
from lopt.task import EVALUATE_SIG, Task, TaskData, register_task

# data.sizes = (features, classes); data.hyper = (l2,)


@kernel
def logistic_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean cross-entropy of x w + b plus l2/2 |w|^2 and its gradient; see `lopt.task.Task`.

    Scratch: x (B, n) | logits (B, m) | losses (B,) | partials (32,) | squares (n m,).
    """
    n, m, batch = data.sizes[0], data.sizes[1], rows.size
    l2 = params.dtype.type(data.hyper[0])
    half = params.dtype.type(0.5)
    z, at = batch * n, batch * (n + m)
    x = work[:z].reshape(batch, n)
    for r in range(lane(), batch, lanes()):
        for j in range(n):
            x[r, j] = data.floats[rows[r] * n + j]
    sync()
    w, b = params[: n * m], params[n * m : n * m + m]
    logits = work[z:at].reshape(batch, m)
    dense_fwd(x, w.reshape(n, m), b, logits)
    partials = work[at + batch : at + batch + 32]
    loss = cross_entropy(logits, data.ints, rows, work[at : at + batch], partials)
    squares = work[at + batch + 32 : at + batch + 32 + n * m]
    for i in range(lane(), n * m, lanes()):
        squares[i] = w[i] * w[i]
    sync()
    loss += half * l2 * sum32(squares, n * m, partials)
    if with_grad != 0:
        dense_bwd(x, logits, grad[: n * m].reshape(n, m), grad[n * m : n * m + m])
        # loss += l2 / 2 |w|^2
        for i in range(lane(), n * m, lanes()):
            grad[i] += l2 * w[i]
        sync()
    return loss


@entry_point(EVALUATE_SIG)
def logistic_entry(params, grad, data, rows, stream, split, step, work, with_grad):
    return logistic_evaluate(params, grad, data, rows, stream, split, step, work, with_grad)


@register_task("logistic")
@dataclasses.dataclass(frozen=True)
class Logistic(Task):
    """Multinomial logistic regression with an L2 penalty; convex.

    data         name of an embedded data set
    l2           penalty l2/2 |w|^2 on the weights, not on the biases
    init_std     standard deviation of the initial weights
    batch_size   examples per mini-batch
    """

    data: str = "digits"
    l2: float = 1e-4
    init_std: float = 0.0
    batch_size: int = 64

    core = staticmethod(logistic_evaluate)
    entry = logistic_entry

    def __post_init__(self) -> None:
        rows = load(self.data).rows
        for field in ("l2", "init_std"):
            value = getattr(self, field)
            if not (0 <= value < np.inf):
                raise TaskError(f"{field} must be a finite number >= 0, got {value}")
        if not 1 <= self.batch_size <= rows:
            raise TaskError(f"batch_size must be in 1..{rows}, got {self.batch_size}")

    @functools.cached_property
    def layout(self) -> Layout:
        dataset = load(self.data)
        return Layout((("w", (dataset.features, dataset.n_classes)), ("b", (dataset.n_classes,))))

    @functools.cached_property
    def arrays(self) -> TaskData:
        dataset = load(self.data)
        sizes = np.array([dataset.features, dataset.n_classes], np.int64)
        return TaskData(dataset.floats, dataset.ints, sizes, np.array([self.l2], np.float32))

    @functools.cached_property
    def splits(self) -> tuple[tuple[int, int], ...]:
        return load(self.data).splits

    def work_size(self, batch: int) -> int:
        (n, m), _ = self.layout.shapes
        return batch * (n + m + 1) + 32 + n * m

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        w = self.layout.sizes[0]
        params[:w] = np.float32(self.init_std) * rng.normals(w, stream, rng.INIT)
        return params

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        dataset = load(self.data)
        tensors = self.layout.views(params)
        l2 = float(np.float32(self.l2))
        x, y = dataset.x[rows].astype(np.float64), dataset.y[rows]
        z = x @ tensors["w"] + tensors["b"]
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        picked = np.arange(rows.size)
        loss = -np.log(p[picked, y]).mean() + 0.5 * l2 * (tensors["w"] ** 2).sum()
        p[picked, y] -= 1
        p /= rows.size
        grads = {"w": x.T @ p + l2 * tensors["w"], "b": p.sum(axis=0)}
        return float(loss), self.layout.flatten(grads, np.float64)

    @classmethod
    def examples(cls) -> list["Logistic"]:
        return [
            cls(batch_size=13, init_std=0.3, l2=0.1),
            cls(data="blobs", batch_size=5, init_std=1.0, l2=0.0),
        ]
