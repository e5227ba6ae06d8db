"""Batches: who works on so many rows, in which blocks, and what is refused.

Long inputs are streamed, so that memory stays bounded; compiled code gets at least one block a
thread. None of this changes a result by a bit.

Letters: N rows, C context inputs.
"""

from __future__ import annotations

import numpy as np

from afnp.compiled.threads import row_blocks
from afnp.inputs import check_rows, choose

__all__ = [
    "BACKENDS",
    "blocks_of_rows",
    "check_context",
    "choose_backend",
    "refuse_nan",
    "rows_worth_a_thread",
]

BACKENDS = ("auto", "numpy", "numba", "cuda")
"""Who does the arithmetic. "auto" compiles where it pays: from ``COMPILED_FROM`` on. It never takes "cuda", which
awaits its first measurement on a real GPU."""

COMPILED_FROM = 10**6
"""Rows times parameters from which "auto" takes the compiled kernels. Below, NumPy needs a few milliseconds,
and neither importing Numba nor its first compilation (some seconds, then kept on disk) is worth the
wait."""

WORTH_A_THREAD = 10**7
"""Rows times parameters that make another thread worth waking."""

BATCH_NUMBERS = 2**23
"""Long inputs are streamed in batches of about this many activations, so that memory stays bounded."""


def choose_backend(backend: str, n: int, parameters: int) -> str:
    """Return who works on n rows: the backend that was asked for, or the better one for this size."""
    choose("backend", backend, BACKENDS)
    if backend != "auto":
        return backend
    return "numba" if n * parameters >= COMPILED_FROM else "numpy"


def rows_worth_a_thread(parameters: int) -> int:
    """Return how many rows, in tiles of 64, keep a thread busy long enough."""
    return 64 * max(1, -(-WORTH_A_THREAD // (64 * max(1, parameters))))


def blocks_of_rows(n: int, backend: str, widest: int, parameters: int) -> list[slice]:
    """Cut n rows, each of at most ``widest`` activations, into blocks for a backend."""
    if backend == "cuda":
        return [slice(0, n)]  # it streams what its own memory cannot hold
    most = 64 * max(1, BATCH_NUMBERS // (64 * widest))
    if backend == "numpy":
        return [slice(start, start + most) for start in range(0, max(n, 1), most)]
    return row_blocks(n, min(rows_worth_a_thread(parameters), most), most=most)


def check_context(context, width: int, n: int, dtype) -> np.ndarray:
    """Return a context as (N, C) floats, from (N, C), from one row for all, or from None if C is 0.

    Raises
    ------
    ValueError
        If it is missing, superfluous, of another width or number of rows, or has a value that is
        not finite.

    Examples
    --------
    >>> check_context([[1, 2]], width=2, n=3, dtype=np.float64).shape
    (3, 2)
    """
    if (context is None) != (width == 0):
        got = "none" if context is None else f"shape {np.shape(context)}"
        raise ValueError(f"context: expected {width or 'no'} columns, got {got}")
    if context is None:
        return np.empty((n, 0), dtype=dtype)
    context = check_rows(context, width, dtype, "context")
    if len(context) not in (1, n):
        raise ValueError(f"context: expected {n} rows (or 1), got {len(context)}")
    return np.broadcast_to(context, (n, width))


def refuse_nan(result: np.ndarray, name: str) -> None:
    """Raise a FloatingPointError that names the row if a result (N, ...) has something that is not a number."""
    if np.isnan(result).any():
        row = int(np.argwhere(np.isnan(result))[0, 0])
        raise FloatingPointError(f"row {row} of {name} gives a result that is not a number")
