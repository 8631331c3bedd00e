"""MLP variational autoencoders of images (TaskSet's mlp_vae family, task set specification 3.3)."""

import dataclasses
import functools
import math
from typing import Any, Self

import numpy as np

from lopt import rng
from lopt.errors import TaskError, unknown
from lopt.lanes import kernel, sum32
from lopt.layout import Layout
from lopt.ops.activations import ACTIVATIONS
from lopt.ops.images import IMAGE_SIZES, gather_images
from lopt.ops.mlp_stack import (
    stack_activations,
    stack_bwd,
    stack_bwd_reference,
    stack_fwd,
    stack_fwd_reference,
    stack_size,
    stack_tensors,
    stack_units,
)
from lopt.ops.variational import (
    BINS,
    CLIP,
    PIXEL_CONSTANT,
    dequantise,
    latent_bwd,
    latent_fwd,
    latent_reference,
    quantised_normal,
    quantised_normal_reference,
)
from lopt.task import TaskData, register_task
from lopt.tasks import samplers
from lopt.tasks.checks import check_widths
from lopt.tasks.images import IMAGE_DATA, ImageTask, image_options
from lopt.tasks.initialisers import check_initialiser, draw

# Behind the image block of data.sizes; the widths of encoder and decoder follow.
_ACTIVATION, _ENC_LAYERS, _ENC_SIZE, _ENC_UNITS, _DEC_UNITS, _WIDTHS = (
    IMAGE_SIZES + k for k in range(6)
)


@kernel
def mlp_vae_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean negative evidence bound of a VAE and its gradient; see `lopt.task.Task`.

    data.sizes: image block, activation code, layers E and parameters of the encoder, units of
    encoder and decoder, widths 0..E of the encoder, widths of the decoder.
    Scratch: the encoder's activations, from images x to (mu, l) | the decoder's, from latents z to
    (m, s) | normals (B, Z) | dequantised images (B, D) |
    terms (D or Z,) | partials (32,).
    """
    sizes, batch = data.sizes, rows.size
    code, cut = sizes[_ACTIVATION], _WIDTHS + sizes[_ENC_LAYERS] + 1
    enc_widths, dec_widths = sizes[_WIDTHS:cut], sizes[cut:]
    n, latent, middle = enc_widths[0], dec_widths[0], sizes[_ENC_SIZE]
    begin = batch * sizes[_ENC_UNITS]
    end = begin + batch * sizes[_DEC_UNITS]
    free = end + batch * latent
    last = free + batch * n
    enc, dec = work[:begin], work[begin:end]
    x, z, noise = work[: batch * n], work[begin : begin + batch * latent], work[end:free]
    hidden = work[begin - batch * 2 * latent : begin].reshape(batch, 2 * latent)
    near = work[free:last]
    terms = work[last : last + max(n, latent)]
    partials = work[last + max(n, latent) : last + max(n, latent) + 32]
    scale = work.dtype.type(1.0) / work.dtype.type(batch)

    rng.normals_into(noise, 0, stream, rng.LATENT + split, step)
    rng.uniforms_into(near, 0, stream, rng.INPUT_NOISE + split, step)
    gather_images(data, rows, stream, split, step, x.reshape(batch, n))
    stack_fwd(params[:middle], enc_widths, code, batch, enc)
    latent_fwd(hidden, noise.reshape(batch, latent), z.reshape(batch, latent), terms)
    divergence = sum32(terms, latent, partials)
    stack_fwd(params[middle:], dec_widths, code, batch, dec)
    dequantise(x, near)
    out = work[end - batch * 2 * n : end].reshape(batch, 2 * n)
    quantised_normal(out, near.reshape(batch, n), scale, terms)
    surprise = sum32(terms, n, partials)
    if with_grad != 0:
        # z = mu + e^l noise, out = decoder(z)
        stack_bwd(params[middle:], grad[middle:], dec_widths, code, batch, dec, z)
        # (mu, l) = encoder(x)
        latent_bwd(hidden, noise.reshape(batch, latent), z.reshape(batch, latent), scale)
        stack_bwd(params[:middle], grad[:middle], enc_widths, code, batch, enc, enc[:0])
    return scale * (surprise + divergence) + n * work.dtype.type(PIXEL_CONSTANT)


@register_task(
    "mlp_vae",
    model=(
        "mean over B of KL(N(mu, e^2l) || N(0, 1)) - log p(x | z), z = mu + e^l eps; mu, l, and "
        "p's mean and log-deviation by MLPs"
    ),
    data=IMAGE_DATA,
    source="TaskSet (Metz et al. 2020), mlp_vae_family",
    deviations="stand-in data; KL from l itself, finite for any l below 44",
)
@dataclasses.dataclass(frozen=True)
class MlpVae(ImageTask):
    """Variational autoencoder of images: Gaussian latents, Gaussian pixels, two perceptrons.

    Encoder: x -> (mu, l), z = mu + e^l eps with one sample per image; decoder: z -> (m, s), both
    clipped to [-10, 10] with derivative 0 outside.
    Loss, mean over the batch: KL(N(mu, e^2l) || N(0, 1)) - sum over pixels of
    log N(x + U(-1/510, 1/510); m, e^2s) / 255.  Sums over pixels: hundreds to thousands.

    encoder      widths of the encoder's hidden layers, then the number Z of latents
    decoder      widths of the decoder's hidden layers
    activation, initialiser, init_scale   of all layers; biases start at 0
    Further options: see `ImageTask`.  l is not bounded: e^2l overflows where l exceeds 44.

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    encoder: tuple[int, ...] = (32, 8)
    decoder: tuple[int, ...] = (32,)
    activation: str = "relu"
    initialiser: str = "he_normal"
    init_scale: float = 1.0

    core = staticmethod(mlp_vae_evaluate)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths("encoder", self.encoder)
        if not self.encoder:
            raise TaskError("encoder = [], valid: at least the number of latents; nearest: [1]")
        check_widths("decoder", self.decoder)
        if self.activation not in ACTIVATIONS:
            raise TaskError(unknown("activation", self.activation, ACTIVATIONS))
        check_initialiser(self.initialiser, self.init_scale)

    @property
    def lowest_loss(self) -> float:
        """A bound: no KL, and every pixel exact at the smallest deviation."""
        return math.prod(self.input_shape) * (PIXEL_CONSTANT - CLIP)

    @functools.cached_property
    def encoder_widths(self) -> tuple[int, ...]:
        """Pixels, hidden widths, two numbers per latent."""
        return (math.prod(self.input_shape), *self.encoder[:-1], 2 * self.encoder[-1])

    @functools.cached_property
    def decoder_widths(self) -> tuple[int, ...]:
        """Latents, hidden widths, two numbers per pixel."""
        return (self.encoder[-1], *self.decoder, 2 * math.prod(self.input_shape))

    @functools.cached_property
    def layout(self) -> Layout:
        encoder = stack_tensors(self.encoder_widths, "enc_")
        return Layout(encoder + stack_tensors(self.decoder_widths, "dec_"))

    @functools.cached_property
    def arrays(self) -> TaskData:
        enc, dec = self.encoder_widths, self.decoder_widths
        own = [ACTIVATIONS.index(self.activation), len(enc) - 1, stack_size(enc)]
        own += [stack_units(enc), stack_units(dec), *enc, *dec]
        return TaskData(
            self.dataset.floats,
            self.dataset.ints,
            np.array(self.image_sizes + own, np.int64),
            np.array(self.image_hyper, np.float32),
        )

    def activations(self, batch: int) -> int:
        """The two stacks, and the noise of latents and pixels."""
        enc, dec = self.encoder_widths, self.decoder_widths
        stacks = (stack_activations(w, self.activation) for w in (enc, dec))
        return batch * (sum(stacks) + dec[0] + enc[0])

    def work_size(self, batch: int) -> int:
        enc, dec = self.encoder_widths, self.decoder_widths
        per_example = stack_units(enc) + stack_units(dec) + dec[0] + enc[0]
        return batch * per_example + max(enc[0], dec[0]) + 32

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        for k, (name, view) in enumerate(self.layout.views(params).items()):
            if "_w" in name:
                view[...] = draw(self.initialiser, self.init_scale, view.shape, stream, k)
        return params

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        tensors = self.layout.views(params)
        x = self.reference_batch(rows, stream, split, step)
        batch, latents = len(x), self.encoder[-1]
        noise = rng.normals(batch * latents, stream, rng.LATENT + split, step).astype(np.float64)
        u = rng.uniforms(x.size, stream, rng.INPUT_NOISE + split, step).astype(np.float64)
        code, enc_tape = stack_fwd_reference(tensors, x, self.activation, "enc_")
        z, kl, dz_dl, dkl_dl = latent_reference(code, noise.reshape(batch, latents))
        out, dec_tape = stack_fwd_reference(tensors, z, self.activation, "dec_")
        near = x + (u.reshape(x.shape) - 0.5) / BINS
        surprise, dout = quantised_normal_reference(out, near)
        dec_grads, dz = stack_bwd_reference(tensors, dec_tape, dout / batch, "dec_")
        dmu = dz + code[:, :latents] / batch
        dl = dz * dz_dl + dkl_dl / batch
        dcode = np.concatenate([dmu, dl], axis=1)
        enc_grads, _ = stack_bwd_reference(tensors, enc_tape, dcode, "enc_")
        grad = self.layout.flatten(enc_grads | dec_grads, np.float64)
        return float((kl + surprise).mean()), grad

    @staticmethod
    def sample_config(seed: int) -> dict[str, Any]:
        """Configuration `mlp_vae_family_seed<seed>` of TaskSet as published: all fields, as drawn."""
        r = np.random.RandomState(seed)
        layers = samplers.choice(r, (1, 2, 3, 4))
        encoder = tuple(samplers.logint(r, 32, 128) for _ in range(layers))
        layers = samplers.choice(r, (1, 2, 3))
        decoder = tuple(samplers.logint(r, 32, 128) for _ in range(layers))
        activation = samplers.activation(r)
        initialiser, scale = samplers.initialiser(r)
        return {
            "encoder": encoder,
            "decoder": decoder,
            "activation": activation,
            "initialiser": initialiser,
            "init_scale": scale,
            **samplers.image_data(r),
        }

    @classmethod
    def sample(cls, seed: int) -> Self:
        """Task `mlp_vae_family_seed<seed>` of TaskSet on a stand-in for its data."""
        config = cls.sample_config(seed)
        names = ("encoder", "decoder", "activation", "initialiser", "init_scale")
        return cls(**image_options(config), **{n: config[n] for n in names})

    @classmethod
    def examples(cls) -> list[Self]:
        """A linear encoder, deep nets, and a decoder without hidden layer."""
        return [
            cls(encoder=(5,), decoder=(9,), activation="tanh", batch_size=7),
            cls(encoder=(8, 7, 3), decoder=(6, 10), activation="sigmoid", batch_size=5),
            cls(encoder=(6, 4), decoder=(), initialiser="glorot_normal", batch_size=3),
        ]
