r"""The monotone rational-quadratic spline: a curve through knots with chosen slopes.

The knots are (x_k, y_k), the slopes there δ_k.

.. math::
    \frac{u - y_k}{y_{k+1} - y_k} = \frac{a}{a + c}, \qquad
    a = \xi\,(s\,\xi + \delta_k\,(1 - \xi)), \qquad
    c = (1 - \xi)\,(s\,(1 - \xi) + \delta_{k+1}\,\xi)

    \frac{du}{dx} = \frac{s^2\, e}{(a + c)^2}, \qquad
    e = \delta_{k+1}\, \xi^2 + 2 s\, \xi (1 - \xi) + \delta_k\, (1 - \xi)^2

with ξ = (x - x_k) / (x_{k+1} - x_k) in [0, 1] and s the slope of the bin's chord (arXiv
1906.04032, eq. 4 and 5, after Gregory and Delbourgo 1982). Outside (-B, B) the curve is u = x; its
slope at -B and B is 1. Written with a and c it adds positive terms only, and so does the inverse,
which solves for ξ as

.. math::
    \xi = \frac{2 s \eta}{2 s \eta + q + r} = \frac{r - q}{r - q + 2 s (1 - \eta)}, \qquad
    q = \delta_k (1 - \eta) - \delta_{k+1}\, \eta, \quad r^2 = q^2 + 4 s^2 \eta (1 - \eta)

with η = (u - y_k) / (y_{k+1} - y_k): the first form where q > 0, the second where not. The
discriminant r² is a sum of squares, since η of a point between two knots is in [0, 1], rounded or
not.

The conditioner gives h = (widths, heights, slopes). Widths and heights go through a softmax, slopes
through softplus, each above a small minimum; at h = 0 the curve is the identity to rounding.

Letters: n bins, K params a feature; ``h`` is (..., K), ``x`` and ``u`` are (...). Inside, bins
come first: (n + 1, ...) for knots.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from afnp.inputs import integer, real
from afnp.univariate.stable import softmax, softplus

__all__ = ["RationalQuadratic", "curve"]


class _Bin(NamedTuple):
    """The bin that each point lies in, as the formulas name it."""

    x0: np.ndarray
    w: np.ndarray
    y0: np.ndarray
    h: np.ndarray
    s: np.ndarray
    d0: np.ndarray
    d1: np.ndarray


def curve(at: _Bin, xi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the formula's a, c and e."""
    eta = 1 - xi
    a = xi * (at.s * xi + at.d0 * eta)
    c = eta * (at.s * eta + at.d1 * xi)
    e = at.d1 * xi * xi + 2 * at.s * xi * eta + at.d0 * eta * eta
    return a, c, e


def _solve(at: _Bin, u: np.ndarray) -> np.ndarray:
    """Return xi from u: the quadratic's root in [0, 1], by the form that cancels nothing."""
    eta = (u - at.y0) / at.h
    q = at.d0 * (1 - eta) - at.d1 * eta
    r = np.sqrt(q * q + 4 * at.s * at.s * eta * (1 - eta))
    low = q.real > 0
    here, there = np.where(low, 2 * at.s * eta, r - q), np.where(low, q + r, 2 * at.s * (1 - eta))
    return here / (here + there)


def _gradients(at: _Bin, xi, a, c, e, d_u, d_log) -> tuple:
    """Return the gradients of the bin's xi, h, s, d0, d1.

    They go through u and through log du/dx = 2 log s + log e - 2 log Q.
    """
    eta, Q = 1 - xi, a + c
    v = xi * eta
    d_e, d_Q = d_log / e, -2 * d_log / Q
    d_share = d_u * at.h / Q / Q  # d(a / Q) = (c da - a dc) / Q²
    d_a, d_c = d_share * c + d_Q, -d_share * a + d_Q
    d_xi = d_share * at.s * e + 2 * d_e * (at.d1 * xi + at.s * (eta - xi) - at.d0 * eta)
    d_xi = d_xi + d_Q * (at.d0 + at.d1 - 2 * at.s) * (eta - xi)
    d_s = d_a * xi * xi + d_c * eta * eta + 2 * d_e * v + 2 * d_log / at.s
    return d_xi, d_u * a / Q, d_s, d_a * v + d_e * eta * eta, d_c * v + d_e * xi * xi


class RationalQuadratic:
    """Rational-quadratic spline on [-B, B], the identity outside; see the module's formulas.

    Parameters
    ----------
    bins : int
        n. K = 3 n - 1: n widths, n heights, and n - 1 slopes, one at every knot but the two ends.
    bound : float
        B. Standardised data hardly leaves [-4, 4]; what does is left as it is, whatever the
        parameters.
    min_width, min_height : float
        The least share of [-B, B] that a bin takes; n of them must leave something to share.
    min_slope : float
        The least slope at a knot, in (0, 1).

    Raises
    ------
    ValueError
        If a parameter breaks its rule: its name, the rule and the value.

    Examples
    --------
    At h = 0 it is the identity; a higher second half bends it:

    >>> tau = RationalQuadratic(bins=2, bound=1.0)
    >>> x, h = np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), np.zeros((5, 5))
    >>> tau.normalize(h, x)[0].tolist()
    [-1.0, -0.5, 0.0, 0.5, 1.0]
    >>> h[:, 3] = 1.0
    >>> u, log_derivative, _ = tau.normalize(h, x)
    >>> u.round(3).tolist()
    [-1.0, -0.731, -0.461, 0.269, 1.0]
    >>> tau.generate(h, u)[0].round(12).tolist()
    [-1.0, -0.5, 0.0, 0.5, 1.0]
    """

    support = (-math.inf, math.inf)
    periodic = False

    def __init__(
        self,
        bins: int = 8,
        bound: float = 4.0,
        min_width: float = 1e-3,
        min_height: float = 1e-3,
        min_slope: float = 1e-3,
    ):
        self.bins = integer("bins", bins, least=2)
        self._check(bound, min_width, min_height, min_slope)
        self.bound, self.min_slope = float(bound), float(min_slope)
        self.min_width, self.min_height = float(min_width), float(min_height)

    def _check(self, bound: float, min_width: float, min_height: float, min_slope: float) -> None:
        real("bound", bound, 0.0, 1e30)
        for name, value in [("min_width", min_width), ("min_height", min_height)]:
            real(name, value, 0.0, 0.5)
            if not value * self.bins < 1:
                raise ValueError(
                    f"bins: expected bins * {name} < 1, got {self.bins} * {value!r}; fewer bins, "
                    "or a "
                    f"smaller {name}"
                )
        real("min_slope", min_slope, 0.0, 1.0)

    @property
    def numbers(self) -> int:
        """K: how many params a feature the conditioner must give."""
        return 3 * self.bins - 1

    def config(self) -> dict:
        """Return what rebuilds this object."""
        return {
            "bins": self.bins,
            "bound": self.bound,
            "min_width": self.min_width,
            "min_height": self.min_height,
            "min_slope": self.min_slope,
        }

    def normalize(self, h: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
        """Map x to u; also give log du/dx, 0 outside [-B, B], and the cache for ``backward``."""
        inside, x_in = self._clip(x)
        at, origin = self._bin_of(h, 0, x_in)
        xi = (x_in - at.x0) / at.w
        a, c, e = curve(at, xi)
        u = at.y0 + at.h * a / (a + c)
        log_derivative = 2 * np.log(at.s / (a + c)) + np.log(e)
        cache = (at, xi, a, c, e, origin, inside)
        return np.where(inside, u, x), np.where(inside, log_derivative, np.zeros_like(u)), cache

    def generate(self, h: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map u to x; also give log dx/du."""
        inside, u_in = self._clip(u)
        at, _ = self._bin_of(h, 1, u_in)
        xi = _solve(at, u_in)
        a, c, e = curve(at, xi)
        x = at.x0 + at.w * xi
        log_derivative = -2 * np.log(at.s / (a + c)) - np.log(e)
        return np.where(inside, x, u), np.where(inside, log_derivative, np.zeros_like(x))

    def backward(
        self, cache: tuple, d_u: np.ndarray, d_log: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Return d_h and d_x for ``normalize``, from d_u and the gradient of its log-derivative.

        .. math::
            d_x = d_\xi / w, \qquad d_{x_{k+1}} = -\xi\, d_x - s\, d_s / w, \qquad
            d_{x_k} = -d_x - d_{x_{k+1}}

        and likewise for y; then back from the two knots of each bin to the shares of all bins.
        """
        at, xi, a, c, e, (left, widths, heights, rise0, rise1), inside = cache
        d_u_in, d_log_in = np.where(inside, d_u, 0 * d_u), np.where(inside, d_log, 0 * d_log)
        d_xi, d_height, d_s, d_d0, d_d1 = _gradients(at, xi, a, c, e, d_u_in, d_log_in)
        d_x = d_xi / at.w
        d_x1 = -xi * d_x - at.s * d_s / at.w
        d_y1 = d_height + d_s / at.w
        d_h = np.concatenate(
            [
                self._places_backward(widths, self._table(left, -d_x - d_x1, d_x1), self.min_width),
                self._places_backward(
                    heights, self._table(left, d_u_in - d_y1, d_y1), self.min_height
                ),
                self._slopes_backward(self._table(left, d_d0 * rise0, d_d1 * rise1)),
            ]
        )
        return np.moveaxis(d_h, 0, -1), np.where(inside, d_x, d_u)

    # ---- knots -----------------------------------------------------------------------------------

    def _clip(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which points the spline bends, and those points, with 0 in place of all others."""
        v = np.asanyarray(v)
        inside = (v.real > -self.bound) & (v.real < self.bound)
        return inside, np.where(inside, v, np.zeros_like(v))

    def _bin_of(self, h: np.ndarray, which: int, v: np.ndarray) -> tuple[_Bin, tuple]:
        """Find each v (...) among the knots of x (``which`` = 0) or of y (1).

        A knot opens the bin to its right.

        Also returns how the bin came from h: the flat position of its left knot in a table (n + 1,
        ...), where the right knot is one row below, the shares of all bins, and the derivatives of
        its two slopes.
        """
        h, n = np.moveaxis(h, -1, 0).copy(), self.bins
        widths, heights = softmax(h[:n]), softmax(h[n : 2 * n])
        x, y = self._places(widths, self.min_width), self._places(heights, self.min_height)
        tables = x, y, self._slopes(h[2 * n :])
        bins = (v.real >= tables[which][1:-1].real).sum(axis=0)
        left = bins * v.size + np.arange(v.size).reshape(v.shape)
        ends = np.stack([left, left + v.size])
        (x0, x1), (y0, y1), a = (np.take(table, ends) for table in tables)
        (d0, d1), (rise0, rise1) = self._slope(a)
        w, height = x1 - x0, y1 - y0
        return _Bin(x0, w, y0, height, height / w, d0, d1), (left, widths, heights, rise0, rise1)

    def _places(self, shares: np.ndarray, least: float) -> np.ndarray:
        r"""Return knots from -B to B, exactly.

        .. math:: x_k = -B + 2B \sum_{j<k} (m + (1 - n m)\, p_j)
        """
        places = np.empty((self.bins + 1, *shares.shape[1:]), dtype=shares.dtype)
        places[0], places[-1] = -self.bound, self.bound
        widths = 2 * self.bound * (least + (1 - self.bins * least) * shares[:-1])
        for k in range(1, self.bins):  # np.cumsum along the first axis is several times slower
            places[k] = places[k - 1] + widths[k - 1]
        return places

    def _places_backward(
        self, shares: np.ndarray, d_places: np.ndarray, least: float
    ) -> np.ndarray:
        r"""Return the softmax's gradient, d_j the sum over knots right of bin j.

        .. math:: p_j \Big(d_j - \sum_i p_i d_i\Big)
        """
        d = np.zeros_like(shares)
        for k in range(self.bins - 1, 0, -1):
            d[k - 1] = d[k] + d_places[k]
        d *= 2 * self.bound * (1 - self.bins * least)
        return shares * (d - (shares * d).sum(axis=0))

    def _slope(self, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return softplus, shifted so that a = 0 gives slope 1, above the least slope.

        And its derivative.
        """
        value, rise = softplus(a + math.log(math.expm1(1 - self.min_slope)))
        return self.min_slope + value, rise

    def _slopes(self, a: np.ndarray) -> np.ndarray:
        """Return the table (n + 1, ...) that slopes are made of: 0, for slope 1, at both ends."""
        end = np.zeros((1, *a.shape[1:]), dtype=a.dtype)
        return np.concatenate([end, a, end])

    def _slopes_backward(self, d_a: np.ndarray) -> np.ndarray:
        return d_a[1:-1]

    def _table(self, left: np.ndarray, d_left: np.ndarray, d_right: np.ndarray) -> np.ndarray:
        """Return a table (n + 1, ...) with the gradients of each point's two knots."""
        table = np.zeros((self.bins + 1, *left.shape), dtype=np.result_type(d_left, d_right))
        np.put(table, left, d_left)
        np.put(table, left + left.size, d_right)
        return table
