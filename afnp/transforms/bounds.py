r"""Bounds: features that end somewhere are unfolded to the whole line.

.. math::
    x > l: \;\; y = \log(x - l), \qquad
    x < r: \;\; y = -\log(r - x), \qquad
    l < x < r: \;\; y = \log \frac{x - l}{r - x}

    \log \frac{dy}{dx} = -\log(x - l), \qquad -\log(r - x), \qquad
    \log(r - l) - \log(x - l) - \log(r - x)

Whatever noise a flow is given, its samples then stay inside, and outside the density is zero.

Letters: N rows, D features; l and r the ends of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from afnp.inputs import real
from afnp.transforms.base import Transform

__all__ = ["Bounds", "check_inside", "layer_of"]

NO_BOUND = (None, None)


class Bounds(Transform):
    """Unfold bounded features, half-open or between two ends; see the module's formulas.

    Parameters
    ----------
    low, high : sequences of D floats or None
        Where each feature ends; None where it does not.

    Raises
    ------
    ValueError
        If the lengths differ, an end is not finite, or a low end is not below the high one (names
        the feature).

    Examples
    --------
    >>> layer = Bounds([0.0, None, -1.0], [None, None, 1.0])
    >>> y, log_det, _ = layer.normalize({}, np.array([[1.0, 5.0, 0.0]]), None)
    >>> y, log_det.round(3)
    (array([[0., 5., 0.]]), array([0.693]))
    >>> layer.normalize({}, np.array([[-1.0, 5.0, 0.0]]), None)[1]
    array([-inf])
    """

    preprocesses = True

    def __init__(self, low: Sequence, high: Sequence):
        if len(low) != len(high) or not len(low):
            raise ValueError(
                f"low and high: expected two sequences of one length, got {len(low)} and "
                f"{len(high)}"
            )
        self.low = _ends("low", low)
        self.high = _ends("high", high)
        for i, (left, right) in enumerate(zip(self.low, self.high, strict=True)):
            if left is not None and right is not None and not left < right:
                raise ValueError(f"feature {i}: expected low < high, got {left} and {right}")
        self.features = len(self.low)
        is_low = np.array([end is not None for end in self.low])
        is_high = np.array([end is not None for end in self.high])
        self._above = np.flatnonzero(is_low & ~is_high)
        self._below = np.flatnonzero(is_high & ~is_low)
        self._between = np.flatnonzero(is_low & is_high)
        self._left = np.array([0.0 if end is None else end for end in self.low])
        self._right = np.array([0.0 if end is None else end for end in self.high])

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this transform."""
        return {"low": self.low, "high": self.high}

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each feature ends, low and high; infinite where it does not."""
        low = [-math.inf if end is None else end for end in self.low]
        return np.array(low), np.array([math.inf if end is None else end for end in self.high])

    def _distances(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x - l, r - x, 1 where there is no such end or x is beyond, and rows outside."""
        dtype = x.real.dtype
        a, b = np.ones_like(x), np.ones_like(x)
        with_low = np.concatenate([self._above, self._between])
        with_high = np.concatenate([self._below, self._between])
        a[:, with_low] = x[:, with_low] - self._left[with_low].astype(dtype)
        b[:, with_high] = self._right[with_high].astype(dtype) - x[:, with_high]
        outside: np.ndarray = (a.real <= 0) | (b.real <= 0)
        a[outside] = b[outside] = 1.0
        return a, b, np.any(outside, axis=1)

    def normalize(self, p, x, context):
        """Map x (N, D) to y; also give log|det dy/dx| (N,), -inf for a row that is outside."""
        a, b, outside = self._distances(x)
        log_a, log_b = np.log(a), np.log(b)
        y = x.copy()
        bounded = np.concatenate([self._above, self._below, self._between])
        y[:, bounded] = (log_a - log_b)[:, bounded]
        widths = self._right[self._between] - self._left[self._between]
        log_det = np.log(widths).sum().astype(x.real.dtype) - (log_a + log_b).sum(axis=1)
        log_det[outside] = -np.inf
        return y, log_det, (a, b, bounded)

    def generate(self, p, y, context):
        """Map y (N, D) back to x, strictly inside; also give log|det dx/dy| (N,)."""
        x, log_det = y.copy(), np.zeros(len(y), dtype=y.dtype)
        left, right = (ends.astype(y.real.dtype) for ends in (self._left, self._right))
        i = self._above
        x[:, i] = left[i] + np.exp(y[:, i])
        log_det = log_det + y[:, i].sum(axis=1)
        i = self._below
        x[:, i] = right[i] - np.exp(-y[:, i])
        log_det = log_det - y[:, i].sum(axis=1)
        i = self._between
        v = y[:, i]
        positive = v.real > 0
        e = np.exp(np.where(positive, -v, v))  # cannot overflow
        # shares of the width, to the further end and the nearer
        near, far = 1 / (1 + e), e / (1 + e)
        width = right[i] - left[i]
        x[:, i] = np.where(positive, right[i] - width * far, left[i] + width * far)
        log_det = log_det + (np.log(width) + np.log(near) + np.log(far)).sum(axis=1)
        return self._inside(x, left, right), log_det

    def _inside(self, x: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Move what was rounded onto an end to the next number inside."""
        for i in np.concatenate([self._above, self._between]):
            least = np.nextafter(left[i], np.inf, dtype=left.dtype)
            x[:, i] = np.where(x[:, i].real < least, least, x[:, i])
        for i in np.concatenate([self._below, self._between]):
            most = np.nextafter(right[i], -np.inf, dtype=right.dtype)
            x[:, i] = np.where(x[:, i].real > most, most, x[:, i])
        return x

    def backward(self, p, cache, d_y, d_log_det, g):
        r"""Return d_x.

        .. math:: d_x = d_y \left(\frac1{x - l} + \frac1{r - x}\right)
                  + d_{\log\det} \left(\frac1{r - x} - \frac1{x - l}\right)

        where a term without its end is left out.
        """
        a, b, bounded = cache
        d_x = d_y.copy()
        inverse_a, inverse_b = np.zeros_like(a), np.zeros_like(b)
        for inverse, distance, which in ((inverse_a, a, self._above), (inverse_b, b, self._below)):
            both = np.concatenate([which, self._between])
            inverse[:, both] = 1 / distance[:, both]
        total = d_y * (inverse_a + inverse_b) + d_log_det[:, None] * (inverse_b - inverse_a)
        d_x[:, bounded] = total[:, bounded]
        return d_x


def check_inside(
    x: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
    name: str,
    columns: Sequence[str] | None = None,
    numbers: np.ndarray | None = None,
) -> None:
    """Raise a ValueError for the first row of x (N, D) that is not strictly between two ends.

    ``numbers`` are what the rows are called.

    Examples
    --------
    >>> check_inside(np.array([[1.0], [-2.0]]), (np.zeros(1), np.ones(1) * 3), "x", ["mass"])
    Traceback (most recent call last):
        ...
    ValueError: x: row 1, feature 0 ('mass'): expected a value inside (0, 3), got -2.0
    """
    low, high = ends
    outside = np.argwhere(~((x > low) & (x < high)))
    if len(outside):
        row, i = outside[0]
        named = f"{i}" if columns is None else f"{i} ({columns[i]!r})"
        raise ValueError(
            f"{name}: row {row if numbers is None else numbers[row]}, feature {named}: expected a "
            f"value inside ({low[i]:g}, {high[i]:g}), got {x[row, i]}"
        )


def layer_of(bounds, features: int, columns: Sequence[str] | None) -> Bounds:
    """Return the layer for bounds of features, or say how they are written.

    Parameters
    ----------
    bounds : mapping or sequence
        From a feature's number or name to (low, high), None where there is no end; or D such pairs.

    Examples
    --------
    >>> layer_of({1: (0, None)}, 2, None).config()
    {'low': [None, 0.0], 'high': [None, None]}
    """
    pairs = [NO_BOUND] * features
    if not isinstance(bounds, Mapping):
        try:
            bounds = dict(enumerate(bounds))
        except TypeError:
            bounds = None
    if bounds is None or len(bounds) > features:
        raise ValueError(
            "bounds: expected {feature: (low, high), ...}, or a pair for every feature, "
            f"{features} in all"
        )
    for feature, pair in bounds.items():
        known = list(range(features)) + list(columns or ())
        if feature not in known:
            raise ValueError(
                f"bounds: expected features among {', '.join(map(repr, known[:20]))}, got "
                f"{feature!r}"
            )
        try:
            low, high = NO_BOUND if pair is None else pair
        except (TypeError, ValueError):
            raise ValueError(
                f"bounds: expected (low, high) for feature {feature!r}, None where it does not "
                "end, "
                f"got {pair!r}"
            ) from None
        ends = [None if end in (None, -math.inf, math.inf) else end for end in (low, high)]
        pairs[known.index(feature) % features] = (ends[0], ends[1])
    try:
        return Bounds([low for low, _ in pairs], [high for _, high in pairs])
    except ValueError as error:
        raise ValueError(f"bounds: {error}") from None


def _ends(name: str, ends: Sequence) -> list[float | None]:
    """Return the ends of each feature's interval, None where there is none."""
    return [None if end is None else real(f"{name}[{i}]", end) for i, end in enumerate(ends)]
