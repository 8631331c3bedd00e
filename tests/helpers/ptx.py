"""Compiles core kernels for CUDA, compute capability 9.0, without a GPU or a driver; see `lopt.cuda_compiler`."""

import hashlib
import inspect
import json
import os
import types as python_types
from collections.abc import Callable, Sequence
from pathlib import Path

import numba
from numba import types

import lopt
from lopt.cuda_compiler import CAPABILITY, Compiled, compile_entry
from lopt.kernel_cache import digest


def compiled(core: Callable, arguments: Sequence[types.Type], returns: bool) -> Compiled:
    """`compile_kernel`, with the answer kept on disk beside Numba's own cache for as long as no source changes."""
    import numba_cuda

    own = [
        digest(Path(inspect.getfile(core.py_func))),
        digest(Path(lopt.__file__).parent / "cuda_lanes.py"),
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

    def number(arguments, out):
        out[cuda.blockIdx.x] = core(*arguments)

    def nothing(arguments, out):
        core(*arguments)

    signature = (types.Tuple(tuple(arguments)), types.float64[::1])
    return compile_entry(number if returns else nothing, signature)


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
