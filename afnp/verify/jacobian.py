r"""Jacobians of a subject, and their determinants.

By complex step, by the caller, or by differences.

.. math:: J_{nij} = \frac{\partial u_{ni}}{\partial x_{nj}}, \qquad
          |\delta \log|\det J|| \le \sum_{ij} |J^{-1}|_{ji}\, |\delta J|_{ij}

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import numpy as np

from afnp.verify.derivatives import central_jacobian, complex_step_jacobian
from afnp.verify.results import Finding
from afnp.verify.subject import Subject
from afnp.verify.tolerance import perturb

__all__ = [
    "away_from_ends",
    "callers_jacobian",
    "invertible",
    "log_det_of",
    "measured_jacobian",
    "regular",
    "rows_worth",
]

TINY = 1e-100
"""A slope below this is none."""
COARSE = 3
"""So many steps long is the coarser one of two differences."""
LOST = 1e-15
"""A singular value below so much of the largest is rounding's own: it has no inverse."""


def rows_worth(subject: Subject, most: int) -> int:
    """Return how many points are worth their D-row Jacobians: at most so many."""
    return int(np.clip(4096 // subject.features, 2, most))


def _analytic(normalize, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return du/dx (N, D, D) by complex step."""
    repeated = np.repeat(c, x.shape[1], axis=0)
    return complex_step_jacobian(lambda z: normalize(z, repeated)[0], x)


def callers_jacobian(subject: Subject, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return the Jacobian that the caller knows, if it has the right shape."""
    J = np.asarray(subject.jacobian(x, c))  # type: ignore[misc]
    if J.shape != (*x.shape, x.shape[1]):
        raise Finding(f"jacobian gives shape {J.shape} where {(*x.shape, x.shape[1])} is expected")
    return J.astype(np.float64)


def _scales(J: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest entry of each row of J (N, D, D), and then of each column."""
    r = np.abs(J).max(axis=2, keepdims=True)
    return r, np.abs(J / r).max(axis=1, keepdims=True)


def log_det_of(J: np.ndarray, error_of_J: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log|det J| (N,), and how far it may be off.

    Rows and columns are scaled to 1 before LU.
    """
    r, s = _scales(J)
    scaled = J / r / s
    if not np.isfinite(scaled).all():
        raise Finding("the Jacobian du/dx has entries that are not finite, or is zero")
    inverse = np.abs(np.linalg.pinv(scaled, rcond=LOST)).transpose(0, 2, 1)
    error = error_of_J / r / s + 4 * np.finfo(np.float64).eps
    log_det = np.linalg.slogdet(scaled)[1] + np.log(r).sum((1, 2)) + np.log(s).sum((1, 2))
    return log_det, (inverse * error).sum((1, 2))


def measured_jacobian(
    subject: Subject, x: np.ndarray, c: np.ndarray, rng, generates: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return J (N, D, D) of normalize, or of generate by differences, and each entry's error.

    Noise is given :func:`away_from_ends`.
    """
    if generates:
        everywhere = np.zeros(subject.features), np.ones(subject.features)
        return _by_differences(subject, subject.generate, x, c, everywhere)
    tolerance = subject.tolerance
    count = tolerance.count if subject.features <= 64 else 2
    if subject.analytic:
        J = _analytic(tolerance.reference.normalize, x, c)
        nearby = tolerance.perturbed(rng, count)
        moved = [_analytic(perturbed.normalize, x, c) for perturbed in nearby]
        eps = float(np.finfo(np.float64).eps)
    elif subject.jacobian:
        J = callers_jacobian(subject, x, c)
        moved = [
            callers_jacobian(subject, perturb(x, rng, tolerance.delta), c) for _ in range(count)
        ]
        eps = tolerance.eps
    else:
        middle, width = subject.points.units
        if subject.points.data is not None:  # data may end at 0: no step is longer than |x|
            middle, width = x, np.where(x == 0, width, np.minimum(width, np.abs(x)))
        return _by_differences(subject, subject.normalize, x, c, (middle, width))
    size = np.sqrt(np.mean(np.square(np.asarray(moved) - J), axis=0))
    return J, tolerance.safety * eps * (size / tolerance.delta + np.abs(J))


def away_from_ends(subject: Subject, u: np.ndarray) -> np.ndarray:
    """Return noise (N, D) moved so far into its bounds, if it has any, that no step leaves them."""
    if subject.points.bounded is None:
        return u
    low, high = subject.points.bounded
    longest = COARSE * float(np.cbrt(np.finfo(subject.dtype).eps)) * max(1, abs(low), abs(high))
    return np.clip(u, low + 1.5 * longest, high - 1.5 * longest)


def _by_differences(
    subject: Subject, function, x: np.ndarray, c: np.ndarray, units: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Jacobian by central differences; another step size says how far it may be off.

    Steps are as long as ``units``, middle and width of each feature, (D,) or (N, D), say.
    """
    h, D = float(np.cbrt(np.finfo(x.dtype).eps)), x.shape[1]
    middle, width = (np.broadcast_to(part, x.shape).astype(x.dtype) for part in units)
    at, size, repeated = (np.repeat(part, D, axis=0) for part in (middle, width, c))

    def f(z):
        return function(at + size * z, repeated)[0]

    fine, coarse = (central_jacobian(f, (x - middle) / width, step) for step in (h, COARSE * h))
    noise = subject.tolerance.eps / h * (1 + np.abs(function(x, c)[0]))[:, :, None]
    # a step is rounded where data lie far from 0
    steps = (np.abs(middle) / width)[:, None, :] * np.finfo(x.dtype).eps / h * np.abs(fine)
    error = 4 * np.abs(coarse - fine) + 32 * noise + 4 * steps
    return fine / width[:, None, :], error / width[:, None, :]


def invertible(J: np.ndarray) -> np.ndarray:
    """Return which Jacobians (N, D, D), scaled to 1, keep their rank under rounding, (N,) bool."""
    r, s = _scales(J)
    sizes = np.linalg.svd(J / r / s, compute_uv=False)
    return sizes[:, -1] > max(LOST, J.shape[1] * np.finfo(np.float64).eps) * sizes[:, 0]


def regular(J: np.ndarray) -> np.ndarray:
    """Return which Jacobians (N, D, D) are finite and have no row or column of zeros, (N,) bool."""
    size = np.abs(J)
    some = (size.max(axis=1) > TINY).all(axis=1) & (size.max(axis=2) > TINY).all(axis=1)
    return np.isfinite(J).all(axis=(1, 2)) & some
