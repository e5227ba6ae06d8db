r"""The two things that Numba does not vectorise by itself: a register tile of a matrix product, and exp.

.. math:: O_{rn} \leftarrow O_{rn} + \sum_k W_{rk} A_{kn} \;\; (r < R,\, n < T), \qquad e^x = 2^m e^{x - m \log 2}

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
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

__all__ = [
    *("add_product", "set_product", "tile1", "tile4", "fresh1", "fresh4"),
    *("exp", "fetch", "inline", "jit", "lanes", "sincos", "tanh"),
]

AVX512 = bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))
VECTOR = 64 if AVX512 else 32
"""Bytes in a vector register."""
VECTORS = 4
"""Registers a row of a tile: T = VECTORS * VECTOR / itemsize lanes."""
FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}
"""Not "nnan" and "ninf": with them isnan would lie."""
jit = njit(error_model="numpy", fastmath=FAST, cache=True, nogil=True)
inline = njit(error_model="numpy", fastmath=FAST, cache=True, nogil=True, forceinline=True)


def lanes(dtype: np.dtype) -> int:
    """Return T, the lanes of a tile, for a floating-point type."""
    return VECTORS * VECTOR // dtype.itemsize


# ---- the register tile ---------------------------------------------------------------------------


def _register_tile(R: int, fresh: bool = False):
    """Build ``tile(O, b, W, A, n)``: O[:R] += W[:R, :n] @ A[:n], over T lanes, as one loop over n in registers.

    A ``fresh`` tile begins with b[:R], not with what O holds. LLVM does not keep arrays in
    registers across a loop, so the loop is written in its own language: R * VECTORS running sums,
    and in each turn VECTORS loads from A, R weights spread over a vector, R * VECTORS
    multiply-adds.
    """

    @intrinsic
    def tile(typing, O, b, W, A, n):
        def build(context, builder, signature, args):
            i64, size = ir.IntType(64), O.dtype.bitwidth // 8
            number = context.get_value_type(O.dtype)
            vector = ir.VectorType(number, VECTOR // size)
            zeros = ir.Constant(
                ir.VectorType(ir.IntType(32), VECTOR // size), [0] * (VECTOR // size)
            )
            arrays = [
                context.make_array(t)(context, builder, a)
                for t, a in zip((O, b, W, A), args[:4], strict=True)
            ]
            o, bias, w, a = (
                builder.bitcast(array.data, ir.IntType(8).as_pointer()) for array in arrays
            )
            (o_row, _), (b_row,), (w_row, w_column), (a_row, _) = (
                cgutils.unpack_tuple(builder, array.strides) for array in arrays
            )

            def at(base, row, stride, byte, kind):
                offset = builder.add(builder.mul(row, stride), byte)
                return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())

            def spread(weight):
                one = builder.insert_element(
                    ir.Constant(vector, ir.Undefined), weight, ir.IntType(32)(0)
                )
                return builder.shuffle_vector(one, one, zeros)

            cells = [
                (r, at(o, i64(r), o_row, i64(VECTOR * v), vector), v)
                for r in range(R)
                for v in range(VECTORS)
            ]
            if fresh:
                initial = [
                    spread(builder.load(at(bias, i64(r), b_row, i64(0), number)))
                    for r, _, _ in cells
                ]
            else:
                initial = [builder.load(cell, align=size) for _, cell, _ in cells]
            before, loop, after = (
                builder.block,
                builder.append_basic_block(),
                builder.append_basic_block(),
            )
            builder.cbranch(builder.icmp_signed(">", args[4], i64(0)), loop, after)

            builder.position_at_end(loop)
            k, sums = builder.phi(i64), [builder.phi(vector) for _ in cells]
            heard = [
                builder.load(at(a, k, a_row, i64(VECTOR * v), vector), align=size)
                for v in range(VECTORS)
            ]
            weights = [
                spread(builder.load(at(w, i64(r), w_row, builder.mul(k, w_column), number)))
                for r in range(R)
            ]
            added = [
                builder.fadd(
                    total,
                    builder.fmul(weights[r], heard[v], flags=("contract",)),
                    flags=("contract",),
                )
                for total, (r, _, v) in zip(sums, cells, strict=True)
            ]
            following = builder.add(k, i64(1))
            builder.cbranch(builder.icmp_signed("<", following, args[4]), loop, after)

            builder.position_at_end(after)
            for phi, first, next_value in [
                (k, i64(0), following),
                *zip(sums, initial, added, strict=True),
            ]:
                phi.add_incoming(first, before)
                phi.add_incoming(next_value, loop)
            results = [builder.phi(vector) for _ in cells]
            for result, first, total in zip(results, initial, added, strict=True):
                result.add_incoming(first, before)
                result.add_incoming(total, loop)
            for result, (_, cell, _) in zip(results, cells, strict=True):
                builder.store(result, cell, align=size)
            return context.get_dummy_value()

        return types.void(O, b, W, A, types.int64), build

    return tile


tile4, tile2, tile1 = _register_tile(4), _register_tile(2), _register_tile(1)
fresh4, fresh2, fresh1 = (
    _register_tile(4, fresh=True),
    _register_tile(2, fresh=True),
    _register_tile(1, fresh=True),
)


@inline
def set_product(z, b, W, a, first, last, end):
    """Do z[first:last] = b[first:last] + W[first:last, :end] @ a[:end]."""
    r = first
    while r + 4 <= last:
        fresh4(z[r:], b[r:], W[r:], a, end)
        r += 4
    if r + 2 <= last:
        fresh2(z[r:], b[r:], W[r:], a, end)
        r += 2
    if r < last:
        fresh1(z[r:], b[r:], W[r:], a, end)


@inline
def add_product(z, W, a, first, last, begin, end):
    """Do z[first:last] += W[first:last, begin:end] @ a[begin:end]."""
    r, n, no_bias = first, end - begin, W[0]
    if n <= 0:
        return
    while r + 4 <= last:
        tile4(z[r:], no_bias, W[r:, begin:], a[begin:], n)
        r += 4
    if r + 2 <= last:
        tile2(z[r:], no_bias, W[r:, begin:], a[begin:], n)
        r += 2
    if r < last:
        tile1(z[r:], no_bias, W[r:, begin:], a[begin:], n)


@intrinsic
def fetch(typing, a, n):
    """Ask for the first n numbers of a vector, so that they are in the cache when they are needed."""

    def build(context, builder, signature, args):
        i64, byte = ir.IntType(64), ir.IntType(8).as_pointer()
        array = context.make_array(a)(context, builder, args[0])
        start = builder.bitcast(array.data, byte)
        hint = ir.FunctionType(ir.VoidType(), [byte, *[ir.IntType(32)] * 3])
        prefetch = cgutils.get_or_insert_function(builder.module, hint, "llvm.prefetch.p0")
        line, end = 64, builder.mul(args[1], i64(a.dtype.bitwidth // 8))
        with cgutils.for_range_slice(builder, i64(0), end, i64(line)) as (at, _):
            flags = [
                ir.IntType(32)(flag) for flag in (0, 2, 1)
            ]  # to read, into the second cache, data
            builder.call(prefetch, [builder.gep(start, [at]), *flags])
        return context.get_dummy_value()

    return types.void(a, types.int64), build


# ---- elementwise functions that vectorise --------------------------------------------------------


@intrinsic
def _bits_as_float(typing, bits):
    kind = types.float32 if bits == types.int32 else types.float64

    def build(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(kind))

    return kind(bits), build


def exp(x):
    """exp(x) to about one unit in the last place, in code that vectorises; clipped to the normal range."""


def tanh(x):
    """tanh(x) to about one rounding error of 1."""


def sincos(x):
    """sin(x) and cos(x) to about one rounding error of 1, for |x| of at most some thousand."""


@overload(exp)
def _exp_implementation(x):
    r"""Return :math:`e^x = 2^n e^r`, :math:`n = \lfloor x / \log 2 + 1/2 \rfloor`, with e^r by Taylor's series."""
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
        x = min(max(x, low), high)
        n = np.floor(x * per_log2 + half)
        r = x - n * log2_head - n * log2_tail
        y = coefficients[0]
        for c in coefficients[1:]:
            y = y * r + c
        power: Any = _bits_as_float(integer((integer(n) + bias) << mantissa))  # type: ignore[call-arg]
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
    r"""Return both from :math:`x = q \pi / 2 + r`, |r| ≤ π/4, by Taylor's series of r; q says which is which."""
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
