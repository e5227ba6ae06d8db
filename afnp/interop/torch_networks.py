r"""The networks that nflows and normflows share, with their parameters, as ours.

.. math:: W^{(l)} \to P_{l+1}\, (M^{(l)} \odot W^{(l)})\, P_l^\top

Both have the MADE and the residual network of Neural Spline Flows (arXiv 1906.04032). Degrees of
hidden units are dealt out in a circle, 1, 2, ..., D - 1, 1, 2, ...; P sorts the units of a layer by
degree, and every mask becomes a staircase (:mod:`afnp.networks.masks`).

A residual network of theirs ends linear, without activation before its last layer.

Letters: D features, C context inputs, H hidden units, K params a feature.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from afnp.interop.doors import Step, in_evaluation
from afnp.networks import AddedMLP, GatedMaskedMLP, MaskedMLP, Network
from afnp.networks.layers import ACTIVATIONS
from afnp.transforms import ActNorm, Autoregressive, Coupling, LULinear
from afnp.univariate import RationalQuadratic

__all__ = [
    "Read",
    "activation",
    "array",
    "coupling",
    "dense_coupling",
    "linear_layers",
    "lu_layers",
    "masked",
    "named",
    "spline_of",
]


Pair = tuple[np.ndarray, np.ndarray]
"""W and b of a linear layer."""


class Read(NamedTuple):
    """A univariate, and its params from theirs: h_k = scale_k · theirs[places_k] + shift_k."""

    univariate: Any
    places: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    blocks: bool = False
    """Whether theirs come param by param, not feature by feature."""

    @classmethod
    def of(cls, univariate, places, scale=1.0, shift=0.0, blocks=False) -> Read:
        """Return one with constants repeated for every param."""
        K = univariate.numbers
        return cls(
            univariate,
            np.asarray(places),
            np.broadcast_to(scale, K),
            np.broadcast_to(shift, K),
            blocks,
        )

    def rows(self, W: np.ndarray, b: np.ndarray, order: np.ndarray) -> dict[str, np.ndarray]:
        """Return the last layer's W and b with rows by feature in this order, then by param."""
        D, K = len(order), self.univariate.numbers
        theirs = np.arange(D * K).reshape((K, D)).T if self.blocks else np.arange(D * K)
        rows = theirs.reshape(D, K)[order][:, self.places].ravel()
        scale, shift = np.tile(self.scale, D), np.tile(self.shift, D)
        return {"W": W[rows] * scale[:, None], "b": b[rows] * scale + shift}


def array(tensor: Any) -> np.ndarray:
    """Return a tensor's numbers."""
    return tensor.detach().cpu().numpy()


def named(part: Any) -> str:
    """Return the name of a part's class."""
    return type(part).__name__


def lu_layers(theirs: Any) -> list[Step]:
    """Return u = L U x + bias: the triangles, then the bias where there is one."""
    D, diagonal = theirs.features, array(theirs.upper_diag)
    arrays = {
        "L": array(theirs.lower_entries),
        "N": array(theirs.upper_entries),
        "s": np.log(diagonal),
    }
    bias = array(theirs.bias)
    shift = [(ActNorm(D), {"m": -bias, "s": np.zeros_like(bias)})] if bias.any() else []
    return [(LULinear(D), arrays), *shift]


def linear_layers(theirs: Any, features: int, function: Callable) -> list[Step]:
    """Return u = W x + b as a function of a module does it: the triangles of W, then b."""
    import torch

    dtype = next(iter(theirs.parameters())).dtype
    with in_evaluation(theirs):
        shift = array(function(torch.zeros(1, features, dtype=dtype))[0])[0]
        W = array(function(torch.eye(features, dtype=dtype))[0]) - shift
    moved = [(ActNorm(features), {"m": -shift, "s": np.zeros_like(shift)})]
    return [(LULinear.of(W.T), {}), *(moved if shift.any() else [])]


def spline_of(theirs: Any, width: int | None, where: str, bins: int | None = None) -> Read:
    """Return the rational-quadratic spline of a layer, which says its number of bins itself or not.

    Widths and heights are divided by the square root of a network's width, where it has one; theirs
    is softplus, ours softplus shifted so that 0 gives slope 1.
    """
    if theirs.tails != "linear":
        raise ValueError(f"{where}: cannot import a spline with tails={theirs.tails!r}")
    if np.ndim(theirs.tail_bound):
        raise ValueError(f"{where}: cannot import a spline with a bound for each feature")
    n, least = theirs.num_bins if bins is None else bins, theirs.min_derivative
    tau = RationalQuadratic(
        n, float(theirs.tail_bound), theirs.min_bin_width, theirs.min_bin_height, least
    )
    narrowed = 1.0 if width is None else width**-0.5
    scale = np.repeat([narrowed, 1.0], [2 * n, n - 1])
    shift = np.repeat([0.0, -np.log(np.expm1(1 - least))], [2 * n, n - 1])
    return Read.of(tau, np.arange(3 * n - 1), scale, shift)


def activation(function: Any, where: str) -> str:
    """Return the name of an activation, a function or a module."""
    name = getattr(function, "__name__", named(function)).lower()
    if name not in ACTIVATIONS or getattr(function, "alpha", 1.0) != 1:
        raise ValueError(f"{where}: cannot import a network with the activation {name}")
    return name


def _check_blocks(blocks: Any, where: str) -> None:
    if not len(blocks):
        raise ValueError(f"{where}: cannot import a network without blocks")


# ---- BatchNorm inside networks: in evaluation a scale and a shift --------------------------------


def _normalized(blocks: Any) -> bool:
    return any(named(part) == "BatchNorm1d" for block in blocks for part in block.modules())


def _scale_and_shift(norm: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return s and t of what BatchNorm1d does in evaluation, s x + t."""
    s = array(norm.weight) / np.sqrt(array(norm.running_var) + norm.eps)
    return s, array(norm.bias) - s * array(norm.running_mean)


def _feedforward(block: Any, weight: Pair) -> Pair:
    """Return the linear layer of a block, W (s x + t) + b."""
    if block.batch_norm is None:
        return weight
    (s, t), (W, b) = _scale_and_shift(block.batch_norm), weight
    return W * s, b + W @ t


def _widened(blocks: Any, weights: list[Pair]) -> list[Pair]:
    r"""Return a residual network with BatchNorm as one without it, on a wider stream.

    .. math:: z \;\to\; (z,\; s_1 z + t_1,\; \dots,\; s_B z + t_B)

    Block k reads the k-th part where it read BatchNorm of the stream, and what it adds to the
    stream it adds to every part, scaled. BatchNorm between its two layers goes into the first.
    """
    norms = [_scale_and_shift(block.batch_norm_layers[0]) for block in blocks]
    one = np.ones_like(norms[0][0])
    scales = np.concatenate([one, *(s for s, _ in norms)])
    shifts = np.concatenate([0 * one, *(t for _, t in norms)])
    copies, H = len(blocks) + 1, len(one)
    idle = (copies - 1) * H  # inside a block as many units as there are in the stream

    def to_stream(weight: Pair, begin: np.ndarray | float) -> Pair:
        W, b = weight
        return np.tile(W, (copies, 1)) * scales[:, None], np.tile(b, copies) * scales + begin

    first, *inside, (W_last, b_last) = weights
    wide = [to_stream(first, shifts)]
    for k, block in enumerate(blocks):
        (s, t), (W, b) = _scale_and_shift(block.batch_norm_layers[1]), inside[2 * k]
        reads = np.zeros((copies * H, copies * H), W.dtype)
        reads[:H, (k + 1) * H : (k + 2) * H] = W * s[:, None]
        wide.append((reads, np.pad(b * s + t, (0, idle))))
        V, c = to_stream(inside[2 * k + 1], 0.0)
        wide.append((np.pad(V, ((0, 0), (0, idle))), c))
    return [*wide, (np.pad(W_last, ((0, 0), (0, idle))), b_last)]


# ---- masked --------------------------------------------------------------------------------------


def masked(made: Any, read: Read, where: str, activated: bool) -> tuple[Autoregressive, dict]:
    """Return a MADE as an autoregressive layer, and its arrays by name.

    Parameters
    ----------
    made : MADE of nflows or normflows
    read : Read
        Its univariate.
    where : str
        For messages.
    activated : bool
        Whether the context goes through the activation before it is added in the first layer, and
        is added in the blocks (nflows); else it closes the blocks as a gate (normflows).
    """
    _check_blocks(made.blocks, where)
    parts, K = dict(made.named_children()), read.univariate.numbers
    if named(parts.get("preprocessing", parts["blocks"])) not in ("Identity", "ModuleList"):
        raise ValueError(f"{where}: cannot import a network with {named(parts['preprocessing'])}")
    residual = any(named(block) == "MaskedResidualBlock" for block in made.blocks)
    linears = [made.initial_layer]
    for block in made.blocks:
        linears += block.linear_layers if residual else [block.linear]
    linears.append(made.final_layer)

    order = np.argsort(array(made.final_layer.degrees)[::K], kind="stable")
    D, C = len(order), parts["context_layer"].in_features if "context_layer" in parts else 0
    degrees = [array(linear.degrees) for linear in linears[:-1]]
    weights = [_masked_weight(linear) for linear in linears]
    if not residual:
        weights[1:-1] = map(_feedforward, made.blocks, weights[1:-1])
    elif _normalized(made.blocks):
        if "context_layer" in parts:
            raise ValueError(
                f"{where}: cannot import a MADE with BatchNorm1d in residual blocks with context"
            )
        weights = _widened(made.blocks, weights)
        degrees = [np.tile(units, 1 + len(made.blocks)) for units in degrees]
    ours = [np.argsort(units, kind="stable") for units in degrees]
    if not residual and not activated:  # nothing between the first two layers
        weights[:2] = [_product(weights[1], weights[0])]
        degrees, ours = degrees[1:], ours[1:]
    arrays = _sorted(weights, [order, *ours], read, order)
    if C and activated:
        arrays |= _beside(0, made.context_layer, ours[0])
    elif C:
        V, v = array(made.context_layer.weight), array(made.context_layer.bias)
        arrays["W0"] = np.concatenate([V[ours[0]], arrays["W0"]], axis=1)
        arrays["b0"] = arrays["b0"] + v[ours[0]]
    if C and residual:
        for k, block in enumerate(made.blocks):
            l = 2 * k + 1 if activated else 2 * k + 2
            arrays |= _beside(l, block.context_layer, ours[l])
    net = _network(
        D,
        read.univariate.numbers,
        [units[rows].tolist() for units, rows in zip(degrees, ours, strict=True)],
        C,
        activation(_activation_of(made), where),
        residual,
        activated,
    )
    return Autoregressive(net, read.univariate, order), arrays


def _activation_of(net: Any) -> Any:
    return net.blocks[0].activation


def _masked_weight(linear: Any) -> Pair:
    return array(linear.weight) * array(linear.mask), array(linear.bias)


def _product(second: Pair, first: Pair) -> Pair:
    """Return the linear layer that two in a row are."""
    (W1, b1), (W0, b0) = second, first
    return W1 @ W0, W1 @ b0 + b1


def _sorted(weights: list, ours: list, read: Read, order: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of all layers with their units in our order."""
    arrays: dict[str, np.ndarray] = {}
    for l, (W, b) in enumerate(weights[:-1]):
        rows = ours[l + 1]
        arrays |= {f"W{l}": W[np.ix_(rows, ours[l])], f"b{l}": b[rows]}
    last, (W, b) = len(weights) - 1, weights[-1]
    rows_of = read.rows(W[:, ours[-1]], b, order)
    return arrays | {f"{name}{last}": values for name, values in rows_of.items()}


def _beside(l: int, linear: Any, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return a context layer's arrays, as those beside layer l."""
    return {f"V{l}": array(linear.weight)[rows], f"v{l}": array(linear.bias)[rows]}


def _network(D, K, degrees, C, phi, residual, activated) -> Network:
    """Return the network of these units."""
    widths = [len(units) for units in degrees]
    if C and activated:
        return AddedMLP(D, K, widths, C, phi, residual, degrees, linear_end=residual)
    if C and residual:
        return GatedMaskedMLP(D, K, widths, C, phi, degrees, linear_end=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what a narrow network loses, it lost there
        end = {"degrees": degrees, "linear_end": residual}
        return MaskedMLP(D, K, widths, C, phi, residual, **end)


# ---- dense: couplings ----------------------------------------------------------------------------


def coupling(theirs: Any, read: Read, where: str, dense: Callable) -> tuple[Coupling, dict]:
    """Return a coupling, and its arrays by name.

    Parameters
    ----------
    theirs : coupling of nflows or normflows
    read : Read
        Its univariate.
    where : str
        For messages.
    dense : function of a network and ``where``
        Returns ``(linears, activation, context)`` of networks that are not residual.
    """
    passing = np.zeros(theirs.features, dtype=bool)
    passing[array(theirs.identity_features)] = True
    net = theirs.transform_net
    if named(net) != "ResidualNet":
        linears, phi, C = dense(net, where)
        return dense_coupling(passing, linears, read, C, phi, residual=False)
    _check_blocks(net.blocks, where)
    if vars(net).get("preprocessing") or "preprocessing" in dict(net.named_children()):
        raise ValueError(f"{where}: cannot import a network with preprocessing")
    linears = [net.initial_layer]
    for block in net.blocks:
        linears += block.linear_layers
    linears.append(net.final_layer)
    weights = [(array(linear.weight), array(linear.bias)) for linear in linears]
    if _normalized(net.blocks):
        weights = _widened(net.blocks, weights)
    C = net.context_features or 0
    phi = activation(_activation_of(net), where)
    layer, arrays = dense_coupling(passing, weights, read, C, phi, residual=True)
    if C:
        for k, block in enumerate(net.blocks):
            rows = np.arange(len(weights[0][0])) % net.hidden_features  # widened: over again
            arrays |= _beside(2 * k + 2, block.context_layer, rows)
    return layer, arrays


def dense_coupling(passing, weights, read: Read, C: int, phi: str, residual: bool) -> tuple:
    """Return a coupling of linear layers, pairs of W and b, and its arrays by name.

    Theirs read x before the context. ``passing`` is (D,) bool.
    """
    A = int(passing.sum())
    hidden = [len(b) for _, b in weights[:-1]]
    columns = np.concatenate([A + np.arange(C), np.arange(A)])
    first = weights[0][0][:, columns], weights[0][1]
    units = [np.arange(width) for width in hidden]
    changed = np.arange(len(passing) - A)
    arrays = _sorted([first, *weights[1:]], [np.arange(A + C), *units], read, changed)
    layer = Coupling(
        len(passing),
        hidden,
        passing,
        read.univariate,
        context=C,
        activation=phi,
        residual=residual,
        gated=bool(C and residual),
        linear_end=residual,
    )
    return layer, arrays
