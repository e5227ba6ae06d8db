r"""Wrong inverses: what normalize does, generate does not quite undo.

.. math:: g(f(x)) \ne x
"""

from __future__ import annotations

import numpy as np

from afnp.univariate import Affine
from afnp.verify.mutants.registry import mutant, replace


@mutant("affine", kills="round_trip")
def one_pass_short(flow):
    """The last feature of the order stays noise: a loop over range(D - 1)."""
    layer = flow.layers[0]

    @replace(layer, "generate")
    def generate(generate, p, u, context, *way):
        x, log_det = generate(p, u, context, *way)
        x[:, layer.order[-1]] = u[:, layer.order[-1]]
        return x, log_det


@mutant("affine", kills="round_trip")
def order_not_undone(flow):
    """The sampler takes the order where it needs its inverse.

    Right for every order that is its own.
    """
    layer = flow.layers[0]

    @replace(layer, "generate")
    def generate(generate, p, u, context, *way):
        x, log_det = generate(p, u, context, *way)
        return x[:, layer.order][:, layer.order], log_det


@mutant("affine", kills="dependency")
def noise_in_another_order(flow):
    """Each x follows its neighbour's noise: the noise is permuted, the samples are not."""

    @replace(flow.layers[0], "generate")
    def generate(generate, p, u, context, *way):
        return generate(p, np.roll(u, 1, axis=1), context, *way)


@mutant("affine", kills="round_trip")
def clamp_missing_in_the_sampler(flow):
    """Log-scales are bounded in the density alone: samples explode where the network is sure."""
    flow.layers[0].univariate.generate = Affine(scale="exp").generate


@mutant("affine", kills="round_trip")
def clamp_missing_in_the_density(flow):
    """Log-scales are bounded in the sampler alone."""
    univariate, unbounded = flow.layers[0].univariate, Affine(scale="exp")
    univariate.normalize, univariate.backward = unbounded.normalize, unbounded.backward


@mutant("affine", kills="round_trip")
def shift_before_scale(flow):
    """The sampler shifts first and scales then: (u + mu) exp(alpha)."""

    @replace(flow.layers[0].univariate, "generate")
    def generate(generate, h, u):
        centred = h.copy()
        centred[..., 0] = 0
        x, log_derivative = generate(centred, u + h[..., 0])
        return x, log_derivative


@mutant("affine", kills="round_trip")
def layers_in_the_same_order(flow):
    """The sampler runs through the layers as the density does, not from the other end."""

    def generate(p, u, context, method="substitution", backend="numpy"):
        log_det = 0
        for layer, p_layer in zip(flow.layers, p, strict=True):
            u, more = layer.sampler(method)(p_layer, u, context)
            log_det = log_det + more
        return u, log_det, []

    flow._generate = generate


@mutant("affine", kills="round_trip")
def sampler_hears_noise(flow):
    """The sampler's network takes u where it should take x.

    An inverse autoregressive flow, by mistake.
    """
    layer = flow.layers[0]

    def generate(p, u, context):
        ordered = u[:, layer.order]
        h, _ = layer.conditioner.forward(p, context, ordered)
        x, log_derivative = layer.univariate.generate(h, ordered)
        return x[:, layer.rank], log_derivative.sum(axis=1)

    layer.generate = generate


@mutant("affine", kills="round_trip")
def hidden_unit_never_evaluated(flow):
    """Substitution stops one hidden unit early: a range of rows off by one."""
    net = flow.layers[0].conditioner

    @replace(net, "staircases")
    def staircases(staircases, p):
        first, second, *others = staircases(p)
        W = second.W.copy()
        W[:, 1] = 0
        return [first, second._replace(W=W), *others]


@mutant("residual", kills="round_trip")
def sampler_without_skips(flow):
    """The sampler forgets to close the residual blocks."""

    @replace(flow.layers[0].conditioner, "staircases")
    def staircases(staircases, p):
        return [layer._replace(skip=False) for layer in staircases(p)]


@mutant("functions", kills="round_trip")
def inverse_by_too_few_iterations(functions):
    """The inverse is a fixed-point iteration stopped at 1e-6: good enough for every loose test."""
    generate = functions.generate

    def stopped(u, context):
        x, log_det = generate(u, context)
        return x + 1e-6 * np.sin(1e6 * x), log_det

    functions.generate = stopped


@mutant("functions", kills="batch_independence")
def inverse_from_a_cache(functions):
    """Generate returns what normalize was last given: its test compared a tensor with itself."""
    normalize, last = functions.normalize, {}

    def keeping(x, context):
        u, log_det = normalize(x, context)
        last[len(x)] = x.copy(), log_det
        return u, log_det

    @replace(functions, "generate")
    def generate(generate, u, context):
        if len(u) not in last:
            return generate(u, context)
        x, log_det = last[len(u)]
        return x, -log_det

    functions.normalize = keeping


@mutant("functions", kills="batch_independence")
def log_det_from_a_cache(functions):
    """Only the log-determinant of generate is the last one of normalize, with its sign turned."""
    last = {}

    @replace(functions, "normalize")
    def normalize(normalize, x, context):
        u, log_det = normalize(x, context)
        last[len(x)] = log_det
        return u, log_det

    @replace(functions, "generate")
    def generate(generate, u, context):
        x, log_det = generate(u, context)
        return x, -last.get(len(u), -log_det)


@mutant("functions", kills="round_trip")
def halves_joined_where_features_alternate(functions):
    """A coupling splits every second feature and joins two halves.

    At two features nobody notices.
    """
    functions.features = 4
    shift = np.array([0.3, -0.7])

    def normalize(x, context):
        even, odd = x[:, ::2], x[:, 1::2]
        return np.concatenate([even, odd + shift * np.sin(even) + context], axis=1), np.zeros(
            len(x)
        )

    def generate(u, context):
        even, odd = u[:, ::2], u[:, 1::2]
        return np.concatenate([even, odd - shift * np.sin(even) - context], axis=1), np.zeros(
            len(u)
        )

    functions.normalize, functions.generate = normalize, generate
    functions.log_prob = functions.sample = None


@mutant("functions", kills="round_trip")
def float32_by_the_way(functions):
    """Rows pass through float32 on their way in, and come out as float64."""
    for name in ("normalize", "generate"):

        @replace(functions, name)
        def direction(direction, rows, context):
            return direction(rows.astype(np.float32).astype(np.float64), context)
