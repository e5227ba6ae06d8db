r"""Check of odd input: what is not a number must not look like an answer.

.. math:: f(\dots, \mathrm{NaN}, \dots) \in \{\text{an error}, \mathrm{NaN}\}, \qquad
          \log p(\pm\infty) \in \{\text{an error}, \mathrm{NaN}, -\infty\}

The answer to nonsense may be an error, or nonsense that anybody can see; never a number that looks
like an answer.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import numpy as np

from afnp.verify.calls import Call, answers, equal, functions_of
from afnp.verify.results import Finding, Result, check, collect
from afnp.verify.rows import Rows, batch_size
from afnp.verify.subject import Subject

__all__ = ["odd_input"]

STRANGE = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}


@check("C15")
def odd_input(subject: Subject, rng: np.random.Generator) -> Result:
    r"""NaN or infinity in, a finite number out, is a failure.

    Nonsense must not look like an answer.

    .. math:: f(\dots, \mathrm{NaN}, \dots) \in \{\text{an error}, \mathrm{NaN}\}, \qquad
              \log p(\pm\infty) \in \{\text{an error}, \mathrm{NaN}, -\infty\}

    And the row beside it must not notice; nor may it matter how an array lies in memory. What lets
    NaN through without an error is noted, and so is a finite answer for an infinite context, as a
    network that saturates gives it, or for any in a context input that moves no function at all.
    """
    problems: list[str] = []
    notes: list[str] = []
    calls = list(functions_of(subject, rng, batch_size(rng)))
    dead = _dead_contexts(subject, calls)
    for function, x, c in calls:
        row = int(rng.integers(len(x)))
        columns = [("feature", k) for k in range(x.shape[1])]
        columns = [columns[k] for k in rng.permutation(len(columns))[:4]]
        columns += [("context", k) for k in range(c.shape[1])][:2]
        for kind, column in columns:
            for name, value in STRANGE.items():
                said = _swallowed(function, x, c, row, kind, column, value)
                if said:
                    told = f"{said} for {name} in {kind} {column}"
                    known = kind == "context" and said.endswith(FINITE)
                    known &= bool(np.isinf(value)) or column in dead
                    (notes if known else problems).append(told)
        problems += _strided(function, x, c, subject)
        if _passes(function, x, c, row):
            notes.append(f"{function.name} passes NaN on without an error")
    return collect(problems, "an error or nonsense for nonsense", tuple(notes))


FINITE = "gives finite numbers"


def _dead_contexts(subject: Subject, calls: list[Call]) -> set[int]:
    """Return which context inputs move no function at all: ``connectivity`` says of them enough."""

    def moves(call: Call, column: int) -> bool:
        function, x, c = call
        moved = c.copy()
        moved[:, column] = c[::-1, column] + 1
        return not equal(answers(function, x.copy(), c.copy()), answers(function, x.copy(), moved))

    return {k for k in range(subject.context) if not any(moves(call, k) for call in calls)}


def _asked_for(function: Rows, x: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """Return the answer, or None where the question is refused."""
    try:
        return answers(function, x, c)
    except Finding:
        raise
    except Exception:
        return None


def _swallowed(
    function: Rows, x: np.ndarray, c: np.ndarray, row: int, kind: str, column: int, value
) -> str:
    """Say that a row with something strange got a finite answer, or that another row noticed."""
    strange = {"feature": x.copy(), "context": c.copy()}
    strange[kind][row, column] = value
    given = _asked_for(function, strange["feature"], strange["context"])
    if given is None:
        return ""
    there = np.concatenate([np.ravel(array[row]) for array in given])
    if np.isfinite(there).all():
        return f"{function.name} {FINITE}"
    others = np.arange(len(x)) != row
    if not all(np.isfinite(array[others]).all() for array in given):
        return f"{function.name} spoils other rows"
    return ""


def _passes(function: Rows, x: np.ndarray, c: np.ndarray, row: int) -> bool:
    """Return whether NaN comes out where NaN went in."""
    strange = x.copy()
    strange[row] = np.nan
    given = _asked_for(function, strange, c)
    return given is not None and any(np.isnan(array[row]).any() for array in given)


def _strided(function: Rows, x: np.ndarray, c: np.ndarray, subject: Subject) -> list[str]:
    """Compare rows that lie apart in memory, columns first, with the same rows in a block."""
    apart = np.asfortranarray(np.repeat(x, 2, axis=1))[:, ::2]
    expected = answers(function, x.copy(), c.copy())
    given = answers(function, apart, np.asfortranarray(c))
    gaps = [
        np.abs(subject.difference(a, b)) / (1 + np.abs(b))
        for a, b in zip(given, expected, strict=True)
    ]
    if max(gap.max(initial=0.0) for gap in gaps) <= np.sqrt(subject.tolerance.eps):
        return []
    return [f"{function.name} gives other numbers for rows that lie apart in memory"]
