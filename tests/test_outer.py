"""The outer optimizer: schedule values at outer-step numbers, clip, averaging, state, refusals."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from lopt.config import OuterConfig
from lopt.errors import ConfigError, LoptError, OptimizerError
from lopt.es import OuterOptimizer
from lopt.layout import Layout
from lopt.optimizer import OPTIMIZERS, optimizer

LAYOUT = Layout((("w", (2, 2)), ("b", (1,))))
HAND_MADE = sorted(
    name for name, cls in OPTIMIZERS.items() if hasattr(cls, "learning_rate") and not cls.uses_loss
)


def outer(outer_steps: int = 100, learned=None, **changes: object) -> OuterOptimizer:
    """An outer optimizer with the names of `lopt.config.OuterConfig`; plain SGD by default."""
    defaults = {
        "optimizer": "sgd", "options": {"learning_rate": 0.5}, "clip": 1e6, "warmup": 0,
        "schedule": "constant", "final_fraction": 0.1, "ema": 0.0,
    }  # fmt: skip
    cfg = SimpleNamespace(**{**defaults, **changes})
    return OuterOptimizer(cfg, LAYOUT, outer_steps, learned)


def theta0() -> np.ndarray:
    return np.array([1.0, -2.0, 3.0, 0.5, -0.25], np.float32)


def test_warm_up_is_linear_and_never_zero():
    made = outer(warmup=4)
    rates = [made.learning_rate(t) for t in range(7)]
    np.testing.assert_allclose(rates, [0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5])


def test_cosine_goes_from_the_full_rate_to_the_final_fraction():
    """Full rate at the first step after the warm-up, the fraction at the last step of the run."""
    made = outer(outer_steps=105, warmup=4, schedule="cosine", final_fraction=0.2)
    assert made.learning_rate(3) == made.learning_rate(4) == 0.5
    assert made.learning_rate(54) == pytest.approx(0.5 * 0.6)  # half way
    assert made.learning_rate(29) == pytest.approx(0.5 * (0.2 + 0.4 * (1 + math.sqrt(0.5))))
    assert made.learning_rate(104) == pytest.approx(0.1)
    assert made.learning_rate(1000) == pytest.approx(0.1)
    falling = np.diff([made.learning_rate(t) for t in range(4, 105)])
    assert (falling < 0).all()


def test_each_step_uses_the_rate_of_its_own_number():
    """SGD with gradient 1 moves by exactly the learning rate."""
    made = outer(outer_steps=6, warmup=2, schedule="cosine")
    theta, state = theta0(), made.init(theta0())
    for t in range(6):
        new, state = made.step(theta, np.ones(5, np.float32), state)
        np.testing.assert_allclose(theta - new, made.learning_rate(t), rtol=2e-6)
        theta = new
    assert state.count == 6


def test_cosine_to_zero_ends_where_it_stands():
    made = outer(outer_steps=3, schedule="cosine", final_fraction=0.0, ema=0.5)
    theta, state = theta0(), made.init(theta0())
    for _ in range(2):
        theta, state = made.step(theta, np.ones(5, np.float32), state)
    last, state = made.step(theta, np.ones(5, np.float32), state)
    np.testing.assert_array_equal(last, theta)
    assert last is not theta and state.count == 3


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_clip_is_per_coordinate(scale):
    made = outer(clip=0.1 * scale, options={"learning_rate": 1.0})
    grad = np.array([5.0, -5.0, 0.05, -0.02, 0.1], np.float32) * np.float32(scale)
    zero = np.zeros(5, np.float32)
    new, _ = made.step(zero, grad, made.init(zero))
    np.testing.assert_allclose(-new / scale, [0.1, -0.1, 0.05, -0.02, 0.1], rtol=1e-5)


def test_inputs_are_left_untouched():
    made = outer(optimizer="adam", options={}, clip=0.1, ema=0.9)
    theta, grad = theta0(), np.full(5, 3.0, np.float32)
    state = made.init(theta)
    flat, average = state.flat.copy(), state.average.copy()
    new, after = made.step(theta, grad, state)
    np.testing.assert_array_equal(theta, theta0())
    np.testing.assert_array_equal(grad, 3.0)
    np.testing.assert_array_equal(state.flat, flat)
    np.testing.assert_array_equal(state.average, average)
    assert (new != theta).all() and (after.flat != flat).any()


@dataclasses.dataclass(frozen=True)
class Listener:
    """Stands in for a learned optimizer: theta - rate (gradient + meta), and notes the losses it is shown."""

    rate: float = 0.5
    heard: list = dataclasses.field(default_factory=list)
    uses_valid_loss = True

    def work_size(self, layout: Layout) -> int:
        return 0

    def init_state(self, meta: np.ndarray, layout: Layout) -> np.ndarray:
        return meta.copy()

    def opt_data(self, layout: Layout) -> float:
        return self.rate

    def entry(self, meta, params, grad, state, loss, is_valid, rate, work) -> int:
        self.heard.append((loss, is_valid))
        if not is_valid:
            params -= np.float32(rate) * (grad + meta[0])
        return 0


def test_a_learned_one_hears_the_meta_loss_twice_and_follows_the_schedule():
    listener = Listener()
    made = outer(learned=(listener, np.array([2.0], np.float32)), warmup=4)
    assert made.learning_rate(1) == 0.25
    new, _ = made.step(theta0(), np.ones(5, np.float32), made.init(theta0()), 0.7)
    np.testing.assert_allclose(theta0() - new, 0.125 * (1.0 + 2.0), rtol=1e-6)
    assert listener.heard == [(0.7, 1), (0.7, 0)]


def test_a_learned_one_uses_its_own_meta_parameters():
    """Those of Adam hold its rate: the first step is that, whatever its options say."""
    rated, plain = (optimizer("adam", learning_rate=r) for r in (0.25, 1e-3))
    made = outer(learned=(plain, rated.init_theta()))
    new, _ = made.step(theta0(), np.full(5, 3.0, np.float32), made.init(theta0()))
    np.testing.assert_allclose(theta0() - new, 0.25, rtol=1e-5)


def test_momentum_keeps_its_state_while_the_rate_changes():
    """m <- b m + g; theta <- theta - rate(t) m: the schedule does not enter m."""
    made = outer(
        outer_steps=8, optimizer="momentum", options={"learning_rate": 0.1, "momentum": 0.9},
        schedule="cosine", warmup=3,
    )  # fmt: skip
    theta, state = theta0(), made.init(theta0())
    expected, m = theta.astype(float), np.zeros(5)
    for t in range(8):
        grad = np.sin(np.arange(5) + t).astype(np.float32)
        theta, state = made.step(theta, grad, state)
        m = 0.9 * m + grad
        expected -= made.learning_rate(t) * m
    np.testing.assert_allclose(theta, expected, rtol=1e-5)


def test_average_is_the_bias_corrected_exponential_mean():
    made = outer(ema=0.8)
    theta, state = theta0(), made.init(theta0())
    np.testing.assert_array_equal(made.average(state), theta)
    seen = []
    for t in range(5):
        theta, state = made.step(theta, np.full(5, 0.3 * t, np.float32), state)
        seen.append(theta.astype(float))
        weights = 0.8 ** np.arange(t, -1, -1)
        mean = (weights[:, None] * seen).sum(axis=0) / weights.sum()
        np.testing.assert_allclose(made.average(state), mean, rtol=1e-6)
    assert made.average(state).dtype == np.float32


def test_without_averaging_the_average_is_theta():
    made = outer(ema=0.0)
    theta, state = made.step(theta0(), np.ones(5, np.float32), made.init(theta0()))
    np.testing.assert_array_equal(made.average(state), theta)


@pytest.mark.parametrize("name", HAND_MADE)
def test_resumed_state_continues_with_the_same_bits(name):
    """Every hand-made optimizer, and each of them goes downhill."""
    made = outer(optimizer=name, options={"learning_rate": 0.02}, warmup=5, ema=0.9)
    theta, state = theta0(), made.init(theta0())
    for _ in range(20):
        theta, state = made.step(theta, theta, state)
    again, arrays = outer(
        optimizer=name, options={"learning_rate": 0.02}, warmup=5, ema=0.9
    ), made.state_arrays(state)  # fmt: skip
    copy, loaded = theta.copy(), again.load_arrays(arrays)
    for _ in range(10):
        theta, state = made.step(theta, theta, state)
        copy, loaded = again.step(copy, copy, loaded)
    np.testing.assert_array_equal(theta, copy)
    np.testing.assert_array_equal(made.average(state), again.average(loaded))
    assert np.abs(theta).sum() < np.abs(theta0()).sum()


def test_all_hand_made_optimizers_are_covered():
    assert {"sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw", "lion"} <= set(
        HAND_MADE
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_nonfinite_gradient_is_an_error(bad):
    made, grad = outer(), np.ones(5, np.float32)
    grad[4] = bad
    with pytest.raises(LoptError, match=rf"1 non-finite values of 5, the first \({bad}\) in 'b'"):
        made.step(theta0(), grad, made.init(theta0()))


def test_a_step_that_overflows_is_an_error():
    made = outer(options={"learning_rate": 1e30}, clip=1e30)
    with pytest.raises(LoptError, match="failed in outer step 0"):
        made.step(theta0(), np.full(5, 1e20, np.float32), made.init(theta0()))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"optimizer": "adm"}, OptimizerError, "did you mean 'adam'"),
        ({"options": {"learning_rte": 1.0}}, OptimizerError, "did you mean 'learning_rate'"),
        ({"optimizer": "hierarchical", "options": {}}, OptimizerError, "'adam' can be used"),
        ({"schedule": "cosin"}, ConfigError, "did you mean 'cosine'"),
        ({"clip": 0.0}, ConfigError, r"outer.clip = 0.0"),
        ({"warmup": -1}, ConfigError, "outer.warmup = -1"),
        ({"final_fraction": 1.5}, ConfigError, "outer.final_fraction = 1.5"),
        ({"ema": 1.0}, ConfigError, "outer.ema = 1.0"),
        ({"outer_steps": 0}, ConfigError, "outer_steps = 0"),
    ],
)
def test_bad_settings_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        outer(**change)


def test_the_configuration_of_a_run_fits():
    made = OuterOptimizer(OuterConfig(), LAYOUT, 10)
    assert made.learning_rate(0) == OPTIMIZERS["adam"].learning_rate
    theta, _ = made.step(theta0(), np.ones(5, np.float32), made.init(theta0()))
    np.testing.assert_allclose(theta0() - theta, made.learning_rate(0), rtol=1e-3)


def test_one_of_optimizer_and_weights():
    with pytest.raises(ConfigError, match=r"'sgd': must be left out where outer\.weights is given"):
        OuterConfig(optimizer="sgd", weights="theta.h5")
    assert OuterConfig(weights="theta.h5").optimizer == "adam"
