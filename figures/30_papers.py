r"""The papers' tables, trained again here: test log-likelihoods, ours beside what was printed.

.. math:: \Delta = \overline{\log p}_{\text{ours}} - \overline{\log p}_{\text{paper}}
          \quad \text{nats of the test rows,} \qquad \text{bars: } \pm 2\, s / \sqrt N

The record ``papers.json`` was written by ``python -m figures.papers power --data DIR --keep``, and
the same with ``mnist`` and ``discrete``; recipes, and what differs from the papers', stand in
``figures/papers/__init__.py``. Right of zero is better than printed; grey is what counts as
reached, and an open mark is a row before the end of its training. The figure only draws the record.

Letters: N test rows.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from figures.common import COLORS, caption, note
from figures.papers import report
from figures.papers.tables import TABLES, Table


def data(quick: bool = False) -> dict:
    """Read the record; quick or not, it is the same."""
    record = report.kept()
    numbers = {
        title: {
            name: {
                "paper": TABLES[title].rows[name].paper,
                "ours": found["test_nats"],
                "two_standard_errors": found["two_standard_errors"],
                "finished": found["finished"],
                "processor_minutes": found["processor_minutes"],
            }
            for name, found in rows.items()
        }
        for title, rows in record.items()
    }
    return {"numbers": numbers, "record": record}


def draw(data: dict) -> Figure:
    """Draw each row's difference from its paper, with both errors, and the numbers beside it."""
    record = data["record"]
    figure = Figure(figsize=(12, 4.8))
    caption(figure, __doc__.split("\n")[0])
    drawn = {name: table for name, table in TABLES.items() if _compared(table, record[name])}
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for ax, (name, table) in zip(axes, drawn.items(), strict=True):
        _draw_table(ax, table, record[name])
    note(figure, _facts(record))
    return figure


def _compared(table: Table, rows: dict) -> list[str]:
    """Return the rows on record that stand beside a printed number."""
    return [name for name, row in table.rows.items() if name in rows and row.paper is not None]


def _draw_table(ax, table: Table, rows: dict) -> None:
    names = _compared(table, rows)
    ax.axvspan(-table.tolerance, table.tolerance, color=COLORS["light"], linewidth=0)
    ax.axvline(0, color=COLORS["grey"], linestyle="-", marker="")
    for height, name in enumerate(reversed(names)):
        row, found = table.rows[name], rows[name]
        off = found["test_nats"] - row.paper
        color = COLORS["red" if report.missed(row, found, table.tolerance) else "blue"]
        bars = {"fmt": "none", "capsize": 3}
        if row.spread is not None:
            ax.errorbar(0, height + 0.2, xerr=row.spread, ecolor=COLORS["grey"], **bars)
        ax.errorbar(off, height, xerr=found["two_standard_errors"], ecolor=color, **bars)
        face = color if found["finished"] else "white"
        ax.plot(off, height, "o", color=color, markerfacecolor=face, markersize=7)
        ax.annotate(
            report.values(row, found),
            (1.02, height),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
        )
    ax.set_yticks(range(len(names)), names[::-1])
    ax.set_ylim(-0.6, len(names) - 0.2)
    ax.set(xlabel="ours - paper, nats", title=f"{table.title}\n")
    ax.locator_params(axis="x", nbins=4)
    ax.annotate(
        "paper, ours", (1.02, 1.0), xycoords="axes fraction", fontsize=9, color=COLORS["grey"]
    )


def _facts(record: dict) -> str:
    """Say what the marks mean, and where the rows were trained."""
    rows = [found for table in record.values() for found in table.values()]
    machines = sorted({found["machine"]["cpu"] for found in rows})
    minutes = sum(found["processor_minutes"] for found in rows)
    return (
        "Test log-likelihood, nats; bars are two standard errors, grey ones the paper's. "
        "Open marks: before the end of training; red: below the grey band.\n"
        f"{minutes:.0f} minutes of the processor in all; {'; '.join(machines)}"
    )
