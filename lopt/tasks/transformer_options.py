"""What the families of transformers and mixers share: checks, initial weights, sampling within a budget.

Source: task set specification 11.1 and 11.2.
"""

import math
from typing import Any, Protocol, TypeVar

import numpy as np

from lopt import rng
from lopt.errors import TaskError
from lopt.lanes import kernel
from lopt.ops.dropout import Dropout
from lopt.ops.encoder import HIDDEN, INNER, LAYERS, LENGTH, WIDTH
from lopt.task import TRAIN
from lopt.tasks import samplers
from lopt.tasks.checks import check_integer, check_keep
from lopt.tasks.initialisers import draw

SMALL_STD = 0.02  # of embeddings, positions and class tokens
SMALL = ("embed", "positions", "class_token")
READOUT = ("w_out", "w_patch")  # weights outside of the blocks
COST_LIMIT = 1.5e9  # operations of one loss and gradient of a sampled task: some 50 ms on one core
TRIES = 100_000


class Sampled(Protocol):
    """A task whose cost is known before it is built."""

    operations: float


T = TypeVar("T", bound=Sampled)


def check_transformer(task: Any) -> None:
    """Refuse sizes of an encoder that are not positive, or heads that do not divide the width.

    Raises:
        TaskError: names the option and the nearest valid value.
    """
    for option in ("width", "layers", "heads"):
        check_integer(option, getattr(task, option), 1)
    for option in ("key_size", "hidden"):
        check_integer(option, getattr(task, option), 0)
    if task.key_size == 0 and task.width % task.heads != 0:
        nearest = max(h for h in range(1, min(task.heads, task.width) + 1) if task.width % h == 0)
        raise TaskError(
            f"heads = {task.heads} do not divide width = {task.width}; nearest: {nearest}, or give a key_size"
        )
    check_scale(task.init_scale)
    for option in ("keep", "attention_keep"):
        check_keep(option, getattr(task, option))


@kernel
def training_dropout(hyper, stream, split, step):
    """The Dropout of a task: hyper (2,) are its keep and attention_keep; on other splits than the training one, none."""
    one = hyper.dtype.type(1.0)
    keep = hyper[0] if split == TRAIN else one
    attention_keep = hyper[1] if split == TRAIN else one
    return Dropout(keep, attention_keep, stream, rng.NOISE + split, step)


def reference_dropout(task: Any, stream: np.ndarray, split: int, step: int) -> Dropout:
    """The same in float64."""
    hyper = np.array([task.keep, task.attention_keep], np.float32).astype(np.float64)
    return training_dropout.py_func(hyper, stream, split, step)


def check_scale(value: object) -> None:
    """Refuse an init_scale that is not a positive number.

    Raises:
        TaskError: as said.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < math.inf:
        raise TaskError(f"init_scale = {value!r}, valid: a finite number above 0")


def init_weights(views: dict[str, np.ndarray], variance: float, stream: np.ndarray) -> None:
    """Initial parameters, in place.

    Weights of the blocks: truncated normals of variance `variance` / fan_in; those before and behind, 1 / fan_in.
    Embeddings, positions, class token: N(0, SMALL_STD^2).  gamma: 1.  The rest stays 0.
    """
    for k, (name, view) in enumerate(views.items()):
        last = name.rpartition("_")[2]
        if name in SMALL:
            view[...] = SMALL_STD * rng.normals(view.size, stream, rng.INIT, k).reshape(view.shape)
        elif last == "gamma":
            view[...] = 1.0
        elif view.ndim == 2:
            law = 1.0 if name in READOUT else variance
            view[...] = draw("variance_scaling", law, view.shape, stream, k)


def encoder_operations(spec: tuple[int, ...], batch: int) -> float:
    """Multiplications and additions of a forward and a backward pass through an encoder, matrix products only."""
    position = 4 * spec[WIDTH] * spec[INNER] + 2 * spec[WIDTH] * spec[HIDDEN]
    position += 2 * spec[LENGTH] * spec[INNER]
    return 6.0 * batch * spec[LENGTH] * spec[LAYERS] * position


def floor_logint(r: np.random.RandomState, low: int, high: int) -> int:
    """floor of a float whose logarithm is uniform: VeLO's, which never reaches `high`."""
    return math.floor(math.exp(r.uniform(math.log(low), math.log(high))))


def first_affordable(family: type[T], seed: int) -> T:
    """The first task drawn from RandomState(seed) whose loss and gradient take at most COST_LIMIT operations.

    Upstream too draws until its model of the step time is within a budget.  Draws that the family refuses are skipped.

    Raises:
        TaskError: none of TRIES draws is affordable.
    """
    r = np.random.RandomState(seed)
    for _ in range(TRIES):
        options = family.draw_config(r)
        try:
            task = family(**options)
        except TaskError:
            continue
        if task.operations <= COST_LIMIT:
            return task
    raise TaskError(
        f"{family.__name__}: none of {TRIES} draws takes at most {COST_LIMIT:.1e} operations"
    )


# VeLO's image data sets, and the embedded ones that stand in for them, by height.
STAND_INS = {
    "mnist": {8: "digits", 28: "digits28"},
    "fashion_mnist": {8: "digits", 28: "digits28"},
    "cifar10": {32: "textures32"},
    "cifar100": {32: "textures32_100"},
    "imagenet16": {16: "textures16_1000"},
}


def image_stand_in(r: np.random.RandomState, size: int) -> dict[str, Any]:
    """Data set drawn as VeLO draws it, and the embedded one that stands in for it.

    Upstream resizes the images to `size` x `size`; here the nearest size at hand is taken.
    """
    published = samplers.choice(r, tuple(STAND_INS))
    sizes = STAND_INS[published]
    return {"data": sizes[min(sizes, key=lambda s: abs(s - size))], "stands_for": published}


def check_patch(task: Any) -> None:
    """Refuse a patch larger than the image.

    Raises:
        TaskError: as said.
    """
    check_integer("patch", task.patch, 1, min(task.input_shape[:2]))


def patches_reference(images: np.ndarray, patch: int) -> np.ndarray:
    """Patches of images (B, H, W, C) in plain NumPy: (B, T, patch^2 C), what fills no patch dropped."""
    down, across = images.shape[1] // patch, images.shape[2] // patch
    squares = [
        images[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].reshape(len(images), -1)
        for i in range(down)
        for j in range(across)
    ]
    return np.stack(squares, axis=1)
