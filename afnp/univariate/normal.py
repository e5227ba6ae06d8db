r"""Tails of the standard normal distribution, to rounding however far out.

.. math::
    \Phi(-t) = e^{-t^2/2}\, G(t), \qquad
    G(t) = \frac{t}{\pi} \int_0^\infty \frac{e^{-q^2/2}}{t^2 + q^2}\, dq
         \approx \frac{t d}{\pi} \sum_{j=0}^{12} \frac{e^{-q_j^2/2}}{t^2 + q_j^2}
                  + \frac{e^{t^2/2}}{1 + e^{2\pi t/d}}, \qquad q_j = (j + \tfrac12)\, d

The midpoint rule is accurate to exp(-2 pi² / d²), 7e-18 at d² = 1/2, once the residue of the pole
at q = it is added, which counts while t < 2 pi / d (Chiarella and Reichel, Mathematics of
Computation 22, 1968). All terms are positive, so nothing cancels; and analytic, so complex steps
pass.

The hazard is lambda(t) = phi(t) / Phi(-t) = 1 / (sqrt(2 pi) G(t)); its logarithm grows like
lambda(t) - t.
"""

from __future__ import annotations

import functools
import math

import numpy as np

__all__ = ["normal_quantile", "normal_tail"]

STEP = math.sqrt(0.5)
NODES = [
    (((j + 0.5) * STEP) ** 2, STEP / math.pi * math.exp(-(((j + 0.5) * STEP) ** 2) / 2))
    for j in range(13)
]
"""The squares of q_j, and their weights."""
POLE = 2 * math.pi / STEP
"""From here on, 8.9, the residue is below rounding."""
FEW = 2_000
"""Values whose terms are summed by one product; more would leave the cache."""
START = (0.010328, 0.802853, 2.515517), (0.001308, 0.189269, 1.432788, 1.0)
"""Hastings' coefficients for a quantile to within 4.5e-4, highest powers first (Abramowitz and
Stegun, 26.2.23)."""
HALLEY_STEPS = 2
"""From there one leaves 8e-12, two reach the rounding of every tail; a test counts them."""


def normal_tail(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Return log of the tail, log of the hazard and its excess over t, for t >= 0.

    These are :math:`\log \Phi(-t)`, :math:`\log \lambda(t)`, and :math:`\lambda(t) - t`.

    .. math:: \lambda(t) - t = \frac{1}{G(t)} \Big(\frac{1}{\sqrt{2\pi}} - t\,G(t)\Big), \qquad
              \frac{1}{\sqrt{2\pi}} - t\,G(t)
              = \frac{1}{\pi} \int_0^\infty \frac{q^2 e^{-q^2/2}}{t^2 + q^2}\, dq

    Examples
    --------
    >>> log_tail, log_hazard, excess = normal_tail(np.array([0.0, 40.0]))
    >>> log_tail.round(12).tolist()
    [-0.69314718056, -804.608442013754]
    """
    square = t * t
    G, rest = _sums(square) if square.size <= FEW else _sums_in_turn(square)
    near = np.where(t.real < POLE, t, np.full_like(t, POLE))
    residue = np.exp(near * (near / 2 - POLE)) / (1 + np.exp(-POLE * near))
    residue = np.where(t.real < POLE, residue, np.zeros_like(residue))
    G, rest = t * G + residue, rest - t * residue
    log_G = np.log(G)
    return log_G - square / 2, -log_G - 0.5 * math.log(2 * math.pi), rest / G


def _sums(square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums over nodes of weight / (t² + q²), and of q² times that."""
    q2, weights = _nodes(square.real.dtype)
    G, rest = weights @ (1 / (q2 + square.ravel()))
    return G.reshape(square.shape), rest.reshape(square.shape)


@functools.cache
def _nodes(dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return the squares of q_j (13, 1), and their weights as they are and times q² (2, 13)."""
    q2, weights = np.array(NODES, dtype=dtype).T
    return q2[:, None], np.stack([weights, q2 * weights])


def _sums_in_turn(square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Do the same, node by node."""
    G, rest = np.zeros_like(square), np.zeros_like(square)
    for q2, weight in NODES:
        term = weight / (square + q2)
        G += term
        rest += q2 * term
    return G, rest


def normal_quantile(log_tail: np.ndarray) -> np.ndarray:
    r"""Return t >= 0 with :math:`\log \Phi(-t)` = ``log_tail``, at most log(1/2).

    .. math:: t \leftarrow t + \frac{f}{\lambda}
                              \Big/ \Big(1 + \frac{f\, \kappa}{2 \lambda}\Big), \qquad
              f = \log \Phi(-t) - \mathrm{log\_tail}, \quad
              f' = -\lambda, \quad f'' = -\lambda \kappa, \quad \kappa = \lambda - t

    Halley's steps, each of which triples the digits, from a start that has three or four of them:

    .. math:: t \approx s - \frac{c_0 + c_1 s + c_2 s^2}{1 + d_1 s + d_2 s^2 + d_3 s^3}, \qquad
              s = \sqrt{-2\, \mathrm{log\_tail}}

    written in powers of 1/s, which do not overflow. All of it is analytic, so complex steps pass.

    Examples
    --------
    >>> normal_quantile(np.array([np.log(0.5), -804.608442013754])).round(12).tolist()
    [0.0, 40.0]
    """
    s = np.sqrt(-2 * log_tail)
    (c2, c1, c0), (d3, d2, d1, d0) = START
    t = s - (c2 + (c1 + c0 / s) / s) / (d3 * s + d2 + (d1 + d0 / s) / s)
    for _ in range(HALLEY_STEPS):
        value, log_hazard, excess = normal_tail(t)
        step = (value - log_tail) * np.exp(-log_hazard)
        t = t + step / (1 + 0.5 * step * excess)
    return t
