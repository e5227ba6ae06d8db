r"""The causal transformer as a conditioner (TarFlow's, arXiv 2412.06329, in small).

.. math::
    z_0 = W_c\, c + b_c + e_0, \quad z_t = W_x\, x_{t-1} + b_x + e_t, \qquad
    z \mathrel{+}= \mathrm{attention}(\mathrm{norm}(z)), \quad
    z \mathrel{+}= \mathrm{mlp}(\mathrm{norm}(z)), \qquad
    h_t = W_h\, \mathrm{norm}(z_t) + b_h

The features in generation order are cut into tokens of P. The sequence is shifted by one: place t
holds token t-1, and place 0 what is known before the first token, a learned start and the context.
With causal attention, h_t is then a function of the context and the tokens before t, whose K
params a feature transform all of token t at once. No width loses a dependency: each token keeps
its own keys and values, where a masked network shares its units.

Letters: N rows, D features, C context inputs, K params a feature, E inputs a feature, P features a
token, T = D / P tokens, M numbers a token inside.
"""

from __future__ import annotations

import numpy as np

from afnp.inputs import integer
from afnp.networks.attention import CausalAttention, LayerNorm, Memory, gelu, linear
from afnp.networks.base import Network
from afnp.networks.features import embedding
from afnp.params import Layout

__all__ = ["Block", "CausalTransformer"]

EXPANSION = 4
"""Hidden units of each block's MLP, in units of M."""

LEAST_WIDTH = 4
"""A layer norm fixes two of a token's M numbers: below 4 it would hardly let anything through."""


class Block:
    """One pre-norm block (arXiv 2002.04745).

    Attention, then an MLP on each token, both added to what was there.

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
        self.up = linear(f"_up{name}", width, EXPANSION * width)
        self.down = linear(f"_down{name}", EXPANSION * width, width)
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


class CausalTransformer(Network):
    """K params for each of D features, functions of the context and of earlier tokens' features.

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
        Features are angles, given as cosine and sine.

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
    >>> h, _ = net.forward(p, np.empty((5, 0)), np.zeros((5, 6)))
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
        self.patch = integer("patch", patch, least=1)
        self.width = integer("width", width, least=LEAST_WIDTH)
        self.heads = integer("heads", heads, least=1)
        layers = integer("blocks", blocks, least=1)
        self._check()
        self.tokens = features // self.patch
        self.embed = embedding(periodic)
        self.periodic = bool(periodic)
        self.size = self.embed.width * self.patch  # inputs a token
        self.start = linear("_start", context, self.width)
        self.token = linear("_embed", self.size, self.width)
        self.blocks = [Block(str(b), self.width, self.heads) for b in range(layers)]
        self.norm = LayerNorm("", self.width)
        self.out = linear("_out", self.width, self.patch * numbers)
        shapes = self.start.shapes | self.token.shapes | {"places": (self.tokens, self.width)}
        parts: tuple = (*self.blocks, self.norm, self.out)
        self.layout = Layout(shapes | {k: v for part in parts for k, v in part.shapes.items()})

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this network."""
        return {
            "features": self.features,
            "numbers": self.numbers,
            "patch": self.patch,
            "width": self.width,
            "heads": self.heads,
            "blocks": len(self.blocks),
            "context": self.context,
            "periodic": self.periodic,
        }

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters ``from_config(config)`` has, from integers alone."""
        D = integer("features", config["features"], least=1)
        C = integer("context", config["context"], least=0)
        numbers = integer("numbers", config["numbers"], least=1)
        P = integer("patch", config["patch"], least=1)
        M = integer("width", config["width"], least=LEAST_WIDTH)
        blocks = config["blocks"]
        if D % P:
            raise ValueError(f"patch: expected a divisor of {D} features, got {P}")
        tokens = D // P
        start = (C + 1) * M
        token = ((2 if config["periodic"] else 1) * P + 1) * M
        attention = 3 * M * M + (M + 1) * M
        mlp = (M + 1) * EXPANSION * M + (EXPANSION * M + 1) * M
        block = 4 * M + attention + mlp
        out = 2 * M + (M + 1) * P * numbers
        return start + token + tokens * M + integer("blocks", blocks, least=1) * block + out

    def _check(self) -> None:
        if self.features % self.patch:
            fit = [P for P in range(1, self.features + 1) if self.features % P == 0]
            raise ValueError(
                f"patch: expected a divisor of {self.features} features, one of {fit}, "
                f"got {self.patch}"
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
                scale = gain / np.sqrt(max(values.shape[1], 1))
                values[:] = scale * rng.standard_normal(values.shape)
            else:
                values[:] = name.startswith("gamma")
        p["places"][:] = 0.5 * rng.standard_normal(p["places"].shape)
        p[self.out.W][:] *= last
        for block in self.blocks:
            p[block.attention.out.W][:] /= np.sqrt(2 * len(self.blocks))
            p[block.down.W][:] /= np.sqrt(2 * len(self.blocks))

    def _cut(self, inputs: np.ndarray) -> np.ndarray:
        """Return all tokens but the last, on which nobody depends: (N (T - 1), E P)."""
        tokens = inputs.reshape(len(inputs), self.tokens, self.size)[:, :-1]
        return tokens.reshape(len(inputs) * (self.tokens - 1), self.size)

    def forward(self, p: dict, context: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, tuple]:
        """Map (N, C) and x (N, D) to h (N, D, K)."""
        N, T, M = len(x), self.tokens, self.width
        inputs = self.embed.forward(x)
        first = self.start.forward(p, context)[:, None]
        rest = self.token.forward(p, self._cut(inputs)).reshape(N, T - 1, M)
        z = np.concatenate([first, rest], axis=1)
        z = z + p["places"]
        caches = []
        for block in self.blocks:
            z, cache = block.forward(p, z)
            caches.append(cache)
        n, norm = self.norm.forward(p, z)
        rows = n.reshape(N * T, M)
        h = self.out.forward(p, rows).reshape(N, self.features, self.numbers)
        return h, (context, inputs, caches, norm, rows)

    def backward(self, p: dict, cache: tuple, d_h: np.ndarray, g: dict) -> np.ndarray:
        """Add the parameters' gradients into g; return d_x (N, D)."""
        return self.backward_context(p, cache, d_h, g)[0]

    def backward_context(self, p: dict, cache: tuple, d_h: np.ndarray, g: dict) -> tuple:
        """Do as ``backward`` does; also give the gradient by the context, (N, C)."""
        context, inputs = cache[:2]
        N, T, M = len(inputs), self.tokens, self.width
        d_z = self._backward_places(p, cache, d_h, g)
        d_context = self.start.backward(p, context, d_z[:, 0], g)
        d_tokens = self.token.backward(p, self._cut(inputs), d_z[:, 1:].reshape(-1, M), g)
        d_inputs = np.zeros((N, self.embed.width * self.features), dtype=d_tokens.dtype)
        d_inputs[:, : (T - 1) * self.size] = d_tokens.reshape(N, (T - 1) * self.size)
        return self.embed.backward(inputs, d_inputs), d_context

    def _backward_places(self, p: dict, cache: tuple, d_h: np.ndarray, g: dict) -> np.ndarray:
        """Add the gradients of all but the two embeddings into g; return d_z of places."""
        _, _, caches, norm, rows = cache
        N, T, M = len(d_h), self.tokens, self.width
        d_n = self.out.backward(p, rows, d_h.reshape(N * T, self.patch * self.numbers), g)
        d_z = self.norm.backward(p, norm, d_n.reshape(N, T, M), g)
        for block, block_cache in zip(reversed(self.blocks), reversed(caches), strict=True):
            d_z = block.backward(p, block_cache, d_z, g)
        g["places"] += d_z.sum(axis=0)
        return d_z

    def init_state(self, p: dict, context: np.ndarray) -> tuple[np.ndarray, list[Memory]]:
        """Return the context (N, C), and room for every block's keys and values.

        2 N T M numbers a block.
        """
        N = len(context)
        dtype = np.result_type(context, p["places"])
        return context, [block.attention.memory(N, self.tokens, dtype) for block in self.blocks]

    def advance(self, p: dict, state: tuple, group: slice, known: np.ndarray | None) -> np.ndarray:
        """Return h (N, P, K) of a token, from the one before it (N, P), or from the context."""
        context, memory = state
        t = group.start // self.patch
        if known is None:
            z = self.start.forward(p, context)
        else:
            z = self.token.forward(p, self.embed.forward(known))
        z = z + p["places"][t]
        for block, keys_and_values in zip(self.blocks, memory, strict=True):
            z = block.step(p, t, z, keys_and_values)
        h = self.out.forward(p, self.norm.forward(p, z)[0])
        return h.reshape(len(z), self.patch, self.numbers)

    @property
    def activations(self) -> int:
        """Numbers a row that one pass keeps, for cutting long inputs into blocks."""
        each = 22 * self.width + 3 * self.heads * self.tokens
        return self.tokens * (len(self.blocks) * each + self.patch * self.numbers)

    @property
    def cost(self) -> int:
        """Multiply-adds a row of one pass, without those above the triangles of attention."""
        T = self.tokens
        start, token, out = (int(m.prefix.sum()) for m in (self.start, self.token, self.out))
        blocks = sum(block.work(T) for block in self.blocks)
        return start + (T - 1) * token + blocks + T * out
