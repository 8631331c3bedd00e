"""Hand-made optimizers: closed forms, scales, and what every registered optimizer must keep."""

import math

import numpy as np
import pytest
from helpers.reference_hand_made import TEXTBOOK

import lopt
from lopt import rng
from lopt.errors import OptimizerError
from lopt.layout import Layout
from lopt.optimizer import MANY, OPTIMIZERS, Optimizer

LAYOUT = Layout((("w", (6, 5)), ("b", (5,)), ("s", ()), ("k", (2, 3, 3, 4)), ("t", (130, 3))))
EXAMPLES = [
    (f"{n}{i}", o) for n, c in sorted(OPTIMIZERS.items()) for i, o in enumerate(c.examples())
]
every = pytest.mark.parametrize("opt", [o for _, o in EXAMPLES], ids=[n for n, _ in EXAMPLES])
# Options under which every term of the update matters within a few steps.
ADAM = {"learning_rate": 0.1, "beta1": 0.7, "beta2": 0.6, "epsilon": 0.2}
HAND_MADE = {
    "sgd": {"learning_rate": 0.3},
    "momentum": {"learning_rate": 0.1, "momentum": 0.7, "total_steps": 5},
    "nesterov": {"learning_rate": 0.1, "momentum": 0.7},
    "rmsprop": {"learning_rate": 0.1, "decay": 0.6, "epsilon": 0.2},
    "adagrad": {"learning_rate": 0.1, "initial_accumulator": 0.3},
    "adam": ADAM,
    "adamw": ADAM | {"weight_decay": 0.3, "total_steps": 5},
    "nadamw": ADAM | {"weight_decay": 0.3},
    "adam8p": ADAM | {"l1": 0.05, "l2": 0.1, "linear_decay": 0.05, "exponential_decay": 0.1},
    "adafactor": {"learning_rate": 0.1, "decay_exponent": 0.5, "epsilon": 1e-3, "clip": 0.9},
    "lion": {"learning_rate": 0.1, "beta1": 0.6, "beta2": 0.3, "weight_decay": 0.2},
}


def run(
    opt: Optimizer, grads: np.ndarray, start: np.ndarray, layout: Layout, dtype: type = np.float32
):
    """Parameters after each gradient, (T, N), and the final state."""
    kernel = opt.entry if dtype is np.float32 else type(opt).core
    theta = opt.init_theta().astype(dtype)
    params, state = start.astype(dtype), opt.init_state(opt.init_theta(), layout).astype(dtype)
    work, path = np.full(opt.work_size(layout), np.nan, dtype), []
    for g in grads:
        assert (
            kernel(theta, params, g.astype(dtype), state, 1.5, 0, opt.opt_data(layout), work) == 0
        )
        path.append(params.copy())
    return np.array(path), state


def random(n: int, purpose: int, scale: float = 1.0) -> np.ndarray:
    return scale * rng.normals(n, rng.stream(7), purpose).astype(np.float64)


@every
def test_theta_and_state_have_the_declared_sizes(opt: Optimizer) -> None:
    theta = opt.init_theta(3)
    assert theta.shape == (opt.theta_layout.size,)
    assert theta.dtype == np.float32
    assert np.isfinite(theta).all()
    np.testing.assert_array_equal(theta, opt.init_theta(3))
    assert opt.init_state(theta, LAYOUT).shape == (opt.state_size(LAYOUT),)
    assert lopt.optimizer(**opt.config()) == opt


@every
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_float32_follows_float64(opt: Optimizer, scale: float) -> None:
    """Movement over five steps, relative to the largest movement of a tensor.

    Learned optimizers see sums of many terms; 1e-3 would miss nothing but rounding (verify allows 2e-3).
    """
    n = LAYOUT.size
    grads = [random(n, 40 + t, scale) for t in range(5)]
    start = random(n, 39)
    low, _ = run(opt, grads, start.astype(np.float32), LAYOUT)
    high, _ = run(opt, grads, start.astype(np.float32), LAYOUT, np.float64)
    moved = high[-1] - start.astype(np.float32)
    error = low[-1].astype(np.float64) - high[-1]
    for name, m in LAYOUT.views(moved).items():
        rounding = 4e-7 * max(1.0, float(np.abs(LAYOUT.views(start)[name]).max()))
        assert np.abs(LAYOUT.views(error)[name]).max() <= 1e-3 * np.abs(m).max() + 5 * rounding


@every
def test_a_validation_call_leaves_params_alone(opt: Optimizer) -> None:
    n = LAYOUT.size
    theta, state = opt.init_theta(), opt.init_state(opt.init_theta(), LAYOUT)
    params, work = (
        random(n, 39).astype(np.float32),
        np.full(opt.work_size(LAYOUT), np.nan, np.float32),
    )
    before, old = params.copy(), state.copy()
    opt.entry(
        theta, params, random(n, 40).astype(np.float32), state, 2.0, 1, opt.opt_data(LAYOUT), work
    )
    np.testing.assert_array_equal(params, before)
    if not opt.uses_valid_loss:
        np.testing.assert_array_equal(state, old)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_optimizers_follow_the_textbook(name: str, scale: float) -> None:
    """Six steps of shrinking gradients: every tensor's path, relative to its largest movement.

    theta is float32, and logs of options are in it: 1e-5 of a movement is rounding.
    """
    opt, n = lopt.optimizer(name, **HAND_MADE[name]), LAYOUT.size
    grads = [random(n, 60 + t, scale * 0.5**t) for t in range(6)]
    start = random(n, 59)
    path, _ = run(opt, grads, start, LAYOUT, np.float64)
    for key, w in LAYOUT.views(start).items():
        wanted = np.array(list(TEXTBOOK[name](opt, w, [LAYOUT.views(g)[key] for g in grads]))) - w
        found = np.array([LAYOUT.views(p)[key] for p in path]) - w
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max(), key


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_optimizers_have_a_rate_and_scale_with_it(name: str) -> None:
    """The first step doubles with the learning rate (weight decay aside: start at 0)."""
    n = LAYOUT.size
    steps = []
    for rate in (1e-3, 2e-3):
        path, _ = run(
            lopt.optimizer(name, learning_rate=rate),
            [random(n, 41)],
            np.zeros(n),
            LAYOUT,
            np.float64,
        )
        steps.append(path[0])
    np.testing.assert_allclose(steps[1], 2 * steps[0], rtol=1e-5)


def descend(opt: Optimizer, eigenvalues: np.ndarray, start: np.ndarray, steps: int) -> np.ndarray:
    """Parameters on the quadratic sum(e x^2) / 2, float64."""
    layout = Layout((("x", start.shape),))
    theta, state = opt.init_theta().astype(np.float64), opt.init_state(opt.init_theta(), layout)
    x, state = start.copy(), state.astype(np.float64)
    work = np.zeros(opt.work_size(layout))
    for _ in range(steps):
        type(opt).core(theta, x, eigenvalues * x, state, 0.0, 0, opt.opt_data(layout), work)
    return x


def test_gradient_descent_is_powers() -> None:
    e, x0 = np.array([0.1, 1.0, 3.0]), np.array([1.0, -2.0, 5.0])
    rate = float(np.exp(np.float64(np.float32(math.log(0.2)))))
    found = descend(lopt.optimizer("sgd", learning_rate=0.2), e, x0, 25)
    np.testing.assert_allclose(found, x0 * (1 - rate * e) ** 25, rtol=1e-12)


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_momentum_is_powers_of_a_matrix(name: str) -> None:
    opt = lopt.optimizer(name, learning_rate=0.05, momentum=0.8)
    theta = opt.init_theta().astype(np.float64)
    a, b = math.exp(theta[0]), -math.expm1(theta[1])
    e, x0 = 1.7, 2.0
    if name == "momentum":  # (x, m) -> (x - a (b m + e x), b m + e x)
        matrix = np.array([[1 - a * e, -a * b], [e, b]])
    else:  # x - a (e x + b (b m + e x))
        matrix = np.array([[1 - a * e * (1 + b), -a * b * b], [e, b]])
    wanted = (np.linalg.matrix_power(matrix, 30) @ [x0, 0.0])[0]
    found = descend(opt, np.array([e]), np.array([x0]), 30)[0]
    assert found == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("name", ["adam", "adamw", "adam8p", "nadamw"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_adams_first_step_is_the_sign(name: str, scale: float) -> None:
    """nadamw's first direction is b1 m + (1 - b1) g = 0.19 g, over 1 - b1 = 0.1; adam8p has 1e-10 inside its root."""
    g = random(20, 42, scale)
    path, _ = run(
        lopt.optimizer(name, epsilon=1e-12), [g], np.zeros(20), Layout((("x", (20,)),)), np.float64
    )
    factor = 1.9 if name == "nadamw" else 1.0
    inside = 1e-10 if name == "adam8p" else 0.0
    np.testing.assert_allclose(path[0], -1e-3 * factor * g / np.sqrt(g * g + inside), rtol=2e-6)


def test_decoupled_decay_shrinks_weights_by_the_rate() -> None:
    x0 = random(10, 43)
    opt = lopt.optimizer("adamw", learning_rate=0.01, weight_decay=0.5)
    path, _ = run(opt, [np.zeros(10)], x0, Layout((("x", (10,)),)), np.float64)
    np.testing.assert_allclose(path[0], x0 * (1 - 0.01 * 0.5), rtol=1e-6)


def test_adagrad_adds_up() -> None:
    g = random(7, 44)
    opt = lopt.optimizer("adagrad", learning_rate=0.1, initial_accumulator=0.5)
    path, _ = run(opt, [g, g, g], np.zeros(7), Layout((("x", (7,)),)), np.float64)
    wanted = -0.1 * sum(g / np.sqrt(0.5 + k * g * g) for k in (1, 2, 3))
    np.testing.assert_allclose(path[-1], wanted, rtol=1e-5)


def test_rmsprop_first_step() -> None:
    g = random(7, 45)
    path, _ = run(lopt.optimizer("rmsprop"), [g], np.zeros(7), Layout((("x", (7,)),)), np.float64)
    np.testing.assert_allclose(path[0], -0.01 * g / (np.sqrt(0.01 * g * g) + 1e-8), rtol=1e-5)


def test_lion_steps_by_the_sign() -> None:
    g = random(9, 46)
    path, _ = run(
        lopt.optimizer("lion", learning_rate=0.25), [g, -3 * g], np.zeros(9), Layout((("x", (9,)),))
    )
    np.testing.assert_allclose(path[0], -0.25 * np.sign(g), rtol=1e-6)
    np.testing.assert_allclose(path[1], 0.0, atol=1e-6)  # 0.9 * 0.01 g - 0.3 g: the sign has turned


def test_adafactor_is_exact_when_squares_have_rank_one() -> None:
    """g_ij^2 = r_i c_j: the factored moment equals g^2, so every step is the sign, of RMS 1."""
    r, c = np.exp(random(130, 47)), np.exp(random(3, 48))
    sign = np.sign(random(390, 49)).reshape(130, 3)
    g = (sign * np.sqrt(np.outer(r, c))).reshape(-1)
    opt = lopt.optimizer("adafactor", learning_rate=0.1)
    path, _ = run(opt, [g], np.zeros(390), Layout((("x", (130, 3)),)), np.float64)
    np.testing.assert_allclose(path[0], -0.1 * sign.reshape(-1), rtol=1e-6)


def test_adafactor_clips_the_rms_of_a_step() -> None:
    """A gradient that grows tenfold gives u = g / sqrt(v) above RMS 1, clipped to it."""
    g = random(12, 50)
    opt = lopt.optimizer("adafactor", learning_rate=1.0, decay_exponent=0.05)
    path, _ = run(opt, [g, 10 * g], np.zeros(12), Layout((("x", (12,)),)), np.float64)
    assert np.sqrt(np.mean((path[1] - path[0]) ** 2)) == pytest.approx(1.0, rel=1e-6)


def test_adam8p_decays_to_a_standstill() -> None:
    opt = lopt.optimizer("adam8p", linear_decay=0.25)
    path, _ = run(opt, [np.ones(3)] * 6, np.zeros(3), Layout((("x", (3,)),)), np.float64)
    steps = np.abs(np.diff(path[:, 0], prepend=0.0))
    np.testing.assert_allclose(
        steps, 1e-3 * np.array([1.0, 0.75, 0.5, 0.25, 0.0, 0.0]), rtol=1e-5, atol=1e-12
    )


@pytest.mark.parametrize(
    ("name", "options"), [("adam", {}), ("momentum", {"learning_rate": 1e-3, "momentum": 0.0})]
)
def test_a_cosine_decay_ends_at_a_standstill(name: str, options: dict) -> None:
    """A gradient of 1 that stays the same moves Adam, and momentum without memory, by the learning rate."""
    opt = lopt.optimizer(name, total_steps=4, **options)
    path, _ = run(opt, [np.ones(3)] * 6, np.zeros(3), Layout((("x", (3,)),)), np.float64)
    steps = np.abs(np.diff(path[:, 0], prepend=0.0))
    falling = (1 + np.cos(np.pi * np.array([0, 1, 2, 3, 4, 4]) / 4)) / 2
    np.testing.assert_allclose(steps, 1e-3 * falling, rtol=1e-5, atol=1e-12)
    for refused in ("adamw", "nesterov"):
        with pytest.raises(OptimizerError, match="total_steps must be 0 to 2"):
            lopt.optimizer(refused, total_steps=-1)


def test_many_parameters_step_as_few_do() -> None:
    """From 20,000 parameters on arrays reach the kernel another way; the bits are the same."""
    opt, n = lopt.optimizer("adam"), MANY + 1
    x = np.linspace(-1.0, 1.0, n, dtype=np.float32)
    params, halves = {"x": x}, ({"x": x[: n // 2]}, {"x": x[n // 2 :]})
    whole, _ = opt.update(params, params, opt.init(params))
    parts = [opt.update(half, half, opt.init(half))[0]["x"] for half in halves]
    np.testing.assert_array_equal(whole["x"], np.concatenate(parts))
    assert abs(whole["x"] - x).max() == pytest.approx(1e-3, rel=1e-3)


def test_adam8p_penalties_pull_towards_zero() -> None:
    opt = lopt.optimizer("adam8p", l1=0.1, l2=0.2)
    x = np.array([2.0, -3.0])
    _, state = run(opt, [np.zeros(2)], x, Layout((("x", (2,)),)), np.float64)
    np.testing.assert_allclose(state[:2], 0.1 * (2 * 0.2 * x + 0.1 * np.sign(x)), rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["momentum", "nesterov", "rmsprop", "adam", "adamw", "nadamw", "lion"]
)
def test_no_subnormals_after_long_silence(name: str) -> None:
    """1,500 zero gradients after one: accumulators end at exactly 0 or far above the subnormal range."""
    opt = lopt.optimizer(name)
    _, state = run(opt, [np.ones(4)] + [np.zeros(4)] * 1500, np.zeros(4), Layout((("x", (4,)),)))
    small = np.abs(state[(state != 0)])
    assert small.size == 0 or small.min() > 1e-31


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("adm", {}, "did you mean 'adam'"),
        ("adam", {"learning_rat": 1.0}, "did you mean 'learning_rate'"),
        ("adam", {"learning_rate": -1.0}, "learning_rate must be positive"),
        ("adam", {"beta1": 1.0}, r"beta1 must be in \[0, 1\)"),
        ("anchored", {"rate": "a"}, "^optimizer 'anchored': rate = 'a', valid: a number$"),
        ("adam", {"total_steps": 10.0}, "total_steps = 10.0, valid: an integer"),
        ("adam", {"total_steps": True}, "total_steps = True, valid: an integer"),
        ("hierarchical", {"decays": (0.5, "x")}, r"decays\[1\] = 'x', valid: a number"),
        ("hierarchical", {"mlp_hidden": 0}, "mlp_hidden"),
        ("hierarchical", {"valid_before_first": "none"}, "valid_before_first"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict, words: str) -> None:
    with pytest.raises(OptimizerError, match=words):
        lopt.optimizer(name, **options)
