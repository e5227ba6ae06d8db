r"""Check of shapes: what comes back for many rows, for one, and for none.

.. math:: (N, D) \to (N, D), (N,) \quad \text{for } N = 0, 1, \dots

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import numpy as np

from afnp.verify.calls import answers, functions_of
from afnp.verify.results import Finding, Result, check, collect
from afnp.verify.rows import Rows, batch_size
from afnp.verify.subject import Subject

__all__ = ["shapes"]


@check("C15")
def shapes(subject: Subject, rng: np.random.Generator) -> Result:
    r"""N rows give N rows of the same type, and N finite log-determinants.

    One row gives one, and none gives none.

    .. math:: (N, D) \to (N, D), (N,)
    """
    problems = []
    for n in rng.permutation([0, 1, batch_size(rng)]).tolist():
        for function, x, c in functions_of(subject, rng, max(n, 1)):
            problems += _wrong_answer(function, x[:n], c[:n], _types(subject, function.name))
        if subject.sample is not None and n:
            problems += _wrong_sample(subject, n, rng)
    return collect(problems, "shapes and types are exact")


def _types(subject: Subject, name: str) -> tuple[np.dtype, np.dtype]:
    """Return the types of what a function gives: rows first, then numbers of a row.

    A flow whose first layers bring data into range keeps data in float64.
    """
    if subject.flow is None or name.startswith("normalize"):
        return subject.dtype, subject.dtype
    return subject.flow.data_dtype, subject.dtype


def _wrong_answer(
    function: Rows, x: np.ndarray, c: np.ndarray, types: tuple[np.dtype, np.dtype]
) -> list[str]:
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
        f"{function.name} gives {array.dtype} where {types[array.ndim == 1]} is expected"
        for array in arrays
        if array.dtype != types[array.ndim == 1]
    ]
    if not all(np.isfinite(array).all() for array in arrays):
        problems.append(f"{function.name} gives numbers that are not finite")
    return problems


def _refuses(exception: Exception) -> bool:
    """Return whether an empty batch is refused in so many words.

    That is an answer, and a crash is not.
    """
    said = str(exception).lower()
    return isinstance(exception, ValueError) and ("empty" in said or "at least one" in said)


def _wrong_sample(subject: Subject, n: int, rng: np.random.Generator) -> list[str]:
    try:
        x = subject.draw(
            n, np.random.default_rng(rng.integers(2**31)), subject.points.contexts(rng, n)
        )
    except Finding as finding:
        return [str(finding)]
    expected, _ = _types(subject, "sample")
    if x.dtype != expected:
        return [f"sample gives {x.dtype} where {expected} is expected"]
    return [] if np.isfinite(x).all() else ["sample gives numbers that are not finite"]
