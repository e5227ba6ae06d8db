r"""Check of the total probability, by quadrature in one or two dimensions.

.. math:: I_m = \sum_{\text{cells}} \mathrm{area}(\text{cell}) \cdot \overline{p}(\text{corners}), \qquad
          I = \tfrac13 (4 I_{2m} - I_m) + O(m^{-4})

Letters: D features, m cells a side.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from afnp.verify.integrals import REACHES, density_along, distribution, first_nodes, marginal
from afnp.verify.results import NotRun, Result, check, compare
from afnp.verify.subject import Subject

__all__ = ["normalisation"]

ERROR = 5e-3
"""What the quadrature is trusted to; corners of ReLUs and of the mesh keep it from less."""

MOST_DOUBT = 0.02
"""A quadrature that is less certain is not believed at all."""

CORNERS = (slice(None, -1), slice(1, None))


@check("C10")
def normalisation(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Integrate the density to 1, at one random context.

    .. math:: \int p(x)\, dx = 1

    Cells are images of a regular mesh of noise: ``generate`` only places their corners, and areas
    are those of polygons, so no log-determinant is used twice.
    """
    subject.need("log_prob", "generate")
    if subject.features > 2:
        raise NotRun("quadrature needs D of 1 or 2")
    context = subject.points.contexts(rng, 1)
    box = subject.points.box(rng)
    before = extrapolated = np.nan
    for mesh in subject.level.meshes:
        now = _integral(subject, mesh, box, context)
        last, extrapolated, before = extrapolated, (4 * now - before) / 3, now
        change = abs(extrapolated - last) / max(1.0, abs(extrapolated))
        if change < ERROR / 25:
            why = "25 times the last refinement; corners in the density"
            return compare([abs(extrapolated - 1)], [ERROR], why, ("context",))
    totals, error = _by_lines(subject, context, rng)
    doubt = max(error, float(np.ptp(totals)) / max(1.0, float(np.max(totals))))
    if not doubt < MOST_DOUBT:
        raise NotRun(f"the quadrature did not converge: it is {doubt:.1e} off")
    why = "lines of lines, in both orders: 25 times their disagreement"
    return compare([np.abs(totals - 1).min()], [ERROR + 25 * doubt], why, ("context",))


def _by_lines(
    subject: Subject, context: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    r"""Integrate along a line of x, or along lines of integrals along lines, where peaks are too sharp for a mesh.

    .. math:: \int p(x)\, dx = \int \Big( \int p(x_1, x_2)\, dx_2 \Big) dx_1
              = \int \Big( \int p(x_1, x_2)\, dx_1 \Big) dx_2

    Both orders in the plane: a peak that one of them misses, the other may see.
    """
    u = subject.points.noise(rng, 512, scales=(1.0,))[0]
    seen = np.asarray(subject.generate(u, np.repeat(context, len(u), axis=0))[0])  # type: ignore[misc]
    seen = seen[np.isfinite(seen).all(axis=1)]
    totals, errors = [], []
    for i in range(subject.features):
        plane = subject.features == 2
        log_density = (
            marginal(subject, seen, context, i)
            if plane
            else density_along(subject, seen[:1], context, 0)
        )
        own = np.quantile(seen[:, [i]].astype(np.float64), np.linspace(0, 1, 33), axis=0).T
        nodes = first_nodes(subject, own, seen[:, i], REACHES[0])[0]
        _, total, error = distribution(log_density, nodes, subject.level.refinements // 2)
        totals.append(total)
        errors.append(error)
    return np.array(totals), max(errors)


def _integral(subject: Subject, mesh: int, box: tuple, context: np.ndarray) -> float:
    """Return the integral of exp(log_prob) over the image of a regular mesh of noise."""
    D = subject.features
    axes = [np.linspace(low, high, mesh + 1) for low, high in zip(*box, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    u, c = grid.reshape(-1, D).astype(subject.dtype), np.repeat(context, (mesh + 1) ** D, axis=0)
    x = np.asarray(subject.generate(u, c)[0])  # type: ignore[misc]
    p = np.exp(np.asarray(subject.log_prob(x, c), dtype=np.float64)).reshape(grid.shape[:-1])  # type: ignore[misc]
    x = x.reshape(grid.shape).astype(np.float64)
    weight = np.exp(-(grid**2).sum(axis=-1) / 2) if subject.points.base is None else np.ones_like(p)
    _refuse_collapsed(x, weight, subject.tolerance.eps)
    return _line(x, p, subject.difference) if D == 1 else _plane(x, p, subject.difference)


def _line(x: np.ndarray, p: np.ndarray, difference: Callable) -> float:
    """Sum over cells: length times the mean of p at both ends."""
    return float(np.sum(np.abs(difference(x[1:, 0], x[:-1, 0])) * (p[1:] + p[:-1]) / 2))


def _plane(x: np.ndarray, p: np.ndarray, difference: Callable) -> float:
    """Sum over the two triangles of every cell: area times the mean of p at the corners."""
    a, b, c, d = itertools.product(CORNERS, CORNERS)
    total = 0.0
    for i, j, k in ((a, b, c), (d, b, c)):
        v, w = difference(x[j], x[i]), difference(x[k], x[i])
        area = np.abs(v[..., 0] * w[..., 1] - v[..., 1] * w[..., 0]) / 2
        total += float(np.sum(area * (p[i] + p[j] + p[k]) / 3))
    return total


def _refuse_collapsed(x: np.ndarray, weight: np.ndarray, eps: float) -> None:
    """Raise NotRun where rounding makes neighbouring corners one: at the edge of a support, far from zero."""
    for axis in range(weight.ndim):
        step = np.abs(np.diff(x, axis=axis)) > 1000 * eps * np.abs(np.delete(x, 0, axis=axis))
        lost = np.delete(weight, 0, axis=axis)[~step.any(axis=-1)].sum() / weight.sum()
        if lost > ERROR / 50:
            raise NotRun(f"rounding makes one point of {lost:.1e} of the probability")
