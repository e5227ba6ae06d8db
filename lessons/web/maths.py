r"""Formulas as MathML, which browsers draw by themselves: a Sphinx extension.

.. math:: \text{TeX} \;\to\; \text{MathML} \;\to\; \text{MathML Core}

The first arrow is ``latex2mathml``'s. It lets pass what it does not know, which is an error here.
The second arrow replaces what browsers no longer draw (MathML Core has no ``mathvariant`` and no
``menclose``), and puts the thin spaces around log, max and their like that TeX would put there.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any
from xml.etree.ElementTree import Element, tostring

__all__ = ["mathml", "setup"]

STYLES = {
    "script": "SCRIPT",
    "double-struck": "DOUBLE-STRUCK",
    "fraktur": "FRAKTUR",
    "bold": "BOLD",
    "bold-italic": "BOLD ITALIC",
    "sans-serif": "SANS-SERIF",
    "monospace": "MONOSPACE",
}
"""Values of ``mathvariant``, and what Unicode calls letters of that style."""

ARITY = {"mfrac": 2, "msub": 2, "msup": 2, "mover": 2, "munder": 2, "msubsup": 3, "munderover": 3}
"""How many children they must have: latex2mathml leaves out what a broken formula lacks."""

ORDINARY = {"mi", "mn", "msub", "msup", "msubsup", "mfrac", "mover", "mtext", "msqrt"}
THIN = "0.1667em"
OVERLINE = ("\u2015", "\u203e")
"""A dash that does not stretch, and a line that does."""


def mathml(formula: str, display: bool) -> str:
    """Convert TeX to MathML; a displayed formula may become several, for narrow pages.

    Raises
    ------
    ValueError
        If a part of the formula cannot be converted.
    """
    lines = [part for part in re.split(r"\n\s*\n", formula.strip()) if part.strip()]
    tex = r" \\ ".join(lines)
    if r"\\" in ENVIRONMENT.sub("", tex):
        tex = rf"\begin{{align*}}{tex}\end{{align*}}"
    tex = re.sub(r"(begin|end)\{(aligned|split)\}", r"\1{align*}", tex)  # the one that is known
    return "\n".join(_converted(part, display) for part in (_parts(tex) if display else [tex]))


ENVIRONMENT = re.compile(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", flags=re.DOTALL)


def _parts(tex: str) -> list[str]:
    """Cut at the wide spaces that are in no group, so that statements can be set apart."""
    parts, depth, start = [], 0, 0
    for token in re.finditer(r"\\(?:begin|left)\b|\\(?:end|right)\b|\\qquad\b|\\.|[{}]", tex):
        if token[0] in ("{", r"\begin", r"\left"):
            depth += 1
        elif token[0] in ("}", r"\end", r"\right"):
            depth -= 1
        elif token[0] == r"\qquad" and depth == 0:
            parts.append(tex[start : token.start()])
            start = token.end()
    return [part for part in (*parts, tex[start:]) if part.strip()]


def _converted(tex: str, display: bool) -> str:
    from latex2mathml import exceptions
    from latex2mathml.converter import convert_to_element

    try:
        root = convert_to_element(tex, display="block" if display else "inline")
    except Exception as error:
        known = type(error).__module__ == exceptions.__name__
        if not known and not isinstance(error, (LookupError, ValueError)):
            raise
        raise ValueError(f"{type(error).__name__}: {error} in {tex!r}") from error
    for element in root.iter():
        element.text = re.sub(r"\\([_#%])", r"\1", html.unescape(element.text or ""))
    strange = [e.text for e in root.iter() if re.search(r"[\\&]", e.text or "")]
    strange += [r"\\" for e in root.iter("mspace") if e.get("linebreak")]
    strange += [e.tag for e in root.iter() if len(e) != ARITY.get(e.tag, len(e))]
    if strange:
        raise ValueError(f"{', '.join(map(str, strange))} cannot be read in {tex!r}")
    _to_core(root)
    return tostring(root, encoding="unicode")


def _to_core(parent: Element) -> None:
    """Replace, in place, what MathML Core lacks, and space the names of functions."""
    for child in list(parent):
        _to_core(child)
        variant = child.attrib.get("mathvariant")
        if variant in STYLES:
            del child.attrib["mathvariant"]
            child.text = "".join(_styled(letter, STYLES[variant]) for letter in child.text or "")
        if child.tag == "mo" and len(child):  # \mathrel
            child.text = "".join(child.itertext())
            child[:] = []
        if parent.tag == "mover" and child.text == OVERLINE[0]:
            child.text = OVERLINE[1]
        if child.tag == "menclose":
            child.tag = "mrow"
            child.set("class", child.attrib.pop("notation"))
        if "columnalign" in child.attrib:
            child.set("style", f"text-align: {child.attrib.pop('columnalign')}")
    if parent.tag in ("mrow", "math", "mtd", "mstyle"):
        _space(parent)


def _styled(letter: str, style: str) -> str:
    """Return the letter of a style: MATHEMATICAL SCRIPT CAPITAL A, but SCRIPT CAPITAL L."""
    name = unicodedata.name(letter, "").removeprefix("LATIN ").replace(" LETTER", "")
    for candidate in (f"MATHEMATICAL {style} {name}", f"{style} {name}"):
        try:
            return unicodedata.lookup(candidate)
        except KeyError:
            continue
    return letter


def _space(row: Element) -> None:
    """Put a thin space between a function's name and an ordinary neighbour."""
    children = list(row)
    for before, after in zip(children, children[1:], strict=False):
        if (
            _named(before)
            and (after.tag in ORDINARY or _opens(after))
            or (_named(after) and before.tag in ORDINARY)
        ):
            place = list(row).index(after)
            row.insert(place, Element("mspace", width=THIN))
    for child in children:
        if child.tag == "mo" and _named(child):
            child.set("lspace", "0")
            child.set("rspace", "0")


def _named(element: Element) -> bool:
    """Tell whether this is log, or log with an index."""
    if element.tag in ("msub", "msup", "msubsup", "munder"):
        element = element[0]
    text = element.text or ""
    return element.tag in ("mi", "mo") and len(text) > 1 and text.isalpha() and text != "mod"


def _opens(element: Element) -> bool:
    """Tell whether this is a bar: log |x| has a space, log(x) has none."""
    first = element[0] if element.tag == "mrow" and len(element) else element
    return first.tag == "mo" and first.text in ("|", "\u2016")


# ---- the extension -------------------------------------------------------------------------------


def _drawn(translator: Any, node: Any, display: bool) -> str:
    from sphinx.util import logging

    try:
        return mathml(node.astext(), display)
    except ValueError as error:
        logging.getLogger(__name__).warning("formula: %s", error, location=node)
        return f"<code>{html.escape(node.astext())}</code>"


def _inline(translator: Any, node: Any) -> None:
    from docutils.nodes import SkipNode

    translator.body.append(f'<span class="math">{_drawn(translator, node, False)}</span>')
    raise SkipNode


def _block(translator: Any, node: Any) -> None:
    from docutils.nodes import SkipNode

    opening = translator.starttag(node, "div", CLASS="math")
    translator.body.append(f"{opening}{_drawn(translator, node, True)}</div>\n")
    raise SkipNode


def _bars() -> type:
    from docutils import nodes
    from docutils.transforms import Transform

    class Bars(Transform):
        """Read ``|x|`` as an absolute value, which reStructuredText would replace."""

        default_priority = 219  # before docutils misses a definition of x

        def apply(self) -> None:
            for node in list(self.document.findall(nodes.substitution_reference)):
                node.replace_self(nodes.Text(f"|{node.astext()}|"))

    return Bars


def setup(app: Any) -> dict[str, bool]:
    """Register the renderer, and what keeps bars; Sphinx calls this."""
    app.add_transform(_bars())
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
