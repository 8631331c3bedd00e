"""What the CUDA compilers say about a kernel: registers, stack, shared memory.  Needs no GPU and no driver.

Numba makes PTX; the linker of the CUDA wheels (nvJitLink, which holds NVIDIA's assembler) turns it into machine code,
finds functions that do not exist on the device, and tells what a thread needs.  Both come with `numba-cuda[cu13]`.
"""

import functools
import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from lopt.cuda_device import LANE_REGISTERS
from lopt.errors import DeviceError
from lopt.lanes import register_cuda

CAPABILITY = (9, 0)
ARCHITECTURE = "sm_90"
STATIC_SHARED = 48 * 1024  # bytes a block may have without asking
REGISTERS, WARPS, BLOCKS = 65536, 64, 32  # of a multiprocessor of ARCHITECTURE


class Compiled(NamedTuple):
    """What the compilers say about a kernel: bytes per thread (stack, spills) and per block."""

    target: bool  # made for ARCHITECTURE
    lanes: bool  # reads the number of its thread
    barriers: bool  # waits for the other threads
    registers: int
    stack: int
    spills: int
    shared: int

    def teams(self, threads: int) -> int:
        """Blocks of so many threads that a multiprocessor holds at once, as registers allow."""
        warps = -(-threads // 32)
        each = (
            -(-self.registers // 8) * 8 * 32 * warps
        )  # registers are given to warps in eights per thread
        return min(REGISTERS // each, WARPS // warps, BLOCKS)


def missing() -> str:
    """The first part of the CUDA wheels that is not installed, "" if all are there."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed"
    from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib

    for library in ("nvrtc", "nvvm", "nvJitLink"):
        try:
            load_nvidia_dynamic_lib(library)
        except DynamicLibNotFoundError:
            return f"lib{library} is not installed"
    return ""


class _Device:
    """Stands in for the current device, which Numba asks for when a kernel calls another."""

    compute_capability = CAPABILITY


def compile_entry(entry: Callable[..., None], arguments: Sequence[Any]) -> Compiled:
    """Machine code of a plain function as a kernel with those Numba types.

    Raises:
        DeviceError: a part of the CUDA wheels is missing.
        numba.core.errors.NumbaError: the kernel cannot be compiled for CUDA.
        cuda.bindings.nvjitlink.nvJitLinkError: it calls what does not exist on the device.
    """
    if missing():
        raise DeviceError(f"compiling for CUDA needs lopt[cuda]: {missing()}")
    from numba import cuda
    from numba.cuda import dispatcher

    register_cuda()
    # Numba asks the present device for its capability; there is none, and no public way to say so.
    with mock.patch.object(dispatcher, "get_current_device", _Device):
        ptx, _ = cuda.compile_ptx(entry, tuple(arguments), cc=CAPABILITY)
    return _linked(ptx)


def _linked(ptx: str) -> Compiled:
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(
        arch=ARCHITECTURE, max_register_count=LANE_REGISTERS, ptxas_options=["-v"]
    )
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), _reshape_functions(), options=options)
    linker.link("cubin")
    log = linker.get_info_log()

    def number(pattern: str) -> int:
        return max((int(n) for n in re.findall(pattern, log)), default=0)

    return Compiled(
        target=f".target {ARCHITECTURE}" in ptx,
        lanes="%tid.x" in ptx,
        barriers="bar.sync" in ptx,
        registers=number(r"Used (\d+) registers"),
        stack=number(r"(\d+) bytes stack frame"),
        spills=number(r"(\d+) bytes spill"),
        shared=number(r"(\d+) bytes smem"),
    )


@functools.cache
def _reshape_functions() -> Any:
    """Numba's own device code behind `reshape`, which it links into every launch."""
    from cuda.core import Program, ProgramOptions
    from numba import cuda

    source = (Path(cuda.__file__).parent / "reshape_funcs.cu").read_text()
    options = ProgramOptions(arch=ARCHITECTURE, relocatable_device_code=True)
    return Program(source, "c++", options).compile("cubin")
