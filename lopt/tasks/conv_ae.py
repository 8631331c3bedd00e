"""Convolutional autoencoders of images, plain and variational (TaskSet's fixed tasks, task set specification 6.3, 6.4)."""

import abc
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import ClassVar, Self

import numpy as np

from lopt import rng
from lopt.errors import TaskError, unknown
from lopt.layout import Layout
from lopt.ops.activations import ACTIVATIONS, activate_reference, held
from lopt.ops.conv import conv_bwd_reference, conv_reference, conv_scratch
from lopt.ops.variational import (
    BINS,
    CLIP,
    PIXEL_CONSTANT,
    latent_reference,
    quantised_normal_reference,
)
from lopt.task import TaskData, register_task
from lopt.tasks.checks import check_integer, check_widths
from lopt.tasks.conv_ae_core import conv_ae_evaluate
from lopt.tasks.conv_core import SIDE
from lopt.tasks.images import IMAGE_DATA, ImageTask
from lopt.tasks.initialisers import check_initialiser, draw

STRIDE = 2  # of all convolutions

Map = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class ConvCoder(ImageTask):
    """Options of both convolutional autoencoders.

    channels       of the encoder's 3 x 3 convolutions, each of stride 2; height and width of the images must allow that
    latents        numbers Z between encoder and decoder
    decoder        channels of the decoder's transposed 3 x 3 convolutions, as many as the encoder has
    seed_channels  of the small map that the decoder begins with
    activation     after every convolution and transposed convolution, one of TaskSet's nine or "linear"
    initialiser    law of the weights, see `lopt.tasks.initialisers.draw`, and its scale; biases start at 0
    Further options as in `lopt.tasks.images.ImageTask`.

    Raises:
        TaskError: an option is out of range, or the images cannot be halved that often; names the nearest valid value.
    """

    channels: tuple[int, ...] = (8, 8)
    latents: int = 8
    decoder: tuple[int, ...] = (8, 8)
    seed_channels: int = 32
    activation: str = "relu"
    initialiser: str = "sonnet"
    init_scale: float = 1.0

    core = staticmethod(conv_ae_evaluate)
    variational: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths("channels", self.channels)
        check_widths("decoder", self.decoder)
        if not self.channels:
            raise TaskError("channels = [], valid: at least one convolution; nearest: [8]")
        if len(self.decoder) != len(self.channels):
            raise TaskError(
                f"decoder = {list(self.decoder)}, valid: {len(self.channels)} entries, as many as channels has"
            )
        check_integer("latents", self.latents, 1)
        check_integer("seed_channels", self.seed_channels, 1)
        if self.activation not in ACTIVATIONS:
            raise TaskError(unknown("activation", self.activation, ACTIVATIONS))
        check_initialiser(self.initialiser, self.init_scale)
        sides, times = self.input_shape[:2], len(self.channels)
        if any(side % STRIDE**times for side in sides):
            most = min((side & -side).bit_length() - 1 for side in sides)
            valid = f"{most} entries" if most else f"images with sides of {STRIDE}, 4, 6, ..."
            raise TaskError(
                f"channels = {list(self.channels)}: images of {sides[0]}x{sides[1]} cannot be halved {times} times; "
                f"nearest valid: {valid}"
            )

    @functools.cached_property
    def maps(self) -> list[Map]:
        """(height, width, channels) of the image and of each convolution."""
        height, width, _ = self.input_shape
        channels = (self.input_shape[2], *self.channels)
        return [(height >> k, width >> k, c) for k, c in enumerate(channels)]

    @functools.cached_property
    def decoder_maps(self) -> list[Map]:
        """(height, width, channels) of the small map and of each transposed convolution."""
        sides = [m[:2] for m in reversed(self.maps)]
        channels = (self.seed_channels, *self.decoder)
        return [(*side, c) for side, c in zip(sides, channels, strict=True)]

    @property
    def _widths(self) -> tuple[int, int, int, int]:
        """Flattened last map, code, small map, outputs per pixel."""
        twice = 1 + self.variational
        flat, seed = math.prod(self.maps[-1]), math.prod(self.decoder_maps[0])
        return flat, twice * self.latents, seed, twice * self.input_shape[2]

    @functools.cached_property
    def layout(self) -> Layout:
        flat, code, seed, outputs = self._widths
        tensors: list[tuple[str, tuple[int, ...]]] = []
        for k, ((_, _, a), (_, _, b)) in enumerate(itertools.pairwise(self.maps)):
            tensors += [(f"conv_w{k}", (SIDE, SIDE, a, b)), (f"conv_b{k}", (b,))]
        tensors += [("code_w", (flat, code)), ("code_b", (code,))]
        tensors += [("seed_w", (self.latents, seed)), ("seed_b", (seed,))]
        for k, ((_, _, a), (_, _, b)) in enumerate(itertools.pairwise(self.decoder_maps)):
            tensors += [(f"up_w{k}", (SIDE, SIDE, b, a)), (f"up_b{k}", (b,))]
        return Layout([*tensors, ("out_w", (self.decoder[-1], outputs)), ("out_b", (outputs,))])

    def _size(self, prefix: str) -> int:
        return sum(math.prod(shape) for name, shape in self.layout if name.startswith(prefix))

    @property
    def _units(self) -> tuple[int, int]:
        """Numbers per example that encoder and decoder keep."""
        both = ([math.prod(m) for m in maps] for maps in (self.maps, self.decoder_maps))
        encoder, decoder = (first + 2 * sum(others) for first, *others in both)
        return encoder, decoder

    @functools.cached_property
    def arrays(self) -> TaskData:
        own = [ACTIVATIONS.index(self.activation), int(self.variational), len(self.channels)]
        own += [self._size("conv_"), self._size("up_"), *self._units, self.latents]
        maps = [n for m in (*self.maps, *self.decoder_maps) for n in (*m, STRIDE)]
        return TaskData(
            self.dataset.floats,
            self.dataset.ints,
            np.array([*self.image_sizes, *own, *maps], np.int64),
            np.array(self.image_hyper, np.float32),
        )

    def _convolutions(self) -> Iterator[tuple[tuple[int, int], tuple[int, int, int, int]]]:
        """Side lengths of the smaller map, and kernel, of every convolution and transposed convolution."""
        for (_, _, a), (h, w, b) in itertools.pairwise(self.maps):
            yield (h, w), (SIDE, SIDE, a, b)
        for (h, w, a), (_, _, b) in itertools.pairwise(self.decoder_maps):
            yield (h, w), (SIDE, SIDE, b, a)

    def activations(self, batch: int) -> int:
        """Maps of both nets, code, outputs; latents, noise of latents and pixels if variational."""
        image, *maps = (math.prod(m) for m in self.maps)
        seed, *ups = (math.prod(m) for m in self.decoder_maps)
        between = seed + self.latents + image
        if self.variational:
            between += 3 * self.latents + 2 * image
        return batch * (image + between + held(self.activation) * (sum(maps) + sum(ups)))

    def work_size(self, batch: int) -> int:
        n, v = math.prod(self.input_shape), int(self.variational)
        between = (1 + 3 * v) * self.latents + (2 * (1 + v) + v) * n
        scratch = max(conv_scratch(batch, side, shape) for side, shape in self._convolutions())
        return batch * (sum(self._units) + between) + max(n, self.latents) + 32 + scratch

    @property
    def operations(self) -> float:
        """Multiplications and additions of one loss and gradient, matrix products only."""
        products = [math.prod(side) * math.prod(shape) for side, shape in self._convolutions()]
        matrices = {n: math.prod(s) for n, s in self.layout if n in ("code_w", "seed_w", "out_w")}
        matrices["out_w"] *= math.prod(self.input_shape[:2])
        total = sum(products) + sum(matrices.values())
        return self.batch_size * (6.0 * total - 2.0 * products[0])  # images get no gradient

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        for k, (name, view) in enumerate(self.layout.views(params).items()):
            if name.startswith("up_w"):  # fans are those of the transposed convolution
                shape = (*view.shape[:2], view.shape[3], view.shape[2])
                w = draw(self.initialiser, self.init_scale, shape, stream, k)
                view[...] = w.swapaxes(2, 3)
            elif "_w" in name:
                view[...] = draw(self.initialiser, self.init_scale, view.shape, stream, k)
        return params

    @abc.abstractmethod
    def loss_reference(
        self, x: np.ndarray, out: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        """Loss of the outputs (B, P, C or 2 C) on images x (B, P C), and its gradient."""

    def latents_reference(self, code: np.ndarray, stream: np.ndarray, split: int, step: int):
        """z, loss of the latents, and a function from the gradient of z to that of the code."""
        return code, 0.0, lambda dz: dz

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        t, batch = self.layout.views(params), rows.size
        x = self.reference_batch(rows, stream, split, step)
        h, s = [x.reshape(batch, *self.input_shape)], []
        down, up = [], []  # derivatives
        for k in range(len(self.channels)):
            z = conv_reference(h[-1], t[f"conv_w{k}"], t[f"conv_b{k}"], STRIDE, "same")
            for values, value in zip(
                (h, down), activate_reference(self.activation, z), strict=True
            ):
                values.append(value)
        flat = h[-1].reshape(batch, -1)
        z, loss, latents_bwd = self.latents_reference(
            flat @ t["code_w"] + t["code_b"], stream, split, step
        )
        s.append((z @ t["seed_w"] + t["seed_b"]).reshape(batch, *self.decoder_maps[0]))
        for k, shape in enumerate(self.decoder_maps[1:]):
            nothing = np.zeros((batch, *shape))  # a transposed convolution is the adjoint of one
            y, _, _ = conv_bwd_reference(nothing, t[f"up_w{k}"], s[-1], STRIDE, "same")
            y = y + t[f"up_b{k}"]
            for values, value in zip((s, up), activate_reference(self.activation, y), strict=True):
                values.append(value)
        pixels = s[-1].reshape(batch, -1, self.decoder[-1])
        more, dout = self.loss_reference(x, pixels @ t["out_w"] + t["out_b"], stream, split, step)
        grads = {"out_w": np.einsum("bpi,bpj->ij", pixels, dout), "out_b": dout.sum(axis=(0, 1))}
        d = (dout @ t["out_w"].T).reshape(s[-1].shape)
        for k in reversed(range(len(self.decoder))):
            d = d * up[k]
            _, grads[f"up_w{k}"], _ = conv_bwd_reference(d, t[f"up_w{k}"], s[k], STRIDE, "same")
            grads[f"up_b{k}"] = d.sum(axis=(0, 1, 2))
            d = conv_reference(d, t[f"up_w{k}"], None, STRIDE, "same")
        d = d.reshape(batch, -1)
        grads |= {"seed_w": z.T @ d, "seed_b": d.sum(axis=0)}
        d = latents_bwd(d @ t["seed_w"].T)
        grads |= {"code_w": flat.T @ d, "code_b": d.sum(axis=0)}
        d = (d @ t["code_w"].T).reshape(h[-1].shape)
        for k in reversed(range(len(self.channels))):
            d, grads[f"conv_w{k}"], grads[f"conv_b{k}"] = conv_bwd_reference(
                h[k], t[f"conv_w{k}"], d * down[k], STRIDE, "same"
            )
        return float(loss + more), self.layout.flatten(grads, np.float64)


@register_task(
    "conv_ae",
    model=(
        "mean over B and pixels of (sigmoid(D(E(x))) - x)^2: E convolutions of stride 2 and a linear map, D a linear "
        "map and transposed convolutions"
    ),
    data=IMAGE_DATA,
    source="TaskSet (Metz et al. 2020), fixed_image_conv_ae",
    deviations="stand-in data",
)
@dataclasses.dataclass(frozen=True)
class ConvAe(ConvCoder):
    """Convolutional autoencoding of images: the target is the input.

    Convolutions of stride 2, a linear map to the latents and one back to a small map, transposed convolutions, a
    1 x 1 convolution, sigmoid.  Loss: mean over batch, pixels and colours of the squared error, no 1/2.
    Options: `ConvCoder`; the images are x in [0, 1].

    Raises:
        TaskError: an option is out of range, or the images cannot be halved that often; names the nearest valid value.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.center:
            raise TaskError("center = true, valid: false, as the outputs lie in [0, 1]")

    def loss_reference(
        self, x: np.ndarray, out: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        s, slope = activate_reference("sigmoid", out)
        e = s - x.reshape(out.shape)
        return float((e**2).mean()), 2.0 * e * slope / e.size

    @classmethod
    def examples(cls) -> list[Self]:
        """Two convolutions, three down to a single pixel, and colours."""
        small = functools.partial(cls, latents=2, seed_channels=2, batch_size=3)
        return [
            small(channels=(2, 3), decoder=(3, 2), activation="tanh"),
            small(channels=(2, 2, 3), decoder=(2, 3, 2), latents=3, activation="swish"),
            small(data="textures16", channels=(3,), decoder=(2,), activation="elu", batch_size=2),
        ]


@register_task(
    "conv_vae",
    model=(
        "mean over B of KL(N(mu, e^2l) || N(0, 1)) - log p(x | z), z = mu + e^l eps; mu, l by convolutions, p's mean "
        "and log-deviation by transposed ones"
    ),
    data=IMAGE_DATA,
    source="TaskSet (Metz et al. 2020), fixed_image_conv_vae",
    deviations="stand-in data; KL from l itself, finite for any l below 44",
)
@dataclasses.dataclass(frozen=True)
class ConvVae(ConvCoder):
    """Convolutional variational autoencoder of images.

    The nets of `ConvAe` with 2 Z outputs of the encoder (mu, l) and 2 C of the decoder at every pixel: means, then log
    deviations, clipped to [-10, 10].  Loss as `lopt.tasks.mlp_vae.MlpVae`; with `center`, as published, the images are
    2x - 1 while a grey step remains 1 / 255.
    Options: `ConvCoder`.

    Raises:
        TaskError: an option is out of range, or the images cannot be halved that often; names the nearest valid value.
    """

    variational: ClassVar[bool] = True

    @property
    def lowest_loss(self) -> float:
        """A bound: no KL, and every pixel exact at the smallest deviation."""
        return math.prod(self.input_shape) * (PIXEL_CONSTANT - CLIP)

    def latents_reference(self, code: np.ndarray, stream: np.ndarray, split: int, step: int):
        """See `ConvCoder`; one sample per image."""
        batch = len(code)
        noise = rng.normals(batch * self.latents, stream, rng.LATENT + split, step)
        z, kl, dz_dl, dkl_dl = latent_reference(code, noise.astype(np.float64).reshape(batch, -1))

        def backward(dz: np.ndarray) -> np.ndarray:
            dmu = dz + code[:, : self.latents] / batch
            return np.concatenate([dmu, dz * dz_dl + dkl_dl / batch], axis=1)

        return z, kl.mean(), backward

    def loss_reference(
        self, x: np.ndarray, out: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        u = rng.uniforms(x.size, stream, rng.INPUT_NOISE + split, step).astype(np.float64)
        means, deviations = (half.reshape(x.shape) for half in np.split(out, 2, axis=2))
        both = np.concatenate([means, deviations], axis=1)
        losses, d = quantised_normal_reference(both, x + (u.reshape(x.shape) - 0.5) / BINS)
        halves = [h.reshape(*out.shape[:2], -1) for h in np.split(d, 2, axis=1)]
        return float(losses.mean()), np.concatenate(halves, axis=2) / len(x)

    @classmethod
    def examples(cls) -> list[Self]:
        """Two convolutions, three down to a single pixel, and centred colours."""
        small = functools.partial(cls, latents=2, seed_channels=2, batch_size=3)
        return [
            small(channels=(2, 3), decoder=(3, 2), activation="tanh"),
            small(channels=(2, 2, 3), decoder=(2, 3, 2), latents=3, activation="swish"),
            small(
                data="textures16", channels=(3,), decoder=(2,), activation="elu", batch_size=2,
                center=True,
            ),
        ]  # fmt: skip
