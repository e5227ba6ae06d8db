r"""Two sets of rows, one distribution? Asked of both together, by bounds that hold for any rows.

Samples and images of noise are put into one pool, context by context. If they have one
distribution, then the samples are rows drawn from their pool by lot, without replacement, and for
every function h of the pooled rows

.. math:: \Big| \sum_{n\,\text{sampled}} (h_n - \bar h) \Big|
          \le \sqrt{2 V t} + \tfrac{M t}{3}, \qquad
          V = \sum_g n_g \operatorname{Var}_g(h), \; M = \max |h - \bar h|, \; t = \log(2 / \alpha)

(Bernstein's inequality; Hoeffding 1963, doi 10.1080/01621459.1963.10500830, section 6: drawn
without replacement, sums spread no wider). Nothing is said of the distribution itself. Most h are
functions of ranks, which units and heavy tails do not move; one is the squared norm of u as other
images tell it from x, which sees a temperature behind a bent map.

Letters: n samples, N rows of the pool, D features, C context inputs, g a context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from afnp.univariate.normal import normal_quantile
from afnp.verify.uniform import FALSE_ALARM

__all__ = ["MOST", "Pool", "Test", "pool_of", "seen", "square_from", "tests_of"]

MOST = 8
"""At most so many features are looked at alone, and in pairs."""

PARTS = 8
"""Below so many quantiles of the pool samples are counted."""

ENOUGH = 10
"""With so many rows a feature their covariance is known."""

RIDGE = 1e-6
"""Added to correlations: features may be the same."""

DEGREES, TERMS = (6, 5, 4, 3, 2), 300
"""The squared norm of u is a polynomial of x, of the first such degree that has no more terms."""

BLOCK = 2**12
"""So many rows at once."""

SURE = 2.33
"""What is said to be seen is seen in 99 of 100 cases."""

QUANTILES = (0.16, 0.5, 0.84)
"""A median, and what is two standard deviations of a normal apart."""

MOMENTS = ("location", "scale", "skewness", "tails")


class Pool(NamedTuple):
    """Samples and images of noise."""

    sampled: np.ndarray
    """(N,) bool."""
    group: np.ndarray
    """(N,) the number of each row's context."""
    context: np.ndarray
    """(N, C)."""
    places: np.ndarray
    """(N, D) each feature's rank among the rows of its context, in (0, 1)."""
    scores: np.ndarray
    """(N, D) quantiles of a normal at these places."""
    white: np.ndarray
    """(N, D) scores made uncorrelated."""

    @property
    def square(self) -> np.ndarray:
        """Squared norm (N,)."""
        return np.square(self.white).sum(axis=1)


class Test(NamedTuple):
    """One statistic with its bound, and what it says when it is beyond."""

    what: str
    measured: float
    bound: float
    cause: str = ""


def pool_of(
    x: np.ndarray, y: np.ndarray, group: np.ndarray, c: np.ndarray, rng: np.random.Generator
) -> Pool:
    """Put samples x and images y into one pool; equal numbers are ranked by lot.

    Parameters
    ----------
    x, y : (n, D) and (N - n, D) arrays
    group : (N,) array
        The number of each row's context, the samples' first.
    c : (N, C) array
    rng : Generator
    """
    rows, lot = np.concatenate([x, y]), rng.random(len(x) + len(y))
    places, scores, white = (np.empty(rows.shape) for _ in range(3))
    for g in np.unique(group).tolist():
        here = np.flatnonzero(group == g)
        p = (np.arange(len(here)) + 0.5) / len(here)
        z = np.sign(p - 0.5) * normal_quantile(np.log(np.minimum(p, 1 - p)))
        for i, values in enumerate(rows[here].T):
            ordered = here[np.lexsort((lot[here], values))]
            places[ordered, i], scores[ordered, i] = p, z
        white[here] = _whitened(scores[here])
    return Pool(np.arange(len(rows)) < len(x), group, c, places, scores, white)


def _whitened(z: np.ndarray) -> np.ndarray:
    """Return rows (N, D) that are not correlated; if they are too few, as they are."""
    N, D = z.shape
    if N < ENOUGH * D:
        return z
    root = np.linalg.cholesky(z.T @ z / N + RIDGE * np.eye(D))
    return np.linalg.solve(root, z.T).T


def square_from(
    u: np.ndarray, y: np.ndarray, group: np.ndarray, c: np.ndarray
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    r"""Return a function of rows, numbers of contexts and contexts: the estimate of u² (N,).

    .. math:: |u|^2 \approx \sum_k a_k m_k(z, c), \qquad
              z = \operatorname{arsinh} \frac{x - \text{median}}{\text{width}}

    with monomials m, by least squares over images y of noise u, which are none of the pool's.
    """
    many = int(group.max()) + 1
    quantiles = np.array([np.quantile(y[group == g], QUANTILES, axis=0) for g in range(many)])
    middle, width = quantiles[:, 1], quantiles[:, 2] - quantiles[:, 0]
    width = np.where(width > 0, width, 1.0)
    powers = _powers(y.shape[1] + c.shape[1], min(TERMS, len(y) // ENOUGH))

    def monomials(x, group, c):
        z = np.hstack([np.arcsinh((x - middle[group]) / width[group]), c]).T
        m: dict[tuple[int, ...], np.ndarray] = {(): np.ones(len(x))}
        for k in powers[1:]:
            m[k] = m[k[:-1]] * z[k[-1]]
        return np.stack([m[k] for k in powers])

    square = np.square(u.astype(np.float64)).sum(axis=1)
    G, b = np.zeros((len(powers), len(powers))), np.zeros(len(powers))
    for part in _blocks(len(y)):
        m = monomials(y[part], group[part], c[part])
        G, b = G + m @ m.T, b + m @ square[part]
    size = np.sqrt(np.diag(G)) + np.finfo(float).tiny
    a = np.linalg.solve(G / np.outer(size, size) + RIDGE * np.eye(len(size)), b / size) / size
    most = float(square.max())

    def estimate(x, group, c):
        parts = [a @ monomials(x[part], group[part], c[part]) for part in _blocks(len(x))]
        return np.clip(np.concatenate(parts), 0, most)

    return estimate


def _blocks(N: int) -> Iterator[slice]:
    """Cut N rows into parts whose monomials fit into memory."""
    return (slice(start, start + BLOCK) for start in range(0, N, BLOCK))


def _powers(D: int, most: int) -> list[tuple[int, ...]]:
    """Return the factors of each monomial of D numbers: at most so many, or powers alone."""
    for degree in DEGREES:
        if math.comb(D + degree, degree) <= most:
            parts = range(degree + 1)
            return [k for d in parts for k in combinations_with_replacement(range(D), d)]
    return [(), *((i,) for i in range(D)), *((i, i) for i in range(D))]


def tests_of(pool: Pool, square: np.ndarray) -> list[Test]:
    """Return all tests: together they fail rows of one distribution with FALSE_ALARM at most.

    Half of it is that of the squared norm, and of the estimate of u's, ``square`` (N,).
    """
    functions = list(_functions(pool))
    alpha = FALSE_ALARM / 2 / len(functions)
    return [
        _test("u² as x tells it", square, pool, FALSE_ALARM / 4, _scale(square, pool)),
        _test("squared norm", pool.square, pool, FALSE_ALARM / 4, _scale(pool.square, pool)),
        *(_test(name, h, pool, alpha, cause) for name, h, cause in functions),
    ]


def _scale(h: np.ndarray, pool: Pool) -> str:
    """Say in which direction a squared norm is off."""
    wider = h[pool.sampled].mean() > h[~pool.sampled].mean()
    return (
        f"a temperature {'above' if wider else 'below'} 1, or a scale that only one of both knows"
    )


def _functions(pool: Pool) -> Iterator[tuple[str, np.ndarray, str]]:
    """Yield functions of pooled rows, each with its name, and what may move it."""
    shift = "noise that is shifted, or a location that only one of both knows"
    shared = "noise that is shared between features, or drawn from another row's context"
    z, D = pool.scores, min(pool.places.shape[1], MOST)
    for i in range(D):
        p = pool.places[:, i]
        for k, what in enumerate(MOMENTS, start=1):
            P_k = np.polynomial.legendre.Legendre.basis(k)
            yield f"{what} of feature {i}", P_k(2 * p - 1), shift if k == 1 else ""
        for k in range(1, PARTS):
            yield f"share of feature {i} below its quantile {k}/{PARTS}", p < k / PARTS, ""
        for j in range(i):
            yield f"mean of x{i} x{j}, as normal scores", z[:, i] * z[:, j], shared
        for k, c_k in enumerate(pool.context.T):
            yield f"mean of x{i} c{k}, as normal scores", z[:, i] * c_k, shared


def _test(name: str, h: np.ndarray, pool: Pool, alpha: float, cause: str) -> Test:
    """Compare the mean of h (N,) over samples with its mean over their pool."""
    size = np.maximum(np.bincount(pool.group), 1)
    centred = h - (np.bincount(pool.group, h) / size)[pool.group]
    spread = np.bincount(pool.group, np.square(centred)) / size
    variance = float(spread @ np.bincount(pool.group, pool.sampled))
    most = float(np.abs(centred).max())
    n, t = int(pool.sampled.sum()), math.log(2 / alpha)
    bound = (math.sqrt(2 * variance * t) + most * t / 3) / n
    return Test(name, abs(float(centred[pool.sampled].mean())), bound, cause)


def seen(pool: Pool, h: np.ndarray, bound: float, u: np.ndarray) -> float:
    r"""Return which part a temperature has to be off to be seen in 99 of 100 cases.

    .. math:: \frac{d}{d \log T} \operatorname{E}\, h(g(T u)) = \operatorname{Cov}(h, |u|^2)

    for normal noise u, that of the images: the mean over samples moves so fast, less their own part
    of the pool.
    """
    rest = 1 - pool.sampled.mean()
    slope = np.cov(h[~pool.sampled], np.square(u.astype(np.float64)).sum(axis=1))[0, 1] * rest
    deviation = float(h.std()) * math.sqrt(rest / pool.sampled.sum())
    return (bound + SURE * deviation) / slope if slope > 0 else math.inf
