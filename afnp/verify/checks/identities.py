r"""Check of identities: what one function says of a row, the others must say too.

.. math:: \log p(x)
          &= \log p_{\mathrm{base}}(f(x)) + \log\left|\det \frac{\partial u}{\partial x}\right|

          \log p(g(u))
          &= \log p_{\mathrm{base}}(u) - \log\left|\det \frac{\partial x}{\partial u}\right|

Round trip and antisymmetry tie ``normalize`` to ``generate``; here both are tied to ``log_prob``,
in any D: a constant that one of them forgets shows at once.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from afnp.verify.explain import cause_of, explained
from afnp.verify.points import FAR, SCALES
from afnp.verify.results import NotRun, Result, beyond_rounding, check, compare
from afnp.verify.subject import Subject

__all__ = ["identities"]

ROWS, FEWEST = 32, 16
"""So many rows are compared, half of them far out, where the density is small: it must be right
there too. Of a flow that costs much fewer."""


@check("C17")
def identities(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Compare the density with the noise's times the Jacobian's determinant, in both directions.

    .. math:: \log p(x) = \log p_{\mathrm{base}}(f(x)) + \log|\det J_f(x)|, \qquad
              \log p(g(u)) = \log p_{\mathrm{base}}(u) - \log|\det J_g(u)|

    Needs to know the density of the noise: a standard normal unless ``noise`` or ``support`` says
    that it is another, and then ``base`` says which.
    """
    subject.need("log_prob")
    if subject.normalize is None and subject.generate is None:
        raise NotRun("needs normalize or generate")
    subject.need("base")
    half = subject.worth(ROWS, FEWEST) // 2
    near, far = (subject.points.rows(rng, half, scales) for scales in (SCALES, FAR))
    x, u, c = (np.concatenate(parts) for parts in zip(near, far, strict=True))
    results = [
        _compared(subject, name, x_there, given, expected, rounding)
        for name, x_there, given, expected, rounding in _pairs(subject, x, u, c, rng)
    ]
    return max(results, key=lambda result: (result.status == "failed", result.ratio))


def _pairs(subject: Subject, x, u, c, rng) -> Iterator[tuple]:
    """Yield each identity: its name, the rows, both sides, and what rounding may do to them."""
    tolerance = subject.tolerance
    log_p = subject.log_prob(x, c).astype(np.float64)  # type: ignore[misc]
    if subject.normalize is not None:
        moved = tolerance.rounding(
            lambda a: _score(subject, *a.normalize(x.astype(tolerance.precise), c)), rng
        )
        for name, normalize in subject.normalizers.items():
            yield name, x, log_p, _score(subject, *normalize(x, c)), moved
    if subject.generate is None:
        return
    moved = tolerance.rounding(lambda a: _both(subject, a, u, c), rng).sum(axis=0)
    for name, generate in subject.generators.items():
        y, log_det = generate(u, c)
        there = subject.log_prob(np.array(y), c).astype(np.float64)  # type: ignore[misc]
        yield name, np.array(y), there, _score(subject, u, -np.asarray(log_det)), moved


def _both(subject: Subject, arithmetic, u, c) -> np.ndarray:
    """Return the score that generate gives, and that of the rounded x."""
    precise = subject.tolerance.precise
    x, log_det = arithmetic.generate(u.astype(precise), c)
    scores = [_score(subject, u, -log_det)]
    if subject.normalize is not None:
        scores.append(_score(subject, *arithmetic.normalize(x.astype(precise), c)))
    return np.stack(scores)


def _score(subject: Subject, u, log_det) -> np.ndarray:
    """Return the log-density that noise and log-determinant stand for, (N,)."""
    return np.asarray(subject.base(u), dtype=np.float64) + log_det  # type: ignore[misc]


def _compared(subject: Subject, name: str, x, given, expected, moved) -> Result:
    """Compare both sides; rows without density on both are left out."""
    tolerance, D = subject.tolerance, subject.features
    size = np.sqrt(D) + np.abs(expected)
    error = np.where(np.isneginf(given) & np.isneginf(expected), 0.0, np.abs(given - expected))
    allowed = beyond_rounding(moved[:, None], size[:, None])[:, 0]
    allowed = allowed + 2 * tolerance.safety * tolerance.eps * size
    why = "eps x measured condition; points that lose half the digits left out"
    limit = np.sqrt(tolerance.eps) * size
    result = compare(error, allowed, why, ("row",), limit=limit)
    row = result.worst["row"]
    good = allowed <= limit
    goes_back = name in subject.generators
    other = "base(u) - its log_det" if goes_back else "base(u) + its log_det"
    return explained(
        result,
        claim=f"log_prob(x) = {other}, with u{' given' if goes_back else ''} and log_det of {name}",
        reason=f"log_prob and {name} disagree",
        values={"log_prob gives": float(given[row]), f"{name} says": float(expected[row])},
        x=tuple(map(float, x[row])),
        cause=cause_of(given[good], expected[good], allowed[good], D, x[good]),
        evidence={"log_prob": {"claimed": given[good], "true": expected[good]}},
    )
