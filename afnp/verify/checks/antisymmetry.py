r"""Check of antisymmetry: at matching points the two log-determinants cancel.

.. math:: \log\left|\det \frac{\partial u}{\partial x}\right|
          + \log\left|\det \frac{\partial x}{\partial u}\right| = 0

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import numpy as np

from afnp.verify.explain import cause_of, explained
from afnp.verify.results import FAILED, Result, check, compare
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
        np.abs(_sum_of_log_dets(normalize, generate, u, c, subject.data_dtype))
        for normalize, generate in subject.pairs
    ]
    size = np.abs(subject.tolerance.own.generate(u, c)[1])
    size += np.sqrt(subject.features)
    tolerance = rounding + subject.tolerance.safety * subject.tolerance.eps * size
    tolerances = np.broadcast_to(tolerance, np.shape(errors))
    why = "eps x measured condition; points that lose half the digits left out"
    limit = np.sqrt(subject.tolerance.eps) * size
    result = compare(errors, tolerances, why, ("pair", "row"), limit=limit)
    if result.status != FAILED:
        return result
    pair, row = result.worst["pair"], result.worst["row"]
    normalize, generate = subject.pairs[pair]
    x, back = generate(u, c)
    there = np.asarray(normalize(np.array(x), c)[1], dtype=np.float64)
    back = np.asarray(back, dtype=np.float64)
    good = tolerance <= limit
    return explained(
        result,
        reason="the log-determinants of both directions do not cancel",
        values={"generate gives": float(back[row]), "normalize says": float(-there[row])},
        worst={"row": row},
        x=tuple(map(float, np.asarray(x)[row])),
        cause=cause_of(back[good], -there[good], tolerance[good], subject.features, u[good]),
        evidence={"log_det of generate": {"claimed": back[good], "true": -there[good]}},
    )


def _sum_of_log_dets(normalize, generate, u: np.ndarray, c: np.ndarray, dtype) -> np.ndarray:
    x, log_det_x = generate(u, c)
    return normalize(np.array(x, dtype=dtype), c)[1] + np.asarray(log_det_x, dtype=np.float64)
