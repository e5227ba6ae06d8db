r"""Wrong only far out: beyond the end of a spline, on one side, in one direction.

.. math:: |x_i| > B: \quad \log\left|\det \frac{\partial u}{\partial x}\right| \;\text{off by } 0.05
"""

from __future__ import annotations

import numpy as np

from afnp.verify.mutants.clean import BOUND
from afnp.verify.mutants.registry import mutant, replace


def _beyond(functions, off, density: bool = True) -> None:
    """Move both log-determinants by ``off(x)``, and the density with them.

    They still fit each other.
    """

    @replace(functions, "normalize")
    def normalize(normalize, x):
        u, log_det = normalize(x)
        return u, log_det + off(x)

    @replace(functions, "generate")
    def generate(generate, u):
        x, log_det = generate(u)
        return x, log_det - off(x)

    if density:

        @replace(functions, "log_prob")
        def log_prob(log_prob, x):
            return log_prob(x) + off(x)


@mutant("bent", kills="log_det")
def log_det_off_beyond_the_bound(functions):
    """Beyond the spline's bound the log-determinant is 0.05 too large, everywhere alike."""
    _beyond(functions, lambda x: 0.05 * (np.abs(x) > BOUND).any(axis=1))


@mutant("bent", kills="log_det")
def log_det_off_beyond_the_bound_of_one_feature(functions):
    """Beyond the bound of the second feature alone the log-determinant is 0.05 too large."""
    _beyond(functions, lambda x: 0.05 * (np.abs(x[:, 1]) > BOUND))


@mutant("bent", kills="log_det")
def log_det_off_on_the_right(functions):
    """Beyond the bound on the right the log-determinant is off: one "where" of two."""
    _beyond(functions, lambda x: 0.05 * (x > BOUND).any(axis=1))


@mutant("bent", kills="log_det")
def log_det_off_far_out(functions):
    """Beyond three times the bound the log-determinant grows: an extrapolation nobody looked at."""
    _beyond(functions, lambda x: 0.01 * np.maximum(np.abs(x) - 3 * BOUND, 0).sum(axis=1))


@mutant("bent", kills="identities")
def density_off_beyond_the_bound(functions):
    """Beyond the bound the density alone is 0.05 nats off."""

    @replace(functions, "log_prob")
    def log_prob(log_prob, x):
        return log_prob(x) + 0.05 * (np.abs(x) > BOUND).any(axis=1)


@mutant("bent", kills="log_det")
def steeper_beyond_the_bound(functions):
    """Beyond the bound the map is 5 % steeper, and nobody counts it; the sampler undoes it."""

    def out(x, factor):
        end = np.clip(x, -BOUND, BOUND)
        return end + factor * (x - end)

    @replace(functions, "normalize")
    def normalize(normalize, x):
        u, log_det = normalize(x)
        return out(u, 1.05), log_det

    @replace(functions, "generate")
    def generate(generate, u):
        return generate(out(u, 1 / 1.05))

    @replace(functions, "log_prob")
    def log_prob(log_prob, x):
        u, log_det = functions.normalize(x)
        return log_det - np.square(u).sum(axis=1) / 2 - np.log(2 * np.pi)


@mutant("spline", kills="edges")
def spline_log_derivative_off_beyond_its_bound(flow):
    """Outside the bound the log-derivative is 0.05, the map the identity; in both directions."""
    for layer in flow.layers:
        tau = layer.univariate

        @replace(tau, "normalize")
        def normalize(normalize, h, x, tau=tau):
            u, log_derivative, *cache = normalize(h, x)
            return u, log_derivative + 0.05 * (np.abs(x.real) > tau.bound), *cache

        @replace(tau, "generate")
        def generate(generate, h, u, tau=tau):
            x, log_derivative = generate(h, u)
            return x, log_derivative - 0.05 * (np.abs(u.real) > tau.bound)


@mutant("spline", kills="edges")
def spline_log_derivative_off_at_the_left_end(flow):
    """In the last bin before the left end the log-derivative is off.

    The end's slope of another bin.
    """
    tau = flow.layers[0].univariate

    @replace(tau, "normalize")
    def normalize(normalize, h, x):
        u, log_derivative, *cache = normalize(h, x)
        last = (x.real > -tau.bound) & (x.real < -tau.bound * (1 - 1e-12))
        return u, log_derivative + 0.05 * last, *cache
