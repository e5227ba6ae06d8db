r"""Sorted by degree, masks are staircases, and the product of all is strictly triangular.

.. math:: P = M^{(3)} M^{(2)} M^{(1)}, \qquad
          P_{ij} = \text{number of paths from input } j \text{ to output } i

Output i may depend on inputs 1 to i - 1, and P is positive exactly there, if the hidden layers are
wide enough. A network too narrow loses dependencies that were legal. A context is known from the
start: it reaches every output.
"""

from __future__ import annotations

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from afnp.networks import masks
from figures.common import COLORS, caption

D, WIDE, NARROW, C = 8, 14, 4, 2
LAYERS = ("input", "hidden", "hidden", "output")
PAPER = "#FFFFFF"
MASK_CELL, PATH_CELL, GAP = 0.185, 0.27, 0.75  # inches


def data(quick: bool = False) -> dict:
    """Return three networks' masks and their products: wide, too narrow, and with a context."""
    wide = network(WIDE)
    narrow = network(NARROW)
    context = network(D, context=C)
    legal, lost = masks.lost_dependencies(narrow["staircases"], D)
    numbers = {
        "legal": legal,
        "lost_wide": masks.lost_dependencies(wide["staircases"], D)[1],
        "lost_narrow": lost,
        "lost_context": masks.lost_dependencies(context["staircases"], D, C)[1],
        "legal_context": masks.lost_dependencies(context["staircases"], D, C)[0],
        "most_paths": wide["paths"].max(),
        "legal_D64": masks.lost_dependencies(network(32, features=64)["staircases"], 64)[0],
        "lost_D64_H32": masks.lost_dependencies(network(32, features=64)["staircases"], 64)[1],
    }
    return {"numbers": numbers, "wide": wide, "narrow": narrow, "context": context}


def network(width: int, features: int = D, context: int = 0) -> dict:
    """Return degrees, staircases, masks and number of paths of a network with two hidden layers."""
    hidden = masks.degrees_of_hidden(width, features, context)
    inputs = masks.degrees_of_inputs(features, context)
    outputs = np.arange(1, features + 1)
    degrees = [inputs, hidden, hidden, outputs]
    staircases = [masks.prefixes(hidden, inputs), masks.prefixes(hidden, hidden)]
    staircases.append(masks.prefixes(outputs, hidden, strict=True))
    matrices = [
        masks.mask(s, len(d)).astype(int) for s, d in zip(staircases, degrees[:-1], strict=True)
    ]
    return {
        "degrees": degrees,
        "staircases": staircases,
        "masks": matrices,
        "paths": matrices[2] @ matrices[1] @ matrices[0],
    }


def draw(data: dict) -> Figure:
    """Draw the wide network as a product; below, the narrow one and the one with a context."""
    figure = Figure(figsize=(12, 7.1), layout="none")
    caption(figure, __doc__.split("\n")[0])
    wide, narrow, context, numbers = (
        data[name] for name in ("wide", "narrow", "context", "numbers")
    )

    top, left = 0.95, 0.65
    for k, title in ((2, "mask 3"), (1, "× mask 2"), (0, "× mask 1")):
        left = draw_mask(figure, (left, top), wide, k, title)
    draw_paths(
        figure,
        (left, top),
        wide,
        f"= number of paths: all {numbers['legal']}\nlegal pairs are connected",
    )

    top, left = 4.45, 0.65
    left = draw_mask(figure, (left, top), narrow, 0, f"{NARROW} hidden units,\ntoo narrow: mask 1")
    title = f"product: {numbers['lost_narrow']} of {numbers['legal']}\nlegal pairs lost (red)"
    left = draw_paths(figure, (left, top), narrow, title) + 0.5
    left = draw_mask(figure, (left, top), context, 0, f"context of {C} (yellow):\nmask 1", C)
    draw_paths(
        figure, (left, top), context, "product: the context reaches\nevery output, the first too", C
    )
    return figure


def draw_mask(figure, corner, net: dict, k: int, title: str, context: int = 0) -> float:
    """Draw mask k, ones filled; return where the next matrix may begin."""
    shown = net["masks"][k].copy()
    shown[:, :context] *= 2
    colors = [PAPER, COLORS["blue"], COLORS["yellow"]]
    axes, end = place(figure, corner, shown, colors, MASK_CELL)
    axes.set_title(title)
    finish(axes, net["degrees"][k + 1], net["degrees"][k], LAYERS[k + 1], LAYERS[k], size=7)
    return end


def draw_paths(figure, corner, net: dict, title: str, context: int = 0) -> float:
    """Draw the number of paths, mark legal pairs without any as lost; return where it ends."""
    paths = net["paths"]
    rows = net["degrees"][3]
    columns = net["degrees"][0]
    lost = (columns[None, :] < rows[:, None]) & (paths == 0)
    shown = np.where(lost, 3, np.where(paths > 0, 1, 0))
    shown[:, :context] *= 2
    axes, end = place(
        figure, corner, shown, [PAPER, "#CFE3F1", "#F7DDA6", COLORS["red"]], PATH_CELL
    )
    for i, j in np.argwhere((paths > 0) | lost):
        color, weight = ("white", "bold") if lost[i, j] else (COLORS["ink"], "normal")
        axes.text(
            j + 0.5,
            i + 0.52,
            paths[i, j],
            ha="center",
            va="center",
            fontsize=8,
            color=color,
            weight=weight,
        )
    axes.set_title(title)
    finish(axes, rows, columns, LAYERS[3], LAYERS[0], size=8)
    return end


def place(
    figure, corner: tuple[float, float], shown: np.ndarray, colors: list[str], cell: float
) -> tuple:
    """Draw a matrix of colour numbers with square cells, its corner (inches) at the top left."""
    (left, top), (rows, columns) = corner, shown.shape
    width, height = figure.get_size_inches()
    box = (
        left / width,
        1 - (top + rows * cell) / height,
        columns * cell / width,
        rows * cell / height,
    )
    axes = figure.add_axes(box)
    axes.pcolormesh(
        shown,
        cmap=ListedColormap(colors),
        vmin=0,
        vmax=len(colors) - 1,
        edgecolor="#CCCCCC",
        lw=0.6,
    )
    return axes, left + columns * cell + GAP


def finish(axes, rows, columns, row_label: str, column_label: str, size: float) -> None:
    """Label rows and columns by degree, first row on top."""
    axes.set(xlabel=f"{column_label} degree", ylabel=f"{row_label} degree")
    axes.invert_yaxis()
    for axis, degrees in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_ticks(np.arange(len(degrees)) + 0.5, degrees)
    axes.tick_params(length=0, labelsize=size, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
