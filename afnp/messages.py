"""Lines and bars on stderr, where somebody may read them."""

from __future__ import annotations

import sys
from contextlib import suppress

__all__ = ["Unfailing", "for_bars", "on_terminal", "say"]

UNWRITTEN = (OSError, ValueError, AttributeError)
"""A full disk or a reader that has gone; a stream that was closed; one that is none."""


def say(text: str) -> bool:
    """Write a line on stderr; return whether that could be done.

    No work ends for want of a line.
    """
    if sys.stderr is None:  # print would take standard output instead
        return False
    try:
        print(text, file=sys.stderr, flush=True)
    except UNWRITTEN:
        return False
    return True


def on_terminal() -> bool | None:
    """Return whether stderr is a terminal; None if it is no stream, or closed."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        return None


def for_bars():
    """Return the stream that bars are drawn on: stderr, be it as it may."""
    return sys.stderr if on_terminal() else Unfailing()


class Unfailing:
    """stderr, but for what it cannot take: that is left out."""

    @property
    def encoding(self) -> str | None:
        """That of stderr, by which bars are drawn in blocks or in signs of ASCII."""
        try:
            return sys.stderr.encoding
        except AttributeError:
            return None

    def write(self, text: str) -> None:
        """Write, if that can be done."""
        with suppress(*UNWRITTEN):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flush, if that can be done."""
        with suppress(*UNWRITTEN):
            sys.stderr.flush()
