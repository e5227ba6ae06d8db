"""Text as pages show it: letters with indices, and tables that telephones can show.

A Sphinx extension. Documents and docstrings are written to be read as they are, in an editor or a
terminal: ``x_i``, ``x_{i-1}``, ``e^λ``. On pages the index goes below the line or above it.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["pieces", "setup"]

INDEXED = re.compile(
    r"(?<![\w\\`{}^])"
    r"(?P<letter>[A-Za-ce-zα-ωΑ-Ω](?=_)|(?:[A-Za-zα-ω]|\d+)(?=\^))"
    r"(?P<mark>[_^])"
    r"(?:\{(?P<group>[^{}]+)\}|(?P<index>[<>]?(?:[A-Za-z0-9α-ω]|[ijk]{2})|(?<=\^)[a-zα-ω0-9]+))"
    r"(?![\w\[])"
)
"""One letter, and an index of one sign or in braces. What begins with d_ is a name of the code."""

LONG = 30
"""Letters from which on a table's cell is not squeezed to a word a line."""


def pieces(text: str) -> list[tuple[str, str]]:
    """Cut text into plain parts, ``""``, and indices below, ``"_"``, and above, ``"^"``.

    Examples
    --------
    >>> pieces("from x_{i-1} to e^λ")
    [('', 'from x'), ('_', 'i-1'), ('', ' to e'), ('^', 'λ')]
    >>> pieces("x_train and d_x are names")
    [('', 'x_train and d_x are names')]
    """
    cut, start = [], 0
    for found in INDEXED.finditer(text):
        cut.append(("", text[start : found.start("mark")]))
        cut.append((found["mark"], found["group"] or found["index"]))
        start = found.end()
    return [*cut, ("", text[start:])] if text[start:] else cut


def _set_indices(document: Any) -> None:
    from docutils import nodes
    from sphinx import addnodes

    fixed = (
        nodes.literal,
        nodes.FixedTextElement,
        nodes.math,
        nodes.raw,
        nodes.comment,
        addnodes.desc_signature,
        addnodes.literal_strong,
    )
    for text in list(document.findall(nodes.Text)):
        if _within(text, fixed) or not INDEXED.search(text):
            continue
        text.parent.replace(text, _nodes(str(text)))


def _within(node: Any, kinds: tuple[type, ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def _nodes(text: str) -> list[Any]:
    """Return text as nodes; a superscript may have indices in it."""
    from docutils import nodes

    kinds = {"_": nodes.subscript, "^": nodes.superscript}
    return [
        kinds[mark]("", "", *_nodes(part)) if mark else nodes.Text(part)
        for mark, part in pieces(text)
    ]


def _mark_long_cells(document: Any) -> None:
    from docutils import nodes

    for cell in document.findall(nodes.entry):
        if len(cell.astext()) >= LONG:
            cell["classes"].append("long")


def _transform() -> type:
    from docutils.transforms import Transform

    class Prose(Transform):
        """Change a document when all else has been read."""

        default_priority = 860  # after quotes

        def apply(self) -> None:
            _set_indices(self.document)
            _mark_long_cells(self.document)

    return Prose


def setup(app: Any) -> dict[str, bool]:
    """Register the transform; Sphinx calls this."""
    app.add_transform(_transform())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
