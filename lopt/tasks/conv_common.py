"""What the two convolutional families of TaskSet share: the options of the convolutions.

Source: task set specification 3.4 and 3.5; the kernel is in `lopt.tasks.conv_core`.
"""

import abc
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from lopt.errors import TaskError, unknown
from lopt.layout import Layout
from lopt.ops.activations import ACTIVATIONS, activate_reference, held
from lopt.ops.conv import PADDINGS, conv_bwd_reference, conv_reference, conv_scratch, conv_size
from lopt.ops.losses import cross_entropy_reference
from lopt.ops.mlp_stack import (
    stack_activations,
    stack_bwd_reference,
    stack_fwd_reference,
    stack_tensors,
    stack_units,
)
from lopt.ops.norm import norm_backward_reference, norm_reference
from lopt.ops.pool import pool_reference
from lopt.task import TaskData
from lopt.tasks import samplers
from lopt.tasks.checks import check_flag, check_integer, check_widths
from lopt.tasks.conv_core import (
    BATCH_EPS,
    HEADS,
    SIDE,
    conv_evaluate,
    norm_size,
)
from lopt.tasks.images import ImageTask, image_options
from lopt.tasks.initialisers import check_initialiser, draw

STRIDE_PATTERNS = {"all_two": (2, 2), "one_two": (1, 2), "two_one": (2, 1)}


def map_sizes(
    height: int, width: int, strides: Sequence[int], padding: Sequence[str]
) -> list[tuple[int, int]]:
    """Heights and widths of the maps from the image on.

    Raises:
        TaskError: a "valid" layer meets a map smaller than its kernel; names the layer.
    """
    sizes = [(height, width)]
    for k, (stride, pad) in enumerate(zip(strides, padding, strict=True)):
        height, width = (conv_size(n, SIDE, stride, pad) for n in sizes[-1])
        if min(height, width) < 1:
            raise TaskError(
                f"padding[{k}] = 'valid' cannot be: a {SIDE}x{SIDE} kernel does not fit into the layer's "
                f"{sizes[-1][0]}x{sizes[-1][1]} map; nearest valid: 'same'"
            )
        sizes.append((height, width))
    return sizes


@dataclasses.dataclass(frozen=True)
class ConvTask(ImageTask):
    """Softmax classification by 3 x 3 convolutions and an MLP head; options of the convolutions.

    channels     channels of each convolution; at least one
    strides      of each convolution, one to three
    padding      of each convolution, "same" or "valid"
    use_bias     biases of the convolutions; the head always has them
    batch_norm   between convolution and activation: statistics of the batch over examples and positions, on all
                 splits; a beta per channel, which starts at 0, and no gamma
    activation   one of TaskSet's nine, or "linear"; after every convolution and within the head
    initialiser  law of the weights, see `lopt.tasks.initialisers.draw`; biases start at 0
    init_scale   scale s of the laws that take one
    Further options as in `lopt.tasks.images.ImageTask`.

    Raises:
        TaskError: an option is out of range, or a "valid" layer meets a map smaller than its kernel.
    """

    channels: tuple[int, ...] = (8, 16)
    strides: tuple[int, ...] = (2, 1)
    padding: tuple[str, ...] = ("same", "same")
    use_bias: bool = True
    batch_norm: bool = False
    activation: str = "relu"
    initialiser: str = "he_normal"
    init_scale: float = 1.0

    core = staticmethod(conv_evaluate)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths("channels", self.channels)
        if not self.channels:
            raise TaskError("channels = [], valid: at least one convolution; nearest: [8]")
        for option in ("strides", "padding"):
            values = getattr(self, option)
            if not isinstance(values, tuple) or len(values) != len(self.channels):
                raise TaskError(
                    f"{option} = {values!r}, valid: {len(self.channels)} entries, one for each of channels"
                )
        for k, stride in enumerate(self.strides):
            check_integer(f"strides[{k}]", stride, 1, SIDE)
        for k, padding in enumerate(self.padding):
            if padding not in PADDINGS:
                raise TaskError(unknown(f"padding[{k}]", padding, PADDINGS))
        check_flag("use_bias", self.use_bias)
        check_flag("batch_norm", self.batch_norm)
        if self.activation not in ACTIVATIONS:
            raise TaskError(unknown("activation", self.activation, ACTIVATIONS))
        check_initialiser(self.initialiser, self.init_scale)
        map_sizes(*self.input_shape[:2], self.strides, self.padding)

    @staticmethod
    @abc.abstractmethod
    def sample_config(seed: int) -> dict[str, Any]:
        """The published configuration of that seed: all fields, as drawn."""

    @classmethod
    def sample(cls, seed: int) -> Self:
        """The task of that published seed on a stand-in for its data of the same shape and classes.

        Raises:
            TaskError: the configuration cannot be built, as one of twenty cannot: a "valid" layer meets a map smaller
                than its kernel.  Take the next seed.
        """
        config = cls.sample_config(seed)
        own = {f.name: config[f.name] for f in dataclasses.fields(cls) if f.name in config}
        return cls(**{**own, **image_options(config)})

    @property
    @abc.abstractmethod
    def head(self) -> str:
        """What becomes of the last map: one of HEADS."""

    @property
    @abc.abstractmethod
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers of the head."""

    @functools.cached_property
    def maps(self) -> list[tuple[int, int, int]]:
        """(height, width, channels) of the image and of each convolution."""
        sizes = map_sizes(*self.input_shape[:2], self.strides, self.padding)
        channels = (self.input_shape[2], *self.channels)
        return [(*size, c) for size, c in zip(sizes, channels, strict=True)]

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Widths of the head: inputs, hidden layers, classes."""
        inputs = math.prod(self.maps[-1]) if self.head == "flatten" else self.channels[-1]
        return (inputs, *self.hidden, self.dataset.n_classes)

    @functools.cached_property
    def kernel_shapes(self) -> list[tuple[int, int, int, int]]:
        """(3, 3, cin, cout) of each convolution."""
        cins = (self.input_shape[2], *self.channels)
        return [(SIDE, SIDE, cin, c) for cin, c in zip(cins, self.channels, strict=False)]

    @functools.cached_property
    def layout(self) -> Layout:
        tensors: list[tuple[str, tuple[int, ...]]] = []
        for k, shape in enumerate(self.kernel_shapes):
            tensors.append((f"conv_w{k}", shape))
            tensors += [(f"conv_b{k}", shape[-1:])] if self.use_bias else []
            tensors += [(f"conv_beta{k}", shape[-1:])] if self.batch_norm else []
        return Layout([*tensors, *stack_tensors(self.widths, "fc_")])

    @functools.cached_property
    def arrays(self) -> TaskData:
        strides = (0, *self.strides)
        maps = [n for size, stride in zip(self.maps, strides, strict=True) for n in (*size, stride)]
        sizes = [
            *self.image_sizes, ACTIVATIONS.index(self.activation), int(self.use_bias),
            int(self.batch_norm), HEADS.index(self.head), len(self.channels), self._conv_params,
            self._conv_units, self._mlp_begin, stack_units(self.widths), self._norm_size, *maps, *self.widths,
        ]  # fmt: skip
        hyper = np.array(self.image_hyper, np.float32)
        return TaskData(self.dataset.floats, self.dataset.ints, np.array(sizes, np.int64), hyper)

    @property
    def _conv_params(self) -> int:
        vectors = self.use_bias + self.batch_norm
        return sum(math.prod(s) + vectors * s[-1] for s in self.kernel_shapes)

    @property
    def _conv_units(self) -> int:
        first, *others = map(math.prod, self.maps)
        return first + (2 + self.batch_norm) * sum(others)

    @property
    def _mlp_begin(self) -> int:
        shared = self.widths[0] if self.head == "flatten" else 0
        return self._conv_units - shared

    @property
    def _norm_size(self) -> int:
        return int(norm_size(np.array(self.maps, np.int64), int(self.batch_norm)))

    def activations(self, batch: int) -> int:
        """Maps, what batch norm makes of them, and the head's stack, which begins with the last map if that is flat."""
        image, *maps = map(math.prod, self.maps)
        stack = stack_activations(self.widths, self.activation)
        shared = self.widths[0] if self.head == "flatten" else 0
        each = image + (held(self.activation) + self.batch_norm) * sum(maps) + stack - shared
        return batch * each + self.batch_norm * sum(self.channels)

    def work_size(self, batch: int) -> int:
        units = self._mlp_begin + stack_units(self.widths) + 1
        layers = zip(self.maps[1:], self.kernel_shapes, strict=True)
        fixed = 32 + self._norm_size
        return batch * units + fixed + max(conv_scratch(batch, m[:2], s) for m, s in layers)

    @property
    def operations(self) -> float:
        """Multiplications and additions of one loss and gradient, matrix products only."""
        layers = zip(self.maps[1:], self.kernel_shapes, strict=True)
        products = [height * width * math.prod(shape) for (height, width, _), shape in layers]
        products += [n * m for n, m in itertools.pairwise(self.widths)]
        return self.batch_size * (6.0 * sum(products) - 2.0 * products[0])  # images get no gradient

    @property
    def head_law(self) -> tuple[str, float]:
        """Law and scale of the head's weights."""
        return self.initialiser, self.init_scale

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        for k, (name, view) in enumerate(self.layout.views(params).items()):
            if name.startswith("conv_w"):
                view[...] = draw(self.initialiser, self.init_scale, view.shape, stream, k)
            elif name.startswith("fc_w"):
                view[...] = draw(*self.head_law, view.shape, stream, k)
        return params

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        tensors = self.layout.views(params)
        layers = list(zip(range(len(self.channels)), self.strides, self.padding, strict=True))
        h = self.reference_batch(rows, stream, split, step).reshape(-1, *self.input_shape)
        inputs, tapes = [], []
        for k, stride, padding in layers:
            inputs.append(h)
            z = conv_reference(h, tensors[f"conv_w{k}"], tensors.get(f"conv_b{k}"), stride, padding)
            normed = None
            if self.batch_norm:
                rows_of = z.reshape(-1, z.shape[-1])
                beta = tensors[f"conv_beta{k}"]
                y, *normed = norm_reference(rows_of, np.ones(1), beta, BATCH_EPS, 0, len(rows_of))
                z = y.reshape(z.shape)
            h, derivative = activate_reference(self.activation, z)
            tapes.append((derivative, normed))
        flat, dpool = h.reshape(rows.size, -1), None
        if self.head != "flatten":
            flat, dpool = pool_reference(h.reshape(rows.size, -1, h.shape[-1]), self.head)
        logits, tape = stack_fwd_reference(tensors, flat, self.activation, "fc_")
        loss, d = cross_entropy_reference(logits, self.dataset.y[rows])
        grads, d = stack_bwd_reference(tensors, tape, d, "fc_")
        d = (d if dpool is None else d[:, None] * dpool).reshape(h.shape)
        for k, stride, padding in reversed(layers):
            derivative, normed = tapes[k]
            dz = d * derivative
            if normed is not None:
                dy, one = dz.reshape(-1, dz.shape[-1]), np.ones(1)
                dx, _, grads[f"conv_beta{k}"] = norm_backward_reference(
                    *normed, one, dy, 0, len(dy)
                )
                dz = dx.reshape(dz.shape)
            d, grads[f"conv_w{k}"], db = conv_bwd_reference(
                inputs[k], tensors[f"conv_w{k}"], dz, stride, padding
            )
            if self.use_bias:
                grads[f"conv_b{k}"] = db
        return loss, self.layout.flatten(grads, np.float64)


def sample_convolutions(r: np.random.RandomState) -> dict[str, Any]:
    """The leading draws of both families: strides, channels, activation, initialiser, paddings."""
    layers = samplers.choice(r, range(1, 6))
    pattern = STRIDE_PATTERNS[samplers.choice(r, tuple(STRIDE_PATTERNS))]
    channels = tuple(samplers.logint(r, 8, 64) for _ in range(layers))
    activation = samplers.activation(r)
    initialiser, scale = samplers.initialiser(r)
    return {
        "strides": tuple(pattern[k % 2] for k in range(layers)),
        "channels": channels,
        "activation": activation,
        "initialiser": initialiser,
        "init_scale": scale,
        "padding": tuple(samplers.choice(r, ("same", "valid")) for _ in range(layers)),
    }
