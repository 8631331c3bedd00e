"""Mean of an estimator's episodes, theta at rest, beside the exact gradient; for `run.py`."""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from exact import Bowl, Mean, gradient

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(
    0, str(ROOT / "tests")
)  # episodes and closed forms are those of the tests: there is one of each

from helpers.episodes import episodes_of, window_gradients  # noqa: E402, needs the path
from helpers.es_problems import Balance, settings  # noqa: E402

from lopt import config as cfg  # noqa: E402
from lopt.meta import LOG_FLOOR, initial_scale  # noqa: E402
from lopt.rollout import Runner  # noqa: E402
from lopt.train import build, meta_problem, schedule_of  # noqa: E402


class Bias(NamedTuple):
    """Gradient of the mean loss of an episode's steps: of all episodes together, of one (its deviation), and exactly."""

    measured: Mean
    deviation: float
    exact: Mean


def of_balance(name: str, truncation: int, horizon: int, theta: float, **es: float) -> Bias:
    """Influence balancing: losses are quadratic in theta, so the exact gradient is that of the loss itself."""
    problem, at = Balance(horizon, truncation), np.array([theta])
    found = _episodes(problem, at, name, truncation, horizon, **es)
    by_window = window_gradients(problem, at, truncation)[..., 0]  # of window w by the theta of v
    total = np.trace(by_window) if name == "truncated" else by_window.sum()
    return Bias(*found, Mean(float(total) / horizon, 0.0))


def of_bowl(name: str, lopt: cfg.Config, theta: float, pairs: int, episodes: int) -> Bias:
    """The meta-problem of a configuration of `lopt train`; its truncation is the estimator's."""
    bowl, es = bowl_of(lopt), lopt.es
    found = _episodes(
        meta_problem(lopt), np.array([theta]), name, es.truncation, bowl.horizon, pairs, es.sigma
    )
    return Bias(*found, gradient(bowl, theta, name, es.truncation, es.sigma, episodes))


def bowl_of(lopt: cfg.Config) -> Bowl:
    """What the exact gradient needs to know of the task."""
    (task,), _, opt = build(lopt)
    assert (task.family, task.kind, opt.name) == ("losg", "bowl", "sgd")
    assert lopt.inner.objective == "log_loss" and lopt.es.horizon[0] == lopt.es.horizon[1]
    floor = LOG_FLOOR * initial_scale(Runner(task, opt, schedule_of(lopt))).high
    return Bowl(task.condition, task.noise, floor, lopt.es.horizon[0])


def _episodes(
    problem, theta: np.ndarray, name: str, truncation: int, horizon: int, pairs: int, sigma: float
) -> tuple[Mean, float]:
    es = settings(estimator=name, truncation=truncation, pairs=pairs, sigma=sigma)
    each = episodes_of(es, problem, theta)[:, 0] / horizon
    deviation = float(each.std(ddof=1))
    return Mean(float(each.mean()), deviation / len(each) ** 0.5), deviation
