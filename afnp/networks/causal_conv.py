r"""Causal dilated convolutions: a conditioner with as many parameters for any number of features.

.. math::
    a^{(0)}_t &= E\, x_{t-1} + F c + e, \qquad
    z^{(l)}_t = W^{(l)} a^{(l)}_t + V^{(l)} a^{(l)}_{t - d_l} + U^{(l)} c + b^{(l)}

    y^{(l)}_t &= \tanh(z^{f}) \odot \sigma(z^{g}), \qquad
    a^{(l+1)}_t = a^{(l)}_t + S^{(l)} y^{(l)}_t + s^{(l)}, \qquad h_t = H a^{(L)}_t + h

(WaveNet, arXiv 1609.03499: kernels of two taps, z = (z^f, z^g), and dilations d_l that double.)
What lies before the first step is zero. The input is shifted by one step, so that h_t depends on
x_{t-1} and no later one; and nothing before its receptive field, :math:`F = 1 + \sum_l d_l` steps:
that is lost to u_t, whatever the data say. The last a is the sum of what all layers add, which is
WaveNet's sum of skips.

One step needs of every layer its newest activation and the one d_l steps ago. So both directions
can walk along a series of any length with a *queue* of d_l activations a layer: the density in
chunks that hand on their ends, the sampler step by step, each unit once (Fast WaveNet, arXiv
1611.09482). That is the substitution of :mod:`afnp.sampling.substitution` for a staircase that
repeats itself.

Letters: N rows, D features (steps), C context inputs, K params a feature, I inputs a feature, R
channels, L layers, G rows of z: 2 R if gated, else R.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from afnp.inputs import choose, integer, integers
from afnp.networks.base import Network
from afnp.networks.features import embedding
from afnp.networks.layers import ACTIVATIONS
from afnp.params import Layout

__all__ = ["CausalConv", "Rings"]

CHUNK_NUMBERS = 2**18
"""The density walks in chunks of about so many activations a layer: they stay in the cache, and
memory small."""


FARTHEST = 1024
"""A tap may reach so far back, or as far as the series is long: sampling keeps all that it
spans."""


class Rings(NamedTuple):
    """What the step-by-step sampler keeps: a ring of d_l activations a layer, and rows' biases."""

    rings: list[np.ndarray]
    """L of (d_l, N, R); step t of layer l lies at t mod d_l."""
    e: np.ndarray
    b: np.ndarray


class CausalConv(Network):
    """Stack of causal dilated convolutions: K params for each of D steps, from the steps before.

    Parameters
    ----------
    features, numbers : int
        D and K.
    channels : int
        R.
    dilations : sequence of int
        How far back the second tap of each layer reaches.
    context : int
        C: each row's context enters all layers at every step, the first too.
    activation : {"gated", "relu", "tanh", "elu"}
    periodic : bool
        Features are angles, given as cosine and sine.

    Raises
    ------
    ValueError
        If a width or dilation is no positive integer, or there is no such activation.

    Examples
    --------
    >>> net = CausalConv(features=1000, numbers=2, channels=4, dilations=(1, 2, 4))
    >>> net.receptive_field, net.layout.size, net.lost_dependencies()
    (8, 294, (499500, 491536))
    """

    streams = True

    def __init__(
        self,
        features: int,
        numbers: int,
        channels: int = 16,
        dilations: Sequence[int] = (1, 2, 4, 8),
        context: int = 0,
        activation: str = "gated",
        periodic: bool = False,
    ):
        choose("activation", activation, ("gated", *sorted(ACTIVATIONS)))
        self.features = integer("features", features, least=1)
        self.numbers = numbers
        self.context = integer("context", context, least=0)
        self.channels = integer("channels", channels, least=1)
        self.dilations = integers("dilations", dilations, least=1)
        farthest = max(self.features, FARTHEST)
        if max(self.dilations, default=1) > farthest:
            raise ValueError(
                f"dilations: expected at most {farthest}, the number of features or {FARTHEST}, "
                f"got {max(self.dilations)}"
            )
        self.activation = activation
        self.embed = embedding(periodic)
        self.periodic = bool(periodic)
        C, K, I, R, L = self.context, numbers, self.embedding, self.channels, len(self.dilations)
        G = self.gates = 2 * R if activation == "gated" else R
        self.layout = Layout(
            {"E": (R, I), "F": (R, C), "e": (R,)}
            | {
                "W": (L, G, R),
                "V": (L, G, R),
                "U": (L, G, C),
                "b": (L, G),
                "S": (L, R, R),
                "s": (L, R),
            }
            | {"H": (K, R), "h": (K,)}
        )

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this network."""
        return {
            "features": self.features,
            "numbers": self.numbers,
            "channels": self.channels,
            "dilations": list(self.dilations),
            "context": self.context,
            "activation": self.activation,
            "periodic": self.periodic,
        }

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters ``from_config(config)`` has, from integers alone."""
        R = integer("channels", config["channels"], least=1)
        C = integer("context", config["context"], least=0)
        K = integer("numbers", config["numbers"], least=1)
        G = 2 * R if config["activation"] == "gated" else R
        inputs = R * ((2 if config["periodic"] else 1) + C + 1)
        layers = len(config["dilations"])
        return inputs + layers * (G * (2 * R + C + 1) + R * (R + 1)) + K * (R + 1)

    # ---- who depends on whom ---------------------------------------------------------------------

    @property
    def receptive_field(self) -> int:
        """How many steps back h_t depends on x at most."""
        return 1 + sum(self.dilations)

    def reach(self) -> np.ndarray:
        """Return the distances t - j < D at which h_t depends on x_j.

        1 plus every sum of some of the dilations.
        """
        sums = {0}
        for d in self.dilations:
            sums |= {total + d for total in sums if total + d < self.features}
        distances = sorted(1 + total for total in sums if 1 + total < self.features)
        return np.array(distances, dtype=np.int64)

    def lost_dependencies(self) -> tuple[int, int]:
        """Return how many pairs (t, j < t) are legal, and how many the receptive field loses."""
        legal = self.features * (self.features - 1) // 2
        return legal, legal - int((self.features - self.reach()).sum())

    def allowed(self) -> np.ndarray:
        """Return which h_t may depend on which x_j, (D, D) bool: those before, within reach."""
        t = np.arange(self.features)
        return np.isin(t[:, None] - t, self.reach())

    @property
    def cost(self) -> int:
        """Useful ones of a row: nothing is multiplied with what lies before the first step."""
        D, R, G = self.features, self.channels, self.gates
        taps = sum(D + max(0, D - d) for d in self.dilations)
        once = self.context * (R + G * len(self.dilations))
        embedding = (D - 1) * R * self.embed.width
        mixing = D * R * (R * len(self.dilations) + self.numbers)
        return once + embedding + taps * G * R + mixing

    def initialize(
        self, p: dict, rng: np.random.Generator, gain: float = 1.0, last: float = 0.01
    ) -> None:
        r"""Draw weights in place: variance gain² over the inputs, of S also over L.

        The head times ``last``.

        .. math:: W, V \sim \mathcal N\Big(0, \frac{\mathrm{gain}^2}{2R}\Big), \qquad
                  S \sim \mathcal N\Big(0, \frac{\mathrm{gain}^2}{R L}\Big), \qquad e, b, s, h = 0

        L additions then have about the size of the embedding, and a small head starts the flow near
        the identity.
        """
        R, L = self.channels, max(1, len(self.dilations))
        fans = {
            "E": self.embedding,
            "F": max(1, self.context),
            "W": 2 * R,
            "V": 2 * R,
            "U": max(1, self.context),
        }
        for name, fan in (fans | {"S": R * L, "H": R}).items():
            size = last if name == "H" else gain
            p[name][:] = rng.standard_normal(p[name].shape) * size / np.sqrt(fan)
        for name in ("e", "b", "s", "h"):
            p[name][:] = 0.0

    def biases(self, p: dict, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what no step changes: e + F c, (N, R), and b + U c of each layer, (L, N, G)."""
        return p["e"] + context @ p["F"].T, p["b"][:, None] + context @ p["U"].transpose(0, 2, 1)

    # ---- the gate --------------------------------------------------------------------------------

    def _gate(self, z: np.ndarray) -> tuple[np.ndarray, tuple]:
        r"""Return y of z, and the cache.

        :math:`\tanh(z^f) \odot \sigma(z^g)`, with σ(z) = (1 + tanh(z/2)) / 2.
        """
        if self.activation != "gated":
            y = ACTIVATIONS[self.activation].forward(z)
            return y, (y,)
        f = np.tanh(z[..., : self.channels])
        g = (1 + np.tanh(z[..., self.channels :] / 2)) / 2
        return f * g, (f, g)

    def _gate_backward(self, cache: tuple, d_y: np.ndarray) -> np.ndarray:
        """Return d_z: d_f = d_y σ (1 - f²), d_g = d_y f σ (1 - σ)."""
        if self.activation != "gated":
            return ACTIVATIONS[self.activation].backward(cache[0], d_y)
        f, g = cache
        return np.concatenate([d_y * g * (1 - f * f), d_y * f * g * (1 - g)], axis=-1)

    # ---- many steps at once: the density ---------------------------------------------------------

    def tails(self, n: int, dtype) -> list[np.ndarray]:
        """Return what lies before the first step of n rows.

        Zeros, the input's last step and d_l of each layer.
        """
        widths = [(1, self.embedding), *((d, self.channels) for d in self.dilations)]
        return [np.zeros((n, *width), dtype=dtype) for width in widths]

    def run(
        self, p: dict, context: np.ndarray, x: np.ndarray, tails: list, caches: list | None = None
    ):
        """Return h (N, T, K) of the next T steps, which enter as x (N, T, I).

        Replace ``tails`` by their ends.

        A list of ``caches`` gets what ``backward`` needs: each layer's input and gate, and the last
        a.
        """
        T = x.shape[1]
        e, b = self.biases(p, context)
        past = np.concatenate([tails[0], x], axis=1)
        tails[0] = past[:, T:].copy()
        a = past[:, :T] @ p["E"].T + e[:, None]
        for l in range(len(self.dilations)):
            past = np.concatenate([tails[l + 1], a], axis=1)
            tails[l + 1] = past[:, T:].copy()
            y, gate = self._gate(a @ p["W"][l].T + past[:, :T] @ p["V"][l].T + b[l][:, None])
            if caches is not None:
                caches.append((a, y, gate))
            a = a + y @ p["S"][l].T + p["s"][l]
        if caches is not None:
            caches.append(a)
        return a @ p["H"].T + p["h"]

    def forward(self, p: dict, context: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, list]:
        """Map (N, C) and x (N, D) to h (N, D, K), all steps at once."""
        steps = self._steps(x)
        caches: list = [context, steps]
        tails = self.tails(len(x), np.result_type(x, context, p["E"]))
        return self.run(p, context, steps, tails, caches), caches

    def stream(self, p: dict, context: np.ndarray, x: np.ndarray, chunk: int = 0):
        """Yield columns and their h, chunk by chunk: the same to rounding, whatever the chunk."""
        dtype = np.result_type(x, context, p["E"])
        steps = chunk or max(1, CHUNK_NUMBERS // (self.gates * max(1, len(x))))
        tails = self.tails(len(x), dtype)
        for first in range(0, self.features, steps):
            columns = slice(first, first + steps)
            yield columns, self.run(p, context, self._steps(x[:, columns]), tails)

    def _steps(self, x: np.ndarray) -> np.ndarray:
        return self.embed.forward(x).reshape(*x.shape, self.embed.width)

    def backward(self, p: dict, cache: list, d_h: np.ndarray, g: dict) -> np.ndarray:
        """Add the parameters' gradients into g; return d_x (N, D)."""
        return self.backward_context(p, cache, d_h, g)[0]

    def backward_context(self, p: dict, cache: list, d_h: np.ndarray, g: dict) -> tuple:
        """Do as ``backward`` does; also give the gradient by the context, (N, C)."""
        x = cache[1]
        d_a, d_context = self._backward_steps(p, cache, d_h, g)
        d_x = np.zeros_like(x)
        d_x[:, :-1] = d_a[:, 1:] @ p["E"]
        flat = len(x), self.features * self.embed.width
        return self.embed.backward(x.reshape(flat), d_x.reshape(flat)), d_context

    def _backward_steps(self, p: dict, cache: list, d_h: np.ndarray, g: dict) -> tuple:
        """Add the parameters' gradients into g.

        Return d_a (N, D, R) of the first layer's input, and d_context (N, C).
        """
        context, x, *layers, a = cache
        g["H"] += _outer(d_h, a)
        g["h"] += d_h.sum(axis=(0, 1))
        d_a = d_h @ p["H"]
        d_context = np.zeros((len(x), self.context), d_h.dtype)
        for l in reversed(range(len(layers))):
            d_a, d_bias = self._layer_backward(p, l, layers[l], d_a, g)
            g["U"][l] += d_bias.T @ context
            d_context += d_bias @ p["U"][l]
        d_bias = d_a.sum(axis=1)
        g["E"] += _outer(d_a[:, 1:], x[:, :-1])
        g["e"] += d_bias.sum(axis=0)
        g["F"] += d_bias.T @ context
        return d_a, d_context + d_bias @ p["F"]

    def _layer_backward(self, p: dict, l: int, cache: tuple, d_out: np.ndarray, g: dict) -> tuple:
        """Add layer l's gradients.

        Return d_a (N, D, R) of its input, and d_z summed over the steps, (N, G).
        """
        a, y, gate = cache
        d = self.dilations[l]
        g["S"][l] += _outer(d_out, y)
        g["s"][l] += d_out.sum(axis=(0, 1))
        d_z = self._gate_backward(gate, d_out @ p["S"][l])
        d_bias = d_z.sum(axis=1)
        g["W"][l] += _outer(d_z, a)
        g["V"][l] += _outer(d_z[:, d:], a[:, :-d])
        g["b"][l] += d_bias.sum(axis=0)
        d_a = d_out + d_z @ p["W"][l]
        d_a[:, :-d] += d_z[:, d:] @ p["V"][l]
        return d_a, d_bias

    # ---- one step at a time: the sampler ---------------------------------------------------------

    def init_state(self, p: dict, context: np.ndarray) -> Rings:
        """Return empty rings for the rows of a context (N, C)."""
        shape = (len(context), self.channels)
        dtype = np.result_type(context, p["E"])
        rings = [np.zeros((d, *shape), dtype=dtype) for d in self.dilations]
        return Rings(rings, *self.biases(p, context))

    def advance(self, p: dict, state: Rings, group: slice, known: np.ndarray | None) -> np.ndarray:
        """Return h_t (N, 1, K) from the step before it, ``known`` (N, 1).

        Every unit once, and O(1) a step.
        """
        a = state.e
        if known is not None:
            a = self.embed.forward(known) @ p["E"].T + a
        for l, ring in enumerate(state.rings):
            at = group.start % len(ring)
            y, _ = self._gate(a @ p["W"][l].T + ring[at] @ p["V"][l].T + state.b[l])
            ring[at] = a
            a = a + y @ p["S"][l].T + p["s"][l]
        return (a @ p["H"].T + p["h"])[:, None]


def _outer(d_z: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Return the sum over rows and steps of d_z aᵀ, (G, R)."""
    return d_z.reshape(-1, d_z.shape[-1]).T @ a.reshape(-1, a.shape[-1])
