"""Weight initialisers of TaskSet (task set specification 1.3, 1.4), drawn from keyed random numbers on the host."""

import math

import numpy as np

from lopt import rng
from lopt.errors import TaskError, unknown

TRUNCATED_STD = 0.8796256610342398  # standard deviation of a standard normal cut at 2 (TensorFlow 1.15)
SCALED = ("orthogonal", "random_uniform", "random_normal", "truncated_normal", "variance_scaling")
INITIALISERS = ("he_normal", "he_uniform", "glorot_normal", "glorot_uniform", *SCALED)


def check_initialiser(name: str, scale: float) -> None:
    """Refuse an unknown name or a scale that is not positive.

    Raises:
        TaskError: names the field and the nearest valid value.
    """
    if name not in INITIALISERS:
        raise TaskError(unknown("initialiser", name, INITIALISERS))
    if not (scale > 0 and math.isfinite(scale)):
        raise TaskError(f"init_scale must be positive and finite, got {scale}")


def draw(name: str, scale: float, shape: tuple[int, int], stream: np.ndarray, tensor: int) -> np.ndarray:
    """A weight matrix (fan_in, fan_out), float32, from the stream; `tensor` keeps a task's tensors apart.

    Normal laws marked "truncated" in the specification are cut at two standard deviations and rescaled to the target;
    `truncated_normal` itself is a plain normal, as upstream is wired (trap 14).
    """
    fan_in, fan_out = shape
    n = fan_in * fan_out
    if name in ("he_uniform", "glorot_uniform", "random_uniform"):
        bound = {
            "he_uniform": math.sqrt(6 / fan_in),
            "glorot_uniform": math.sqrt(6 / (fan_in + fan_out)),
            "random_uniform": scale,
        }[name]
        u = rng.uniforms(n, stream, rng.INIT, tensor).astype(np.float64)
        return (bound * (2 * u - 1)).astype(np.float32).reshape(shape)
    if name in ("random_normal", "truncated_normal"):
        return (scale * rng.normals(n, stream, rng.INIT, tensor)).astype(np.float32).reshape(shape)
    if name == "orthogonal":
        return (scale * _orthogonal(shape, stream, tensor)).astype(np.float32)
    variance = {
        "he_normal": 2 / fan_in,
        "glorot_normal": 2 / (fan_in + fan_out),
        "variance_scaling": scale / fan_in,
    }[name]
    z = truncated(n, stream, tensor)
    return (z * (math.sqrt(variance) / TRUNCATED_STD)).astype(np.float32).reshape(shape)


def truncated(n: int, stream: np.ndarray, tensor: int) -> np.ndarray:
    """n standard normals conditioned on |z| <= 2: the survivors of a longer keyed sequence, in order."""
    kept, start = np.zeros(0, np.float32), 0
    while kept.size < n:
        more = rng.normals(n + n // 8 + 16, stream, rng.INIT, tensor, start)
        start += more.size
        kept = np.concatenate([kept, more[np.abs(more) <= 2]])
    return kept[:n]


def _orthogonal(shape: tuple[int, int], stream: np.ndarray, tensor: int) -> np.ndarray:
    rows, columns = max(shape), min(shape)
    z = rng.normals(rows * columns, stream, rng.INIT, tensor).astype(np.float64).reshape(rows, columns)
    q, r = np.linalg.qr(z)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return q if shape == q.shape else q.T
