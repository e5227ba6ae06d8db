r"""The affine univariate: shift and scale, x = mu + u e^alpha.

And the additive one, which only shifts.

.. math:: x = \mu + u\, e^{\alpha}, \qquad u = (x - \mu)\, e^{-\alpha}, \qquad
          \log \frac{du}{dx} = -\alpha

The conditioner gives h = (m, a). How they become mu and alpha is the ``scale``:

=========== ============================ ======================= ============= ==================
scale       alpha                        d alpha / d a           mu            why
=========== ============================ ======================= ============= ==================
"tanh"      B tanh(a / B)                1 - (alpha / B)^2       m             bounded, no corners
"exp"       a                            1                       m             MAF's formula
"softplus"  log softplus(a + log(e - 1)) (1 - e^-v) / v, v =     m             the scale grows like
                                         e^alpha                               a, not like e^a
"sigmoid"   log sigma, sigma(a + 2)      1 - e^alpha             (1 - sigma) m IAF's gate
=========== ============================ ======================= ============= ==================

The first is the default. The derivative is a function of alpha alone.

With Gaussian noise u this is the MADE of Gaussian conditionals that MAF stacks (arXiv 1705.07057,
eq. 3 to 5); the gate is IAF's (arXiv 1606.04934), open at first, and only ever shrinks u. One
definition serves density, sampler and derivative. A scale without bound can overflow, with NumPy's
warning; what is then not a number, a flow's public methods refuse.

Letters: K params a feature; ``h`` is (..., K), ``x`` and ``u`` are (...), each of any leading
shape.
"""

from __future__ import annotations

import math

import numpy as np

from afnp.inputs import choose, real
from afnp.univariate.stable import softplus

__all__ = ["SCALES", "Additive", "Affine"]


def _log_softplus(z: np.ndarray) -> np.ndarray:
    """Return log softplus(z); below -37, softplus(z) is e^z to rounding."""
    low = z.real < -37
    return np.where(low, z, np.log(softplus(np.where(low, np.zeros_like(z), z))[0]))


def _slope_of_log_softplus(alpha: np.ndarray) -> np.ndarray:
    """Return (1 - e^-v) / v at v = e^alpha: softplus' = 1 - e^-softplus, over softplus."""
    v = np.exp(np.where(alpha.real < -37, np.zeros_like(alpha), alpha))
    return np.where(alpha.real < -37, np.ones_like(alpha), -np.expm1(-v) / v)


SCALES = {
    "tanh": lambda a, bound: bound * np.tanh(a / bound),
    "exp": lambda a, bound: a,
    "softplus": lambda a, bound: _log_softplus(a + math.log(math.e - 1)),
    "sigmoid": lambda a, bound: -softplus(-a - 2)[0],
}
"""Each maps a and B to alpha."""

SLOPES = {
    "tanh": lambda alpha, bound: 1 - np.square(alpha / bound),
    "exp": lambda alpha, bound: np.ones_like(alpha),
    "softplus": lambda alpha, bound: _slope_of_log_softplus(alpha),
    "sigmoid": lambda alpha, bound: -np.expm1(alpha),
}
"""Each maps alpha and B to d alpha / d a; that of "sigmoid" is also 1 - sigma."""


class Affine:
    """Shift and scale; see the module's formula.

    Parameters
    ----------
    bound : float
        B, of the scale "tanh" alone: log-scales stay in (-B, B), so one layer scales by at most
        exp(B) ≈ 1100 at the default.
    scale : {"tanh", "exp", "softplus", "sigmoid"}
        How a becomes the log-scale; only with the first three does h = 0 give x = u.

    Raises
    ------
    ValueError
        If the bound is not in (0, 80], as exp(80) is about the largest float32, or there is no such
        scale.

    Examples
    --------
    >>> x, log_derivative = Affine().generate(np.array([1.0, 0.0]), np.array(2.0))
    >>> float(x), float(log_derivative)
    (3.0, 0.0)
    >>> x, log_derivative = Affine(scale="exp").generate(np.array([1.0, 10.0]), np.array(0.0))
    >>> float(x), float(log_derivative)
    (1.0, 10.0)
    """

    numbers = 2
    """K: how many params a feature the conditioner must give."""
    support = (-math.inf, math.inf)
    periodic = False

    def __init__(self, bound: float = 7.0, scale: str = "tanh"):
        self.bound = real("bound", bound, 0.0, 80.0, "(]")
        choose("scale", scale, tuple(SCALES))
        self.scale = scale

    def config(self) -> dict:
        """Return what rebuilds this object."""
        return {"bound": self.bound, "scale": self.scale}

    def _shift_and_scale(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mu and alpha."""
        m, alpha = h[..., 0], SCALES[self.scale](h[..., 1], self.bound)
        return (self.slope(alpha) * m if self.scale == "sigmoid" else m), alpha

    def slope(self, alpha: np.ndarray) -> np.ndarray:
        """Return d alpha / d a."""
        return SLOPES[self.scale](alpha, self.bound)

    def normalize(self, h: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
        r"""Map x to u; also give :math:`\log du/dx = -\alpha` and the cache for ``backward``."""
        mu, alpha = self._shift_and_scale(h)
        log_derivative = -alpha
        s = np.exp(log_derivative)
        u = (x - mu) * s
        return u, log_derivative, (u, s, alpha, mu)

    def generate(self, h: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r"""Map u to x; also give :math:`\log dx/du = \alpha`."""
        mu, alpha = self._shift_and_scale(h)
        return mu + u * np.exp(alpha), alpha

    def backward(
        self, cache: tuple, d_u: np.ndarray, d_log: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Return d_h and d_x for ``normalize``, from d_u and the gradient of its log-derivative.

        .. math:: d_x = d_u e^{-\alpha}, \quad d_\mu = -d_x, \quad
                  d_a = (-d_u\, u - d_{\log})\, \frac{d\alpha}{da}

        and where mu = (1 - sigma) m, also d_m = (1 - sigma) d_mu, and d_a gains -sigma mu d_mu.
        """
        u, s, alpha, mu = cache
        slope, d_x = self.slope(alpha), d_u * s
        d_h = np.empty((*u.shape, 2), dtype=d_x.dtype)
        d_h[..., 0] = -d_x
        d_h[..., 1] = (-d_u * u - d_log) * slope
        if self.scale == "sigmoid":
            d_h[..., 0] *= slope
            d_h[..., 1] += d_u * mu  # sigma d_x = d_u
        return d_h, d_x


class Additive:
    r"""Shift alone, as in NICE.

    .. math:: x = u + h, \qquad u = x - h, \qquad \log \frac{du}{dx} = 0

    Volumes are kept, so a flow of these alone cannot change the density's height (arXiv 1410.8516,
    section 3.2).

    Examples
    --------
    >>> u, log_derivative, _ = Additive().normalize(np.array([0.5]), np.array(2.0))
    >>> float(u), float(log_derivative)
    (1.5, 0.0)
    """

    numbers = 1
    """K."""
    support = (-math.inf, math.inf)
    periodic = False

    def config(self) -> dict:
        """Return what rebuilds this object: nothing."""
        return {}

    def normalize(self, h: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
        """Map x to u; also give log du/dx = 0 and an empty cache."""
        u = x - h[..., 0]
        return u, np.zeros_like(u), None

    def generate(self, h: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map u to x; also give log dx/du = 0."""
        x = u + h[..., 0]
        return x, np.zeros_like(x)

    def backward(
        self, cache: None, d_u: np.ndarray, d_log: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Return :math:`d_h = -d_u` and :math:`d_x = d_u`."""
        return -np.asanyarray(d_u)[..., None], d_u
