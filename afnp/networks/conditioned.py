r"""Networks into which the context comes beside the layers, added or as a gate.

.. math::
    z^{(l)} = W^{(l)} a^{(l-1)} + b^{(l)} + e^{(l)}(c) \; (+\, z^{(l-2)}) \qquad \text{or}

    z^{(l)} = (W^{(l)} a^{(l-1)} + b^{(l)}) \odot \sigma(V^{(l)} c + v^{(l)}) + z^{(l-2)}

In :mod:`afnp.networks.masked_mlp` the context is an input of the first layer like others. Here it
has matrices of its own, as in the networks of Neural Spline Flows (arXiv 1906.04032). *Added*, it
enters the first layer as :math:`e = \phi(V c + v)`, and the first layer of each residual block as
:math:`e = V c + v`. As a *gate*, it is an input of the first layer too, and closes each residual
block (gated linear units, arXiv 1612.08083). What is added or multiplied does not depend on x: the
masks stay staircases, and a sample needs each unit once.

Letters: N rows, D features, C context inputs, J units of a layer, K params a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from afnp.inputs import integer, integers
from afnp.networks import masks
from afnp.networks.base import Network
from afnp.networks.features import Raw
from afnp.networks.layers import ACTIVATIONS
from afnp.networks.masked_mlp import Feedforward, checked_degrees, dense_size
from afnp.params import Layout, Views
from afnp.sampling.blocks import Whole
from afnp.sampling.substitution import State, state_of, substitute_back
from afnp.univariate.stable import softplus

__all__ = ["AddedMLP", "Conditioned", "Gated", "GatedMLP", "GatedMaskedMLP"]


class Kept(NamedTuple):
    """What a pass keeps for the derivative."""

    a: list[np.ndarray]
    """(N, I) inputs of each layer."""
    products: list[np.ndarray]
    """(N, J) W a + b of each layer."""
    entered: dict[int, np.ndarray]
    """(N, J) what is added to a layer, or multiplies it."""
    context: np.ndarray


class Conditioned(Feedforward):
    """Masked layers with a context beside them; see the module's formulas.

    Parameters
    ----------
    features, numbers, hidden, context, activation, residual, linear_end
        As in :class:`afnp.networks.MaskedMLP`.
    ways : dict of int to {"activated", "added", "gate"}
        How the context enters each layer that it enters.
    reads : bool
        Whether it is an input of the first layer, too.
    degrees : list of arrays
        Of the inputs, and of the units of each hidden layer, sorted each.
    """

    def __init__(
        self,
        features,
        numbers,
        hidden,
        context,
        activation,
        residual,
        ways,
        reads,
        degrees,
        linear_end,
    ):
        super().__init__(
            features, numbers, hidden, context, activation, residual, Raw(), degrees, linear_end
        )
        self.ways, self.reads = ways, reads
        beside: dict[str, tuple[int, ...]] = {}
        for l in ways:
            J = len(self.degrees[l + 1])
            beside |= {f"V{l}": (J, context), f"v{l}": (J,)}
        self.layout = Layout({**self.layout.shapes, **beside})

    def initialize(
        self, p: dict, rng: np.random.Generator, gain: float = 6**-0.5, last: float = 0.01
    ) -> None:
        r"""Draw weights in place, also V with variance 2 gain² / C; v = 0."""
        super().initialize(p, rng, gain, last)
        for l in self.ways:
            V = p[f"V{l}"]
            V[:] = gain * np.sqrt(2.0 / self.context) * rng.standard_normal(V.shape)
            p[f"v{l}"][:] = 0.0

    def entered(self, p: dict, context: np.ndarray) -> dict[int, np.ndarray]:
        """Return what a context (N, C) adds to each layer it enters, or scales it by, (N, J)."""
        phi = ACTIVATIONS[self.activation].forward
        how = {"activated": phi, "added": lambda e: e, "gate": lambda e: softplus(e)[1]}
        return {l: how[way](context @ p[f"V{l}"].T + p[f"v{l}"]) for l, way in self.ways.items()}

    def _inputs(self, context: np.ndarray) -> np.ndarray:
        return context if self.reads else context[:, :0]

    def _meet(self, l: int, y: np.ndarray, entered: np.ndarray | None) -> np.ndarray:
        """Return W a + b (N, J) of layer l after the context."""
        if entered is None:
            return y
        return y * entered if self.ways[l] == "gate" else y + entered

    def forward(self, p: dict, context: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, Kept]:
        """Map (N, C) and (N, D) to h (N, D, K), and keep what ``backward`` needs."""
        phi = ACTIVATIONS[self.activation].forward
        entered = self.entered(p, context)
        a = [np.concatenate([self._inputs(context), x], axis=1)]
        z: list[np.ndarray] = []
        products: list[np.ndarray] = []
        for l, (linear, skip) in enumerate(zip(self.linears, self.skips, strict=True)):
            if l:
                a.append(z[-1] if self.bare[l - 1] else phi(z[-1]))
            products.append(linear.forward(p, a[-1]))
            z.append(self._meet(l, products[-1], entered.get(l)))
            if skip:
                z[-1] = z[-1] + z[-3]
        h = z[-1].reshape(len(x), self.features, self.numbers)
        return h, Kept(a, products, entered, context)

    def backward(self, p: dict, cache: Kept, d_h: np.ndarray, g: dict) -> np.ndarray:
        r"""Add the parameters' gradients into g; return d_x (N, D).

        .. math:: d_V = d_e^\top c, \qquad d_v = \sum_n d_e, \qquad
                  d_e = d_z,\; d_z \phi'(e) \;\text{or}\; d_z\, y\, \sigma (1 - \sigma)
        """
        return self.backward_context(p, cache, d_h, g)[0]

    def backward_context(self, p: dict, cache: Kept, d_h: np.ndarray, g: dict) -> tuple:
        r"""Do as ``backward`` does; also give :math:`d_c = \sum_l d_e^{(l)} V^{(l)}`, (N, C).

        And that of the network's inputs, where the context is one.
        """
        d_z = d_h.reshape(len(d_h), -1)
        d_context = np.zeros((len(d_h), self.context), d_z.dtype)
        carried: dict[int, np.ndarray] = {}
        for l in reversed(range(len(self.linears))):
            if l in carried:
                d_z = d_z + carried.pop(l)
            if self.skips[l]:
                carried[l - 2] = d_z
            d_y, d_e = self._enter_backward(l, cache, d_z, g)
            if l in self.ways:
                d_context = d_context + d_e @ p[f"V{l}"]
            d_a = self.linears[l].backward(p, cache.a[l], d_y, g)
            if l and not self.bare[l - 1]:
                d_z = ACTIVATIONS[self.activation].backward(cache.a[l], d_a)
            else:
                d_z = d_a
        if not self.reads:
            return d_a, d_context
        return d_a[:, self.context :], d_context + d_a[:, : self.context]

    def _enter_backward(self, l: int, cache: Kept, d_z: np.ndarray, g: dict) -> tuple:
        """Add layer l's gradients of V and v into g; return d_y, of W a + b, and d_e (N, J)."""
        if l not in self.ways:
            return d_z, None
        e, way = cache.entered[l], self.ways[l]
        d_e = {
            "activated": lambda: ACTIVATIONS[self.activation].backward(e, d_z),
            "added": lambda: d_z,
            "gate": lambda: d_z * cache.products[l] * e * (1 - e),
        }[way]()
        g[f"V{l}"] += d_e.T @ cache.context
        g[f"v{l}"] += d_e.sum(axis=0)
        return (d_z * e if way == "gate" else d_z), d_e

    # ---- sampling: each unit once, when its degree is known --------------------------------------

    def init_state(self, p: dict, context: np.ndarray) -> State:
        """Return room for all units of the rows of a context (N, C), one row a unit."""
        entered = {l: e.T for l, e in self.entered(p, context).items()}

        def meet(l: int, rows: slice, y: np.ndarray) -> np.ndarray:
            return self._meet(l, y, entered[l][rows]) if l in entered else y

        kind = np.result_type(context, *p.values())
        inputs = self._inputs(context).astype(kind, copy=False)
        return state_of(self.staircases(p), inputs, meet)

    def jacobian(
        self, p: Views, context: np.ndarray, x: np.ndarray, slope: np.ndarray
    ) -> np.ndarray:
        """Return how quantities that follow h with this slope (N, D, K) follow x, (N, D, D).

        By ``backward``, as of any network.
        """
        return Network.jacobian(self, p, context, x, slope)

    def solver(self, p: dict, context: np.ndarray) -> Whole:
        """Return the network as iterations run it: whole."""
        return Whole(self, p, context)

    def solve_backward(self, p: dict, cache: Kept, slope, offset, d_x: np.ndarray) -> np.ndarray:
        """Return the d_u (N, D) from which a transform's ``backward`` makes d_x, (N, D)."""
        phi = ACTIVATIONS[self.activation].backward
        C = self.context if self.reads else 0
        gates = {l: e.T for l, e in cache.entered.items() if self.ways[l] == "gate"}
        return substitute_back(
            self.staircases(p), phi, cache.a, slope, offset, d_x, C, self.embed.backward, gates
        )


def _beside(widths: Sequence[int], context: int, layers: Sequence[int]) -> int:
    """Return how many numbers V and v of some layers are."""
    return sum(widths[l] * (context + 1) for l in layers)


class AddedMLP(Conditioned):
    """Masked network to which the context is added, in its first layer and in each residual block.

    Parameters
    ----------
    features, numbers, hidden, context, activation, residual, degrees, linear_end
        As in :class:`afnp.networks.MaskedMLP`; C is at least 1.

    Examples
    --------
    >>> net = AddedMLP(features=3, numbers=2, hidden=(4, 4, 4), context=1, residual=True)
    >>> [name for name in net.layout.shapes if name[0] == "V"]
    ['V0', 'V1']
    """

    def __init__(
        self,
        features: int,
        numbers: int,
        hidden: Sequence[int],
        context: int,
        activation: str = "relu",
        residual: bool = False,
        degrees: Sequence[Sequence[int]] | None = None,
        linear_end: bool = False,
    ):
        features, context = integer("features", features, 1), integer("context", context, 1)
        widths = integers("hidden", hidden, least=1)
        units, self.own_degrees = _units(degrees, widths, features, context)
        ways = dict.fromkeys(_added_to(widths, residual), "added") | {0: "activated"}
        known = [masks.degrees_of_inputs(features), *units]
        super().__init__(
            features, numbers, widths, context, activation, residual, ways, False, known, linear_end
        )

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters ``from_config(config)`` has, from integers alone."""
        D, K, C = (integer(name, config[name], 1) for name in ("features", "numbers", "context"))
        widths = integers("hidden", config["hidden"], least=1)
        beside = _beside([*widths, D * K], C, _added_to(widths, config["residual"]))
        return dense_size(D, widths, D * K) + beside


class Gated(Conditioned):
    """Residual layers whose blocks are closed by gates of the context: what both below share."""

    def __init__(self, features, numbers, widths, context, activation, degrees, linear_end):
        ways = dict.fromkeys(_closing(widths), "gate")
        super().__init__(
            features, numbers, widths, context, activation, True, ways, True, degrees, linear_end
        )

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this network."""
        return {name: value for name, value in super().config().items() if name != "residual"}


class GatedMaskedMLP(Gated):
    """Masked residual network whose blocks are closed by gates of the context.

    Parameters
    ----------
    features, numbers, hidden, context, activation, degrees, linear_end
        As in :class:`afnp.networks.MaskedMLP`; C is at least 1, and ``hidden`` an odd number of
        equal widths.

    Examples
    --------
    >>> net = GatedMaskedMLP(features=3, numbers=2, hidden=(4, 4, 4), context=1)
    >>> net.layout.shapes["W0"], net.layout.shapes["V2"]
    ((4, 4), (4, 1))
    """

    def __init__(
        self,
        features: int,
        numbers: int,
        hidden: Sequence[int],
        context: int,
        activation: str = "relu",
        degrees: Sequence[Sequence[int]] | None = None,
        linear_end: bool = False,
    ):
        features, context = integer("features", features, 1), integer("context", context, 1)
        widths = integers("hidden", hidden, least=1)
        units, self.own_degrees = _units(degrees, widths, features, context)
        known = [masks.degrees_of_inputs(features, context), *units]
        super().__init__(features, numbers, widths, context, activation, known, linear_end)

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters ``from_config(config)`` has, from integers alone."""
        D, K, C = (integer(name, config[name], 1) for name in ("features", "numbers", "context"))
        widths = integers("hidden", config["hidden"], least=1)
        beside = _beside(widths, C, _closing(widths))
        return dense_size(C + D, widths, D * K) + beside


class GatedMLP(Gated):
    """Dense residual network of a coupling whose blocks are closed by gates of the context.

    Parameters
    ----------
    features, numbers : int
        B and K.
    hidden, inputs, context, activation, linear_end
        As in :class:`afnp.networks.MLP`; C is at least 1, and ``hidden`` an odd number of equal
        widths.

    Examples
    --------
    >>> net = GatedMLP(features=3, numbers=2, hidden=(4, 4, 4), inputs=4, context=1)
    >>> net.layout.shapes["W0"], net.layout.shapes["V2"]
    ((4, 5), (4, 1))
    """

    def __init__(
        self,
        features: int,
        numbers: int,
        hidden: Sequence[int],
        inputs: int,
        context: int,
        activation: str = "relu",
        linear_end: bool = False,
    ):
        self.inputs = inputs
        context = integer("context", context, 1)
        widths = integers("hidden", hidden, least=1)
        known = [np.zeros(width, dtype=np.int64) for width in (context + inputs, *widths)]
        super().__init__(features, numbers, widths, context, activation, known, linear_end)

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this network."""
        return {**super().config(), "inputs": self.inputs}

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters ``from_config(config)`` has, from integers alone."""
        C = integer("context", config["context"], least=1)
        widths = integers("hidden", config["hidden"], least=1)
        outputs = config["features"] * config["numbers"]
        beside = _beside(widths, C, _closing(widths))
        return dense_size(C + config["inputs"], widths, outputs) + beside


def _units(degrees, widths: tuple[int, ...], features: int, context: int) -> tuple[list, bool]:
    """Return the degrees of hidden units, and whether they were given."""
    if degrees is None:
        return [masks.degrees_of_hidden(width, features, context) for width in widths], False
    return checked_degrees(degrees, widths, features), True


def _closing(widths: Sequence[int]) -> range:
    """Return the layers that close residual blocks, and have a gate."""
    return range(2, len(widths), 2)


def _added_to(widths: Sequence[int], residual: bool) -> list[int]:
    """Return the layers to which a context is added."""
    return [0, *(range(1, len(widths), 2) if residual else ())]
