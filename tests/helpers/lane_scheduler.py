"""A deterministic team of lanes: kernels as plain Python, missing and divergent barriers found.

Each lane is a thread, but only one runs at a time: alone, until its next `sync()`.  Then the next
lane runs its part of the same phase, in ascending or descending order of lanes.  A kernel whose
barriers are right gives the same bits in both orders and for any number of lanes; where a barrier
is missing, one lane reads what another has not written yet, or has overwritten already, and the
orders disagree.  Lanes that wait at different barriers, or finish while others wait, are an error
that names the places.
"""

import functools
import sys
import threading
import types
from collections.abc import Callable, Sequence

import numpy as np

from lopt import lanes as hooks

ORDERS = ("ascending", "descending")
LANE_COUNTS = (1, 2, 3, 7, 32, 33)


class LaneError(AssertionError):
    """A kernel breaks the rules of lanes."""


def interpreted(function: Callable, replacements: dict) -> Callable:
    """A copy of a kernel and of all it calls, as plain Python, with some functions replaced.

    Args:
        function: a compiled kernel or a Python function.
        replacements: original function -> replacement, for instance the hooks of lopt.lanes.
    """
    return _interpret(function, dict(replacements))


def _interpret(function: Callable, done: dict) -> Callable:
    if function in done:
        return done[function]
    python = getattr(function, "py_func", function)
    namespace = dict(python.__globals__)
    copy = types.FunctionType(
        python.__code__, namespace, python.__name__, python.__defaults__, python.__closure__
    )
    done[function] = copy
    for name in python.__code__.co_names:
        value = namespace.get(name)
        if _is_kernel(value, done):
            namespace[name] = _interpret(value, done)
        elif isinstance(value, types.ModuleType) and value.__name__.startswith("lopt"):
            namespace[name] = _InterpretedModule(value, done)
    return copy


def _is_kernel(value: object, done: dict) -> bool:
    """Compiled functions are, and plain ones of lopt: what is left of them when the JIT is off."""
    if hasattr(value, "py_func") or value is hooks.apart:
        return True
    if not isinstance(value, types.FunctionType):
        return False
    return value in done or value.__module__.startswith("lopt")


class _InterpretedModule:
    """A module whose kernels are interpreted when they are asked for."""

    def __init__(self, module: types.ModuleType, done: dict) -> None:
        self._module, self._done = module, done

    def __getattr__(self, name: str) -> object:
        value = getattr(self._module, name)
        return _interpret(value, self._done) if _is_kernel(value, self._done) else value


class _Team:
    """Lanes that take turns.  A lane's `site` is where it waits: its calls from the kernel down."""

    def __init__(self, lanes: int, order: str) -> None:
        self.lanes = lanes
        # Locks as signals between threads: released by one, acquired by the other.
        self.turn = [_locked() for _ in range(lanes)]
        self.back = _locked()
        self.finished = [False] * lanes
        self.flags = [False] * lanes
        self.site: list[tuple | None] = [None] * lanes
        self.results: list = [None] * lanes
        self.errors: list[BaseException | None] = [None] * lanes
        self.stopping = False
        self.order = range(lanes) if order == "ascending" else range(lanes - 1, -1, -1)

    def wait(self, site: tuple) -> None:
        """End the running lane's phase at a barrier."""
        lane = _here.lane
        self.site[lane] = site
        self.back.release()
        self.turn[lane].acquire()
        if self.stopping:
            raise SystemExit

    def live(self, lane: int, function: Callable, arguments: tuple) -> None:
        """What the thread of a lane does."""
        _here.lane, _here.team = lane, self
        self.turn[lane].acquire()
        try:
            if not self.stopping:
                with np.errstate(all="ignore"):
                    self.results[lane] = function(*arguments)
        except SystemExit:
            pass
        except BaseException as error:  # raised again by `phase`
            self.errors[lane] = error
        self.site[lane] = None
        self.finished[lane] = True
        self.back.release()

    def phase(self) -> bool:
        """One phase of every lane; False when all have finished."""
        for lane in self.order:
            self.turn[lane].release()
            self.back.acquire()
            if self.errors[lane] is not None:
                raise self.errors[lane]
        first = self.site[0]
        for lane, site in enumerate(self.site):
            if site != first:
                raise LaneError(
                    f"divergent barrier: lane 0 {_describe(first)}, lane {lane} {_describe(site)}"
                )
        return first is not None

    def stop(self) -> None:
        """End the lanes that still wait."""
        self.stopping = True
        for lane, finished in enumerate(self.finished):
            if not finished:
                self.turn[lane].release()
                self.back.acquire()


def _locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


_here = threading.local()


def _call_sites(frame: types.FrameType | None) -> tuple:
    """(function, line) of every frame from a barrier up to the kernel's entry."""
    sites = []
    while frame is not None and frame.f_code is not _Team.live.__code__:
        sites.append((frame.f_code.co_name, frame.f_lineno))
        frame = frame.f_back
    return tuple(sites)


def _describe(site: tuple | None) -> str:
    if site is None:
        return "has finished"
    return "waits in " + " called from ".join(f"{name} (line {line})" for name, line in site)


def _sync() -> None:
    _here.team.wait(_call_sites(sys._getframe(1)))


def _anywhere(flag: bool) -> bool:
    """Flags of all lanes, each shown before a barrier and read after it."""
    team = _here.team
    team.flags[_here.lane] = bool(flag)
    team.wait(_call_sites(sys._getframe(1)))
    found = any(team.flags)
    team.wait(_call_sites(sys._getframe(1)))
    return found


def _matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """The contract of `matmul`, element by element, so that the bits do not depend on the lanes."""
    for name, x in (("a", a), ("b", b)):
        if not (x.flags.c_contiguous or x.flags.f_contiguous):
            raise LaneError(f"matmul: {name} of shape {x.shape} is not contiguous")
        if np.shares_memory(x, out):
            raise LaneError(f"matmul: out shares memory with {name}")
    if not out.flags.c_contiguous or out.shape != (a.shape[0], b.shape[1]):
        raise LaneError(f"matmul: out has shape {out.shape}, or is not C-contiguous")
    _sync()
    n = out.shape[1]
    for i in range(_here.lane, out.size, _here.team.lanes):
        out[i // n, i % n] = np.dot(a[i // n], b[:, i % n])
    _sync()


def _layer(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray, out: np.ndarray, n: int, floor: np.floating
) -> None:
    """The contract of `layer`, element by element."""
    depth, m = x.shape[0], out.shape[0]
    read = (m, n)[: bias.ndim]
    for name, a, least in (("x", x, (depth, n)), ("w", w, (depth, m)), ("bias", bias, read)):
        if not a.flags.c_contiguous or any(s < k for s, k in zip(a.shape, least, strict=True)):
            raise LaneError(f"layer: {name} has shape {a.shape}, or is not C-contiguous")
        if np.shares_memory(a, out):
            raise LaneError(f"layer: out shares memory with {name}")
    if not out.flags.c_contiguous or out.shape[1] < n or depth < 1:
        raise LaneError(f"layer: out has shape {out.shape}, or is not C-contiguous")
    _sync()
    for q in range(_here.lane, m * n, _here.team.lanes):
        j, i = divmod(q, n)
        start = bias[j] if bias.ndim == 1 else bias[j, i]
        out[j, i] = np.fmax(np.dot(w[:depth, j], x[:, i]) + start, floor)
    _sync()


_HOOKS = {
    hooks.lane: lambda: _here.lane,
    hooks.lanes: lambda: _here.team.lanes,
    hooks.sync: _sync,
    hooks.anywhere: _anywhere,
    hooks.apart: lambda: None,
    hooks.matmul: _matmul,
    hooks.layer: _layer,
}


@functools.cache
def on_team(kernel: Callable) -> Callable:
    """A kernel as plain Python whose hooks are those of the running team."""
    return interpreted(kernel, _HOOKS)


def run(kernel: Callable, arguments: tuple, lanes: int, order: str = "ascending") -> list:
    """Run a kernel with a team of lanes; returns what each lane returned.

    Raises:
        LaneError: lanes wait at different barriers, or one finishes while another waits.
    """
    team = _Team(lanes, order)
    function = on_team(kernel)
    threads = [
        threading.Thread(target=team.live, args=(lane, function, arguments))
        for lane in range(lanes)
    ]
    for thread in threads:
        thread.start()
    try:
        while team.phase():
            pass
    finally:
        team.stop()
        for thread in threads:
            thread.join()
    return team.results


def check(
    kernel: Callable,
    make_arguments: Callable[[], tuple],
    scratch: Sequence[int] = (),
    lane_counts: Sequence[int] = LANE_COUNTS,
) -> None:
    """Assert that a kernel gives the bits of one lane for any number of lanes and in both orders.

    Args:
        make_arguments: fresh, equal arguments at each call; arrays may be changed by the kernel.
        scratch: indices of the arguments whose contents do not matter afterwards; they are filled
            with NaN before each run.

    Raises:
        LaneError: results differ, or a barrier diverges.
    """
    expected = None
    for lanes in lane_counts:
        for order in ORDERS if lanes > 1 else ORDERS[:1]:
            arguments = make_arguments()
            for i in scratch:
                arguments[i].fill(np.nan)
            results = run(kernel, arguments, lanes, order)
            kept = [a for i, a in enumerate(arguments) if i not in scratch]
            found = _bits([results[0], *kept])
            where = f"{lanes} lanes, {order}"
            for lane, result in enumerate(results):
                if _bits([result]) != _bits([results[0]]):
                    raise LaneError(f"{where}: lane {lane} returned {result}, lane 0 {results[0]}")
            expected = found if expected is None else expected
            for i, (a, b) in enumerate(zip(found, expected, strict=True)):
                if a != b:
                    what = "the return value" if i == 0 else f"array {i - 1} of those kept"
                    raise LaneError(f"missing barrier? {where}: {what} differs from one lane's")


def _bits(values: Sequence) -> list[bytes]:
    """The bytes of numbers, arrays and tuples of arrays."""
    return [b"".join(_bits(v)) if isinstance(v, tuple) else np.asarray(v).tobytes() for v in values]
