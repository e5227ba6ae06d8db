r"""The masked multilayer perceptron of MADE, with residual blocks if wanted (ResMADE).

.. math::
    z^{(0)} = W^{(0)} a^{(0)} + b^{(0)}, \qquad
    z^{(l)} = W^{(l)} \phi(z^{(l-1)}) + b^{(l)} \; (+\, z^{(l-2)}), \qquad h = z^{(L-1)}

with every W under its staircase mask (arXiv 1502.03509). The term in parentheses closes a residual
block of two layers (arXiv 1904.05626): a residual network is a plain one in which every second
pre-activation is carried on. The network's inputs a⁽⁰⁾ are the context and then the features in
generation order.

Letters: N rows, D features, C context inputs, H hidden units, K numbers a feature, E inputs a
feature.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from afnp.inputs import choose, integer
from afnp.networks import masks
from afnp.networks.layers import ACTIVATIONS, MaskedLinear
from afnp.params import Layout
from afnp.sampling.substitution import Staircase

__all__ = ["MaskedMLP"]


class MaskedMLP:
    """Masked network: K numbers for each of D features, h_i a function of the context and features before i.

    Parameters
    ----------
    features, numbers : int
        D and K.
    hidden : sequence of int
        Widths of the hidden layers; none makes the conditioner linear.
    context : int
        C.
    activation : {"relu", "tanh"}
    residual : bool
        Close a residual block at every second hidden layer after the first: an odd number of equal
        widths.
    periodic : bool
        Features are angles, heard as cosine and sine: where the circle closes, nothing jumps.

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
    ):
        self.features, self.numbers, self.context = features, numbers, context
        if not isinstance(hidden, Iterable):
            raise ValueError(f"hidden: expected a sequence of widths, got {hidden!r}")
        self.hidden = tuple(integer("hidden", width, least=1) for width in hidden)
        self.activation, self.residual, self.embedding = activation, residual, 2 if periodic else 1
        self._check()
        self.degrees = self._degrees()
        last = len(self.hidden)
        self.linears = [
            MaskedLinear(masks.prefixes(rows, columns, strict=l == last), len(columns), name=str(l))
            for l, (columns, rows) in enumerate(
                zip(self.degrees[:-1], self.degrees[1:], strict=True)
            )
        ]
        self.skips = [residual and l % 2 == 0 and 0 < l < last for l in range(last + 1)]
        first_rows = np.arange(features + 1)
        self.starts = [np.searchsorted(degrees, first_rows) for degrees in self.degrees[1:-1]]
        self.starts.append(first_rows * numbers)
        self.layout = Layout({k: v for linear in self.linears for k, v in linear.shapes.items()})
        self._warn_of_lost_dependencies()

    @staticmethod
    def count(inputs: int, hidden: Sequence[int], outputs: int) -> int:
        """Return how many weights and biases a network of these widths has, from integers alone.

        >>> MaskedMLP.count(4, (4,), 6)
        50
        """
        widths = [inputs, *(integer("hidden", width, least=1) for width in hidden), outputs]
        return sum((a + 1) * b for a, b in pairwise(widths))

    def _degrees(self) -> list[np.ndarray]:
        """Return the degrees of the inputs, of each hidden layer, and of the outputs."""
        inputs = masks.degrees_of_inputs(self.features, self.context)
        return [
            np.repeat(inputs, np.where(inputs > 0, self.embedding, 1)),
            *(masks.degrees_of_hidden(width, self.features, self.context) for width in self.hidden),
            np.repeat(np.arange(1, self.features + 1), self.numbers),
        ]

    def _check(self) -> None:
        choose("activation", self.activation, sorted(ACTIVATIONS))
        if self.residual and (len(self.hidden) % 2 == 0 or len(set(self.hidden)) > 1):
            raise ValueError(
                f"hidden: residual=True needs an odd number of equal widths, got {self.hidden}"
            )

    def _warn_of_lost_dependencies(self) -> None:
        staircases = [linear.prefix for linear in self.linears]
        staircases[0] = self.context + (staircases[0] - self.context) // self.embedding
        staircases[-1] = staircases[-1][:: self.numbers]
        legal, lost = masks.lost_dependencies(staircases, self.features, self.context)
        if lost:
            needed = self.features if self.context else self.features - 1
            warnings.warn(
                f"hidden widths {self.hidden} make {lost} of {legal} legal dependencies impossible; "
                f"every width of at least {needed} keeps them all",
                stacklevel=3,
            )

    def initialize(
        self, p: dict, rng: np.random.Generator, gain: float = 6**-0.5, last: float = 0.01
    ) -> None:
        r"""Draw weights in place: each row with variance gain² · 2 / prefix, the last layer times ``last``.

        .. math:: W_{rc} \sim \mathcal N(0,\, 2\,\mathrm{gain}^2 / \mathrm{prefix}_r), \qquad b = 0

        A small last layer makes the flow start near the identity. The default variance, 1 / (3
        prefix), is below the gain of 1 that would keep activations' size: small data sets are then
        overfitted later.
        """
        for linear in self.linears:
            W, prefix = p[linear.W], linear.prefix
            scale = (
                gain
                * np.sqrt(2.0 / np.maximum(prefix, 1))
                * (last if linear is self.linears[-1] else 1.0)
            )
            W[:] = rng.standard_normal(W.shape) * scale[:, None] * masks.mask(prefix, W.shape[1])
            p[linear.b][:] = 0.0

    def hear(self, context: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the inputs (N, C + E D): the context, and x (N, D) or for each angle (cos x, sin x)."""
        return np.concatenate([context, self.embed(x) if self.embedding == 2 else x], axis=1)

    @staticmethod
    def embed(x: np.ndarray) -> np.ndarray:
        """Return (cos x, sin x) of each angle, (N, 2 D)."""
        return np.stack([np.cos(x), np.sin(x)], axis=-1).reshape(len(x), 2 * x.shape[1])

    def hear_backward(self, inputs: np.ndarray, d_inputs: np.ndarray, context: int) -> np.ndarray:
        """Return d_x (N, D) behind the first ``context`` inputs: for angles d_sin cos x - d_cos sin x."""
        x, d_x = inputs[:, context:], d_inputs[:, context:]
        return d_x if self.embedding == 1 else d_x[:, 1::2] * x[:, ::2] - d_x[:, ::2] * x[:, 1::2]

    def forward(self, p: dict, inputs: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Map inputs (N, C + E D) to h (N, D, K); the cache holds every layer's inputs."""
        phi = ACTIVATIONS[self.activation].forward
        a, z = [inputs], [self.linears[0].forward(p, inputs)]
        for linear, skip in zip(self.linears[1:], self.skips[1:], strict=True):
            a.append(phi(z[-1]))
            z.append(linear.forward(p, a[-1]))
            if skip:
                z[-1] += z[-3]
        return z[-1].reshape(len(inputs), self.features, self.numbers), a

    def backward(self, p: dict, cache: list[np.ndarray], d_h: np.ndarray, g: dict) -> np.ndarray:
        """Add the parameters' gradients into g; return d_inputs (N, C + D)."""
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
                d_z = phi.backward(cache[l], d_a)
        return d_a

    def staircases(self, p: dict) -> list[Staircase]:
        """Return the layers as the substitution kernels take them."""
        return [
            Staircase(p[linear.W], p[linear.b], linear.prefix, start, skip)
            for linear, start, skip in zip(self.linears, self.starts, self.skips, strict=True)
        ]
