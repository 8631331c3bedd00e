"""What a team of lanes is on each target: `lane()`, `lanes()`, `sync()`, `anywhere()`, `matmul()`, `layer()`,
`add_row_sums()`, `add_row_squares()`; what several are: `team()`, `teams()`; and `apart()`, which is about code.

A team works on one problem.  On the CPU a team is one lane; on CUDA a team is a thread block and a lane is a thread.
Kernels are module-level `@kernel` functions that loop over `range(lane(), n, lanes())` and put `sync()` between phases;
these hooks get their meaning from Numba's per-target overloads, so one source serves all targets.

Rules for kernels
    * `sync()` only at the top level of a function or in loops whose bounds are equal for all lanes.
    * No explicit signature on a core kernel: it would freeze the dispatcher and CUDA would refuse the function.
    * Constants take the dtype of the data (`x.dtype.type(0.5)`), so that float32 stays float32.
    * Reductions go through `sum32`, whose order of summation does not depend on the number of lanes.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import config, types
from numba.extending import intrinsic, overload
from threadpoolctl import threadpool_limits

from lopt.kernel_cache import jit, stored
from lopt.tiles import row_sums, tiled_layer

PARTIALS = 32  # partial sums of a reduction; fixed: its bits must not depend on the number of lanes

kernel = jit()
single_use = jit(
    inline="always"
)  # of one caller: saves a level of linking, where all is optimised once more
inlined = jit(
    forceinline=True
)  # pieces of a loop body: the loop vectorises; LLVM alone finds them too big


class entry_point:
    """The CPU's first-class entry of a kernel or a plain function, compiled for one signature on first use.

    Functions of equal signature are interchangeable at run time, so a loop that calls them compiles once and is cached
    on disk.  Compilation waits for the first use because importing lopt must stay cheap.  As a class attribute it
    reads as the compiled function; elsewhere use `.compiled`.
    """

    def __init__(self, signature: Any) -> None:
        self._signature = signature

    def __call__(self, function: Callable[..., Any]) -> "entry_point":
        self._function = getattr(function, "py_func", function)
        return self

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        return self.compiled

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        """The compiled function."""
        return jit(self._signature)(self._function)

    @property
    def stored(self) -> bool:
        """Whether it is on disk already, compiled for this machine from the present sources."""
        return stored(self._function, self._signature)


class Returned(NamedTuple):
    """An array made in a kernel for its caller; in a tuple, since functions on CUDA return no bare arrays."""

    array: np.ndarray


def lane() -> int:
    """Index of this lane in its team, 0 <= lane() < lanes()."""
    return 0


def lanes() -> int:
    """Number of lanes in the team; 1 on the CPU."""
    return 1


def team() -> int:
    """Index of this team, 0 <= team() < teams()."""
    return 0


def teams() -> int:
    """Number of teams that were launched together; 1 on the CPU."""
    return 1


def sync() -> None:
    """Wait until all lanes of the team arrive; nothing on the CPU."""


def anywhere(flag: bool) -> bool:
    """Whether `flag` is true on any lane.  All lanes call it; it synchronises."""
    return flag


def _apart(typing_context: Any) -> Any:
    """First line of a kernel with several callers: on CUDA they share one piece of code, not one each; nothing on the CPU.

    A GPU's compiler otherwise puts a whole task or optimizer wherever it is called.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if type(context).__module__.startswith("numba.cuda"):
            builder.function.attributes.add("noinline")  # the kernel it stands in
        return context.get_dummy_value()

    return types.void(), generate


# An intrinsic, since a function's body would be one of its own; kernels in plain Python need a function.
apart = (lambda: None) if config.DISABLE_JIT else intrinsic(_apart)


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = a @ b.  All lanes call it; it synchronises before and after.

    Shapes: a (m, k), b (k, n), each C- or F-contiguous; out (m, n) C-contiguous, OVERWRITTEN, distinct from a and b.
    """
    np.dot(a, b, out)


def layer(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray, out: np.ndarray, n: int, floor: np.floating
) -> None:
    """out = max(w^T x + bias, floor), a layer whose n examples are columns.  All lanes call it; it synchronises as `matmul`.

    Shapes: x (K, >= n), w (>= K, >= m), bias (>= m,) or (>= m, >= n), C-contiguous, of which what is beyond is not read;
    out (m, >= n) C-contiguous, OVERWRITTEN up to column n, distinct from the others; floor of their dtype: 0 is a ReLU,
    -inf nothing.
    A NaN becomes the floor.  On the CPU the bits of a column do not depend on the other columns.
    """
    m = out.shape[0]
    product = w[: x.shape[0], :m].T @ x[:, :n]
    start = bias[:m, None] if bias.ndim == 1 else bias[:m, :n]
    out[:, :n] = np.fmax(product + start, floor)


def add_row_sums(rows: np.ndarray, n: int, partials: np.ndarray) -> None:
    """Add n elements of each row of rows (F, >= n) to its 32 partial sums (F, 32): element i to partial i % 32, i ascending.

    No barrier: each partial belongs to one lane, and the bits do not depend on the number of lanes.
    """
    for q in range(lane(), PARTIALS * rows.shape[0], lanes()):
        c, k = q // PARTIALS, q % PARTIALS
        for i in range(k, n, PARTIALS):
            partials[c, k] += rows[c, i]


def add_row_squares(rows: np.ndarray, n: int, partials: np.ndarray) -> None:
    """`add_row_sums` of the squares."""
    for q in range(lane(), PARTIALS * rows.shape[0], lanes()):
        c, k = q // PARTIALS, q % PARTIALS
        for i in range(k, n, PARTIALS):
            partials[c, k] += rows[c, i] * rows[c, i]


@overload(lane, target="cpu")
def _lane_cpu():
    return lambda: 0


@overload(lanes, target="cpu")
def _lanes_cpu():
    return lambda: 1


@overload(team, target="cpu")
def _team_cpu():
    return lambda: 0


@overload(teams, target="cpu")
def _teams_cpu():
    return lambda: 1


@overload(sync, target="cpu")
def _sync_cpu():
    return lambda: None


@overload(anywhere, target="cpu")
def _anywhere_cpu(flag):
    return lambda flag: flag


@overload(matmul, target="cpu")
def _matmul_cpu(a, b, out):
    def impl(a, b, out):
        np.dot(a, b, out)

    return impl


@overload(layer, target="cpu")
def _layer_cpu(x, w, bias, out, n, floor):
    return tiled_layer(x.dtype.bitwidth // 8, bias.ndim == 2)


@overload(add_row_sums, target="cpu")
def _add_row_sums_cpu(rows, n, partials):
    return row_sums(rows.dtype.bitwidth // 8, PARTIALS, False)


@overload(add_row_squares, target="cpu")
def _add_row_squares_cpu(rows, n, partials):
    return row_sums(rows.dtype.bitwidth // 8, PARTIALS, True)


@kernel
def add_partials(values, n, partials):
    """partials[k] += sum of values[k], values[k + 32], ... below n, for the 32 k.  No barrier."""
    whole = n - n % PARTIALS
    for base in range(0, whole, PARTIALS):
        for k in range(lane(), PARTIALS, lanes()):
            partials[k] += values[base + k]
    for k in range(lane(), n - whole, lanes()):
        partials[k] += values[whole + k]


@kernel
def add_square_partials(values, n, partials):
    """`add_partials` of the squares."""
    whole = n - n % PARTIALS
    for base in range(0, whole, PARTIALS):
        for k in range(lane(), PARTIALS, lanes()):
            partials[k] += values[base + k] * values[base + k]
    for k in range(lane(), n - whole, lanes()):
        partials[k] += values[whole + k] * values[whole + k]


@kernel
def clear_partials(partials):
    """Set 32 partial sums to 0.  No barrier: each lane clears what it adds to."""
    for k in range(lane(), PARTIALS, lanes()):
        partials[k] = partials.dtype.type(0)


@kernel
def fold_partials(partials):
    """Sum of the 32 partials in ascending order, on every lane.  Two barriers around the reading."""
    sync()
    total = partials.dtype.type(0)
    for k in range(PARTIALS):
        total += partials[k]
    sync()
    return total


@kernel
def sum32(values, n, partials):
    """Sum of values[:n], the same bits for any number of lanes; `partials` is scratch of at least 32 elements."""
    clear_partials(partials)
    add_partials(values, n, partials)
    return fold_partials(partials)


@kernel
def has_nonfinite(x):
    """Whether an element of x is NaN or infinite, in float32 terms; known to every lane, it synchronises."""
    most = x.dtype.type(3.4028235e38)  # the largest float32
    bad = 0
    for i in range(lane(), x.size, lanes()):
        if not (abs(x[i]) <= most):
            bad += 1
    return anywhere(bad > 0)


@functools.cache
def pin_blas_threads() -> None:
    """Give this process one BLAS thread, whatever the environment says.

    A rank is one core; a second BLAS thread would fight with the neighbouring rank and change nothing in the results.
    Called once by everything that runs kernels on the host.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for child processes
    threadpool_limits(limits=1, user_api="blas")


def register_cuda() -> None:
    """Give the hooks their CUDA meaning.  Needs numba-cuda, not a GPU; importing lopt does not call it."""
    from lopt import cuda_lanes  # noqa: F401 - loading it registers
