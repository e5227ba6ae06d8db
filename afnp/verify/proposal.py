r"""A proposal: a mixture of normals, fitted to samples in coordinates in which they look normal.

.. math:: q(x) = \sum_k w_k\, \mathcal N\big(v(x) \mid m_k, \Sigma_k\big)
          \prod_i \Big| \frac{dv_i}{dx_i} \Big|

Between bounds v is a logit, of heavy tails an inverse hyperbolic sine, and otherwise a shift and a
scale; the mixture is fitted by expectation and maximisation. What is asked of p and q together
(:mod:`afnp.verify.bridge`) holds for every q: a bad fit sees less, and raises no alarm.

Letters: M samples, D features, K normals.
"""

from __future__ import annotations

import numpy as np

__all__ = ["Proposal"]

SIZES = (1, 4, 16)
"""Mixtures of so many normals are tried."""

STEPS = 25
"""Steps of the fit, at most."""

ROWS_A_NUMBER = 8
"""So many rows a free number of a mixture must have."""

HEAVY = 10.0
"""A feature has heavy tails if a sample lies so many widths out."""

RIDGE = 1e-6
"""A normal is at least so wide, as a part of the variance of its feature."""

LOG_2PI = float(np.log(2 * np.pi))


class Proposal:
    """Fit a mixture of normals to samples; it then draws rows, and knows their density.

    Parameters
    ----------
    x : (M, D) array
        Samples.
    rng : numpy.random.Generator
        Where the fit starts.
    low, high : (D,) array
        Between what numbers rows lie; infinite for anywhere.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> low, high = np.full(2, -np.inf), np.full(2, np.inf)
    >>> q = Proposal(5 + 2 * rng.standard_normal((4000, 2)), rng, low, high)
    >>> q.sample(100_000, rng).mean(axis=0).round(0)
    array([5., 5.])
    >>> bool(abs(q.log_prob(np.full((1, 2), 5.0))[0] + np.log(8 * np.pi)) < 0.2)
    True
    """

    def __init__(self, x: np.ndarray, rng: np.random.Generator, low: np.ndarray, high: np.ndarray):
        x = np.asarray(x, dtype=np.float64)
        self.low, self.high = low, high
        self.bounded = np.isfinite(low) & np.isfinite(high)
        first, self.middle, last = np.quantile(x, [0.1, 0.5, 0.9], axis=0)
        width = (last - first) / 2.563
        self.width = np.where(width > 0, width, np.maximum(np.abs(self.middle), 1.0))
        far = np.abs(x - self.middle).max(axis=0) / self.width
        self.heavy = (far > HEAVY) & ~self.bounded
        v = self.coordinates(x)[0]
        v = v[np.isfinite(v).all(axis=1)]
        held = max(len(v) // 5, 1)
        sizes = [K for K in SIZES if K == 1 or K * v.shape[1] ** 2 * ROWS_A_NUMBER / 2 < len(v)]
        fits = [_fit(v[held:], K, rng) for K in sizes]
        scores = [float(np.mean(_log_mixture(v[:held], *fit))) for fit in fits]
        self.weights, self.means, self.factors = fits[int(np.argmax(scores))]

    def coordinates(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return v (N, D) of rows x, and log|dv/dx| (N,); infinite outside the bounds."""
        x = np.asarray(x, dtype=np.float64)
        with np.errstate(all="ignore"):
            z = (x - self.middle) / self.width
            below, above = x - self.low, self.high - x
            logit = np.log(below) - np.log(above)
            v = np.where(self.bounded, logit, np.where(self.heavy, np.arcsinh(z), z))
            slope = -np.log(self.width) - np.where(self.heavy, np.log1p(z * z) / 2, 0.0)
            bent = np.log(self.high - self.low) - np.log(below) - np.log(above)
        return np.where(np.isnan(v), np.inf, v), np.where(self.bounded, bent, slope).sum(axis=1)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw rows (n, D)."""
        which = rng.choice(len(self.weights), size=n, p=self.weights)
        noise = rng.standard_normal((n, len(self.middle)))
        v = self.means[which] + np.einsum("nij,nj->ni", self.factors[which], noise)
        with np.errstate(all="ignore"):
            z = np.where(self.heavy, np.sinh(v), v)
            free = self.middle + self.width * z
            inside = self.low + (self.high - self.low) / (1 + np.exp(-v))
        return np.where(self.bounded, inside, free)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Return log q (N,) of rows x, nats; -inf outside the bounds."""
        v, log_slope = self.coordinates(x)
        inside = np.isfinite(v).all(axis=1)
        log_q = np.full(len(v), -np.inf)
        log_q[inside] = _log_mixture(v[inside], self.weights, self.means, self.factors)
        log_q[inside] += log_slope[inside]
        return log_q


def _log_terms(v: np.ndarray, weights, means, factors) -> np.ndarray:
    """Return log of every normal's part of the density, (N, K)."""
    terms = np.empty((len(v), len(weights)))
    for k, (weight, mean, factor) in enumerate(zip(weights, means, factors, strict=True)):
        r = np.linalg.solve(factor, (v - mean).T)
        log_det = np.log(np.diag(factor)).sum()
        terms[:, k] = np.log(weight) - log_det - np.square(r).sum(axis=0) / 2
    return terms - v.shape[1] * LOG_2PI / 2


def _log_mixture(v: np.ndarray, weights, means, factors) -> np.ndarray:
    """Return the mixture's log-density (N,)."""
    return np.logaddexp.reduce(_log_terms(v, weights, means, factors), axis=1)


def _fit(v: np.ndarray, K: int, rng: np.random.Generator) -> tuple:
    """Fit K normals to v (M, D): weights (K,), means (K, D), and factors of covariances (K, D, D).

    It starts from normals around K random rows.
    """
    D = v.shape[1]
    spread = np.atleast_2d(np.cov(v.T, ddof=0)) + 1e-300 * np.eye(D)
    floor = RIDGE * np.diag(np.diag(spread)) + 1e-300 * np.eye(D)
    factor = np.linalg.cholesky(spread + floor)
    if K == 1:
        return np.ones(1), v.mean(axis=0)[None], factor[None]
    fit = (np.full(K, 1 / K), v[rng.choice(len(v), K, replace=False)], np.stack([factor / 2] * K))
    last = -np.inf
    for _ in range(STEPS):
        terms = _log_terms(v, *fit)
        log_q = np.logaddexp.reduce(terms, axis=1)
        share = np.exp(terms - log_q[:, None])
        size = share.sum(axis=0) + D + 1e-9  # a few rows of the whole beside each normal's own
        means = (share.T @ v + 1e-9 * v.mean(axis=0)) / (share.sum(axis=0) + 1e-9)[:, None]
        factors = np.empty((K, D, D))
        for k in range(K):
            away = v - means[k]
            own = (share[:, k, None] * away).T @ away
            factors[k] = np.linalg.cholesky((own + D * spread / K) / size[k] + floor)
        fit = (size / size.sum(), means, factors)
        if log_q.mean() - last < 1e-4:
            break
        last = log_q.mean()
    return fit
