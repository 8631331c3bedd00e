"""Quadratic, two-dimensional and logistic tasks against what is known about them in closed form."""

import json
import math

import numpy as np
import pytest
from helpers import lane_scheduler
from helpers.kernel_arguments import SCRATCH, task_arguments
from scipy.optimize import minimize
from scipy.stats import beta, kstest

from lopt import rng, tasks  # noqa: F401 - importing registers
from lopt.errors import TaskError
from lopt.task import OUTER_VALID, TRAIN, Task, TaskData, task
from lopt.tasks.functions2d import FUNCTIONS, Function2D
from lopt.tasks.logistic import Logistic
from lopt.tasks.quadratic import EIGEN, FLOOR, Quadratic, eigen_noise_product, mirror_vectors

STREAM = rng.stream(11)
NO_ROWS = np.zeros(1, np.int64)


def evaluate(t: Task, x, stream=STREAM, split: int = TRAIN, step: int = 0):
    """Loss and gradient by the compiled float32 kernel."""
    x = np.asarray(x, np.float32)
    grad = np.full_like(x, np.nan)
    work = np.full(t.work_size(1), np.nan, np.float32)
    return t.entry(x, grad, t.arrays, NO_ROWS, stream, split, step, work, 1), grad


def hessian(t: Quadratic) -> np.ndarray:
    """2 c A^T A, float64."""
    a = t.draw_matrix()
    return 2.0 * t.scale * a.T @ a


# Quadratics


@pytest.mark.parametrize("dims", [1, 2, 31, 33])
def test_gradient_descent_contracts_by_powers_of_one_minus_step_times_eigenvalue(dims: int) -> None:
    t = Quadratic(dims=dims, condition=50.0, seed=3)
    eigenvalues, basis = np.linalg.eigh(hessian(t))
    rate, steps = 0.7, 40
    x = start = t.init(STREAM)
    for _ in range(steps):
        x = x - np.float32(rate) * evaluate(t, x)[1]
    expected = (1.0 - rate * eigenvalues) ** steps * (basis.T @ start)
    np.testing.assert_allclose(basis.T @ x, expected, rtol=0, atol=3e-6 * abs(start).max())
    wrong = (1.0 - rate * eigenvalues) ** (steps + 1) * (basis.T @ start)
    assert abs(basis.T @ x - wrong).max() > 1e-4


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e4])
def test_the_hessian_has_log_spaced_eigenvalues_up_to_one(condition: float) -> None:
    eigenvalues = np.linalg.eigvalsh(hessian(Quadratic(dims=7, condition=condition)))
    np.testing.assert_allclose(eigenvalues, np.geomspace(1.0 / condition, 1.0, 7), rtol=1e-9)


def test_the_basis_is_not_that_of_the_coordinates() -> None:
    h = hessian(Quadratic(dims=6, condition=100.0))
    assert abs(h - np.diag(np.diag(h))).max() > 0.05


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_loss_and_gradient_without_noise(scale: float) -> None:
    """c x^T A^T A x and its gradient; for the log c log(q + 1e-8) and 2 c A^T A x / (q + 1e-8)."""
    x = scale * rng.normals(9, STREAM, rng.INIT).astype(np.float64)
    for c in (1e-3, 1.0, 512.0):
        plain = Quadratic(dims=9, matrix=("normal", 0.5, 1.0), scale=c)
        log = Quadratic(dims=9, matrix=("normal", 0.5, 1.0), scale=c, output="log")
        u = plain.draw_matrix() @ x
        q, g = u @ u, 2.0 * c * plain.draw_matrix().T @ u
        loss, grad = evaluate(plain, x)
        assert loss == pytest.approx(c * q, rel=1e-6)
        np.testing.assert_allclose(grad, g, rtol=0, atol=2e-6 * abs(g).max())
        loss, grad = evaluate(log, x)
        assert loss == pytest.approx(c * math.log(q + FLOOR), rel=1e-6, abs=1e-6 * c)
        np.testing.assert_allclose(grad, g / (q + FLOOR), rtol=0, atol=2e-6 * abs(g).max() / q)


@pytest.mark.parametrize("t", Quadratic.examples(), ids=lambda t: t.name)
def test_zero_is_the_minimum_whatever_the_noise(t: Quadratic) -> None:
    loss, grad = evaluate(t, np.zeros(t.dims))
    assert loss == pytest.approx(t.lowest_loss, rel=1e-6)
    assert (grad == 0.0).all()
    assert evaluate(t, t.init(STREAM))[0] > t.lowest_loss


NOISES = [0.3, ("uniform", -0.2, 0.3), ("linspace_eigen", 0.1, 0.4), ("logspace_eigen", 1e-2, 1.0)]


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_noise_is_fresh_at_every_address_and_repeats_at_the_same(noise) -> None:
    t = Quadratic(dims=6, noise=noise)
    x = t.init(STREAM)
    addresses = [
        (STREAM, TRAIN, 0), (STREAM, TRAIN, 1), (STREAM, OUTER_VALID, 0),
        (rng.stream(11, outer=1), TRAIN, 0), (rng.stream(11, pair=1), TRAIN, 0),
        (rng.stream(12), TRAIN, 0),
    ]  # fmt: skip
    losses = [evaluate(t, x, *address)[0] for address in addresses]
    assert len(set(losses)) == len(addresses)
    assert losses == [evaluate(t, x, *address)[0] for address in addresses]


@pytest.mark.parametrize(
    ("noise", "mean", "std"),
    [
        (0.3, 0.0, 0.3),
        (("normal", 0.5, 0.2), 0.5, 0.2),
        (("uniform", -0.2, 0.7), 0.25, 0.9 / math.sqrt(12.0)),
    ],
)
def test_noise_on_the_entries_has_its_law(noise, mean: float, std: float) -> None:
    """E |(A + N) e_0|^2 = |a_0 + mean|^2 + n std^2 over 4000 steps, within 5 standard errors."""
    t = Quadratic(dims=8, noise=noise)
    column = t.draw_matrix()[:, 0]
    losses = np.array([evaluate(t, np.eye(8)[0], step=s)[0] for s in range(4000)])
    expected = ((column + mean) ** 2).sum() + 8 * std**2
    assert abs(losses.mean() - expected) < 5.0 * losses.std() / math.sqrt(losses.size)
    assert abs(losses.mean() - (column**2).sum()) > 10.0 * losses.std() / math.sqrt(losses.size)


def eigen_noise(n: int, spectrum, step: int) -> np.ndarray:
    """The noise matrix of an `_eigen` law, column by column through the kernels."""
    mirrors = np.empty(n * (n + 1) // 2 - 1)
    work = np.full(2 * n + 32, np.nan)
    mirror_vectors(mirrors, n, STREAM, rng.NOISE, step, work[:32])
    columns = np.zeros((n, n))
    for x, out in zip(np.eye(n), columns, strict=True):
        eigen_noise_product(x, out, np.asarray(spectrum, np.float64), mirrors, work)
    return columns


@pytest.mark.parametrize("n", [1, 2, 5, 33])
def test_eigen_noise_is_symmetric_with_its_spectrum(n: int) -> None:
    spectrum = np.linspace(0.1, 3.0, n)
    noise = eigen_noise(n, spectrum, step=4)
    np.testing.assert_allclose(noise, noise.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.eigvalsh(noise), spectrum, rtol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_basis_of_eigen_noise_is_uniform_on_the_sphere(n: int) -> None:
    """With spectrum (1, 0, ...) entry (i, i) is the square of a coordinate of a uniform unit
    vector: Beta(1/2, (n - 1)/2) for every i.  2000 draws, false alarm 1e-5 for each coordinate:
    a distribution function that is off by 0.06 is seen."""
    diagonals = np.array([np.diag(eigen_noise(n, np.eye(n)[0], s)) for s in range(2000)])
    law = beta(0.5, 0.5 * (n - 1))
    for values in diagonals.T:
        assert kstest(values, law.cdf).pvalue > 1e-5
    assert kstest(diagonals[:, 0], beta(0.5, 0.5 * n).cdf).pvalue < 1e-5


def test_eigen_noise_needs_all_its_barriers() -> None:
    """34 elements: more than the partial sums, so that lanes read what others wrote."""
    t = Quadratic(dims=34, noise=("linspace_eigen", 0.1, 0.3))
    lane_scheduler.check(
        Quadratic.core, task_arguments(t), scratch=(SCRATCH,), lane_counts=(1, 3, 7)
    )


def test_starting_points_follow_their_law() -> None:
    normal = Quadratic(dims=3000, start=("normal", 2.0, 0.5)).init(STREAM)
    assert kstest(normal, "norm", (2.0, 0.5)).pvalue > 1e-6
    uniform = Quadratic(dims=3000, start=("uniform", -1.0, 3.0)).init(STREAM)
    assert kstest(uniform, "uniform", (-1.0, 4.0)).pvalue > 1e-6
    assert (Quadratic().init(STREAM) != Quadratic().init(rng.stream(12))).all()


def test_the_matrix_is_a_function_of_the_seed() -> None:
    law = ("uniform", -1.0, 2.0)
    a, b, c = (Quadratic(dims=40, matrix=law, seed=s).draw_matrix() for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).mean() > 0.99
    assert kstest(a.reshape(-1), "uniform", (-1.0, 3.0)).pvalue > 1e-6


def test_the_sampler_repeats_the_published_draws() -> None:
    t = Quadratic.sample(0)
    assert t.matrix == ("normal", 1.1227949188291289, 1.7158912352455136)
    assert t.start == ("uniform", -1.8225890049582145, 1.4068815603750662)
    assert (t.output, t.dims, t.seed) == ("identity", 18, 48600)
    assert t.scale == pytest.approx(512.0378720005683, rel=1e-15)
    assert t.noise == ("linspace_eigen", 1.5855328257845025, 6.874482023313547)
    assert t.arrays.sizes.tolist() == [18, EIGEN, 0]


def test_the_samples_have_the_published_frequencies() -> None:
    """Of 1000: dims at 10, 50, 90 % are 4, 67, 1188; 55 % have noise and 50 % the log."""
    samples = [Quadratic.sample(s) for s in range(1000)]
    dims = np.quantile([t.dims for t in samples], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(dims, [4, 67, 1188], rtol=0.005)
    assert np.mean([t.noise_law is not None for t in samples]) == pytest.approx(0.55, abs=0.006)
    assert np.mean([t.output == "log" for t in samples]) == pytest.approx(0.50, abs=0.006)


# Functions of two variables


MINIMA = {
    "bowl": [(0.0, 0.0)],
    "rosenbrock": [(1.0, 1.0)],
    "ackley": [(0.0, 0.0)],
    "beale": [(3.0, 0.5)],
    "styblinski_tang": [(-2.903534027771177, -2.903534027771177)],
    "matyas": [(0.0, 0.0)],
    "branin": [(-math.pi, 12.275), (math.pi, 2.275), (3.0 * math.pi, 2.475)],
    "michalewicz": [(2.1853119617, 0.5 * math.pi)],
    "logsumexp": [(-0.5 * math.log(2.0), 0.0)],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_lowest_value_is_at_the_known_minimum(name: str) -> None:
    t = Function2D(name)
    for minimum in MINIMA[name]:
        loss, grad = evaluate(t, minimum)
        assert loss == pytest.approx(t.lowest_loss, abs=1e-9)
        assert abs(grad).max() < 1e-4


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_lower_value_is_found_by_descent(name: str) -> None:
    """From 30 starting points of the task's own law; at least one of them ends at the minimum."""
    t = Function2D(name)
    found = [
        minimize(
            lambda x: t.reference(x, NO_ROWS, STREAM, TRAIN, 0),
            t.init(rng.stream(k)).astype(np.float64),
            jac=True,
            method="L-BFGS-B",
        ).fun
        for k in range(30)
    ]
    assert min(found) >= t.lowest_loss - 1e-9
    if name != "ackley":  # hundreds of local minima
        assert min(found) == pytest.approx(t.lowest_loss, abs=1e-6)


POINTS = {
    "bowl": ((3.0, 4.0), 12.5, (3.0, 4.0)),
    "rosenbrock": ((-1.0, 2.0), 104.0, (396.0, 200.0)),
    "beale": ((1.0, 1.0), 14.203125, (0.0, 27.75)),
    "styblinski_tang": ((1.0, -1.0), 65.0, (-11.5, 16.5)),
    "matyas": ((1.0, 2.0), 0.34, (-0.44, 0.56)),
    "branin": ((0.0, 6.0), 20.0 - 10.0 / (8.0 * math.pi), (0.0, 0.0)),
    "michalewicz": ((math.pi, math.pi), 2.0, (math.sin(math.pi**2 / math.pi) ** 10, 0.0)),
    "logsumexp": ((0.0, 0.0), math.log(3.0 * math.exp(-0.1) + 1.0), (1 / (3 + math.exp(0.1)), 0)),
    "ackley": ((1.0, 1.0), 20.0 * -math.expm1(-0.2), (2.0 * math.exp(-0.2), 2.0 * math.exp(-0.2))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_worked_out_by_hand(name: str) -> None:
    point, value, gradient = POINTS[name]
    loss, grad = evaluate(Function2D(name), point)
    assert loss == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(grad, gradient, rtol=1e-5, atol=1e-5)


def test_the_bowl_is_turned_and_stretched() -> None:
    """f = v^T R^T diag(condition, 1) R v / 2: curvatures 1 and the condition, axes at the angle."""
    angle, condition = 0.4, 100.0
    t = Function2D("bowl", condition=condition, angle=angle)
    steep, flat = (math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))
    assert evaluate(t, steep)[0] == pytest.approx(0.5 * condition, rel=1e-6)
    assert evaluate(t, flat)[0] == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_allclose(evaluate(t, steep)[1], condition * np.array(steep), rtol=1e-6)


def test_ackley_has_a_finite_gradient_at_its_corner_and_keeps_its_digits_beside_it() -> None:
    loss, grad = evaluate(Function2D("ackley"), (0.0, 0.0))
    assert loss == 0.0
    assert grad.tolist() == [0.0, 0.0]
    for x in (1e-30, 1e-12, 1e-6):  # slope 2 sqrt(2) along x
        loss, grad = evaluate(Function2D("ackley"), (x, 0.0))
        assert loss == pytest.approx(2.0 * math.sqrt(2.0) * x, rel=1e-4)
        assert grad[0] == pytest.approx(2.0 * math.sqrt(2.0), rel=1e-4)


def test_logsumexp_does_not_overflow() -> None:
    assert evaluate(Function2D("logsumexp"), (0.0, 1e3))[0] == pytest.approx(2999.9)
    assert evaluate(Function2D("logsumexp"), (1e3, 0.0))[0] == pytest.approx(
        999.9 + math.log(2.0), rel=1e-7
    )


# Task set specification 4.1: ends of the intervals of x and y; none: standard normal
BOXES = {
    "rosenbrock": (-5.0, 10.0, -5.0, 10.0),
    "ackley": (-32.768, 32.768, -32.768, 32.768),
    "beale": (-4.5, 4.5, -4.5, 4.5),
    "styblinski_tang": (-5.0, 5.0, -5.0, 5.0),
    "matyas": (-10.0, 10.0, -10.0, 10.0),
    "branin": (-5.0, 10.0, 0.0, 15.0),
    "michalewicz": (0.0, math.pi, 0.0, math.pi),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_starting_points_fill_the_published_box(name: str) -> None:
    points = np.array([Function2D(name).init(rng.stream(k)) for k in range(400)])
    for i, values in enumerate(points.T):
        if name not in BOXES:
            assert kstest(values, "norm").pvalue > 1e-5
            continue
        low, high = BOXES[name][2 * i : 2 * i + 2]
        assert kstest(values, "uniform", (low, high - low)).pvalue > 1e-5
        assert low <= values.min() < low + 0.03 * (high - low)
        assert high - 0.03 * (high - low) < values.max() <= high


def test_a_fixed_start_is_the_same_on_every_run() -> None:
    fixed = [Function2D("ackley", fixed_start=True).init(rng.stream(k)) for k in range(3)]
    assert fixed[0].tolist() == fixed[1].tolist() == fixed[2].tolist()
    assert (fixed[0] != Function2D("ackley").init(rng.stream(0))).all()


# Logistic regression


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_the_penalty_is_half_l2_times_the_squared_weights(scale: float) -> None:
    """Its gradient is l2 w on the weights and nothing on the biases."""
    losses, grads, l2 = [], [], 0.25
    for t in (Logistic(l2=0.0, batch_size=4), Logistic(l2=l2, batch_size=4)):
        params = scale * rng.normals(t.layout.size, STREAM, rng.TASK).astype(np.float64)
        data = TaskData(t.arrays.floats.astype(np.float64), *t.arrays[1:3], np.array([t.l2]))
        grad, work = np.full_like(params, np.nan), np.full(t.work_size(4), np.nan)
        losses.append(t.core(params, grad, data, np.arange(4), STREAM, TRAIN, 0, work, 1))
        grads.append(grad)
    w, b = t.layout.views(params).values()
    penalty, pull = 0.5 * l2 * (w**2).sum(), t.layout.views(grads[1] - grads[0])
    assert losses[1] - losses[0] == pytest.approx(penalty, rel=1e-5, abs=1e-15 * losses[0])
    np.testing.assert_allclose(pull["w"], l2 * w, rtol=1e-9, atol=1e-15)
    assert (pull["b"] == 0.0).all() and b.size == 10


# Both


EXAMPLES = [*Quadratic.examples(), *Function2D.examples(), *map(Quadratic.sample, range(4))]


@pytest.mark.parametrize("t", EXAMPLES, ids=lambda t: t.name)
def test_a_config_rebuilds_the_task_through_json(t: Task) -> None:
    assert task(**json.loads(json.dumps(t.config()))) == t


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("quadratic", {"dims": 0}, "dims = 0, valid: at least 1; nearest: 1"),
        ("quadratic", {"seed": -1}, "seed = -1, .*nearest: 0"),
        ("quadratic", {"condition": 0.5}, "at least 1, got 0.5"),
        ("quadratic", {"scale": 0.0}, "scale must be positive"),
        ("quadratic", {"noise": -1.0}, "noise must be"),
        ("quadratic", {"output": "lag"}, "did you mean 'log'"),
        ("quadratic", {"matrix": ("normel", 0.0, 1.0)}, "did you mean 'normal'"),
        ("quadratic", {"matrix": ("normal", 0.0)}, r"matrix must be \(law, number, number\)"),
        ("quadratic", {"noise": ("logspace_eigen", 0.0, 1.0)}, "noise: a log-spaced spectrum"),
        ("quadratic", {"start": ("linspace_eigen", 0.0, 1.0)}, "unknown law of start"),
        ("quadratic", {"start": ("uniform", 2.0, 1.0)}, "upper end 1.0 is below the lower end 2.0"),
        ("quadratic", {"matrix": ("normal", 0.0, -1.0)}, "standard deviation must be at least 0"),
        ("function2d", {"function": "rosenbrok"}, "did you mean 'rosenbrock'"),
        ("function2d", {"function": "bowl", "condition": -1.0}, "condition must be positive"),
    ],
)
def test_wrong_options_are_refused(family: str, options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(family, **options)
