"""Autoencoders and variational autoencoders against what is known about them in closed form."""

import numpy as np
import pytest

from lopt import optimizer, rng, rollout
from lopt.errors import TaskError
from lopt.task import TEST, TRAIN, Task, TaskData, task
from lopt.tasks import sample_task
from lopt.tasks.mlp_ae import MlpAe
from lopt.tasks.mlp_vae import MlpVae

STREAM = rng.stream(7, 2)
GREY = (8.0 / 16.0,)  # a pixel of the digits that is 0 once centred
PER_PIXEL = 0.5 * np.log(2.0 * np.pi) + np.log(255.0)


def evaluate(t: Task, params, rows=None, split: int = TRAIN, step: int = 0):
    """Loss and gradient by the kernel, in the dtype of params."""
    rows = np.arange(t.batch_size) if rows is None else rows
    grad = np.full_like(params, np.nan)
    work = np.full(t.work_size(rows.size), np.nan, params.dtype)
    floats, ints, sizes, hyper = t.arrays
    data = TaskData(floats.astype(params.dtype), ints, sizes, hyper.astype(params.dtype))
    loss = type(t).core(params, grad, data, rows, STREAM, split, step, work, 1)
    return float(loss), t.layout.views(grad)


def zeros(t: Task, dtype=np.float32, **values):
    """Parameters 0 save for the tensors named."""
    params = np.zeros(t.layout.size, dtype)
    for name, value in values.items():
        t.layout.views(params)[name][...] = value
    return params


def images(t: Task) -> np.ndarray:
    """The first batch_size images, float64."""
    return t.dataset.x[: t.batch_size].astype(np.float64)


# Autoencoders

FIRST = {"tanh": 0.0, "sigmoid": 0.5, "linear_center": 0.0, "linear": 0.0}
SLOPE = {"tanh": 1.0, "sigmoid": 0.25, "linear_center": 1.0, "linear": 1.0}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", ["l2", "l1"])
@pytest.mark.parametrize("output_type", FIRST)
def test_an_autoencoder_at_zero(output_type: str, loss: str, reduction: str) -> None:
    """A constant output f(0): the loss is that of the data; only the last bias has a gradient."""
    t = MlpAe(hidden=(6,), output_type=output_type, loss=loss, reduction=reduction, batch_size=9)
    x = images(t)
    x = 2.0 * x - 1.0 if output_type in ("tanh", "linear_center") else x
    e = FIRST[output_type] - x
    count = x.size if reduction == "mean" else len(x)
    found, grads = evaluate(t, zeros(t))
    each = e**2 if loss == "l2" else np.abs(e)
    assert found == pytest.approx(each.sum() / count, rel=1e-6)
    slope = 2.0 * e if loss == "l2" else np.sign(e)
    expected = slope.sum(axis=0) * SLOPE[output_type] / count
    np.testing.assert_allclose(grads.pop("b1"), expected, rtol=1e-5, atol=1e-6 * abs(slope).max())
    assert all((g == 0.0).all() for g in grads.values())


def test_the_data_hit_the_corner_of_the_absolute_value() -> None:
    """... so that the test above sees sign(0) = 0."""
    assert (images(MlpAe(batch_size=9)) == GREY[0]).any()


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_the_identity_reconstructs_exactly(loss: str) -> None:
    """... and stays where it is: also the absolute value has derivative 0 at 0."""
    t = MlpAe(hidden=(), output_type="linear", loss=loss, reduction="sum", batch_size=12)
    params = zeros(t, w0=np.eye(64, dtype=np.float32))
    found, grads = evaluate(t, params)
    assert found == 0.0
    assert all((g == 0.0).all() for g in grads.values())
    t.layout.views(params)["b0"][3] = 0.5
    found, grads = evaluate(t, params)
    assert found == pytest.approx(0.25 if loss == "l2" else 0.5)
    assert grads["b0"][3] == pytest.approx(1.0)


def test_reductions_differ_by_the_number_of_pixels() -> None:
    mean, total = (
        MlpAe(hidden=(7,), reduction=r, output_type="tanh", batch_size=5) for r in ("mean", "sum")
    )
    params = mean.init(STREAM)
    (a, da), (b, db) = evaluate(mean, params), evaluate(total, params)
    assert b == pytest.approx(64.0 * a, rel=1e-6)
    for name, g in da.items():
        np.testing.assert_allclose(db[name], 64.0 * g, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_not_a_number_stays_one(loss: str) -> None:
    t = MlpAe(hidden=(4,), output_type="linear", loss=loss, batch_size=3)
    params = t.init(STREAM)
    params[0] = np.nan
    found, grads = evaluate(t, params)
    assert np.isnan(found)
    assert np.isnan(grads["b1"]).any()


def test_principal_components_bound_a_linear_autoencoder() -> None:
    """Adam on a linear bottleneck of 4 units comes within 10 % of the best rank-4 error."""
    t = MlpAe(
        hidden=(4,), output_type="linear", activation="leaky_relu1", reduction="sum", batch_size=64
    )
    x = t.dataset.x[slice(*t.splits[TRAIN])].astype(np.float64)
    centred = x - x.mean(axis=0)
    best = (np.linalg.svd(centred, compute_uv=False)[4:] ** 2).sum() / len(x)
    trace = rollout(t, optimizer("adam", learning_rate=3e-3), steps=1500)
    last = trace.train_loss[-100:].mean()
    assert best < last < 1.1 * (centred**2).sum() / len(x)
    assert last < 1.5 * best


# Variational autoencoders


def small_vae(**options) -> MlpVae:
    return MlpVae(**{"encoder": (3,), "decoder": (), "batch_size": 6, **options})


def dequantised(t: MlpVae, split: int = TRAIN, step: int = 0) -> np.ndarray:
    x = images(t)
    u = rng.uniforms(x.size, STREAM, rng.INPUT_NOISE + split, step).astype(np.float64)
    return x + (u.reshape(x.shape) - 0.5) / 255.0


def test_a_vae_at_zero() -> None:
    """No KL; pixels are standard normal, in bins of 1/255."""
    t = MlpVae(batch_size=6)
    x = dequantised(t)
    found, grads = evaluate(t, zeros(t))
    assert found == pytest.approx((0.5 * x**2 + PER_PIXEL).sum() / 6, rel=1e-6)
    expected = np.concatenate([-x.mean(axis=0), 1.0 - (x**2).mean(axis=0)])
    np.testing.assert_allclose(grads.pop("dec_b1"), expected, rtol=1e-5, atol=1e-6)
    assert all((g == 0.0).all() for g in grads.values())


@pytest.mark.parametrize("log_std", [-3.0, -1e-3, 0.0, 0.7, 2.0])
def test_divergence_of_a_linear_encoder(log_std: float) -> None:
    """KL of N(mu, sigma^2) from N(0, 1): (sigma^2 + mu^2 - 1 - log sigma^2) / 2, mu = x w."""
    t = small_vae()
    w = rng.normals(64 * 3, STREAM, rng.TASK).reshape(64, 3)
    bias = np.array([0.0, 0.0, 0.0, log_std, log_std, log_std], np.float32)
    params = zeros(t, np.float64, enc_w0=np.concatenate([w, np.zeros_like(w)], 1), enc_b0=bias)
    nothing, _ = evaluate(t, zeros(t, np.float64))
    mu, variance = images(t) @ w.astype(np.float64), np.exp(2.0 * float(np.float32(log_std)))
    kl = 0.5 * (variance + mu**2 - 1.0 - np.log(variance)).sum(axis=1)
    assert evaluate(t, params)[0] - nothing == pytest.approx(kl.mean(), rel=1e-9)


def orthogonal_decoder(deviation: float) -> np.ndarray:
    """(3, 64): orthogonal rows, so that the exact posterior has independent latents."""
    q, _ = np.linalg.qr(rng.normals(64 * 3, STREAM, rng.DATA).astype(np.float64).reshape(64, 3))
    return (q * deviation * np.array([1.0, 2.0, 3.0])).T


def test_the_bound_is_tight_at_the_exact_posterior() -> None:
    """x = z w + b + noise: the mean loss over latents is -log p(x), or more by KL(q || posterior)."""
    t, std = small_vae(batch_size=4), 0.3
    w, b = orthogonal_decoder(std), images(t).mean(axis=0)
    variance = 1.0 / (1.0 + (w**2).sum(axis=1) / std**2)  # of the posterior
    gain = w.T * variance / std**2
    off = 0.4  # the wrong encoder's error in mu

    def mean_loss(shift: float) -> tuple[float, float]:
        enc_w = np.concatenate([gain, np.zeros_like(gain)], axis=1)
        enc_b = np.concatenate([shift - b @ gain, 0.5 * np.log(variance)])
        dec_w = np.concatenate([w, np.zeros_like(w)], axis=1)
        dec_b = np.concatenate([b, np.full(64, np.log(std))])
        params = zeros(t, np.float64, enc_w0=enc_w, enc_b0=enc_b, dec_w0=dec_w, dec_b0=dec_b)
        losses = [evaluate(t, params, step=s)[0] for s in range(2000)]
        return np.mean(losses), np.std(losses) / np.sqrt(len(losses))

    covariance = w.T @ w + std**2 * np.eye(64)
    x = images(t) - b
    exact = 0.5 * (x @ np.linalg.inv(covariance) * x).sum(axis=1).mean()
    exact += 0.5 * np.linalg.slogdet(covariance)[1] + 64 * PER_PIXEL
    exact += 64 / (12.0 * 255.0**2) * 0.5 / std**2  # dequantisation, but for the latents' share
    found, error = mean_loss(0.0)
    assert abs(found - exact) < 4.0 * error + 1e-4
    assert error < 0.05
    found, error = mean_loss(off)
    assert abs(found - exact - (0.5 * off**2 / variance).sum()) < 4.0 * error + 1e-4


def test_deviations_too_small_for_float32_do_not_matter() -> None:
    """l = -200: e^l is 0, but KL = -1/2 - l is finite, and so is its gradient, -1."""
    t = small_vae()
    nothing, _ = evaluate(t, zeros(t))
    params = zeros(t, enc_b0=np.array([0.0, 0.0, 0.0, -200.0, -200.0, -200.0], np.float32))
    found, grads = evaluate(t, params)
    assert found - nothing == pytest.approx(3 * 199.5, rel=1e-5)
    np.testing.assert_allclose(grads["enc_b0"][3:], -1.0, rtol=1e-6)


@pytest.mark.parametrize("log_std", [1e-6, -1e-4, 0.2, 0.45, 0.55, -3.0, 20.0])
def test_slope_of_the_divergence_is_relatively_precise(log_std: float) -> None:
    """expm1(2 l) without cancellation, also where e^2l rounds to 1."""
    t = small_vae()
    params = zeros(t, enc_b0=np.array([0.0, 0.0, 0.0, log_std, 0.0, 0.0], np.float32))
    slope = evaluate(t, params)[1]["enc_b0"][3]
    assert slope == pytest.approx(np.expm1(2.0 * np.float64(np.float32(log_std))), rel=1e-5)


def test_the_decoder_is_clipped_and_has_no_gradient_there() -> None:
    """Means and log deviations beyond 10 count as 10; at 10 itself the gradient passes."""
    t = small_vae()
    bias = np.zeros(128, np.float32)
    bias[:4] = 30.0, 10.0, -30.0, np.float32(10.00001)
    bias[64 + 8 : 64 + 12] = 11.0, 10.0, -11.0, -10.0
    found, grads = evaluate(t, zeros(t, dec_b0=bias))
    g = grads["dec_b0"]
    np.testing.assert_array_equal(g[[0, 2, 3, 64 + 8, 64 + 10]], 0.0)
    assert (np.abs(g[[1, 64 + 9, 64 + 11]]) > 0.1).all()
    x, cut = dequantised(t), np.clip(bias.astype(np.float64), -10.0, 10.0)
    q = (x - cut[:64]) * np.exp(-cut[64:])
    expected = (0.5 * q**2 + cut[64:] + PER_PIXEL).sum() / 6
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected > 1e5  # a pixel at deviation e^-10


def test_noise_has_its_own_address() -> None:
    """Splits, steps and streams draw apart; latents and dequantisation do not share numbers."""
    t = small_vae()
    params = t.init(STREAM)
    losses = {evaluate(t, params, split=s, step=k)[0] for s in range(4) for k in range(3)}
    assert len(losses) == 12
    assert evaluate(t, params, split=TEST, step=5)[0] == evaluate(t, params, split=TEST, step=5)[0]
    u = rng.uniforms(4000, STREAM, rng.INPUT_NOISE).astype(np.float64)
    z = rng.normals(4000, STREAM, rng.LATENT).astype(np.float64)
    assert abs(np.corrcoef(u, z)[0, 1]) < 5.0 / np.sqrt(4000)


@pytest.mark.parametrize("bad", [np.nan, 60.0])
def test_overflow_is_never_a_finite_loss(bad: float) -> None:
    t = small_vae()
    params = zeros(t, enc_b0=np.array([0.0, 0.0, 0.0, bad, 0.0, 0.0], np.float32))
    assert not np.isfinite(evaluate(t, params)[0])


@pytest.mark.parametrize("bad", ["dec_b0", "enc_w0"])
def test_not_a_number_in_a_vae_stays_one(bad: str) -> None:
    t = small_vae()
    found, grads = evaluate(t, zeros(t, **{bad: np.nan}))
    assert np.isnan(found)
    assert np.isnan(grads["dec_b0"]).any()


def test_an_exploding_start_is_flagged() -> None:
    t = MlpVae(encoder=(64, 64, 64), initialiser="random_normal", init_scale=10.0, batch_size=8)
    trace = rollout(t, optimizer("adam", learning_rate=1e-3), steps=20)
    assert trace.status in ("ceiling", "diverged")
    assert np.isfinite(trace.train_loss).all()


def test_adam_trains_a_vae() -> None:
    t = MlpVae(encoder=(32, 8), decoder=(32,), batch_size=64)
    trace = rollout(t, optimizer("adam", learning_rate=3e-3), steps=300)
    assert trace.status == "ok"
    assert trace.outer_loss[-1] < trace.train_loss[0] - 80.0


# Samplers and options


def test_published_autoencoder_configuration() -> None:
    assert MlpAe.sample_config(0) == {
        "hidden": (73, 103, 105, 104, 76), "activation": "relu", "initialiser": "glorot_uniform",
        "init_scale": 1.0, "dataset": "mnist", "augmentation": None, "batch_size": 39,
        "n_train": 43753, "just_train": False, "output_type": "tanh", "loss": "l2",
        "reduction": "sum",
    }  # fmt: skip


def test_published_vae_configuration() -> None:
    assert MlpVae.sample_config(0) == {
        "encoder": (73,), "decoder": (74,), "activation": "relu", "initialiser": "he_normal",
        "init_scale": 1.0, "dataset": "food101_32x32", "augmentation": None, "batch_size": 22,
        "n_train": None, "just_train": True,
    }  # fmt: skip


def test_sampled_autoencoders_are_as_drawn() -> None:
    t = sample_task("mlp_ae", 0)
    assert (t.stands_for, t.hidden, t.batch_size) == ("mnist", (73, 103, 105, 104, 76), 39)
    assert t.widths[0] == t.widths[-1] == 784
    t = sample_task("mlp_vae", 0)
    assert t.encoder_widths == (3072, 146)
    assert t.decoder_widths == (73, 74, 6144)


def test_samplers_follow_the_published_weights() -> None:
    """1000 seeds, within 5 sigma."""
    ae = [MlpAe.sample_config(seed) for seed in range(1000)]
    vae = [MlpVae.sample_config(seed) for seed in range(1000)]
    for hits, p in (
        (sum(c["output_type"] == "tanh" for c in ae), 1 / 3),
        (sum(c["output_type"] == "linear_center" for c in ae), 1 / 6),
        (sum(c["loss"] == "l1" for c in ae), 1 / 3),
        (sum(c["reduction"] == "sum" for c in ae), 1 / 2),
        (sum(len(c["encoder"]) == 1 for c in vae), 1 / 4),
        (sum(len(c["decoder"]) == 3 for c in vae), 1 / 3),
    ):
        assert abs(hits - 1000 * p) <= 5.0 * np.sqrt(1000 * p * (1 - p))
    widths = [w for c in vae for w in (*c["encoder"], *c["decoder"])]
    assert (min(widths), max(widths)) == (32, 128)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("mlp_ae", {"output_type": "tan"}, "unknown output_type 'tan'; did you mean 'tanh'"),
        ("mlp_ae", {"loss": "l3"}, "unknown loss 'l3'"),
        ("mlp_ae", {"reduction": "none"}, "unknown reduction 'none'"),
        ("mlp_ae", {"center": True}, "center = true, .*output_type"),
        ("mlp_ae", {"hidden": (8, 0)}, r"hidden\[1\] = 0, .*nearest: 1"),
        ("mlp_vae", {"encoder": ()}, r"encoder = \[\], .*nearest: \[1\]"),
        ("mlp_vae", {"encoder": (4, -1)}, r"encoder\[1\] = -1, .*nearest: 1"),
        ("mlp_vae", {"decoder": 5}, r"decoder = 5, .*nearest: \[5\]"),
        ("mlp_vae", {"activation": "relo"}, "did you mean 'relu'"),
        ("mlp_vae", {"init_scale": -1.0}, "init_scale = -1.0"),
    ],
)
def test_bad_options_are_named(family: str, options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(family, **options)
