r"""Explanations: what should hold, what was found instead, the likely cause, and where to read.

.. math:: \text{given} - \text{expected}
          \in \{-2\,\text{expected},\; c,\; \tfrac D2 \log 2\pi,\; \dots\}

A failed check knows two numbers that should be equal, row by row. How they differ often says why:
the opposite sign, a constant, a ratio, only beyond some bound.

Letters: N rows, D features.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from afnp.verify.results import FAILED, Result

__all__ = [
    "cause_of",
    "constant_of_a_normal",
    "explained",
    "named_constant",
    "region_of",
    "term_of_a_feature",
]

NEARLY = 0.01
"""A ratio so near to 1 is none."""

FEW = 3
"""So many rows have to show a pattern."""


def cause_of(
    given: np.ndarray,
    expected: np.ndarray,
    allowed: np.ndarray,
    D: int,
    x: np.ndarray | None = None,
) -> str:
    """Return the pattern in which numbers (N,) differ from what they should be, in words.

    "" for none.

    Parameters
    ----------
    given, expected : (N,) array
    allowed : (N,) array
        Differences that say nothing.
    D : int
        Features: their number is in the constants of a normal density.
    x : (N, D) array, optional
        The rows: an error may be only in a part of space.

    Examples
    --------
    >>> expected = np.array([1.0, 2.0, 4.0, 8.0])
    >>> cause_of(-expected, expected, np.full(4, 1e-9), D=1)
    'opposite sign'
    >>> cause_of(expected + np.log(2 * np.pi), expected, np.full(4, 1e-9), D=2)
    'off by D/2 log 2π = 1.84: the constant of a normal density'
    >>> cause_of(expected / 2, expected, np.full(4, 1e-9), D=1)
    'half of what it should be: a term is missing, or a square root too many'
    """
    good = np.isfinite(given) & np.isfinite(expected) & np.isfinite(allowed)
    if x is not None and good.any():
        where = region_of(np.abs(given - expected) > allowed, x)
        if where:
            wrong = np.abs(given - expected) > allowed
            inner = _pattern(given[wrong & good], expected[wrong & good], allowed[wrong & good], D)
            return where + (f": {inner}" if inner else "")
    return _pattern(given[good], expected[good], allowed[good], D)


def _pattern(given: np.ndarray, expected: np.ndarray, allowed: np.ndarray, D: int) -> str:
    """Say how all of the numbers differ."""
    if len(given) < FEW:
        return ""
    size = allowed + 1e-6 * (1 + np.abs(expected))
    moving = np.ptp(expected) > 100 * size.max()

    def all_near(values: np.ndarray) -> bool:
        return bool((np.abs(values) <= size).all())

    if all_near(given + expected) and not all_near(expected):
        return "opposite sign"
    if all_near(given) and not all_near(expected):
        return "always 0: it was forgotten"
    if moving and all_near(given - given[0]):
        return "the same for every row: a sum or a mean over the batch?"
    gap = given - expected
    c = float(np.median(gap))
    if all_near(gap - c) and abs(c) > size.max():
        return named_constant(c, D)
    if moving:
        ratio = float(np.median(given / expected))
        if abs(ratio - 1) > NEARLY and all_near(given - ratio * expected):
            return _ratio(ratio, D)
    return ""


def term_of_a_feature(gap: np.ndarray, terms: np.ndarray, allowed: np.ndarray) -> str:
    r"""Say whether a sum over features is off by the term of one of them, in every row.

    .. math:: s_n - \sum_i t_{ni} = \mp t_{nk}

    Parameters
    ----------
    gap : (N,) array
        What is too much.
    terms : (N, D) array
    allowed : (N,) array
        Differences that say nothing.

    Examples
    --------
    >>> terms = np.array([[1.0, 2.0], [3.0, 5.0], [0.5, 0.1]])
    >>> term_of_a_feature(-terms[:, 1], terms, np.full(3, 1e-9))
    'the term of feature 1 is missing'
    """
    if len(gap) < FEW or not np.isfinite(terms).all():
        return ""
    size = (allowed + 1e-6 * (1 + np.abs(terms).sum(axis=1)))[:, None]
    for sign, what in ((1, "is missing"), (-1, "is counted twice")):
        near = (np.abs(gap[:, None] + sign * terms) <= size).all(axis=0)
        told = near & (np.abs(terms) > size).any(axis=0)
        if told.sum() == 1:
            return f"the term of feature {np.flatnonzero(told)[0]} {what}"
    return ""


def constant_of_a_normal(c: float, D: int) -> str:
    """Name a constant by which everything is off, if a normal density explains it."""
    said = named_constant(c, D)
    return said if "log 2π" in said or "√(2π)" in said else ""


def named_constant(c: float, D: int) -> str:
    """Name a constant by which everything is off."""
    whole = math.log(2 * math.pi)
    for factor, name in ((D / 2, "D/2"), (0.5, "1/2"), (D, "D"), (1.0, "")):
        if abs(abs(c) - factor * whole) < 1e-4 * (1 + abs(c)):
            what = "the constant of a normal density"
            return f"off by {f'{name} ' if name else ''}log 2π = {c:.2f}: {what}"
    each = math.exp(c / D)
    normal = each / math.sqrt(2 * math.pi)
    if min(abs(normal - k) for k in (2.0, 0.5, 3.0, 4.0)) < 1e-4 * normal:
        return f"off by the constant {c:.4g}, a factor of {normal:.4g} √(2π) a feature"
    return f"off by the constant {c:.4g}, a factor of {each:.4g} a feature: a term is forgotten"


def _ratio(ratio: float, D: int) -> str:
    """Name a ratio by which everything is off."""
    named = (
        (0.5, "half of what it should be: a term is missing, or a square root too many"),
        (2.0, "twice what it should be: a term is counted twice"),
        (1 / D, f"1/{D} of what it should be: a mean over the features instead of their sum"),
        (1 / math.log(10), "1/log 10 of what it should be: log10 instead of log"),
        (1 / math.log(2), "1/log 2 of what it should be: log2 instead of log"),
    )
    said = [words for value, words in named if abs(ratio - value) < 1e-3 * value]
    return "; or ".join(said) or f"{ratio:.4g} times what it should be"


def region_of(wrong: np.ndarray, x: np.ndarray) -> str:
    """Say where in space the wrong rows of x (N, D) lie, if that is a simple region.

    Beyond a bound, or on one side.

    Examples
    --------
    >>> x = np.array([[-9.0], [-4.0], [-1.0], [0.5], [2.0], [6.0], [7.0]])
    >>> region_of(np.abs(x[:, 0]) > 3, x)
    'only beyond ±2 (the first at 4)'
    >>> region_of(x[:, 0] < 0, x)
    'only where feature 0 is negative'
    """
    if wrong.all() or wrong.sum() < FEW or (~wrong).sum() < FEW:
        return ""
    size = np.abs(x).max(axis=1)
    if size[wrong].min() > size[~wrong].max():
        return f"only beyond ±{size[~wrong].max():.3g} (the first at {size[wrong].min():.3g})"
    for i in range(x.shape[1]):
        for sign, name in ((-1, "negative"), (1, "positive")):
            if ((sign * x[:, i] > 0) == wrong).all():
                return f"only where feature {i} is {name}"
    return ""


def explained(result: Result, **facts: Any) -> Result:
    """Return a failed result with what explains it: claim, values, x and cause.

    Another as it is.
    """
    return dataclasses.replace(result, **facts) if result.status == FAILED else result
