r"""Check of antisymmetry: at matching points the two log-determinants cancel.

.. math:: \log\left|\det \frac{\partial u}{\partial x}\right|
          + \log\left|\det \frac{\partial x}{\partial u}\right| = 0

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import numpy as np

from afnp.verify.results import Result, check, compare
from afnp.verify.subject import Subject

__all__ = ["antisymmetry"]


@check("C6")
def antisymmetry(subject: Subject, rng: np.random.Generator) -> Result:
    r"""At matching points the two log-determinants cancel.

    .. math:: \log\left|\det \frac{\partial u}{\partial x}\right|
              + \log\left|\det \frac{\partial x}{\partial u}\right| = 0
    """
    subject.need("normalize", "generate")
    _, u, c = subject.points.rows(rng)
    rounding = subject.tolerance.rounding(
        lambda a: _sum_of_log_dets(a.normalize, a.generate, u, c, subject.tolerance.precise), rng
    )
    errors = [
        np.abs(_sum_of_log_dets(normalize, generate, u, c, subject.dtype))
        for normalize, generate in subject.pairs
    ]
    size = np.abs(subject.tolerance.own.generate(u, c)[1])
    size += np.sqrt(subject.features)
    tolerance = rounding + subject.tolerance.safety * subject.tolerance.eps * size
    tolerances = np.broadcast_to(tolerance, np.shape(errors))
    why = "eps x measured condition; points that lose half the digits left out"
    return compare(
        errors, tolerances, why, ("pair", "row"), limit=np.sqrt(subject.tolerance.eps) * size
    )


def _sum_of_log_dets(normalize, generate, u: np.ndarray, c: np.ndarray, dtype) -> np.ndarray:
    x, log_det_x = generate(u, c)
    return normalize(np.array(x, dtype=dtype), c)[1] + np.asarray(log_det_x, dtype=np.float64)
