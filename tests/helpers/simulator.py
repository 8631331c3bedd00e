"""Runs core kernels in Numba's CUDA simulator: real thread indices and block barriers, no GPU.

The simulator is chosen when Numba is imported, so this is a program of its own:

    NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1 python -m helpers.simulator OUT.npz LANES ...

It writes, for each case of CASES and each number of lanes, "<case>/<lanes>/return" (one number per
lane) and "<case>/<lanes>/<i>", the arrays that the kernel may change.
"""

import sys

import numpy as np
from helpers.kernel_arguments import optimizer_arguments, task_arguments
from helpers.lane_scheduler import interpreted
from numba import cuda

from lopt import arch, lanes, tasks  # noqa: F401 - importing registers
from lopt.optimizer import optimizer
from lopt.task import task

CASES = {
    "mlp": lambda: task("mlp", data="digits", hidden=(5,), batch_size=3),
    "quadratic": lambda: task("quadratic", dims=5, noise=("linspace_eigen", 0.1, 0.3)),
    "sgd": lambda: optimizer("sgd"),
    "adam": lambda: optimizer("adam"),
}
CHANGED = {"mlp": (0, 1), "quadratic": (0, 1), "sgd": (1, 3), "adam": (1, 3)}


def arguments_of(case: str) -> tuple:
    """The kernel and its arguments, the same for simulator and CPU."""
    thing = CASES[case]()
    make = task_arguments if hasattr(thing, "arrays") else optimizer_arguments
    return type(thing), make(thing)()


# `cuda` in this module's namespace is the simulator's block while a kernel of it runs.


def _lane():
    return cuda.threadIdx.x


def _lanes():
    return cuda.blockDim.x


def _sync():
    cuda.syncthreads()


def _matmul(a, b, out):
    cuda.syncthreads()
    for i in range(cuda.threadIdx.x, out.size, cuda.blockDim.x):
        out.flat[i] = np.dot(a[i // out.shape[1]], b[:, i % out.shape[1]])
    cuda.syncthreads()


_HOOKS = {lanes.lane: _lane, lanes.lanes: _lanes, lanes.sync: _sync, lanes.matmul: _matmul}


def simulate(case: str, count: int) -> dict[str, np.ndarray]:
    """One launch of one block."""
    cls, arguments = arguments_of(case)
    core = interpreted(cls.core, _HOOKS)
    returned = np.full(count, np.nan)

    @cuda.jit
    def launch():
        returned[cuda.threadIdx.x] = core(*arguments)

    launch[1, count]()
    changed = {str(i): arguments[i] for i in CHANGED[case]}
    return {f"{case}/{count}/{k}": v for k, v in {"return": returned, **changed}.items()}


if __name__ == "__main__":
    results: dict[str, np.ndarray] = {}
    for name in CASES:
        for lane_count in sys.argv[2:]:
            results |= simulate(name, int(lane_count))
    np.savez(sys.argv[1], **results)
