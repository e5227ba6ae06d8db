r"""Networks: who computes the parameters h_i of feature i, and the one face that all of them have.

.. math:: h_i = \text{network}_i(c,\, x_1, \dots, x_{i-1}) \in \mathbb R^K

Features come in generation order; a transform puts them into it. ``forward`` knows all of x. For
sampling, ``advance`` is told one group of features after the other, a single one or a token, and
gives h of the next group: what each network keeps in its ``state`` so that nothing is computed
twice is its own business (degrees of MADE, keys and values, queues).

A new network is a subclass with ``layout``, ``config``, ``count``, ``initialize``, ``forward``,
``backward``, ``init_state``, ``advance`` and ``cost``. Its name enters ``NETWORKS``, from which
model files are rebuilt. Parameters ``p``, caches and gradients ``g`` travel as arguments.

Letters: N rows, D features, C context inputs, K params a feature, E inputs a feature, P features a
group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from afnp.networks.features import Angle, Level, Raw
from afnp.params import Layout, Views, register
from afnp.sampling.blocks import Whole

__all__ = ["NETWORKS", "Network"]

JACOBIAN_NUMBERS = 2**22
"""Activations alive at once in a Jacobian: 32 MiB in float64."""

NETWORKS: dict[str, type[Network]] = {}
"""Every network by the name of its class, which is the name that model files use."""


class Network:
    """K params for each of D features, functions of the context and of earlier features.

    Subclasses register themselves by name.
    """

    features: int
    """D."""
    numbers: int
    """K."""
    context: int = 0
    """C."""
    patch: int = 1
    """P, features a group: those of a group do not depend on each other."""
    embed: Raw | Angle | Level = Raw()
    """How features enter; see :mod:`afnp.networks.features`."""
    layout: Layout
    streams: bool = False
    """Whether ``stream`` walks along the features in bounded memory."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        register(NETWORKS, cls)

    # ---- what it is ------------------------------------------------------------------------------

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this network.

        Numbers, strings and lists only.
        """
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict) -> Network:
        """Rebuild a network from what ``config()`` returned."""
        return cls(**config)

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters ``from_config(config)`` has, before it is built."""
        raise NotImplementedError

    @property
    def cost(self) -> int:
        """Useful multiply-adds of one pass, a row."""
        raise NotImplementedError

    @property
    def activations(self) -> int:
        """Numbers a row that one pass keeps, for cutting long inputs into blocks."""
        return sum(shape[0] for shape in self.layout.shapes.values())

    @property
    def embedding(self) -> int:
        """E."""
        return self.embed.width

    @property
    def groups(self) -> Iterator[slice]:
        """The columns of each group of features that are sampled together, in turn."""
        return (slice(i, i + self.patch) for i in range(0, self.features, self.patch))

    @property
    def depth(self) -> int:
        """How many groups there are: steps that wait for each other."""
        return self.features // self.patch

    def allowed(self) -> np.ndarray:
        """Return which h_i may depend on which x_j, (D, D) bool: j in an earlier group."""
        group = np.arange(self.features) // self.patch
        return group[None, :] < group[:, None]

    def initialize(self, p: Views, rng: np.random.Generator, gain: float, last: float) -> None:
        """Draw parameters in place: layers of this gain, and the last one of size ``last``."""
        raise NotImplementedError

    # ---- all features at once --------------------------------------------------------------------

    def forward(self, p: Views, context: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, Any]:
        """Map the context (N, C) and features x (N, D) to h (N, D, K).

        Also give the cache of ``backward``.
        """
        raise NotImplementedError

    def backward(self, p: Views, cache: Any, d_h: np.ndarray, g: Views) -> np.ndarray:
        """Add the parameters' gradients into g; return d_x (N, D)."""
        raise NotImplementedError

    def backward_context(self, p: Views, cache: Any, d_h: np.ndarray, g: Views) -> tuple:
        """Do as ``backward`` does; also give the gradient by the context, (N, C)."""
        raise ValueError(f"of: a {type(self).__name__} has no derivative by its context here")

    def jacobian(
        self, p: Views, context: np.ndarray, x: np.ndarray, slope: np.ndarray
    ) -> np.ndarray:
        r"""Return how quantities that follow h with this slope (N, D, K) follow x, (N, D, D).

        .. math:: T_{ij} = \sum_k \mathrm{slope}_{ik}\, \frac{\partial h_{ik}}{\partial x_j}

        By ``backward``, a row of it for each i; a bounded number of them at once.
        """
        N, D = x.shape
        T = np.empty((*x.shape, x.shape[1]), slope.dtype)
        unused = self.layout.views(np.zeros(self.layout.size, slope.dtype))
        of_feature = np.eye(D)[..., None]
        many = max(1, JACOBIAN_NUMBERS // (D * self.activations))
        for start in range(0, N, many):
            rows = slice(start, start + many)
            repeated = [np.repeat(array[rows], D, axis=0) for array in (context, x)]
            _, cache = self.forward(p, *repeated)
            d_h = (slope[rows, None] * of_feature).reshape(-1, D, self.numbers)
            T[rows] = self.backward(p, cache, d_h, unused).reshape(-1, D, D)
        return T

    def stream(self, p: Views, context: np.ndarray, x: np.ndarray) -> Iterator[tuple]:
        """Yield columns and their h in turn: here all at once."""
        yield slice(0, self.features), self.forward(p, context, x)[0]

    def solve_backward(self, p: Views, cache, slope, offset, d_x: np.ndarray) -> np.ndarray:
        """Return the d_u (N, D) from which a transform's ``backward`` makes d_x.

        ``slope`` and ``offset`` are pairs (N, D, K) and (N, D): how d_h and the direct part of d_x
        follow from d_u. Here by the textbook loop from the last group to the first, a whole
        backward pass each.
        """
        g = self.layout.views(np.zeros(self.layout.size, d_x.dtype))
        d_u, d_h = np.zeros_like(d_x), np.zeros_like(slope[0])
        for group in reversed(list(self.groups)):
            through = self.backward(p, cache, d_h, g)[:, group]
            d_u[:, group] = (d_x[:, group] - offset[1][:, group] - through) / slope[1][:, group]
            d_h[:, group] = slope[0][:, group] * d_u[:, group, None] + offset[0][:, group]
        return d_u

    # ---- one group after the other ---------------------------------------------------------------

    def init_state(self, p: Views, context: np.ndarray) -> Any:
        """Return what ``advance`` keeps, before a feature is known, for a context (N, C)."""
        raise NotImplementedError

    def advance(self, p: Views, state: Any, group: slice, known: np.ndarray | None) -> np.ndarray:
        """Return h (N, P, K) of a group, given the features ``known`` (N, P) of the one before."""
        raise NotImplementedError

    def solver(self, p: Views, context: np.ndarray):
        """Return the network as fixed-point iterations run it: whole."""
        return Whole(self, p, context)
