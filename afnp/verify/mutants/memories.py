r"""Wrong memories: samplers that keep keys, values and queues, and keep them wrong.

.. math:: h_t(\text{memory after } t \text{ steps}) \ne h_t(x_{<t})

Letters: N rows, T tokens or steps, M width.
"""

from __future__ import annotations

import numpy as np

from afnp.verify.mutants.compiled import BOTH, in_stage
from afnp.verify.mutants.registry import mutant, replace


def _network(flow):
    """Return the first network of an attention flow, and the attention of its only block."""
    network = flow.layers[0].conditioner
    return network, network.blocks[0].attention


def _attend(attention, q, keys, values):
    """Return what a query takes from some keys and values, without a mask."""
    w = np.exp(attention.scale * (q @ keys.swapaxes(-1, -2)))
    return (w / w.sum(axis=-1, keepdims=True)) @ values


# ---- keys and values -----------------------------------------------------------------------------


@mutant("attention", kills="round_trip")
def cache_off_by_one(flow):
    """A token attends to all before it and not to itself.

    The cache is read before it is written.
    """
    _, attention = _network(flow)

    @replace(attention, "step")
    def step(step, p, t, x, memory):
        keys, values = memory
        q, keys[:, :, t : t + 1], values[:, :, t : t + 1] = attention._parts(p, x, 1)
        seen = slice(0, max(t, 1))
        joined = _attend(attention, q, keys[:, :, seen], values[:, :, seen])
        return attention.out.forward(p, joined.reshape(x.shape))


@mutant("attention", kills="round_trip")
def cache_of_the_call_before(flow):
    """All slots of the cache are attended to, those that the call before has left there too."""
    network, attention = _network(flow)
    kept: dict = {}

    @replace(network, "init_state")
    def init_state(init_state, p, context):
        context, memory = init_state(p, context)
        N = len(context)
        if N not in kept:
            kept[N] = [tuple(np.zeros_like(part) for part in block) for block in memory]
        return context, kept[N]

    @replace(attention, "step")
    def step(step, p, t, x, memory):
        keys, values = memory
        q, keys[:, :, t : t + 1], values[:, :, t : t + 1] = attention._parts(p, x, 1)
        return attention.out.forward(p, _attend(attention, q, keys, values).reshape(x.shape))


@mutant("attention", kills="batch_independence")
def cache_of_the_first_row(flow):
    """All rows attend to the first row's values: the cache has lost its batch axis."""
    _, attention = _network(flow)

    @replace(attention, "step")
    def step(step, p, t, x, memory):
        y = step(p, t, x, memory)
        memory[1][:, :, t] = memory[1][:1, :, t]
        return y


@mutant("attention", kills="round_trip")
def cached_scores_not_scaled(flow):
    """The sampler's scores are not divided by the root of the head's size."""
    _, attention = _network(flow)
    usual = attention.scale

    @replace(attention, "step")
    def step(step, p, t, x, memory):
        attention.scale = 1.0
        y = step(p, t, x, memory)
        attention.scale = usual
        return y


@mutant("attention", kills="round_trip")
def places_one_too_far(flow):
    """The sampler adds each token the embedding of its neighbour's place."""

    @replace(_network(flow)[0], "advance")
    def advance(advance, p, *rest):
        return advance({**p, "places": np.roll(p["places"], 1, axis=0)}, *rest)


@mutant("attention", kills="dependency")
def tokens_not_shifted(flow):
    """Each token depends on itself: the shift by one is missing."""
    network, _ = _network(flow)

    @replace(network, "_cut")
    def cut(cut, inputs):
        tokens = inputs.reshape(len(inputs), network.tokens, network.size)[:, 1:]
        return tokens.reshape(-1, network.size)


@mutant("attention", kills="dependency")
def future_not_masked(flow):
    """Tokens attend to later ones too: the mask is missing."""
    _, attention = _network(flow)

    @replace(attention, "forward")
    def forward(forward, p, x):
        N, T, M = x.shape
        q, k, v = attention._parts(p, x.reshape(N * T, M), T)
        joined = _attend(attention, q, k, v).swapaxes(1, 2).reshape(N * T, M)
        return attention.out.forward(p, joined).reshape(N, T, M), forward(p, x)[1]


@mutant("attention", kills="gradients")
def keys_without_gradient(flow):
    """The backward pass forgets that scores depend on keys."""
    _, attention = _network(flow)

    @replace(attention, "backward")
    def backward(backward, p, cache, d_y, g):
        M = d_y.shape[-1]
        before = g[attention.W][M : 2 * M].copy()
        d_x = backward(p, cache, d_y, g)
        g[attention.W][M : 2 * M] = before
        return d_x


@mutant("attention", kills="gradients")
def layer_norm_held_fixed(flow):
    """The backward pass takes mean and variance of a layer norm for constants."""
    network, _ = _network(flow)

    @replace(network.norm, "backward")
    def backward(backward, p, cache, d_y, g):
        backward(p, cache, d_y, g)
        return cache[1] * d_y * p[network.norm.gamma]


# ---- queues --------------------------------------------------------------------------------------


@mutant("convolution", kills="round_trip")
def queue_one_too_long(flow):
    """The input is one step older than it should be: a queue of d + 1 places."""

    @replace(flow.layers[0].conditioner, "init_state")
    def init_state(init_state, p, context):
        queues = init_state(p, context)
        return queues._replace(
            rings=[np.zeros((len(r) + 1, *r.shape[1:]), r.dtype) for r in queues.rings]
        )


@mutant("convolution", kills="deterministic")
def queues_never_emptied(flow):
    """A sample begins with what the sample before has left in the queues."""
    kept: dict = {}

    @replace(flow.layers[0].conditioner, "init_state")
    def init_state(init_state, p, context):
        queues = init_state(p, context)
        return queues._replace(rings=kept.setdefault((len(context), queues.e.dtype), queues.rings))


@mutant("convolution", kills="round_trip")
def taps_swapped(flow):
    """The sampler multiplies the older step with the younger one's weights."""

    @replace(flow.layers[0].conditioner, "advance")
    def advance(advance, p, *rest):
        return advance({**p, "W": p["V"], "V": p["W"]}, *rest)


@mutant("convolution", kills="triangular")
def steps_not_shifted(flow):
    """Each step depends on itself: the convolution is causal, its input is not shifted."""

    @replace(flow.layers[0].conditioner, "run")
    def run(run, p, context, x, tails, caches=None):
        return run(p, context, np.roll(x, -1, axis=1), [x[:, :1], *tails[1:]], caches)


@mutant("convolution", kills="gradients")
def older_tap_without_gradient(flow):
    """The backward pass forgets the older tap's weights."""

    @replace(flow.layers[0].conditioner, "_layer_backward")
    def backward(backward, p, l, cache, d_out, g):
        before = g["V"][l].copy()
        d = backward(p, l, cache, d_out, g)
        g["V"][l] = before
        return d


@mutant("convolution", kills="round_trip", backends=BOTH)
def compiled_walk_without_context(flow):
    """The compiled sampler forgets the context."""

    @in_stage(flow, "_walk")
    def walk(walk, p, rows, context, sampling=False):
        return walk(p, rows, 0 * context if sampling else context, sampling)
