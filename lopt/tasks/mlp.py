"""MLP classification of a data set (TaskSet's mlp family, task set specification 3.1)."""

import dataclasses
import functools
import itertools
from typing import Any, Self

import numpy as np

from lopt.data import DATASETS, load
from lopt.errors import TaskError, unknown
from lopt.lanes import entry_point, kernel
from lopt.layout import Layout
from lopt.ops.activations import ACTIVATIONS, activate_bwd, activate_fwd, activate_reference
from lopt.ops.dense import dense_bwd, dense_bwd_input, dense_fwd, gather_fwd
from lopt.ops.losses import cross_entropy, cross_entropy_reference
from lopt.task import EVALUATE_SIG, Task, TaskData, register_task
from lopt.tasks import samplers
from lopt.tasks.checks import check_batch_size, check_flag, check_widths
from lopt.tasks.initialisers import INITIALISERS, check_initialiser, draw

SEED_OFFSET = 99123491  # of the published sampler's seeds

_LAYERS, _ACTIVATION, _WIDTHS = range(3)


@kernel
def mlp_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean softmax cross-entropy of an MLP and its gradient; see `lopt.task.Task`.

    data.sizes: layers L, activation code, widths 0..L.  data.hyper: input scale, input shift.
    Scratch: h_0 | z_1 h_1 | ... | z_L | two gradient buffers of the largest width | losses (B,) |
    partials (32,); z_k = h_{k-1} w_k + b_k and h_k = f(z_k) are (B, widths[k]).
    """
    layers, code, batch = data.sizes[_LAYERS], data.sizes[_ACTIVATION], rows.size
    widths = data.sizes[_WIDTHS:]
    n = widths[0]
    scale, shift = params.dtype.type(data.hyper[0]), params.dtype.type(data.hyper[1])
    gather_fwd(data.floats, rows, scale, shift, work[: batch * n].reshape(batch, n))
    h, p = 0, 0  # offsets of the layer's input in work and of its weights in params
    widest = n
    for k in range(layers):
        n, m = widths[k], widths[k + 1]
        widest = max(widest, m)
        z = h + batch * n
        out = work[z : z + batch * m]
        dense_fwd(
            work[h : h + batch * n].reshape(batch, n),
            params[p : p + n * m].reshape(n, m),
            params[p + n * m : p + n * m + m],
            out.reshape(batch, m),
        )
        p += n * m + m
        h = z
        if k < layers - 1:
            h = z + batch * m
            activate_fwd(out, work[h : h + batch * m], code)
    classes = widths[layers]
    free = h + batch * classes
    buffers = free + 2 * batch * widest
    loss = cross_entropy(
        work[h : h + batch * classes].reshape(batch, classes),
        data.ints,
        rows,
        work[buffers : buffers + batch],
        work[buffers + batch : buffers + batch + 32],
    )
    if with_grad == 0:
        return loss
    dz = h
    for back in range(layers):
        k = layers - 1 - back
        n, m = widths[k], widths[k + 1]
        p -= n * m + m
        h -= batch * n  # the layer's input h_k
        dy = work[dz : dz + batch * m]
        # z_{k+1} = h_k w + b
        dense_bwd(
            work[h : h + batch * n].reshape(batch, n),
            dy.reshape(batch, m),
            grad[p : p + n * m].reshape(n, m),
            grad[p + n * m : p + n * m + m],
        )
        if k > 0:
            dz = free + (back % 2) * batch * widest
            dx = work[dz : dz + batch * n]
            dense_bwd_input(
                params[p : p + n * m].reshape(n, m), dy.reshape(batch, m), dx.reshape(batch, n)
            )
            # h_k = f(z_k)
            z = h - batch * n
            activate_bwd(work[z:h], work[h : h + batch * n], dx, code)
            h = z
    return loss


@entry_point(EVALUATE_SIG)
def mlp_entry(params, grad, data, rows, stream, split, step, work, with_grad):
    return mlp_evaluate(params, grad, data, rows, stream, split, step, work, with_grad)


@register_task("mlp")
@dataclasses.dataclass(frozen=True)
class Mlp(Task):
    """Softmax classification by a multi-layer perceptron.

    data         name of an embedded data set
    hidden       widths of the hidden layers; () is softmax regression
    activation   one of TaskSet's nine, or "linear"
    initialiser  law of the weights, see `lopt.tasks.initialisers.draw`; biases start at 0
    init_scale   scale s of the laws that take one
    batch_size   examples per mini-batch
    center       inputs 2x - 1 instead of x
    stands_for   data set that a sampled task asks for and `data` stands in for; only a record

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    data: str = "digits"
    hidden: tuple[int, ...] = (32,)
    activation: str = "relu"
    initialiser: str = "he_normal"
    init_scale: float = 1.0
    batch_size: int = 64
    center: bool = False
    stands_for: str = ""

    core = staticmethod(mlp_evaluate)
    entry = mlp_entry

    def __post_init__(self) -> None:
        if self.data not in DATASETS:
            raise TaskError(unknown("data", self.data, DATASETS))
        check_widths("hidden", self.hidden)
        if self.activation not in ACTIVATIONS:
            raise TaskError(unknown("activation", self.activation, ACTIVATIONS))
        check_initialiser(self.initialiser, self.init_scale)
        check_batch_size(self.batch_size, load(self.data).rows)
        check_flag("center", self.center)

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Features, hidden widths, classes."""
        dataset = load(self.data)
        return (dataset.features, *self.hidden, dataset.n_classes)

    @functools.cached_property
    def layout(self) -> Layout:
        tensors = []
        for k, (n, m) in enumerate(itertools.pairwise(self.widths)):
            tensors += [(f"w{k}", (n, m)), (f"b{k}", (m,))]
        return Layout(tensors)

    @functools.cached_property
    def arrays(self) -> TaskData:
        dataset = load(self.data)
        sizes = [len(self.widths) - 1, ACTIVATIONS.index(self.activation), *self.widths]
        hyper = (2.0, -1.0) if self.center else (1.0, 0.0)
        return TaskData(
            dataset.floats, dataset.ints, np.array(sizes, np.int64), np.array(hyper, np.float32)
        )

    @functools.cached_property
    def splits(self) -> tuple[tuple[int, int], ...]:
        return load(self.data).splits

    def work_size(self, batch: int) -> int:
        w = self.widths
        return batch * (w[0] + 2 * sum(w[1:]) + 2 * max(w) + 1) + 32

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        for k, (name, view) in enumerate(self.layout.views(params).items()):
            if name.startswith("w"):
                view[...] = draw(self.initialiser, self.init_scale, view.shape, stream, k)
        return params

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        dataset = load(self.data)
        tensors = self.layout.views(params)
        h = dataset.x[rows].astype(np.float64)
        h = 2 * h - 1 if self.center else h
        layers = len(self.widths) - 1
        inputs, derivatives = [], []
        for k in range(layers):
            inputs.append(h)
            h = h @ tensors[f"w{k}"] + tensors[f"b{k}"]
            if k < layers - 1:
                h, derivative = activate_reference(self.activation, h)
                derivatives.append(derivative)
        loss, dz = cross_entropy_reference(h, dataset.y[rows])
        grads = {}
        for k in reversed(range(layers)):
            grads[f"w{k}"], grads[f"b{k}"] = inputs[k].T @ dz, dz.sum(axis=0)
            if k > 0:
                dz = (dz @ tensors[f"w{k}"].T) * derivatives[k - 1]
        return loss, self.layout.flatten(grads, np.float64)

    @staticmethod
    def sample_config(seed: int) -> dict[str, Any]:
        """Configuration `mlp_family_seed<seed>` of TaskSet as published: all fields, as drawn."""
        r = np.random.RandomState(seed + SEED_OFFSET)
        layers = samplers.choice(r, range(1, 7))
        hidden = tuple(samplers.logint(r, 16, 128) for _ in range(layers))
        activation = samplers.activation(r)
        initialiser, scale = samplers.initialiser(r)
        return {
            "hidden": hidden,
            "activation": activation,
            "initialiser": initialiser,
            "init_scale": scale,
            **samplers.image_data(r),
            "center": samplers.choice(r, (True, False)),
        }

    @classmethod
    def sample(cls, seed: int) -> Self:
        """Task `mlp_family_seed<seed>` of TaskSet on a stand-in for its data.

        None of the published image data sets is embedded: all become `digits`, and `stands_for`
        keeps the published name.  With them go the number of training images and the augmentation;
        `sample_config` has both.  Layers, activation, initialiser, batch size and centring are as
        published.
        """
        config = cls.sample_config(seed)
        names = ("hidden", "activation", "initialiser", "init_scale", "batch_size", "center")
        return cls(data="digits", stands_for=config["dataset"], **{n: config[n] for n in names})

    @classmethod
    def examples(cls) -> list[Self]:
        """Every activation, every initialiser, and no hidden layer at all."""
        every = [
            cls(hidden=(9, 7), activation=a, batch_size=11, center=i % 2 == 1)
            for i, a in enumerate(ACTIVATIONS)
        ]
        inits = [
            cls(hidden=(5,), initialiser=i, init_scale=2.0, batch_size=7) for i in INITIALISERS
        ]
        return [*every, *inits, cls(hidden=(), batch_size=1)]
