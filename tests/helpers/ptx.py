"""Compiles kernels for CUDA, compute capability 9.0, without a GPU or a driver.

Numba makes PTX; the linker of the CUDA wheels turns it into machine code, which finds functions
that do not exist on the device and tells how many registers the kernel needs.  Both come with the
extra `numba-cuda[cu13]`.
"""

import hashlib
import importlib.util
import inspect
import json
import os
import re
import types as python_types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numba
from numba import types

from lopt import lanes
from lopt.kernel_cache import digest

CAPABILITY = (9, 0)
ARCHITECTURE = "sm_90"


class Compiled(NamedTuple):
    """What the compilers say about a kernel: bytes per thread (stack, spills) and per block."""

    target: bool  # made for ARCHITECTURE
    lanes: bool  # reads the number of its thread
    barriers: bool  # waits for the other threads
    registers: int
    stack: int
    spills: int
    shared: int


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


def compiled(core: Callable, arguments: Sequence[types.Type], returns: bool) -> Compiled:
    """`compile_kernel`, with the answer kept on disk beside Numba's own cache for as long as no source changes."""
    import numba_cuda

    own = [
        digest(Path(inspect.getfile(core.py_func))),
        digest(Path(lanes.__file__)),
        core.py_func.__name__,
    ]
    key = json.dumps([*own, str(arguments), numba.__version__, numba_cuda.__version__, CAPABILITY])
    folder = (
        Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parent / "__pycache__") / "ptx"
    )
    kept = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        found = compile_kernel(core, arguments, returns)
        kept.with_suffix(f".{os.getpid()}").write_text(json.dumps(found))
        kept.with_suffix(f".{os.getpid()}").replace(kept)
    return Compiled(*json.loads(kept.read_text()))


def compile_kernel(core: Callable, arguments: Sequence[types.Type], returns: bool) -> Compiled:
    """Machine code of a core kernel for cc 9.0, called by a CUDA kernel with those argument types.

    Args:
        returns: whether the kernel returns a number.

    Raises:
        numba.core.errors.NumbaError: the kernel cannot be compiled for CUDA.
        cuda.bindings.nvjitlink.nvJitLinkError: it calls what does not exist on the device.
    """
    from numba import cuda
    from numba.cuda import dispatcher

    lanes.register_cuda()

    def number(arguments, out):
        out[cuda.blockIdx.x] = core(*arguments)

    def nothing(arguments, out):
        core(*arguments)

    signature = (types.Tuple(tuple(arguments)), types.float64[::1])
    with mock.patch.object(dispatcher, "get_current_device", _Device):
        ptx, _ = cuda.compile_ptx(number if returns else nothing, signature, cc=CAPABILITY)
    return _linked(ptx)


def _linked(ptx: str) -> Compiled:
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(arch=ARCHITECTURE, ptxas_options=["-v"])
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


def _reshape_functions():
    """Numba's own device code behind `reshape`, which it links into every launch."""
    from cuda.core import Program, ProgramOptions
    from numba import cuda

    source = (Path(cuda.__file__).parent / "reshape_funcs.cu").read_text()
    options = ProgramOptions(arch=ARCHITECTURE, relocatable_device_code=True)
    return Program(source, "c++", options).compile("cubin")


def reachable(core: Callable) -> set[Callable]:
    """The compiled kernels that a core kernel calls, itself included."""
    found, todo = set(), [core]
    while todo:
        kernel = todo.pop()
        found.add(kernel)
        names, namespace = kernel.py_func.__code__.co_names, kernel.py_func.__globals__
        values = [namespace.get(n) for n in names]
        modules = [v for v in values if isinstance(v, python_types.ModuleType)]
        values += [getattr(m, n, None) for m in modules for n in names]
        todo += [v for v in values if hasattr(v, "py_func") and v not in found]
    return found
