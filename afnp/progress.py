"""What commands show: bars, where tqdm is installed, and results, as long as they are read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from afnp.messages import for_bars, on_terminal, say

__all__ = ["Lines", "Silent", "bar", "steps_bar", "until_unread"]


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
    if show and on_terminal() is not None:
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
    terminal = on_terminal()
    if terminal is None:
        return Silent()
    if show and not (terminal or "ipykernel" in sys.modules):
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


def until_unread(run: Callable[[], int]) -> int:
    """Run a command and return its exit code; 141 if whoever read its results has seen enough."""
    try:
        code = run()
        print(end="", flush=True)  # nothing where standard output is closed
        return code
    except BrokenPipeError:
        return 141
    finally:
        _forget_unwritten(sys.stdout)
        _forget_unwritten(sys.stderr)


def _forget_unwritten(stream) -> None:
    """Let go of text that cannot be written: Python would try again, and end with code 120."""
    try:
        print(end="", file=stream, flush=True)
    except (OSError, ValueError):
        with suppress(OSError, ValueError):  # it is closed, or no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
