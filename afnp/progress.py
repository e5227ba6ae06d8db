"""Progress bars, where one is wanted and tqdm is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

__all__ = ["Lines", "Silent", "bar", "steps_bar"]


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
            return tqdm(things, **options)
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
    if show and not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return Lines(what, unit, total, done)
    return bar(total=total, initial=done, desc=what, unit=unit, leave=None, show=show)


class Lines:
    """A bar for log files: each step is a line on stderr.

    Parameters
    ----------
    what, unit, total, done
        As in :func:`steps_bar`.
    """

    def __init__(self, what: str, unit: str, total: int, done: int):
        self.what, self.unit, self.total, self.done = what, unit, total, done
        self.text = ""

    def __enter__(self) -> Lines:
        """Return the bar itself."""
        return self

    def __exit__(self, *exception) -> None:
        """Do nothing."""

    def set_postfix_str(self, text: str) -> None:
        """Say what the next line shall say."""
        self.text = text

    def update(self) -> None:
        """Write a line."""
        self.done += 1
        print(
            f"{self.what}: {self.unit} {self.done}/{self.total}: {self.text}",
            file=sys.stderr,
            flush=True,
        )


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
