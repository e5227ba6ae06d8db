r"""Base distributions: what the noise u is drawn from.

.. math:: \log p(u) = -\tfrac12 \sum_i u_i^2 - \tfrac D2 \log 2\pi

Letters: N rows, D features.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["StandardNormal"]


class StandardNormal:
    """Independent standard normal noise."""

    def log_prob(self, u: np.ndarray) -> np.ndarray:
        """Return log p(u) (N,), nats."""
        return -0.5 * (u * u).sum(axis=1) - 0.5 * u.shape[1] * math.log(2 * math.pi)

    def backward(self, u: np.ndarray, d_log_prob: np.ndarray) -> np.ndarray:
        """Return d_u (N, D) from the gradient d_log_prob (N,)."""
        return -u * d_log_prob[:, None]

    def sample(self, n: int, features: int, rng: np.random.Generator, dtype) -> np.ndarray:
        """Draw u (n, D)."""
        return rng.standard_normal((n, features), dtype=dtype)
