r"""Wrong noise under samples, a little: what a few thousand numbers tell.

.. math:: x = g(T u), \quad T = 1.03, \dots, 1.05
"""

from __future__ import annotations

import numpy as np

from afnp.verify.mutants.registry import mutant, replace, sample_from, share_noise


def _noise(functions, change) -> None:
    """Let plain functions sample from ``change(u, rng)``."""
    sample_from(functions, functions.generate, change)


def _flow_noise(flow, change) -> None:
    """Let a flow sample from ``change(u, rng)``."""

    def sample(n, rng=0, context=None, **way):
        rng = np.random.default_rng(rng)
        u = flow.base.sample(flow.split(flow.theta).base, n, rng, flow.dtype)
        return flow.generate(change(u, rng).astype(flow.dtype), context, **way)[0]

    flow.sample = sample


@mutant("solid", kills="noise")
def temperature_of_one_and_three_hundredths(functions):
    """The sampler's noise is 3 % too wide: a temperature left in."""
    _noise(functions, lambda u, rng: 1.03 * u)


@mutant("solid", kills="noise")
def temperature_of_one_and_a_twentieth(functions):
    """The sampler's noise is 5 % too wide."""
    _noise(functions, lambda u, rng: 1.05 * u)


@mutant("solid", kills="noise")
def temperature_below_one(functions):
    """The sampler's noise is 4 % too narrow: nicer pictures."""
    _noise(functions, lambda u, rng: 0.96 * u)


@mutant("solid", kills="noise")
def noise_beside_zero(functions):
    """The sampler's noise has the mean 0.05: a bias that is added twice."""
    _noise(functions, lambda u, rng: u + 0.05)


@mutant("solid", kills="noise")
def noise_of_one_feature_wider(functions):
    """One feature's noise is 10 % too wide: a scale that was learned for one direction."""
    _noise(functions, lambda u, rng: u * np.array([1.0, 1.1, 1.0, 1.0]))


@mutant("solid", kills="noise")
def noise_shared_a_little(functions):
    """Features share a fifth of their noise: a random number drawn for the row."""
    _noise(functions, share_noise)


@mutant("solid", kills="noise")
def noise_truncated_at_three(functions):
    """Noise beyond 3 is clipped: truncation against outliers."""
    _noise(functions, lambda u, rng: np.clip(u, -3, 3))


@mutant("solid", kills="noise")
def noise_with_heavier_tails(functions):
    """The sampler draws Student's t with 12 degrees of freedom: the base of another experiment."""
    _noise(functions, lambda u, rng: rng.standard_t(12, size=u.shape))


@mutant("affine", kills="noise")
def flow_temperature_of_one_and_a_twentieth(flow):
    """A flow's noise is 5 % too wide."""
    _flow_noise(flow, lambda u, rng: 1.05 * u)


@mutant("coupling", kills="noise")
def flow_noise_of_the_rows_before(flow):
    """Each row's noise has a fifth of its neighbour feature's: a roll along the wrong axis."""
    _flow_noise(flow, lambda u, rng: (u + 0.2 * np.roll(u, 1, axis=1)) / np.hypot(1, 0.2))


@mutant("mixed", kills="noise")
def flow_base_a_little_narrow(flow):
    """The base draws noise that is 4 % too narrow; its density is right."""

    @replace(flow.base, "sample")
    def sample(sample, *arguments):
        return 0.96 * sample(*arguments)
