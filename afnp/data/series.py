r"""Time series: two real ones, windows of their past, and a split that knows what time it is.

.. math:: c_t = (x_{t-W}, \dots, x_{t-1}), \qquad y_t = (x_t, \dots, x_{t+H-1})

A row predicts y from c. Rows of all parts are in their order in time; what was measured before a
forecast is made is known to it, so windows of validation and test rows may reach back into the part
before.

Letters: T values of a series, W values of a window, H values ahead, N rows.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from afnp.inputs import choose, integer, plain_array

from .dataset import first_bad

__all__ = ["SERIES", "Rows", "Series", "carry_forward", "load_series", "windows"]


@dataclass(frozen=True, eq=False)
class Series:
    """Equally spaced measurements, and what one needs to use and to cite them.

    Attributes
    ----------
    name, unit, description, license, source : str
    values : ndarray (T,)
        Finite; where nothing was measured, the last value before is repeated.
    time : ndarray (T,)
        Years, with decimals.
    missing : ndarray (T,) of bool
        Where the value was filled in.
    """

    name: str
    values: NDArray[np.float64]
    time: NDArray[np.float64]
    missing: NDArray[np.bool_]
    unit: str
    description: str
    license: str
    source: str

    def __repr__(self) -> str:
        span = f"{self.time[0]:.1f} to {self.time[-1]:.1f}"
        filled = int(self.missing.sum())
        return f"Series({self.name!r}, {len(self.values)} values, {span}, {filled} of them filled)"


class Rows(NamedTuple):
    """What `windows` cuts: context (N, W), target (N, H), and where each target begins, (N,)."""

    context: NDArray[np.float64]
    target: NDArray[np.float64]
    at: NDArray[np.intp]

    def between(self, start: int, stop: int) -> Rows:
        """Return the rows whose targets lie wholly in start..stop-1."""
        inside = (self.at >= start) & (self.at + self.target.shape[1] <= stop)
        return Rows(self.context[inside], self.target[inside], self.at[inside])


def windows(
    values: ArrayLike, window: int, ahead: int = 1, missing: ArrayLike | None = None
) -> Rows:
    r"""Cut a series into pasts and futures, one row for each time that has both.

    .. math:: c_t = (x_{t-W}, \dots, x_{t-1}), \qquad y_t = (x_t, \dots, x_{t+H-1}), \qquad
              t = W, \dots, T - H

    Parameters
    ----------
    values : (T,) array
        Finite; `carry_forward` fills gaps.
    window, ahead : int
        W and H.
    missing : (T,) bool array, optional
        Where values were filled in. A row whose target has one is left out: nobody shall be scored
        by what was never measured. Contexts may have some.

    Returns
    -------
    Rows
        ``context`` (N, W), ``target`` (N, H), ``at`` (N,); ``rows.between(start, stop)`` splits in
        time.

    Raises
    ------
    ValueError
        If the series is not one, too short for a window and its future, or has values that are not
        finite.

    Examples
    --------
    >>> rows = windows([0, 10, 20, 30, 40], window=2)
    >>> rows.context.tolist(), rows.target[:, 0].tolist()
    ([[0.0, 10.0], [10.0, 20.0], [20.0, 30.0]], [20.0, 30.0, 40.0])
    >>> windows([1, 2, 3], window=3)
    Traceback (most recent call last):
    ValueError: window: 3 past and 1 future values need a series of 4 or more, got 3; take at most 2
    """
    x = _line(values)
    W, H = integer("window", window, least=1), integer("ahead", ahead, least=1)
    if len(x) < W + H:
        advice = f"take at most {len(x) - H}" if len(x) > H else "no window fits"
        raise ValueError(
            f"window: {W} past and {H} future values need a series of {W + H} or more, "
            f"got {len(x)}; {advice}"
        )
    if not np.isfinite(x).all():
        at = first_bad(~np.isfinite(x))[0]
        raise ValueError(
            f"values: value {at} is {x[at]}; fill gaps first, with afnp.data.series.carry_forward"
        )
    views = np.lib.stride_tricks.sliding_window_view(x, W + H)
    measured: NDArray[np.bool_] = np.ones(len(views), dtype=bool)
    if missing is not None:
        filled = np.asarray(missing, bool)
        if filled.shape != x.shape:
            raise ValueError(
                f"missing: expected shape {x.shape}, that of the values, got {filled.shape}"
            )
        measured = ~np.asarray(np.lib.stride_tricks.sliding_window_view(filled[W:], H).any(axis=1))
    kept = np.flatnonzero(measured)
    return Rows(views[kept, :W].copy(), views[kept, W:].copy(), kept + W)


def carry_forward(values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Fill each gap (NaN) with the last value before it; also return where, (T,) bool.

    Interpolation would be smoother, and would tell windows about their future.

    Raises
    ------
    ValueError
        If the series begins with a gap.

    Examples
    --------
    >>> filled, missing = carry_forward([3.0, np.nan, np.nan, 5.0])
    >>> filled.tolist(), missing.tolist()
    ([3.0, 3.0, 3.0, 5.0], [False, True, True, False])
    """
    x = _line(values)
    missing = np.isnan(x)
    if len(x) and missing[0]:
        raise ValueError(
            "values: expected a series that begins with a value, got nan first; leave out what is "
            "before"
        )
    last = np.maximum.accumulate(np.where(missing, 0, np.arange(len(x))))
    return x[last], missing


def _line(values: ArrayLike) -> NDArray[np.float64]:
    """Return a series as floats (T,), masked values as gaps, or raise a ValueError."""
    if isinstance(values, np.ma.MaskedArray) and values.dtype.kind in "fiub":
        values = np.ma.filled(values.astype(np.float64), np.nan)
    x = plain_array(values, "values")
    if x.dtype.kind not in "fiub" or x.ndim != 1:
        raise ValueError(
            f"values: expected real numbers in one dimension, got shape {x.shape}, dtype {x.dtype}"
        )
    return x.astype(np.float64)


# ---- two series of statsmodels -------------------------------------------------------------------


def _co2(table) -> Series:
    values, missing = carry_forward(table["co2"].to_numpy())
    days = (table.index - table.index[0]).days.to_numpy()
    return Series(
        "co2",
        values,
        1958 + (days + table.index[0].day_of_year - 1) / 365.25,
        missing,
        unit="ppm",
        description="Carbon dioxide in the air at Mauna Loa, weekly, 1958 to 2001; "
        f"{int(missing.sum())} weeks without a measurement repeat the last one",
        license="public domain",
        source="C. D. Keeling, T. P. Whorf et al., in statsmodels",
    )


def _sunspots(table) -> Series:
    values, missing = carry_forward(table["SUNACTIVITY"].to_numpy())
    return Series(
        "sunspots",
        values,
        table["YEAR"].to_numpy(np.float64),
        missing,
        unit="sunspot number",
        description="Mean number of sunspots, yearly, 1700 to 2008",
        license="public domain",
        source="National Geophysical Data Center, in statsmodels",
    )


SERIES = {"co2": _co2, "sunspots": _sunspots}
"""What reads each series."""


def load_series(name: str) -> Series:
    """Load ``co2`` (weekly, trend and season) or ``sunspots`` (yearly, skewed cycles).

    Extra: ``series``.

    Raises
    ------
    ValueError
        Unknown name.
    ImportError
        When statsmodels is not installed.

    Examples
    --------
    >>> load_series("sunspots")  # doctest: +SKIP
    Series('sunspots', 309 values, 1700.0 to 2008.0, 0 of them filled)
    """
    choose("name", name, list(SERIES))
    try:
        module = importlib.import_module(f"statsmodels.datasets.{name}")
    except ImportError as error:
        raise ImportError(
            f"series {name!r} needs statsmodels: pip install 'afnp[series]'"
        ) from error
    return SERIES[name](module.load_pandas().data)
