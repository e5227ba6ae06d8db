r"""Integrals of a density: along lines, where a row lies on its line, and marginals in the plane.

.. math:: F_n = \frac{\int_{-\infty}^{x_{ni}} p(t, x_{n, -i})\, dt}
          {\int_{-\infty}^{\infty} p(t, x_{n, -i})\, dt}, \qquad m(t) = \int p(t, s)\, ds

Every line is cut into cells, those that say least about their integral are halved, and so on; all
lines at once. A cell knows p at its ends and in its middle: Simpson's rule against the trapezoidal
one says how good it is. Narrow peaks are found because lines are cut first where samples lie.

Letters: R or L lines, M cells a line, K places on each, D features, C context inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from afnp.verify.ends import between
from afnp.verify.results import Finding
from afnp.verify.subject import Subject

__all__ = [
    "GOOD",
    "REACHES",
    "Integrals",
    "along_lines",
    "density_along",
    "distribution",
    "first_nodes",
    "limits",
    "marginal",
]

HALVED = 8
"""So many cells of a line are halved in one refinement."""

GOOD = 3e-4
"""A line whose integral is this certain, relatively, is left alone."""


class Integrals(NamedTuple):
    """What was found along R lines."""

    below: np.ndarray
    """(R,) share of the integral up to the line's own place."""
    log_total: np.ndarray
    """(R,) log of the whole integral."""
    error: np.ndarray
    """(R,) how far ``below`` may be off."""


def along_lines(
    log_density: Callable,
    nodes: np.ndarray,
    place: np.ndarray,
    refinements: int = 40,
    good: float = GOOD,
) -> Integrals:
    r"""Integrate exp(log_density) along lines, and up to a place on each.

    .. math:: \int_a^b p\, dt \approx \tfrac{b - a}{6} \big(p(a) + 4 p(\tfrac{a + b}2) + p(b)\big)

    Parameters
    ----------
    log_density : callable
        Maps places (L, K) on the lines with numbers (L,), its second argument, to log-densities (L,
        K).
    nodes : (R, M + 1) array
        Ascending on every line; ``place`` must be one of them.
    place : (R,) array
    refinements : int
        At most; a narrow peak far out takes one for every halving that its cell needs.
    good : float
        A line whose integral is this certain, relatively, is left alone.

    Examples
    --------
    >>> nodes = np.linspace(-9, 9, 19)[None]
    >>> found = along_lines(lambda t, lines: -t**2 / 2, nodes, np.array([0.0]))
    >>> found.below.round(4), bool(abs(found.log_total[0] - np.log(2 * np.pi) / 2) < 1e-4)
    (array([0.5]), True)
    """
    lines = np.arange(len(nodes))
    below, log_total, error = (np.full(len(nodes), np.nan) for _ in range(3))
    cells, top, doubt = _first(log_density, nodes, lines)
    for k in range(refinements + 1):
        integral = _integrals(cells, top)
        total = integral.sum(axis=1)
        left = cells[1] <= place[lines, None]
        below[lines] = np.clip(np.where(left, integral, 0).sum(axis=1) / total, 0, 1)
        log_total[lines], error[lines] = np.log(total) + top, doubt.sum(axis=1) / total
        open_ = ~(error[lines] < good)
        lines, cells, top, doubt = lines[open_], cells[:, open_], top[open_], doubt[open_]
        if not len(lines) or k == refinements:
            break
        cells, top, doubt = _refined(log_density, lines, cells, top, doubt)
    return Integrals(below, log_total, error)


def distribution(
    log_density: Callable, nodes: np.ndarray, refinements: int
) -> tuple[Callable, float, float]:
    """Return the distribution function of a density on a line, its total, and its error.

    Parameters
    ----------
    log_density : callable
        As in :func:`along_lines`, for the single line 0.
    nodes : (M + 1,) array
        Ascending.

    Examples
    --------
    >>> t = np.linspace(-30, 30, 61)
    >>> F, total, error = distribution(lambda t, lines: -np.abs(t), t, refinements=9)
    >>> F(np.array([-30.0, 0.0, np.log(2)])).round(4), round(total, 3), error < 1e-3
    (array([0.  , 0.5 , 0.75]), 2.0, True)
    """
    line = np.zeros(1, dtype=int)
    cells, top, doubt = _first(log_density, nodes[None], line)
    for _ in range(refinements):
        if doubt.sum() < GOOD * _integrals(cells, top).sum():
            break
        cells, top, doubt = _refined(log_density, line, cells, top, doubt)
    order = np.argsort(cells[0, 0], kind="stable")
    a, b, *log_p = cells[:, 0, order]
    p, q, r = np.exp(np.array(log_p) - top[0])
    mass = np.append(0, np.cumsum((b - a) / 6 * (p + 4 * q + r)))

    def F(x: np.ndarray) -> np.ndarray:
        k = np.clip(np.searchsorted(b, x), 0, len(a) - 1)
        w = (b - a)[k]
        s = np.clip((x - a[k]) / np.where(w > 0, w, 1), 0, 1)
        bent, curved = (4 * q - 3 * p - r)[k], (2 * p - 4 * q + 2 * r)[k]
        return np.clip(
            (mass[k] + w * s * (p[k] + s * (bent / 2 + s * curved / 3))) / mass[-1], 0, 1
        )

    return F, float(mass[-1] * np.exp(top[0])), float(doubt.sum() / mass[-1])


def _first(
    log_density, nodes: np.ndarray, lines: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the first cells (5, R, M): ends, and log p there and in the middle.

    And how doubtful they are.
    """
    a, b = nodes[:, :-1], nodes[:, 1:]
    ends, middles = log_density(nodes, lines), log_density((a + b) / 2, lines)
    cells = np.stack([a, b, ends[:, :-1], middles, ends[:, 1:]])
    top = cells[2:].max(axis=(0, 2))
    return (
        cells,
        top,
        _integrals(cells, top, weights=(1, -2, 1)),
    )  # Simpson's rule against two trapezia, twice


def _integrals(cells: np.ndarray, top: np.ndarray, weights=(1, 4, 1)) -> np.ndarray:
    """Return what each cell adds (R, M), in units of exp(top); without a sign."""
    a, b = cells[:2]
    p = np.exp(cells[2:] - top[:, None])
    return np.abs((b - a) / 6 * np.tensordot(weights, p, axes=1))


def _refined(
    log_density, lines: np.ndarray, cells: np.ndarray, top: np.ndarray, doubt: np.ndarray
) -> tuple:
    """Halve the most doubtful cells of every line.

    What that changes says how doubtful the halves are.
    """
    worst = np.argpartition(-doubt, HALVED - 1, axis=1)[:, :HALVED]
    old = np.take_along_axis(cells, worst[None], axis=2)
    a, b, p, q, r = old
    m = (a + b) / 2
    first, second = np.split(log_density(np.hstack([(a + m) / 2, (m + b) / 2]), lines), 2, axis=1)
    low, high = np.stack([a, m, p, first, q]), np.stack([m, b, q, second, r])
    before = top
    top = np.maximum(top, np.maximum(first, second).max(axis=1))
    change = np.abs(_integrals(low, top) + _integrals(high, top) - _integrals(old, top)) / 2
    doubt = doubt * np.exp(before - top)[:, None]
    np.put_along_axis(doubt, worst, change, axis=1)
    cells = cells.copy()
    np.put_along_axis(cells, worst[None], low, axis=2)
    return np.concatenate([cells, high], axis=2), top, np.concatenate([doubt, change], axis=1)


# ---- of a subject --------------------------------------------------------------------------------

REACHES = ((1.5, 2.5, 4, 8, 16, 40, 120), (1.5, 2.5, 4, 8, 16), (1.5, 2.5, 4))
"""Tails of a line, in widths of its feature; nearer where the density cannot be asked for that far
out."""

LEVELS_OF_NODES = np.linspace(0.01, 0.99, 13)
NEAR = np.array([0.02, 0.1, 0.4, 1.0])

FINE_LEVELS = np.linspace(0.002, 0.998, 125)
FINE_NEAR = np.geomspace(1e-4, 1, 13)
"""For a second look: narrow peaks that a first one may miss."""


NEIGHBOURS = 6
"""So many samples near a place say where the other feature lies."""


def first_nodes(
    subject: Subject, places: np.ndarray, seen: np.ndarray, reach, fine: bool = False
) -> np.ndarray:
    """Return where each line is cut at first.

    At quantiles of its feature, in its tails, and near places (L, K).
    """
    seen = seen.astype(np.float64)
    low, middle, high = np.quantile(seen, [0.1, 0.5, 0.9])
    width = high - low or np.abs(middle) or 1.0
    tails = width * np.array(reach)
    levels, near = (FINE_LEVELS, FINE_NEAR) if fine else (LEVELS_OF_NODES, NEAR)
    common = np.concatenate([middle - tails, np.quantile(seen, levels), middle + tails])
    near = places.astype(np.float64)[:, :, None] + width * np.concatenate([-near, [0.0], near])
    nodes = np.hstack(
        [np.broadcast_to(common, (len(places), len(common))), near.reshape(len(places), -1)]
    )
    return np.sort(np.clip(nodes, *limits(subject, seen)), axis=1)


def limits(subject: Subject, seen: np.ndarray) -> tuple[float, float]:
    """Return between what numbers a feature lies."""
    if subject.points.bounded is not None:
        return subject.points.bounded
    if subject.points.data is not None:
        return min(subject.points.data.min(), seen.min()), max(
            subject.points.data.max(), seen.max()
        )
    if subject.flow is None:
        return -np.inf, np.inf
    low, high = between(subject.flow)
    return float(low.min()), float(high.max())


def density_along(subject: Subject, x: np.ndarray, c: np.ndarray, i: int | np.ndarray):
    """Return log p as a function of places (L, K) on some of the lines through the rows of x.

    Feature i changes along a line: the same on all, or (N,) one for each row.
    """
    feature = np.broadcast_to(i, len(x))

    def log_density(t: np.ndarray, lines: np.ndarray) -> np.ndarray:
        z = np.repeat(x[lines], t.shape[1], axis=0)
        z[np.arange(len(z)), np.repeat(feature[lines], t.shape[1])] = t.ravel()
        context = np.repeat(c[lines], t.shape[1], axis=0)
        log_p = subject.log_prob(z, context).astype(np.float64)  # type: ignore[misc]
        if np.isnan(log_p).any() or np.isposinf(log_p).any():
            raise Finding(f"log_prob gives {log_p[~(log_p < np.inf)][0]} for a finite row")
        return log_p.reshape(t.shape)

    return log_density


def marginal(subject: Subject, seen: np.ndarray, context: np.ndarray, i: int) -> Callable:
    r"""Return the log of a marginal in the plane, as a function of places (L, K) of feature i.

    .. math:: \log m(t) = \log \int p(t, s)\, ds

    Parameters
    ----------
    seen : (n, 2) array
        Samples at the context (1, C).
    """
    order = np.argsort(seen[:, i])
    mine = seen[order, i].astype(np.float64)
    others = seen[order, 1 - i]

    def log_marginal(t: np.ndarray, lines: np.ndarray) -> np.ndarray:
        start = np.searchsorted(mine, t.ravel()) - NEIGHBOURS // 2
        near = np.clip(start, 0, len(mine) - NEIGHBOURS)[:, None] + np.arange(NEIGHBOURS)
        rows = np.zeros((t.size, 2), dtype=subject.data_dtype)
        rows[:, i] = t.ravel()
        rows[:, 1 - i] = others[near[:, 0]]
        log_density = density_along(subject, rows, np.repeat(context, t.size, axis=0), 1 - i)
        nodes = first_nodes(subject, others[near], others, REACHES[0])
        found = along_lines(log_density, nodes, nodes[:, 0], subject.level.refinements // 2)
        return np.where(np.isnan(found.log_total), -np.inf, found.log_total).reshape(t.shape)

    return log_marginal
