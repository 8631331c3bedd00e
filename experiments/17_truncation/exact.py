"""Meta-gradients of gradient descent on a noisy bowl without evolution strategies: derivatives of simulated trainings.

The bowl is f = (c u^2 + v^2) / 2 with noise on its gradient (`losg`, kind "bowl"), from standard normal starts; the
meta-loss is the mean over T steps of log max(f, floor), theta = log of the learning rate.  An estimator's mean is the
expectation of a derivative at perturbed thetas, since E z F(theta + sigma z) = sigma E F'(theta + sigma z).  Hence: the
same perturbations, random numbers of NumPy's own.
"""

from typing import NamedTuple

import numpy as np


class Bowl(NamedTuple):
    """Curvature of the first axis (that of the second is 1), deviation of the noise, least loss, horizon T."""

    condition: float
    noise: float
    floor: float
    horizon: int


class Mean(NamedTuple):
    """A mean and its standard error; of a gradient by theta, or of a loss."""

    value: float
    error: float


def gradient(
    bowl: Bowl, theta: float, name: str, truncation: int, sigma: float, episodes: int, seed: int = 0
) -> Mean:
    """What an estimator's episodes have as their mean: gradient of the mean log loss, theta at rest.

    Args:
        name: "full" and "nres" perturb once an episode, "pes" and "truncated" once a window; in a window of "truncated"
            nothing counts that theta did before it.
    """
    r, curvature = np.random.default_rng(seed), np.array([bowl.condition, 1.0])
    x, total = r.normal(size=(episodes, 2)), np.zeros(episodes)
    slope, still, rate = np.zeros_like(x), x.copy(), np.empty((episodes, 1))
    for t in range(bowl.horizon):
        if t == 0 or (t % truncation == 0 and name in ("pes", "truncated")):
            rate = np.exp(theta + sigma * r.normal(size=(episodes, 1)))
        if t % truncation == 0 and name == "truncated":
            x, slope = still.copy(), np.zeros_like(x)
        noise = bowl.noise * r.normal(size=x.shape)
        g = curvature * x + noise
        # x <- x - e^theta g;  dx <- dx - e^theta (H dx + g)
        slope = slope - rate * (curvature * slope + g)
        x = x - rate * g
        still = still - np.exp(theta) * (curvature * still + noise)
        loss = x**2 @ curvature / 2.0
        total += np.where(loss > bowl.floor, (x * slope) @ curvature / loss, 0.0)
    total /= bowl.horizon
    return Mean(float(total.mean()), float(total.std() / np.sqrt(episodes)))


def meta_loss(bowl: Bowl, theta: float, episodes: int, seed: int = 0) -> Mean:
    """Mean log loss over an episode of T steps at theta itself."""
    r, curvature = np.random.default_rng(seed), np.array([bowl.condition, 1.0])
    x, total = r.normal(size=(episodes, 2)), np.zeros(episodes)
    for _ in range(bowl.horizon):
        x = x - np.exp(theta) * (curvature * x + bowl.noise * r.normal(size=x.shape))
        total += np.log(np.maximum(x**2 @ curvature / 2.0, bowl.floor))
    total /= bowl.horizon
    return Mean(float(total.mean()), float(total.std() / np.sqrt(episodes)))


def lowest(thetas: np.ndarray, losses: np.ndarray) -> float:
    """Minimum of a parabola through the lowest of some losses and its neighbours; at an end, that end."""
    k = int(np.argmin(losses))
    if k in (0, losses.size - 1):
        return float(thetas[k])
    near = slice(k - 1, k + 2)
    a, b, _ = np.polyfit(thetas[near] - thetas[k], losses[near], 2)
    return float(thetas[k] - b / (2.0 * a))


def fixed_points(thetas: np.ndarray, gradients: np.ndarray) -> list[float]:
    """Where descent comes to rest: gradients turn from negative to positive, linear in between."""
    found = []
    for k in np.flatnonzero((gradients[:-1] < 0) & (gradients[1:] >= 0)).tolist():
        share = gradients[k] / (gradients[k] - gradients[k + 1])
        found.append(float(thetas[k] + share * (thetas[k + 1] - thetas[k])))
    return found
