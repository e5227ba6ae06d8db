r"""Checks of values: log-determinants, inverses, gradients and the total probability.

.. math:: \log\left|\det \frac{\partial u}{\partial x}\right|, \qquad x = g(f(x)), \qquad
          \frac{\partial \log p}{\partial \theta}, \qquad \int p(x)\, dx = 1

Each tolerance is what rounding can do at that very point: see :class:`afnp.verify.Subject`. Points
at which that is more than half of the digits say nothing, and are left out.

Letters: N rows, D features, C context inputs, P parameters.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from afnp.verify.arithmetic import shake
from afnp.verify.derivatives import central_jacobian, complex_step_jacobian
from afnp.verify.results import Finding, Result, beyond_rounding, check, judge
from afnp.verify.subject import SHAKES, Subject

__all__ = ["antisymmetry", "log_det", "log_det_of", "measured_jacobian", "round_trip"]


def _rows(subject: Subject) -> int:
    """Return how many points are worth their D-row Jacobians."""
    return int(np.clip(4096 // subject.features, 2, subject.level.jacobians))


def _jacobian(
    subject: Subject, normalize, x: np.ndarray, c: np.ndarray, h: float | None = None
) -> np.ndarray:
    """Return du/dx (N, D, D): by complex step where the code allows it, else the caller's, else by differences."""
    repeated = np.repeat(c, x.shape[1], axis=0)

    def f(z):
        return normalize(z, repeated)[0]

    if subject.analytic is None and subject.jacobian is not None:
        return _callers(subject, x, c)
    return complex_step_jacobian(f, x) if subject.analytic else central_jacobian(f, x, h)


def _callers(subject: Subject, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return the Jacobian that the caller knows, if it has the right shape."""
    J = np.asarray(subject.jacobian(x, c))  # type: ignore[misc]
    if J.shape != (*x.shape, x.shape[1]):
        raise Finding(f"jacobian gives shape {J.shape} where {(*x.shape, x.shape[1])} is expected")
    return J.astype(np.float64)


@check("C3")
def log_det(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Compare the log-determinant that normalize gives with its Jacobian's.

    .. math:: \mathrm{log\_det}_n = \log \left| \det \frac{\partial u_n}{\partial x_n} \right|, \qquad
              |\delta \log|\det J|| \le \sum_{ij} |J^{-1}|_{ji}\, |\delta J|_{ij}

    The right side comes from LU of a complex-step Jacobian, or a central one, and δJ from shaking
    it, or from a second step size. A float32 flow is also held to float64's precision, with its
    parameters cast.
    """
    subject.need("normalize")
    x, _, c = subject.rows(rng, _rows(subject))
    J, error = measured_jacobian(subject, x, c, rng)
    determinant, spread = log_det_of(J, error)
    rounding = subject.rounding(lambda a: a.normalize(x, c)[1], rng)
    score = (
        np.square(subject.own.normalize(x, c)[0]).sum(axis=1) / 2
    )  # far out, what is added to it rounds like it
    floor = subject.safety * (np.sqrt(subject.features) + np.abs(determinant) + score)
    errors, tolerances = [], []
    for claimed, eps in _claims(subject, x, c):
        errors.append(np.abs(claimed - determinant))
        tolerances.append(rounding * eps / subject.eps + eps * floor + spread)
    limit = _limit(subject) * (np.sqrt(subject.features) + np.abs(determinant))
    result = judge(
        errors, tolerances, f"{subject.calculus}: {_trust(subject)}", ("claim", "row"), limit=limit
    )
    evidence = {"jacobian": np.sqrt(np.mean(np.square(J), axis=0)), "allowed": subject.allowed}
    return dataclasses.replace(result, evidence=evidence)


def _trust(subject: Subject) -> str:
    """Say where the tolerance of a Jacobian comes from."""
    return "eps x measured condition" if subject.analytic or subject.jacobian else "two step sizes"


def _claims(subject: Subject, x: np.ndarray, c: np.ndarray):
    """Yield the log-determinants that are claimed, with the ε of the arithmetic that gave them."""
    for normalize in subject.normalizers.values():
        yield np.asarray(normalize(x, c)[1], dtype=np.float64), subject.eps
    if subject.precise != subject.dtype:
        yield subject.reference.normalize(x, c)[1], float(np.finfo(subject.precise).eps)


def log_det_of(J: np.ndarray, error_of_J: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log|det J| (N,), and how far it may be off; rows and columns are scaled to 1 before LU."""
    r = np.abs(J).max(axis=2, keepdims=True)
    s = np.abs(J / r).max(axis=1, keepdims=True)
    scaled = J / r / s
    if not np.isfinite(scaled).all():
        raise Finding("the Jacobian du/dx has entries that are not finite, or is zero")
    inverse = np.abs(np.linalg.pinv(scaled)).transpose(0, 2, 1)
    error = error_of_J / r / s + 4 * np.finfo(np.float64).eps
    log_det = np.linalg.slogdet(scaled)[1] + np.log(r).sum((1, 2)) + np.log(s).sum((1, 2))
    return log_det, (inverse * error).sum((1, 2))


def _limit(subject: Subject) -> float:
    """Return the relative tolerance above which a log-determinant says nothing: half the digits."""
    return np.sqrt(subject.eps) if subject.analytic or subject.jacobian else 1e-2


def measured_jacobian(
    subject: Subject, x: np.ndarray, c: np.ndarray, rng
) -> tuple[np.ndarray, np.ndarray]:
    """Return J (N, D, D) and how far each entry may be off."""
    count = SHAKES if subject.features <= 64 else 2
    if subject.analytic:
        J = _jacobian(subject, subject.reference.normalize, x, c)
        moves = [
            _jacobian(subject, shaken.normalize, x, c) - J for shaken in subject.shaken(rng, count)
        ]
        eps = np.finfo(np.float64).eps
        return J, subject.safety * eps * (
            np.sqrt(np.mean(np.square(moves), axis=0)) / subject.delta + np.abs(J)
        )
    if subject.jacobian:
        J = _callers(subject, x, c)
        moves = [_callers(subject, shake(x, rng, subject.delta), c) - J for _ in range(count)]
        scale = subject.safety * subject.eps
        return J, scale * (np.sqrt(np.mean(np.square(moves), axis=0)) / subject.delta + np.abs(J))
    h = float(np.cbrt(np.finfo(x.dtype).eps))
    fine, coarse = (_jacobian(subject, subject.normalize, x, c, step) for step in (h, 3 * h))
    noise = subject.eps / h * (1 + np.abs(subject.normalize(x, c)[0]))[:, :, None]  # type: ignore[misc]
    return fine, 4 * np.abs(coarse - fine) + 32 * noise


@check("C5")
def round_trip(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Each direction undoes the other, with rows permuted in between, for every way to generate.

    .. math:: g(f(x)) = x, \qquad f(g(u)) = u
    """
    subject.need("normalize", "generate")
    _, u, c = subject.rows(rng)
    x, _, c_x = subject.rows(rng)
    exact = [
        (
            u,
            subject.rounding(
                lambda a: a.normalize(*_again(a.generate(u, c)[0], c, subject))[0], rng
            ),
        ),
        (
            x,
            subject.rounding(
                lambda a: a.generate(*_again(a.normalize(x, c_x)[0], c_x, subject))[0], rng
            ),
        ),
    ]
    errors, tolerances, scales = [], [], []
    for normalize, generate in subject.pairs:
        trips = _trip(generate, normalize, u, c, rng), _trip(normalize, generate, x, c_x, rng)
        for (start, rounding), end in zip(exact, trips, strict=True):
            errors.append(np.abs(subject.difference(end, start)))
            scales.append(1 + np.abs(start))
            tolerances.append(
                beyond_rounding(rounding, scales[-1]) + subject.safety * subject.eps * scales[-1]
            )
    limit = np.sqrt(subject.eps) * np.array(scales)
    why = "eps x measured condition; points that lose half the digits left out"
    result = judge(errors, tolerances, why, ("trip", "row", "feature"), limit=limit)
    return dataclasses.replace(
        result, evidence={"round_trip": np.array(errors)[1::2].max(axis=(0, 1))}
    )


def _again(x: np.ndarray, context: np.ndarray, subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    return x.astype(subject.precise), context


def _trip(there, back, x: np.ndarray, c: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Go there and back with fresh arrays and other row numbers on the way back, so that no cache can help."""
    rows = rng.permutation(len(x))
    middle = there(x.copy(), c.copy())[0]
    end = np.empty_like(x)
    end[rows] = back(np.array(middle[rows]), np.array(c[rows]))[0]
    return end


@check("C6")
def antisymmetry(subject: Subject, rng: np.random.Generator) -> Result:
    r"""At matching points the two log-determinants cancel.

    .. math:: \log\left|\det \frac{\partial u}{\partial x}\right|
              + \log\left|\det \frac{\partial x}{\partial u}\right| = 0
    """
    subject.need("normalize", "generate")
    _, u, c = subject.rows(rng)
    rounding = subject.rounding(
        lambda a: _sum_of_log_dets(a.normalize, a.generate, u, c, subject.precise), rng
    )
    errors = [
        np.abs(_sum_of_log_dets(normalize, generate, u, c, subject.dtype))
        for normalize, generate in subject.pairs
    ]
    size = np.abs(subject.own.generate(u, c)[1])
    size += np.sqrt(subject.features)
    tolerance = rounding + subject.safety * subject.eps * size
    tolerances = np.broadcast_to(tolerance, np.shape(errors))
    why = "eps x measured condition; points that lose half the digits left out"
    return judge(errors, tolerances, why, ("pair", "row"), limit=np.sqrt(subject.eps) * size)


def _sum_of_log_dets(normalize, generate, u: np.ndarray, c: np.ndarray, dtype) -> np.ndarray:
    x, log_det_x = generate(u, c)
    return normalize(np.array(x, dtype=dtype), c)[1] + np.asarray(log_det_x, dtype=np.float64)
