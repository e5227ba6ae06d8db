r"""Check of triangles: a layer's Jacobian is 0 where it must be; its diagonal gives the log-det.

.. math:: \frac{\partial u_i}{\partial x_j} = 0 \text{ unless legal}, \qquad
          \log\left|\det \frac{\partial u}{\partial x}\right|
          = \sum_i \log \left| \frac{\partial u_i}{\partial x_i} \right| \;\text{ for a triangle}

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import numpy as np

from afnp.verify.derivatives import complex_step_jacobian
from afnp.verify.results import NotRun, Result, check, compare
from afnp.verify.subject import Subject
from afnp.verify.tolerance import SAFETY, perturb
from afnp.verify.views import UNDERFLOW, acyclic

__all__ = ["triangular"]

LIMIT = 2.0**-26
"""Half of the digits: what is rounded more says nothing."""


@check("C3")
def triangular(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Each layer's Jacobian is exactly 0 where it has to be; its determinant gives the log-det.

    .. math:: \frac{\partial u_i}{\partial x_j} = 0 \text{ unless legal}, \qquad
              \log\left|\det \frac{\partial u}{\partial x}\right|
              = \sum_i \log \left| \frac{\partial u_i}{\partial x_i} \right|
              \;\text{ for a triangle}

    By complex step in float64, where a structural zero is an exact zero. The second equation needs
    no condition number of J, only that of the log-determinant itself; a layer that mixes everything
    takes LU instead.
    """
    if subject.flow is None:
        raise NotRun("needs the layers of an afnp flow")
    flow, errors, tolerances, leaks = subject.flow, [], [], 0
    n = int(np.clip(4096 // subject.features, 2, 12))
    theta = flow.theta.astype(np.float64)
    perturbed = [
        flow.split(perturb(theta, rng, subject.tolerance.delta))
        for _ in range(subject.tolerance.count)
    ]
    for k, (layer, p) in enumerate(zip(flow.layers, flow.split(theta), strict=True)):
        u, c = subject.points.inner_noise(rng, n)
        x = layer.generate(p, u, c)[0]
        J = _layer_jacobian(layer, p, x, c)
        leaks += int(np.count_nonzero((J != 0).any(axis=0) & ~layer.allowed()))
        claimed = layer.normalize(p, x, c)[1]
        error, tolerance = _determinant(J, claimed, acyclic(layer.allowed()))
        moves = [
            layer.normalize(q[k], perturb(x, rng, subject.tolerance.delta), c)[1] for q in perturbed
        ] - claimed
        spread = np.sqrt(np.mean(np.square(moves), axis=0)) / subject.tolerance.delta
        rounding = subject.tolerance.safety * np.finfo(np.float64).eps * spread
        # of the inverse: its slope is anything
        plateau = ~np.isfinite(J).all(axis=(1, 2)) & (rounding > LIMIT)
        errors.append(np.where(plateau, 0.0, error))
        tolerances.append(np.where(plateau, np.inf, tolerance + rounding))
    if leaks:
        reason = f"{leaks} entries that are not 0 where nothing may depend"
        return Result(status="failed", reason=reason, measured=leaks, tolerance=0)
    why = "a triangle's determinant is its diagonal: eps x sum of |log|"
    return compare(errors, tolerances, why, ("layer", "row"), limit=LIMIT)


def _determinant(
    J: np.ndarray, claimed: np.ndarray, triangle: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far a claimed log-determinant (N,) is from J's, and how far it may be."""
    D, eps = J.shape[1], np.finfo(np.float64).eps
    if triangle:
        with np.errstate(divide="ignore"):
            logs = np.log(np.abs(np.einsum("nii->ni", J)))
        underflow = np.isneginf(logs).any(axis=1) & (claimed < UNDERFLOW)
        error = np.where(underflow, 0.0, np.abs(logs.sum(axis=1) - claimed))
        return error, SAFETY * eps * (np.sqrt(D) + np.abs(logs).sum(axis=1))
    exact = np.linalg.slogdet(J)[1]
    condition = np.linalg.cond(J)
    return np.abs(exact - claimed), SAFETY * eps * D * (condition + np.abs(exact))


def _layer_jacobian(layer, p: dict, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return du/dx (N, D, D) of one layer by complex step."""
    repeated = np.repeat(c, x.shape[1], axis=0)
    return complex_step_jacobian(lambda z: layer.normalize(p, z, repeated)[0], x)
