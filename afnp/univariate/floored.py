r"""The affine univariate with a least scale: scale and shift on the way to the noise.

.. math:: u = x\, s + t, \qquad s = \operatorname{softplus}(a) + \epsilon
          \quad \text{or} \quad \sigma(a + 2) + \epsilon, \qquad \log \frac{du}{dx} = \log s

The conditioner gives h = (t, a). Autoregressive layers of nflows, and of flowjax, have the first
scale; couplings of nflows, and autoregressive layers of normflows, the second. A layer shrinks by
ε at most; at h = 0 it is not the identity.

Letters: K params a feature; ``h`` is (..., K), ``x`` and ``u`` are (...).
"""

from __future__ import annotations

import math

import numpy as np

from afnp.inputs import choose, real
from afnp.univariate.stable import softplus

__all__ = ["FlooredAffine"]


def _sigmoid(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rise = softplus(a)[1]
    return rise, rise * (1 - rise)


FLOORED = {"softplus": softplus, "sigmoid": lambda a: _sigmoid(a + 2)}
"""Each maps a to the scale without its floor, and to the derivative of that."""


class FlooredAffine:
    """Scale and shift on the way to the noise, with a least scale; see the module's formula.

    Parameters
    ----------
    scale : {"softplus", "sigmoid"}
    floor : float
        ε, at least 0.

    Examples
    --------
    >>> tau = FlooredAffine("sigmoid", floor=0.5)
    >>> u, log_derivative, _ = tau.normalize(np.array([1.0, 40.0]), np.array(2.0))
    >>> float(u), float(log_derivative.round(3))
    (4.0, 0.405)
    """

    numbers = 2
    """K: the shift t, then a."""
    support = (-math.inf, math.inf)
    periodic = False

    def __init__(self, scale: str = "softplus", floor: float = 1e-3):
        choose("scale", scale, tuple(FLOORED))
        self.scale = scale
        self.floor = real("floor", floor, 0.0, 1.0, "[)")

    def config(self) -> dict:
        """Return what rebuilds this object."""
        return {"scale": self.scale, "floor": self.floor}

    def _scale(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return s and ds/da."""
        s, rise = FLOORED[self.scale](h[..., 1])
        return s + self.floor, rise

    def normalize(self, h: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
        r"""Map x to u; also give :math:`\log du/dx = \log s` and the cache for ``backward``."""
        s, rise = self._scale(h)
        return x * s + h[..., 0], np.log(s), (x, s, rise)

    def generate(self, h: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r"""Map u to x; also give :math:`\log dx/du = -\log s`."""
        s, _ = self._scale(h)
        return (u - h[..., 0]) / s, -np.log(s)

    def backward(
        self, cache: tuple, d_u: np.ndarray, d_log: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Return d_h and d_x for ``normalize``, from d_u and the gradient of its log-derivative.

        .. math:: d_t = d_u, \qquad d_a = (d_u\, x + d_{\log} / s)\, s', \qquad d_x = d_u\, s
        """
        x, s, rise = cache
        d_a = (d_u * x + d_log / s) * rise
        return np.stack([d_u + 0 * d_a, d_a], axis=-1), d_u * s
