"""Residual networks on images (the image_resnet family of task set specification 11.2)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from lopt.errors import TaskError, unknown
from lopt.layout import Layout
from lopt.ops.activations import ACTIVATIONS, activate_reference, held
from lopt.ops.conv import conv_bwd_reference, conv_reference, conv_scratch
from lopt.ops.losses import cross_entropy_reference
from lopt.ops.norm import LAYER_EPS, norm_backward_reference, norm_reference, norm_work
from lopt.ops.window_pool import max_pool_reference
from lopt.task import TRAIN, TaskData, register_task
from lopt.tasks import samplers
from lopt.tasks.checks import check_flag, check_integer
from lopt.tasks.images import IMAGE_DATA, ImageTask
from lopt.tasks.initialisers import check_initialiser, draw
from lopt.tasks.resnet_core import (
    BUFFERS,
    POOL_SIDE,
    POOL_STRIDE,
    resnet_evaluate,
)
from lopt.tasks.resnet_plan import (
    BLOCKS,
    NETWORKS,
    Block,
    Table,
    Unit,
    largest_map,
    network,
    pooled,
    table,
)
from lopt.tasks.transformer_options import first_affordable, floor_logint, image_stand_in

NORMS = ("batch", "layer", "virtual")
MOST_STRIDE = 3
# The published law: channels of the four stages in units of the first, and the activations at hand of those behind the
# stem, as often as they are in the published list.
CHANNEL_PATTERNS = ((1, 1, 1, 1), (1, 2, 4, 8), (1, 2, 2, 4), (1, 2, 2, 2), (1, 2, 4, 4))
STAGE_STRIDES = (1, 2, 2, 2)
STEM_ACTIVATIONS = ("relu", "relu", "tanh", "cos", "sigmoid", "swish", "swish")


@register_task(
    "resnet",
    model=(
        "mean over B of softmax cross-entropy of W mean(h) + b; h = f(F(h) + s(h)) block by block, F two or three "
        "convolutions with norms, s the identity or a 1 x 1 convolution"
    ),
    data=IMAGE_DATA,
    source=(
        "He et al. 2016; VeLO's task distribution (Metz et al. 2022), task set specification 11.2; two networks of "
        "Metz et al. 2020, appendix F.3"
    ),
    deviations=(
        "a bottleneck's stride is in its 3 x 3 convolution; batch norm uses the statistics of the batch at hand on all "
        "splits; images keep the size of the stand-in; the drawn stride of the stem is used; draws of its own random "
        "numbers, repeated until a step is feasible on one core"
    ),
)
@dataclasses.dataclass(frozen=True)
class Resnet(ImageTask):
    """Image classification by a residual network.

    He et al. 2016, "Deep residual learning for image recognition": a stem, stages of blocks h = f(F(h) + s(h)), the
    mean over positions, a linear readout.  F is a chain of units with f between them; a unit is a convolution with
    "same" padding and its norm.  The shortcut s is the identity, or a 1 x 1 unit where a block changes the channels or
    has a stride.  Loss: mean softmax cross-entropy.

    network          "cifar14" or "imagenet35", published networks for images of 32 x 32 and 64 x 64 pixels: stem,
                     max_pool, block and stages are then given.  "": those below
    stem             side of the kernel, channels and stride of the unit in front of the blocks; f follows
    max_pool         then the maximum over 3 x 3 windows with stride 2
    block            "basic": units of 3 x 3 and 3 x 3; "bottleneck": 1 x 1, 3 x 3, 1 x 1
    stages           (blocks, channels, inner channels, stride) of each stage: inner channels are those of all units of
                     a block but the last, the stride is that of the first 3 x 3 unit of the first block
    norm             "batch": statistics of the batch over examples and positions, on every split alike; "layer": over
                     the channels of each position; "virtual": those of the first rows of the training split, which
                     then pass through the network with every batch
    reference_rows   rows of the reference batch of virtual batch norm, augmented alike at all steps of a training
    activation       f, one of TaskSet's nine, or "linear"
    stem_activation  the one behind the stem; "": f
    zero_start       the gammas that end the blocks' chains start at 0, and the readout's weights too
    initialiser      law of the weights, see `lopt.tasks.initialisers.draw`, and its scale `init_scale`
    Further options: `lopt.tasks.images.ImageTask`.

    Norms have a gamma, which starts at 1, and a beta, which starts at 0; eps is 1e-5.

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    network: str = ""
    stem: tuple[int, int, int] = (3, 8, 1)
    max_pool: bool = False
    block: str = "basic"
    stages: tuple[tuple[int, int, int, int], ...] = ((1, 8, 8, 1), (1, 16, 16, 2))
    norm: str = "batch"
    reference_rows: int = 16
    activation: str = "relu"
    stem_activation: str = ""
    zero_start: bool = False
    initialiser: str = "he_normal"
    init_scale: float = 1.0

    core = staticmethod(resnet_evaluate)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network:
            self._check_network()
        _check_sizes("stem", self.stem, ("side", "channels", "stride"))
        check_flag("max_pool", self.max_pool)
        if self.block not in BLOCKS:
            raise TaskError(unknown("block", self.block, BLOCKS))
        if not isinstance(self.stages, tuple) or not self.stages:
            raise TaskError(f"stages = {self.stages!r}, valid: a list of one stage at least")
        for k, stage in enumerate(self.stages):
            _check_sizes(f"stages[{k}]", stage, ("blocks", "channels", "inner channels", "stride"))
        if self.norm not in NORMS:
            raise TaskError(unknown("norm", self.norm, NORMS))
        lo, hi = self.splits[TRAIN]
        check_integer("reference_rows", self.reference_rows, 2, hi - lo)
        for option in ("activation", "stem_activation"):
            if getattr(self, option) not in (*ACTIVATIONS, *([""] * (option != "activation"))):
                raise TaskError(unknown(option, getattr(self, option), ACTIVATIONS))
        check_flag("zero_start", self.zero_start)
        check_initialiser(self.initialiser, self.init_scale)

    def _check_network(self) -> None:
        if self.network not in NETWORKS:
            raise TaskError(unknown("network", self.network, NETWORKS))
        for f in dataclasses.fields(self):
            if f.name in NETWORKS[self.network] and getattr(self, f.name) != f.default:
                raise TaskError(
                    f"{f.name} = {getattr(self, f.name)!r}, but network = {self.network!r} has its own; leave one out"
                )

    @functools.cached_property
    def blocks(self) -> list[Block]:
        """The stem, then all blocks."""
        own = {name: getattr(self, name) for name in ("block", "stem", "max_pool", "stages")}
        given = NETWORKS.get(self.network, own)
        return network(
            self.input_shape, given["block"], given["stem"], given["max_pool"], given["stages"]
        )

    @property
    def units(self) -> list[Unit]:
        """All units, in the order of their parameters."""
        return [unit for block in self.blocks for unit in block.units]

    @property
    def _pools(self) -> bool:
        return bool(NETWORKS[self.network]["max_pool"]) if self.network else self.max_pool

    @property
    def reference_count(self) -> int:
        """Rows of the reference batch, 0 if there is none."""
        return self.reference_rows if self.norm == "virtual" else 0

    @functools.cached_property
    def layout(self) -> Layout:
        tensors: list[tuple[str, tuple[int, ...]]] = []
        for u in self.units:
            tensors.append((f"{u.name}_w", u.kernel_shape))
            tensors += [(f"{u.name}_{name}", u.after[2:]) for name in ("gamma", "beta")]
        ends = (self.blocks[-1].after[2], self.dataset.n_classes)
        return Layout([*tensors, ("w_out", ends), ("b_out", ends[1:])])

    @functools.cached_property
    def table(self) -> Table:
        """Offsets of parameters and scratch."""
        names = (self.stem_activation or self.activation, self.activation)
        stem, inside = (ACTIVATIONS.index(name) for name in names)
        return table(self.blocks, self._pools, (stem, inside))

    @functools.cached_property
    def arrays(self) -> TaskData:
        sizes = [
            *self.image_sizes, int(self.norm == "layer"), self.reference_count, int(self._pools),
            self.dataset.n_classes, len(self.units), *self.table.kept, largest_map(self.blocks),
            *self.table.rows, *range(self.reference_count),
        ]  # fmt: skip
        return TaskData(
            self.dataset.floats,
            self.dataset.ints,
            np.array(sizes, np.int64),
            np.array(self.image_hyper, np.float32),
        )

    def activations(self, batch: int) -> int:
        """Images; of a unit what the norm makes of it and divides by, and what a block's chain passes on; the head's."""
        images = self.reference_count + batch
        maps, divisors = math.prod(self.input_shape), 0
        for block in self.blocks:
            f = (self.stem_activation if block.is_stem else "") or self.activation
            for unit in block.units:
                passed = 0 if unit in block.skip else held(f)
                maps += math.prod(unit.after) * (1 + passed)
                rows = images * unit.after[0] * unit.after[1]
                divisors += rows if self.norm == "layer" else unit.after[2]
        if self._pools:
            maps += math.prod(pooled(self.blocks[0].after))
        head = batch * (self.blocks[-1].after[2] + self.dataset.n_classes)
        return images * maps + divisors + head

    def work_size(self, batch: int) -> int:
        images, (kept, fixed) = self.reference_count + batch, self.table.kept
        head = batch * (2 * self.blocks[-1].after[2] + self.dataset.n_classes + 1) + 32
        maps = images * (kept + BUFFERS * largest_map(self.blocks)) + fixed
        norms = int(norm_work(max(u.after[2] for u in self.units)))
        scratch = (conv_scratch(images, u.after[:2], u.kernel_shape) for u in self.units)
        return maps + head + max(norms, *scratch)

    @property
    def operations(self) -> float:
        """Multiplications and additions of one loss and gradient, matrix products only."""
        products = [u.products for u in self.units]
        images = self.reference_count + self.batch_size
        total = images * (6.0 * sum(products) - 2.0 * products[0])  # images get no gradient
        return total + 6.0 * self.batch_size * math.prod(self.layout.shapes[-2])

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        ends = [f"{b.chain[-1].name}_gamma" for b in self.blocks if not b.is_stem]
        zeros = ("w_out", *ends) if self.zero_start else ()
        for k, (name, view) in enumerate(self.layout.views(params).items()):
            if name in zeros:
                continue
            if view.ndim > 1:
                view[...] = draw(self.initialiser, self.init_scale, view.shape, stream, k)
            elif name.endswith("gamma"):
                view[...] = 1.0
        return params

    def _unit_reference(self, x: np.ndarray, t: Mapping[str, np.ndarray], unit: Unit) -> tuple:
        """The unit's map, and a function from its gradient and a dict to fill to the gradient of x."""
        w, channels = t[f"{unit.name}_w"], unit.after[2]
        gamma, beta = t[f"{unit.name}_gamma"], t[f"{unit.name}_beta"]
        z = conv_reference(x, w, None, unit.stride, "same")
        flat, axis = z.reshape(-1, channels), int(self.norm == "layer")
        counted = channels if axis else (self.reference_count or len(x)) * (z[0].size // channels)
        y, xhat, rstd = norm_reference(flat, gamma, beta, LAYER_EPS, axis, counted)

        def back(dy: np.ndarray, grads: dict[str, np.ndarray]) -> np.ndarray:
            flat = dy.reshape(-1, channels)
            dz, dgamma, dbeta = norm_backward_reference(xhat, rstd, gamma, flat, axis, counted)
            dz = dz.reshape(z.shape)
            dx, dw, _ = conv_bwd_reference(x, w, dz, unit.stride, "same")
            found = {"w": dw, "gamma": dgamma, "beta": dbeta}
            grads |= {f"{unit.name}_{name}": value for name, value in found.items()}
            return dx

        return y.reshape(z.shape), back

    def _block_reference(self, x: np.ndarray, t: Mapping[str, np.ndarray], block: Block) -> tuple:
        """The block's map, and a function like that of `_unit_reference`."""
        f = (self.stem_activation if block.is_stem else "") or self.activation
        added, skip_back = np.zeros(1) if block.is_stem else x, None
        if block.skip:
            added, skip_back = self._unit_reference(x, t, block.skip[0])
        h, tape = x, []
        for unit in block.chain:
            y, back = self._unit_reference(h, t, unit)
            h, slope = activate_reference(f, y + added if unit is block.chain[-1] else y)
            tape.append((back, slope))

        def backward(d: np.ndarray, grads: dict[str, np.ndarray]) -> np.ndarray:
            dy = d * tape[-1][1]
            d = tape[-1][0](dy, grads)
            for back, slope in reversed(tape[:-1]):
                d = back(d * slope, grads)
            if block.is_stem:
                return d
            return d + (skip_back(dy, grads) if skip_back else dy)

        return h, backward

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        t, top = self.layout.views(params.astype(np.float64)), self.reference_count
        h = self.reference_batch(rows, stream, split, step)
        if top > 0:
            h = np.concatenate([self.reference_batch(np.arange(top), stream, TRAIN, 0), h])
        h = h.reshape(-1, *self.input_shape)
        tape: list[Callable] = []
        for block in self.blocks:
            h, back = self._block_reference(h, t, block)
            tape.append(back)
            if block.is_stem and self._pools:
                h, back = _pool_reference(h)
                tape.append(back)
        means = h[top:].mean(axis=(1, 2))
        loss, dz = cross_entropy_reference(means @ t["w_out"] + t["b_out"], self.dataset.y[rows])
        grads = {"w_out": means.T @ dz, "b_out": dz.sum(axis=0)}
        d = np.zeros_like(h)
        d[top:] = (dz @ t["w_out"].T)[:, None, None] / (h.shape[1] * h.shape[2])
        for back in reversed(tape):
            d = back(d, grads)
        return loss, self.layout.flatten(grads, np.float64)

    @staticmethod
    def draw_config(r: np.random.RandomState) -> dict[str, Any]:
        """Options by the published law, however large, on the stand-in of the drawn data set."""
        most = floor_logint(r, 1, 10)
        counts = [floor_logint(r, 1, most) for _ in range(4)]
        pattern, width = samplers.choice(r, CHANNEL_PATTERNS), floor_logint(r, 8, 256)
        side, channels = samplers.choice(r, (3, 5, 7)), floor_logint(r, 8, 64)
        stride, max_pool = samplers.choice(r, (1, 2)), samplers.choice(r, (False, True))
        stages = (
            (count, factor * width, factor * width // 4, s)
            for count, factor, s in zip(counts, pattern, STAGE_STRIDES, strict=True)
        )
        return {
            "block": "bottleneck",
            "stages": tuple(stages),
            "stem": (side, channels, stride),
            "max_pool": max_pool,
            **image_stand_in(r, floor_logint(r, 8, 64)),
            "batch_size": floor_logint(r, 4, 256),
            "stem_activation": samplers.choice(r, STEM_ACTIVATIONS),
            "initialiser": "sonnet",
            "zero_start": True,
        }

    @classmethod
    def sample(cls, seed: int) -> Self:
        """A random task by the law of VeLO's image_resnet, a pure function of the seed.

        The published random keys cannot be repeated: the draws are those of RandomState(seed), in the order of the
        specification's table, the stem's activation last.  Deviations: drawn again until it is affordable, see
        `first_affordable`; images are not resized, see `image_stand_in`; the drawn stride of the stem is used, not 2
        always; activations that lopt does not have are not drawn.
        """
        return first_affordable(cls, seed)

    @classmethod
    def examples(cls) -> list[Self]:
        """Every norm and both blocks, identities and projections, with and without the maximum, a crop."""
        crop = (1, True, False, False, 0.0, 0.0, 0.0, 0.0)
        return [
            cls(
                batch_size=4, stem=(3, 3, 1), max_pool=True, stages=((1, 3, 2, 1), (1, 4, 3, 2)),
                activation="tanh",
            ),
            cls(
                batch_size=4, stem=(5, 4, 2), block="bottleneck", stages=((2, 4, 2, 1), (1, 5, 2, 2)),
                norm="layer", activation="swish", stem_activation="relu", augmentation=crop,
            ),
            cls(
                batch_size=3, stem=(2, 3, 1), stages=((1, 3, 3, 3),), norm="virtual", reference_rows=5,
                initialiser="sonnet", center=True, augmentation=crop,
            ),
            cls(
                batch_size=3, stem=(3, 2, 2), max_pool=True, block="bottleneck",
                stages=((1, 3, 2, 2), (1, 3, 1, 1)), activation="elu", zero_start=True,
            ),
        ]  # fmt: skip


def _pool_reference(x: np.ndarray) -> tuple:
    """The maximum behind the stem, and a function like that of `Resnet._unit_reference`."""
    y, place = max_pool_reference(x, POOL_SIDE, POOL_STRIDE)

    def back(dy: np.ndarray, grads: dict[str, np.ndarray]) -> np.ndarray:
        dx = np.zeros(x.size)
        np.add.at(dx, place, dy)
        return dx.reshape(x.shape)

    return y, back


def _check_sizes(option: str, values: object, names: tuple[str, ...]) -> None:
    """Refuse what is not so many integers of at least 1, a stride of more than MOST_STRIDE."""
    if not isinstance(values, tuple) or len(values) != len(names):
        raise TaskError(f"{option} = {values!r}, valid: ({', '.join(names)})")
    for name, value in zip(names, values, strict=True):
        check_integer(f"{option}: {name}", value, 1, MOST_STRIDE if name == "stride" else None)
