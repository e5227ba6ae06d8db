r"""Flows of zuko, in and out with their parameters: the same density, and samples by substitution.

.. math:: u = f_T \circ \dots \circ f_1(x), \qquad f_t \text{ theirs, read by us}

Their masked networks are sorted by degree (:mod:`afnp.interop.sorting`), whatever the order, the
number of passes or the adjacency that they were made with. A residual network of theirs adds to a
stream z without an activation in front, and ours with one; since

.. math:: z = \mathrm{relu}(z) - \mathrm{relu}(-z)

ours, with both z and -z in its stream, is the same function at twice the width.

Letters: N rows, D features, C context inputs, K params a feature.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from afnp.bases import Base, StandardNormal, UniformTorus
from afnp.flow import Flow
from afnp.interop import proof
from afnp.interop.doors import Step, assembled, expect
from afnp.interop.sorting import Linear, Network, generation_order, masked_layer
from afnp.networks import MaskedMLP, masks
from afnp.transforms import (
    Autoregressive,
    Coupling,
    Inverse,
    LULinear,
    Permutation,
    Standardize,
    Transform,
)
from afnp.univariate import Additive, Affine, ClippedAffine, ClippedCircle, ClippedSpline

__all__ = [
    "from_zuko",
    "functions",
    "noise_of",
    "read",
    "shift_and_scale",
    "to_zuko",
]

ACTIVATIONS = {"ReLU": "relu", "Tanh": "tanh", "ELU": "elu"}


def from_zuko(flow: Any, prove: bool = True) -> Flow:
    """Return zuko's flow as one of ours.

    Parameters
    ----------
    flow : zuko.flows.MAF, NSF, NCSF, NICE, RealNVP, or another zuko.lazy.Flow
        Of masked, coupling and elementwise transforms with affine maps, shifts or splines; of
        permutations, rotations, LU-parameterised and elementwise affine maps between them; in any
        order, with any number of passes, with or without context; of activations ReLU, Tanh and
        ELU, and residual networks of ReLU.
    prove : bool
        Compare log-densities and samples of 64 rows with zuko's.

    Raises
    ------
    ValueError
        If a part of the flow cannot be imported: it is named.
    ArithmeticError
        If the two compute something else.
    """
    expect(flow, "zuko", "Flow")
    ours = read(flow)
    if prove:
        proof.prove(ours, *functions(flow), "zuko")
    return ours


def read(flow: Any) -> Flow:
    """Return zuko's flow as one of ours, without proof."""
    base = flow.base()
    imported = _layers(flow.transform, base)
    return assembled(imported, _dtype(flow), _noise(base)[2])


def functions(flow: Any) -> tuple[Callable, Callable]:
    """Return zuko's log-density of (x, context), and its data of (noise, context), over arrays."""
    import torch

    def given(context: np.ndarray | None) -> Any:
        return flow(None if context is None else torch.from_numpy(context))

    @torch.no_grad()
    def log_prob(x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        return given(context).log_prob(torch.from_numpy(x)).numpy()

    @torch.no_grad()
    def generate(u: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        return given(context).transform.inv(noise_of(flow, u)).numpy()

    return log_prob, generate


def noise_of(flow: Any, u: np.ndarray) -> Any:
    """Return the noise of zuko's flow, a tensor, that is noise u (N, D) of ours."""
    import torch

    mean, std, _ = _noise(flow.base())
    return torch.from_numpy((mean + std * u).astype(u.dtype))


def _layers(transform: Any, base: Any) -> list[Step]:
    """Return a lazy transform's layers with their arrays, and what makes the noise standard."""
    mean, std, _ = _noise(base)
    steps = enumerate(_steps(transform))
    imported = [_layer(step, len(mean), turned, f"transform {k}") for k, (step, turned) in steps]
    if mean.any() or (std != 1).any():
        imported.append((Standardize(mean, std), {}))
    return imported


def _noise(base: Any) -> tuple[np.ndarray, np.ndarray, type[Base]]:
    """Return mean and standard deviation (D,) by which a base of ours becomes theirs, and ours."""
    kind = type(base).__name__
    if kind not in ("DiagNormal", "BoxUniform"):
        raise ValueError(f"base: cannot import a {kind}")
    parts = base.base_dist
    if kind == "DiagNormal":
        return _wide(parts.loc), _wide(parts.scale), StandardNormal
    low, high = _wide(parts.low), _wide(parts.high)
    return (low + high) / 2, (high - low) / (2 * np.pi), UniformTorus


def _wide(tensor: Any) -> np.ndarray:
    return _array(tensor).astype(np.float64)


def _steps(transform: Any, turned: bool = False) -> list[tuple[Any, bool]]:
    """Return what is composed, in turn, and whether each runs from the noise to the data."""
    kind = type(transform).__name__
    if kind == "LazyInverse":
        return _steps(transform.transform, not turned)
    if kind == "LazyComposedTransform":
        parts = [_steps(part, turned) for part in transform.transforms]
        return [step for part in (reversed(parts) if turned else parts) for step in part]
    return [(transform, turned)]


# ---- layers --------------------------------------------------------------------------------------


def _layer(transform: Any, features: int, turned: bool, where: str) -> Step:
    """Return one transform as a layer, and its arrays by name."""
    kind = type(transform).__name__
    if kind == "UnconditionalTransform":
        return _unconditional(transform, features, turned, where)
    makers = {
        "MaskedAutoregressiveTransform": _masked,
        "ElementWiseTransform": _elementwise,
        "GeneralCouplingTransform": _coupling,
    }
    if kind not in makers:
        raise ValueError(f"{where}: cannot import a {kind}")
    layer, arrays = makers[kind](transform, where)
    if not turned:
        return layer, arrays
    if not isinstance(layer, Autoregressive):
        raise ValueError(f"{where}: cannot import an inverse of a {kind}")
    return Inverse(layer), arrays


def _masked(transform: Any, where: str) -> Step:
    network = _network(transform.hyper, where)
    univariate, signs = _univariate(transform, where)
    features = len(network.linears[-1].b) // univariate.numbers
    if transform.order is None:
        order = generation_order(network, features)
    else:
        order = np.argsort(transform.order.cpu().numpy(), kind="stable")
    return masked_layer(_signed(network, signs), univariate, order)


def _elementwise(transform: Any, where: str) -> Step:
    """Return a masked transform whose params depend on the context alone."""
    univariate, signs = _univariate(transform, where)
    K = univariate.numbers
    if "hyper" in dict(transform.named_children()):
        linears, activation = _dense(transform.hyper, where)
        D = len(linears[-1].b) // K
        W, b, mask = linears[0]
        unread = np.zeros((len(W), D), dtype=W.dtype)
        linears[0] = Linear(np.hstack([unread, W]), b, np.hstack([unread > 0, mask]))
    else:
        phi = [_array(values) for values in transform.phi]
        b = np.concatenate([values.reshape(len(values), -1) for values in phi], axis=1)
        D, activation = len(b), "relu"
        unread = np.zeros((D * K, D), dtype=b.dtype)
        linears = [Linear(unread, b.ravel(), unread > 0)]
    network = _signed(Network(linears, activation), signs)
    return masked_layer(network, univariate, np.arange(D))


def _coupling(transform: Any, where: str) -> Step:
    linears, activation = _dense(transform.hyper, where)
    univariate, signs = _univariate(transform, where)
    passing = transform.mask.cpu().numpy().astype(bool)
    A = int(passing.sum())
    C = linears[0].W.shape[1] - A
    arrays: dict[str, np.ndarray] = {}
    for l, (W, b, _) in enumerate(_signed(Network(linears), signs).linears):
        if l == 0:  # the context comes first here
            W = np.roll(W, C, axis=1)
        arrays |= {f"W{l}": W, f"b{l}": b}
    hidden = [len(linear.b) for linear in linears[:-1]]
    layer = Coupling(len(passing), hidden, passing, univariate, context=C, activation=activation)
    return layer, arrays


def _unconditional(transform: Any, features: int, turned: bool, where: str) -> Step:
    """Return a transform that no network steers."""
    values = transform.forward()
    kind = type(values).__name__
    if kind == "PermutationTransform":
        order = values.order.cpu().numpy()
        return Permutation(np.argsort(order) if turned else order), {}
    if kind in ("RotationTransform", "LULinearTransform"):
        W = _array(values.R if kind == "RotationTransform" else values.L @ values.U)
        return LULinear.of(np.linalg.inv(W.astype(np.float64)) if turned else W), {}
    s, t = (np.broadcast_to(_array(part), features) for part in _scale_and_shift(values, where))
    s, t = s.astype(np.float64), t.astype(np.float64)
    return Standardize(t, s) if turned else Standardize(-t / s, 1 / s), {}


def _scale_and_shift(values: Any, where: str) -> tuple[Any, Any]:
    """Return s and t of y = s x + t."""
    kind = type(values).__name__
    if kind == "AffineTransform":
        return values.scale, values.loc
    if kind == "MonotonicAffineTransform":
        return values.scale, values.shift
    raise ValueError(f"{where}: cannot import a {kind}")


# ---- networks ------------------------------------------------------------------------------------


def _network(hyper: Any, where: str) -> Network:
    """Return a masked network, residual or not."""
    parts = list(hyper)
    if any(type(part).__name__ == "Residual" for part in parts):
        return _residual(parts, where)
    linears, activation = _parts(parts, "MaskedLinear", where)
    return Network(linears, activation)


def _dense(hyper: Any, where: str) -> tuple[list[Linear], str]:
    """Return the linear maps of a network without masks, and its activation."""
    return _parts(list(hyper), "Linear", where)


def _parts(parts: list, kind: str, where: str) -> tuple[list[Linear], str]:
    """Return linear maps of a kind and the one activation between them."""
    linears, activations = [], set()
    for part in parts:
        name = type(part).__name__
        if name == kind:
            linears.append(_linear(part))
        elif name in ACTIVATIONS and vars(part).get("alpha", 1.0) == 1:
            activations.add(ACTIVATIONS[name])
        else:
            raise ValueError(f"{where}: cannot import a network with {name}")
    if len(activations) > 1:
        raise ValueError(f"{where}: cannot import a network with several activations")
    return linears, activations.pop() if activations else "relu"


def _linear(part: Any) -> Linear:
    W = _array(part.weight)
    b = np.zeros(len(W), W.dtype) if part.bias is None else _array(part.bias)
    masked = type(part).__name__ == "MaskedLinear"
    return Linear(W, b, part.mask.cpu().numpy().astype(bool) if masked else np.ones(W.shape, bool))


def _residual(parts: list, where: str) -> Network:
    """Return a network of residual blocks with both signs of the stream."""
    first, *blocks, last = parts
    for block in blocks:
        name = type(block).__name__
        if name != "Residual":
            raise ValueError(f"{where}: cannot import residual blocks of several widths, {name}")
    stream = [_linear(first)]
    for block in blocks:
        linears, activation = _parts(list(block), "MaskedLinear", where)
        if activation != "relu":
            raise ValueError(
                f"{where}: cannot import residual blocks with {type(block[1]).__name__}"
            )
        stream += linears
    return Network(_both_signs([*stream, _linear(last)]), "relu", residual=True)


def _both_signs(linears: list[Linear]) -> list[Linear]:
    """Return linear maps over a stream (z, -z), of which activations keep everything."""
    first, *blocks, last = linears
    doubled = [_to_both(first)]
    for inner, outer in zip(blocks[::2], blocks[1::2], strict=True):
        W, b, mask = (np.concatenate([part, np.zeros_like(part)]) for part in _of_both(inner))
        doubled.append(Linear(W, b, mask))  # as wide as the stream, half of it idle
        W, b, mask = _to_both(outer)
        doubled.append(Linear(*map(_beside_nothing, (W, b, mask))))
    return [*doubled, _of_both(last)]


def _to_both(linear: Linear) -> Linear:
    """Return a map to (y, -y)."""
    W, b, mask = linear
    return Linear(np.vstack([W, -W]), np.hstack([b, -b]), np.vstack([mask, mask]))


def _of_both(linear: Linear) -> Linear:
    """Return a map of (relu(z), relu(-z)) that is the given map of z."""
    W, b, mask = linear
    return Linear(np.hstack([W, -W]), b, np.hstack([mask, mask]))


def _beside_nothing(part: np.ndarray) -> np.ndarray:
    """Return a matrix with as many columns of zeros beside it; a vector as it is."""
    return part if part.ndim == 1 else np.hstack([part, np.zeros_like(part)])


def _signed(network: Network, signs: np.ndarray) -> Network:
    """Return a network whose params, K a feature, have been multiplied by signs (K,)."""
    W, b, mask = network.linears[-1]
    repeated = np.tile(signs, len(b) // len(signs)).astype(W.dtype)
    last = Linear(W * repeated[:, None], b * repeated, mask)
    return network._replace(linears=[*network.linears[:-1], last])


# ---- univariates ---------------------------------------------------------------------------------


def _univariate(transform: Any, where: str) -> tuple[Any, np.ndarray]:
    """Return the univariate that zuko's constructor makes, and the signs of its params."""
    maker: Any = transform.univariate
    options: dict = {}
    if isinstance(maker, functools.partial):
        maker, options = maker.func, maker.keywords
    if maker is shift_and_scale:  # written by to_zuko
        return Affine(**options), np.ones(2)
    named = isinstance(maker, (type, types.FunctionType))
    name = maker.__name__ if named else type(maker).__name__
    slope = options.get("slope", 1e-3)
    if name == "AdditiveTransform":
        return Additive(), np.array([-1])
    if name == "MonotonicAffineTransform":
        return ClippedAffine(limit=-float(np.log(slope))), np.ones(2)
    bins = transform.shapes[0][0] if transform.shapes[0] else 0
    if name == "CircularRQSTransform":
        return ClippedCircle(bins, slope), np.ones(3 * bins - 1)
    if name == "MonotonicRQSTransform":
        return ClippedSpline(bins, options.get("bound", 5.0), slope), np.ones(3 * bins - 1)
    raise ValueError(f"{where}: cannot import the univariate {name}")


def _dtype(flow: Any) -> np.dtype:
    """Return the type of its first tensor of numbers that are not whole."""
    tensors = flow.state_dict().values()
    return _array(next(tensor for tensor in tensors if tensor.is_floating_point())).dtype


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy()


# ---- back again ----------------------------------------------------------------------------------


def to_zuko(flow: Flow, prove: bool = True) -> Any:
    """Return a masked flow of ours as one of zuko, in its precision.

    Parameters
    ----------
    flow : Flow
        Of masked networks without residual blocks, autoregressive or inverse, with affine maps of
        any scale, shifts, or what came from zuko; of permutations and standardisations between
        them; with or without context, over normal noise.
    prove : bool
        Compare log-densities and samples of 64 rows with zuko's.

    Returns
    -------
    zuko.flows.Flow

    Raises
    ------
    ValueError
        If a part of the flow cannot be exported: it is named.
    ArithmeticError
        If the two compute something else.
    ImportError
        If zuko or torch is not installed.
    """
    try:
        import torch
        import zuko
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"to_zuko needs {missing.name}, which is not installed: pip install 'afnp[zuko]'"
        ) from missing

    if type(flow.base) is not StandardNormal:
        raise ValueError(f"base: cannot export a {type(flow.base).__name__}")
    mean, std = flow.config().get("context_scale", (0.0, 1.0))
    units = np.broadcast_to(mean, flow.context), np.broadcast_to(std, flow.context)
    transforms = [
        _exported(layer, p, units, f"layer {k}")
        for k, (layer, p) in enumerate(zip(flow.layers, flow.own, strict=True))
    ]
    zero = torch.zeros(flow.features)
    base = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, zero, zero + 1, buffer=True
    )
    kind = torch.float64 if flow.dtype == np.float64 else torch.float32
    theirs = zuko.flows.Flow(transforms, base).to(kind)
    if prove:
        proof.prove(flow, *functions(theirs), "zuko")
    return theirs


def _exported(layer: Transform, p: Any, units: tuple, where: str) -> Any:
    """Return a layer with parameters p as a lazy transform."""
    import torch
    import zuko

    if isinstance(layer, Inverse):
        return _exported(layer.transform, p, units, where).inv
    if type(layer) is Autoregressive:
        return _exported_network(layer, p, units, where)
    if isinstance(layer, Permutation):
        order = torch.from_numpy(layer.order)
        return zuko.lazy.UnconditionalTransform(
            zuko.transforms.PermutationTransform, order, buffer=True
        )
    if isinstance(layer, Standardize):
        shift, scale = map(torch.from_numpy, (-layer.mean / layer.std, 1 / layer.std))
        affine = torch.distributions.AffineTransform
        return zuko.lazy.UnconditionalTransform(affine, shift, scale, event_dim=1, buffer=True)
    raise ValueError(f"{where}: cannot export a {type(layer).__name__}")


def _exported_network(layer: Autoregressive, p: Any, units: tuple, where: str) -> Any:
    import torch
    import zuko

    net = layer.conditioner
    if type(net) is not MaskedMLP or net.residual or net.periodic:
        kind = "residual MaskedMLP" if type(net) is MaskedMLP else type(net).__name__
        raise ValueError(f"{where}: cannot export a {kind}")
    univariate, shapes, signs = _exported_univariate(layer.univariate, where)
    D, C, K = net.features, net.context, net.numbers
    if D == 1:
        raise ValueError(f"{where}: cannot export a network of one feature")
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    activation = getattr(torch.nn, names[net.activation])
    transform = zuko.flows.MaskedAutoregressiveTransform(
        D,
        C,
        order=torch.from_numpy(layer.rank),
        univariate=univariate,
        shapes=shapes,
        hidden_features=net.hidden,
        activation=activation,
    )
    columns = np.concatenate([D + np.arange(C), layer.order])
    outputs = (layer.order[:, None] * K + np.arange(K)).ravel()
    parts = [part for part in transform.hyper if type(part).__name__ == "MaskedLinear"]
    for l, (part, linear) in enumerate(zip(parts, net.linears, strict=True)):
        mask = masks.mask(linear.prefix, p[linear.W].shape[1])
        W, b = p[linear.W] * mask, p[linear.b].copy()
        if l == 0:  # contexts in their own units
            W[:, :C] /= units[1]
            b -= W[:, :C] @ units[0]
        if part is parts[-1]:
            W, b = W * np.tile(signs, D)[:, None], b * np.tile(signs, D)
        rows = outputs if part is parts[-1] else np.arange(len(b))
        _write(part, *(_placed(values, rows, columns) for values in (W, b, mask)))
        columns = np.arange(len(b))
    return transform


def _placed(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return an array with row r at rows[r], and column c at columns[c] if it has columns."""
    placed = np.empty_like(values)
    placed[rows if values.ndim == 1 else np.ix_(rows, columns)] = values
    return placed


def _write(part: Any, W: np.ndarray, b: np.ndarray, mask: np.ndarray) -> None:
    """Write a masked linear map's arrays."""
    import torch

    part.weight = torch.nn.Parameter(torch.from_numpy(W))
    part.bias = torch.nn.Parameter(torch.from_numpy(b))
    part.mask = torch.from_numpy(mask)


def _exported_univariate(univariate: Any, where: str) -> tuple[Callable, list[tuple], np.ndarray]:
    """Return what makes zuko's univariate of its params, their shapes, and their signs."""
    import zuko

    theirs, options = zuko.transforms, univariate.config()
    if type(univariate) is Affine:
        return functools.partial(shift_and_scale, **options), [(), ()], np.ones(2)
    if type(univariate) is Additive:
        return theirs.AdditiveTransform, [()], -np.ones(1)
    if type(univariate) is ClippedAffine:
        slope = float(np.exp(-univariate.limit))
        affine = functools.partial(theirs.MonotonicAffineTransform, slope=slope)
        return affine, [(), ()], np.ones(2)
    if type(univariate) is ClippedSpline:
        n = options.pop("bins")
        spline = functools.partial(theirs.MonotonicRQSTransform, **options)
        return spline, [(n,), (n,), (n - 1,)], np.ones(3 * n - 1)
    raise ValueError(f"{where}: cannot export the univariate {type(univariate).__name__}")


def shift_and_scale(m: Any, a: Any, bound: float, scale: str) -> Any:
    r"""Return :math:`u = (x - \mu) e^{-\alpha}` of tensors, as :class:`afnp.univariate.Affine`."""
    import torch
    from torch.nn.functional import logsigmoid, softplus

    alphas: dict[str, Callable] = {
        "tanh": lambda: bound * torch.tanh(a / bound),
        "exp": lambda: a,
        "softplus": lambda: torch.log(softplus(a + np.log(np.expm1(1.0)))),
        "sigmoid": lambda: logsigmoid(a + 2),
    }
    alpha = alphas[scale]()
    mu = m * torch.sigmoid(-a - 2) if scale == "sigmoid" else m
    narrowed = torch.exp(-alpha)
    return torch.distributions.AffineTransform(-mu * narrowed, narrowed)
