r"""The two things that Numba does not vectorise by itself: a register tile of a matrix product, and exp.

.. math:: O_{rn} \leftarrow O_{rn} + \sum_k W_{rk} A_{kn} \;\; (r < R,\, n < T), \qquad e^x = 2^m e^{x - m \log 2}

LLVM keeps no array in registers across a loop, so the tile is written in LLVM's own language: R times ``VECTORS``
running sums live in vector registers while k runs, and each turn loads ``VECTORS`` vectors of A, spreads R weights,
multiplies and adds. On one core this comes near the rate of a BLAS product.
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

__all__ = ["add_product", "exp", "jit", "lanes", "tanh", "tile1", "tile4"]

AVX512 = bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))
VECTOR = 64 if AVX512 else 32
"""Bytes in a vector register."""
VECTORS = 4
"""Registers a row of a tile: T = VECTORS * VECTOR / itemsize lanes."""
FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}
"""Not "nnan" and "ninf": with them isnan would lie."""
jit = njit(error_model="numpy", fastmath=FAST, cache=True, nogil=True)


def lanes(dtype: np.dtype) -> int:
    """Return T, the lanes of a tile, for a floating-point type."""
    return VECTORS * VECTOR // dtype.itemsize


# ---- the register tile ---------------------------------------------------------------------------------------


def _register_tile(R: int):
    """Build ``tile(O, W, A, n)``: O[:R] += W[:R, :n] @ A[:n], over T lanes, as one loop over n in registers.

    LLVM does not keep arrays in registers across a loop, so the loop is written in its own language: R * VECTORS
    running sums, and in each turn VECTORS loads from A, R weights spread over a vector, R * VECTORS multiply-adds.
    """

    @intrinsic
    def tile(typing, O, W, A, n):
        def build(context, builder, signature, args):
            i64, size = ir.IntType(64), O.dtype.bitwidth // 8
            number = context.get_value_type(O.dtype)
            vector = ir.VectorType(number, VECTOR // size)
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), VECTOR // size), [0] * (VECTOR // size))
            arrays = [context.make_array(t)(context, builder, a) for t, a in zip((O, W, A), args[:3], strict=True)]
            o, w, a = (builder.bitcast(array.data, ir.IntType(8).as_pointer()) for array in arrays)
            (o_row, _), (w_row, w_column), (a_row, _) = (
                cgutils.unpack_tuple(builder, array.strides) for array in arrays
            )

            def at(base, row, stride, byte, kind):
                offset = builder.add(builder.mul(row, stride), byte)
                return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())

            def spread(weight):
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), weight, ir.IntType(32)(0))
                return builder.shuffle_vector(one, one, zeros)

            cells = [
                (r, at(o, i64(r), o_row, i64(VECTOR * v), vector), v) for r in range(R) for v in range(VECTORS)
            ]
            initial = [builder.load(cell, align=size) for _, cell, _ in cells]
            before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.cbranch(builder.icmp_signed(">", args[3], i64(0)), loop, after)

            builder.position_at_end(loop)
            k, sums = builder.phi(i64), [builder.phi(vector) for _ in cells]
            heard = [builder.load(at(a, k, a_row, i64(VECTOR * v), vector), align=size) for v in range(VECTORS)]
            weights = [
                spread(builder.load(at(w, i64(r), w_row, builder.mul(k, w_column), number))) for r in range(R)
            ]
            added = [
                builder.fadd(total, builder.fmul(weights[r], heard[v], flags=("contract",)), flags=("contract",))
                for total, (r, _, v) in zip(sums, cells, strict=True)
            ]
            following = builder.add(k, i64(1))
            builder.cbranch(builder.icmp_signed("<", following, args[3]), loop, after)

            builder.position_at_end(after)
            for phi, first, next_value in [(k, i64(0), following), *zip(sums, initial, added, strict=True)]:
                phi.add_incoming(first, before)
                phi.add_incoming(next_value, loop)
            results = [builder.phi(vector) for _ in cells]
            for result, first, total in zip(results, initial, added, strict=True):
                result.add_incoming(first, before)
                result.add_incoming(total, loop)
            for result, (_, cell, _) in zip(results, cells, strict=True):
                builder.store(result, cell, align=size)
            return context.get_dummy_value()

        return types.void(O, W, A, types.int64), build

    return tile


tile4, tile2, tile1 = _register_tile(4), _register_tile(2), _register_tile(1)


@jit
def add_product(z, W, a, first, last, begin, end):
    """Do z[first:last] += W[first:last, begin:end] @ a[begin:end]."""
    r, n = first, end - begin
    if n <= 0:
        return
    while r + 4 <= last:
        tile4(z[r:], W[r:, begin:], a[begin:], n)
        r += 4
    if r + 2 <= last:
        tile2(z[r:], W[r:, begin:], a[begin:], n)
        r += 2
    if r < last:
        tile1(z[r:], W[r:, begin:], a[begin:], n)


# ---- elementwise functions that vectorise --------------------------------------------------------------------


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
