r"""Check of staleness: when parameters change in place, every direction follows, and follows back.

.. math:: g_{\theta'}(u) = \text{what } \theta' \text{ gives explicitly}, \quad
          g_\theta(u) \text{ as before}

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from afnp.verify.calls import Call, answers, copies, equal, functions_of, generates
from afnp.verify.parameters import randomize, restored
from afnp.verify.results import NotRun, Result, beyond_rounding, check, collect, compare
from afnp.verify.rows import batch_size
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
        parts = list(_against_explicit(subject, calls_after, rng))
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


def _against_explicit(subject: Subject, calls: list[Call], rng) -> Iterator[tuple]:
    """Yield each call's relative errors against explicit parameters, and tolerances, flat."""
    known: dict[bool, tuple[np.ndarray, np.ndarray]] = {}
    for function, x, c in calls:
        back = generates(subject, function)
        if back not in known:  # of every way in this direction, and of the density
            known[back] = _explicit(subject, back, x, c, rng)
        expected, tolerance = known[back]
        if function.scores:
            given = answers(function, x, c)[0][:, None]
            columns = slice(-1, None)
        else:
            y, log_det = answers(function, x, c)
            given = np.hstack([y.astype(np.float64), log_det[:, None]])
            columns = slice(None, -1)
        error = np.abs(given - expected[:, columns])
        if not function.scores:
            gap = subject.difference(given[:, :-1], expected[:, : subject.features])
            error[:, :-1] = np.abs(gap)
        size = 1 + np.sqrt(subject.features) + np.abs(expected[:, columns])
        yield (error / size).ravel(), (tolerance[:, columns] / size).ravel()


def _explicit(subject: Subject, back: bool, x, c, rng) -> tuple[np.ndarray, np.ndarray]:
    """Return rows, log-determinants and scores (N, D + 2), and tolerances."""

    def outputs(arithmetic) -> np.ndarray:
        direction = arithmetic.generate if back else arithmetic.normalize
        y, log_det = direction(x.astype(subject.tolerance.precise), c)
        return np.hstack([y, log_det[:, None], subject.score(y, log_det)[:, None]])

    expected = outputs(subject.tolerance.reference)
    size = 1 + np.sqrt(subject.features) + np.abs(expected)
    # iterations may end elsewhere; what is stale is far off
    ended = 16 * np.sqrt(subject.tolerance.eps) * size
    rounding = beyond_rounding(subject.tolerance.rounding(outputs, rng, still=expected), size)
    return expected, rounding + subject.tolerance.safety * subject.tolerance.eps * size + ended
