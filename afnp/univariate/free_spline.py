r"""The rational-quadratic spline whose slopes at both ends are free, as flowjax has it.

.. math:: \delta_k = \delta_{\min} + \operatorname{softplus}(a_k + \log(e^{1 - \delta_{\min}} - 1)),
          \qquad k = 0, \dots, n

Outside [-B, B] it is the identity, with slope 1: where it ends, the curve has a corner, and a
density has a step. All else is :mod:`afnp.univariate.rational_quadratic`.

Letters: n bins, K params a feature.
"""

from __future__ import annotations

import numpy as np

from afnp.univariate.rational_quadratic import RationalQuadratic

__all__ = ["FreeSpline"]


class FreeSpline(RationalQuadratic):
    """Rational-quadratic spline with free slopes at -B and B: n widths, n heights, n + 1 slopes.

    Parameters
    ----------
    bins, bound, min_width, min_height, min_slope
        As in :class:`afnp.univariate.RationalQuadratic`.

    Examples
    --------
    >>> tau, h = FreeSpline(bins=2, bound=1.0), np.zeros((2, 7))
    >>> h[:, 4] = 1.0  # the slope at -1
    >>> tau.normalize(h, np.array([-1.5, -0.999]))[1].round(2).tolist()
    [0.0, 0.55]
    """

    @property
    def numbers(self) -> int:
        """K."""
        return 3 * self.bins + 1

    def _slopes(self, a: np.ndarray) -> np.ndarray:
        """Return the table (n + 1, ...) that slopes are made of."""
        return a

    def _slopes_backward(self, d_a: np.ndarray) -> np.ndarray:
        return d_a
