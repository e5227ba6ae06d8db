r"""Marginals and conditionals of a joint flow: exact where all its layers share one order.

.. math:: p(x_1, \dots, x_k) = \prod_{i \le k} p_{\mathrm{base}}(u_i)
          \left|\frac{\partial u_i}{\partial x_i}\right|, \qquad
          p(x_{>k} \mid x_{\le k}) = \frac{p(x)}{p(x_{\le k})}

If every layer reads the features in the same order, u_1, ..., u_k are functions of x_1, ..., x_k
alone, and the Jacobian's upper left corner is triangular too. So the first k features are a flow of
their own: rows and columns of the weights that they need, and nothing to integrate. A sample given
them is ordinary sampling, whose first k noises are read off instead of drawn. What is missing at
the end of the order is marginalised by leaving it out.

Flows that turn the order between layers (``order="reverse"``, the default of :func:`afnp.maf`;
permutations; couplings) have no such marginals: there every u_i depends on all of x. They are
refused, with the layer that turns. Build with ``order="natural"``, or a permutation for which all
layers are alike, what marginals are asked of.

Letters: N rows, D features, C context inputs, k features at the beginning of the order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from afnp.bases import Logistic, StandardNormal, StudentT, UniformTorus
from afnp.flow import Flow
from afnp.inputs import check_rows, frame_of, generator, integer
from afnp.model import check_context
from afnp.networks import CausalConv, CausalTransformer, MaskedMLP, Network
from afnp.params import Views
from afnp.transforms import (
    ActNorm,
    Autoregressive,
    BatchNorm,
    Bounds,
    Dequantize,
    Inverse,
    LinearPrediction,
    Logit,
    Permutation,
    Standardize,
    Transform,
)

__all__ = ["log_prob", "log_prob_given", "marginal", "sample_given", "shared_order"]

BASES = (StandardNormal, Logistic, StudentT, UniformTorus)
"""Of independent features, so that some of them are a base as well."""


def shared_order(flow: Flow) -> np.ndarray:
    """Return the order (D,) in which every layer of a flow reads its features.

    Raises
    ------
    ValueError
        If a layer reads them in another order, or mixes them: it is named.

    Examples
    --------
    >>> import afnp
    >>> shared_order(afnp.maf(3, hidden=(8,), transforms=2, order="natural"))
    array([0, 1, 2])
    >>> shared_order(afnp.maf(3, hidden=(8,), transforms=2))
    Traceback (most recent call last):
        ...
    ValueError: flow: expected layers of one order, [0, 1, 2], but layer 1 (Autoregressive) lets \
feature 0 depend on feature 1; build it with order="natural"
    """
    if not isinstance(flow, Flow):
        raise ValueError(f"flow: expected a Flow, got {type(flow).__name__}")
    orders = [layer.order for layer in flow.layers if isinstance(layer, (Autoregressive, Inverse))]
    order = orders[0] if orders else np.arange(flow.features)
    for number, layer in enumerate(flow.layers):
        later = np.triu(layer.allowed()[np.ix_(order, order)], 1)
        if later.any():
            i, j = order[np.argwhere(later)[0]]
            raise ValueError(
                f"flow: expected layers of one order, {order.tolist()}, but layer {number} "
                f"({type(layer).__name__}) lets feature {i} depend on feature {j}; build it with "
                'order="natural"'
            )
    return order


def marginal(flow: Flow, features: int) -> Flow:
    """Return the first k features of a flow's order as a flow of their own, with copied parameters.

    Its columns are those features, in the order of the flow's columns: x[:, :k] where the order is
    natural. It is an ordinary flow, to be scored, sampled, differentiated and saved.

    Parameters
    ----------
    flow : Flow
        Whose layers share one order; see :func:`shared_order`.
    features : int
        k, from 1 to D.

    Raises
    ------
    ValueError
        If the layers turn the order, or one of them cannot be cut (names the layer).

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(3, hidden=(8,), transforms=2, order="natural")
    >>> first = marginal(flow, 2)
    >>> first.features, bool(np.allclose(first.sample(4, rng=0).std(), 1, atol=0.5))
    (2, True)
    """
    order, k = shared_order(flow), integer("features", features, least=1)
    if k > flow.features:
        raise ValueError(f"features: expected at most {flow.features}, got {k}")
    if type(flow.base) not in BASES:
        raise ValueError(f"flow: a {type(flow.base).__name__} as base has no marginal here")
    kept = np.sort(order[:k])
    parts = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what was lost, is; it was said before
        for number, (layer, p) in enumerate(zip(flow.layers, flow.own, strict=True)):
            parts.append(_cut(number, layer, p, kept))
    config = flow.config()
    config["layers"] = [{"type": type(layer).__name__, **layer.config()} for layer, _ in parts]
    config["base"] = {**config["base"], "features": k}
    if flow.columns is not None:
        config["columns"] = [flow.columns[i] for i in kept]
    arrays = [values.reshape(-1) for _, values_of in parts for values in values_of]
    theta = np.concatenate(arrays) if arrays else np.zeros(0, flow.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Flow.from_config(config, theta)


def log_prob(flow: Flow, x, context=None) -> np.ndarray:
    """Return the log-density of what is known of each row of x (N, D), in nats, (N,).

    NaN means unknown: the density is that of the row's other features. What is unknown must stand
    at the end of the order; a row of which nothing is known has log-density 0.

    Raises
    ------
    ValueError
        If a feature is missing before one that is known (names row and features); else as
        :func:`marginal` and :meth:`afnp.Flow.log_prob`.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(3, hidden=(8,), transforms=2, order="natural")
    >>> found = log_prob(flow, [[0.3, 0.1, np.nan]])
    >>> bool(found == marginal(flow, 2).log_prob([[0.3, 0.1]]))
    True
    """
    order = shared_order(flow)
    x = _with_gaps(flow, x)
    context = check_context(context, flow.context, len(x), np.float64, flow.context_columns)
    known = _count_known(x, order)
    result = np.zeros(len(x), flow.dtype)
    for k in np.unique(known[known > 0]):
        rows, kept = known == k, np.sort(order[:k])
        part = flow if k == flow.features else marginal(flow, k)
        given = context[rows] if flow.context else None
        result[rows] = part.log_prob(x[rows][:, kept], given)
    return result


def log_prob_given(flow: Flow, x, features: int, context=None) -> np.ndarray:
    r"""Return the log-density of each row's last features given its first k, in nats, (N,).

    .. math:: \log p(x_{>k} \mid x_{\le k}) = \log p(x) - \log p(x_{\le k})

    First in the order that the layers share, as for :func:`marginal`.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(3, hidden=(8,), transforms=2, order="natural")
    >>> log_prob_given(flow, np.zeros((4, 3)), 1).shape
    (4,)
    """
    x = check_rows(x, flow.features, np.float64, "x", flow.columns)
    first = marginal(flow, features)
    kept = np.sort(shared_order(flow)[: first.features])
    return flow.log_prob(x, context) - first.log_prob(x[:, kept], context)


def sample_given(flow: Flow, n: int, given, rng=0, context=None) -> np.ndarray:
    """Draw n rows, (n, D), given their first features in the order that the layers share.

    Parameters
    ----------
    flow : Flow
    n : int
    given : (n, k) or (1, k) array
        In the columns of :func:`marginal`: x[:, :k] where the order is natural. They stand in the
        result as they were given.
    rng : seed or Generator
    context : (n, C) or (1, C) array, optional

    Raises
    ------
    ValueError
        If what is given has density zero (names the row); else as :func:`marginal`.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(3, hidden=(8,), transforms=2, order="natural")
    >>> x = sample_given(flow, 5, [[0.5]])
    >>> x.shape, x[:, 0].tolist()
    ((5, 3), [0.5, 0.5, 0.5, 0.5, 0.5])
    """
    n, rng = integer("n", n, least=0), generator("rng", rng)
    given = check_rows(given, None, np.float64, "given")
    if len(given) not in (1, n):
        raise ValueError(f"given: expected {n} rows (or 1), got {len(given)}")
    order, k = shared_order(flow), given.shape[1]
    context = check_context(context, flow.context, n, np.float64, flow.context_columns)
    context = context if flow.context else None
    given = np.broadcast_to(given, (n, k))
    u = flow.base.sample(flow.own.base, n, rng, flow.dtype)
    if not k:
        return flow.generate(u, context)[0]
    first, kept = marginal(flow, k), np.sort(order[:k])
    u[:, kept], log_det = first.normalize(given, context)
    nowhere = np.isneginf(log_det)
    if nowhere.any():
        raise ValueError(f"given: row {int(np.argmax(nowhere))} has density zero")
    x, _ = flow.generate(u, context)
    x[:, kept] = given
    return x


# ---- rows with gaps ------------------------------------------------------------------------------


def _with_gaps(flow: Flow, x) -> np.ndarray:
    """Return rows (N, D) as float64, NaN where a value is missing; refuse what else is wrong."""
    frame = frame_of(x)
    if frame is not None and flow.columns is not None:
        check_rows(frame.fillna(0), flow.features, np.float64, "x", flow.columns)
        frame = frame[list(flow.columns)]
    values = np.asarray(x if frame is None else frame.to_numpy(np.float64, na_value=np.nan))
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    rows = check_rows(np.where(missing, 0, values), flow.features, np.float64, "x")
    return np.where(missing, np.nan, rows)


def _count_known(x: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return how many features of each row are known, (N,): the first ones of the order."""
    missing = np.isnan(x)[:, order]
    known = (~missing).sum(axis=1)
    early = missing & (np.arange(len(order)) < known[:, None])
    if early.any():
        row, place = np.argwhere(early)[0]
        after = order[place + np.argmin(missing[row, place:])]
        raise ValueError(
            f"x: row {row}: feature {order[place]} is missing and feature {after}, which comes "
            f"after it in the order {order.tolist()}, is not; only what is missing at the end can "
            "be marginalised exactly"
        )
    return known


# ---- layers of fewer features --------------------------------------------------------------------


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
    raise ValueError(f"flow: layer {number} ({named}) has no marginal here")


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
