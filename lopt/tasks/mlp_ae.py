"""MLP autoencoders of images (TaskSet's mlp_ae family, task set specification 3.2)."""

import dataclasses
import functools
import math
from typing import Any, Self

import numpy as np

from lopt.errors import TaskError, unknown
from lopt.lanes import kernel, lane, lanes, sum32, sync
from lopt.layout import Layout
from lopt.ops.activations import (
    ACTIVATIONS,
    LINEAR,
    SIGMOID,
    TANH,
    activate_bwd,
    activate_fwd,
    activate_reference,
)
from lopt.ops.images import IMAGE_SIZES, gather_images
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
from lopt.tasks.initialisers import check_initialiser, draw

OUTPUTS = {"tanh": TANH, "sigmoid": SIGMOID, "linear_center": LINEAR, "linear": LINEAR}
CENTRED = ("tanh", "linear_center")
LOSSES = ("l2", "l1")
REDUCTIONS = ("mean", "sum")

# Behind the image block of data.sizes; the widths follow.
_ACTIVATION, _OUTPUT, _LOSS, _REDUCTION, _UNITS, _WIDTHS = (IMAGE_SIZES + k for k in range(6))


@kernel
def reconstruction(out, x, d, absolute, scale, terms, partials):
    """scale * sum of (out - x)^2 (of |out - x| if `absolute`); d OVERWRITTEN with its gradient.

    Shapes: out, x, d (B, D), scratch terms (D,) and partials (32,).  d|e| = sign e, 0 at 0.
    """
    batch, n = out.shape
    zero, one, two = out.dtype.type(0.0), out.dtype.type(1.0), out.dtype.type(2.0)
    for j in range(lane(), n, lanes()):
        terms[j] = zero
    for r in range(batch):
        a, b, c = out[r], x[r], d[r]
        if absolute != 0:
            for j in range(lane(), n, lanes()):
                e = a[j] - b[j]
                terms[j] += abs(e)
                c[j] = scale * (one if e > zero else -one if e < zero else e)  # NaN stays NaN
        else:
            for j in range(lane(), n, lanes()):
                e = a[j] - b[j]
                terms[j] += e * e
                c[j] = scale * (two * e)
    sync()
    return sum32(terms, n, partials) * scale


@kernel
def mlp_ae_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Reconstruction error of an autoencoder and its gradient; see `lopt.task.Task`.

    data.sizes: image block, activation code, output code, loss, reduction, units of the stack,
    widths 0..L.
    Scratch: the stack's activations, which begin with the images x and end with z_L |
    out = f(z_L) (B, D) | terms (D,) | partials (32,).
    """
    sizes, batch = data.sizes, rows.size
    widths = sizes[_WIDTHS:]
    n, code, output = widths[0], sizes[_ACTIVATION], sizes[_OUTPUT]
    end = batch * sizes[_UNITS]
    last = end + batch * n
    x, z = work[: batch * n], work[end - batch * n : end]
    out = work[end:last]
    gather_images(data, rows, stream, split, step, x.reshape(batch, n))
    stack_fwd(params, widths, code, batch, work[:end])
    activate_fwd(z, out, output)
    count = batch if sizes[_REDUCTION] == 1 else batch * n
    loss = reconstruction(
        out.reshape(batch, n),
        x.reshape(batch, n),
        z.reshape(batch, n),
        sizes[_LOSS],
        work.dtype.type(1.0) / work.dtype.type(count),
        work[last : last + n],
        work[last + n : last + n + 32],
    )
    if with_grad != 0:
        # out = f(z); none of the outputs' derivatives looks at z
        activate_bwd(out, out, z, output)
        stack_bwd(params, grad, widths, code, batch, work[:end], work[:0])
    return loss


@register_task(
    "mlp_ae",
    model=(
        "mean over B of the sum or mean over pixels of |g(MLP(x)) - x|^2 or |g(MLP(x)) - x|, g "
        "sigmoid, tanh or identity"
    ),
    data=IMAGE_DATA,
    source="TaskSet (Metz et al. 2020), mlp_ae_family",
    deviations="stand-in data",
)
@dataclasses.dataclass(frozen=True)
class MlpAe(ImageTask):
    """Autoencoding of images by a multi-layer perceptron: the target is the input.

    hidden       widths of the hidden layers
    output_type  tanh or linear_center: images 2x - 1; sigmoid or linear: images x
    loss         l2 (squared error, no 1/2) or l1 (absolute error, derivative 0 at 0)
    reduction    mean or sum over the pixels; always the mean over the batch
    activation, initialiser, init_scale   of the layers; biases start at 0
    Further options: see `ImageTask`; `center` is decided by output_type.

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    hidden: tuple[int, ...] = (32,)
    output_type: str = "sigmoid"
    loss: str = "l2"
    reduction: str = "mean"
    activation: str = "relu"
    initialiser: str = "he_normal"
    init_scale: float = 1.0

    core = staticmethod(mlp_ae_evaluate)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths("hidden", self.hidden)
        for option, valid in (
            ("output_type", OUTPUTS),
            ("loss", LOSSES),
            ("reduction", REDUCTIONS),
            ("activation", ACTIVATIONS),
        ):
            if getattr(self, option) not in valid:
                raise TaskError(unknown(option, getattr(self, option), valid))
        check_initialiser(self.initialiser, self.init_scale)
        if self.center:
            raise TaskError(f"center = true, valid: false; output_type: {' or '.join(CENTRED)}")

    @functools.cached_property
    def image_hyper(self) -> list[float]:
        scale_and_shift = (2.0, -1.0) if self.output_type in CENTRED else (1.0, 0.0)
        return [*scale_and_shift, *super().image_hyper[2:]]

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Pixels, hidden widths, pixels."""
        d = math.prod(self.input_shape)
        return (d, *self.hidden, d)

    @functools.cached_property
    def layout(self) -> Layout:
        return Layout(stack_tensors(self.widths))

    @functools.cached_property
    def arrays(self) -> TaskData:
        own = [ACTIVATIONS.index(self.activation), OUTPUTS[self.output_type]]
        own += [LOSSES.index(self.loss), REDUCTIONS.index(self.reduction)]
        own += [stack_units(self.widths), *self.widths]
        return TaskData(
            self.dataset.floats,
            self.dataset.ints,
            np.array(self.image_sizes + own, np.int64),
            np.array(self.image_hyper, np.float32),
        )

    def activations(self, batch: int) -> int:
        return batch * stack_activations(self.widths, self.activation)

    def work_size(self, batch: int) -> int:
        n = self.widths[0]
        return batch * (stack_units(self.widths) + n) + n + 32

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
        z, tape = stack_fwd_reference(tensors, x, self.activation)
        out, derivative = activate_reference(ACTIVATIONS[OUTPUTS[self.output_type]], z)
        e = out - x
        each, slope = (e**2, 2.0 * e) if self.loss == "l2" else (np.abs(e), np.sign(e))
        count = x.size if self.reduction == "mean" else len(x)
        grads, _ = stack_bwd_reference(tensors, tape, slope * derivative / count)
        return float(each.sum() / count), self.layout.flatten(grads, np.float64)

    @staticmethod
    def sample_config(seed: int) -> dict[str, Any]:
        """Configuration `mlp_ae_family_seed<seed>` of TaskSet as published: all fields, as drawn."""
        r = np.random.RandomState(seed)
        layers = samplers.choice(r, range(1, 7))
        hidden = tuple(samplers.logint(r, 32, 128) for _ in range(layers))
        activation = samplers.activation(r)
        initialiser, scale = samplers.initialiser(r)
        return {
            "hidden": hidden,
            "activation": activation,
            "initialiser": initialiser,
            "init_scale": scale,
            **samplers.image_data(r),
            "output_type": samplers.choice(
                r, ("tanh", "tanh", "sigmoid", "sigmoid", "linear_center", "linear")
            ),
            "loss": samplers.choice(r, ("l2", "l2", "l1")),
            "reduction": samplers.choice(r, ("mean", "sum")),
        }

    @classmethod
    def sample(cls, seed: int) -> Self:
        """Task `mlp_ae_family_seed<seed>` of TaskSet on a stand-in for its data."""
        config = cls.sample_config(seed)
        names = ("hidden", "activation", "initialiser", "init_scale")
        names += ("output_type", "loss", "reduction")
        return cls(**image_options(config), **{n: config[n] for n in names})

    @classmethod
    def examples(cls) -> list[Self]:
        """Every output, both losses and reductions, and no hidden layer at all."""
        return [
            cls(hidden=(9, 7), output_type="sigmoid", batch_size=7),
            cls(hidden=(6,), output_type="tanh", reduction="sum", activation="elu", batch_size=5),
            cls(
                hidden=(5,), output_type="linear_center", loss="l1", activation="tanh", batch_size=3
            ),
            cls(hidden=(), output_type="linear", reduction="sum", batch_size=4),
        ]
