r"""Forward substitution: sample an autoregressive flow by evaluating each hidden unit once.

.. math::
    z^{(l)}_r &= b^{(l)}_r + \sum_{c < \mathrm{prefix}^{(l)}_r} W^{(l)}_{rc}\, a^{(l-1)}_c
        \;\;\big(+\; z^{(l-2)}_r \text{ where layer } l \text{ closes a residual block}\big),
    \qquad a^{(l)}_r = \phi(z^{(l)}_r)

    x_i &= \tau(u_i;\, h_i), \qquad h_i = \text{rows } iK \dots iK + K - 1 \text{ of the last } z

Density knows all of x, and is a triangular *product*. Sampling learns x one feature at a time, and
is a triangular *solve*: when x_i becomes known, so do the hidden units of degree i, and with them
the parameters of feature i + 1. The textbook loop runs the whole network D times, D times the work
of one density pass; here each row of each staircase is multiplied once, which is the work of one
density pass. What stays sequential is the *depth*, D steps, not the *work*: TRSM beside TRMM.

Prior art: the running pre-activations of NADE (arXiv 1605.02226), NetKet's FastMaskedDense layers,
and the caching of causal convolutions in Fast WaveNet (arXiv 1611.09482, 1704.06001).

A triangular matrix is as easily solved transposed, from its last row to its first. Derivatives of a
flow that is read in the slow direction (the inverse autoregressive flow) need that: *reverse
substitution*, below.

Letters: N samples, D features, C context inputs, K params a feature, L layers; J_l rows in layer
l.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

__all__ = [
    "Staircase",
    "State",
    "advance",
    "naive",
    "state_of",
    "substitute_back",
    "substitution",
]


class Staircase(NamedTuple):
    """One masked layer of a network whose units are sorted by degree."""

    W: np.ndarray
    """(J, I) weights; only the first ``prefix[r]`` of row r are read."""
    b: np.ndarray
    """(J,) biases."""
    prefix: np.ndarray
    """(J,) how many units of the layer below each row depends on."""
    start: list[int]
    """D + 1 of them: rows start[i] to start[i + 1] become known when i features are: units of
    degree i, or the output rows of feature i."""
    skip: bool
    """Whether the layer adds the pre-activation of two layers below (the end of a residual
    block)."""
    bare: bool = False
    """Whether the layer above is given z without activation."""


class State(NamedTuple):
    """What substitution in a masked network keeps of N samples, one row a unit."""

    layers: list[Staircase]
    z: list[np.ndarray]
    """(J_l, N) pre-activations of hidden layers."""
    a: list[np.ndarray]
    """(I_l, N) what each layer is given."""
    meet: Callable[[int, slice, np.ndarray], np.ndarray] | None = None
    """Maps (l, rows, W a + b) to the pre-activations of a layer's rows, where more comes to them
    than the formula says."""


def state_of(layers: list[Staircase], context: np.ndarray, meet: Callable | None = None) -> State:
    """Return a masked network's state for the rows of a context (N, C), before x_1 is known."""
    N, C = context.shape
    kind = np.result_type(context, layers[0].W)
    z = [np.empty((len(layer.b), N), dtype=kind) for layer in layers[:-1]]
    a = [np.empty((layer.W.shape[1], N), dtype=kind) for layer in layers]
    a[0][:C] = context.T
    return State(layers, z, a, meet)


def advance(
    state: State,
    activation: Callable[[np.ndarray], np.ndarray],
    since: int,
    group: slice,
) -> np.ndarray:
    """Evaluate the units that the features before a group make known; return its h (N, P K).

    Units of degrees ``since`` + 1 to i, where the group begins at feature i: those up to ``since``
    were evaluated before (none were: -1).
    """
    layers, z, a, meet = state
    i, last = group.start, len(layers) - 1
    for l, (W, b, prefix, start, skip, bare) in enumerate(layers):
        hidden = l < last
        first, end = (since + 1, i + 1) if hidden else (i, group.stop)
        rows = slice(start[first], start[end])
        if rows.start == rows.stop:
            continue
        known = int(prefix[rows.stop - 1] if hidden else prefix[rows.start])
        y = W[rows, :known] @ a[l][:known]
        y += b[rows, None]
        if meet is not None:
            y = meet(l, rows, y)
        if skip:
            y += z[l - 2][rows]
        if hidden:
            z[l][rows] = y
            a[l + 1][rows] = y if bare else activation(y)
    return y.T


# ---- the two samplers ----------------------------------------------------------------------------


def substitution(network, generate: Callable, p, u: np.ndarray, context: np.ndarray) -> tuple:
    """Map noise u (N, D) to x (N, D), group by group, each unit of the network once.

    Parameters
    ----------
    network : Network
        Who gives h of a group from the features before it; see :mod:`afnp.networks.base`.
    generate : callable
        τ: (h (N, P, K), u (N, P)) to (x (N, P), log dx/du (N, P)); of discrete features, (levels,
        log-probabilities) from uniform u.
    p : dict of arrays
    u, context : (N, D) and (N, C) arrays

    Returns
    -------
    x : (N, D) array
    log_det : (N,) array
        Sum of the logarithms, nats.
    """
    x, log_slope, context = _room(p, u, context)
    state, known = network.init_state(p, context), None
    for group in network.groups:
        h = network.advance(p, state, group, known)
        known, log_slope[:, group] = generate(h, u[:, group])
        x[:, group] = known
    return x, log_slope.sum(axis=1)


def naive(network, generate: Callable, p, u: np.ndarray, context: np.ndarray) -> tuple:
    """Do the same by the textbook loop, a full pass a group.

    The definition that all else must match.
    """
    x, log_slope, context = _room(p, u, context)
    for group in network.groups:
        h, _ = network.forward(p, context, x)
        x[:, group], log_slope[:, group] = generate(h[:, group], u[:, group])
    return x, log_slope.sum(axis=1)


def _room(p, u: np.ndarray, context: np.ndarray) -> tuple:
    kind = np.result_type(u, context, *p.values())
    return np.zeros(u.shape, kind), np.zeros(u.shape, kind), context.astype(kind, copy=False)


def substitute_back(
    layers: list[Staircase],
    activation_backward: Callable[[np.ndarray, np.ndarray], np.ndarray],
    cache: list[np.ndarray],
    slope: tuple[np.ndarray, np.ndarray],
    offset: tuple[np.ndarray, np.ndarray],
    target: np.ndarray,
    context: int,
    embed_backward: Callable[[np.ndarray, np.ndarray], np.ndarray],
    gates: Mapping[int, np.ndarray] = MappingProxyType({}),
) -> np.ndarray:
    r"""Return the d_u from which the backward pass of the density makes ``target``.

    .. math::
        d_{u_i} &= \Big(t_i - o^x_i - \sum_{r:\; \mathrm{prefix}^{(1)}_r > C + i}
                    W^{(1)}_{r, C + i}\, d_{z^{(1)}_r}\Big) \Big/ s^x_i,
        \qquad d_{h_i} = s^h_i\, d_{u_i} + o^h_i

        d_{z^{(l)}_c} &= \phi'(z^{(l)}_c) \sum_{r:\; \mathrm{prefix}^{(l+1)}_r > c}
                    W^{(l+1)}_{rc}\, d_{z^{(l+1)}_r} \;\;\big(+\; d_{z^{(l+2)}_c}\big)

    The backward pass of the density is linear in d_u: its univariates give d_h = s^h d_u + o^h and
    the direct part d_x = s^x d_u + o^x, where s is the response to d_u = 1 and o what the
    log-determinant brings. The rest of d_x_i comes through the network, from outputs *after*
    feature i alone. So d_u is found from the last feature to the first, and each hidden unit is
    differentiated once: when the outputs that depend on it are known. A row takes a prefix of the
    columns; a column enters a *suffix* of the rows.

    Parameters
    ----------
    layers : list of Staircase
    activation_backward : callable
        (a, d_a) to d_z, as in :data:`afnp.networks.layers.ACTIVATIONS`.
    cache : list of (N, I_l) arrays
        What each layer was given.
    slope, offset : pairs of arrays (N, D, K) and (N, D)
        s^h, s^x and o^h, o^x.
    target : (N, D) array
        t, in generation order.
    context : int
        C.
    embed_backward : callable
        Maps inputs (N, E) of a feature and their gradients (N, E) to the gradient of the feature
        (N, 1).
    gates : mapping of int to (J, N) arrays
        What W a + b of a hidden layer is multiplied by, where it is
        (:mod:`afnp.networks.conditioned`).

    Returns
    -------
    d_u : (N, D) array
    """
    N, D = target.shape
    last = len(layers) - 1
    kind = np.result_type(target, slope[1], offset[1])
    C = context
    E = (cache[0].shape[1] - context) // D
    d_z = [np.empty((len(layer.b), N), dtype=kind) for layer in layers]
    d_y = [np.empty_like(d) if l in gates else d for l, d in enumerate(d_z)]  # of W a + b
    d_u = np.empty((N, D), dtype=kind)
    for i in reversed(range(D)):
        inputs = slice(C + E * i, C + E * (i + 1))
        d_inputs = _pass_back(layers[0], d_y[0], inputs).T
        through_network = embed_backward(cache[0][:, inputs], d_inputs)[:, 0]
        d_u[:, i] = (target[:, i] - offset[1][:, i] - through_network) / slope[1][:, i]
        outputs = slice(layers[-1].start[i], layers[-1].start[i + 1])
        d_z[-1][outputs] = (slope[0][:, i] * d_u[:, i, None] + offset[0][:, i]).T
        for l in reversed(range(last)):
            units = slice(layers[l].start[i], layers[l].start[i + 1])
            if units.start == units.stop:
                continue
            d_a = _pass_back(layers[l + 1], d_y[l + 1], units)
            bare, a = layers[l].bare, cache[l + 1][:, units].T
            d_z[l][units] = d_a if bare else activation_backward(a, d_a)
            if l + 2 <= last and layers[l + 2].skip:
                d_z[l][units] += d_z[l + 2][units]
            if l in gates:
                d_y[l][units] = d_z[l][units] * gates[l][units]
    return d_u


def _pass_back(layer: Staircase, d_y: np.ndarray, columns: slice) -> np.ndarray:
    """Return d_a (columns, N) of units of one degree: what the rows that use them pass back."""
    first = np.searchsorted(layer.prefix, columns.start, side="right")
    return layer.W[first:, columns].T @ d_y[first:]
