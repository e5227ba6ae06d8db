"""Ctrl-C and SIGTERM, taken as a request to end training between two steps."""

from __future__ import annotations

import signal
import threading

__all__ = ["Interruption"]


class Interruption:
    """Turn the first Ctrl-C or SIGTERM into a request, ``asked``, that the loop honours.

    A second one acts as usual. Outside the main thread Python delivers none, and nothing is done.

    Examples
    --------
    >>> with Interruption() as interruption:
    ...     interruption.asked
    False
    """

    asked = False

    def __enter__(self) -> Interruption:
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                # a handler set from C cannot be put back, and a job that ignores a signal shall go
                # on ignoring it
                if handler not in (None, signal.SIG_IGN):
                    self.before[number] = handler
                    signal.signal(number, lambda *_: self._ask())
        return self

    def _ask(self) -> None:
        self.asked = True
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __exit__(self, *error) -> None:
        self._put_back()
