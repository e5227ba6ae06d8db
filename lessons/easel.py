r"""What the lessons draw on: one style, and pictures with something to move.

``play(draw, angle=(0, 90, 5, 30))`` shows the figure that ``draw(angle=30)`` returns above a slider
from 0 to 90 in steps of 5; ``choice=["a", "b"]`` gives a menu, ``flag=True`` a box to tick. Where
there are no widgets, and in printed or published pages, the same cell shows the first picture,
still.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["BLUE", "GREEN", "GREY", "INK", "LIGHT", "RED", "YELLOW", "matrix", "play", "style"]

BLUE, RED, GREEN, YELLOW = "#0072B2", "#D55E00", "#009E73", "#E69F00"
INK, GREY, LIGHT = "#222222", "#767676", "#DDDDDD"
DPI = 110


def style() -> None:
    """Set Matplotlib's settings for a lesson; colours that the colour-blind tell apart (Okabe and Ito)."""
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
    """Draw a matrix as coloured cells: exact zeros white, anything else tinted; ``numbers`` formats the entries."""
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
    """Show ``draw`` at the starting values, with a control for each argument where there are widgets.

    Parameters
    ----------
    draw : callable
        Makes a figure with ``plt.subplots`` and returns it.
    **ranges
        (low, high, step, start): a slider; a list: a menu that starts at its first entry; True or
        False: a box.
    """
    still = _picture(draw, {name: _start(given) for name, given in ranges.items()})
    try:
        import ipywidgets
    except ImportError:
        return _Shown({"image/png": base64.b64encode(still).decode()})
    image = ipywidgets.Image(
        value=still, format="png", layout={"max_width": "100%", "align_self": "flex-start"}
    )
    controls = {name: _control(ipywidgets, name, given) for name, given in ranges.items()}

    def redraw(_change) -> None:
        image.value = _picture(
            draw, {name: _tidy(control.value) for name, control in controls.items()}
        )

    for control in controls.values():
        control.observe(redraw, "value")
    box = ipywidgets.VBox([image, *controls.values()])
    return _Shown({**box._repr_mimebundle_(), "image/png": base64.b64encode(still).decode()})


class _Shown:
    """One output in several forms, of which a page shows the best that it can: the widget, else the picture."""

    def __init__(self, forms: dict[str, object]):
        self.forms = forms

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, object]:
        return self.forms


def _picture(draw: Callable[..., Figure], values: dict) -> bytes:
    figure, buffer = draw(**values), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    plt.close(figure)
    return buffer.getvalue()


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
