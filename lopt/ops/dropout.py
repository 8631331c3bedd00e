"""Dropout (Srivastava et al. 2014, "Dropout", section 4), in the form that divides while it trains:

    y_i = x_i / keep where u_i < keep, else 0        u_i uniform in [0, 1), so that the mean of y is x

The uniforms are keyed random numbers: the backward pass makes them again, and no mask is kept.  A NaN that is dropped
stays one.
"""

from typing import NamedTuple

import numpy as np

from lopt import rng
from lopt.lanes import kernel, lane, lanes, sync


class Dropout(NamedTuple):
    """Probabilities to keep a number, and the address of the uniforms; 1 keeps all and takes none of them."""

    keep: float  # of what a part adds to the residual stream
    attention_keep: float  # of attention weights
    stream: np.ndarray  # (3,) uint32
    purpose: int
    step: int


@kernel
def drop(y, u, keep):
    """y /= keep where u < keep, else y *= 0.  Shapes: y (n,) UPDATED, u (n,) uniforms."""
    zero, factor = y.dtype.type(0.0), y.dtype.type(1.0) / keep
    for i in range(lane(), y.size, lanes()):
        y[i] *= factor if u[i] < keep else zero
    sync()


@kernel
def thinned(x, keep, noise, first, room):
    """What dropout leaves of x: x itself if keep is 1, else room, OVERWRITTEN.  Its own backward pass.

    Shapes: x, room (n,) distinct; noise a `Dropout`; x_i meets uniform number first + i.
    """
    if keep >= 1:
        return x
    rng.uniforms_into(room, first, noise.stream, noise.purpose, noise.step)
    sync()
    zero, factor = x.dtype.type(0.0), x.dtype.type(1.0) / x.dtype.type(keep)
    for i in range(lane(), x.size, lanes()):
        room[i] = x[i] * (factor if room[i] < keep else zero)
    sync()
    return room


def mask_reference(shape: tuple[int, ...], keep: float, noise: Dropout, first: int) -> np.ndarray:
    """What `thinned` multiplies by, in plain NumPy: 1 / keep or 0."""
    if keep >= 1.0:
        return np.ones(shape)
    u = rng.uniforms(int(np.prod(shape)), noise.stream, noise.purpose, noise.step, first)
    return (u.reshape(shape) < keep) / keep
