r"""Vectors as scalars: code reads like one sample's arithmetic and does V in each instruction.

.. math:: (a \circ b)_i = a_i \circ b_i, \qquad
          x = 2^m f, \quad \log x = m \log 2 + 2\, \mathrm{artanh} \frac{f - 1}{f + 1}, \quad
          \log(1 + w) = 2\, \mathrm{artanh} \frac{w}{2 + w}

LLVM vectorises a plain loop over lanes only if it is short and simple: not a spline, which keeps a
dozen numbers a lane while it walks through the bins. So a :class:`Vector` is a type of its own
here, V values in vector registers, and ``+ - * / < >= & choose exp log`` work on it. Scalars are
spread over all lanes, in the vector's own precision.

artanh is summed by its own series, f + f³/3 + f⁵/5 + ..., quick where |f| is at most 1/3.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, lower_cast, models, overload, register_model

from afnp.compiled.compiler import EXACT, INNER, intrinsic
from afnp.compiled.simd.register_tile import VECTOR

__all__ = [
    "any_of",
    "choose",
    "exp",
    "floor",
    "inline",
    "jit",
    "load",
    "log",
    "log1p",
    "maximum",
    "precision",
    "root",
    "size",
    "softplus",
    "store",
    "width",
    "width_of",
]

REGISTERS = 2
"""Registers a vector: while one waits for its sums, the other's run."""
INLINE: Any = {"error_model": "numpy", "fastmath": EXACT, "forceinline": True, **INNER}
jit = njit(error_model="numpy", fastmath=EXACT, nogil=True, **INNER)
"""For what compiled code calls as a function of its own."""
inline = njit(nogil=True, **INLINE)
"""For what becomes a part of its caller."""


def width(dtype: Any) -> int:
    """Return V, how many numbers are worked on at a time."""
    return REGISTERS * VECTOR // np.dtype(dtype).itemsize


class Vector(types.Type):
    """The type of V numbers.

    ``number`` is float32 or float64, or boolean for what comparisons give.
    """

    def __init__(self, number, V: int):
        self.number, self.V = number, V
        super().__init__(f"Vector({number}, {V})")

    def can_convert_from(self, typingctx, other):
        """Take scalars, but as the worst of all matches: a function for scalars goes first."""
        numeric = isinstance(other, types.Number) and self.number != types.boolean
        return Conversion.unsafe if numeric else None


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        number = {
            types.boolean: ir.IntType(1),
            types.float32: ir.FloatType(),
            types.float64: ir.DoubleType(),
        }
        super().__init__(dmm, fe_type, ir.VectorType(number[fe_type.number], fe_type.V))


@lower_cast(types.Number, Vector)
def _spread(context, builder, fromty, toty, value):
    """Give every lane the same number."""
    one, many = context.cast(builder, value, fromty, toty.number), context.get_value_type(toty)
    first = builder.insert_element(ir.Constant(many, ir.Undefined), one, ir.IntType(32)(0))
    return builder.shuffle_vector(
        first, first, ir.Constant(ir.VectorType(ir.IntType(32), toty.V), [0] * toty.V)
    )


def _operator(name, build, result=lambda vector: vector) -> None:
    """Let an operator take vectors, and scalars beside vectors."""

    @infer_global(name)
    class Template(AbstractTemplate):
        def generic(self, args, kws):
            vectors = [a for a in args if isinstance(a, Vector)]
            if vectors and all(isinstance(a, types.Number) or a == vectors[0] for a in args):
                return signature(result(vectors[0]), *[vectors[0]] * len(args))

    for count in (1, 2):
        lower_builtin(name, *[Vector] * count)(
            lambda context, builder, sig, args: build(builder, *args)
        )


def _mask(vector: Vector) -> Vector:
    return Vector(types.boolean, vector.V)


for _name, _build in {
    (operator.add, operator.iadd): ir.IRBuilder.fadd,
    (operator.sub, operator.isub): ir.IRBuilder.fsub,
    (operator.mul, operator.imul): ir.IRBuilder.fmul,
    (operator.truediv, operator.itruediv): ir.IRBuilder.fdiv,
    (operator.neg,): ir.IRBuilder.fneg,
    (operator.and_,): ir.IRBuilder.and_,
    (operator.or_,): ir.IRBuilder.or_,
    (operator.invert,): ir.IRBuilder.not_,
}.items():
    for _operation in _name:
        _operator(_operation, _build)

for _operation, _sign in {
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}.items():
    _operator(_operation, lambda builder, a, b, sign=_sign: builder.fcmp_ordered(sign, a, b), _mask)


# ---- memory, choices, and what LLVM has an instruction for ---------------------------------------


def _whole_rows(a) -> Vector:
    if a.layout != "C":
        raise TypingError(f"vectors: expected an array in C order, got {a}")
    return Vector(a.dtype, width(a.dtype.name))


@intrinsic
def load(typing, a, k, n):
    """Return the V numbers of row k of a C-ordered matrix from column n on; a vector is a row 0."""
    kind = _whole_rows(a)

    def build(context, builder, sig, args):
        return builder.load(_address(context, builder, a, kind, args), align=a.dtype.bitwidth // 8)

    return kind(a, types.intp, types.intp), build


@intrinsic
def store(typing, a, k, n, values):
    """Write V numbers into row k of a C-ordered matrix from column n on."""
    kind = _whole_rows(a)

    def build(context, builder, sig, args):
        builder.store(
            args[3], _address(context, builder, a, kind, args), align=a.dtype.bitwidth // 8
        )
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp, kind), build


def _address(context, builder, a, kind, args):
    array = context.make_array(a)(context, builder, args[0])
    strides = cgutils.unpack_tuple(builder, array.strides)
    row = builder.mul(args[1], strides[0]) if a.ndim == 2 else ir.IntType(64)(0)
    start = builder.gep(builder.bitcast(array.data, ir.IntType(8).as_pointer()), [row])
    start = builder.gep(builder.bitcast(start, array.data.type), [args[2]])
    return builder.bitcast(start, context.get_value_type(kind).as_pointer())


def precision(a):
    """Return eps for the numbers of an array."""


@overload(precision, jit_options=INLINE)
def _precision_implementation(a):
    eps = float(np.finfo(a.dtype.name).eps)
    return lambda a: eps


def width_of(a):
    """Return V for the numbers of an array."""


@overload(width_of, jit_options=INLINE)
def _width_implementation(a):
    V = width(a.dtype.name)
    return lambda a: V


@intrinsic
def choose(typing, mask, a, b):
    """Return a where the mask is true, b elsewhere, lane by lane; either may be a scalar."""
    kind = a if isinstance(a, Vector) else b

    def build(context, builder, sig, args):
        return builder.select(*args)

    return kind(mask, kind, kind), build


def _function(name: str):
    """Return a function of vectors that LLVM has an intrinsic for."""

    @intrinsic
    def function(typing, x):
        def build(context, builder, sig, args):
            kind = args[0].type
            full_name = f"llvm.{name}.v{x.V}f{x.number.bitwidth}"
            call = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(kind, [kind]), full_name
            )
            return builder.call(call, args)

        return x(x), build

    return function


floor, root, size = _function("floor"), _function("sqrt"), _function("fabs")
"""The floor, the square root and the absolute value of each number."""


@intrinsic
def any_of(typing, mask):
    """Return whether the mask is true anywhere."""

    def build(context, builder, sig, args):
        bits = builder.bitcast(args[0], ir.IntType(mask.V))
        return builder.icmp_unsigned("!=", bits, bits.type(0))

    return types.boolean(mask), build


# ---- functions -----------------------------------------------------------------------------------


def maximum(a, b):
    """Return the larger, lane by lane; what is not a number is returned if it is in a."""


@overload(maximum, jit_options=INLINE)
def _maximum_implementation(a, b):
    return lambda a, b: choose(a <= b, b, a)


def _series(coefficients):
    """Return the polynomial with ``coefficients(single)``, the highest first, of a vector."""

    @intrinsic
    def polynomial(typing, x):
        numbers = [float(c) for c in coefficients(x.number == types.float32)]

        def build(context, builder, sig, args):
            kind = context.get_value_type(x)
            terms = [ir.Constant(kind, [kind.element(c)] * x.V) for c in numbers]
            y = terms[0]
            for term in terms[1:]:
                y = builder.fadd(
                    builder.fmul(y, args[0], flags=("contract",)), term, flags=("contract",)
                )
            return y

        return x(x), build

    return polynomial


_taylor = _series(
    lambda single: [1 / math.factorial(k) for k in range(7 if single else 13, -1, -1)]
)
"""Of exp."""
_narrow = _series(lambda single: [2 / (2 * k + 1) for k in range(4 if single else 10, -1, -1)])
_wide = _series(lambda single: [2 / (2 * k + 1) for k in range(7 if single else 16, -1, -1)])
"""These two give 2 artanh(f) / f from f², up to f = 0.18 and up to 1/3."""


def _bits(x: Vector) -> tuple:
    """Return the integers of a vector's size, the bits of its mantissa, and the exponent of 1."""
    size, mantissa, bias = (32, 23, 127) if x.number == types.float32 else (64, 52, 1023)
    integers = ir.VectorType(ir.IntType(size), x.V)
    return integers, *(ir.Constant(integers, [integers.element(n)] * x.V) for n in (mantissa, bias))


@intrinsic
def _two_to(typing, n):
    """Return 2^n for integers n of the normal range."""

    def build(context, builder, sig, args):
        integers, mantissa, bias = _bits(n)
        power = builder.shl(builder.add(builder.fptosi(args[0], integers), bias), mantissa)
        return builder.bitcast(power, args[0].type)

    return n(n), build


@intrinsic
def _split(typing, x):
    """Return m and f of x = 2^m f, 1/2 <= f² < 2, for x of the normal range."""

    def build(context, builder, sig, args):
        integers, mantissa, _ = _bits(x)
        real = np.float32 if x.number == types.float32 else np.float64
        half = int(np.array(math.sqrt(0.5), dtype=real).view(f"i{real().itemsize}"))
        bits = builder.bitcast(args[0], integers)
        m = builder.ashr(
            builder.sub(bits, ir.Constant(integers, [integers.element(half)] * x.V)), mantissa
        )
        f = builder.bitcast(builder.sub(bits, builder.shl(m, mantissa)), args[0].type)
        return context.make_tuple(builder, sig.return_type, [builder.sitofp(m, args[0].type), f])

    return types.UniTuple(x, 2)(x), build


def exp(x):
    """e^x to a few units in the last place, clipped to the normal range; see the register tile."""


@overload(exp, jit_options=INLINE)
def _exp_implementation(x):
    lowest, highest = (-87.0, 88.0) if x.number == types.float32 else (-708.0, 709.0)
    per_log2, head, tail = 1 / math.log(2), 0.693359375, -2.1219444005469058277e-4

    def implementation(x):
        x = choose(x < lowest, lowest, choose(x > highest, highest, x))
        n = floor(x * per_log2 + 0.5)
        return _taylor((x - n * head) - n * tail) * _two_to(n)

    return implementation


def log(x):
    """log(x) for positive x, to two units in the last place.

    Below the normal range, that of its end.
    """


@overload(log, jit_options=INLINE)
def _log_implementation(x):
    tiny, head, tail = float(np.finfo(x.number.name).tiny), 0.693359375, -2.1219444005469058277e-4

    def implementation(x):
        m, f = _split(maximum(x, tiny))
        f = (f - 1) / (f + 1)
        y = m * head + (m * tail + f * _narrow(f * f))
        return choose(x < math.inf, y, x)  # infinity, and what is not a number

    return implementation


def log1p(w):
    """log(1 + w) for -1/2 <= w <= 1, relative to its own size."""


@overload(log1p, jit_options=INLINE)
def _log1p_implementation(w):
    def implementation(w):
        f = w / (w + 2)
        return f * _wide(f * f)

    return implementation


def softplus(z):
    """log(1 + e^z), and its derivative, the sigmoid."""


@overload(softplus, jit_options=INLINE)
def _softplus_implementation(z):
    def implementation(z):
        tail = exp(-size(z))
        return maximum(z, 0.0) + log1p(tail), choose(z > 0, 1.0, tail) / (tail + 1)

    return implementation
