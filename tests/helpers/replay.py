"""Running the kernel of a learned optimizer call by call, beside its reference."""

import math

import numpy as np
from helpers.reference_anchored import Anchored
from helpers.reference_learned import REFERENCES as LEARNED

from lopt import rng
from lopt.arch import hierarchical_views as views
from lopt.layout import Layout
from lopt.optimizer import OptData, Optimizer

REFERENCES = {**LEARNED, "anchored": Anchored}


def normals(size: int, key: int) -> np.ndarray:
    """(size,) float64 standard normals."""
    return rng.normals(size, rng.stream(key), rng.TASK).astype(np.float64)


def busy_theta(opt: Optimizer, seed: int = 0) -> np.ndarray:
    """Meta-parameters without zeros: biases, initial states and decays matter too."""
    theta = opt.init_theta(seed).astype(np.float64)
    return theta + 0.05 * normals(theta.size, 100 + seed)


class Replay:
    """An optimizer's kernel on one problem; `dtype` of all its arrays."""

    def __init__(self, opt: Optimizer, layout: Layout, theta: np.ndarray, params, dtype=np.float64):
        self.opt, self.layout, self.theta = opt, layout, theta.astype(dtype)
        self.params = np.array(params, dtype)
        self.state = opt.init_state(self.theta, layout)
        self.data = OptData(opt.sizes(layout), opt.hyper().astype(dtype))

    def step(self, grad: np.ndarray, loss: float = 1.0, is_valid: int = 0) -> np.ndarray:
        """The parameters after one call, scratch poisoned with NaN before it."""
        dtype = self.params.dtype
        core = self.opt.entry if dtype == np.float32 else self.opt.core
        work = np.full(self.opt.work_size(self.layout), np.nan, dtype)
        grad = np.array(grad, dtype)
        assert core(self.theta, self.params, grad, self.state, loss, is_valid, self.data, work) == 0
        return self.params.copy()

    @property
    def memory(self) -> views.Memory:
        """Named views of the hierarchical optimizer's state."""
        return views.memory_of(self.state, self.data.sizes, self.layout.size)


def movement_error(opt, layout, dtype, grad_scale=1.0, param_scale=1.0, calls=8) -> float:
    """Worst movement error against the reference, per tensor relative to the largest movement so far."""
    params = param_scale * normals(layout.size, 1)
    theta = busy_theta(opt)
    ours = Replay(opt, layout, theta, params, dtype)
    params = ours.params.astype(np.float64)
    weights = {
        k: v.copy() for k, v in opt.theta_layout.views(ours.theta.astype(np.float64)).items()
    }
    theirs = layout.views(params)
    reference = REFERENCES[opt.name](opt, weights, theirs)
    worst, largest = 0.0, dict.fromkeys(layout.names, 0.0)
    for t in range(calls):
        grad = grad_scale * normals(layout.size, 10 + t) * np.exp(normals(layout.size, 50))
        grad = grad.astype(dtype).astype(np.float64)
        loss, is_valid = 3.0 / (1 + t) + 0.1 * math.sin(t), int(t % 4 == 2)
        found = layout.views(ours.step(grad, loss, is_valid) - params)
        theirs = reference.step(theirs, layout.views(grad), loss, bool(is_valid))
        for name, start in layout.views(params).items():
            expected = theirs[name] - start
            largest[name] = max(largest[name], float(np.abs(expected).max()))
            worst = max(worst, float(np.abs(found[name] - expected).max()) / largest[name])
    return worst
