r"""A density and a sampler that do not fit, with no map between them to look at.

.. math:: \int p(x)\, dx = e^c, \qquad x \sim p^{1 / T^2}

In ``pair`` and ``tailed`` there are four features and two functions, as of a flow whose inverse is
not public; in ``pushed`` the two have no density, only a way from noise. Beside them the same
mistakes in flows, where other checks see them too.
"""

from __future__ import annotations

import math

import numpy as np

from afnp.verify.mutants.clean import FREEDOM, solid
from afnp.verify.mutants.registry import mutant, replace, sample_from, share_noise


def _off(owner, constant: float, name: str = "log_prob") -> None:
    """Let a log-density be off by a constant."""
    replace(owner, name)(lambda log_prob, *arguments: log_prob(*arguments) + constant)


def _noise(functions, change) -> None:
    """Let ``pair`` sample from ``change(u, rng)``."""
    sample_from(functions, solid().generate, change)


# ---- the constant --------------------------------------------------------------------------------


@mutant("pair", kills="normalisation")
def density_alone_off_by_three_tenths(functions):
    """The log-density is 0.3 too large: a normaliser that was estimated."""
    _off(functions, 0.3)


@mutant("pair", kills="normalisation")
def density_alone_off_by_a_tenth(functions):
    """The log-density is 0.1 too small: a normaliser that was estimated, and better."""
    _off(functions, -0.1)


@mutant("pair", kills="normalisation")
def density_alone_without_its_constant(functions):
    """The log-density lacks -D/2 log 2 pi: the loss is the same up to a constant."""
    _off(functions, functions.features / 2 * math.log(2 * math.pi))


@mutant("pair", kills="normalisation")
def density_alone_counts_its_constant_once(functions):
    """The log-density has -1/2 log 2 pi once, not D times."""
    _off(functions, (functions.features - 1) / 2 * math.log(2 * math.pi))


@mutant("tailed", kills="normalisation")
def density_alone_without_a_gamma_function(functions):
    """Student's t lacks the constant of its gamma functions, which no gradient sees."""
    constant = math.lgamma((FREEDOM + 1) / 2) - math.lgamma(FREEDOM / 2)
    _off(functions, -functions.features * (constant - math.log(FREEDOM / 2) / 2))


@mutant("residual", kills="normalisation")
def flow_density_off_by_three_tenths(flow):
    """A flow's log-density is 0.3 too large."""
    _off(flow, 0.3, "log_prob_with")


@mutant("convolution", kills="normalisation")
def flow_density_without_its_constant(flow):
    """A flow of four features lacks -D/2 log 2 pi."""
    _off(flow, flow.features / 2 * math.log(2 * math.pi), "log_prob_with")


# ---- the sampler ---------------------------------------------------------------------------------


@mutant("pair", kills="agreement")
def sampler_alone_at_one_and_a_twentieth(functions):
    """The sampler's noise is 5 % too wide: a temperature left in."""
    _noise(functions, lambda u, rng: 1.05 * u)


@mutant("pair", kills="agreement")
def sampler_alone_a_twentieth_narrow(functions):
    """The sampler's noise is 5 % too narrow: nicer pictures."""
    _noise(functions, lambda u, rng: 0.95 * u)


@mutant("pair", kills="agreement")
def sampler_alone_with_one_wide_feature(functions):
    """One feature's noise is 15 % too wide: a scale that was learned for one direction."""
    _noise(functions, lambda u, rng: u * np.array([1.0, 1.0, 1.15, 1.0]))


@mutant("pair", kills="agreement")
def sampler_alone_with_noise_in_common(functions):
    """Features share a part of their noise: a random number drawn for the row."""
    _noise(functions, share_noise)


@mutant("tailed", kills="agreement")
def sampler_alone_with_lighter_tails(functions):
    """The sampler's Student's t has 8 degrees of freedom where the density has 5."""

    def sample(n, rng):
        return np.random.default_rng(rng).standard_t(8, size=(n, functions.features))

    functions.sample = sample


@mutant("residual", kills="noise")
def flow_sampler_at_one_and_a_twentieth(flow):
    """A flow's noise is 5 % too wide, behind residual blocks."""
    _base_noise(flow, 1.05)


@mutant("convolution", kills="noise")
def flow_sampler_a_twentieth_narrow(flow):
    """A flow's noise is 5 % too narrow, under a queue of causal convolutions."""
    _base_noise(flow, 0.95)


# ---- the sampler beside the way from noise -------------------------------------------------------


@mutant("pushed", kills="noise")
def sampler_beside_generate_at_one_and_a_tenth(functions):
    """The sampler's noise is 10 % too wide: a temperature that generate does not know."""
    sample_from(functions, functions.generate, lambda u, rng: 1.1 * u)


@mutant("pushed", kills="noise")
def sampler_beside_generate_a_twentieth_narrow(functions):
    """The sampler's noise is 5 % too narrow: nicer pictures."""
    sample_from(functions, functions.generate, lambda u, rng: 0.95 * u)


@mutant("pushed", kills="noise")
def sampler_beside_generate_with_noise_in_common(functions):
    """Features share a part of their noise: a random number drawn for the row."""
    sample_from(functions, functions.generate, share_noise)


@mutant("pushed", kills="log_det")
def log_det_of_generate_alone_is_that_of_the_way_back(functions):
    """The log-determinant of generate has the sign of normalize, which nobody gives: du/dx."""
    generate = functions.generate

    def opposite(u):
        x, log_det = generate(u)
        return x, -log_det

    functions.generate = opposite


def _base_noise(flow, scale: float) -> None:
    replace(flow.base, "sample")(lambda sample, *arguments: scale * sample(*arguments))
