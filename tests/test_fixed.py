"""TaskSet's fixed tasks: all there, built by name alone, sane where they start; what their options do."""

import json

import numpy as np
import pytest

import lopt
from lopt import rng
from lopt.errors import TaskError
from lopt.ops.losses import cross_entropy_reference, sigmoid_squares
from lopt.task import OUTER_VALID, TRAIN, Task, TaskData, task
from lopt.tasks import catalogue, parse_task
from lopt.tasks.fixed import FIXED, GROUPS
from lopt.tasks.images import STAND_INS
from lopt.tasks.initialisers import TRUNCATED_STD
from lopt.tasks.recurrent_core import Core

STREAM = rng.stream(7, 1, 2)
PUBLISHED = {
    "2d": 8, "conv": 23, "conv_ae": 5, "conv_vae": 7, "language_model": 5, "mlp": 13, "mlp_ae": 3,
    "mlp_vae": 7, "nvp": 5, "maf": 3, "text_classification": 12, "sequence": 18,
}  # fmt: skip


def rows_of(t: Task, batch: int = 2, split: int = TRAIN) -> np.ndarray:
    return rng.integers(min(batch, t.batch_size), *t.splits[split], STREAM, rng.BATCH + split)


def evaluate(t: Task, params, rows=None, split=TRAIN, step=0) -> tuple[float, np.ndarray]:
    """Loss and gradient by the entry, two rows unless told otherwise; gradient and scratch poisoned."""
    rows = rows_of(t) if rows is None else rows
    grad, work = np.full_like(params, np.nan), np.full(t.work_size(rows.size), np.nan, np.float32)
    return t.entry(params, grad, t.arrays, rows, STREAM, split, step, work, 1), grad


# The table


def test_counts_are_those_published() -> None:
    assert {group: len(members) for group, members in GROUPS.items()} == PUBLISHED
    assert len(FIXED) == 109


@pytest.mark.parametrize("name", FIXED)
def test_every_fixed_task_starts_finite(name: str) -> None:
    t = lopt.task(name)
    params = t.init(STREAM)
    loss, grad = evaluate(t, params)
    assert np.isfinite(loss) and loss >= t.lowest_loss
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0.0


def test_names_round_trip() -> None:
    built = {name: lopt.task(name) for name in FIXED}
    for name, t in built.items():
        assert parse_task(t.name) == t == parse_task(name)
        assert task(**json.loads(json.dumps(t.config()))) == t
    assert len(set(built.values())) == 109


def test_data_are_those_that_stand_for_the_published() -> None:
    for name, options in FIXED.items():
        t = lopt.task(name)
        if "data" in options:
            assert t.data == STAND_INS[t.stands_for]
            side = {"mnist": 28, "food101_64x64": 64}.get(t.stands_for, 32)
            assert t.dataset.shape[:2] == (side, side)
        elif hasattr(t, "text"):
            assert t.stands_for in ("lm1b/bytes", "imdb_reviews/subwords8k")


@pytest.mark.parametrize(
    ("name", "batch", "size"),
    [
        ("TwoD_Ackley", 1, 2),
        ("FixedImageConv_cifar10_32x64x64_bs128", 128, 896 + 18496 + 36928 + 650),
        ("FixedImageConv_cifar10_batchnorm_32x64x64_bs128", 128, 56970 + 32 + 64 + 64),
        ("Mnist_Conv_32x16x64_flatten_FC32_tanh_bs32", 32,
         320 + 4624 + 9280 + (14 * 14 * 64 + 1) * 32 + 330),
        ("FixedImageConv_food10164x64_Conv_32x64x64_flatten_bs64", 64,
         896 + 18496 + 36928 + (32 * 32 * 64 + 1) * 101),
        ("FixedImageConvAE_mnist_32x32x32x32x32_bs128", 128,
         320 + 9248 + 1569 * 32 + 33 * 1568 + 2 * 9248 + 33),
        ("FixedImageConvAE_mnist_32x64x32x64x32_bs512", 512,
         320 + 18496 + 3137 * 32 + 33 * 1568 + (288 * 64 + 64) + (576 * 64 + 64) + 65),
        ("FixedImageConvVAE_cifar10_32x64x128x64x128x64x32_bs512", 512,
         896 + 18496 + 73856 + 2049 * 128 + 65 * 512 + 36992 + 73792 + 18464 + 33 * 6),
        ("FixedImageConvVAE_mnist_32x64x32x64x32_bs128", 128,
         896 + 18496 + 4097 * 64 + 33 * 2048 + (288 * 64 + 64) + (576 * 32 + 32) + 33 * 6),
        ("FixedLM_lm1b_patch128_GRU64_embed64_avg_bs128", 128,
         256 * 64 + 3 * 129 * 64 + 64 + 65 * 256),
        ("FixedLM_lm1b_patch128_LSTM256_embed64_avg_bs128", 128,
         256 * 64 + 321 * 1024 + 512 + 257 * 256),
        ("FixedMLP_mnist_mse_128x128x128_relu_bs128", 128, 785 * 128 + 2 * 129 * 128 + 1290),
        ("FixedMLP_cifar10_Dropout02_128x128_relu_bs128", 128, 3073 * 128 + 129 * 128 + 1290),
        ("FixedMLP_cifar10_LayerNorm_128x128x128_tanh_bs128", 128,
         3073 * 128 + 2 * 129 * 128 + 1290 + 3 * 256),
        ("FixedMLP_cifar10_BatchNorm_64x64x64x64x64_relu_bs128", 128,
         3073 * 64 + 4 * 65 * 64 + 650 + 5 * 64),
        ("FixedMLPAE_cifar10_128x32x128_bs128", 128, 3073 * 128 + 129 * 32 + 33 * 128 + 129 * 3072),
        ("FixedMLPVAE_mnist_128x8x128x128_bs128", 128,
         785 * 128 + 129 * 16 + 9 * 128 + 129 * 128 + 129 * 1568),
        ("Imagenet32x30_FC_VAE_128x64x32x64x128_relu_bs256", 256,
         3073 * 128 + 129 * 64 + 65 * 64 + 33 * 64 + 65 * 128 + 129 * 6144),
        ("FixedNVP_mnist_9layer_thin_bs16", 64, 9 * (393 * 128 + 129 * 128 + 129 * 784)),
        ("FixedMAF_cifar10_3layer_bs64", 64, 3 * (3073 * 1024 + 1025 * 1024 + 1025 * 6144)),
        ("FixedTextRNNClassification_imdb_patch128_LSTM128_bs64", 64,
         640000 + 193 * 512 + 256 + 258),
        ("FixedTextRNNClassification_imdb_patch32_IRNN64_relu_last_bs128", 128,
         640000 + 2 * 65 * 64 + 64 + 130),
        ("Copy_VRNN128_BS128_Length20_Tokens10", 128, 13 * 128 + 129 * 128 + 129 * 12),
        ("Associative_LSTM256_BS128_Pairs40_Tokens100", 128, 359 * 1024 + 257 * 102),
    ],
)  # fmt: skip
def test_sizes_by_hand(name: str, batch: int, size: int) -> None:
    t = lopt.task(name)
    assert (t.batch_size, t.layout.size) == (batch, size)


# Where they start


@pytest.mark.parametrize("name", GROUPS["sequence"])
def test_sequences_start_at_chance(name: str) -> None:
    """Loss near log V, V = T + 2; zero parameters: exactly."""
    t = lopt.task(name)
    rows, chance = np.zeros(16, np.int64), np.log(t.symbols + 2.0)
    assert t.batch_size == 128
    zero, _ = evaluate(t, np.zeros(t.layout.size, np.float32), rows)
    assert zero == pytest.approx(chance, rel=1e-6)
    assert evaluate(t, t.init(STREAM), rows)[0] == pytest.approx(chance, rel=0.12)


@pytest.mark.parametrize(
    ("group", "tolerance"), [("language_model", 0.03), ("text_classification", 0.25)]
)
def test_text_starts_near_chance(group: str, tolerance: float) -> None:
    """Logits of N(0, 1) embeddings are small only behind a squashing cell: the relu cells are left out."""
    for name in GROUPS[group]:
        t = lopt.task(name)
        if t.cell_activation == "tanh":
            zeros = np.zeros(t.layout.size, np.float32)
            chance = np.log(256.0 if group == "language_model" else 2.0)
            assert evaluate(t, zeros)[0] == pytest.approx(chance, rel=1e-6)
            loss, _ = evaluate(t, t.init(STREAM), rows_of(t, 32))
            assert loss == pytest.approx(chance, rel=tolerance), name


def test_functions_start_at_one_point_whatever_the_run() -> None:
    for name in GROUPS["2d"]:
        t = lopt.task(name)
        np.testing.assert_array_equal(t.init(rng.stream(1)), t.init(rng.stream(2, 3, 4)))
    x = lopt.task("TwoD_Bowl1").init(STREAM).astype(np.float64)
    for condition in (1, 10, 100, 1000):
        t = lopt.task(f"TwoD_Bowl{condition}")
        loss, grad = evaluate(t, t.init(STREAM))
        assert loss == pytest.approx(0.5 * (condition * x[0] ** 2 + x[1] ** 2), rel=1e-6)
        np.testing.assert_allclose(grad, [condition * x[0], x[1]], rtol=1e-6)


def test_initial_weights_follow_the_table() -> None:
    """Convolutions by the law in the name, the readout behind a pooling by the library's own."""

    def deviations(name: str) -> dict[str, float]:
        t = lopt.task(name)
        return {n: v.std() for n, v in t.layout.views(t.init(STREAM)).items() if v.ndim > 1}

    own = TRUNCATED_STD / np.sqrt(128)
    for word, std in (("normal", 0.02), ("largenormal", 0.2), ("smallnormal", 0.002)):
        found = deviations(f"FixedImageConv_cifar10_32x64x128_{word}_bs64")
        assert found["conv_w2"] == pytest.approx(std, rel=0.02)
        assert found["fc_w0"] == pytest.approx(own, rel=0.1)
    found = deviations(
        "FixedImageConv_cifar10_32x64x128_flatten_FC64x32_tanh_variance_scaling_bs64"
    )
    for tensor, fan_in in (("conv_w2", 576), ("fc_w0", 16 * 16 * 128)):
        assert found[tensor] == pytest.approx(TRUNCATED_STD * np.sqrt(2.6 / fan_in), rel=0.02)
    found = deviations("FixedMLP_cifar10_ce_128x128x128_relu_bs128")
    assert found["w0"] == pytest.approx(TRUNCATED_STD / np.sqrt(3072), rel=0.01)


def test_irnn_cells_start_as_the_identity() -> None:
    for ending in ("avg", "last"):
        t = lopt.task(f"FixedTextRNNClassification_imdb_patch32_IRNN64_relu_{ending}_bs128")
        views = t.layout.views(t.init(STREAM))
        np.testing.assert_array_equal(views["wh"], np.eye(64))
        assert views["wx"].std() == pytest.approx(TRUNCATED_STD / 8.0, rel=0.05)
        assert Core("vanilla", 64, 64, "relu", t.cell_initialisers, (), True) == t.recurrent


# Names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("TwoD_Bowl10:condition=3.0", "'TwoD_Bowl10' is fixed and takes no options"),
        ("TwoD_Akley", "unknown fixed task 'TwoD_Akley'; did you mean 'TwoD_Ackley'"),
        ("FixedMAF_mnist_2layer_bs128", "did you mean 'FixedMAF_mnist_2layer_bs64'"),
        ("mpl", "unknown task family 'mpl'; did you mean 'mlp'"),
    ],
)
def test_bad_names(text: str, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        parse_task(text)


def test_fixed_tasks_can_be_augmented() -> None:
    t = parse_task("TwoD_Beale+delay=2")
    assert t.task == lopt.task("TwoD_Beale")


def test_the_catalogue_ends_with_the_fixed_tasks() -> None:
    found = list(catalogue.entries(seeds=0))
    assert [e.name for e in found] == list(FIXED)
    assert all(e.task == lopt.task(e.name) and e.task.family == e.family for e in found)


# Options of families that only fixed tasks use


def test_sigmoid_squares_in_closed_form() -> None:
    """All logits 0: 1/4, gradients s^2 (1 - s) 2 / (B C) = 1 / (4 B C), negative for the true class."""
    logits, labels = np.zeros((3, 5), np.float32), np.array([4, 0, 2], np.int32)
    scratch = np.full((2, 32), np.nan, np.float32)
    assert sigmoid_squares(logits, labels, np.arange(3), *scratch) == 0.25
    expected = np.full((3, 5), 1 / 60)
    expected[np.arange(3), labels] = -1 / 60
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


def test_sigmoid_squares_keep_their_relative_precision() -> None:
    """Logits +-40 on the right side: loss e^-80, slopes 2 e^-80; on the wrong one 1 and 2 e^-40."""
    scratch = np.full((2, 32), np.nan, np.float32)
    for sign, loss, slope in ((1.0, np.exp(-40.0), np.exp(-40.0)), (-1.0, 1.0, np.exp(-20.0))):
        logits = np.array([[20.0 * sign, -20.0 * sign]], np.float32)
        found = sigmoid_squares(logits, np.zeros(1, np.int32), np.zeros(1, np.int64), *scratch)
        assert found == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(logits, [[-slope, slope]], rtol=1e-5)


def plain(**options) -> tuple[Task, Task, np.ndarray]:
    """An MLP, the same by way of norm_mlp with those options, and parameters for both."""
    a = task("mlp", hidden=(9, 7), activation="tanh", batch_size=6)
    b = task("norm_mlp", hidden=(9, 7), activation="tanh", batch_size=6, bias=True, **options)
    return a, b, (a.init(STREAM) + 0.1 * rng.normals(a.layout.size, STREAM, rng.TASK)).astype("f4")


def test_no_norm_and_no_dropout_is_a_plain_perceptron() -> None:
    a, b, params = plain(norm="none")
    assert [shape for _, shape in a.layout] == [shape for _, shape in b.layout]
    rows = rows_of(a, 6)
    loss, grad = evaluate(a, params, rows)
    other, same = evaluate(b, params, rows)
    assert other == loss
    np.testing.assert_array_equal(same, grad)


def test_frozen_batch_norm_divides_by_the_root_of_1_001() -> None:
    a, b, params = plain(norm="frozen", gamma=False, beta=False)
    scaled = params.copy()
    for name, view in a.layout.views(scaled).items():
        if name not in ("w2", "b2"):
            view /= np.float32(np.sqrt(1.001))
    rows = rows_of(a, 6)
    loss, grad = evaluate(b, params, rows)
    other, same = evaluate(a, scaled, rows)
    assert loss == pytest.approx(other, rel=1e-6)
    first = a.layout.views(same)["w0"] / np.sqrt(1.001)
    np.testing.assert_allclose(b.layout.views(grad)["w0"], first, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.8])
def test_dropout_keeps_the_asked_for_share_and_divides_by_it(keep: float) -> None:
    """Linear units, one row: dropped units have no gradient, the others 1 / keep times the plain one."""
    options = {
        "hidden": (400,),
        "norm": "none",
        "bias": True,
        "activation": "linear",
        "batch_size": 1,
    }
    t, full = task("norm_mlp", keep=keep, **options), task("norm_mlp", **options)
    params = t.init(STREAM)
    t.layout.views(params)["w_out"][...] = 1e-3 * t.layout.views(params)["w_out"]  # softmax at rest

    def slopes(t: Task, split: int, step: int) -> np.ndarray:
        return t.layout.views(evaluate(t, params, rows_of(t, 1), split, step)[1])["b0"]

    found, expected = slopes(t, TRAIN, 0), slopes(full, TRAIN, 0)
    kept = found != 0.0
    assert abs(kept.sum() - 400 * keep) < 5.0 * np.sqrt(400 * keep * (1 - keep))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found[kept], expected[kept] / keep, rtol=0, atol=0.05 * scale)
    for split, step in ((TRAIN, 1), (OUTER_VALID, 0)):  # active and fresh everywhere
        assert ((slopes(t, split, step) != 0.0) != kept).sum() > 30


def test_layers_drop_units_apart() -> None:
    """Equal widths: the second layer's units are not those of the first."""
    t = task(
        "norm_mlp",
        hidden=(200, 200),
        norm="none",
        bias=True,
        keep=0.5,
        activation="linear",
        batch_size=1,
    )
    _, grad = evaluate(t, t.init(STREAM), rows_of(t, 1))
    first, second = (t.layout.views(grad)[name] != 0.0 for name in ("b0", "b1"))
    assert 60 < (first != second).sum() < 140


def test_batch_norm_of_convolutions_does_not_feel_their_scale_or_bias() -> None:
    options = {
        "channels": (4, 6),
        "batch_size": 8,
        "initialiser": "random_normal",
        "init_scale": 3.0,
    }
    t = task("conv_pooling", batch_norm=True, **options)
    params, rows = t.init(STREAM), rows_of(t, 8)
    loss, grad = evaluate(t, params, rows)
    changed = params.copy()
    t.layout.views(changed)["conv_w1"][...] *= 8.0
    t.layout.views(changed)["conv_b0"][...] += 1.0
    other, same = evaluate(t, changed, rows)
    assert other == pytest.approx(loss, rel=1e-4)
    a, b = t.layout.views(grad), t.layout.views(same)
    np.testing.assert_allclose(
        8.0 * b["conv_w1"], a["conv_w1"], rtol=0, atol=1e-3 * np.abs(a["conv_w1"]).max()
    )
    assert np.abs(a["conv_b0"]).max() < 1e-5 * np.abs(a["conv_w0"]).max()
    assert np.abs(a["conv_beta0"]).max() > 1e-3


def test_biases_in_front_of_batch_norm_are_laid_out_between_weights_and_beta() -> None:
    """The published order w, b, beta; the kernel in float64 finds the reference's loss and gradient."""
    t = task("conv_fc", channels=(3, 4), fc=(5,), batch_norm=True, activation="tanh", batch_size=4)
    assert t.layout.names[:6] == (
        "conv_w0",
        "conv_b0",
        "conv_beta0",
        "conv_w1",
        "conv_b1",
        "conv_beta1",
    )
    params = t.init(STREAM) + 0.1 * rng.normals(t.layout.size, STREAM, rng.TASK).astype(np.float64)
    floats, ints, sizes, hyper = t.arrays
    data = TaskData(floats.astype(np.float64), ints, sizes, hyper.astype(np.float64))
    rows, grad, work = rows_of(t, 4), np.full_like(params, np.nan), np.full(t.work_size(4), np.nan)
    loss = type(t).core(params, grad, data, rows, STREAM, TRAIN, 0, work, 1)
    expected, gradient = t.reference(params, rows, STREAM, TRAIN, 0)
    assert loss == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(grad, gradient, rtol=0, atol=1e-13 * np.abs(gradient).max())


def test_pooled_maps_behind_batch_norm_have_mean_beta() -> None:
    """Linear units: the mean over batch and positions is beta, whatever the images; the loss that of these logits."""
    t = task(
        "conv_pooling",
        channels=(3,),
        strides=(1,),
        padding=("same",),
        activation="linear",
        batch_norm=True,
    )
    params, rows = t.init(STREAM), rows_of(t, 1)
    views = t.layout.views(params)
    views["conv_beta0"][...] = (0.5, -1.0, 2.0)
    logits = views["conv_beta0"].astype(np.float64) @ views["fc_w0"] + views["fc_b0"]
    expected, _ = cross_entropy_reference(logits[None], t.dataset.y[rows])
    assert evaluate(t, params, rows)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("mlp", {"loss": "cross"}, "unknown loss 'cross'; did you mean 'cross_entropy'"),
        ("mlp", {"initialiser": "sonet"}, "did you mean 'sonnet'"),
        ("conv_fc", {"batch_norm": 1}, "batch_norm = 1, valid: true or false"),
        ("conv_pooling", {"readout_initialiser": "sonet"}, "did you mean 'sonnet'"),
        ("norm_mlp", {"keep": 1.5}, "keep = 1.5, valid: a number above 0, at most 1; nearest: 1"),
    ],
)
def test_bad_options_are_named(family: str, options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(family, **options)
