r"""Check of the log-determinant, against the Jacobian's.

.. math:: \mathrm{log\_det}_n = \log \left| \det \frac{\partial u_n}{\partial x_n} \right|

Each tolerance is what rounding can do at that very point. Points at which that is more than half of
the digits say nothing, and are left out.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from afnp.verify.jacobian import log_det_of, measured_jacobian, rows_worth
from afnp.verify.results import Result, check, compare
from afnp.verify.subject import Subject

__all__ = ["log_det"]


@check("C3")
def log_det(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Compare the log-determinant that normalize gives with its Jacobian's.

    .. math:: \mathrm{log\_det}_n = \log \left| \det \frac{\partial u_n}{\partial x_n} \right|, \qquad
              |\delta \log|\det J|| \le \sum_{ij} |J^{-1}|_{ji}\, |\delta J|_{ij}

    The right side comes from LU of a complex-step Jacobian, or a central one, and δJ from perturbing
    it, or from a second step size. A float32 flow is also held to float64's precision, with its
    parameters cast.
    """
    subject.need("normalize")
    x, _, c = subject.points.rows(rng, rows_worth(subject, subject.level.jacobians))
    J, error = measured_jacobian(subject, x, c, rng)
    determinant, spread = log_det_of(J, error)
    rounding = subject.tolerance.rounding(lambda a: a.normalize(x, c)[1], rng)
    score = (
        np.square(subject.tolerance.own.normalize(x, c)[0]).sum(axis=1) / 2
    )  # far out, what is added to it rounds like it
    floor = subject.tolerance.safety * (np.sqrt(subject.features) + np.abs(determinant) + score)
    errors, tolerances = [], []
    for claimed, eps in _claims(subject, x, c):
        errors.append(np.abs(claimed - determinant))
        tolerances.append(rounding * eps / subject.tolerance.eps + eps * floor + spread)
    limit = _limit(subject) * (np.sqrt(subject.features) + np.abs(determinant))
    result = compare(
        errors, tolerances, f"{subject.calculus}: {_trust(subject)}", ("claim", "row"), limit=limit
    )
    evidence = {"jacobian": np.sqrt(np.mean(np.square(J), axis=0)), "allowed": subject.inner}
    return dataclasses.replace(result, evidence=evidence)


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
