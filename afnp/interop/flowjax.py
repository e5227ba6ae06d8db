r"""Trained flows of flowjax, with their parameters: the same density, and samples by substitution.

.. math:: u = f(x) \;\text{ where their bijection is inverted (the default)}, \qquad
          x = f(u) \;\text{ where it is not}

flowjax's bijections run from noise to data; ``masked_autoregressive_flow`` and ``coupling_flow``
wrap them in ``Invert``, so that f itself runs from data to noise: a density is one pass. With
``invert=False`` a masked f becomes an :class:`afnp.transforms.Inverse`; couplings are refused.
A layer is f, then a permutation. Their scalar maps are :math:`u = x\, s + t` with
:math:`s = \operatorname{softplus}(a) + 10^{-2}` (:class:`afnp.univariate.FlooredAffine`), or
splines whose end slopes are free (:class:`afnp.univariate.FreeSpline`). Parameters are differences
from those of the transformer that was given, which are added to the biases here.

Around such a flow may stand what people put there: a normal base with its own means and deviations,
and elementwise affine maps that standardise the data, however they are nested.

Letters: N rows, D features, C context inputs, K params a feature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from afnp.flow import Flow
from afnp.interop import torch_networks
from afnp.interop.doors import Step, assembled, turned_around
from afnp.interop.proof import prove as compare
from afnp.interop.sorting import Linear, Network, masked_layer
from afnp.interop.torch_networks import Read, named
from afnp.transforms import ActNorm, Inverse, Permutation
from afnp.univariate import FlooredAffine, FreeSpline

__all__ = ["from_flowjax"]


def from_flowjax(flow: Any, prove: bool = True) -> Flow:
    """Return a flow of flowjax as one of ours.

    Parameters
    ----------
    flow : flowjax.distributions.Transformed
        As ``masked_autoregressive_flow`` or ``coupling_flow`` makes it, with the affine transformer
        or ``RationalQuadraticSpline``; activations ReLU or tanh; a base ``StandardNormal`` or
        ``Normal``; transformed further by ``Affine``, ``Loc``, ``Scale``, their ``Chain`` and
        ``Invert``.
    prove : bool
        Compare log-densities and samples of 64 rows with theirs.

    Raises
    ------
    ValueError
        If a part of the flow cannot be imported: it is named.
    ArithmeticError
        If the two compute something else.
    """
    bijections, base = _parts(flow)
    if named(base) != "StandardNormal":
        raise ValueError(f"base_dist: cannot import a {named(base)}")
    steps = [step for bijection in bijections for step in _steps(bijection)]
    ours = assembled(steps, _dtype(flow))
    if prove:
        _prove(flow, bijections, ours)
    return ours


def _parts(flow: Any) -> tuple[list, Any]:
    """Return the bijections from the data to the noise, and the noise's distribution."""
    bijections = []
    while named(flow) in ("Transformed", "Normal"):
        bijections.append(flow.bijection)
        flow = flow.base_dist
    return bijections, flow


def _steps(bijection: Any) -> list[Step]:
    """Return the layers of a bijection from noise to data, from data to noise."""
    inverted = named(bijection) == "Invert"
    inside = bijection.bijection if inverted else bijection
    kind = named(inside)
    if kind == "Chain":
        parts = [_steps(part) for part in inside.bijections[::-1]]
        steps = [step for part in parts for step in part]
    elif kind == "Scan":
        layers = enumerate(_unstacked(inside.bijection))
        parts = [_layer(layer, inverted, f"layer {place}") for place, layer in layers]
        steps = [step for part in parts for step in part]
        return steps if inverted else steps[::-1]
    elif kind in AFFINE:
        steps = [_affine(inside)]
    else:
        raise ValueError(f"bijection: cannot import a {kind}")
    return turned_around(steps, "bijection") if inverted else steps


AFFINE = ("Affine", "Loc", "Scale")


def _affine(theirs: Any) -> Step:
    """Return x = u * scale + loc, feature by feature."""
    import paramax

    values = vars(paramax.unwrap(theirs))
    D = theirs.shape[0]
    m = np.broadcast_to(np.array(values.get("loc", 0.0)), D)
    s = np.broadcast_to(np.array(values.get("scale", 1.0)), D)
    if (s <= 0).any():
        raise ValueError(f"bijection: cannot import a {named(theirs)} with a scale that is not > 0")
    return ActNorm(D), {"m": m, "s": np.log(s)}


def _dtype(bijection: Any) -> np.dtype:
    import equinox
    import jax

    arrays = equinox.filter(bijection, equinox.is_inexact_array)
    return np.dtype(jax.tree_util.tree_leaves(arrays)[0].dtype)


def _unstacked(stacked: Any) -> list:
    """Return the layers that a scan runs through, one after the other."""
    import equinox
    import jax

    arrays, rest = equinox.partition(stacked, equinox.is_array)
    count = jax.tree_util.tree_leaves(arrays)[0].shape[0]
    return [
        equinox.combine(jax.tree_util.tree_map(lambda a, k=k: a[k], arrays), rest)
        for k in range(count)
    ]


def _layer(layer: Any, inverted: bool, where: str) -> list[Step]:
    """Return one layer of theirs: a map of x to u, or of u to x, in the order of f."""
    parts = list(layer.bijections) if named(layer) == "Chain" else [layer]
    steps: list[Step] = []
    for part in parts:
        kind = named(part)
        if kind not in STEPS:
            raise ValueError(f"{where}: cannot import a {kind}")
        steps.append(STEPS[kind](part, inverted, f"{where}, {kind}"))
    return steps


# ---- networks ------------------------------------------------------------------------------------


def _masked(theirs: Any, inverted: bool, where: str) -> Step:
    net, D = theirs.masked_autoregressive_mlp, theirs.shape[0]
    linears = []
    for part in net.layers:
        mask, W, _ = part.weight.args
        linears.append(Linear(np.array(W), np.array(part.bias), np.array(mask)))
    K = len(linears[-1].b) // D
    read = _transformer(theirs.transformer_constructor, K, where)
    last = read.rows(linears[-1].W, linears[-1].b, np.arange(D))
    mask = np.repeat(linears[-1].mask[::K], read.univariate.numbers, axis=0)
    linears[-1] = Linear(last["W"], last["b"], mask)
    network = Network(linears, torch_networks.activation(net.activation, where))
    layer, arrays = masked_layer(network, read.univariate, np.arange(D))
    return (layer if inverted else Inverse(layer)), arrays


def _coupling(theirs: Any, inverted: bool, where: str) -> Step:
    if not inverted:
        raise ValueError(f"{where}: cannot import one that is not inverted")
    net, D, A = theirs.conditioner, theirs.dim, theirs.untransformed_dim
    C = (theirs.cond_shape or (0,))[0]
    weights = [(np.array(part.weight), np.array(part.bias)) for part in net.layers]
    read = _transformer(theirs.transformer_constructor, len(weights[-1][1]) // (D - A), where)
    phi = torch_networks.activation(net.activation, where)
    passing = np.arange(D) < A
    return torch_networks.dense_coupling(passing, weights, read, C, phi, residual=False)


def _transformer(constructor: Callable, K: int, where: str) -> Read:
    """Return the univariate of a transformer, and its own parameters as what is added."""
    import paramax

    theirs = constructor(np.zeros(K))
    kind = named(theirs)
    if kind == "Affine":
        (first,) = theirs.scale.args
        least = paramax.unwrap(constructor(np.array([0.0, -1e3]))).scale
        floor = float(least)
        return Read.of(FlooredAffine("softplus", floor), [0, 1], 1.0, [float(theirs.loc), first])
    if kind == "RationalQuadraticSpline":
        low, high = theirs.interval
        if low != -high:
            raise ValueError(f"{where}: cannot import a spline on ({low}, {high})")
        n, ends = theirs.knots + 1, paramax.unwrap(constructor(np.full(K, -1e3)))
        least = float(ends.derivatives[0])
        share = theirs.x_pos.min_width / (high - low)
        tau = FreeSpline(n, float(high), share, theirs.y_pos.min_width / (high - low), least)
        first = np.concatenate(
            [theirs.x_pos.arr, theirs.y_pos.arr, theirs.derivatives.args[0] - _raw(1 - least)]
        )
        return Read.of(tau, np.arange(K), 1.0, first)
    raise ValueError(f"{where}: cannot import the transformer {kind}")


def _raw(slope: float) -> float:
    """Return what softplus maps to a slope."""
    return float(np.log(np.expm1(slope)))


# ---- permutations --------------------------------------------------------------------------------


def _permute(theirs: Any, inverted: bool, where: str) -> Step:
    order = np.array(theirs.permutation[0])
    return Permutation(order if inverted else np.argsort(order)), {}


def _flip(theirs: Any, inverted: bool, where: str) -> Step:
    return Permutation(np.arange(theirs.shape[0])[::-1]), {}


STEPS: dict[str, Callable[[Any, bool, str], Step]] = {
    "MaskedAutoregressive": _masked,
    "Coupling": _coupling,
    "Permute": _permute,
    "Flip": _flip,
}
"""What becomes of each bijection."""


# ---- proof ---------------------------------------------------------------------------------------


def _prove(theirs: Any, bijections: list, ours: Flow) -> None:
    """Compare both directions with theirs."""
    import jax
    import paramax

    flow = paramax.unwrap(theirs)

    def log_prob(x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        return np.array(flow.log_prob(x, context))

    def generate(u: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        rows = () if context is None else (context,)
        for bijection in reversed(bijections):
            u = jax.vmap(paramax.unwrap(bijection).transform)(u, *rows)
        return np.array(u)

    compare(ours, log_prob, generate, "flowjax")
