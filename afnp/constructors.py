r"""Constructors: whole flows from a few numbers.

.. math:: x \to f_1 \to g_1 \to f_2 \to \dots \to f_T \to u \sim p_{\mathrm{base}}

f are transforms with networks, g what stands ``between`` them. All constructors share one
signature: ``features, hidden=, transforms=, context=, seed=, dtype=, activation=, residual=,
preprocess=, options=, between=, base=`` mean the same everywhere, and are explained at :func:`maf`.

================  ======================================  ==================  ==================
constructor       transform                               density             sampling
================  ======================================  ==================  ==================
``made``          one autoregressive transform            one pass            substitution
``maf``           autoregressive, affine                  a pass a transform  substitution
``iaf``           its inverse                             substitution        a pass a transform
``realnvp``       coupling, affine                        a pass a transform  a pass a transform
``nice``          coupling, additive                      a pass a transform  a pass a transform
``nsf``           autoregressive or coupling, splines     as above            as above
``maf_mog``       autoregressive, the last of mixtures    a pass a transform  substitution
``tarflow``       causal transformers, token by token     a pass a transform  keys are kept
``wavenet_flow``  causal convolutions, step by step       a pass a transform  queues are kept
================  ======================================  ==================  ==================
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from functools import wraps

import numpy as np

from afnp.bases import Base, UniformTorus
from afnp.flow import Flow
from afnp.inputs import choose, flag, integer
from afnp.networks import masks
from afnp.networks.graph import names_of
from afnp.transforms import (
    ActNorm,
    BatchNorm,
    Coupling,
    Inverse,
    LULinear,
    Permutation,
    Standardize,
    attentive,
    convolutional,
    masked,
    split_of,
)
from afnp.transforms.autoregressive import checked_options
from afnp.transforms.support import of_angles

__all__ = [
    "BETWEEN",
    "iaf",
    "made",
    "maf",
    "maf_mog",
    "nice",
    "nsf",
    "realnvp",
    "tarflow",
    "wavenet_flow",
]

BETWEEN: dict[str, Callable] = {
    "actnorm": lambda features, rng: ActNorm(features),
    "batchnorm": lambda features, rng: BatchNorm(features),
    "lu": LULinear.rotation,
    "permutation": lambda features, rng: Permutation(rng.permutation(features)),
    "reverse": lambda features, rng: Permutation(masks.order_of("reverse", features)),
}
"""What may stand between transforms: made from D and a generator."""


def maf(
    features: int,
    hidden: Sequence[int] = (512, 512),
    transforms: int = 5,
    order: str | Sequence[int] | np.ndarray = "reverse",
    univariate="affine",
    context: int = 0,
    seed: int = 0,
    dtype=np.float64,
    activation: str = "relu",
    residual: bool = False,
    preprocess: Sequence | str = (),
    options: dict | None = None,
    between: str | Sequence[str] = (),
    base=None,
    structure=None,
) -> Flow:
    r"""Build a masked autoregressive flow (MAF, arXiv 1705.07057).

    Density is one network pass a transform, sampling substitution.

    Parameters
    ----------
    features : int
        D, at least 1.
    hidden : sequence of int
        Widths of each conditioner's hidden layers; below D - 1 (D with a context) some dependencies
        are lost, and a warning says how many.
    transforms : int
        How many autoregressive transforms are stacked.
    order : {"reverse", "natural", "random"} or a permutation
        Generation order. "reverse": natural, then reversed, in turn; "natural": always natural;
        "random": a new permutation for each transform; a permutation: that one, then its reverse,
        in turn.
    univariate : str or univariate
        A name in :data:`afnp.univariate.UNIVARIATES`, or an object such as
        ``afnp.univariate.RationalQuadratic(bins=16)``.
    context : int
        C, the width of the condition, 0 for none; it reaches every feature, the first too.
    seed : int
        For initial parameters and random orders.
    dtype : float64 or float32
    activation : {"relu", "tanh", "elu"}
        The third runs in NumPy alone.
    residual : bool
        Residual blocks of two layers (an odd number of equal widths).
    preprocess : sequence of transforms, or "standard"
        Fixed layers before the first transform, from
        :func:`afnp.transforms.preprocess.preprocessing`. With "standard", :func:`afnp.fit` takes
        mean and standard deviation of its training rows and contexts, and the flow keeps them.
    options : dict, optional
        Keyword arguments of the univariate, such as ``{"bins": 16}``.
    between : str or sequence of str
        What stands between two transforms, names in ``BETWEEN``: "batchnorm" as in the paper,
        "actnorm", "lu" (an invertible matrix that begins as a random rotation), "permutation"
        (random), "reverse".
    base : distribution, optional
        Of the noise, from :mod:`afnp.bases`; if left out a standard normal, for circular
        univariates the uniform distribution on the torus.
    structure : (D, D) array of bool, or a DataFrame whose index is its columns, optional
        A directed acyclic graph instead of an order: [i, j] is true where x_i may depend on x_j.
        Every transform keeps to it, and sampling takes as many steps as the graph is deep.

    Raises
    ------
    ValueError
        If an argument makes no sense; it names argument, expectation and value.

    Notes
    -----
    With a ``structure``, one transform factorises exactly as the graph does. Dependence adds up
    over a stack: with T transforms

    .. math:: p(x) = \prod_i p(x_i \mid x_j:\; j \text{ reaches } i
              \text{ in at most } T \text{ arrows})

    so that for large T each feature depends on all its *ancestors*, the graph's transitive closure,
    and two without a common ancestor, neither one the other's, stay independent. Who needs exactly
    the graph takes ``transforms=1`` and a univariate as rich as needed: splines, mixtures.

    Examples
    --------
    >>> flow = maf(4, hidden=(16, 16), transforms=2, seed=0)
    >>> x = np.zeros((2, 4))
    >>> u, log_det = flow.normalize(x)
    >>> bool(np.allclose(flow.generate(u)[0], x))
    True

    x_2 depends on x_0 and x_1, which are independent; x_3 on x_2 alone:

    >>> graph = [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]
    >>> flow = maf(4, hidden=(16, 16), transforms=1, structure=graph, seed=0)
    >>> flow.layers[0].allowed().astype(int)
    array([[1, 0, 0, 0],
           [0, 1, 0, 0],
           [1, 1, 1, 0],
           [0, 0, 1, 1]])
    >>> flow.cost.total.generate.depth
    3
    """
    return _stack(
        _in_orders,
        features,
        transforms,
        kind=masked,
        order=order,
        hidden=hidden,
        univariate=univariate,
        options=options,
        activation=activation,
        residual=residual,
        context=context,
        seed=seed,
        dtype=dtype,
        preprocess=preprocess,
        between=between,
        base=base,
        structure=structure,
    )


def made(
    features: int,
    hidden: Sequence[int] = (512, 512),
    order: str | Sequence[int] | np.ndarray = "natural",
    **kwargs,
) -> Flow:
    """Build a Gaussian MADE (arXiv 1502.03509): one autoregressive transform.

    Arguments as in :func:`maf`.

    Examples
    --------
    >>> made(3, hidden=(8,), order=[2, 0, 1]).layers[0].order
    array([2, 0, 1])
    """
    if isinstance(order, str) and order == "reverse":
        order = masks.order_of("reverse", features)
    return maf(features, hidden, transforms=1, order=order, **kwargs)


def iaf(
    features: int,
    hidden: Sequence[int] = (512, 512),
    transforms: int = 5,
    order: str | Sequence[int] | np.ndarray = "reverse",
    **kwargs,
) -> Flow:
    """Build an inverse autoregressive flow (IAF, arXiv 1606.04934).

    A MAF read the other way: sampling is fast, density substitution; arguments as in :func:`maf`.

    Examples
    --------
    >>> iaf(3, hidden=(8,), transforms=2).layers[0].cost.generate
    Work(passes=1, depth=1, multiply_adds=36)
    """
    return _stack(
        _in_orders, features, transforms, kind=_inverse, order=order, hidden=hidden, **kwargs
    )


def realnvp(
    features: int,
    hidden: Sequence[int] = (512, 512),
    transforms: int = 6,
    split: str | Sequence[bool] | np.ndarray = "alternating",
    **kwargs,
) -> Flow:
    """Build a flow of affine couplings (RealNVP, arXiv 1605.08803): one pass in both directions.

    Parameters
    ----------
    split : {"alternating", "half", "random"} or a sequence of D bools
        Which features pass through the first transform; the blocks change places with every
        transform. "random" draws new halves for every pair of transforms.
    **kwargs
        As in :func:`maf`; ``univariate`` may be any.

    Examples
    --------
    >>> flow = realnvp(4, hidden=(8,), transforms=2)
    >>> [layer.passing.astype(int).tolist() for layer in flow.layers]
    [[1, 0, 1, 0], [0, 1, 0, 1]]
    """
    return _stack(_couplings, features, transforms, split=split, hidden=hidden, **kwargs)


def nice(
    features: int,
    hidden: Sequence[int] = (512, 512),
    transforms: int = 4,
    split: str | Sequence[bool] | np.ndarray = "alternating",
    **kwargs,
) -> Flow:
    """Build a flow of additive couplings, which keep volumes (NICE, arXiv 1410.8516).

    One scaling, closest to the noise, is an :class:`afnp.transforms.ActNorm`: a trained diagonal as
    in the paper, with a shift, begun at the statistics of the first batch. Arguments as in
    :func:`realnvp`.

    Examples
    --------
    >>> flow = nice(4, hidden=(8,))
    >>> flow.normalize(np.ones((2, 4)))[1]
    array([0., 0.])
    """
    if "univariate" in kwargs:
        raise ValueError(
            "univariate: a nice flow is made of additive couplings, got "
            f"{kwargs['univariate']!r}; see realnvp"
        )
    if "last" in kwargs:
        raise ValueError(f"last: a nice flow ends in its scaling, got {kwargs['last']!r}")
    last = [ActNorm(integer("features", features, least=1))]
    kwargs |= {"hidden": hidden, "univariate": "additive", "last": last}
    return _stack(_couplings, features, transforms, split=split, **kwargs)


def nsf(
    features: int,
    hidden: Sequence[int] = (512, 512),
    transforms: int = 5,
    coupling: bool = False,
    bins: int = 8,
    bound: float | None = None,
    circular: bool = False,
    **kwargs,
) -> Flow:
    """Build a neural spline flow (arXiv 1906.04032): monotone rational-quadratic splines.

    Parameters
    ----------
    coupling : bool
        Couplings as in :func:`realnvp`, instead of autoregressive transforms as in :func:`maf`.
    bins : int
        Pieces of each spline, at least 2.
    bound : float
        B: splines bend within [-B, B], outside they are the identity; 4 if left out.
    circular : bool
        For angles in [-π, π): splines on the circle, and uniform noise on the torus. There is no
        bound then.
    **kwargs
        As in :func:`maf` or :func:`realnvp`; ``options`` are further ones of the spline.

    Examples
    --------
    >>> flow = nsf(2, hidden=(8,), transforms=2, circular=True)
    >>> bool((np.abs(flow.sample(100, rng=0)) <= np.pi).all())
    True
    """
    if "univariate" in kwargs:
        raise ValueError(
            f"univariate: an nsf is made of splines, got {kwargs['univariate']!r}; see maf, realnvp"
        )
    flag("coupling", coupling)
    flag("circular", circular)
    shape = {"bins": bins} if bound is None else {"bins": bins, "bound": bound}
    kwargs["options"] = shape | checked_options(kwargs.get("options"))
    kwargs |= {"hidden": hidden, "univariate": "circular_spline" if circular else "spline"}
    if circular:
        _check_torus(kwargs, bound)
    if coupling and kwargs.pop("structure", None) is not None:
        raise ValueError("structure: couplings have none; expected coupling=False")
    if coupling:
        return _stack(_couplings, features, transforms, **kwargs)
    return _stack(_in_orders, features, transforms, kind=masked, **kwargs)


def maf_mog(
    features: int,
    hidden: Sequence[int] = (512, 512),
    transforms: int = 5,
    order: str | Sequence[int] | np.ndarray = "reverse",
    components: int = 10,
    **kwargs,
) -> Flow:
    r"""Build a MAF on a mixture-of-Gaussians MADE (MAF MoG, arXiv 1705.07057, section 3.1).

    .. math:: p(u) = \prod_i \sum_k \pi_{ik}\, \mathcal N(u_i;\, \mu_{ik}, \sigma_{ik}^2), \qquad
              w_i = \Phi^{-1}\Big(\sum_k \pi_{ik}\,
              \Phi\Big(\frac{u_i - \mu_{ik}}{\sigma_{ik}}\Big)\Big)

    The paper puts a MADE of mixtures where the noise would be. The same distribution as one more
    transform: if every u_i goes through its own conditional distribution function, the result is
    uniform, and standard normal after Φ⁻¹; the density of u comes out as the mixture, and sampling
    remains ancestral.

    Parameters
    ----------
    transforms : int
        How many affine transforms precede the mixtures.
    components : int
        Gaussians a feature.
    **kwargs
        As in :func:`maf`.

    Examples
    --------
    >>> [layer.name for layer in maf_mog(2, hidden=(8,), transforms=2, components=3).layers]
    ['affine', 'affine', 'gaussian_mixture']
    """
    mixture = {"univariate": "gaussian_mixture", "options": {"components": components}}
    kwargs |= {"order": order, "hidden": hidden, "end": mixture}
    return _stack(_in_orders, features, transforms, kind=masked, **kwargs)


# ---- what they share -----------------------------------------------------------------------------


def _stack(
    build: Callable,
    features: int,
    transforms: int,
    context: int = 0,
    seed: int = 0,
    dtype=np.float64,
    preprocess: Sequence | str = (),
    between: str | Sequence[str] = (),
    base=None,
    last: Sequence = (),
    structure=None,
    **of_transforms,
) -> Flow:
    """Return the flow of the transforms that ``build`` lists, with all that stands around them.

    ``build(transforms, rng, features=, context=, **of_transforms)`` draws random orders from rng;
    ``last`` are layers closest to the noise. Angles get noise on the torus.
    """
    features = integer("features", features, least=1)
    context = integer("context", context, least=0)
    transforms = integer("transforms", transforms, least=1)
    rng = np.random.default_rng([integer("seed", seed, least=0), 1])
    if structure is not None:
        of_transforms["structure"] = structure
    takers = (_stack, build, of_transforms.get("kind") or LAYERS[build])
    known = {name for taker in takers for name in inspect.signature(taker).parameters}
    for name in of_transforms.keys() - known:
        near = difflib.get_close_matches(name, sorted(known | OWN), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise TypeError(f"{name}: expected an argument that this constructor has{hint}")
    layers = build(transforms, rng, features=features, context=context, **of_transforms)
    names = _names_between(between)
    fixed = _layers("preprocess", preprocess, features)
    last = _layers("last", last, features)
    if not (base is None or isinstance(base, Base)):
        raise ValueError(
            f"base: expected a distribution of afnp.bases, such as StandardNormal({features}), "
            f"got {base!r}"
        )
    if base is None and any(map(of_angles, layers)):
        base = UniformTorus(features)
    stacked = layers[:1]
    for layer in layers[1:]:
        stacked += [*(BETWEEN[name](features, rng) for name in names), layer]
    flow = Flow([*fixed, *stacked, *last], context, dtype, seed, base)
    if structure is not None:
        _check_nothing_mixes(flow)
        flow.columns = names_of(structure)
    return flow


def _in_orders(
    transforms: int, rng, kind: Callable, order="reverse", end=None, structure=None, **options
) -> list:
    """Return transforms of a kind in their orders; ``end`` changes the options of one more."""
    if structure is not None:
        _check_structured(kind, order)
    layers = []
    for k in range(transforms + bool(end)):
        if structure is None:
            place = {"order": _order_of_transform(order, k, options["features"], rng)}
        else:
            place = {"structure": structure}
        changed = end if end and k == transforms else {}
        layers.append(kind(**place, **options | changed))
    return layers


def _check_structured(kind, order) -> None:
    """Refuse a structure where no network keeps to it, and beside an order."""
    if kind is not masked:
        raise ValueError(
            "structure: expected none here; maf, made, maf_mog and the autoregressive nsf take one"
        )
    if not (isinstance(order, str) and order in ("reverse", "natural")):
        raise ValueError(f"order: follows from the structure; expected none, got {order!r}")


def _check_nothing_mixes(flow: Flow) -> None:
    """Refuse layers beside the transforms that would carry a feature past the structure."""
    for layer in flow.layers:
        if (
            layer.conditioner is None
            and (layer.allowed() & ~np.eye(flow.features, dtype=bool)).any()
        ):
            raise ValueError(
                f"structure: a {type(layer).__name__} mixes features past it; expected layers that "
                "change each feature for itself, such as 'actnorm' and 'batchnorm'"
            )


@wraps(masked)
def _inverse(**options) -> Inverse:
    return Inverse(masked(**options))


def _couplings(
    transforms: int,
    rng,
    features: int,
    split: str | Sequence[bool] | np.ndarray = "alternating",
    **options,
) -> list:
    """Return couplings whose blocks change places from one to the next."""
    layers: list = []
    for k in range(transforms):
        if k % 2:
            passing = split_of(layers[-1].passing, features, swapped=True)
        else:
            passing = split_of(split, features, rng)
        layers.append(Coupling(features, split=passing, **options))
    return layers


def _convolutions(
    transforms: int, rng, features: int, layers: int, cycle: int, order: str, **options
) -> list:
    """Return transforms of dilated convolutions, forth and back."""
    layers, cycle = integer("layers", layers, least=0), integer("cycle", cycle, least=1)
    choose("order", order, ("reverse", "natural"))
    options["dilations"] = [2 ** (l % cycle) for l in range(layers)]
    return [
        convolutional(features, reverse=order == "reverse" and k % 2 == 1, **options)
        for k in range(transforms)
    ]


def _order_of_transform(order, k: int, features: int, rng: np.random.Generator) -> np.ndarray:
    """Return the generation order of transform k."""
    named = isinstance(order, str)
    if named and order in ("natural", "random"):
        return masks.order_of(order, features, rng)
    first = masks.order_of("natural" if named and order == "reverse" else order, features)
    return first[::-1] if k % 2 else first


def _names_between(between) -> list[str]:
    """Return the names of what stands between two transforms."""
    try:
        names = [between] if isinstance(between, str) else list(between)
    except TypeError:
        known = ", ".join(map(repr, sorted(BETWEEN)))
        raise ValueError(f"between: expected names among {known}, got {between!r}") from None
    for name in names:
        choose("between", name, sorted(BETWEEN))
    return names


def _layers(name: str, given, features: int) -> list:
    """Return layers of so many features from an argument of this name, or say what would be."""
    if name == "preprocess" and isinstance(given, str):
        choose(name, given, ["standard"])
        return [Standardize(np.zeros(features), np.ones(features), waiting=True)]
    try:
        layers = list(given)
        widths = [layer.features for layer in layers]
    except (AttributeError, TypeError):
        raise ValueError(f"{name}: expected {MEANT[name]}, got {given!r}") from None
    if any(width != features for width in widths):
        raise ValueError(f"{name}: expected transforms of {features} features, got {widths}")
    return layers


def _check_torus(kwargs: dict, bound: float | None) -> None:
    """Refuse what would carry angles out of [-π, π)."""
    if bound is not None:
        raise ValueError(f"bound: expected none on the circle, got {bound!r}")
    between = kwargs.get("between", ())
    for name in _names_between(between):
        if name not in ("permutation", "reverse"):
            raise ValueError(
                f"between: expected 'permutation' or 'reverse' on the circle, got {name!r}"
            )


def tarflow(
    features: int,
    patch: int = 1,
    width: int = 64,
    heads: int = 4,
    blocks: int = 2,
    transforms: int = 4,
    order: str | Sequence[int] | np.ndarray = "reverse",
    **kwargs,
) -> Flow:
    """Build a flow of causal transformers in alternating directions (TarFlow, arXiv 2412.06329).

    Parameters
    ----------
    patch : int
        Features a token, in the order; it divides D. Images:
        ``order=afnp.transforms.image_order(...)``.
    width, heads, blocks : int
        Of each transform's transformer: numbers a token, attention heads, blocks.
    **kwargs
        As in :func:`maf`, but for ``hidden``, ``activation`` and ``residual``.

    Examples
    --------
    >>> flow = tarflow(4, patch=2, width=8, heads=2, transforms=2)
    >>> [layer.order.tolist() for layer in flow.layers]
    [[0, 1, 2, 3], [3, 2, 1, 0]]
    """
    kwargs |= {"patch": patch, "width": width, "heads": heads, "blocks": blocks}
    return _stack(_in_orders, features, transforms, kind=attentive, order=order, **kwargs)


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
    """Build a flow of causal dilated convolutions (WaveNet, arXiv 1609.03499), for long series.

    Parameters
    ----------
    features : int
        D, steps of the series.
    channels : int
        Width of every layer.
    layers : int
        Dilated convolutions a transform, with dilations 1, 2, 4, ..., beginning anew after
        ``cycle`` of them.
    transforms : int
    order : {"reverse", "natural"}
        "reverse": from the first step to the last, and back, in turn; "natural": always from the
        first.
    **kwargs
        ``univariate, options, dtype, preprocess, between, base`` as in :func:`afnp.maf`;
        ``activation`` is one of "gated", "relu", "tanh".

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
    kwargs |= {"channels": channels, "layers": layers, "cycle": cycle, "order": order}
    return _stack(_convolutions, features, transforms, context=context, seed=seed, **kwargs)


LAYERS: dict[Callable, Callable] = {_couplings: Coupling, _convolutions: convolutional}
"""What makes a layer, where ``kind`` does not."""
OWN = {name for one in (nsf, maf_mog, tarflow) for name in inspect.signature(one).parameters}
"""What some constructors take for themselves."""
MEANT = {
    "preprocess": (
        '"standard", or transforms as afnp.preprocessing(x) makes them from training rows'
    ),
    "last": "transforms, those closest to the noise",
}
"""What layers around the transforms are."""
