r"""The pieces of a transformer by hand, backward beside forward: layer norm, GELU, attention.

.. math::
    n = \gamma \odot \frac{z - \bar z}{\sqrt{\overline{(z - \bar z)^2} + \epsilon}} + \beta, \qquad
    y_t = \sum_{s \le t} w_{ts} v_s, \quad
    w_{ts} = \frac{e^{q_t \cdot k_s / \sqrt H}}{\sum_{r \le t} e^{q_t \cdot k_r / \sqrt H}}

Attention (arXiv 1706.03762) lets token t attend to tokens s ≤ t: its matrix of weights w is a lower
triangle, the mask of this architecture. Everything else works on each token alone. Keys and values
of a token never change once it is known, so a sampler keeps them (the *KV cache*), and each is
computed once: forward substitution, once more.

Letters: N rows, T tokens, M numbers a token, A heads of H = M / A numbers. A piece holds shapes;
parameters ``p``, caches and gradients ``g`` travel as arguments.
"""

from __future__ import annotations

import math

import numpy as np

from afnp.networks.layers import MaskedLinear

__all__ = [
    "CausalAttention",
    "LayerNorm",
    "Memory",
    "causal_softmax",
    "gelu",
    "linear",
    "softmax_backward",
]

EPSILON = 1e-5
"""Added to the variance: a token of equal numbers stays finite."""

BEND = math.sqrt(2 / math.pi)

Memory = tuple[np.ndarray, np.ndarray]
"""Keys and values (N, A, T, H) of the tokens known so far."""


def linear(name: str, inputs: int, outputs: int) -> MaskedLinear:
    """Return a linear map of all its inputs: a staircase without steps."""
    return MaskedLinear(np.full(outputs, inputs), inputs, name)


def gelu(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return a and its slope da/dz, both of z's shape.

    Smooth, in the tanh form of arXiv 1606.08415.

    .. math:: a = \tfrac z2 (1 + t), \quad
              t = \tanh\!\big(\sqrt{2/\pi}\,(z + 0.044715\, z^3)\big), \qquad
              \frac{da}{dz} = \frac{1 + t}2 + \frac z2 (1 - t^2) \sqrt{2/\pi}\,(1 + 0.134145\, z^2)

    Examples
    --------
    >>> a, slope = gelu(np.array([-1.0, 0.0, 1.0]))
    >>> a.round(4), slope.round(4)
    (array([-0.1588,  0.    ,  0.8412]), array([-0.083,  0.5  ,  1.083]))
    """
    square = z * z
    t = np.tanh(BEND * z * (1 + 0.044715 * square))
    half = 0.5 * (1 + t)
    return z * half, half + 0.5 * z * (1 - t * t) * (BEND * (1 + 0.134145 * square))


def causal_softmax(s: np.ndarray) -> np.ndarray:
    r"""Turn scores s (..., T, T) into weights.

    Those of later tokens are exactly 0, whatever their scores.

    .. math:: w_{ts} = \frac{[s \le t]\, e^{s_{ts}}}{\sum_{r \le t} e^{s_{tr}}}

    The largest score that counts is subtracted first, so nothing overflows, and nobody attends to a
    later one.

    Examples
    --------
    >>> causal_softmax(np.array([[0.0, 9.0], [1.0, 1.0]]))
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    known = np.tri(s.shape[-2], dtype=bool)
    top = np.where(known, s.real, -np.inf).max(axis=-1, keepdims=True)
    e = np.where(known, np.exp(np.where(known, s - top, 0)), 0)
    return e / e.sum(axis=-1, keepdims=True)


def softmax_backward(w: np.ndarray, d_w: np.ndarray) -> np.ndarray:
    r"""Return :math:`d_s = w \odot (d_w - \sum_r w_r\, d_{w_r})`.

    Moving all scores alike moves nothing.
    """
    return w * (d_w - (w * d_w).sum(axis=-1, keepdims=True))


class LayerNorm:
    r"""Give each token mean 0 and variance 1, then a learned scale and shift (arXiv 1607.06450).

    .. math:: n = \frac{z - \bar z}{\sigma}, \quad
              \sigma^2 = \overline{(z - \bar z)^2} + \epsilon, \qquad y = \gamma \odot n + \beta
    """

    def __init__(self, name: str, width: int):
        self.gamma, self.beta = "gamma" + name, "beta" + name
        self.shapes = {self.gamma: (width,), self.beta: (width,)}

    def forward(self, p: dict, z: np.ndarray) -> tuple[np.ndarray, tuple]:
        """Map z (..., M) to y; the cache is n and 1/σ."""
        centred = z - z.mean(axis=-1, keepdims=True)
        r = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + EPSILON)
        n = centred * r
        return p[self.gamma] * n + p[self.beta], (n, r)

    def backward(self, p: dict, cache: tuple, d_y: np.ndarray, g: dict) -> np.ndarray:
        r"""Add d_gamma, d_beta into g.

        Return :math:`d_z = (d_n - \overline{d_n} - n\, \overline{n d_n}) / \sigma`.

        Mean and variance take away what moves all numbers alike, and what moves them along n.
        """
        n, r = cache
        tokens = tuple(range(d_y.ndim - 1))
        g[self.gamma] += (d_y * n).sum(axis=tokens)
        g[self.beta] += d_y.sum(axis=tokens)
        d_n = d_y * p[self.gamma]
        return r * (
            d_n - d_n.mean(axis=-1, keepdims=True) - n * (n * d_n).mean(axis=-1, keepdims=True)
        )


class CausalAttention:
    r"""Multi-head causal self-attention: token t attends to s ≤ t, each head by its own weights.

    .. math:: (q, k, v)_t = W x_t, \qquad y_t = W' \Big(\sum_{s \le t} w_{ts} v_s\Big) + b'

    W needs no bias: a key's would move all scores of a query alike, a value's can be moved into b'
    because weights add up to 1, and x comes from a norm that has a shift.
    """

    def __init__(self, name: str, width: int, heads: int):
        self.heads, self.size = heads, width // heads
        self.scale = self.size**-0.5
        self.W = f"W_qkv{name}"
        self.out = linear(f"_heads{name}", width, width)
        self.shapes = {self.W: (3 * width, width)} | self.out.shapes

    def _parts(self, p: dict, x: np.ndarray, T: int) -> np.ndarray:
        """Return q, k and v (3, N, A, T, H) of x (N T, M)."""
        return (x @ p[self.W].T).reshape(-1, T, 3, self.heads, self.size).transpose(2, 0, 3, 1, 4)

    def forward(self, p: dict, x: np.ndarray) -> tuple[np.ndarray, tuple]:
        """Map x (N, T, M) to y (N, T, M)."""
        N, T, M = x.shape
        rows = x.reshape(N * T, M)
        q, k, v = self._parts(p, rows, T)
        w = causal_softmax(self.scale * (q @ k.swapaxes(-1, -2)))
        joined = (w @ v).swapaxes(1, 2).reshape(N * T, M)
        return self.out.forward(p, joined).reshape(N, T, M), (rows, q, k, v, w, joined)

    def backward(self, p: dict, cache: tuple, d_y: np.ndarray, g: dict) -> np.ndarray:
        r"""Add the parameters' gradients into g; return d_x (N, T, M).

        .. math:: d_v = w^\top d_o, \quad d_w = d_o v^\top, \quad
                  d_q = d_s k / \sqrt H, \quad d_k = d_s^\top q / \sqrt H
        """
        rows, q, k, v, w, joined = cache
        N, T, M = d_y.shape
        d_joined = self.out.backward(p, joined, d_y.reshape(N * T, M), g)
        d_o = d_joined.reshape(N, T, self.heads, self.size).swapaxes(1, 2)
        d_s = self.scale * softmax_backward(w, d_o @ v.swapaxes(-1, -2))
        d_qkv = np.stack([d_s @ k, d_s.swapaxes(-1, -2) @ q, w.swapaxes(-1, -2) @ d_o])
        d_rows = d_qkv.transpose(1, 3, 0, 2, 4).reshape(N * T, 3 * M)
        g[self.W] += d_rows.T @ rows
        return (d_rows @ p[self.W]).reshape(N, T, M)

    def memory(self, N: int, T: int, dtype) -> Memory:
        """Return room for the keys and values of T tokens."""
        shape = N, self.heads, T, self.size
        return np.empty(shape, dtype), np.empty(shape, dtype)

    def step(self, p: dict, t: int, x: np.ndarray, memory: Memory) -> np.ndarray:
        """Map token t alone, x (N, M), to its y (N, M); keep its key and value in ``memory``."""
        keys, values = memory
        q, keys[:, :, t : t + 1], values[:, :, t : t + 1] = self._parts(p, x, 1)
        s = self.scale * (q @ keys[:, :, : t + 1].swapaxes(-1, -2))
        e = np.exp(s - s.real.max(axis=-1, keepdims=True))
        w = e / e.sum(axis=-1, keepdims=True)
        return self.out.forward(p, (w @ values[:, :, : t + 1]).reshape(x.shape))

    def work(self, T: int) -> int:
        """Return the useful multiply-adds for T tokens.

        The maps, and the triangles of q·k and w·v.
        """
        M = self.heads * self.size
        return T * 4 * M * M + T * (T + 1) * M
