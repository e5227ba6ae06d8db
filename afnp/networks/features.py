r"""How features enter a network: as they are, as points of the circle, or as indicators of levels.

.. math:: x_i \mapsto x_i, \qquad x_i \mapsto (\cos x_i, \sin x_i), \qquad x_i \mapsto ([x_i = k])_k

What a network is given of feature i has the degree of feature i, whatever its width. So masks stay
staircases, and with angles nothing jumps where the circle closes.

Letters: N rows, D features, E inputs a feature.
"""

from __future__ import annotations

import numpy as np

__all__ = ["Angle", "Level", "Raw", "embedding"]


class Raw:
    """Features as they are."""

    width = 1
    """E."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return x (N, D)."""
        return x

    def backward(self, inputs: np.ndarray, d_inputs: np.ndarray) -> np.ndarray:
        """Return d_x (N, D) from what was given to the network and its gradient."""
        return d_inputs


class Angle:
    """Angles as points of the circle.

    Examples
    --------
    >>> Angle().forward(np.array([[0.0, np.pi / 2]])).round(3)
    array([[1., 0., 0., 1.]])
    """

    width = 2
    """E."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return (cos x, sin x) of each angle, (N, 2 D)."""
        return np.stack([np.cos(x), np.sin(x)], axis=-1).reshape(len(x), 2 * x.shape[1])

    def backward(self, inputs: np.ndarray, d_inputs: np.ndarray) -> np.ndarray:
        """Return d_x = d_sin cos x - d_cos sin x, (N, D)."""
        cos, sin = inputs[:, ::2], inputs[:, 1::2]
        return d_inputs[:, 1::2] * cos - d_inputs[:, ::2] * sin


class Level:
    """One of K levels, as w indicators.

    w = K tell level 0 from an unknown feature; w = K - 1 leave level 0 out.

    Examples
    --------
    >>> Level(3, 2).forward(np.array([[0, 2]])).astype(int)
    array([[0, 0, 0, 1]])
    """

    def __init__(self, levels: int, indicators: int):
        self.named = np.arange(levels - indicators, levels)
        self.width = indicators

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return the indicators (N, D w), bool, of levels x (N, D)."""
        return (x[..., None] == self.named).reshape(len(x), x.shape[1] * self.width)

    def backward(self, inputs: np.ndarray, d_inputs: np.ndarray) -> np.ndarray:
        """Return zeros (N, D): levels do not move a little."""
        return np.zeros((len(inputs), inputs.shape[1] // self.width), d_inputs.dtype)


def embedding(periodic: bool) -> Raw | Angle:
    """Return how angles, or numbers of the line, enter a network."""
    return Angle() if periodic else Raw()
