r"""Mixtures of logistic or normal distributions as univariates, V samples at a time.

.. math::
    \log T = \log \sum_k \pi_k\, B(-t_k), \qquad B(-t) = T, \qquad
    \log \frac{du}{dx}
    = \log \sum_k \frac{\pi_k\, B(-|z_k|)}{T}\, \lambda(|z_k|)\, e^{-s_k} - \log \lambda(t)

The definition, with all letters, is :mod:`afnp.univariate.mixture`; its tails are ``normal``, its
root ``root``. Sums of exponentials are taken term by term, against the largest term so far. Far out
log B and log T are huge and log lambda is lost in their last digit: exponents are kept in these two
parts, and like is subtracted from like. A root that is not found is NaN.

``normalize`` leaves log pi, mu and s in h, for ``backward`` to find.

Letters: C components; i is the first of V lanes; h is (3 C, lanes). Everything else is a
:class:`afnp.compiled.simd.vector.Vector`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import types
from numba.extending import overload

from afnp.compiled.simd.vector import (
    INLINE,
    any_of,
    choose,
    exp,
    inline,
    jit,
    load,
    log,
    log1p,
    maximum,
    precision,
    root,
    size,
    softplus,
    store,
    width_of,
)
from afnp.univariate.normal import HALLEY_STEPS, START

__all__ = ["Gaussian", "Logistic", "backward", "generate", "normalize"]

ITERATIONS = 200
(C2, C1, C0), (D3, D2, D1, D0) = START


class Logistic(NamedTuple):
    """See :class:`afnp.univariate.LogisticMixture`."""

    components: int
    bound: Any
    first: Any
    step: Any
    """The components' places."""


class Gaussian(NamedTuple):
    """See :class:`afnp.univariate.GaussianMixture`."""

    components: int
    bound: Any
    first: Any
    step: Any


def of(kind: type, components: int, bound: float):
    """Return the named tuple of a mixture, whose components start evenly spread over [-2, 2]."""
    if components == 1:
        return kind(1, bound, 0.0, 0.0)
    return kind(components, bound, -2.0, 4 / (components - 1))


@jit
def make_logistic(c):
    """Return the mixture of logistics of a vector of its constants."""
    return Logistic(int(c[0]), c[1], c[2], c[3])


@jit
def make_gaussian(c):
    """Return the mixture of normal distributions of a vector of its constants."""
    return Gaussian(int(c[0]), c[1], c[2], c[3])


# ---- tails ---------------------------------------------------------------------------------------


def _tail(tau, t):
    """Return, for t >= 0, log B(-t), log lambda(t), and kappa(t) = (log lambda)'(t)."""


def _quantile(tau, log_T):
    """Return t >= 0 with log B(-t) = log_T."""


@inline
def _logistic_tail(tau, t):
    value, rise = softplus(-t)
    return -t - value, -value, rise


@inline
def _logistic_quantile(tau, log_T):
    return log1p(-exp(log_T)) - log_T


def _normal_nodes(single: bool) -> tuple:
    """Return squares of the integral's nodes, their weights, and where the pole counts no more."""
    step, count = (1.0, 7) if single else (math.sqrt(0.5), 13)
    nodes = [(j + 0.5) * step for j in range(count)]
    return tuple((q * q, step / math.pi * math.exp(-q * q / 2)) for q in nodes), 2 * math.pi / step


@overload(_tail, jit_options=INLINE)
def _tail_implementation(tau, t):
    if tau.instance_class is Logistic:
        return lambda tau, t: _logistic_tail(tau, t)
    nodes, pole = _normal_nodes(t.number == types.float32)
    log_root = 0.5 * math.log(2 * math.pi)

    def normal(tau, t):
        square = t * t
        G = rest = t * 0
        for q2, weight in nodes:
            term = weight / (square + q2)
            G, rest = G + term, rest + q2 * term
        near = choose(t < pole, t, pole)
        residue = exp(near * (0.5 * near - pole)) / (1 + exp(-pole * near))
        residue = choose(t < pole, residue, 0.0)
        G, rest = t * G + residue, rest - t * residue
        log_G = log(G)
        return log_G - 0.5 * square, -log_G - log_root, rest / G

    return normal


@inline
def _normal_quantile(tau, log_T):
    s = root(-2 * log_T)
    t = s - (C2 + (C1 + C0 / s) / s) / (D3 * s + D2 + (D1 + D0 / s) / s)
    for _ in range(HALLEY_STEPS):
        value, log_hazard, kappa = _tail(tau, t)
        step = (value - log_T) * exp(-log_hazard)
        t = t + step / (1 + 0.5 * step * kappa)
    return t


@overload(_quantile, jit_options=INLINE)
def _quantile_implementation(tau, log_T):
    if tau.instance_class is Logistic:
        return lambda tau, log_T: _logistic_quantile(tau, log_T)
    return lambda tau, log_T: _normal_quantile(tau, log_T)


# ---- sums over components ------------------------------------------------------------------------


@inline
def _add(top, total, a):
    """Add e^a to a sum of exponentials e^top · total, ``top`` being the largest exponent so far."""
    up = a - top
    e = exp(-size(up))
    return choose(up > 0, a, top), choose(up > 0, total * e + 1, total + e)


@inline
def _add_product(large, small, total, a, b):
    """Add e^(a + b) to a sum e^(large + small) · total, where b would be lost in a's last digit."""
    up = (a - large) + (b - small)
    e = exp(-size(up))
    return (
        choose(up > 0, a, large),
        choose(up > 0, b, small),
        choose(up > 0, total * e + 1, total + e),
    )


@inline
def _read(tau, h, i):
    """Replace the logits, means and raw log-scales of h by log pi, mu and s."""
    C, B = tau.components, tau.bound
    total = load(h, 0, i) * 0
    top = total - math.inf
    for k in range(C):
        top, total = _add(top, total, load(h, k, i))
    norm = top + log(total)
    for k in range(C):
        store(h, k, i, load(h, k, i) - norm)
        store(h, C + k, i, load(h, C + k, i) + (tau.first + k * tau.step))
        t = 1 - 2 / (exp(load(h, 2 * C + k, i) * (2 / B)) + 1)
        store(h, 2 * C + k, i, B * t)


@inline
def _component(tau, h, i, k, x):
    """Return of one component.

    Log pi, s, e^-s, z, log B(-|z|), log B(|z|), and log lambda and kappa at |z|.
    """
    C = tau.components
    log_pi, mu, s = load(h, k, i), load(h, C + k, i), load(h, 2 * C + k, i)
    shrink = exp(-s)
    z = (x - mu) * shrink
    near, log_hazard, kappa = _tail(tau, size(z))
    return log_pi, s, shrink, z, near, log1p(-exp(near)), log_hazard, kappa


@jit
def _sums(tau, h, i, x):
    """Return log T, whether it is the upper tail, and the log of the density's sum in two parts."""
    zero = x * 0
    above = below = density = small = zero
    above_top = below_top = large = zero - math.inf
    for k in range(tau.components):
        log_pi, s, _, z, near, far, log_hazard, _ = _component(tau, h, i, k, x)
        above_top, above = _add(above_top, above, log_pi + choose(z > 0, near, far))
        below_top, below = _add(below_top, below, log_pi + choose(z > 0, far, near))
        large, small, density = _add_product(large, small, density, log_pi + near, log_hazard - s)
    up, down = above_top + log(above), below_top + log(below)
    positive = up <= down
    return choose(positive, up, down), positive, large, small + log(density)


@inline
def _map(tau, h, i, x):
    """Return u and log du/dx."""
    log_T, positive, large, small = _sums(tau, h, i, x)
    t = _quantile(tau, log_T)
    _, log_hazard, _ = _tail(tau, t)
    return choose(positive, t, -t), (large - log_T) + (small - log_hazard)


# ---- normalize, generate, backward ---------------------------------------------------------------


@jit
def normalize(tau, h, x, u, log_det):
    """Map x to u, and add log du/dx."""
    for i in range(0, x.size, width_of(x)):
        _read(tau, h, i)
        value, gain = _map(tau, h, i, load(x, 0, i))
        store(u, 0, i, value)
        store(log_det, 0, i, load(log_det, 0, i) + gain)


@jit
def generate(tau, h, u, x, log_det):
    """Map u to x, and add log dx/du."""
    for i in range(0, u.size, width_of(u)):
        _read(tau, h, i)
        value, gain = _find(tau, h, i, load(u, 0, i), precision(u))
        store(x, 0, i, value)
        store(log_det, 0, i, load(log_det, 0, i) - gain)


@inline
def _bracket(tau, h, i, u):
    """Return a start between the least and the greatest mu_k + u e^s_k, and these.

    Each component's own x.
    """
    C, start = tau.components, u * 0
    low = start + math.inf
    high = -low
    for k in range(C):
        alone = load(h, C + k, i) + u * exp(load(h, 2 * C + k, i))
        start = start + exp(load(h, k, i)) * alone
        low, high = choose(alone < low, alone, low), choose(alone > high, alone, high)
    return maximum(choose(start > high, high, start), low), low, high


@inline
def _find(tau, h, i, u, eps):
    """Return x and log du/dx by Newton's steps inside a bracket, or else bisection.

    NaN if that fails.
    """
    x, low, high = _bracket(tau, h, i, u)
    last = scale = high - low
    tolerance = 2 * eps * maximum(size(u), 1.0)
    sought = scale < math.inf
    failed = ~sought
    value, log_slope = _map(tau, h, i, x)
    for _ in range(ITERATIONS):
        miss = value - u
        sought = sought & ~(size(miss) <= tolerance)
        if not any_of(sought):
            break
        low, high = choose(sought & (miss < 0), x, low), choose(sought & (miss > 0), x, high)
        newton = x - miss * exp(-maximum(log_slope, -80.0))
        good = (newton >= low) & (newton <= high) & (2 * size(newton - x) <= last)
        step = choose(good, newton, low + 0.5 * (high - low)) - x
        x, last = choose(sought, x + step, x), choose(sought, size(step), last)
        sought = sought & ~((size(step) <= 2 * eps * (size(x) + scale)) & (size(miss) < math.inf))
        value, log_slope = _map(tau, h, i, x)
    return choose(failed | sought, math.nan, x), log_slope


@jit
def backward(tau, h, x, d_u, d_log, d_h, d_x):
    """Write d_h and d_x, as the definition does; h is as ``normalize`` left it."""
    C, B = tau.components, tau.bound
    for i in range(0, x.size, width_of(x)):
        point, g, l = load(x, 0, i), load(d_u, 0, i), load(d_log, 0, i)
        log_T, positive, large, small = _sums(tau, h, i, point)
        _, log_hazard_u, kappa_u = _tail(tau, _quantile(tau, log_T))
        through_u = (l * kappa_u - choose(positive, g, -g)) * exp(-log_hazard_u)
        total = slope = point * 0
        for k in range(C):
            log_pi, s, shrink, z, near, far, log_hazard, kappa = _component(tau, h, i, k, point)
            out = (z > 0) & positive | ~(z > 0) & ~positive
            q = exp((log_pi + near - large) + (log_hazard - s - small))
            r = exp(log_pi + choose(out, near, far) - log_T)
            hazard, other = exp(log_hazard), exp(log_hazard + near - far)
            c = l * (q - r) + r * through_u
            d_t = (
                l * q * choose(out, kappa, other + hazard - kappa) - choose(out, hazard, other) * c
            )
            d_z = choose(positive, d_t, -d_t)
            total, slope = total + c, slope + d_z * shrink
            store(d_h, k, i, c)
            store(d_h, C + k, i, -d_z * shrink)
            store(d_h, 2 * C + k, i, (-d_z * z - l * q) * (1 - (s / B) * (s / B)))
        store(d_x, 0, i, slope)
        for k in range(C):
            store(d_h, k, i, load(d_h, k, i) - exp(load(h, k, i)) * total)
