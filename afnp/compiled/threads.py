"""Threads: blocks of rows side by side, for compiled code that releases the interpreter lock.

One pool of Python threads a process serves everything compiled. There is no second pool for it to
fight with, calls from several threads queue up, and a forked child starts its own. They are
daemons: whoever interrupts a long call, or its compilation, does not wait for them at the exit.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

__all__ = ["FEW", "in_threads", "row_blocks", "sharers", "workers"]

FEW = 8
"""So few rows have compiled code of their own (:mod:`afnp.compiled.small_batch`), whose last bits
differ."""

NAME = "afnp-"
"""Of the threads, with a number."""


class _Pool:
    """Threads that take work from one queue."""

    def __init__(self):
        self.queue: queue.SimpleQueue = queue.SimpleQueue()
        self.threads = 0

    def submit(self, work: Callable, block, threads: int) -> Future:
        """Queue a block; there will be at least so many threads."""
        while self.threads < threads:
            self.threads += 1
            name = f"{NAME}{self.threads}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        future: Future = Future()
        self.queue.put((future, work, block))
        return future

    def _serve(self) -> None:
        while True:
            future, work, block = self.queue.get()
            try:
                future.set_result(work(block))
            except BaseException as error:
                future.set_exception(error)
            del future, work, block  # what they hold is free while this thread waits


_pool = _Pool()


def _forget_pool() -> None:
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def workers() -> int:
    """Return how many threads may work: NUMBA_NUM_THREADS, or ``numba.set_num_threads``."""
    from numba import get_num_threads  # half a second, which only compiled work should cost

    return get_num_threads()


def sharers(most: int) -> int:
    """Return how many threads take a part of what can be cut into ``most`` parts worth a thread."""
    return min(most, workers()) if most > 1 else 1


def row_blocks(n: int, unit: int, most: int) -> list[slice]:
    """Cut n rows into blocks of whole units: one a thread, more if one would exceed ``most`` rows.

    Examples
    --------
    >>> row_blocks(5, unit=64, most=1000)
    [slice(0, 5, None)]
    """
    units = -(-n // unit)
    blocks = max(sharers(units), -(-units // max(1, most // unit)))
    cuts = [*(unit * (units * k // blocks) for k in range(blocks)), n]
    if len(cuts) > 2 and n - cuts[-2] <= FEW:
        # so few rows join the block before, or they would take another path than all others
        del cuts[-2]
    return [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def in_threads(work: Callable, blocks: Sequence) -> list:
    """Return ``work`` of each block, in order; the calling thread takes the first one itself."""
    if len(blocks) == 1 or threading.current_thread().name.startswith(NAME):
        # a thread that waited for its own kind might wait for ever
        return [work(block) for block in blocks]
    others = [_pool.submit(work, block, max(1, workers() - 1)) for block in blocks[1:]]
    return [work(blocks[0]), *(other.result() for other in others)]
