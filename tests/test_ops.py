"""Elementary functions, activations, dense layers and losses against NumPy in float64."""

import itertools
import math
import re

import numpy as np
import pytest
from helpers import finite_differences, lane_scheduler
from numba import njit, types
from scipy.special import expit

from lopt.lanes import kernel, lane, lanes, sync
from lopt.ops import elementary
from lopt.ops.activations import (
    ACTIVATIONS,
    SWISH,
    TANH,
    activate_bwd,
    activate_fwd,
    activate_reference,
)
from lopt.ops.dense import dense_bwd, dense_bwd_input, dense_fwd, gather_fwd
from lopt.ops.losses import cross_entropy, cross_entropy_reference
from lopt.ops.mlp_stack import (
    stack_bwd,
    stack_fwd,
    stack_size,
    stack_units,
)

INF, NAN = np.inf, np.nan
SMALLEST = 2.0**-126  # of the normal float32 numbers
SIZES = (1, 2, 31, 32, 33, 257)
SCALES = (1e-6, 1.0, 1e3)


def looped(f):
    """y[i] = f(x[i]) compiled for the types it is called with."""

    @njit(error_model="numpy")
    def loop(x, y):
        for i in range(x.size):
            y[i] = f(x[i])

    return loop


@njit(error_model="numpy")
def inverse_root(x):
    """As optimizers write it; the compiler must not put an approximation in its place."""
    return np.float32(1.0) / math.sqrt(x)


# name: function, float64 reference, domain, largest error in units of 2^-24 of the result
FUNCTIONS = {
    "exp": (looped(elementary.exp), np.exp, (-87.33, 88.72283), 1.7),
    "log": (looped(elementary.log), np.log, (SMALLEST, 3.4e38), 1.5),
    "rsqrt": (looped(inverse_root), lambda x: 1.0 / np.sqrt(x), (SMALLEST, 3.4e38), 2.0),
    "tanh": (looped(elementary.tanh), np.tanh, (-3.4e38, 3.4e38), 3.0),
    "sigmoid": (looped(elementary.sigmoid), expit, (-87.33, 3.4e38), 2.6),
    "sin": (looped(elementary.sin), np.sin, (-(2.0**26), 2.0**26), 2.6),
    "cos": (looped(elementary.cos), np.cos, (-(2.0**26), 2.0**26), 2.6),
}
OWN = [name for name in FUNCTIONS if name != "rsqrt"]  # that is the machine's root and division


def apply(name: str, x: np.ndarray) -> np.ndarray:
    y = np.full_like(x, 7.0)
    FUNCTIONS[name][0](x, y)
    return y


def normal_numbers(domain: tuple[float, float]) -> np.ndarray:
    """Every 1009th bit pattern of float32 that is a normal number in the domain, and the ends."""
    bits = np.arange(0, 2**32, 1009, dtype=np.uint64).astype(np.uint32)
    x = np.append(bits.view(np.float32), np.array(domain, np.float32))
    with np.errstate(invalid="ignore"):
        return x[(np.abs(x) >= SMALLEST) & (x >= domain[0]) & (x <= domain[1])]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_error_over_the_whole_range(name: str) -> None:
    _, reference, domain, bound = FUNCTIONS[name]
    x = normal_numbers(domain)
    y = apply(name, x)
    exact = reference(x.astype(np.float64))
    error = np.abs(y - exact) / np.maximum(np.abs(exact), SMALLEST) * 2.0**24
    assert x.size > 4e5
    assert error.max() <= bound
    assert not np.any((y != 0.0) & (np.abs(y) < SMALLEST))  # no subnormal result


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("exp", (0.0, -0.0, 1e-40, -87.4, -INF, 88.73, INF, NAN), (1, 1, 1, 0, 0, INF, INF, NAN)),
        ("log", (1.0, 0.0, -0.0, 1e-40, INF), (0, -INF, -INF, -INF, INF)),
        ("log", (-1e-40, -1.0, -INF, NAN), (NAN,) * 4),
        ("tanh", (0.0, 10.0, -10.0, INF, -INF, NAN), (0, 1, -1, 1, -1, NAN)),
        ("sigmoid", (0.0, 18.0, INF, -87.4, -INF, NAN), (0.5, 1, 1, 0, 0, NAN)),
        ("sin", (0.0, INF, -INF, NAN), (0, NAN, NAN, NAN)),
        ("cos", (0.0, 1e-30, INF, -INF, NAN), (1, 1, NAN, NAN, NAN)),
    ],
)
def test_edges(name: str, x, expected) -> None:
    np.testing.assert_array_equal(apply(name, np.array(x, np.float32)), np.float32(expected))


def test_every_nan_stays_nan() -> None:
    """Also one whose payload would look like an exponent to the bit operations."""
    payload = np.array([0x7FC0FFFF, 0xFFC0FFFF, 0x7F800001], np.uint32).view(np.float32)
    for name in FUNCTIONS:
        assert np.isnan(apply(name, payload)).all(), name


@pytest.mark.parametrize(("name", "limit"), [("sin", 1.0), ("cos", 1.0)])
def test_far_arguments_stay_in_range(name: str, limit: float) -> None:
    x = np.float32(2.0) ** np.arange(26, 128, dtype=np.float32)
    assert np.abs(apply(name, x)).max() <= limit


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sin", "cos"])
def test_float64_is_the_math_library(name: str) -> None:
    x = np.geomspace(1e-3, 100.0, 50)
    exact = [getattr(math, name)(v) for v in x]
    np.testing.assert_array_equal(apply(name, x), exact)


def test_float64_sigmoid() -> None:
    x = np.linspace(-30.0, 30.0, 50)
    np.testing.assert_allclose(apply("sigmoid", x), expit(x), rtol=1e-15)


@pytest.mark.parametrize("name", OWN)
def test_host_functions_are_the_same_functions(name: str) -> None:
    """What the JIT replaces: the dtype stays, values agree."""
    x = np.float32(0.7)
    y = getattr(elementary, name)(x)
    assert y.dtype == np.float32
    assert y == pytest.approx(float(apply(name, np.array([x]))[0]), rel=3e-7)


def vector_code(function, signature) -> bool:
    """Whether LLVM made vector arithmetic, and no calls, of the loops of a compiled function."""
    function.compile(signature)
    llvm = function.inspect_llvm(signature)
    packed = re.search(r"fmul <\d+ x float>", llvm)
    return bool(packed) and not re.search(r"call .*@(llvm\.)?(exp|log|tanh|sin|cos)\b", llvm)


@pytest.mark.parametrize("name", OWN)
def test_loops_vectorise(name: str) -> None:
    vector = types.float32[::1]
    assert vector_code(FUNCTIONS[name][0], (vector, vector))


def test_vectorisation_check_refuses_the_math_library() -> None:
    vector = types.float32[::1]
    assert not vector_code(looped(math.exp), (vector, vector))


# Activations

# f(-0.7) and f(0.7) from the printed formulas, to 10 digits
ACTIVATION_VALUES = {
    "linear": (-0.7, 0.7),
    "relu": (0.0, 0.7),
    "tanh": (-0.6043677771, 0.6043677771),
    "cos": (0.7648421873, 0.7648421873),
    "elu": (-0.5034146962, 0.7),
    "sigmoid": (0.3318122278, 0.6681877722),
    "swish": (-0.2322685595, 0.4677314405),
    "leaky_relu1": (-0.07, 0.7),
    "leaky_relu2": (-0.14, 0.7),
    "leaky_relu4": (-0.28, 0.7),
}
AT_ZERO = {"linear": 1.0, "tanh": 1.0, "elu": 1.0, "sigmoid": 0.25, "swish": 0.5,
           "leaky_relu1": 0.1, "leaky_relu2": 0.2, "leaky_relu4": 0.4}  # fmt: skip


def activated(x: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """f(x), f'(x) by the kernels."""
    y, d, code = np.full_like(x, NAN), np.ones_like(x), ACTIVATIONS.index(name)
    activate_fwd(x, y, code)
    activate_bwd(x, y, d, code)
    return y, d


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_values(name: str) -> None:
    y, _ = activated(np.array([-0.7, 0.7]), name)
    np.testing.assert_allclose(y, ACTIVATION_VALUES[name], rtol=1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_agree_with_the_reference(name: str) -> None:
    for n, scale in itertools.product(SIZES, SCALES):
        x = scale * np.random.default_rng(n).standard_normal(n)
        for got, exact in zip(activated(x, name), activate_reference(name, x), strict=True):
            np.testing.assert_allclose(got, exact, rtol=1e-13, atol=3e-16)
        x = x.astype(np.float32)
        exact = activate_reference(name, x.astype(np.float64))
        for got, e in zip(activated(x, name), exact, strict=True):
            np.testing.assert_allclose(got, e, rtol=4e-7, atol=3e-7)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_derivatives(name: str) -> None:
    x = np.random.default_rng(5).standard_normal(33)
    weights = np.random.default_rng(6).standard_normal(33)
    d, y = weights.copy(), np.empty_like(x)
    code = ACTIVATIONS.index(name)
    activate_fwd(x, y, code)
    activate_bwd(x, y, d, code)

    def weighted_sum(x):
        y = np.empty_like(x)
        activate_fwd(x, y, code)
        return float(weights @ y)

    finite_differences.check(weighted_sum, x, d)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_derivative_at_zero(name: str) -> None:
    for dtype in (np.float32, np.float64):
        assert activated(np.zeros(1, dtype), name)[1][0] == dtype(AT_ZERO.get(name, 0.0))


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "swish", "elu", "cos"])
def test_activations_do_not_overflow(name: str) -> None:
    x = np.array([-3e38, -1e5, -100.0, 100.0, 1e5, 3e38], np.float32)
    y, d = activated(x, name)
    assert np.isfinite(y).all() and np.isfinite(d).all()


# Dense layer


def dense_case(n: int, m: int, scale: float, dtype):
    r = np.random.default_rng(n + m)
    batch = 5
    shapes = ((batch, n), (n, m), (m,), (batch, m))
    return [(scale * r.standard_normal(s)).astype(dtype) for s in shapes]


@pytest.mark.parametrize(("dtype", "eps"), [(np.float64, 2.0**-53), (np.float32, 2.0**-24)])
def test_dense_layer(dtype, eps) -> None:
    for n, m, scale in itertools.product(SIZES, (1, 10, 33), SCALES):
        x, w, b, dy = dense_case(n, m, scale, dtype)
        y, dx, dw, db = (np.full_like(a, NAN) for a in (dy, x, w, b))
        dense_fwd(x, w, b, y)
        dense_bwd(x, dy, dw, db)
        dense_bwd_input(w, dy, dx)
        x, w, b, dy = (a.astype(np.float64) for a in (x, w, b, dy))
        for got, exact, length in (
            (y, x @ w + b, n + 1),
            (dw, x.T @ dy, 5),
            (db, dy.sum(axis=0), 5),
            (dx, dy @ w.T, m),
        ):
            error = np.linalg.norm(got - exact) / np.linalg.norm(exact)
            assert error <= 2.0 * eps * (2.0 + math.sqrt(length)), (n, m, scale)


def test_gather_picks_scales_and_shifts_rows() -> None:
    examples = np.arange(12, dtype=np.float32)
    x = np.full((3, 4), NAN, np.float32)
    gather_fwd(examples, np.array([2, 0, 2]), np.float32(2.0), np.float32(-1.0), x)
    np.testing.assert_array_equal(x, 2.0 * examples.reshape(3, 4)[[2, 0, 2]] - 1.0)


# Stack of dense layers


def stack_case(widths: tuple[int, ...], dtype: type) -> tuple:
    """params, grad, widths, work beginning with x, and dz of a batch of 4."""
    r, batch, sizes = np.random.default_rng(len(widths)), 4, np.array(widths)
    params = (0.7 * r.standard_normal(stack_size(widths))).astype(dtype)
    work = np.full(batch * stack_units(widths), NAN, dtype)
    work[: batch * widths[0]] = r.standard_normal(batch * widths[0])
    dz = r.standard_normal(batch * widths[-1]).astype(dtype)
    return params, np.full_like(params, NAN), sizes, work, dz


@kernel
def stack_both(params, grad, widths, work, dz, code):
    """Forward, then backward of sum(z_L dz), with the gradient of the input; returns nothing."""
    stack_fwd(params, widths, code, 4, work)
    for i in range(lane(), dz.size, lanes()):
        work[work.size - dz.size + i] = dz[i]
    sync()
    stack_bwd(params, grad, widths, code, 4, work, work[: 4 * widths[0]])


IN_EITHER_PLACE = (TANH, SWISH)  # the gradient overwrites the argument, or the result
STACKS = [(3, 2), (3, 5, 2), (4, 3, 6, 2), (2, 5, 3, 4, 3)]


@pytest.mark.parametrize("widths", STACKS)
def test_stack_gradients(widths: tuple[int, ...]) -> None:
    """Of the parameters and of the input, which is overwritten with its own."""
    for code in IN_EITHER_PLACE:
        params, grad, sizes, work, dz = stack_case(widths, np.float64)
        n, x = 4 * widths[0], work[: 4 * widths[0]].copy()

        def weighted_sum(v: np.ndarray, code=code, sizes=sizes, work=work, dz=dz, n=n) -> float:
            a = np.concatenate([v[v.size - n :], np.full(work.size - n, NAN)])
            stack_fwd(v[: v.size - n].copy(), sizes, code, 4, a)
            return float(a[a.size - dz.size :] @ dz)

        stack_both(params, grad, sizes, work, dz, code)
        at, slope = np.concatenate([params, x]), np.concatenate([grad, work[:n]])
        finite_differences.check(weighted_sum, at, slope)


@pytest.mark.parametrize("widths", STACKS)
def test_stack_does_not_depend_on_the_lanes(widths: tuple[int, ...]) -> None:
    for code in IN_EITHER_PLACE:
        lane_scheduler.check(stack_both, lambda code=code: (*stack_case(widths, np.float32), code))


# Cross-entropy


def loss_and_gradient(logits: np.ndarray, labels, rows) -> tuple[float, np.ndarray]:
    d = logits.copy()
    losses, partials = np.full(len(d), NAN, d.dtype), np.full(32, NAN, d.dtype)
    return float(cross_entropy(d, labels, rows, losses, partials)), d


def cross_entropy_case(batch: int, classes: int, scale: float, dtype):
    r = np.random.default_rng(batch + classes)
    labels = r.integers(0, classes, 300).astype(np.int32)
    rows = r.integers(0, 300, batch)
    return (scale * r.standard_normal((batch, classes))).astype(dtype), labels, rows


@pytest.mark.parametrize(("dtype", "eps"), [(np.float64, 2.0**-53), (np.float32, 2.0**-24)])
def test_cross_entropy(dtype, eps) -> None:
    for batch, classes, scale in itertools.product(SIZES, (2, 10, 33), SCALES):
        logits, labels, rows = cross_entropy_case(batch, classes, scale, dtype)
        loss, d = loss_and_gradient(logits, labels, rows)
        exact, gradient = cross_entropy_reference(logits.astype(np.float64), labels[rows])
        # rounding the difference to the row's maximum moves a logit by up to eps times its size
        bound = 40.0 * eps * (1.0 + np.abs(logits).max())
        assert abs(loss - exact) <= bound
        np.testing.assert_allclose(d, gradient, atol=bound / batch)


def test_cross_entropy_gradient() -> None:
    logits, labels, rows = cross_entropy_case(7, 5, 1.0, np.float64)
    _, d = loss_and_gradient(logits, labels, rows)
    finite_differences.check(
        lambda x: loss_and_gradient(x.reshape(7, 5), labels, rows)[0], logits.ravel(), d.ravel()
    )


def test_cross_entropy_of_a_certain_class_keeps_relative_precision() -> None:
    """Two classes, margin m: loss log(1 + e^-m) and gradient +-e^-m / (1 + e^-m)."""
    for margin in (1.0, 5.0, 20.0, 60.0):
        logits = np.array([[0.0, -margin]], np.float32)
        loss, d = loss_and_gradient(logits, np.zeros(1, np.int32), np.zeros(1, np.int64))
        assert loss == pytest.approx(math.log1p(math.exp(-margin)), rel=4e-7)
        p = 1.0 / (1.0 + math.exp(margin))
        np.testing.assert_allclose(d, [[-p, p]], rtol=4e-7)


def test_cross_entropy_in_closed_form() -> None:
    """Equal logits: log C; gradients of a row sum to 0."""
    labels, rows = np.array([3, 0], np.int32), np.array([1, 0, 0])
    loss, d = loss_and_gradient(np.full((3, 8), 5.0, np.float32), labels, rows)
    assert loss == pytest.approx(math.log(8.0), rel=1e-7)
    expected = np.full((3, 8), 1.0 / 24.0)
    expected[0, 0] -= 1.0 / 3.0
    expected[1:, 3] -= 1.0 / 3.0
    np.testing.assert_allclose(d, expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [NAN, INF])
def test_cross_entropy_of_bad_logits_is_nan(bad: float) -> None:
    for place in range(4):
        logits = np.zeros((2, 4), np.float32)
        logits[1, place] = bad
        loss, _ = loss_and_gradient(logits, np.array([2, 1], np.int32), np.array([0, 1]))
        assert math.isnan(loss), place
