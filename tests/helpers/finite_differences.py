"""Gradients against directional central differences in float64.

For a smooth f, (f(x + h v) - f(x - h v)) / 2h = f'(x) v + O(h^2): a right gradient makes the error
fall 100 times for each decade of h, until rounding takes over.  A wrong gradient stops the fall at
its own error; a kink within reach of h spoils the factor.
"""

from collections.abc import Callable

import numpy as np

STEPS = 10.0 ** -np.arange(1, 8)
TOLERANCE = 1e-7  # of the best step
FALL = (80.0, 125.0)  # accepted range of the factor per decade
EXACT = 1e-9  # an error this small at all large steps: f is a quadratic, there is nothing to fall


class GradientError(AssertionError):
    """A gradient disagrees with central differences."""


def errors(
    f: Callable[[np.ndarray], float], x: np.ndarray, grad: np.ndarray, v: np.ndarray
) -> np.ndarray:
    """|central difference - grad v| for each of STEPS, relative to |grad v|."""
    slope = grad @ v
    differences = np.array([(f(x + h * v) - f(x - h * v)) / (2.0 * h) for h in STEPS])
    return np.abs(differences - slope) / abs(slope)


def check(
    f: Callable[[np.ndarray], float], x: np.ndarray, grad: np.ndarray, directions: int = 3
) -> None:
    """Assert that grad is the gradient of f at x, along random directions of unit length.

    Args:
        f: x float64 (N,) to float.
        x, grad: (N,) float64.

    Raises:
        GradientError: the best relative error is above 1e-7 along some direction, or no decade of h
            shows the fall of 100 along any direction.
    """
    r = np.random.default_rng(0)
    falls = False
    for _ in range(directions):
        v = r.standard_normal(x.size)
        v /= np.linalg.norm(v)
        e = errors(f, x, grad, v)
        if not e.min() <= TOLERANCE:
            raise GradientError(f"relative error {e.min():.1e} at best; steps 0.1 to 1e-7: {e}")
        ratio = e[:-1] / np.maximum(e[1:], 1e-300)
        clean = (ratio >= FALL[0]) & (ratio <= FALL[1]) & (e[1:] > 1e-12)
        falls |= bool(clean.any()) or bool(e[:3].max() <= EXACT)
    if not falls:
        raise GradientError(f"the error never falls 100 times per decade; the last: {e}")
