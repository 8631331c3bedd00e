"""Nine classic test functions of two variables, without noise.

Source: LOSG problems ("Learned Optimizers that Scale and Generalize", Wichrowska et al. 2017) as
TaskSet (Metz et al. 2020) uses them: formulas, constants and starting laws.  Differs: the gradient
of `ackley` at its minimum, where the function has a corner, is 0 instead of undefined.
"""

import cmath
import dataclasses
import functools
import math
from typing import ClassVar, Self

import numpy as np

from lopt import rng
from lopt.errors import TaskError, unknown
from lopt.lanes import kernel, lane, sync
from lopt.layout import Layout
from lopt.task import Task, TaskData, register_task

FIXED_START_SEED = 123  # of the one starting point that `fixed_start` uses

# Each kernel takes (x, y) and returns (f, df/dx, df/dy), all float64: two numbers need no speed,
# and float32 would lose the minimum of functions that add and subtract constants.


@kernel
def bowl(x, y, condition, angle):
    """|M v|^2 / 2 with M = diag(sqrt(condition), 1) and v = (x, y) turned by the angle."""
    c, s = math.cos(angle), math.sin(angle)
    u, v = c * x - s * y, s * x + c * y
    # f = (condition u^2 + v^2) / 2
    return (
        0.5 * (condition * u * u + v * v),
        condition * u * c + v * s,
        -condition * u * s + v * c,
    )


@kernel
def rosenbrock(x, y):
    """(1 - x)^2 + 100 (y - x^2)^2."""
    a, b = 1.0 - x, y - x * x
    return a * a + 100.0 * b * b, -2.0 * a - 400.0 * x * b, 200.0 * b


@kernel
def ackley(x, y):
    """20 (1 - e^{-r/5}) + e - E, r = sqrt((x^2 + y^2)/2), E = e^{(cos 2 pi x + cos 2 pi y)/2}."""
    r = math.sqrt(0.5 * (x * x + y * y))
    tau = 2.0 * math.pi
    # (cos 2 pi x + cos 2 pi y) / 2 = 1 + waves; expm1 keeps the digits near the minimum
    waves = -(math.sin(math.pi * x) ** 2) - math.sin(math.pi * y) ** 2
    f = -20.0 * math.expm1(-0.2 * r) - math.e * math.expm1(waves)
    # d(-20 e^{-r/5})/dx = 4 e^{-r/5} dr/dx, dr/dx = x / (2 r)
    slope = 2.0 * math.exp(-0.2 * r) / r if r > 0.0 else 0.0
    wave = math.pi * math.e * math.exp(waves)
    return f, slope * x + wave * math.sin(tau * x), slope * y + wave * math.sin(tau * y)


@kernel
def beale(x, y):
    """(1.5 - x + x y)^2 + (2.25 - x + x y^2)^2 + (2.625 - x + x y^3)^2."""
    y2, y3 = y * y, y * y * y
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y2, 2.625 - x + x * y3
    return (
        a * a + b * b + c * c,
        2.0 * (a * (y - 1.0) + b * (y2 - 1.0) + c * (y3 - 1.0)),
        2.0 * x * (a + 2.0 * y * b + 3.0 * y2 * c),
    )


@kernel
def styblinski_tang(x, y):
    """(x^4 - 16 x^2 + 5 x + y^4 - 16 y^2 + 5 y) / 2 + 80."""
    x2, y2 = x * x, y * y
    return (
        0.5 * (x2 * x2 - 16.0 * x2 + 5.0 * x + y2 * y2 - 16.0 * y2 + 5.0 * y) + 80.0,
        2.0 * x2 * x - 16.0 * x + 2.5,
        2.0 * y2 * y - 16.0 * y + 2.5,
    )


@kernel
def matyas(x, y):
    """0.26 (x^2 + y^2) - 0.48 x y."""
    return 0.26 * (x * x + y * y) - 0.48 * x * y, 0.52 * x - 0.48 * y, 0.52 * y - 0.48 * x


@kernel
def branin(x, y):
    """u^2 + 10 (1 - t) cos x + 10 with u = y - b x^2 + c x - 6."""
    b, c, t = 5.1 / (4.0 * math.pi**2), 5.0 / math.pi, 1.0 / (8.0 * math.pi)
    u = y - b * x * x + c * x - 6.0
    return (
        u * u + 10.0 * (1.0 - t) * math.cos(x) + 10.0,
        2.0 * u * (c - 2.0 * b * x) - 10.0 * (1.0 - t) * math.sin(x),
        2.0 * u,
    )


@kernel
def michalewicz(x, y):
    """2 - sin x sin(x^2 / pi)^10 - sin y sin(2 y^2 / pi)^10."""
    p, q = x * x / math.pi, 2.0 * y * y / math.pi
    sx9, sy9 = math.sin(p) ** 9, math.sin(q) ** 9
    sx10, sy10 = sx9 * math.sin(p), sy9 * math.sin(q)
    return (
        2.0 - math.sin(x) * sx10 - math.sin(y) * sy10,
        -(math.cos(x) * sx10 + 10.0 * math.sin(x) * sx9 * math.cos(p) * 2.0 * x / math.pi),
        -(math.cos(y) * sy10 + 10.0 * math.sin(y) * sy9 * math.cos(q) * 4.0 * y / math.pi),
    )


@kernel
def logsumexp(x, y):
    """log(e^{x + 3y - 0.1} + e^{x - 3y - 0.1} + e^{-x - 0.1} + 1)."""
    p, q, r = x + 3.0 * y - 0.1, x - 3.0 * y - 0.1, -x - 0.1
    top = max(p, q, r, 0.0)  # subtracted from all exponents: nothing overflows
    a, b, c = math.exp(p - top), math.exp(q - top), math.exp(r - top)
    s = a + b + c + math.exp(-top)
    return top + math.log(s), (a + b - c) / s, 3.0 * (a - b) / s


@kernel
def evaluate_function2d(params, grad, data, rows, stream, split, step, work, with_grad):
    """Loss and gradient, see `Task`.

    data.sizes: index of the function in FUNCTIONS.  data.hyper: condition and angle of the bowl.
    """
    code = data.sizes[0]
    x, y = np.float64(params[0]), np.float64(params[1])
    if code == 0:
        f, dx, dy = bowl(x, y, np.float64(data.hyper[0]), np.float64(data.hyper[1]))
    elif code == 1:
        f, dx, dy = rosenbrock(x, y)
    elif code == 2:
        f, dx, dy = ackley(x, y)
    elif code == 3:
        f, dx, dy = beale(x, y)
    elif code == 4:
        f, dx, dy = styblinski_tang(x, y)
    elif code == 5:
        f, dx, dy = matyas(x, y)
    elif code == 6:
        f, dx, dy = branin(x, y)
    elif code == 7:
        f, dx, dy = michalewicz(x, y)
    else:
        f, dx, dy = logsumexp(x, y)
    if with_grad:
        if lane() == 0:
            grad[0] = params.dtype.type(dx)
            grad[1] = params.dtype.type(dy)
        sync()
    return f


@dataclasses.dataclass(frozen=True)
class Facts:
    """Where a function is started and how low it goes.

    start    ((low, high) of x, (low, high) of y), uniform; None: standard normal
    minimum  the lowest value; of michalewicz in its starting box, since it comes arbitrarily near
             0 far outside
    """

    start: tuple[tuple[float, float], tuple[float, float]] | None
    minimum: float


def _square(low: float, high: float) -> tuple[tuple[float, float], tuple[float, float]]:
    return (low, high), (low, high)


# In the order of the kernel's codes.
FUNCTIONS = {
    "bowl": Facts(None, 0.0),
    "rosenbrock": Facts(_square(-5.0, 10.0), 0.0),
    "ackley": Facts(_square(-32.768, 32.768), 0.0),
    "beale": Facts(_square(-4.5, 4.5), 0.0),
    "styblinski_tang": Facts(_square(-5.0, 5.0), 1.6676685924571495),
    "matyas": Facts(_square(-10.0, 10.0), 0.0),
    "branin": Facts(((-5.0, 10.0), (0.0, 15.0)), 5.0 / (4.0 * math.pi)),
    "michalewicz": Facts(_square(0.0, math.pi), 0.1933771146528046),
    "logsumexp": Facts(None, math.log(1.0 + 2.0 * math.sqrt(2.0) * math.exp(-0.1))),
}


@register_task(
    "function2d",
    model="one of nine classic functions of two variables",
    data="none",
    source="Wichrowska et al. 2017 as in TaskSet",
    deviations="gradient of Ackley's function at its corner is 0",
)
@dataclasses.dataclass(frozen=True)
class Function2D(Task):
    """A classic test function of two variables, without noise.

    function     bowl, rosenbrock, ackley, beale, styblinski_tang, matyas, branin, michalewicz,
                 logsumexp
    condition    condition number of the bowl
    angle        angle of the bowl's axes, radians
    fixed_start  whether every run starts from one and the same point

    Raises:
        TaskError: unknown function, or a condition that is not positive and finite.
    """

    function: str = "rosenbrock"
    condition: float = 1.0
    angle: float = 0.0
    fixed_start: bool = False

    core = staticmethod(evaluate_function2d)
    batch_size: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise TaskError(unknown("function", self.function, FUNCTIONS))
        if not 0.0 < self.condition < math.inf:
            raise TaskError(f"condition must be positive and finite, got {self.condition}")

    @property
    def lowest_loss(self) -> float:
        """The function's minimum."""
        return FUNCTIONS[self.function].minimum

    @functools.cached_property
    def layout(self) -> Layout:
        """One vector of two."""
        return Layout((("x", (2,)),))

    @functools.cached_property
    def arrays(self) -> TaskData:
        """Code of the function, and the bowl's constants."""
        return TaskData(
            np.zeros(0, np.float32),
            np.zeros(0, np.int32),
            np.array([list(FUNCTIONS).index(self.function)], np.int64),
            np.array([self.condition, self.angle], np.float32),
        )

    def activations(self, batch: int) -> int:
        """A few scalars, which do not count."""
        return 0

    def work_size(self, batch: int) -> int:
        """None."""
        return 0

    def init(self, stream: np.ndarray) -> np.ndarray:
        """A point drawn from the function's published starting law."""
        if self.fixed_start:
            stream = rng.stream(FIXED_START_SEED)
        box = FUNCTIONS[self.function].start
        if box is None:
            return rng.normals(2, stream, rng.INIT)
        low, high = np.array(box).T
        return (low + (high - low) * rng.uniforms(2, stream, rng.INIT)).astype(np.float32)

    def reference(
        self, params: np.ndarray, rows: np.ndarray, stream: np.ndarray, split: int, step: int
    ) -> tuple[float, np.ndarray]:
        """See `Task.reference`.  The gradient is a complex step of 1e-30, exact to rounding."""
        x, y = float(params[0]), float(params[1])
        tiny = 1e-30
        f = self._value(complex(x), complex(y)).real
        dx = self._value(complex(x, tiny), complex(y)).imag / tiny
        dy = self._value(complex(x), complex(y, tiny)).imag / tiny
        if self.function == "ackley" and x == y == 0.0:
            dx = dy = 0.0
        return f, np.array([dx, dy])

    def _value(self, x: complex, y: complex) -> complex:
        """The published formula on complex numbers, as it is printed."""
        exp, cos, sin, pi = cmath.exp, cmath.cos, cmath.sin, cmath.pi
        match self.function:
            case "bowl":
                condition, angle = map(float, self.arrays.hyper)
                c, s = math.cos(angle), math.sin(angle)
                return 0.5 * (condition * (c * x - s * y) ** 2 + (s * x + c * y) ** 2)
            case "rosenbrock":
                return (1 - x) ** 2 + 100 * (y - x**2) ** 2
            case "ackley":
                r = cmath.sqrt(0.5 * (x**2 + y**2))
                wave = exp(0.5 * (cos(2 * pi * x) + cos(2 * pi * y)))
                return -20 * exp(-0.2 * r) - wave + math.e + 20
            case "beale":
                return sum((c - x + x * y**k) ** 2 for k, c in ((1, 1.5), (2, 2.25), (3, 2.625)))
            case "styblinski_tang":
                return 0.5 * sum(z**4 - 16 * z**2 + 5 * z for z in (x, y)) + 80
            case "matyas":
                return 0.26 * (x**2 + y**2) - 0.48 * x * y
            case "branin":
                u = y - 5.1 / (4 * pi**2) * x**2 + 5 / pi * x - 6
                return u**2 + 10 * (1 - 1 / (8 * pi)) * cos(x) + 10
            case "michalewicz":
                return 2 - sum(sin(z) * sin(k * z**2 / pi) ** 10 for k, z in ((1, x), (2, y)))
        return cmath.log(exp(x + 3 * y - 0.1) + exp(x - 3 * y - 0.1) + exp(-x - 0.1) + 1)

    @classmethod
    def examples(cls) -> list[Self]:
        """Every function, and a turned, stretched bowl."""
        return [
            *(cls(name) for name in FUNCTIONS),
            cls("bowl", condition=100.0, angle=math.pi / 3.0),
            cls("beale", fixed_start=True),
        ]
