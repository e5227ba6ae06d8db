"""Lines on stderr, where somebody may read them."""

from __future__ import annotations

import sys

__all__ = ["on_terminal", "say"]


def say(text: str) -> bool:
    """Write a line on stderr; return whether that could be done.

    A full disk, a reader that has gone, a stream that was closed or is none: no work ends for want
    of a line.
    """
    if sys.stderr is None:  # print would take standard output instead
        return False
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):  # ValueError: it was closed
        return False
    return True


def on_terminal() -> bool | None:
    """Return whether stderr is a terminal; None if it is no stream, or closed."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        return None
