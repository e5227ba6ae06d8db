r"""Checks of odd questions: what comes back for few rows, for no rows, and for what is not a number.

.. math:: (N, D) \to (N, D), (N,) \quad \text{for } N = 0, 1, \dots, \qquad \mathrm{NaN} \not\to \text{a number}

The answer to nonsense may be an error, or nonsense that anybody can see; never a number that looks
like an answer.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from afnp.verify.results import Finding, Result, check, found
from afnp.verify.rows import Rows, batch_size
from afnp.verify.subject import Subject

__all__ = ["functions_of", "odd_input", "shapes"]

Call = tuple[Rows, np.ndarray, np.ndarray]
"""Function, rows and context."""

STRANGE = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}


def functions_of(subject: Subject, rng: np.random.Generator, n: int) -> Iterator[Call]:
    """Yield every function of rows that is there, undisguised, in a random order, with n rows for it."""
    x, u, c = subject.rows(rng, n)
    plain = subject.plain
    calls = [(f, x, c) for f in plain.normalizers.values()] + [
        (f, u, c) for f in plain.generators.values()
    ]
    if plain.log_prob is not None:
        calls.append((plain.log_prob, x, c))
    yield from (calls[k] for k in rng.permutation(len(calls)))


def answers(function: Rows, x: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what a function gives, always as a tuple of arrays of N rows."""
    answer = function(x, c)
    return (answer,) if function.scores else answer


@check("C15")
def shapes(subject: Subject, rng: np.random.Generator) -> Result:
    r"""N rows give N rows of the same type, and N finite log-determinants; one row gives one, and none gives none.

    .. math:: (N, D) \to (N, D), (N,)
    """
    problems = []
    for n in rng.permutation([0, 1, batch_size(rng)]).tolist():
        for function, x, c in functions_of(subject, rng, max(n, 1)):
            problems += _wrong_answer(function, x[:n], c[:n], subject.dtype)
        if subject.sample is not None and n:
            problems += _wrong_sample(subject, n, rng)
    return found(problems, "shapes and types are exact")


def _wrong_answer(function: Rows, x: np.ndarray, c: np.ndarray, dtype: np.dtype) -> list[str]:
    """Say what is wrong with the answer for these rows."""
    try:
        arrays = answers(function, x, c)
    except Finding as finding:
        return [str(finding)]
    except Exception as exception:
        if not len(x) and _refuses(exception):
            return []
        rows = {0: "an empty batch", 1: "one row"}.get(len(x), f"{len(x)} rows")
        return [f"{function.name} raises {type(exception).__name__} for {rows}: {exception}"]
    problems = [
        f"{function.name} gives {array.dtype} where {dtype} is expected"
        for array in arrays
        if array.dtype != dtype
    ]
    if not all(np.isfinite(array).all() for array in arrays):
        problems.append(f"{function.name} gives numbers that are not finite")
    return problems


def _refuses(exception: Exception) -> bool:
    """Return whether an empty batch is refused in so many words: that is an answer, and a crash is not."""
    said = str(exception).lower()
    return isinstance(exception, ValueError) and ("empty" in said or "at least one" in said)


def _wrong_sample(subject: Subject, n: int, rng: np.random.Generator) -> list[str]:
    try:
        x = subject.draw(n, np.random.default_rng(rng.integers(2**31)), subject.contexts(rng, n))
    except Finding as finding:
        return [str(finding)]
    if x.dtype != subject.dtype:
        return [f"sample gives {x.dtype} where {subject.dtype} is expected"]
    return [] if np.isfinite(x).all() else ["sample gives numbers that are not finite"]


@check("C15")
def odd_input(subject: Subject, rng: np.random.Generator) -> Result:
    r"""NaN or infinity in, a finite number out, is a failure: nonsense must not look like an answer.

    .. math:: f(\dots, \mathrm{NaN}, \dots) \in \{\text{an error}, \mathrm{NaN}\}, \qquad
              \log p(\pm\infty) \in \{\text{an error}, \mathrm{NaN}, -\infty\}

    And the row beside it must not notice; nor may it matter how an array lies in memory. What lets
    NaN through without an error is noted.
    """
    problems, notes = [], []
    for function, x, c in functions_of(subject, rng, batch_size(rng)):
        row, columns = int(rng.integers(len(x))), [("feature", k) for k in range(x.shape[1])]
        columns = [columns[k] for k in rng.permutation(len(columns))[:4]]
        columns += [("context", k) for k in range(c.shape[1])][:2]
        for kind, column in columns:
            for name, value in STRANGE.items():
                said = _swallowed(function, x, c, row, kind, column, value)
                problems += [f"{said} for {name} in {kind} {column}"] if said else []
        problems += _strided(function, x, c, subject)
        if _passes(function, x, c, row):
            notes.append(f"{function.name} passes NaN on without an error")
    return found(problems, "an error or nonsense for nonsense", tuple(notes))


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
        return f"{function.name} gives finite numbers"
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
    expected, given = (
        answers(function, x.copy(), c.copy()),
        answers(function, apart, np.asfortranarray(c)),
    )
    gaps = [
        np.abs(subject.difference(a, b)) / (1 + np.abs(b))
        for a, b in zip(given, expected, strict=True)
    ]
    if max(gap.max(initial=0.0) for gap in gaps) <= np.sqrt(subject.eps):
        return []
    return [f"{function.name} gives other numbers for rows that lie apart in memory"]
