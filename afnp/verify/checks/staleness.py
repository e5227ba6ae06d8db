r"""Check of staleness: when parameters change in place, every direction follows, and follows back.

.. math:: g_{\theta'}(u) = \text{what } \theta' \text{ gives explicitly}, \quad
          g_\theta(u) \text{ as before}

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import numpy as np

from afnp.verify.calls import answers, copies, equal, functions_of, generates
from afnp.verify.parameters import randomize, restored
from afnp.verify.results import NotRun, Result, beyond_rounding, check, collect, compare
from afnp.verify.rows import Rows, batch_size
from afnp.verify.subject import Subject

__all__ = ["staleness"]

STALE = 0.1
"""Relative errors of what is stale may be no larger: where rounding alone is, nothing can be
seen."""


@check("C16")
def staleness(subject: Subject, rng: np.random.Generator) -> Result:
    r"""When parameters change in place, every direction follows, and follows back.

    .. math:: g_{\theta'}(u) = \text{what } \theta' \text{ gives explicitly}, \quad
              g_\theta(u) \text{ as before}
    """
    if subject.flow is None:
        raise NotRun("needs the parameters of an afnp flow")
    if not subject.flow.theta.size:
        raise NotRun("the flow has no parameters")
    calls = list(functions_of(subject, rng, batch_size(rng)))
    before = [copies(answers(*call)) for call in calls]
    with restored(subject.flow) as flow:
        randomize(flow, int(rng.integers(2**31)))
        calls_after = list(functions_of(subject, rng, batch_size(rng)))
        parts = [_against_explicit(subject, *call, rng) for call in calls_after]
        unmoved = [
            call[0].name
            for call, old in zip(calls, before, strict=True)
            if equal(answers(*call), old)
        ]
    problems = [f"{name} did not notice new parameters" for name in unmoved]
    again = [copies(answers(*call)) for call in calls]
    lost = [
        call[0].name for call, a, b in zip(calls, before, again, strict=True) if not equal(a, b)
    ]
    problems += [f"{name} did not come back with the old parameters" for name in lost]
    if problems:
        return collect(problems, "")
    errors, tolerances = (np.concatenate([part[i] for part in parts]) for i in range(2))
    return compare(
        errors,
        tolerances,
        "half the digits, and eps x measured condition",
        ("output",),
        limit=STALE,
    )


def _against_explicit(subject: Subject, function: Rows, x, c, rng) -> tuple[np.ndarray, np.ndarray]:
    """Return relative errors against arithmetic with explicit parameters, and tolerances, flat."""

    def outputs(arithmetic) -> np.ndarray:
        direction = arithmetic.generate if generates(subject, function) else arithmetic.normalize
        y, log_det = direction(x.astype(subject.tolerance.precise), c)
        return (
            subject.score(y, log_det)[:, None]
            if function.scores
            else np.hstack([y, log_det[:, None]])
        )

    given, expected = answers(function, x, c), outputs(subject.tolerance.reference)
    error = np.abs(given[-1][:, None] - expected[:, -1:])
    if not function.scores:
        error = np.hstack([np.abs(subject.difference(given[0], expected[:, :-1])), error])
    size = 1 + np.sqrt(subject.features) + np.abs(expected)
    ended = (
        16 * np.sqrt(subject.tolerance.eps) * size
    )  # iterations may end elsewhere; what is stale is far off
    rounding = beyond_rounding(subject.tolerance.rounding(outputs, rng), size)
    tolerance = rounding + subject.tolerance.safety * subject.tolerance.eps * size + ended
    return (error / size).ravel(), (tolerance / size).ravel()
