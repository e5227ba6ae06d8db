"""What commands show: bars, where tqdm is installed, and results, as long as they are read."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from afnp.atomic import named_errors
from afnp.messages import for_bars, on_terminal, say

__all__ = ["Lines", "Silent", "bar", "deliver", "steps_bar", "tell", "until_unread"]


def bar(things: Iterable | None = None, *, show: bool = True, **options):
    """Return tqdm's bar over things, or the things alone where no bar is wanted or tqdm is missing.

    Parameters
    ----------
    things : iterable, optional
        What is counted off; without it, ``update`` counts.
    show : bool
        Whether a bar is wanted.
    **options
        As for tqdm.

    Examples
    --------
    >>> [k for k in bar(range(3), show=False)]
    [0, 1, 2]
    """
    if show:
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            return tqdm(things, file=for_bars(), **options)
    return Silent(things)


def steps_bar(what: str, unit: str, total: int, done: int, *, show: bool = True):
    """Return a bar that ``update`` moves by one; where there is no terminal, a line for each.

    Parameters
    ----------
    what, unit : str
        What is going on, and what is counted.
    total, done : int
        How many there shall be, and how many there are.
    show : bool
        Whether anything is wanted.
    """
    if show and not (on_terminal() or "ipykernel" in sys.modules):
        return Lines(what, unit, total, done)
    return bar(total=total, initial=done, desc=what, unit=unit, leave=None, show=show)


class Lines:
    """A bar for log files: each step is a line on stderr, until one cannot be written.

    Parameters
    ----------
    what, unit, total, done
        As in :func:`steps_bar`.
    """

    def __init__(self, what: str, unit: str, total: int, done: int):
        self.what, self.unit, self.total, self.done = what, unit, total, done
        self.text = ""
        self.read = True

    def __enter__(self) -> Lines:
        """Return the bar itself."""
        return self

    def __exit__(self, *exception) -> None:
        """Do nothing."""

    def set_postfix_str(self, text: str) -> None:
        """Say what the next line shall say."""
        self.text = text

    def update(self) -> None:
        """Write a line, if the last one could be written."""
        self.done += 1
        line = f"{self.what}: {self.unit} {self.done}/{self.total}: {self.text}"
        self.read = self.read and say(line)


class Silent:
    """A bar that shows nothing.

    Parameters
    ----------
    things : iterable, optional
    """

    def __init__(self, things: Iterable | None = None):
        self.things = things

    def __iter__(self) -> Iterator:
        """Iterate over the things."""
        return iter(self.things or ())

    def __enter__(self) -> Silent:
        """Return the bar itself."""
        return self

    def __exit__(self, *exception) -> None:
        """Do nothing."""

    def update(self) -> None:
        """Do nothing."""

    def set_postfix_str(self, text: str) -> None:
        """Do nothing."""


def tell(text: object) -> None:
    """Print a line of results; an error says that it is standard output's."""
    with named_errors("standard output"):
        print(text)


def deliver() -> None:
    """Flush the results; an error says that it is standard output's."""
    with named_errors("standard output"), suppress(AttributeError):  # none, or without flush
        sys.stdout.flush()


def until_unread(run: Callable[[], int]) -> int:
    """Run a command and return its exit code; 141 if whoever read its results has seen enough."""
    with _spelt_out(sys.stdout):
        try:
            code = run()
            deliver()
            return code
        except BrokenPipeError:
            return 141
        finally:
            _forget_unwritten(sys.stdout)
            _forget_unwritten(sys.stderr)


@contextmanager
def _spelt_out(stream) -> Iterator[None]:
    r"""Let a stream spell out, as ``\xe4``, the signs that its encoding lacks: they end no work."""
    if not isinstance(stream, io.TextIOWrapper) or stream.errors != "strict":
        yield
        return
    with suppress(OSError, ValueError):  # it is full, or closed
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            stream.reconfigure(errors="strict")


def _forget_unwritten(stream) -> None:
    """Let go of text that cannot be written: Python would try again, and end with code 120."""
    with suppress(Exception):  # it is closed, no file, or no stream
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
