r"""The masked multilayer perceptron of MADE, with residual blocks if wanted (ResMADE).

.. math::
    z^{(0)} = W^{(0)} a^{(0)} + b^{(0)}, \qquad
    z^{(l)} = W^{(l)} \phi(z^{(l-1)}) + b^{(l)} \; (+\, z^{(l-2)}), \qquad h = z^{(L-1)}

with every W under its staircase mask (arXiv 1502.03509). The term in parentheses closes a residual
block of two layers (arXiv 1904.05626): a residual network is a plain one in which every second
pre-activation is carried on. Those of other libraries often end linear, :math:`h = W^{(L-1)}
z^{(L-2)} + b^{(L-1)}`. The network's inputs a⁽⁰⁾ are the context and then the features in
generation order.

Letters: N rows, D features, C context inputs, H hidden units, K params a feature, E inputs a
feature.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from afnp.inputs import choose, flag, integer, integers
from afnp.networks import masks
from afnp.networks.base import Network
from afnp.networks.features import Level, embedding
from afnp.networks.layers import ACTIVATIONS, MaskedLinear
from afnp.params import Layout, Views
from afnp.sampling.blocks import Staircases, Whole
from afnp.sampling.substitution import Staircase, State, advance, state_of, substitute_back

__all__ = ["Feedforward", "MaskedMLP", "checked_degrees", "dense_size"]


class Feedforward(Network):
    """Layers of masked linear maps whose units are sorted by degree.

    What MADE's network and a coupling's share.

    Parameters
    ----------
    features, numbers : int
        D, of the outputs, and K.
    hidden : sequence of int
    context : int
        C.
    activation : {"relu", "tanh", "elu"}
        The third runs in NumPy alone.
    residual : bool
        Close a residual block at every second hidden layer after the first.
    embed : embedding
        How features enter; see :mod:`afnp.networks.features`.
    degrees : list of arrays
        Of the inputs, and of the units of each hidden layer, sorted each.
    linear_end : bool
        The last hidden layer enters the outputs without activation.
    """

    own_degrees = False
    """Whether the degrees of hidden units were given, and not spread evenly."""

    def __init__(
        self,
        features,
        numbers,
        hidden,
        context,
        activation,
        residual,
        embed,
        degrees,
        linear_end=False,
    ):
        self.features, self.numbers, self.context = features, numbers, context
        self.hidden, self.activation = hidden, activation
        self.residual = flag("residual", residual)
        self.embed = embed
        self.degrees = [*degrees, np.repeat(np.arange(1, features + 1), numbers)]
        choose("activation", activation, sorted(ACTIVATIONS))
        if residual and (len(hidden) % 2 == 0 or len(set(hidden)) > 1):
            raise ValueError(
                f"hidden: residual=True needs an odd number of equal widths, got {hidden}"
            )
        if linear_end and not hidden:
            raise ValueError("linear_end: expected at least one hidden layer, got none")
        last, self.linear_end = len(hidden), bool(linear_end)
        self.bare = [self.linear_end and l == last - 1 for l in range(last + 1)]
        self.linears = [
            MaskedLinear(masks.prefixes(rows, columns, strict=l == last), len(columns), name=str(l))
            for l, (columns, rows) in enumerate(pairwise(self.degrees))
        ]
        self.skips = [residual and l % 2 == 0 and 0 < l < last for l in range(last + 1)]
        first_rows = np.arange(features + 1)
        first_units = [np.searchsorted(units, first_rows) for units in degrees[1:]]
        self.starts = [start.tolist() for start in (*first_units, first_rows * numbers)]
        self.layout = Layout({k: v for linear in self.linears for k, v in linear.shapes.items()})

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this network."""
        degrees = {"degrees": [d.tolist() for d in self.degrees[1:-1]]} if self.own_degrees else {}
        return {
            "features": self.features,
            "numbers": self.numbers,
            "hidden": list(self.hidden),
            "context": self.context,
            "activation": self.activation,
            "residual": self.residual,
            **degrees,
            **({"linear_end": True} if self.linear_end else {}),
        }

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters ``from_config(config)`` has, from integers alone."""
        D = integer("features", config["features"], least=1)
        C = integer("context", config["context"], least=0)
        K = integer("numbers", config["numbers"], least=1)
        return dense_size(C + (2 if config["periodic"] else 1) * D, config["hidden"], D * K)

    @property
    def cost(self) -> int:
        """Useful multiply-adds of one pass, a row: the prefixes say which products are made."""
        return sum(int(linear.prefix.sum()) for linear in self.linears)

    def mask(self, l: int) -> np.ndarray:
        """Return which inputs each row of layer l depends on, (J, I) bool."""
        linear = self.linears[l]
        return masks.mask(linear.prefix, linear.shapes[linear.W][1])

    def initialize(
        self, p: dict, rng: np.random.Generator, gain: float = 6**-0.5, last: float = 0.01
    ) -> None:
        r"""Draw weights in place.

        Each row with variance gain² · 2 / prefix, the last layer times ``last``.

        .. math:: W_{rc} \sim \mathcal N(0,\, 2\,\mathrm{gain}^2 / \mathrm{prefix}_r), \qquad b = 0

        A small last layer makes the flow start near the identity. The default variance, 1 / (3
        prefix), is below the gain of 1 that would keep activations' size: small data sets are then
        overfitted later.
        """
        for l, linear in enumerate(self.linears):
            W = p[linear.W]
            mask = self.mask(l)
            size = last if linear is self.linears[-1] else 1.0
            scale = gain * np.sqrt(2.0 / np.maximum(mask.sum(axis=1), 1)) * size
            W[:] = rng.standard_normal(W.shape) * scale[:, None] * mask
            p[linear.b][:] = 0.0

    def forward(self, p: dict, context: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, Any]:
        """Map (N, C) and (N, D) to h (N, D, K); the cache holds every layer's inputs."""
        inputs = np.concatenate([context, self.embed.forward(x)], axis=1)
        phi = ACTIVATIONS[self.activation].forward
        a, z = [inputs], [self.linears[0].forward(p, inputs)]
        for linear, skip, bare in zip(self.linears[1:], self.skips[1:], self.bare, strict=False):
            a.append(z[-1] if bare else phi(z[-1]))
            z.append(linear.forward(p, a[-1]))
            if skip:
                z[-1] += z[-3]
        return z[-1].reshape(len(inputs), self.features, self.numbers), a

    def backward(self, p: dict, cache: Any, d_h: np.ndarray, g: dict) -> np.ndarray:
        """Add the parameters' gradients into g; return d_x (N, D)."""
        return self.backward_context(p, cache, d_h, g)[0]

    def backward_context(self, p: dict, cache: Any, d_h: np.ndarray, g: dict) -> tuple:
        """Do as ``backward`` does; also give the gradient by the context, (N, C)."""
        phi = ACTIVATIONS[self.activation]
        d_z = d_h.reshape(len(d_h), -1)
        carried: dict[int, np.ndarray] = {}
        for l in reversed(range(len(self.linears))):
            if l in carried:
                d_z = d_z + carried.pop(l)
            if self.skips[l]:
                carried[l - 2] = d_z
            d_a = self.linears[l].backward(p, cache[l], d_z, g)
            if l:
                d_z = d_a if self.bare[l - 1] else phi.backward(cache[l], d_a)
        C = self.context
        return self.embed.backward(cache[0][:, C:], d_a[:, C:]), d_a[:, :C]

    def jacobian(
        self, p: Views, context: np.ndarray, x: np.ndarray, slope: np.ndarray
    ) -> np.ndarray:
        """Return how quantities that follow h with this slope (N, D, K) follow x, (N, D, D).

        Layer by layer from the outputs, D rows of a product a sample; no parameter's gradient.
        """
        _, a = self.forward(p, context, x)
        N, D, K = slope.shape
        last = len(self.linears) - 1
        phi = ACTIVATIONS[self.activation].backward
        W = self.weights(p)
        d_a = np.einsum("nik,ikc->nic", slope, W[last].reshape(D, K, -1), optimize=True)
        carried: dict[int, np.ndarray] = {}
        for l in reversed(range(last)):
            d_z = d_a if self.bare[l] else phi(a[l + 1][:, None], d_a)
            if l in carried:
                d_z = d_z + carried.pop(l)
            if self.skips[l]:
                carried[l - 2] = d_z
            d_a = d_z @ W[l]
        inputs = np.repeat(a[0][:, self.context :], D, axis=0)
        d_inputs = d_a[:, :, self.context :].reshape(N * D, -1)
        return self.embed.backward(inputs, d_inputs).reshape(N, D, D)

    def weights(self, p: dict) -> list[np.ndarray]:
        """Return M ⊙ W of each layer."""
        return [np.where(self.mask(l), p[lin.W], 0) for l, lin in enumerate(self.linears)]

    def staircases(self, p: dict) -> list[Staircase]:
        """Return the layers as the substitution kernels take them."""
        return [
            Staircase(p[linear.W], p[linear.b], linear.prefix, start, skip, bare)
            for linear, start, skip, bare in zip(
                self.linears, self.starts, self.skips, self.bare, strict=True
            )
        ]

    # ---- sampling: each unit once, when its degree is known --------------------------------------

    def init_state(self, p: dict, context: np.ndarray) -> State:
        """Return room for all units of the rows of a context (N, C), one row a unit."""
        return state_of(self.staircases(p), context)

    def advance(self, p: dict, state: State, group: slice, known: np.ndarray | None) -> np.ndarray:
        """Return h (N, P, K) of a group, from the units that ``known`` (N, Q) completes."""
        since, E = -1, self.embed.width
        if known is not None:
            since = group.start - known.shape[1]
            at = len(state.a[0]) - E * (self.features - since)
            state.a[0][at : at + E * known.shape[1]] = self.embed.forward(known).T
        h = advance(state, ACTIVATIONS[self.activation].forward, since, group)
        return h.reshape(len(h), group.stop - group.start, self.numbers)

    def solver(self, p: dict, context: np.ndarray) -> Staircases | Whole:
        """Return the network as iterations run it, block by block of features."""
        phi = ACTIVATIONS[self.activation].forward
        return Staircases(self.staircases(p), phi, self.embed, context)


def dense_size(inputs: int, hidden: Sequence[int], outputs: int) -> int:
    """Return how many weights and biases a network of these widths has, from integers alone.

    Examples
    --------
    >>> dense_size(4, (4,), 6)
    50
    """
    widths = [inputs, *integers("hidden", hidden, least=1), outputs]
    return sum((a + 1) * b for a, b in pairwise(widths))


class MaskedMLP(Feedforward):
    """Masked network: K params for each of D features, h_i a function of context and x_{<i}.

    Parameters
    ----------
    features, numbers : int
        D and K.
    hidden : sequence of int
        Widths of the hidden layers; none makes the conditioner linear.
    context : int
        C.
    activation : {"relu", "tanh", "elu"}
        The third runs in NumPy alone.
    residual : bool
        Close a residual block at every second hidden layer after the first: an odd number of equal
        widths.
    periodic : bool
        Features are angles, given as cosine and sine: where the circle closes, nothing jumps.
    degrees : sequence of sequences of int, optional
        Of the units of each hidden layer, sorted: a unit of degree m depends on features 1 to m. A
        network from elsewhere may have others than ours, which are spread evenly.
    levels : Level, optional
        Features are levels, given as indicators.
    linear_end : bool
        The last hidden layer enters the outputs without activation.

    Warns
    -----
    UserWarning
        When the widths make legal dependencies impossible; it says how many, and what width
        suffices.

    Raises
    ------
    ValueError
        If a width, the activation, or the residual layout makes no sense.

    Examples
    --------
    >>> net = MaskedMLP(features=3, numbers=2, hidden=(4,), context=1)
    >>> net.layout.shapes
    {'W0': (4, 4), 'b0': (4,), 'W1': (6, 4), 'b1': (6,)}
    """

    def __init__(
        self,
        features: int,
        numbers: int,
        hidden: Sequence[int] = (512, 512),
        context: int = 0,
        activation: str = "relu",
        residual: bool = False,
        periodic: bool = False,
        degrees: Sequence[Sequence[int]] | None = None,
        levels: Level | None = None,
        linear_end: bool = False,
    ):
        features = integer("features", features, least=1)
        context = integer("context", context, least=0)
        widths = integers("hidden", hidden, least=1)
        embed = levels or embedding(periodic)
        self.periodic = bool(periodic)
        self.own_degrees = degrees is not None
        inputs = masks.degrees_of_inputs(features, context)
        units = [masks.degrees_of_hidden(width, features, context) for width in widths]
        if degrees is not None:
            units = checked_degrees(degrees, widths, features)
        given = np.repeat(inputs, np.where(inputs > 0, embed.width, 1))
        known = [given, *units]
        super().__init__(
            features, numbers, widths, context, activation, residual, embed, known, linear_end
        )
        self._warn_of_lost_dependencies()

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this network."""
        return {**super().config(), "periodic": self.periodic}

    def _warn_of_lost_dependencies(self) -> None:
        staircases = [linear.prefix for linear in self.linears]
        staircases[0] = self.context + (staircases[0] - self.context) // self.embed.width
        staircases[-1] = staircases[-1][:: self.numbers]
        legal, lost = masks.lost_dependencies(staircases, self.features, self.context)
        if lost:
            needed = self.features if self.context else self.features - 1
            warnings.warn(
                f"hidden widths {self.hidden} make {lost} of {legal} legal dependencies "
                f"impossible; every width of at least {needed} keeps them all",
                stacklevel=3,
            )

    def solve_backward(self, p: dict, cache, slope, offset, d_x: np.ndarray) -> np.ndarray:
        """Return the d_u (N, D) of which a transform's ``backward`` makes d_x, last to first."""
        phi = ACTIVATIONS[self.activation].backward
        layers, C = self.staircases(p), self.context
        return substitute_back(layers, phi, cache, slope, offset, d_x, C, self.embed.backward)


def checked_degrees(degrees, widths: tuple[int, ...], features: int) -> list[np.ndarray]:
    """Return the degrees of hidden units as arrays, or say what is wrong with them."""
    units = [np.asarray(layer) for layer in degrees]
    if [layer.shape for layer in units] != [(width,) for width in widths]:
        got = [layer.shape for layer in units]
        raise ValueError(f"degrees: expected one a unit of the widths {widths}, got {got}")
    for l, layer in enumerate(units):
        if layer.dtype.kind not in "iu" or (np.diff(layer) < 0).any():
            raise ValueError(f"degrees: expected sorted integers in hidden layer {l}, got {layer}")
        if layer.min() < 0 or layer.max() > features:
            raise ValueError(
                f"degrees: expected 0 to {features} in hidden layer {l}, got {layer.min()} to "
                f"{layer.max()}"
            )
    return units
