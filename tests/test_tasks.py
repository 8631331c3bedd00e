"""Every registered task family: gradients, references, batches, addresses, configurations."""

import itertools
import json

import numpy as np
import pytest
from helpers import finite_differences
from helpers.finite_differences import GradientError

from lopt import rng
from lopt.errors import TaskError
from lopt.task import SPLITS, TASKS, TRAIN, Task, TaskData, task
from lopt.tasks import parse_task, sample_task
from lopt.tasks.mlp import Mlp

EXAMPLES = [t for _, cls in sorted(TASKS.items()) for t in cls.examples()]
CONVEX = [t for t in EXAMPLES if getattr(t, "convex", False)]
SCALES = (1e-6, 1.0, 1e3)  # of the initial parameters
FIXED_SCALE = {"function2d"}  # functions that live where they start: exponents overflow elsewhere
OVERFLOWING = {
    "conv_vae",
    "maf",
    "mlp_vae",
    "nvp",
}  # e^s of a net's output, infinite at the largest scale
SHARED_ROWS = {"losg"}  # families whose rows are the objective: all splits see all of them
STREAM = rng.stream(3, 1, 5)
STEP = 2


def every_example(function):
    return pytest.mark.parametrize("t", EXAMPLES, ids=lambda t: t.name)(function)


def scales_of(t: Task) -> tuple[float, ...]:
    if t.family in OVERFLOWING:
        return SCALES[:2]
    return (1.0,) if t.family in FIXED_SCALE else SCALES


def rows_of(t: Task, split: int = TRAIN, batch: int | None = None) -> np.ndarray:
    """A batch as a rollout draws it."""
    lo, hi = t.splits[split]
    return rng.integers(batch or t.batch_size, lo, hi, STREAM, rng.BATCH + split, STEP)


def start_of(t: Task, scale: float = 1.0) -> np.ndarray:
    """Float32 parameters without zeros: initial ones, plus a tenth of a normal."""
    noise = rng.normals(t.layout.size, STREAM, rng.TASK)
    return (scale * (t.init(STREAM) + np.float32(0.1) * noise)).astype(np.float32)


def evaluate(t, params, rows, split=TRAIN, with_grad=1, kernel=None, poison=np.nan, step=STEP):
    """Loss and gradient in the dtype of params; gradient and scratch start poisoned."""
    grad = np.full_like(params, 7.0)
    work = np.full(t.work_size(rows.size), poison, params.dtype)
    kernel = kernel or type(t).core
    floats, ints, sizes, hyper = t.arrays
    data = TaskData(
        floats.astype(params.dtype, copy=False), ints, sizes, hyper.astype(params.dtype, copy=False)
    )
    loss = kernel(params, grad, data, rows, STREAM, split, step, work, with_grad)
    return float(loss), grad


def assert_close_to_reference(t: Task, params, rows, split, eps: float) -> None:
    """The kernel is as near to the reference as rounding allows.

    The bound: 400 times what rounding errors of size eps in the parameters change in the reference,
    plus 400 eps times the result: sums are long.  A saturated unit does not feel its parameters,
    but its derivative is only known to eps, and the weights behind it multiply that.
    """
    loss, grad = evaluate(t, params, rows, split)
    exact = params.astype(np.float64)
    ref_loss, ref_grad = t.reference(exact, rows, STREAM, split, STEP)
    r = np.random.default_rng(0)
    loss_bound = eps * abs(ref_loss)
    grad_bound = eps * np.linalg.norm(ref_grad) * max(1.0, np.abs(exact).max())
    for _ in range(4):
        shaken = exact * (1.0 + eps * r.choice([-1.0, 1.0], exact.size))
        near_loss, near_grad = t.reference(shaken, rows, STREAM, split, STEP)
        loss_bound = max(loss_bound, abs(near_loss - ref_loss))
        grad_bound = max(grad_bound, np.linalg.norm(near_grad - ref_grad))
    assert abs(loss - ref_loss) <= 400.0 * loss_bound
    assert np.linalg.norm(grad - ref_grad) <= 400.0 * grad_bound


@every_example
def test_gradient_is_the_derivative_of_the_loss(t: Task) -> None:
    """... and of a task that adds noise to it, the mean over many steps within 4 standard errors."""
    rows, params = rows_of(t), start_of(t).astype(np.float64)
    if t.noisy_gradient:
        assert_right_on_average(t, params, rows)
    else:
        _, grad = evaluate(t, params, rows)
        finite_differences.check(lambda x: evaluate(t, x, rows, with_grad=0)[0], params, grad)


def assert_right_on_average(t: Task, params, rows, steps: int = 1000, directions: int = 5) -> None:
    """Equal losses at all steps, and gradients whose mean is gradient_gain times the derivative."""
    found = [evaluate(t, params, rows, step=s) for s in range(steps)]
    assert {loss for loss, _ in found} == {evaluate(t, params, rows, with_grad=0)[0]}
    r, h = np.random.default_rng(0), 1e-6
    for _ in range(directions):
        v = r.standard_normal(params.size)
        v /= np.linalg.norm(v)
        ends = [evaluate(t, params + s * h * v, rows, with_grad=0)[0] for s in (1.0, -1.0)]
        slopes = np.array([grad @ v for _, grad in found])
        error = slopes.std() / np.sqrt(steps)
        assert error > 0.0
        assert abs(slopes.mean() - t.gradient_gain * (ends[0] - ends[1]) / (2.0 * h)) < 4.0 * error


@every_example
@pytest.mark.parametrize(("dtype", "eps"), [(np.float64, 2.0**-53), (np.float32, 2.0**-24)])
def test_kernel_agrees_with_the_reference(t: Task, dtype, eps) -> None:
    for scale in scales_of(t):
        for split in range(len(SPLITS)):
            params = start_of(t, scale).astype(dtype)
            assert_close_to_reference(t, params, rows_of(t, split), split, eps)


@every_example
def test_scratch_contents_do_not_matter(t: Task) -> None:
    rows, params = rows_of(t), start_of(t)
    loss, grad = evaluate(t, params, rows, poison=np.nan)
    again, same = evaluate(t, params, rows, poison=0.0)
    assert np.isfinite(loss) and np.isfinite(grad).all()
    assert again == loss
    np.testing.assert_array_equal(same, grad)


@every_example
def test_without_gradient_the_loss_is_the_same_and_grad_untouched(t: Task) -> None:
    rows, params = rows_of(t), start_of(t)
    before = params.copy()
    loss, grad = evaluate(t, params, rows, with_grad=0)
    assert loss == evaluate(t, params, rows)[0]
    np.testing.assert_array_equal(grad, np.full_like(params, 7.0))
    np.testing.assert_array_equal(params, before)


@every_example
def test_entry_is_the_core_kernel(t: Task) -> None:
    rows, params = rows_of(t), start_of(t)
    loss, grad = evaluate(t, params, rows)
    entry_loss, entry_grad = evaluate(t, params, rows, kernel=t.entry)
    assert entry_loss == loss
    np.testing.assert_array_equal(entry_grad, grad)


@every_example
def test_batch_sizes_are_run_time_integers(t: Task) -> None:
    """Any number of rows, not just the task's own; the scratch of that many rows is enough."""
    for batch in (1, 2, 31, 32, 33):
        params = start_of(t)
        assert_close_to_reference(t, params, rows_of(t, batch=batch), TRAIN, 2.0**-24)


@every_example
def test_splits_are_disjoint_and_not_empty(t: Task) -> None:
    assert len(t.splits) == len(SPLITS)
    assert all(lo < hi for lo, hi in t.splits)
    if t.family in SHARED_ROWS:
        assert t.splits == ((0, max(1, t.arrays.ints.size)),) * 4
    elif t.splits != ((0, 1),) * 4:
        ends = sorted(t.splits)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))
        assert ends[0][0] >= 0
        assert ends[-1][1] <= t.arrays.ints.size


@every_example
def test_init_is_a_function_of_the_stream(t: Task) -> None:
    params = t.init(STREAM)
    assert params.shape == (t.layout.size,)
    assert params.dtype == np.float32
    assert np.isfinite(params).all()
    np.testing.assert_array_equal(t.init(STREAM.copy()), params)


@pytest.mark.parametrize("family", sorted(TASKS))
def test_init_differs_between_streams(family: str) -> None:
    for word in range(3):
        other = STREAM.copy()
        other[word] += 1
        assert any((t.init(other) != t.init(STREAM)).any() for t in TASKS[family].examples()), (
            f"word {word}"
        )


@every_example
def test_config_rebuilds_the_task(t: Task) -> None:
    again = task(**json.loads(json.dumps(t.config())))
    assert again == t
    assert hash(again) == hash(t)
    assert again.layout == t.layout
    for a, b in zip(again.arrays, t.arrays, strict=True):
        np.testing.assert_array_equal(a, b)


@every_example
def test_name_rebuilds_the_task(t: Task) -> None:
    assert parse_task(t.name) == t


@every_example
def test_loss_is_never_below_the_declared_lowest(t: Task) -> None:
    for k in range(5):
        params = t.init(rng.stream(k)).astype(np.float64)
        loss, _ = evaluate(t, params, rows_of(t))
        assert loss >= t.lowest_loss - 1e-12 * abs(t.lowest_loss)


@pytest.mark.parametrize("t", CONVEX, ids=lambda t: t.name)
def test_declared_convexity(t: Task) -> None:
    """The loss at a midpoint lies below the chord."""
    rows = rows_of(t)
    r = np.random.default_rng(0)
    for _ in range(10):
        a, b = r.standard_normal((2, t.layout.size))
        ends = (evaluate(t, a, rows)[0] + evaluate(t, b, rows)[0]) / 2.0
        assert evaluate(t, (a + b) / 2.0, rows)[0] < ends


# What the gradient check is worth


def smooth(x: np.ndarray) -> float:
    return float(np.sin(x).sum())


def test_convexity_check_refuses_a_double_well() -> None:
    with pytest.raises(AssertionError):
        test_declared_convexity(task("function2d", function="styblinski_tang"))


def test_gradient_check_accepts_a_right_gradient() -> None:
    x = np.linspace(-1.0, 2.0, 7)
    finite_differences.check(smooth, x, np.cos(x))


def test_gradient_check_accepts_a_quadratic() -> None:
    x = np.linspace(-1.0, 2.0, 7)
    finite_differences.check(lambda x: float(x @ x), x, 2.0 * x)


@pytest.mark.parametrize("wrong", [1.0 + 1e-6, 0.5, -1.0])
def test_gradient_check_refuses_a_wrong_gradient(wrong: float) -> None:
    x = np.linspace(-1.0, 2.0, 7)
    with pytest.raises(GradientError, match="at best"):
        finite_differences.check(smooth, x, wrong * np.cos(x))


def test_gradient_check_refuses_a_kink() -> None:
    x = np.linspace(-1.0, 2.0, 7)
    x[3] = 0.0

    def f(x):
        return float(np.sin(x).sum() + 0.01 * np.maximum(x, 0.0).sum())

    with pytest.raises(GradientError):
        finite_differences.check(f, x, np.cos(x) + 0.01 * (x > 0.0))


# mlp and logistic, in closed form


def test_standard_small_task() -> None:
    t = task("mlp", data="digits", hidden=(32,), batch_size=64)
    assert t.layout.size == 2410
    assert list(t.layout) == [("w0", (64, 32)), ("b0", (32,)), ("w1", (32, 10)), ("b1", (10,))]


def test_data_is_shared_between_tasks() -> None:
    a, b = task("mlp"), task("mlp", hidden=(5, 5), batch_size=3)
    assert np.shares_memory(a.arrays.floats, b.arrays.floats)


def test_mlp_at_zero_is_known_in_closed_form() -> None:
    """Loss log 10; only the last bias has a gradient, 1/10 - the frequency of each class."""
    t = task("mlp", hidden=(6, 4), activation="relu")
    rows = rows_of(t)
    loss, grad = evaluate(t, np.zeros(t.layout.size, np.float32), rows)
    assert loss == pytest.approx(np.log(10.0), rel=1e-6)
    parts = t.layout.views(grad)
    counts = np.bincount(t.arrays.ints[rows], minlength=10)
    np.testing.assert_allclose(parts.pop("b2"), 0.1 - counts / rows.size, atol=1e-7)
    assert all((g == 0.0).all() for g in parts.values())


def test_mlp_without_hidden_layers_is_logistic_regression() -> None:
    a, b = task("mlp", hidden=(), batch_size=17), task("logistic", l2=0.0, batch_size=17)
    rows, params = rows_of(a), start_of(a)
    loss, grad = evaluate(a, params, rows)
    other_loss, other_grad = evaluate(b, params, rows)
    assert loss == other_loss
    np.testing.assert_array_equal(grad, other_grad)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu1", "linear"])
def test_homogeneous_mlp_scales(activation: str) -> None:
    """Hidden weights times 4, last weights by 1/4, hidden bias times 4: the same function."""
    t = task("mlp", hidden=(9,), activation=activation, batch_size=8)
    rows, params = rows_of(t), start_of(t)
    loss, grad = evaluate(t, params, rows)
    factors = {"w0": 4.0, "b0": 4.0, "w1": 0.25, "b1": 1.0}
    scaled = params.copy()
    for name, view in t.layout.views(scaled).items():
        view *= np.float32(factors[name])
    other_loss, other_grad = evaluate(t, scaled, rows)
    assert other_loss == loss
    for name, view in t.layout.views(other_grad).items():
        expected = t.layout.views(grad)[name] / np.float32(factors[name])
        np.testing.assert_array_equal(view, expected)


def test_batch_loss_is_the_mean_over_its_rows() -> None:
    for t in (task("mlp", batch_size=13), task("logistic", batch_size=13)):
        rows, params = rows_of(t), start_of(t).astype(np.float64)
        loss, grad = evaluate(t, params, rows)
        alone = [evaluate(t, params, rows[i : i + 1]) for i in range(rows.size)]
        assert loss == pytest.approx(np.mean([a[0] for a in alone]), rel=1e-13)
        np.testing.assert_allclose(grad, np.mean([a[1] for a in alone], axis=0), atol=1e-14)


def test_gradient_descent_solves_the_teacher() -> None:
    """Descent on all rows goes down all the way, and what it learns holds on other rows."""
    t = task("logistic", data="teacher", features=8, classes=3, instance=1, l2=0.0)
    rows = np.arange(*t.splits[TRAIN])
    params = np.zeros(t.layout.size, np.float32)
    losses = []
    for _ in range(300):
        loss, grad = evaluate(t, params, rows)
        losses.append(loss)
        params -= np.float32(1.0) * grad
    assert losses[0] == pytest.approx(np.log(3.0), rel=1e-5)
    assert all(b <= a + 1e-6 for a, b in itertools.pairwise(losses))
    held_out, _ = evaluate(t, params, np.arange(*t.splits[1]))
    assert held_out < 0.5 * np.log(3.0)


@pytest.mark.parametrize("data", ["blobs", "teacher"])
def test_generated_data_depend_on_the_instance_only(data: str) -> None:
    a, b, c = (task("logistic", data=data, instance=i, l2=x) for i, x in ((1, 0), (1, 1), (2, 0)))
    assert a.arrays.floats is b.arrays.floats
    assert (a.arrays.floats != c.arrays.floats).any()
    assert (np.bincount(a.arrays.ints, minlength=4) > 100).all()


# TaskSet's sampler: configurations stored upstream


def test_published_mlp_configurations() -> None:
    assert Mlp.sample_config(994) == {
        "hidden": (27, 24), "activation": "swish", "initialiser": "glorot_normal",
        "init_scale": 1.0, "dataset": "mnist", "augmentation": None, "batch_size": 17,
        "n_train": 38055, "just_train": False, "center": False,
    }  # fmt: skip
    assert Mlp.sample_config(995) == {
        "hidden": (38, 18, 16, 45, 108), "activation": "swish", "initialiser": "random_normal",
        "init_scale": 0.10033264897042804, "dataset": "sun397_32x32",
        "augmentation": {
            "crop": 1, "flip_lr": False, "flip_ud": True, "colour": True,
            "brightness": 0.0033015290112349445, "saturation": 0.04818851402205642,
            "hue": 0.06120173496659147, "contrast": 0.026382338960098003,
        },
        "batch_size": 110, "n_train": None, "just_train": False, "center": False,
    }  # fmt: skip


def test_sampled_tasks_keep_all_but_the_images() -> None:
    t = sample_task("mlp", 995)
    assert t == task(
        "mlp", data="textures32_397", stands_for="sun397_32x32", hidden=(38, 18, 16, 45, 108),
        activation="swish", initialiser="random_normal", init_scale=0.10033264897042804,
        batch_size=110, augmentation=(
            1, False, True, True, 0.0033015290112349445, 0.04818851402205642, 0.06120173496659147,
            0.026382338960098003,
        ),
    )  # fmt: skip
    assert t.layout.shapes[0] == (31 * 31 * 3, 38)  # one pixel cropped
    assert t.layout.shapes[-1] == (397,)
    assert sample_task("mlp", 994).n_train == 38055


def test_sampled_tasks_follow_the_published_weights() -> None:
    """1000 seeds: relu 6/16, tanh 3/16, centred 1/2, five layers or more 1/3, within 5 sigma."""
    drawn = [Mlp.sample_config(seed) for seed in range(1000)]
    for hits, p in (
        (sum(c["activation"] == "relu" for c in drawn), 6 / 16),
        (sum(c["activation"] == "tanh" for c in drawn), 3 / 16),
        (sum(c["initialiser"] == "he_normal" for c in drawn), 2 / 13),
        (sum(c["augmentation"] is not None for c in drawn), 0.3),
        (sum(c["center"] for c in drawn), 1 / 2),
        (sum(len(c["hidden"]) >= 5 for c in drawn), 1 / 3),
    ):
        assert abs(hits - 1000 * p) <= 5.0 * np.sqrt(1000 * p * (1 - p))
    assert all(16 <= w <= 128 for c in drawn for w in c["hidden"])
    assert all(Mlp.sample(seed).layout.size > 0 for seed in range(50))


# Options


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("mlp", {"hidden": 32}, r"hidden = 32, .*nearest: \[32\]"),
        ("mlp", {"hidden": (8, 0)}, r"hidden\[1\] = 0, .*nearest: 1"),
        ("mlp", {"hidden": (True,)}, r"hidden\[0\] = True, valid: an integer"),
        ("mlp", {"activation": "rely"}, "unknown activation 'rely'; did you mean 'relu'"),
        ("mlp", {"initialiser": "he_norm"}, "unknown initialiser .*did you mean 'he_normal'"),
        ("mlp", {"init_scale": 0.0}, "init_scale = 0.0, valid: a finite number above 0"),
        ("mlp", {"batch_size": 5000}, "batch_size = 5000, .*nearest: 1797"),
        ("mlp", {"data": "digit"}, "unknown data set 'digit'; did you mean 'digits'"),
        ("mlp", {"center": "yes"}, "center = 'yes', valid: true or false"),
        ("mlp", {"widths": (3,)}, "unknown option of task family 'mlp': 'widths'"),
        ("logistic", {"l2": -1.0}, "l2 = -1.0, .*nearest: 0"),
        ("logistic", {"init_std": float("nan")}, "init_std = nan"),
        ("logistic", {"data": "teach"}, "did you mean 'teacher'"),
        ("logistic", {"data": "teacher", "classes": 1}, "classes = 1, .*nearest: 2"),
        ("logistic", {"instance": 2**32}, "instance = 4294967296, .*nearest: 4294967295"),
    ],
)
def test_bad_options_are_named(family: str, options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(family, **options)
