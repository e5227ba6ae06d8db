r"""Trained flows of zuko, with their parameters: the same density, and samples by substitution.

.. math:: W^{(l)} \to P_{l+1}\, (M^{(l)} \odot W^{(l)})\, P_l^\top

Its masked networks are MADE's, with units in another order. P sorts the units of each layer by
degree, the largest place in the order among the features that they depend on; then every mask is a
staircase (:mod:`afnp.networks.masks`), and a sample needs each unit once instead of D passes of the
network.

Letters: N rows, D features, C context inputs, K params a feature, P permutations.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np

from afnp.flow import Flow
from afnp.interop.proof import prove
from afnp.networks import MaskedMLP
from afnp.transforms import Autoregressive
from afnp.univariate import ClippedAffine, ClippedSpline

__all__ = ["from_zuko"]


def from_zuko(flow: Any, prove: bool = True) -> Flow:
    """Return zuko's flow as one of ours.

    Parameters
    ----------
    flow : zuko.flows.MAF or zuko.flows.NSF
        Fully autoregressive, with or without context; activations ReLU or Tanh.
    prove : bool
        Compare log-densities and samples of 64 rows with zuko's.

    Raises
    ------
    ValueError
        If a part of the flow cannot be imported: it is named.
    ArithmeticError
        If the two compute something else.
    """
    base = flow.base()
    loc, scale = (_array(values) for values in _normal(base))
    if (loc != 0).any() or (scale != 1).any():
        raise ValueError("base: expected a standard normal, got another location or scale")
    transforms = list(getattr(flow.transform, "transforms", [flow.transform]))
    built = [_layer(transform, place) for place, transform in enumerate(transforms)]
    layers = [layer for layer, _ in built]
    dtype = next(iter(flow.parameters())).detach().numpy().dtype
    ours = Flow(layers, context=layers[0].context, dtype=dtype)
    for place, (_, arrays) in enumerate(built):
        for name, values in arrays.items():
            ours.parameters[f"{place}.{name}"] = values
    if prove:
        _prove(flow, ours)
    return ours


def _normal(base: Any) -> tuple:
    if type(base).__name__ != "DiagNormal":
        raise ValueError(f"base: cannot import a {type(base).__name__}")
    return base.base_dist.loc, base.base_dist.scale


def _layer(transform: Any, place: int) -> tuple[Autoregressive, dict[str, np.ndarray]]:
    """Return one transform as a layer, and its arrays by name."""
    where = f"transform {place}"
    if type(transform).__name__ != "MaskedAutoregressiveTransform":
        raise ValueError(f"{where}: cannot import a {type(transform).__name__}")
    if transform.order is None or transform.passes != len(transform.order):
        raise ValueError(f"{where}: cannot import one that is not fully autoregressive")
    rank = transform.order.numpy()
    D, K, order = len(rank), transform.total, np.argsort(rank)
    C = transform.hyper.in_features - D
    linears, activation = _network(transform.hyper, where)

    # what each unit depends on: the context is degree 0, feature order[r] is degree r + 1
    degrees = np.concatenate([rank + 1, np.zeros(C, dtype=np.int64)])
    sorted_by = np.concatenate([D + np.arange(C), order])
    hidden: list[np.ndarray] = []
    arrays: dict[str, np.ndarray] = {}
    for l, (W, b, mask) in enumerate(linears):
        degrees = np.where(mask, degrees, 0).max(axis=1)
        if l < len(linears) - 1:
            rows = np.argsort(degrees, kind="stable")
            hidden.append(degrees[rows])
        else:
            rows = (order[:, None] * K + np.arange(K)).ravel()
        arrays |= {f"W{l}": (W * mask)[np.ix_(rows, sorted_by)], f"b{l}": b[rows]}
        sorted_by = rows
    univariate = _univariate(transform, where)
    of_units = [units.tolist() for units in hidden] or None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what a narrow network loses, it lost there
        widths = [len(units) for units in hidden]
        net = MaskedMLP(D, K, widths, C, activation, degrees=of_units)
    return Autoregressive(net, univariate, order), arrays


def _network(hyper: Any, where: str) -> tuple[list[tuple], str]:
    """Return the weights, biases and masks of a masked network, and its activation."""
    linears, activations = [], set()
    for part in hyper:
        kind = type(part).__name__
        if kind == "MaskedLinear":
            linears.append((_array(part.weight), _array(part.bias), part.mask.numpy().astype(bool)))
        elif kind in ("ReLU", "Tanh"):
            activations.add(kind.lower())
        else:
            raise ValueError(f"{where}: cannot import a network with {kind}")
    if len(activations) > 1:
        raise ValueError(f"{where}: cannot import a network with several activations")
    return linears, activations.pop() if activations else "relu"


def _univariate(transform: Any, where: str) -> ClippedAffine | ClippedSpline:
    """Return the univariate that zuko's constructor makes."""
    maker = transform.univariate
    options = maker.keywords if isinstance(maker, functools.partial) else {}
    name = getattr(maker, "func", maker).__name__
    slope = options.get("slope", 1e-3)
    if name == "MonotonicAffineTransform":
        return ClippedAffine(limit=-float(np.log(slope)))
    if name == "MonotonicRQSTransform":
        bins = transform.shapes[0][0]
        return ClippedSpline(bins, bound=options.get("bound", 5.0), slope=slope)
    raise ValueError(f"{where}: cannot import the univariate {name}")


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _prove(theirs: Any, ours: Flow) -> None:
    """Compare both directions with zuko's."""
    import torch

    def given(context: np.ndarray | None) -> Any:
        return theirs(None if context is None else torch.from_numpy(context))

    @torch.no_grad()
    def log_prob(x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        return given(context).log_prob(torch.from_numpy(x)).numpy()

    @torch.no_grad()
    def generate(u: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        return given(context).transform.inv(torch.from_numpy(u)).numpy()

    prove(ours, log_prob, generate, "zuko")
