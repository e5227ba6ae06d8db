"""Threads: blocks of rows side by side, for compiled code that releases the interpreter lock.

One pool of Python threads a process serves everything compiled. There is no second pool for it to
fight with, calls from several threads queue up, and a forked child starts its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

__all__ = ["FEW", "in_threads", "row_blocks", "workers"]

FEW = 8
"""So few rows have compiled code of their own (:mod:`afnp.compiled.small_batch`), whose last bits differ."""

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def workers() -> int:
    """Return how many threads may work: NUMBA_NUM_THREADS, or what ``numba.set_num_threads`` said."""
    from numba import get_num_threads  # half a second, which only compiled work should cost

    return get_num_threads()


def row_blocks(n: int, unit: int, most: int) -> list[slice]:
    """Cut n rows into one block a thread, in whole units, and into more if a block would exceed ``most`` rows.

    Examples
    --------
    >>> row_blocks(5, unit=64, most=1000)
    [slice(0, 5, None)]
    """
    units = max(1, -(-n // unit))
    blocks = max(min(units, workers()), -(-units // max(1, most // unit)))
    cuts = [*(unit * (units * k // blocks) for k in range(blocks)), n]
    if len(cuts) > 2 and n - cuts[-2] <= FEW:
        del cuts[
            -2
        ]  # so few rows join the block before, or they would take another path than all others
    return [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def in_threads(work: Callable, blocks: Sequence) -> list:
    """Return ``work`` of each block, in order; the calling thread takes the first one itself."""
    global _pool
    if len(blocks) == 1:
        return [work(blocks[0])]
    if _pool is None:
        _pool = ThreadPoolExecutor(max(1, workers() - 1), thread_name_prefix="afnp")
    others = [_pool.submit(work, block) for block in blocks[1:]]
    return [work(blocks[0]), *(other.result() for other in others)]
