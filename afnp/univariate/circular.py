r"""The circular spline: a smooth, monotone map of the circle to itself.

.. math:: u = f(\mathrm{wrap}(x - \varphi)), \qquad x = \mathrm{wrap}(f^{-1}(u) + \varphi)

f is the rational-quadratic spline of :mod:`afnp.univariate.rational_quadratic` with B = pi, but
with any slope at -pi, the same at pi: so the density is continuous where the circle closes, and has
any height there. The phase phi turns the knots to where the data wants them (arXiv 2002.02428); f
alone would always take -pi to -pi. wrap brings any angle to [-pi, pi): x and u are angles in
radians, in and out.

Letters: n bins, K = 3 n + 1 params a feature: n widths, n heights, n slopes (the first is shared
by both ends), and the phase.
"""

from __future__ import annotations

import math

import numpy as np

from afnp.univariate.rational_quadratic import RationalQuadratic

__all__ = ["CircularRationalQuadratic", "wrap"]


def wrap(x: np.ndarray) -> np.ndarray:
    """Return the angle in [-pi, pi) that points the same way.

    One already there stays to the last bit.

    Examples
    --------
    >>> wrap(np.array([0.5, np.pi, 0.5 + 2 * np.pi, -np.pi])).round(12).tolist()
    [0.5, -3.14159265359, 0.5, -3.14159265359]
    """
    x = np.asanyarray(x)
    step = x - x.real  # 0, or the imaginary part of a complex step
    turned = np.remainder(x.real + math.pi, 2 * math.pi) - math.pi + step
    turned = np.where((x.real >= -math.pi) & (x.real < math.pi), x, turned)
    return np.where(turned.real >= math.pi, turned - 2 * math.pi, turned)


class CircularRationalQuadratic(RationalQuadratic):
    """Rational-quadratic spline of the circle; see the module's formula.

    Parameters
    ----------
    bins : int
        n; K = 3 n + 1.
    min_width, min_height, min_slope : float
        As in :class:`afnp.univariate.RationalQuadratic`.

    Raises
    ------
    ValueError
        If a parameter breaks its rule: its name, the rule and the value.

    Examples
    --------
    The slope is the same on both sides of the place where the circle closes:

    >>> tau, h = CircularRationalQuadratic(bins=2), np.array([0.3, 0.0, 0.0, -0.5, 2.0, 1.0, 0.0])
    >>> edge = np.array([-np.pi, np.nextafter(np.pi, 0)])
    >>> u, log_derivative, _ = tau.normalize(np.stack([h, h]), edge)
    >>> u.round(12).tolist(), log_derivative.round(12).tolist()
    ([-3.14159265359, 3.14159265359], [0.961903323055, 0.961903323055])
    """

    support = (-math.pi, math.pi)
    periodic = True

    def __init__(
        self,
        bins: int = 8,
        min_width: float = 1e-3,
        min_height: float = 1e-3,
        min_slope: float = 1e-3,
    ):
        super().__init__(bins, math.pi, min_width, min_height, min_slope)

    @property
    def numbers(self) -> int:
        """K: how many params a feature the conditioner must give."""
        return 3 * self.bins + 1

    def config(self) -> dict:
        """Return what rebuilds this object."""
        return {name: value for name, value in super().config().items() if name != "bound"}

    def normalize(self, h: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
        """Map angles x to angles u; also give log du/dx and the cache for ``backward``."""
        u, log_derivative, cache = super().normalize(h[..., :-1], wrap(x - h[..., -1]))
        return wrap(u), log_derivative, cache

    def generate(self, h: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map angles u to angles x; also give log dx/du."""
        x, log_derivative = super().generate(h[..., :-1], wrap(u))
        return wrap(x + h[..., -1]), log_derivative

    def backward(
        self, cache: tuple, d_u: np.ndarray, d_log: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return d_h and d_x as the spline does.

        The phase moves against x, so its gradient is -d_x.
        """
        d_h, d_x = super().backward(cache, d_u, d_log)
        return np.concatenate([d_h, -d_x[..., None]], axis=-1), d_x

    def _clip(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return that every point of a circle is inside."""
        return np.ones(np.shape(v), dtype=bool), np.asanyarray(v)

    def _slopes(self, a: np.ndarray) -> np.ndarray:
        """Return the table (n + 1, ...) that slopes are made of, its last row the first again."""
        return np.concatenate([a, a[:1]])

    def _slopes_backward(self, d_a: np.ndarray) -> np.ndarray:
        d_a[0] += d_a[-1]
        return d_a[:-1]
