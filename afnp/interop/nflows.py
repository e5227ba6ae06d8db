r"""Trained flows of nflows, with their parameters: the same density, and samples by substitution.

.. math:: u = x \odot s(x) + t(x), \qquad s = \operatorname{softplus}(a) + 10^{-3}
          \;\text{(MAF)} \quad\text{or}\quad \sigma(a + 2) + 10^{-3} \;\text{(coupling)}

nflows runs from data to noise, as this package does. Its autoregressive layers sample by D passes
of the network; here each hidden unit is evaluated once, since the units are sorted by degree
(:mod:`afnp.interop.torch_networks`).

========================================== =====================================================
nflows                                     here
========================================== =====================================================
MaskedAffineAutoregressiveTransform        Autoregressive, FlooredAffine("softplus")
MaskedPiecewiseRationalQuadratic...        Autoregressive, RationalQuadratic; linear tails only
AffineCouplingTransform                    Coupling, FlooredAffine("sigmoid")
AdditiveCouplingTransform                  Coupling, Additive
PiecewiseRationalQuadraticCoupling...      Coupling, RationalQuadratic; linear tails only
Permutation and its kin                    Permutation
LULinear, QRLinear, SVDLinear, Householder LULinear, then its bias as ActNorm
ActNorm, BatchNorm                         ActNorm, BatchNorm: in evaluation
PointwiseAffineTransform                   Standardize
CompositeTransform, IdentityTransform      what is in it; nothing
InverseTransform                           Inverse, or what is inverse: not of couplings
StandardNormal, DiagonalNormal             the base; ActNorm before it
========================================== =====================================================

Dropout does nothing in evaluation; BatchNorm inside networks is a scale and a shift there, and goes
into the weights.

Without context, MADE is a :class:`afnp.networks.MaskedMLP` and runs compiled. With context it is an
:class:`afnp.networks.AddedMLP`: the network's derivative runs in NumPy.

Letters: N rows, D features, C context inputs, K params a feature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from afnp.flow import Flow
from afnp.interop import torch_networks
from afnp.interop.doors import Step, assembled, expect, in_evaluation, turned_around
from afnp.interop.proof import prove as compare
from afnp.interop.torch_networks import Read, array, named, spline_of
from afnp.transforms import ActNorm, BatchNorm, Permutation, Standardize
from afnp.univariate import Additive, FlooredAffine

__all__ = ["flow_of", "from_nflows", "steps_of"]


def from_nflows(flow: Any, prove: bool = True) -> Flow:
    """Return a flow of nflows as one of ours.

    Parameters
    ----------
    flow : nflows.flows.Flow
        Of the parts in the module's table, with or without context. It is put into evaluation mode
        while it is compared.
    prove : bool
        Compare log-densities and samples of 64 rows with theirs.

    Raises
    ------
    ValueError
        If a part of the flow cannot be imported: it is named.
    ArithmeticError
        If the two compute something else.
    """
    expect(flow, "nflows", "Flow")
    embedding = named(flow._embedding_net)
    if embedding != "Identity":
        raise ValueError(f"embedding_net: cannot import a {embedding}; embed contexts beforehand")
    ours = flow_of(flow)
    if prove:
        _prove(flow, ours)
    return ours


def flow_of(flow: Any) -> Flow:
    """Return the flow that transform and base of theirs make, without comparing them."""
    D = _features(flow._distribution)
    steps = [*steps_of(flow._transform, D), *_base(flow._distribution)]
    parameters = list(flow.parameters())
    dtype = array(parameters[0]).dtype if parameters else np.dtype(np.float32)
    return assembled(steps, dtype)


# ---- the base ------------------------------------------------------------------------------------


def _features(base: Any) -> int:
    kind = named(base)
    if kind not in ("StandardNormal", "DiagonalNormal"):
        raise ValueError(f"distribution: cannot import a {kind}")
    if len(base._shape) != 1:
        raise ValueError(f"distribution: expected vectors, got the shape {tuple(base._shape)}")
    return int(base._shape[0])


def _base(base: Any) -> list[Step]:
    """Return the layer that makes a base's noise standard."""
    if named(base) == "StandardNormal":
        return []
    layer = ActNorm(int(base._shape[0]))
    return [(layer, {"m": array(base.mean_)[0], "s": array(base.log_std_)[0]})]


# ---- transforms ----------------------------------------------------------------------------------


def steps_of(transform: Any, features: int, where: str = "") -> list[Step]:
    """Return a transform of nflows as layers, from data to noise, with their arrays."""
    kind = named(transform)
    if kind == "CompositeTransform":
        inside = enumerate(transform._transforms)
        return [
            step
            for place, part in inside
            for step in steps_of(part, features, f"{where}transform {place}, ")
        ]
    maker = STEPS.get(kind)
    if maker is None:
        raise ValueError(f"{where.rstrip(', ') or 'transform'}: cannot import a {kind}")
    return maker(transform, features, f"{where}{kind}")


def _masked_affine(theirs: Any, features: int, where: str) -> list[Step]:
    tau = FlooredAffine("softplus", theirs._epsilon)
    net = theirs.autoregressive_net
    return [torch_networks.masked(net, Read.of(tau, [1, 0]), where, activated=True)]


def _masked_spline(theirs: Any, features: int, where: str) -> list[Step]:
    net = theirs.autoregressive_net
    read = spline_of(theirs, vars(net).get("hidden_features"), where)
    return [torch_networks.masked(net, read, where, activated=True)]


def _affine_coupling(theirs: Any, features: int, where: str) -> list[Step]:
    read = Read.of(FlooredAffine("sigmoid", 1e-3), [0, 1], blocks=True)
    return [_coupling(theirs, read, where)]


def _additive_coupling(theirs: Any, features: int, where: str) -> list[Step]:
    return [_coupling(theirs, Read.of(Additive(), [0], scale=-1.0), where)]


def _spline_coupling(theirs: Any, features: int, where: str) -> list[Step]:
    read = spline_of(theirs, vars(theirs.transform_net).get("hidden_features"), where)
    return [_coupling(theirs, read, where)]


def _coupling(theirs: Any, read: Read, where: str) -> Step:
    if theirs.unconditional_transform is not None:
        kind = named(theirs.unconditional_transform)
        raise ValueError(f"{where}: cannot import the unconditional transform {kind}")
    return torch_networks.coupling(theirs, read, where, _dense)


def _dense(net: Any, where: str) -> tuple[list[tuple], str, int]:
    """Return the linear layers of a plain network, its activation, and its context."""
    kind = named(net)
    if kind == "ContextSplineMap":  # of sbi: of one feature, given the context alone
        parts = list(net.spline_predictor)
        linears = [part for part in parts if named(part) == "Linear"]
        return _arrays(linears), "relu", linears[0].in_features
    if kind == "MLP" and not net._activate_output:
        linears = [net._input_layer, *net._hidden_layers, net._output_layer]
        name = torch_networks.activation(net._activation, where)
        return _arrays(linears), name, 0
    raise ValueError(f"{where}: cannot import the network {kind}")


def _arrays(linears: list) -> list[tuple]:
    return [(array(linear.weight), array(linear.bias)) for linear in linears]


def _permutation(theirs: Any, features: int, where: str) -> list[Step]:
    if theirs._dim != 1:
        raise ValueError(f"{where}: cannot import one along axis {theirs._dim}")
    return [(Permutation(array(theirs._permutation)), {})]


def _lu(theirs: Any, features: int, where: str) -> list[Step]:
    return torch_networks.lu_layers(theirs)


def _linear(theirs: Any, features: int, where: str) -> list[Step]:
    return torch_networks.linear_layers(theirs, features, theirs.forward)


LINEAR = ("QRLinear", "SVDLinear", "HouseholderSequence")
"""Linear maps, known by what they do."""


def _inverse(theirs: Any, features: int, where: str) -> list[Step]:
    inside = theirs._transform
    if named(inside) in ("LULinear", *LINEAR):
        return torch_networks.linear_layers(inside, features, inside.inverse)
    return turned_around(steps_of(inside, features, f"{where} of "), where)


def _act_norm(theirs: Any, features: int, where: str) -> list[Step]:
    scale, shift = array(theirs.log_scale), array(theirs.shift)
    return [(ActNorm(features), {"m": -shift * np.exp(-scale), "s": -scale})]


def _batch_norm(theirs: Any, features: int, where: str) -> list[Step]:
    layer = BatchNorm(features, theirs.momentum, theirs.eps)
    arrays = {
        "beta": array(theirs.bias),
        "gamma": np.log(array(theirs.weight)),
        "mean": array(theirs.running_mean),
        "w": np.log(array(theirs.running_var) + theirs.eps),
    }
    return [(layer, arrays)]


def _pointwise(theirs: Any, features: int, where: str) -> list[Step]:
    shift, scale = (
        np.broadcast_to(array(values).astype(np.float64), features)
        for values in (theirs._shift, theirs._scale)
    )
    return [(Standardize(-shift / scale, 1 / scale), {})]


STEPS: dict[str, Callable[[Any, int, str], list[Step]]] = {
    "MaskedAffineAutoregressiveTransform": _masked_affine,
    "MaskedPiecewiseRationalQuadraticAutoregressiveTransform": _masked_spline,
    "AffineCouplingTransform": _affine_coupling,
    "AdditiveCouplingTransform": _additive_coupling,
    "PiecewiseRationalQuadraticCouplingTransform": _spline_coupling,
    **dict.fromkeys(("Permutation", "RandomPermutation", "ReversePermutation"), _permutation),
    "LULinear": _lu,
    **dict.fromkeys(LINEAR, _linear),
    "InverseTransform": _inverse,
    "ActNorm": _act_norm,
    "BatchNorm": _batch_norm,
    **dict.fromkeys(("PointwiseAffineTransform", "AffineTransform"), _pointwise),
    "IdentityTransform": lambda theirs, features, where: [],
}
"""What becomes of each transform."""


# ---- proof ---------------------------------------------------------------------------------------


def _prove(theirs: Any, ours: Flow) -> None:
    """Compare both directions with theirs, in evaluation."""
    import torch

    def tensors(values: np.ndarray, context: np.ndarray | None) -> tuple:
        return torch.from_numpy(values), None if context is None else torch.from_numpy(context)

    def log_prob(x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        return array(theirs.log_prob(*tensors(x, context)))

    def generate(u: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        u, context = tensors(u, context)
        u = _noise(theirs._distribution, u)
        return array(theirs._transform.inverse(u, context=theirs._embedding_net(context))[0])

    with in_evaluation(theirs):
        compare(ours, log_prob, generate, "nflows")


def _noise(base: Any, u: Any) -> Any:
    """Return a base's noise from standard noise."""
    return u if named(base) == "StandardNormal" else base.mean_ + base.log_std_.exp() * u
