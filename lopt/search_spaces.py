"""Random settings of hand-made optimizers: the laws that searches over hyper-parameters draw from."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lopt.errors import UsageError, unknown

Setting = dict[str, Any]


def log_uniform(r: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform."""
    return float(math.exp(r.uniform(math.log(low), math.log(high))))


def adam8p(r: np.random.Generator) -> Setting:
    """Metz et al. 2020 (arXiv 2009.11243), baseline Adam8p: all eight hyper-parameters, far beyond what is sensible."""
    return {
        "learning_rate": log_uniform(r, 1e-8, 10.0),
        "beta1": 1.0 - log_uniform(r, 1e-4, 1.0),
        "beta2": 1.0 - log_uniform(r, 1e-6, 1.0),
        "epsilon": log_uniform(r, 1e-10, 1e3),
        "l1": log_uniform(r, 1e-8, 10.0),
        "l2": log_uniform(r, 1e-8, 10.0),
        "linear_decay": log_uniform(r, 1e-7, 1e-4),
        "exponential_decay": log_uniform(r, 1e-6, 1e-3),
    }


def nadamw(r: np.random.Generator) -> Setting:
    """NAdamW of Metz et al. 2020 (arXiv 2002.11887): their ranges of rate, decays, epsilon and weight decay.

    Differs from theirs: the rate is constant or falls along a whole cosine, each every second time; no warm-up, no
    penalty inside the gradient; weight decay every second time.
    """
    return {
        "learning_rate": log_uniform(r, 1e-5, 1.0),
        "beta1": 1.0 - log_uniform(r, 1e-3, 1.0),
        "beta2": 1.0 - log_uniform(r, 1e-5, 1.0),
        "epsilon": log_uniform(r, 1e-8, 1e4),
        "weight_decay": log_uniform(r, 1e-5, 0.1) if r.random() < 0.5 else 0.0,
        "cosine": bool(r.random() < 0.5),
    }


SPACES: dict[str, Callable[[np.random.Generator], Setting]] = {"adam8p": adam8p, "nadamw": nadamw}


def random_setting(name: str, trial: int) -> Setting:
    """Options of an optimizer, a pure function of its name and the number of the trial.

    `cosine`, where a space has it, is not an option but says that the rate falls to 0 over the whole training.

    Raises:
        UsageError: no such space.
    """
    if name not in SPACES:
        raise UsageError(unknown("search space", name, SPACES))
    seed = [trial, *name.encode()]
    return SPACES[name](np.random.default_rng(seed))
