"""Weight initialisers of TaskSet, drawn from keyed random numbers on the host.

Source: task set specification 1.3 and 1.4.
"""

import math

import numpy as np

from lopt import rng
from lopt.errors import TaskError, unknown

TRUNCATED_STD = 0.8796256610342398  # of a standard normal cut at 2, as TensorFlow 1.15 has it
SCALED = ("orthogonal", "random_uniform", "random_normal", "truncated_normal", "variance_scaling")
INITIALISERS = ("he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "sonnet", *SCALED)


def check_initialiser(name: str, scale: float) -> None:
    """Refuse an unknown name or a scale that is not positive.

    Raises:
        TaskError: names the field and the nearest valid value.
    """
    if name not in INITIALISERS:
        raise TaskError(unknown("initialiser", name, INITIALISERS))
    if not (isinstance(scale, int | float) and 0.0 < scale < math.inf):
        raise TaskError(f"init_scale = {scale!r}, valid: a finite number above 0")


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a tensor.

    Of a matrix its shape, of a kernel (h, w, c, d) (h w c, h w d), of a vector its size twice.
    """
    if len(shape) == 1:
        return shape[0], shape[0]
    field = math.prod(shape[:-2])
    return field * shape[-2], field * shape[-1]


def draw(
    name: str, scale: float, shape: tuple[int, ...], stream: np.ndarray, tensor: int
) -> np.ndarray:
    """A weight tensor, last axis out, float32.

    A pure function of the stream and of `tensor`, its number in the task.  Laws, with s the scale
    and Z a standard normal conditioned on |Z| <= 2, divided by its standard deviation:
        he_normal         Z sqrt(2 / fan_in)
        he_uniform        U(+-sqrt(6 / fan_in))
        glorot_normal     Z sqrt(2 / (fan_in + fan_out))
        glorot_uniform    U(+-sqrt(6 / (fan_in + fan_out)))
        orthogonal        s Q, Q Haar with orthonormal columns (rows if there are fewer)
        random_uniform    U(+-s)
        random_normal     N(0, s^2)
        truncated_normal  N(0, s^2): upstream does not truncate it either
        variance_scaling  Z sqrt(s / fan_in)
        sonnet            0.88 Z / sqrt(fan_in), the cut not corrected for: what the original library does
                          where a task asks for nothing

    Raises:
        TaskError: unknown name.
    """
    fan_in, fan_out = fans(shape)
    n = math.prod(shape)
    match name:
        case "sonnet":
            return cut_normals(shape, fan_in, stream, tensor)
        case "he_uniform":
            w = math.sqrt(6 / fan_in) * centred_uniforms(n, stream, tensor)
        case "glorot_uniform":
            w = math.sqrt(6 / (fan_in + fan_out)) * centred_uniforms(n, stream, tensor)
        case "random_uniform":
            w = scale * centred_uniforms(n, stream, tensor)
        case "random_normal" | "truncated_normal":
            w = scale * rng.normals(n, stream, rng.INIT, tensor).astype(np.float64)
        case "orthogonal":
            w = scale * orthogonal(n // shape[-1], shape[-1], stream, tensor)
        case "he_normal":
            w = math.sqrt(2 / fan_in) * truncated_normals(n, stream, tensor)
        case "glorot_normal":
            w = math.sqrt(2 / (fan_in + fan_out)) * truncated_normals(n, stream, tensor)
        case "variance_scaling":
            w = math.sqrt(scale / fan_in) * truncated_normals(n, stream, tensor)
        case _:
            raise TaskError(unknown("initialiser", name, INITIALISERS))
    return w.reshape(shape).astype(np.float32)


def centred_uniforms(n: int, stream: np.ndarray, tensor: int) -> np.ndarray:
    """Uniforms in (-1, 1), (n,) float64: midpoints of the generator's 2^24 cells, mean 0."""
    u = rng.uniforms(n, stream, rng.INIT, tensor).astype(np.float64)
    return 2.0 * u - (1.0 - 2.0**-24)


def truncated_normals(n: int, stream: np.ndarray, tensor: int) -> np.ndarray:
    """Normals cut at two standard deviations, then scaled to variance 1, (n,) float64.

    They are the survivors of a longer keyed sequence, in order.
    """
    kept, start = np.zeros(0), 0
    while kept.size < n:
        more = rng.normals(n + n // 8 + 16, stream, rng.INIT, tensor, start).astype(np.float64)
        start += more.size
        kept = np.concatenate([kept, more[np.abs(more) <= 2.0]])
    return kept[:n] / TRUNCATED_STD


def cut_normals(shape: tuple[int, ...], fan_in: int, stream: np.ndarray, tensor: int) -> np.ndarray:
    """Normals cut at two standard deviations, divided by sqrt(fan_in), float32."""
    z = TRUNCATED_STD * truncated_normals(math.prod(shape), stream, tensor)
    return (z / math.sqrt(fan_in)).reshape(shape).astype(np.float32)


def orthogonal(rows: int, columns: int, stream: np.ndarray, tensor: int) -> np.ndarray:
    """Q of a Gaussian matrix's QR decomposition, diag(R) made positive, (rows, columns) float64."""
    tall = (max(rows, columns), min(rows, columns))
    z = rng.normals(rows * columns, stream, rng.INIT, tensor).astype(np.float64).reshape(tall)
    q, r = np.linalg.qr(z)
    q = q * np.where(np.diag(r) < 0.0, -1.0, 1.0)
    return q if rows >= columns else q.T
