"""The `losg` objectives in plain NumPy float64, formula by formula: the oracle of the kernels.

Each function returns (loss, gradient of x).  Source: task set specification 4.1.
"""

import numpy as np

from lopt.ops.mlp_stack import stack_bwd_reference, stack_fwd_reference

EPS, TINY = 1e-6, 1e-12


def quadratic(x: np.ndarray, w: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """|W x - y|^2 / 2."""
    d = w @ x - y
    return 0.5 * float((d**2).sum()), w.T @ d


def norm(x: np.ndarray, w: np.ndarray, y: np.ndarray, p: float) -> tuple[float, np.ndarray]:
    """(sum (|W x - y| + eps)^p)^(1/p)."""
    d = w @ x - y
    a = np.abs(d) + EPS
    t = (a**p).sum()
    return float(t ** (1.0 / p)), t ** (1.0 / p - 1.0) * (w.T @ (a ** (p - 1.0) * np.sign(d)))


def dependency_chain(x: np.ndarray) -> tuple[float, np.ndarray]:
    """n x_0^2 + sum x_i^2 / (x_{i-1}^2 + eps)."""
    n = x.size - 1
    g = np.zeros(x.size)
    f, g[0] = n * x[0] ** 2, 2.0 * n * x[0]
    for i in range(1, n + 1):
        q = x[i - 1] ** 2 + EPS
        f += x[i] ** 2 / q
        g[i] += 2.0 * x[i] / q
        g[i - 1] -= 2.0 * x[i - 1] * x[i] ** 2 / q**2
    return float(f), g


def min_max_well(x: np.ndarray) -> tuple[float, np.ndarray]:
    """max x^2 + 1 / min x^2 - 2 + 1e-12, ties sharing the gradient."""
    high, low = np.abs(x) == np.abs(x).max(), np.abs(x) == np.abs(x).min()
    f = (x**2).max() + 1.0 / (x**2).min() - 2.0 + TINY
    with np.errstate(divide="ignore"):
        return float(f), high * 2.0 * x / high.sum() - np.where(low, 2.0 / x**3, 0.0) / low.sum()


def sum_of_quadratics(x: np.ndarray, d: np.ndarray) -> tuple[float, np.ndarray]:
    """sum_b (|x - d_b|^2 - |d_b|^2) + 1e-12."""
    f = (x @ x - 2.0 * d @ x).sum() + TINY
    return float(f), 2.0 * (x - d).sum(axis=0)


def projection_quadratic(x: np.ndarray, d: np.ndarray) -> tuple[float, np.ndarray]:
    """sum_b |x * d_b|^2."""
    return float(((x * d) ** 2).sum()), 2.0 * x * (d**2).sum(axis=0)


def outward_snake(x: np.ndarray, d: np.ndarray) -> tuple[float, np.ndarray]:
    """sum_b d_b0 / (|x| + eps) + sum_b sum_i (x_{i+1} - pi cos x_i)^2 d_{b,i+1}^2."""
    r = np.sqrt((x**2).sum())
    s = x[1:] - np.pi * np.cos(x[:-1])
    f = (d[:, 0] / (r + EPS)).sum() + ((s * d[:, 1:]) ** 2).sum()
    g = -d[:, 0].sum() * x / (r * (r + EPS) ** 2) if r > 0.0 else np.zeros(x.size)
    ds = 2.0 * s * (d[:, 1:] ** 2).sum(axis=0)
    g[1:] += ds
    g[:-1] += ds * np.pi * np.sin(x[:-1])
    return float(f), g


def first_logit_loss(z: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean of -log sigmoid(z) where y = 1 and -log sigmoid(-z) where y = 0; z and y (B,)."""
    side = np.where(y == 1, -z, z)
    slope = np.exp(-np.logaddexp(0.0, -side))
    return float(np.logaddexp(0.0, side).mean()), np.where(y == 1, -slope, slope) / y.size


def classifier(
    tensors: dict[str, np.ndarray], activation: str, x: np.ndarray, y: np.ndarray
) -> tuple[float, dict[str, np.ndarray]]:
    """Both classifiers: x (B, features) rows of data, or counts of the ids (B, 2)."""
    h = x @ tensors["embedding"] if "embedding" in tensors else x
    logits, tape = stack_fwd_reference(tensors, h, activation)
    loss, dfirst = first_logit_loss(logits[:, 0], y)
    grads, dh = stack_bwd_reference(tensors, tape, np.stack([dfirst, 0.0 * dfirst], axis=1))
    if "embedding" in tensors:
        grads["embedding"] = x.T @ dh
    penalty = 1e-3 * np.mean([(t**2).sum() for t in tensors.values()])
    slope = 2e-3 / len(tensors)
    return loss + float(penalty), {k: g + slope * tensors[k] for k, g in grads.items()}
