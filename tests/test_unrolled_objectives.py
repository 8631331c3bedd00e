"""Estimators where episodes end in mid-window, where only the final loss counts, and where a problem misbehaves.

Bounds and false alarms are those of test_gpes.py: 5 standard errors, negative controls off by 10.
"""

import numpy as np
import pytest
from helpers.episodes import episodes_of, spread, window_gradients
from helpers.es_problems import Memory, Plain, one_step, settings
from helpers.strategy_statistics import SIGMAS, WRONG, off, off_variance

from lopt.comm import SerialComm
from lopt.es import ESTIMATORS, make_estimator

BLOCKS = {"pes": (0, 1), "gpes": (10, 2), "nres": (0, 3)}  # es.resample, windows of a block


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("final", [False, True])
def test_a_short_last_window_weighs_less(name, final):
    """13 inner steps in windows of 5, 5 and 3: all steps count alike, and the mean is the gradient."""
    resample, block = BLOCKS[name]
    cfg = settings(estimator=name, truncation=5, resample=resample, pairs=1500)
    problem = Memory(5, 13, final)
    each = episodes_of(cfg, problem, np.zeros(3))
    gradients = window_gradients(problem, np.zeros(3), 5)
    mean = gradients.sum(axis=(0, 1))
    whole = window_gradients(Memory(13, 13, final), np.zeros(3), 13)[0, 0]
    np.testing.assert_allclose(mean, whole, rtol=1e-12)
    assert off(each, mean).max() < SIGMAS
    assert off_variance(each, mean, spread(gradients, block)) < SIGMAS
    last = gradients[2].sum(axis=0)
    assert off(each, mean + last).max() > WRONG  # as if the last window counted twice


def test_a_final_loss_telescopes():
    """Its windows are changes of the loss; with one perturbation an episode's sum is full ES of the end."""
    theta = np.array([0.3, -0.2, 0.1], np.float32)
    cfg = settings(estimator="nres", pairs=6, truncation=3)
    nres, problem = (
        make_estimator(cfg, Memory(3, final=True), SerialComm(), 1),
        Memory(3, final=True),
    )
    state, sums = nres.init(theta), {}
    for t in range(8):
        estimate, state = nres.step(theta, t, state)
        for i in range(6):
            sums.setdefault((int(state.episode[i]), i), []).append(estimate.losses[i])
    whole = [(key, np.sum(found, axis=0)) for key, found in sums.items() if len(found) == 4]
    assert len(whole) >= 6
    for (episode, pair), total in whole:
        full = make_estimator(settings(pairs=6, truncation=3), problem, SerialComm(), 1)
        end = full.step(theta, episode, full.init(theta))[0].losses[pair]
        np.testing.assert_allclose(total, end, rtol=1e-12)


def test_truncated_es_misses_what_a_final_loss_owes_to_earlier_windows():
    """Negative control: it finds the windows' own effects only, here another gradient."""
    problem = Memory(3, final=True)
    each = episodes_of(
        settings(estimator="truncated", truncation=3, pairs=1000), problem, [0, 0, 0]
    )
    gradients = window_gradients(problem, np.zeros(3), 3)
    assert off(each, np.einsum("wwd->d", gradients)).max() < SIGMAS
    assert off(each, gradients.sum(axis=(0, 1))).max() > WRONG


def test_variance_of_truncated_es():
    """(D + 1) |g_K|^2 a window, and windows have nothing in common: an episode's variances add up."""
    problem = Memory(3)
    each = episodes_of(
        settings(estimator="truncated", truncation=3, pairs=1000), problem, [0, 0, 0]
    )
    own = np.einsum("wwd->wd", window_gradients(problem, np.zeros(3), 3))
    assert off_variance(each, own.sum(axis=0), 4 * np.sum(own**2)) < SIGMAS


NO_LOSS = {
    "None": (None, "TypeError"),
    "text": ("fast", "ValueError: could not convert string to float: 'fast'"),
    "array": (np.zeros(2), "TypeError"),
    "complex": (1j, "TypeError"),
    "huge": (10**400, "OverflowError"),
}


class Misbehaves(Plain):
    """Plain, but pair 1 returns something else than a number."""

    def __init__(self, value) -> None:
        super().__init__(lambda th: float(th.sum()), 3)
        self._value = value

    def run(self, theta, state, episode, pair, t0, steps):
        window = super().run(theta, state, episode, pair, t0, steps)
        return window._replace(loss=self._value) if pair == 1 else window


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("case", NO_LOSS)
def test_a_loss_that_is_no_number_loses_the_pair(name, case):
    value, fault = NO_LOSS[case]
    estimate = one_step(Misbehaves(value), np.ones(3), estimator=name, pairs=3)
    assert estimate.n_lost == 1 and estimate.fault.startswith(fault)
    assert np.isfinite(estimate.grad).all() and (estimate.grad != 0).all()
