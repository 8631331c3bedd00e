"""Convolution and pooling in closed form, and TaskSet's two convolutional families."""

import itertools

import numpy as np
import pytest
from helpers import finite_differences, lane_scheduler
from helpers.finite_differences import GradientError

from lopt import rng
from lopt.errors import TaskError
from lopt.ops import conv
from lopt.ops.conv import (
    PADDINGS,
    conv_bwd,
    conv_bwd_input,
    conv_bwd_reference,
    conv_fwd,
    conv_reference,
    conv_scratch,
    conv_size,
)
from lopt.ops.pool import MAX, MEAN, POOLINGS, SQUARED_MEAN, pool_bwd, pool_fwd, pool_reference
from lopt.task import TaskData, task
from lopt.tasks.conv_common import map_sizes
from lopt.tasks.conv_fc import ConvFc
from lopt.tasks.conv_pooling import ConvPooling

STREAM = rng.stream(4, 2, 1)
# (batch, height, width, cin), (kh, kw, cin, cout), stride, padding
GEOMETRIES = [
    ((2, h, w, 3), (kh, kw, 3, 2), stride, padding)
    for (h, w), (kh, kw), stride, padding in itertools.product(
        ((5, 8), (6, 7)), ((3, 3), (1, 1), (2, 4), (5, 1)), (1, 2, 3), PADDINGS
    )
]
CHUNKED = [  # a chunk of patches ends within an image
    ((9, 16, 16, 16), (3, 3, 16, 8), 1, "same"),
    ((7, 17, 16, 16), (3, 3, 16, 8), 2, "same"),
    ((5, 18, 19, 16), (5, 5, 16, 4), 1, "valid"),
]
UNITS = {np.float32: 2.0**-24, np.float64: 2.0**-53}


def normals(shape: tuple[int, ...], k: int, dtype=np.float64) -> np.ndarray:
    return np.random.default_rng(k).standard_normal(shape).astype(dtype)


def out_shape(x_shape, w_shape, stride, padding) -> tuple[int, ...]:
    sizes = [conv_size(n, k, stride, padding) for n, k in zip(x_shape[1:3], w_shape, strict=False)]
    return (x_shape[0], *sizes, w_shape[3])


def scratch_of(y_shape, w_shape, dtype) -> np.ndarray:
    """As small as promised, and poisoned."""
    return np.full(conv_scratch(y_shape[0], y_shape[1:3], w_shape), np.nan, dtype)


def forward(x, w, bias, stride, padding) -> np.ndarray:
    y = np.full(out_shape(x.shape, w.shape, stride, padding), np.nan, x.dtype)
    conv_fwd(x, w, bias, y, stride, scratch_of(y.shape, w.shape, x.dtype))
    return y


def backward(x, w, dy, stride) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of x, w, bias."""
    dx, dw = np.full_like(x, np.nan), np.full_like(w, np.nan)
    dbias = np.full(w.shape[3], np.nan, x.dtype)
    conv_bwd(x, dy, dw, dbias, stride, scratch_of(dy.shape, w.shape, x.dtype))
    conv_bwd_input(w, dy, dx, stride, scratch_of(dy.shape, w.shape, x.dtype))
    return dx, dw, dbias


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# Convolution


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(5, 8), (6, 7)])
def test_a_delta_kernel_shifts(size, stride: int, padding: str) -> None:
    """y[i, j] = x[i s + u - top, j s + v - left], 0 outside; cin and cout swapped by the kernel."""
    x = normals((2, *size, 2), 0)
    for u, v in itertools.product(range(3), range(3)):
        w = np.zeros((3, 3, 2, 2))
        w[u, v] = [[0.0, 1.0], [1.0, 0.0]]
        y = forward(x, w, np.zeros(2), stride, padding)
        totals = [
            max((-(-n // stride) - 1) * stride + 3 - n, 0) if padding == "same" else 0 for n in size
        ]
        for i, j in itertools.product(range(y.shape[1]), range(y.shape[2])):
            a, b = i * stride + u - totals[0] // 2, j * stride + v - totals[1] // 2
            inside = 0 <= a < size[0] and 0 <= b < size[1]
            expected = x[:, a, b, ::-1] if inside else np.zeros((2, 2))
            np.testing.assert_array_equal(y[:, i, j], expected)


@pytest.mark.parametrize(
    ("n", "expected"),
    [(6, [6.0, 12.0, 11.0]), (5, [3.0, 9.0, 9.0]), (4, [6.0, 7.0]), (1, [1.0])],
)
def test_same_padding_of_stride_two(n: int, expected: list[float]) -> None:
    """Sums over three of 1, 2, ..: an even size has all its zeros behind, an odd one on both sides."""
    x = np.arange(1.0, n + 1)
    down = forward(x.reshape(1, n, 1, 1), np.ones((3, 1, 1, 1)), np.zeros(1), 2, "same")
    across = forward(x.reshape(1, 1, n, 1), np.ones((1, 3, 1, 1)), np.zeros(1), 2, "same")
    assert down.ravel().tolist() == expected
    assert across.ravel().tolist() == expected


@pytest.mark.parametrize(
    ("n", "k", "stride", "same", "valid"),
    [(28, 3, 2, 14, 13), (7, 3, 2, 4, 3), (2, 3, 1, 2, 0), (3, 3, 3, 1, 1), (32, 5, 1, 32, 28)],
)
def test_output_sizes(n: int, k: int, stride: int, same: int, valid: int) -> None:
    assert conv_size(n, k, stride, "same") == same
    assert conv_size(n, k, stride, "valid") == valid


def test_a_kernel_of_the_image_size_is_a_dense_layer() -> None:
    x, w, bias = normals((4, 3, 5, 2), 0), normals((3, 5, 2, 6), 1), normals((6,), 2)
    y = forward(x, w, bias, 1, "valid")
    dense = x.reshape(4, 30) @ w.reshape(30, 6) + bias
    assert y.shape == (4, 1, 1, 6)
    np.testing.assert_allclose(y.reshape(4, 6), dense, rtol=1e-13)


def test_a_one_by_one_kernel_acts_on_each_pixel() -> None:
    x, w, bias = normals((2, 4, 3, 5), 0), normals((1, 1, 5, 2), 1), normals((2,), 2)
    np.testing.assert_allclose(forward(x, w, bias, 1, "same"), x @ w[0, 0] + bias, rtol=1e-12)


@pytest.mark.parametrize(("x_shape", "w_shape", "stride", "padding"), GEOMETRIES + CHUNKED)
def test_the_backward_passes_are_adjoint(x_shape, w_shape, stride, padding) -> None:
    """<conv(x, w), g> = <x, dx> = <w, dw>, and <bias, dbias> is what the bias adds."""
    x, w, bias = normals(x_shape, 0), normals(w_shape, 1), normals(w_shape[3:], 2)
    y = forward(x, w, bias, stride, padding)
    plain = forward(x, w, np.zeros(0), stride, padding)
    g = normals(y.shape, 3)
    dx, dw, dbias = backward(x, w, g, stride)
    scale = np.linalg.norm(plain) * np.linalg.norm(g)
    assert abs(np.vdot(x, dx) - np.vdot(plain, g)) < 1e-13 * scale
    assert abs(np.vdot(w, dw) - np.vdot(plain, g)) < 1e-13 * scale
    assert abs(np.vdot(bias, dbias) - np.vdot(y - plain, g)) < 1e-13 * scale


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("x_shape", "w_shape", "stride", "padding"), GEOMETRIES + CHUNKED)
def test_convolution_agrees_with_the_reference(x_shape, w_shape, stride, padding, dtype) -> None:
    for scale in (1e-6, 1.0, 1e3):
        x, w = (scale * normals(s, k) for k, s in enumerate((x_shape, w_shape)))
        x, w, bias = x.astype(dtype), w.astype(dtype), normals(w_shape[3:], 2, dtype)
        y = forward(x, w, bias, stride, padding)
        dy = normals(y.shape, 3, dtype)
        exact = [a.astype(np.float64) for a in (x, w, dy)]
        expected = conv_reference(*exact[:2], bias.astype(np.float64), stride, padding)
        assert relative(y, expected) < 100 * UNITS[dtype]
        for found, want in zip(
            backward(x, w, dy, stride), conv_bwd_reference(*exact, stride, padding), strict=True
        ):
            assert relative(found, want) < 100 * UNITS[dtype]


def test_the_reference_would_notice_symmetric_padding() -> None:
    """Negative control: zeros on the other side of an even image give another result."""
    x, w = normals((1, 6, 6, 2), 0), normals((3, 3, 2, 2), 1)
    mirrored = conv_reference(x[:, ::-1, ::-1], w[::-1, ::-1], None, 2, "same")[:, ::-1, ::-1]
    assert relative(mirrored, conv_reference(x, w, None, 2, "same")) > 0.1
    odd = conv_reference(x[:, :5, :5][:, ::-1, ::-1], w[::-1, ::-1], None, 2, "same")
    np.testing.assert_allclose(
        odd[:, ::-1, ::-1], conv_reference(x[:, :5, :5], w, None, 2, "same"), rtol=1e-12
    )


def test_without_bias_nothing_is_written() -> None:
    x, w = normals((2, 4, 4, 1), 0), normals((3, 3, 1, 2), 1)
    y = forward(x, w, np.zeros(0), 1, "same")
    np.testing.assert_array_equal(y, forward(x, w, np.zeros(2), 1, "same"))
    dw, dbias = np.empty_like(w), np.zeros(0)
    conv_bwd(x, y, dw, dbias, 1, scratch_of(y.shape, w.shape, np.float64))
    assert relative(dw, conv_bwd_reference(x, w, y, 1, "same")[1]) < 1e-14


def test_scratch_stays_small() -> None:
    """Whatever the batch, a chunk of patches and one gradient of the kernel."""
    w_shape = (3, 3, 32, 32)
    small, large = (conv_scratch(batch, (16, 16), w_shape) for batch in (64, 4096))
    assert small == large <= conv.CHUNK + 9 * 32 * 32
    assert conv_scratch(1, (2, 2), w_shape) == (4 + 32) * 9 * 32  # four patches
    assert conv_scratch(1, (1, 1000), w_shape) == (1000 + 32) * 9 * 32  # at least one row


@pytest.mark.parametrize(("stride", "padding"), [(1, "same"), (2, "valid")])
def test_chunks_are_separated_by_barriers(monkeypatch, stride: int, padding: str) -> None:
    monkeypatch.setattr(conv, "CHUNK", 60)  # one or two rows of patches
    x, w, bias = (normals(s, k) for k, s in enumerate(((2, 5, 4, 2), (3, 2, 2, 3), (3,))))
    y = conv_reference(x, w, bias, stride, padding)
    size = conv_scratch(2, y.shape[1:3], w.shape)
    assert size < y[..., 0].size * 12

    def work() -> np.ndarray:
        return np.zeros(size)

    counts = (1, 2, 7, 33)
    lane_scheduler.check(
        conv_fwd, lambda: (x, w, bias, np.zeros_like(y), stride, work()), (5,), counts
    )
    lane_scheduler.check(
        conv_bwd,
        lambda: (x, y, np.zeros_like(w), np.zeros_like(bias), stride, work()),
        (5,),
        counts,
    )
    lane_scheduler.check(
        conv_bwd_input, lambda: (w, y, np.zeros_like(x), stride, work()), (4,), counts
    )


# Pooling


def pooled(x: np.ndarray, code: int) -> np.ndarray:
    y = np.full((x.shape[0], x.shape[2]), np.nan, x.dtype)
    pool_fwd(x, y, code)
    return y


def unpooled(x: np.ndarray, dy: np.ndarray, code: int) -> np.ndarray:
    dx = np.full_like(x, np.nan)
    pool_bwd(x, dy, dx, code, np.full((2, x.shape[2]), np.nan, x.dtype))
    return dx


def test_pooling_by_hand() -> None:
    x = np.array([[[1.0, -2.0], [3.0, -2.0], [3.0, -5.0], [1.0, -2.0]]])
    dy = np.array([[6.0, 12.0]])
    assert pooled(x, MEAN).tolist() == [[2.0, -2.75]]
    assert pooled(x, MAX).tolist() == [[3.0, -2.0]]
    assert pooled(x, SQUARED_MEAN).tolist() == [[5.0, 37.0 / 4.0]]
    assert unpooled(x, dy, MEAN).tolist() == [[[1.5, 3.0]] * 4]
    # two share the first maximum, three the second
    assert unpooled(x, dy, MAX).tolist() == [[[0.0, 4.0], [3.0, 4.0], [3.0, 0.0], [0.0, 4.0]]]
    assert unpooled(x, dy, SQUARED_MEAN)[0, 2].tolist() == [9.0, -30.0]


@pytest.mark.parametrize("code", range(len(POOLINGS)))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooling_agrees_with_the_reference(code: int, dtype) -> None:
    for scale in (1e-6, 1.0, 1e3):
        x, dy = scale * np.round(normals((5, 6, 3), 0), 1), normals((5, 3), 1, dtype)
        x = x.astype(dtype)
        y, slope = pool_reference(x.astype(np.float64), POOLINGS[code])
        assert relative(pooled(x, code), y) < 10 * UNITS[dtype]
        assert relative(unpooled(x, dy, code), slope * dy[:, None]) < 10 * UNITS[dtype]


@pytest.mark.parametrize("code", range(len(POOLINGS)))
@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_nan_is_not_pooled_away(code: int, place: int) -> None:
    x = normals((2, 6, 2), 0)
    x[1, place, 0] = np.nan
    assert np.isnan(pooled(x, code)).tolist() == [[False, False], [True, False]]


# The families


def evaluate(t, params, rows, with_grad=1):
    """Loss and gradient in the dtype of params."""
    grad, work = np.full_like(params, np.nan), np.full(t.work_size(rows.size), np.nan, params.dtype)
    floats, ints, sizes, hyper = t.arrays
    data = TaskData(floats.astype(params.dtype), ints, sizes, hyper.astype(params.dtype))
    loss = type(t).core(params, grad, data, rows, STREAM, 0, 3, work, with_grad)
    return float(loss), grad


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("conv_fc", {"fc": (7,)}),
        ("conv_pooling", {"pooling": "mean"}),
        ("conv_pooling", {"pooling": "max"}),
    ],
)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu2"])
def test_homogeneous_networks_scale(family: str, options: dict, activation: str) -> None:
    """First weights and bias times 4, second kernel by 1/4: the same function, gradients by the inverse."""
    t = task(family, channels=(3, 4), activation=activation, batch_size=6, **options)
    rows = np.arange(6)
    params = t.init(STREAM) + np.float32(0.1) * rng.normals(t.layout.size, STREAM, rng.TASK)
    factors = {"conv_w0": 4.0, "conv_b0": 4.0, "conv_w1": 0.25}
    loss, grad = evaluate(t, params, rows)
    scaled = params.copy()
    for name, view in t.layout.views(scaled).items():
        view *= np.float32(factors.get(name, 1.0))
    other_loss, other = evaluate(t, scaled, rows)
    assert other_loss == loss
    for name, view in t.layout.views(other).items():
        expected = t.layout.views(grad)[name] / np.float32(factors.get(name, 1.0))
        np.testing.assert_array_equal(view, expected)


def test_squared_mean_is_homogeneous_of_degree_two() -> None:
    """The only kernel times 2, the linear layer by 1/4."""
    t = task(
        "conv_pooling", channels=(3,), strides=(1,), padding=("same",), pooling="squared_mean",
        use_bias=False, batch_size=6,
    )  # fmt: skip
    params = t.init(STREAM)
    loss, _ = evaluate(t, params, np.arange(6))
    views = t.layout.views(params)
    views["conv_w0"] *= np.float32(2.0)
    views["fc_w0"] *= np.float32(0.25)
    assert evaluate(t, params, np.arange(6))[0] == loss


@pytest.mark.parametrize("family", ["conv_fc", "conv_pooling"])
def test_zero_parameters_are_known_in_closed_form(family: str) -> None:
    """Loss log 10; only the last bias has a gradient, 1/10 - the frequency of each class."""
    t = task(family, batch_size=30)
    rows = np.arange(30)
    loss, grad = evaluate(t, np.zeros(t.layout.size, np.float32), rows)
    assert loss == pytest.approx(np.log(10.0), rel=1e-6)
    parts = t.layout.views(grad)
    last = parts.pop("fc_b1" if family == "conv_fc" else "fc_b0")
    counts = np.bincount(t.arrays.ints[rows], minlength=10)
    np.testing.assert_allclose(last, 0.1 - counts / 30, atol=1e-7)
    assert all((g == 0.0).all() for g in parts.values())


def test_mean_pooling_after_a_linear_convolution_is_a_linear_model() -> None:
    """A 3 x 3 kernel of which only the centre is not 0: the logits see the mean grey value alone."""
    t = task(
        "conv_pooling", channels=(1,), strides=(1,), padding=("same",), activation="linear",
        use_bias=False, batch_size=9, center=True,
    )  # fmt: skip
    params, rows = np.zeros(t.layout.size), np.arange(20, 29)
    views = t.layout.views(params)
    views["conv_w0"][1, 1] = 3.0
    views["fc_w0"][...] = np.arange(10.0)
    grey = 2.0 * t.dataset.x[rows].astype(np.float64).mean(axis=1) - 1.0
    logits = 3.0 * grey[:, None] * np.arange(10.0)
    each = np.log(np.exp(logits).sum(axis=1)) - logits[range(9), t.dataset.y[rows]]
    assert evaluate(t, params, rows)[0] == pytest.approx(each.mean(), rel=1e-6)


@pytest.mark.parametrize("t", [*ConvFc.examples(), *ConvPooling.examples()], ids=lambda t: t.name)
def test_a_wrong_gradient_of_any_tensor_is_found(t) -> None:
    """Negative control of the gradient check: one part in 10^4 of one tensor."""
    params, rows = t.init(STREAM).astype(np.float64), np.arange(t.batch_size)
    params += 0.1 * normals(params.shape, 0)
    _, grad = evaluate(t, params, rows)
    for name in t.layout.views(grad):
        wrong = grad.copy()
        t.layout.views(wrong)[name][...] *= 1.0 + 1e-4
        with pytest.raises(GradientError, match="at best"):
            finite_differences.check(lambda p: evaluate(t, p, rows, 0)[0], params, wrong)


def test_parameters_and_their_order() -> None:
    t = task(
        "conv_fc", channels=(3, 5), strides=(1, 2), padding=("valid", "same"), use_bias=False, fc=(4,)
    )  # fmt: skip
    assert t.maps == [(8, 8, 1), (6, 6, 3), (3, 3, 5)]
    assert list(t.layout) == [
        ("conv_w0", (3, 3, 1, 3)), ("conv_w1", (3, 3, 3, 5)),
        ("fc_w0", (45, 4)), ("fc_b0", (4,)), ("fc_w1", (4, 10)), ("fc_b1", (10,)),
    ]  # fmt: skip
    with_bias = task("conv_pooling", channels=(3, 5))
    assert [name for name, _ in with_bias.layout] == [
        "conv_w0", "conv_b0", "conv_w1", "conv_b1", "fc_w0", "fc_b0",
    ]  # fmt: skip
    params = with_bias.layout.views(with_bias.init(STREAM))
    assert all((params[name] == 0.0).all() == ("_b" in name) for name in params)


def test_memory_is_three_times_parameters_and_activations_at_most() -> None:
    """Of the published configurations that fit on the digits: parameters, gradient and scratch."""
    built = 0
    for seed, family in itertools.product(range(60), (ConvFc, ConvPooling)):
        config = family.sample_config(seed)
        names = ("channels", "strides", "padding", "use_bias", "fc", "pooling", "batch_size")
        options = {n: config[n] for n in names if n in config}
        try:
            t = family(**options)
        except TaskError:
            continue
        first, *others = (np.prod(m) for m in t.maps)
        activations = first + 2 * sum(others) + t.widths[0] + 2 * sum(t.hidden) + 10
        needed = 2 * t.layout.size + t.work_size(t.batch_size)
        assert needed <= 3 * (t.layout.size + t.batch_size * activations)
        built += 1
    assert built > 60


# TaskSet's samplers


def test_published_configurations() -> None:
    shared = {
        "strides": (1, 2, 1, 2, 1), "channels": (46, 48, 47, 29, 18), "activation": "leaky_relu4",
        "initialiser": "glorot_normal", "init_scale": 1.0,
        "padding": ("same", "same", "valid", "same", "valid"),
    }  # fmt: skip
    assert ConvFc.sample_config(0) == {
        **shared, "fc": (62, 55, 102), "use_bias": True, "dataset": "sun397_32x32",
        "augmentation": None, "batch_size": 29, "n_train": None, "just_train": False,
        "center": False,
    }  # fmt: skip
    assert ConvPooling.sample_config(0) == {
        **shared, "pooling": "squared_mean", "use_bias": True, "dataset": "cifar100",
        "augmentation": None, "batch_size": 10, "n_train": 5269, "just_train": True,
        "center": False,
    }  # fmt: skip


def refusal(config: dict) -> str:
    """Why a published configuration cannot be built on images of its published size; "" if it can."""
    size = {"mnist": 28, "fashion_mnist": 28, "imagenet_resized/16x16": 16}.get(
        config["dataset"], 32
    )
    size -= (config["augmentation"] or {"crop": 0})["crop"]
    try:
        map_sizes(size, size, config["strides"], config["padding"])
    except TaskError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("family", "count"), [(ConvFc, 57), (ConvPooling, 51)])
def test_published_configurations_that_cannot_be_built(family, count: int) -> None:
    refused = [s for s in range(1000) if refusal(family.sample_config(s))]
    assert len(refused) == count


@pytest.mark.parametrize("family", [ConvFc, ConvPooling])
def test_sampling_follows_the_configuration(family) -> None:
    """... onto data of the published shape, and refuses what cannot be built by the same words."""
    outcomes = {"built": 0, "refused": 0}
    for seed in range(60):
        config = family.sample_config(seed)
        if config["dataset"] not in ("mnist", "fashion_mnist", "cifar10"):
            continue
        why = refusal(config)
        if why:
            outcomes["refused"] += 1
            with pytest.raises(TaskError) as caught:
                family.sample(seed)
            assert str(caught.value) == why
            continue
        outcomes["built"] += 1
        t = family.sample(seed)
        for name in ("channels", "strides", "padding", "activation", "init_scale", "use_bias"):
            assert getattr(t, name) == config[name]
        assert (t.batch_size, t.n_train, t.center) == (
            config["batch_size"], config["n_train"], config["center"],
        )  # fmt: skip
        assert t.stands_for == config["dataset"]
        assert t.init(STREAM).size == t.layout.size
    assert min(outcomes.values()) >= 1, outcomes


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": ("valid", "valid", "valid"), "channels": (2, 2, 2), "strides": (2, 1, 1)},
         r"padding\[2\] = 'valid' cannot be: a 3x3 kernel .* 1x1 map; nearest valid: 'same'"),
        ({"padding": ("same", "valed")}, r"unknown padding\[1\] 'valed'; did you mean 'valid'"),
        ({"padding": ("same",)}, r"padding = \('same',\), valid: 2 entries"),
        ({"strides": (2, 4)}, r"strides\[1\] = 4, valid: 1 to 3; nearest: 3"),
        ({"strides": 2}, r"strides = 2, valid: 2 entries"),
        ({"channels": (), "strides": (), "padding": ()}, "channels = .*at least one"),
        ({"channels": (4, 0)}, r"channels\[1\] = 0, .*nearest: 1"),
        ({"use_bias": 1}, "use_bias = 1, valid: true or false"),
        ({"activation": "rely"}, "unknown activation 'rely'; did you mean 'relu'"),
        ({"initialiser": "he_norm"}, "unknown initialiser .*did you mean 'he_normal'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("family", ["conv_fc", "conv_pooling"])
def test_bad_options_are_named(family: str, options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(family, **options)


def test_bad_heads_are_named() -> None:
    with pytest.raises(TaskError, match=r"fc\[0\] = 0, .*nearest: 1"):
        task("conv_fc", fc=(0,))
    with pytest.raises(TaskError, match="unknown pooling 'maxx'; did you mean 'max'"):
        task("conv_pooling", pooling="maxx")
