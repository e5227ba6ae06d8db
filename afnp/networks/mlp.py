r"""The plain multilayer perceptron of a coupling: a masked one in which everybody knows the same.

.. math::
    z^{(0)} = W^{(0)} a^{(0)} + b^{(0)}, \qquad
    z^{(l)} = W^{(l)} \phi(z^{(l-1)}) + b^{(l)} \; (+\, z^{(l-2)}), \qquad h = z^{(L-1)}

A coupling (arXiv 1410.8516) generates its features in two blocks: those that pass through, x_A, and
those that are transformed, x_B. For the second block all of x_A is known before it begins, exactly
as a context is. So the network is the masked one of :mod:`afnp.networks.masked_mlp` with context
(c, x_A) in which every input and every hidden unit has degree 0: each row of each staircase is
full, and all of them become known at once.

Letters: N rows, B features of the second block, C inputs (the context and x_A), H hidden units, K
numbers each.
"""

from __future__ import annotations

import numpy as np

from afnp.networks.masked_mlp import MaskedMLP

__all__ = ["MLP"]


class MLP(MaskedMLP):
    """Dense network: K numbers for each of B features, all functions of the same C inputs.

    Parameters
    ----------
    features, numbers : int
        B and K.
    hidden, activation, residual
        As in :class:`afnp.networks.MaskedMLP`.
    context : int
        C, how many inputs there are: the condition and what is heard of the features that pass
        through.
    periodic : bool
        Those are angles, heard as cosine and sine.

    Examples
    --------
    >>> net = MLP(features=3, numbers=2, hidden=(4,), context=5)
    >>> net.layout.shapes
    {'W0': (4, 5), 'b0': (4,), 'W1': (6, 4), 'b1': (6,)}
    >>> [linear.prefix.tolist() for linear in net.linears]
    [[5, 5, 5, 5], [4, 4, 4, 4, 4, 4]]
    """

    def _degrees(self) -> list[np.ndarray]:
        return [
            np.zeros(self.context, dtype=np.int64),
            *(np.zeros(width, dtype=np.int64) for width in self.hidden),
            np.repeat(np.arange(1, self.features + 1), self.numbers),
        ]

    def _warn_of_lost_dependencies(self) -> None:
        """Do nothing: no width loses a dependency."""
