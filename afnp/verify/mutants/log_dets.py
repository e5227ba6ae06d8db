r"""Wrong log-determinants: mostly in both directions alike, so that they still cancel.

.. math:: \log\left|\det \frac{\partial u}{\partial x}\right| = \sum_k \sum_i \log
          \left|\frac{\partial u_i^{(k)}}{\partial x_i^{(k)}}\right|
"""

from __future__ import annotations

import math

import numpy as np

from afnp.verify.mutants.registry import mutant, relog, replace


def _each_derivative(univariate, change) -> None:
    """Pass every feature's log-derivative through ``change``, in both directions."""
    for name in ("normalize", "generate"):

        @replace(univariate, name)
        def direction(direction, h, value):
            y, log_derivative, *cache = direction(h, value)
            return y, change(log_derivative, h), *cache


@mutant("affine", kills="log_det")
def log_det_of_the_wrong_sign(flow):
    """Both log-determinants of a layer have the wrong sign: alpha where minus alpha was meant."""
    relog(flow.layers[0], np.negative)


@mutant("affine", kills="antisymmetry")
def inverse_log_det_of_the_wrong_sign(flow):
    """Only the sampler's log-determinant has the wrong sign: the density's line, copied."""

    @replace(flow.layers[0], "generate")
    def generate(generate, *arguments):
        x, log_det = generate(*arguments)
        return x, -log_det


@mutant("affine", kills="log_det")
def log_det_without_a_feature(flow):
    """One feature's term is missing: a sum over range(1, D)."""
    layer = flow.layers[0]

    def without_the_first(log_derivative, h):
        if log_derivative.ndim == 1:  # the sampler goes feature by feature
            return log_derivative
        return np.concatenate([0 * log_derivative[:, :1], log_derivative[:, 1:]], axis=1)

    _each_derivative(layer.univariate, without_the_first)


@mutant("affine", kills="log_det")
def log_det_without_a_layer(flow):
    """One layer's term is missing in both directions: a loop that assigns where it should add."""
    relog(flow.layers[1], lambda log_det: 0 * log_det)


@mutant("affine", kills="log_det")
def log_det_halved(flow):
    """Half of the log-determinant: a variance taken for a standard deviation."""
    relog(flow.layers[0], lambda log_det: log_det / 2)


@mutant("affine", kills="log_det")
def log_det_averaged(flow):
    """The mean over features instead of the sum: .mean(axis=1)."""
    relog(flow.layers[0], lambda log_det: log_det / flow.features)


@mutant("affine", kills="log_det")
def log_det_unclamped(flow):
    """The map soft-clips its log-scales, the log-determinant does not."""
    _each_derivative(
        flow.layers[0].univariate, lambda log_derivative, h: np.sign(log_derivative.real) * _raw(h)
    )


def _raw(h):
    """Return the size of the log-scale as the network gives it."""
    a = h[..., 1]
    return np.where(a.real < 0, -a, a)


@mutant("affine", kills="log_det")
def log_det_in_bits(flow):
    """Logarithms to base 2 in one layer: nats and bits mixed."""
    relog(flow.layers[0], lambda log_det: log_det / math.log(2))


@mutant("affine", kills="log_det")
def log_det_without_its_sign(flow):
    """The absolute value is taken after the logarithm: abs(log(s)) for log(abs(s))."""
    relog(flow.layers[0], np.abs)


@mutant("affine", kills="log_det")
def log_det_with_an_epsilon(flow):
    """log(s + 1e-6) against overflow: a log-determinant that is nearly right."""
    relog(flow.layers[0], lambda log_det: np.log(np.exp(log_det) + 1e-6))


@mutant("affine", kills="log_det")
def log_det_in_float32(flow):
    """The log-determinant is accumulated in float32, the map in float64."""
    relog(flow.layers[0], lambda log_det: log_det.real.astype(np.float32).astype(np.float64))


@mutant("affine", kills="batch_independence")
def log_det_summed_over_the_batch(flow):
    """Every row gets the sum of all rows' log-determinants: .sum() for .sum(axis=1)."""
    relog(flow.layers[0], lambda log_det: np.full_like(log_det, log_det.sum()))


@mutant("scaled", kills="log_det")
def standardisation_without_jacobian(flow):
    """The scaling inside the flow is not counted: -log p in units that are not the data's."""
    relog(flow.layers[0], lambda log_det: 0 * log_det)


@mutant("functions", kills="log_det")
def slope_of_one_branch(functions):
    """A leaky ReLU in front counts its slope on neither branch: right where x is positive."""
    normalize, generate = functions.normalize, functions.generate

    def leaky(x, slope):
        return np.where(x.real > 0, x, slope * x)

    functions.normalize = lambda x, context: normalize(leaky(x, 0.5), context)

    def back(u, context):
        x, log_det = generate(u, context)
        return leaky(x, 2.0), log_det

    functions.generate = back


@mutant("functions", kills="log_det")
def log_det_at_another_row(functions):
    """Rows come in order, their log-determinants reversed: a sort undone for one of two outputs."""
    normalize, generate = functions.normalize, functions.generate

    def reversed_log(direction):
        def wrong(rows, context):
            y, log_det = direction(rows, context)
            return y, log_det[::-1].copy()

        return wrong

    functions.normalize, functions.generate = reversed_log(normalize), reversed_log(generate)
