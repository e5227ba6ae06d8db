r"""The plain multilayer perceptron of a coupling: every unit depends on all inputs.

.. math::
    z^{(0)} = W^{(0)} a^{(0)} + b^{(0)}, \qquad
    z^{(l)} = W^{(l)} \phi(z^{(l-1)}) + b^{(l)} \; (+\, z^{(l-2)}), \qquad h = z^{(L-1)}

A coupling (arXiv 1410.8516) generates its features in two blocks: those that pass through, x_A, and
those that are transformed, x_B. For the second block all of x_A is known before it begins, exactly
as a context is. So the network is the masked one of :mod:`afnp.networks.masked_mlp` with context
(c, x_A) in which every input and every hidden unit has degree 0: each row of each staircase is
full, and all of them become known at once.

Letters: N rows, A features that pass and B of the second block, C context inputs, H hidden units, K
params each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afnp.inputs import integers
from afnp.networks.features import embedding
from afnp.networks.masked_mlp import Feedforward, dense_size

__all__ = ["MLP"]


class MLP(Feedforward):
    """Dense network: K params for each of B features, all functions of the same C + A inputs.

    Parameters
    ----------
    features, numbers : int
        B and K.
    hidden, activation, residual, context
        As in :class:`afnp.networks.MaskedMLP`.
    inputs : int
        A, how many features pass through.
    periodic : bool
        Those are angles, given as cosine and sine.
    linear_end : bool
        The last hidden layer enters the outputs without activation.

    Examples
    --------
    >>> net = MLP(features=3, numbers=2, hidden=(4,), inputs=4, context=1)
    >>> net.layout.shapes
    {'W0': (4, 5), 'b0': (4,), 'W1': (6, 4), 'b1': (6,)}
    >>> [linear.prefix.tolist() for linear in net.linears]
    [[5, 5, 5, 5], [4, 4, 4, 4, 4, 4]]
    """

    def __init__(
        self,
        features: int,
        numbers: int,
        hidden: Sequence[int] = (512, 512),
        inputs: int = 0,
        context: int = 0,
        activation: str = "relu",
        residual: bool = False,
        periodic: bool = False,
        linear_end: bool = False,
    ):
        widths, embed = integers("hidden", hidden, least=1), embedding(periodic)
        self.inputs, self.periodic = inputs, bool(periodic)
        given = context + embed.width * inputs
        degrees = [np.zeros(width, dtype=np.int64) for width in (given, *widths)]
        super().__init__(
            features, numbers, widths, context, activation, residual, embed, degrees, linear_end
        )

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this network."""
        return {**super().config(), "inputs": self.inputs, "periodic": self.periodic}

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters ``from_config(config)`` has, from integers alone."""
        inputs = config["context"] + (2 if config["periodic"] else 1) * config["inputs"]
        return dense_size(inputs, config["hidden"], config["features"] * config["numbers"])
