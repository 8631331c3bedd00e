"""Augmentations: what they do to parameters, losses and gradients, in closed form and in whole rollouts."""

import dataclasses
import json
import types

import numpy as np
import pytest
from helpers import finite_differences, lane_scheduler

import lopt
from lopt import config as cfg
from lopt import rng
from lopt.augment import Augmentation, augment, evaluate_augmented, memory_size, work_size
from lopt.comm import SerialComm
from lopt.errors import TaskError
from lopt.lanes import kernel
from lopt.rollout import Runner, Schedule
from lopt.task import TRAIN, TaskData
from lopt.tasks import parse_task
from lopt.train import Trainer

STREAM = rng.stream(5, 2, 7)
PLAIN = lopt.task("mlp", hidden=(4,), batch_size=6, activation="tanh")
QUADRATIC = lopt.task("quadratic", dims=2)
QUADRATIC_CORE = type(QUADRATIC).core
_AUGMENTED = evaluate_augmented.py_func
# evaluate_augmented in plain Python, while what it calls is compiled; apart() speaks to compilers only
PLAIN_PYTHON = types.FunctionType(
    _AUGMENTED.__code__, {**_AUGMENTED.__globals__, "apart": lambda: None}
)
EXACT = [  # without chance: comparable with the reference
    {"reparameterise": "global"},
    {"reparameterise": "tensor", "low": 0.1, "high": 10.0},
    {"reparameterise": "parameter", "seed": 3},
    {"loss_scale": 1e-3},
    {"loss_scale": 1e3, "reparameterise": "tensor"},
    {"normalise": True},
    {"batch_fraction": 0.5},
    {"reparameterise": "parameter", "normalise": True, "loss_scale": 7.0, "batch_fraction": 0.01},
]


def evaluate(t, params, step=0, with_grad=1, memory=None, poison=np.nan):
    """Loss and gradient of the augmented task, in the dtype of params."""
    floats, ints, sizes, hyper = t.arrays
    kind = params.dtype
    data = TaskData(floats.astype(kind), ints, sizes, hyper.astype(kind))
    a = t.augment_data
    a = a._replace(scale=a.scale.astype(kind))
    rows = rng.integers(t.batch_size, *t.splits[TRAIN], STREAM, rng.BATCH, step)
    grad = np.full_like(params, 7.0)
    memory = np.zeros(memory_size(a, params.size), kind) if memory is None else memory
    loss = PLAIN_PYTHON(
        t.core, params, grad, data, rows, STREAM, TRAIN, step,
        np.full(t.work_size(rows.size), poison, kind), with_grad, a, memory,
        np.full(work_size(a, params.size), poison, kind),
    )  # fmt: skip
    return loss, grad, rows


@kernel
def augmented_quadratic(*arguments):
    return evaluate_augmented(QUADRATIC_CORE, *arguments)


def ids(options: dict) -> str:
    return ",".join(f"{k}={v}" for k, v in options.items())


@pytest.mark.parametrize("options", EXACT, ids=ids)
def test_the_kernel_agrees_with_the_reference(options: dict) -> None:
    t = augment(PLAIN, **options)
    params = t.init(STREAM).astype(np.float64)
    loss, grad, rows = evaluate(t, params)
    ref_loss, ref_grad = t.reference(params, rows, STREAM, TRAIN, 0)
    np.testing.assert_allclose(loss, ref_loss, rtol=1e-12)
    np.testing.assert_allclose(grad, ref_grad, rtol=1e-10, atol=1e-13 * abs(ref_grad).max())


@pytest.mark.parametrize("level", ["global", "tensor", "parameter"])
def test_a_reparameterised_task_is_the_same_task_elsewhere(level: str) -> None:
    """Equal loss at w = params / sigma; the gradient there is the derivative; sigmas within their range."""
    t = augment(PLAIN, reparameterise=level, low=0.1, high=10.0)
    assert 0.1 <= t.scale.min() and t.scale.max() <= 10.0
    kinds = {"global": 1, "tensor": len(PLAIN.layout), "parameter": PLAIN.layout.size}
    assert abs(np.unique(t.scale).size - kinds[level]) <= (level == "parameter")
    w, params = t.init(STREAM).astype(np.float64), PLAIN.init(STREAM).astype(np.float64)
    np.testing.assert_allclose(w * t.scale, params, rtol=1e-6)
    loss, grad, rows = evaluate(t, w)
    np.testing.assert_allclose(
        loss, PLAIN.reference(w * t.scale, rows, STREAM, 0, 0)[0], rtol=1e-12
    )
    finite_differences.check(lambda x: evaluate(t, x, with_grad=0)[0], w, grad)


def test_sigmas_are_log_uniform() -> None:
    t = augment(lopt.task("mlp", hidden=(64, 64)), reparameterise="parameter", low=1e-3, high=1e3)
    u = np.sort(np.log(t.scale.astype(float)) / np.log(1e3) / 2 + 0.5)
    gap = np.abs(u - (np.arange(u.size) + 0.5) / u.size).max()
    assert gap < 1.63 / np.sqrt(u.size)  # Kolmogorov-Smirnov, 1 %


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_normalised_gradient_has_length_one_at_any_scale(size: float) -> None:
    t = augment(lopt.task("quadratic", dims=9), normalise=True)
    params = np.full(9, size, np.float32)
    grad = evaluate(t, params)[1]
    np.testing.assert_allclose(np.linalg.norm(grad.astype(float)), 1.0, rtol=1e-5)


def test_a_zero_gradient_stays_zero() -> None:
    t = augment(lopt.task("quadratic", dims=3), normalise=True)
    assert (evaluate(t, np.zeros(3, np.float32))[1] == 0).all()


def test_gradient_noise_has_its_deviation_and_leaves_the_loss_alone() -> None:
    t = augment(PLAIN, gradient_noise=0.5)
    params = PLAIN.init(STREAM).astype(np.float64)
    found = []
    for step in range(200):
        loss, grad, rows = evaluate(t, params, step)
        ref_loss, ref_grad = PLAIN.reference(params, rows, STREAM, TRAIN, step)
        assert loss == pytest.approx(ref_loss, rel=1e-12)
        found.append((grad - ref_grad) / 0.5)
    z = np.array(found)
    n = z.size
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs((z**2).mean() - 1) < 4 * np.sqrt(2 / n)
    assert np.unique(z).size > 0.99 * n  # a fresh draw for every step and coordinate


def test_sparse_gradients_lose_their_share_of_coordinates() -> None:
    t = augment(PLAIN, zero_probability=0.9)
    params = PLAIN.init(STREAM).astype(np.float64) + 0.1
    kept = 0
    for step in range(100):
        _, grad, rows = evaluate(t, params, step)
        exact = PLAIN.reference(params, rows, STREAM, TRAIN, step)[1]
        alive = grad != 0
        np.testing.assert_allclose(grad[alive], exact[alive], rtol=1e-10)
        kept += alive.sum()
    n = 100 * params.size
    zeros = (exact == 0).mean()  # pixels that are blank in all examples
    assert abs(kept / n - 0.1 * (1 - zeros)) < 0.01


@pytest.mark.parametrize("delay", [1, 3])
def test_delayed_gradients_come_from_older_parameters(delay: int) -> None:
    """Gradient descent on |x|^2 with stale gradients against its recursion; across truncations too."""
    t = augment(QUADRATIC, delay=delay)
    opt = lopt.optimizer("sgd", learning_rate=0.05)
    runner = Runner(t, opt, Schedule(outer_every=1))
    theta, particle = opt.init_theta(), runner.start(opt.init_theta(), STREAM)
    history = [particle.params.astype(np.float64)]
    for n in (2, 3, 7):
        runner.advance(theta, particle, n, STREAM)
    for step in range(12):
        old = history[max(step - delay, 0)]
        grad = QUADRATIC.reference(old, np.zeros(1, np.int64), STREAM, TRAIN, step)[1]
        history.append(history[-1] - 0.05 * grad)
    np.testing.assert_allclose(particle.params, history[-1], rtol=2e-5)
    undelayed = lopt.rollout(QUADRATIC, opt, steps=12)
    assert not np.allclose(undelayed.params["x"], history[-1], rtol=1e-3)


def test_doing_nothing_changes_no_bit() -> None:
    opt = lopt.optimizer("adam")
    plain, nothing = (lopt.rollout(t, opt, steps=20) for t in (PLAIN, augment(PLAIN)))
    np.testing.assert_array_equal(plain.train_loss, nothing.train_loss)
    np.testing.assert_array_equal(plain.outer_loss, nothing.outer_loss)


def test_adam_does_not_feel_the_loss_scale_but_sgd_does() -> None:
    scaled = augment(PLAIN, loss_scale=1024.0)
    adam = lopt.optimizer("adam", epsilon=1e-30)
    a, b = (lopt.rollout(t, adam, steps=10).train_loss for t in (PLAIN, scaled))
    np.testing.assert_allclose(1024.0 * a, b, rtol=1e-6)
    sgd = lopt.optimizer("sgd", learning_rate=1e-3)
    a, b = (lopt.rollout(t, sgd, steps=10).train_loss for t in (PLAIN, scaled))
    assert not np.allclose(1024.0 * a, b, rtol=1e-2)


def test_a_fraction_of_the_batch_is_its_first_examples() -> None:
    t = augment(PLAIN, batch_fraction=0.5)
    assert t.batch_size == 3
    assert augment(PLAIN, batch_fraction=1e-9).batch_size == 1
    whole = rng.integers(6, *PLAIN.splits[TRAIN], STREAM, rng.BATCH, 0)
    np.testing.assert_array_equal(evaluate(t, PLAIN.init(STREAM))[2], whole[:3])


@pytest.mark.parametrize(
    "options", [*EXACT, {"gradient_noise": 1.0}, {"zero_probability": 0.5}], ids=ids
)
def test_the_number_of_lanes_does_not_matter(options: dict) -> None:
    t = augment(QUADRATIC, **{**options, "delay": 1})
    rows = np.zeros(1, np.int64)

    def arguments() -> tuple:
        params, a = t.init(STREAM), t.augment_data
        return (
            params, np.zeros_like(params), t.arrays, rows, STREAM, TRAIN, 0,
            np.zeros(t.work_size(1), np.float32), 1, a,
            np.zeros(memory_size(a, params.size), np.float32),
            np.full(work_size(a, params.size), np.nan, np.float32),
        )  # fmt: skip

    lane_scheduler.check(augmented_quadratic, arguments, scratch=(7, 11))


def test_names_and_configurations_rebuild_the_task() -> None:
    t = parse_task("mlp:hidden=[8],batch_size=5+reparameterise=tensor,delay=2")
    assert (t.task.hidden, t.augmentation.delay) == ((8,), 2)
    assert lopt.task(**json.loads(json.dumps(t.config()))) == t
    assert t.name.endswith("+reparameterise=tensor,delay=2")
    assert parse_task(t.name) == t


def test_meta_training_on_augmented_tasks_resumes_to_the_bit() -> None:
    """The delayed parameters are part of a particle, and of a checkpoint."""
    text = """
    [[tasks]]
    family = "quadratic"
    options = { dims = 3 }
    augment = { reparameterise = "parameter", delay = 3, gradient_noise = 0.1 }
    [optimizer]
    name = "sgd"
    options = { learning_rate = 1e-3 }
    [es]
    pairs = 4
    truncation = 5
    horizon = 20
    [inner]
    outer_every = 5
    [train]
    outer_steps = 6
    """
    whole = Trainer(cfg.loads(text), SerialComm())
    for _ in range(6):
        whole.step()
    first, second = (Trainer(cfg.loads(text), SerialComm()) for _ in range(2))
    for _ in range(2):
        first.step()
    second.restore(first.checkpoint())
    for _ in range(4):
        second.step()
    assert second.theta.tobytes() == whole.theta.tobytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reparameterise": "tensors"}, "did you mean 'tensor'"),
        ({"reparam": "tensor"}, "did you mean 'reparameterise'"),
        ({"low": 2.0, "high": 1.0}, "low = 2.0"),
        ({"batch_fraction": 0.0}, "batch_fraction = 0.0"),
        ({"zero_probability": 1.0}, "zero_probability = 1.0"),
        ({"delay": -1}, "delay = -1"),
        ({"gradient_noise": float("nan")}, "gradient_noise = nan"),
        ({"loss_scale": float("inf")}, "loss_scale = inf"),
    ],
)
def test_bad_options_are_named(options: dict, words: str) -> None:
    with pytest.raises(TaskError, match=words.replace("(", r"\(")):
        augment(PLAIN, **options)


def test_every_option_is_tested_here() -> None:
    """A new field must come with a test above."""
    assert {f.name for f in dataclasses.fields(Augmentation)} == {
        "reparameterise", "low", "high", "seed", "batch_fraction", "loss_scale", "normalise",
        "gradient_noise", "zero_probability", "delay",
    }  # fmt: skip
