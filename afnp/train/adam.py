r"""Adam on one flat parameter vector.

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2

    \theta &\leftarrow \theta - \eta_t \left(
        \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda\, \theta \right)

Adam (arXiv 1412.6980) with bias correction and decoupled weight decay λ (arXiv 1711.05101).
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["Adam"]


class Adam:
    """Adam on one flat vector; see the module's formula.

    Examples
    --------
    >>> theta, adam = np.array([1.0]), Adam(1, np.float64)
    >>> for _ in range(300):
    ...     adam.step(theta, 2 * theta, rate=0.05)   # minimise theta²
    >>> bool(abs(theta[0]) < 1e-3)
    True
    """

    def __init__(
        self,
        size: int,
        dtype,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        backend: str = "numpy",
    ):
        self.m, self.v = np.zeros(size, dtype=dtype), np.zeros(size, dtype=dtype)
        self.scratch = np.empty(size, dtype=dtype)
        self.t = 0
        self.beta1, self.beta2, self.epsilon, self.backend = beta1, beta2, epsilon, backend

    def step(
        self,
        theta: np.ndarray,
        g: np.ndarray,
        rate: float,
        weight_decay: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        """Move ``theta`` (P,) in place against ``scale`` times the gradient ``g`` (P,)."""
        self.t += 1
        m, v, s = self.m, self.v, self.scratch
        # m̂ / (√v̂ + ε) = c m / (√v + ε √(1 - β₂ᵗ)),  c = √(1 - β₂ᵗ) / (1 - β₁ᵗ)
        root = math.sqrt(1 - self.beta2**self.t)
        rate_t, epsilon_t = rate * root / (1 - self.beta1**self.t), self.epsilon * root
        if self.backend == "numba":
            from afnp.compiled.adam import step

            keep = 1 - rate * weight_decay
            step(theta, g, m, v, self.beta1, self.beta2, rate_t, epsilon_t, keep, scale)
            return
        if scale != 1:
            g = g * g.dtype.type(scale)
        m += np.multiply(np.subtract(g, m, out=s), 1 - self.beta1, out=s)
        np.multiply(g, g, out=s)
        s -= v
        s *= 1 - self.beta2
        v += s
        np.sqrt(v, out=s)
        s += epsilon_t
        np.divide(m, s, out=s)
        s *= rate_t
        if weight_decay:
            theta *= 1 - rate * weight_decay
        theta -= s
