"""Evolution strategies for unrolled problems: estimators, perturbations, shaping, the outer optimizer.

    estimator = make_estimator(cfg, problem, comm, seed)       # cfg as lopt.config.EsConfig
    state = estimator.init(theta)
    estimate, state = estimator.step(theta, outer_step, state)
"""

from lopt.es.estimators import ESTIMATORS, Estimate, Estimator, make_estimator
from lopt.es.outer import OuterOptimizer, OuterState
from lopt.es.problem import UnrolledProblem, Window
from lopt.es.shaping import Shaping

__all__ = [
    "ESTIMATORS",
    "Estimate",
    "Estimator",
    "OuterOptimizer",
    "OuterState",
    "Shaping",
    "UnrolledProblem",
    "Window",
    "make_estimator",
]
