"""Outer products and outer sums of vectors, a stretch of one row of them at a time: two more hooks.

Stretches are short (32 numbers, 10 numbers), so LLVM's vectoriser would spend most of its time on what is left over
from whole groups of 64.  On the CPU they are written as vectors here, the last one masked; see `lopt.tiles`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from lopt.lanes import lane, lanes
from lopt.tiles import Vectors, arrays_of, vector_unit


def outer_products(
    target: np.ndarray, start: int, values: np.ndarray, fixed: int, moving: int, n: int
) -> None:
    """target[k, start + i] = values[k, fixed] * values[k, moving + i] for i < n and every row k of target.  No barrier.

    Shapes: target (K, >= start + n), values (>= K, any), both C-contiguous and distinct.
    """
    for k in range(target.shape[0]):
        for i in range(lane(), n, lanes()):
            target[k, start + i] = values[k, fixed] * values[k, moving + i]


def outer_sums(
    target: np.ndarray, start: int, values: np.ndarray, fixed: int, moving: int, n: int
) -> None:
    """`outer_products` with sums: target[k, start + i] = values[k, fixed] + values[k, moving + i]."""
    for k in range(target.shape[0]):
        for i in range(lane(), n, lanes()):
            target[k, start + i] = values[k, fixed] + values[k, moving + i]


@overload(outer_products, target="cpu")
def _outer_products_cpu(target, start, values, fixed, moving, n):
    return _vectorised("fmul", target.dtype.bitwidth // 8)


@overload(outer_sums, target="cpu")
def _outer_sums_cpu(target, start, values, fixed, moving, n):
    return _vectorised("fadd", target.dtype.bitwidth // 8)


def _vectorised(operation: str, itemsize: int) -> Callable[..., None]:
    """One of the hooks for numbers of that size, ready to be compiled; operation: its name in LLVM."""
    width = vector_unit()[0] // itemsize

    @intrinsic
    def stretch(typing_context: Any, target, start, values, fixed, moving, n):
        index = types.int64
        signature = types.void(target, index, values, index, index, index)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            target, start, values, fixed, moving, n = arrays_of(
                context, builder, signature, arguments
            )
            v, number = Vectors(builder, target.number, width), ir.IntType(64)
            blocks = builder.udiv(n, number(width))
            whole = builder.mul(blocks, number(width))

            def one(k: ir.Value, first: ir.Value, i: ir.Value, mask: ir.Value | None) -> None:
                x = v.load(values.at(k, builder.add(moving, i)), 0, mask)
                result = getattr(builder, operation)(first, x)
                v.store(result, target.at(k, builder.add(start, i)), 0, mask)

            with cgutils.for_range(builder, target.size(0)) as rows:
                first = v.splat(builder.load(values.at(rows.index, fixed)))
                with cgutils.for_range(builder, blocks) as loop:
                    one(rows.index, first, builder.mul(loop.index, number(width)), None)
                with builder.if_then(builder.icmp_unsigned("<", whole, n)):
                    many = builder.icmp_unsigned(">=", n, number(width))
                    with builder.if_else(many) as (then, otherwise):
                        with then:  # some numbers twice: cheaper than a store with a mask
                            one(rows.index, first, builder.sub(n, number(width)), None)
                        with otherwise:
                            one(rows.index, first, whole, v.below(n, 0))
            return context.get_dummy_value()

        return signature, codegen

    return lambda target, start, values, fixed, moving, n: stretch(
        target, start, values, fixed, moving, n
    )
