r"""Usual tests catch fewer than half of planted defects; all checks together see every one.

.. math:: K_{km} = [\,\text{check } k \text{ fails on mutant } m\,]

A mutant is a small clean flow with one defect in it, each the imitation of a mistake in somebody's
code (:mod:`afnp.verify.mutants`). Usual tests are a round trip with log-determinants that cancel,
both at 1e-4; and, besides, log-determinants and triangularity from finite differences at 1e-4. All
have the same random parameters. The measurements are those that ``python -m afnp.verify.mutants
--matrix`` has stored.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from afnp.verify import CHECKS
from afnp.verify.mutants import matrix
from figures.common import COLORS, caption, note

LEVEL = "full"
THEMES = {
    "structure": "structure",
    "log_dets": "log-dets",
    "inverses": "inverses",
    "memories": "memories",
    "sampling": "densities",
    "totals": "totals",
    "pairs": "samples",
    "temperatures": "noise",
    "tails": "tails",
    "behaviour": "behaviour",
    "derivatives": "gradients",
    "layers": "layers",
    "univariates": "univariates",
    "compiled": "compiled",
}
"""In the order of the picture, with their labels."""


def data(quick: bool = False) -> dict:
    """Read who kills what; ``quick`` takes every fifth mutant."""
    record = matrix.read()
    entries = {
        name: entry for name, entry in record["mutants"].items() if not entry.get("equivalent")
    }
    themes = list(THEMES)
    names = sorted(
        entries,
        key=lambda name: (themes.index(entries[name]["theme"]), *_first(entries[name]), name),
    )
    names = names[::5] if quick else names
    checks = [check for check in CHECKS if any(check in entry[LEVEL] for entry in entries.values())]
    styles = list(record["styles"])
    kills = np.array([[check in entries[name][LEVEL] for name in names] for check in checks])
    usual = np.array([[style in entries[name]["styles"] for name in names] for style in styles])
    numbers = {
        "mutants": len(names),
        "killed_by_all_checks": kills.any(axis=0).sum(),
        "killed_by_best_check": kills.sum(axis=1).max(),
        "killed_by_usual_tests": {
            style: row.sum() for style, row in zip(styles, usual, strict=True)
        },
        "killed_by_check": {check: row.sum() for check, row in zip(checks, kills, strict=True)},
        "false_alarms": {k: record["false_alarms"][k] for k in ("flows", "alarms", "level")},
    }
    return {
        "numbers": numbers,
        "names": names,
        "themes": [entries[name]["theme"] for name in names],
        "checks": checks,
        "styles": styles,
        "kills": kills,
        "usual": usual,
    }


def _first(entry: dict) -> tuple[int, int]:
    """Return the first check that kills a mutant, and how many do: alike mutants stand together."""
    places = [place for place, check in enumerate(CHECKS) if check in entry[LEVEL]]
    return (min(places, default=len(CHECKS)), -len(places))


def draw(data: dict) -> Figure:
    """Draw a column a mutant, a row a check; how many each kills stands at the right."""
    figure = Figure(figsize=(11, 6.4))
    caption(figure, __doc__.split("\n")[0])
    together = data["kills"].any(axis=0, keepdims=True)
    blocks = [
        (data["usual"], [f"usual: {style}" for style in data["styles"]], COLORS["red"]),
        (data["kills"], [check.replace("_", " ") for check in data["checks"]], COLORS["blue"]),
        (together, ["all checks together"], COLORS["ink"]),
    ]
    axes = figure.subplots(3, 1, height_ratios=[len(cells) for cells, _, _ in blocks], sharex=True)
    for each, block in zip(axes, blocks, strict=True):
        _rows(each, *block)
    _themes(axes, data["themes"])
    numbers = data["numbers"]
    count = numbers["false_alarms"]
    note(
        figure,
        f"A column is one of {numbers['mutants']} defects, filled where a test fails; at right, "
        "the row's kills.\n"
        f"On {count['flows']:,} random clean flows the checks raised {count['alarms']} false "
        f"alarms (level {count['level']}).",
    )
    return figure


def _rows(axes, cells: np.ndarray, labels: list[str], color: str) -> None:
    """Draw one block of rows, with names at the left and counts at the right."""
    height, width = cells.shape
    for row, column in np.argwhere(cells):
        axes.add_patch(_cell(column, row, color))
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[])
    axes.set_yticks(range(height), labels)
    axes.hlines(
        np.arange(height + 1) - 0.5, -0.5, width - 0.5, color=COLORS["light"], linewidth=0.5
    )
    for row in range(height):
        axes.annotate(
            str(cells[row].sum()),
            (1.005, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
        )
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)


def _cell(column: int, row: int, color: str):
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.42, row - 0.42), 0.84, 0.84, color=color, linewidth=0)


def _themes(blocks, themes: list[str]) -> None:
    """Separate the themes by lines, and name them on top."""
    for theme, label in THEMES.items():
        columns = [column for column, other in enumerate(themes) if other == theme]
        if not columns:
            continue
        blocks[0].annotate(
            label,
            ((columns[0] + columns[-1]) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
        for axes in blocks:
            axes.axvline(
                columns[-1] + 0.5, color=COLORS["grey"], linewidth=0.8, linestyle="-", marker=""
            )
