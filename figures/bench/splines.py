r"""The splines in plain NumPy, as each library makes them of its raw outputs.

.. math::
    u = y_k + \frac{(y_{k+1} - y_k)\,(s\, \xi^2 + \delta_k\, \xi (1 - \xi))}{Q}, \qquad
    \frac{du}{dx} =
    \frac{s^2\,(\delta_{k+1}\, \xi^2 + 2 s\, \xi (1 - \xi) + \delta_k\, (1 - \xi)^2)}{Q^2}, \qquad
    Q = s + (\delta_{k+1} + \delta_k - 2 s)\, \xi (1 - \xi)

with xi = (x - x_k) / (x_{k+1} - x_k) and s = (y_{k+1} - y_k) / (x_{k+1} - x_k) (arXiv 1906.04032,
eq. 4 and 5), within [-B, B]; the identity outside. All libraries compute this curve. They differ in
how widths and heights of the bins and slopes at the knots follow from the raw numbers; and one of
them has slopes at -B and B too, where the others have 1.

Letters: K bins, n params a feature; ``raw`` is (..., n), ``x`` and ``u`` are (...).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["BOUND", "SPLINES", "Knots", "Reading", "curve"]

BOUND = 5.0
"""B."""


class Knots(NamedTuple):
    """What a curve is made of: the bins' shares of [-B, B], and the slopes at their ends."""

    widths: np.ndarray
    """(..., K), summing to 1."""
    heights: np.ndarray
    slopes: np.ndarray
    """(..., K + 1)."""


class Reading(NamedTuple):
    """How a library reads a feature's params: K for widths, K for heights, the rest for slopes."""

    knots: Callable[[np.ndarray, np.ndarray, np.ndarray], Knots]
    words: str
    free_ends: int = 0
    """How many slopes at -B and B the network gives."""

    def numbers(self, bins: int) -> int:
        """Return n.

        Examples
        --------
        >>> [SPLINES[name].numbers(8) for name in ("afnp", "flowjax")]
        [23, 25]
        """
        return 3 * bins - 1 + self.free_ends


# ---- how each library reads them -----------------------------------------------------------------


SHIFT = math.log(math.expm1(1 - 1e-3))
"""Softplus of it is 0.999: with the least slope, 0.001, that is 1."""


def _softplus(a):
    return np.logaddexp(a, 0)


def _softmax(a, least=0.0):
    """Return shares of at least so much."""
    p = np.exp(a - a.max(axis=-1, keepdims=True))
    return least + (1 - a.shape[-1] * least) * p / p.sum(axis=-1, keepdims=True)


def _ends_of_1(slopes):
    return np.pad(slopes, [(0, 0)] * (slopes.ndim - 1) + [(1, 1)], constant_values=1.0)


def _clipped(a, most):
    return a / (1 + np.abs(a) / most)


def _knots_afnp(w, h, d):
    return Knots(_softmax(w, 1e-3), _softmax(h, 1e-3), _ends_of_1(1e-3 + _softplus(d + SHIFT)))


def _knots_zuko(w, h, d):
    most = math.log(1e3)
    return Knots(
        _softmax(_clipped(w, most / 2)),
        _softmax(_clipped(h, most / 2)),
        _ends_of_1(np.exp(_clipped(d, most))),
    )


def _knots_nsf(w, h, d):
    return Knots(_softmax(w, 1e-3), _softmax(h, 1e-3), _ends_of_1(1e-3 + _softplus(d)))


def _knots_flowjax(w, h, d):
    least = 1e-3 / (2 * BOUND)
    return Knots(_softmax(w, least), _softmax(h, least), 1e-3 + _softplus(d + SHIFT))


SPLINES: dict[str, Reading] = {
    "afnp": Reading(_knots_afnp, "softmax, at least 0.001; slopes softplus(a + 0.54) + 0.001"),
    "zuko": Reading(
        _knots_zuko, "softmax of a / (1 + |a| / 3.45), no least; slopes exp(a / (1 + |a| / 6.9))"
    ),
    "nflows": Reading(_knots_nsf, "softmax, at least 0.001; slopes softplus(a) + 0.001"),
    "normflows": Reading(_knots_nsf, "softmax, at least 0.001; slopes softplus(a) + 0.001"),
    "flowjax": Reading(
        _knots_flowjax, "softmax, at least 0.0001; slopes softplus(a + 0.54) + 0.001", free_ends=2
    ),
}
"""Library: how it reads its raw numbers, and that in words."""


# ---- the curve -----------------------------------------------------------------------------------


def curve(knots: Knots, x: np.ndarray, bound: float = BOUND) -> tuple[np.ndarray, np.ndarray]:
    """Map x to u, and give log du/dx.

    Examples
    --------
    >>> slopes = np.array([[1.0, 3.0, 1.0]])
    >>> u, log_slope = curve(Knots(np.full((1, 2), 0.5), np.full((1, 2), 0.5), slopes), np.zeros(1))
    >>> u, np.exp(log_slope).round(9)
    (array([0.]), array([3.]))
    """
    inside = np.abs(x) < bound
    xi, at = _place(knots, np.where(inside, x, 0.0), bound)
    s = at["height"] / at["width"]
    v = xi * (1 - xi)
    Q = s + (at["d1"] + at["d0"] - 2 * s) * v
    u = at["y"] + at["height"] * (s * xi**2 + at["d0"] * v) / Q
    slope = s**2 * (at["d1"] * xi**2 + 2 * s * v + at["d0"] * (1 - xi) ** 2) / Q**2
    return np.where(inside, u, x), np.where(inside, np.log(slope), 0.0)


def _place(knots: Knots, x: np.ndarray, bound: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return where in its bin each x lies, and what the formula needs of that bin."""
    widths = 2 * bound * knots.widths
    heights = 2 * bound * knots.heights
    left = np.cumsum(widths, axis=-1) - widths - bound
    low = np.cumsum(heights, axis=-1) - heights - bound
    k = (x[..., None] >= left[..., 1:]).sum(axis=-1, keepdims=True)
    tables = {"x": left, "width": widths, "y": low, "height": heights}
    tables |= {"d0": knots.slopes[..., :-1], "d1": knots.slopes[..., 1:]}
    at = {name: np.take_along_axis(table, k, axis=-1)[..., 0] for name, table in tables.items()}
    return (x - at["x"]) / at["width"], at
