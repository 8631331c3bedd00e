"""Arrays that kernels only borrow: the CPU's entries take the counting of references out of all they call.

A compiled function counts references to the arrays it gets, also for every slice, with instructions that wait until all
numbers on their way to memory have arrived.  Kernels keep nothing beyond the call, so they need not count.
"""

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload


def borrowed(value: Any) -> Any:
    """An array, or a tuple of arrays, that is the same in all but this: nobody counts references to it."""
    return value


@overload(borrowed, target="cpu")
def _borrowed_cpu(value):
    return lambda value: _borrowed(value)


@intrinsic
def _borrowed(typing_context: Any, value: Any):
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _without_owner(context, builder, signature.args[0], arguments[0])

    return value(value), codegen


def _without_owner(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()
    members = cgutils.unpack_tuple(builder, value)
    parts = [
        _without_owner(context, builder, k, v) for k, v in zip(kind.types, members, strict=True)
    ]
    return context.make_tuple(builder, kind, parts)
