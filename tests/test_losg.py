"""The losg family against closed forms, its published sampler, and its traps."""

import collections
import json
import math

import numpy as np
import pytest
from helpers import finite_differences
from helpers.finite_differences import GradientError
from scipy.stats import kstest

from lopt import rng
from lopt.errors import TaskError
from lopt.task import OUTER_VALID, TRAIN, TaskData, task
from lopt.tasks import losg_data, sample_task
from lopt.tasks.losg import Losg
from lopt.tasks.losg_core import KINDS

STREAM = rng.stream(7)
DATA_KINDS = [k for k in KINDS if "samples" in KINDS[k]]
CLASSIFIERS = ("fully_connected", "sparse_softmax_regression")
KIND_EXAMPLES = [Losg(k, samples=30) if k in DATA_KINDS else Losg(k) for k in KINDS]


def evaluate(t: Losg, x, rows=None, stream=STREAM, split=TRAIN, step=0, dtype=np.float64):
    """Loss and gradient by the kernel; all rows of the data by default."""
    x = np.asarray(x, dtype)
    grad = np.full_like(x, np.nan)
    rows = np.arange(*t.splits[TRAIN]) if rows is None else np.asarray(rows, np.int64)
    work = np.full(t.work_size(rows.size), np.nan, dtype)
    floats, ints, sizes, hyper = t.arrays
    data = TaskData(floats.astype(dtype), ints, sizes, hyper.astype(dtype))
    loss = Losg.core(x, grad, data, rows, stream, split, step, work, 1)
    return float(loss), grad


def matrix(t: Losg) -> tuple[np.ndarray, np.ndarray]:
    """W and y of a quadratic or a norm."""
    floats, n = t.arrays.floats.astype(np.float64), t.dims
    return floats[: n * n].reshape(n, n), floats[n * n :]


def rows_of(t: Losg) -> np.ndarray:
    """The data, (rows, features)."""
    return t.arrays.floats.astype(np.float64).reshape(t.arrays.ints.size, -1)


def by_kind(function):
    return pytest.mark.parametrize("t", KIND_EXAMPLES, ids=lambda t: t.kind)(function)


# Values worked out by hand


def test_quadratic_is_solved_by_its_linear_system() -> None:
    t = Losg("quadratic", dims=20, seed=5)
    w, y = matrix(t)
    loss, grad = evaluate(t, np.linalg.solve(w, y))
    assert loss < 1e-24
    assert abs(grad).max() < 1e-11
    loss, grad = evaluate(t, np.zeros(20))
    assert loss == pytest.approx(0.5 * y @ y)
    np.testing.assert_allclose(grad, -w.T @ y)


def test_largest_curvature_of_the_quadratic_is_four_times_its_size() -> None:
    """W^T W of an n x n normal matrix: Marchenko-Pastur edge 4n, fluctuation n^(1/3)."""
    n = 300
    t = Losg("quadratic", dims=n)
    _, start = evaluate(t, np.zeros(n))
    v = np.ones(n)
    for _ in range(60):  # power iteration on gradients
        v /= np.linalg.norm(v)
        v = evaluate(t, v)[1] - start
    assert np.linalg.norm(v) == pytest.approx(4.0 * n, rel=0.08)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_norm_is_the_norm_of_the_residual(p: float) -> None:
    t = Losg("norm", dims=9, power=p)
    w, y = matrix(t)
    x = t.init(STREAM).astype(np.float64)
    loss, _ = evaluate(t, x)
    assert loss == pytest.approx(np.linalg.norm(w @ x - y, p), rel=1e-5)
    assert evaluate(t, np.linalg.solve(w, y))[0] == pytest.approx(t.lowest_loss, rel=1e-6)


def test_euclidean_norm_is_the_root_of_twice_the_quadratic() -> None:
    a, b = Losg("norm", dims=12, power=2.0, seed=3), Losg("quadratic", dims=12, seed=3)
    x = a.init(STREAM).astype(np.float64)
    (norm, slope), (half, grad) = evaluate(a, x), evaluate(b, x)
    assert norm == pytest.approx(math.sqrt(2.0 * half), rel=1e-6)
    np.testing.assert_allclose(slope, grad / norm, rtol=1e-4)


def test_dependency_chain_by_hand() -> None:
    t = Losg("dependency_chain", dims=2)
    loss, grad = evaluate(t, [1.0, 2.0, 3.0])
    a, b = 1.0 + 1e-6, 4.0 + 1e-6
    assert loss == pytest.approx(2.0 + 4.0 / a + 9.0 / b, rel=1e-14)
    expected = [4.0 - 8.0 / a**2, 4.0 / a - 36.0 / b**2, 6.0 / b]
    np.testing.assert_allclose(grad, expected, rtol=1e-14)
    assert evaluate(t, np.zeros(3))[0] == t.lowest_loss == 0.0
    assert (evaluate(t, np.zeros(3))[1] == 0.0).all()
    assert evaluate(t, [0.0, 1.0, 0.0])[0] == pytest.approx(1e6)


@pytest.mark.parametrize(
    ("x", "loss", "grad"),
    [
        ([1.0, 2.0, -4.0], 15.0, [-2.0, 0.0, -8.0]),
        ([0.5, 2.0, -2.0, 2.0], 6.0, [-16.0, 4.0 / 3.0, -4.0 / 3.0, 4.0 / 3.0]),
        ([3.0, 1.0, -1.0], 8.0, [6.0, -1.0, 1.0]),
        ([2.0, 2.0], 2.25, [2.0 - 0.125, 2.0 - 0.125]),
        ([1.0, -1.0, 1.0], 0.0, [0.0, 0.0, 0.0]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_min_max_well_by_hand_with_ties_shared(x, loss: float, grad, dtype) -> None:
    t = Losg("min_max_well", dims=len(x))
    found, slope = evaluate(t, x, dtype=dtype)
    assert found == pytest.approx(loss, abs=2e-12)
    assert found >= t.lowest_loss
    np.testing.assert_allclose(slope, grad, rtol=1e-6, atol=1e-15)


def test_sum_of_quadratics_by_hand() -> None:
    """A batch has its minimum -|sum d|^2 / B at the mean; all the data have theirs at 0."""
    t = Losg("sum_of_quadratics", dims=6, samples=41, batch_size=3)
    d = rows_of(t)
    assert len(d) == 40
    rows = [4, 4, 17]
    loss, grad = evaluate(t, d[rows].mean(axis=0), rows)
    assert loss == pytest.approx(-(d[rows].sum(axis=0) ** 2).sum() / 3.0)
    assert abs(grad).max() < 1e-13
    assert loss >= t.lowest_loss
    assert evaluate(t, np.zeros(6), rows)[0] == 1e-12
    loss, grad = evaluate(t, np.ones(6))
    assert loss == pytest.approx(40 * 6)
    np.testing.assert_allclose(grad, 80.0, rtol=1e-12)


def test_projection_quadratic_by_hand() -> None:
    t = Losg("projection_quadratic", dims=5, samples=20)
    d, x = rows_of(t), np.array([1.0, -2.0, 0.0, 3.0, 0.5])
    loss, grad = evaluate(t, x)
    assert loss == pytest.approx(((x * d) ** 2).sum())
    np.testing.assert_allclose(grad, 2.0 * x * (d**2).sum(axis=0))
    assert evaluate(t, np.zeros(5))[0] == t.lowest_loss == 0.0


def test_outward_snake_by_hand() -> None:
    """At 0 no direction leads outward: that term has no gradient there.  On the path, x_{i+1} =
    pi cos x_i, only the pull is left."""
    t = Losg("outward_snake", dims=4, samples=10)
    d = rows_of(t)
    q, pull = (d**2).sum(axis=0), d[:, 0].sum()
    loss, grad = evaluate(t, np.zeros(4))
    assert loss == pytest.approx(1e6 * pull + math.pi**2 * q[1:].sum())
    np.testing.assert_allclose(grad, [0.0, *(-2.0 * math.pi * q[1:])], rtol=1e-12)
    x = np.array([0.3, 0.0, 0.0, 0.0])
    for i in range(3):
        x[i + 1] = math.pi * math.cos(x[i])
    loss, grad = evaluate(t, x)
    r = np.linalg.norm(x)
    assert loss == pytest.approx(pull / (r + 1e-6))
    np.testing.assert_allclose(grad, -pull * x / (r * (r + 1e-6) ** 2), atol=1e-12)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classifiers_at_zero(kind: str) -> None:
    """Loss log 2; only the bias of logit 0 has a gradient, 1/2 - the frequency of label 1."""
    t = Losg(kind, samples=25, seed=2)
    loss, grad = evaluate(t, np.zeros(t.layout.size))
    assert loss == pytest.approx(math.log(2.0), rel=1e-14)
    parts = t.layout.views(grad)
    last = parts.pop("b1" if kind == "fully_connected" else "b0")
    np.testing.assert_allclose(last, [0.5 - t.arrays.ints.mean(), 0.0], atol=1e-15)
    assert all((g == 0.0).all() for g in parts.values())


def test_classifier_penalty_is_a_mean_over_tensors_with_biases() -> None:
    """With a certain and right first logit only the penalty is left, for every tensor alike."""
    t = Losg("fully_connected", features=1, hidden=(), samples=1)
    label = int(t.arrays.ints[0])
    x = np.array([0.0, 7.0, 200.0 if label else -200.0, -3.0])  # w (1, 2), b (2,)
    loss, grad = evaluate(t, x)
    assert loss == pytest.approx(1e-3 * (49.0 + 40009.0) / 2.0, rel=1e-14)
    np.testing.assert_allclose(grad, 1e-3 * x, rtol=1e-12, atol=1e-80)


def test_sparse_softmax_sums_five_embeddings() -> None:
    t = Losg("sparse_softmax_regression", features=1, samples=30)
    counts, y = rows_of(t), t.arrays.ints
    assert (counts.sum(axis=1) == 5.0).all()
    e, v, b = np.array([0.3, -0.2]), 1.5, 0.1
    x = np.array([*e, v, 0.0, b, 0.0])
    z = v * (counts @ e) + b
    expected = np.where(y == 1, np.logaddexp(0.0, -z), np.logaddexp(0.0, z)).mean()
    assert evaluate(t, x)[0] == pytest.approx(
        expected + 1e-3 * (0.13 + 2.25 + 0.01) / 3.0, rel=1e-14
    )


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_batches_are_sums_except_in_classifiers(kind: str) -> None:
    t = Losg(kind, samples=10)
    x, rows = t.init(STREAM).astype(np.float64), [0, 3, 5]
    once, twice = evaluate(t, x, rows)[0], evaluate(t, x, rows * 2)[0]
    assert twice == pytest.approx(once if kind in CLASSIFIERS else 2.0 * once, rel=1e-11)


@pytest.mark.parametrize("name", ["rosenbrock", "ackley", "branin"])
def test_test_functions_are_those_of_function2d(name: str) -> None:
    a = Losg("optimization_test_problems", function=name)
    b = task("function2d", function=name)
    assert a.lowest_loss == b.lowest_loss
    np.testing.assert_array_equal(a.init(STREAM), b.init(STREAM))
    loss, grad = evaluate(a, [1.5, -0.5])
    expected = b.reference(np.array([1.5, -0.5]), np.zeros(1, np.int64), STREAM, TRAIN, 0)
    assert loss == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(grad, expected[1], rtol=1e-12)


def test_ackley_has_no_gradient_at_its_corner() -> None:
    loss, grad = evaluate(Losg("optimization_test_problems", function="ackley"), [0.0, 0.0])
    assert loss == 0.0
    assert (grad == 0.0).all()


# What the registry's gradient check is worth on this family


@by_kind
def test_a_wrong_gradient_is_found_in_every_kind(t: Losg) -> None:
    """One entry off by a thousandth of the gradient's length."""
    x, rows = t.init(STREAM).astype(np.float64), [0]
    _, grad = evaluate(t, x, rows)
    finite_differences.check(lambda x: evaluate(t, x, rows)[0], x, grad)
    grad[0] += 1e-3 * np.linalg.norm(grad)
    with pytest.raises(GradientError):
        finite_differences.check(lambda x: evaluate(t, x, rows)[0], x, grad)


# Wrappers


@by_kind
@pytest.mark.parametrize("scale", [1e-3, 40.0])
def test_rescale_is_covariant(t: Losg, scale: float) -> None:
    """f_s(s x) = f(x) and its gradient is 1/s of f's, from s times f's start."""
    s = float(np.float32(scale))
    wrapped = task(**{**t.config(), "wrapper": "rescale", "scale": s})
    np.testing.assert_allclose(wrapped.init(STREAM), s * t.init(STREAM), rtol=1e-6)
    x = t.init(STREAM).astype(np.float64)
    (loss, grad), (same, scaled) = evaluate(t, x), evaluate(wrapped, s * x)
    assert same == pytest.approx(loss, rel=1e-9)
    np.testing.assert_allclose(scaled, grad / s, rtol=1e-8, atol=1e-10 * abs(grad / s).max())
    assert wrapped.lowest_loss == t.lowest_loss


@by_kind
def test_log_divides_the_gradient_by_the_loss(t: Losg) -> None:
    wrapped = task(**{**t.config(), "wrapper": "log"})
    x = t.init(STREAM).astype(np.float64)
    (f, grad), (loss, slope) = evaluate(t, x), evaluate(wrapped, x)
    value = math.log((abs(f) + 1e-6) / 1e-6)
    assert loss == pytest.approx(math.copysign(value, f), rel=1e-12)
    np.testing.assert_allclose(slope, grad / (abs(f) + 1e-6), rtol=1e-12)
    assert loss > wrapped.lowest_loss


def test_log_of_a_negative_loss_goes_on_downwards_and_upstream_is_nan() -> None:
    kind = {"kind": "sum_of_quadratics", "dims": 3, "samples": 10}
    base, odd, published = (
        Losg(**kind), Losg(**kind, wrapper="log"), Losg(**kind, wrapper="log", upstream=True)
    )  # fmt: skip
    d = rows_of(base)[2]
    for t, expected in ((odd, -math.log1p((d @ d) * 1e6)), (published, math.nan)):
        assert evaluate(t, d, [2])[0] == pytest.approx(expected, rel=1e-6, nan_ok=True)
    for k in (0.01, 0.5, 0.9):  # what goes down on the base goes down on its log
        assert evaluate(odd, k * d, [2])[0] > evaluate(odd, 1.01 * k * d, [2])[0]
    positive = -2.0 * d
    np.testing.assert_allclose(
        evaluate(published, positive, [2])[1], evaluate(odd, positive, [2])[1], rtol=1e-12
    )
    assert evaluate(published, positive, [2])[0] == pytest.approx(
        evaluate(odd, positive, [2])[0], rel=1e-12
    )


def test_log_is_smooth_through_zero() -> None:
    t = Losg("sum_of_quadratics", dims=1, samples=2, wrapper="log")
    d = float(rows_of(t)[0, 0])
    slopes = [evaluate(t, [h], [0])[1][0] for h in (-1e-12, 0.0, 1e-12)]
    np.testing.assert_allclose(slopes, -2.0 * d / 1e-6, rtol=1e-4)


@by_kind
@pytest.mark.parametrize("wrapper", ["none", "rescale", "log", "sparse"])
def test_gradient_noise_is_normal_and_leaves_the_loss_alone(t: Losg, wrapper: str) -> None:
    """(noisy - clean) / sigma, undone of the wrapper, over 600 steps; false alarm 1e-6."""
    options = {"scale": 4.0} if wrapper == "rescale" else {}
    options |= {"zero_prob": 0.5} if wrapper == "sparse" else {}
    config = {**t.config(), "wrapper": wrapper, **options}
    clean, noisy = task(**config), task(**{**config, "noise": 1.5})
    plain = task(**{**config, "zero_prob": 0.0}) if wrapper == "sparse" else clean
    x = t.init(STREAM).astype(np.float64) * options.get("scale", 1.0)
    loss, grad = evaluate(plain, x)
    f = evaluate(t, x)[0]
    unit = {"rescale": 0.25, "log": 1.0 / (abs(f) + 1e-6)}.get(wrapper, 1.0)
    found = [evaluate(noisy, x, step=s) for s in range(600)]
    assert {a for a, _ in found} == {loss}
    z = (np.array([g for _, g in found]) - grad) / (1.5 * unit)
    kept = np.array([g for _, g in found]) != 0.0
    if wrapper == "sparse":
        assert abs(kept.mean() - 0.5) < 5.0 * 0.5 / math.sqrt(kept.size)
    else:
        assert kept.all()
    assert kstest(z[kept], "norm").pvalue > 1e-6
    assert len(np.unique(z[kept])) > 0.99 * kept.sum()


def test_noise_has_an_address() -> None:
    t = Losg("quadratic", dims=7, noise=0.3)
    x = t.init(STREAM)
    addresses = [
        (STREAM, TRAIN, 0), (STREAM, TRAIN, 1), (STREAM, OUTER_VALID, 0),
        (rng.stream(7, outer=1), TRAIN, 0), (rng.stream(7, pair=1), TRAIN, 0),
    ]  # fmt: skip
    grads = [evaluate(t, x, [0], *a)[1] for a in addresses]
    assert len({g.tobytes() for g in grads}) == len(addresses)
    np.testing.assert_array_equal(evaluate(t, x, [0], *addresses[1])[1], grads[1])


def test_sparse_keeps_entries_as_they_are_at_the_given_rate() -> None:
    """Each entry of the clean gradient is kept in 5 % of 4000 steps, independently of the others."""
    t = Losg("quadratic", dims=10, wrapper="sparse", zero_prob=0.95)
    x = t.init(STREAM)
    _, clean = evaluate(Losg("quadratic", dims=10), x)
    grads = np.array([evaluate(t, x, step=s)[1] for s in range(4000)])
    kept = grads != 0.0
    np.testing.assert_array_equal(grads[kept], np.broadcast_to(clean, grads.shape)[kept])
    error = math.sqrt(0.05 * 0.95 / 4000)
    assert abs(kept.mean(axis=0) - 0.05).max() < 5.0 * error
    correlation = np.corrcoef(kept.T) - np.eye(10)
    assert abs(correlation).max() < 5.0 / math.sqrt(4000)


def test_which_entries_are_dropped_does_not_depend_on_the_noise() -> None:
    """The two draws share an address and must not share numbers."""
    t = Losg("min_max_well", dims=3, wrapper="sparse", zero_prob=0.5, noise=1.0)
    x = np.array([0.9, 1.0, 1.1])
    grads = np.array([evaluate(t, x, step=s)[1][1] for s in range(3000)])  # clean: 0
    z = np.array([rng.normals(3, STREAM, rng.NOISE, s)[1] for s in range(3000)])
    kept = grads != 0.0
    np.testing.assert_allclose(grads[kept], z[kept], rtol=1e-6)
    assert abs(np.corrcoef(kept, z)[0, 1]) < 5.0 / math.sqrt(3000)
    assert abs(np.corrcoef(kept, abs(z))[0, 1]) < 5.0 / math.sqrt(3000)


# Traps


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_norm_in_float32_where_its_powers_leave_float32(p: float, scale: float) -> None:
    """At p = 0.1 and 1000 residuals the sum is 1000 and its power 1e30."""
    t = Losg("norm", dims=1000, power=p)
    x = (scale * t.init(STREAM)).astype(np.float32)
    loss, grad = evaluate(t, x, dtype=np.float32)
    expected, slope = t.reference(x.astype(np.float64), np.zeros(1, np.int64), STREAM, TRAIN, 0)
    assert loss == pytest.approx(expected, rel=2e-5)
    assert np.linalg.norm(grad - slope) <= 1e-3 * np.linalg.norm(slope)
    assert np.isfinite(grad).all()


@by_kind
def test_a_nan_stays_a_nan(t: Losg) -> None:
    for place in {0, t.layout.size - 1, t.layout.size // 2}:
        x = t.init(STREAM)
        x[place] = np.nan
        loss, grad = evaluate(t, x, dtype=np.float32)
        assert math.isnan(loss)
        assert np.isnan(grad).any()


@by_kind
def test_huge_parameters_end_in_an_inf_or_a_nan_or_a_right_number(t: Losg) -> None:
    for scale in (1e10, 1e30):
        x = (scale * t.init(STREAM)).astype(np.float32)
        loss, _ = evaluate(t, x, dtype=np.float32)
        with np.errstate(all="ignore"):
            expected, _ = t.reference(x.astype(np.float64), np.arange(*t.splits[0]), STREAM, 0, 0)
        assert not math.isfinite(loss) or loss == pytest.approx(expected, rel=1e-3)


def test_a_coordinate_of_zero_in_the_well_is_an_infinite_loss() -> None:
    loss, grad = evaluate(Losg("min_max_well", dims=3), [1.0, 0.0, 2.0], dtype=np.float32)
    assert loss == math.inf
    assert grad[0] == 0.0 and grad[2] == 4.0 and not np.isfinite(grad[1])


# Data


def test_random_mlp_labels_are_those_of_its_teacher() -> None:
    x, y = losg_data.random_mlp(4, 3000, seed=1)
    assert kstest(x.ravel(), "norm").pvalue > 1e-6
    h = x.astype(np.float64)
    for k in range(6):
        w = rng.normals(h.shape[1] * 20, rng.stream(1), rng.DATA, 1 + k).reshape(-1, 20)
        h = np.maximum(h @ w, 0.0)  # the published factor is positive: it changes no sign
    np.testing.assert_array_equal(y, h[:, 0] > 0.0)
    labels = [losg_data.random_mlp(4, 30, seed)[1].mean() for seed in range(60)]
    assert 0.1 < np.mean(labels) < 0.9  # teachers of both kinds


def test_random_symmetric_is_symmetric() -> None:
    x, y = losg_data.random_symmetric(3, 10, seed=4)
    np.testing.assert_array_equal(x[:5], -x[5:])
    assert len(np.unique(x)) == 30
    assert (y == 0).all()


def test_noisy_parity_flips_a_quarter() -> None:
    counts, y = losg_data.noisy_parity(20000, seed=3)
    ones = counts[:, 1].astype(int)
    assert abs((ones % 2 != y).mean() - 0.25) < 5.0 * math.sqrt(0.1875 / 20000)
    frequencies = np.bincount(ones, minlength=6) / 20000
    expected = np.array([1, 5, 10, 10, 5, 1]) / 32
    assert (abs(frequencies - expected) < 5.0 * np.sqrt(expected / 20000)).all()


@by_kind
def test_data_follow_the_seed(t: Losg) -> None:
    same, other = task(**t.config()), task(**{**t.config(), "seed": 1})
    np.testing.assert_array_equal(same.arrays.floats, t.arrays.floats)
    if t.kind in DATA_KINDS or t.kind in ("quadratic", "norm"):
        assert (other.arrays.floats != t.arrays.floats).mean() > 0.3
    else:
        assert t.arrays.floats.size == 0
    assert (other.init(STREAM) == t.init(STREAM)).all()


# The published sampler

PUBLISHED = {
    0: ("sparse_softmax_regression", {"features": 54, "noise": 0.0, "batch_size": 29, "samples": 18}, 62356),
    1: ("norm", {"dims": 984, "power": 4.669531060759428}, 12812),
    12: ("sparse_problems", {
        "base": ("bowl", {"condition": 7.841645645578298, "angle": 0.0, "noise": 5.704807892772977}),
        "zero_prob": 0.9810643368705311, "noise": 0.01259691743626846}, 95694),
    109: ("optimization_test_problems", {"function": "matyas", "noise": 0.0}, 69928),
    114: ("rescale_problems", {
        "base": ("fully_connected", {"features": 1, "activation": "cos", "batch_size": 1,
                                     "samples": 4, "hidden": (6, 14, 16, 12)}),
        "scale": 0.06581615296131653}, 19402),
    119: ("fully_connected", {"features": 2, "activation": "swish", "batch_size": 28, "samples": 1,
                              "hidden": (4, 4, 4, 4)}, 41998),
    132: ("dependency_chain", {"dims": 4, "batch_size": 10, "samples": 2470}, 31964),
    988: ("quadratic", {"dims": 18, "noise": 0.7646866233023429}, 76659),
    990: ("projection_quadratic", {"dims": 7, "batch_size": 40, "samples": 310}, 45416),
    994: ("rescale_problems", {
        "base": ("min_max_well", {"dims": 844, "noise": 0.019515777937684633}),
        "scale": 0.004442588351226785}, 94802),
}  # fmt: skip


def without_last_digits(value):
    """Floats to 15 digits: the last one depends on the C library's exp."""
    if isinstance(value, float):
        return float(f"{value:.14g}")
    if isinstance(value, dict):
        return {k: without_last_digits(v) for k, v in value.items()}
    return tuple(map(without_last_digits, value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize("seed", PUBLISHED)
def test_published_configurations(seed: int) -> None:
    assert without_last_digits(Losg.sample_config(seed)) == without_last_digits(PUBLISHED[seed])


def test_published_counts_of_sub_families() -> None:
    counts = collections.Counter(Losg.sample_config(seed)[0] for seed in range(1000))
    assert counts == {
        "quadratic": 92, "sum_of_quadratics": 80, "fully_connected": 79, "norm": 78,
        "min_max_well": 75, "sparse_softmax_regression": 75, "dependency_chain": 72,
        "rescale_problems": 70, "bowl": 65, "log_objective": 65, "outward_snake": 65,
        "projection_quadratic": 64, "optimization_test_problems": 61, "sparse_problems": 59,
    }  # fmt: skip


@pytest.mark.parametrize("upstream", [False, True])
def test_all_thousand_samples_can_be_built_and_rebuilt(upstream: bool) -> None:
    for seed in range(1000):
        t = Losg.sample(seed, upstream)
        assert t.layout.size >= 2
        assert task(**json.loads(json.dumps(t.config()))) == t


def test_sampled_tasks_carry_the_noise_of_their_base_unless_upstream() -> None:
    plain, published = Losg.sample(994), Losg.sample(994, upstream=True)
    assert plain == sample_task("losg", 994)
    assert plain.noise == pytest.approx(0.019515777937684633)
    assert published.noise == 0.0
    assert (plain.kind, plain.wrapper, plain.seed) == ("min_max_well", "rescale", 94802)
    both, own = Losg.sample(12), Losg.sample(12, upstream=True)
    assert own.noise == pytest.approx(0.01259691743626846)
    assert both.noise == pytest.approx(math.hypot(5.704807892772977, 0.01259691743626846))
    logs = [s for s in range(300) if Losg.sample_config(s)[0] == "log_objective"]
    assert logs and all(Losg.sample(s, True).upstream for s in logs)
    assert not any(Losg.sample(s).upstream for s in range(300))


def test_every_sub_family_evaluates_as_sampled() -> None:
    """The first sample of each at its published size: finite at its start, or a known explosion."""
    seen = set()
    for seed in range(200):
        key = Losg.sample_config(seed)[0]
        if key in seen:
            continue
        seen.add(key)
        t = Losg.sample(seed)
        rows = rng.integers(t.batch_size, *t.splits[TRAIN], STREAM, rng.BATCH)
        x, grad = t.init(STREAM), np.full(t.layout.size, np.nan, np.float32)
        work = np.full(t.work_size(t.batch_size), np.nan, np.float32)
        loss = t.entry(x, grad, t.arrays, rows, STREAM, TRAIN, 0, work, 1)
        expected, slope = t.reference(x.astype(np.float64), rows, STREAM, TRAIN, 0)
        assert loss == pytest.approx(expected, rel=1e-4)
        assert np.linalg.norm(grad - slope) <= 1e-3 * np.linalg.norm(slope)
    assert len(seen) == 14


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "quadratics"}, "unknown kind 'quadratics'; did you mean 'quadratic'"),
        ({"wrapper": "scale"}, "unknown wrapper 'scale'; did you mean 'rescale'"),
        ({"dims": 0}, "dims = 0, valid: at least 1; nearest: 1"),
        ({"dims": 2.5}, "dims = 2.5, valid: an integer"),
        ({"noise": -1.0}, "noise = -1.0, .*nearest: 0"),
        ({"seed": -3}, "seed = -3, .*nearest: 0"),
        ({"kind": "norm", "power": 0.0}, "power = 0.0, valid: 0.02 to 1000; nearest: 0.02"),
        ({"kind": "norm", "power": math.nan}, "power = nan, valid: a number, 0.02 to 1000"),
        ({"kind": "bowl", "condition": -2.0}, "condition = -2.0, .*nearest: 1e-30"),
        ({"kind": "bowl", "angle": math.inf}, "angle = inf, .*nearest: 1000"),
        ({"wrapper": "rescale", "scale": "2"}, "scale = '2', valid: a number"),
        ({"kind": "bowl", "dims": 3}, "dims = 3 means nothing to kind 'bowl'.*nearest valid: 10"),
        ({"scale": 2.0}, "scale = 2.0 means nothing .*wrapper 'none'; nearest valid: 1.0"),
        ({"wrapper": "sparse", "zero_prob": 1.5}, "zero_prob = 1.5, valid: 0 to 1; nearest: 1"),
        ({"wrapper": "rescale", "upstream": True}, "upstream = True means nothing"),
        ({"kind": "optimization_test_problems", "function": "acklay"}, "did you mean 'ackley'"),
        ({"kind": "optimization_test_problems", "function": "bowl"}, "unknown function 'bowl'"),
        ({"kind": "sum_of_quadratics", "samples": 1}, "samples = 1, .*nearest: 2"),
        ({"kind": "fully_connected", "hidden": (3, 0)}, r"hidden\[1\] = 0, .*nearest: 1"),
        ({"kind": "fully_connected", "activation": "rely"}, "did you mean 'relu'"),
        ({"kind": "fully_connected", "batch_size": 0}, "batch_size = 0, .*nearest: 1"),
        ({"wrapper": "log", "upstream": 1}, "upstream = 1, valid: true or false"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task("losg", **options)
