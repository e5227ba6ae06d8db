r"""Wrong univariates: bins, roots, slopes and tails of the scalar bijections.

.. math:: u = \tau^{-1}(x; h), \qquad \log \frac{du}{dx}
"""

from __future__ import annotations

import math

import numpy as np

from afnp.univariate.circular import wrap
from afnp.univariate.rational_quadratic import RationalQuadratic, curve
from afnp.verify.mutants.registry import mutant, replace


def _spline_log(tau, change) -> None:
    """Compute the log-derivatives of both directions from ``change(bin)``."""

    def log_of(h, x):
        inside, x_in = tau._clip(x)
        at = change(tau._bin_of(h, 0, x_in)[0])
        a, c, e = curve(at, (x_in - at.x0) / at.w)
        return np.where(inside, 2 * np.log(at.s / (a + c)) + np.log(e), 0 * x)

    @replace(tau, "normalize")
    def normalize(normalize, h, x):
        u, _, cache = normalize(h, x)
        return u, log_of(h, x), cache

    @replace(tau, "generate")
    def generate(generate, h, u):
        x, _ = generate(h, u)
        return x, -log_of(h, x)


def _outside(tau, there, back, log=0.0) -> None:
    """Map what lies outside [-B, B] by ``there`` and ``back``."""

    @replace(tau, "normalize")
    def normalize(normalize, h, x):
        u, log_derivative, cache = normalize(h, x)
        beyond = np.abs(x.real) >= tau.bound
        return np.where(beyond, there(x), u), np.where(beyond, log, log_derivative), cache

    @replace(tau, "generate")
    def generate(generate, h, u):
        x, log_derivative = generate(h, u)
        beyond = np.abs(u.real) >= tau.bound
        return np.where(beyond, back(u), x), np.where(beyond, -log, log_derivative)


@mutant("spline", kills="log_det")
def spline_slope_of_the_wrong_knot(flow):
    """The derivative takes the left knot's slope for both ends of a bin."""
    _spline_log(flow.layers[0].univariate, lambda at: at._replace(d1=at.d0))


@mutant("spline", kills="log_det")
def spline_log_derivative_without_its_chord(flow):
    """The derivative's factor s^2 is s: the chord's slope counted once."""

    def once(at):
        return at._replace(s=np.sqrt(at.s), d0=at.d0 / np.sqrt(at.s), d1=at.d1 / np.sqrt(at.s))

    _spline_log(flow.layers[0].univariate, once)


@mutant("spline", kills="round_trip")
def spline_bin_of_the_other_axis(flow):
    """The inverse looks u up among the knots of x."""
    tau = flow.layers[0].univariate

    def generate(h, u):
        inside, u_in = tau._clip(u)
        at = tau._bin_of(h, 0, u_in)[0]
        xi = np.clip(((u_in - at.y0) / at.h).real, 0, 1)
        a, c, e = curve(at, xi)
        log_derivative = -2 * np.log(at.s / (a + c)) - np.log(e)
        return np.where(inside, at.x0 + at.w * xi, u), np.where(inside, log_derivative, 0 * u)

    tau.generate = generate


@mutant("spline", kills="round_trip")
def spline_linear_in_the_inverse(flow):
    """The inverse walks along the chord of its bin instead of solving the quadratic."""
    tau = flow.layers[0].univariate

    def generate(h, u):
        inside, u_in = tau._clip(u)
        at = tau._bin_of(h, 1, u_in)[0]
        xi = (u_in - at.y0) / at.h
        a, c, e = curve(at, xi)
        log_derivative = -2 * np.log(at.s / (a + c)) - np.log(e)
        return np.where(inside, at.x0 + at.w * xi, u), np.where(inside, log_derivative, 0 * u)

    tau.generate = generate


@mutant("spline", kills="round_trip")
def spline_with_the_other_root(flow):
    """The inverse takes the quadratic's other root where the textbook's sign changes."""
    tau = flow.layers[0].univariate

    def generate(h, u):
        inside, u_in = tau._clip(u)
        at = tau._bin_of(h, 1, u_in)[0]
        eta = (u_in - at.y0) / at.h
        q = at.d0 * (1 - eta) - at.d1 * eta
        r = np.sqrt(q * q + 4 * at.s * at.s * eta * (1 - eta))
        r = np.where(q.real > 0, r, -r)
        xi = np.clip(np.nan_to_num((2 * at.s * eta / (2 * at.s * eta + q + r)).real), 0, 1)
        a, c, e = curve(at, xi)
        log_derivative = -2 * np.log(at.s / (a + c)) - np.log(e)
        return np.where(inside, at.x0 + at.w * xi, u), np.where(inside, log_derivative, 0 * u)

    tau.generate = generate


@mutant("spline", kills="round_trip")
def spline_of_another_least_width(flow):
    """The sampler was built with another minimal bin width than the density."""
    tau = flow.layers[0].univariate
    tau.generate = RationalQuadratic(tau.bins, tau.bound, 2 * tau.min_width).generate


@mutant("spline", kills="log_det")
def spline_tail_of_slope_uncounted(flow):
    """Outside the bound the map is steeper than 1, and nobody counts it."""
    for layer in flow.layers:
        bound = layer.univariate.bound

        def there(x, bound=bound):
            return x + 0.01 * (x - np.sign(x.real) * bound)

        def back(u, bound=bound):
            return np.sign(u.real) * bound + (u - np.sign(u.real) * bound) / 1.01

        _outside(layer.univariate, there, back)


@mutant("spline", kills="edges")
def spline_tail_beside_the_spline(flow):
    """Outside the bound the map continues 0.05 further out than the spline ends.

    Values there are never reached.
    """
    for layer in flow.layers:
        _outside(
            layer.univariate,
            lambda x: x + 0.05 * np.sign(x.real),
            lambda u: u - 0.05 * np.sign(u.real),
        )


@mutant("spline", kills="edges")
def spline_clips_its_tails(flow):
    """Whatever lies outside the bound becomes the bound."""
    for layer in flow.layers:
        bound = layer.univariate.bound

        def clip(x, bound=bound):
            return 0 * x + bound * np.sign(x.real)

        _outside(layer.univariate, clip, clip)


@mutant("spline", kills="edges")
def spline_knots_end_before_the_bound(flow):
    """The last knot lies a thousandth before the bound: widths whose sum a minimum left short."""
    for layer in flow.layers:

        @replace(layer.univariate, "_places")
        def places(places, shares, least):
            knots = places(shares, least)
            knots[-1] *= 1 - 1e-3
            return knots


@mutant("spline", kills="gradients")
def spline_gradient_without_softplus(flow):
    """The slopes' gradient forgets the softplus that made them positive."""

    @replace(flow.layers[0].univariate, "_slope")
    def slope(slope, a):
        value, rise = slope(a)
        return value, rise**0


@mutant("spline", kills="gradients")
def spline_gradient_without_the_softmax_mean(flow):
    """The softmax's gradient is p d, without the mean that its sum of 1 takes away."""

    @replace(flow.layers[0].univariate, "_places_backward")
    def backward(backward, shares, d_places, least):
        right = backward(shares, d_places, least)  # p (d - mean), and the last bin has d = 0
        return right - shares * right[-1] / shares[-1]


@mutant("spline", kills="gradients")
def spline_gradient_of_the_branch_not_taken(flow):
    """Outside the bound the gradient is that of the spline, which was not selected.

    One "where" of two.
    """

    @replace(flow.layers[1].univariate, "backward")
    def backward(backward, cache, d_u, d_log):
        *parts, inside = cache
        return backward((*parts, inside | True), d_u, d_log)


# ---- mixtures ------------------------------------------------------------------------------------


@mutant("mixture", kills="log_det")
def mixture_slope_without_its_weights(flow):
    """The derivative of a mixture counts its components alike."""
    tau = flow.layers[0].univariate

    def log_of(h, x):
        log_pi, mu, s = tau._parts(h)
        return tau._normalize([0 * log_pi - math.log(tau.components), mu, s], x)[1]

    @replace(tau, "normalize")
    def normalize(normalize, h, x):
        u, _, cache = normalize(h, x)
        return u, log_of(h, x), cache

    @replace(tau, "generate")
    def generate(generate, h, u):
        x, _ = generate(h, u)
        return x, -log_of(h, x)


@mutant("mixture", kills="round_trip")
def mixture_bisection_stopped_early(flow):
    """The inverse's bisection stops at a width of 1e-5."""

    @replace(flow.layers[0].univariate, "generate")
    def generate(generate, h, u):
        x, log_derivative = generate(h, u)
        return np.round(x * 2**17) / 2**17, log_derivative


@mutant("mixture", kills="edges")
def mixture_saturates_in_its_tails(flow):
    """The distribution function is clipped to [1e-7, 1 - 1e-7]: beyond, every x has one u."""

    @replace(flow.layers[0].univariate, "normalize")
    def normalize(normalize, h, x):
        u, *rest = normalize(h, x)
        return np.where(np.abs(u.real) < 5.2, u, 0 * u + 5.2 * np.sign(u.real)), *rest


@mutant("mixture", kills="gradients")
def mixture_weights_never_trained(flow):
    """The components' weights get no gradient: drawn as indices, not as numbers."""
    tau = flow.layers[0].univariate

    @replace(tau, "backward")
    def backward(backward, *arguments):
        d_h, d_x = backward(*arguments)
        d_h[..., : tau.components] = 0
        return d_h, d_x


# ---- angles --------------------------------------------------------------------------------------


@mutant("torus", kills="round_trip")
def phase_not_undone(flow):
    """The circular spline turns its angles on the way in, and not back on the way out."""

    @replace(flow.layers[0].univariate, "generate")
    def generate(generate, h, u):
        x, log_derivative = generate(h, u)
        return wrap(x - h[..., -1]), log_derivative


@mutant("torus", kills="log_det")
def slopes_differ_where_the_circle_closes(flow):
    """The derivative takes slope 1 at both ends, as on a line: the density has a step there."""
    tau = flow.layers[0].univariate

    def log_of(h, x):
        at = tau._bin_of(h[..., :-1], 0, wrap(x - h[..., -1]))[0]
        first, last = at.x0.real == -math.pi, (at.x0 + at.w).real >= math.pi
        at = at._replace(d0=np.where(first, 1, at.d0), d1=np.where(last, 1, at.d1))
        a, c, e = curve(at, (wrap(x - h[..., -1]) - at.x0) / at.w)
        return 2 * np.log(at.s / (a + c)) + np.log(e)

    @replace(tau, "normalize")
    def normalize(normalize, h, x):
        u, _, cache = normalize(h, x)
        return u, log_of(h, x), cache

    @replace(tau, "generate")
    def generate(generate, h, u):
        x, _ = generate(h, u)
        return x, -log_of(h, x)


@mutant("torus", kills="monotone")
def angles_not_wrapped(flow):
    """Angles leave [-pi, pi) by the phase and are clipped back: a band of them becomes one."""

    @replace(flow.layers[0].univariate, "normalize")
    def normalize(normalize, h, x):
        u, *rest = normalize(h, x)
        return np.where(np.abs(u.real) < 3, u, 0 * u + 3 * np.sign(u.real)), *rest
