r"""A thread that may be given up: what hangs must not hang the checker.

.. math:: \text{answer} = \begin{cases}
          f() & \text{within the limit} \\ \text{none} & \text{beyond} \end{cases}

Python cannot stop a thread from outside. One that takes too long is told that nobody waits any
more, and ends at its next :func:`safe_point`: between two calls of what is checked. Only a single
call that never comes back is left behind; the thread is a daemon, so the process can still end.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["GivenUp", "Worker", "safe_point"]


NAME = "afnp check"
"""Of the threads."""


class GivenUp(BaseException):
    """Raised at a safe point of a function for which nobody waits any more."""


class _Here(threading.local):
    """Of each thread: the flag that says that nobody waits."""

    flag: threading.Event | None = None


_here = _Here()


def safe_point() -> None:
    """Raise GivenUp if nobody waits any more for what this thread computes."""
    if _here.flag is not None and _here.flag.is_set():
        raise GivenUp


class Worker:
    """One daemon thread that runs one function at a time.

    Parameters
    ----------
    limit : float or None
        Seconds a function may take; with None it runs in the caller's own thread, as long as it
        likes.

    Examples
    --------
    >>> with Worker(limit=5.0) as worker:
    ...     worker.run(lambda: 6 * 7)
    42
    """

    def __init__(self, limit: float | None):
        self.limit = limit
        self.tasks: queue.SimpleQueue | None = None
        self.flag = threading.Event()

    def __enter__(self) -> Worker:
        """Return the worker; its thread starts with the first function."""
        return self

    def __exit__(self, *exception) -> None:
        """Send the thread home.

        What it is still at, after an interruption, ends at its next safe point.
        """
        self._leave()

    def run(self, function: Callable[[], Any]) -> Any:
        """Return what the function returns.

        Raises
        ------
        TimeoutError
            If it took too long; its thread is told to end.
        """
        if self.limit is None:
            return function()
        if self.tasks is None:
            tasks: queue.SimpleQueue = queue.SimpleQueue()
            self.flag = threading.Event()
            arguments = tasks, self.flag
            thread = threading.Thread(target=_work, args=arguments, name=NAME, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no threads here, as in a browser: nothing can be given up
                return function()
            self.tasks = tasks
        answers: queue.SimpleQueue = queue.SimpleQueue()
        self.tasks.put((function, answers))
        try:
            answer, exception = answers.get(timeout=self.limit)
        except queue.Empty:
            self._leave()
            raise TimeoutError(f"gave no answer within {self.limit:g} seconds") from None
        if exception is not None:
            raise exception
        return answer

    def _leave(self) -> None:
        self.flag.set()
        if self.tasks is not None:
            self.tasks.put(None)
            self.tasks = None


def _work(tasks: queue.SimpleQueue, flag: threading.Event) -> None:
    """Run functions until there are no more."""
    _here.flag = flag
    for function, answers in iter(tasks.get, None):
        try:
            answers.put((function(), None))
        except BaseException as exception:
            answers.put((None, exception))
