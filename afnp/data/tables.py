"""Numeric tables from files: (N, D) float64, or an error that says where the fault is.

Files are untrusted: nothing is ever unpickled, and a size is believed only after it was compared
with the file and with a limit. (A compressed .npz of 2 MB may declare 2 GB; ``np.load`` would fill
the memory.)

A .csv is what spreadsheets and pandas write: its separator is a comma, a semicolon, a tab or
blanks, whichever parts its first two lines alike; where it is no comma, 1,5 is one and a half. A
first line without a number is a header. Every other line is a row: none is ever left out. What may
be read in two ways, a row of years or thousands, gets a warning.

Letters: N rows, D columns. Array rows and columns are counted from 0, lines and columns of text
from 1.
"""

from __future__ import annotations

import csv
import math
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from tokenize import TokenError
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from afnp.atomic import kind_of
from afnp.inputs import TextColumn, frame_names, frame_values, plain_array

from .dataset import extra, first_bad

LIMIT = 2**32
SUSPECT = 2**26
"""An array of more bytes must have been compressed by less than a hundred."""
LOOKED_AT = 1000
"""Rows below a first one that counts, among which one that is not whole is looked for."""
SUFFIXES = (".npy", ".npz", ".csv", ".parquet")
SEPARATORS = {";": "a semicolon", "\t": "a tab", ",": "a comma", " ": "blanks"}
"""What may part the cells of a .csv, in the order in which it is looked for."""
WITH_PYARROW = "pandas reads and writes .parquet with pyarrow: pip install pyarrow"
NO_HEADER = (SyntaxError, TokenError, RecursionError, MemoryError)
"""A .npy header is Python source, and so its parser may end: deep nesting, in one of the last
two."""
MISSING = {"", "na", "n/a", "<na>", "nan", "-nan", "nat", "null", "none", "nil", "?", "-"}
MISSING |= {"#n/a", "#n/a n/a", "#na", "#null!", "#div/0!", "#value!", "#ref!", "#num!", "#name?"}
MISSING |= {"#spill!", "#calc!"}
"""Cells that say that there is no value, in lower case."""
INDEX = re.compile(r"(Unnamed: 0(\.[0-9]+)*)?")
"""What pandas writes above an index, and above one that it had read as a column."""
THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+")
EVEN = 1e-2
"""By so much of it steps may differ that are the same: of single numbers, or rounded."""
NAMELESS = "; if this line is a header, give every column a name that is no number"


class Table(NamedTuple):
    """Rows (N, D) and, where the file names its columns, their names."""

    x: NDArray[np.float64]
    columns: tuple[str, ...] | None

    def taken(self, select: Select | None) -> Table:
        """Return some of the columns."""
        kept = kept_of(select, self.columns, self.x.shape[1])
        return Table(self.x[:, kept], named(self.columns, kept))


Select = Callable[[tuple[str, ...] | None, int], Sequence[int]]
"""From the columns' names, or None, and their number to the numbers of those that are read."""


def kept_of(select: Select | None, columns: tuple[str, ...] | None, width: int) -> list[int]:
    """Return the numbers of the columns that are read, all where nothing selects."""
    return list(range(width) if select is None else select(columns, width))


def named(columns: Sequence[str] | None, kept: Sequence[int]) -> tuple[str, ...] | None:
    """Return the names of some columns, or None where they have none."""
    return None if columns is None else tuple(columns[i] for i in kept)


def read_table(
    path: str | os.PathLike[str], key: str | None = None, limit: int = LIMIT
) -> NDArray[np.float64]:
    r"""Read a table of numbers.

    Parameters
    ----------
    path : str or path
        ``.npy``, ``.npz`` (one array, or the one named by `key`), ``.csv`` (a header is allowed) or
        ``.parquet`` (through pandas).
    key : str, optional
        Which array of an .npz.
    limit : int
        Refuse tables of more than this many bytes as float64 (default 4 GiB).

    Returns
    -------
    ndarray (N, D), float64, finite, N and D at least 1

    Raises
    ------
    ValueError
        For anything that is not such a table; the message gives file, place, expected and got.
    FileNotFoundError
        When there is no such file.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "points.csv"
    >>> _ = path.write_text("height,weight\n1.5,2\n3,4e1\n")
    >>> read_table(path)
    array([[ 1.5,  2. ],
           [ 3. , 40. ]])
    """
    return read_named(path, key, limit).x


def read_named(
    path: str | os.PathLike[str],
    key: str | None = None,
    limit: int = LIMIT,
    select: Select | None = None,
) -> Table:
    r"""Read a table of numbers with the names of its columns.

    Arguments and errors as in :func:`read_table`; ``select`` says which columns are read, so that
    others may hold text.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "points.csv"
    >>> _ = path.write_text("height;weight;name\n1,5;2;a\n3;4;b\n")
    >>> read_named(path, select=lambda columns, width: range(2)).columns
    ('height', 'weight')
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        expected = ", ".join(SUFFIXES[:-1])
        raise ValueError(
            f"{path}: expected a {expected} or {SUFFIXES[-1]} file, got "
            f"{path.suffix or 'no suffix'!r}"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    refuse_special(path)
    if key is not None and suffix != ".npz":
        raise ValueError(f"{path}: key={key!r} names an array of an .npz file, this is none")
    if suffix == ".csv":
        return read_csv(path, limit, select)
    if suffix == ".parquet":
        return read_parquet(path, limit, select)
    x = read_npz(path, key, limit) if suffix == ".npz" else read_npy(path, limit)
    return Table(as_table(x, str(path)), None).taken(select)


def refuse_special(path: str | os.PathLike[str]) -> None:
    """Raise a ValueError for a folder, a device or a pipe, which would wait for a writer."""
    if kind := kind_of(os.stat(path).st_mode):
        raise ValueError(f"{os.fspath(path)}: {kind}; expected a regular file")


def as_table(x: NDArray[np.generic], where: str) -> NDArray[np.float64]:
    """Check a numeric array for being a table: two axes, not empty, finite.

    ValueError names `where`.
    """
    if x.ndim != 2:
        hint = "; x.reshape(-1, 1) makes one column of it" if x.ndim == 1 else ""
        raise ValueError(f"{where}: expected two axes (rows, columns), got shape {x.shape}{hint}")
    if x.size == 0:
        raise ValueError(f"{where}: expected at least one row and one column, got shape {x.shape}")
    table = np.array(x, np.float64, order="C")
    if not np.isfinite(table).all():
        row, column = first_bad(~np.isfinite(table))
        raise ValueError(
            f"{where}: expected finite numbers, got {table[row, column]} "
            f"in row {row}, column {column} (counted from 0)"
            + ("; missing values are not supported" if np.isnan(table[row, column]) else "")
        )
    return table


def read_npy(path: Path, limit: int = LIMIT) -> NDArray[np.generic]:
    """Read the numeric array of a .npy file: any shape, its own dtype."""
    with open(path, "rb") as stream:
        return read_array(stream, os.path.getsize(path), str(path), limit)


def read_array(stream: IO[bytes], size: int, where: str, limit: int) -> NDArray[np.generic]:
    """Read a .npy stream of `size` bytes; believe its header only as far as the bytes go."""
    try:
        version = np.lib.format.read_magic(stream)
        if version == (2, 0):
            _check_length_of_header(stream, size)
        headers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = headers[version](stream)
    except (ValueError, KeyError, EOFError, *NO_HEADER) as error:
        said = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise ValueError(f"{where}: expected a .npy array, got something else ({said})") from error
    if dtype.kind not in "biuf":
        raise ValueError(
            f"{where}: expected real numbers, got dtype {dtype}"
            + (" (pickled objects are never loaded)" if dtype.hasobject else "")
        )
    if any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"{where}: expected a shape of numbers that count, got {shape}")
    declared, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if declared != held:
        raise ValueError(
            f"{where}: the header declares {declared} bytes of data, the file holds {held}"
        )
    if 8 * math.prod(shape) > limit:
        raise ValueError(f"{where}: shape {shape} as float64 exceeds the limit of {limit} bytes")
    return np.frombuffer(stream.read(held), dtype).reshape(shape, order="F" if fortran else "C")


def _check_length_of_header(stream: IO[bytes], size: int) -> None:
    """Raise a ValueError for a header longer than its file, before so much memory is asked for."""
    start = stream.tell()
    field = stream.read(4)
    stream.seek(start)
    if len(field) == 4 and (length := struct.unpack("<I", field)[0]) > size - start - 4:
        raise ValueError(f"a header of {length} bytes in {size}")


def read_npz(path: Path, key: str | None = None, limit: int = LIMIT) -> NDArray[np.generic]:
    """One numeric array of an .npz archive, any shape, its own dtype."""
    with open(path, "rb") as plain, _broken(path):
        with zipfile.ZipFile(plain) as archive:
            member = choose(archive, key, path)
            if member.file_size > limit:
                raise ValueError(
                    f"{path}: array {member.filename!r} declares {member.file_size} bytes "
                    f"(from {member.compress_size} compressed), the limit is {limit}"
                )
            if member.file_size > max(SUSPECT, 100 * member.compress_size):
                raise ValueError(
                    f"{path}: array {member.filename!r} unfolds from {member.compress_size} bytes "
                    "to "
                    f"{member.file_size}; if that is meant, unpack it to a .npy file"
                )
            with archive.open(member) as stream:
                return read_array(stream, member.file_size, f"{path}: {member.filename}", limit)


@contextmanager
def _broken(path: Path) -> Iterator[None]:
    """Say that an archive is broken, however reading it ends."""
    try:
        yield
    except Exception as error:  # of three decompressors, of names that are no text, ...
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(
            f"{path}: expected an intact .npz archive, got a broken one ({error})"
        ) from error


def choose(archive: zipfile.ZipFile, key: str | None, path: Path) -> zipfile.ZipInfo:
    """Find the archive member called `key`, or the only one."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise ValueError(f"{path}: expected distinct names, got {sorted(archive.namelist())}")
    if key is None and len(members) == 1:
        return next(iter(members.values()))
    if key is None or key not in members:
        wanted = "expected one array" if key is None else f"expected an array {key!r}"
        raise ValueError(
            f"{path}: {wanted}, got {len(members)}: {', '.join(members) or 'none'}"
            + ("; choose one with key=" if members else "")
        )
    return members[key]


def read_parquet(path: Path, limit: int = LIMIT, select: Select | None = None) -> Table:
    """Read a .parquet file through pandas."""
    pandas = extra("pandas", path.name)
    try:
        frame = pandas.read_parquet(path)
    except ImportError as error:
        raise ImportError(f"{path}: {WITH_PYARROW}") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: expected an intact .parquet file ({error})") from error
    if 8 * frame.size > limit:
        raise ValueError(f"{path}: {frame.shape} as float64 exceeds the limit of {limit} bytes")
    frame = frame.iloc[:, kept_of(select, frame_names(frame), frame.shape[1])]
    return Table(as_table(frame_values(frame, str(path)), str(path)), frame_names(frame))


def write_parquet(stream: IO[bytes], x: NDArray, columns: Sequence[str] | None) -> None:
    """Write rows (N, D) as .parquet through pandas; columns without names are counted from 0."""
    pandas = extra("pandas", ".parquet")
    names = list(columns or map(str, range(x.shape[1] if x.ndim == 2 else 1)))
    try:
        pandas.DataFrame(x, columns=names).to_parquet(stream, index=False)
    except ImportError as error:
        raise ImportError(f".parquet: {WITH_PYARROW}") from error


def read_csv(path: Path, limit: int = LIMIT, select: Select | None = None) -> Table:
    """Read rows of numbers.

    A first line without a number is a header, an index column is left out.
    """
    if os.path.getsize(path) > limit:
        raise ValueError(f"{path}: {os.path.getsize(path)} bytes of text, the limit is {limit}")
    try:
        separator = separator_of(path)
        records = list(records_of(path, separator))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected UTF-8 text, one row a line ({error})") from error
    if not records:
        raise ValueError(f"{path}: expected rows of numbers, got none")
    names = header_of(records, separator, path)
    skipped = 0 if names is None else unnamed(names)
    if names is not None:
        records = records[1:]
        check_names(names, skipped, path)
        names = names[skipped:]
    if not records:
        raise ValueError(f"{path}: expected rows of numbers, got none")
    if skipped:
        which = "column 1 has" if skipped == 1 else f"columns 1 to {skipped} have"
        warnings.warn(
            f"{path}: {which} no name: taken as the index that pandas writes, and left out "
            "(to_csv(index=False) writes none)",
            stacklevel=2,
        )
    columns = None if names is None else tuple(names)
    kept = kept_of(select, columns, len(records[0][1]) - skipped)
    records = [(line, [cells[skipped + i] for i in kept]) for line, cells in records]
    comma = decimal_comma(records, separator, path)
    values = [row_of(cells, comma) for _, cells in records]
    for (line, cells), row in zip(records, values, strict=True):
        if row is None:  # say which cell it is
            for j, (i, cell) in enumerate(zip(kept, cells, strict=True)):
                where = f"{path}: line {line}, column {1 + skipped + i}"
                try:
                    check_number(cell, comma, where, SEPARATORS[separator])
                except ValueError as error:
                    first = columns is None and line == records[0][0]
                    said = f"{error}{NAMELESS if first else ''}"
                    if is_text([cells[j] for _, cells in records]):
                        called = str(i) if columns is None else columns[i]
                        raise TextColumn(called, said) from None
                    raise ValueError(said) from None
    if comma:
        places = [str(1 + skipped + i) if columns is None else repr(columns[i]) for i in kept]
        _warn_of_thousands(records, places, path)
    return Table(np.array(values), named(columns, kept))


def is_text(cells: Sequence[str]) -> bool:
    """Return whether a column has something to say, and no number."""
    said = [cell for cell in cells if cell.strip().lower() not in MISSING]
    return bool(said) and not any(is_number(cell.replace(",", ".")) for cell in said)


def separator_of(path: Path) -> str:
    """Return what parts the first two lines into equally many cells, or else the first alone.

    A name of many words above a single number is one column: what parts neither is returned.
    """
    with open(path, encoding="utf-8-sig", newline=None) as stream:
        lines = [line for _, line in zip(range(100), stream, strict=False) if line.strip()][:2]
    widths = {s: [len(parted(line, s)) for line in lines] for s in SEPARATORS}
    if len(lines) == 2 and _one_column(*lines):
        return next((s for s in ",;\t" if widths[s][0] == 1), ",")
    alike = [s for s, n in widths.items() if n and n[0] > 1 and len(set(n)) == 1]
    first = [s for s, n in widths.items() if n and n[0] > 1]
    return [*alike, *first, ","][0]


def _one_column(header: str, below: str) -> bool:
    """Return whether a number lies below words, parted by blanks or in brackets alone."""
    bare = re.sub(r"\([^()]*\)|\[[^][]*\]", "", header)
    whole = all(len(parted(bare, s)) <= 1 for s in ",;\t")
    number = is_number(below) or (bare == header and is_number(below.replace(",", ".")))
    return whole and number and not is_number(parted(header, " ")[0])


def parted(line: str, separator: str) -> list[str]:
    """Return the cells of one line."""
    if separator == " ":
        return line.split()
    return next(csv.reader([line], delimiter=separator), [])


def records_of(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and cells, all of one width.

    Empty lines are allowed at the two ends alone.
    """
    width = empty = 0
    with open(path, encoding="utf-8-sig", newline="") as stream:
        if separator == " ":
            lines = ((k, line.split()) for k, line in enumerate(stream, 1))
        else:
            reader = csv.reader(stream, delimiter=separator)
            lines = ((reader.line_num, cells) for cells in reader)
        for line, cells in lines:
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                empty = empty or (line if width else 0)
                continue
            if empty:
                raise ValueError(
                    f"{path}: line {empty} is empty: expected a row (missing values are not "
                    "supported, and to leave the line out would shift all later rows)"
                )
            width = width or len(cells)
            if len(cells) != width:
                hint = "; is a comma the decimal sign?" if separator == "," else ""
                raise ValueError(
                    f"{path}: line {line}: expected {width} columns like the first, got "
                    f"{len(cells)}, parted by {SEPARATORS[separator]}{hint}"
                )
            yield line, cells


def header_of(records: list, separator: str, path: Path) -> list[str] | None:
    """Return the names in the first record, or None if it is a row.

    A record without a number is a header, unless it is made of missing values. So is one that
    counts the columns, 0, 1, 2, ..., as pandas names them, above numbers not all of them integers,
    and one whose first cell is empty above an index.
    """
    line, cells = records[0]
    cells = [cell.strip() for cell in cells]
    if all(cell.lower() in MISSING for cell in cells):
        return None
    indices = unnamed(cells)
    counted = cells[indices:] == [str(i) for i in range(len(cells) - indices)]
    if indices:
        index = [row[0].strip() for _, row in records[1:]]
        fractions = any(map(_is_fraction, cells))
        if counted or cells[0] or (_is_index(index) and not fractions):
            return cells
    elif counted:
        return cells if _counts_columns(line, cells, records[1:], separator, path) else None
    if any(like_number(cell) for cell in cells):
        _warn_of_counting(line, cells, records[1:], separator, path)
        return None
    return cells


def _is_index(cells: list[str]) -> bool:
    """Return whether a column may be an index: nothing is missing, repeated or a fraction."""
    return len({*cells}) == len(cells) and not any(
        cell.lower() in MISSING or _is_fraction(cell) for cell in cells
    )


def _is_fraction(cell: str) -> bool:
    """Return whether a cell is a number, but not a whole one."""
    cell = cell.replace(",", ".")
    return is_number(cell) and not float(cell).is_integer()


def _counts_columns(line: int, cells: list[str], below: list, separator: str, path: Path) -> bool:
    """Return whether 0, 1, 2, ... is a header, not a row; among integers, refuse to say.

    A single 0 is a row: pandas and a series that begins there write the same.
    """
    whole = all(cell.strip().lstrip("+-").isdigit() for _, row in below for cell in row)
    header = len(cells) > 1
    if whole and header:
        raise ValueError(
            f"{path}: line {line} is {separator.join(cells)!r}: a header of column numbers, or "
            "a row? Names for the columns, in a line above it or in its place, would say"
        )
    if header:
        taken = "counts the columns: taken as their header, as pandas writes it; if it is a row, "
        taken += "put names in a line above"
    else:
        taken = "is taken as a row; if it is a header, as pandas writes it, put a name in its place"
    if not whole:
        said = separator.join(cells)[:40]
        warnings.warn(f"{path}: line {line}, {said!r}, {taken}", stacklevel=4)
    return header


def _warn_of_counting(line: int, cells: list[str], below: list, separator: str, path: Path) -> None:
    """Warn of a row that counts, as labels do, 2000, 2010, 2020, above rows that do not.

    By chance do so integers above integers, and a few fractions.
    """
    step = _step(cells)
    plain = all(re.fullmatch("[0-9]{1,18}", cell) for cell in cells)
    by_one = plain and step == 1
    if step <= 0 or len(cells) < (2 if by_one else 3 if plain else 4):
        return
    rows = [row for _, row in below[:LOOKED_AT] if not plain or any(map(_is_fraction, row))]
    if any(by_one or not math.isclose(_step(row), step, rel_tol=EVEN) for row in rows):
        warnings.warn(
            f"{path}: line {line}, {separator.join(cells)[:40]!r}, counts, and what follows does "
            "not: taken as a row; if it is a header, give the columns names",
            stacklevel=4,
        )


def _step(cells: list[str]) -> float:
    """Return the step from each number of a row to the next, if it is one; else 0."""
    texts = [cell.replace(",", ".") for cell in cells]
    if len(texts) < 2 or not all(map(is_number, texts)):
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.diff([float(text) for text in texts])
        even = np.abs(steps - steps[0]).max() <= EVEN * abs(steps[0]) < np.inf
    return float(steps[0]) if even else 0.0


def unnamed(names: list[str]) -> int:
    """Return how many columns at the left have names that pandas writes above an index.

    The last column is none of them.
    """
    return len([*takewhile(INDEX.fullmatch, names[:-1])])


def check_names(names: list[str], skipped: int, path: Path) -> None:
    """ValueError unless every column, but those skipped, has a name of its own."""
    names = names[skipped:]
    for i, name in enumerate(names, 1 + skipped):
        if not name:
            raise ValueError(f"{path}: column {i} has no name, the others have")
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:
        raise ValueError(f"{path}: expected distinct names of columns, got {doubled[0]!r} twice")


def decimal_comma(records: list, separator: str, path: Path) -> bool:
    """Return whether the comma is the decimal sign; refuse a file that also has decimal points."""
    if separator == ",":
        return False
    where: dict[str, int] = {}
    for line, cells in records:
        for cell in cells:
            for sign in ",.":
                if sign in cell:
                    where.setdefault(sign, line)
    if len(where) == 2:
        raise ValueError(
            f"{path}: expected one decimal sign, got a comma in line {where[',']} and a point in "
            f"line {where['.']}; cells are parted by {SEPARATORS[separator]}"
        )
    return "," in where


def _warn_of_thousands(records: list, places: list[str], path: Path) -> None:
    """Warn where commas may part thousands: as in 1,234, and a column has numbers without, too."""
    commas = np.array([["," in cell for cell in row] for _, row in records])
    mixed = (commas.any(axis=0) & ~commas.all(axis=0)).any()
    parts = (THOUSANDS.fullmatch(cell.strip()) for _, row in records for cell in row if "," in cell)
    if mixed and all(parts):
        line, place, cell = next(
            (line, place, cell.strip())
            for line, row in records
            for place, cell in zip(places, row, strict=True)
            if "," in cell
        )
        warnings.warn(
            f"{path}: line {line}, column {place}: {cell!r} is taken as {cell.replace(',', '.')}, "
            "and so is every comma, though each may part thousands: write decimal points, or "
            "thousands without commas",
            stacklevel=3,
        )


def like_number(cell: str) -> bool:
    """Whether the cell is a number, or would be without a decimal comma or parted thousands."""
    return is_number(cell.replace(",", ".")) or bool(THOUSANDS.fullmatch(cell.strip()))


def is_number(cell: str) -> bool:
    """Whether the cell is a number as one writes it: ASCII digits, no underscores."""
    try:
        float(cell)
    except ValueError:
        return False
    return cell.isascii() and "_" not in cell and cell.strip().lower() not in MISSING


def row_of(cells: list[str], comma: bool) -> list[float] | None:
    """Return the finite numbers of a row, or None if a cell is none."""
    text = "".join(cells)
    if "_" in text or not text.isascii():
        return None
    try:
        row = (
            [float(cell.replace(",", ".")) for cell in cells] if comma else list(map(float, cells))
        )
    except ValueError:
        return None
    return row if all(map(math.isfinite, row)) else None


def check_number(cell: str, comma: bool, where: str, parted_by: str) -> None:
    """ValueError unless the cell is a finite number."""
    text = cell.replace(",", ".") if comma else cell
    if cell.strip().lower() in MISSING:
        raise ValueError(
            f"{where}: expected a number, got {cell.strip()!r}: missing values are not supported; "
            "leave such rows out, or fill them in"
        )
    if not is_number(text):
        thousands = THOUSANDS.fullmatch(cell.strip())
        hint = "write thousands without commas" if thousands else f"cells are parted by {parted_by}"
        raise ValueError(f"{where}: expected a number, got {cell.strip()[:40]!r}; {hint}")
    if not math.isfinite(float(text)):
        raise ValueError(f"{where}: expected a finite number, got {cell.strip()!r}")


def gaussian_log_prob(train: ArrayLike, test: ArrayLike) -> NDArray[np.float64]:
    r"""Log-density (N,), nats, of test rows under the Gaussian fitted to the training rows.

    .. math:: \log p(x) = -\tfrac12 |L^{-1}(x - \mu)|^2 - \sum_i \log L_{ii}
              - \tfrac D2 \log 2\pi, \quad \Sigma = L L^\top

    Raises
    ------
    ValueError
        When the covariance is singular (constant or repeated columns, fewer rows than columns).

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((1000, 2))
    >>> bool(abs(gaussian_log_prob(x, x).mean() + 1 + np.log(2 * np.pi)) < 0.1)
    True
    """
    x = as_table(plain_array(train, "train"), "train")
    y = as_table(plain_array(test, "test"), "test")
    mean = x.mean(axis=0)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            root = np.linalg.cholesky(np.atleast_2d(np.cov(x, rowvar=False, bias=True)))
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"train: expected an invertible covariance, that of {x.shape[1]} columns over "
            f"{x.shape[0]} rows is singular"
        ) from error
    u = np.linalg.solve(root, (y - mean).T)
    return (
        -0.5 * (u * u).sum(axis=0)
        - np.log(np.diag(root)).sum()
        - 0.5 * x.shape[1] * np.log(2 * np.pi)
    )
