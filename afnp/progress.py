"""Progress bars, where one is wanted and tqdm is installed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["Silent", "bar"]


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
