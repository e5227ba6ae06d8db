"""Numeric tables from .npy, .npz and .csv files: (N, D) float64, or an error that says where the fault is.

Files are untrusted: nothing is ever unpickled, and a size is believed only after it was compared
with the file and with a limit. (A compressed .npz of 2 MB may declare 2 GB; ``np.load`` would fill
the memory.)

Letters: N rows, D columns. Array rows and columns are counted from 0, lines and columns of text
from 1.
"""

from __future__ import annotations

import csv
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from .dataset import first_bad

LIMIT = 2**32


def read_table(
    path: str | os.PathLike[str], key: str | None = None, limit: int = LIMIT
) -> NDArray[np.float64]:
    r"""Read a table of numbers.

    Parameters
    ----------
    path : str or path
        ``.npy``, ``.npz`` (one array, or the one named by `key`) or ``.csv`` (commas; a header is
        allowed).
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
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".csv"):
        raise ValueError(
            f"{path}: expected a .npy, .npz or .csv file, got {path.suffix or 'no suffix'!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if key is not None and suffix != ".npz":
        raise ValueError(f"{path}: key={key!r} names an array of an .npz file, this is none")
    if suffix == ".csv":
        return read_csv(path, limit)
    return as_table(
        read_npz(path, key, limit) if suffix == ".npz" else read_npy(path, limit), str(path)
    )


def as_table(x: NDArray[np.generic], where: str) -> NDArray[np.float64]:
    """Check a numeric array for being a table: two axes, not empty, finite; ValueError names `where`."""
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
        headers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = headers[version](stream)
    except (ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{where}: expected a .npy array, got something else ({error})") from error
    if dtype.kind not in "biuf":
        raise ValueError(
            f"{where}: expected real numbers, got dtype {dtype}"
            + (" (pickled objects are never loaded)" if dtype.hasobject else "")
        )
    if min(shape, default=0) < 0:
        raise ValueError(f"{where}: expected a shape without negative numbers, got {shape}")
    declared, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if declared != held:
        raise ValueError(
            f"{where}: the header declares {declared} bytes of data, the file holds {held}"
        )
    if 8 * math.prod(shape) > limit:
        raise ValueError(f"{where}: shape {shape} as float64 exceeds the limit of {limit} bytes")
    return np.frombuffer(stream.read(held), dtype).reshape(shape, order="F" if fortran else "C")


def read_npz(path: Path, key: str | None = None, limit: int = LIMIT) -> NDArray[np.generic]:
    """One numeric array of an .npz archive, any shape, its own dtype."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = choose(archive, key, path)
            if member.file_size > limit:
                raise ValueError(
                    f"{path}: array {member.filename!r} declares {member.file_size} bytes "
                    f"(from {member.compress_size} compressed), the limit is {limit}"
                )
            with archive.open(member) as stream:
                return read_array(stream, member.file_size, f"{path}: {member.filename}", limit)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
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


def read_csv(path: Path, limit: int = LIMIT) -> NDArray[np.float64]:
    """Rows of comma-separated numbers; a first line without a number is a header, blank lines are skipped."""
    if os.path.getsize(path) > limit:
        raise ValueError(f"{path}: {os.path.getsize(path)} bytes of text, the limit is {limit}")
    rows: list[list[float]] = []
    width = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                where = f"{path}: line {reader.line_num}"
                first = width == 0
                width = width or len(cells)
                if len(cells) != width:
                    raise ValueError(
                        f"{where}: expected {width} columns like the first, got {len(cells)}"
                    )
                if not (first and all(not is_number(cell) for cell in cells)):
                    rows.append(
                        [number(cell, f"{where}, column {i}") for i, cell in enumerate(cells, 1)]
                    )
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected comma-separated UTF-8 text ({error})") from error
    if not rows:
        raise ValueError(f"{path}: expected rows of numbers, got none")
    return np.array(rows)


def is_number(cell: str) -> bool:
    """Whether Python reads the cell as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def number(cell: str, where: str) -> float:
    """Read the finite number in a cell, or ValueError."""
    if not is_number(cell):
        raise ValueError(
            f"{where}: expected a number, got {cell.strip()[:40]!r}"
            + ("" if cell.strip() else " (missing values are not supported)")
        )
    if not math.isfinite(float(cell)):
        raise ValueError(f"{where}: expected a finite number, got {cell.strip()!r}")
    return float(cell)
