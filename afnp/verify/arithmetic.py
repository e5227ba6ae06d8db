r"""Arithmetic that may be shaken: how far results move says how much rounding they may show.

.. math:: f_{\theta}(x) \;\approx\; f_{\theta (1 + \delta \xi)}\big(x (1 + \delta \xi')\big), \qquad
          \xi, \xi' \in \{-1, 1\}

Rounding acts as if every input and every parameter had been multiplied by 1 + ε, up to a modest factor
(Wilkinson's backward error).

Letters: N rows, D features, C context inputs, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from afnp.flows import Flow
from afnp.verify.results import NotRun

__all__ = ["Arithmetic", "flow_arithmetic", "shake"]


class Arithmetic:
    """Both directions in the precision in which tolerances are estimated, shaken by δ if that is not 0."""

    def __init__(self, normalize: Callable | None, generate: Callable | None, dtype, rng=None, delta: float = 0.0):
        self._normalize, self._generate = normalize, generate
        self.dtype, self.rng, self.delta = dtype, rng, delta

    def _shake(self, x: np.ndarray) -> np.ndarray:
        return shake(x, self.rng, self.delta) if self.delta else x

    def normalize(self, x: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map x (N, D), shaken, to u and log|det du/dx|."""
        if self._normalize is None:
            raise NotRun("needs normalize")
        return self._normalize(self._shake(x), context)

    def generate(self, u: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map u (N, D), shaken, to x and log|det dx/du|."""
        if self._generate is None:
            raise NotRun("needs generate")
        return self._generate(self._shake(u), context)


def shake(x: np.ndarray, rng: np.random.Generator, delta: float) -> np.ndarray:
    """Return x (1 + δ ξ) with random signs ξ."""
    return (x * (1 + delta * rng.choice([-1.0, 1.0], x.shape))).astype(x.dtype)


def flow_arithmetic(flow: Flow, dtype, rng: np.random.Generator | None = None, delta: float = 0.0) -> Arithmetic:
    """Return both directions of a flow in NumPy, with every layer's inputs shaken, and all parameters.

    Each direction shakes its own parameters: moved alike they would cancel in a round trip, as rounding does not.
    """
    theta = flow.theta.astype(dtype)

    def moved(x):
        return x if rng is None else shake(x, rng, delta)

    def through(steps, x, c):
        x, c, log_det = x.astype(np.complex128 if np.iscomplexobj(x) else dtype), c.astype(dtype), 0
        for step, p in steps:
            x, more = step(p, moved(x), c)[:2]
            log_det = log_det + more
        return x, log_det

    there = [(layer.normalize, p) for layer, p in zip(flow.layers, flow._split(moved(theta)), strict=True)]
    back = [(layer.generate, p) for layer, p in zip(flow.layers, flow._split(moved(theta)), strict=True)][::-1]
    return Arithmetic(lambda x, c: through(there, x, c), lambda u, c: through(back, u, c), dtype)
