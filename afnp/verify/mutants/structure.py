r"""Wrong structure: who depends on whom, and whose context it is.

.. math:: \frac{\partial h_i}{\partial x_j} \ne 0 \iff j < i \text{ in the order}
"""

from __future__ import annotations

import numpy as np

from afnp.networks import MaskedMLP, masks
from afnp.networks.layers import MaskedLinear
from afnp.verify.mutants.registry import mutant, replace
from afnp.verify.mutants.weights import change_context, change_weights


@mutant("affine", kills="dependency")
def mask_one_degree_late(flow):
    """Outputs depend on their own feature: "at most" instead of "less than" in the last mask."""
    layer, net = flow.layers[0], flow.layers[0].conditioner
    wrong = MaskedMLP(net.features, net.numbers, net.hidden, net.context)
    prefix = masks.prefixes(net.degrees[-1], net.degrees[-2], strict=False)
    wrong.linears[-1] = MaskedLinear(prefix, len(net.degrees[-2]), name=str(len(net.hidden)))
    layer.conditioner.forward = wrong.forward


@mutant("affine", kills="connectivity")
def mask_one_degree_early(flow):
    """Hidden units depend on one degree less than they may.

    "less than" in every mask instead of the last only.
    """
    net = flow.layers[0].conditioner
    first, degrees = net.linears[0], net.degrees

    def strict(p):
        p[first.W][degrees[1][:, None] <= degrees[0][None, :]] = 0

    change_weights(net, strict)


@mutant("affine", kills="dependency")
def connection_of_1e_9(flow):
    """The first feature depends on the last with weight 1e-9: a mask after a lossy cast."""

    @replace(flow.layers[1].conditioner, "forward")
    def forward(forward, p, context, x):
        h, cache = forward(p, context, x)
        h[:, 0, 0] += 1e-9 * x[:, -1]
        return h, cache


@mutant("affine", kills="dependency")
def scale_hears_its_own_feature(flow):
    """Log-scales depend on the feature they scale: a second network with the wrong mask."""

    @replace(flow.layers[0].conditioner, "forward")
    def forward(forward, p, context, x):
        h, cache = forward(p, context, x)
        h[:, :, 1] += 0.1 * x
        return h, cache


@mutant("affine", kills="dependency")
def skip_past_the_masks(flow):
    """Inputs are added to the outputs past all masks: a residual connection that nobody masked."""

    @replace(flow.layers[0].conditioner, "forward")
    def forward(forward, p, context, x):
        h, cache = forward(p, context, x)
        first = np.concatenate([context, x], axis=1)[:, :1, None]
        return h + 0.3 * first + 0.3 * x[:, -1:, None], cache


@mutant("affine", kills="connectivity")
def dead_connection(flow):
    """Nobody depends on one feature: a column of zeros left by pruning, or by a wrong slice."""
    net = flow.layers[1].conditioner

    def cut(p):
        p[net.linears[0].W][:, net.context] = 0

    change_weights(net, cut)


@mutant("affine", kills="connectivity")
def last_feature_listens_to_nobody(flow):
    """The last feature's parameters are constants: its rows of the last mask are all zeros."""
    net = flow.layers[0].conditioner

    def cut(p):
        p[net.linears[-1].W][-net.numbers :] = 0

    change_weights(net, cut)


@mutant("narrow", kills="connectivity")
def too_few_hidden_units(flow):
    """Two hidden units where three degrees are needed.

    Libraries drop legal dependencies in silence.
    """
    net = flow.layers[0].conditioner

    def narrow(p):
        p[net.linears[0].W][1] = 0

    change_weights(net, narrow)


@mutant("affine", kills="dependency")
def order_forgotten(flow):
    """The layer works in natural order, whatever order was asked for.

    The argument is never passed on.
    """
    layer, allowed = flow.layers[0], flow.layers[0].allowed()
    layer.allowed = lambda: allowed
    layer.order = layer.rank = np.arange(layer.features)


@mutant("affine", kills="triangular")
def jacobian_of_another_order(flow):
    """Features are put in by the order, and taken out by the order instead of its inverse.

    Not triangular.
    """
    layer = flow.layers[0]

    @replace(layer, "normalize")
    def normalize(normalize, p, x, context, *way):
        u, log_det, *cache = normalize(p, x, context, *way)
        return u[:, layer.order][:, layer.order], log_det, *cache


@mutant("affine", kills="deterministic")
def masks_drawn_at_every_call(flow):
    """Hidden units lose inputs at random.

    Order-agnostic training's new masks, left on afterwards.
    """
    net, rng = flow.layers[0].conditioner, np.random.default_rng(0)

    def redraw(p):
        p[net.linears[1].W][rng.integers(net.hidden[1])] = 0

    change_weights(net, redraw)


# ---- the context ---------------------------------------------------------------------------------


@mutant("affine", kills="connectivity")
def first_feature_without_context(flow):
    """The first feature never sees the context.

    It is given no hidden unit, and the context comes through those.
    """
    net = flow.layers[0].conditioner

    @replace(net, "forward")
    def forward(forward, p, context, x):
        h, cache = forward(p, context, x)
        h[:, 0] = forward(p, 0 * context, x)[0][:, 0]
        return h, cache


@mutant("affine", kills="connectivity")
def context_dead_in_one_layer(flow):
    """One of two layers does not pass the context on: every output still moves with it."""
    net = flow.layers[1].conditioner

    def cut(p):
        p[net.linears[0].W][:, : net.context] = 0

    change_weights(net, cut)


@mutant("affine", kills="batch_independence")
def context_of_the_next_row(flow):
    """Every row gets its neighbour's context: a loader that shuffled data and conditions apart."""
    change_context(flow.layers[0], lambda context: np.roll(context, 1, axis=0))


@mutant("affine", kills="batch_independence")
def context_of_the_first_row(flow):
    """All rows get the first row's context: a broadcast that should not have been."""
    change_context(flow.layers[1], lambda context: np.repeat(context[:1], len(context), axis=0))


@mutant("affine", kills="batch_independence")
def context_standardised_by_its_batch(flow):
    """The context is centred by the batch it comes with: batch normalisation in an embedding."""
    change_context(flow.layers[0], lambda context: context - context.mean(axis=0))


@mutant("scaled", kills="dependency")
def context_leaks_into_a_fixed_layer(flow):
    """The standardisation shifts by the context, which it must not know.

    Arguments passed on to everyone.
    """
    layer = flow.layers[0]

    @replace(layer, "normalize")
    def normalize(normalize, p, x, context, *way):
        return normalize(p, x + 1e-6 * context[:, :1], context, *way)

    @replace(layer, "generate")
    def generate(generate, p, u, context, *way):
        x, log_det = generate(p, u, context, *way)
        return x - 1e-6 * context[:, :1], log_det


@mutant("affine", kills="round_trip")
def sampler_without_context(flow):
    """The sampler gives zeros for the context: an optional argument that one direction forgot."""

    @replace(flow.layers[0], "generate")
    def generate(generate, p, u, context, *way):
        return generate(p, u, 0 * context, *way)


@mutant("affine", kills="log_det")
def context_counted_as_a_feature(flow):
    """The context adds to the log-determinant: summed over all inputs of the network."""

    @replace(flow, "_normalize")
    def normalize(normalize, p, x, context, *way, **options):
        u, log_det, caches = normalize(p, x, context, *way, **options)
        return u, log_det + 0.1 * context.sum(axis=1), caches

    @replace(flow, "normalize_with")
    def evaluate(evaluate, p, x, context, *way):
        u, log_det = evaluate(p, x, context, *way)
        return u, log_det + 0.1 * context.sum(axis=1)

    @replace(flow, "_generate")
    def generate(generate, p, u, context, *way, **options):
        x, log_det, counts = generate(p, u, context, *way, **options)
        return x, log_det - 0.1 * context.sum(axis=1), counts
