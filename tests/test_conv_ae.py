"""Convolutional autoencoders: transposed convolutions, closed forms, the order of channels, refusals."""

import numpy as np
import pytest

from lopt import rng
from lopt.errors import TaskError
from lopt.ops.conv import conv_reference, conv_scratch
from lopt.ops.variational import BINS, CLIP, PIXEL_CONSTANT
from lopt.optimizer import optimizer
from lopt.rollout import rollout
from lopt.task import TRAIN, Task, task
from lopt.tasks.conv_ae import ConvAe, ConvVae
from lopt.tasks.conv_ae_core import decoder_fwd, join_channels, split_channels
from lopt.tasks.initialisers import TRUNCATED_STD

STREAM = rng.stream(6, 2, 1)
STEP = 3
HALF_LOG_TAU = 0.5 * np.log(2.0 * np.pi)


def rows_of(t: Task) -> np.ndarray:
    return rng.integers(t.batch_size, *t.splits[TRAIN], STREAM, rng.BATCH)


def evaluate(t: Task, params: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    grad, rows = np.full_like(params, np.nan), rows_of(t)
    work = np.full(t.work_size(rows.size), np.nan, np.float32)
    loss = t.entry(params, grad, t.arrays, rows, STREAM, TRAIN, STEP, work, 1)
    return loss, t.layout.views(grad)


def zeros(t: Task, **values) -> np.ndarray:
    """Parameters 0 but for whole tensors of a given value."""
    params = np.zeros(t.layout.size, np.float32)
    for name, value in values.items():
        t.layout.views(params)[name][...] = value
    return params


def small(cls, **options) -> Task:
    return cls(**{"channels": (4, 5), "decoder": (5, 3), "latents": 3, "batch_size": 6, **options})


# The decoder


@pytest.mark.parametrize("sides", [(2, 3), (1, 1), (7, 4)])
def test_transposed_convolution_is_the_adjoint_of_the_one_that_halves(
    sides: tuple[int, int],
) -> None:
    """<T(s), y> = <s, y * v> for all y, with the padding of a map of even size: none before, one row after."""
    (h, w), r = sides, np.random.default_rng(0)
    s, v = r.standard_normal((2, h, w, 3)), r.standard_normal((3, 3, 4, 3))
    y = r.standard_normal((2, 2 * h, 2 * w, 4))
    maps = np.array([[h, w, 3, 2], [2 * h, 2 * w, 4, 2]])
    work = np.full(s.size + 2 * y.size, np.nan)
    work[: s.size] = s.ravel()
    scratch = np.full(conv_scratch(2, (h, w), (3, 3, 4, 3)), np.nan)
    decoder_fwd(np.append(v.ravel(), np.zeros(4)), maps, 0, 2, work, scratch)
    t = work[s.size : s.size + y.size].reshape(y.shape)
    assert (t * y).sum() == pytest.approx(
        (s * conv_reference(y, v, None, 2, "same")).sum(), rel=1e-12
    )


def test_one_pixel_becomes_the_kernel() -> None:
    """s = 1 at (1, 1) of 3 x 3, one channel: pixels (2, 2) to (4, 4) of 6 x 6 are the kernel, upright."""
    v, maps = np.arange(1.0, 10.0), np.array([[3, 3, 1, 2], [6, 6, 1, 2]])
    work = np.zeros(9 + 2 * 36)
    work[4] = 1.0
    decoder_fwd(
        np.append(v, 0.5), maps, 0, 1, work, np.empty(conv_scratch(1, (3, 3), (3, 3, 1, 1)))
    )
    expected = np.full((6, 6), 0.5)
    expected[2:5, 2:5] += v.reshape(3, 3)
    np.testing.assert_array_equal(work[9:45].reshape(6, 6), expected)


def test_channels_are_split_in_two_and_joined_again() -> None:
    out = np.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    planes, again = np.full((2, 12), np.nan), np.full_like(out, np.nan)
    split_channels(out, planes)
    np.testing.assert_array_equal(planes[0], [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11])
    join_channels(planes, again)
    np.testing.assert_array_equal(again, out)


def test_initial_weights_know_their_fans() -> None:
    """A transposed kernel (3, 3, out, in) has the deviation of fan 9 in, not 9 out."""
    t = ConvAe(channels=(16, 16), decoder=(8, 32), latents=20, seed_channels=64)
    views = t.layout.views(t.init(STREAM))
    for name, shape, fan in (
        ("conv_w1", (3, 3, 16, 16), 144), ("code_w", (64, 20), 64), ("seed_w", (20, 256), 20),
        ("up_w0", (3, 3, 8, 64), 576), ("up_w1", (3, 3, 32, 8), 72), ("out_w", (32, 1), 32),
    ):  # fmt: skip
        assert views[name].shape == shape
        sigma = TRUNCATED_STD / np.sqrt(fan)
        assert views[name].std() == pytest.approx(sigma, rel=4.0 / np.sqrt(views[name].size))
    assert all((v == 0.0).all() for n, v in views.items() if "_b" in n)


# The loss


def test_autoencoder_at_zero() -> None:
    """Every pixel 1/2: the mean of (x - 1/2)^2, and a gradient of the last bias only."""
    t = small(ConvAe)
    loss, grads = evaluate(t, zeros(t))
    x = t.reference_batch(rows_of(t), STREAM, TRAIN, STEP)
    assert loss == pytest.approx(((x - 0.5) ** 2).mean(), rel=1e-6)
    np.testing.assert_allclose(grads.pop("out_b"), [2 * 0.25 * (0.5 - x).mean()], rtol=1e-5)
    assert all((g == 0.0).all() for g in grads.values())


def test_the_code_has_no_activation() -> None:
    """Negative codes and small maps pass: the loss changes with their sign."""
    t = small(ConvAe, activation="linear")
    losses = []
    for sign in (-1.0, 1.0):
        params = t.init(STREAM)
        views = t.layout.views(params)
        views["code_w"][...], views["code_b"][...] = 0.0, 3.0 * sign
        losses.append(evaluate(t, params)[0])
    flipped = t.init(STREAM)
    views = t.layout.views(flipped)
    views["code_w"][...], views["code_b"][...], views["seed_w"][...] = 0.0, -3.0, -views["seed_w"]
    assert abs(losses[0] - losses[1]) > 1e-3 * losses[0]
    assert evaluate(t, flipped)[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("center", [False, True])
def test_vae_at_zero(center: bool) -> None:
    """No KL, m = 0 and s = 0: sums over pixels of x~^2 / 2 and the constant; mean over the batch."""
    t = small(ConvVae, center=center)
    loss, grads = evaluate(t, zeros(t))
    x = t.reference_batch(rows_of(t), STREAM, TRAIN, STEP)
    assert (x.min() < 0.0) == center
    u = rng.uniforms(x.size, STREAM, rng.INPUT_NOISE + TRAIN, STEP).astype(np.float64)
    near = x + (u.reshape(x.shape) - 0.5) / BINS
    expected = (0.5 * near**2 + HALF_LOG_TAU + np.log(BINS)).sum(axis=1)
    assert loss == pytest.approx(expected.mean(), rel=1e-6)
    bias = [-near.sum() / len(x), (1.0 - near**2).sum() / len(x)]
    np.testing.assert_allclose(grads["out_b"], bias, rtol=1e-4)


def test_vae_first_channels_are_means_and_the_last_log_deviations() -> None:
    """Colours: biases (m, m, m, s, s, s) of one exact pixel value each."""
    t = small(ConvVae, data="textures16", batch_size=2)
    means, deviations = np.array([0.1, 0.4, 0.9]), np.array([-1.0, 0.5, 0.0])
    params = zeros(t)
    t.layout.views(params)["out_b"][...] = [*means, *deviations]
    x = t.reference_batch(rows_of(t), STREAM, TRAIN, STEP)
    u = rng.uniforms(x.size, STREAM, rng.INPUT_NOISE + TRAIN, STEP).astype(np.float64)
    near = (x + (u.reshape(x.shape) - 0.5) / BINS).reshape(2, -1, 3)
    each = 0.5 * ((near - means) * np.exp(-deviations)) ** 2 + deviations + PIXEL_CONSTANT
    assert evaluate(t, params)[0] == pytest.approx(each.sum() / 2, rel=1e-6)


def test_vae_kl_in_closed_form() -> None:
    """Biases (mu, l) of the code, a decoder that ignores it: Z times mu^2 / 2 + (e^2l - 1) / 2 - l on top."""
    t = small(ConvVae)
    base, _ = evaluate(t, zeros(t))
    params = zeros(t)
    t.layout.views(params)["code_b"][...] = [0.7] * 3 + [-0.4] * 3
    loss, grads = evaluate(t, params)
    kl = 3 * (0.5 * 0.49 + 0.5 * np.expm1(-0.8) + 0.4)
    assert loss - base == pytest.approx(kl, rel=1e-4)
    np.testing.assert_allclose(grads["code_b"], [0.7] * 3 + [np.expm1(-0.8)] * 3, rtol=1e-5)


@pytest.mark.parametrize(("bias", "free"), [(9.9, True), (10.1, False), (-11.0, False)])
def test_vae_outputs_are_clipped(bias: float, free: bool) -> None:
    t = small(ConvVae)
    loss, grads = evaluate(t, zeros(t, out_b=[0.0, bias]))
    assert (grads["out_b"][1] != 0.0) == free
    assert loss >= t.lowest_loss
    if not free:
        assert loss == evaluate(t, zeros(t, out_b=[0.0, np.sign(bias) * CLIP]))[0]


def test_latent_noise_is_fresh_and_addressed() -> None:
    t, rows = small(ConvVae), np.arange(6)
    params = t.init(STREAM) + np.float32(0.05)
    work, found = np.zeros(t.work_size(6), np.float32), []
    for split, step in ((0, 0), (0, 1), (1, 0)):
        found.append(t.entry(params, params.copy(), t.arrays, rows, STREAM, split, step, work, 0))
    assert len(set(found)) == 3


@pytest.mark.parametrize("bad", ["out_b", "seed_b", "up_b0", "conv_b0", "code_b"])
@pytest.mark.parametrize("cls", [ConvAe, ConvVae])
def test_a_nan_is_not_lost(cls, bad: str) -> None:
    t = small(cls, activation="tanh")
    params = t.init(STREAM)
    t.layout.views(params)[bad][0] = np.nan
    assert np.isnan(evaluate(t, params)[0])


@pytest.mark.parametrize(("cls", "gain"), [(ConvAe, 0.05), (ConvVae, 40.0)])
def test_adam_trains_them(cls, gain: float) -> None:
    t = cls(channels=(8, 8), decoder=(8, 8), latents=8, seed_channels=8, batch_size=32)
    trace = rollout(t, optimizer("adam", learning_rate=3e-3), steps=200)
    assert trace.status == "ok"
    assert trace.outer_loss[-1] < trace.train_loss[0] - gain


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("conv_ae", {"channels": ()}, r"channels = \[\], .*nearest: \[8\]"),
        ("conv_ae", {"decoder": (8,)}, r"decoder = \[8\], valid: 2 entries"),
        ("conv_ae", {"channels": (2,) * 4, "decoder": (2,) * 4},
         "images of 8x8 cannot be halved 4 times; nearest valid: 3 entries"),
        ("conv_vae", {"augmentation": (1, False, False, False, 0.0, 0.0, 0.0, 0.0)},
         "images of 7x7 cannot be halved 2 times; nearest valid: images with sides of 2, 4, 6"),
        ("conv_ae", {"center": True}, "center = true, valid: false"),
        ("conv_vae", {"latents": 0}, "latents = 0, .*nearest: 1"),
        ("conv_vae", {"seed_channels": 0}, "seed_channels = 0, .*nearest: 1"),
        ("conv_ae", {"activation": "relo"}, "did you mean 'relu'"),
        ("conv_ae", {"initialiser": "sonet"}, "did you mean 'sonnet'"),
    ],
)  # fmt: skip
def test_bad_options_are_named(family: str, options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(family, **options)
