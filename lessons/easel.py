r"""What the lessons draw on: one style, and pictures with something to move.

``play(draw, angle=(0, 90, 5, 30))`` shows the figure that ``draw(angle=30)`` returns above a slider
from 0 to 90 in steps of 5; ``choice=["a", "b"]`` gives a menu, ``flag=True`` a box to tick. Where
there are no widgets the same cell shows the first picture, still. Where ``AFNP_RECORD`` names a
folder, as while the site is built, the pictures at many positions of the controls are kept there,
and a few lines of JavaScript, ``web/static/moves.js``, show the one that is asked for.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import itertools
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["BLUE", "GREEN", "GREY", "INK", "LIGHT", "RED", "YELLOW", "matrix", "play", "style"]

BLUE, RED, GREEN, YELLOW = "#0072B2", "#D55E00", "#009E73", "#E69F00"
INK, GREY, LIGHT = "#222222", "#767676", "#DDDDDD"
DPI = 110
STATES = 40
"""A recorded picture has at most so many positions of its controls, all together."""


def style() -> None:
    """Set Matplotlib up for a lesson, in colours that the colour-blind tell apart (Okabe, Ito)."""
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "axes.edgecolor": GREY,
            "axes.prop_cycle": plt.cycler(color=[BLUE, RED, GREEN, YELLOW, INK]),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "figure.constrained_layout.use": True,
            "figure.dpi": DPI,
            "figure.figsize": (9, 3.4),
            "font.size": 10,
            "image.cmap": "cividis",
            "image.interpolation": "nearest",
            "legend.frameon": False,
            "mathtext.fontset": "cm",
        }
    )


def matrix(ax: Axes, M: np.ndarray, title: str = "", numbers: str = "") -> None:
    """Draw a matrix as cells: exact zeros white, all else tinted.

    ``numbers`` formats the entries.
    """
    M = np.asarray(M, dtype=float)
    tint = np.sign(M) * (0.1 + 0.4 * np.abs(M) / (np.abs(M).max(initial=0) or 1))
    ax.imshow(np.ma.masked_equal(tint, 0), cmap="PuOr", vmin=-1, vmax=1, aspect="equal")
    for r, c in np.ndindex(*M.shape):
        if numbers or (M[r, c] == 0 and M.size <= 400):
            text = f"{M[r, c]:{numbers}}" if numbers and M[r, c] else "·"
            ax.text(c, r, text, ha="center", va="center", color=INK if M[r, c] else GREY)
    ax.set(title=title, xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color=LIGHT)


def play(draw: Callable[..., Figure], /, **ranges):
    """Show ``draw`` at the starting values, with a control for each argument if there are widgets.

    Parameters
    ----------
    draw : callable
        Makes a figure with ``plt.subplots`` and returns it.
    **ranges
        (low, high, step, start): a slider; a list: a menu that starts at its first entry; True or
        False: a box.
    """
    still = _picture(draw, {name: _start(given) for name, given in ranges.items()})
    if "AFNP_RECORD" in os.environ:
        recorded = _recorded(draw, ranges, Path(os.environ["AFNP_RECORD"]))
        return _Shown({"text/html": recorded, "image/png": base64.b64encode(still).decode()})
    try:
        import ipywidgets
    except ImportError:
        return _Shown({"image/png": base64.b64encode(still).decode()})
    image = ipywidgets.Image(
        value=still, format="png", layout={"max_width": "100%", "align_self": "flex-start"}
    )
    controls = {name: _control(ipywidgets, name, given) for name, given in ranges.items()}
    caption = ipywidgets.Label()

    def redraw(_change=None) -> None:
        values = {name: _tidy(control.value) for name, control in controls.items()}
        if _change:
            image.value = _picture(draw, values)
        shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
        caption.value = f"The picture shows {shown}. {WAITS}"

    redraw()
    for control in controls.values():
        control.observe(redraw, "value")
    box = ipywidgets.VBox([image, *controls.values(), caption])
    return _Shown({**box._repr_mimebundle_(), "image/png": base64.b64encode(still).decode()})


WAITS = "If a control says something else, it waits for the kernel, which is busy."


class _Shown:
    """One output in several forms, of which a page shows the best it can: widget, else picture."""

    def __init__(self, forms: dict[str, object]):
        self.forms = forms

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, object]:
        return self.forms


def _picture(draw: Callable[..., Figure], values: dict, form: str = "png") -> bytes:
    figure, buffer = draw(**values), io.BytesIO()
    options = {"pil_kwargs": {"lossless": True}} if form == "webp" else {}
    figure.savefig(buffer, format=form, dpi=DPI, **options)
    plt.close(figure)
    return buffer.getvalue()


def _recorded(draw: Callable[..., Figure], ranges: dict, folder: Path) -> str:
    """Keep a picture for every position of the controls; return HTML for ``moves.js``."""
    places = thinned({name: positions(given) for name, given in ranges.items()}, ranges)
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a reader may turn to any position
        for values in itertools.product(*places.values()):
            picture = _picture(draw, dict(zip(places, values, strict=True)), "webp")
            names.append(f"{hashlib.sha256(picture).hexdigest()[:20]}.webp")
            (folder / names[-1]).write_bytes(picture)
    controls = [
        {
            "name": name.replace("_", " "),
            "kind": _kind(ranges[name]),
            "labels": [str(value) for value in values],
            "start": values.index(_start(ranges[name])),
        }
        for name, values in places.items()
    ]
    first = 0
    for control in controls:
        first = first * len(control["labels"]) + control["start"]
    states = html.escape(json.dumps({"controls": controls, "pictures": names}), quote=True)
    image = f'<img src="../_states/{names[first]}" alt="a picture that moves">'
    return f'<div class="moves" data-states="{states}">{image}</div>'


def _kind(given) -> str:
    return "slider" if isinstance(given, tuple) else "menu" if isinstance(given, list) else "box"


def positions(given) -> list:
    """Return all values that a control can take."""
    if isinstance(given, bool):
        return [False, True]
    if isinstance(given, list):
        return list(given)
    low, high, step, start = given
    count = round((high - low) / step)
    values = [_tidy(low + k * step) for k in range(count + 1)]
    return values if start in values else sorted([*values, start])


def thinned(full: dict[str, list], ranges: dict, most: int = STATES) -> dict[str, list]:
    """Leave out positions of sliders, of the longest first, until there are at most ``most``.

    Both ends stay, and every so many positions counted from the start.

    Examples
    --------
    >>> thinned({"a": list(range(21)), "b": [0, 1]}, {"a": (0, 20, 1, 7), "b": [0, 1]}, most=12)
    {'a': [0, 2, 7, 12, 17, 20], 'b': [0, 1]}
    """
    stride = dict.fromkeys(full, 1)

    def kept(name: str) -> list:
        values = full[name]
        start = values.index(_start(ranges[name]))
        ends = (0, len(values) - 1)
        return [v for k, v in enumerate(values) if (k - start) % stride[name] == 0 or k in ends]

    sliders = [name for name in full if _kind(ranges[name]) == "slider"]
    while np.prod([len(kept(name)) for name in full]) > most:
        longest = max(sliders, key=lambda name: len(kept(name)), default=None)
        if longest is None or stride[longest] > len(full[longest]):
            break  # menus and boxes keep all that they offer
        stride[longest] += 1
    return {name: kept(name) for name in full}


def _start(given):
    if isinstance(given, tuple):
        return given[3]
    return given[0] if isinstance(given, list) else given


def _tidy(value):
    """Undo the rounding of a slider, which may say 1.2000000000000002."""
    return round(value, 10) if isinstance(value, float) else value


def _control(widgets, name: str, given):
    options = {"description": name.replace("_", " "), "style": {"description_width": "initial"}}
    if isinstance(given, bool):
        return widgets.Checkbox(value=given, **options)
    if isinstance(given, list):
        return widgets.Dropdown(options=given, value=given[0], **options)
    low, high, step, start = given
    slider = widgets.IntSlider if all(isinstance(v, int) for v in given) else widgets.FloatSlider
    return slider(value=start, min=low, max=high, step=step, layout={"width": "480px"}, **options)
