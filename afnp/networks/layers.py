r"""Layers by hand: the masked linear map and the activations, forward beside backward.

.. math:: y = x\,(M \odot W)^\top + b, \qquad a = \phi(z)

A layer holds shapes and masks only. Parameters ``p`` and gradients ``g`` travel as arguments;
``d_y`` means d(loss)/d(y), and gradients are added with ``+=``.

Letters: N rows, I inputs, J outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from afnp.networks import masks

__all__ = ["ACTIVATIONS", "Activation", "MaskedLinear"]

PANEL_HEIGHT = 128
"""Rows a panel of the staircase product. Lower skips more zeros, higher makes fewer and better
products."""


class MaskedLinear:
    r"""Linear layer that depends only on the inputs its staircase lets through.

    .. math:: y_{nj} = b_j + \sum_{i < \mathrm{prefix}_j} W_{ji}\, x_{ni}

    Entries of W above the staircase count as zero, whatever is written there.

    Parameters
    ----------
    prefix : (J,) int array
        How many inputs each output depends on; never decreasing.
    columns : int
        I.
    name : str
        Suffix of this layer's parameters: ``"W" + name`` (J, I) and ``"b" + name`` (J,).
    """

    def __init__(self, prefix: np.ndarray, columns: int, name: str = ""):
        self.prefix = prefix
        self.W, self.b = "W" + name, "b" + name
        self.shapes = {self.W: (len(prefix), columns), self.b: (len(prefix),)}
        self.panels = masks.panels(prefix, PANEL_HEIGHT)

    def forward(self, p: dict, x: np.ndarray) -> np.ndarray:
        """Map x (N, I) to y (N, J); the cache is x itself."""
        W = p[self.W]
        y = np.empty((len(x), len(W)), dtype=np.result_type(x, W))
        for panel in self.panels:
            np.matmul(x[:, : panel.riser], _masked(W, panel).T, out=y[:, panel.rows])
        return y + p[self.b]

    def backward(self, p: dict, x: np.ndarray, d_y: np.ndarray, g: dict) -> np.ndarray:
        """Add d_W = M ⊙ (d_yᵀ x) and d_b = Σ_n d_y into g; return d_x = d_y (M ⊙ W), (N, I)."""
        W, d_W = p[self.W], g[self.W]
        d_x = np.zeros((len(x), W.shape[1]), dtype=np.result_type(d_y, W))
        for panel in self.panels:
            d_rows, riser = d_y[:, panel.rows], panel.riser
            d_part = d_rows.T @ x[:, :riser]
            np.copyto(d_part[:, panel.tread :], 0, where=panel.beyond)
            d_W[panel.rows, :riser] += d_part
            d_x[:, :riser] += d_rows @ _masked(W, panel)
        g[self.b] += d_y.sum(axis=0)
        return d_x


def _masked(W: np.ndarray, panel: masks.Panel) -> np.ndarray:
    """Return M ⊙ W on a panel's rows, cut after the last column that any of them needs."""
    part = W[panel.rows, : panel.riser]
    if panel.tread == panel.riser:
        return part
    part = part.copy()
    np.copyto(part[:, panel.tread :], 0, where=panel.beyond)
    return part


class Activation(NamedTuple):
    """An elementwise function a = φ(z), and d_z from d_a and the output a."""

    forward: Callable[[np.ndarray], np.ndarray]
    backward: Callable[[np.ndarray, np.ndarray], np.ndarray]


ACTIVATIONS = {
    # relu(z) = max(z, 0),   d_z = d_a [a > 0]     (NumPy orders complex numbers by their real parts
    # first)
    "relu": Activation(lambda z: np.maximum(z, 0), lambda a, d_a: d_a * (a > 0)),
    # d tanh(z)/dz = 1 - tanh(z)²
    "tanh": Activation(np.tanh, lambda a, d_a: d_a * (1 - a * a)),
    # elu(z) = z where z > 0, else e^z - 1;   d_z = d_a (1 + min(a, 0))
    "elu": Activation(
        lambda z: np.maximum(z, 0) + np.expm1(np.minimum(z, 0)),
        lambda a, d_a: d_a * (1 + np.minimum(a, 0)),
    ),
}
"""Activation functions by name: relu, tanh, elu."""
