"""What the normalising flows share: affine couplings of flattened images, their base density, and their options.

A flow maps a noisy image v (D,) to a normal: blocks K-1, ..., 0, each an affine map v <- (v - t) e^-s whose (t, s) a net
computes from v, with a fixed permutation undone between them.  -log p = |v|^2 / 2 + sum of all s + D/2 log 2 pi.
Source: task set specification 3.9, 3.10 and 13.
"""

import abc
import dataclasses
import functools
import math
from typing import Any, ClassVar

import numpy as np

from lopt import rng
from lopt.errors import TaskError, unknown
from lopt.lanes import kernel, lane, lanes, sum32, sync
from lopt.layout import Layout
from lopt.ops.activations import ACTIVATIONS
from lopt.ops.images import gather_images
from lopt.ops.mlp_stack import stack_tensors
from lopt.tasks import samplers
from lopt.tasks.checks import check_integer, check_widths
from lopt.tasks.images import ImageTask, image_options
from lopt.tasks.initialisers import check_initialiser, draw

NOISE_STD = 0.01  # of the noise on the images
HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


@kernel
def noisy_images(data, rows, stream, split, step, v):
    """v (B, D) OVERWRITTEN with the batch plus normal noise of standard deviation 0.01."""
    gather_images(data, rows, stream, split, step, v)
    flat = v.reshape(v.size)
    rng.add_normals(flat, NOISE_STD, 0, stream, rng.INPUT_NOISE + split, step)
    sync()


@kernel
def clear(x):
    """x (n,) = 0.  No barrier: `add_squares` and the couplings add to what the same lane cleared."""
    for j in range(lane(), x.size, lanes()):
        x[j] = x.dtype.type(0.0)


@kernel
def base_density(v, terms, scale):
    """terms[j] += half the squares of column j of v; v UPDATED to its gradient v * scale.

    Shapes: v (B, D); terms (D,).
    """
    batch, n = v.shape
    half = v.dtype.type(0.5)
    for r in range(batch):
        x = v[r]
        for j in range(lane(), n, lanes()):
            terms[j] += half * x[j] * x[j]
            x[j] *= scale
    sync()


@kernel
def flow_loss(terms, n, batch, partials):
    """Mean of -log p over the batch, from `terms` (D,): columns' sums of s and v^2 / 2."""
    total = sum32(terms, n, partials)
    return total / terms.dtype.type(batch) + n * terms.dtype.type(HALF_LOG_TAU)


@kernel
def first_columns(v, x):
    """x (B, d) OVERWRITTEN with the first d columns of v (B, D)."""
    batch, n = x.shape
    for r in range(batch):
        source, target = v[r], x[r]
        for j in range(lane(), n, lanes()):
            target[j] = source[j]
    sync()


@kernel
def add_first_columns(dx, dv):
    """First d columns of dv (B, D) += dx (B, d)."""
    batch, n = dx.shape
    for r in range(batch):
        source, target = dx[r], dv[r]
        for j in range(lane(), n, lanes()):
            target[j] += source[j]
    sync()


@kernel
def gather_columns(v, order, out):
    """out[:, j] = v[:, order[j]].  Shapes: v, out (B, D) distinct; order (D,) int64."""
    batch, n = v.shape
    for r in range(batch):
        source, target = v[r], out[r]
        for j in range(lane(), n, lanes()):
            target[j] = source[order[j]]
    sync()


@kernel
def scatter_columns(v, order, out):
    """out[:, order[j]] = v[:, j]: the adjoint of `gather_columns` for a permutation."""
    batch, n = v.shape
    for r in range(batch):
        source, target = v[r], out[r]
        for j in range(lane(), n, lanes()):
            target[order[j]] = source[j]
    sync()


@dataclasses.dataclass(frozen=True)
class FlowTask(ImageTask):
    """Options of a normalising flow of images.

    hidden       widths of the hidden layers of every block's net
    blocks       affine maps K
    activation, initialiser, init_scale   of the nets; biases start at 0
    The images are x in [0, 1], or 2x - 1 with `center`, plus noise; further options: `ImageTask`.
    """

    hidden: tuple[int, ...] = (32,)
    blocks: int = 2
    activation: str = "relu"
    initialiser: str = "glorot_uniform"  # he_normal starts nvp at infinite losses
    init_scale: float = 1.0

    lowest_loss: ClassVar[float] = -math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths("hidden", self.hidden)
        check_integer("blocks", self.blocks, 1)
        if self.activation not in ACTIVATIONS:
            raise TaskError(unknown("activation", self.activation, ACTIVATIONS))
        check_initialiser(self.initialiser, self.init_scale)

    @property
    def dimension(self) -> int:
        """Numbers D of an image."""
        return math.prod(self.input_shape)

    @property
    @abc.abstractmethod
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden widths and outputs of every net."""

    @property
    @abc.abstractmethod
    def orders(self) -> tuple[np.ndarray, ...]:
        """K - 1 permutations of the D columns: after block k + 1, v <- v[order_k]."""

    @functools.cached_property
    def layout(self) -> Layout:
        nets = (stack_tensors(self.widths, f"net{k}_") for k in range(self.blocks))
        return Layout([tensor for net in nets for tensor in net])

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        for k, (name, view) in enumerate(self.layout.views(params).items()):
            if "_w" in name:
                view[...] = draw(self.initialiser, self.init_scale, view.shape, stream, k)
        return params

    def noisy_batch(
        self, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> np.ndarray:
        """What `noisy_images` makes, (B, D) float64."""
        x = self.reference_batch(rows, stream, split, step)
        noise = rng.normals(x.size, stream, rng.INPUT_NOISE + split, step).astype(np.float64)
        return x + NOISE_STD * noise.reshape(x.shape)

    @staticmethod
    def drawn_config(r: np.random.RandomState) -> dict[str, Any]:
        """All fields of a flow as TaskSet draws them, in its order."""
        activation = samplers.activation(r)
        initialiser, scale = samplers.initialiser(r)
        data = samplers.image_data(r)
        layers = samplers.choice(r, (1, 2))
        hidden = tuple(samplers.logint(r, 16, 128) for _ in range(layers))
        return {
            "activation": activation,
            "initialiser": initialiser,
            "init_scale": scale,
            **data,
            "hidden": hidden,
            "blocks": samplers.choice(r, (1, 2, 3, 4)),
        }

    @staticmethod
    def drawn_options(config: dict[str, Any]) -> dict[str, Any]:
        """The options of a drawn configuration, on the stand-in for its data."""
        names = ("activation", "initialiser", "init_scale", "hidden", "blocks")
        return {**image_options(config), **{n: config[n] for n in names}}
