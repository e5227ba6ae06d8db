r"""Advice before training: what makes a fit useless, and would not be seen from its likelihood.

.. math:: \max_\theta \frac1N \sum_n \log p_\theta(x_n) = \infty
          \quad\text{where rows repeat, or fill no volume}

A density is a height per unit of volume. On whole numbers, equal rows, constant columns or columns
that follow from others it can grow without end, and the better fit says nothing about new data.
Elsewhere the gradient vanishes: a spline is a straight line beyond its bound, and a network that is
given years sees one number. Each finding is a :class:`DataWarning` that names the remedy;
:func:`afnp.fit` looks once, before its first step.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from afnp.bases import StandardNormal
from afnp.flow import Flow
from afnp.univariate import Additive, Affine, RationalQuadratic

__all__ = ["DataWarning", "findings", "warn_of", "warn_of_shape"]

ROWS = 2048
"""How many rows are looked at, evenly spaced: enough to see what concerns a tenth of them."""
FEW = 20
"""With fewer rows nothing is said of how often values repeat."""
COARSE = 0.01
"""Numbers farther apart than this part of their spread have lost their digits."""
LEVELS = 256
"""So many equal steps are what a byte holds, whatever scale it was given."""
GREY = 1e-3
"""How far a level may lie from its step, as a part of the step, once it was scaled in float32."""
LARGE = 30.0
"""Means and standard deviations that a network takes without trouble, as a factor of 1."""


class DataWarning(UserWarning):
    """Training data that a flow cannot learn from, or whose likelihood says nothing."""


def warn_of(flow, x: np.ndarray, context: np.ndarray) -> None:
    """Warn of every finding in training rows x (N, D) and contexts (N, C)."""
    for finding in findings(flow, x, context):
        warnings.warn(finding, DataWarning, stacklevel=4)


def warn_of_shape(flow: Flow) -> None:
    """Warn of a flow that is a Gaussian whatever it learns, where there are no rows to look at."""
    for finding in _of_shape(flow):
        warnings.warn(finding, DataWarning, stacklevel=3)


def findings(flow, x: np.ndarray, context: np.ndarray) -> list[str]:
    """Return what should be known before a flow is fitted to x (N, D), one sentence each.

    Examples
    --------
    >>> import afnp
    >>> years = np.linspace(1990.0, 2020.0, 50)[:, None]
    >>> for line in findings(afnp.maf(1, (8,), 2, context=1), np.sin(years * 9), years):
    ...     print(line)
    context: column 0 has mean 2005 and standard deviation 8.84: to a network that is one number; \
let the flow scale it: flow.standardize_context(context)
    """
    if not isinstance(flow, Flow):
        return []
    some = np.linspace(0, len(x) - 1, min(len(x), ROWS)).astype(int)
    x, context = np.asarray(x[some], np.float64), np.asarray(context[some], np.float64)
    named = _Names(flow.columns)
    with np.errstate(all="ignore"):  # numbers whose squares are none speak for themselves
        coarse = _steps(x) > COARSE * x.std(axis=0)
        said = [
            *_of_digits(flow, x, coarse, named),
            *_of_values(flow, x, coarse, named),
            *_of_context(flow, context),
        ]
        if not said:
            said += _of_volume(x, context, named)
        return [*said, *_of_scale(flow, x, context, named), *_of_shape(flow)]


class _Names:
    """What columns are called in messages."""

    def __init__(self, columns: Sequence[str] | None):
        self.columns = columns

    def __call__(self, which, does: str = "", do: str = "") -> str:
        """Name some columns, the first three in full, and say what one does or several do."""
        which = [int(i) for i in which]
        shown = [
            f"{i}" if self.columns is None else f"{i} ({self.columns[i]!r})" for i in which[:3]
        ]
        more = f" and {len(which) - 3} more" if len(which) > 3 else ""
        words = ("feature", does) if len(which) == 1 else ("features", do)
        return f"{words[0]} {', '.join(shown)}{more} {words[1]}".rstrip()


def _steps(x: np.ndarray) -> np.ndarray:
    """Return how far apart the numbers of each column can lie, (D,): float32's, if all are such."""
    largest = np.abs(x).max(axis=0, initial=0.0)
    few = (x == x.astype(np.float32)).all(axis=0)
    return np.where(few, np.spacing(largest.astype(np.float32)), np.spacing(largest))


def _of_digits(flow: Flow, x: np.ndarray, coarse: np.ndarray, named: _Names) -> Iterator[str]:
    """Look for columns that were rounded before what they share came off."""
    lost = np.flatnonzero(coarse & (x != x[:1]).any(axis=0))
    if lost.size:
        i = lost[0]
        remedy = (
            "let the flow scale them in float64, with preprocess=afnp.preprocessing(x_train)"
            if flow.data_dtype == np.float32
            else "subtract what they share before they are rounded"
        )
        yield (
            f"x_train: {named(lost, 'has', 'have')} hardly a digit left (feature {i}: numbers near "
            f"{x[0, i]:.4g} are {_steps(x)[i]:.3g} apart and spread by {x[:, i].std():.3g}); "
            f"{remedy}"
        )


def _of_constants(flow: Flow, x: np.ndarray, named: _Names) -> Iterator[str]:
    """Look for columns of one value, which rounding in the flow may have left of several."""
    constant = np.flatnonzero((x == x[0]).all(axis=0))
    if not constant.size:
        return
    rounded = constant[x[0, constant] != 0] if flow.data_dtype == np.float32 else constant[:0]
    steps = _steps(x)[rounded].max(initial=0.0)
    scaled = (
        f"; if numbers {steps:.2g} apart are too coarse for what differs in them, let the flow "
        "scale them in float64, with preprocess=afnp.preprocessing(x_train)"
    )
    yield (
        f"x_train: {named(constant, 'never changes', 'never change')}: the likelihood grows "
        f"without end; leave {'it' if constant.size == 1 else 'them'} out"
        f"{scaled if rounded.size else ''}"
    )


def _of_values(flow: Flow, x: np.ndarray, coarse: np.ndarray, named: _Names) -> Iterator[str]:
    """Look at single columns: constants, indices, whole numbers, few values."""
    if len(x) < 2:
        return
    yield from _of_constants(flow, x, named)
    if len(x) < FEW:
        return
    distinct = np.array([len(np.unique(column)) for column in x.T])
    whole = (x == np.floor(x)).all(axis=0)
    varied = (distinct > 1) & ~coarse
    index = np.flatnonzero(whole & varied & (distinct == len(x)) & _evenly_spread(x))
    if index.size:
        yield (
            f"x_train: {named(index, 'counts', 'count')} up in whole numbers, each of them once: "
            "is it an index of the rows? If so, leave it out"
        )
    counts = np.flatnonzero(whole & varied & (distinct <= len(x) / 2))
    if counts.size:
        yield (
            f"x_train: {named(counts, 'holds', 'hold')} whole numbers: a continuous density can "
            "put a spike on each, and its likelihood says nothing then; spread grey levels or "
            "counts over [k, k + 1) with afnp.data.dequantize and preprocessing(x, levels=...), or "
            "fit a DiscreteMADE"
        )
    few = np.flatnonzero(~whole & varied & (distinct <= len(x) / FEW))
    if few.size:
        count = distinct[few].max()
        yield (
            f"x_train: {named(few, 'takes', 'take at most')} {count} different values in {len(x)} "
            "rows: a continuous density can put a spike on each, and its likelihood says nothing "
            "then; if they are steps of a scale, spread them over the steps with uniform noise"
        )
    grey = ~whole & varied & (distinct > len(x) / FEW) & (distinct <= len(x) / 2)
    grey[grey] = [_steps_of_a_byte(column) for column in x.T[grey]]
    if grey.any():
        yield (
            f"x_train: {named(np.flatnonzero(grey), 'holds', 'hold')} equal steps, at most "
            f"{LEVELS} of them, as grey levels do on any scale: a continuous density can put a "
            "spike on each, and its likelihood says nothing then; scale them back to whole "
            f"numbers, and spread them with afnp.data.dequantize and preprocessing(x, levels="
            f"{LEVELS})"
        )


def _steps_of_a_byte(column: np.ndarray) -> bool:
    """Return whether a column of several values holds equal steps, no more than a byte can."""
    values = np.unique(column)
    above = values - values[0]
    count = np.round(above[-1] / np.diff(values).min())
    if count >= LEVELS:
        return False
    steps = above / above[-1] * count
    return bool((np.abs(steps - np.round(steps)) < GREY).all())


def _evenly_spread(x: np.ndarray) -> np.ndarray:
    """Return which columns of distinct whole numbers lie about as close as a count does."""
    return np.ptp(x, axis=0) < 2 * len(x)


def _of_volume(x: np.ndarray, context: np.ndarray, named: _Names) -> Iterator[str]:
    """Look at rows together: equal ones, and columns that follow from others."""
    both = np.column_stack([x, context])
    N, D = x.shape
    if N < FEW or both.shape[1] < 2:
        return
    equal = N - len(np.unique(both, axis=0))
    if equal > N / 10:
        yield (
            f"x_train: {equal} of {N} rows repeat another one exactly: a density can put a spike "
            "on "
            "each, and its likelihood says nothing then; leave the copies out"
        )
        return
    low, high = np.quantile(x, [0.02, 0.98], axis=0)
    inner = x[((x >= low) & (x <= high)).all(axis=1)]  # outliers alone make columns look alike
    spread = inner.std(axis=0) if len(inner) else np.zeros(D)
    if 1 < D <= min(len(inner) / 2, 512) and (spread > 0).all():
        correlation = np.corrcoef((inner / spread).T)
        if not np.isfinite(correlation).all():  # squares beyond float64: nothing can be said
            return
        values, vectors = np.linalg.eigh(correlation)
        if values[0] < 1e-10:
            involved = np.flatnonzero(np.abs(vectors[:, 0]) > 0.1 / np.sqrt(D))
            yield (
                f"x_train: {named(involved)} depend on each other linearly, so that the rows fill "
                "no "
                "volume and their likelihood grows without end; leave one of these out"
            )


def _of_context(flow: Flow, c: np.ndarray) -> Iterator[str]:
    """Look at what the networks are given besides the features."""
    if len(c) < 2 or flow.context_scale is not None:
        return
    mean, std = c.mean(axis=0), c.std(axis=0)
    large = (np.abs(mean) > LARGE * np.maximum(std, 1)) | (std > LARGE)
    small = (std > 0) & (std < 1 / LARGE) & (np.abs(mean) < 1 / LARGE)
    for i in np.flatnonzero(large | small):
        yield (
            f"context: column {i} has mean {mean[i]:.4g} and standard deviation {std[i]:.3g}: to a "
            "network that is one number; let the flow scale it: flow.standardize_context(context)"
        )


def _unscaled(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    return (np.abs(mean) > LARGE * np.maximum(std, 1)) | (std > LARGE) | (std < 1 / LARGE)


def _of_scale(flow: Flow, x: np.ndarray, context: np.ndarray, named: _Names) -> Iterator[str]:
    """Look at what the first network, and the first spline, is given."""
    found = _first_network(flow, x, context)
    if found is None:
        return
    k, layer, y = found
    if layer.periodic or len(x) < 2 or not np.isfinite(y).all():
        return
    y = y.astype(np.float64)
    if isinstance(layer.univariate, RationalQuadratic):
        bound = layer.univariate.bound
        outside = (np.abs(y) >= bound).mean(axis=0)
        lost = np.flatnonzero(outside > 0.2)
        if lost.size:
            share = 100 * outside[lost].max()
            yield (
                f"x_train: {named(lost, 'lies', 'lie')} outside [-{bound:g}, {bound:g}] in up to "
                f"{share:.0f} % of the rows, where the splines of layer {k} are straight lines "
                "that learn nothing; scale the data with preprocess=afnp.preprocessing(x_train), "
                "or raise bound"
            )
            return
    low, median, high = np.quantile(y, [0.16, 0.5, 0.84], axis=0)
    half = (high - low) / 2  # as large as a standard deviation, whatever a few rows do
    varies = np.ptp(np.quantile(x, [0.16, 0.84], axis=0), axis=0) > 0
    crushed = np.flatnonzero(varies & (y.std(axis=0) > 100 * half))
    unscaled = np.flatnonzero((half > 0) & _unscaled(median, half))
    if k and crushed.size:
        i = crushed[0]
        furthest = x[np.argmax(np.abs(y[:, i] - median[i])), i]
        yield (
            f"x_train: {named(crushed, 'has', 'have')} a few values far out, such as "
            f"{furthest:.4g}, which set the scale for all others; leave them out, or take a base "
            "with heavy tails (afnp.bases.StudentT) and a scale of your own"
        )
        return
    if unscaled.size:
        i = unscaled[0]
        yield (
            f"x_train: {named(unscaled, 'reaches', 'reach')} the first network unscaled (feature "
            f"{i}: median {median[i]:.4g}, spread {half[i]:.3g}), and training may fail or "
            "crawl; scale the data inside the flow, with preprocess=afnp.preprocessing(x_train)"
        )


def _first_network(flow: Flow, y: np.ndarray, c: np.ndarray) -> tuple | None:
    """Return number and layer of the first network, and what it is given.

    None where there is none.
    """
    for k, (layer, p) in enumerate(zip(flow.layers, flow.split(flow.theta), strict=True)):
        if layer.conditioner is not None:
            return k, layer, y
        y = layer.evaluate(p, y, c)[0]
    return None


def _of_shape(flow: Flow) -> Iterator[str]:
    """Look at what the flow can be at all."""
    networks = [layer for layer in flow.layers if layer.conditioner is not None]
    straight = all(isinstance(layer.univariate, (Affine, Additive)) for layer in networks)
    if flow.features == 1 and not flow.context and straight:
        if isinstance(flow.base, StandardNormal):
            yield (
                "flow: with one feature, no context and affine layers, this is a Gaussian whatever "
                "its parameters; other shapes need univariate='spline' or 'gaussian_mixture'"
            )
