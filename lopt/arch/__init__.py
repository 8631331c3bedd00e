"""Optimizers, hand-made and learned.  A new one: its file here, one import line below, and its tests come by themselves."""

from lopt.arch import (  # importing registers
    adafac_mlp,
    adafactor,
    adam,
    adam8p,
    adaptive,
    anchored,
    hierarchical,
    mlp_optimizer,
    sgd,
)

__all__ = [
    "adafac_mlp",
    "adafactor",
    "adam",
    "adam8p",
    "adaptive",
    "anchored",
    "hierarchical",
    "mlp_optimizer",
    "sgd",
]
