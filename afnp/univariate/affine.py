r"""The affine univariate: shift and scale, with a smoothly bounded log-scale.

.. math:: x = \mu + u\, e^{\alpha}, \qquad u = (x - \mu)\, e^{-\alpha}, \qquad \alpha = B \tanh(a / B)

The conditioner gives h = (mu, a); the log-scale alpha is a, soft-clipped to (-B, B) by a function without corners,
the same one in density, sampler and derivative. With Gaussian noise u this is the MADE of Gaussian
conditionals that MAF stacks (arXiv 1705.07057, eq. 3 to 5).

Letters: K = 2 numbers a feature; ``h`` is (..., K), ``x`` and ``u`` are (...), each of any leading shape.
"""

from __future__ import annotations

import numpy as np

__all__ = ["Affine"]


class Affine:
    """Shift and scale; see the module's formula.

    Parameters
    ----------
    bound : float
        B: log-scales stay in (-B, B), so one layer scales by at most exp(B) ≈ 1100 at the default.

    Raises
    ------
    ValueError
        If the bound is not in (0, 80]: exp(80) is about the largest float32.

    Examples
    --------
    >>> x, log_derivative = Affine().generate(np.array([1.0, 0.0]), np.array(2.0))
    >>> float(x), float(log_derivative)
    (3.0, 0.0)
    """

    numbers = 2
    """K: how many numbers a feature the conditioner must give."""

    def __init__(self, bound: float = 7.0):
        if not 0 < bound <= 80:
            raise ValueError(f"bound: expected a number in (0, 80], got {bound!r}")
        self.bound = float(bound)

    def config(self) -> dict:
        """Return what rebuilds this object."""
        return {"bound": self.bound}

    def normalize(self, h: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
        r"""Map x to u; also give :math:`\log du/dx = -\alpha` and the cache for ``backward``."""
        t = np.tanh(h[..., 1] / self.bound)
        alpha = self.bound * t
        s = np.exp(-alpha)
        u = (x - h[..., 0]) * s
        return u, -alpha, (u, s, t)

    def generate(self, h: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r"""Map u to x; also give :math:`\log dx/du = \alpha`."""
        alpha = self.bound * np.tanh(h[..., 1] / self.bound)
        return h[..., 0] + u * np.exp(alpha), alpha

    def backward(self, cache: tuple, d_u: np.ndarray, d_log: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r"""Return d_h and d_x for ``normalize``, from d_u and the gradient of its log-derivative.

        .. math:: d_x = d_u e^{-\alpha}, \quad d_\mu = -d_x, \quad
                  d_a = (-d_u\, u - d_{\log}) (1 - \tanh^2(a/B))
        """
        u, s, t = cache
        d_x = d_u * s
        d_h = np.empty((*u.shape, 2), dtype=d_x.dtype)
        d_h[..., 0] = -d_x
        d_h[..., 1] = (-d_u * u - d_log) * (1 - t * t)
        return d_h, d_x
