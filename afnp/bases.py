r"""Base distributions: what the noise u is drawn from.

.. math:: \log p(u) = -\tfrac12 \sum_i u_i^2 - \tfrac D2 \log 2\pi

Letters: N rows, D features.
"""

from __future__ import annotations

import math

import numpy as np

from afnp.params import Layout, Views

__all__ = ["BASES", "StandardNormal"]


class StandardNormal:
    """Independent standard normal noise."""

    layout = Layout({})

    def __init__(self, features: int):
        self.features = features

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this distribution."""
        return {"features": self.features}

    def initialize(self, p: Views, rng: np.random.Generator) -> None:
        """Do nothing: there are no parameters."""

    def log_prob(self, p: Views, u: np.ndarray) -> np.ndarray:
        """Return log p(u) (N,), nats."""
        return -0.5 * (u * u).sum(axis=1) - 0.5 * u.shape[1] * math.log(2 * math.pi)

    def backward(self, p: Views, u: np.ndarray, d_log_prob: np.ndarray, g: Views) -> np.ndarray:
        """Return d_u (N, D) from the gradient d_log_prob (N,)."""
        return -u * d_log_prob[:, None]

    def sample(self, p: Views, n: int, rng: np.random.Generator, dtype) -> np.ndarray:
        """Draw u (n, D)."""
        return rng.standard_normal((n, self.features), dtype=dtype)


BASES = {cls.__name__: cls for cls in (StandardNormal,)}
"""By the name that model files use."""
