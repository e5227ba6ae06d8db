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
NEWTON_STEPS = 6
"""Five reach the rounding of every tail from 1/2 down to exp(-1e8); a test counts them."""


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
    G, rest = np.zeros_like(square), np.zeros_like(square)
    for q2, weight in NODES:
        term = weight / (square + q2)
        G += term
        rest += q2 * term
    near = np.where(t.real < POLE, t, np.full_like(t, POLE))
    residue = np.exp(near * (near / 2 - POLE)) / (1 + np.exp(-POLE * near))
    residue = np.where(t.real < POLE, residue, np.zeros_like(residue))
    G, rest = t * G + residue, rest - t * residue
    log_G = np.log(G)
    return log_G - square / 2, -log_G - 0.5 * math.log(2 * math.pi), rest / G


def normal_quantile(log_tail: np.ndarray) -> np.ndarray:
    r"""Return t >= 0 with :math:`\log \Phi(-t)` = ``log_tail``, at most log(1/2).

    .. math:: t \leftarrow t + (\log \Phi(-t) - \mathrm{log\_tail}) / \lambda(t)

    Newton's steps go down from above without a safeguard: log Phi(-t) is concave, and as it is at
    most log(1/2) - t²/2, the start t² = -2 (log_tail + log 2) is not below the root.

    Examples
    --------
    >>> normal_quantile(np.array([np.log(0.5), -804.608442013754])).round(12).tolist()
    [0.0, 40.0]
    """
    square = -2 * (log_tail + math.log(2))
    t = np.sqrt(np.where(square.real > 0, square, np.zeros_like(square)))
    for _ in range(NEWTON_STEPS):
        value, log_hazard, _ = normal_tail(t)
        t = t + (value - log_tail) * np.exp(-log_hazard)
    return t
