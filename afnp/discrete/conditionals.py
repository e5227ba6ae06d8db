r"""The factors of a discrete chain rule, from one masked network, in generation order.

.. math:: p(x_i = k \mid x_{<i}) = \frac{e^{h_{ik}}}{\sum_j e^{h_{ij}}}, \qquad h_{i0} = 0, \quad
          h_i = \text{network}\big([x_j = k],\ j < i\big)

A feature enters the network as indicators [x_i = k], all of degree i, so that the masks stay
staircases (arXiv 1502.03509) and sampling is the forward substitution of
:mod:`afnp.sampling.substitution`, each hidden unit once. Two levels are the binary case: one
indicator, one logit, and the softmax is a sigmoid.

Letters: N rows, D features, C context inputs, K levels, w indicators a feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afnp.networks import MaskedMLP
from afnp.networks.features import Level
from afnp.sampling.substitution import naive, substitution
from afnp.univariate.stable import logsumexp

__all__ = ["Conditionals", "draw", "log_softmax"]


class Conditionals(MaskedMLP):
    """Masked network whose outputs are distributions over K levels.

    Features come in generation order.

    Parameters
    ----------
    features, levels : int
        D and K; the network gives K - 1 logits a feature, relative to level 0.
    indicators : int
        w: K - 1 leaves out that of level 0; K tells level 0 from a feature that a unit does not
        depend on.
    hidden, context, activation, residual
        As in :class:`afnp.networks.MaskedMLP`.
    """

    def __init__(
        self, features: int, levels: int, indicators: int, hidden: Sequence[int], **options
    ):
        self.levels, self.indicators = levels, indicators
        named = Level(levels, indicators)
        super().__init__(features, levels - 1, hidden, levels=named, **options)

    def log_conditionals(
        self, p: dict, x: np.ndarray, context: np.ndarray
    ) -> tuple[np.ndarray, list]:
        """Return log p(x_i = k | x_<i) (N, D, K) and the cache."""
        h, cache = self.forward(p, context, x)
        return log_softmax(h), cache

    def log_prob(self, p: dict, x: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Return log p(x) (N,)."""
        return _at(self.log_conditionals(p, x, context)[0], x).sum(axis=1)

    def gradient(
        self, p: dict, x: np.ndarray, context: np.ndarray, d_log_prob: np.ndarray, g: dict
    ) -> np.ndarray:
        r"""Add the parameters' gradients from d_log_prob (N,) into g; return log p(x) (N,).

        .. math:: d_{h_{ik}} = d_{\log p} \, \big( [x_i = k] - p(x_i = k \mid x_{<i}) \big),
                  \qquad k \ge 1
        """
        log_p, cache = self.log_conditionals(p, x, context)
        d_h = (x[..., None] == np.arange(1, self.levels)) - np.exp(log_p[..., 1:])
        self.backward(p, cache, d_h * d_log_prob[:, None, None], g)
        return _at(log_p, x).sum(axis=1)

    def generate(
        self, p: dict, v: np.ndarray, context: np.ndarray, method: str = "substitution"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map uniform noise v (N, D) to levels x (N, D); also give log p(x) (N,)."""
        loop = substitution if method == "substitution" else naive
        x, log_p = loop(self, draw, p, v, context)
        return x.astype(np.intp), log_p


def log_softmax(h: np.ndarray) -> np.ndarray:
    """Return the K log-probabilities (..., K) of K - 1 logits h relative to level 0."""
    logits = np.concatenate([np.zeros_like(h[..., :1]), h], axis=-1)
    return logits - logsumexp(logits)[..., None]


def draw(h: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Invert the distribution function.

    Levels (...) from logits h (..., K - 1) and v (...) in [0, 1); and log p.

    .. math:: x = \#\{k : p(0) + \dots + p(k) \le v\}

    The sum is compared with v times its own total, so that rounding cannot reach an impossible last
    level.
    """
    log_p = log_softmax(h)
    F = np.exp(log_p).cumsum(axis=-1)
    x = (F <= v[..., None] * F[..., -1:]).sum(axis=-1)
    return x, _at(log_p, x)


def _at(log_p: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the entry of each distribution log_p (..., K) at level x (...)."""
    return np.take_along_axis(log_p, x[..., None], axis=-1)[..., 0]
