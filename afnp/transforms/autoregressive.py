r"""The autoregressive transform: a conditioner and a univariate, read in an order of the features.

.. math::
    u_i = \tau^{-1}(x_i;\, h_i(x_{<i})), \qquad
    \log\left|\det \frac{\partial u}{\partial x}\right|
    = \sum_i \log \frac{\partial u_i}{\partial x_i}

"Before" means earlier in the order. u_i belongs to x_i whatever the order: rows and columns of the
Jacobian are the features, and it is triangular once both are sorted by the order (arXiv 1912.02762,
section 3.1). The features of a token (arXiv 2412.06329) are transformed given earlier tokens only:
then the Jacobian has diagonal blocks on its diagonal.

Who computes h is the conditioner, any of :mod:`afnp.networks`; what is done with it the univariate,
any of :mod:`afnp.univariate`. **Sampling is substitution**
(:func:`afnp.sampling.substitution.substitution`): when x_i becomes known, so do the units that
depend on it, a token's key and value, or the newest entry of a queue. Each is computed once.

Letters: N rows, D features, C context inputs, K params a feature.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from afnp.inputs import choose, integer
from afnp.networks import (
    NETWORKS,
    CausalConv,
    CausalTransformer,
    GraphMLP,
    MaskedMLP,
    Network,
    masks,
)
from afnp.networks.graph import adjacency_of, topological
from afnp.params import Views
from afnp.sampling.fixed_point import FixedPoint, slope_of
from afnp.sampling.substitution import naive, substitution
from afnp.transforms.base import Transform
from afnp.transforms.cost import Cost, Work
from afnp.univariate import UNIVARIATES

__all__ = [
    "Autoregressive",
    "attentive",
    "checked_options",
    "convolutional",
    "masked",
    "name_of",
    "univariate_of",
]


def checked_options(options) -> dict:
    """Return keyword arguments of a univariate, none where there are none, or say what is wrong."""
    if not (options is None or isinstance(options, Mapping)):
        raise ValueError(
            "options: expected a dict of the univariate's keyword arguments, such as "
            f'{{"bins": 16}}, got {options!r}'
        )
    return dict(options or {})


def univariate_of(univariate: Any, options: dict | None = None):
    """Return a univariate by its name and options, or an object of a registered class as it is."""
    options = checked_options(options)
    if type(univariate) in UNIVARIATES.values():
        if options:
            raise ValueError(f"options: go with a name, got {univariate!r} and {options!r}")
        return univariate
    choose("univariate", univariate, sorted(UNIVARIATES))
    known = inspect.signature(UNIVARIATES[univariate]).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        for option in options:
            choose(f"options of {univariate!r}", option, sorted(known))
    return UNIVARIATES[univariate](**options)


def name_of(univariate) -> str:
    """Return the name of a univariate in ``UNIVARIATES``, or of its class if it has none."""
    names = (name for name, cls in UNIVARIATES.items() if cls is type(univariate))
    return next(names, type(univariate).__name__)


class Autoregressive(Transform):
    """Autoregressive transform: density in one network pass, sampling by substitution.

    Parameters
    ----------
    conditioner : Network
        Gives K params a feature, in generation order.
    univariate : univariate
        Takes K params a feature.
    order : {"natural", "reverse"} or a permutation
        Feature ``order[r]`` comes r-th.

    Raises
    ------
    ValueError
        If the conditioner gives another number of params than the univariate takes, or only one of
        them knows angles.

    Examples
    --------
    >>> from afnp.networks import CausalTransformer
    >>> from afnp.univariate import Affine
    >>> net = CausalTransformer(features=4, numbers=2, patch=2, width=8, heads=2, blocks=1)
    >>> layer = Autoregressive(net, Affine())
    >>> layer.allowed().astype(int)
    array([[1, 0, 0, 0],
           [0, 1, 0, 0],
           [1, 1, 1, 0],
           [1, 1, 0, 1]])
    >>> layer.cost.generate
    Work(passes=1, depth=2, multiply_adds=1664)
    """

    def __init__(
        self, conditioner: Network, univariate, order: str | Sequence[int] | np.ndarray = "natural"
    ):
        self.conditioner, self.univariate = conditioner, univariate
        self.features, self.context = conditioner.features, conditioner.context
        if conditioner.numbers != univariate.numbers:
            raise ValueError(
                f"conditioner: expected {univariate.numbers} params a feature for "
                f"{type(univariate).__name__}, got {conditioner.numbers}"
            )
        self.periodic = univariate.periodic
        self.name = name_of(univariate)
        if (conditioner.embed.width == 2) != self.periodic:
            raise ValueError(
                f"conditioner: expected periodic={self.periodic} for {type(univariate).__name__}"
            )
        self.order = masks.order_of(order, self.features)
        self.rank = np.argsort(self.order)
        self.layout = conditioner.layout

    def config(self) -> dict:
        """Return what rebuilds this transform: numbers, strings, lists and dictionaries only."""
        return {
            "conditioner": {"type": type(self.conditioner).__name__, **self.conditioner.config()},
            "univariate": {"type": self.name, **self.univariate.config()},
            "order": self._order(),
        }

    def _order(self) -> str | list[int]:
        """Return the order by its name, for a long series is in one of two."""
        before, after = self.order[:-1], self.order[1:]
        if (before < after).all():
            return "natural"
        return "reverse" if (before > after).all() else self.order.tolist()

    @classmethod
    def from_config(cls, config: dict) -> Autoregressive:
        """Rebuild a transform from what ``config()`` returned."""
        net, univariate = dict(config["conditioner"]), dict(config["univariate"])
        network = NETWORKS[net.pop("type")].from_config(net)
        return cls(network, univariate_of(univariate.pop("type"), univariate), config["order"])

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters the conditioner has, from integers alone."""
        net = dict(config["conditioner"])
        return NETWORKS[net.pop("type")].count(net)

    def initialize(self, p: Views, rng: np.random.Generator) -> None:
        """Draw the conditioner's parameters in place."""
        self.conditioner.initialize(p, rng)

    def allowed(self) -> np.ndarray:
        """Return which u_i may depend on which x_j, (D, D) bool.

        Those that h_i depends on, and itself.
        """
        ordered = self.conditioner.allowed() | np.eye(self.features, dtype=bool)
        return ordered[np.ix_(self.rank, self.rank)]

    @property
    def activations(self) -> int:
        """Numbers a row that one pass keeps, for cutting long inputs into blocks."""
        return self.conditioner.activations

    @property
    def cost(self) -> Cost:
        """What each direction costs: one pass there.

        Back the same work in steps, or a pass a step.
        """
        depth = self.conditioner.depth
        work = Work(1, 1, self.conditioner.cost)
        return Cost(work, work._replace(depth=depth), work.repeated(depth))

    # ---- density ---------------------------------------------------------------------------------

    def normalize(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,) and the cache of ``backward``."""
        ordered = x[:, self.order]
        h, cache = self.conditioner.forward(p, context, ordered)
        u, log_derivative, univariate_cache = self.univariate.normalize(h, ordered)
        return u[:, self.rank], log_derivative.sum(axis=1), (cache, univariate_cache)

    def evaluate(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Do the same and keep nothing: a network of a long series walks along it in chunks."""
        if not self.conditioner.streams:
            return self.normalize(p, x, context)[:2]
        ordered = x[:, self.order]
        kind = np.result_type(x, context, *p.values())
        u, log_derivative = np.empty(x.shape, kind), np.empty(x.shape, kind)
        for columns, h in self.conditioner.stream(p, context, ordered):
            part = self.univariate.normalize(h, ordered[:, columns])
            u[:, columns], log_derivative[:, columns] = part[:2]
        return u[:, self.rank], log_derivative.sum(axis=1)

    def backward(
        self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views
    ) -> np.ndarray:
        """Add the parameters' gradients of ``normalize`` into g; return d_x (N, D)."""
        conditioner_cache, univariate_cache = cache
        d_u, d_log = d_u[:, self.order], d_log_det[:, None]
        d_h, d_x = self.univariate.backward(univariate_cache, d_u, d_log)
        d_x = d_x + self.conditioner.backward(p, conditioner_cache, d_h, g)
        return d_x[:, self.rank]

    def backward_context(
        self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views
    ) -> tuple:
        """Do as ``backward`` does; also give the gradient by the context, (N, C)."""
        conditioner_cache, univariate_cache = cache
        d_u, d_log = d_u[:, self.order], d_log_det[:, None]
        d_h, d_x = self.univariate.backward(univariate_cache, d_u, d_log)
        through, d_context = self.conditioner.backward_context(p, conditioner_cache, d_h, g)
        return (d_x + through)[:, self.rank], d_context

    def solve_backward(self, p: Views, cache, d_x: np.ndarray, d_log_det: np.ndarray) -> np.ndarray:
        """Return the d_u (N, D) from which ``backward`` makes d_x, by reverse substitution."""
        conditioner_cache, univariate_cache = cache
        one, zero = np.ones_like(d_x), np.zeros_like(d_x)
        slope = self.univariate.backward(univariate_cache, one, zero)
        offset = self.univariate.backward(univariate_cache, zero, zero + d_log_det[:, None])
        d_x = d_x[:, self.order]
        d_u = self.conditioner.solve_backward(p, conditioner_cache, slope, offset, d_x)
        return d_u[:, self.rank]

    # ---- sampling --------------------------------------------------------------------------------

    def generate(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Map u (N, D) to x (N, D) by substitution; also give log|det dx/du| (N,)."""
        x, log_det = substitution(
            self.conditioner, self.univariate.generate, p, u[:, self.order], context
        )
        return x[:, self.rank], log_det

    def naive(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Do the same by the textbook loop of a full network pass a feature, or a token."""
        x, log_det = naive(self.conditioner, self.univariate.generate, p, u[:, self.order], context)
        return x[:, self.rank], log_det

    def iterate(self, method: FixedPoint, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Do the same by fixed-point iteration.

        Also give iterations and multiply-adds of each row, (N,).
        """
        ordered = u[:, self.order]
        x, log_det, *taken = method.solve(self.conditioner, self.univariate, p, ordered, context)
        return x[:, self.rank], log_det, *taken

    def iteration_matrix(self, p: Views, x: np.ndarray, context: np.ndarray) -> np.ndarray:
        r"""Return how an iteration's values follow its guess, at a solution x (N, D), (N, D, D).

        .. math:: T_{ij} = \frac{\partial}{\partial x_j}\, \tau(u_i;\, h_i(x)), \qquad
                  x = \tau(u; h(x))

        Rows and columns are in generation order, in which it is strictly triangular.
        """
        ordered = x[:, self.order]
        h, _ = self.conditioner.forward(p, context, ordered)
        slope = slope_of(self.univariate, h, ordered)
        return self.conditioner.jacobian(p, context, ordered, slope)

    def sampler(self, method: str | FixedPoint) -> Callable:
        """Return how a method of sampling maps (p, u, context) to x and log|det dx/du|."""
        if isinstance(method, FixedPoint):
            return functools.partial(self.iterate, method)
        return self.naive if method == "naive" else self.generate


# ---- the three conditioners, from a few numbers --------------------------------------------------


def masked(
    features: int,
    hidden: Sequence[int],
    order: str | Sequence[int] | np.ndarray | None = None,
    univariate="affine",
    options: dict | None = None,
    context: int = 0,
    activation: str = "relu",
    residual: bool = False,
    structure=None,
) -> Autoregressive:
    """Return the transform of MAF, with the masked network of MADE, or of a graph.

    Parameters
    ----------
    features : int
        D.
    hidden : sequence of int
    order : {"natural", "reverse"} or a permutation, optional
        Feature ``order[r]`` comes r-th.
    univariate : str or univariate
        A name in ``UNIVARIATES`` with ``options``, or an object.
    context, activation, residual
        As in :class:`afnp.networks.MaskedMLP`.
    structure : (D, D) array of bool, optional
        A directed acyclic graph instead of an order: [i, j] is true where u_i and x_i may depend on
        x_j. See :class:`afnp.networks.GraphMLP`.

    Examples
    --------
    >>> masked(3, hidden=(4,), univariate="spline", options={"bins": 4}).conditioner.numbers
    11
    >>> masked(3, hidden=(4,), structure=[[0, 0, 1], [0, 0, 0], [0, 0, 0]]).order
    array([1, 2, 0])
    """
    tau = univariate_of(univariate, options)
    of_network = (hidden, context, activation, residual, tau.periodic)
    if structure is None:
        net = MaskedMLP(features, tau.numbers, *of_network)
        return Autoregressive(net, tau, "natural" if order is None else order)
    if order is not None:
        raise ValueError(f"order: follows from the structure; expected none, got {order!r}")
    graph = adjacency_of(structure, integer("features", features, least=1))
    order = topological(graph)
    parents = [np.flatnonzero(row).tolist() for row in graph[np.ix_(order, order)]]
    return Autoregressive(GraphMLP(features, tau.numbers, parents, *of_network), tau, order)


def attentive(
    features: int,
    patch: int = 1,
    width: int = 64,
    heads: int = 4,
    blocks: int = 2,
    order: str | Sequence[int] | np.ndarray | None = None,
    univariate="affine",
    options: dict | None = None,
    context: int = 0,
) -> Autoregressive:
    """Return a transform with a causal transformer, ``patch`` features a token; see :func:`masked`.

    Examples
    --------
    >>> attentive(4, patch=2, width=8, heads=2, blocks=1).conditioner.tokens
    2
    """
    tau = univariate_of(univariate, options)
    net = CausalTransformer(
        features, tau.numbers, patch, width, heads, blocks, context, tau.periodic
    )
    return Autoregressive(net, tau, "natural" if order is None else order)


def convolutional(
    features: int,
    channels: int = 16,
    dilations: Sequence[int] = (1, 2, 4, 8),
    reverse: bool = False,
    univariate="affine",
    options: dict | None = None,
    context: int = 0,
    activation: str = "gated",
) -> Autoregressive:
    """Return a transform with causal dilated convolutions, for series of any length.

    See :func:`masked`.

    ``reverse`` walks from the last feature to the first.

    Examples
    --------
    >>> layer = convolutional(10**6, channels=16, dilations=[2**l for l in range(10)])
    >>> layer.layout.size, layer.conditioner.receptive_field
    (13346, 1024)
    """
    tau = univariate_of(univariate, options)
    net = CausalConv(features, tau.numbers, channels, dilations, context, activation, tau.periodic)
    return Autoregressive(net, tau, "reverse" if reverse else "natural")
