r"""Checks of behaviour: what a function must not do besides computing its value.

.. math:: f(A) = f(A) \text{ again, whatever was asked in between, whatever rows stand beside } A

Everything here is compared bit by bit, except one row alone against the same row in a batch: a
matrix product may add in another order when its shape changes.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import numpy as np

from afnp.verify.parameters import randomize, restored
from afnp.verify.questions import answers, functions_of
from afnp.verify.results import NotRun, Result, beyond_rounding, check, found, judge
from afnp.verify.rows import Rows, batch_size
from afnp.verify.subject import Subject

__all__ = ["batch_independence", "deterministic", "pure", "staleness"]

CROWD = 65, 321
"""Rows of a batch that is longer than tiles usually are."""

STALE = 0.1
"""Relative errors of what is stale may be no larger: where rounding alone is, nothing can be seen."""


def _equal(one, two) -> bool:
    """Compare two tuples of arrays bit by bit, NaN equal to NaN."""
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, two, strict=True))


def _copies(arrays) -> tuple[np.ndarray, ...]:
    return tuple(np.array(array) for array in arrays)


@check("C7")
def deterministic(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Asked for A, then B, then A again, every function answers the same, and parameters stay.

    .. math:: f(A),\; f(B),\; f(A)' : \quad f(A) = f(A)' \text{ bitwise}, \quad \theta = \theta' \text{ bitwise}
    """
    problems = []
    theta = _theta(subject)
    for function, x, c in functions_of(subject, rng, batch_size(rng)):
        given = answers(function, x.copy(), c.copy())
        first = _copies(given)
        answers(function, np.roll(x, 1, axis=0), c.copy())
        if not _equal(first, given):
            problems.append(f"{function.name} overwrites an answer that it gave before")
        answers(function, x[1:].copy(), c[1:].copy())
        if not _equal(first, answers(function, x.copy(), c.copy())):
            problems.append(f"{function.name} answers the same question differently")
    if not np.array_equal(theta, _theta(subject)):
        problems.append("parameters changed")
    return found(problems, "bitwise: the same arithmetic twice")


def _theta(subject: Subject) -> np.ndarray:
    return np.empty(0) if subject.flow is None else subject.flow.theta.copy()


@check("C8")
def pure(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Read-only input is accepted, and no input is changed.

    .. math:: x \to f(x), \qquad x \text{ as before, bitwise}
    """
    problems = []
    for function, x, c in functions_of(subject, rng, batch_size(rng)):
        writeable, frozen = (x.copy(), c.copy()), (x.copy(), c.copy())
        answers(function, *writeable)
        if not _equal(writeable, (x, c)):
            problems.append(f"{function.name} changes its input")
        for array in frozen:
            array.setflags(write=False)
        try:
            answers(function, *frozen)
        except (ValueError, TypeError) as exception:
            problems.append(f"{function.name} refuses read-only input ({exception})")
    return found(problems, "bitwise: input is not output")


@check("C9")
def batch_independence(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Rows do not hear each other: neither replacing the others nor leaving them out changes anything.

    .. math:: f(x_1, \dots, x_n, \dots, x_N)_n = f(x_1', \dots, x_n, \dots, x_N')_n \text{ bitwise}, \quad
              f(x)_n \approx f(\text{a part of } x)_n

    Parts of 1, 2, D and D + 1 rows, and the rest; and a crowd of copies: the first and last rows of
    a batch, a square one, and one that fills a tile and a bit, are where loops and broadcasting go
    wrong.
    """
    problems, errors, tolerances = [], [], []
    n = batch_size(rng)
    row = int(rng.integers(n))
    other = subject.rows(rng, n)
    for function, x, c in functions_of(subject, rng, n):
        among = _copies(answers(function, x.copy(), c.copy()))
        changed = other[1 if _generates(subject, function) else 0].copy(), other[2].copy()
        changed[0][row], changed[1][row] = x[row], c[row]
        if not _equal([a[row] for a in among], [a[row] for a in answers(function, *changed)]):
            problems.append(f"{function.name}: row {row} of {n} moves when the others are replaced")
        rounding = _rounding_of_rows(subject, function, x, c, rng)
        crowd = rng.integers(n, size=int(rng.integers(*CROWD)))
        for rows, given in (
            (np.arange(n), _in_parts(function, x, c, rng)),
            (crowd, answers(function, x[crowd], c[crowd])),
        ):
            gaps = [
                np.abs(subject.difference(a, b[rows])) for a, b in zip(given, among, strict=True)
            ]
            errors.append(np.hstack([gap.reshape(len(rows), -1) for gap in gaps]).ravel())
            tolerances.append(rounding[rows].ravel())
    if problems:
        return found(problems, "")
    if not errors:
        raise NotRun("needs normalize, generate or log_prob")
    why = "bitwise beside others; in parts and in a crowd: eps x measured condition"
    return judge(np.concatenate(errors), np.concatenate(tolerances), why, ("output",))


def _generates(subject: Subject, function: Rows) -> bool:
    return function.name in subject.generators


def _in_parts(
    function: Rows, x: np.ndarray, c: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return the answer for all rows, asked for in parts, in another order."""
    n, D = x.shape
    sizes = [size for size in rng.permutation([1, 2, D, D + 1]).tolist() if size < n]
    parts = np.split(rng.permutation(n), np.minimum(np.cumsum(sizes), n - 1))
    given = [
        _copies(answers(function, x[part].copy(), c[part].copy())) for part in parts if len(part)
    ]
    back = np.argsort(np.concatenate(parts))
    return [np.concatenate(arrays)[back] for arrays in zip(*given, strict=True)]


def _rounding_of_rows(
    subject: Subject, function: Rows, x: np.ndarray, c: np.ndarray, rng
) -> np.ndarray:
    """Return what rounding may do to every row's outputs, (N, D + 1), or (N, 1) for a density."""

    def outputs(arithmetic) -> np.ndarray:
        direction = arithmetic.generate if _generates(subject, function) else arithmetic.normalize
        y, log_det = direction(x.astype(subject.precise), c.astype(subject.precise))
        if function.scores:
            return subject.score(y, log_det)[:, None]
        return np.hstack([y, log_det[:, None]]).astype(np.float64)

    if function.scores and subject.normalize is None:
        return np.sqrt(subject.eps) * (1 + np.abs(function(x, c)))[:, None]
    size = np.sqrt(subject.features) + np.abs(outputs(subject.reference))
    return (
        beyond_rounding(subject.rounding(outputs, rng), size) + subject.safety * subject.eps * size
    )


@check("C16")
def staleness(subject: Subject, rng: np.random.Generator) -> Result:
    r"""When parameters change in place, every direction follows, and follows back.

    .. math:: g_{\theta'}(u) = \text{what } \theta' \text{ gives explicitly}, \quad g_\theta(u) \text{ as before}
    """
    if subject.flow is None:
        raise NotRun("needs the parameters of an afnp flow")
    if not subject.flow.theta.size:
        raise NotRun("the flow has no parameters")
    calls = list(functions_of(subject, rng, batch_size(rng)))
    before = [_copies(answers(*call)) for call in calls]
    with restored(subject.flow) as flow:
        randomize(flow, int(rng.integers(2**31)))
        calls_after = list(functions_of(subject, rng, batch_size(rng)))
        parts = [_against_explicit(subject, *call, rng) for call in calls_after]
        unmoved = [
            call[0].name
            for call, old in zip(calls, before, strict=True)
            if _equal(answers(*call), old)
        ]
    problems = [f"{name} did not notice new parameters" for name in unmoved]
    again = [_copies(answers(*call)) for call in calls]
    lost = [
        call[0].name for call, a, b in zip(calls, before, again, strict=True) if not _equal(a, b)
    ]
    problems += [f"{name} did not come back with the old parameters" for name in lost]
    if problems:
        return found(problems, "")
    errors, tolerances = (np.concatenate([part[i] for part in parts]) for i in range(2))
    return judge(
        errors,
        tolerances,
        "half the digits, and eps x measured condition",
        ("output",),
        limit=STALE,
    )


def _against_explicit(subject: Subject, function: Rows, x, c, rng) -> tuple[np.ndarray, np.ndarray]:
    """Return relative errors against arithmetic with the parameters passed explicitly, and tolerances, flat."""

    def outputs(arithmetic) -> np.ndarray:
        direction = arithmetic.generate if _generates(subject, function) else arithmetic.normalize
        y, log_det = direction(x.astype(subject.precise), c)
        return (
            subject.score(y, log_det)[:, None]
            if function.scores
            else np.hstack([y, log_det[:, None]])
        )

    given, expected = answers(function, x, c), outputs(subject.reference)
    error = np.abs(given[-1][:, None] - expected[:, -1:])
    if not function.scores:
        error = np.hstack([np.abs(subject.difference(given[0], expected[:, :-1])), error])
    size = 1 + np.sqrt(subject.features) + np.abs(expected)
    ended = (
        16 * np.sqrt(subject.eps) * size
    )  # iterations may end elsewhere; what is stale is far off
    rounding = beyond_rounding(subject.rounding(outputs, rng), size)
    tolerance = rounding + subject.safety * subject.eps * size + ended
    return (error / size).ravel(), (tolerance / size).ravel()
