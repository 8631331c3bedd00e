"""No subnormal numbers on the CPU: results below the smallest normal number become 0, arguments count as 0.

Parameters and accumulators that converge pass through the subnormal range, where many CPUs take a hundred times longer
for an operation; and they may stay there, since halving the smallest number rounds back to it.  GPUs have no such cliff.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, overload

X86_BITS = 0x8040  # of MXCSR: flush results to zero, take arguments as zero
ARM_BITS = 1 << 24  # of FPCR: both


def _register() -> tuple[str, int]:
    """Kind of control register of this machine, and its bits for subnormal numbers."""
    triple = cpu_target.target_context.codegen().magic_tuple()[0]
    if triple.startswith(("x86_64", "i386", "i686")):
        return "x86", X86_BITS
    return ("arm", ARM_BITS) if triple.startswith(("aarch64", "arm64")) else ("", 0)


def flush() -> int:
    """Begin to flush in this thread; returns the control register as it was, for `restore`.  Plain Python: nothing."""
    return 0


def restore(before: int) -> None:
    """Put back what `flush` found."""


@overload(flush, target="cpu")
def _flush_cpu():
    return lambda: _flush()


@overload(restore, target="cpu")
def _restore_cpu(before):
    return lambda before: _restore(before)


@intrinsic
def _flush(typing_context: Any):

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        kind, bits = _register()
        before = _read(builder, kind)
        _write(builder, kind, builder.or_(before, before.type(bits)))
        return builder.zext(before, ir.IntType(64)) if before.type.width < 64 else before

    return types.int64(), codegen


@intrinsic
def _restore(typing_context: Any, before: Any):

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        kind, _ = _register()
        value = arguments[0]
        _write(builder, kind, builder.trunc(value, ir.IntType(32)) if kind == "x86" else value)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def _read(builder: ir.IRBuilder, kind: str) -> ir.Value:
    if kind == "x86":
        place = cgutils.alloca_once(builder, ir.IntType(32))
        _call(builder, "x86.sse.stmxcsr", ir.VoidType(), builder.bitcast(place, cgutils.voidptr_t))
        return builder.load(place)
    word = ir.IntType(64)
    return _call(builder, "aarch64.get.fpcr", word) if kind == "arm" else word(0)


def _write(builder: ir.IRBuilder, kind: str, value: ir.Value) -> None:
    if kind == "x86":
        place = cgutils.alloca_once_value(builder, value)
        _call(builder, "x86.sse.ldmxcsr", ir.VoidType(), builder.bitcast(place, cgutils.voidptr_t))
    elif kind == "arm":
        _call(builder, "aarch64.set.fpcr", ir.VoidType(), value)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}"), arguments
    )
