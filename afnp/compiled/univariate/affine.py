r"""Affine and additive univariates over the lanes of a tile.

.. math:: u_n = (x_n - \mu_n)\, e^{-\alpha_n}, \qquad \log\det{}_n \mathrel{-}= \alpha_n

The definition, with the table of scales, is :mod:`afnp.univariate.affine`; that of scales with a
floor, u = x s + t, :mod:`afnp.univariate.floored`: there mu = -t / s and alpha = -log s. The
default scale is a
plain loop that LLVM vectorises by itself, and quick for a single lane too; the others work on
vectors.

Letters: h = (m, a) is (2, lanes), for Additive (1, lanes); n runs over lanes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba.extending import overload

from afnp.compiled.compiler import jit as plain_jit
from afnp.compiled.simd import register_tile as scalar
from afnp.compiled.simd.vector import INLINE, choose, exp, jit, load, log, softplus, store, width_of

__all__ = [
    "Additive",
    "Affine",
    "AffineExp",
    "AffineSigmoid",
    "AffineSoftplus",
    "FlooredSigmoid",
    "FlooredSoftplus",
]


class Affine(NamedTuple):
    """See :class:`afnp.univariate.Affine`: the scale "tanh"."""

    bound: Any


class AffineExp(NamedTuple):
    """The scale "exp"."""

    bound: Any


class AffineSoftplus(NamedTuple):
    """The scale "softplus"."""

    bound: Any


class AffineSigmoid(NamedTuple):
    """The scale "sigmoid"."""

    bound: Any


class FlooredSoftplus(NamedTuple):
    """See :class:`afnp.univariate.FlooredAffine`: the scale "softplus"."""

    floor: Any


class FlooredSigmoid(NamedTuple):
    """The scale "sigmoid" of that."""

    floor: Any


class Additive(NamedTuple):
    """See :class:`afnp.univariate.Additive`."""

    unit: Any = 1
    """Nobody reads it: Numba knows no type for a named tuple without fields."""


# ---- from constants to named tuples --------------------------------------------------------------


@jit
def make(c):
    """Return an Affine."""
    return Affine(c[0])


@jit
def make_exp(c):
    """Return an AffineExp."""
    return AffineExp(c[0])


@jit
def make_softplus(c):
    """Return an AffineSoftplus."""
    return AffineSoftplus(c[0])


@jit
def make_sigmoid(c):
    """Return an AffineSigmoid."""
    return AffineSigmoid(c[0])


@jit
def make_floored_softplus(c):
    """Return a FlooredSoftplus."""
    return FlooredSoftplus(c[0])


@jit
def make_floored_sigmoid(c):
    """Return a FlooredSigmoid."""
    return FlooredSigmoid(c[0])


@jit
def make_additive(c):
    """Return an Additive."""
    return Additive(c[0])


# ---- the scale "tanh", lane by lane --------------------------------------------------------------


@plain_jit
def tanh_normalize(tau, h, x, u, log_det):
    """Do u = (x - mu) exp(-alpha), log_det -= alpha."""
    bound = tau.bound
    for n in range(x.size):
        alpha = bound * scalar.tanh(h[1, n] / bound)
        u[n] = (x[n] - h[0, n]) * scalar.exp(-alpha)
        log_det[n] -= alpha


@plain_jit
def tanh_generate(tau, h, u, x, log_det):
    """Do x = mu + u exp(alpha), log_det += alpha."""
    bound = tau.bound
    for n in range(u.size):
        alpha = bound * scalar.tanh(h[1, n] / bound)
        x[n] = h[0, n] + u[n] * scalar.exp(alpha)
        log_det[n] += alpha


@plain_jit
def tanh_backward(tau, h, x, d_u, d_log, d_h, d_x):
    """Do d_x = d_u e^-alpha, d_mu = -d_x, d_a = (-d_u u - d_log)(1 - t²)."""
    bound, one = tau.bound, x.dtype.type(1)
    for n in range(x.size):
        t = scalar.tanh(h[1, n] / bound)
        s = scalar.exp(-bound * t)
        d_x[n] = d_u[n] * s
        d_h[0, n] = -d_x[n]
        d_h[1, n] = (-d_u[n] * (x[n] - h[0, n]) * s - d_log[n]) * (one - t * t)


# ---- other scales, by vectors --------------------------------------------------------------------


def _read(tau, m, a):
    """Return mu, alpha, d alpha / d a, d mu / d m and d mu / d a."""


def _exp(tau, m, a):
    return m, a, a * 0 + 1, a * 0 + 1, a * 0


def _softplus(tau, m, a):
    z = a + math.log(math.e - 1)
    low = z < -37  # there softplus(z) is e^z to rounding
    value, rise = softplus(choose(low, 0.0, z))
    return m, choose(low, z, log(value)), choose(low, 1.0, rise / value), a * 0 + 1, a * 0


def _sigmoid(tau, m, a):
    value, rest = softplus(-(a + 2))  # rest is 1 - sigma
    return rest * m, -value, rest, rest, (rest - 1) * rest * m


def _floored_softplus(tau, m, a):
    value, rise = softplus(a)
    s = value + tau.floor
    return -m / s, -log(s), -rise / s, -1 / s, m * rise / (s * s)


def _floored_sigmoid(tau, m, a):
    _, sigma = softplus(a + 2)
    s, rise = sigma + tau.floor, sigma * (1 - sigma)
    return -m / s, -log(s), -rise / s, -1 / s, m * rise / (s * s)


READ = {
    AffineExp: _exp,
    AffineSoftplus: _softplus,
    AffineSigmoid: _sigmoid,
    FlooredSoftplus: _floored_softplus,
    FlooredSigmoid: _floored_sigmoid,
}


@overload(_read, jit_options=INLINE)
def _read_implementation(tau, m, a):
    return READ[tau.instance_class]


def _power(x):
    """e^x over the whole range, from 0 to infinity, where ``exp`` is clipped."""


@overload(_power, jit_options=INLINE)
def _power_implementation(x):
    def implementation(x):
        half = exp(0.5 * x)
        return half * half

    return implementation


@jit
def normalize(tau, h, x, u, log_det):
    """Do u = (x - mu) exp(-alpha), log_det -= alpha."""
    for n in range(0, x.size, width_of(x)):
        mu, alpha, _, _, _ = _read(tau, load(h, 0, n), load(h, 1, n))
        store(u, 0, n, (load(x, 0, n) - mu) * _power(-alpha))
        store(log_det, 0, n, load(log_det, 0, n) - alpha)


@jit
def generate(tau, h, u, x, log_det):
    """Do x = mu + u exp(alpha), log_det += alpha."""
    for n in range(0, u.size, width_of(u)):
        mu, alpha, _, _, _ = _read(tau, load(h, 0, n), load(h, 1, n))
        store(x, 0, n, mu + load(u, 0, n) * _power(alpha))
        store(log_det, 0, n, load(log_det, 0, n) + alpha)


@jit
def backward(tau, h, x, d_u, d_log, d_h, d_x):
    """Do d_x = d_u e^-alpha, d_mu = -d_x, d_alpha = -d_u u - d_log, and on to m and a."""
    for n in range(0, x.size, width_of(x)):
        mu, alpha, rise, mu_by_m, mu_by_a = _read(tau, load(h, 0, n), load(h, 1, n))
        slope = load(d_u, 0, n) * _power(-alpha)
        d_alpha = -slope * (load(x, 0, n) - mu) - load(d_log, 0, n)
        store(d_x, 0, n, slope)
        store(d_h, 0, n, -slope * mu_by_m)
        store(d_h, 1, n, d_alpha * rise - slope * mu_by_a)


# ---- additive ------------------------------------------------------------------------------------


@jit
def shift_normalize(tau, h, x, u, log_det):
    """Do u = x - h."""
    for n in range(x.size):
        u[n] = x[n] - h[0, n]


@jit
def shift_generate(tau, h, u, x, log_det):
    """Do x = u + h."""
    for n in range(u.size):
        x[n] = u[n] + h[0, n]


@jit
def shift_backward(tau, h, x, d_u, d_log, d_h, d_x):
    """Do d_x = d_u, d_h = -d_u."""
    for n in range(x.size):
        d_x[n] = d_u[n]
        d_h[0, n] = -d_u[n]
