r"""What Numba does not vectorise by itself: a register tile of a matrix product, and exp.

.. math:: O_{rn} \leftarrow O_{rn} + \sum_k W_{rk} A_{kn} \;\; (r < R,\, n < T), \qquad
          e^x = 2^m e^{x - m \log 2}

LLVM keeps no array in registers across a loop, so the tile is written in LLVM's own language: R
times ``VECTORS`` running sums live in vector registers while k runs, and each turn loads
``VECTORS`` vectors of A, spreads R weights, multiplies and adds. On one core this comes near the
rate of a BLAS product.
"""

from __future__ import annotations

import math
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload

from afnp.compiled.compiler import intrinsic

__all__ = [
    "VECTORS",
    "add1",
    "add4",
    "exp",
    "fetch",
    "lanes",
    "set1",
    "set4",
    "sincos",
    "tanh",
    "transpose",
]

AVX512 = bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))
VECTOR = 64 if AVX512 else 32
"""Bytes in a vector register."""
VECTORS = 4
"""Registers a row of a tile: T = VECTORS * VECTOR / itemsize lanes."""


def lanes(dtype: np.dtype) -> int:
    """Return T, the lanes of a tile, for a floating-point type."""
    return VECTORS * VECTOR // dtype.itemsize


# ---- the register tile ---------------------------------------------------------------------------


def _register_tile(R: int, fresh: bool):
    """Build one loop over n, with its R * VECTORS sums in registers, over T lanes.

    ``tile(O, o, o_row, b, at, W, w, w_row, w_column, A, a, a_row, n)`` does O[:R] += W[:R, :n] @
    A[:n]. Each matrix is any array in C order, the place where it begins there, and how far its
    rows and columns are apart. A ``fresh`` tile begins with b[at : at + R], not with what O holds.
    """

    @intrinsic
    def tile(typing, O, o, o_row, b, at, W, w, w_row, w_column, A, a, a_row, n):
        def build(context, builder, signature, args):
            i64, size = ir.IntType(64), O.dtype.bitwidth // 8
            number, V = context.get_value_type(O.dtype), VECTOR // size
            vector = ir.VectorType(number, V)
            nothing = ir.Constant(vector, ir.Undefined)
            first_lane = ir.Constant(ir.VectorType(ir.IntType(32), V), [0] * V)

            def pointer(kind, array, place):
                start = context.make_array(kind)(context, builder, array).data
                return builder.gep(start, [place])

            def part(row, v):
                return builder.bitcast(builder.gep(row, [i64(v * V)]), vector.as_pointer())

            def spread(value):
                one = builder.insert_element(nothing, value, ir.IntType(32)(0))
                return builder.shuffle_vector(one, nothing, first_lane)

            def multiply_add(total, weight, value):
                product = builder.fmul(weight, value, flags=("contract",))
                return builder.fadd(total, product, flags=("contract",))

            out, bias = pointer(O, args[0], args[1]), pointer(b, args[3], args[4])
            weights, inputs = pointer(W, args[5], args[6]), pointer(A, args[9], args[10])
            (o_row, w_row, w_column), (a_row, n) = (args[k] for k in (2, 7, 8)), args[11:]
            rows = [builder.gep(out, [builder.mul(o_row, i64(r))]) for r in range(R)]
            cells = [(r, v, part(rows[r], v)) for r in range(R) for v in range(VECTORS)]
            if fresh:
                each = [spread(builder.load(builder.gep(bias, [i64(r)]))) for r in range(R)]
                initial = [each[r] for r, _, _ in cells]
            else:
                initial = [builder.load(cell, align=size) for _, _, cell in cells]
            before = builder.block
            loop, after = builder.append_basic_block(), builder.append_basic_block()
            builder.cbranch(builder.icmp_signed(">", n, i64(0)), loop, after)

            builder.position_at_end(loop)
            k, w_at, a_at = (builder.phi(kind) for kind in (i64, weights.type, inputs.type))
            sums = [builder.phi(vector) for _ in cells]
            known = [builder.load(part(a_at, v), align=size) for v in range(VECTORS)]
            row_of_W = [builder.gep(w_at, [builder.mul(w_row, i64(r))]) for r in range(R)]
            column = [spread(builder.load(weight)) for weight in row_of_W]
            added = [
                multiply_add(total, column[r], known[v])
                for total, (r, v, _) in zip(sums, cells, strict=True)
            ]
            turn = [
                builder.add(k, i64(1)),
                builder.gep(w_at, [w_column]),
                builder.gep(a_at, [a_row]),
            ]
            builder.cbranch(builder.icmp_signed("<", turn[0], n), loop, after)
            for phi, start, following in [
                *zip((k, w_at, a_at), (i64(0), weights, inputs), turn, strict=True),
                *zip(sums, initial, added, strict=True),
            ]:
                phi.add_incoming(start, before)
                phi.add_incoming(following, loop)

            builder.position_at_end(after)
            results = [builder.phi(vector) for _ in cells]
            for result, start, total in zip(results, initial, added, strict=True):
                result.add_incoming(start, before)
                result.add_incoming(total, loop)
            for result, (_, _, cell) in zip(results, cells, strict=True):
                builder.store(result, cell, align=size)
            return context.get_dummy_value()

        i = types.int64
        return types.void(O, i, i, b, i, W, i, i, i, A, i, i, i), build

    return tile


set4, set1 = _register_tile(4, fresh=True), _register_tile(1, fresh=True)
"""Four rows of a product, or one, written over what is there."""
add4, add1 = _register_tile(4, fresh=False), _register_tile(1, fresh=False)
"""Four rows of a product, or one, added to what is there."""


@intrinsic
def transpose(typing, A, a, a_row, O, o, o_row):
    """Do O[:V, :V] = A[:V, :V]^T in registers, V numbers a vector.

    log2(V) times, pairs of vectors swap every other 1, 2, 4, ... values.

    Each matrix is any array in C order, the place where it begins there, and how far its rows are
    apart.
    """

    def build(context, builder, signature, args):
        size = A.dtype.bitwidth // 8
        V, number = VECTOR // size, context.get_value_type(A.dtype)
        vector = ir.VectorType(number, V)

        def rows(kind, array, place, row):
            start = builder.gep(context.make_array(kind)(context, builder, array).data, [place])
            places = [builder.mul(row, ir.IntType(64)(r)) for r in range(V)]
            return [builder.bitcast(builder.gep(start, [at]), vector.as_pointer()) for at in places]

        def shuffle(x, y, picked):
            mask = ir.Constant(ir.VectorType(ir.IntType(32), V), picked)
            return builder.shuffle_vector(x, y, mask)

        values = [builder.load(row, align=size) for row in rows(A, *args[:3])]
        step = 1
        while step < V:
            low = [j if not j & step else V + j - step for j in range(V)]
            high = [j + step if not j & step else V + j for j in range(V)]
            for r in range(V):
                if not r & step:
                    x, y = values[r], values[r + step]
                    values[r], values[r + step] = shuffle(x, y, low), shuffle(x, y, high)
            step *= 2
        for value, row in zip(values, rows(O, *args[3:]), strict=True):
            builder.store(value, row, align=size)
        return context.get_dummy_value()

    i = types.int64
    return types.void(A, i, i, O, i, i), build


@intrinsic
def fetch(typing, a, at, n):
    """Ask for n values of an array from the at-th on.

    They are in the cache when they are needed.
    """

    def build(context, builder, signature, args):
        i64, byte = ir.IntType(64), ir.IntType(8).as_pointer()
        array = context.make_array(a)(context, builder, args[0])
        start = builder.bitcast(builder.gep(array.data, [args[1]]), byte)
        hint = ir.FunctionType(ir.VoidType(), [byte, *[ir.IntType(32)] * 3])
        prefetch = cgutils.get_or_insert_function(builder.module, hint, "llvm.prefetch.p0")
        line, end = 64, builder.mul(args[2], i64(a.dtype.bitwidth // 8))
        with cgutils.for_range_slice(builder, i64(0), end, i64(line)) as (byte_at, _):
            # to read, into the second cache, data
            flags = [ir.IntType(32)(flag) for flag in (0, 2, 1)]
            builder.call(prefetch, [builder.gep(start, [byte_at]), *flags])
        return context.get_dummy_value()

    return types.void(a, types.int64, types.int64), build


# ---- elementwise functions that vectorise --------------------------------------------------------


@intrinsic
def _bits_as_float(typing, bits):
    kind = types.float32 if bits == types.int32 else types.float64

    def build(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(kind))

    return kind(bits), build


def exp(x):
    """exp(x) to about one unit in the last place, in code that vectorises.

    Clipped to the normal range.
    """


def tanh(x):
    """tanh(x) to about one rounding error of 1."""


def sincos(x):
    """sin(x) and cos(x) to about one rounding error of 1, for |x| of at most some thousand."""


@overload(exp)
def _exp_implementation(x):
    r"""Return :math:`e^x = 2^n e^r`, e^r by Taylor's series.

    .. math:: n = \lfloor x / \log 2 + 1/2 \rfloor, \qquad r = x - n \log 2
    """
    single = x == types.float32
    real: Any = np.float32 if single else np.float64
    integer: Any = np.int32 if single else np.int64
    degree, lowest, highest = (7, -87.0, 88.0) if single else (13, -708.0, 709.0)
    bias, mantissa = (integer(127), integer(23)) if single else (integer(1023), integer(52))
    coefficients = tuple(real(1 / math.factorial(k)) for k in range(degree, -1, -1))
    per_log2, half, low, high = real(1 / math.log(2)), real(0.5), real(lowest), real(highest)
    # log 2 in two parts, the first with few digits: n times it is exact (Cody and Waite)
    log2_head = real(0.693359375)
    log2_tail = real(-2.1219444005469058277e-4)

    def implementation(x):
        x = low if x < low else (high if x > high else x)
        n = np.floor(x * per_log2 + half)
        r = x - n * log2_head - n * log2_tail
        y = coefficients[0]
        for c in coefficients[1:]:
            y = y * r + c
        power: Any = _bits_as_float(integer((integer(n) + bias) << mantissa))
        return y * power

    return implementation


@overload(tanh)
def _tanh_implementation(x):
    r"""Return :math:`\tanh x = 1 - 2 / (e^{2x} + 1)`."""
    real = np.float32 if x == types.float32 else np.float64
    one, two = real(1), real(2)

    def implementation(x):
        return one - two / (exp(two * x) + one)

    return implementation


@overload(sincos)
def _sincos_implementation(x):
    r"""Return both by Taylor's series of r, :math:`x = q \pi / 2 + r`; q says which is which.

    .. math:: |r| \le \pi / 4
    """
    single = x == types.float32
    real: Any = np.float32 if single else np.float64
    integer: Any = np.int32 if single else np.int64
    sines = tuple(
        real((-1) ** k / math.factorial(2 * k + 1)) for k in range(4 if single else 8, -1, -1)
    )
    cosines = tuple(
        real((-1) ** k / math.factorial(2 * k)) for k in range(4 if single else 8, -1, -1)
    )
    per_quarter, half = real(2 / math.pi), real(0.5)
    # pi/2 in two parts, the first with few digits: q times it is exact (Cody and Waite)
    head, tail = real(1.5703125), real(math.pi / 2 - 1.5703125)

    def implementation(x):
        q = np.floor(x * per_quarter + half)
        r = x - q * head - q * tail
        square, sine, cosine = r * r, sines[0], cosines[0]
        for c in sines[1:]:
            sine = sine * square + c
        for c in cosines[1:]:
            cosine = cosine * square + c
        sine, quarter = sine * r, integer(q)
        if quarter & integer(1):
            sine, cosine = cosine, sine
        if quarter & integer(2):
            sine = -sine
        if (quarter + integer(1)) & integer(2):
            cosine = -cosine
        return sine, cosine

    return implementation
