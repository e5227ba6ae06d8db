r"""Functions that neither overflow nor cancel, for real numbers and for complex steps.

.. math:: \log(1 + w) = 2\, \mathrm{artanh} \frac{w}{2 + w}, \qquad
          \log \sum_k e^{a_k} = m + \log \sum_k e^{a_k - m}, \quad m = \max_k \operatorname{Re} a_k

A branch is chosen by real parts, and its input is made harmless before it is computed.
"""

from __future__ import annotations

import numpy as np

__all__ = ["log1p", "log_sum_exp", "logsumexp", "softmax", "softplus"]


def log1p(w: np.ndarray) -> np.ndarray:
    """Return log(1 + w) for Re w > -1; ``np.log1p`` rounds 1 + w where w is complex, this does not.

    Examples
    --------
    >>> log1p(np.array([0.0, 1e-20])).tolist()
    [0.0, 1e-20]
    """
    return 2 * np.arctanh(w / (2 + w))


def softplus(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return :math:`\log(1 + e^z)` and its derivative, the sigmoid.

    Examples
    --------
    >>> value, slope = softplus(np.array([-800.0, 0.0, 800.0]))
    >>> value.round(3).tolist(), slope.tolist()
    ([0.0, 0.693, 800.0], [0.0, 0.5, 1.0])
    """
    positive = z.real > 0
    tail = np.exp(np.where(positive, -z, z))
    rise = np.where(positive, np.ones_like(tail), tail) / (1 + tail)
    return np.where(positive, z, np.zeros_like(z)) + log1p(tail), rise


def log_sum_exp(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log of the sum of e^a over the first axis, and each term's share of that sum.

    Examples
    --------
    >>> total, shares = log_sum_exp(np.log([[1.0], [3.0]]))
    >>> np.exp(total).round(12).tolist(), shares.round(12).tolist()
    ([4.0], [[0.25], [0.75]])
    """
    m = a.real.max(axis=0)
    terms = np.exp(a - m)
    total = terms.sum(axis=0)
    return m + np.log(total), terms / total


def softmax(a: np.ndarray) -> np.ndarray:
    """Return e^a over its sum over the first axis."""
    terms = np.exp(a - a.real.max(axis=0))
    return terms / terms.sum(axis=0)


def logsumexp(a: np.ndarray, axis: int = -1) -> np.ndarray:
    r"""Return the logarithm of a sum of exponentials along an axis; -inf where all terms are.

    .. math:: \log \sum_k e^{a_k} = m + \log \sum_k e^{a_k - m}, \qquad m = \max_k a_k

    Examples
    --------
    >>> float(logsumexp(np.array([-1000.0, -1000.0])).round(3))
    -999.307
    """
    m = a.max(axis=axis, keepdims=True)  # complex numbers are ordered by their real parts first
    m = np.where(np.isfinite(m), m, np.zeros_like(m))
    with np.errstate(divide="ignore"):
        return np.squeeze(m, axis) + np.log(np.exp(a - m).sum(axis=axis))
