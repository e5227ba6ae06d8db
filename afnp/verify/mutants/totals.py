r"""Wrong totals where no quadrature reaches: only the other functions hold the density.

.. math:: \log p(x)
          \ne \log p_{\mathrm{base}}(f(x)) + \log\left|\det \frac{\partial u}{\partial x}\right|
"""

from __future__ import annotations

import math

import numpy as np

from afnp.verify.mutants.registry import mutant, replace

LOG_2PI = math.log(2 * math.pi)


def _density(functions, change) -> None:
    """Pass the density of plain functions through ``change(log_p, x)``."""

    @replace(functions, "log_prob")
    def log_prob(log_prob, x):
        return change(log_prob(x), x)


def _flow_density(flow, change) -> None:
    """Pass a flow's density through ``change(log_p, x)``."""

    @replace(flow, "log_prob")
    def log_prob(log_prob, x, context=None, **way):
        return change(log_prob(x, context, **way), np.asarray(x))


@mutant("solid", kills="identities")
def constant_forgotten_in_four(functions):
    """The density lacks -D/2 log 2 pi, at D = 4: it drops out of every gradient."""
    _density(functions, lambda log_p, x: log_p + x.shape[1] / 2 * LOG_2PI)


@mutant("solid", kills="normalisation")
def constant_counted_twice(functions):
    """The density has -D/2 log 2 pi twice: once in the base, once in the loss."""
    _density(functions, lambda log_p, x: log_p - x.shape[1] / 2 * LOG_2PI)


@mutant("solid", kills="identities")
def constant_of_a_single_feature(functions):
    """The constant is that of one feature: a sum over a broadcast scalar."""
    _density(functions, lambda log_p, x: log_p + (x.shape[1] - 1) / 2 * LOG_2PI)


@mutant("solid", kills="normalisation")
def density_of_grey_levels(functions):
    """The density is of data in [0, 255], the data are in [0, 1]: a constant of D log 256."""
    _density(functions, lambda log_p, x: log_p + x.shape[1] * math.log(256))


@mutant("solid", kills="identities")
def density_in_bits(functions):
    """The density is in bits where nats are said: divided by log 2 too early."""
    _density(functions, lambda log_p, x: log_p / math.log(2))


@mutant("solid", kills="identities")
def density_a_feature(functions):
    """The log-density is averaged over four features: right as bits per dimension."""
    _density(functions, lambda log_p, x: log_p / x.shape[1])


@mutant("solid", kills="identities")
def density_clipped_below(functions):
    """Small log-densities are clipped at -12: a floor against outliers in the loss."""
    _density(functions, lambda log_p, x: np.maximum(log_p, -12))


@mutant("solid", kills="identities")
def density_with_half_its_log_det(functions):
    """The density counts half the log-determinant: log of a variance taken for that of a scale."""
    normalize = functions.normalize
    _density(functions, lambda log_p, x: log_p - normalize(x)[1] / 2)


@mutant("solid", kills="identities")
def density_of_a_wider_base(functions):
    """The density's base is 1.02 wide, the sampler's 1: normalised, and another distribution."""
    normalize = functions.normalize

    def wider(log_p, x):
        square = np.square(normalize(x)[0]).sum(axis=1)
        return log_p + square / 2 * (1 - 1.02**-2) - x.shape[1] * math.log(1.02)

    _density(functions, wider)


@mutant("affine", kills="identities")
def flow_without_its_constant(flow):
    """The log-density of three features lacks -D/2 log 2 pi."""
    _flow_density(flow, lambda log_p, x: log_p + x.shape[1] / 2 * LOG_2PI)


@mutant("coupling", kills="normalisation")
def flow_off_by_a_hundredth(flow):
    """The log-density of four features is 0.01 nats too large: a jitter added to a determinant."""
    _flow_density(flow, lambda log_p, x: log_p + 0.01)


@mutant("scaled", kills="identities")
def density_without_its_standardisation(flow):
    """The log-density leaves the standardisation's Jacobian out, normalize does not.

    Two sums over layers.
    """
    scale = math.log(2.0) + math.log(0.5) + math.log(3.0)
    _flow_density(flow, lambda log_p, x: log_p + scale)
