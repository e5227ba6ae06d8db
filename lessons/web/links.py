r"""Links: every one on the built pages should lead somewhere, and no page should need another host.

.. math:: \text{targets} \subseteq \text{files} \times \text{ids}

A reader may follow a link to another host; a picture, script, style or font from there is not
allowed.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

__all__ = ["Checked", "check"]

LOADED = {"src", "srcset", "poster", "data"}
"""Attributes whose targets a browser fetches unasked; besides the ``href`` of ``<link>``."""
FOREIGN = ("http", "https", "ws", "wss", "ftp")
NOT_FOLLOWED = ("mailto", "data", "javascript", "blob")


class Checked(NamedTuple):
    """How many pages and links were looked at, and what is wrong, one line each."""

    pages: int
    links: int
    problems: list[str]


class _Page(HTMLParser):
    """What a page is called by (ids) and what it asks for: (target, fetched unasked or not)."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[tuple[str, bool]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value)
            elif name == "href":
                self.targets.append((value, tag in ("link", "use", "image")))
            elif name in LOADED and tag != "meta":
                self.targets.append((value.split(" ")[0], True))
            elif name == "style":
                self.targets += _in_style(value)


def _in_style(text: str) -> list[tuple[str, bool]]:
    named = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", text)
    return [(first or second, True) for first, second in named]


def check(folder: str | Path, skipped: str = "") -> Checked:
    """Look at every HTML and CSS file below a folder, but for those of one folder in it.

    Raises
    ------
    ValueError
        If there is no page.
    """
    folder = Path(folder).resolve()
    others = folder / skipped if skipped else None

    def found(ending: str) -> list[Path]:
        paths = folder.rglob(f"*.{ending}")
        return [path for path in paths if others is None or not path.is_relative_to(others)]

    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in found("html")}
    if not pages:
        raise ValueError(f"expected pages below {folder}, got none")
    asked = {path: page.targets for path, page in pages.items()}
    for path in found("css"):
        asked[path] = _in_style(path.read_text(encoding="utf-8"))
    problems = [
        f"{path.relative_to(folder)}: {wrong}"
        for path, targets in sorted(asked.items())
        for target, fetched in targets
        if (wrong := _wrong(folder, pages, path, target, fetched))
    ]
    return Checked(len(pages), sum(map(len, asked.values())), problems)


def _wrong(
    folder: Path, pages: dict[Path, _Page], path: Path, target: str, fetched: bool
) -> str | None:
    """Return what is wrong with a target on a page, or None."""
    parts = urlsplit(target)
    if parts.scheme in FOREIGN or parts.netloc:
        return f"fetches {target} from another host" if fetched else None
    if parts.scheme in NOT_FOLLOWED:
        return None
    there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    there = there / "index.html" if there.is_dir() else there
    if not there.is_file():
        return f"{target} does not exist"
    if not there.is_relative_to(folder):
        return f"{target} is outside the site"
    if parts.fragment and there in pages and unquote(parts.fragment) not in pages[there].ids:
        return f"{target}: no such place on that page"
    return None
