"""Strategies beyond plain antithetic pairs, one idea a file; importing this makes them known by name."""

from lopt.es.strategies.annealed import Annealed
from lopt.es.strategies.cma import Cma, SepCma
from lopt.es.strategies.control_variate import ControlVariate
from lopt.es.strategies.guided import Guided
from lopt.es.strategies.importance import Importance
from lopt.es.strategies.low_rank import LowRank
from lopt.es.strategies.noise_table import NoiseTable
from lopt.es.strategies.one_sided import Forward, OnePoint
from lopt.es.strategies.orthogonal import Orthogonal
from lopt.es.strategies.pgpe import Pgpe
from lopt.es.strategies.pycma import Pycma
from lopt.es.strategies.reuse import Reuse
from lopt.es.strategies.second_order import SecondOrder
from lopt.es.strategies.snes import Snes
from lopt.es.strategies.sobol import Sobol
from lopt.es.strategies.surrogate import Surrogate

__all__ = [
    "Annealed",
    "Cma",
    "ControlVariate",
    "Forward",
    "Guided",
    "Importance",
    "LowRank",
    "NoiseTable",
    "OnePoint",
    "Orthogonal",
    "Pgpe",
    "Pycma",
    "Reuse",
    "SecondOrder",
    "SepCma",
    "Snes",
    "Sobol",
    "Surrogate",
]
