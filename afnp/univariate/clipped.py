r"""Affine maps and splines of softly clipped parameters, as zuko has them.

Their parameters are bent by a rational soft clip,

.. math:: c_L(a) = \frac{a}{1 + |a| / L}, \qquad \frac{d c_L}{d a} = \frac{1}{(1 + |a| / L)^2}

which keeps them in (-L, L), and the affine map scales on the way to the noise:
:math:`u = x\, e^{c_L(a)} + t`. So trained flows of that library are also flows of this one
(:mod:`afnp.interop.zuko`).

Letters: K params a feature; ``h`` is (..., K), ``x`` and ``u`` are (...).
"""

from __future__ import annotations

import functools
import math

import numpy as np

from afnp.inputs import real
from afnp.univariate.circular import wrap
from afnp.univariate.rational_quadratic import RationalQuadratic

__all__ = ["ClippedAffine", "ClippedCircle", "ClippedSpline", "soft_clip"]


def soft_clip(a: np.ndarray, limit: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return c_L(a) and its derivative.

    Examples
    --------
    >>> value, slope = soft_clip(np.array([0.0, 2.0]), limit=2.0)
    >>> value.tolist(), slope.tolist()
    ([0.0, 1.0], [1.0, 0.25])
    """
    below = 1 + np.where(a.real < 0, -a, a) / limit  # not abs: complex steps go through
    return a / below, 1 / (below * below)


class ClippedAffine:
    r"""Scale and shift on the way to the noise.

    :math:`u = x\, e^{\alpha} + t`, :math:`\alpha = c_L(a)`.

    Parameters
    ----------
    limit : float
        L: log-scales stay in (-L, L).

    Examples
    --------
    >>> u, log_derivative, _ = ClippedAffine().normalize(np.array([1.0, 0.0]), np.array(2.0))
    >>> float(u), float(log_derivative)
    (3.0, 0.0)
    """

    numbers = 2
    """K: the shift t, then a."""
    support = (-math.inf, math.inf)
    periodic = False

    def __init__(self, limit: float = math.log(1000)):
        self.limit = real("limit", limit, 0.0, 80.0, "(]")

    def config(self) -> dict:
        """Return what rebuilds this object."""
        return {"limit": self.limit}

    def normalize(self, h: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
        r"""Map x to u; also give :math:`\log du/dx = \alpha` and the cache for ``backward``."""
        alpha, slope = soft_clip(h[..., 1], self.limit)
        s = np.exp(alpha)
        moved = x * s
        return moved + h[..., 0], alpha, (moved, s, slope)

    def generate(self, h: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r"""Map u to x; also give :math:`\log dx/du = -\alpha`."""
        alpha, _ = soft_clip(h[..., 1], self.limit)
        return (u - h[..., 0]) * np.exp(-alpha), -alpha

    def backward(
        self, cache: tuple, d_u: np.ndarray, d_log: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Return :math:`d_t = d_u, \; d_a = (d_u\, x s + d_{\log}) c', \; d_x = d_u s`."""
        moved, s, slope = cache
        d_a = (d_u * moved + d_log) * slope
        return np.stack([d_u + 0 * d_a, d_a], axis=-1), d_u * s


class ClippedSpline(RationalQuadratic):
    """Rational-quadratic spline of softly clipped shares and log-slopes, as zuko has it.

    Parameters
    ----------
    bins : int
    bound : float
        B.
    slope : float
        Shares are clipped to half of -log slope before the softmax, log-slopes to all of it.
    """

    def __init__(self, bins: int = 8, bound: float = 5.0, slope: float = 1e-3):
        super().__init__(bins, bound, min_width=1e-30, min_height=1e-30)
        self.slope = real("slope", slope, 0.0, 1.0)

    def config(self) -> dict:
        """Return what rebuilds this object."""
        return {"bins": self.bins, "bound": self.bound, "slope": self.slope}

    @functools.cached_property
    def limits(self) -> np.ndarray:
        """What each param is clipped to, (K,); made when it is used, whatever a file says of K."""
        limit = -math.log(self.slope)
        return np.repeat([limit / 2, limit], [2 * self.bins, self.bins - 1])

    def normalize(self, h: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
        """Map x to u; also give log du/dx, and the cache for ``backward``."""
        clipped, slope = soft_clip(h, self.limits.astype(h.real.dtype))
        u, log_derivative, cache = super().normalize(clipped, x)
        return u, log_derivative, (cache, slope)

    def generate(self, h: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map u to x; also give log dx/du."""
        return super().generate(soft_clip(h, self.limits.astype(h.real.dtype))[0], u)

    def backward(
        self, cache: tuple, d_u: np.ndarray, d_log: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return d_h and d_x, the first through the clip."""
        d_h, d_x = super().backward(cache[0], d_u, d_log)
        return d_h * cache[1], d_x

    def _slope(self, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return e^a, and its derivative."""
        value = np.exp(a)
        return value, value


class ClippedCircle(ClippedSpline):
    """The spline of angles in [-pi, pi), turned by half a circle: its ends have slope 1.

    The network is given angles as they are, so its params jump where the circle closes. It has no
    compiled twin.

    Parameters
    ----------
    bins : int
    slope : float
        As in :class:`ClippedSpline`.

    Examples
    --------
    >>> tau = ClippedCircle(bins=2)
    >>> tau.normalize(np.zeros((2, 5)), np.array([-0.5, 1.0]))[0].round(3)
    array([ 2.642, -2.142])
    """

    support = (-math.pi, math.pi)

    def __init__(self, bins: int = 8, slope: float = 1e-3):
        super().__init__(bins, math.pi, slope)

    def config(self) -> dict:
        """Return what rebuilds this object."""
        return {"bins": self.bins, "slope": self.slope}

    def normalize(self, h: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
        """Map angles x to angles u; also give log du/dx, and the cache for ``backward``."""
        return super().normalize(h, wrap(np.asanyarray(x) - math.pi))

    def generate(self, h: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map angles u to angles x; also give log dx/du."""
        x, log_derivative = super().generate(h, u)
        return wrap(x - math.pi), log_derivative
