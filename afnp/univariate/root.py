r"""The root of an increasing function, by Newton's steps kept inside a bracket.

.. math:: x \leftarrow x - (f(x) - y)\, e^{-\log f'(x)}, \quad \text{or else} \quad
          x \leftarrow (low + high) / 2

Every value moves one end of the bracket [low, high]. A Newton step that would leave the bracket, or
is more than half as long as the step before, gives way to bisection: so steps shrink at least like
those of bisection.

Letters: M points, each with its own function.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["increasing_root"]

ITERATIONS = 200
"""Newton takes about 8; bisection alone takes 54 in float64, and each may interrupt the other."""


def increasing_root(
    f: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    start: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    y: np.ndarray,
) -> np.ndarray:
    """Return x with f(x) = y, elementwise, to the rounding of x or of f.

    Parameters
    ----------
    f : callable
        From x (M,) and ``which`` (M,), flat positions in y, to values and log-derivatives (M,).
    start, low, high : arrays like y
        Where to begin, and the bracket: f(low) <= y <= f(high).
    y : real array

    Raises
    ------
    FloatingPointError
        If an end of a bracket is not finite, or the steps do not converge: names the worst place.

    Examples
    --------
    >>> zero, two = np.zeros(2), np.full(2, 2.0)
    >>> square = lambda x, which: (x * x, np.log(2 * x))
    >>> increasing_root(square, two, zero, two, np.array([2.0, 3.0]))
    array([1.41421356, 1.73205081])
    """
    shape, eps = y.shape, float(np.finfo(y.dtype).eps)
    x, low, high, y = (np.array(a, dtype=y.dtype).ravel() for a in (start, low, high, y))
    with np.errstate(over="ignore", invalid="ignore"):
        last, scale = high - low, high - low
    _refuse(~np.isfinite(scale), shape, "the bracket of the root, or its width, is not finite")
    tolerance = 2 * eps * np.maximum(np.abs(y), 1)
    which = np.arange(y.size)
    for _ in range(ITERATIONS):
        value, log_slope = f(x[which], which)
        miss = value - y[which]
        open_ = ~(np.abs(miss) <= tolerance[which])  # what is found stays where it is
        which, miss, log_slope = which[open_], miss[open_], log_slope[open_]
        if not which.size:
            break
        low[which] = np.where(miss < 0, x[which], low[which])
        high[which] = np.where(miss > 0, x[which], high[which])
        x[which], step = _step(x[which], low[which], high[which], miss, log_slope, last[which])
        last[which] = np.abs(step)
        small = np.abs(step) <= 2 * eps * (np.abs(x[which]) + scale[which])
        which = which[~(small & np.isfinite(miss))]
    worst = np.zeros(y.size)
    if which.size:
        worst[which] = np.abs(f(x[which], which)[0] - y[which])
        worst[which] = np.where(np.isfinite(worst[which]), np.maximum(worst[which], eps), np.inf)
    _refuse(worst, shape, f"no root within {ITERATIONS} steps")
    return x.reshape(shape)


def _step(x, low, high, miss, log_slope, last) -> tuple[np.ndarray, np.ndarray]:
    """Return the next x and the step to it.

    A slope below e^-80 counts as that, and is left to the bisection.
    """
    newton = x - miss * np.exp(-np.maximum(log_slope, -80))
    good = (newton >= low) & (newton <= high) & (2 * np.abs(newton - x) <= last)
    after = np.where(good, newton, low + (high - low) / 2)
    return after, after - x


def _refuse(worst: np.ndarray, shape: tuple, what: str) -> None:
    """Raise unless all of ``worst`` is 0; say where it is largest."""
    if worst.any():
        place = np.unravel_index(int(worst.argmax()), shape)
        where = ", ".join(
            f"{n} {int(i)}" for n, i in zip(("row", "feature", "axis 2"), place, strict=False)
        )
        raise FloatingPointError(
            f"{what}: {np.count_nonzero(worst)} of {worst.size}, worst at {where or '()'}"
        )
