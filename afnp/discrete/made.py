r"""MADE for binary and categorical data: the exact chain rule in one order.

.. math:: \log p(x) = \sum_{r=1}^D \log p(x_{o_r} \mid x_{o_1}, \dots, x_{o_{r-1}})

Letters: N rows, D features, K levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afnp.discrete.model import DiscreteModel, network
from afnp.inputs import integer
from afnp.networks import masks

__all__ = ["DiscreteMADE"]


class DiscreteMADE(DiscreteModel):
    r"""Exact distribution over D features of K levels each, in one generation order.

    .. math:: \log p(x) = \sum_{r=1}^D \log p(x_{o_r} \mid x_{o_1}, \dots, x_{o_{r-1}})

    It is trained by :func:`afnp.fit` like a flow.

    Parameters
    ----------
    features : int
        D.
    levels : int
        K, the values 0, 1, ..., K - 1 of every feature.
    hidden : sequence of int
    order : {"natural", "reverse", "random"} or a permutation
        Feature ``order[r]`` comes r-th.
    context, activation, residual
        As in :class:`afnp.networks.MaskedMLP`.
    seed : int
        For initial parameters and the random order.
    dtype : float64 or float32
    theta : (P,) array, optional
        The parameters, instead of fresh ones; this very array becomes the model's.

    Raises
    ------
    ValueError
        If an argument makes no sense; it names argument, expectation and value.

    Examples
    --------
    >>> model = DiscreteMADE(3, hidden=(8,))
    >>> table = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1]), axis=-1).reshape(-1, 3)
    >>> float(np.exp(model.log_prob(table)).sum().round(12))
    1.0
    >>> model.sample(2, rng=0).shape
    (2, 3)
    """

    without = 1

    def __init__(
        self,
        features: int,
        levels: int = 2,
        hidden: Sequence[int] = (512, 512),
        order: str | Sequence[int] | np.ndarray = "natural",
        context: int = 0,
        activation: str = "relu",
        residual: bool = False,
        seed: int = 0,
        dtype=np.float64,
        theta: np.ndarray | None = None,
    ):
        net = network(features, levels, self.without, hidden, context, activation, residual)
        self.order = masks.order_of(
            order, net.features, np.random.default_rng([integer("seed", seed, least=0), 1])
        )
        super().__init__(net, seed, dtype, theta)

    def config(self) -> dict:
        """Return what rebuilds this model, but for ``theta``: numbers, strings and lists only."""
        return {**super().config(), "order": self.order.tolist()}

    def _log_prob(self, p, x, context):
        return self.net.log_prob(p, x[:, self.order], context)

    def _gradient(self, p, x, context, d_log_prob, g):
        return self.net.gradient(p, x[:, self.order], context, d_log_prob, g)

    def _sample(self, p, n, context, rng, method):
        v = rng.random((n, self.features), dtype=p.flat.dtype)
        x, log_prob = self.net.generate(p, v, context, method)
        return x[:, np.argsort(self.order)], log_prob
