r"""A linear filter as a transform: what the best linear prediction leaves, in units of its size.

.. math:: u_t = \frac1s \Big(x_t - m - \sum_{k=1}^{P} a_k (x_{t-k} - m)\Big), \qquad
          \log\left|\det \frac{\partial u}{\partial x}\right| = -D \log s

:mod:`afnp.applications.linear_prediction` finds the coefficients.

Letters: N rows, D features (steps), P order.
"""

from __future__ import annotations

import numpy as np

from afnp.inputs import integer
from afnp.transforms.base import Transform

__all__ = ["LinearPrediction", "filter_rows", "unfilter_rows"]


def filter_rows(y: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Return y_t - Σ_k a_k y_{t-k} of rows (N, D), with zeros before the first step."""
    e = y.copy()
    for k in range(1, min(len(a), y.shape[1] - 1) + 1):
        e[:, k:] -= a[k - 1] * y[:, :-k]
    return e


def unfilter_rows(e: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Return the y of which ``filter_rows`` makes e (N, D), step by step."""
    P, last_first = len(a), a[::-1]
    y = np.concatenate([np.zeros((len(e), P), dtype=e.dtype), e], axis=1)
    for t in range(e.shape[1]):
        y[:, t + P] += y[:, t : t + P] @ last_first
    return y[:, P:]


class LinearPrediction(Transform):
    r"""Fixed layer of a flow: what linear prediction leaves, in units of its size.

    .. math:: u_t = \frac1s \Big(x_t - m - \sum_{k=1}^{P} a_k (x_{t-k} - m)\Big), \qquad
              \log\left|\det \frac{\partial u}{\partial x}\right| = -D \log s

    Its Jacobian is a banded triangle with 1/s on the diagonal: a linear predictor *is* an
    autoregressive flow, of one transform whose scale depends on nothing. Before the first step
    x is taken for m. No parameters: the constants come from training data alone.

    Parameters
    ----------
    features : int
        D.
    coefficients : sequence of P floats
        a.
    scale, mean : float
        s and m.

    Raises
    ------
    ValueError
        If a number is not finite, or the scale not positive.

    Examples
    --------
    >>> layer = LinearPrediction(3, [1.0], scale=2.0)
    >>> u, log_det, _ = layer.normalize({}, np.array([[1.0, 3.0, 3.0]]), None)
    >>> u.tolist(), layer.generate({}, u, None)[0].tolist(), log_det.round(3).tolist()
    ([[0.5, 1.0, 0.0]], [[1.0, 3.0, 3.0]], [-2.079])
    """

    def __init__(self, features: int, coefficients, scale: float = 1.0, mean: float = 0.0):
        self.features = integer("features", features, least=1)
        self.coefficients = np.array(coefficients, dtype=np.float64)
        if self.coefficients.ndim != 1 or not np.isfinite(self.coefficients).all():
            raise ValueError(
                f"coefficients: expected a vector of finite numbers, got {coefficients!r}"
            )
        if not (0 < scale < np.inf and np.isfinite(mean)):
            raise ValueError(f"expected a scale > 0 and a finite mean, got {scale} and {mean}")
        self.scale, self.mean = float(scale), float(mean)

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this layer."""
        constants = {
            "coefficients": self.coefficients.tolist(),
            "scale": self.scale,
            "mean": self.mean,
        }
        return {"features": self.features, **constants}

    def allowed(self) -> np.ndarray:
        """Return which u_t may depend on which x_j, (D, D) bool: itself and the P before."""
        t = np.arange(self.features)
        back = t[:, None] - t
        return (back >= 0) & (back <= len(self.coefficients))

    def _log_det(self, x: np.ndarray) -> np.ndarray:
        return np.full(len(x), self.features * np.log(self.scale), dtype=x.dtype)

    def _a(self, x: np.ndarray) -> np.ndarray:
        return self.coefficients.astype(x.real.dtype)

    def normalize(self, p, x, context):
        """Map x (N, D) to u; also give log|det du/dx| (N,)."""
        return filter_rows(x - self.mean, self._a(x)) / self.scale, -self._log_det(x), None

    def generate(self, p, u, context):
        """Map u (N, D) back to x, step by step; also give log|det dx/du| (N,)."""
        return self.mean + unfilter_rows(self.scale * u, self._a(u)), self._log_det(u)

    def backward(self, p, cache, d_u, d_log_det, g):
        """Return d_x: the same filter, running back in time."""
        return filter_rows(d_u[:, ::-1], self._a(d_u))[:, ::-1] / self.scale

    def solve_backward(self, p, cache, d_x, d_log_det):
        """Return the d_u from which ``backward`` makes d_x."""
        return unfilter_rows(self.scale * d_x[:, ::-1], self._a(d_x))[:, ::-1]
