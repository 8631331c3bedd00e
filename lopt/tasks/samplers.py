"""TaskSet's building blocks of random task configurations.

Every function draws from a legacy `RandomState`, in the published order: equal seeds give the
published configurations.  Source: Metz et al. 2020, "Using a thousand optimization tasks to learn
hyperparameter search strategies"; task set specification 1.1-1.3, 2.1, 2.2.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lopt.tasks.initialisers import SCALED

ACTIVATION_WEIGHTS = {
    "relu": 6, "tanh": 3, "cos": 1, "elu": 1, "sigmoid": 1, "swish": 1,
    "leaky_relu1": 1, "leaky_relu2": 1, "leaky_relu4": 1,
}  # fmt: skip
INITIALISER_WEIGHTS = {
    "he_normal": 2, "he_uniform": 2, "glorot_normal": 2, "glorot_uniform": 2, "orthogonal": 1,
    "random_uniform": 1, "random_normal": 1, "truncated_normal": 1, "variance_scaling": 1,
}  # fmt: skip
IMAGE_DATASETS = (
    "cifar10", "cifar100", "coil100_32x32", "deep_weeds_32x32", "fashion_mnist", "food101_32x32",
    "imagenet_resized/16x16", "imagenet_resized/32x32", "mnist", "sun397_32x32",
)  # fmt: skip
# largest batch, most training images, probability of just_train; the rest: (256, None, 0.2)
IMAGE_LIMITS = {
    "mnist": (512, 55000, 0.1),
    "fashion_mnist": (512, 55000, 0.1),
    "cifar10": (256, 50000, 0.2),
    "cifar100": (256, 50000, 0.2),
}


def logfloat(r: np.random.RandomState, low: float, high: float) -> float:
    """A float whose logarithm is uniform."""
    return float(np.exp(r.uniform(math.log(low), math.log(high))))


def logint(r: np.random.RandomState, low: int, high: int) -> int:
    """`logfloat` rounded half to even; both ends included."""
    return int(np.round(logfloat(r, low, high)))


def linint(r: np.random.RandomState, low: int, high: int) -> int:
    """A uniform float rounded half to even; both ends included."""
    return int(np.round(r.uniform(low, high)))


def choice(r: np.random.RandomState, values: Sequence[Any]) -> Any:
    """One of the values, uniform."""
    return values[int(r.choice(len(values)))]


def weighted_choice(r: np.random.RandomState, weights: dict[str, int]) -> str:
    """One of the names, with probability proportional to its weight."""
    names = sorted(weights)
    p = np.array([weights[n] for n in names], np.float64)
    return str(r.choice(names, p=p / p.sum()))


def activation(r: np.random.RandomState) -> str:
    """Name of an activation."""
    return weighted_choice(r, ACTIVATION_WEIGHTS)


def initialiser(r: np.random.RandomState) -> tuple[str, float]:
    """Name and scale of an initialiser; the scale is 1 where the law takes none."""
    name = weighted_choice(r, INITIALISER_WEIGHTS)
    return name, logfloat(r, 0.1, 10.0) if name in SCALED else 1.0


def image_data(r: np.random.RandomState) -> dict[str, Any]:
    """Data set, augmentation (None: none), batch size, training images (None: all), just_train."""
    dataset = choice(r, IMAGE_DATASETS)
    augmentation = image_augmentation(r) if r.uniform(0.0, 1.0) < 0.3 else None
    largest, images, just_train = IMAGE_LIMITS.get(dataset, (256, None, 0.2))
    return {
        "dataset": dataset,
        "augmentation": augmentation,
        "batch_size": logint(r, 8, largest),
        "n_train": None if images is None else linint(r, 1000, images),
        "just_train": bool(r.uniform(0.0, 1.0) < just_train),
    }


def image_augmentation(r: np.random.RandomState) -> dict[str, Any]:
    """Pixels cropped, flips, and ranges of the colour changes."""
    return {
        "crop": choice(r, (0, 0, 0, 1, 2)),
        "flip_lr": choice(r, (False, True)),
        "flip_ud": choice(r, (False, True)),
        "colour": choice(r, (False, True)),
        "brightness": logfloat(r, 0.001, 64.0 / 255.0),
        "saturation": logfloat(r, 0.01, 1.0),
        "hue": logfloat(r, 0.01, 0.5),
        "contrast": logfloat(r, 0.01, 1.0),
    }
