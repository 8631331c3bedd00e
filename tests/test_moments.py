"""Every closed form of a mean or a variance in `helpers.moments`, measured.

Seeds are fixed, so nothing here fails by chance.  The bounds say what chance a new seed would have:
a mean may be off by `SIGMAS` = 5 of its standard errors in any coordinate, a variance (of a sum over
coordinates) by as many of its own.  A test of 6 coordinates then raises a false alarm with a
probability of about 4e-6, this file below 4e-4.  Negative controls demand more than 10 standard errors.
"""

import numpy as np
import pytest
from helpers.moments import CASES
from helpers.strategy_statistics import SIGMAS, WRONG, N, off, off_variance

from lopt.es import ESTIMATORS, STRATEGIES

BY_ORDER = {"cma", "sep_cma", "snes", "pycma"}  # no closed forms


def test_no_estimator_is_forgotten():
    assert {case.name for case in CASES} | BY_ORDER == {*STRATEGIES, *ESTIMATORS}
    assert len({case.label for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_mean_and_variance(case):
    found = case.draw(N)
    assert off(found, case.mean).max() < SIGMAS
    if case.variance is not None:
        assert off_variance(found, case.mean, case.variance) < SIGMAS
    # A bias that is stated is there; and a wrong variance is seen with as many samples as it takes.
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    if (np.abs(case.mean - case.target) > 2 * WRONG * error).any():
        assert off(found, case.target).max() > WRONG
