"""TaskSet's sampler of the `losg` family, draw for draw (task set specification 3.12 and 4)."""

import math
from typing import Any

import numpy as np

from lopt.tasks import samplers

SUB_FAMILIES = (
    "bowl", "dependency_chain", "fully_connected", "log_objective", "min_max_well", "norm",
    "optimization_test_problems", "outward_snake", "projection_quadratic", "quadratic",
    "rescale_problems", "sparse_problems", "sparse_softmax_regression", "sum_of_quadratics",
)  # fmt: skip
BASES = (
    "quadratic", "bowl", "optimization_test_problems", "fully_connected", "norm",
    "dependency_chain", "outward_snake", "min_max_well", "sum_of_quadratics",
    "projection_quadratic",
)  # fmt: skip
TEST_FUNCTIONS = (
    "styblinski_tang", "ackley", "beale", "branin", "logsumexp", "matyas", "michalewicz",
    "rosenbrock",
)  # fmt: skip
WRAPPERS = {"log_objective": "log", "rescale_problems": "rescale", "sparse_problems": "sparse"}
INSTANCES = 100_000

Config = dict[str, Any]


def draw(seed: int) -> tuple[str, Config, int]:
    """(sub-family, its fields, instance seed) of `losg_tasks_family_seed<seed>`.

    Fields have this library's names; a wrapper's field `base` is (sub-family, fields).
    """
    r = np.random.RandomState(seed)
    key = samplers.choice(r, SUB_FAMILIES)
    fields = _fields(r, key)
    return key, fields, int(r.uniform(0, INSTANCES))


def options(key: str, fields: Config, instance: int, upstream: bool) -> Config:
    """Options of the task `Losg` for a drawn configuration.

    Noise: a wrapper hands the noise of its base on, and `sparse` adds its own to it; upstream draws
    the base's noise and ignores it.  The batch of dependency_chain, which upstream draws and does
    not use, is left out.
    """
    if key not in WRAPPERS:
        chosen = {"kind": key, "seed": instance, **fields}
        if key == "dependency_chain":
            del chosen["batch_size"], chosen["samples"]
        return chosen
    base, base_fields = fields["base"]
    chosen = options(base, base_fields, instance, upstream)
    chosen["wrapper"] = WRAPPERS[key]
    inherited = 0.0 if upstream else chosen.get("noise", 0.0)
    chosen["noise"] = math.hypot(inherited, fields.get("noise", 0.0))
    chosen |= {name: fields[name] for name in ("scale", "zero_prob") if name in fields}
    if key == "log_objective":
        chosen["upstream"] = upstream
    return chosen


def _fields(r: np.random.RandomState, key: str) -> Config:
    match key:
        case "quadratic" | "min_max_well":
            noisy = _coin(r)
            return {"dims": samplers.logint(r, 10, 1000), "noise": _noise(r, noisy)}
        case "bowl":
            noisy = _coin(r)
            return {
                "condition": samplers.logfloat(r, 0.01, 100.0),
                "angle": samplers.choice(r, (0.0, 0.0, math.pi / 4.0, math.pi / 3.0)),
                "noise": _noise(r, noisy),
            }
        case "optimization_test_problems":
            noisy = _coin(r)
            return {"function": samplers.choice(r, TEST_FUNCTIONS), "noise": _noise(r, noisy)}
        case "norm":
            return {"dims": samplers.logint(r, 3, 1000), "power": float(r.uniform(0.1, 5.0))}
        case "sparse_softmax_regression":
            noisy = _coin(r)
            return {
                "features": samplers.logint(r, 2, 100),
                "noise": _noise(r, noisy),
                "batch_size": samplers.logint(r, 1, 50),
                "samples": samplers.logint(r, 1, 30),
            }
        case "fully_connected":
            return _fully_connected(r)
        case "sparse_problems":
            noisy = _coin(r)
            return {
                "base": _base(r),
                "zero_prob": float(r.uniform(0.9, 0.99)),
                "noise": _noise(r, noisy),
            }
        case "rescale_problems":
            return {"base": _base(r), "scale": samplers.logfloat(r, 0.001, 1000.0)}
        case "log_objective":
            return {"base": _base(r)}
    return {
        "dims": samplers.logint(r, 3, 100),
        "batch_size": samplers.logint(r, 1, 200),
        "samples": samplers.logint(r, 100, 20000),
    }


def _fully_connected(r: np.random.RandomState) -> Config:
    layers = samplers.choice(r, (2, 3, 4, 5))
    fixed = _coin(r)
    fields = {
        "features": samplers.logint(r, 1, 16),
        "activation": samplers.activation(r),
        "batch_size": samplers.logint(r, 1, 200),
        "samples": samplers.logint(r, 1, 30),
    }
    widths = [samplers.logint(r, 4, 32) for _ in range(1 if fixed else layers)]
    return {**fields, "hidden": tuple(widths * layers if fixed else widths)}


def _base(r: np.random.RandomState) -> tuple[str, Config]:
    key = samplers.choice(r, BASES)
    return key, _fields(r, key)


def _coin(r: np.random.RandomState) -> bool:
    return bool(r.uniform(0.0, 1.0) < 0.5)


def _noise(r: np.random.RandomState, noisy: bool) -> float:
    return samplers.logfloat(r, 0.01, 10.0) if noisy else 0.0
