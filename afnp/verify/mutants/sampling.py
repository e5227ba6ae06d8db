r"""Wrong samples and wrong totals: the map is right, the distribution at its end is not.

.. math:: \log p(x)
          = \log p_{\mathrm{base}}(f(x)) + \log\left|\det \frac{\partial u}{\partial x}\right|,
          \qquad x = g(u), \; u \sim p_{\mathrm{base}}
"""

from __future__ import annotations

import math

import numpy as np

from afnp.verify.mutants.registry import mutant, replace


def _noise(flow, change) -> None:
    """Pass the sampler's noise through ``change(u, rng)``; nothing else of the flow notices."""

    def sample(n, rng=0, context=None, **way):
        rng = np.random.default_rng(rng)
        u = flow.base.sample(flow.split(flow.theta).base, n, rng, flow.dtype)
        return flow.generate(change(u, rng), context, **way)[0]

    flow.sample = sample


# ---- the density's total -------------------------------------------------------------------------


def _density(flow, change) -> None:
    """Pass the base's log-density through ``change(log_prob, u)``."""

    @replace(flow.base, "log_prob")
    def log_prob(log_prob, p, u):
        return change(log_prob(p, u), u)


@mutant("plane", kills="normalisation")
def base_without_constant(flow):
    """The base density lacks -D/2 log 2 pi.

    It drops out of every gradient, so training looks right.
    """
    _density(flow, lambda log_prob, u: log_prob + u.shape[1] / 2 * math.log(2 * math.pi))


@mutant("plane", kills="normalisation")
def constant_of_one_feature(flow):
    """The constant is counted once, not D times."""
    _density(flow, lambda log_prob, u: log_prob + (u.shape[1] - 1) / 2 * math.log(2 * math.pi))


@mutant("plane", kills="normalisation")
def square_not_halved(flow):
    """The base is exp(-u^2): the half before the square is missing."""
    _density(flow, lambda log_prob, u: log_prob - (u * u).sum(axis=1) / 2)


@mutant("plane", kills="normalisation")
def log_prob_of_the_mean_feature(flow):
    """The log-density is averaged over features.

    Right as bits per dimension, wrong as a density.
    """
    replace(flow, "log_prob_with")(
        lambda log_prob, *arguments: log_prob(*arguments) / flow.features
    )


@mutant("plane", kills="normalisation")
def log_det_subtracted(flow):
    """The likelihood subtracts its log-determinant: that of the other direction."""

    def log_prob(p, x, context, backend="numpy"):
        u, log_det = flow.normalize_with(p, x, context, backend)
        return flow.base.log_prob(p.base, u) - log_det

    flow.log_prob_with = log_prob


@mutant("plane", kills="normalisation")
def log_det_forgotten(flow):
    """The likelihood is the base's alone."""

    def log_prob(p, x, context, backend="numpy"):
        return flow.base.log_prob(p.base, flow.normalize_with(p, x, context, backend)[0])

    flow.log_prob_with = log_prob


@mutant("plane", kills="normalisation")
def dequantisation_constant_added(flow):
    """The constant log 256 is added once too often: a likelihood in another data's units."""
    replace(flow, "log_prob_with")(
        lambda log_prob, *arguments: log_prob(*arguments) + math.log(256)
    )


# ---- the sampler ---------------------------------------------------------------------------------


@mutant("plane", kills="agreement")
def temperature(flow):
    """Samples are drawn at temperature 0.8, left over from making pictures."""
    _noise(flow, lambda u, rng: 0.8 * u)


@mutant("plane", kills="agreement")
def truncated_noise(flow):
    """Noise beyond two standard deviations is clipped: the truncation trick, unsaid."""
    _noise(flow, lambda u, rng: np.clip(u, -2, 2))


@mutant("plane", kills="agreement")
def uniform_noise(flow):
    """The noise is uniform with the right variance: rand for randn."""
    _noise(flow, lambda u, rng: rng.uniform(-math.sqrt(3), math.sqrt(3), u.shape).astype(u.dtype))


@mutant("plane", kills="agreement")
def correlated_noise(flow):
    """Both features get noise that is correlated: one draw used twice."""
    _noise(flow, lambda u, rng: (u + 0.75 * np.roll(u, 1, axis=1)) / math.hypot(1, 0.75))


@mutant("plane", kills="agreement")
def layer_skipped_in_the_sampler(flow):
    """Sample leaves out the last layer, generate does not: two copies of one loop."""

    def sample(n, rng=0, context=None, **way):
        u = flow.base.sample({}, n, np.random.default_rng(rng), flow.dtype)
        x, context = flow.check(u, context)
        for layer, p in list(zip(flow.layers, flow.split(flow.theta), strict=True))[1::-1][1:]:
            x = layer.generate(p, x, context)[0]
        return x

    flow.sample = sample


@mutant("plane", kills="agreement")
def samples_of_the_first_context(flow):
    """All samples are drawn under the first row's context."""

    @replace(flow, "sample")
    def sample(sample, n, rng=0, context=None, **way):
        return sample(n, rng, None if context is None else np.asarray(context)[:1], **way)


@mutant("plane", kills="randomness")
def seed_ignored(flow):
    """A global generator is drawn from, whatever seed was given."""
    own = np.random.default_rng(0)
    replace(flow, "sample")(
        lambda sample, n, rng=0, context=None, **way: sample(n, own, context, **way)
    )


@mutant("plane", kills="randomness")
def reseeded_at_every_call(flow):
    """The sampler seeds itself: every batch is the same batch."""
    replace(flow, "sample")(
        lambda sample, n, rng=0, context=None, **way: sample(n, 0, context, **way)
    )


@mutant("plane", kills="randomness")
def reseeded_by_size(flow):
    """The seed is taken from the number of rows: a hash that forgot its salt."""
    replace(flow, "sample")(
        lambda sample, n, rng=0, context=None, **way: sample(n, n, context, **way)
    )


@mutant("plane", kills="randomness")
def rows_repeated(flow):
    """The second half of the noise repeats the first: one chunk drawn, two returned."""
    _noise(flow, lambda u, rng: np.resize(u[: (len(u) + 1) // 2], u.shape))


@mutant("plane", kills="randomness")
def noise_correlated_from_row_to_row(flow):
    """Every row's noise is half its neighbour's: a Markov chain that was not thinned."""
    _noise(flow, lambda u, rng: (u + 0.75 * np.roll(u, 1, axis=0)) / math.hypot(1, 0.75))


@mutant("plane", kills="randomness")
def every_second_row_mirrored(flow):
    """Rows come in pairs u, -u: antithetic draws where independent ones are promised."""

    def mirrored(u, rng):
        u[1::2] = -u[: 2 * (len(u) // 2) : 2]
        return u

    _noise(flow, mirrored)


@mutant("plane", kills="randomness")
def samples_sorted(flow):
    """Samples come sorted by their first feature."""

    @replace(flow, "sample")
    def sample(sample, n, rng=0, context=None, **way):
        if context is not None and np.ptp(context, axis=0).any():
            return sample(n, rng, context, **way)
        x = sample(n, rng, context, **way)
        return x[np.argsort(x[:, 0])]
