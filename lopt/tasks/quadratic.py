"""Quadratics with a random matrix and noise on it: loss c |(A + N) x|^2, or c times its log.

Source: TaskSet (Metz et al. 2020), family `quadratic_family`; `Quadratic.sample` repeats its
sampler draw for draw.  Matrices and noise come from this library's own generator: an instance has
the published law, not the published bits.
"""

import dataclasses
import functools
import math
from typing import ClassVar, Self

import numpy as np

from lopt import rng
from lopt.errors import TaskError, unknown
from lopt.lanes import (
    add_square_partials,
    clear_partials,
    fold_partials,
    kernel,
    lane,
    lanes,
    matmul,
    sum32,
    sync,
)
from lopt.layout import Layout
from lopt.task import Task, TaskData, register_task
from lopt.tasks.checks import check_integer

LAWS = ("normal", "uniform", "linspace_eigen", "logspace_eigen")
NONE, NORMAL, UNIFORM, EIGEN = range(4)  # noise codes in TaskData.sizes
FLOOR = 1e-8  # added to the quadratic before the log


@kernel
def squared_norm(x, partials):
    """|x|^2, x (n,), the same bits for any number of lanes; `partials` (32,) scratch."""
    clear_partials(partials)
    add_square_partials(x, x.size, partials)
    return fold_partials(partials)


@kernel
def reflect(y, v, products, partials):
    """y -= 2 v (v.y) / (v.v): mirror y (m,) at the plane across v (m,); `products` (m,) scratch."""
    m = y.size
    for j in range(lane(), m, lanes()):
        products[j] = v[j] * y[j]
    sync()
    vy = sum32(products, m, partials)
    factor = y.dtype.type(2.0) * vy / squared_norm(v, partials)
    for j in range(lane(), m, lanes()):
        y[j] -= factor * v[j]
    sync()


@kernel
def eigen_noise_product(x, out, spectrum, mirrors, work):
    """out += Q S Q^T x, the product of symmetric noise with x; x and out (n,), distinct.

    Q = H_0 H_1 ... H_{n-2}, H_k the reflection of the trailing n - k coordinates that sends a
    normal vector to an axis; Q is Haar-distributed up to signs of its columns, which
    S = diag(spectrum) does not see.  `mirrors` (n (n + 1) / 2 - 1,) holds the mirror vectors one
    after the other; `work` (2n + 32,) scratch.
    """
    n = x.size
    y, products, partials = work[:n], work[n : 2 * n], work[2 * n : 2 * n + 32]
    for j in range(lane(), n, lanes()):
        y[j] = x[j]
    sync()
    start = 0
    for k in range(n - 1):
        reflect(y[k:], mirrors[start : start + n - k], products, partials)
        start += n - k
    for j in range(lane(), n, lanes()):
        y[j] *= spectrum[j]
    sync()
    for k in range(n - 2, -1, -1):
        start -= n - k
        reflect(y[k:], mirrors[start : start + n - k], products, partials)
    for j in range(lane(), n, lanes()):
        out[j] += y[j]
    sync()


@kernel
def mirror_vectors(mirrors, n, stream, purpose, step, partials):
    """mirrors = the vectors v = z + sign(z_0) |z| e_0; `partials` (32,) scratch."""
    rng.normals_into(mirrors, 0, stream, purpose, step)
    sync()
    start = 0
    for k in range(n - 1):
        z = mirrors[start : start + n - k]
        length = math.sqrt(squared_norm(z, partials))
        if lane() == 0:
            z[0] += math.copysign(length, z[0])
        sync()
        start += n - k


@kernel
def entry_noise(matrix, a, n, code, low, scale, stream, purpose, step):
    """matrix (n * n,) = A + low + scale * z, z fresh standard normals or uniforms in [0, 1)."""
    if code == NORMAL:
        rng.normals_into(matrix, 0, stream, purpose, step)
    else:
        rng.uniforms_into(matrix, 0, stream, purpose, step)
    sync()
    for i in range(lane(), n * n, lanes()):
        matrix[i] = a[i] + (low + scale * matrix[i])
    sync()


@kernel
def evaluate_quadratic(params, grad, data, rows, stream, split, step, work, with_grad):
    """Loss and gradient, see `Task`.

    data.floats: A (n, n), then the noise spectrum (n,) if the noise code is EIGEN.
    data.sizes: n, noise code, log output.  data.hyper: loss scale c, noise offset, noise scale.
    work: u (n,), scratch (2n + 32,), then the noisy matrix (n, n) of iid noise or the mirror
    vectors (n (n + 1) / 2 - 1,) of EIGEN noise.
    """
    n, code, log_output = data.sizes[0], data.sizes[1], data.sizes[2]
    a = data.floats[: n * n]
    purpose = rng.NOISE + split
    u, small, large = work[:n], work[n : 3 * n + 32], work[3 * n + 32 :]
    matrix = a
    if code == EIGEN:
        spectrum, mirrors = data.floats[n * n : n * n + n], large[: n * (n + 1) // 2 - 1]
        mirror_vectors(mirrors, n, stream, purpose, step, small)
    else:
        spectrum, mirrors = a[:0], large[:0]
        if code != NONE:
            matrix = large[: n * n]
            entry_noise(matrix, a, n, code, data.hyper[1], data.hyper[2], stream, purpose, step)
    m = matrix.reshape(n, n)
    # u = M x
    matmul(m, params.reshape(n, 1), u.reshape(n, 1))
    if code == EIGEN:
        eigen_noise_product(params, u, spectrum, mirrors, small)
    q = squared_norm(u, small[:32])
    c = data.hyper[0]
    if with_grad:
        matmul(m.T, u.reshape(n, 1), grad.reshape(n, 1))
        if code == EIGEN:
            eigen_noise_product(u, grad, spectrum, mirrors, small)
        # loss = c q: dx = 2 c M^T u;  loss = c log(q + floor): dx = 2 c M^T u / (q + floor)
        factor = params.dtype.type(2.0) * c
        if log_output:
            factor = factor / (q + params.dtype.type(FLOOR))
        for i in range(lane(), n, lanes()):
            grad[i] *= factor
        sync()
    if log_output:
        return np.float64(c) * math.log(np.float64(q) + FLOOR)
    return np.float64(c) * np.float64(q)


def spectrum_of(law: tuple, n: int) -> np.ndarray:
    """The n eigenvalues of a `..._eigen` law, float64."""
    kind, low, high = law
    return np.linspace(low, high, n) if kind == "linspace_eigen" else np.geomspace(low, high, n)


def check_law(option: str, law: tuple, kinds: tuple[str, ...]) -> None:
    """Refuse what is not (kind, number, number) with numbers that make sense for that kind.

    Raises:
        TaskError: as said, naming the option.
    """
    if len(law) != 3 or not all(isinstance(v, int | float) and math.isfinite(v) for v in law[1:]):
        raise TaskError(f"{option} must be (law, number, number), got {law!r}")
    kind, a, b = law
    if kind not in kinds:
        raise TaskError(unknown(f"law of {option}", kind, kinds))
    if kind == "normal" and b < 0.0:
        raise TaskError(f"{option}: the standard deviation must be at least 0, got {b}")
    if kind != "normal" and b < a:
        raise TaskError(f"{option}: the upper end {b} is below the lower end {a}")
    if kind == "logspace_eigen" and a <= 0.0:
        raise TaskError(f"{option}: a log-spaced spectrum must be positive, got lower end {a}")


def draw_law(r: np.random.RandomState, matrix: bool) -> tuple:
    """A law of the matrix, or of its noise, as TaskSet draws it."""
    kind = str(r.choice(["normal", "linspace_eigen", "uniform", "logspace_eigen"]))
    if kind == "logspace_eigen":
        return kind, 1e-5, float(r.uniform(1.0, 1000.0 if matrix else 10.0))
    if kind == "normal":
        mean = r.normal(0.0, 1.0 if matrix else 0.05)
        return kind, float(mean), float(r.uniform(0.0, 2.0 if matrix else 0.05))
    if kind == "uniform":
        low = r.uniform(-3.0, 1.0) if matrix else r.uniform(-0.15, 0.05)
        return kind, float(low), float(low + r.uniform(0.0, 5.0 if matrix else 0.25))
    low = r.uniform(0.01, 50.0 if matrix else 2.0)
    return kind, float(low), float(low + r.uniform(0.0, 100.0 if matrix else 10.0))


@register_task(
    "quadratic",
    model="c |(A + N) x|^2 or c log(|(A + N) x|^2 + 1e-8), N new at every evaluation",
    data="none; A from its address",
    source="TaskSet (Metz et al. 2020), quadratic_family",
    deviations=(
        "published laws, not published bits; eigen-noise by reflections instead of a QR "
        "decomposition"
    ),
)
@dataclasses.dataclass(frozen=True)
class Quadratic(Task):
    """A quadratic c |(A + N) x|^2 of a random matrix A, with new noise N at every evaluation.

    dims       n, the number of parameters
    condition  condition number of the Hessian 2 A^T A, whose eigenvalues are then log-spaced from
               1 / condition to 1 in a random orthonormal basis; used if `matrix` is empty
    matrix     law of A: ("normal", mean, std) or ("uniform", low, high) entries, or
               ("linspace_eigen", low, high) or ("logspace_eigen", low, high) for
               A = Q diag(spectrum) Q^T with a random orthonormal Q
    noise      standard deviation of iid normal noise on the entries of A, or any law above; an
               `_eigen` law has a new Q every time
    start      law of the initial parameters: ("normal", mean, std) or ("uniform", low, high)
    output     "identity", or "log" for c log(|(A + N) x|^2 + 1e-8)
    scale      c
    seed       address of A

    The published family makes the Q of `_eigen` noise by a QR decomposition of uniform entries,
    O(n^3) at each evaluation.  Here Q is a product of n - 1 random reflections (Stewart, SIAM J.
    Numer. Anal. 17, 1980): O(n^2), exactly Haar, and only ever applied to vectors.

    Raises:
        TaskError: an option is out of range.
    """

    dims: int = 10
    condition: float = 100.0
    matrix: tuple = ()
    noise: float | tuple = 0.0
    start: tuple = ("normal", 0.0, 1.0)
    output: str = "identity"
    scale: float = 1.0
    seed: int = 0

    core = staticmethod(evaluate_quadratic)
    batch_size: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_integer("dims", self.dims, 1)
        check_integer("seed", self.seed, 0, 2**32 - 1)
        if not 1.0 <= self.condition < math.inf:
            raise TaskError(f"condition must be finite and at least 1, got {self.condition}")
        if not 0.0 < self.scale < math.inf:
            raise TaskError(f"scale must be positive and finite, got {self.scale}")
        if self.output not in ("identity", "log"):
            raise TaskError(unknown("output", self.output, ("identity", "log")))
        if self.matrix:
            check_law("matrix", self.matrix, LAWS)
        if isinstance(self.noise, tuple):
            check_law("noise", self.noise, LAWS)
        elif not 0.0 <= self.noise < math.inf:
            raise TaskError(f"noise must be a standard deviation of at least 0, got {self.noise}")
        check_law("start", self.start, ("normal", "uniform"))

    @property
    def lowest_loss(self) -> float:
        """The loss at x = 0, the minimum whatever the noise."""
        return self.scale * math.log(FLOOR) if self.output == "log" else 0.0

    @functools.cached_property
    def layout(self) -> Layout:
        """One vector."""
        return Layout((("x", (self.dims,)),))

    @functools.cached_property
    def arrays(self) -> TaskData:
        """Matrix, noise law and loss scale, see `evaluate_quadratic`."""
        code, low, scale = NONE, 0.0, 0.0
        floats = self.draw_matrix().reshape(-1)
        law = self.noise_law
        if law is not None and law[0].endswith("_eigen"):
            code = EIGEN
            floats = np.concatenate([floats, spectrum_of(law, self.dims)])
        elif law is not None:
            code, low = (NORMAL if law[0] == "normal" else UNIFORM), law[1]
            scale = law[2] if code == NORMAL else law[2] - law[1]
        return TaskData(
            floats.astype(np.float32),
            np.zeros(0, np.int32),
            np.array([self.dims, code, self.output == "log"], np.int64),
            np.array([self.scale, low, scale], np.float32),
        )

    @property
    def noise_law(self) -> tuple | None:
        """The law of the noise, None if there is none."""
        if isinstance(self.noise, tuple):
            return self.noise
        return ("normal", 0.0, float(self.noise)) if self.noise > 0.0 else None

    def draw_matrix(self) -> np.ndarray:
        """A, (n, n) float64, a pure function of the options."""
        n, stream = self.dims, rng.stream(self.seed)
        top = math.sqrt(0.5)  # 2 A^T A has largest eigenvalue 1
        law = self.matrix or ("logspace_eigen", top / math.sqrt(self.condition), top)
        kind, low, high = law
        if kind == "normal":
            z = rng.normals(n * n, stream, rng.TASK)
            return low + high * z.reshape(n, n).astype(np.float64)
        u = rng.uniforms(n * n, stream, rng.TASK).reshape(n, n).astype(np.float64)
        if kind == "uniform":
            return low + (high - low) * u
        q, r = np.linalg.qr(2.0 * u - 1.0)
        q *= np.where(np.diag(r) < 0.0, -1.0, 1.0)
        return (q * spectrum_of(law, n)) @ q.T

    def activations(self, batch: int) -> int:
        """A x, and the numbers that noise on A is made of."""
        n, law = self.dims, self.noise_law
        if law is None:
            return n
        return n + (n * (n + 1) // 2 - 1 if law[0].endswith("_eigen") else n * n)

    def work_size(self, batch: int) -> int:
        """Three vectors and 32 partial sums, and the random numbers if there is noise."""
        n, code = self.dims, int(self.arrays.sizes[1])
        noise = {NONE: 0, EIGEN: n * (n + 1) // 2 - 1}.get(code, n * n)
        return 3 * n + 32 + noise

    @property
    def operations(self) -> float:
        """Two products with the matrix; noise on it is as many random numbers, some ten operations each."""
        return (4.0 if self.noise == 0.0 else 14.0) * self.dims**2

    def init(self, stream: np.ndarray) -> np.ndarray:
        """iid coordinates of the law `start`."""
        kind, low, high = self.start
        if kind == "normal":
            x = low + high * rng.normals(self.dims, stream, rng.INIT)
        else:
            x = low + (high - low) * rng.uniforms(self.dims, stream, rng.INIT)
        return x.astype(np.float32)

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        """See `Task.reference`."""
        n, code = self.dims, int(self.arrays.sizes[1])
        m = self.arrays.floats[: n * n].reshape(n, n).astype(np.float64)
        m = m + self._noise_matrix(code, stream, rng.NOISE + split, step)
        c = float(self.arrays.hyper[0])
        u = m @ params
        q = u @ u
        if self.output == "log":
            return c * math.log(q + FLOOR), 2.0 * c * (m.T @ u) / (q + FLOOR)
        return c * q, 2.0 * c * (m.T @ u)

    def _noise_matrix(self, code: int, stream: np.ndarray, purpose: int, step: int) -> np.ndarray:
        n = self.dims
        if code == EIGEN:
            z = rng.normals(n * (n + 1) // 2 - 1, stream, purpose, step).astype(np.float64)
            q, start = np.eye(n), 0
            for k in range(n - 1):
                v = z[start : start + n - k]
                start += n - k
                v[0] += math.copysign(np.linalg.norm(v), v[0])
                h = np.eye(n)
                h[k:, k:] -= 2.0 * np.outer(v, v) / (v @ v)
                q = q @ h
            return q @ np.diag(self.arrays.floats[n * n :].astype(np.float64)) @ q.T
        if code == NONE:
            return np.zeros((n, n))
        draw = rng.normals if code == NORMAL else rng.uniforms
        z = draw(n * n, stream, purpose, step).reshape(n, n).astype(np.float64)
        return float(self.arrays.hyper[1]) + float(self.arrays.hyper[2]) * z

    @classmethod
    def sample(cls, seed: int) -> Self:
        """Task `quadratic_family_seed<seed>` of TaskSet, drawn from its legacy generator."""
        r = np.random.RandomState(seed)
        matrix = draw_law(r, matrix=True)
        kind = str(r.choice(["normal", "uniform"]))
        if kind == "normal":
            start = (kind, float(r.normal(0.0, 1.0)), float(r.uniform(0.0, 2.0)))
        else:
            low = r.uniform(-5.0, 2.5)
            start = (kind, float(low), float(low + r.uniform(0.0, 5.0)))
        output = str(r.choice(["identity", "log"]))
        dims = int(np.round(np.exp(r.uniform(math.log(2), math.log(3000)))))
        instance = int(r.randint(0, 100000))
        scale = float(np.exp(r.uniform(math.log(1e-5), math.log(1e3))))
        noise = draw_law(r, matrix=False) if r.choice([True, False]) else 0.0
        return cls(dims, 100.0, matrix, noise, start, output, scale, instance)

    @classmethod
    def examples(cls) -> list[Self]:
        """Every law of the matrix and of the noise, both outputs, sizes 1 to 33."""
        return [
            cls(dims=5),
            cls(dims=1, noise=0.1),
            cls(dims=33, condition=10.0, output="log"),
            cls(dims=7, matrix=("normal", 0.3, 1.0), noise=("uniform", -0.1, 0.2), output="log"),
            cls(dims=6, matrix=("uniform", -1.0, 2.0), noise=("normal", 0.05, 0.02), scale=1e3),
            cls(
                dims=5,
                matrix=("linspace_eigen", 0.5, 3.0),
                noise=("linspace_eigen", 0.1, 0.3),
                start=("uniform", -2.0, 1.0),
            ),
            cls(dims=4, matrix=("logspace_eigen", 1e-2, 10.0), noise=("logspace_eigen", 1e-5, 1.0)),
        ]
