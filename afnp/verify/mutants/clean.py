r"""The small clean flows in which mutants are planted, and a random one for counting false alarms.

.. math:: x \leftrightarrow u, \qquad D \in \{2, 3\}, \quad C \in \{0, 1\}

They follow the rules that make a defect visible: at least two layers, an order that is not its own
inverse, a context where there can be one. A fresh flow every time: what one mutant breaks, no other
sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from afnp.constructors import iaf, maf, nsf, realnvp
from afnp.flow import Flow
from afnp.transforms import (
    ActNorm,
    Autoregressive,
    BatchNorm,
    Bounds,
    Coupling,
    Inverse,
    LULinear,
    Permutation,
    attentive,
    convolutional,
    masked,
)
from afnp.transforms.preprocess import Standardize
from afnp.verify.parameters import randomize

__all__ = ["BOUND", "FLOWS", "PLAIN", "clean", "random_flow", "random_functions"]

FLOWS: dict[str, Callable[[], Any]] = {}
"""Makers of the clean flows, by family."""

PLAIN = {"functions", "solid", "bent", "pair", "tailed", "pushed"}
"""Families that are plain functions, and no flow of afnp's."""

BOUND = 4.0
"""Where the splines of ``bent`` end."""

CYCLE = (2, 0, 1)
"""An order that is not its own inverse."""


def clean(make: Callable[[], Any]) -> Callable[[], Any]:
    """Enter a maker into ``FLOWS`` under its name."""
    FLOWS[make.__name__] = make
    return make


@clean
def affine() -> Flow:
    """Build an affine MAF of three features, with a context."""
    return maf(3, hidden=(6, 6), transforms=2, order=CYCLE, context=1, seed=3)


@clean
def plane() -> Flow:
    """Build an affine MAF of two features: quadrature can integrate its density."""
    return maf(2, hidden=(6,), transforms=2, activation="tanh", context=1, seed=3)


@clean
def residual() -> Flow:
    """Build an affine MAF with residual blocks."""
    return maf(3, hidden=(6, 6, 6), transforms=2, order=CYCLE, residual=True, seed=3)


@clean
def scaled() -> Flow:
    """Build an affine MAF behind a standardisation."""
    front = Standardize([1.0, 2.0, 3.0], [2.0, 0.5, 3.0])
    return maf(3, hidden=(6, 6), transforms=2, order=CYCLE, context=1, preprocess=[front], seed=3)


@clean
def narrow() -> Flow:
    """Build a MAF with just enough hidden units for every dependency."""
    return maf(4, hidden=(3,), transforms=1, seed=3)


@clean
def spline() -> Flow:
    """Build a flow of two rational-quadratic splines a feature."""
    spline: dict[str, Any] = {"univariate": "spline", "options": {"bins": 4}, "activation": "tanh"}
    return Flow([masked(2, (4,), order=order, **spline) for order in ((0, 1), (1, 0))], seed=3)


@clean
def mixture() -> Flow:
    """Build a flow of a mixture of Gaussians and one of logistics.

    Their inverses are iterations.
    """
    kinds = [("gaussian_mixture", (0, 1)), ("logistic_mixture", (1, 0))]
    options: dict[str, Any] = {"options": {"components": 2}, "activation": "tanh"}
    return Flow(
        [masked(2, (4,), order=order, univariate=kind, **options) for kind, order in kinds],
        seed=3,
    )


@clean
def torus() -> Flow:
    """Build a coupling flow of circular splines on two angles."""
    return nsf(
        2, hidden=(6,), transforms=2, coupling=True, circular=True, options={"bins": 4}, seed=3
    )


ACTNORM, PERMUTATION, BATCHNORM, LU = 0, 2, 3, 5
"""Where these layers stand in ``mixed``."""


@clean
def mixed() -> Flow:
    """Build a flow with all that stands between networks."""
    networks = [masked(3, (6,), order=order) for order in (CYCLE, CYCLE[::-1])]
    matrix = LULinear.rotation(3, np.random.default_rng(3))
    return Flow(
        [ActNorm(3), networks[0], Permutation(CYCLE), BatchNorm(3), networks[1], matrix], seed=3
    )


@clean
def coupling() -> Flow:
    """Build an affine coupling flow of four features, with a context."""
    splits = [[True, False, True, False], [False, True, True, False]]
    return Flow([Coupling(4, (6,), split=split, context=1) for split in splits], context=1, seed=3)


@clean
def inverse() -> Flow:
    """Build an inverse autoregressive flow."""
    orders = (CYCLE, CYCLE[::-1])
    return Flow(
        [Inverse(masked(features=3, hidden=(6,), order=order, context=1)) for order in orders],
        context=1,
        seed=3,
    )


@clean
def attention() -> Flow:
    """Build a flow of two small transformers, sampled with keys and values kept."""
    small: dict[str, Any] = {"width": 4, "heads": 2, "blocks": 1, "context": 1}
    return Flow(
        [attentive(3, order=order, **small) for order in (CYCLE, CYCLE[::-1])], context=1, seed=3
    )


@clean
def convolution() -> Flow:
    """Build a flow of two causal convolutions, sampled by queues."""
    return Flow(
        [convolutional(4, 2, (1, 2), reverse=r, context=1) for r in (False, True)],
        context=1,
        seed=3,
    )


@clean
def functions() -> SimpleNamespace:
    """Return an external flow: plain functions of a smooth MAF with fixed random parameters."""
    flow = randomize(
        maf(2, hidden=(6,), transforms=2, activation="tanh", context=1, seed=3), seed=5
    )

    def sample(n, rng, context):
        return flow.sample(n, np.random.default_rng(rng), context, backend="numpy")

    return SimpleNamespace(
        normalize=lambda x, context: flow.normalize(x, context, backend="numpy"),
        generate=lambda u, context: flow.generate(u, context, backend="numpy"),
        log_prob=lambda x, context: flow.log_prob(x, context, backend="numpy"),
        sample=sample,
        features=2,
        context=1,
    )


def _plain(flow: Flow) -> SimpleNamespace:
    """Return a flow without context as plain functions."""
    return SimpleNamespace(
        normalize=lambda x: flow.normalize(x, backend="numpy"),
        generate=lambda u: flow.generate(u, backend="numpy"),
        log_prob=lambda x: flow.log_prob(x, backend="numpy"),
        sample=lambda n, rng: flow.sample(n, np.random.default_rng(rng), backend="numpy"),
        features=flow.features,
    )


@clean
def solid() -> SimpleNamespace:
    """Return plain functions of four features: too many for a quadrature."""
    smooth: dict[str, Any] = {"hidden": (6,), "transforms": 2, "activation": "tanh"}
    return _plain(randomize(maf(4, order=(2, 0, 3, 1), seed=3, **smooth), seed=5))


@clean
def bent() -> SimpleNamespace:
    """Return plain functions of a spline: outside (-4, 4) it is the identity."""
    spline: dict[str, Any] = {"univariate": "spline", "options": {"bins": 4, "bound": BOUND}}
    layer = masked(2, (4,), activation="tanh", **spline)
    return _plain(randomize(Flow([layer], seed=3), seed=5))


@clean
def pair() -> SimpleNamespace:
    """Return the density and the sampler of ``solid``, and nothing else of it."""
    whole = solid()
    return SimpleNamespace(log_prob=whole.log_prob, sample=whole.sample, features=whole.features)


@clean
def pushed() -> SimpleNamespace:
    """Return the way from noise and the sampler of ``solid``: nobody gives a way back."""
    whole = solid()
    return SimpleNamespace(generate=whole.generate, sample=whole.sample, features=whole.features)


FREEDOM = 5
"""Degrees of freedom of ``tailed``."""


@clean
def tailed() -> SimpleNamespace:
    """Return density and sampler of four features of Student's t: heavy tails, no directions."""
    constant = math.lgamma((FREEDOM + 1) / 2) - math.lgamma(FREEDOM / 2)
    constant -= math.log(FREEDOM * math.pi) / 2

    def log_prob(x):
        return (constant - (FREEDOM + 1) / 2 * np.log1p(x * x / FREEDOM)).sum(axis=1)

    def sample(n, rng):
        return np.random.default_rng(rng).standard_t(FREEDOM, size=(n, 4))

    return SimpleNamespace(log_prob=log_prob, sample=sample, features=4)


DEFAULT_EVERY = 25
"""One random flow in so many has the size that constructors give it."""

RARELY, BOUNDED, FREE = 16, 0, 1
"""One random flow in so many lies between bounds, and one has splines of free slopes."""

NETWORKS = ("maf", "maf", "iaf", "coupling", "convolution", "attention")
ATTENDED = 4
"""Transformers are slow: up to this D."""

UNIVARIATES = (
    "affine",
    "affine",
    "additive",
    "spline",
    "spline",
    "gaussian_mixture",
    "logistic_mixture",
)
OPTIONS = {
    "spline": {"bins": 4},
    "free_spline": {"bins": 4},
    "gaussian_mixture": {"components": 2},
    "logistic_mixture": {"components": 2},
}
ITERATED = 2
"""Mixtures are inverted by iteration, feature by feature: up to this D."""

BETWEEN: tuple[Any, ...] = (None, None, None, Permutation, ActNorm, BatchNorm, LULinear)


UNITS = ((0.0, 1.0), (0.0, 1e-6), (2.46e6, 100.0), (1.7e9, 1e5), (-40.0, 1e3))
"""Middle and width of data: plain, tiny, Julian days, Unix seconds, far wider than their middle."""


def random_flow(seed: int) -> Flow:
    """Draw a clean flow with random parameters.

    Kinds of layers, D from 1 to 8, depth, context, gain, precision; data and context in units of
    their own.

    Every twenty-fifth is as wide and as deep as the constructors make it when nothing is said. Of
    the others one in sixteen lies between bounds, and one has splines of free slopes.
    """
    rng = np.random.default_rng([seed, 11])
    if seed % DEFAULT_EVERY == DEFAULT_EVERY - 1:
        return _in_units(_of_default_size(rng), seed)
    features = int(rng.integers(1, 9))
    context = int(rng.integers(3))
    depth = int(rng.integers(1, 4))
    layers: list = [
        Standardize(rng.standard_normal(features), rng.uniform(0.1, 9, features))
    ] * int(rng.integers(2))
    rare = np.random.default_rng([seed, 1])
    kind = int(rare.integers(RARELY))
    if kind == BOUNDED:
        layers = _bounds(rare, features)
    for _ in range(depth):
        layers += [_network(rng, features, context, kind == FREE), *_between(rng, features)]
    dtype = [np.float32, np.float64][int(rng.integers(2))]
    flow = Flow(layers, context=context, dtype=dtype, seed=int(rng.integers(2**31)))
    randomize(flow, int(rng.integers(2**31)), gain=float(rng.uniform(0.5, 1.5)))
    return _in_units(flow, seed)


def _in_units(flow: Flow, seed: int) -> Flow:
    """Let layers that standardise, and the context, lie where the units of some data have them."""
    rng = np.random.default_rng([seed, 13])
    for layer in flow.layers[:1]:  # behind bounds, units are those of logarithms
        if isinstance(layer, Standardize):
            middle, width = UNITS[int(rng.integers(len(UNITS)))]
            layer.mean, layer.std = middle + width * layer.mean, width * layer.std
    if flow.context and rng.integers(2):
        middle, width = UNITS[int(rng.integers(len(UNITS)))]
        flow.standardize_context(middle + width * rng.standard_normal((9, flow.context)))
    return flow


POSITIVE_ROWS = 500
"""So many rows say where data lie that are positive."""


def random_functions(seed: int) -> dict[str, Any]:
    """Draw a clean flow as plain functions of arrays: what ``check_flow`` takes by name.

    D from 1 to 5, context, affine or spline, data in units of their own, a quarter of them
    positive.
    """
    rng = np.random.default_rng([seed, 12])
    features, context = int(rng.integers(1, 6)), int(rng.integers(3))
    middle, width = UNITS[int(rng.integers(len(UNITS)))]
    positive = bool(rng.integers(4) == 0)
    if positive:
        middle, width = 0.0, 0.5
    univariate = ("affine", "spline")[int(rng.integers(2))]
    smooth: dict[str, Any] = {"activation": "tanh", "univariate": univariate, "transforms": 2}
    flow = maf(features, hidden=(8, 8), context=context, seed=int(rng.integers(2**31)), **smooth)
    randomize(flow, int(rng.integers(2**31)))

    def normalize(x, *c):
        y = np.log(x) if positive else x
        u, log_det = flow.normalize((y - middle) / width, c[0] if c else None, backend="numpy")
        return u, log_det - features * np.log(width) - (y.sum(axis=1) if positive else 0.0)

    def generate(u, *c):
        z, log_det = flow.generate(u, c[0] if c else None, backend="numpy")
        y = middle + width * z
        log_det = log_det + features * np.log(width) + (y.sum(axis=1) if positive else 0.0)
        return np.exp(y) if positive else y, log_det

    def log_prob(x, *c):
        u, log_det = normalize(x, *c)
        return log_det - np.square(u).sum(axis=1) / 2 - features * np.log(2 * np.pi) / 2

    def sample(n, rng, *c):
        return generate(rng.standard_normal((n, features)), *c)[0]

    found = {"normalize": normalize, "generate": generate, "log_prob": log_prob, "sample": sample}
    if positive:
        contexts = [rng.standard_normal((POSITIVE_ROWS, context))] if context else []
        found["data"] = sample(POSITIVE_ROWS, rng, *contexts)
    return {**found, "features": features, "context": context}


def _of_default_size(rng: np.random.Generator) -> Flow:
    """Draw a flow of a constructor's own width and depth."""
    make = (maf, iaf, realnvp, nsf)[int(rng.integers(4))]
    features, context = int(rng.integers(2, 9)), int(rng.integers(3))
    flow = make(features, context=context, seed=int(rng.integers(2**31)))
    return randomize(flow, int(rng.integers(2**31)))


def _bounds(rng: np.random.Generator, features: int) -> list:
    """Draw bounds of some features, half-open or closed, and half the time what standardises."""
    ends = np.sort(rng.choice([0.0, -3.0, 99.0, 1e3], (features, 2)) + [0.0, 1.0], axis=1)
    ended = rng.integers(2, size=(features, 2)).astype(bool)
    ended[rng.integers(features)] |= rng.permutation([True, False])
    low, high = np.where(ended, ends.astype(object), np.full(ended.shape, None)).T.tolist()
    middle, width = rng.standard_normal(features), rng.uniform(0.1, 2, features)
    return [Bounds(low, high), *[Standardize(middle, width)] * int(rng.integers(2))]


def _network(rng: np.random.Generator, features: int, context: int, free: bool = False):
    """Draw a transform with a network, whose splines are all it has if they are free."""
    kind = str(rng.choice(NETWORKS[: None if features <= ATTENDED else -1]))
    univariate = str(rng.choice(UNIVARIATES[: None if features <= ITERATED else -2]))
    if free:
        univariate = "free_spline"
    options: dict[str, Any] = {
        "context": context,
        "univariate": univariate,
        "options": OPTIONS.get(univariate, {}),
    }
    if kind == "attention":
        return _attentive(rng, features, options)
    if kind == "convolution":
        return _convolution(rng, features, options)
    residual, width = bool(rng.integers(2)), int(rng.integers(max(features, 4), 11))
    options |= {
        "hidden": (width,) * (int(rng.choice([1, 3])) if residual else int(rng.integers(1, 3))),
        "activation": str(rng.choice(["relu", "tanh"])),
        "residual": residual,
    }
    if kind == "coupling" and features > 1:
        passing = rng.permutation(features) < int(rng.integers(1, features))
        return Coupling(features, split=passing, **options)
    transform = masked(features, order=rng.permutation(features), **options)
    return Inverse(transform) if kind == "iaf" else transform


def _attentive(rng: np.random.Generator, features: int, options: dict) -> Autoregressive:
    """Draw a transformer, small beside the usual ones."""
    patch = int(rng.choice([patch for patch in (1, 2) if features % patch == 0]))
    blocks, order = int(rng.integers(1, 3)), rng.permutation(features)
    return attentive(features, patch, width=4, heads=2, blocks=blocks, order=order, **options)


def _convolution(rng: np.random.Generator, features: int, options: dict) -> Autoregressive:
    """Draw a stack of causal convolutions."""
    dilations = (1, 2, 4)[: int(rng.integers(1, 4))]
    options |= {"reverse": bool(rng.integers(2)), "activation": str(rng.choice(["gated", "relu"]))}
    return convolutional(features, int(rng.integers(2, 6)), dilations, **options)


def _between(rng: np.random.Generator, features: int) -> list:
    """Draw what follows a network, if anything."""
    kind = BETWEEN[int(rng.integers(len(BETWEEN)))]
    if kind is Permutation:
        return [Permutation(rng.permutation(features))]
    if kind is LULinear:
        return [LULinear.rotation(features, rng)]
    return [] if kind is None else [kind(features)]
