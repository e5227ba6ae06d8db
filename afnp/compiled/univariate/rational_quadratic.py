r"""Rational-quadratic splines, on the line and on the circle, V samples at a time.

.. math::
    u = y_k + \frac{(y_{k+1} - y_k)\, a}{a + c}, \qquad \frac{du}{dx} = \frac{s^2 e}{(a + c)^2}

The definitions, with all formulas, are :mod:`afnp.univariate.rational_quadratic` and ``circular``.
Nobody searches for a bin here: every sample walks past all knots and remembers the last that is not
above it.

``normalize`` leaves in h the numerators of both softmaxes in place of their logits, for
``backward`` to find. Parameters that are softly clipped (:mod:`afnp.univariate.clipped`) are so
first, and what is left tells the clip's derivative.

Letters: n bins; i is the first of V lanes; h is (K, lanes), its rows the widths, heights, slopes,
and a circle's phase. Everything else is a :class:`afnp.compiled.simd.vector.Vector`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from afnp.compiled.simd.vector import (
    choose,
    exp,
    floor,
    inline,
    jit,
    load,
    log,
    maximum,
    root,
    softplus,
    store,
    width_of,
)

__all__ = ["Spline", "backward", "generate", "normalize"]


class Spline(NamedTuple):
    """The compiled :class:`~afnp.univariate.RationalQuadratic`, on the line or on the circle."""

    bins: int
    bound: Any
    least_w: Any
    least_h: Any
    """Of a bin, in the units of x and y."""
    rest_w: Any
    rest_h: Any
    """What is left for the softmaxes to share."""
    min_slope: Any
    shift: Any
    """What is added to a slope's logit, so that 0 gives slope 1."""
    circle: bool
    clip: Any = 0.0
    """Where log-slopes end, and at half of it logits of shares; 0 for splines without a clip."""
    free: bool = False
    """Whether the slopes at both ends of a line are params, too."""

    @classmethod
    def free_ended(cls, **options: Any) -> Spline:
        """Return the compiled :class:`~afnp.univariate.FreeSpline`."""
        return cls.of(**options)._replace(free=True)

    @classmethod
    def clipped(cls, bins: int, bound: float, slope: float) -> Spline:
        """Return the spline of softly clipped parameters, with slopes e^a."""
        return cls(bins, bound, 0.0, 0.0, 2 * bound, 2 * bound, 0.0, 0.0, False, -math.log(slope))

    @classmethod
    def of(
        cls, bins: int, min_width: float, min_height: float, min_slope: float, bound: float = 0
    ) -> Spline:
        """Return the spline of a line, or without a bound that of the circle."""
        B = bound or math.pi
        least_w, least_h = 2 * B * min_width, 2 * B * min_height
        shift = math.log(math.expm1(1 - min_slope))
        return cls(
            bins,
            B,
            least_w,
            least_h,
            2 * B - bins * least_w,
            2 * B - bins * least_h,
            min_slope,
            shift,
            not bound,
        )


@jit
def make(c):
    """Return the spline of a vector of its constants."""
    return Spline(int(c[0]), c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8] > 0, c[9], c[10] > 0)


class Bin(NamedTuple):
    """The bin that each point lies in.

    Number, first corner and sizes, slopes and their derivatives by the logits.

    The units are what a softmax's numerator of 1 adds to the width and to the height of a bin.
    """

    k: Any
    x0: Any
    w: Any
    y0: Any
    h: Any
    unit_w: Any
    unit_h: Any
    d0: Any
    d1: Any
    rise0: Any
    rise1: Any


# ---- knots ---------------------------------------------------------------------------------------


@inline
def _numerators(h, first, last, i):
    """Replace rows first..last-1 of h by e^(h - max)."""
    peak = load(h, first, i)
    for k in range(first + 1, last):
        peak = maximum(load(h, k, i), peak)
    for k in range(first, last):
        store(h, k, i, exp(load(h, k, i) - peak))


@inline
def _size(v):
    return maximum(v, -v)


@inline
def _clip(a, limit):
    """Return a / (1 + |a| / L)."""
    return a / (1 + _size(a) / limit)


@inline
def _read(tau, h, i):
    """Make numerators of the logits of both softmaxes; clip, where parameters are clipped.

    Clipped logits are small: their numerators are e^c, out of which the derivative reads c.
    """
    n = tau.bins
    if tau.clip > 0:
        for k in range(2 * n):
            store(h, k, i, exp(_clip(load(h, k, i), tau.clip / 2)))
        for k in range(2 * n, 3 * n - 1):
            store(h, k, i, _clip(load(h, k, i), tau.clip))
    else:
        _numerators(h, 0, n, i)
        _numerators(h, n, 2 * n, i)


@inline
def _clip_backward(tau, h, d_h, i):
    """Multiply d_h by the clip's derivative, (1 - |c| / L)²."""
    n = tau.bins
    for k in range(3 * n - 1):
        c, limit = load(h, k, i), tau.clip
        if k < 2 * n:
            c, limit = log(c), tau.clip / 2
        rest = 1 - _size(c) / limit
        store(d_h, k, i, load(d_h, k, i) * rest * rest)


@inline
def _sum(h, first, last, i):
    total = load(h, first, i)
    for k in range(first + 1, last):
        total = total + load(h, k, i)
    return total


@inline
def _find(tau, h, i, v, by_y):
    """Return the bin of v among the knots of x, or of y."""
    n, zero = tau.bins, v * 0
    unit_w, unit_h = tau.rest_w / _sum(h, 0, n, i), tau.rest_h / _sum(h, n, 2 * n, i)
    x, y = zero - tau.bound, zero - tau.bound
    at, x0, w, y0, height = zero - 1, x, zero, y, zero
    for k in range(n):
        x1 = x + (tau.least_w + unit_w * load(h, k, i))
        y1 = y + (tau.least_h + unit_h * load(h, n + k, i))
        if k == n - 1:
            x1, y1 = zero + tau.bound, zero + tau.bound
        here = v >= y if by_y else v >= x
        at = choose(here, at + 1, at)
        x0, w = choose(here, x, x0), choose(here, x1 - x, w)
        y0, height = choose(here, y, y0), choose(here, y1 - y, height)
        x, y = x1, y1
    d0, d1, rise0, rise1 = _slopes(tau, h, i, at)
    return Bin(at, x0, w, y0, height, unit_w, unit_h, d0, d1, rise0, rise1)


@inline
def _slope_rows(tau):
    """Return the first row of slopes, how many there are, and the knot of the first."""
    if tau.circle:
        return 2 * tau.bins, tau.bins, 0
    if tau.free:
        return 2 * tau.bins, tau.bins + 1, 0
    return 2 * tau.bins, tau.bins - 1, 1


@inline
def _ending_at(tau, knot):
    """Return the bin whose right end is a knot; that of a circle's first is the last, else none."""
    return tau.bins - 1 if tau.circle and knot == 0 else knot - 1


@inline
def _slopes(tau, h, i, at):
    """Return the slopes at both ends of bin ``at``, and their derivatives.

    The ends of a line have logit 0.
    """
    first, count, knot = _slope_rows(tau)
    a0 = a1 = at * 0
    for j in range(count):
        a = load(h, first + j, i)
        a0 = choose(_equal(at, knot + j), a, a0)
        a1 = choose(_equal(at, _ending_at(tau, knot + j)), a, a1)
    if tau.clip > 0:
        d0, d1 = exp(a0), exp(a1)
        return d0, d1, d0, d1
    d0, rise0 = softplus(a0 + tau.shift)
    d1, rise1 = softplus(a1 + tau.shift)
    return d0 + tau.min_slope, d1 + tau.min_slope, rise0, rise1


@inline
def _equal(at, k):
    return (at >= k) & (at <= k)


# ---- one bin -------------------------------------------------------------------------------------


@inline
def _wrap(v):
    """Return the angle in [-pi, pi) that points the same way; one there stays to the last bit."""
    pi, turn = v * 0 + math.pi, v * 0 + 2 * math.pi
    r = (v + pi) - turn * floor((v + pi) / turn)
    r = choose(r < 0, r + turn, r)
    r = choose(r >= turn, r - turn, r) - pi
    r = choose(r >= pi, r - turn, r)
    return choose((v >= -pi) & (v < pi), v, r)


@inline
def _inside(tau, v):
    """Return which points the spline bends; what is not a number stays so in all that follows."""
    bound = math.inf if tau.circle else tau.bound
    return ~((v <= -bound) | (v >= bound))


@inline
def _curve(s, d0, d1, xi):
    """Return the formula's a + c, a and e."""
    eta = 1 - xi
    a = xi * (s * xi + d0 * eta)
    return a + eta * (s * eta + d1 * xi), a, d1 * xi * xi + 2 * s * xi * eta + d0 * eta * eta


@inline
def _log_slope(s, Q, e):
    t = s / Q
    return log(t * e * t)


@inline
def _solve(s, d0, d1, share):
    """Return xi from the height's share.

    The root that lies in [0, 1], by the form that cancels nothing.
    """
    rest = maximum(1 - share, 0.0)
    q = d0 * rest - d1 * share
    r = root(q * q + 4 * s * s * share * rest)
    here = choose(q > 0, 2 * s * share, r - q)
    return here / (here + choose(q > 0, q + r, 2 * s * rest))


# ---- normalize, generate, backward ---------------------------------------------------------------


@jit
def normalize(tau, h, x, u, log_det):
    """Map x to u, and add log du/dx = log(s² e / (a + c)²)."""
    for i in range(0, x.size, width_of(x)):
        _read(tau, h, i)
        v = load(x, 0, i)
        if tau.circle:
            v = _wrap(v - load(h, len(h) - 1, i))
        inside = _inside(tau, v)
        at = _find(tau, h, i, choose(inside, v, 0.0), False)
        s, xi = at.h / at.w, (v - at.x0) / at.w
        Q, a, e = _curve(s, at.d0, at.d1, xi)
        value = at.y0 + at.h * (a / Q)
        store(u, 0, i, _wrap(value) if tau.circle else choose(inside, value, v))
        store(log_det, 0, i, load(log_det, 0, i) + choose(inside, _log_slope(s, Q, e), 0.0))


@jit
def generate(tau, h, u, x, log_det):
    """Map u to x, and add log dx/du."""
    for i in range(0, u.size, width_of(u)):
        _read(tau, h, i)
        v = load(u, 0, i)
        if tau.circle:
            v = _wrap(v)
        inside = _inside(tau, v)
        at = _find(tau, h, i, choose(inside, v, 0.0), True)
        s, share = at.h / at.w, (v - at.y0) / at.h
        xi = _solve(s, at.d0, at.d1, share)
        Q, _, e = _curve(s, at.d0, at.d1, xi)
        value = at.x0 + at.w * xi
        store(
            x,
            0,
            i,
            _wrap(value + load(h, len(h) - 1, i)) if tau.circle else choose(inside, value, v),
        )
        store(log_det, 0, i, load(log_det, 0, i) - choose(inside, _log_slope(s, Q, e), 0.0))


@jit
def backward(tau, h, x, d_u, d_log, d_h, d_x):
    """Write d_h and d_x, as the definition does; h is as ``normalize`` left it."""
    n = tau.bins
    for i in range(0, x.size, width_of(x)):
        v = load(x, 0, i)
        if tau.circle:
            v = _wrap(v - load(h, len(h) - 1, i))
        inside = _inside(tau, v)
        at = _find(tau, h, i, choose(inside, v, 0.0), False)
        g, l = choose(inside, load(d_u, 0, i), 0.0), choose(inside, load(d_log, 0, i), 0.0)
        slope, d_x1, d_y1, d_d0, d_d1 = _bin_backward(at, choose(inside, v, 0.0), g, l)
        _shares_backward(tau, h, d_h, 0, i, at.k, tau.rest_w, at.unit_w, -slope, d_x1)
        _shares_backward(tau, h, d_h, n, i, at.k, tau.rest_h, at.unit_h, g, d_y1)
        _slopes_backward(tau, d_h, i, at.k, d_d0 * at.rise0, d_d1 * at.rise1)
        slope = choose(inside, slope, load(d_u, 0, i))
        store(d_x, 0, i, slope)
        if tau.circle:
            store(d_h, len(h) - 1, i, -slope)
        if tau.clip > 0:
            _clip_backward(tau, h, d_h, i)


@inline
def _bin_backward(at, v, d_u, d_log):
    """Return d_x and the gradients by the bin's last corner and both slopes."""
    s, xi = at.h / at.w, (v - at.x0) / at.w
    eta = 1 - xi
    Q, a, e = _curve(s, at.d0, at.d1, xi)
    c, both = Q - a, xi * eta
    d_e, d_Q, d_share = d_log / e, -2 * d_log / Q, d_u * at.h / Q / Q
    d_a, d_c = d_share * c + d_Q, d_Q - d_share * a
    d_xi = d_share * s * e + 2 * d_e * (at.d1 * xi + s * (eta - xi) - at.d0 * eta)
    d_xi = d_xi + d_Q * (at.d0 + at.d1 - 2 * s) * (eta - xi)
    d_s = d_a * xi * xi + d_c * eta * eta + 2 * d_e * both + 2 * d_log / s
    slope, by_s = d_xi / at.w, d_s / at.w
    return (
        slope,
        -xi * slope - s * by_s,
        d_u * a / Q + by_s,
        d_a * both + d_e * eta * eta,
        d_c * both + d_e * xi * xi,
    )


@inline
def _shares_backward(tau, h, d_h, first, i, at, rest, unit, d_both, d_last):
    r"""Write the softmax's gradient, d_j the sum over knots right of bin j.

    .. math:: p_j \Big(d_j - \sum_m p_m d_m\Big) = p_j \sum_m p_m (d_j - d_m)

    Only the two knots of the point's own bin count, so d_j is 0 right of it, d_last in it, and both
    together left of it. By differences nothing cancels: a bin that takes all has gradient 0.
    """
    fixed = at >= tau.bins - 1  # the last knot
    d_both = choose(fixed, d_both - d_last, d_both)
    d_last = choose(fixed, 0.0, d_last)
    left = own = right = 0.0 * d_last
    for j in range(tau.bins):
        p = load(h, first + j, i)
        left += choose(at > j, p, 0.0)
        own += choose(_equal(at, j), p, 0.0)
        right += choose(at < j, p, 0.0)
    scale = unit * (unit / rest)
    d_left = scale * (own * (d_both - d_last) + right * d_both)
    d_own = scale * (left * (d_last - d_both) + right * d_last)
    d_right = scale * -(left * d_both + own * d_last)
    for j in range(tau.bins):
        d = choose(at > j, d_left, choose(_equal(at, j), d_own, d_right))
        store(d_h, first + j, i, load(h, first + j, i) * d)


@inline
def _slopes_backward(tau, d_h, i, at, d_a0, d_a1):
    """Write the gradients of the slopes' logits: each point's two, and 0 elsewhere."""
    first, count, knot = _slope_rows(tau)
    for j in range(count):
        d = choose(_equal(at, knot + j), d_a0, 0.0)
        store(d_h, first + j, i, d + choose(_equal(at, _ending_at(tau, knot + j)), d_a1, 0.0))
