r"""Check of the total probability, by quadrature in one or two dimensions.

.. math:: I_m = \sum_{\text{cells}} \mathrm{area}(\text{cell}) \cdot \overline{p}(\text{corners}), \qquad
          I = \tfrac13 (4 I_{2m} - I_m) + O(m^{-4})

Letters: D features, m cells a side.
"""

from __future__ import annotations

import itertools

import numpy as np

from afnp.verify.results import NotRun, Result, check, judge
from afnp.verify.subject import Subject

__all__ = ["normalisation"]

MESHES = (64, 128, 256, 512)
"""Cells a side, refined until the extrapolated integral stands still."""

REACH = 6.5
"""The mesh covers noise in (-REACH, REACH); 1e-10 of a normal density lies outside."""

ERROR = 5e-3
"""What the quadrature is trusted to; corners of ReLUs and of the mesh keep it from less."""

CORNERS = (slice(None, -1), slice(1, None))


@check("C10")
def normalisation(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Integrate the density to 1, at one random context.

    .. math:: \int p(x)\, dx = 1

    Cells are images of a regular mesh of noise: ``generate`` only places their corners, and areas are those of
    polygons, so no log-determinant is used twice.
    """
    subject.need("log_prob", "generate")
    if subject.features > 2:
        raise NotRun("quadrature needs D of 1 or 2")
    context = rng.standard_normal((1, subject.context)).astype(subject.dtype)
    before = extrapolated = np.nan
    for mesh in MESHES:
        now = _integral(subject, mesh, context)
        last, extrapolated, before = extrapolated, (4 * now - before) / 3, now
        change = abs(extrapolated - last)
        if change < ERROR / 25:
            why = "25 times the last refinement; corners in the density"
            return judge([abs(extrapolated - 1)], [ERROR], why, ("context",))
    raise NotRun(f"the quadrature did not converge: the last refinement moved it by {change:.1e}")


def _integral(subject: Subject, mesh: int, context: np.ndarray) -> float:
    """Return the integral of exp(log_prob) over the image of a regular mesh of noise."""
    D = subject.features
    axis = np.linspace(-REACH, REACH, mesh + 1)
    grid = np.stack(np.meshgrid(*[axis] * D, indexing="ij"), axis=-1)
    u, c = grid.reshape(-1, D).astype(subject.dtype), np.repeat(context, (mesh + 1) ** D, axis=0)
    x = np.asarray(subject.generate(u, c)[0])  # type: ignore[misc]
    p = np.exp(np.asarray(subject.log_prob(x, c), dtype=np.float64)).reshape(grid.shape[:-1])  # type: ignore[misc]
    x = x.reshape(grid.shape).astype(np.float64)
    _refuse_collapsed(x, grid, subject.eps)
    return _line(x, p) if D == 1 else _plane(x, p)


def _line(x: np.ndarray, p: np.ndarray) -> float:
    """Sum over cells: length times the mean of p at both ends."""
    return float(np.sum(np.abs(np.diff(x[:, 0])) * (p[1:] + p[:-1]) / 2))


def _plane(x: np.ndarray, p: np.ndarray) -> float:
    """Sum over the two triangles of every cell: area times the mean of p at the corners."""
    a, b, c, d = itertools.product(CORNERS, CORNERS)
    total = 0.0
    for i, j, k in ((a, b, c), (d, b, c)):
        v, w = x[j] - x[i], x[k] - x[i]
        area = np.abs(v[..., 0] * w[..., 1] - v[..., 1] * w[..., 0]) / 2
        total += float(np.sum(area * (p[i] + p[j] + p[k]) / 3))
    return total


def _refuse_collapsed(x: np.ndarray, grid: np.ndarray, eps: float) -> None:
    """Raise NotRun where rounding makes neighbouring corners one: at the edge of a support, far from zero."""
    weight = np.exp(-(grid**2).sum(axis=-1) / 2)
    for axis in range(grid.shape[-1]):
        step = np.abs(np.diff(x, axis=axis)) > 1000 * eps * np.abs(np.delete(x, 0, axis=axis))
        lost = np.delete(weight, 0, axis=axis)[~step.any(axis=-1)].sum() / weight.sum()
        if lost > ERROR / 50:
            raise NotRun(f"rounding makes one point of {lost:.1e} of the probability")
