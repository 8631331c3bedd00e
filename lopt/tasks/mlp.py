"""MLP classification of a data set (TaskSet's mlp family, task set specification 3.1)."""

import dataclasses
import functools
import itertools
import math
from typing import Any, Self

import numpy as np

from lopt.errors import TaskError, unknown
from lopt.lanes import kernel
from lopt.layout import Layout
from lopt.ops.activations import ACTIVATIONS
from lopt.ops.images import IMAGE_SIZES, gather_images
from lopt.ops.losses import (
    cross_entropy,
    cross_entropy_reference,
    sigmoid_squares,
    sigmoid_squares_reference,
)
from lopt.ops.mlp_stack import (
    stack_activations,
    stack_bwd,
    stack_bwd_reference,
    stack_fwd,
    stack_fwd_reference,
    stack_tensors,
    stack_units,
)
from lopt.task import TaskData, register_task
from lopt.tasks import samplers
from lopt.tasks.checks import check_widths
from lopt.tasks.images import IMAGE_DATA, ImageTask, image_options
from lopt.tasks.initialisers import INITIALISERS, check_initialiser, draw

SEED_OFFSET = 99123491  # of the published sampler's seeds

LOSSES = ("cross_entropy", "sigmoid_squares")

# Behind the image block of data.sizes; widths 0..L follow.
_ACTIVATION, _LOSS, _UNITS, _WIDTHS = (IMAGE_SIZES + k for k in range(4))


@kernel
def mlp_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean loss of an MLP classifier and its gradient; see `lopt.task.Task`.

    data.sizes: image block, activation code, loss, units of the stack, widths 0..L.  data.hyper: image block.
    Scratch: the stack's activations, from the images to the logits | losses (B,) | partials (32,).
    """
    batch, code, widths = rows.size, data.sizes[_ACTIVATION], data.sizes[_WIDTHS:]
    n, classes = widths[0], widths[widths.size - 1]
    end = batch * data.sizes[_UNITS]
    gather_images(data, rows, stream, split, step, work[: batch * n].reshape(batch, n))
    stack_fwd(params, widths, code, batch, work[:end])
    logits = work[end - batch * classes : end].reshape(batch, classes)
    losses, partials = work[end : end + batch], work[end + batch : end + batch + 32]
    if data.sizes[_LOSS] == 0:
        loss = cross_entropy(logits, data.ints, rows, losses, partials)
    else:
        loss = sigmoid_squares(logits, data.ints, rows, losses, partials)
    if with_grad != 0:
        stack_bwd(params, grad, widths, code, batch, work[:end], work[:0])
    return loss


@register_task(
    "mlp",
    model=(
        "mean over B of softmax cross-entropy of W_L f(... f(W_1 x + b_1) ...) + b_L; or mean over B "
        "and classes of (onehot - sigmoid)^2"
    ),
    data=IMAGE_DATA,
    source="TaskSet (Metz et al. 2020), mlp_family",
    deviations="stand-in data; train rows limited to those there are",
)
@dataclasses.dataclass(frozen=True)
class Mlp(ImageTask):
    """Classification by a multi-layer perceptron.

    hidden       widths of the hidden layers; () is softmax regression
    loss         "cross_entropy" of the softmax; or "sigmoid_squares", the mean over classes of
                 (onehot - sigmoid(logits))^2, as some of TaskSet's fixed tasks have it
    activation   one of TaskSet's nine, or "linear"
    initialiser  law of the weights, see `lopt.tasks.initialisers.draw`; biases start at 0
    init_scale   scale s of the laws that take one
    Data, batch size, centring, augmentation: `lopt.tasks.images.ImageTask`.

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    hidden: tuple[int, ...] = (32,)
    loss: str = "cross_entropy"
    activation: str = "relu"
    initialiser: str = "he_normal"
    init_scale: float = 1.0

    core = staticmethod(mlp_evaluate)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths("hidden", self.hidden)
        if self.loss not in LOSSES:
            raise TaskError(unknown("loss", self.loss, LOSSES))
        if self.activation not in ACTIVATIONS:
            raise TaskError(unknown("activation", self.activation, ACTIVATIONS))
        check_initialiser(self.initialiser, self.init_scale)

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Pixels, hidden widths, classes."""
        return (math.prod(self.input_shape), *self.hidden, self.dataset.n_classes)

    @functools.cached_property
    def layout(self) -> Layout:
        return Layout(stack_tensors(self.widths))

    @functools.cached_property
    def arrays(self) -> TaskData:
        codes, w = (ACTIVATIONS.index(self.activation), LOSSES.index(self.loss)), self.widths
        sizes = [*self.image_sizes, *codes, stack_units(w), *w]
        return TaskData(
            self.dataset.floats,
            self.dataset.ints,
            np.array(sizes, np.int64),
            np.array(self.image_hyper, np.float32),
        )

    def activations(self, batch: int) -> int:
        return batch * stack_activations(self.widths, self.activation)

    def work_size(self, batch: int) -> int:
        return batch * (stack_units(self.widths) + 1) + 32

    @property
    def operations(self) -> float:
        """Multiplications and additions of one loss and gradient, matrix products only."""
        products = [n * m for n, m in itertools.pairwise(self.widths)]
        return self.batch_size * (6.0 * sum(products) - 2.0 * products[0])  # images get no gradient

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        for k, (name, view) in enumerate(self.layout.views(params).items()):
            if name.startswith("w"):
                view[...] = draw(self.initialiser, self.init_scale, view.shape, stream, k)
        return params

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        tensors = self.layout.views(params)
        x = self.reference_batch(rows, stream, split, step)
        logits, tape = stack_fwd_reference(tensors, x, self.activation)
        plain = self.loss == "cross_entropy"
        loss_of = cross_entropy_reference if plain else sigmoid_squares_reference
        loss, dz = loss_of(logits, self.dataset.y[rows])
        grads, _ = stack_bwd_reference(tensors, tape, dz)
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
        """Task `mlp_family_seed<seed>` of TaskSet, on the embedded stand-in for its data."""
        config = cls.sample_config(seed)
        names = ("hidden", "activation", "initialiser", "init_scale", "center")
        return cls(**image_options(config), **{n: config[n] for n in names})

    @classmethod
    def examples(cls) -> list[Self]:
        """Every activation, every initialiser, no hidden layer at all, an augmentation, the other loss."""
        every = [
            cls(hidden=(9, 7), activation=a, batch_size=11, center=i % 2 == 1)
            for i, a in enumerate(ACTIVATIONS)
        ]
        inits = [
            cls(hidden=(5,), initialiser=i, init_scale=2.0, batch_size=7) for i in INITIALISERS
        ]
        flipped = (2, True, True, False, 0.0, 0.0, 0.0, 0.0)
        augmented = cls(hidden=(6,), batch_size=9, augmentation=flipped, n_train=50)
        squares = cls(hidden=(6,), loss="sigmoid_squares", batch_size=5)
        return [*every, *inits, cls(hidden=(), batch_size=1), augmented, squares]
