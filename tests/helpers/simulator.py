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


def plain(x):
    """The NumPy array in a simulated one, anything else as it is."""
    x = getattr(x, "_item", x)
    return getattr(x, "_ary", x)


def _lane():
    return cuda.threadIdx.x


def _lanes():
    return cuda.blockDim.x


def _sync():
    cuda.syncthreads()


def _anywhere(flag):
    return bool(cuda.syncthreads_or(flag))


def _matmul(a, b, out):
    cuda.syncthreads()
    for i in range(cuda.threadIdx.x, out.size, cuda.blockDim.x):
        out.flat[i] = np.dot(a[i // out.shape[1]], b[:, i % out.shape[1]])
    cuda.syncthreads()


def _layer(x, w, bias, out, n, floor):
    cuda.syncthreads()
    for q in range(cuda.threadIdx.x, out.shape[0] * n, cuda.blockDim.x):
        j, i = divmod(q, n)
        start = bias[j] if bias.ndim == 1 else bias[j, i]
        out[j, i] = np.fmax(np.dot(w[: x.shape[0], j], x[:, i]) + start, floor)
    cuda.syncthreads()


HOOKS = {
    lanes.lane: _lane, lanes.lanes: _lanes, lanes.sync: _sync, lanes.anywhere: _anywhere, lanes.matmul: _matmul,
    lanes.layer: _layer, lanes.team: lambda: cuda.blockIdx.x, lanes.teams: lambda: cuda.gridDim.x,
}  # fmt: skip


def entry(body):
    """A kernel of the simulator for an interpreted function of arrays and numbers."""

    @cuda.jit
    def run(*arguments):
        with np.errstate(all="ignore"):
            body(*[plain(a) for a in arguments])

    return run


def simulate(case: str, count: int) -> dict[str, np.ndarray]:
    """One launch of one block."""
    cls, arguments = arguments_of(case)
    core = interpreted(cls.core, HOOKS)
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
