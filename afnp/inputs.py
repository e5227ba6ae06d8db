"""Input: what the public boundary accepts, and what it says of the rest.

Letters: N rows, D features.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "TOO_MANY",
    "TextColumn",
    "check_angles",
    "check_names",
    "check_rows",
    "check_weights",
    "choose",
    "finite_array",
    "flag",
    "frame_of",
    "frame_names",
    "frame_values",
    "generator",
    "in_order",
    "integer",
    "integers",
    "permutation",
    "plain_array",
    "probabilities",
    "real",
    "refuse_masked",
    "require",
    "some_weights",
    "symmetric",
    "too_many_rows",
]


def check_rows(
    x,
    features: int | None,
    dtype,
    name: str = "x",
    columns: Sequence[str] | None = None,
    first: int = 0,
) -> np.ndarray:
    """Return x as finite rows (N, D) of ``dtype``, or say what is wrong and where.

    A pandas DataFrame is read by its columns; where the caller knows their names (``columns``), it
    may have them in any order, but no others. A Series is one column. Messages count rows from
    ``first``, where these are a piece of more.

    Examples
    --------
    >>> check_rows([[1, 2], [3, float("nan")]], 2, np.float64)
    Traceback (most recent call last):
        ...
    ValueError: x: row 1, feature 1 is nan; every value must be finite, none missing
    """
    frame = frame_of(x)
    if frame is not None:
        x = frame_values(frame if columns is None else _by_name(frame, columns, name), name)
    x = plain_array(x, name)
    if x.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected real numbers, got dtype {x.dtype}")
    if x.ndim != 2:
        hint = f"; a single row is {name}[None, :]" if x.shape == (features,) else ""
        raise ValueError(
            f"{name}: expected a two-dimensional array (N, {features or 'D'}), got shape "
            f"{x.shape}{hint}"
        )
    if features is not None and x.shape[1] != features:
        raise ValueError(f"{name}: expected {features} columns, got {x.shape[1]}")
    given = x
    if x.dtype != dtype:
        with np.errstate(over="ignore"):
            x = x.astype(dtype)
    if not np.isfinite(x).all():
        row, feature = np.argwhere(~np.isfinite(x))[0]
        value = given[row, feature]
        kind = f" as {np.dtype(dtype)}" if np.isfinite(value) else ""
        hint = ", none missing" if np.isnan(value) else ""
        raise ValueError(
            f"{name}: row {first + row}, feature {feature} is {value}; every value must be "
            f"finite{kind}{hint}"
        )
    return x


def check_weights(weights, n: int, name: str) -> np.ndarray:
    """Return what n rows weigh as finite float64 (N,) of at least 0, or raise a ValueError.

    Examples
    --------
    >>> check_weights([1, -1], 2, "weights")
    Traceback (most recent call last):
        ...
    ValueError: weights: row 1: expected a finite number of at least 0, got -1.0
    """
    w = plain_array(weights, name)
    if w.dtype.kind not in "fiub" or w.shape != (n,):
        raise ValueError(f"{name}: expected {n} numbers, got shape {w.shape} of {w.dtype}")
    w = w.astype(np.float64)
    bad = np.flatnonzero(~((w >= 0) & (w < math.inf)))
    if bad.size:
        raise ValueError(
            f"{name}: row {bad[0]}: expected a finite number of at least 0, got {w[bad[0]]}"
        )
    return w


def some_weights(weights, n: int, name: str = "weights") -> np.ndarray:
    """Return what ``check_weights`` does, or raise a ValueError where all of them are 0."""
    w = check_weights(weights, n, name)
    if not w.any():
        raise ValueError(f"{name}: expected at least one above 0, got {n} zeros")
    return w


def plain_array(x, name: str) -> np.ndarray:
    """Return x as an array; refuse rows of unequal lengths and masked values, with their place.

    Examples
    --------
    >>> plain_array([[1, 2], [3]], "x")
    Traceback (most recent call last):
        ...
    ValueError: x: row 1 has 1 values, row 0 has 2; expected rows of one length
    """
    if type(x) is not np.ndarray:
        refuse_masked(x, name)
    try:
        return np.asarray(x)
    except ValueError as error:
        lengths = [len(row) if isinstance(row, (list, tuple)) else np.size(row) for row in x]
        for k, length in enumerate(lengths):
            if length != lengths[0]:
                raise ValueError(
                    f"{name}: row {k} has {length} values, row 0 has {lengths[0]}; "
                    "expected rows of one length"
                ) from None
        for k, row in enumerate(x):
            if _is_ragged(row) or np.shape(row) != np.shape(x[0]):
                raise ValueError(
                    f"{name}: row {k} is {_shown(row)}; expected numbers, as many as in each row"
                ) from None
        raise ValueError(f"{name}: expected a table of numbers ({error})") from None


def _is_ragged(row) -> bool:
    """Return whether a row is no array of any number of axes."""
    try:
        np.shape(row)
    except ValueError:
        return True
    return False


def _shown(row) -> str:
    said = repr(row)
    return said[:50] + " ..." if len(said) > 50 else said


def refuse_masked(x, name: str) -> None:
    """Raise a ValueError that names the place if x, or a row in a list of them, has a masked value.

    Plain arrays of it would hold what lies under the mask.
    """
    if isinstance(x, (list, tuple)) and any(isinstance(row, np.ma.MaskedArray) for row in x):
        for k, row in enumerate(x):
            _refuse_mask(np.ma.atleast_1d(row), f"{name}: row {k}, feature")
    if isinstance(x, np.ma.MaskedArray):
        _refuse_mask(x, f"{name}: index" if x.ndim != 2 else f"{name}: (row, feature)")


def _refuse_mask(x: np.ma.MaskedArray, where: str) -> None:
    masked = np.argwhere(np.ma.getmaskarray(x))
    if len(masked):
        at = masked[0].tolist()
        place = str(at[0]) if len(at) == 1 else f"({', '.join(map(str, at))})"
        raise ValueError(
            f"{where} {place} is masked; missing values are not supported: leave such rows out, or "
            "fill them in"
        )


# ---- tables with names ---------------------------------------------------------------------------


class TextColumn(ValueError):
    """A column that holds no numbers, by its name."""

    def __init__(self, column: str, message: str):
        super().__init__(message)
        self.column = column


def frame_of(x):
    """Return x if it is a pandas DataFrame, a Series as one column, and None for all else."""
    pandas = sys.modules.get("pandas")  # whoever has a DataFrame has imported it
    if pandas is None:
        return None
    if isinstance(x, pandas.Series):
        return x.to_frame()
    return x if isinstance(x, pandas.DataFrame) else None


def frame_names(frame) -> tuple[str, ...]:
    """Return the names of a DataFrame's columns, as text."""
    return tuple(map(str, frame.columns))


def frame_values(frame, name: str) -> np.ndarray:
    """Return a DataFrame's values (N, D).

    Refuse a column that is not of numbers, or has a gap, by its name.
    """
    values = np.empty(frame.shape)
    for i, column in enumerate(frame_names(frame)):
        series = frame.iloc[:, i]
        if series.dtype.kind not in "fiub":
            raise TextColumn(
                column,
                f"{name}: column {column!r}: expected real numbers, got dtype {series.dtype}",
            )
        values[:, i] = series.to_numpy(dtype=np.float64, na_value=np.nan)
        gaps = np.flatnonzero(np.isnan(values[:, i]))
        if gaps.size:
            raise ValueError(
                f"{name}: row {gaps[0]}, column {column!r} is missing; missing values are not "
                "supported: leave such rows out (dropna), or fill them in"
            )
    return values


def check_names(name: str, names, width: int) -> tuple[str, ...] | None:
    """Return names of ``width`` columns, all different, as a tuple, or raise a ValueError.

    Examples
    --------
    >>> check_names("columns", ["mass", "age"], 2)
    ('mass', 'age')
    """
    if names is None:
        return None
    sound = not isinstance(names, str) and all(isinstance(column, str) for column in names)
    if not sound or len(names) != width or len(set(names)) != width:
        raise ValueError(f"{name}: expected {width} different names of columns, got {names!r}")
    return tuple(names)


def _by_name(frame, columns: Sequence[str], name: str):
    """Return the DataFrame's columns in the order of their known names."""
    row = set(map(str, frame.index)) == set(columns)
    hint = "; a single row is a table too: table.iloc[[0]]" if row else ""
    return frame.iloc[:, in_order(frame_names(frame), columns, name, hint)]


def in_order(given: Iterable, columns: Sequence[str], name: str, hint: str = "") -> list[int]:
    """Return the places of known columns among those that are given, or say which are others.

    Examples
    --------
    >>> in_order(["b", "a"], ["a", "b"], "x")
    [1, 0]
    """
    found = list(map(str, given))
    missing = [column for column in columns if column not in found]
    others = [column for column in found if column not in columns]
    if missing or others or len(found) != len(columns):
        said = [
            f"{what} {', '.join(map(repr, some[:5]))}"
            for what, some in (("lacks", missing), ("has also", others))
            if some
        ]
        raise ValueError(
            f"{name}: expected the columns {', '.join(map(repr, columns))}; "
            f"the table {' and '.join(said) or 'has one of them twice'}{hint}"
        )
    return [found.index(column) for column in columns]


# ---- arrays of any shape -------------------------------------------------------------------------

SUM_TOLERANCE = 1e-9
"""Rounding in float64 stays far below, a table rounded to float32 usually above."""
SYMMETRY_TOLERANCE = 1e-12
"""In units of the two standard deviations."""


def require(ok: np.ndarray, got: np.ndarray, expected: str) -> None:
    """Raise a ValueError for the first entry that is not ok: expected, got, and where."""
    if not np.all(ok):
        at = np.argwhere(~ok)[0].tolist()
        raise ValueError(f"expected {expected}, got {got[tuple(at)]}" + (f" at {at}" if at else ""))


def finite_array(
    values: ArrayLike, name: str, shape: Sequence | None = None, kinds: str = "biuf"
) -> np.ndarray:
    """Return finite numbers of these dtype kinds; a letter in ``shape`` stands for any length.

    Examples
    --------
    >>> finite_array([[1, 2, 3]], "x", ("N", 2))
    Traceback (most recent call last):
        ...
    ValueError: x: expected shape (N, 2), got (1, 3)
    """
    array = plain_array(values, name.partition("[")[0])
    if array.dtype.kind not in kinds:
        raise ValueError(f"{name}: expected a dtype of kind {'/'.join(kinds)}, got {array.dtype}")
    shape = array.shape if shape is None else shape
    pairs = zip(shape, array.shape, strict=False)
    lengths = tuple(length if isinstance(asked, str) else asked for asked, length in pairs)
    if len(shape) != array.ndim or lengths != array.shape:
        asked = ", ".join(map(str, shape))
        raise ValueError(f"{name}: expected shape ({asked}), got {array.shape}")
    require(np.isfinite(array), array, f"{name} to be finite")
    return array


def probabilities(values: ArrayLike, name: str, axis: int | None) -> np.ndarray:
    """Return probabilities that sum to 1 along an axis, or all together where it is None.

    Examples
    --------
    >>> probabilities([0.5, 0.4], "p", axis=None)
    Traceback (most recent call last):
        ...
    ValueError: expected p to sum to 1, got 0.9
    """
    p = finite_array(values, name).astype(np.float64)
    require(p >= 0, p, f"{name} >= 0")
    total = np.asarray(p.sum(axis=axis))
    require(abs(total - 1) <= SUM_TOLERANCE, total, f"{name} to sum to 1")
    return p


def permutation(order: Sequence[int] | None, features: int) -> np.ndarray:
    """Return an order of D > 0 features as indices, the natural one where it is None.

    Examples
    --------
    >>> permutation([0, 2], 2)
    Traceback (most recent call last):
        ...
    ValueError: order: expected a permutation of 0..1, got [0, 2]
    """
    if features == 0:
        raise ValueError("expected at least one feature, got none")
    given = np.arange(features) if order is None else np.asarray(order)
    sound = given.shape == (features,) and given.dtype.kind in "iu"
    if not sound or set(given) != set(range(features)):
        raise ValueError(f"order: expected a permutation of 0..{features - 1}, got {order}")
    return given.astype(np.intp)


def symmetric(covariance: ArrayLike, features: int) -> np.ndarray:
    """Return a covariance (D, D), made symmetric where rounding alone is in the way."""
    S = finite_array(covariance, "covariance[row, column]", (features, features)).astype(np.float64)
    scale = np.sqrt(abs(S.diagonal()))
    tolerance = SYMMETRY_TOLERANCE * np.outer(scale, scale)
    require(abs(S - S.T) <= tolerance, S, "covariance symmetric")
    return (S + S.T) / 2


# ---- single values -------------------------------------------------------------------------------


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
            f"{name}: row {row}, feature {feature}: expected an angle in [-pi, pi], got "
            f"{x[row, feature]}"
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
    if isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}: expected an integer, got {value!r}")
    if number < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {number}")
    return number


def integers(name: str, values, least: int) -> tuple[int, ...]:
    """Return a sequence of integers as a tuple, or raise a ValueError that names it.

    Examples
    --------
    >>> integers("hidden", [64, 64], least=1)
    (64, 64)
    """
    try:
        if not isinstance(values, (str, bytes)):
            return tuple(integer(name, value, least) for value in values)
    except TypeError:
        pass
    raise ValueError(f"{name}: expected a sequence of integers, got {values!r}") from None


TOO_MANY = (MemoryError, OverflowError, ValueError)
"""What NumPy raises where so many rows fit into no memory."""


def too_many_rows(n: int, features: int) -> ValueError:
    """Return the error that names n, where n rows do not fit into memory."""
    return ValueError(
        f"n: {n} rows of {features} features do not fit into memory; draw them in several calls, "
        "with one Generator as rng"
    )


def choose(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a ValueError that lists what is allowed, unless ``value`` is."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")


def real(
    name: str, value, low: float = -math.inf, high: float = math.inf, ends: str = "()"
) -> float:
    """Return ``value`` as a float between two ends, or raise a ValueError that names it.

    An end is counted in, [ or ], or not.

    Examples
    --------
    >>> real("learning_rate", 0, 0)
    Traceback (most recent call last):
        ...
    ValueError: learning_rate: expected a positive number, got 0
    """
    sound = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if sound:
        above = low < value or (ends[0] == "[" and value == low)
        sound = above and (value < high or (ends[1] == "]" and value == high))
    if not sound:
        expected = f"a number in {ends[0]}{low:g}, {high:g}{ends[1]}"
        if (low, high) == (0, math.inf):
            expected = "a positive number" if ends[0] == "(" else "a number of at least 0"
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return float(value)


def flag(name: str, value) -> bool:
    """Return ``value`` if it is True or False, or raise a ValueError that names it."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def generator(name: str, value) -> np.random.Generator:
    """Return a Generator from one or from a seed, or raise a ValueError that names it.

    Examples
    --------
    >>> generator("rng", -1)
    Traceback (most recent call last):
        ...
    ValueError: rng: expected a seed (an integer of at least 0) or a numpy.random.Generator, got -1
    """
    try:
        if value is None or isinstance(value, (bool, np.bool_)):
            raise TypeError  # hidden randomness; a mistake, not the seeds 0 and 1
        return np.random.default_rng(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}: expected a seed (an integer of at least 0) or a numpy.random.Generator, "
            f"got {value!r}"
        ) from None
