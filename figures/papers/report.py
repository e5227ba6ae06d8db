"""The record of the papers' tables as lines, as a table, and as JSON.

A row is *missed* where ours is further below the paper than the table's tolerance, and *before the
end of training* where its recipe asks for more epochs than it had.
"""

from __future__ import annotations

import json
from pathlib import Path

from afnp.atomic import write_bytes
from figures.common import as_json
from figures.papers.tables import TABLES, Row, Table

__all__ = ["RECORD", "ended", "keep", "kept", "line", "markdown", "missed", "values"]

RECORD = Path(__file__).parents[1] / "papers.json"
HEADS = ("model", "paper", "ours", "difference", "processor minutes", "training")


def kept() -> dict[str, dict]:
    """Return what has been put on record: of each table its rows, by name."""
    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    return {table: known.get(table, {}) for table in TABLES}


def keep(table: str, name: str, found: dict) -> None:
    """Put a row on record, in the place of what was there."""
    known = kept()
    known[table][name] = found
    known[table] = {row: known[table][row] for row in TABLES[table].rows if row in known[table]}
    write_bytes(RECORD, as_json(known).encode())


def missed(row: Row, found: dict, tolerance: float) -> bool:
    """Return whether a row is further below the paper than the tolerance."""
    return row.paper is not None and found["test_nats"] < row.paper - tolerance


def ended(found: dict) -> str:
    """Say how far training came.

    Examples
    --------
    >>> ended({"finished": True, "epochs": 40})
    '40 epochs'
    >>> ended({"finished": False, "epochs": 6, "over": 6, "of_epochs": 123})
    'before the end of training: 6 of 123 epochs, annealed over 6'
    >>> ended({"finished": False, "epochs": 6, "over": 123, "of_epochs": 123})
    'before the end of training: 6 of 123 epochs'
    """
    if "epochs" not in found:
        return "closed form"
    if found["finished"]:
        return f"{found['epochs']} epochs"
    text = f"before the end of training: {found['epochs']} of {found['of_epochs']} epochs"
    return text if found["over"] == found["of_epochs"] else f"{text}, annealed over {found['over']}"


def line(name: str, table: Table, found: dict) -> str:
    """Say in a line what a row came to."""
    row = table.rows[name]
    paper, ours, difference, minutes, training = _cells(table, row, found)
    return (
        f"{name}: paper {paper}, ours {ours} nats ({difference}), {minutes} minutes of the "
        f"processor; {training}"
    )


def markdown(table: Table, rows: dict[str, dict]) -> str:
    """Return a table of the record's rows; those that it lacks are said to be not run.

    Images have bits per dimension, of the pixels themselves, beside the nats of what is modelled.
    """
    with_bits = any("bits_per_dim" in found for found in rows.values())
    heads = [*HEADS, "bits per dimension"] if with_bits else [*HEADS]
    lines = [heads, ["---"] * len(heads)]
    for name, row in table.rows.items():
        cells = [_paper(row), "not run"]
        if name in rows:
            bits = [f"{rows[name]['bits_per_dim']:.3f}"] if with_bits else []
            cells = [*_cells(table, row, rows[name]), *bits]
        lines.append([name, *cells, *[""] * (len(heads) - 1 - len(cells))])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def values(row: Row, found: dict) -> str:
    """Return the paper's value and ours.

    Examples
    --------
    >>> values(Row(0.14, 0.01, "paper"), {"test_nats": 0.2101})
    '0.14, 0.21'
    """
    digits = _digits(row)
    paper = "" if row.paper is None else f"{row.paper:.{digits}f}, "
    return f"{paper}{found['test_nats']:.{digits}f}"


def _cells(table: Table, row: Row, found: dict) -> tuple[str, ...]:
    digits = _digits(row)
    difference = "" if row.paper is None else f"{found['test_nats'] - row.paper:+.{digits}f}"
    if missed(row, found, table.tolerance):
        difference += ", missed" if found["finished"] else ", missed so far"
    return (
        _paper(row),
        _value(found["test_nats"], found["two_standard_errors"], digits),
        difference,
        f"{found['processor_minutes']:.1f}",
        ended(found),
    )


def averages(name: str, found: dict) -> str:
    """Say what averages over more and more orders of one network came to.

    Examples
    --------
    >>> averages("DNA", {"averages": {"1": -84.25, "2": -83.5}})
    'DNA, mean over 1 to 2 orders: -84.25 (1), -83.50 (2) nats'
    """
    means = found["averages"]
    said = ", ".join(f"{nats:.2f} ({orders})" for orders, nats in means.items())
    return f"{name}, mean over 1 to {max(map(int, means))} orders: {said} nats"


def _digits(row: Row) -> int:
    """Return how many decimals the paper prints; for binary sets two."""
    return 1 if row.spread is not None and row.paper is not None and abs(row.paper) >= 100 else 2


def _paper(row: Row) -> str:
    if row.paper is None:
        return "none comparable"
    digits = _digits(row)
    return (
        f"{row.paper:.{digits}f}" if row.spread is None else _value(row.paper, row.spread, digits)
    )


def _value(nats: float, spread: float, digits: int) -> str:
    return f"{nats:.{digits}f} ± {spread:.{digits}f}"
