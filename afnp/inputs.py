"""Input: what the public boundary accepts, and what it says of the rest."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

__all__ = ["check_angles", "check_rows", "choose", "integer"]


def check_rows(x, features: int | None, dtype, name: str = "x") -> np.ndarray:
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
        hint = f"; a single row is {name}[None, :]" if x.shape == (features,) else ""
        raise ValueError(
            f"{name}: expected a two-dimensional array (N, {features or 'D'}), got shape {x.shape}{hint}"
        )
    if features is not None and x.shape[1] != features:
        raise ValueError(f"{name}: expected {features} columns, got {x.shape[1]}")
    given = x
    with np.errstate(over="ignore"):
        x = x.astype(dtype, copy=False)
    if not np.isfinite(x).all():
        row, feature = np.argwhere(~np.isfinite(x))[0]
        value, kind = (
            given[row, feature],
            "" if not np.isfinite(given[row, feature]) else f" as {np.dtype(dtype)}",
        )
        raise ValueError(
            f"{name}: row {row}, feature {feature} is {value}; every value must be finite{kind}"
        )
    return x


def check_angles(x: np.ndarray, name: str = "x") -> None:
    """Raise a ValueError that names row and feature unless all of x (N, D) lies in [-pi, pi].

    Examples
    --------
    >>> check_angles(np.array([[0.0, 1.0], [3.0, 4.0]]))
    Traceback (most recent call last):
        ...
    ValueError: x: row 1, feature 1: expected an angle in [-pi, pi], got 4.0
    """
    outside = np.argwhere(np.abs(x) > x.dtype.type(np.pi))
    if len(outside):
        row, feature = outside[0]
        raise ValueError(
            f"{name}: row {row}, feature {feature}: expected an angle in [-pi, pi], got {x[row, feature]}"
        )


def integer(name: str, value, least: int) -> int:
    """Return ``value`` as an int, or raise a ValueError that names it.

    Examples
    --------
    >>> integer("features", np.int64(3), least=1)
    3
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: expected an integer, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {number}")
    return number


def choose(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a ValueError that lists what is allowed, unless ``value`` is."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")
