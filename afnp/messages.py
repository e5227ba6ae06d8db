"""Lines and bars on stderr, where somebody may read them.

A full disk, a reader that has gone, a stream that was closed, none at all, or an object that
somebody put in its place: no work ends for want of a line.
"""

from __future__ import annotations

import sys
from contextlib import suppress

__all__ = ["Unfailing", "for_bars", "on_terminal", "say"]


def say(text: str) -> bool:
    """Write a line on stderr; return whether that could be done."""
    return _written(f"{text}\n") and _flushed(sys.stderr)


def on_terminal() -> bool:
    """Return whether stderr is a terminal."""
    try:
        return bool(sys.stderr.isatty())
    except Exception:
        return False


def for_bars():
    """Return the stream that bars are drawn on: stderr, be it as it may."""
    return sys.stderr if on_terminal() else Unfailing()


class Unfailing:
    """stderr, but for what it cannot take: that is left out."""

    def __eq__(self, other: object) -> bool:
        """Be stderr to tqdm, so that it clears a bar before a line is written.

        It then flushes stderr and standard output, too: not where that would end the work.
        """
        same = isinstance(other, Unfailing) or other is sys.stderr
        return same and _flushed(sys.stderr) and _flushed(sys.stdout)

    @property
    def encoding(self) -> str | None:
        """That of stderr, by which bars are drawn in blocks or in signs of ASCII."""
        try:
            return sys.stderr.encoding
        except Exception:
            return None

    def write(self, text: str) -> None:
        """Write, if that can be done."""
        _written(text)

    def flush(self) -> None:
        """Flush, if that can be done."""
        _flushed(sys.stderr)


def _written(text: str) -> bool:
    """Write on stderr, if that can be done; signs that its encoding lacks are spelt out."""
    with suppress(Exception):
        try:
            sys.stderr.write(text)
        except UnicodeEncodeError:
            sys.stderr.write(text.encode("ascii", "backslashreplace").decode())
        return True
    return False


def _flushed(stream) -> bool:
    """Flush a stream, if that can be done; one without ``flush`` keeps nothing back."""
    try:
        stream.flush()
    except AttributeError:
        return True
    except Exception:
        return False
    return True
