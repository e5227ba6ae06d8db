r"""Series: flows whose parameters do not depend on how many steps there are.

.. math:: h_t = \mathrm{conv}(x_{t-F}, \dots, x_{t-1}), \qquad F = 1 + \sum_l 2^{\,l \bmod \mathrm{cycle}}

See :mod:`afnp.transforms.convolution`.
"""

from __future__ import annotations

import numpy as np

from afnp.constructors import _apart, _flow
from afnp.flows import Flow
from afnp.inputs import choose, integer
from afnp.transforms.convolution import CausalConvolution

__all__ = ["wavenet_flow"]


def wavenet_flow(
    features: int,
    channels: int = 16,
    layers: int = 10,
    transforms: int = 2,
    cycle: int = 10,
    order: str = "reverse",
    context: int = 0,
    seed: int = 0,
    **kwargs,
) -> Flow:
    """Build a flow of causal dilated convolutions (WaveNet, arXiv 1609.03499), for series of any length.

    Parameters
    ----------
    features : int
        D, steps of the series.
    channels : int
        Width of every layer.
    layers : int
        Dilated convolutions a transform, with dilations 1, 2, 4, ..., beginning anew after ``cycle`` of them.
    transforms : int
    order : {"reverse", "natural"}
        "reverse": from the first step to the last, and back, in turn; "natural": always from the first.
    **kwargs
        ``univariate, options, dtype, preprocess, between, base`` as in :func:`afnp.maf`; ``activation`` is one of
        "gated", "relu", "tanh".

    Raises
    ------
    ValueError
        If an argument makes no sense; it names argument, expectation and value.

    Examples
    --------
    >>> flow, longer = wavenet_flow(100, layers=4), wavenet_flow(10**6, layers=4)
    >>> flow.theta.size == longer.theta.size, flow.layers[0].conditioner.receptive_field
    (True, 16)
    """
    transforms, rng = integer("transforms", transforms, least=1), np.random.default_rng([seed, 1])
    layers, cycle = integer("layers", layers, least=0), integer("cycle", cycle, least=1)
    choose("order", order, ("reverse", "natural"))
    of_flow, of_layer = _apart(kwargs)
    of_layer |= {"channels": channels, "dilations": [2 ** (l % cycle) for l in range(layers)], "context": context}
    stack: list = [
        CausalConvolution(features, reverse=order == "reverse" and k % 2 == 1, **of_layer)
        for k in range(transforms)
    ]
    return _flow(stack, rng, context=context, seed=seed, **of_flow)
