r"""Are numbers uniform on (0, 1)? Distances and moments, with bounds that hold for any count.

.. math:: \sup_q |\hat F(q) - q| \le \sqrt{\frac{\log(2 / \alpha)}{2 n}}, \qquad
          \Big| \frac1n \sum_k \sqrt{2k + 1}\, P_k(2 F - 1) \Big| \le t_k

The first is of Dvoretzky, Kiefer and Wolfowitz (1956), with Massart's constant (1990, doi
10.1214/aop/1176990746); the first Legendre moments (Neyman's smooth test) see a shift or a scale
sooner.

Letters: n numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["FALSE_ALARM", "ORDERS", "Statistic", "slack_of", "thresholds", "uniform_tests"]

FALSE_ALARM = 1e-6
"""Probability that a correct sampler fails a check, over all its tests together, at most."""

ORDERS = 4
"""Legendre moments: location, scale, skewness, tails."""


class Statistic(NamedTuple):
    """One statistic with its bound."""

    what: str
    measured: float
    bound: float


def thresholds(n: int, alpha: float) -> tuple[float, np.ndarray]:
    r"""Return what distance and mean moments of n uniform numbers exceed with probability < alpha.

    .. math:: \epsilon = \sqrt{\frac{\log(2/\alpha)}{2 n}}, \qquad
              n t = \tfrac{M q}{3} + \sqrt{\big(\tfrac{M q}{3}\big)^2 + 2 n q}, \quad
              q = \log(2 / \alpha), \; M = \sqrt{2k + 1}

    The second is Bernstein's inequality for numbers of variance 1 that never exceed M.

    Examples
    --------
    >>> distance, moments = thresholds(1000, 1e-6)
    >>> round(distance, 3), moments.round(3)
    (0.085, array([0.179, 0.182, 0.184, 0.185]))
    """
    q = np.log(2 / alpha)
    M = np.sqrt(2 * np.arange(1, ORDERS + 1) + 1)
    return float(np.sqrt(q / (2 * n))), (M * q / 3 + np.sqrt((M * q / 3) ** 2 + 2 * n * q)) / n


def uniform_tests(
    name: str,
    F: np.ndarray,
    alpha: float,
    effective: int | None = None,
    error: np.ndarray | None = None,
    extremes: bool = True,
) -> list[Statistic]:
    """Return the distance from uniform, the extremes, and the moments, each with its bound.

    Parameters
    ----------
    name : str
        Of what lies at F.
    F : (n,) array
    alpha : float
        Probability that a statistic is beyond its bound by chance.
    effective : int, optional
        How many numbers the bounds are for, where F itself is an estimate; n if left out.
    error : (n,) array, optional
        How far each F may be off: widens the bounds.
    extremes : bool
        Whether the smallest and the largest number are looked at.
    """
    error = np.zeros(len(F)) if error is None else error
    n, F = len(F), np.sort(F)
    distance, moments = thresholds(effective or n, alpha)
    steps = np.arange(n + 1) / n
    gap = max(np.max(steps[1:] - F), np.max(F - steps[:-1]))
    tests = [Statistic(f"distance of {name}", float(gap), distance + slack_of(error))]
    if extremes:
        ends = float(max(F[0], 1 - F[-1]))
        bound = float(np.log(2 / alpha) / n + 2 * slack_of(error))
        tests.append(Statistic(f"extremes of {name}", ends, bound))
    for k, what in enumerate(("location", "scale", "skewness", "tails"), start=1):
        P_k = np.polynomial.legendre.Legendre.basis(k)
        moment = np.sqrt(2 * k + 1) * float(np.mean(P_k(2 * F - 1)))
        slack = np.sqrt(2 * k + 1) * float(np.mean(np.minimum(k * (k + 1) * error, 2)))
        tests.append(Statistic(f"{what} of {name}", abs(moment), float(moments[k - 1] + slack)))
    return tests


def slack_of(error: np.ndarray) -> float:
    r"""Return how far errors of single places may move a distribution function.

    The least ε + share(error > ε).
    """
    error = np.sort(np.minimum(error, 1))
    return float(np.min(error + 1 - np.arange(1, len(error) + 1) / len(error)))
