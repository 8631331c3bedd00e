"""Layers and sums that the CPU keeps in vector registers: values, edges, bits, and what other targets do instead."""

import numpy as np
import pytest
from helpers import lane_scheduler
from helpers.lane_scheduler import LaneError

from lopt import rng, stretches
from lopt.lanes import PARTIALS, add_row_squares, add_row_sums, kernel, layer


@kernel
def call_layer(x, w, bias, out, n, floor):
    layer(x, w, bias, out, n, floor)


@kernel
def call_row_sums(rows, n, sums, squares):
    add_row_sums(rows, n, sums)
    add_row_squares(rows, n, squares)


def layer_arguments(depth: int, m: int, n: int, dtype: type, floor: float) -> tuple:
    """Arguments of `layer`, with rows, columns and weights beyond those it may read: they are NaN."""
    shapes = ((depth, n + 3), (depth + 1, m + 2), (m + 1,))
    x, w, bias = (
        rng.normals(int(np.prod(s)), rng.stream(4), rng.TASK, i).reshape(s).astype(dtype)
        for i, s in enumerate(shapes)
    )
    x[:, n:], w[depth:], w[:, m:], bias[m:] = (np.nan,) * 4
    return x, w, bias, np.full((m, n + 2), 7.0, dtype), n, dtype(floor)


def bias_per_column(m: int, n: int, dtype: type) -> np.ndarray:
    """A bias of its own for every example, NaN beyond."""
    bias = rng.normals((m + 1) * (n + 1), rng.stream(4), rng.TASK, 3)
    bias = bias.reshape(m + 1, n + 1).astype(dtype)
    bias[m:], bias[:, n:] = np.nan, np.nan
    return bias


# Whole tiles, their edges, one row or column, more rows than fit, for all vector units there are.
LAYERS = [(23, 32, 128), (28, 4, 100), (5, 7, 77), (1, 1, 1), (3, 13, 64), (32, 2, 33), (2, 9, 16)]


@pytest.mark.parametrize(("dtype", "eps"), [(np.float32, 6e-8), (np.float64, 1.1e-16)])
@pytest.mark.parametrize("floor", [0.0, -0.5, -np.inf])
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("shape", LAYERS)
def test_layer_is_a_product_a_bias_and_a_floor(
    shape, per_column: bool, floor: float, dtype, eps: float
) -> None:
    x, w, bias, out, n, low = layer_arguments(*shape, dtype, floor)
    depth, m = shape[:2]
    bias = bias_per_column(m, n, dtype) if per_column else bias
    call_layer(x, w, bias, out, n, low)
    added = bias[:m, :n] if per_column else bias[:m, None]
    exact = w[:depth, :m].T.astype(np.float64) @ x[:, :n] + added
    size = np.abs(w[:depth, :m].T) @ np.abs(x[:, :n]) + np.abs(added)
    assert (np.abs(out[:, :n] - np.maximum(exact, floor)) <= (depth + 1) * eps * size).all()
    assert (out[:, n:] == 7.0).all()


def test_layer_turns_nan_into_the_floor() -> None:
    x, w, bias, out, n, _ = layer_arguments(5, 7, 77, np.float32, 0.0)
    x[2, 3], w[1, 6] = np.nan, np.nan
    call_layer(x, w, bias, out, n, np.float32(-2.0))
    assert (out[:, 3] == -2.0).all()
    assert (out[6, :n] == -2.0).all()
    assert np.isfinite(out).all()


@pytest.mark.parametrize("shape", LAYERS)
def test_bits_of_a_column_of_a_layer_do_not_depend_on_the_others(shape) -> None:
    x, w, bias, out, n, low = layer_arguments(*shape, np.float32, -np.inf)
    call_layer(x, w, bias, out, n, low)
    for start, end in ((0, 1), (n // 3, n), (n - 1, n), (0, n // 2 + 1)):
        part = np.full((shape[1], end - start), np.nan, np.float32)
        call_layer(np.ascontiguousarray(x[:, start:end]), w, bias, part, end - start, low)
        np.testing.assert_array_equal(part, out[:, start:end])


def test_layer_does_not_depend_on_the_lanes() -> None:
    lane_scheduler.check(call_layer, lambda: layer_arguments(5, 7, 10, np.float32, 0.0))
    x, w, _, out, n, low = layer_arguments(5, 7, 10, np.float32, 0.0)
    per_column = bias_per_column(7, 10, np.float32)
    lane_scheduler.check(call_layer, lambda: (x, w, per_column, out.copy(), n, low))
    with pytest.raises(LaneError, match="out shares memory with x"):
        x = np.zeros((4, 4), np.float32)
        lane_scheduler.run(call_layer, (x, x.copy(), x[0].copy(), x, 4, x[0, 0]), 2)


@kernel
def call_outer(product, total, values, fixed, moving, start, n):
    stretches.outer_products(product, start, values, fixed, moving, n)
    stretches.outer_sums(total, start, values, fixed, moving, n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("start", "n"), [(0, 0), (3, 1), (0, 10), (5, 16), (1, 33), (0, 40)])
def test_outer_products_and_sums_of_a_stretch(start: int, n: int, dtype) -> None:
    """Bits of NumPy; nothing beside the stretch is touched, nothing beyond it read."""
    values = rng.normals(5 * 60, rng.stream(7), rng.TASK).reshape(5, 60).astype(dtype)
    values[:, 4 + n :] = np.nan
    values[:, 50] = 0.5, -2.0, 3.0, 0.1, 7.0
    product, total = np.full((3, 41), 7.0, dtype), np.full((3, 41), 7.0, dtype)
    call_outer(product, total, values, 50, 4, start, n)
    moving, fixed = values[:3, 4 : 4 + n], values[:3, 50:51]
    for found, expected in ((product, fixed * moving), (total, fixed + moving)):
        np.testing.assert_array_equal(found[:, start : start + n], expected)
        assert (np.delete(found, np.s_[start : start + n], axis=1) == 7.0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 128, 257])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_row_sums_add_to_32_partials(count: int, n: int, dtype) -> None:
    """Whole numbers: sums are exact, so they can be compared in any order."""
    rows = np.floor(8 * rng.normals(count * (n + 5), rng.stream(5), rng.TASK)).astype(dtype)
    rows = rows.reshape(count, n + 5)
    sums, squares = np.ones((count, PARTIALS), dtype), np.full((count, PARTIALS), 2.0, dtype)
    call_row_sums(rows, n, sums, squares)
    for k in range(PARTIALS):
        x = rows[:, k:n:PARTIALS]
        np.testing.assert_array_equal(sums[:, k], 1.0 + x.sum(axis=1))
        np.testing.assert_array_equal(squares[:, k], 2.0 + (x**2).sum(axis=1))


def test_row_sums_do_not_depend_on_the_lanes() -> None:
    rows = rng.normals(3 * 70, rng.stream(6), rng.TASK).reshape(3, 70)
    empty = np.zeros((3, PARTIALS), np.float32)

    def make() -> tuple:
        return rows, 69, empty.copy(), empty.copy()

    lane_scheduler.check(call_row_sums, make)
    compiled, interpreted = make(), make()
    call_row_sums(*compiled)
    lane_scheduler.run(call_row_sums, interpreted, 3)
    np.testing.assert_array_equal(interpreted[2], compiled[2])
    np.testing.assert_allclose(interpreted[3], compiled[3], rtol=3e-7)
