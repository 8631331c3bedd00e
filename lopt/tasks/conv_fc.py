"""Convolutions, then an MLP, on images (TaskSet's conv_fc family, task set specification 3.4)."""

import dataclasses
from typing import Any, Self

import numpy as np

from lopt.task import register_task
from lopt.tasks import samplers
from lopt.tasks.checks import check_widths
from lopt.tasks.conv_common import ConvTask, sample_convolutions
from lopt.tasks.images import IMAGE_DATA


@register_task(
    "conv_fc",
    model=(
        "mean over B of softmax cross-entropy of MLP(flatten(f(conv_n(... f(conv_1(x)) ...)))), 3"
        " x 3 kernels"
    ),
    data=IMAGE_DATA,
    source="TaskSet (Metz et al. 2020), conv_fc_family",
    deviations=(
        "stand-in data; about 6 % of the seeds (a valid 3 x 3 window on a smaller map) are "
        "refused, as published"
    ),
)
@dataclasses.dataclass(frozen=True)
class ConvFc(ConvTask):
    """Softmax classification by 3 x 3 convolutions, flattening, and an MLP.

    fc  widths of the hidden layers behind the convolutions; they share activation and initialiser
    Further options as in `lopt.tasks.conv_common.ConvTask`.  Of the published seeds 0..999, 57 cannot be built.

    Raises:
        TaskError: an option is out of range, or a "valid" layer meets a map smaller than its kernel.
    """

    fc: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths("fc", self.fc)

    @property
    def head(self) -> str:
        """The last map is flattened."""
        return "flatten"

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers of the head."""
        return self.fc

    @staticmethod
    def sample_config(seed: int) -> dict[str, Any]:
        """Configuration `conv_fc_family_seed<seed>` of TaskSet as published: all fields, as drawn."""
        r = np.random.RandomState(seed)
        convolutions = sample_convolutions(r)
        layers = samplers.choice(r, (0, 1, 2, 3))
        return {
            **convolutions,
            "fc": tuple(samplers.logint(r, 32, 128) for _ in range(layers)),
            "use_bias": samplers.choice(r, (True, False)),
            **samplers.image_data(r),
            "center": samplers.choice(r, (True, False)),
        }

    @classmethod
    def examples(cls) -> list[Self]:
        """Both strides and paddings, with and without biases, dense layers, crop, centring, batch norm."""
        return [
            cls(batch_size=5, channels=(2, 3), activation="tanh", fc=(4,)),
            cls(
                batch_size=7, channels=(3,), strides=(1,), padding=("valid",), use_bias=False, fc=(),
                activation="swish", initialiser="orthogonal",
            ),
            cls(
                batch_size=4, channels=(2, 3, 2), strides=(1, 2, 1), padding=("same", "valid", "same"),
                fc=(3, 4), center=True, augmentation=(1, True, False, False, 0.0, 0.0, 0.0, 0.0),
            ),
            cls(batch_size=3, channels=(2, 3), batch_norm=True, use_bias=False, fc=(4,)),
        ]  # fmt: skip
