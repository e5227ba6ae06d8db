r"""Rows: what the command line reads, by the names of columns, and what it writes.

.. math:: \mathrm{DATA} = (x_1 \dots x_D \mid c_1 \dots c_C \mid w): \quad
          \text{features, context, weights, dealt 80 : 10 : 10 to train, validate and test}

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import io
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from afnp import data
from afnp.atomic import write_bytes
from afnp.data.dataset import random_split
from afnp.data.tables import SUFFIXES, Table, named, write_parquet
from afnp.flow import Flow
from afnp.inputs import TextColumn, some_weights

__all__ = ["Part", "Rows", "bounds_of", "context_of", "for_flow", "is_table", "load_set", "read"]

WRITTEN = (".npy", ".npz", ".csv", ".parquet")
"""What a table may be written as; and "-", standard output, as a .csv."""
STDOUT = Path("-")


class Part(NamedTuple):
    """Rows (N, D), and what goes with them: contexts (N, C) and weights (N,), or None."""

    x: np.ndarray
    context: np.ndarray | None = None
    weights: np.ndarray | None = None
    numbers: np.ndarray | None = None
    """Which rows of the file, or of the set, they are, counted from 0."""

    def taken(self, rows) -> Part:
        """Return some of the rows."""
        context, weights, numbers = (None if part is None else part[rows] for part in self[1:])
        return Part(self.x[rows], context, weights, numbers)


class Rows(NamedTuple):
    """What a DATA argument stands for."""

    train: Part
    val: Part
    test: Part
    levels: int | None
    columns: tuple[str, ...] | None
    context_columns: tuple[str, ...] | None


# ---- reading -------------------------------------------------------------------------------------


def is_table(name: str) -> bool:
    """Return whether a DATA argument is a file, by its suffix."""
    return Path(name).suffix.lower() in SUFFIXES


def load_set(name: str, folder: str | None) -> data.Dataset:
    """Load a set by name, or say how one is named."""
    if name not in data.names():
        raise ValueError(
            f"{name}: expected a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, or a set that "
            f"'afnp data' lists{data.meant(name)}"
        )
    if name in data.IN_FOLDER and folder is None:
        raise ValueError(
            f"{name} is read from files of your own; say where they are with --data-folder FOLDER"
        )
    return data.load(name, folder=folder)


def read(
    name: str,
    folder: str | None,
    key: str | None,
    seed: int = 0,
    context: Sequence[str] = (),
    weights: str | None = None,
    exclude: Sequence[str] = (),
) -> Rows:
    """Return a set in its own split (that of seed 0), or a file's rows, dealt by the seed.

    ``context``, ``weights`` and ``exclude`` name columns that are no features.
    """
    known: list[str] = []

    def select(columns: tuple[str, ...] | None, width: int) -> list[int]:
        kept = _kept(exclude, columns, width, name)
        known.extend(columns[i] if columns else str(i) for i in kept)
        return kept

    if is_table(name):
        table = _table(name, key, select)
        levels = None
        if len(table.x) < 10:
            raise ValueError(
                f"{name}: expected at least 10 rows, to deal them to train, validate and test, got "
                f"{len(table.x)}"
            )
        tenth = len(table.x) // 10
        dealt = random_split(len(table.x), tenth, tenth, np.random.default_rng(seed))
    else:
        found = load_set(name, folder)
        levels = found.levels
        x = np.concatenate([found.train, found.val, found.test])
        table = Table(x, found.columns).taken(select)
        ends = np.cumsum([len(found.train), len(found.val)])
        dealt = tuple(np.split(np.arange(len(table.x)), ends))
    given = _numbered(context, known, "--context", name)
    weighing = _numbered([weights] if weights else [], known, "--weights", name)
    features = [i for i in range(len(known)) if i not in given + weighing]
    if not features:
        raise ValueError(f"{name}: expected at least one column besides --context and --weights")
    whole = Part(
        table.x[:, features],
        table.x[:, given] if given else None,
        table.x[:, weighing[0]] if weighing else None,
        np.arange(len(table.x)),
    )
    if whole.weights is not None:
        said = f"{name}: column {weights!r}, rows counted from 0"
        some_weights(whole.weights, len(table.x), said)
    train, val, test = (whole.taken(rows) for rows in dealt)
    return Rows(
        train,
        val,
        test,
        levels,
        named(table.columns, features),
        named(table.columns, given) if given else None,
    )


def _table(name: str, key: str | None, select: Callable) -> Table:
    """Read a file's columns, or say how one of text is left out."""
    try:
        return data.read_named(name, key, select=select)
    except TextColumn as error:
        raise ValueError(f"{error}; --exclude {error.column} leaves it out") from None


def _kept(
    exclude: Sequence[str], columns: tuple[str, ...] | None, width: int, where: str
) -> list[int]:
    """Return the numbers of the columns that stay."""
    out = _numbered(exclude, columns or tuple(map(str, range(width))), "--exclude", where)
    kept = [i for i in range(width) if i not in out]
    if not kept:
        raise ValueError(f"--exclude: expected at least one column of {where} that stays")
    return kept


def _numbered(names: Sequence[str], known: Sequence[str], option: str, where: str) -> list[int]:
    """Return the numbers of columns that were named, or counted from 0 where there are no names."""
    for name in names:
        if name not in known:
            kind = "columns, counted from 0," if all(map(str.isdigit, known)) else "columns"
            raise ValueError(
                f"{option}: {where} has the {kind} {', '.join(known[:20])}, got {name!r}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"{option}: expected distinct columns, got {', '.join(names)}")
    return [known.index(name) for name in names]


def for_flow(
    flow: Flow, name: str, folder: str | None, key: str | None, exclude: Sequence[str] = ()
) -> Part:
    """Return a file's rows, or the test rows of a set, as a model wants them: by name if it can.

    ``exclude`` names columns that are left out, or counts them from 0 where there are no names.
    """
    wanted = (*(flow.columns or ()), *(flow.context_columns or ()))

    def select(columns: tuple[str, ...] | None, width: int) -> Sequence[int]:
        kept = _kept(exclude, columns, width, name)
        if columns is None or len(wanted) < flow.features + flow.context:
            return kept
        stay = [columns[i] for i in kept]
        missing = [column for column in wanted if column not in stay]
        if missing:
            raise ValueError(
                f"{name}: expected the columns {', '.join(wanted)}, as the model has; it lacks "
                f"{', '.join(missing)}"
            )
        superfluous = [column for column in stay if column not in wanted]
        if superfluous:
            said = ", ".join(map(repr, superfluous[:5]))
            warnings.warn(f"{name}: not in the model, left out: {said}", stacklevel=2)
        return [columns.index(column) for column in wanted]

    if is_table(name):
        x = _table(name, key, select).x
    else:
        found = load_set(name, folder)
        x = Table(found.test.astype(np.float64), found.columns).taken(select).x
    if x.shape[1] != flow.features + flow.context:
        context = f" and {flow.context} of the context, in this order" if flow.context else ""
        raise ValueError(
            f"{name}: expected {flow.features} columns{context}, as the model has, got {x.shape[1]}"
        )
    D = flow.features
    return Part(x[:, :D], x[:, D:] if flow.context else None)


# ---- options -------------------------------------------------------------------------------------


def context_of(flow: Flow, text: str | None) -> np.ndarray | None:
    """Return one row of context (1, C) from NAME=VALUE,..., or from values in their order."""
    names = flow.context_columns or tuple(map(str, range(flow.context)))
    if not flow.context:
        if text is not None:
            raise ValueError("--context: this model takes none")
        return None
    wanted = ",".join(f"{name}=..." for name in names)
    if text is None:
        raise ValueError(f"the model needs a context: --context {wanted}")
    values = {}
    for k, part in enumerate(text.split(",")):
        name, equals, value = part.rpartition("=")
        name = name.strip() if equals else names[k] if k < len(names) else ""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if name not in names or name in values or not math.isfinite(number):
            raise ValueError(f"--context: expected {wanted}, got {text!r}")
        values[name] = number
    if len(values) < len(names):
        raise ValueError(f"--context: expected {wanted}, got {text!r}")
    return np.array([[values[name] for name in names]])


def bounds_of(text: str, rows: Rows) -> dict[int, tuple[float | None, float | None]]:
    """Return the bounds of features from NAME:LOW:HIGH,..., where an empty end is none.

    Examples
    --------
    >>> x = np.ones((3, 2))
    >>> rows = Rows(Part(x), Part(x), Part(x), None, ("mass", "angle"), None)
    >>> bounds_of("mass:0:", rows)
    {0: (0.0, None)}
    """
    columns = rows.columns or tuple(map(str, range(rows.train.x.shape[1])))
    bounds = {}
    for part in text.split(","):
        name, *ends = part.rsplit(":", 2)
        try:
            low, high = (float(end) if end.strip() else None for end in ends)
        except ValueError:
            low = high = None
        if name not in columns or (low is None and high is None):
            raise ValueError(
                f"--bounds: expected NAME:LOW:HIGH,... with names among {', '.join(columns[:20])}; "
                f"LOW or HIGH may be empty; got {part!r}"
            )
        i = columns.index(name)
        bounds[i] = (low, high)
        values = np.concatenate([part.x[:, i] for part in rows[:3]])
        least = -math.inf if low is None else low
        most = math.inf if high is None else high
        outside = np.flatnonzero(~((values > least) & (values < most)))
        if outside.size:
            numbers = np.concatenate([part.numbers for part in rows[:3]])
            row = outside[np.argmin(numbers[outside])]
            raise ValueError(
                f"--bounds: {outside.size} of {values.size} rows of {name} are not inside "
                f"({least:g}, {most:g}), such as {values[row]} in row "
                f"{numbers[row]} (counted from 0)"
            )
    return bounds


# ---- writing -------------------------------------------------------------------------------------


def write(path: Path, x: np.ndarray, columns: Sequence[str] | None) -> None:
    """Write one of ``WRITTEN``, atomically, with all digits; or "-", a .csv on standard output."""
    buffer, suffix = io.BytesIO(), path.suffix.lower()
    if suffix == ".npy":
        np.save(buffer, x)
    elif suffix == ".npz":
        np.savez(buffer, x=x)
    elif suffix == ".parquet":
        write_parquet(buffer, x, columns)
    else:
        if columns is not None:
            buffer.write((",".join(map(_quoted, columns)) + "\n").encode())
        digits = "%.17g" if x.dtype == np.float64 else "%.9g"
        np.savetxt(buffer, x, delimiter=",", fmt=digits)
    if path == STDOUT:
        _print(buffer.getvalue())
    else:
        write_bytes(path, buffer.getvalue())


def _print(text: bytes) -> None:
    """Write all of it to standard output: what takes a part at a time is given the rest."""
    if sys.stdout is None:
        raise ValueError("-: standard output is closed")
    if not isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's, say
        sys.stdout.write(text.decode())
        return
    sys.stdout.flush()
    rest = memoryview(text)
    while rest:  # an unbuffered stream may take less than it is given
        rest = rest[sys.stdout.buffer.write(rest) :]


def _quoted(name: str) -> str:
    plain = not any(sign in name for sign in ',"\n\r')
    return name if plain else '"' + name.replace('"', '""') + '"'
