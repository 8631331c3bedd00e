"""Layer, batch and virtual batch norm: closed forms, references, gradients, and the tasks that use them."""

import itertools

import numpy as np
import pytest
from helpers import finite_differences, lane_scheduler

from lopt import rng
from lopt.errors import TaskError
from lopt.ops.norm import (
    LAYER_EPS,
    batch_norm_bwd,
    batch_norm_fwd,
    column_sums,
    layer_norm_bwd,
    layer_norm_fwd,
    norm_backward_reference,
    norm_reference,
    norm_work,
)
from lopt.task import INNER_VALID, TRAIN, task

NAN = np.nan
SCALES = (1e-6, 1.0, 1e3)
SHAPES = ((1, 1), (1, 7), (7, 1), (31, 5), (32, 8), (33, 9), (200, 17))
NONE = np.zeros(0)
KINDS = ("layer", "batch", "virtual")


def counted_of(kind: str, rows: int, columns: int) -> int:
    """Numbers a mean is taken over; the reference batch is about a third of the rows."""
    return {"layer": columns, "batch": rows, "virtual": max(1, rows // 3)}[kind]


def forward(kind: str, x, gamma=NONE, beta=NONE, eps=LAYER_EPS):
    """(y, xhat, rstd) by the kernels."""
    gamma, beta = gamma.astype(x.dtype), beta.astype(x.dtype)
    m, c = x.shape
    xhat, y = np.full_like(x, NAN), np.full_like(x, NAN)
    rstd = np.full(m if kind == "layer" else c, NAN, x.dtype)
    if kind == "layer":
        layer_norm_fwd(x, gamma, beta, eps, xhat, rstd, y)
    else:
        partials = np.full(norm_work(c), NAN, x.dtype)
        batch_norm_fwd(x, counted_of(kind, m, c), gamma, beta, eps, xhat, rstd, y, partials)
    return y, xhat, rstd


def backward(kind: str, xhat, rstd, dy, gamma=NONE, with_affine=True):
    """(dx, dgamma, dbeta) by the kernels."""
    m, c = dy.shape
    d, gamma = dy.copy(), gamma.astype(dy.dtype)
    dgamma, dbeta = (np.full(c if with_affine else 0, NAN, dy.dtype) for _ in range(2))
    partials = np.full(norm_work(c), NAN, dy.dtype)
    if kind == "layer":
        layer_norm_bwd(xhat, rstd, gamma, d, dgamma, dbeta, partials)
    else:
        count = counted_of(kind, m, c)
        batch_norm_bwd(xhat, count, rstd, gamma, d, dgamma, dbeta, partials)
    return d, dgamma, dbeta


def case(shape, scale=1.0, seed=0):
    """x, dy, gamma, beta in float64; the columns of x have different means."""
    r = np.random.default_rng(seed)
    x = scale * (r.standard_normal(shape) + 2.0 * r.standard_normal(shape[1]))
    return x, r.standard_normal(shape), r.standard_normal(shape[1]), r.standard_normal(shape[1])


# Against the reference


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "eps"), [(np.float64, 2.0**-53), (np.float32, 2.0**-24)])
def test_norms_agree_with_the_reference(kind: str, dtype, eps: float) -> None:
    for shape, scale in itertools.product(SHAPES, SCALES):
        x, dy, gamma, beta = (a.astype(dtype) for a in case(shape, scale))
        y, xhat, rstd = forward(kind, x, gamma, beta)
        dx, dgamma, dbeta = backward(kind, xhat, rstd, dy, gamma)
        axis, count = int(kind == "layer"), counted_of(kind, *shape)
        x, dy, gamma, beta = (a.astype(np.float64) for a in (x, dy, gamma, beta))
        exact, exact_xhat, exact_rstd = norm_reference(x, gamma, beta, LAYER_EPS, axis, count)
        grads = norm_backward_reference(exact_xhat, exact_rstd, gamma, dy, axis, count)
        # a mean is known to eps times the numbers themselves, and rstd multiplies that
        lost = 40.0 * eps * (1.0 + np.abs(x).max() * exact_rstd.max())
        size = 1.0 + np.abs(exact_xhat).max()
        np.testing.assert_allclose(xhat, exact_xhat, rtol=0, atol=lost * size)
        np.testing.assert_allclose(y, exact, rtol=0, atol=3.0 * lost * size)
        reach = size**2 * exact_rstd.max() * np.abs(gamma).max() * np.abs(dy).max()
        np.testing.assert_allclose(dx, grads[0], rtol=0, atol=10.0 * lost * reach * size)
        sums = shape[0] * np.abs(dy).max()
        np.testing.assert_allclose(dgamma, grads[1], rtol=0, atol=lost * sums * size)
        np.testing.assert_allclose(dbeta, grads[2], rtol=0, atol=40.0 * eps * sums)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", SCALES)
def test_gradients_are_derivatives(kind: str, scale: float) -> None:
    x, dy, gamma, beta = case((9, 5), scale)
    eps = LAYER_EPS * scale**2
    _, xhat, rstd = forward(kind, x, gamma, beta, eps)
    grads = np.concatenate([g.ravel() for g in backward(kind, xhat, rstd, dy, gamma)])
    grads[: x.size] *= scale  # of the numbers in units of the scale

    def weighted(p: np.ndarray) -> float:
        z, a, b = scale * p[: x.size].reshape(x.shape), p[x.size : -5], p[-5:]
        return float((dy * forward(kind, z, a, b, eps)[0]).sum())

    finite_differences.check(weighted, np.concatenate([x.ravel() / scale, gamma, beta]), grads)


@pytest.mark.parametrize("term", ["mean", "variance"])
def test_a_missing_term_is_found(term: str) -> None:
    """What the check above is worth: each of the three terms of the gradient counts."""
    x, dy, _, _ = case((9, 5))
    _, xhat, rstd = forward("batch", x)
    mean, moment = dy.mean(axis=0), xhat * (dy * xhat).mean(axis=0)
    right = rstd * (dy - mean - moment)
    np.testing.assert_allclose(backward("batch", xhat, rstd, dy)[0], right, rtol=1e-12)
    wrong = rstd * (dy - (moment if term == "mean" else mean))
    with pytest.raises(finite_differences.GradientError):
        finite_differences.check(
            lambda p: float((dy * forward("batch", p.reshape(x.shape))[0]).sum()),
            x.ravel(),
            wrong.ravel(),
        )


@pytest.mark.parametrize("kind", KINDS)
def test_gamma_and_beta_are_optional_each_for_itself(kind: str) -> None:
    x, dy, gamma, beta = case((12, 4))
    y, xhat, rstd = forward(kind, x)
    np.testing.assert_array_equal(y, xhat)
    np.testing.assert_array_equal(forward(kind, x, gamma)[0], gamma * xhat)
    np.testing.assert_array_equal(forward(kind, x, NONE, beta)[0], xhat + beta)
    np.testing.assert_array_equal(forward(kind, x, gamma, beta)[0], gamma * xhat + beta)
    plain, _, _ = backward(kind, xhat, rstd, dy, with_affine=False)
    np.testing.assert_allclose(plain, backward(kind, xhat, rstd, dy, np.ones(4))[0], rtol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_matrix_may_be_overwritten_by_what_it_becomes(kind: str) -> None:
    x, _, gamma, beta = case((12, 4))
    y, xhat, rstd = forward(kind, x, gamma, beta)
    other, scale, sums = np.full_like(x, NAN), np.full_like(rstd, NAN), np.full(norm_work(4), NAN)
    if kind == "layer":
        layer_norm_fwd(x, gamma, beta, LAYER_EPS, x, scale, other)
    else:
        count = counted_of(kind, 12, 4)
        batch_norm_fwd(x, count, gamma, beta, LAYER_EPS, x, scale, other, sums)
    for a, b in ((x, xhat), (other, y), (scale, rstd)):
        np.testing.assert_array_equal(a, b)


def test_numbers_that_are_not_finite_do_not_become_finite() -> None:
    for kind, bad in itertools.product(KINDS, (NAN, np.inf)):
        x = case((6, 4))[0].astype(np.float32)
        x[0, 1] = bad
        y, _, _ = forward(kind, x)
        touched = y[0] if kind == "layer" else y[:, 1]
        assert np.isnan(touched).all(), (kind, bad)
        assert np.isnan(y).sum() == touched.size


# Closed forms


def test_two_numbers_become_minus_one_and_one() -> None:
    """Mean m, variance h^2: -+h / sqrt(h^2 + eps)."""
    for h in (1e-6, 1.0, 1e3):
        x, eps = np.array([[5.0 - h, 5.0 + h]]), 0.25 * h**2
        expected = h / np.sqrt(h**2 + eps)
        # 5 - h is only known to 2^-53 * 5
        tolerance = 1e-15 * (1.0 + 5.0 / h)
        for kind, z in (("layer", x), ("batch", x.T.copy())):
            y, _, rstd = forward(kind, z, eps=eps)
            np.testing.assert_allclose(y.ravel(), [-expected, expected], rtol=tolerance)
            np.testing.assert_allclose(rstd, 1.0 / np.sqrt(h**2 + eps), rtol=tolerance)


def test_layer_norm_does_not_see_shift_and_scale_of_a_row() -> None:
    x, dy, _, _ = case((6, 8))
    shift, factor = np.arange(6.0)[:, None] - 3.0, np.array([1.0, 2.0, 4.0, 0.5, 8.0, 1.0])[:, None]
    y, xhat, rstd = forward("layer", x, eps=0.0)
    z, zhat, other = forward("layer", factor * x + shift, eps=0.0)
    np.testing.assert_allclose(z, y, rtol=0, atol=1e-13)
    np.testing.assert_allclose(other * factor[:, 0], rstd, rtol=1e-13)
    dx, dz = backward("layer", xhat, rstd, dy)[0], backward("layer", zhat, other, dy)[0]
    np.testing.assert_allclose(factor * dz, dx, rtol=0, atol=1e-12)


def test_batch_norm_does_not_see_shift_and_scale_of_a_column() -> None:
    x, _, _, _ = case((8, 6))
    y, _, _ = forward("batch", x, eps=0.0)
    z, _, _ = forward("batch", 4.0 * x - np.arange(6.0), eps=0.0)
    np.testing.assert_allclose(z, y, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["layer", "batch"])
def test_gradient_is_orthogonal_to_ones_and_to_xhat(kind: str) -> None:
    """Adding a constant does nothing, and scaling nothing where eps is 0."""
    axis = int(kind == "layer")
    x, dy, _, _ = case((30, 12))
    _, xhat, rstd = forward(kind, x, eps=0.0)
    dx, _, _ = backward(kind, xhat, rstd, dy)
    assert np.abs(dx).max() > 0.1
    np.testing.assert_allclose(dx.sum(axis=axis), 0.0, atol=1e-12)
    np.testing.assert_allclose((dx * xhat).sum(axis=axis), 0.0, atol=1e-12)


def test_batch_norm_results_have_mean_0_and_variance_1() -> None:
    y, _, _ = forward("batch", case((50, 6))[0], eps=0.0)
    np.testing.assert_allclose(y.mean(axis=0), 0.0, atol=1e-14)
    np.testing.assert_allclose(y.var(axis=0), 1.0, rtol=1e-13)  # biased


def test_one_row_has_no_variance() -> None:
    """Batch norm of one row: 0 whatever it holds, and no gradient."""
    x, dy, _, _ = case((1, 6))
    y, xhat, rstd = forward("batch", x)
    np.testing.assert_array_equal(y, np.zeros((1, 6)))
    np.testing.assert_array_equal(backward("batch", xhat, rstd, dy)[0], np.zeros((1, 6)))


def test_virtual_batch_norm_is_batch_norm_on_its_reference_rows() -> None:
    x, _, gamma, beta = case((30, 5))
    whole, _, rstd = forward("virtual", x, gamma, beta)
    top, _, same = forward("batch", x[:10].copy(), gamma, beta)
    np.testing.assert_allclose(whole[:10], top, rtol=1e-14)
    np.testing.assert_allclose(rstd, same, rtol=1e-14)


def test_virtual_batch_norm_of_a_row_does_not_depend_on_the_others() -> None:
    """... of the batch; it does on the reference rows, and those get a gradient from it."""
    x, dy, _, _ = case((30, 5))
    before, xhat, rstd = forward("virtual", x)
    other = x.copy()
    other[20:] += 100.0
    after, _, _ = forward("virtual", other)
    np.testing.assert_array_equal(after[:20], before[:20])
    other[0] += 1.0
    assert (forward("virtual", other)[0][15] != before[15]).all()
    dy[:] = 0.0
    dy[15] = 1.0
    dx, _, _ = backward("virtual", xhat, rstd, dy)
    assert (dx[:10] != 0.0).all()
    outside = [*range(10, 15), *range(16, 30)]
    np.testing.assert_array_equal(dx[outside], np.zeros((19, 5)))
    np.testing.assert_allclose(dx[15], rstd, rtol=1e-15)
    # the sum over all rows: a common shift does nothing
    np.testing.assert_allclose(dx.sum(axis=0), 0.0, atol=1e-14)


def test_image_maps_are_normalised_by_channel() -> None:
    """(B, H, W, C) as (B H W, C): the statistics run over examples and positions."""
    x = np.random.default_rng(1).standard_normal((3, 4, 5, 2)) * (1.0, 7.0) + (0.0, 3.0)
    y, _, _ = forward("batch", x.reshape(-1, 2), eps=0.0)
    expected = (x - x.mean(axis=(0, 1, 2))) / x.std(axis=(0, 1, 2))
    np.testing.assert_allclose(y.reshape(x.shape), expected, rtol=0, atol=1e-13)


def test_large_means_cost_no_more_precision_than_the_numbers_have() -> None:
    """Mean 1e4, deviation 1, float32: nothing is lost, though the sum is only known to 1e4 eps or worse."""
    r = np.random.default_rng(2)
    x = (1e4 + r.standard_normal((1000, 3))).astype(np.float32)
    for kind in ("batch", "layer"):
        z = x if kind == "batch" else x.T.copy()
        axis = int(kind == "layer")
        exact, _, _ = norm_reference(z.astype(np.float64), 1, 0, LAYER_EPS, axis, 1000)
        assert np.abs(forward(kind, z)[0] - exact).max() < 200.0 * 2.0**-24
        for constant in (12345.6, -1e10, 1e-30):
            y, _, rstd = forward(kind, np.full_like(z, constant))
            assert np.isfinite(rstd).all()
            assert np.abs(y).max() <= 1e-4 * abs(constant)


@pytest.mark.parametrize("rows", [0, 1, 31, 32, 33, 257])
def test_column_sums(rows: int) -> None:
    r = np.random.default_rng(rows)
    a, b = r.standard_normal((2, 260, 3))
    partials = np.full(norm_work(3), NAN)
    column_sums(a, b, rows, partials)
    np.testing.assert_allclose(partials[:3], b[:rows].sum(axis=0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(partials[3:6], (a * b)[:rows].sum(axis=0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_norms_do_not_depend_on_the_lanes(kind: str) -> None:
    x, dy, gamma, beta = (a.astype(np.float32) for a in case((35, 4)))
    count, sums = counted_of(kind, 35, 4), norm_work(4)

    def zeros(*shapes) -> list[np.ndarray]:
        return [np.zeros(s, np.float32) for s in shapes]

    if kind == "layer":
        lane_scheduler.check(
            layer_norm_fwd, lambda: (x, gamma, beta, LAYER_EPS, *zeros((35, 4), 35, (35, 4)))
        )
    else:
        shapes = ((35, 4), 4, (35, 4), sums)
        lane_scheduler.check(
            batch_norm_fwd,
            lambda: (x, count, gamma, beta, LAYER_EPS, *zeros(*shapes)),
            scratch=(8,),
        )
    _, xhat, rstd = forward(kind, x, gamma, beta)
    kernel = layer_norm_bwd if kind == "layer" else batch_norm_bwd
    middle = () if kind == "layer" else (count,)
    lane_scheduler.check(
        kernel,
        lambda: (xhat, *middle, rstd, gamma, dy.copy(), *zeros(4, 4, sums)),
        scratch=(6 + len(middle),),
    )


# The tasks


def evaluate(t, params, rows, split=TRAIN):
    grad, work = np.full_like(params, NAN), np.full(t.work_size(rows.size), NAN, np.float32)
    return t.entry(params, grad, t.arrays, rows, rng.stream(0), split, 0, work, 1), grad


def test_batch_norm_ties_the_rows_of_a_batch_and_virtual_batch_norm_does_not() -> None:
    """The loss of a batch is the mean of its rows' own losses only if no row sees another."""
    for norm, free in (("layer", True), ("batch", False), ("virtual", True)):
        t = task("norm_mlp", norm=norm, batch_size=6)
        params, rows = t.init(rng.stream(1)), np.arange(40, 46)
        loss, grad = evaluate(t, params, rows)
        alone = [evaluate(t, params, rows[i : i + 1]) for i in range(6)]
        assert (abs(loss - np.mean([a[0] for a in alone])) < 1e-6) == free
        gap = np.abs(grad - np.mean([a[1] for a in alone], axis=0)).max()
        assert (gap < 1e-5 * np.abs(grad).max()) == free


def test_every_split_is_evaluated_alike() -> None:
    """No mode, no running averages: rows decide, not the split they are said to be from."""
    t = task("norm_mlp", norm="batch", batch_size=16)
    params, rows = t.init(rng.stream(1)), np.arange(16)
    loss, grad = evaluate(t, params, rows, TRAIN)
    other, same = evaluate(t, params, rows, INNER_VALID)
    assert other == loss
    np.testing.assert_array_equal(same, grad)


@pytest.mark.parametrize("norm", KINDS)
def test_normalised_mlp_does_not_feel_the_scale_of_its_weights(norm: str) -> None:
    """w times 8: the same loss but for eps, and an eighth of the gradient."""
    t = task("norm_mlp", norm=norm, batch_size=32, initialiser="random_normal", init_scale=50.0)
    params, rows = t.init(rng.stream(2)), np.arange(32)
    loss, grad = evaluate(t, params, rows)
    scaled = params.copy()
    t.layout.views(scaled)["w0"][...] *= 8.0
    other, same = evaluate(t, scaled, rows)
    assert other == pytest.approx(loss, rel=1e-5)
    a, b = t.layout.views(grad)["w0"], t.layout.views(same)["w0"]
    np.testing.assert_allclose(8.0 * b, a, rtol=0, atol=1e-4 * np.abs(a).max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "bach"}, "unknown norm 'bach'; did you mean 'batch'"),
        ({"hidden": ()}, r"hidden = \[\], valid: one width at least; nearest: \[1\]"),
        ({"reference_rows": 1}, "reference_rows = 1, .*nearest: 2"),
        ({"gamma": 1}, "gamma = 1, valid: true or false"),
        ({"keep": 0.0}, "keep = 0.0, valid: a number above 0, at most 1; nearest: 1"),
    ],
)
def test_bad_options_of_norm_mlp_are_named(options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task("norm_mlp", **options)
