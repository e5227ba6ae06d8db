r"""Arithmetic that may be shaken: how far results move says how much rounding they may show.

.. math:: f_{\theta}(x) \;\approx\; f_{\theta (1 + \delta \xi)}\big(x (1 + \delta \xi')\big), \qquad
          \xi, \xi' \in \{-1, 1\}

Rounding acts as if every input and every parameter had been multiplied by 1 + ε, up to a modest
factor (Wilkinson's backward error): so a flow is shaken at every layer. That misses what rounds
badly inside of one, and where it matters every single operation is shaken (:func:`shaken_arrays`).

Letters: N rows, D features, C context inputs, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from afnp.flow import Flow
from afnp.verify.results import NotRun
from afnp.verify.worker import safe_point

__all__ = ["Arithmetic", "flow_arithmetic", "shake", "shaken_arrays"]

EXACT = {np.maximum, np.minimum, np.negative, np.absolute, np.conjugate, np.sign, np.floor, np.rint}
"""What does not round."""
BANK = 2**17
"""So many random errors are drawn at once, for all operations."""


class Arithmetic:
    """Both directions in the precision in which tolerances are estimated, shaken by δ if that is not 0."""

    def __init__(
        self,
        normalize: Callable | None,
        generate: Callable | None,
        dtype,
        rng=None,
        delta: float = 0.0,
    ):
        self._normalize, self._generate = normalize, generate
        self.dtype, self.rng, self.delta = dtype, rng, delta

    def _shake(self, x: np.ndarray) -> np.ndarray:
        return shake(x, self.rng, self.delta) if self.delta else x

    def normalize(self, x: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map x (N, D), shaken, to u and log|det du/dx|."""
        if self._normalize is None:
            raise NotRun("needs normalize")
        safe_point()
        return self._normalize(self._shake(x), context)

    def generate(self, u: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map u (N, D), shaken, to x and log|det dx/du|."""
        if self._generate is None:
            raise NotRun("needs generate")
        safe_point()
        return self._generate(self._shake(u), context)


def shake(x: np.ndarray, rng: np.random.Generator, delta: float) -> np.ndarray:
    """Return x (1 + δ ξ) with random signs ξ."""
    return (x * (1 + delta * rng.choice([-1.0, 1.0], x.shape))).astype(x.dtype)


def flow_arithmetic(
    flow: Flow, dtype, rng: np.random.Generator | None = None, delta: float = 0.0
) -> Arithmetic:
    """Return both directions of a flow in NumPy, with every layer's inputs shaken, and all parameters.

    Each direction shakes its own parameters: moved alike they would cancel in a round trip, as
    rounding does not.
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

    there = [
        (layer.normalize, p) for layer, p in zip(flow.layers, flow.split(moved(theta)), strict=True)
    ]
    back = [
        (layer.generate, p) for layer, p in zip(flow.layers, flow.split(moved(theta)), strict=True)
    ][::-1]
    return Arithmetic(lambda x, c: through(there, x, c), lambda u, c: through(back, u, c), dtype)


def shaken_arrays(rng: np.random.Generator, delta: float) -> type[np.ndarray]:
    r"""Return a kind of array whose arithmetic errs by δ where a machine's errs by ε, in every operation on it.

    .. math:: a \oplus b = (a + b)(1 + \delta \xi), \qquad \xi \in \{-1, 1\}

    So it meets what rounds inside a layer too. (Monte Carlo arithmetic: Parker 1997, UCLA report
    CSD-970002.) A product of matrices is one operation. Code hands the kind on unless it makes
    plain arrays of it: by ``np.asarray``, where ``np.asanyarray`` does not, or by writing results
    into ``np.empty``.

    Examples
    --------
    >>> shaken = shaken_arrays(np.random.default_rng(0), 1e-6)
    >>> knots = np.full(100, 3.992).view(shaken) + 0
    >>> float(abs((4 - knots) / 0.008 - 1).mean().round(5))  # 3.992 / 0.008 times the error of the knots
    0.0005
    """
    bank = 1 + delta * rng.choice([-1.0, 1.0], BANK)

    def errors(shape: tuple[int, ...]) -> np.ndarray:
        size = math.prod(shape)
        start = int(rng.integers(max(1, BANK - size)))
        return np.resize(bank[start : start + size], shape)

    class Shaken(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
            def plain(arrays):
                return tuple(a.view(np.ndarray) if isinstance(a, Shaken) else a for a in arrays)

            if out is not None:
                kwargs["out"] = plain(out)
            result = getattr(ufunc, method)(*plain(inputs), **kwargs)
            values = np.asarray(result)
            if values.dtype.kind == "f" and ufunc not in EXACT:
                values[...] *= errors(values.shape)
            if out is not None:
                return out[0]
            return values.view(Shaken) if values.dtype.kind == "f" else result

        def __array_function__(self, func, types, args, kwargs):
            result = super().__array_function__(func, types, args, kwargs)
            return (
                result.view(Shaken)
                if type(result) is np.ndarray and result.dtype.kind == "f"
                else result
            )

    return Shaken
