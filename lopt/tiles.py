"""Inner loops of the CPU that keep their sums in vector registers: small matrix products, and sums along rows.

A BLAS copies its operands into buffers of its own before it multiplies, and hands the result over through memory.  For
the 23 x 32 and 32 x 32 layers of learned optimizers that costs a tenth to a third of the time.  Here a tile of a layer's
result is summed in registers and stored once, bias and activation included.  Each number is one chain of fused
multiply-adds, k ascending: its bits do not depend on the tile it falls into, nor on how columns are cut into blocks.
Sums along rows likewise stay in registers from one end of a row to the other.

These loops are written in LLVM's language, because its vectoriser does not keep tiles in registers.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def vector_unit() -> tuple[int, int]:
    """Bytes of a vector register of this machine's CPU, and how many there are."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    if "+avx512f" in features:
        return 64, 32
    if "+avx" in features:
        return 32, 16
    return 16, 32 if triple.startswith("aarch64") else 16


def tiled_layer(itemsize: int, per_column: bool) -> Callable[..., None]:
    """`lopt.lanes.layer` for numbers of that size, ready to be compiled: tiles side by side, narrow ones at the end.

    per_column: the bias has a column for each example.
    """
    size, registers = vector_unit()
    rows, vectors, width = 4, registers // 8, size // itemsize  # half of the registers hold sums
    columns, pair = vectors * width, 2 * rows
    tile, tile_of_two = (make_tile(r, vectors, width, False, per_column) for r in (rows, 2))
    last_pair, last, last_row = (make_tile(r, 1, width, True, per_column) for r in (pair, rows, 1))

    def layer(x, w, bias, out, n, floor):
        m = out.shape[0]
        paired, fours, twos = m - m % pair, m - m % rows, m - m % 2
        whole = n - n % columns
        for i in range(0, whole, columns):
            for j in range(0, fours, rows):
                tile(x, w, bias, out, n, floor, i, j)
            for j in range(fours, twos, 2):
                tile_of_two(x, w, bias, out, n, floor, i, j)
        for i in range(0, whole if twos < m else 0, width):
            last_row(x, w, bias, out, n, floor, i, twos)
        for i in range(whole, n, width):
            for j in range(0, paired, pair):
                last_pair(x, w, bias, out, n, floor, i, j)
            for j in range(paired, fours, rows):
                last(x, w, bias, out, n, floor, i, j)
            for j in range(fours, m):
                last_row(x, w, bias, out, n, floor, i, j)

    return layer


def row_sums(itemsize: int, partial_sums: int, squares: bool) -> Callable[..., None]:
    """`lopt.lanes.add_row_sums` or `add_row_squares` for numbers of that size, ready to be compiled."""
    size, registers = vector_unit()
    width = size // itemsize
    many = max(1, registers // 4 * width // partial_sums)
    several, single = (make_row_sums(r, partial_sums, width, squares) for r in (many, 1))

    def sums(rows, n, partials):
        whole = rows.shape[0] - rows.shape[0] % many
        for c in range(0, whole, many):
            several(rows, n, partials, c)
        for c in range(whole, rows.shape[0]):
            single(rows, n, partials, c)

    return sums


def make_tile(
    rows: int, vectors: int, width: int, masked: bool, per_column: bool
) -> Callable[..., None]:
    """A function tile(x, w, bias, out, n, floor, i, j) that computes out[j : j + rows, i : i + vectors * width].

    Arrays as in `lopt.lanes.layer`.  masked: columns from n on are left out.  per_column: so is the bias.
    """

    @intrinsic
    def tile(typing_context: Any, x, w, bias, out, n, floor, i, j):
        index = types.int64
        signature = types.void(x, w, bias, out, index, floor, index, index)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            x, w, bias, out, n, floor, i, j = arrays_of(context, builder, signature, arguments)
            v = Vectors(builder, x.number, width)
            count = builder.sub(n, i)
            masks = [v.below(count, c * width) if masked else None for c in range(vectors)]
            sums = [[v.variable() for _ in range(vectors)] for _ in range(rows)]
            for r in range(rows):
                row = builder.add(j, _I64(r))
                for c in range(vectors):
                    if per_column:
                        start = v.load(bias.at(row, i), c, masks[c])
                    else:
                        start = v.splat(builder.load(bias.at(row)))
                    builder.store(start, sums[r][c])
            with cgutils.for_range(builder, x.size(0)) as loop:
                values = [v.load(x.at(loop.index, i), c, masks[c]) for c in range(vectors)]
                for r in range(rows):
                    weight = v.splat(builder.load(w.at(loop.index, builder.add(j, _I64(r)))))
                    for c in range(vectors):
                        v.add_product(sums[r][c], weight, values[c])
            low = v.splat(floor)
            for r in range(rows):
                for c in range(vectors):
                    total = builder.load(sums[r][c])
                    total = builder.select(builder.fcmp_ordered(">", total, low), total, low)
                    v.store(total, out.at(builder.add(j, _I64(r)), i), c, masks[c])
            return context.get_dummy_value()

        return signature, codegen

    return tile


def make_row_sums(rows: int, partials: int, width: int, squares: bool) -> Callable[..., None]:
    """A function sums(x, n, partial_sums, c) for rows c .. c + rows - 1; arrays as in `lopt.lanes.add_row_sums`."""
    vectors = partials // width

    @intrinsic
    def sums(typing_context: Any, x, n, partial_sums, c):
        signature = types.void(x, types.int64, partial_sums, types.int64)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            x, n, sums, first = arrays_of(context, builder, signature, arguments)
            v = Vectors(builder, x.number, width)
            places = [(builder.add(first, _I64(r)), q) for r in range(rows) for q in range(vectors)]
            totals = [v.variable() for _ in places]
            for total, (row, q) in zip(totals, places, strict=True):
                builder.store(v.load(sums.at(row, _I64(0)), q), total)

            def add(column: ir.Value, masks: list[ir.Value | None]) -> None:
                for total, (row, q) in zip(totals, places, strict=True):
                    value = v.load(x.at(row, column), q, masks[q])
                    if squares:
                        v.add_product(total, value, value)
                    else:
                        builder.store(builder.fadd(builder.load(total), value), total)

            blocks = builder.udiv(n, _I64(partials))
            whole = builder.mul(blocks, _I64(partials))
            with cgutils.for_range(builder, blocks) as loop:
                add(builder.mul(loop.index, _I64(partials)), [None] * vectors)
            with builder.if_then(builder.icmp_unsigned("<", whole, n)):
                rest = builder.sub(n, whole)
                add(whole, [v.below(rest, q * width) for q in range(vectors)])
            for total, (row, q) in zip(totals, places, strict=True):
                v.store(builder.load(total), sums.at(row, _I64(0)), q)
            return context.get_dummy_value()

        return signature, codegen

    return sums


class _Array:
    """A C-contiguous array of an intrinsic's arguments."""

    def __init__(self, builder: ir.IRBuilder, array: Any, number: ir.Type) -> None:
        self.builder, self.number = builder, number
        self.data, self.shape = array.data, cgutils.unpack_tuple(builder, array.shape)

    def size(self, axis: int) -> ir.Value:
        """Length of an axis."""
        return self.shape[axis]

    def at(self, *index: ir.Value) -> ir.Value:
        """Address of an element."""
        place = index[0]
        for axis, i in enumerate(index[1:], 1):
            place = self.builder.add(self.builder.mul(place, self.shape[axis]), i)
        return self.builder.gep(self.data, [place])


def arrays_of(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> list[Any]:
    """The arguments that are arrays, ready for use; the others as they are."""
    found = []
    for kind, argument in zip(signature.args, arguments, strict=False):
        if isinstance(kind, types.Array):
            array = context.make_array(kind)(context, builder, argument)
            argument = _Array(builder, array, context.get_value_type(kind.dtype))
        found.append(argument)
    return found


class Vectors:
    """Writes code for vectors of `width` numbers."""

    def __init__(self, builder: ir.IRBuilder, number: ir.Type, width: int) -> None:
        self.builder, self.width = builder, width
        self.type = ir.VectorType(number, width)
        self.align, kind = (4, "f32") if isinstance(number, ir.FloatType) else (8, "f64")
        self.suffix = f"v{width}{kind}"

    def variable(self) -> ir.Value:
        """Place of a vector that changes; LLVM makes it a register."""
        return cgutils.alloca_once(self.builder, self.type)

    def splat(self, number: ir.Value) -> ir.Value:
        """A vector of equal numbers."""
        vector = ir.VectorType(number.type, self.width)
        none = ir.Constant(vector, ir.Undefined)
        one = self.builder.insert_element(none, number, _I32(0))
        firsts = ir.Constant(ir.VectorType(_I32, self.width), [0] * self.width)
        return self.builder.shuffle_vector(one, none, firsts)

    def below(self, count: ir.Value, first: int) -> ir.Value:
        """Which of the numbers first, first + 1, ... are below count."""
        places = [_I64(first + q) for q in range(self.width)]
        vector = ir.Constant(ir.VectorType(_I64, self.width), places)
        return self.builder.icmp_signed("<", vector, self.splat(count))

    def add_product(self, total: ir.Value, a: ir.Value, b: ir.Value) -> None:
        """total += a b, rounded once where the machine can."""
        arguments = [a, b, self.builder.load(total)]
        self.builder.store(self._call(f"fmuladd.{self.suffix}", self.type, arguments), total)

    def load(self, pointer: ir.Value, c: int, mask: ir.Value | None = None) -> ir.Value:
        """Vector number c behind an address; 0 where the mask is not set."""
        pointer = self._moved(pointer, c)
        if mask is None:
            return self.builder.load(pointer, align=self.align)
        zero = ir.Constant(self.type, [0.0] * self.width)
        arguments = [pointer, _I32(self.align), mask, zero]
        return self._call(f"masked.load.{self.suffix}.p0", self.type, arguments)

    def store(self, value: ir.Value, pointer: ir.Value, c: int, mask: Any = None) -> None:
        """Store vector number c behind an address; nothing where the mask is not set."""
        pointer = self._moved(pointer, c)
        if mask is None:
            self.builder.store(value, pointer, align=self.align)
        else:
            arguments = [value, pointer, _I32(self.align), mask]
            self._call(f"masked.store.{self.suffix}.p0", ir.VoidType(), arguments)

    def _moved(self, pointer: ir.Value, c: int) -> ir.Value:
        moved = self.builder.gep(pointer, [_I64(c * self.width)])
        return self.builder.bitcast(moved, self.type.as_pointer())

    def _call(self, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
        kind = ir.FunctionType(result, [a.type for a in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.{name}")
        return self.builder.call(function, arguments)
