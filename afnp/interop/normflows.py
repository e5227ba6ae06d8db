r"""Trained flows of normflows, with their parameters: the same density, and the same samples.

.. math:: x = (g_T \circ \dots \circ g_1)(u), \qquad \log p(x) = \log p(u) -
          \sum_k \log\left|\det \frac{\partial g_k}{\partial z}\right|

normflows calls *forward* the way from noise to data, and lists its flows in that order: here they
come last to first. Its MaskedAffineAutoregressive runs its network on the noise, x = s(u) u + t(u):
one pass to sample, D passes for a density. It is an inverse autoregressive flow, and becomes an
:class:`afnp.transforms.Inverse`. Its autoregressive splines run their network on the data.

========================================== =====================================================
normflows                                  here
========================================== =====================================================
MaskedAffineAutoregressive                 Inverse of Autoregressive, FlooredAffine("sigmoid")
AutoregressiveRationalQuadraticSpline      Autoregressive, RationalQuadratic
CoupledRationalQuadraticSpline             Coupling, RationalQuadratic; then one whose params are
                                           constants, of the features that passed
AffineCouplingBlock                        Coupling, Affine("exp") or Additive; halves, a plain MLP
MaskedAffineFlow                           the same, with two MLPs side by side in one
Permute, LULinearPermute                   Permutation; Permutation, LULinear and its bias
InvertibleAffine                           LULinear
Reverse, Composite                         what is inverse: not of couplings; what is in it
ActNorm, AffineConstFlow                   ActNorm
DiagGaussian                               the base; ActNorm before it, if it is not standard
========================================== =====================================================

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
from afnp.interop.torch_networks import Read, array, lu_layers, named, spline_of
from afnp.transforms import ActNorm, Coupling, Inverse, Permutation
from afnp.univariate import Additive, Affine, FlooredAffine

__all__ = ["from_normflows"]


def from_normflows(flow: Any, prove: bool = True) -> Flow:
    """Return a flow of normflows as one of ours.

    Parameters
    ----------
    flow : normflows.NormalizingFlow or normflows.ConditionalNormalizingFlow
        Of the parts in the module's table.
    prove : bool
        Compare log-densities and samples of 64 rows with theirs.

    Raises
    ------
    ValueError
        If a part of the flow cannot be imported: it is named.
    ArithmeticError
        If the two compute something else.
    """
    expect(flow, "normflows", "NormalizingFlow")
    base = flow.q0
    if named(base) != "DiagGaussian":
        raise ValueError(f"q0: cannot import a {named(base)}")
    D = int(array(base.loc).size)
    steps: list[Step] = []
    for place in reversed(range(len(flow.flows))):
        steps += _steps(flow.flows[place], D, f"flow {place}")
    ours = assembled([*steps, *_base(base, D)], array(base.loc).dtype)
    if prove:
        _prove(flow, ours)
    return ours


def _base(base: Any, D: int) -> list[Step]:
    """Return the layer that makes the base's noise standard."""
    if base.temperature is not None:
        raise ValueError(f"q0: cannot import a temperature, got {base.temperature}")
    loc, log_scale = array(base.loc).reshape(D), array(base.log_scale).reshape(D)
    return [(ActNorm(D), {"m": loc, "s": log_scale})] if loc.any() or log_scale.any() else []


def _steps(flow: Any, D: int, where: str) -> list[Step]:
    """Return one flow of theirs as layers, from data to noise, with their arrays."""
    kind = named(flow)
    if kind not in STEPS:
        raise ValueError(f"{where}: cannot import a {kind}")
    return STEPS[kind](flow, D, f"{where}, {kind}")


# ---- autoregressive ------------------------------------------------------------------------------


def _masked_affine(theirs: Any, D: int, where: str) -> list[Step]:
    read = Read.of(FlooredAffine("sigmoid", 1e-3), [1, 0])
    layer, arrays = torch_networks.masked(theirs.autoregressive_net, read, where, activated=False)
    return [(Inverse(layer), arrays)]


def _masked_spline(theirs: Any, D: int, where: str) -> list[Step]:
    inside = theirs.mprqat
    read = spline_of(inside, vars(inside.autoregressive_net).get("hidden_features"), where)
    net = inside.autoregressive_net
    return [torch_networks.masked(net, read, where, activated=False)]


# ---- couplings -----------------------------------------------------------------------------------


def _spline_coupling(theirs: Any, D: int, where: str) -> list[Step]:
    inside = theirs.prqct
    read = spline_of(inside, vars(inside.transform_net).get("hidden_features"), where)
    step = torch_networks.coupling(inside, read, where, _no_other)
    free = inside.unconditional_transform
    return [step] if free is None else [step, _passed(free, step[0], where)]


def _passed(theirs: Any, layer: Coupling, where: str) -> Step:
    """Return the spline of the features that a coupling passed: constants, and no weights."""
    parts = [
        array(part)
        for part in (
            theirs.unnormalized_widths,
            theirs.unnormalized_heights,
            theirs.unnormalized_derivatives,
        )
    ]
    h = np.concatenate(parts, axis=1)
    read = spline_of(theirs, None, where, bins=parts[0].shape[1])
    D, C = layer.features, layer.context
    W = np.zeros((h.size, C + D - len(h)), dtype=h.dtype)
    return torch_networks.dense_coupling(
        ~layer.passing, [(W, h.ravel())], read, C, "relu", residual=False
    )


def _no_other(net: Any, where: str) -> tuple:
    raise ValueError(f"{where}: cannot import the network {named(net)}")


def _affine_coupling(theirs: Any, D: int, where: str) -> list[Step]:
    split, couple, merge = theirs.flows
    if split.mode not in ("channel", "channel_inv"):
        raise ValueError(f"{where}: cannot import the split {split.mode!r}")
    linears, phi = _plain(couple.param_map, where)
    passing = np.arange(D) < (D + 1) // 2
    if split.mode == "channel_inv":
        passing = ~passing
    if not couple.scale:
        read = Read.of(Additive(), [0])
    elif couple.scale_map == "exp":
        read = Read.of(Affine(scale="exp"), [0, 1])
    else:
        raise ValueError(f"{where}: cannot import the scale map {couple.scale_map!r}")
    return [torch_networks.dense_coupling(passing, linears, read, 0, phi, residual=False)]


def _masked_coupling(theirs: Any, D: int, where: str) -> list[Step]:
    """Return x = z exp(s) + t, where s and t come of one MLP each: of the two side by side."""
    passing = array(theirs.b).reshape(-1) > 0
    parts = dict(theirs.named_children())
    both = [_of_mask(parts[name], passing, where) for name in ("t", "s") if name in parts]
    if not both or len({(len(linears), phi) for linears, phi in both}) > 1:
        raise ValueError(f"{where}: cannot import networks of other depths or activations")
    phi = both[0][1]
    if len(both) == 2:
        linears = _side_by_side(both[0][0], both[1][0])
        read = Read.of(Affine(scale="exp"), [0, 1], blocks=True)
    elif "t" in parts:
        linears, read = both[0][0], Read.of(Additive(), [0])
    else:
        linears = _side_by_side([(0 * W, 0 * b) for W, b in both[0][0]], both[0][0])
        read = Read.of(Affine(scale="exp"), [0, 1], blocks=True)
    return [torch_networks.dense_coupling(passing, linears, read, 0, phi, residual=False)]


def _of_mask(net: Any, passing: np.ndarray, where: str) -> tuple[list[tuple], str]:
    """Return what an MLP of all features does with those that pass, for those that do not."""
    linears, phi = _plain(net, where)
    linears[0] = linears[0][0][:, passing], linears[0][1]
    linears[-1] = linears[-1][0][~passing], linears[-1][1][~passing]
    return linears, phi


def _side_by_side(one: list[tuple], other: list[tuple]) -> list[tuple]:
    """Return two networks of the same input as one, whose outputs follow each other."""
    merged = []
    for l, ((V, c), (W, b)) in enumerate(zip(one, other, strict=True)):
        if l:
            V, W = np.pad(V, ((0, 0), (0, W.shape[1]))), np.pad(W, ((0, 0), (V.shape[1], 0)))
        merged.append((np.concatenate([V, W]), np.concatenate([c, b])))
    return merged


def _plain(net: Any, where: str) -> tuple[list[tuple], str]:
    """Return the linear layers of their MLP, and its activation."""
    if named(net) != "MLP":
        raise ValueError(f"{where}: cannot import the network {named(net)}")
    linears = []
    for part in net.net:
        kind = named(part)
        if kind == "Linear":
            linears.append((array(part.weight), array(part.bias)))
        elif kind == "LeakyReLU" and part.negative_slope:
            raise ValueError(f"{where}: cannot import LeakyReLU({part.negative_slope})")
        elif kind not in ("LeakyReLU", "Dropout"):
            raise ValueError(f"{where}: cannot import a network with {kind}")
    return linears, "relu"


# ---- linear layers -------------------------------------------------------------------------------


def _permute(theirs: Any, D: int, where: str) -> list[Step]:
    if theirs.mode == "shuffle":
        return [(Permutation(array(theirs.inv_perm)), {})]
    first = (D + 1) // 2  # of the data: the second half of the noise comes first there
    return [(Permutation([*range(first, D), *range(first)]), {})]


def _lu_permute(theirs: Any, D: int, where: str) -> list[Step]:
    return [(Permutation(array(theirs.permutation._permutation)), {}), *lu_layers(theirs.linear)]


def _matrix(theirs: Any, D: int, where: str) -> list[Step]:
    return torch_networks.linear_layers(theirs, D, theirs.inverse)


def _reverse(theirs: Any, D: int, where: str) -> list[Step]:
    if named(theirs.flow) in ("LULinearPermute", "InvertibleAffine"):
        return _matrix(theirs, D, where)
    return turned_around(_steps(theirs.flow, D, where), where)


def _composite(theirs: Any, D: int, where: str) -> list[Step]:
    return [step for part in reversed(theirs._flows) for step in _steps(part, D, where)]


def _constants(theirs: Any, D: int, where: str) -> list[Step]:
    s, t = array(theirs.s).reshape(-1), array(theirs.t).reshape(-1)
    return [(ActNorm(D), {"m": t, "s": s})]


def _act_norm(theirs: Any, D: int, where: str) -> list[Step]:
    if not array(theirs.data_dep_init_done).all():
        raise ValueError(f"{where}: has not seen data yet; give its flow a batch of them first")
    return _constants(theirs, D, where)


STEPS: dict[str, Callable[[Any, int, str], list[Step]]] = {
    "MaskedAffineAutoregressive": _masked_affine,
    "AutoregressiveRationalQuadraticSpline": _masked_spline,
    "CoupledRationalQuadraticSpline": _spline_coupling,
    "AffineCouplingBlock": _affine_coupling,
    "MaskedAffineFlow": _masked_coupling,
    "InvertibleAffine": _matrix,
    "Reverse": _reverse,
    "Composite": _composite,
    "Permute": _permute,
    "LULinearPermute": _lu_permute,
    "ActNorm": _act_norm,
    "AffineConstFlow": _constants,
}
"""What becomes of each flow."""


# ---- proof ---------------------------------------------------------------------------------------


def _prove(theirs: Any, ours: Flow) -> None:
    """Compare both directions with theirs, in evaluation."""
    import torch

    def tensors(values: np.ndarray, context: np.ndarray | None) -> list:
        return [torch.from_numpy(part) for part in (values, context) if part is not None]

    def log_prob(x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        return array(theirs.log_prob(*tensors(x, context)))

    def generate(u: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        z, *rest = tensors(u, context)
        return array(theirs.forward(theirs.q0.loc + theirs.q0.log_scale.exp() * z, *rest))

    with in_evaluation(theirs):
        compare(ours, log_prob, generate, "normflows")
