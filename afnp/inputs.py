"""Input: what the public boundary accepts, and what it says of the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["check_rows", "choose"]


def check_rows(x, features: int, dtype, name: str = "x") -> np.ndarray:
    """Return x as finite rows (N, D) of ``dtype``, or raise a ValueError that says what is wrong and where.

    Examples
    --------
    >>> check_rows([[1, 2], [3, float("nan")]], 2, np.float64)
    Traceback (most recent call last):
        ...
    ValueError: x: row 1, feature 1 is nan; every value must be finite
    """
    x = np.asarray(x)
    if x.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected real numbers, got dtype {x.dtype}")
    if x.ndim != 2:
        hint = "; a single row is x[None, :]" if x.shape == (features,) else ""
        raise ValueError(f"{name}: expected a two-dimensional array (N, {features}), got shape {x.shape}{hint}")
    if x.shape[1] != features:
        raise ValueError(f"{name}: expected {features} columns, got {x.shape[1]}")
    with np.errstate(over="ignore"):
        x = x.astype(dtype, copy=False)
    if not np.isfinite(x).all():
        row, feature = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(f"{name}: row {row}, feature {feature} is {x[row, feature]}; every value must be finite")
    return x


def choose(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a ValueError that lists what is allowed, unless ``value`` is."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")
