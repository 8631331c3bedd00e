"""Attention, GELU, transformer and mixer: closed forms and symmetries, and the tasks made of them."""

import functools
import itertools

import numpy as np
import pytest
from helpers import finite_differences, lane_scheduler
from scipy.special import erf

from lopt import rng
from lopt.errors import TaskError
from lopt.ops.attention import (
    attention_backward_reference,
    attention_bwd,
    attention_fwd,
    attention_reference,
    merge_heads,
    split_heads,
)
from lopt.ops.dropout import Dropout, mask_reference, thinned
from lopt.ops.gelu import gelu_bwd, gelu_fwd, gelu_reference
from lopt.ops.tokens import mean_bwd, mean_fwd, patches_fwd, swap
from lopt.task import TRAIN, task
from lopt.tasks import sample_task
from lopt.tasks.transformer_lm import TransformerLm, windows
from lopt.tasks.transformer_options import COST_LIMIT, patches_reference
from lopt.tasks.vit import Vit

NAN = np.nan
SCALES = (1e-6, 1.0, 1e3)
SIZES = ((1, 1, 1, 1), (2, 1, 1, 3), (1, 5, 2, 3), (2, 4, 3, 1), (2, 9, 2, 8))  # B, T, H, K


def grouped(x: np.ndarray) -> np.ndarray:
    """(B, T, H, K) as the groups of the kernel."""
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).ravel()


def ungrouped(groups: np.ndarray, size) -> np.ndarray:
    b, t, h, k = size
    return groups.reshape(b, h, t, k).transpose(0, 2, 1, 3)


def keeping(keep: float, like: np.ndarray) -> Dropout:
    """Dropout of results and of attention weights, in the dtype of an array."""
    return Dropout(*np.full(2, keep, like.dtype), rng.stream(5), rng.NOISE, 4)


def attend(q, k, v, causal: bool, noise: Dropout | None = None):
    """(out, probabilities) by the kernel; q, k, v (B, T, H, K); dropout takes uniforms from number 3 on."""
    b, t, h, _ = q.shape
    out, probs = np.full(q.size, NAN, q.dtype), np.full(b * h * t * t, NAN, q.dtype)
    scratch = np.full(2 * t + t * t, NAN, q.dtype)
    groups = (grouped(a) for a in (q, k, v))
    attention_fwd(*groups, b * h, t, int(causal), out, probs, scratch, noise or keeping(1.0, q), 3)
    return ungrouped(out, q.shape), probs.reshape(b, h, t, t).transpose(0, 1, 3, 2)


def attend_back(q, k, v, probs, dout, noise: Dropout | None = None):
    """(dq, dk, dv) by the kernel."""
    b, t, h, _ = q.shape
    kept = np.ascontiguousarray(probs.transpose(0, 1, 3, 2)).ravel()
    grads = [np.full(q.size, NAN, q.dtype) for _ in range(3)]
    scratch = np.full(2 * t * t + t, NAN, q.dtype)
    groups = [grouped(a) for a in (q, k, v)]
    noise = noise or keeping(1.0, q)
    attention_bwd(*groups, kept, grouped(dout), b * h, t, *grads, scratch, noise, 3)
    return [ungrouped(g, q.shape) for g in grads]


def case(size, scale=1.0, dtype=np.float64, seed=0):
    r = np.random.default_rng(seed)
    return [(scale * r.standard_normal(size)).astype(dtype) for _ in range(4)]


# Attention


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("dtype", "eps"), [(np.float64, 2.0**-53), (np.float32, 2.0**-24)])
def test_attention_agrees_with_the_reference(causal: bool, dtype, eps: float) -> None:
    for size, scale in itertools.product(SIZES, (1e-6, 1.0, 5.0)):
        q, k, v, dout = case(size, scale, dtype)
        out, probs = attend(q, k, v, causal)
        grads = attend_back(q, k, v, probs, dout)
        q, k, v, dout = (a.astype(np.float64) for a in (q, k, v, dout))
        exact, p = attention_reference(q, k, v, causal)
        bound = 40.0 * eps * (1.0 + size[3] * scale**2 * 20.0)
        np.testing.assert_allclose(probs, p, rtol=0, atol=bound)
        np.testing.assert_allclose(out, exact, rtol=0, atol=bound * np.abs(v).max())
        for got, e in zip(grads, attention_backward_reference(q, k, v, p, dout), strict=True):
            reach = np.abs(dout).max() * max(1.0, np.abs(v).max() * scale) * size[1] * size[3]
            np.testing.assert_allclose(got, e, rtol=0, atol=10.0 * bound * reach)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_gradients_are_derivatives(causal: bool) -> None:
    size = (2, 4, 2, 3)
    q, k, v, dout = case(size)
    _, probs = attend(q, k, v, causal)
    grad = np.concatenate([g.ravel() for g in attend_back(q, k, v, probs, dout)])

    def weighted(x: np.ndarray) -> float:
        return float((dout * attend(*x.reshape(3, *size), causal)[0]).sum())

    finite_differences.check(weighted, np.concatenate([a.ravel() for a in (q, k, v)]), grad)
    with pytest.raises(finite_differences.GradientError):
        wrong = grad.copy()
        wrong[: q.size] *= 1.001
        finite_differences.check(weighted, np.concatenate([a.ravel() for a in (q, k, v)]), wrong)


def test_queries_of_zero_attend_to_all_alike() -> None:
    """Uniform weights: the mean of the values, of those so far if causal."""
    _, k, v, _ = case((2, 6, 2, 3))
    out, probs = attend(np.zeros_like(k), k, v, False)
    np.testing.assert_allclose(probs, 1.0 / 6.0, rtol=1e-15)
    np.testing.assert_allclose(out, np.broadcast_to(v.mean(axis=1)[:, None], v.shape), rtol=1e-13)
    out, probs = attend(np.zeros_like(k), k, v, True)
    so_far = np.cumsum(v, axis=1) / np.arange(1.0, 7.0)[:, None, None]
    np.testing.assert_allclose(out, so_far, rtol=1e-12)
    assert (probs[..., *np.triu_indices(6, 1)] == 0.0).all()


def test_a_large_score_attends_to_one_position() -> None:
    """q_i = 1e4 e_s(i), k_j = e_j: out_i = v_s(i) to the last bit, and no gradient of q and k."""
    order = np.array([2, 0, 1])
    q = 1e4 * np.eye(3)[order][None, :, None].astype(np.float32)
    k, v = np.eye(3, dtype=np.float32)[None, :, None], case((1, 3, 1, 3), dtype=np.float32)[0]
    out, probs = attend(q, k, v, False)
    np.testing.assert_array_equal(out[0, :, 0], v[0, order, 0])
    dq, dk, dv = attend_back(q, k, v, probs, np.ones_like(v))
    assert (dq == 0.0).all() and (dk == 0.0).all()
    np.testing.assert_array_equal(dv, np.ones_like(v))


def test_scores_are_divided_by_the_root_of_the_key_size() -> None:
    """Two positions, q . k = 1 and 0 with K = 4: weights 1 / (1 + e^-1/2) and the rest."""
    q, k = np.zeros((2, 1, 2, 1, 4))
    q[..., 0] = 1.0
    k[0, 0, 0, 0] = 1.0
    _, probs = attend(q, k, k, False)
    np.testing.assert_allclose(probs[..., 0], 1.0 / (1.0 + np.exp(-0.5)), rtol=1e-14)


def test_the_future_has_no_influence() -> None:
    q, k, v, dout = case((2, 6, 2, 3))
    before, _ = attend(q, k, v, True)
    for a in (q, k, v):
        a[:, 4:] += 10.0
    after, probs = attend(q, k, v, True)
    np.testing.assert_array_equal(after[:, :4], before[:, :4])
    assert (after[:, 4:] != before[:, 4:]).all()
    dout[:, 4:] = 0.0
    for g in attend_back(q, k, v, probs, dout):
        assert (g[:, 4:] == 0.0).all()


def test_attention_permutes_with_its_positions() -> None:
    q, k, v, _ = case((2, 6, 2, 3))
    order = np.array([3, 5, 0, 1, 4, 2])
    out, _ = attend(q, k, v, False)
    moved, _ = attend(q[:, order], k[:, order], v[:, order], False)
    np.testing.assert_allclose(moved, out[:, order], rtol=0, atol=1e-14)


@pytest.mark.parametrize("bad", [NAN, np.inf, -np.inf])
def test_bad_scores_become_nan(bad: float) -> None:
    q, k, v, _ = case((1, 4, 1, 2), dtype=np.float32)
    q[0, 2, 0, 0] = bad
    out, _ = attend(q, k, v, True)
    assert np.isnan(out[0, 2]).all()
    assert np.isfinite(out[0, [0, 1, 3]]).all() or np.isnan(out[0, 3]).all()


def test_heads_split_and_merge() -> None:
    """Columns first .. first + H K of a matrix, and back."""
    x = np.arange(2 * 3 * 10, dtype=np.float32).reshape(6, 10)
    groups = np.full(2 * 3 * 4, NAN, np.float32)
    split_heads(x, 2, 2, 5, groups)
    expected = x[:, 5:9].reshape(2, 3, 2, 2).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(groups.reshape(2, 2, 3, 2), expected)
    back = np.zeros_like(x)
    merge_heads(groups, 2, 2, 5, back)
    np.testing.assert_array_equal(back[:, 5:9], x[:, 5:9])
    assert (back[:, :5] == 0.0).all() and (back[:, 9:] == 0.0).all()


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_does_not_depend_on_the_lanes(causal: int) -> None:
    q, k, v, _ = (grouped(a) for a in case((2, 5, 2, 3), dtype=np.float32))
    lane_scheduler.check(
        attention_fwd,
        lambda: (
            q, k, v, 4, 5, causal, np.zeros_like(q), np.zeros(100, np.float32), np.zeros(35, np.float32),
            keeping(0.7, q), 3,
        ),
        scratch=(8,),
    )  # fmt: skip


# Dropout


@pytest.mark.parametrize("causal", [False, True])
def test_dropped_weights_agree_with_the_reference(causal: bool) -> None:
    """Weights that are dropped count for nothing, those that stay for 1 / keep; gradients follow."""
    for size in SIZES:
        q, k, v, dout = case(size)
        noise = keeping(0.6, q)
        mask = mask_reference((size[0], size[2], size[1], size[1]), 0.6, noise, 3).swapaxes(2, 3)
        out, probs = attend(q, k, v, causal, noise)
        exact, p = attention_reference(q, k, v, causal, mask)
        np.testing.assert_allclose(probs, p, rtol=0, atol=1e-13)
        np.testing.assert_allclose(out, exact, rtol=0, atol=1e-13)
        expected = attention_backward_reference(q, k, v, p, dout, mask)
        for got, e in zip(attend_back(q, k, v, probs, dout, noise), expected, strict=True):
            np.testing.assert_allclose(got, e, rtol=0, atol=1e-12)


def test_what_dropout_leaves_is_the_input_on_average() -> None:
    """... a share `keep` of it, 1 / keep times as large; a fresh draw at every address, the same at the same.

    Bounds: 5 standard deviations of a binomial, one false alarm in some 10^6.
    """
    n, keep = 10_000, np.float32(0.7)
    x, room = np.ones(n, np.float32), np.empty(n, np.float32)
    noise = keeping(keep, x)
    kept = thinned(x, keep, noise, 8, room).copy()
    assert set(np.unique(kept)) == {np.float32(0.0), np.float32(1.0) / keep}
    assert abs((kept > 0).sum() - n * keep) < 5.0 * np.sqrt(n * keep * (1.0 - keep))
    np.testing.assert_array_equal(kept, mask_reference((n,), keep, noise, 8))
    assert thinned(x, np.float32(1.0), noise, 8, room) is not room
    for other, first in ((noise._replace(step=5), 8), (noise._replace(purpose=33), 8), (noise, 9)):
        fresh = thinned(x, keep, other, first, room)
        both = (fresh > 0) & (kept > 0)
        q = keep * keep
        assert abs(both.sum() - n * q) < 5.0 * np.sqrt(n * q * (1.0 - q)), (other, first)
    np.testing.assert_array_equal(thinned(x, keep, noise, 8, room), kept)


def test_dropout_is_off_outside_of_training() -> None:
    small = {"batch_size": 2, "width": 2, "heads": 1, "layers": 1, "hidden": 2}
    for family, more in (("transformer_lm", {"length": 3, "vocab": 5}), ("vit", {"patch": 4})):
        plain = task(family, **small, **more)
        t = task(family, keep=0.5, attention_keep=0.5, **small, **more)
        params = t.init(rng.stream(1))
        for split in range(4):
            losses = [evaluate(u, params, batch_of(t), split=split)[0] for u in (t, plain)]
            assert (losses[0] == losses[1]) == (split != TRAIN), (family, split)
        each = {evaluate(t, params, batch_of(t), step)[0] for step in range(3)}
        assert len(each) == 3, family


def test_dropped_parts_add_nothing() -> None:
    """All but 1e-7 dropped: the loss of a network whose parts are zero."""
    options = {
        "layers": 2,
        "positions": False,
        "vocab": 20,
        "batch_size": 2,
        "length": 4,
        "width": 8,
    }
    t, whole = (task("transformer_lm", heads=2, keep=keep, **options) for keep in (1e-7, 1.0))
    params = t.init(rng.stream(2))
    loss, _ = evaluate(t, params, batch_of(t))
    for name, view in t.layout.views(params).items():
        if name.endswith(("_wo", "_w2")):
            view[...] = 0.0
    assert loss == evaluate(whole, params, batch_of(t))[0]


# GELU


def gelu(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, d = np.full_like(x, NAN), np.ones_like(x)
    gelu_fwd(x, y)
    gelu_bwd(x, d)
    return y, d


def test_gelu_values() -> None:
    """From the tanh formula; within 5e-4 of x Phi(x), which it approximates."""
    x = np.linspace(-6.0, 6.0, 241)
    y, d = gelu(x)
    exact, derivative = gelu_reference(x)
    np.testing.assert_allclose(y, exact, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(d, derivative, rtol=1e-12, atol=1e-14)
    assert np.abs(y - x * (1.0 + erf(x / np.sqrt(2.0))) / 2.0).max() < 5e-4
    assert y[120] == 0.0 and d[120] == 0.5
    assert y[140] == pytest.approx(0.8411919906082768, rel=1e-12)  # gelu(1)


def test_gelu_derivative() -> None:
    x, w = np.random.default_rng(0).standard_normal((2, 33))
    finite_differences.check(lambda z: float(w @ gelu(z)[0]), x, w * gelu(x)[1])


def test_gelu_in_float32() -> None:
    x = np.random.default_rng(1).standard_normal(1000).astype(np.float32) * 3.0
    for got, exact in zip(gelu(x), gelu_reference(x.astype(np.float64)), strict=True):
        np.testing.assert_allclose(got, exact, rtol=0, atol=2e-6)
    far = np.array([-1e18, -1e5, 1e5, 1e18, NAN], np.float32)
    y, d = gelu(far)
    np.testing.assert_array_equal(y, np.array([0.0, 0.0, 1e5, 1e18, NAN], np.float32))
    np.testing.assert_array_equal(d, np.array([0.0, 0.0, 1.0, 1.0, NAN], np.float32))


# Tokens


@pytest.mark.parametrize("patch", [1, 2, 3, 5])
def test_patches(patch: int) -> None:
    images = np.arange(2 * 5 * 7 * 3, dtype=np.float32).reshape(2, 5, 7, 3)
    expected = patches_reference(images, patch)
    found = np.full(expected.shape, NAN, np.float32)
    patches_fwd(images.reshape(2, -1), 5, 7, 3, patch, found.reshape(-1, expected.shape[2]))
    np.testing.assert_array_equal(found, expected)
    inside = images[:, : 5 // patch * patch, : 7 // patch * patch]
    assert sorted(found.ravel()) == sorted(inside.ravel())


def test_swap_and_mean() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    y, h, d = np.full(60, NAN), np.full((3, 5), NAN), np.full((12, 5), NAN)
    swap(x.ravel(), 4, 5, y)
    np.testing.assert_array_equal(y.reshape(3, 5, 4), x.transpose(0, 2, 1))
    mean_fwd(x.reshape(12, 5), h)
    np.testing.assert_allclose(h, x.mean(axis=1), rtol=0, atol=1e-15)
    mean_bwd(h, d)
    np.testing.assert_array_equal(d.reshape(3, 4, 5), np.repeat(h[:, None] / 4.0, 4, axis=1))


def test_windows_and_their_targets() -> None:
    tokens = np.array([5, 3, 9, 1, 0, 7, 8, 2], np.int32)
    ids, targets = np.full((2, 2, 3), NAN, np.float32)
    windows(tokens, np.array([0, 4]), 10, ids, targets)
    np.testing.assert_array_equal(ids, [[5, 3, 9], [0, 7, 8]])
    np.testing.assert_array_equal(targets, [[3, 9, 1], [7, 8, 2]])
    windows(tokens, np.array([0, 4]), 5, ids, targets)  # v >= 5 becomes 1 + v mod 4
    np.testing.assert_array_equal(ids, [[2, 3, 2], [0, 4, 1]])


# Tasks


def evaluate(t, params, rows, step: int = 0, split: int = TRAIN):
    grad, work = np.full_like(params, NAN), np.full(t.work_size(rows.size), NAN, np.float32)
    return t.entry(params, grad, t.arrays, rows, rng.stream(0), split, step, work, 1), grad


def batch_of(t, step: int = 0) -> np.ndarray:
    return rng.integers(t.batch_size, *t.splits[TRAIN], rng.stream(4), rng.BATCH, step)


def test_an_untrained_readout_knows_nothing() -> None:
    """A readout of zeros: loss log V, and the only gradient is that of the readout."""
    for family, classes in (("transformer_lm", 256), ("vit", 10), ("mixer", 10)):
        t = task(family, batch_size=8)
        params = t.init(rng.stream(1))
        t.layout.views(params)["w_out"][...] = 0.0
        loss, grad = evaluate(t, params, batch_of(t))
        assert loss == pytest.approx(np.log(classes), rel=1e-6)
        for name, g in t.layout.views(grad).items():
            assert (np.abs(g).max() > 0.0) == (name in ("w_out", "b_out")), name


def test_start_of_training_is_near_ignorance() -> None:
    for family, classes in (("transformer_lm", 256), ("vit", 10), ("mixer", 10)):
        t = task(family, batch_size=16)
        loss, grad = evaluate(t, t.init(rng.stream(1)), batch_of(t))
        assert abs(loss - np.log(classes)) < 1.0, family
        assert all(np.abs(g).max() > 0.0 for g in t.layout.views(grad).values()), family


def test_language_model_is_causal() -> None:
    """Loss over T positions of a window is the mean of what windows of every shorter length add.

    A prefix of a window gives the same predictions: T loss(T) - (T - 1) loss(T - 1) is the loss of
    the last position alone, which only the last target can change.
    """
    full = task("transformer_lm", length=6, positions=False, batch_size=1)
    params, row = full.init(rng.stream(2)), np.array([1000])
    make = functools.partial(task, "transformer_lm", positions=False, batch_size=1)
    sums = [n * evaluate(make(length=n), params, row)[0] for n in range(1, 7)]
    each = np.diff([0.0, *sums])
    assert (each > 0.0).all()
    tokens = full.arrays.ints.copy()
    tokens[1006] = (tokens[1006] + 1) % 128
    other, work = full.arrays._replace(ints=tokens), np.zeros(full.work_size(1), np.float32)
    grad = np.empty_like(params)
    loss = full.entry(params, grad, other, row, rng.stream(0), TRAIN, 0, work, 1)
    assert abs(6.0 * loss - sums[-1]) > 1e-3
    tokens[1000] = (tokens[1000] + 1) % 128  # the first token changes every position
    assert full.entry(params, grad, other, row, rng.stream(0), TRAIN, 0, work, 1) != loss


def test_vit_without_positions_does_not_see_the_order_of_patches() -> None:
    """... and with them it does; a mixer always does."""
    for family, blind in (("vit", True), ("vit", False), ("mixer", False)):
        t = task(family, patch=4, batch_size=4)
        params = t.init(rng.stream(3))
        views = t.layout.views(params)
        if family == "vit":
            views["positions"][...] *= 0.0 if blind else 50.0
        images = t.arrays.floats.reshape(-1, 2, 4, 2, 4, 1)
        turned = np.ascontiguousarray(images[:, ::-1, :, ::-1]).ravel()  # patches trade places
        rows, work = batch_of(t), np.zeros(t.work_size(4), np.float32)
        losses = [
            t.entry(params, np.empty_like(params), data, rows, rng.stream(0), TRAIN, 0, work, 0)
            for data in (t.arrays, t.arrays._replace(floats=turned))
        ]
        assert (abs(losses[1] - losses[0]) < 1e-5) == blind, family


def test_a_block_of_zeros_is_the_identity() -> None:
    """Output weights and biases of all parts at 0: embedding, norm and readout are all there is."""
    t = task("transformer_lm", layers=2, positions=False, vocab=20, batch_size=5)
    params = t.init(rng.stream(2))
    views = t.layout.views(params)
    for name, view in views.items():
        if name.endswith(("_wo", "_w2")):
            view[...] = 0.0
    rows = batch_of(t)
    loss, _ = evaluate(t, params, rows)
    e = views["embed"].astype(np.float64)
    y = (e - e.mean(axis=1, keepdims=True)) / np.sqrt(e.var(axis=1, keepdims=True) + 1e-5)
    logits = y @ views["w_out"]
    p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    tokens = t.arrays.ints[rows[:, None] + np.arange(t.length + 1)]
    tokens = np.where(tokens < 20, tokens, 1 + tokens % 19)
    assert loss == pytest.approx(-p[tokens[:, :-1], tokens[:, 1:]].mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("family", "options", "steps", "rate", "first", "last"),
    [
        ("transformer_lm", {"width": 32, "layers": 1}, 200, 3e-3, 4.5, 2.7),
        ("vit", {"layers": 1, "hidden": 64}, 200, 3e-3, 2.2, 1.0),
        ("mixer", {"layers": 1, "hidden": 64}, 200, 3e-3, 2.2, 0.8),
    ],
)
def test_descent_learns(family, options, steps, rate, first, last) -> None:
    """Adam brings the loss from ignorance to less than what frequencies alone would give."""
    t = task(family, batch_size=32, **options)
    params = t.init(rng.stream(0)).astype(np.float64)
    m, v, losses = np.zeros_like(params), np.zeros_like(params), []
    for k in range(steps):
        loss, grad = evaluate(t, params.astype(np.float32), batch_of(t, k))
        losses.append(loss)
        m, v = 0.9 * m + 0.1 * grad, 0.99 * v + 0.01 * grad.astype(np.float64) ** 2
        step = (m / (1.0 - 0.9 ** (k + 1))) / (np.sqrt(v / (1.0 - 0.99 ** (k + 1))) + 1e-8)
        params -= rate * step
    assert losses[0] > first
    assert np.mean(losses[-20:]) < last


# Samplers


def test_sampled_transformers_follow_the_published_law() -> None:
    """... of the sizes, among those that are affordable."""
    drawn = [TransformerLm.draw_config(np.random.RandomState(s)) for s in range(300)]
    for name, low, high in (
        ("heads", 8, 127),
        ("layers", 1, 7),
        ("length", 4, 511),
        ("vocab", 100, 9999),
    ):
        values = [c[name] for c in drawn]
        assert low <= min(values) < 1.3 * low + 1 and 0.8 * high < max(values) <= high, name
    assert all(c["key_size"] == 32 and not c["positions"] for c in drawn)
    assert all(c["width"] % c["heads"] == 0 for c in drawn)
    assert all(c["keep"] == 0.9 for c in drawn)
    bytes_drawn = sum(c["text"] == "kjv" for c in drawn)
    assert abs(bytes_drawn - 150) < 5.0 * np.sqrt(75.0)


def test_sampled_dropout_follows_the_published_law() -> None:
    """Rates U(0, 0.8), both 0 in 30 %; bounds of 5 standard errors, one false alarm in some 10^6."""
    drawn = [Vit.draw_config(np.random.RandomState(s)) for s in range(600)]
    whole = sum(c["keep"] == c["attention_keep"] == 1.0 for c in drawn)
    assert abs(whole - 180) < 5.0 * np.sqrt(600 * 0.3 * 0.7)
    for name in ("keep", "attention_keep"):
        rates = np.array([1.0 - c[name] for c in drawn if c[name] < 1.0])
        assert rates.min() > 0.0 and rates.max() < 0.8
        assert abs(rates.mean() - 0.4) < 5.0 * 0.8 / np.sqrt(12 * rates.size)


@pytest.mark.parametrize("family", ["transformer_lm", "vit", "mixer"])
def test_samples_are_affordable_and_a_function_of_the_seed(family: str) -> None:
    tasks = [sample_task(family, seed) for seed in range(30)]
    assert all(t.operations <= COST_LIMIT for t in tasks)
    assert len({t.name for t in tasks}) == 30
    assert sample_task(family, 7) == tasks[7]
    assert task(**tasks[7].config()) == tasks[7]
    assert all(t.stands_for for t in tasks)


@pytest.mark.parametrize("family", ["transformer_lm", "vit", "mixer"])
def test_operations_count_the_matrix_products(family: str) -> None:
    """Loss and gradient take 6 operations per weight and position; less 2 where the input is data."""
    t = task(family, batch_size=3)
    positions = (
        3 * t.layout.views(t.init(rng.stream(0))).get("positions", np.zeros((16, 1))).shape[0]
    )
    total = 0.0
    for name, shape in t.layout:
        if len(shape) != 2 or name in ("embed", "positions"):
            continue
        rows = 3 * t.width if "mix_w" in name else positions
        rows = 3 if name == "w_out" and family != "transformer_lm" else rows
        rows = 3 * 16 if name == "w_patch" else rows
        total += (4.0 if name == "w_patch" else 6.0) * np.prod(shape) * rows
    if family != "mixer":
        length = positions // 3
        total += 12.0 * 3 * length**2 * t.width * t.layers
    assert t.operations == pytest.approx(total, rel=1e-12)


# Options


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("transformer_lm", {"width": 30, "heads": 4}, "heads = 4 do not divide width = 30; nearest: 3"),
        ("transformer_lm", {"text": "kjw"}, "unknown text 'kjw'; did you mean 'kjv'"),
        ("transformer_lm", {"length": 0}, "length = 0, .*nearest: 1"),
        ("transformer_lm", {"length": 10**6}, "length = 1000000, .*nearest: 49999"),
        ("transformer_lm", {"vocab": 1}, "vocab = 1, .*nearest: 2"),
        ("transformer_lm", {"layers": 0}, "layers = 0, .*nearest: 1"),
        ("transformer_lm", {"init_scale": 0.0}, "init_scale = 0.0, valid: a finite number above 0"),
        ("transformer_lm", {"keep": 0.0}, "keep = 0.0, valid: a number above 0, at most 1; nearest: 1"),
        ("vit", {"attention_keep": 1.5}, "attention_keep = 1.5, valid: a number above 0, at most 1; nearest: 1"),
        ("transformer_lm", {"positions": 1}, "positions = 1, valid: true or false"),
        ("vit", {"patch": 9}, "patch = 9, valid: 1 to 8; nearest: 8"),
        ("vit", {"key_size": -1}, "key_size = -1, .*nearest: 0"),
        ("vit", {"data": "digit"}, "unknown data set 'digit'; did you mean 'digits'"),
        ("mixer", {"patch": 0}, "patch = 0, valid: 1 to 8; nearest: 1"),
        ("mixer", {"width": 0}, "width = 0, .*nearest: 1"),
        ("mixer", {"token_hidden": 1.5}, "token_hidden = 1.5, valid: an integer"),
    ],
)  # fmt: skip
def test_bad_options_are_named(family: str, options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(family, **options)
