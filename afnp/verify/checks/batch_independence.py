r"""Check of batches: rows do not depend on each other.

.. math:: f(x_1, \dots, x_n, \dots, x_N)_n = f(x_1', \dots, x_n, \dots, x_N')_n

Compared bit by bit, except a part of the rows against the same rows in a batch: a matrix product
may add in another order when its shape changes.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from afnp.verify.calls import Call, answers, copies, equal, functions_of, generates
from afnp.verify.results import NotRun, Result, beyond_rounding, check, collect, compare
from afnp.verify.rows import Rows, batch_size
from afnp.verify.subject import Subject

__all__ = ["batch_independence"]

CROWD = 65, 321
"""Rows of a batch that is longer than tiles usually are."""


@check("C9")
def batch_independence(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Rows do not depend on each other.

    Neither replacing the others nor leaving them out changes anything.

    .. math:: f(x_1, \dots, x_n, \dots, x_N)_n = f(x_1', \dots, x_n, \dots, x_N')_n
              \text{ bitwise}, \quad f(x)_n \approx f(\text{a part of } x)_n

    Parts of 1, 2, D and D + 1 rows, and the rest; and a crowd of copies: the first and last rows of
    a batch, a square one, and one that fills a tile and a bit, are where loops and broadcasting go
    wrong.
    """
    problems, errors, tolerances = [], [], []
    n = batch_size(rng)
    other = subject.points.rows(rng, n)
    calls = list(functions_of(subject, rng, n))
    # all in turn with other rows, then all with these: two functions may share a memory
    rows = rng.integers(n, size=len(calls)).tolist()
    beside = [
        _beside_others(subject, call, other, row) for call, row in zip(calls, rows, strict=True)
    ]
    first = [copies(answers(function, x.copy(), c.copy())) for function, x, c in calls]
    for (function, _, _), row, before, among in zip(calls, rows, beside, first, strict=True):
        if not equal([a[row] for a in among], before):
            problems.append(f"{function.name}: row {row} of {n} moves when the others are replaced")
    each = _tolerances(subject, calls, rng)
    for (function, x, c), among, rounding in zip(calls, first, each, strict=True):
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
        return collect(problems, "")
    if not errors:
        raise NotRun("needs normalize, generate or log_prob")
    why = "bitwise beside others; in parts and in a crowd: eps x measured condition"
    return compare(np.concatenate(errors), np.concatenate(tolerances), why, ("output",))


def _beside_others(subject: Subject, call: Call, other: tuple, row: int) -> tuple[np.ndarray, ...]:
    """Return what a function gives for one row of a call, beside other rows than the call has."""
    function, x, c = call
    rows = other[1 if generates(subject, function) else 0].copy()
    context = other[2].copy()
    rows[row], context[row] = x[row], c[row]
    return copies(a[row] for a in answers(function, rows, context))


def _in_parts(
    function: Rows, x: np.ndarray, c: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return the answer for all rows, asked for in parts, in another order."""
    n, D = x.shape
    sizes = [size for size in rng.permutation([1, 2, D, D + 1]).tolist() if size < n]
    parts = np.split(rng.permutation(n), np.minimum(np.cumsum(sizes), n - 1))
    given = [
        copies(answers(function, x[part].copy(), c[part].copy())) for part in parts if len(part)
    ]
    back = np.argsort(np.concatenate(parts))
    return [np.concatenate(arrays)[back] for arrays in zip(*given, strict=True)]


def _tolerances(subject: Subject, calls: list[Call], rng) -> Iterator[np.ndarray]:
    """Yield what rounding may do to each call's rows, (N, D + 1), or (N, 1) for a density."""
    known: dict[bool, np.ndarray] = {}
    for function, x, c in calls:
        if function.scores and subject.normalize is None:
            yield np.sqrt(subject.tolerance.eps) * (1 + np.abs(function(x, c)))[:, None]
            continue
        back = generates(subject, function)
        if back not in known:  # of every way in this direction, and of the density
            known[back] = _rounding_of_rows(subject, back, x, c, rng)
        yield known[back][:, -1:] if function.scores else known[back][:, :-1]


def _rounding_of_rows(
    subject: Subject, back: bool, x: np.ndarray, c: np.ndarray, rng
) -> np.ndarray:
    """Return what rounding may do to every row, its log-determinant and its score, (N, D + 2)."""

    def outputs(arithmetic) -> np.ndarray:
        direction = arithmetic.generate if back else arithmetic.normalize
        y, log_det = direction(
            x.astype(subject.tolerance.precise), c.astype(subject.tolerance.precise)
        )
        score = subject.score(y, log_det)[:, None]
        return np.hstack([y, log_det[:, None], score]).astype(np.float64)

    still = outputs(subject.tolerance.reference)
    size = np.sqrt(subject.features) + np.abs(still)
    return (
        beyond_rounding(subject.tolerance.rounding(outputs, rng, still=still), size)
        + subject.tolerance.safety * subject.tolerance.eps * size
    )
