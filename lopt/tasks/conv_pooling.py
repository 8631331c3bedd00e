"""Convolutions, then pooling, on images (TaskSet's conv_pooling family, task set specification 3.5)."""

import dataclasses
from typing import Any, Self

import numpy as np

from lopt.errors import TaskError, unknown
from lopt.ops.pool import POOLINGS
from lopt.task import register_task
from lopt.tasks import samplers
from lopt.tasks.conv_common import ConvTask, sample_convolutions
from lopt.tasks.images import IMAGE_DATA
from lopt.tasks.initialisers import check_initialiser


@register_task(
    "conv_pooling",
    model=(
        "mean over B of softmax cross-entropy of W pool(f(conv_n(... f(conv_1(x)) ...))) + b, "
        "pool the mean, max or mean square over positions"
    ),
    data=IMAGE_DATA,
    source="TaskSet (Metz et al. 2020), conv_pooling_family",
    deviations="stand-in data; about 5 % of the seeds are refused, as published",
)
@dataclasses.dataclass(frozen=True)
class ConvPooling(ConvTask):
    """Softmax regression on 3 x 3 convolutions pooled over all positions.

    pooling              "mean", "max" (ties share the gradient equally) or "squared_mean" of each channel
    readout_initialiser  law of the linear layer's weights; "": that of the convolutions
    Further options as in `lopt.tasks.conv_common.ConvTask`.  Of the published seeds 0..999, 51 cannot be built.

    Raises:
        TaskError: an option is out of range, or a "valid" layer meets a map smaller than its kernel.
    """

    pooling: str = "mean"
    readout_initialiser: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.readout_initialiser:
            check_initialiser(self.readout_initialiser, self.init_scale)
        if self.pooling not in POOLINGS:
            raise TaskError(unknown("pooling", self.pooling, POOLINGS))

    @property
    def head(self) -> str:
        """How the last map is pooled."""
        return self.pooling

    @property
    def head_law(self) -> tuple[str, float]:
        """Law and scale of the readout's weights."""
        return self.readout_initialiser or self.initialiser, self.init_scale

    @property
    def hidden(self) -> tuple[int, ...]:
        """No hidden layers: one linear layer follows the pooling."""
        return ()

    @staticmethod
    def sample_config(seed: int) -> dict[str, Any]:
        """Configuration `conv_pooling_family_seed<seed>` of TaskSet as published: all fields, as drawn."""
        r = np.random.RandomState(seed)
        return {
            **sample_convolutions(r),
            "pooling": samplers.choice(r, POOLINGS),
            "use_bias": samplers.choice(r, (True, False)),
            **samplers.image_data(r),
            "center": samplers.choice(r, (True, False)),
        }

    @classmethod
    def examples(cls) -> list[Self]:
        """Every pooling, both strides and paddings, with and without biases, batch norm."""
        return [
            cls(batch_size=5, channels=(2, 3), activation="elu"),
            cls(
                batch_size=4, channels=(3, 2), strides=(1, 2), padding=("valid", "same"), pooling="max",
                initialiser="glorot_uniform",
            ),
            cls(
                batch_size=6, channels=(2,), strides=(2,), padding=("valid",), pooling="squared_mean",
                use_bias=False, activation="leaky_relu4", center=True,
            ),
            cls(
                batch_size=3, channels=(3, 2), batch_norm=True, use_bias=False, activation="tanh",
                initialiser="random_normal", init_scale=0.5, readout_initialiser="sonnet",
            ),
        ]  # fmt: skip
