"""What the hooks of `lopt.lanes` mean on CUDA: a team is a thread block, a lane is a thread.

Loading this module registers them.  It needs numba-cuda, not a GPU.

Matrix products.  A thread that makes one number of a product reads two numbers for each multiply-add, and a
multiprocessor adds four times as fast as it reads.  Here a thread makes a tile of 4 x 4, reading 8 numbers for 16
multiply-adds: 4 of a row that its neighbours share (one broadcast each), 4 of columns that lie apart so that
neighbours read neighbours.  Products too small to give every thread a tile are made number by number.
"""

import numpy as np
from numba import cuda, types
from numba.cuda.extending import intrinsic
from numba.cuda.np.arrayobj import get_cfarray_intrinsic
from numba.extending import overload

from lopt import cuda_device, lanes, stretches
from lopt.lanes import Returned

TILE = 4


@overload(lanes.lane, target="cuda")
def _lane():
    return lambda: cuda.threadIdx.x


@overload(lanes.lanes, target="cuda")
def _lanes():
    return lambda: cuda.blockDim.x


@overload(lanes.team, target="cuda")
def _team():
    return lambda: cuda.blockIdx.x


@overload(lanes.teams, target="cuda")
def _teams():
    return lambda: cuda.gridDim.x


@overload(lanes.sync, target="cuda")
def _sync():
    return lambda: cuda.syncthreads()


@overload(lanes.anywhere, target="cuda")
def _anywhere(flag):
    return lambda flag: cuda.syncthreads_or(np.int32(1 if flag else 0)) != 0


@intrinsic
def pointer(typing_context, address):
    """The address as a pointer to float32."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(address), generate


array_at = get_cfarray_intrinsic("C", None)  # `carray`, which as a function could not return it


@overload(cuda_device.floats_at, target="cuda")
def _floats_at(address, n):
    return lambda address, n: Returned(array_at(pointer(address), n))


@cuda.jit(device=True, forceinline=True)
def tile(a, b, row, column, apart, rows, columns, depth):
    """Rows row .. row + 3 of a @ b at columns column, column + apart, ...: four tuples of four; outside, the last ones."""
    r1, r2, r3 = min(row + 1, rows - 1), min(row + 2, rows - 1), min(row + 3, rows - 1)
    c1, c2 = min(column + apart, columns - 1), min(column + 2 * apart, columns - 1)
    c3 = min(column + 3 * apart, columns - 1)
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = b.dtype.type(0)
    s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = b.dtype.type(0)
    for k in range(depth):
        a0, a1, a2, a3 = a[row, k], a[r1, k], a[r2, k], a[r3, k]
        b0, b1, b2, b3 = b[k, column], b[k, c1], b[k, c2], b[k, c3]
        s00 += a0 * b0
        s01 += a0 * b1
        s02 += a0 * b2
        s03 += a0 * b3
        s10 += a1 * b0
        s11 += a1 * b1
        s12 += a1 * b2
        s13 += a1 * b3
        s20 += a2 * b0
        s21 += a2 * b1
        s22 += a2 * b2
        s23 += a2 * b3
        s30 += a3 * b0
        s31 += a3 * b1
        s32 += a3 * b2
        s33 += a3 * b3
    return (
        (s00, s01, s02, s03), (s10, s11, s12, s13), (s20, s21, s22, s23), (s30, s31, s32, s33),
    )  # fmt: skip


@cuda.jit(device=True, forceinline=True)
def put(out, row, column, apart, n, s):
    """Four numbers of a tile's row, those inside."""
    if row < out.shape[0]:
        out[row, column] = s[0]
        if column + apart < n:
            out[row, column + apart] = s[1]
        if column + 2 * apart < n:
            out[row, column + 2 * apart] = s[2]
        if column + 3 * apart < n:
            out[row, column + 3 * apart] = s[3]


@cuda.jit(device=True, forceinline=True)
def of_a_row(bias, j, i):
    """Bias of a layer's output j."""
    return bias[j]


@cuda.jit(device=True, forceinline=True)
def of_an_element(bias, j, i):
    """Bias of output j for example i."""
    return bias[j, i]


@overload(lanes.matmul, target="cuda")
def _matmul(a, b, out):
    def impl(a, b, out):
        cuda.syncthreads()
        m, n = out.shape
        depth = a.shape[1]
        if m * n >= TILE * TILE * cuda.blockDim.x:
            groups = (n + TILE - 1) // TILE
            for q in range(cuda.threadIdx.x, groups * ((m + TILE - 1) // TILE), cuda.blockDim.x):
                row = TILE * (q // groups)
                column = q % groups
                s = tile(a, b, row, column, groups, m, n, depth)
                put(out, row, column, groups, n, s[0])
                put(out, row + 1, column, groups, n, s[1])
                put(out, row + 2, column, groups, n, s[2])
                put(out, row + 3, column, groups, n, s[3])
        else:
            for q in range(cuda.threadIdx.x, m * n, cuda.blockDim.x):
                row = q // n
                column = q - row * n
                total = out.dtype.type(0)
                for k in range(depth):
                    total += a[row, k] * b[k, column]
                out[row, column] = total
        cuda.syncthreads()

    return impl


@overload(lanes.layer, target="cuda")
def _layer(x, w, bias, out, n, floor):
    start = of_a_row if bias.ndim == 1 else of_an_element

    @cuda.jit(device=True, forceinline=True)
    def activated(s, bias, row, column, apart, n, floor):
        """max(sum + bias, floor) of four; a NaN becomes the floor."""
        a = s[0] + start(bias, row, column)
        b = s[1] + start(bias, row, min(column + apart, n - 1))
        c = s[2] + start(bias, row, min(column + 2 * apart, n - 1))
        d = s[3] + start(bias, row, min(column + 3 * apart, n - 1))
        return (
            a if a > floor else floor, b if b > floor else floor, c if c > floor else floor, d if d > floor else floor,
        )  # fmt: skip

    def impl(x, w, bias, out, n, floor):
        cuda.syncthreads()
        m, depth = out.shape[0], x.shape[0]
        if m * n >= TILE * TILE * cuda.blockDim.x:
            groups = (n + TILE - 1) // TILE
            for q in range(cuda.threadIdx.x, groups * ((m + TILE - 1) // TILE), cuda.blockDim.x):
                j = TILE * (q // groups)
                i = q % groups
                s = tile(w.T, x, j, i, groups, m, n, depth)
                j1, j2, j3 = min(j + 1, m - 1), min(j + 2, m - 1), min(j + 3, m - 1)
                put(out, j, i, groups, n, activated(s[0], bias, j, i, groups, n, floor))
                put(out, j + 1, i, groups, n, activated(s[1], bias, j1, i, groups, n, floor))
                put(out, j + 2, i, groups, n, activated(s[2], bias, j2, i, groups, n, floor))
                put(out, j + 3, i, groups, n, activated(s[3], bias, j3, i, groups, n, floor))
        else:
            for q in range(cuda.threadIdx.x, m * n, cuda.blockDim.x):
                j = q // n
                i = q - j * n
                total = start(bias, j, i)
                for k in range(depth):
                    total += w[k, j] * x[k, i]
                out[j, i] = total if total > floor else floor
        cuda.syncthreads()

    return impl


@overload(lanes.add_row_sums, target="cuda")
def _add_row_sums(rows: np.ndarray, n: int, partials: np.ndarray):
    return lanes.add_row_sums


@overload(lanes.add_row_squares, target="cuda")
def _add_row_squares(rows: np.ndarray, n: int, partials: np.ndarray):
    return lanes.add_row_squares


@overload(stretches.outer_products, target="cuda")
def _outer_products(
    target: np.ndarray, start: int, values: np.ndarray, fixed: int, moving: int, n: int
):
    return stretches.outer_products


@overload(stretches.outer_sums, target="cuda")
def _outer_sums(
    target: np.ndarray, start: int, values: np.ndarray, fixed: int, moving: int, n: int
):
    return stretches.outer_sums
