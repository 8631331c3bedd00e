"""Evolution strategies for unrolled problems.

cfg = lopt.config.EsConfig(estimator="nres", pairs=16, sigma=0.01)
estimator = make_estimator(cfg, problem, comm, seed)
state = estimator.init(theta)
estimate, state = estimator.step(theta, outer_step, state)
"""

from lopt.es.estimator import Estimate, Estimator
from lopt.es.estimators import ESTIMATORS, make_estimator
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
