"""The gallery: every figure with its claim, its numbers, its command and its script.

Pictures are those that ``python -m figures`` has drawn into ``figures/out``, or else the kept ones
of ``figures/gallery``. A figure that has not been drawn says so.
"""

from __future__ import annotations

import ast
import shutil
import textwrap
from pathlib import Path

__all__ = ["names", "page", "write"]

FIGURES = Path(__file__).parents[2] / "figures"


def picture(name: str) -> Path | None:
    """Return where a figure has been drawn, or None."""
    drawn = [FIGURES / folder / f"{name}.png" for folder in ("out", "gallery")]
    return next((path for path in drawn if path.is_file()), None)


def docstring(name: str) -> tuple[str, str]:
    """Return a figure's claim and the rest of its docstring, without running it."""
    source = (FIGURES / f"{name}.py").read_text(encoding="utf-8")
    claim, _, rest = (ast.get_docstring(ast.parse(source)) or name).partition("\n")
    return claim.strip(), rest.strip()


def write(folder: Path) -> list[str]:
    """Write a page for each figure, and the index with all pictures; return the figures' names."""
    folder.mkdir(parents=True)
    drawn_by = names()
    for name in drawn_by:
        drawn = picture(name)
        for file in (drawn, drawn and drawn.with_suffix(".json")):
            if file and file.is_file():
                shutil.copy(file, folder)
        shutil.copy(FIGURES / f"{name}.py", folder)
        (folder / f"{name}.rst").write_text(page(name, drawn), encoding="utf-8")
    (folder / "index.rst").write_text(_index(drawn_by), encoding="utf-8")
    return drawn_by


def names() -> list[str]:
    """Return the figures, such as ``05_sampling_cost``, in their order."""
    return sorted(path.stem for path in FIGURES.glob("[0-9][0-9]_*.py"))


def title(name: str) -> str:
    """Return a figure's short title: ``05_sampling_cost`` is *5 · Sampling cost*."""
    number, _, words = name.partition("_")
    return f"{int(number)} · {words.replace('_', ' ').capitalize()}"


def page(name: str, drawn: Path | None) -> str:
    """Return the page of a figure."""
    claim, rest = docstring(name)
    short = name.partition("_")[2]
    numbers = drawn and drawn.with_suffix(".json").is_file()
    picture = (
        f".. image:: {name}.png\n   :alt: {_plain(claim)}\n   :class: picture" if drawn else MISSING
    )
    parts = [
        f"{title(name)}\n{'=' * len(title(name))}",
        f".. rst-class:: claim\n\n{claim}",
        picture,
        f".. container:: aside turned\n\n   {TURNED}" if drawn else "",
        rest,
        f".. code-block:: console\n\n   $ python -m figures {short}",
        f"Numbers, versions and machine: :download:`{name}.json`." if numbers else "",
        f".. admonition:: The script\n   :collapsible: closed\n   :class: script\n\n"
        f"   .. literalinclude:: {name}.py\n      :language: python",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


TURNED = "Dark pages turn pictures round: what is called white is dark here, and black is light."
"""On dark pages alone; the style sheet turns pictures, and keeps their hues."""
MISSING = ".. rst-class:: missing\n\nNot drawn yet: the command below draws it."


def _index(names: list[str]) -> str:
    cards = "\n".join(_card(name) for name in names)
    toctree = "\n".join(f"   {title(name)} <{name}>" for name in names)
    grid = f".. container:: gallery\n\n{textwrap.indent(cards, '   ')}"
    return f"{INTRODUCTION}\n{grid}\n{TOCTREE}\n{toctree}\n"


def _card(name: str) -> str:
    claim, _ = docstring(name)
    caption = f":doc:`{title(name)} <{name}>`\n\n{claim}"
    if picture(name):
        options = f":alt: {_plain(claim)}\n:target: {name}.html\n:loading: lazy"
        head = f"   .. image:: {name}.png\n{textwrap.indent(options, ' ' * 6)}"
    else:
        head = "   .. rst-class:: missing\n\n   not drawn yet"
    return f".. container:: card\n\n{head}\n\n{textwrap.indent(caption, '   ')}\n"


def _plain(text: str) -> str:
    return text.replace("`", "").replace("*", "").replace("\\", "")


INTRODUCTION = """
Figures
=======

A figure is a claim, with the evidence drawn. Each is made by one command, which writes its numbers
beside the picture; ``python -m figures`` makes all.
"""

TOCTREE = """
.. toctree::
   :hidden:
"""
