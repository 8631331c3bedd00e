"""Generalised PES between its two ends, PES and noise-reuse ES: bits, means and variances.

Statistics are over fixed addresses: a test that passes once always does.  With fresh addresses a
mean may be off by 5 of its standard errors and a variance by 5 of its own: each test of a few
coordinates would raise a false alarm about once in 200,000 runs.  Negative controls are off by 10.
"""

import functools

import numpy as np
import pytest
from helpers.episodes import episodes_of, spread, window_gradients
from helpers.es_problems import Balance, Drift, Memory, Plain, run_drift, settings
from helpers.strategy_statistics import SIGMAS, WRONG, off, off_variance

from lopt import config
from lopt.comm import SerialComm
from lopt.errors import ConfigError
from lopt.es import make_estimator

TRUE_BALANCE = 3571.63  # as in test_es.py


def of(truncation, resample, pairs=4, **more):
    kind = {"estimator": "gpes", "truncation": truncation, "resample": resample, "pairs": pairs}
    return settings(**{**kind, **more})


def steps_of(cfg, n=14):
    """Gradients of some outer steps of Drift with theta moving, (n, D)."""
    estimator = make_estimator(cfg, Drift(5, cfg.truncation, longest=12), SerialComm(), 3)
    theta, grads = np.linspace(-1, 1, 5, dtype=np.float32), []
    state = estimator.init(theta)
    for t in range(n):
        estimate, state = estimator.step(theta, t, state)
        theta = theta - np.float32(1e-3) * estimate.grad
        grads.append(estimate.grad)
    return np.array(grads)


@pytest.mark.parametrize(
    ("resample", "same"), [(2, {"estimator": "pes"}), (0, {"estimator": "nres"})]
)
def test_its_ends_are_pes_and_noise_reuse_to_the_bit(resample, same):
    found = steps_of(of(2, resample))
    np.testing.assert_array_equal(found, steps_of(of(2, 0, **same)))
    np.testing.assert_array_equal(steps_of(of(2, 40)), steps_of(of(2, 0)))  # longer than any
    assert (found != steps_of(of(2, 4))).any()


@pytest.mark.parametrize("resample", [2, 4, 6, 0])
def test_mean_and_variance_for_a_linear_loss(resample):
    """12 inner steps in windows of 2, three coordinates; unbiased whatever the block."""
    block = resample // 2 or 6
    each = episodes_of(of(2, resample, 1500), Memory(2), np.zeros(3))
    gradients = window_gradients(Memory(2), np.zeros(3), 2)
    mean = gradients.sum(axis=(0, 1))
    assert off(each, mean).max() < SIGMAS
    assert off_variance(each, mean, spread(gradients, block)) < SIGMAS
    other = 6 if block < 6 else 1  # another block's variance is seen to be wrong
    assert off_variance(each, mean, spread(gradients, other)) > WRONG


def test_truncated_es_is_biased_on_the_same_problem():
    """Negative control: it finds the effects within windows, the diagonal of the gradients."""
    each = episodes_of(
        settings(estimator="truncated", truncation=2, pairs=3000), Memory(2), [0, 0, 0]
    )
    gradients = window_gradients(Memory(2), np.zeros(3), 2)
    assert off(each, np.einsum("wwd->d", gradients)).max() < SIGMAS
    assert off(each, gradients.sum(axis=(0, 1))).max() > WRONG


@functools.cache
def balance_gradients():
    return window_gradients(Balance(100, 5), [0.5], 5)


@pytest.mark.parametrize("resample", [5, 20, 50, 0])
def test_influence_balancing(resample):
    """The sign that truncated ES gets wrong, and the spread of the closed form."""
    each = episodes_of(of(5, resample, 2500), Balance(100, 5), [0.5])
    gradients = balance_gradients()
    assert gradients.sum() == pytest.approx(TRUE_BALANCE, abs=0.01)
    assert off(each, np.array([TRUE_BALANCE])) < SIGMAS
    assert each.mean() > 10 * each.std() / np.sqrt(len(each))
    variance = spread(gradients, resample // 5 or 20)
    assert off_variance(each, np.array([TRUE_BALANCE]), variance) < SIGMAS


def test_noise_reuse_has_the_least_spread_on_influence_balancing():
    """Per pair; measured elsewhere 6408 (blocks of 5 steps), 6572 (20), 5070 (100)."""
    spreads = {block: np.sqrt(spread(balance_gradients(), block)) for block in (1, 2, 4, 10, 20)}
    assert spreads[1] == pytest.approx(6408, rel=0.03)
    assert spreads[4] == pytest.approx(6572, rel=0.03)
    assert spreads[20] == pytest.approx(np.sqrt(2) * TRUE_BALANCE, rel=1e-4)
    assert min(spreads, key=spreads.__getitem__) == 20


@pytest.mark.parametrize("resample", [2, 4, 0])
def test_resume_in_mid_block_has_the_same_bits(resample):
    """Wherever the checkpoint falls: 40 pairs stand at different windows."""
    cfg = of(2, resample, 40)
    whole = run_drift(SerialComm(), cfg)
    assert set(whole["saved"]["t"]) == {0, 2, 4, 6}
    resumed = run_drift(SerialComm(), cfg, whole["saved"])
    np.testing.assert_array_equal(whole["grad"][3:], resumed["grad"])


@pytest.mark.parametrize(("resample", "nearest"), [(3, 4), (-2, 2), (1, 2)])
def test_a_block_that_is_no_multiple_of_windows_is_refused(resample, nearest):
    with pytest.raises(ConfigError, match=f"no multiple .* = 2; nearest valid: {nearest}"):
        make_estimator(of(2, resample), Plain(np.sum, 2), SerialComm(), 0)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            {"estimator": "gpes", "resample": 70},
            "es.resample = 70: must be a multiple of truncation = 50",
        ),
        (
            {"estimator": "nres", "resample": 100},
            'es.resample = 100: must be 0 unless estimator = "gpes"',
        ),
        ({"estimator": "gpes", "resample": -1}, "es.resample = -1"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(kind, message):
    with pytest.raises(ConfigError, match=message):
        config.EsConfig(**kind)
    assert config.EsConfig(estimator="gpes", resample=100).resample == 100
