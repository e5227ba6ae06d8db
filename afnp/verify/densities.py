r"""Densities along lines and in the plane, as the quadratures take them.

.. math:: t \mapsto \log p(t, x_{-i}), \qquad t \mapsto \log \int p(t, s)\, ds

Narrow peaks are found because lines are cut first where samples lie.

Letters: L lines, K places on each, D features, C context inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from afnp.verify.lines import along_lines
from afnp.verify.results import Finding
from afnp.verify.subject import Subject

__all__ = ["REACHES", "density_along", "first_nodes", "limits", "marginal"]

REACHES = ((1.5, 2.5, 4, 8, 16, 40, 120), (1.5, 2.5, 4, 8, 16), (1.5, 2.5, 4))
"""Tails of a line, in widths of its feature; nearer where the density cannot be asked for that far out."""

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
    """Return where each line is cut at first: at quantiles of its feature, in its tails, and near places (L, K)."""
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
    if subject.bounded is not None:
        return subject.bounded
    if subject.data is not None:
        return min(subject.data.min(), seen.min()), max(subject.data.max(), seen.max())
    return -np.inf, np.inf


def density_along(subject: Subject, x: np.ndarray, c: np.ndarray, i: int):
    """Return log p as a function of places (L, K) of feature i on some of the lines through the rows of x."""

    def log_density(t: np.ndarray, lines: np.ndarray) -> np.ndarray:
        z = np.repeat(x[lines], t.shape[1], axis=0)
        z[:, i] = t.ravel()
        log_p = subject.log_prob(z, np.repeat(c[lines], t.shape[1], axis=0)).astype(np.float64)  # type: ignore[misc]
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
    mine, others = seen[order, i].astype(np.float64), seen[order, 1 - i]

    def log_marginal(t: np.ndarray, lines: np.ndarray) -> np.ndarray:
        start = np.searchsorted(mine, t.ravel()) - NEIGHBOURS // 2
        near = np.clip(start, 0, len(mine) - NEIGHBOURS)[:, None] + np.arange(NEIGHBOURS)
        rows = np.zeros((t.size, 2), dtype=subject.dtype)
        rows[:, i], rows[:, 1 - i] = t.ravel(), others[near[:, 0]]
        log_density = density_along(subject, rows, np.repeat(context, t.size, axis=0), 1 - i)
        nodes = first_nodes(subject, others[near], others, REACHES[0])
        found = along_lines(log_density, nodes, nodes[:, 0], subject.level.refinements // 2)
        return np.where(np.isnan(found.log_total), -np.inf, found.log_total).reshape(t.shape)

    return log_marginal
