"""The GPU of this process: whether there is one, which one, arrays on it, kernels for it.

Nothing here runs before a GPU is asked for.  Asking for one that is not there is an error, never a fallback.
"""

import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from lopt.errors import DeviceError
from lopt.lanes import Returned, register_cuda

THREADS = 128  # lanes of a team: as many as `lopt.arch.per_parameter.BLOCK` has parameters
LANE_REGISTERS = 128  # at most; a multiprocessor then holds four teams
ROW = 32  # rows of matrices begin at multiples of 32 numbers, where a GPU reads whole lines


@functools.cache
def require() -> Any:
    """The module `numba.cuda`, with the hooks of `lopt.lanes` registered.

    Raises:
        DeviceError: numba-cuda is not installed, or finds no GPU or driver.
    """
    if importlib.util.find_spec("numba_cuda") is None:
        raise DeviceError("device 'cuda' needs numba-cuda: pip install lopt[cuda]; or use 'cpu'")
    from numba import cuda

    if not cuda.is_available():
        raise DeviceError("device 'cuda': no GPU, or no driver for it, on this machine; use 'cpu'")
    register_cuda()
    return cuda


def select(node_rank: int, node_size: int) -> None:
    """Take the GPU that has the number of this rank on its node, for the rest of the process.

    Where the launcher shows each rank a GPU of its own (CUDA_VISIBLE_DEVICES), take that.

    Raises:
        DeviceError: as `require`; or the node has fewer GPUs than ranks.
    """
    found = len(require().gpus)
    if found == 1 and "CUDA_VISIBLE_DEVICES" in os.environ:
        require().select_device(0)
        return
    if node_size > found:
        raise DeviceError(
            f"device 'cuda': {node_size} ranks on a node with {found} GPU(s); start one rank for each GPU"
        )
    require().select_device(node_rank)


def processors() -> int:
    """Multiprocessors of the GPU; 1 in the simulator."""
    return getattr(require().get_current_device(), "MULTIPROCESSOR_COUNT", 1)


def peak() -> float:
    """float32 operations per second of the GPU: 128 multiply-adds a multiprocessor and cycle."""
    kilohertz = require().get_current_device().CLOCK_RATE
    return 2.0 * 128 * processors() * 1e3 * kilohertz


def stream() -> Any:
    """A queue of work of its own."""
    return require().stream()


def empty(shape: tuple[int, ...], dtype: type) -> Any:
    """An array on the GPU, contents undefined."""
    return require().device_array(shape, dtype)


def upload(array: np.ndarray, queue: Any) -> Any:
    """A copy on the GPU."""
    return require().to_device(np.ascontiguousarray(array), stream=queue)


def floats_at(address: int, n: int) -> Returned:
    """n float32 numbers at an address; in kernels, one on the GPU."""
    return Returned(np.ctypeslib.as_array((ctypes.c_float * int(n)).from_address(int(address))))


_kept: dict[int, tuple[np.ndarray, Any]] = {}


def upload_once(array: np.ndarray) -> Any:
    """A copy on the GPU that all callers share: constants, which tasks of a process share on the host too."""
    if id(array) not in _kept:
        _kept[id(array)] = array, require().to_device(np.ascontiguousarray(array))
    return _kept[id(array)][1]


def padded(width: int) -> int:
    """Numbers from one row to the next, for rows of that width."""
    return max(-(-width // ROW), 1) * ROW


def kernel(function: Callable[..., None]) -> Any:
    """`function` as an entry that is launched as kernel[teams, THREADS, queue](...); compiled at its first launch."""
    return require().jit(function, max_registers=LANE_REGISTERS, lto=False)  # as in cuda_compiler
