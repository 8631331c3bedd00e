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
    """`compile_kernel`, kept on disk."""
    return kept([core], str(arguments), lambda: compile_kernel(core, arguments, returns))


def compiled_entry(entry: Callable, arguments: Sequence[types.Type], *cores: Callable) -> Compiled:
    """`compile_entry` of an entry made of cores, kept on disk."""
    return kept([*cores, entry], str(arguments), lambda: compile_entry(entry, arguments))


def kept(functions: Sequence[Callable], more: str, make: Callable[[], Compiled]) -> Compiled:
    """What `make` gives, on disk beside Numba's own cache for as long as no source of the functions changes."""
    import numba_cuda

    package = Path(lopt.__file__).parent
    own = [getattr(f, "py_func", f) for f in functions]
    files = [
        *(Path(inspect.getfile(f)) for f in own),
        package / "cuda_lanes.py",
        package / "cuda_compiler.py",
    ]
    parts = [*map(digest, files), *(f.__qualname__ for f in own), more]
    key = json.dumps([*parts, numba.__version__, numba_cuda.__version__, CAPABILITY])
    folder = (
        Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parent / "__pycache__") / "ptx"
    )
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.with_suffix(f".{os.getpid()}").write_text(json.dumps(make()))
        path.with_suffix(f".{os.getpid()}").replace(path)
    return Compiled(*json.loads(path.read_text()))


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
