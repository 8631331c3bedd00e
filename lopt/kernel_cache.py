"""Kernels on disk: when a compiled kernel may be used again, and what to do if the disk cannot be used.

Numba keeps compiled functions on disk and compiles anew when the file they stand in changes.  A kernel is compiled
together with the kernels it calls, and those stand in other files: here a stored kernel counts as fresh only if every
file of the library that its file imports, directly or not, has the same content.  A cache that cannot be written or
read is a warning, never an error: kernels are then compiled in each process.
"""

import functools
import hashlib
import importlib.resources
import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core.caching import FunctionCache

PACKAGE = Path(str(importlib.resources.files("lopt")))
# Rooms that hold no kernel and no constant of one.
HOST_ONLY = ("data", "errors", "model_arrays", "registry")
_IMPORT = re.compile(r"^from lopt([\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)


class CacheWarning(UserWarning):
    """Kernels cannot be kept on disk; every process compiles its own."""


def jit(
    signature: Any = None, forceinline: bool = False, inline: str = "never"
) -> Callable[[Callable], Any]:
    """Decorator: compile for the CPU on first use (now, if there is a signature), with the cache of this module.

    Functions of one signature can be given to kernels as arguments; others need no entry for that.  inline: Numba's.
    The numpy error model: x / 0 is inf, and division vectorises.  With NUMBA_DISABLE_JIT the function stays as it is.
    """

    def decorate(function: Callable) -> Any:
        if config.DISABLE_JIT:
            return function
        dispatcher = njit(
            error_model="numpy", forceinline=forceinline, inline=inline, no_cfunc_wrapper=signature is None
        )(function)  # fmt: skip
        try:
            dispatcher._cache = KernelCache(function)
        except (RuntimeError, OSError):  # no place that can be written
            _warn("no directory can be written")
        if signature is not None:
            dispatcher.compile(signature)
            dispatcher.disable_compile()
        return dispatcher

    return decorate


class KernelCache(FunctionCache):
    """Numba's cache of one function, with the content of all files it depends on as its stamp."""

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        own = Path(inspect.getfile(function))
        stamp = digest(own) if own.is_relative_to(PACKAGE) else self._cache_file._source_stamp
        self._cache_file._source_stamp = stamp

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The stored function, or None where there is none or it cannot be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # whatever the damaged or foreign bytes bring about
            self._give_up(error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store a function if that is possible."""
        try:
            super().save_overload(sig, data)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.disable()
        _warn(error)


def stored(function: Callable, signature: Any) -> bool:
    """Whether a sound compiled `function` for `signature` is on disk, or none is needed: the JIT is off."""
    if config.DISABLE_JIT:
        return True
    dispatcher = njit(error_model="numpy")(function)
    try:
        cache = KernelCache(function)
    except (RuntimeError, OSError):
        return False
    return cache.load_overload(signature, dispatcher.targetctx) is not None


def _warn(why: object) -> None:
    _warn_once(
        f"compiled kernels cannot be kept on disk ({why}); set NUMBA_CACHE_DIR to a directory "
        "of your own that can be written"
    )


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, CacheWarning, stacklevel=2)


@functools.cache
def digest(path: Path) -> str:
    """Hash of a file of the library and of all files of the library it imports, directly or not."""
    seen: dict[Path, bytes] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen[file], imports = _own_digest(file)
            waiting += imports
    total = hashlib.sha256()
    for file in sorted(seen):
        total.update(seen[file])
    return total.hexdigest()


@functools.cache
def _own_digest(file: Path) -> tuple[bytes, list[Path]]:
    """Hash of a file alone, and the files of the library it imports."""
    source = file.read_bytes()
    return hashlib.sha256(source).digest(), imported(source.decode())


def imported(source: str) -> list[Path]:
    """Files of the library that a source text imports, host-only rooms left out."""
    found = []
    for module, names in _IMPORT.findall(source):
        folder = PACKAGE.joinpath(*module.split(".")[1:])
        if module.split(".")[1:2] and module.split(".")[1] in HOST_ONLY:
            continue
        if folder.is_dir():
            words = [w for w in re.findall(r"\w+", names) if w not in HOST_ONLY]
            files = [folder / f"{w}.py" for w in words] + [
                folder / w / "__init__.py" for w in words
            ]
            inside = [f for f in files if f.exists()]
            found += inside if module == "" else [*inside, folder / "__init__.py"]
        else:
            found.append(folder.with_suffix(".py"))
    return [f for f in found if f.exists()]
