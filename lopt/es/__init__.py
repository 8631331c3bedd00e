"""Evolution strategies: black boxes, and unrolled problems.

A black box, alone or under mpirun:

    res = lopt.es.minimize(f, x0, max_evaluations=10_000)
    res = lopt.es.minimize(f, x0, pairs=32, sigma=0.1, steps=300)  # antithetic ES
    res = scipy.optimize.minimize(f, x0, method=lopt.es.scipy_method, options={"steps": 300})

Several objectives in units of their own, several populations: `minimize(Tasks([f, g]), x0, populations=4)`.
Or step by step, with a strategy by name: `strategy(name, ...)`, see `lopt.es.strategy`.

An unrolled problem (meta-training):

    cfg = lopt.config.EsConfig(estimator="nres", pairs=16, sigma=0.01)
    estimator = make_estimator(cfg, problem, comm, seed)
    state = estimator.init(theta)
    estimate, state = estimator.step(theta, outer_step, state)
"""

from lopt.es import strategies
from lopt.es.estimator import Estimate, Estimator
from lopt.es.estimators import ESTIMATORS, make_estimator
from lopt.es.fitness import Fitness
from lopt.es.gradient_strategy import Antithetic, GradientState, GradientStrategy
from lopt.es.minimize import minimize, scipy_method
from lopt.es.outer import OuterOptimizer, OuterState
from lopt.es.problem import UnrolledProblem, Window
from lopt.es.recorder import Recorder, Snapshot
from lopt.es.shaping import Shaping
from lopt.es.strategy import STRATEGIES, Strategy, StrategyState, strategy
from lopt.es.tasks import Tasks

__all__ = [
    "ESTIMATORS",
    "STRATEGIES",
    "Antithetic",
    "Estimate",
    "Estimator",
    "Fitness",
    "GradientState",
    "GradientStrategy",
    "OuterOptimizer",
    "OuterState",
    "Recorder",
    "Shaping",
    "Snapshot",
    "Strategy",
    "StrategyState",
    "Tasks",
    "UnrolledProblem",
    "Window",
    "make_estimator",
    "minimize",
    "scipy_method",
    "strategies",
    "strategy",
]
