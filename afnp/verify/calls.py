r"""Calls of functions as a user makes them, undisguised, for checks of behaviour.

.. math:: f(x, c) \to (y_1, \dots, y_k), \qquad \text{arrays of N rows each}

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from afnp.verify.rows import Rows
from afnp.verify.subject import Subject

__all__ = ["Call", "answers", "copies", "equal", "functions_of", "generates"]

Call = tuple[Rows, np.ndarray, np.ndarray]
"""Function, rows and context."""


def functions_of(subject: Subject, rng: np.random.Generator, n: int) -> Iterator[Call]:
    """Yield every function of rows that is there, undisguised, in a random order, with n rows."""
    x, u, c = subject.points.rows(rng, n)
    plain = subject.plain
    calls = [(f, x, c) for f in plain.normalizers.values()]
    calls += [(f, u, c) for f in plain.generators.values()]
    if plain.log_prob is not None:
        calls.append((plain.log_prob, x, c))
    yield from (calls[k] for k in rng.permutation(len(calls)))


def answers(function: Rows, x: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what a function gives, always as a tuple of arrays of N rows."""
    answer = function(x, c)
    return (answer,) if function.scores else answer


def equal(one: Iterable[np.ndarray], two: Iterable[np.ndarray]) -> bool:
    """Compare two tuples of arrays bit by bit, NaN equal to NaN."""
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, two, strict=True))


def copies(arrays: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return arrays that nobody else writes into."""
    return tuple(np.array(array) for array in arrays)


def generates(subject: Subject, function: Rows) -> bool:
    """Return whether a function goes from noise to data."""
    return function.name in subject.generators
