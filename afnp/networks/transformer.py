r"""The causal transformer as a conditioner (TarFlow's, arXiv 2412.06329, in small).

.. math::
    z_0 = W_c\, c + b_c + e_0, \quad z_t = W_x\, x_{t-1} + b_x + e_t, \qquad
    z \mathrel{+}= \mathrm{attention}(\mathrm{norm}(z)), \quad z \mathrel{+}= \mathrm{mlp}(\mathrm{norm}(z)), \qquad
    h_t = W_h\, \mathrm{norm}(z_t) + b_h

The features in generation order are cut into tokens of P. The sequence is shifted by one: place t
holds token t-1, and place 0 what is known before the first token, a learned start and the context.
With causal attention, h_t is then a function of the context and the tokens before t, whose K
numbers a feature transform all of token t at once. No width loses a dependency: each token keeps
its own keys and values, where a masked network shares its units.

Letters: N rows, D features, C context inputs, K numbers a feature, E inputs a feature, P features a
token, T = D / P tokens, M numbers a token inside.
"""

from __future__ import annotations

import numpy as np

from afnp.inputs import integer
from afnp.networks.attention import CausalAttention, LayerNorm, Memory, gelu, linear
from afnp.networks.masked_mlp import MaskedMLP
from afnp.params import Layout

__all__ = ["Block", "CausalTransformer"]

EXPANSION = 4
"""Hidden units of each block's MLP, in units of M."""

LEAST_WIDTH = 4
"""A layer norm fixes two of a token's M numbers: below 4 it would hardly let anything through."""


class Block:
    """One pre-norm block (arXiv 2002.04745): attention, then an MLP on each token, both added to what was there.

    Parameters
    ----------
    name : str
        Suffix of its parameters.
    width, heads : int
        M and A.
    """

    def __init__(self, name: str, width: int, heads: int):
        self.norms = LayerNorm(f"{name}a", width), LayerNorm(f"{name}b", width)
        self.attention = CausalAttention(name, width, heads)
        self.up, self.down = (
            linear(f"_up{name}", width, EXPANSION * width),
            linear(f"_down{name}", EXPANSION * width, width),
        )
        parts = (*self.norms, self.attention, self.up, self.down)
        self.shapes = {k: v for part in parts for k, v in part.shapes.items()}

    def forward(self, p: dict, z: np.ndarray) -> tuple[np.ndarray, tuple]:
        """Map z (N, T, M) to z (N, T, M)."""
        x, norm_a = self.norms[0].forward(p, z)
        y, attention = self.attention.forward(p, x)
        z = z + y
        x, norm_b = self.norms[1].forward(p, z)
        y, mlp = self._mlp(p, x.reshape(-1, z.shape[-1]))
        return z + y.reshape(z.shape), (norm_a, attention, norm_b, mlp)

    def backward(self, p: dict, cache: tuple, d_z: np.ndarray, g: dict) -> np.ndarray:
        """Add the parameters' gradients into g; return d_z (N, T, M) of the block's input."""
        norm_a, attention, norm_b, mlp = cache
        d_x = self._mlp_backward(p, mlp, d_z.reshape(-1, d_z.shape[-1]), g).reshape(d_z.shape)
        d_z = d_z + self.norms[1].backward(p, norm_b, d_x, g)
        d_x = self.attention.backward(p, attention, d_z, g)
        return d_z + self.norms[0].backward(p, norm_a, d_x, g)

    def _mlp(self, p: dict, x: np.ndarray) -> tuple[np.ndarray, tuple]:
        a, slope = gelu(self.up.forward(p, x))
        return self.down.forward(p, a), (x, a, slope)

    def _mlp_backward(self, p: dict, cache: tuple, d_y: np.ndarray, g: dict) -> np.ndarray:
        x, a, slope = cache
        return self.up.backward(p, x, slope * self.down.backward(p, a, d_y, g), g)

    def step(self, p: dict, t: int, z: np.ndarray, memory: Memory) -> np.ndarray:
        """Map place t alone, (N, M); earlier places are there as keys and values."""
        z = z + self.attention.step(p, t, self.norms[0].forward(p, z)[0], memory)
        return z + self._mlp(p, self.norms[1].forward(p, z)[0])[0]

    def work(self, T: int) -> int:
        """Return the multiply-adds for T tokens."""
        return self.attention.work(T) + T * int(self.up.prefix.sum() + self.down.prefix.sum())


class CausalTransformer:
    """K numbers for each of D features, functions of the context and of the features of earlier tokens.

    Parameters
    ----------
    features, numbers : int
        D and K.
    patch : int
        P, which divides D.
    width, heads, blocks : int
        M, at least 4; how many heads, which divide M; how many blocks.
    context : int
        C.
    periodic : bool
        Features are angles, heard as cosine and sine.

    Raises
    ------
    ValueError
        If the patch does not divide the features, the heads do not divide the width, or a number is
        too small.

    Examples
    --------
    >>> net = CausalTransformer(features=6, numbers=2, patch=2, width=8, heads=2, blocks=1)
    >>> p = net.layout.views(np.zeros(net.layout.size))
    >>> net.initialize(p, np.random.default_rng(0), last=1.0)
    >>> h, _ = net.forward(p, np.zeros((5, 6)))
    >>> h.shape
    (5, 6, 2)
    """

    def __init__(
        self,
        features: int,
        numbers: int,
        patch: int = 1,
        width: int = 64,
        heads: int = 4,
        blocks: int = 2,
        context: int = 0,
        periodic: bool = False,
    ):
        self.features, self.numbers, self.context = features, numbers, context
        self.patch, self.width = (
            integer("patch", patch, least=1),
            integer("width", width, least=LEAST_WIDTH),
        )
        self.heads, self.depth = (
            integer("heads", heads, least=1),
            integer("blocks", blocks, least=1),
        )
        self._check()
        self.tokens, self.embedding = features // self.patch, 2 if periodic else 1
        self.size = self.embedding * self.patch  # inputs a token
        self.start = linear("_start", context, self.width)
        self.embed = linear("_embed", self.size, self.width)
        self.blocks = [Block(str(b), self.width, self.heads) for b in range(self.depth)]
        self.norm, self.out = (
            LayerNorm("", self.width),
            linear("_out", self.width, self.patch * numbers),
        )
        shapes = self.start.shapes | self.embed.shapes | {"places": (self.tokens, self.width)}
        parts: tuple = (*self.blocks, self.norm, self.out)
        self.layout = Layout(shapes | {k: v for part in parts for k, v in part.shapes.items()})

    @staticmethod
    def count(
        features: int, numbers: int, patch: int, width: int, blocks: int, context: int, angles: bool
    ) -> int:
        """Return how many parameters such a network has, from integers alone."""
        D, C = features, integer("context", context, least=0)
        P, M = integer("patch", patch, least=1), integer("width", width, least=LEAST_WIDTH)
        if D % P:
            raise ValueError(f"patch: expected a divisor of {D} features, got {P}")
        tokens = D // P
        start = (C + 1) * M
        embed = ((2 if angles else 1) * P + 1) * M
        attention = 3 * M * M + (M + 1) * M
        mlp = (M + 1) * EXPANSION * M + (EXPANSION * M + 1) * M
        block = 4 * M + attention + mlp
        out = 2 * M + (M + 1) * P * numbers
        return start + embed + tokens * M + integer("blocks", blocks, least=1) * block + out

    def _check(self) -> None:
        if self.features % self.patch:
            fit = [P for P in range(1, self.features + 1) if self.features % P == 0]
            raise ValueError(
                f"patch: expected a divisor of {self.features} features, one of {fit}, got {self.patch}"
            )
        if self.width % self.heads:
            raise ValueError(
                f"heads: expected a divisor of the width {self.width}, got {self.heads}"
            )

    def initialize(
        self, p: dict, rng: np.random.Generator, gain: float = 1.0, last: float = 0.01
    ) -> None:
        r"""Draw parameters in place; a small last map makes the flow start near the identity.

        .. math:: W_{rc} \sim \mathcal N(0,\, \mathrm{gain}^2 / \mathrm{inputs}), \qquad
                  e \sim \mathcal N(0, 1 / 4), \qquad b = \beta = 0, \quad \gamma = 1

        What is added to a token in each of the blocks is divided by the square root of twice their
        number.
        """
        for name, values in p.items():
            if name.startswith("W"):
                values[:] = (
                    gain / np.sqrt(max(values.shape[1], 1)) * rng.standard_normal(values.shape)
                )
            else:
                values[:] = name.startswith("gamma")
        p["places"][:] = 0.5 * rng.standard_normal(p["places"].shape)
        p[self.out.W][:] *= last
        for block in self.blocks:
            p[block.attention.out.W][:] /= np.sqrt(2 * self.depth)
            p[block.down.W][:] /= np.sqrt(2 * self.depth)

    def hear(self, context: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the inputs (N, C + E D): the context, and x (N, D) or for each angle (cos x, sin x)."""
        return np.concatenate([context, self._heard(x)], axis=1)

    def _heard(self, x: np.ndarray) -> np.ndarray:
        return MaskedMLP.embed(x) if self.embedding == 2 else x

    def hear_backward(self, inputs: np.ndarray, d_inputs: np.ndarray, context: int) -> np.ndarray:
        """Return d_x (N, D) behind the first ``context`` inputs: for angles d_sin cos x - d_cos sin x."""
        x, d_x = inputs[:, context:], d_inputs[:, context:]
        return d_x if self.embedding == 1 else d_x[:, 1::2] * x[:, ::2] - d_x[:, ::2] * x[:, 1::2]

    def _cut(self, inputs: np.ndarray) -> np.ndarray:
        """Return all tokens but the last, which nobody hears: (N (T - 1), E P)."""
        tokens = inputs[:, self.context :].reshape(len(inputs), self.tokens, self.size)[:, :-1]
        return tokens.reshape(len(inputs) * (self.tokens - 1), self.size)

    def forward(self, p: dict, inputs: np.ndarray) -> tuple[np.ndarray, tuple]:
        """Map inputs (N, C + E D) to h (N, D, K)."""
        N, T, M = len(inputs), self.tokens, self.width
        first = self.start.forward(p, inputs[:, : self.context])[:, None]
        z = np.concatenate(
            [first, self.embed.forward(p, self._cut(inputs)).reshape(N, T - 1, M)], axis=1
        )
        z, caches = z + p["places"], []
        for block in self.blocks:
            z, cache = block.forward(p, z)
            caches.append(cache)
        n, norm = self.norm.forward(p, z)
        rows = n.reshape(N * T, M)
        return self.out.forward(p, rows).reshape(N, self.features, self.numbers), (
            inputs,
            caches,
            norm,
            rows,
        )

    def backward(self, p: dict, cache: tuple, d_h: np.ndarray, g: dict) -> np.ndarray:
        """Add the parameters' gradients into g; return d_inputs (N, C + E D)."""
        inputs, caches, norm, rows = cache
        N, T, M = len(inputs), self.tokens, self.width
        d_n = self.out.backward(p, rows, d_h.reshape(N * T, self.patch * self.numbers), g)
        d_z = self.norm.backward(p, norm, d_n.reshape(N, T, M), g)
        for block, block_cache in zip(reversed(self.blocks), reversed(caches), strict=True):
            d_z = block.backward(p, block_cache, d_z, g)
        g["places"] += d_z.sum(axis=0)
        d_context = self.start.backward(p, inputs[:, : self.context], d_z[:, 0], g)
        d_tokens = self.embed.backward(p, self._cut(inputs), d_z[:, 1:].reshape(-1, M), g)
        d_x = np.zeros((N, self.embedding * self.features), dtype=d_tokens.dtype)
        d_x[:, : (T - 1) * self.size] = d_tokens.reshape(
            N, (T - 1) * self.size
        )  # nobody hears the last token
        return np.concatenate([d_context, d_x], axis=1)

    def memory(self, N: int, dtype) -> list[Memory]:
        """Return room for every block's keys and values: 2 N T M numbers a block."""
        return [block.attention.memory(N, self.tokens, dtype) for block in self.blocks]

    def step(self, p: dict, t: int, known: np.ndarray, memory: list[Memory]) -> np.ndarray:
        """Return h (N, P, K) of token t, from token t-1 (N, P), or for t = 0 from the context (N, C)."""
        z = self.embed.forward(p, self._heard(known)) if t else self.start.forward(p, known)
        z = z + p["places"][t]
        for block, keys_and_values in zip(self.blocks, memory, strict=True):
            z = block.step(p, t, z, keys_and_values)
        return self.out.forward(p, self.norm.forward(p, z)[0]).reshape(
            len(z), self.patch, self.numbers
        )

    @property
    def work(self) -> int:
        """Multiply-adds a row of one pass, without those above the triangles of attention."""
        T, (start, embed, out) = (
            self.tokens,
            (int(m.prefix.sum()) for m in (self.start, self.embed, self.out)),
        )
        return start + (T - 1) * embed + sum(block.work(T) for block in self.blocks) + T * out
