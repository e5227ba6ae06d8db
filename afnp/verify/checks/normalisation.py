r"""Check of the total probability: by quadrature in one or two dimensions, or by sampling.

.. math:: I_m = \sum_{\text{cells}} \mathrm{area}(\text{cell}) \cdot \overline{p}(\text{corners}),
          \qquad I = \tfrac13 (4 I_{2m} - I_m) + O(m^{-4})

Letters: D features, m cells a side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from afnp.verify.bridge import bridge_of, total
from afnp.verify.ends import beyond
from afnp.verify.explain import constant_of_a_normal, explained
from afnp.verify.integrals import REACHES, density_along, distribution, first_nodes, marginal
from afnp.verify.jacobian import (
    away_from_ends,
    log_det_of,
    measured_jacobian,
    regular,
    rows_worth,
)
from afnp.verify.results import FAILED, NotRun, Result, check, compare
from afnp.verify.subject import Subject

__all__ = ["normalisation"]

ERROR = 5e-3
"""What the quadrature is trusted to; corners of ReLUs and of the mesh keep it from less."""

MOST_DOUBT = 0.02
"""A quadrature that is less certain is not believed at all."""

WEIGHED, FEWEST = 400, 32
"""So many points are weighed beyond two features; of a flow that costs much fewer."""

RESOLVED, BLURRED = 0.5, 1e-2
"""So many of their Jacobians must be known so well, as log-determinants. The others are left out:
where a density is right every weight is 1."""

DEVIATIONS = 6
"""The mean weight may be so many standard errors off."""

SEEN = 0.25
"""A bridge that would not see a constant of this size says nothing."""

LINES = 3e5
"""At so many places the lines of lines ask for the density."""

CORNERS = (slice(None, -1), slice(1, None))


@check("C10")
def normalisation(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Integrate the density to 1, at one random context.

    .. math:: \int p(x)\, dx = 1

    Cells are images of a regular mesh of noise: ``generate`` only places their corners, and areas
    are those of polygons, so no log-determinant is used twice. Beyond two features, noise is drawn
    and weighed by the density of its image,

    .. math:: \int p(x)\, dx
              = \operatorname{E}_u \frac{p(g(u))\, |\det J_g(u)|}{p_{\mathrm{base}}(u)},

    with a Jacobian by differences; the result says its standard error. Without ``generate``, where
    nobody knows the density of the noise, or where the weights vary too much, a bridge from samples
    to a fitted proposal q does it, in any D:

    .. math:: \operatorname{E}_{x \sim p}\Big[\frac{q}{q + p}\Big]
              = \operatorname{E}_{x \sim q}\Big[\frac{p}{q + p}\Big] \iff \int p(x)\, dx = 1

    So it does for ``base``, where the caller gave that and ``noise``.
    """
    if subject.noise_alone is not None:
        with contextlib.suppress(NotRun):
            of_base = _by_bridge(subject.noise_alone)
            if of_base.status == FAILED:
                return dataclasses.replace(of_base, reason=f"of base and noise: {of_base.reason}")
    subject.need("log_prob")
    noise_known = subject.features <= 2 or subject.base is not None
    if subject.sample is not None and (subject.generate is None or not noise_known):
        return _by_bridge(subject)
    subject.need("generate")
    if subject.features > 2:
        return _by_sampling(subject, rng)
    context = subject.points.contexts(rng, 1)
    box = subject.points.box(rng)
    before = extrapolated = np.nan
    for mesh in _affordable(subject):
        now = _integral(subject, mesh, box, context)
        last = extrapolated
        extrapolated = (4 * now - before) / 3
        before = now
        change = abs(extrapolated - last) / max(1.0, abs(extrapolated))
        if change < ERROR / 25:
            why = "25 times the last refinement; corners in the density"
            result = compare([abs(extrapolated - 1)], [ERROR], why, ("context",))
            return _explained(subject, result, extrapolated)
    if LINES * subject.cost > subject.level.work:
        return _by_sampling(subject, rng)
    totals, error = _by_lines(subject, context, rng)
    doubt = max(error, float(np.ptp(totals)) / max(1.0, float(np.max(totals))))
    if not doubt < MOST_DOUBT:
        raise NotRun(f"the quadrature did not converge: it is {doubt:.1e} off")
    why = "lines of lines, in both orders: 25 times their disagreement"
    integral = float(totals[np.argmin(np.abs(totals - 1))])
    result = compare([abs(integral - 1)], [ERROR + 25 * doubt], why, ("context",))
    return _explained(subject, result, integral)


def _affordable(subject: Subject) -> list[int]:
    """Return the meshes that do not cost more than the level's work, both directions a corner.

    None if they are too few to see whether they agree.
    """
    D, work = subject.features, subject.level.work
    meshes = [m for m in subject.level.meshes if 2 * (m + 1) ** D * subject.cost < work]
    return meshes if len(meshes) >= 3 else []


def _by_sampling(subject: Subject, rng: np.random.Generator) -> Result:
    """Weigh noise, and where that says nothing, look at samples."""
    try:
        return _by_importance(subject, rng)
    except NotRun as exception:
        if subject.sample is None:
            raise
        try:
            return _by_bridge(subject)
        except NotRun as another:
            raise NotRun(f"{exception}; {another}") from None


def _by_importance(subject: Subject, rng: np.random.Generator) -> Result:
    """Compare the mean weight of noise with 1."""
    subject.need("base")
    if subject.points.bounded is not None and subject.points.base is None:
        raise NotRun("needs noise, which draws from the base")
    n = min(rows_worth(subject, WEIGHED), subject.worth(WEIGHED, FEWEST))
    u = subject.points.noise(rng, n, scales=(1.0,))[0].astype(np.float64)
    u = away_from_ends(subject, u)
    c = np.repeat(subject.points.contexts(rng, 1), n, axis=0)
    J, error = measured_jacobian(subject, u.astype(subject.dtype), c, rng, generates=True)
    keep = regular(J)
    if keep.mean() < RESOLVED:
        raise NotRun(
            f"the Jacobian of generate could be measured at {keep.mean():.0%} of {n} points"
        )
    u, c, J, error = u[keep], c[keep], J[keep], error[keep]
    log_det, spread = log_det_of(J, error)
    x = np.array(subject.generate(u.astype(subject.dtype), c)[0])  # type: ignore[misc]
    log_p = subject.log_prob(x, c).astype(np.float64)  # type: ignore[misc]
    log_w = log_p + log_det - subject.base(u)  # type: ignore[misc]
    known = (spread < BLURRED) & ~np.isnan(log_w)
    if known.mean() < RESOLVED:
        raise NotRun(f"rounding leaves {known.mean():.0%} of {n} weights")
    w = np.exp(log_w[known])
    integral, deviation = float(w.mean()), float(w.std() / np.sqrt(len(w)))
    if deviation > MOST_DOUBT * max(1.0, integral):
        raise NotRun(
            f"the weights vary: the integral is {integral:.3g} "
            f"with a standard error of {deviation:.1e}"
        )
    allowed = ERROR + DEVIATIONS * deviation + float(np.mean(spread[known]))
    why = f"importance sampling through generate: {len(w)} points, standard error {deviation:.1e}"
    result = compare([abs(integral - 1)], [allowed], why, ("context",))
    return _explained(subject, result, integral)


def _by_bridge(subject: Subject) -> Result:
    """Compare samples with a proposal: they have the same part of each other."""
    found = total(bridge_of(subject))
    integral = float(np.exp(found.log_integral))
    gap, bound = found.measured, found.bound + ERROR * found.slope
    if gap <= bound and found.seen > SEEN:
        raise NotRun(f"not resolved: {found}")
    scale = abs(integral - 1) / gap if gap > 1e-9 else 1 / found.slope
    result = compare([gap * scale], [bound * scale], str(found), ("context",))
    return explained(
        _explained(subject, result, integral),
        reason=f"where samples lie, the density integrates to {integral:.4g}",
        values={"where samples lie, the integral is": integral},
        cause=_constant(subject, integral) or "a constant, or samples of another density",
    )


def _explained(subject: Subject, result: Result, integral: float) -> Result:
    """Say what the integral is."""
    return explained(
        result,
        reason=f"the density integrates to {integral:.4g}",
        values={"the integral is": integral},
        cause=_constant(subject, integral),
        worst={},
        evidence={"integral": integral},
    )


def _constant(subject: Subject, integral: float) -> str:
    """Name the constant by which a log-density is off, if that is a normal's."""
    return constant_of_a_normal(float(np.log(integral)), subject.features) if integral > 0 else ""


def _by_lines(
    subject: Subject, context: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    r"""Integrate along a line of x, or lines of integrals along lines: peaks may beat a mesh.

    .. math:: \int p(x)\, dx = \int \Big( \int p(x_1, x_2)\, dx_2 \Big) dx_1
              = \int \Big( \int p(x_1, x_2)\, dx_1 \Big) dx_2

    Both orders in the plane: a peak that one of them misses, the other may see.
    """
    u = subject.points.noise(rng, 512, scales=(1.0,))[0]
    c = np.repeat(context, len(u), axis=0)
    seen = np.asarray(subject.generate(u, c)[0])  # type: ignore[misc]
    seen = seen[np.isfinite(seen).all(axis=1)]
    totals, errors = [], []
    for i in range(subject.features):
        if subject.features == 2:
            log_density = marginal(subject, seen, context, i)
        else:
            log_density = density_along(subject, seen[:1], context, 0)
        own = np.quantile(seen[:, [i]].astype(np.float64), np.linspace(0, 1, 33), axis=0).T
        nodes = first_nodes(subject, own, seen[:, i], REACHES[0])[0]
        _, integral, error = distribution(log_density, nodes, subject.level.refinements // 2)
        totals.append(integral)
        errors.append(error)
    return np.array(totals), max(errors)


def _integral(subject: Subject, mesh: int, box: tuple, context: np.ndarray) -> float:
    """Return the integral of exp(log_prob) over the image of a regular mesh of noise."""
    D = subject.features
    axes = [np.linspace(low, high, mesh + 1) for low, high in zip(*box, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    u = grid.reshape(-1, D).astype(subject.dtype)
    c = np.repeat(context, (mesh + 1) ** D, axis=0)
    x = np.asarray(subject.generate(u, c)[0])  # type: ignore[misc]
    held = ~beyond(subject, u, c)
    log_p = np.asarray(subject.log_prob(x[held], c[held]), dtype=np.float64)  # type: ignore[misc]
    p, x = np.zeros(len(x)), np.where(held[:, None], x.astype(np.float64), np.nan)
    p[held] = np.exp(log_p)
    p, held, x = (array.reshape(*grid.shape[:-1], *array.shape[1:]) for array in (p, held, x))
    weight = np.exp(-(grid**2).sum(axis=-1) / 2) if subject.points.base is None else np.ones_like(p)
    _refuse_collapsed(x, weight, subject.tolerance.eps)
    return (_line if D == 1 else _plane)(x, p, held, subject.difference)


def _line(x: np.ndarray, p: np.ndarray, held: np.ndarray, difference: Callable) -> float:
    """Sum over cells that numbers hold: length times the mean of p at both ends."""
    length = np.where(held[1:] & held[:-1], np.abs(difference(x[1:, 0], x[:-1, 0])), 0.0)
    return float(np.sum(length * (p[1:] + p[:-1]) / 2))


def _plane(x: np.ndarray, p: np.ndarray, held: np.ndarray, difference: Callable) -> float:
    """Sum over the two triangles of every cell: area times the mean of p at the corners."""
    a, b, c, d = itertools.product(CORNERS, CORNERS)
    volume = 0.0
    for i, j, k in ((a, b, c), (d, b, c)):
        v, w = difference(x[j], x[i]), difference(x[k], x[i])
        area = np.abs(v[..., 0] * w[..., 1] - v[..., 1] * w[..., 0]) / 2
        area = np.where(held[i] & held[j] & held[k], area, 0.0)
        volume += float(np.sum(area * (p[i] + p[j] + p[k]) / 3))
    return volume


def _refuse_collapsed(x: np.ndarray, weight: np.ndarray, eps: float) -> None:
    """Raise NotRun where rounding makes neighbouring corners one.

    At the edge of a support, far from zero.
    """
    for axis in range(weight.ndim):
        step = np.abs(np.diff(x, axis=axis)) > 1000 * eps * np.abs(np.delete(x, 0, axis=axis))
        lost = np.delete(weight, 0, axis=axis)[~step.any(axis=-1)].sum() / weight.sum()
        if lost > ERROR / 50:
            raise NotRun(f"rounding makes one point of {lost:.1e} of the probability")
