"""A vision transformer on images (the vit family of task set specification 11.2)."""

import dataclasses
import functools
from typing import Any, Self

import numpy as np

from lopt.lanes import kernel
from lopt.layout import Layout
from lopt.ops.dense import dense_bwd, dense_bwd_input, dense_fwd
from lopt.ops.encoder import (
    ENCODER_SIZES,
    LENGTH,
    WIDTH,
    encoder_activations,
    encoder_backward_reference,
    encoder_bwd,
    encoder_fwd,
    encoder_params,
    encoder_reference,
    encoder_saved,
    encoder_tensors,
)
from lopt.ops.images import IMAGE_HYPER, IMAGE_SIZES, gather_images
from lopt.ops.losses import cross_entropy, cross_entropy_reference
from lopt.ops.tokens import (
    first_bwd,
    first_fwd,
    patches_fwd,
    positions_bwd,
    positions_fwd,
    prepend_bwd,
    prepend_fwd,
)
from lopt.ops.transformer import parts_work
from lopt.task import TaskData, register_task
from lopt.tasks import samplers
from lopt.tasks.images import IMAGE_DATA, ImageTask
from lopt.tasks.transformer_options import (
    check_patch,
    check_transformer,
    encoder_operations,
    first_affordable,
    floor_logint,
    image_stand_in,
    init_weights,
    patches_reference,
    reference_dropout,
    training_dropout,
)

# The published law of dropout: rates uniform up to one number, and how often there is none.
MOST_DROPPED, UNDROPPED = 0.8, 0.3

_SPEC = IMAGE_SIZES
_HEIGHT, _ACROSS, _CHANNELS, _PATCH, _CLASSES = (IMAGE_SIZES + ENCODER_SIZES + k for k in range(5))


@kernel
def vit_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean softmax cross-entropy of a vision transformer and its gradient; see `lopt.task.Task`.

    params: w_patch (I, D) | b_patch (D,) | class_token (D,) | positions (T, D) | encoder | w_out (D, C) | b_out (C,)
    with I numbers per patch.  data.sizes: images (IMAGE_SIZES), encoder (ENCODER_SIZES), height, width and
    channels of a batch's images, patch, classes.  data.hyper: images, keep, attention_keep.
    Scratch: images | patches (B (T - 1), I) | tokens without class, their gradient | x (M, D), its gradient |
    what the encoder saves | class rows (B, D), their gradient | logits (B, C) | losses (B,) | partials (32,) | scratch.
    """
    sizes, batch = data.sizes, rows.size
    spec, classes, patch = sizes[_SPEC : _SPEC + ENCODER_SIZES], sizes[_CLASSES], sizes[_PATCH]
    width, pixels = spec[WIDTH], patch * patch * sizes[_CHANNELS]
    m, r = batch * spec[LENGTH], batch * (spec[LENGTH] - 1)
    a = (pixels + 1) * width  # ends of the tensors in params
    b = a + width
    c = b + spec[LENGTH] * width
    e = c + encoder_params(spec)
    f = e + width * classes
    whole = batch * sizes[_HEIGHT] * sizes[_ACROSS] * sizes[_CHANNELS]
    o = whole
    squares = work[o : o + r * pixels].reshape(r, pixels)
    o += r * pixels
    tokens = work[o : o + r * width]
    o += r * width
    x = work[o : o + m * width]
    o += m * width
    saved = work[o : o + encoder_saved(spec, batch)]
    o += saved.size
    h, dh = work[o : o + batch * width], work[o + batch * width : o + 2 * batch * width]
    o += 2 * batch * width
    logits = work[o : o + batch * classes].reshape(batch, classes)
    o += batch * classes
    losses, partials, scratch = (
        work[o : o + batch],
        work[o + batch : o + batch + 32],
        work[o + batch + 32 :],
    )

    images = work[:whole].reshape(batch, whole // batch)
    gather_images(data, rows, stream, split, step, images)
    patches_fwd(images, sizes[_HEIGHT], sizes[_ACROSS], sizes[_CHANNELS], patch, squares)
    w = params[: pixels * width].reshape(pixels, width)
    dense_fwd(squares, w, params[pixels * width : a], tokens.reshape(r, width))
    prepend_fwd(params[a:b], tokens, x)
    positions_fwd(params[b:c], x)
    noise = training_dropout(data.hyper[IMAGE_HYPER:], stream, split, step)
    last = encoder_fwd(spec, params[c:e], x.reshape(m, width), saved, scratch, noise)
    first_fwd(saved[last : last + m * width].reshape(m, width), h.reshape(batch, width))
    head = params[e:f].reshape(width, classes)
    dense_fwd(h.reshape(batch, width), head, params[f : f + classes], logits)
    loss = cross_entropy(logits, data.ints, rows, losses, partials)
    if with_grad == 0:
        return loss
    # logits = h w_out + b_out
    dense_bwd(
        h.reshape(batch, width), logits, grad[e:f].reshape(width, classes), grad[f : f + classes]
    )
    dense_bwd_input(head, logits, dh.reshape(batch, width))
    d = x  # the encoder has saved all it needs
    first_bwd(dh.reshape(batch, width), d.reshape(m, width))
    encoder_bwd(spec, params[c:e], d.reshape(m, width), grad[c:e], saved, scratch, noise)
    # x = (class_token, squares w_patch + b_patch) + positions
    positions_bwd(d, grad[b:c])
    prepend_bwd(d, grad[a:b], tokens)
    dw = grad[: pixels * width].reshape(pixels, width)
    dense_bwd(squares, tokens.reshape(r, width), dw, grad[pixels * width : a])
    return loss


@register_task(
    "vit",
    model=(
        "mean over B of softmax cross-entropy of W y_class + b, y a pre-norm transformer on "
        "patches, a class token and positions"
    ),
    data=IMAGE_DATA,
    source=(
        "VeLO's task distribution (Metz et al. 2022); task set specification 11.2; Dosovitskiy et"
        " al. 2021"
    ),
    deviations=(
        "dropout of what parts add and of attention weights only, off in validation and test; queries, keys and values "
        "share one tensor; images keep the size of the stand-in; draws of its own random numbers, repeated until a step "
        "is feasible on one core"
    ),
)
@dataclasses.dataclass(frozen=True)
class Vit(ImageTask):
    """Image classification by a pre-norm vision transformer.

    Dosovitskiy et al. 2021, "An image is worth 16x16 words".

    Patches are projected to the width, a class token goes in front, positions are added; L times an attention part,
    then a feed-forward part (`lopt.ops.transformer`); norm; the class token's row is read out linearly.
    Loss: mean softmax cross-entropy.

    patch           side of a square patch; pixels that fill no whole patch are dropped
    width           of the residual stream
    layers          blocks
    heads           heads of an attention part
    key_size        numbers per head of queries, keys and values; 0: width / heads
    hidden          units of a feed-forward part; 0: 4 width
    keep            probability to keep a number that a part adds, which is then divided by it; 1: no dropout
    attention_keep  the same of attention weights.  Both act on the training split only
    init_scale      weights of the blocks: truncated normals of variance init_scale / fan_in
    Further options: `lopt.tasks.images.ImageTask`.

    Positions and class token start as N(0, 0.02^2), patch projection and readout with variance 1 / fan_in, gammas at 1,
    betas and biases at 0.  Deviations from the published family: it drops embeddings and hidden units too; queries, keys
    and values share one tensor.

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    patch: int = 2
    width: int = 32
    layers: int = 2
    heads: int = 4
    key_size: int = 0
    hidden: int = 0
    keep: float = 1.0
    attention_keep: float = 1.0
    init_scale: float = 1.0

    core = staticmethod(vit_evaluate)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_patch(self)
        check_transformer(self)

    @property
    def pixels(self) -> int:
        """Numbers per patch."""
        return self.patch**2 * self.input_shape[2]

    @functools.cached_property
    def spec(self) -> tuple[int, ...]:
        """What describes the encoder."""
        key = self.key_size or self.width // self.heads
        hidden = self.hidden or 4 * self.width
        height, across, _ = self.input_shape
        length = 1 + (height // self.patch) * (across // self.patch)
        return length, self.width, self.layers, self.heads, self.heads * key, hidden, 0

    @functools.cached_property
    def layout(self) -> Layout:
        classes = self.dataset.n_classes
        return Layout(
            [
                ("w_patch", (self.pixels, self.width)),
                ("b_patch", (self.width,)),
                ("class_token", (self.width,)),
                ("positions", (self.spec[LENGTH], self.width)),
                *encoder_tensors(self.spec),
                ("w_out", (self.width, classes)),
                ("b_out", (classes,)),
            ]
        )

    @functools.cached_property
    def arrays(self) -> TaskData:
        sizes = [
            *self.image_sizes,
            *self.spec,
            *self.input_shape,
            self.patch,
            self.dataset.n_classes,
        ]
        return TaskData(
            self.dataset.floats,
            self.dataset.ints,
            np.array(sizes, np.int64),
            np.array([*self.image_hyper, self.keep, self.attention_keep], np.float32),
        )

    def activations(self, batch: int) -> int:
        """Patches, the encoder's, logits."""
        patches = (self.spec[LENGTH] - 1) * self.pixels
        return batch * (patches + self.dataset.n_classes) + encoder_activations(self.spec, batch)

    def work_size(self, batch: int) -> int:
        length, width, _, _, inner, hidden, _ = self.spec
        height, across, channels = self.input_shape
        m, r, classes = batch * length, batch * (length - 1), self.dataset.n_classes
        images = batch * height * across * channels
        tokens = r * (self.pixels + width) + m * width + encoder_saved(self.spec, batch)
        head = batch * (2 * width + classes + 1) + 32
        return images + tokens + head + parts_work(m, length, width, inner, hidden)

    def init(self, stream: np.ndarray) -> np.ndarray:
        params = np.zeros(self.layout.size, np.float32)
        init_weights(self.layout.views(params), self.init_scale, stream)
        return params

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        t = self.layout.views(params)
        images = self.reference_batch(rows, stream, split, step)
        squares = patches_reference(images.reshape(-1, *self.input_shape), self.patch)
        tokens = np.einsum("bti,id->btd", squares, t["w_patch"]) + t["b_patch"]
        first = np.broadcast_to(t["class_token"], (rows.size, 1, self.width))
        x = np.concatenate([first, tokens], axis=1) + t["positions"]
        noise = reference_dropout(self, stream, split, step)
        y, tape = encoder_reference(x, t, self.spec, noise)
        loss, dz = cross_entropy_reference(y[:, 0] @ t["w_out"] + t["b_out"], self.dataset.y[rows])
        grads = {"w_out": y[:, 0].T @ dz, "b_out": dz.sum(axis=0)}
        dy = np.zeros_like(y)
        dy[:, 0] = dz @ t["w_out"].T
        dx = encoder_backward_reference(dy, t, tape, grads)
        grads |= {"positions": dx.sum(axis=0), "class_token": dx[:, 0].sum(axis=0)}
        grads["w_patch"] = np.einsum("bti,btd->id", squares, dx[:, 1:])
        grads["b_patch"] = dx[:, 1:].sum(axis=(0, 1))
        return loss, self.layout.flatten(grads, np.float64)

    @property
    def operations(self) -> float:
        """Multiplications and additions of one loss and gradient, matrix products only."""
        tokens = self.batch_size * (self.spec[LENGTH] - 1)
        ends = 4.0 * tokens * self.pixels + 6.0 * self.batch_size * self.dataset.n_classes
        return encoder_operations(self.spec, self.batch_size) + ends * self.width

    @staticmethod
    def draw_config(r: np.random.RandomState) -> dict[str, Any]:
        """Options by the published law, however large, on the stand-in of the drawn data set."""
        layers, heads = floor_logint(r, 1, 16), floor_logint(r, 1, 16)
        options = {
            "layers": layers,
            "heads": heads,
            "width": heads * floor_logint(r, 8, 64 if heads < 4 else 32),
            "hidden": floor_logint(r, 32, 512),
            **image_stand_in(r, floor_logint(r, 8, 64)),
            "batch_size": floor_logint(r, 4, 256),
            "patch": samplers.choice(r, (2, 4, 8, 12, 16)),
        }
        keep, attention_keep = (1.0 - float(r.uniform(0.0, MOST_DROPPED)) for _ in range(2))
        if r.uniform(0.0, 1.0) < UNDROPPED:
            keep = attention_keep = 1.0
        return {**options, "keep": keep, "attention_keep": attention_keep}

    @classmethod
    def sample(cls, seed: int) -> Self:
        """A random task by the law of VeLO's vit, a pure function of the seed.

        The published random keys cannot be repeated: the draws are those of RandomState(seed), in the order of the
        specification's table.  Deviations: drawn again until it is affordable, see `first_affordable`; images are
        not resized, see `image_stand_in`.
        """
        return first_affordable(cls, seed)

    @classmethod
    def examples(cls) -> list[Self]:
        """Patches that divide the image, that do not, and one that is the image; a key size; dropout; augmentation."""
        small = functools.partial(cls, batch_size=3, width=6, heads=2, hidden=7, layers=1)
        crop = (1, True, False, False, 0.0, 0.0, 0.0, 0.0)
        return [
            small(patch=4, center=True, keep=0.75, attention_keep=0.5),
            small(patch=3, key_size=2, layers=2, augmentation=crop),
            small(patch=8, heads=1, batch_size=4),
        ]
