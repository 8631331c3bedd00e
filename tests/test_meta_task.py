"""A learned optimizer as a task: plain inner loops, closed forms, common random numbers, divergence, the sampler."""

import math

import numpy as np
import pytest
from helpers.reference_learned import Mlp as MlpReference

import lopt
from lopt import rng
from lopt.errors import OptimizerError, TaskError
from lopt.meta_task import LearnedOptimizer
from lopt.rollout import Runner, Schedule
from lopt.task import INNER_VALID, OUTER_VALID, SPLITS, TEST, TRAIN, TaskData
from lopt.tasks.transformer_options import COST_LIMIT

INNER = "mlp:hidden=[3],batch_size=4,activation=tanh"
STREAM = rng.stream(7, 2, 1)
ROWS = np.array([2, 0])
OPTIMIZERS = [
    "sgd:learning_rate=0.3",
    "momentum:learning_rate=0.1",
    "adam:learning_rate=0.03",
    "mlp:hidden=3,step_mult=0.05",
]


def build(optimizer: str = "sgd", **options) -> LearnedOptimizer:
    return LearnedOptimizer(
        **{"inner": INNER, "problems": 9, "unroll": 4, **options}, optimizer=optimizer
    )


def evaluate(t, theta, rows=ROWS, split=TRAIN, step=0, with_grad=1, arrays=None):
    """Loss and gradient in the dtype of theta."""
    floats, ints, sizes, hyper = arrays or t.arrays
    data = TaskData(floats.astype(theta.dtype), ints, sizes, hyper.astype(theta.dtype))
    grad = np.full_like(theta, 7.0)
    work = np.full(t.work_size(rows.size), np.nan, theta.dtype)
    args = (theta, grad, data, rows, STREAM, split, step, work, with_grad)
    return float(type(t).core(*args) if theta.dtype == np.float64 else t.entry(*args)), grad


def double(t: LearnedOptimizer) -> np.ndarray:
    return t.init(STREAM).astype(np.float64)


# The whole thing again, from the formulas


class Plain:
    """sgd, momentum, adam: the update formulas on flat float64 parameters."""

    def __init__(self, name: str, theta: np.ndarray) -> None:
        self.name, self.theta, self.m, self.v, self.t = name, theta, 0.0, 0.0, 0

    def step(self, w: np.ndarray, g: np.ndarray) -> np.ndarray:
        self.t += 1
        rate = np.exp(self.theta[0])
        if self.name == "sgd":
            return w - rate * g
        b1 = 1 - np.exp(self.theta[1])
        if self.name == "momentum":
            self.m = b1 * self.m + g
            return w - rate * self.m
        b2, eps = 1 - np.exp(self.theta[2]), np.exp(self.theta[3])
        self.m, self.v = b1 * self.m + (1 - b1) * g, b2 * self.v + (1 - b2) * g * g
        m, v = self.m / (1 - b1**self.t), self.v / (1 - b2**self.t)
        return w - rate * (m / (np.sqrt(v) + eps) + self.theta[4] * w)


class PlainLearned:
    """The reference of the learned optimizer on flat parameters."""

    def __init__(self, t: LearnedOptimizer, theta: np.ndarray) -> None:
        self.layout = t.inner_task.layout
        views = t.layout.views(theta)
        zero = self.layout.views(np.zeros(self.layout.size))
        self.inside = MlpReference(t.inner_optimizer, views, zero)

    def step(self, w: np.ndarray, g: np.ndarray) -> np.ndarray:
        new = self.inside.step(self.layout.views(w), self.layout.views(g), 0.0, False)
        return self.layout.flatten(new, np.float64)


def plain_loss(t: LearnedOptimizer, theta: np.ndarray, rows, split: int) -> float:
    """Mean over problems and steps of (f - log(C / 5)) 10 / log C, with f clipped at log 2C."""
    inner, total = t.inner_task, []
    for row in rows:
        stream = rng.stream(t.instance, int(row))
        w = inner.init(stream).astype(np.float64)
        learned = t.inner_optimizer.name == "mlp"
        opt = PlainLearned(t, theta) if learned else Plain(t.inner_optimizer.name, theta)
        for k in range(t.unroll):
            loss, g = plain_batch(inner, w, stream, TRAIN, k)
            w = opt.step(w, g)
            if split != TRAIN:
                loss, _ = plain_batch(inner, w, stream, split, k)
            total.append((min(loss, math.log(20)) - math.log(2)) * 10 / math.log(10))
    return float(np.mean(total))


def plain_batch(inner, w, stream, split, k):
    batch = rng.integers(inner.batch_size, *inner.splits[split], stream, rng.BATCH + split, k)
    return inner.reference(w, batch, stream, split, k)


def plain_gradient(t: LearnedOptimizer, theta: np.ndarray, rows, split: int, step: int):
    z = rng.normals(t.pairs * theta.size, STREAM, rng.ES_DIRECTION + split, step).astype(np.float64)
    sigma = float(np.float32(t.sigma))
    return np.mean([
        d * (plain_loss(t, theta + sigma * d, rows, split) - plain_loss(t, theta - sigma * d, rows, split))
        for d in z.reshape(t.pairs, -1)
    ], axis=0) / (2 * sigma)  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("split", range(len(SPLITS)))
def test_kernel_and_reference_follow_the_formulas(optimizer: str, split: int) -> None:
    t = build(optimizer, pairs=3)
    theta = double(t) + 0.1 * rng.normals(t.layout.size, STREAM, rng.TASK)
    loss, grad = plain_loss(t, theta, ROWS, split), plain_gradient(t, theta, ROWS, split, step=5)
    assert abs(grad).max() > 1e-2
    for found in (
        evaluate(t, theta, split=split, step=5),
        t.reference(theta, ROWS, STREAM, split, 5),
    ):
        assert found[0] == pytest.approx(loss, rel=1e-6)  # constants are float32
        np.testing.assert_allclose(found[1], grad, rtol=0, atol=1e-5 * abs(grad).max())
    single, _ = evaluate(t, theta.astype(np.float32), split=split, step=5)
    assert single == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_inner_trainings_are_ordinary_rollouts(optimizer: str) -> None:
    """Same losses as the runner of the library, on training batches and on held-out ones."""
    t = build(optimizer, unroll=6)
    theta, row = t.init(STREAM), np.array([3])
    runner = Runner(t.inner_task, t.inner_optimizer, Schedule(outer_every=1))
    stream = rng.stream(t.instance, 3)
    losses = runner.advance(theta, runner.start(theta, stream), 6, stream)
    for split, found in zip((TRAIN, OUTER_VALID), losses, strict=True):
        assert np.unique(found).size == 6
        normalised = np.minimum((found - math.log(2)) * 10 / math.log(10), 10)
        loss, _ = evaluate(t, theta, row, split)
        assert loss == pytest.approx(normalised.mean(), rel=1e-6)


# Closed forms


def rate_slope(t: LearnedOptimizer, row: int) -> float:
    """d loss / d log lr of sgd over two steps: the loss after one step moves by -lr g_0 g_1."""
    inner, stream = t.inner_task, rng.stream(t.instance, row)
    rate, w = math.exp(double(t)[0]), inner.init(stream).astype(np.float64)
    _, g0 = plain_batch(inner, w, stream, TRAIN, 0)
    _, g1 = plain_batch(inner, w - rate * g0, stream, TRAIN, 1)
    return -rate * float(g0 @ g1) / 2 * 10 / math.log(10)


def test_gradient_of_the_learning_rate_is_known_after_two_steps() -> None:
    """A narrow pair measures the slope: g = z^2 slope, up to the square of sigma."""
    t = build(
        "sgd:learning_rate=0.2", inner="mlp:hidden=[],batch_size=5", unroll=2, pairs=1, sigma=1e-3
    )
    slope = np.mean([rate_slope(t, row) for row in ROWS])
    for step in range(5):
        z = float(rng.normals(1, STREAM, rng.ES_DIRECTION + TRAIN, step)[0])
        _, grad = evaluate(t, double(t), step=step)
        assert grad[0] == pytest.approx(z * z * slope, rel=1e-5)


def estimates(t: LearnedOptimizer, theta: np.ndarray, steps: int) -> tuple[float, float]:
    """Mean of many gradients of a single meta-parameter, and its standard error."""
    found = np.array([evaluate(t, theta, step=s)[1][0] for s in range(steps)])
    return found.mean(), found.std() / math.sqrt(steps)


def test_mean_gradient_is_the_slope_of_the_loss() -> None:
    t = build("sgd:learning_rate=0.2", inner="mlp:hidden=[],batch_size=5", unroll=2, sigma=1e-2)
    mean, error = estimates(t, double(t), 1000)
    slope = np.mean([rate_slope(t, row) for row in ROWS])
    assert abs(mean - slope) < 4 * error < 0.2 * abs(slope)


def test_mean_gradient_of_wide_pairs_is_the_slope_of_the_smoothed_loss() -> None:
    """... by quadrature, E f(theta + sigma z) z / sigma, and not the slope of the loss itself."""
    t = build("sgd:learning_rate=3.0", sigma=0.8)
    theta, sigma = double(t), float(np.float32(0.8))
    x, weights = np.polynomial.hermite_e.hermegauss(40)
    values = np.array([evaluate(t, theta + sigma * d, with_grad=0)[0] for d in x])
    smoothed = weights @ (values * x) / weights.sum() / sigma
    ends = [evaluate(t, theta + d, with_grad=0)[0] for d in (1e-5, -1e-5)]
    mean, error = estimates(t, theta, 1500)
    assert abs(mean - smoothed) < 4 * error
    assert abs(mean - (ends[0] - ends[1]) / 2e-5) > 8 * error


# Common random numbers, problems and splits


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradient_is_exactly_zero_where_theta_does_not_matter(optimizer: str) -> None:
    """The loss before the first step has no theta in it; all members see the same batches."""
    t = build(optimizer, unroll=1, sigma=0.5)
    _, grad = evaluate(t, t.init(STREAM))
    np.testing.assert_array_equal(grad, np.zeros_like(grad))
    _, grad = evaluate(t, t.init(STREAM), split=INNER_VALID)
    assert (grad != 0.0).any()


def test_directions_have_addresses_of_their_own() -> None:
    """Other steps, pairs of other numbers, other splits: other directions; the loss stays."""
    t = build("adam", pairs=1)
    theta = t.init(STREAM)
    first, grad = evaluate(t, theta, step=0)
    again, other = evaluate(t, theta, step=1)
    assert first == again
    assert abs(np.corrcoef(grad, other)[0, 1]) < 0.999
    one, two = (evaluate(build("adam", pairs=p), theta)[1] for p in (1, 2))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.999
    np.testing.assert_array_equal(one, grad)


def test_loss_is_the_mean_over_problems() -> None:
    t = build("momentum")
    theta = double(t)
    alone = [evaluate(t, theta, np.array([row]), with_grad=0)[0] for row in (4, 1, 5)]
    assert len(set(alone)) == 3
    together, _ = evaluate(t, theta, np.array([4, 1, 5]))
    assert together == pytest.approx(np.mean(alone), rel=1e-14)
    other, _ = evaluate(build("momentum", instance=1), theta, np.array([4]), with_grad=0)
    assert other != alone[0]


@pytest.mark.parametrize("split", range(len(SPLITS)))
def test_a_split_scores_on_its_own_inner_rows(split: int) -> None:
    """Blank images in the inner rows of one split change the loss of that split, and all if it is what trains."""
    t = build()
    floats, ints, sizes, hyper = t.arrays
    lo, hi = t.inner_task.splits[split]
    floats = floats.copy()
    floats.reshape(ints.size, -1)[lo:hi] = 0.0
    blank = TaskData(floats, ints, sizes, hyper)
    theta = t.init(STREAM)
    changed = {
        s for s in range(len(SPLITS))
        if evaluate(t, theta, split=s, arrays=blank)[0] != evaluate(t, theta, split=s)[0]
    }  # fmt: skip
    assert changed == (set(range(len(SPLITS))) if split == TRAIN else {split})


def test_inner_data_are_shared() -> None:
    t = build()
    assert t.arrays.floats is t.inner_task.arrays.floats


# Divergence


@pytest.mark.parametrize("log_rate", [20.0, 100.0, 1e4, np.inf, np.nan])
@pytest.mark.parametrize("split", [TRAIN, TEST])
def test_diverging_inner_trainings_count_as_the_clip(log_rate: float, split: int) -> None:
    """Whether losses are huge, parameters overflow or the rate is not a number: never NaN, no gradient."""
    t = build("sgd", unroll=5)
    before, _ = evaluate(build("sgd", unroll=1), t.init(STREAM))
    loss, grad = evaluate(t, np.array([log_rate], np.float32), split=split)
    assert loss == pytest.approx((before + 40) / 5 if split == TRAIN else 10.0, rel=1e-6)
    assert (grad == 0.0).all()


def test_clip_bounds_every_loss() -> None:
    theta = build().init(STREAM)
    free, tight = (evaluate(build(clip=c), theta, split=TEST)[0] for c in (10.0, 2.0))
    assert free > 2.0
    assert tight == pytest.approx(2.0, rel=1e-6)


def test_one_diverging_member_leaves_a_finite_gradient() -> None:
    t = build("sgd", sigma=60.0, pairs=1)
    _, grad = evaluate(t, np.array([-2.0], np.float32))
    assert np.isfinite(grad).all() and (grad != 0.0).any()


# Parameters


def test_parameters_are_theta_of_the_optimizer() -> None:
    t = build("adam:learning_rate=0.02")
    expected = np.log([0.02, 0.1, 0.001, 1e-8])
    np.testing.assert_allclose(t.init(STREAM), [*expected, 0.0], rtol=1e-6)
    assert t.layout == lopt.optimizer("adam").theta_layout


def test_learned_optimizers_start_from_random_weights() -> None:
    t = build("mlp:hidden=40")
    a, b = (t.layout.views(t.init(rng.stream(s))) for s in (0, 1))
    assert (a["w0"] != b["w0"]).all() and (a["b0"] == 0.0).all()
    assert a["w1"].std() == pytest.approx(math.sqrt(2 / 40), rel=0.1)


def test_nested_specs_survive_a_round_trip() -> None:
    t = build("mlp:hidden=3,decays=[0.5, 0.9]", inner="mlp:hidden=[4, 5],batch_size=3")
    assert lopt.tasks.parse_task(t.name) == t
    assert t.inner_task.hidden == (4, 5)
    assert t.inner_optimizer.decays == (0.5, 0.9)


# Meta-training through the ordinary rollout


TRAINABLE = {"inner": "mlp:hidden=[8],batch_size=16", "unroll": 20, "problems": 20, "batch_size": 4}


def meta_train(t: LearnedOptimizer, rate: float) -> tuple[dict, np.ndarray, np.ndarray]:
    """Final theta after 30 steps of Adam; loss over all problems of the splits train and test, before and after."""
    trace = lopt.rollout(t, lopt.optimizer("adam", learning_rate=rate), steps=30)
    assert trace.status == "ok"
    ends = t.init(rng.stream(0)), t.layout.flatten(dict(trace.params))
    before, after = (
        np.array(
            [evaluate(t, x, np.arange(*t.splits[s]), s, with_grad=0)[0] for s in (TRAIN, TEST)]
        )
        for x in ends
    )
    return dict(trace.params), before, after


def test_adam_meta_trains_a_learning_rate() -> None:
    """Gradient descent that starts 30 times too slow: the rate rises, the loss falls, also on what was not seen."""
    t = build("sgd:learning_rate=0.01", sigma=0.1, **TRAINABLE)
    theta, before, after = meta_train(t, 0.15)
    assert (after < before - 0.8).all()
    assert theta["log_learning_rate"] > math.log(0.01) + 3.0


def test_adam_meta_trains_a_learned_optimizer() -> None:
    """Its random initial steps do harm; 30 meta-steps are enough to stop that."""
    t = build("mlp:hidden=4,step_mult=0.02", pairs=8, sigma=0.1, **TRAINABLE)
    _, before, after = meta_train(t, 0.03)
    assert (after < before - 1.5).all()


def test_the_compiled_kernel_can_be_kept_on_disk() -> None:
    t = build()
    evaluate(t, t.init(STREAM))
    assert vars(LearnedOptimizer)["entry"].stored


# Sampler


def test_sampler_follows_the_published_laws() -> None:
    """1000 draws before any is refused for its cost; frequencies within 5 sigma."""
    r = np.random.RandomState(0)
    tasks = [LearnedOptimizer(**LearnedOptimizer.draw_config(r)) for _ in range(1000)]
    inner = [t.inner_task for t in tasks]
    for hits, p in (
        (sum(t.inner_optimizer.name == "mlp" for t in tasks), 2 / 5),
        (sum(t.inner_optimizer.name == "adam" for t in tasks), 1 / 5),
        (sum(t.unroll < 10 for t in tasks), 1 / 2),  # log-uniform in 1 .. 100
        (sum(t.batch_size < 2 for t in tasks), 1 / 3),  # ... in 1 .. 8
        (sum(len(i.hidden) == 0 for i in inner), 1 / 5),
        (sum(i.activation == "relu" for i in inner), 3 / 12),
        (sum(i.initialiser == "orthogonal" for i in inner), 1 / 5),
        (sum(i.stands_for == "mnist" for i in inner), 1 / 5),
    ):
        assert abs(hits - 1000 * p) <= 5 * math.sqrt(1000 * p * (1 - p))
    assert {t.unroll for t in tasks} <= set(range(1, 100))
    assert {t.batch_size for t in tasks} == set(range(1, 8))
    assert all(len(set(i.hidden)) <= 1 and all(8 <= w < 128 for w in i.hidden) for i in inner)
    assert all(
        2 <= t.inner_optimizer.hidden < 512 for t in tasks if t.inner_optimizer.name == "mlp"
    )
    for t in tasks[:50]:  # the published clip: cross-entropies up to log 2C
        ceiling = (t.clip / 10) * math.log(t.classes) + math.log(t.classes / 5)
        assert ceiling == pytest.approx(math.log(2 * t.classes), rel=1e-12)


def test_sampled_tasks_are_affordable_and_functions_of_their_seed() -> None:
    tasks = [lopt.sample_task("learned_optimizer", seed) for seed in range(40)]
    assert all(t.operations <= COST_LIMIT for t in tasks)
    assert tasks == [LearnedOptimizer.sample(seed) for seed in range(40)]
    assert len({t.name for t in tasks}) == 40
    small = min(tasks, key=lambda t: t.operations)
    assert math.isfinite(evaluate(small, small.init(STREAM))[0])


def test_operations_count_the_matrix_products() -> None:
    """64 x 3 + 3 x 10 weights, 4 examples (no gradient of the images: two products, then three);
    an update network of 5 units per parameter; 4 steps, 2 problems, 1 + 2 pairs members."""
    n = 64 * 3 + 3 + 3 * 10 + 10
    per_step = 2 * (2 * 64 * 3 + 3 * 3 * 10) * 4 + 2 * n * 5 * (8 + 5 + 2)
    assert build("mlp:hidden=5", pairs=2).operations == pytest.approx(per_step * 4 * 2 * 5)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner": "quadratic"}, "inner = 'quadratic', valid: a task of the family mlp"),
        ({"inner": "mlp+delay=1"}, "valid: a task of the family mlp"),
        ({"inner": "mpl"}, "did you mean 'mlp'"),
        ({"inner": 3}, "inner = 3, valid: a string"),
        ({"optimizer": "adafac_mlp"}, "unknown inner optimizer 'adafac_mlp'"),
        ({"optimizer": "sgd+delay=1"}, "valid: no augmentation"),
        ({"unroll": 0}, "unroll = 0, valid: at least 1; nearest: 1"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"problems": 6}, "problems = 6, .*nearest: 7"),
        ({"instance": -1}, "instance = -1, .*nearest: 0"),
        ({"pairs": True}, "pairs = True, valid: an integer"),
        ({"sigma": 0.0}, "sigma = 0.0, valid: a finite number above 0"),
        ({"sigma": math.nan}, "sigma = nan"),
        ({"clip": -5.0}, "clip = -5.0, valid: a finite number above -3.01"),
        ({"clip": True}, "clip = True"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        lopt.task("learned_optimizer", **options)


def test_the_inner_optimizer_checks_its_own_options() -> None:
    with pytest.raises(OptimizerError, match="learning_rate must be positive"):
        build("sgd:learning_rate=-1.0")
