r"""The affine univariate of softly clipped scales over the lanes of a tile.

.. math:: u_n = x_n\, e^{\alpha_n} + t_n, \qquad \alpha_n = \frac{a_n}{1 + |a_n| / L}, \qquad
          \log\det{}_n \mathrel{+}= \alpha_n

The definition is :mod:`afnp.univariate.clipped`; its spline is compiled with all others, in
:mod:`afnp.compiled.univariate.rational_quadratic`. Plain loops, which LLVM vectorises by itself.

Letters: h = (t, a) is (2, lanes); n runs over lanes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from afnp.compiled.compiler import jit
from afnp.compiled.simd import register_tile as scalar
from afnp.compiled.simd.vector import jit as inlined

__all__ = ["ClippedAffine"]


class ClippedAffine(NamedTuple):
    """See :class:`afnp.univariate.ClippedAffine`."""

    limit: Any


@inlined
def make(c):
    """Return a ClippedAffine."""
    return ClippedAffine(c[0])


@jit
def normalize(tau, h, x, u, log_det):
    """Do u = x exp(alpha) + t, log_det += alpha."""
    limit, one = tau.limit, x.dtype.type(1)
    for n in range(x.size):
        alpha = h[1, n] / (one + abs(h[1, n]) / limit)
        u[n] = x[n] * scalar.exp(alpha) + h[0, n]
        log_det[n] += alpha


@jit
def generate(tau, h, u, x, log_det):
    """Do x = (u - t) exp(-alpha), log_det -= alpha."""
    limit, one = tau.limit, x.dtype.type(1)
    for n in range(u.size):
        alpha = h[1, n] / (one + abs(h[1, n]) / limit)
        x[n] = (u[n] - h[0, n]) * scalar.exp(-alpha)
        log_det[n] -= alpha


@jit
def backward(tau, h, x, d_u, d_log, d_h, d_x):
    """Do d_x = d_u e^alpha, d_t = d_u, d_a = (d_x x + d_log) (1 + |a| / L)^-2."""
    limit, one = tau.limit, x.dtype.type(1)
    for n in range(x.size):
        below = one + abs(h[1, n]) / limit
        d_x[n] = d_u[n] * scalar.exp(h[1, n] / below)
        d_h[0, n] = d_u[n]
        d_h[1, n] = (d_x[n] * x[n] + d_log[n]) / (below * below)
