"""Normalising flows: densities, Jacobians, masks and permutations against independent formulas."""

import itertools

import numpy as np
import pytest

from lopt import optimizer, rng, rollout
from lopt.data import DATASETS
from lopt.data.datasets import from_arrays
from lopt.errors import TaskError
from lopt.task import TRAIN, Task, TaskData, task
from lopt.tasks import sample_task
from lopt.tasks.flow_common import FlowTask
from lopt.tasks.maf import Maf, made_cuts, upstream_cuts
from lopt.tasks.nvp import Nvp

STREAM = rng.stream(9, 4)
HALF_LOG_TAU = 0.5 * np.log(2.0 * np.pi)


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
    """Data sets of images with few pixels: tiny2, tiny3, tiny5."""
    r = np.random.default_rng(0)
    for n in (2, 3, 5):
        made = from_arrays(f"tiny{n}", r.uniform(size=(40, n)), np.arange(40) % 2, 2, (1, n, 1))
        monkeypatch.setitem(DATASETS, made.name, lambda made=made: made)


def evaluate(t: Task, params, rows=None, floats=None):
    """Loss and gradient by the kernel, in the dtype of params; `floats` replaces the images."""
    rows = np.arange(t.batch_size) if rows is None else rows
    grad = np.full_like(params, np.nan)
    work = np.full(t.work_size(rows.size), np.nan, params.dtype)
    given, ints, sizes, hyper = t.arrays
    floats = np.ascontiguousarray((given if floats is None else floats).reshape(-1), params.dtype)
    data = TaskData(floats, ints, sizes, hyper.astype(params.dtype))
    loss = type(t).core(params, grad, data, rows, STREAM, TRAIN, 0, work, 1)
    return float(loss), t.layout.views(grad)


def noise(t: FlowTask, batch: int = 1) -> np.ndarray:
    z = rng.normals(batch * t.dimension, STREAM, rng.INPUT_NOISE + TRAIN, 0)
    return 0.01 * z.astype(np.float64).reshape(batch, -1)


def minus_log_p(t: FlowTask, params, points: np.ndarray) -> np.ndarray:
    """-log p at given points (n, D): the noise that the task adds is subtracted first."""
    floats, rows = points - noise(t), np.arange(len(points))
    return np.array([evaluate(t, params, rows[i : i + 1], floats)[0] for i in rows])


def random_params(t: FlowTask, scale: float = 1.0) -> np.ndarray:
    shift = 0.3 * rng.normals(t.layout.size, STREAM, rng.TASK).astype(np.float64)
    return scale * (t.init(STREAM).astype(np.float64) + shift)


def net(t: FlowTask, tensors: dict, k: int, x: np.ndarray) -> np.ndarray:
    """Output of net k with tanh units, masked weights already 0."""
    for layer in range(len(t.hidden) + 1):
        x = x @ tensors[f"net{k}_w{layer}"] + tensors[f"net{k}_b{layer}"]
        x = np.tanh(x) if layer < len(t.hidden) else x
    return x


# Independent forward maps, image to normal, one row at a time


def nvp_map(t: Nvp, params, v: np.ndarray) -> np.ndarray:
    d, tensors = t.dimension // 2, t.layout.views(params)
    for k in reversed(range(t.blocks)):
        shift, s = np.split(net(t, tensors, k, v[:d]), 2)
        v = np.concatenate([v[:d], (v[d:] - shift) / np.exp(s)])
        if k > 0:
            undone = np.empty_like(v)
            undone[np.random.RandomState(k - 1).permutation(t.dimension)] = v
            v = undone
    return v


def nvp_inverse(t: Nvp, params, z: np.ndarray) -> tuple[np.ndarray, float]:
    """Image of a normal, and the sum of all s: how a sample is drawn."""
    d, tensors, total = t.dimension // 2, t.layout.views(params), 0.0
    for k in range(t.blocks):
        shift, s = np.split(net(t, tensors, k, z[:d]), 2)
        z = np.concatenate([z[:d], z[d:] * np.exp(s) + shift])
        total += s.sum()
        if k < t.blocks - 1:
            z = z[np.random.RandomState(k).permutation(t.dimension)]
    return z, total


def maf_map(t: Maf, params, v: np.ndarray) -> np.ndarray:
    tensors = t.layout.views(t._masked(params))
    for i, k in enumerate(reversed(range(t.blocks))):
        v = v[t.orders[i - 1]] if i > 0 else v
        out = net(t, tensors, k, v)
        v = (v - out[::2]) / np.exp(np.clip(out[1::2], -5.0, 3.0))
    return v


def maf_inverse(t: Maf, params, z: np.ndarray) -> tuple[np.ndarray, float]:
    """Column by column: (t, s) of a column need only those before it."""
    tensors, total = t.layout.views(t._masked(params)), 0.0
    for k in range(t.blocks):
        v = np.zeros_like(z)
        for j in range(z.size):
            shift, s = net(t, tensors, k, v)[2 * j : 2 * j + 2]
            s = np.clip(s, -5.0, 3.0)
            v[j] = z[j] * np.exp(s) + shift
            total += s
        z = v
        if k < t.blocks - 1:
            undone = np.empty_like(z)
            undone[t.orders[t.blocks - 2 - k]] = z
            z = undone
    return z, total


MAPS = {Nvp: (nvp_map, nvp_inverse), Maf: (maf_map, maf_inverse)}
FLOWS = [
    (Nvp, {"data": "tiny3", "hidden": (4,), "blocks": 1}),
    (Nvp, {"data": "tiny5", "hidden": (6, 4), "blocks": 4}),
    (Maf, {"data": "tiny3", "hidden": (7,), "blocks": 1}),
    (Maf, {"data": "tiny5", "hidden": (6, 4), "blocks": 3}),
    (Maf, {"data": "tiny5", "hidden": (11,), "blocks": 2, "upstream": True}),
]


@pytest.fixture(params=FLOWS, ids=lambda p: f"{p[0].family}-{p[1]['data']}-{p[1]['blocks']}")
def t(request) -> FlowTask:
    cls, options = request.param
    return cls(**options, activation="tanh", initialiser="he_normal", batch_size=5)


def jacobian(f, x: np.ndarray, h: float = 1e-5) -> np.ndarray:
    return np.stack([(f(x + e) - f(x - e)) / (2.0 * h) for e in h * np.eye(x.size)], axis=1)


def test_density_by_change_of_variables(t: FlowTask) -> None:
    """-log p = |z|^2 / 2 + D/2 log 2 pi - log |det dz/dx|, the Jacobian by differences."""
    params, points = random_params(t), np.random.default_rng(1).normal(size=(4, t.dimension))
    found = minus_log_p(t, params, points)
    for x, loss in zip(points, found, strict=True):
        z = MAPS[type(t)][0](t, params, x)
        sign, log_det = np.linalg.slogdet(jacobian(lambda v: MAPS[type(t)][0](t, params, v), x))
        assert sign != 0.0 and abs(log_det) > 0.1
        assert loss == pytest.approx(0.5 * z @ z + t.dimension * HALF_LOG_TAU - log_det, rel=1e-7)


def test_samples_have_the_density_of_their_normals(t: FlowTask) -> None:
    """x drawn by the inverse map from z: -log p(x) = -log N(z) + sum of s."""
    params = random_params(t)
    for z in np.random.default_rng(2).normal(size=(4, t.dimension)):
        x, total = MAPS[type(t)][1](t, params, z)
        np.testing.assert_allclose(MAPS[type(t)][0](t, params, x), z, rtol=1e-9, atol=1e-9)
        expected = 0.5 * z @ z + t.dimension * HALF_LOG_TAU + total
        assert minus_log_p(t, params, x[None])[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("cls", "options"), [(Nvp, {}), (Maf, {}), (Maf, {"upstream": True})])
def test_density_integrates_to_one(cls, options: dict) -> None:
    t = cls(data="tiny2", hidden=(4,), blocks=2, activation="tanh", batch_size=5, **options)
    params = random_params(t, 0.5)
    axis, step = np.linspace(-9.0, 9.0, 121, retstep=True)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    total = np.exp(-minus_log_p(t, params, points)).sum() * step**2
    assert total == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("cls", [Nvp, Maf])
def test_a_flow_at_zero_is_a_normal(cls) -> None:
    t = cls(hidden=(6,), blocks=3, batch_size=5)
    x = t.dataset.x[:5] + noise(t, 5)
    found, grads = evaluate(t, np.zeros(t.layout.size, np.float32))
    assert found == pytest.approx(0.5 * (x**2).sum() / 5 + 64 * HALF_LOG_TAU, rel=1e-6)
    for name, g in grads.items():
        assert (np.abs(g).max() > 0.1) == (name.endswith("_b1")), name


def test_overflowing_couplings_are_never_a_finite_loss() -> None:
    """s is not clipped: e^-s is infinite below -88; a rollout flags it."""
    t, params = Nvp(hidden=(6,), blocks=2), np.zeros(1292, np.float32)
    for s in (-90.0, -80.0):  # of e^80 the square overflows
        t.layout.views(params)["net0_b1"][32:] = s
        assert not np.isfinite(evaluate(t, params)[0])
    start = Nvp(hidden=(64,), initialiser="random_normal", init_scale=10.0, batch_size=5)
    trace = rollout(start, optimizer("adam", learning_rate=1e-3), steps=5)
    assert trace.status == "diverged"
    assert np.isfinite(trace.train_loss).all()


@pytest.mark.parametrize("cls", [Nvp, Maf])
def test_not_a_number_stays_one(cls) -> None:
    t = cls(hidden=(6,), blocks=2, batch_size=5)
    params = t.init(STREAM)
    t.layout.views(params)["net1_b0"][:] = np.nan
    found, grads = evaluate(t, params)
    assert np.isnan(found) and np.isnan(grads["net0_w1"]).any()


def test_published_permutations() -> None:
    """Between blocks k + 1 and k the columns of RandomState(k).permutation(D) go back."""
    orders = Nvp(blocks=3).orders
    for order, k in zip(orders, (1, 0), strict=True):
        np.testing.assert_array_equal(np.random.RandomState(k).permutation(64)[order], range(64))


def test_permutations_of_a_maf_are_named_by_its_instance() -> None:
    a, b, c = (Maf(blocks=3, instance=i, hidden=(h,)).orders for i, h in ((1, 4), (1, 9), (2, 4)))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.sort(a), np.sort(c))
    assert all((x != y).any() for x, y in [*zip(a, c, strict=True), (a[0], a[1])])


# Masks


def normals_of(t: Maf, params, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z and dz/dt of block 0, read off the kernel's gradient: dL/dt = -z w, dL/ds = 1 - z^2."""
    _, grads = evaluate(t, params, np.array([0]), x[None] - noise(t))
    last = grads[f"net0_b{len(t.hidden)}"]
    w = np.abs(last[::2]) / np.sqrt(1.0 - last[1::2])
    return -last[::2] / w, w


@pytest.mark.parametrize("upstream", [False, True])
@pytest.mark.parametrize("hidden", [(), (5,), (7, 13), (24, 12)])
def test_a_maf_is_autoregressive(hidden: tuple[int, ...], upstream: bool) -> None:
    """dz_i/dx_j = 0 for j > i, to the bit, and log p is what the diagonal says."""
    t = Maf(
        data="tiny5", hidden=hidden, blocks=1, activation="tanh", batch_size=5, upstream=upstream
    )
    params, x = random_params(t, 0.5), np.linspace(-0.7, 0.9, 5)
    z, w = normals_of(t, params, x)
    for j in range(5):
        moved = x.copy()
        moved[j] += 0.25
        np.testing.assert_array_equal(normals_of(t, params, moved)[0][:j], z[:j])
    slopes = jacobian(lambda v: normals_of(t, params, v)[0], x)
    np.testing.assert_allclose(np.diag(slopes), w, rtol=1e-6)
    loss = minus_log_p(t, params, x[None])[0]
    assert loss == pytest.approx(0.5 * z @ z + 5 * HALF_LOG_TAU - np.log(w).sum(), rel=1e-9)
    below = slopes[np.tril_indices(5, -1)]
    assert np.abs(below).max() > 1e-3  # and the columns before it do matter


def paths(widths: tuple[int, ...], cuts: list[np.ndarray]) -> np.ndarray:
    """Number of paths from input j to output i that the masks leave, (2 D, D)."""
    total = np.eye(widths[0])
    for (n, m), cut in zip(itertools.pairwise(widths), cuts, strict=True):
        assert cut.shape == (n,)
        total = (np.arange(m) >= cut[:, None]).T.astype(float) @ total
    return total


@pytest.mark.parametrize("cuts", [made_cuts, upstream_cuts])
@pytest.mark.parametrize("hidden", [(8,), (17, 9), (40, 8, 33)])
def test_wide_masks_leave_all_that_is_allowed(cuts, hidden: tuple[int, ...]) -> None:
    """Output pair i hears of the inputs before i, all of them, and of no other."""
    widths = (8, *hidden, 16)
    allowed = np.repeat(np.tri(8, k=-1), 2, axis=0) > 0.0
    np.testing.assert_array_equal(paths(widths, cuts(widths)) > 0.0, allowed)


@pytest.mark.parametrize("hidden", [(1,), (3,), (5, 2), (30, 50)])
def test_narrow_masks_are_autoregressive_and_not_empty(hidden: tuple[int, ...]) -> None:
    widths = (64, *hidden, 128)
    left = paths(widths, made_cuts(widths)) > 0.0
    assert not left[np.repeat(np.tri(64, k=-1), 2, axis=0) == 0.0].any()
    assert left[-1].sum() >= 32  # the last output hears of half of the inputs or more


def test_narrow_published_masks_leave_nothing() -> None:
    """... and so only the last biases matter; the default's weights do."""
    widths = (64, 30, 50, 128)
    assert not paths(widths, upstream_cuts(widths)).any()
    for upstream in (True, False):
        t = Maf(hidden=(30, 50), blocks=2, batch_size=5, upstream=upstream)
        params = random_params(t, 0.5)
        found, grads = evaluate(t, params)
        weights = [g for name, g in grads.items() if not name.endswith("b2")]
        assert any((g != 0.0).any() for g in weights) != upstream
        for name, tensor in t.layout.views(params).items():
            tensor *= 1.0 if name.endswith("b2") else 3.0
        assert (evaluate(t, params)[0] == found) == upstream


def test_published_masks_of_a_wide_net() -> None:
    """2048 hidden units for 784 columns: two per column, and the last 480 unused."""
    first, last = upstream_cuts((784, 2048, 1568))
    np.testing.assert_array_equal(first, 2 * np.arange(1, 785))
    np.testing.assert_array_equal(last[:1568], 2 * np.repeat(np.arange(784), 2))
    np.testing.assert_array_equal(last[1568:], np.full(480, 1568))


def test_masked_weights_start_at_zero_and_stay_there() -> None:
    t = Maf(hidden=(9, 7), blocks=2, batch_size=5)
    params = t.init(STREAM)
    np.testing.assert_array_equal(t._masked(params), params)
    grads = evaluate(t, random_params(t))[1]
    masks = t.layout.views(t._masked(np.ones(t.layout.size)))
    assert all((grads[name][mask == 0.0] == 0.0).all() for name, mask in masks.items())
    assert 0.2 < masks["net0_w0"].mean() < 0.8


@pytest.mark.parametrize(("s", "clipped"), [(4.0, 3.0), (-7.0, -5.0), (1.0, 1.0)])
def test_the_clip_of_s_has_the_gradient_of_the_identity(s: float, clipped: float) -> None:
    """Outside [-5, 3] the loss is flat in s, and yet the gradient is 1 - mean z^2."""
    t = Maf(hidden=(6,), blocks=1, batch_size=5)
    params = np.zeros(t.layout.size)
    t.layout.views(params)["net0_b1"][1::2] = s
    x = t.dataset.x[:5].astype(np.float64) + noise(t, 5)
    z = x * np.exp(-clipped)
    found, grads = evaluate(t, params)
    assert found == pytest.approx(0.1 * (z**2).sum() + 64 * (HALF_LOG_TAU + clipped), rel=1e-12)
    np.testing.assert_allclose(grads["net0_b1"][1::2], 1.0 - (z**2).mean(axis=0), rtol=1e-9)
    t.layout.views(params)["net0_b1"][1::2] = s + 0.5
    assert (evaluate(t, params)[0] == found) == (s != clipped)


def test_biases_alone_fit_mean_and_deviation() -> None:
    """The best affine flow: t the mean, s the log deviation of each column; loss and gradient."""
    t = Maf(hidden=(6,), blocks=1, batch_size=50)
    x = t.dataset.x[:50].astype(np.float64) + noise(t, 50)
    params = np.zeros(t.layout.size)
    bias = t.layout.views(params)["net0_b1"]
    bias[::2], bias[1::2] = x.mean(axis=0), np.log(x.std(axis=0))
    found, grads = evaluate(t, params)
    log_std = np.log(x.std(axis=0))
    assert found == pytest.approx(64 * (0.5 + HALF_LOG_TAU) + log_std.sum(), rel=1e-12)
    np.testing.assert_allclose(grads["net0_b1"], 0.0, atol=1e-10)


def test_adam_trains_the_flows() -> None:
    for t in (Nvp(batch_size=64), Maf(batch_size=64), Maf(batch_size=64, upstream=True)):
        trace = rollout(t, optimizer("adam", learning_rate=1e-3), steps=300)
        assert trace.status == "ok"
        assert trace.outer_loss[-1] < trace.train_loss[0] - 30.0


# Samplers and options


def test_published_configurations() -> None:
    shared = {
        "activation": "relu", "dataset": "coil100_32x32", "augmentation": None, "n_train": None,
        "just_train": False,
    }  # fmt: skip
    assert Nvp.sample_config(0) == {
        **shared, "initialiser": "he_normal", "init_scale": 1.0, "batch_size": 69,
        "hidden": (34, 76), "blocks": 3,
    }  # fmt: skip
    assert Maf.sample_config(0) == {
        **shared, "initialiser": "random_normal", "init_scale": 0.22685252736442543,
        "batch_size": 30, "hidden": (55,), "blocks": 2,
    }  # fmt: skip


def test_sampled_flows_are_as_drawn() -> None:
    a, b = sample_task("nvp", 0), sample_task("maf", 0)
    assert (a.widths, a.blocks, a.batch_size) == ((1536, 34, 76, 3072), 3, 69)
    assert (b.widths, b.blocks, b.stands_for) == ((3072, 55, 6144), 2, "coil100_32x32")
    assert (b.upstream, Maf.sample(0, upstream=True).upstream) == (False, True)


def test_samplers_follow_the_published_weights() -> None:
    """1000 seeds, within 5 sigma; and no layer as wide as an image, so upstream's masks are empty."""
    for cls in (Nvp, Maf):
        drawn = [cls.sample_config(seed) for seed in range(1000)]
        for hits, p in (
            (sum(len(c["hidden"]) == 2 for c in drawn), 1 / 2),
            (sum(c["blocks"] == 4 for c in drawn), 1 / 4),
            (sum(c["activation"] == "relu" for c in drawn), 6 / 16),
        ):
            assert abs(hits - 1000 * p) <= 5.0 * np.sqrt(1000 * p * (1 - p))
        assert 126 <= max(w for c in drawn for w in c["hidden"]) <= 128


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("nvp", {"blocks": 0}, "blocks = 0, .*nearest: 1"),
        ("nvp", {"upstream": True}, "unknown option of task family 'nvp': 'upstream'"),
        ("maf", {"upstream": 1}, "upstream = 1, valid: true or false"),
        ("maf", {"instance": -1}, "instance = -1, .*nearest: 0"),
        ("maf", {"initialiser": "he"}, "unknown initialiser 'he'"),
    ],
)
def test_bad_options_are_named(family: str, options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(family, **options)


def test_an_image_of_one_number_cannot_be_split() -> None:
    crop = (7, False, False, False, 0.0, 0.0, 0.0, 0.0)
    with pytest.raises(TaskError, match="images of 1 number"):
        Nvp(augmentation=crop)
    assert Maf(augmentation=crop).widths == (1, 32, 2)
