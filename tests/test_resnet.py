"""Maxima over windows, and residual networks: closed forms, what blocks and norms promise, published networks, sampler."""

import itertools
import math

import numpy as np
import pytest
from helpers import finite_differences, lane_scheduler

from lopt import rng
from lopt.errors import TaskError
from lopt.ops.window_pool import max_pool_bwd, max_pool_fwd, max_pool_reference
from lopt.task import INNER_VALID, TRAIN, TaskData, task
from lopt.tasks.resnet import Resnet
from lopt.tasks.resnet_core import D_ADDED, END, KEPT, PARAMS, ROLE, SKIP, SOURCE, UNIT
from lopt.tasks.resnet_plan import BLOCKS, NETWORKS, block_behind
from lopt.tasks.transformer_options import COST_LIMIT

STREAM = rng.stream(4, 2, 1)
SCALES = (1e-6, 1.0, 1e3)
NORMS = ("batch", "layer", "virtual")
# (batch, height, width, channels), side, stride
WINDOWS = [
    ((2, *size, 3), side, stride)
    for size, (side, stride) in itertools.product(
        ((6, 6), (5, 8), (1, 16), (2, 1)), ((3, 2), (2, 2), (3, 1), (4, 3), (1, 1))
    )
]


def normals(shape: tuple[int, ...], k: int) -> np.ndarray:
    return np.random.default_rng(k).standard_normal(shape)


# Maxima over windows


def maxima(x: np.ndarray, side: int, stride: int) -> np.ndarray:
    sizes = [-(-n // stride) for n in x.shape[1:3]]
    y = np.full((x.shape[0], *sizes, x.shape[3]), np.nan, x.dtype)
    max_pool_fwd(x, side, stride, y)
    return y


def maxima_backward(x, y, dy, side: int, stride: int) -> np.ndarray:
    dx = np.full_like(x, np.nan)
    max_pool_bwd(x, y, dy, side, stride, dx, np.full(x.shape[3], np.nan, x.dtype))
    return dx


def test_maxima_by_hand() -> None:
    """Windows of 3 with stride 2 on 0..3: an even size has its margin behind, so the last window sees two."""
    x = np.array([[1.0, 5.0, 2.0, 4.0]]).reshape(1, 1, 4, 1)
    assert maxima(x, 3, 2).ravel().tolist() == [5.0, 4.0]
    assert maxima(x.reshape(1, 4, 1, 1), 3, 2).ravel().tolist() == [5.0, 4.0]
    # an odd size has one on both sides: windows {0, 1}, {1, 2, 3}, {3, 4}
    x = np.array([[7.0, 5.0, 2.0, 4.0, 6.0]]).reshape(1, 1, 5, 1)
    y = maxima(x, 3, 2)
    assert y.ravel().tolist() == [7.0, 5.0, 6.0]
    dy = np.array([1.0, 2.0, 4.0]).reshape(y.shape)
    assert maxima_backward(x, y, dy, 3, 2).ravel().tolist() == [1.0, 2.0, 0.0, 0.0, 4.0]


def test_the_first_of_equal_maxima_gets_the_gradient() -> None:
    """... row by row, and of each window anew: windows {0, 1}, {1, 2, 3} and {3, 4} of zeros."""
    x = np.zeros((1, 1, 5, 1))
    y = maxima(x, 3, 2)
    dy = np.array([1.0, 2.0, 4.0]).reshape(y.shape)
    assert maxima_backward(x, y, dy, 3, 2).ravel().tolist() == [1.0, 2.0, 0.0, 4.0, 0.0]
    x = np.array([[1.0, 0.0], [3.0, 3.0]]).reshape(1, 2, 2, 1)
    one = np.ones((1, 1, 1, 1))
    assert maxima_backward(x, maxima(x, 2, 2), one, 2, 2).ravel().tolist() == [0.0, 0.0, 1.0, 0.0]


def test_all_negative_maps_have_negative_maxima() -> None:
    """What a window has outside of the map does not count as 0."""
    x = -1.0 - np.abs(normals((2, 5, 5, 2), 0))
    assert (maxima(x, 3, 2) < 0.0).all()


@pytest.mark.parametrize(("shape", "side", "stride"), WINDOWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_maxima_agree_with_the_reference(shape, side: int, stride: int, dtype) -> None:
    for scale in SCALES:
        x = (scale * np.round(normals(shape, 0), 1)).astype(dtype)  # many ties
        expected, place = max_pool_reference(x, side, stride)
        y = maxima(x, side, stride)
        np.testing.assert_array_equal(y, expected)
        dy = np.arange(1.0, y.size + 1).reshape(y.shape).astype(dtype)  # whole numbers: exact sums
        dx = np.zeros(x.size)
        np.add.at(dx, place, dy)
        np.testing.assert_array_equal(maxima_backward(x, y, dy, side, stride), dx.reshape(shape))


def test_the_gradient_of_maxima_is_their_derivative() -> None:
    x = np.random.default_rng(3).permutation(np.arange(2.0 * 5 * 6 * 3)).reshape(2, 5, 6, 3)
    dy = normals(maxima(x, 3, 2).shape, 1)
    dx = maxima_backward(x, maxima(x, 3, 2), dy, 3, 2)
    finite_differences.check(
        lambda p: float((dy * maxima(p.reshape(x.shape), 3, 2)).sum()), x.ravel(), dx.ravel()
    )


def test_a_nan_is_the_maximum_of_its_windows() -> None:
    x = normals((1, 5, 5, 2), 0)
    x[0, 1, 1, 0] = np.nan
    found = np.isnan(maxima(x, 3, 2))
    assert found[0, :2, :2, 0].all() and found.sum() == 4


def test_maxima_do_not_depend_on_the_lanes() -> None:
    x = np.round(normals((2, 5, 4, 3), 0), 1).astype(np.float32)
    y, dy = maxima(x, 3, 2), normals((2, 3, 2, 3), 1).astype(np.float32)
    lane_scheduler.check(max_pool_fwd, lambda: (x, 3, 2, np.zeros_like(y)))
    room = np.zeros(3, np.float32)
    lane_scheduler.check(
        max_pool_bwd, lambda: (x, y, dy, 3, 2, np.zeros_like(x), room.copy()), scratch=(6,)
    )


# Residual networks


def evaluate(t, params, rows, split=TRAIN, step=3, with_grad=1, work=None):
    """Loss and gradient in the dtype of params; `work` keeps the scratch."""
    grad = np.full_like(params, np.nan)
    work = np.full(t.work_size(rows.size), np.nan, params.dtype) if work is None else work
    floats, ints, sizes, hyper = t.arrays
    data = TaskData(floats.astype(params.dtype), ints, sizes, hyper.astype(params.dtype))
    loss = type(t).core(params, grad, data, rows, STREAM, split, step, work, with_grad)
    return float(loss), grad


def start_of(t, noise: float = 0.1) -> np.ndarray:
    """Initial parameters without zeros, float64."""
    return t.init(STREAM).astype(float) + noise * rng.normals(t.layout.size, STREAM, rng.TASK)


SMOOTH = [
    Resnet(
        batch_size=4, stem=(3, 5, 1), max_pool=norm == "batch", stages=((1, 5, 4, 1), (1, 6, 4, 2)),
        block=block, norm=norm, reference_rows=3, activation="tanh",
    )
    for norm, block in zip(NORMS, ("basic", "bottleneck", "basic"), strict=True)
]  # fmt: skip


@pytest.mark.parametrize("t", SMOOTH, ids=lambda t: t.norm)
@pytest.mark.parametrize("scale", SCALES)
def test_gradients_are_derivatives_at_every_scale(t: Resnet, scale: float) -> None:
    """Parameters in units of the scale; the norms see to it that the activations stay where they bend."""
    rows, unit = np.arange(4), np.ones(t.layout.size)
    for name, view in t.layout.views(unit).items():
        view[...] = scale if name.endswith("_w") else 1.0
    params = start_of(t)

    def loss(p: np.ndarray) -> float:
        return evaluate(t, unit * p, rows, with_grad=0)[0]

    _, grad = evaluate(t, unit * params, rows)
    finite_differences.check(loss, params, unit * grad)


@pytest.mark.parametrize("norm", ["batch", "virtual"])
def test_nets_with_batch_norm_do_not_feel_the_scale_of_a_kernel(norm: str) -> None:
    """Any kernel times 8: the same loss but for eps, and an eighth of its gradient."""
    t = task("resnet", norm=norm, batch_size=16, initialiser="random_normal", init_scale=30.0)
    rows = np.arange(16)
    params = t.init(STREAM).astype(float)
    t.layout.views(params)["w_out"][...] /= 100.0
    loss, grad = evaluate(t, params, rows)
    kernels = [n for n in t.layout.names if n.endswith("_w")]
    assert len(kernels) == 1 + 2 + 3
    for name in kernels:
        scaled = params.copy()
        t.layout.views(scaled)[name][...] *= 8.0
        other, same = evaluate(t, scaled, rows)
        assert other == pytest.approx(loss, rel=1e-6)
        a, b = t.layout.views(grad)[name], t.layout.views(same)[name]
        np.testing.assert_allclose(8.0 * b, a, rtol=0, atol=1e-5 * np.abs(a).max())


def test_blocks_whose_last_gamma_is_zero_do_nothing() -> None:
    """Identity blocks pass maps of a ReLU through, and their gradients too: any number of them gives the same loss."""
    options = {"stem": (3, 4, 2), "batch_size": 5, "zero_start": True}
    one, four = (Resnet(stages=((n, 4, 4, 1),), **options) for n in (1, 4))
    rows, found = np.arange(5), []
    for t in (one, four):
        params = t.init(STREAM).astype(float)
        views = t.layout.views(params)
        assert (views["w_out"] == 0.0).all() and (views["block0_conv1_gamma"] == 0.0).all()
        assert (views["block0_conv0_gamma"] == 1.0).all()
        views["w_out"][...] = normals((4, 10), 1)
        loss, grad = evaluate(t, params, rows)
        found.append((loss, t.layout.views(grad)))
    assert found[0][0] == found[1][0]
    for name in ("stem_w", "stem_gamma", "stem_beta", "w_out", "b_out"):
        np.testing.assert_array_equal(found[0][1][name], found[1][1][name])
        assert np.abs(found[0][1][name]).max() > 0.0
    assert np.abs(found[1][1]["block3_conv1_gamma"]).min() > 0.0  # only this one moves first
    np.testing.assert_array_equal(found[1][1]["block3_conv0_w"], 0.0)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_gradient_comes_around_every_block(block: str) -> None:
    """With gammas of 0 in the chains the network is its shortcuts: a linear one, known in closed form.

    Mean over positions of 1 x 1 convolutions of the stem's map: the shortcut's norm is a shift and a factor per channel.
    """
    t = Resnet(
        stem=(1, 3, 1), block=block, stages=((1, 4, 2, 1), (2, 4, 2, 1)), norm="layer",
        activation="linear", batch_size=3, zero_start=True,
    )  # fmt: skip
    rows, params = np.arange(3), t.init(STREAM).astype(float)
    views = t.layout.views(params)
    views["w_out"][...] = normals((4, 10), 1)
    _, grad = evaluate(t, params, rows)
    x = t.dataset.x[rows].astype(float).reshape(-1, 1)

    def layer_norm(z: np.ndarray) -> np.ndarray:
        return (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5)

    def logits(skip: np.ndarray) -> np.ndarray:
        h = layer_norm(layer_norm(x @ views["stem_w"][0, 0]) @ skip)
        return h.reshape(3, 64, 4).mean(axis=1) @ views["w_out"]

    def loss(skip: np.ndarray) -> float:
        z = logits(skip.reshape(3, 4))
        return float((np.logaddexp.reduce(z, 1) - z[range(3), t.dataset.y[rows]]).mean())

    skip = views["block0_skip_w"][0, 0]
    assert evaluate(t, params, rows)[0] == pytest.approx(loss(skip.ravel()), rel=1e-12)
    found = t.layout.views(grad)["block0_skip_w"].ravel()
    finite_differences.check(loss, skip.ravel(), found)


def test_zero_start_is_known_in_closed_form() -> None:
    """Loss log 10; of the readout's bias the gradient is 1/10 - the frequency of each class."""
    t = task("resnet", batch_size=30, zero_start=True)
    loss, grad = evaluate(t, t.init(STREAM), np.arange(30))
    assert loss == pytest.approx(np.log(10.0), rel=1e-6)
    parts = t.layout.views(grad)
    counts = np.bincount(t.dataset.y[:30], minlength=10)
    np.testing.assert_allclose(parts.pop("b_out"), 0.1 - counts / 30, atol=1e-7)
    assert np.abs(parts.pop("w_out")).max() > 1e-3
    assert all((g == 0.0).all() for g in parts.values())


def test_batch_norm_ties_the_rows_of_a_batch_and_the_others_do_not() -> None:
    """The loss of a batch is the mean of its rows' own losses only if no row sees another."""
    for norm, free in (("layer", True), ("batch", False), ("virtual", True)):
        t = task("resnet", norm=norm, batch_size=6)
        params, rows = t.init(rng.stream(1)), np.arange(40, 46)
        loss, grad = evaluate(t, params, rows)
        alone = [evaluate(t, params, rows[i : i + 1]) for i in range(6)]
        assert (abs(loss - np.mean([a[0] for a in alone])) < 1e-5) == free
        gap = np.abs(grad - np.mean([a[1] for a in alone], axis=0)).max()
        assert (gap < 1e-4 * np.abs(grad).max()) == free


def test_every_split_is_evaluated_alike() -> None:
    """No mode, no running averages: rows decide, not the split they are said to be from."""
    t = task("resnet", batch_size=16)
    params, rows = t.init(rng.stream(1)), np.arange(16)
    loss, grad = evaluate(t, params, rows, TRAIN)
    other, same = evaluate(t, params, rows, INNER_VALID)
    assert other == loss
    np.testing.assert_array_equal(same, grad)


def test_the_reference_batch_is_the_same_at_every_step_and_split() -> None:
    """... cropped and mirrored as it may be; the batch is not."""
    crop = (2, True, False, False, 0.0, 0.0, 0.0, 0.0)
    t = task("resnet", norm="virtual", reference_rows=5, batch_size=4, augmentation=crop)
    params, rows, pixels = t.init(STREAM), np.arange(100, 104), 36
    seen = []
    for split, step in ((TRAIN, 0), (TRAIN, 7), (INNER_VALID, 7)):
        work = np.full(t.work_size(4), np.nan, np.float32)
        evaluate(t, params, rows, split, step, 0, work)
        seen.append((work[: 5 * pixels], work[5 * pixels : 9 * pixels]))
    expected = t.reference_batch(np.arange(5), STREAM, TRAIN, 0).ravel()
    for (top, batch), (_, before) in zip(seen, seen[-1:] + seen[:-1], strict=True):
        np.testing.assert_allclose(top, expected, rtol=0, atol=1e-6)
        assert (batch != before).any()


def test_the_maximum_halves_the_map() -> None:
    """8 x 8 to 4 x 4 behind the stem: the blocks cost a quarter."""
    whole, half = (Resnet(max_pool=m, stages=((2, 8, 8, 1),)) for m in (False, True))
    assert [u.before for u in half.units[:2]] == [(8, 8, 1), (4, 4, 8)]
    ends = [t.blocks[-1].after for t in (whole, half)]
    assert ends == [(8, 8, 8), (4, 4, 8)]
    blocks = [sum(u.products for u in t.units[1:]) for t in (whole, half)]
    assert blocks[0] == 4 * blocks[1]


@pytest.mark.parametrize(
    ("kind", "strides", "heights"),
    [("basic", [2, 1], [4, 4]), ("bottleneck", [1, 2, 1], [8, 4, 4])],
)
def test_a_stride_is_that_of_the_first_3x3_unit(kind: str, strides: list, heights: list) -> None:
    block = block_behind("b", (8, 6, 4), BLOCKS[kind], 5, 2, 2)
    assert [u.stride for u in block.chain] == strides
    assert [u.after[0] for u in block.chain] == heights
    assert [u.after[2] for u in block.chain] == [2] * (len(strides) - 1) + [5]
    assert block.skip[0][1:] == (1, 2, (8, 6, 4), (4, 3, 5))
    assert block_behind("b", (8, 6, 5), BLOCKS[kind], 5, 2, 1).skip == ()


# Published networks


def layers(t: Resnet) -> int:
    """Convolutions that are not shortcuts, and the readout."""
    return sum(len(b.chain) for b in t.blocks) + 1


@pytest.mark.parametrize(
    ("name", "data", "count", "maps", "strided"),
    [
        ("cifar14", "textures32", 14, [(8, 8, 128), (4, 4, 128), (4, 4, 128), (2, 2, 128)], 2),
        (
            "imagenet35", "textures64_101", 35,
            [
                (16, 16, 128), (8, 8, 128), (8, 8, 256), (8, 8, 256), (4, 4, 256), (4, 4, 512),
                (4, 4, 512), (4, 4, 512), (2, 2, 512), (2, 2, 1024), (2, 2, 1024),
            ],
            3,
        ),
    ],
)  # fmt: skip
def test_published_networks(name: str, data: str, count: int, maps: list, strided: int) -> None:
    """Numbers of layers as their names say; maps and parameters worked out from the published list."""
    t = task("resnet", network=name, data=data)
    side = int(t.input_shape[0])
    assert layers(t) == count
    assert t.blocks[0].after == (side // 2, side // 2, 64)
    assert [b.after for b in t.blocks[1:]] == maps
    assert sum(b.chain[1].stride == 2 for b in t.blocks[1:]) == strided
    assert all(b.chain[0].stride == b.chain[2].stride == 1 for b in t.blocks[1:])
    here, expected = 64, 7 * 7 * 3 * 64 + 2 * 64
    for blocks, out, inner, stride in NETWORKS[name]["stages"]:
        for k in range(blocks):
            expected += here * inner + 9 * inner * inner + inner * out + 2 * (2 * inner + out)
            if here != out or (k == 0 and stride == 2):
                expected += here * out + 2 * out
            here = out
    classes = t.dataset.n_classes
    assert t.layout.size == expected + here * classes + classes


def test_published_networks_leave_nothing_to_choose() -> None:
    words = r"stem = \(3, 8, 2\), but network = 'cifar14' has its own; leave one out"
    with pytest.raises(TaskError, match=words):
        task("resnet", network="cifar14", stem=(3, 8, 2))
    with pytest.raises(TaskError, match="unknown network 'cifar41'; did you mean 'cifar14'"):
        task("resnet", network="cifar41")


def test_all_networks_share_one_kernel() -> None:
    """35 layers compile nothing that 6 do not."""
    small = task("resnet", batch_size=2)
    evaluate(small, small.init(STREAM), np.arange(2))
    before = len(Resnet.core.signatures)
    deep = task("resnet", network="imagenet35", data="digits", batch_size=2)
    loss, grad = evaluate(deep, deep.init(STREAM), np.arange(2))
    assert np.isfinite(loss) and np.isfinite(grad).all()
    assert len(Resnet.core.signatures) == before


def test_names_of_parameters() -> None:
    t = task("resnet", stem=(3, 2, 1), stages=((1, 2, 4, 1), (1, 3, 5, 2)))
    vectors = {"stem": 2, "block0_conv0": 4, "block0_conv1": 2, "block1_skip": 3}
    vectors |= {"block1_conv0": 5, "block1_conv1": 3}
    kernels = {
        "stem": (3, 3, 1, 2), "block0_conv0": (3, 3, 2, 4), "block0_conv1": (3, 3, 4, 2),
        "block1_skip": (1, 1, 2, 3), "block1_conv0": (3, 3, 2, 5), "block1_conv1": (3, 3, 5, 3),
    }  # fmt: skip
    expected = [
        entry
        for unit, c in vectors.items()
        for entry in (
            (f"{unit}_w", kernels[unit]),
            (f"{unit}_gamma", (c,)),
            (f"{unit}_beta", (c,)),
        )
    ]
    assert list(t.layout) == [*expected, ("w_out", (3, 10)), ("b_out", (10,))]
    params = t.layout.views(t.init(STREAM))
    assert all((params[n] == 1.0).all() == n.endswith("gamma") for n in params)
    assert all((params[n] == 0.0).all() == (n.endswith("beta") or n == "b_out") for n in params)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("images", [1, 7])
def test_the_table_gives_everything_a_place_of_its_own(name: str, images: int) -> None:
    """What units keep does not overlap, inputs are what another unit made, and gradients are not overwritten."""
    t = task("resnet", network=name, data="textures32")
    rows = np.array(t.table.rows).reshape(-1, UNIT)
    assert len(rows) == len(t.units)
    taken = [(0, images * math.prod(t.input_shape))]
    made = {0: t.input_shape}  # beginnings of maps that others read
    for unit, row in zip(t.units, rows, strict=True):
        offset = t.layout.offsets[t.layout.names.index(f"{unit.name}_w")]
        assert row[PARAMS] == offset
        size, positions = images * math.prod(unit.after), images * math.prod(unit.after[:2])
        begin = images * row[KEPT] + row[KEPT + 1]
        y = begin + size + positions + unit.after[2]
        end = y + size * (1 if row[ROLE] == SKIP else 2)
        taken.append((begin, end))
        made[y] = made[end - size] = unit.after
        if unit.name == "stem":
            pool = [(n + 1) // 2 for n in unit.after[:2]]
            taken.append((end, end + images * math.prod(pool) * 64))
            made[end] = (*pool, 64)
        assert made[images * row[SOURCE] + row[SOURCE + 1]] == unit.before
    assert all(a[1] == b[0] for a, b in itertools.pairwise(taken))
    assert taken[-1][1] == images * t.table.kept[0] + t.table.kept[1]
    for before, row in itertools.pairwise(rows[1:]):
        if row[ROLE] == END:
            assert before[ROLE] != END
        own, into = row[-2:]
        assert own != into and (own == D_ADDED) == (row[ROLE] == SKIP)


# The sampler


def test_a_seed_is_a_configuration() -> None:
    assert Resnet.sample(7) == Resnet.sample(7)
    found = Resnet.sample(4)
    assert found.config() == {
        **Resnet().config(), "data": "textures32", "stands_for": "cifar10", "batch_size": 4,
        "stem": (5, 8, 2), "max_pool": True, "block": "bottleneck",
        "stages": ((3, 13, 3, 1), (8, 26, 6, 2), (4, 26, 6, 2), (4, 52, 13, 2)),
        "stem_activation": "swish", "initialiser": "sonnet", "zero_start": True,
    }  # fmt: skip


def test_sampled_tasks_follow_the_published_law() -> None:
    drawn = [Resnet.draw_config(np.random.RandomState(s)) for s in range(400)]
    counts = np.array([[stage[0] for stage in d["stages"]] for d in drawn])
    assert (counts.min(), counts.max()) == (1, 8)
    assert {d["stem"][0] for d in drawn} == {3, 5, 7}
    assert {d["stem"][2] for d in drawn} == {1, 2}
    for d in drawn:
        out, inner = np.array([stage[1:3] for stage in d["stages"]]).T
        assert 8 <= out[0] <= 255 and 8 <= d["stem"][1] <= 63 and 4 <= d["batch_size"] <= 255
        assert (inner == out // 4).all() and (out % out[0] == 0).all()
        assert [stage[3] for stage in d["stages"]] == [1, 2, 2, 2]
    # log-uniform: half of the widths lie below the geometric mean, 400 draws +- 4 standard errors
    below = np.mean([d["stages"][0][1] < math.sqrt(8 * 256) for d in drawn])
    assert abs(below - 0.5) < 4 * 0.5 / math.sqrt(400)


def test_sampled_tasks_are_affordable() -> None:
    for seed in range(40):
        assert 0.0 < Resnet.sample(seed).operations <= COST_LIMIT


@pytest.mark.parametrize("t", Resnet.examples(), ids=lambda t: t.norm)
def test_operations_are_those_of_the_products(t: Resnet) -> None:
    """Three products of two numbers per weight, position and image, but two in the first layer."""
    images = t.batch_size + t.reference_count
    convolutions = [
        images
        * math.prod(u.after[:2])
        * math.prod(t.layout.views(np.zeros(t.layout.size))[f"{u.name}_w"].shape)
        for u in t.units
    ]
    readout = t.batch_size * t.blocks[-1].after[2] * t.dataset.n_classes
    assert t.operations == 6 * sum(convolutions) - 2 * convolutions[0] + 6 * readout


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": (3, 8)}, r"stem = \(3, 8\), valid: \(side, channels, stride\)"),
        ({"stem": (3, 0, 1)}, "stem: channels = 0, valid: at least 1; nearest: 1"),
        ({"stem": (3, 8, 4)}, "stem: stride = 4, valid: 1 to 3; nearest: 3"),
        ({"stages": ()}, r"stages = \(\), valid: a list of one stage at least"),
        ({"stages": (8, 8)}, r"stages\[0\] = 8, valid: \(blocks, channels, inner channels, stride\)"),
        ({"stages": ((1, 8, 8, 1), (0, 8, 8, 1))}, r"stages\[1\]: blocks = 0, .*nearest: 1"),
        ({"stages": ((1, 8, 2.5, 1),)}, r"stages\[0\]: inner channels = 2.5, valid: an integer"),
        ({"block": "botleneck"}, "unknown block 'botleneck'; did you mean 'bottleneck'"),
        ({"norm": "bach"}, "unknown norm 'bach'; did you mean 'batch'"),
        ({"reference_rows": 1}, "reference_rows = 1, .*nearest: 2"),
        ({"activation": ""}, "unknown activation ''"),
        ({"stem_activation": "rely"}, "unknown stem_activation 'rely'; did you mean 'relu'"),
        ({"max_pool": 1}, "max_pool = 1, valid: true or false"),
        ({"zero_start": 0}, "zero_start = 0, valid: true or false"),
        ({"initialiser": "he_norm"}, "unknown initialiser .*did you mean 'he_normal'"),
        ({"data": "digit"}, "unknown data set 'digit'; did you mean 'digits'"),
    ],
)  # fmt: skip
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task("resnet", **options)


def test_options_come_as_lists_too() -> None:
    t = task("resnet", stem=[3, 8, 1], stages=[[1, 8, 8, 1], [1, 16, 16, 2]])
    assert t == Resnet()
