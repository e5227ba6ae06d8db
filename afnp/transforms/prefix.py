r"""The first features of one order: layers that read theirs alike, cut down to some of them.

.. math:: \frac{\partial u_i}{\partial x_j} = 0 \quad\text{for all } j \text{ after } i
          \text{ in the order, in every layer}

Then the first k features of the noise depend on the first k of the data alone, through rows and
columns of the weights that are copied here.

Letters: D features, k features at the beginning of the order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from afnp.bases import Logistic, StandardNormal, StudentT, UniformTorus
from afnp.networks import CausalConv, CausalTransformer, MaskedMLP, Network
from afnp.params import Views
from afnp.transforms.autoregressive import Autoregressive
from afnp.transforms.base import Transform
from afnp.transforms.bounds import Bounds
from afnp.transforms.inverse import Inverse
from afnp.transforms.linear import Permutation
from afnp.transforms.linear_filter import LinearPrediction
from afnp.transforms.normalization import ActNorm, BatchNorm
from afnp.transforms.preprocess import Dequantize, Logit, Standardize

__all__ = ["INDEPENDENT", "INSTEAD", "cut", "shared_order"]

INDEPENDENT = (StandardNormal, Logistic, StudentT, UniformTorus)
"""Noise of independent features, so that that of some of them is noise of the same kind."""

INSTEAD = (
    'afnp.maf and its kin build flows of one order with order="natural", and '
    "afnp.marginals.estimate estimates the marginals of any flow"
)
"""What helps where there are no exact marginals."""


def shared_order(layers: Sequence[Transform]) -> np.ndarray:
    """Return the order (D,) in which every layer reads the features.

    Raises
    ------
    ValueError
        If a layer reads them in another order, or mixes them: it is named.

    Examples
    --------
    >>> from afnp.transforms import masked
    >>> shared_order([masked(3, (8,)), masked(3, (8,))])
    array([0, 1, 2])
    >>> shared_order([masked(3, (8,)), Permutation([2, 1, 0])])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: flow: expected layers of one order, [0, 1, 2], but layer 1 (Permutation) lets \
feature 0 depend on feature 2; ...
    """
    orders = [layer.order for layer in layers if isinstance(layer, (Autoregressive, Inverse))]
    order = orders[0] if orders else np.arange(layers[0].features)
    for number, layer in enumerate(layers):
        later = np.triu(layer.allowed()[np.ix_(order, order)], 1)
        if later.any():
            i, j = order[np.argwhere(later)[0]]
            raise ValueError(
                f"flow: expected layers of one order, {order.tolist()}, but layer {number} "
                f"({type(layer).__name__}) lets feature {i} depend on feature {j}; {INSTEAD}"
            )
    return order


def cut(
    layers: Sequence[Transform], p: Sequence[Views], kept: np.ndarray
) -> tuple[list[Transform], list[np.ndarray]]:
    """Return layers for the features kept (k,), the first of a shared order, and their parameters.

    Parameters are copies, one flat array after the other, as the layers lie.

    Raises
    ------
    ValueError
        If a layer cannot be cut: it is named.

    Examples
    --------
    >>> layers, values = cut([ActNorm(3)], [{"m": np.arange(3.0), "s": np.ones(3)}], np.arange(2))
    >>> layers[0].features, values
    (2, [array([0., 1.]), array([1., 1.])])
    """
    smaller, values = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what was lost, is; it was said before
        for number, (layer, views) in enumerate(zip(layers, p, strict=True)):
            part, arrays = _cut(number, layer, views, kept)
            smaller.append(part)
            values += [array.reshape(-1) for array in arrays]
    return smaller, values


def _cut(number: int, layer: Transform, p: Views, kept: np.ndarray) -> tuple[Any, list]:
    """Return a layer for the kept features (k,), and its parameters in their order."""
    if isinstance(layer, Inverse):
        inside, values = _cut(number, layer.transform, p, kept)
        return Inverse(inside), values
    if isinstance(layer, Autoregressive):
        cut = _NETWORKS.get(type(layer.conditioner))
        if cut is not None and type(layer) is Autoregressive:
            network, values = cut(layer.conditioner, p, len(kept))
            order = np.searchsorted(kept, layer.order[: len(kept)])
            return Autoregressive(network, layer.univariate, order), values
    elif type(layer) in _ELEMENTWISE:
        return _ELEMENTWISE[type(layer)](layer, kept), [values[kept] for values in p.values()]
    named = type(layer).__name__
    if layer.conditioner is not None:
        named += f" with a {type(layer.conditioner).__name__}"
    raise ValueError(f"flow: layer {number} ({named}) has no marginal here; {INSTEAD}")


_ELEMENTWISE: dict[type, Callable] = {
    Standardize: lambda layer, kept: Standardize(layer.mean[kept], layer.std[kept]),
    Dequantize: lambda layer, kept: Dequantize(len(kept), layer.levels),
    Logit: lambda layer, kept: Logit(len(kept), layer.alpha),
    Bounds: lambda layer, kept: Bounds([layer.low[i] for i in kept], [layer.high[i] for i in kept]),
    ActNorm: lambda layer, kept: ActNorm(len(kept)),
    BatchNorm: lambda layer, kept: BatchNorm(len(kept), layer.momentum, layer.epsilon),
    Permutation: lambda layer, kept: Permutation(np.arange(len(kept))),
    LinearPrediction: lambda layer, kept: LinearPrediction(
        len(kept), layer.coefficients, layer.scale, layer.mean
    ),
}
"""Layers whose parameters, if any, have a number a feature. A permutation that keeps an order is
none, and a filter keeps the natural one alone."""


def _cut_masked(net: MaskedMLP, p: Views, k: int) -> tuple[Network, list]:
    """Return MADE's network for the first k features: units of degree below k, rows and columns.

    One unit stays in a layer that would have none: it depends on known features, and nobody on it.
    """
    units = net.degrees[1:-1]
    widths = [max(1, int(np.searchsorted(degrees, k - 1, side="right"))) for degrees in units]
    if net.residual:
        widths = [max(widths)] * len(widths)
    degrees = [np.minimum(d[:width], k) for d, width in zip(units, widths, strict=True)]
    inputs = net.context + net.embed.width * k
    config = {**net.config(), "features": k, "hidden": widths, "degrees": degrees}
    rows, columns = [*widths, net.numbers * k], [inputs, *widths]
    values = []
    for linear, J, I in zip(net.linears, rows, columns, strict=True):
        values += [p[linear.W][:J, :I], p[linear.b][:J]]
    return MaskedMLP.from_config(config), values


def _cut_attention(net: CausalTransformer, p: Views, k: int) -> tuple[Network, list]:
    """Return a causal transformer for the first tokens: fewer places, and all else as it is."""
    if k % net.patch:
        raise ValueError(f"features: expected whole tokens of {net.patch} features, got {k}")
    values = [part[: k // net.patch] if name == "places" else part for name, part in p.items()]
    return CausalTransformer.from_config({**net.config(), "features": k}), values


def _cut_convolution(net: CausalConv, p: Views, k: int) -> tuple[Network, list]:
    """Return the same convolutions for fewer steps."""
    return CausalConv.from_config({**net.config(), "features": k}), list(p.values())


_NETWORKS: dict[type, Callable] = {
    MaskedMLP: _cut_masked,
    CausalTransformer: _cut_attention,
    CausalConv: _cut_convolution,
}
"""Networks whose first outputs are a network of the same kind."""
