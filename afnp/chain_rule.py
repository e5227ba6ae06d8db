r"""The chain rule of probability, exactly: two families whose factors are known without training.

.. math:: p(x) = \prod_{r=1}^{D} p(x_{o_r} \mid x_{o_1}, \dots, x_{o_{r-1}})
          \qquad \text{in any order } o

Every distribution is autoregressive, in every order (arXiv 1502.03509, section 3; 1912.02762,
section 2.2): a flow only has to learn the factors. A discrete table gives them by division; for a
Gaussian the flow *is* the Cholesky factor. What is learned elsewhere can be compared with what is
computed here.

Letters: D features, N rows, K_i levels of feature i. Feature ``order[r]`` comes r-th (0, 1, ...,
D-1 unless given), and "before i" always means before it in the order. Logarithms in nats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from afnp.inputs import (
    finite_array,
    generator,
    integer,
    permutation,
    probabilities,
    require,
    symmetric,
)

__all__ = ["DiscreteChain", "GaussianChain", "factorize", "joint"]


def factorize(table: ArrayLike, order: Sequence[int] | None = None) -> list[np.ndarray]:
    r"""Divide each marginal of a joint table (K_1, ..., K_D) by the marginal before it.

    .. math:: p(x_{o_r} \mid x_{o_1}, \dots, x_{o_{r-1}})
              = \frac{p(x_{o_1}, \dots, x_{o_r})}{p(x_{o_1}, \dots, x_{o_{r-1}})}
              \qquad \Big(\tfrac{1}{K_{o_r}} \text{ where this is } 0/0 \Big)

    Given an impossible event any distribution would do, because an earlier factor of the product is
    0; it is uniform here by convention. The first marginal is divided by the table's total, 1 but
    for rounding.

    Returns
    -------
    list of D arrays
        The r-th has the axes of features ``order[0], ..., order[r]``, and sums to 1 along the last.

    Raises
    ------
    ValueError
        If an entry is negative or not finite, the sum is not 1 within 1e-9, or ``order`` is no
        permutation.

    Examples
    --------
    >>> p_rain, p_wet = factorize([[0.6, 0.1], [0.0, 0.3]])
    >>> p_rain
    array([0.7, 0.3])
    >>> p_wet.round(3)  # row: rain or not, column: wet or not
    array([[0.857, 0.143],
           [0.   , 1.   ]])
    """
    marginal = probabilities(table, "table", axis=None)
    marginal = marginal.transpose(permutation(order, marginal.ndim))
    conditionals: list[np.ndarray] = []
    while marginal.ndim:
        before = np.asarray(marginal.sum(axis=-1))
        uniform = np.full(marginal.shape, 1 / marginal.shape[-1])
        possible = before[..., None] > 0
        conditionals.insert(0, np.divide(marginal, before[..., None], out=uniform, where=possible))
        marginal = before
    return conditionals


def joint(conditionals: Sequence[ArrayLike], order: Sequence[int] | None = None) -> np.ndarray:
    r"""Multiply conditionals, as `factorize` returns them, to the joint table (K_1, ..., K_D).

    .. math:: p(x_1, \dots, x_D) = \prod_{r=1}^{D} p(x_{o_r} \mid x_{o_1}, \dots, x_{o_{r-1}})

    Raises
    ------
    ValueError
        If a conditional does not continue the shape of the one before it, or is no distribution
        along its last axis, or ``order`` is no permutation.

    Examples
    --------
    >>> wet_first = factorize([[0.6, 0.1], [0.0, 0.3]], order=[1, 0])
    >>> joint(wet_first, order=[1, 0])
    array([[0.6, 0.1],
           [0. , 0.3]])
    """
    table = np.ones(())
    for r, given in enumerate(conditionals):
        p = finite_array(given, f"conditionals[{r}]", shape=(*table.shape, "K"))
        table = table[..., None] * probabilities(p, f"conditionals[{r}]", axis=-1)
    return table.transpose(np.argsort(permutation(order, table.ndim)))


class DiscreteChain:
    r"""A joint table, evaluated and sampled one conditional after the other.

    .. math:: \log p(x) = \sum_{r=1}^{D} \log p(x_{o_r} \mid x_{o_1}, \dots, x_{o_{r-1}})

    Takes what `factorize` takes and raises what it raises. The attributes ``conditionals`` and
    ``order`` are read-only; ``levels`` is (K_1, ..., K_D). Rows x (N, D) hold integers, 0 <= x_i <
    K_i.

    Examples
    --------
    >>> chain = DiscreteChain([[0.6, 0.1], [0.0, 0.3]], order=[1, 0])
    >>> np.exp(chain.log_prob([[0, 0], [1, 0]]))
    array([0.6, 0. ])
    >>> chain.sample(5, rng=0).shape
    (5, 2)
    """

    def __init__(self, table: ArrayLike, order: Sequence[int] | None = None):
        self.conditionals = tuple(_frozen(p) for p in factorize(table, order))
        self.levels = np.shape(table)
        self.order = _frozen(permutation(order, len(self.levels)))

    def log_prob(self, x: ArrayLike) -> np.ndarray:
        """Return the log-probabilities (N,) of rows x (N, D): -inf where impossible, never NaN."""
        x = finite_array(x, "x[row, feature]", ("N", len(self.levels)), "biu")
        require((x >= 0) & (x < self.levels), x, f"0 <= x[row, feature] < {self.levels}[feature]")
        factors = [p[self._first(r + 1, x)] for r, p in enumerate(self.conditionals)]
        with np.errstate(divide="ignore"):
            return np.log(factors).sum(axis=0)

    def sample(self, n: int, rng: int | np.random.Generator = 0) -> np.ndarray:
        """Draw n possible rows (n, D) of integers, each feature given those before it."""
        n = integer("n", n, least=0)
        v = generator("rng", rng).random((n, len(self.levels), 1))
        x = np.zeros((n, len(self.levels)), dtype=np.intp)
        for r, p in enumerate(self.conditionals):
            cdf = p[self._first(r, x)].cumsum(axis=-1)
            x[:, self.order[r]] = (cdf <= v[:, r] * cdf[..., -1:]).sum(axis=1)
        return x

    def _first(self, r: int, x: np.ndarray) -> tuple[np.ndarray, ...]:
        """Index a conditional with the first r features of every row."""
        return tuple(x[:, self.order[:r]].astype(np.intp).T)


class GaussianChain:
    r"""The multivariate normal N(m, S) as an affine autoregressive flow: the Cholesky factor.

    .. math:: x_i = \mu_i(x_{<i}) + \sigma_i u_i, \qquad
              \mu_i(x_{<i}) = m_i + \sum_{j < i} A_{ij} (x_j - m_j)

    Permute S into the order, factor it as :math:`L L^\top`: the scales :math:`\sigma` are L's
    diagonal, and :math:`A = I - \mathrm{diag}(\sigma) L^{-1}`. It is the affine flow of arXiv
    1912.02762, section 3.1, with linear means and constant scales. Rows may be complex, for
    complex-step derivatives.

    Parameters
    ----------
    mean, covariance : array_like (D,), (D, D)
    order : sequence of int (D,), optional

    Attributes
    ----------
    coefficients, scales : array (D, D), (D,)
        A and sigma, numbered as the features; row i of A is exactly zero but where j comes before
        i.
    cholesky : array (D, D)
        L, numbered by the order: ``x[order] = m[order] + L @ u[order]``.
    mean, covariance, order : array
        Read-only, as all attributes are.

    Raises
    ------
    ValueError
        On wrong shapes, entries that are not finite, an ``order`` that is no permutation, or a
        covariance not symmetric (the message names the entry) or not positive definite (it names
        the leading minor).

    Examples
    --------
    >>> chain = GaussianChain(mean=[0, 1], covariance=[[4, 2], [2, 2]])
    >>> chain.coefficients[1], chain.scales  # x_0 = 2 u_0, x_1 = 1 + x_0 / 2 + u_1
    (array([0.5, 0. ]), array([2., 1.]))
    >>> chain.generate([[1, 1]])[0]
    array([[2., 3.]])
    """

    def __init__(self, mean: ArrayLike, covariance: ArrayLike, order: Sequence[int] | None = None):
        self.mean = _frozen(finite_array(mean, "mean[feature]", ("D",)).astype(np.float64))
        self.covariance = _frozen(symmetric(covariance, len(self.mean)))
        self.order = _frozen(permutation(order, len(self.mean)))
        self.cholesky = _frozen(_cholesky(self.covariance, self.order))
        A, sigma = np.zeros_like(self.covariance), np.zeros_like(self.mean)
        A[np.ix_(self.order, self.order)] = _regressions(self.cholesky)
        sigma[self.order] = self.cholesky.diagonal()
        self.coefficients, self.scales = _frozen(A), _frozen(sigma)

    def conditional_means(self, x: ArrayLike) -> np.ndarray:
        """Return the means μ_i(x_<i), (N, D), of all features given those before, at x (N, D)."""
        x = finite_array(x, "x[row, feature]", ("N", len(self.mean)), "biufc")
        return self.mean + (x - self.mean) @ self.coefficients.T

    def normalize(self, x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Map data x (N, D) to noise u (N, D), log|det du/dx| (N,): all features at once."""
        u = (np.asarray(x) - self.conditional_means(x)) / self.scales
        return u, np.full(len(u), -np.log(self.scales).sum())

    def generate(self, u: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Map noise u (N, D) to data x (N, D), log|det dx/du| (N,): one feature after the other."""
        z = finite_array(u, "u[row, feature]", ("N", len(self.mean)), "biufc") * self.scales
        for i in self.order:  # z becomes x - m; what is still noise meets zeros of A
            z[:, i] += z @ self.coefficients[i]
        return self.mean + z, np.full(len(z), np.log(self.scales).sum())

    def log_prob(self, x: ArrayLike) -> np.ndarray:
        """Return the log-densities (N,) of x (N, D): log N(u; 0, I) + log|det du/dx|."""
        u, log_det = self.normalize(x)
        return log_det - 0.5 * (u**2 + np.log(2 * np.pi)).sum(axis=1)

    def sample(self, n: int, rng: int | np.random.Generator = 0) -> np.ndarray:
        """Draw n rows (n, D)."""
        shape = integer("n", n, least=0), len(self.mean)
        return self.generate(generator("rng", rng).standard_normal(shape))[0]


def _cholesky(S: np.ndarray, order: np.ndarray) -> np.ndarray:
    r"""Factor the permuted S column by column; every column is a conditional covariance, c.

    .. math:: c = \mathrm{Cov}(x_{o_r}, x_{o_{\ge r}} \mid x_{o_{<r}}), \qquad
              L_{\ge r,\, r} = c / \sqrt{c_0}
    """
    S = S[np.ix_(order, order)]
    L = np.zeros_like(S)
    for r in range(len(S)):
        c = S[r:, r] - L[r:, :r] @ L[r, :r]
        rounding = len(S) * np.finfo(np.float64).eps * S[r, r]
        if not c[0] > rounding:
            raise ValueError(
                f"expected a positive definite covariance, got a leading minor of order {r + 1} "
                f"that is not positive: variance {c[0]:.3g} of feature {order[r]} given features "
                f"{order[:r].tolist()}"
            )
        L[r:, r] = c / np.sqrt(c[0])
    return L


def _regressions(L: np.ndarray) -> np.ndarray:
    """Return A = I - diag(L) inv(L), by forward substitution, which keeps its zeros exact."""
    A, inverse = np.zeros_like(L), np.zeros_like(L)
    for r, unit in enumerate(np.eye(len(L))):
        A[r] = L[r, :r] @ inverse[:r]
        inverse[r] = (unit - A[r]) / L[r, r]
    return A


def _frozen(array: np.ndarray) -> np.ndarray:
    """Make an array of our own read-only, so that nothing derived from it can go stale."""
    array.setflags(write=False)
    return array
