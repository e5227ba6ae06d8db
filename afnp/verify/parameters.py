r"""Parameters that hide nothing, for as long as a check needs them.

.. math:: \theta \to \theta_{\mathrm{random}} \to \theta
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from afnp.flow import Flow
from afnp.networks.masked_mlp import Feedforward
from afnp.params import Views
from afnp.transforms import Bounds

__all__ = ["randomize", "randomize_layer", "restored"]


def randomize(flow: Flow, seed: int = 0, gain: float = 1.0, last: float | None = None) -> Flow:
    r"""Give a flow random parameters that hide nothing, in place; return it.

    .. math:: W_{rc} \sim \mathcal N(0,\, 2\,\mathrm{gain}^2 / \mathrm{prefix}_r), \quad
              b \sim \mathcal N(0, 1/4), \quad W_{rc} \sim \mathcal N(0, 10^6) \text{ where masked}

    A flow that starts near the identity hides most defects. The last layer of each of T
    conditioners is divided by √T, by T² / 3 if that is more, and by √(D/8) beyond eight features,
    so that depth and long chains do not make the map too ill-conditioned to see anything; and by 3
    behind bounds, where data are exponentials of what it gives. A ReLU that is given what other
    ReLUs give has a bias of at least 0 and weights whose sum is: it is silent neither where those
    are nor where all of them speak. Masked entries get large numbers, because nobody may read them.

    Parameters
    ----------
    flow : Flow
    seed : int
    gain : float
        Of the hidden layers.
    last : float, optional
        Of the last layers; what depth and features allow if left out.

    Examples
    --------
    >>> from afnp import maf
    >>> flow = randomize(maf(3, hidden=(4,), transforms=2), seed=1)
    >>> bool((flow.theta != 0).all())
    True
    """
    rng = np.random.default_rng([seed, 2])
    theta = np.zeros(flow.theta.size)
    p = flow.split(theta)
    depth = max(1, sum(layer.conditioner is not None for layer in flow.layers))
    if last is None:
        last = min(1 / np.sqrt(depth), 3 / depth**2) / np.sqrt(max(1, flow.features / 8))
        last /= 3 if any(isinstance(layer, Bounds) for layer in flow.layers) else 1
    for layer, p_layer in zip(flow.layers, p, strict=True):
        randomize_layer(layer, p_layer, rng, gain, last)
    flow.base.initialize(p.base, rng)
    _stir(p.base, rng)
    flow.theta = theta
    return flow


def randomize_layer(
    layer, p: Views, rng: np.random.Generator, gain: float = 1.0, last: float = 1.0
) -> None:
    """Write random parameters into p.

    The layer's own with these gains, random biases, large masked entries.

    What has no masked linear layers starts where it likes, and is stirred.
    """
    if layer.conditioner is None:
        layer.initialize(p, rng)
        return _stir(p, rng)
    layer.conditioner.initialize(p, rng, gain=gain, last=last)
    if not isinstance(layer.conditioner, Feedforward):
        return _stir(p, rng)
    silent = layer.conditioner.activation == "relu" and not layer.conditioner.residual
    inner = layer.conditioner.linears[1:-1] if silent else ()
    for l, linear in enumerate(layer.conditioner.linears):
        p[linear.b][:] = 0.5 * rng.standard_normal(p[linear.b].shape)
        if linear in inner:
            p[linear.b][:] = np.abs(p[linear.b])
            p[linear.W][p[linear.W].sum(axis=1) < 0] *= -1
        masked = ~layer.conditioner.mask(l)
        p[linear.W][masked] = 1e3 * rng.standard_normal(masked.sum())


def _stir(p: Views, rng: np.random.Generator) -> None:
    """Move every parameter by less than 1/2.

    What starts at 1, as a variance does, stays positive; rows by less.
    """
    for values in p.values():
        terms = values.shape[-1] if values.ndim > 1 else 1
        values += rng.uniform(-0.5, 0.5, values.shape) / np.sqrt(terms)


@contextmanager
def restored(flow: Flow) -> Iterator[Flow]:
    """Give the flow its parameters back in the end, whatever happened to them."""
    theta = flow.theta.copy()
    try:
        yield flow
    finally:
        flow.theta = theta
