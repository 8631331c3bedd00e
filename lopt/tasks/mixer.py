"""An MLP-mixer on images; not a family of TaskSet, its sampler takes the laws of VeLO's vit."""

import dataclasses
import functools
from typing import Any, Self

import numpy as np

from lopt.lanes import kernel
from lopt.layout import Layout
from lopt.ops.dense import dense_bwd, dense_bwd_input, dense_fwd
from lopt.ops.dropout import Dropout
from lopt.ops.images import IMAGE_SIZES, gather_images
from lopt.ops.losses import cross_entropy, cross_entropy_reference
from lopt.ops.mixing import (
    mixing_params,
    mixing_part_backward_reference,
    mixing_part_bwd,
    mixing_part_fwd,
    mixing_part_reference,
    mixing_saved,
    mixing_tensors,
    mixing_work,
)
from lopt.ops.tokens import mean_bwd, mean_fwd, patches_fwd
from lopt.ops.transformer import (
    feed_forward_params,
    feed_forward_part_backward_reference,
    feed_forward_part_bwd,
    feed_forward_part_fwd,
    feed_forward_part_reference,
    feed_forward_saved,
    feed_forward_tensors,
    norm_bwd,
    norm_fwd,
    norm_layer_backward_reference,
    norm_layer_reference,
    norm_tensors,
    parts_work,
)
from lopt.task import TaskData, register_task
from lopt.tasks import samplers
from lopt.tasks.checks import check_integer
from lopt.tasks.images import IMAGE_DATA, ImageTask
from lopt.tasks.transformer_options import (
    check_patch,
    check_scale,
    first_affordable,
    floor_logint,
    image_stand_in,
    init_weights,
    patches_reference,
)

_SIZES = 9
_HEIGHT, _ACROSS, _CHANNELS, _PATCH, _CLASSES, _WIDTH, _LAYERS, _MIX, _HIDDEN = (
    IMAGE_SIZES + k for k in range(_SIZES)
)


@kernel
def mixer_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean softmax cross-entropy of an MLP-mixer and its gradient; see `lopt.task.Task`.

    params: w_patch (I, D) | b_patch (D,) | L times token-mixing part, feed-forward part | norm | w_out (D, C) |
    b_out (C,), with I numbers per patch.  data.sizes: images (IMAGE_SIZES), height, width and channels of a
    batch's images, patch, classes, D, L, hidden units of the two parts.  data.hyper: images.
    Scratch: images | patches (M, I) | x (M, D), later its gradient | what the parts and the norm save |
    means (B, D), their gradient | logits (B, C) | losses (B,) | partials (32,) | scratch.
    """
    sizes, batch = data.sizes, rows.size
    width, layers, mix, hidden = sizes[_WIDTH], sizes[_LAYERS], sizes[_MIX], sizes[_HIDDEN]
    patch, classes = sizes[_PATCH], sizes[_CLASSES]
    length = (sizes[_HEIGHT] // patch) * (sizes[_ACROSS] // patch)
    pixels, m = patch * patch * sizes[_CHANNELS], batch * length
    first_params, second_params = (
        mixing_params(width, length, mix),
        feed_forward_params(width, hidden),
    )
    first_saved, second_saved = (
        mixing_saved(batch, width, length, mix),
        feed_forward_saved(m, width, hidden),
    )
    whole = batch * sizes[_HEIGHT] * sizes[_ACROSS] * sizes[_CHANNELS]
    o = whole + m * pixels
    squares, x = work[whole:o].reshape(m, pixels), work[o : o + m * width].reshape(m, width)
    o += m * width
    blocks = layers * (first_saved + second_saved)
    saved = work[o : o + blocks + m * (2 * width + 1)]
    o += saved.size
    h = work[o : o + batch * width].reshape(batch, width)
    dh = work[o + batch * width : o + 2 * batch * width].reshape(batch, width)
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
    a = pixels * width
    dense_fwd(squares, params[:a].reshape(pixels, width), params[a : a + width], x)
    p, s = a + width, 0
    one = params.dtype.type(1.0)
    none = Dropout(one, one, stream, split, step)
    for _ in range(layers):
        mixing_part_fwd(
            x, params[p : p + first_params], saved[s : s + first_saved], scratch, batch, mix
        )
        p, s = p + first_params, s + first_saved
        feed_forward_part_fwd(
            x, params[p : p + second_params], saved[s : s + second_saved], scratch, hidden, none, 0
        )
        p, s = p + second_params, s + second_saved
    norm_fwd(x, params[p:], saved[s:])
    mean_fwd(saved[s : s + m * width].reshape(m, width), h)
    q, e = p + 2 * width, p + (2 + classes) * width
    head = params[q:e].reshape(width, classes)
    dense_fwd(h, head, params[e : e + classes], logits)
    loss = cross_entropy(logits, data.ints, rows, losses, partials)
    if with_grad == 0:
        return loss
    # logits = h w_out + b_out
    dense_bwd(h, logits, grad[q:e].reshape(width, classes), grad[e : e + classes])
    dense_bwd_input(head, logits, dh)
    d = x  # the parts have saved all they need
    mean_bwd(dh, d)
    norm_bwd(params[p:], saved[s:], d, grad[p:], scratch)
    for _ in range(layers):
        p, s = p - second_params, s - second_saved
        feed_forward_part_bwd(
            d,
            params[p : p + second_params],
            grad[p : p + second_params],
            saved[s : s + second_saved],
            scratch,
            hidden,
            none,
            0,
        )
        p, s = p - first_params, s - first_saved
        mixing_part_bwd(
            d,
            params[p : p + first_params],
            grad[p : p + first_params],
            saved[s : s + first_saved],
            scratch,
            batch,
            mix,
        )
    # x = squares w_patch + b_patch
    dense_bwd(squares, d, grad[:a].reshape(pixels, width), grad[a : a + width])
    return loss


@register_task(
    "mixer",
    model=(
        "mean over B of softmax cross-entropy of W mean_t(y_t) + b, y by MLPs over patches and "
        "over channels in turn"
    ),
    data=IMAGE_DATA,
    source="Tolstikhin et al. 2021, MLP-Mixer",
    deviations="sizes of its own sampler",
)
@dataclasses.dataclass(frozen=True)
class Mixer(ImageTask):
    """Image classification by an MLP-mixer.

    Tolstikhin et al. 2021, "MLP-Mixer: an all-MLP architecture for vision".

    Patches are projected to the width; L times a part that mixes tokens (`lopt.ops.mixing`), then one that mixes
    channels (`lopt.ops.transformer`); norm; mean over the tokens; linear readout.  Loss: mean softmax cross-entropy.

    patch         side of a square patch; pixels that fill no whole patch are dropped
    width         channels
    layers        pairs of parts
    token_hidden  hidden units of a token-mixing part; 0: half the width
    hidden        hidden units of a channel-mixing part; 0: 4 width
    init_scale    weights of the parts: truncated normals of variance init_scale / fan_in
    Further options: `lopt.tasks.images.ImageTask`.

    Patch projection and readout start with variance 1 / fan_in, gammas at 1, betas and biases at 0.

    Raises:
        TaskError: an option is out of range; names it and the nearest valid value.
    """

    patch: int = 2
    width: int = 32
    layers: int = 2
    token_hidden: int = 0
    hidden: int = 0
    init_scale: float = 1.0

    core = staticmethod(mixer_evaluate)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_patch(self)
        check_integer("width", self.width, 1)
        check_integer("layers", self.layers, 1)
        check_integer("token_hidden", self.token_hidden, 0)
        check_integer("hidden", self.hidden, 0)
        check_scale(self.init_scale)

    @functools.cached_property
    def inner_sizes(self) -> tuple[int, int, int, int]:
        """Tokens, numbers per patch, hidden units of token mixing and of channel mixing."""
        height, across, channels = self.input_shape
        length = (height // self.patch) * (across // self.patch)
        mix = self.token_hidden or max(1, self.width // 2)
        return length, self.patch**2 * channels, mix, self.hidden or 4 * self.width

    @functools.cached_property
    def layout(self) -> Layout:
        length, pixels, mix, hidden = self.inner_sizes
        classes = self.dataset.n_classes
        tensors = [("w_patch", (pixels, self.width)), ("b_patch", (self.width,))]
        for k in range(self.layers):
            tensors += mixing_tensors(self.width, length, mix, f"block{k}_")
            tensors += feed_forward_tensors(self.width, hidden, f"block{k}_")
        tensors += norm_tensors(self.width)
        return Layout([*tensors, ("w_out", (self.width, classes)), ("b_out", (classes,))])

    @functools.cached_property
    def arrays(self) -> TaskData:
        _, _, mix, hidden = self.inner_sizes
        own = [self.patch, self.dataset.n_classes, self.width, self.layers, mix, hidden]
        sizes = [*self.image_sizes, *self.input_shape, *own]
        return TaskData(
            self.dataset.floats,
            self.dataset.ints,
            np.array(sizes, np.int64),
            np.array(self.image_hyper, np.float32),
        )

    def activations(self, batch: int) -> int:
        """Patches; norms, hidden units of both parts before and after gelu; means, logits."""
        length, pixels, mix, hidden = self.inner_sizes
        norm = 2 * self.width + 1
        layer = length * (2 * norm + 2 * hidden) + 2 * self.width * mix
        ends = length * (pixels + norm) + self.width + self.dataset.n_classes
        return batch * (self.layers * layer + ends)

    def work_size(self, batch: int) -> int:
        length, pixels, mix, hidden = self.inner_sizes
        height, across, channels = self.input_shape
        m, width, classes = batch * length, self.width, self.dataset.n_classes
        saved = mixing_saved(batch, width, length, mix) + feed_forward_saved(m, width, hidden)
        scratch = max(
            parts_work(m, length, width, 0, hidden), mixing_work(batch, width, length, mix)
        )
        images = batch * height * across * channels
        stream = m * (pixels + width) + self.layers * saved + m * (2 * width + 1)
        return images + stream + batch * (2 * width + classes + 1) + 32 + scratch

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
        x = np.einsum("bti,id->btd", squares, t["w_patch"]) + t["b_patch"]
        tapes = []
        for k in range(self.layers):
            x, first = mixing_part_reference(x, t, f"block{k}_")
            x, second = feed_forward_part_reference(x, t, f"block{k}_")
            tapes.append((first, second))
        y, last = norm_layer_reference(x, t, "")
        h = y.mean(axis=1)
        loss, dz = cross_entropy_reference(h @ t["w_out"] + t["b_out"], self.dataset.y[rows])
        grads = {"w_out": h.T @ dz, "b_out": dz.sum(axis=0)}
        dy = np.broadcast_to((dz @ t["w_out"].T)[:, None] / y.shape[1], y.shape)
        d = norm_layer_backward_reference(dy, t, "", last, grads)
        for k, (first, second) in reversed(list(enumerate(tapes))):
            d = feed_forward_part_backward_reference(d, t, f"block{k}_", second, grads)
            d = mixing_part_backward_reference(d, t, f"block{k}_", first, grads)
        grads["w_patch"] = np.einsum("bti,btd->id", squares, d)
        grads["b_patch"] = d.sum(axis=(0, 1))
        return loss, self.layout.flatten(grads, np.float64)

    @property
    def operations(self) -> float:
        """Multiplications and additions of one loss and gradient, matrix products only."""
        length, pixels, mix, hidden = self.inner_sizes
        position = 12.0 * self.layers * (mix + hidden) + 4.0 * pixels
        return self.batch_size * self.width * (length * position + 6.0 * self.dataset.n_classes)

    @staticmethod
    def draw_config(r: np.random.RandomState) -> dict[str, Any]:
        """Options by the laws of VeLO's vit as far as they apply, however large."""
        return {
            "layers": floor_logint(r, 1, 16),
            "width": floor_logint(r, 8, 512),
            "token_hidden": floor_logint(r, 32, 512),
            "hidden": floor_logint(r, 32, 512),
            **image_stand_in(r, floor_logint(r, 8, 64)),
            "batch_size": floor_logint(r, 4, 256),
            "patch": samplers.choice(r, (2, 4, 8, 12, 16)),
        }

    @classmethod
    def sample(cls, seed: int) -> Self:
        """A random task, a pure function of the seed.

        There is no published law: layers, hidden units, images, batch and patch follow VeLO's vit, the width is
        log-uniform from 8 to 511.  Drawn again until it is affordable, see `first_affordable`.
        """
        return first_affordable(cls, seed)

    @classmethod
    def examples(cls) -> list[Self]:
        """Patches that divide the image, that do not, and one that is the image; augmentation."""
        small = functools.partial(cls, batch_size=3, width=6, hidden=7, token_hidden=5, layers=1)
        crop = (1, True, False, False, 0.0, 0.0, 0.0, 0.0)
        return [
            small(patch=4, center=True),
            small(patch=3, layers=2, augmentation=crop),
            small(patch=8, token_hidden=0, hidden=0, batch_size=4),
        ]
