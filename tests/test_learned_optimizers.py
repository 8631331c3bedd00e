"""The learned optimizers against slow float64 references, and what their structure implies (methods 1.3, 1.4, 1.10)."""

import math

import numpy as np
import pytest
from helpers import lane_scheduler
from helpers.reference_learned import REFERENCES, LossStatistics
from helpers.replay import Replay, busy_theta, movement_error, normals

from lopt import arch, rng  # noqa: F401 - importing registers
from lopt.arch import loss_statistics as stats
from lopt.arch.features import parameter_features
from lopt.arch.per_parameter import BLOCK, KEPT
from lopt.errors import OptimizerError
from lopt.layout import Layout
from lopt.optimizer import Optimizer, optimizer

MIXED = Layout(
    (("a", (6, 5)), ("s", ()), ("k", (2, 3, 4, 5)), ("one", (1,)), ("u", (1, 1)), ("b", (7,)))
)
SINGLE = Layout((("w", (37, 3)),))
BLOCKS = Layout((("w", (40, 30)), ("b", (30,))))  # several blocks, all rows kept
MANY = Layout((("w", (70, 69)), ("cube", (3, 3, 3)), ("b", (33,))))  # too many to keep all rows
LAYOUTS = {"mixed": MIXED, "single": SINGLE, "blocks": BLOCKS, "many": MANY}
SMALL = {"lstm_hidden": 5, "mlp_hidden": 6, "to_lstm": 3, "to_mlp": 4, "between": 2}
OPTIMIZERS = {
    "hierarchical": optimizer("hierarchical"),
    "small": optimizer("hierarchical", **SMALL, decays=(0.3, 0.99)),
    "past_weights": optimizer("hierarchical", **SMALL, past_weights=True),
    "clip_normalised": optimizer("hierarchical", **SMALL, clip_normalised=True),
    "learn_clip": optimizer("hierarchical", **SMALL, learn_clip=True),
    "no_lstm": optimizer("hierarchical", **(SMALL | {"lstm_hidden": 0}), learn_clip=True),
    "reference_artefact": optimizer("hierarchical", **SMALL, valid_before_first="reference"),
    "mlp": optimizer("mlp"),
    "mlp_small": optimizer("mlp", hidden=3, decays=(0.0, 0.9)),
    "adafac_mlp": optimizer("adafac_mlp"),
    "adafac_mlp_wide": optimizer("adafac_mlp", hidden=9),
}
HIERARCHICAL = OPTIMIZERS["small"]


# Against the references


def test_the_shapes_reach_every_path() -> None:
    assert max(SINGLE.sizes) < BLOCK < max(BLOCKS.sizes) < BLOCKS.size <= KEPT < MANY.size


@pytest.mark.parametrize("shapes", LAYOUTS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float64_kernels_agree_with_the_reference(name: str, shapes: str) -> None:
    assert movement_error(OPTIMIZERS[name], LAYOUTS[shapes], np.float64) < 1e-9


@pytest.mark.parametrize("grad_scale", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("param_scale", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("name", ["hierarchical", "mlp", "adafac_mlp"])
def test_float64_kernels_agree_at_all_scales(name, grad_scale, param_scale) -> None:
    error = movement_error(OPTIMIZERS[name], MIXED, np.float64, grad_scale, param_scale, 5)
    assert error < 1e-8 * max(
        1.0, param_scale
    )  # steps are 1e-3 whatever the scale of the parameters


@pytest.mark.parametrize("grad_scale", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("shapes", LAYOUTS)
@pytest.mark.parametrize("name", ["hierarchical", "mlp", "adafac_mlp"])
def test_float32_kernels_move_as_the_reference_does(name, shapes, grad_scale) -> None:
    assert movement_error(OPTIMIZERS[name], LAYOUTS[shapes], np.float32, grad_scale) < 2e-3


def test_past_weights_are_those_of_100_to_199_training_calls_ago() -> None:
    layout = Layout((("w", (3,)),))
    opt = OPTIMIZERS["past_weights"]
    assert movement_error(opt, layout, np.float64, calls=420) < 1e-8
    run = Replay(opt, layout, busy_theta(opt), np.ones(3))
    seen = [run.params.copy()]
    for t in range(320):
        seen.append(run.step(normals(3, t)))
        start = 100 * max(t // 100 - 1, 0)
        np.testing.assert_array_equal(run.memory.past, seen[start])


# Sizes, options


def test_numbers_of_meta_parameters() -> None:
    sizes = {name: optimizer(name).theta_layout.size for name in REFERENCES}
    assert sizes == {
        "hierarchical": 35_799,
        "adafac_mlp": 197,
        "mlp": 19 * 32 + 32 * 32 + 32 * 4 + 2,
    }
    inputs = 3 + 4 * 5
    past = optimizer("hierarchical", past_weights=True)
    assert past.theta_layout.size == 35_799 + 32
    assert past.n_features == inputs + 1
    assert optimizer("hierarchical", learn_clip=True).theta_layout.size == 35_799 + 2
    alone = (inputs + 14) * 32 + 32 * 32 + 32 * 2 + 32 + 32 + 2
    assert optimizer("hierarchical", lstm_hidden=0).theta_layout.size == alone


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hierarchical", {"lstm_hidden": -1}, "lstm_hidden must be at least 0, got -1"),
        ("hierarchical", {"decays": (0.5, 1.0)}, r"decays must lie in \(0, 1\), got \(0.5, 1.0\)"),
        ("hierarchical", {"valid_before_first": "zeros"}, "'zeros'.*zero"),
        ("hierarchical", {"clip_decay": 1.0}, "clip_decay 1.0 must lie in"),
        ("mlp", {"hidden": 1}, "hidden must be at least 2, got 1"),
        ("mlp", {"decays": ()}, "decays must lie in"),
        ("adafac_mlp", {"step_mult": 0.0}, "step_mult must be positive, got 0.0"),
        ("adafac_mlp", {"rms_decay": 1.0}, r"rms_decay.* must lie in \[0, 1\), got \(.*1.0"),
        (
            "adafac_mlp",
            {"momentum_decays": (0.9,)},
            r"momentum_decays must have 3 values, got \(0.9,\)",
        ),
        ("hierarchical", {"mag_rate": -1.0}, "mag_rate must be positive, got -1.0"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        optimizer(name, **options)


@pytest.mark.parametrize("name", REFERENCES)
def test_initial_weights_have_their_law_and_are_drawn_apart(name: str) -> None:
    """N(0, 2 / fan in) before a ReLU, N(0, 1 / fan in) elsewhere, within 5 standard errors; all else is 0."""
    opt, drawn = optimizer(name), []
    for key, w in opt.theta_layout.views(opt.init_theta(3)).items():
        if not key.split("/")[-1].startswith("w"):
            assert (w == 0.0).all(), key
            continue
        gain = 2.0 if key in ("w0", "w1", "mlp/w0", "mlp/w1") else 1.0
        z = w.ravel() * math.sqrt(w.shape[0] / gain)
        assert abs(z.mean()) < 5.0 / math.sqrt(z.size), key
        assert abs((z**2).mean() - 1.0) < 5.0 * math.sqrt(2.0 / z.size), key
        drawn.append(z)
    assert len({z[:8].round(4).tobytes() for z in drawn}) == len(drawn) > 2


@pytest.mark.parametrize("name", REFERENCES)
def test_empty_tensors_change_nothing(name: str) -> None:
    opt = optimizer(name)
    with_empty = Layout((("w", (4, 3)), ("none", (0, 5)), ("b", (3,)), ("void", (0,))))
    without = Layout((("w", (4, 3)), ("b", (3,))))
    runs = [
        Replay(opt, layout, busy_theta(opt), normals(15, 1)) for layout in (with_empty, without)
    ]
    for t in range(3):
        first, second = (run.step(normals(15, 2 + t)) for run in runs)
        np.testing.assert_array_equal(first, second)


def test_untrained_optimizers_move_a_little() -> None:
    """The typical first step is of the order of step_mult = 1e-3, neither nothing nor a jump."""
    for name in REFERENCES:
        opt = optimizer(name)
        run = Replay(opt, MIXED, opt.init_theta(3), normals(MIXED.size, 1), np.float32)
        before = run.params.copy()
        rms = float(np.sqrt(np.mean((run.step(normals(MIXED.size, 2)) - before) ** 2)))
        assert 1e-5 < rms < 1e-2, name


# Structure


@pytest.mark.parametrize("name", ["hierarchical", "mlp"])
def test_permuting_parameters_inside_a_tensor_permutes_the_steps(name: str) -> None:
    opt, theta = optimizer(name), busy_theta(optimizer(name))
    n, at = SINGLE.size, np.argsort(normals(SINGLE.size, 9))
    plain = Replay(opt, SINGLE, theta, normals(n, 1))
    permuted = Replay(opt, SINGLE, theta, normals(n, 1)[at])
    for t in range(4):
        grad = normals(n, 20 + t)
        expected, found = plain.step(grad)[at], permuted.step(grad[at])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    assert np.abs(expected - plain.params).max() > 0.1  # the permutation is not the identity


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_permuting_rows_and_columns_permutes_the_steps_of_adafac_mlp(axes: tuple) -> None:
    opt = optimizer("adafac_mlp")
    layout, shape = Layout((("w", (6, 5)),)), (6, 5)

    def permuted(x: np.ndarray) -> np.ndarray:
        x = x.reshape(shape)
        for axis in axes:
            x = np.take(x, np.argsort(normals(shape[axis], 40 + axis)), axis)
        return x.reshape(-1)

    runs = [
        Replay(opt, layout, busy_theta(opt), p) for p in (normals(30, 1), permuted(normals(30, 1)))
    ]
    for t in range(4):
        grad = normals(30, 20 + t)
        expected, found = permuted(runs[0].step(grad)), runs[1].step(permuted(grad))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", REFERENCES)
def test_the_order_of_tensors_does_not_matter(name: str) -> None:
    opt = optimizer(name)
    other = Layout(reversed(list(MIXED)))
    runs = [Replay(opt, layout, busy_theta(opt), np.ones(MIXED.size)) for layout in (MIXED, other)]
    for t in range(4):
        grads = MIXED.views(normals(MIXED.size, 30 + t))
        found = [run.layout.views(run.step(run.layout.flatten(grads, np.float64))) for run in runs]
    for key in MIXED.names:
        np.testing.assert_allclose(found[0][key], found[1][key], rtol=0, atol=1e-13)
    if name == "hierarchical":
        np.testing.assert_allclose(*(run.memory.between for run in runs), rtol=1e-12)


def steps_with_other_gradients_elsewhere(opt: Optimizer, theta: np.ndarray) -> list[np.ndarray]:
    """Tensor "w" after the same gradients, beside a tensor "b" with different ones."""
    layout, found = Layout((("w", (4,)), ("b", (3,)))), []
    for variant in range(2):
        run = Replay(opt, layout, theta, np.ones(7))
        for t in range(5):
            grad = np.concatenate([normals(4, t), normals(3, 60 + 10 * variant + t)])
            found_now = run.step(grad)[:4]
        found.append(found_now)
    return found


def test_tensors_talk_through_the_lstm_only() -> None:
    opt, theta = HIERARCHICAL, busy_theta(HIERARCHICAL)
    first, second = steps_with_other_gradients_elsewhere(opt, theta)
    assert np.abs(first - second).max() > 1e-9  # negative control
    named = opt.theta_layout.views(theta)
    named["to_mlp/w"][:] = 0.0
    first, second = steps_with_other_gradients_elsewhere(opt, theta)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["mlp", "adafac_mlp", "no_lstm"])
def test_without_an_lstm_tensors_do_not_talk(name: str) -> None:
    opt = OPTIMIZERS[name]
    first, second = steps_with_other_gradients_elsewhere(opt, busy_theta(opt))
    np.testing.assert_array_equal(first, second)


def normalised_inputs(scale: float) -> np.ndarray:
    """(F, n) inputs of the hierarchical MLP, divided by their RMS, after three gradients of that scale."""
    opt = optimizer("hierarchical", **SMALL, decays=(0.3, 0.99), clip_mult=1e9)
    run = Replay(opt, Layout((("w", (9,)),)), busy_theta(opt), np.ones(9))
    for t in range(3):
        grad = scale * normals(9, t)
        run.step(grad)
    rows, memory = np.empty((opt.n_features, 9)), run.memory
    parameter_features(rows, 9, np.ones(9), grad, memory, 2, 0)
    return rows / np.sqrt(1e-5 + (rows**2).mean(axis=1, keepdims=True))


def test_scaling_all_gradients_leaves_the_normalised_inputs() -> None:
    """... where the epsilons do not matter: not below 1e-3 (negative control)."""
    base = normalised_inputs(3.0)
    np.testing.assert_allclose(normalised_inputs(30.0), base, rtol=0, atol=5e-3)
    assert np.abs(normalised_inputs(1e-4) - base).max() > 0.5


def test_a_validation_call_moves_only_statistics_and_the_counter() -> None:
    run = Replay(HIERARCHICAL, MIXED, busy_theta(HIERARCHICAL), normals(MIXED.size, 1))
    run.step(normals(MIXED.size, 2))
    params, before = run.params.copy(), run.memory._asdict()
    before = {k: v.copy() for k, v in before.items()}
    run.step(normals(MIXED.size, 3), 0.7, is_valid=1)
    np.testing.assert_array_equal(run.params, params)
    after = run.memory._asdict()
    changed = {k for k in after if not np.array_equal(after[k], before[k])}
    assert changed == {"t", "valid"}
    assert after["t"][0] == before["t"][0] + 1 == 2
    np.testing.assert_allclose(
        after["valid"], [0.05 * 0.7, 0.05 * (0.95 * 0.7) ** 2, 1], rtol=1e-12
    )


@pytest.mark.parametrize("name", REFERENCES)
def test_a_zero_output_layer_moves_nothing(name: str) -> None:
    opt = optimizer(name)
    theta, prefix = busy_theta(opt), "mlp/" if name == "hierarchical" else ""
    named = opt.theta_layout.views(theta)
    named[f"{prefix}w2"][:, :2] = 0.0
    named[f"{prefix}b2"][:2] = 0.0
    run = Replay(opt, MIXED, theta, normals(MIXED.size, 1), np.float32)
    before = run.params.copy()
    for t in range(3):
        np.testing.assert_array_equal(run.step(normals(MIXED.size, t)), before)
    named[f"{prefix}b2"][0] = 1.0  # direction 1, magnitude 0: a drift of exactly 0.001
    run = Replay(opt, MIXED, theta, np.zeros(MIXED.size))
    for t in range(3):
        found = run.step(normals(MIXED.size, t))
        np.testing.assert_allclose(found, -(t + 1) * float(np.float32(0.001)), rtol=1e-12)


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_learned_decays_stay_between_0_and_1(shift: float) -> None:
    """A decay at its bound 0 keeps only the last gradient: earlier ones leave no trace."""
    opt, layout = optimizer("adafac_mlp"), Layout((("w", (5, 4)), ("b", (3,))))
    theta = busy_theta(opt)
    named = opt.theta_layout.views(theta)
    for key in ("momentum_decays", "rms_decays", "factored_decays"):
        named[key][:] = shift
    runs = [Replay(opt, layout, theta, np.ones(layout.size)) for _ in range(2)]
    for run, key in zip(runs, (1, 2), strict=True):
        run.step(normals(layout.size, key))
        run.params[:] = 1.0
    first, second = (run.step(normals(layout.size, 3)) for run in runs)
    assert np.isfinite(first).all()
    assert (np.abs(first - second).max() < 1e-15) == (shift > 1)


# Lanes

LONG = Layout((("b", (3,)), ("w", (15, 11))))  # reductions over 165 elements: all their loops run


@pytest.mark.parametrize(
    "opt",
    [
        optimizer("hierarchical", **(SMALL | {"lstm_hidden": 2, "mlp_hidden": 2}), decays=(0.5,)),
        optimizer("mlp", hidden=2, decays=(0.5,)),
        optimizer("adafac_mlp", hidden=2),
    ],
    ids=lambda opt: opt.name,
)
def test_long_reductions_do_not_depend_on_the_lanes(opt: Optimizer) -> None:
    start = Replay(opt, LONG, busy_theta(opt), normals(LONG.size, 1), np.float32)
    start.step(20.0 * normals(LONG.size, 2))

    def arguments() -> tuple:
        grad = (100.0 * normals(LONG.size, 3)).astype(np.float32)  # some are clipped
        work = np.empty(opt.work_size(LONG), np.float32)
        return start.theta, start.params.copy(), grad, start.state.copy(), 0.5, 0, start.data, work

    lane_scheduler.check(opt.core, arguments, scratch=(7,), lane_counts=(1, 3, 33))
    params = arguments()[1]
    found = (start.theta, params, *arguments()[2:])
    lane_scheduler.run(opt.core, found, 3)
    compiled = arguments()
    opt.entry(*compiled)
    moved = np.abs(compiled[1] - start.params).max()
    assert 1e-5 < moved < 0.1  # a number, so equal bits above say something
    np.testing.assert_allclose(params, compiled[1], rtol=0, atol=1e-4 * moved + 1e-7)


# Gradient clip


def clipped(size: float, opt: Optimizer, theta: np.ndarray) -> tuple[float, np.ndarray]:
    """The bound that a first huge gradient meets, and the clip state (t, q) after it."""
    run = Replay(opt, Layout((("w", (4,)), ("b", (2,)))), theta, np.ones(6))
    run.step(np.array([size, -size, size, size, 0.1, 0.1]))
    d = float(np.float32(opt.decays[0]))
    return float(run.memory.m[0] / (1.0 - d)), run.memory.clip.copy()


def test_the_first_clip_is_10() -> None:
    bound, (t, q) = clipped(1e6, HIERARCHICAL, busy_theta(HIERARCHICAL))
    alpha = float(np.float32(0.99))
    assert bound == pytest.approx(10.0, rel=1e-12)
    mean_square = (bound**2 + 0.1**2) / 2  # mean over tensors of clipped gradients
    assert t == 2.0
    expected = alpha * (1 - alpha) + (1 - alpha) * math.sqrt(1e-8 + mean_square)
    assert q == pytest.approx(expected, rel=1e-12)
    assert clipped(9.9, HIERARCHICAL, busy_theta(HIERARCHICAL))[0] == pytest.approx(9.9)


def test_a_learned_clip_starts_as_the_fixed_one_and_follows_theta() -> None:
    opt = OPTIMIZERS["learn_clip"]
    theta = opt.init_theta().astype(np.float64)
    named = opt.theta_layout.views(theta)
    np.testing.assert_allclose(named["clip"], [math.log(0.01), math.log(10.0)], rtol=1e-6)
    assert clipped(1e6, opt, theta)[0] == pytest.approx(10.0, rel=1e-5)
    named["clip"][1] = math.log(3.0)
    assert clipped(1e6, opt, theta)[0] == pytest.approx(3.0, rel=1e-5)
    named["clip"][0] = 0.5  # 1 - decay above 1 counts as 1: the bound is mult times the last RMS
    assert clipped(1e6, opt, theta)[0] == pytest.approx(3.0, rel=1e-5)


# Loss statistics


def features_of(losses: list[float]) -> list[float]:
    """Training-loss feature after each loss."""
    acc, found = np.zeros(stats.SIZE), []
    for loss in losses:
        stats.update_statistics(acc, loss, stats.TRAIN_DECAY)
        found.append(stats.standardised(loss, acc))
    return found


def test_loss_features_of_known_sequences() -> None:
    acc = np.zeros(stats.SIZE)
    stats.update_statistics(acc, 3.0, stats.TRAIN_DECAY)
    corrected = stats.correction(acc, stats.TRAIN_DECAY) * acc
    np.testing.assert_allclose(corrected[:2], [3.0, 0.81 * 9.0], rtol=1e-6)  # d^2 L^2
    assert features_of([3.0])[0] == pytest.approx(0.0, abs=1e-6)
    # c mean = L up to the 1e-8 in c, and sqrt(c var + 1e-8) >= 1e-4
    assert features_of([2.5] * 200) == pytest.approx([0.0] * 200, abs=2.5e-8 / 1e-4)
    assert features_of([1.0] * 400 + [1e6])[-1] > 0.0
    assert max(abs(x) for x in features_of([*np.exp(normals(300, 1)).tolist(), 1e9, -1e9])) <= 5.0


def test_the_validation_feature_before_the_first_validation_loss() -> None:
    train, valid = np.zeros(stats.SIZE), np.zeros(stats.SIZE)
    stats.update_statistics(train, 2.0, stats.TRAIN_DECAY)
    assert stats.valid_feature(valid, train, 0) == 0.0
    assert stats.valid_feature(valid, train, 1) == pytest.approx(-1 / 0.9, rel=1e-6)
    for _ in range(300):
        stats.update_statistics(train, 2.0, stats.TRAIN_DECAY)
    assert stats.valid_feature(valid, train, 1) == -5.0  # drifts to the clip
    stats.update_statistics(valid, 2.5, stats.VALID_DECAY)
    expected = LossStatistics(0.9)
    for _ in range(301):
        expected.update(2.0)
    assert (
        stats.valid_feature(valid, train, 0)
        == pytest.approx(expected.feature(2.5), rel=1e-6)
        == 5.0
    )


def test_a_validation_loss_above_the_training_loss_is_a_positive_feature() -> None:
    train, valid = np.zeros(stats.SIZE), np.zeros(stats.SIZE)
    for t in range(50):
        stats.update_statistics(train, 1.0 + 0.1 * (-1) ** t, stats.TRAIN_DECAY)
        stats.update_statistics(valid, 1.1, stats.VALID_DECAY)
    c = stats.correction(train, stats.TRAIN_DECAY)
    expected = (1.1 - c * train[0]) / math.sqrt(c * train[1])
    assert stats.valid_feature(valid, train, 0) == pytest.approx(expected, rel=1e-5)
    assert 0.0 < expected < 5.0
