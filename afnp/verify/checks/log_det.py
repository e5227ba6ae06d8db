r"""Check of the log-determinant, against the Jacobian's.

.. math:: \mathrm{log\_det}_n = \log \left| \det \frac{\partial u_n}{\partial x_n} \right|

Each tolerance is what rounding can do at that very point. Points at which that is more than half of
the digits say nothing, and are left out.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from afnp.verify.explain import cause_of, explained, term_of_a_feature
from afnp.verify.jacobian import (
    away_from_ends,
    callers_jacobian,
    invertible,
    log_det_of,
    measured_jacobian,
    regular,
    rows_worth,
)
from afnp.verify.results import FAILED, PASSED, NotRun, Result, check, compare
from afnp.verify.subject import Subject

__all__ = ["log_det"]

FEWEST = 4
"""At so many points a flow that costs much is looked at."""

FAR, COARSE = 1e-5, 1e-2
"""Far out a layer rounds in ways that perturbing its input does not show: there a log-determinant
may be so much off, relatively, and one that may be more off says nothing."""


@check("C3")
def log_det(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Compare the log-determinant that normalize gives with its Jacobian's.

    .. math:: \mathrm{log\_det}_n = \log \left| \det \frac{\partial u_n}{\partial x_n} \right|,
              \qquad |\delta \log|\det J|| \le \sum_{ij} |J^{-1}|_{ji}\, |\delta J|_{ij}

    The right side comes from LU of a complex-step Jacobian, or a central one, and δJ from
    perturbing it, or from a second step size. In the tails too, one feature at a time. A float32
    flow is also held to float64's precision, with its parameters cast.

    Without ``normalize`` it is the log-determinant of ``generate``, and its Jacobian, by
    differences; and the caller's Jacobian, if there is one, has to be its inverse.
    """
    if subject.normalize is None and subject.generate is not None:
        return _of_generate(subject, rng)
    subject.need("normalize")
    count = rows_worth(subject, subject.worth(subject.level.jacobians, FEWEST))
    x, _, c = subject.points.rows(rng, count)
    result = _compared(subject, x, c, rng)
    far, far_c = subject.points.tails(rng, count)
    if len(far) and result.status == PASSED:
        in_tails = _compared(subject, far, far_c, rng, tails=True)
        if in_tails.status == FAILED:
            result = in_tails
    return result


def _of_generate(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Compare the log-determinant that generate gives with that of dx/du.

    .. math:: \log|\det J_g(u)|, \qquad \log|\det J_g(u)| = -\log|\det J_f(g(u))|
    """
    D, tolerance = subject.features, subject.tolerance
    count = rows_worth(subject, subject.worth(subject.level.jacobians, FEWEST))
    u, c = subject.points.noise(rng, count)
    u = away_from_ends(subject, u)
    J, error = measured_jacobian(subject, u, c, rng, generates=True)
    keep = regular(J) & np.isfinite(error).all(axis=(1, 2))
    if not keep.any():
        raise NotRun("the Jacobian of generate could not be measured")
    u, c, J, error = u[keep], c[keep], J[keep], error[keep]
    determinant, spread = log_det_of(J, error)
    x, given = subject.generate(u, c)  # type: ignore[misc]
    claims = {"generate gives": np.asarray(given, dtype=np.float64)}
    if subject.jacobian is not None:
        own = callers_jacobian(subject, np.array(x), c)
        claims["the caller's jacobian says"] = -np.linalg.slogdet(own)[1]
    rounding = tolerance.rounding(lambda a: a.generate(u, c)[1], rng)
    size = np.sqrt(D) + np.abs(determinant)
    allowed = rounding + tolerance.safety * tolerance.eps * size + spread
    errors = [np.abs(claim - determinant) for claim in claims.values()]
    result = compare(
        errors,
        [allowed] * len(errors),
        "derivatives of generate by central differences: two step sizes",
        ("claim", "row"),
        limit=COARSE * size,
    )
    name, row = list(claims)[result.worst["claim"]], result.worst["row"]
    claim, good = claims[name], allowed <= COARSE * size
    return explained(
        result,
        claim="log_det of generate = log|det dx/du|",
        reason="the log-determinant is not that of the Jacobian",
        values={name: float(claim[row]), "the Jacobian of generate": float(determinant[row])},
        worst={"row": row},
        x=tuple(map(float, u[row])),
        of="u",
        cause=_cause(claim[good], determinant[good], allowed[good], u[good], J[good]),
        evidence={"log_det": {"claimed": claim[good], "true": determinant[good]}},
    )


def _compared(subject: Subject, x, c, rng: np.random.Generator, tails: bool = False) -> Result:
    """Compare at these rows.

    In the tails, where a map may be flat, only where there is a determinant.
    """
    tolerance, D = subject.tolerance, subject.features
    J, error = measured_jacobian(subject, x, c, rng)
    if tails:
        keep = regular(J) & np.isfinite(error).all(axis=(1, 2))
        if not keep.any():
            return Result()
        x, c, J, error = x[keep], c[keep], J[keep], error[keep]
    determinant, spread = log_det_of(J, error)
    if tails:  # where rounding made the matrix singular there is nothing to compare with
        seen = np.isfinite(determinant) & invertible(J)
        if not seen.any():
            return Result()
        x, c, J, determinant, spread = (v[seen] for v in (x, c, J, determinant, spread))
    rounding = tolerance.rounding(lambda a: a.normalize(x, c)[1], rng)
    # far out, what is added to it rounds like it
    score = np.square(tolerance.own.normalize(x, c)[0]).sum(axis=1) / 2
    floor = tolerance.safety * (np.sqrt(D) + np.abs(determinant) + score)
    errors, tolerances, claims = [], [], []
    for claimed, eps in _claims(subject, x, c):
        claims.append(claimed)
        errors.append(np.abs(claimed - determinant))
        tolerances.append(rounding * eps / tolerance.eps + eps * floor + spread)
    size = np.sqrt(D) + np.abs(determinant)
    limit = _limit(subject) * size
    if tails:
        limit, tolerances = COARSE * size, [t + FAR * size for t in tolerances]
    why = f"{subject.calculus}: {_trust(subject)}"
    try:
        result = compare(errors, tolerances, why, ("claim", "row"), limit=limit)
    except NotRun:
        if tails:
            return Result()
        raise
    claim, row = result.worst["claim"], result.worst["row"]
    given, good = claims[claim], tolerances[claim] <= limit
    evidence = {
        "jacobian": np.sqrt(np.mean(np.square(J), axis=0)),
        "allowed": subject.inner,
        "log_det": {"claimed": given[good], "true": determinant[good]},
    }
    tails_said = ", in the tails" if tails else ""
    return explained(
        dataclasses.replace(result, evidence=evidence),
        reason=f"the log-determinant is not that of the Jacobian{tails_said}",
        values={"normalize gives": float(given[row]), "its Jacobian": float(determinant[row])},
        worst={"row": row} if len(claims) == 1 else result.worst,
        x=tuple(map(float, x[row])),
        cause=_cause(given[good], determinant[good], tolerances[claim][good], x[good], J[good])
        if result.status == FAILED
        else "",
    )


def _cause(given, determinant, allowed, x: np.ndarray, J: np.ndarray) -> str:
    """Return the pattern of the differences, also that of one feature's logarithm too few."""
    D = x.shape[1]
    found = cause_of(given, determinant, allowed, D, x)
    with np.errstate(divide="ignore"):
        diagonal = np.log(np.abs(np.diagonal(J, axis1=1, axis2=2)))
    of_all = np.abs(diagonal.sum(axis=1) - determinant) <= allowed + 1e-6 * D
    if found or not of_all.all():  # a sum over features where the Jacobian is triangular
        return found
    return term_of_a_feature(given - determinant, diagonal, allowed)


def _trust(subject: Subject) -> str:
    """Say where the tolerance of a Jacobian comes from."""
    return "eps x measured condition" if subject.analytic or subject.jacobian else "two step sizes"


def _claims(subject: Subject, x: np.ndarray, c: np.ndarray):
    """Yield the log-determinants that are claimed, with the ε of the arithmetic that gave them."""
    for normalize in subject.normalizers.values():
        yield np.asarray(normalize(x, c)[1], dtype=np.float64), subject.tolerance.eps
    if subject.tolerance.precise != subject.dtype:
        yield (
            subject.tolerance.reference.normalize(x, c)[1],
            float(np.finfo(subject.tolerance.precise).eps),
        )


def _limit(subject: Subject) -> float:
    """Return the relative tolerance above which a log-determinant says nothing: half the digits."""
    return np.sqrt(subject.tolerance.eps) if subject.analytic or subject.jacobian else 1e-2
