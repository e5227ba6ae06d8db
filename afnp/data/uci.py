r"""The MAF paper's five density-estimation sets from its own preprocessed files, and their fingerprint.

Papamakarios, Pavlakou & Murray 2017, arXiv 1705.07057. Zenodo record 1161203, unpacked to a folder,
holds

========= ========================================== ====================================================
power     power/data.npy                             shuffle, drop columns 1 and 3, add noise, scale
gas       gas/ethylene_CO.pickle                     drop columns correlated above 0.98, scale
hepmass   hepmass/1000_train.csv and 1000_test.csv   signal rows only, drop discrete columns, scale
miniboone miniboone/data.npy                         scale
bsds300   BSDS300/BSDS300.hdf5                       as it is
========= ========================================== ====================================================

Splits and preprocessing are the paper's, to the detail of NumPy's old ``RandomState(42)``: only the
same split can be compared with published numbers. Test is the last tenth, validation the last tenth
of the rest (HEPMASS and BSDS300 bring a test part of their own).

Letters: N rows, D columns.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .dataset import Array, Dataset, extra, generator
from .tables import as_table, read_npy

SOURCE = "preprocessed by Papamakarios et al. 2017, arXiv 1705.07057, Zenodo record 1161203"
UCI = {
    "power": "POWER: electric power use of one household, a minute a row, 6 columns",
    "gas": "GAS: chemical sensors under ethylene and CO, 8 columns",
    "hepmass": "HEPMASS: simulated particle collisions, signal of mass 1000, 21 columns",
    "miniboone": "MINIBOONE: neutrino candidates, 43 columns",
    "bsds300": "BSDS300: natural 8 x 8 patches without their mean and last pixel, 63 columns",
}


class Row(NamedTuple):
    """What the paper says of a set: D, rows of train / val / test, test nats of a fitted Gaussian."""

    features: int
    sizes: tuple[int, int, int]
    gaussian: float


PAPER = {
    "power": Row(6, (1_659_917, 184_435, 204_928), -7.74),
    "gas": Row(8, (852_174, 94_685, 105_206), -3.58),
    "hepmass": Row(21, (315_123, 35_013, 174_987), -27.93),
    "miniboone": Row(43, (29_556, 3_284, 3_648), -37.24),
    "bsds300": Row(63, (1_000_000, 50_000, 250_000), 96.67),
    "mnist": Row(784, (50_000, 10_000, 10_000), -1366.9),
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
    """Shuffle; drop reactive power (1) and intensity (3); undo the meter's rounding with uniform noise."""
    path = present(folder / "power/data.npy")
    x = as_table(read_npy(path), str(path))
    if x.shape[1] != 8:
        raise ValueError(f"{path}: expected 8 columns, got {x.shape[1]}")
    rng = np.random.RandomState(42)
    rng.shuffle(x)
    x = np.delete(x, [1, 3], axis=1)
    voltage, active, meters = rng.rand(len(x), 1), rng.rand(len(x), 1), rng.rand(len(x), 3)
    x += np.hstack([0.001 * active, 0.01 * voltage, meters, np.zeros((len(x), 1))])
    rest, test = tail(x)
    return tuple(scale_by(str(path), rest, *tail(rest), test))


def miniboone(folder: Path) -> tuple[Array, ...]:
    """Outliers and discrete columns are gone from the file; scale by train and validation."""
    path = present(folder / "miniboone/data.npy")
    rest, test = tail(as_table(read_npy(path), str(path)))
    return tuple(scale_by(str(path), rest, *tail(rest), test))


def uncorrelated(x: Array, threshold: float = 0.98) -> list[int]:
    """Columns left when, from the left, each that correlates above the threshold with one still there goes.

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
            f"{present(pickle)}: a pickle can run any code; afnp opens it only with trust_pickle=True. Or "
            "convert it once, where that does no harm: table = pandas.read_pickle('ethylene_CO.pickle'); "
            "numpy.save('ethylene_CO.npy', table.drop(columns=['Time', 'Meth', 'Eth']).to_numpy(float))"
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
    """Signal rows; scale by the training file; drop columns whose smallest value occurs more than five times.

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
        needed).
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


class Fingerprint(NamedTuple):
    """What `fingerprint` found; ``ok`` when sizes agree and the Gaussian is within two standard errors."""

    gaussian: float
    expected: float
    standard_error: float
    sizes_agree: bool
    ok: bool


def gaussian_log_prob(train: ArrayLike, test: ArrayLike) -> NDArray[np.float64]:
    r"""Log-density (N,), nats, of test rows under the full-covariance Gaussian fitted to the training rows.

    .. math:: \log p(x) = -\tfrac12 |L^{-1}(x - \mu)|^2 - \sum_i \log L_{ii} - \tfrac D2 \log 2\pi, \quad
              \Sigma = L L^\top

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
    x, y = as_table(np.asarray(train), "train"), as_table(np.asarray(test), "test")
    mean = x.mean(axis=0)
    try:
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


def logit(x: Array) -> Array:
    """Map grey levels in [0, 256) to the real line as the MAF paper does."""
    p = 1e-6 + (1 - 2e-6) * x / 256
    return np.log(p) - np.log1p(-p)


def fingerprint(data: Dataset) -> Fingerprint:
    r"""Compare a set with the MAF paper: sizes, and the test log-likelihood of a Gaussian (nats).

    A wrong split, a wrong scaling or a forgotten column moves this number. MNIST is compared where
    the paper compares it, after :math:`\mathrm{logit}(\alpha + (1 - 2\alpha) x / 256)`,
    :math:`\alpha = 10^{-6}`.

    Raises
    ------
    ValueError
        For a set the paper does not report.
    """
    if data.name not in PAPER:
        raise ValueError(f"data: expected one of {', '.join(PAPER)}, got {data.name!r}")
    row, train, test = PAPER[data.name], data.train, data.test
    if data.name == "mnist":
        train, test = logit(train), logit(test)
    log_prob = gaussian_log_prob(train, test)
    error = float(log_prob.std() / np.sqrt(len(log_prob)))
    sizes = tuple(len(part) for part in (data.train, data.val, data.test))
    agree = sizes == row.sizes and data.train.shape[1] == row.features
    close = abs(log_prob.mean() - row.gaussian) <= 2 * error + 0.005
    return Fingerprint(float(log_prob.mean()), row.gaussian, error, agree, bool(agree and close))
