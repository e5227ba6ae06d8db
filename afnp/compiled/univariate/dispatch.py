r"""The univariates compiled: what :mod:`afnp.univariate` defines, over the lanes of a tile.

.. math:: u_n = \tau^{-1}(x_n;\, h_n), \qquad
          \log\det{}_n \mathrel{+}= \log \frac{\partial u_n}{\partial x_n}

Each univariate is compiled apart, as three C functions over rows of lanes, and kernels call them by
their addresses (:func:`call`, :func:`call_backward`): one kernel serves all univariates. The
constants of a univariate travel as a vector of numbers, out of which its C functions make the named
tuple that they read.

h may be overwritten: the splines and mixtures keep in its memory what they have made of it.
``backward`` expects h as ``normalize`` left it, and to nobody else is it of use again.

Letters: K params a feature, n runs over lanes; h is (K, lanes). The lanes must be whole vectors, as
those of a tile are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import carray, types

from afnp.compiled.compiler import address_of, intrinsic
from afnp.compiled.univariate import affine as affine
from afnp.compiled.univariate import clipped as clipped
from afnp.compiled.univariate import mixture as mixture
from afnp.compiled.univariate import rational_quadratic as spline

__all__ = ["CODE", "CompiledUnivariate", "address", "call", "call_backward", "form", "known"]


# ---- calls by address ----------------------------------------------------------------------------


def _call(context, builder, function, arguments):
    """Emit a call of the function at an address."""
    kind = ir.FunctionType(ir.VoidType(), [value.type for value in arguments])
    builder.call(builder.inttoptr(function, kind.as_pointer()), arguments)
    return context.get_dummy_value()


def _row(context, builder, kind, array, place):
    """Return the address of a row of a C-ordered matrix; a vector is a row 0."""
    made = context.make_array(kind)(context, builder, array)
    width = builder.extract_value(made.shape, 1) if kind.ndim == 2 else ir.IntType(64)(0)
    return builder.gep(made.data, [builder.mul(place, width)])


@intrinsic
def call(typing, function, constants, h, h_at, K, points, at, images, to, log, l, lanes):
    """Map rows: points[at] to images[to], with h[h_at : h_at + K], adding to log[l]."""

    def build(context, builder, signature, args):
        def row(k):
            return _row(context, builder, signature.args[k], args[k], args[k + 1])

        first = context.make_array(signature.args[1])(context, builder, args[1]).data
        arguments = [first, row(2), args[4], row(5), row(7), row(9), args[11]]
        return _call(context, builder, args[0], arguments)

    i = types.int64
    return types.void(i, constants, h, i, i, points, i, images, i, log, i, i), build


@intrinsic
def call_backward(
    typing, address, constants, h, at, K, x, x_at, d, d_at, l, d_h, dh_at, d_x, to, lanes
):
    """Write d_h[dh_at : dh_at + K] and d_x[to] from rows d_at, l of d: gradients by u and log."""

    def build(context, builder, signature, args):
        def row(k, place):
            return _row(context, builder, signature.args[k], args[k], args[place])

        first = context.make_array(signature.args[1])(context, builder, args[1]).data
        rows = [row(5, 6), row(7, 8), row(7, 9), row(10, 11), row(12, 13)]
        arguments = [first, row(2, 3), args[4], *rows, args[14]]
        return _call(context, builder, args[0], arguments)

    i = types.int64
    signature = types.void(i, constants, h, i, i, x, i, d, i, i, d_h, i, d_x, i, i)
    return signature, build


CONSTANTS = 11
"""Places for the fields of a named tuple."""


# ---- C functions over rows -----------------------------------------------------------------------


def _entry(make, code) -> Callable:
    """Return the C function that maps points to images."""

    def entry(constants, h, K, points, images, log_det, lanes):
        tau = make(carray(constants, (CONSTANTS,)))
        shape = (lanes,)
        code(
            tau,
            carray(h, (K, lanes)),
            carray(points, shape),
            carray(images, shape),
            carray(log_det, shape),
        )

    return entry


def _entry_backward(make, code) -> Callable:
    """Return the C function of the gradient."""

    def entry(constants, h, K, x, d_u, d_log, d_h, d_x, lanes):
        tau = make(carray(constants, (CONSTANTS,)))
        shape = (lanes,)
        code(
            tau,
            carray(h, (K, lanes)),
            carray(x, shape),
            carray(d_u, shape),
            carray(d_log, shape),
            carray(d_h, (K, lanes)),
            carray(d_x, shape),
        )

    return entry


class Code(NamedTuple):
    """What makes a univariate's named tuple of its constants, and its three functions."""

    make: Callable
    normalize: Callable
    generate: Callable
    backward: Callable


AFFINE = (affine.normalize, affine.generate, affine.backward)
CODE: dict[type, Code] = {
    affine.Affine: Code(
        affine.make, affine.tanh_normalize, affine.tanh_generate, affine.tanh_backward
    ),
    affine.AffineExp: Code(affine.make_exp, *AFFINE),
    affine.AffineSoftplus: Code(affine.make_softplus, *AFFINE),
    affine.AffineSigmoid: Code(affine.make_sigmoid, *AFFINE),
    affine.FlooredSoftplus: Code(affine.make_floored_softplus, *AFFINE),
    affine.FlooredSigmoid: Code(affine.make_floored_sigmoid, *AFFINE),
    affine.Additive: Code(
        affine.make_additive, affine.shift_normalize, affine.shift_generate, affine.shift_backward
    ),
    clipped.ClippedAffine: Code(
        clipped.make, clipped.normalize, clipped.generate, clipped.backward
    ),
    spline.Spline: Code(spline.make, spline.normalize, spline.generate, spline.backward),
    mixture.Logistic: Code(
        mixture.make_logistic, mixture.normalize, mixture.generate, mixture.backward
    ),
    mixture.Gaussian: Code(
        mixture.make_gaussian, mixture.normalize, mixture.generate, mixture.backward
    ),
}
"""The kernels of each univariate that has some."""


@functools.cache
def _entries(kind: type) -> dict[str, Callable]:
    code = CODE[kind]
    entries = {
        "normalize": _entry(code.make, code.normalize),
        "generate": _entry(code.make, code.generate),
        "backward": _entry_backward(code.make, code.backward),
    }
    for name, entry in entries.items():
        entry.__name__ = f"{kind.__name__}_{name}".lower()
        entry.__qualname__ = entry.__name__  # names the file that it is kept in
    return entries


@functools.cache
def address(kind: type, name: str, dtype: np.dtype) -> int:
    """Return where a univariate's function "normalize", "generate" or "backward" lies, compiled."""
    real = types.CPointer(types.float32 if dtype == np.float32 else types.float64)
    size = types.int64
    arguments = [real, real, size, *[real] * (5 if name == "backward" else 3), size]
    return address_of(_entries(kind)[name], types.void(*arguments))


class CompiledUnivariate:
    """A univariate as kernels take it: a vector of constants, and its functions' addresses.

    Each function is compiled when its address is first asked for.
    """

    def __init__(self, tau: Any, dtype: np.dtype):
        self.dtype = dtype
        self.kind: Any = type(tau)
        self.constants = np.zeros(CONSTANTS, dtype)
        """The fields of its named tuple."""
        self.constants[: len(tau)] = tau

    @functools.cached_property
    def normalize(self) -> int:
        """Of the function that maps x to u."""
        return address(self.kind, "normalize", self.dtype)

    @functools.cached_property
    def generate(self) -> int:
        """Of the function that maps u to x."""
        return address(self.kind, "generate", self.dtype)

    @functools.cached_property
    def backward(self) -> int:
        """Of the gradient of ``normalize``."""
        return address(self.kind, "backward", self.dtype)


# ---- from a univariate to its compiled form ------------------------------------------------------


def _affine(kind: type) -> Callable:
    return lambda bound, scale: kind(bound)


def _floored(kind: type) -> Callable:
    return lambda scale, floor: kind(floor)


FORMS: dict[tuple[str, str | None], Callable] = {
    ("affine", "tanh"): _affine(affine.Affine),
    ("affine", "exp"): _affine(affine.AffineExp),
    ("affine", "softplus"): _affine(affine.AffineSoftplus),
    ("affine", "sigmoid"): _affine(affine.AffineSigmoid),
    ("floored_affine", "softplus"): _floored(affine.FlooredSoftplus),
    ("floored_affine", "sigmoid"): _floored(affine.FlooredSigmoid),
    ("additive", None): affine.Additive,
    ("spline", None): spline.Spline.of,
    ("circular_spline", None): spline.Spline.of,
    ("clipped_affine", None): clipped.ClippedAffine,
    ("clipped_spline", None): spline.Spline.clipped,
    ("free_spline", None): spline.Spline.free_ended,
    ("logistic_mixture", None): functools.partial(mixture.of, mixture.Logistic),
    ("gaussian_mixture", None): functools.partial(mixture.of, mixture.Gaussian),
}
"""What makes the named tuple from ``config()``, by the name in
:data:`afnp.univariate.UNIVARIATES` and the scale of those that have several."""


def known(name: str, config: dict) -> bool:
    """Return whether the kernels have this univariate."""
    return (name, config.get("scale")) in FORMS


def form(name: str, config: dict, dtype: np.dtype) -> CompiledUnivariate:
    """Return a univariate as the kernels take it."""
    return _form(name, tuple(config.items()), dtype)


@functools.cache
def _form(name: str, config: tuple, dtype: np.dtype) -> CompiledUnivariate:
    options = dict(config)
    return CompiledUnivariate(FORMS[name, options.get("scale")](**options), dtype)
