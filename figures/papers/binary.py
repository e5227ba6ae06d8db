r"""Binary sets of MADE's paper, from files that a reader has, and MNIST drawn to zeros and ones.

.. math:: x_d \sim \mathrm{Bernoulli}(k_d / 255), \qquad k_d \in \{0, \dots, 255\}

A set NAME is read from ``NAME.npz`` with ``train_data``, ``valid_data`` and ``test_data``, as the
authors of MADE distribute them; or from ``NAME_train``, ``NAME_valid`` and ``NAME_test``, each
.amat, .txt or .csv, as binarised MNIST is; or from one such file NAME, which is split at random
into as many rows of each part as the paper has: other rows than the paper's, then.

Letters: N rows, D features, k a pixel's level.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from afnp.data import Dataset
from afnp.data.dataset import random_split

__all__ = ["SETS", "BinarySet", "drawn", "read"]

PARTS = ("train", "valid", "test")
ENDINGS = (".amat", ".txt", ".csv")
SEED = 0


class BinarySet(NamedTuple):
    """What a set has in arXiv 1502.03509."""

    title: str
    features: int
    rows: tuple[int, int, int]
    """Of training, validation and test."""


SETS = {
    "dna": BinarySet("DNA", 180, (1400, 600, 1186)),
    "mushrooms": BinarySet("Mushrooms", 112, (2000, 500, 5624)),
    "nips": BinarySet("NIPS-0-12", 500, (400, 100, 1240)),
    "binarized_mnist": BinarySet("binarised MNIST", 784, (50_000, 10_000, 10_000)),
}


def read(name: str, folder: str | os.PathLike) -> Dataset:
    """Read a set of ``SETS`` from a folder.

    Raises
    ------
    FileNotFoundError
        If the folder holds none of its files; it says which were expected.
    ValueError
        If a file does not hold zeros and ones, so many a row; it names the place.
    """
    folder = Path(folder)
    for source in (_archive, _three_tables, _one_table):
        found = source(name, folder)
        if found is not None:
            return _dataset(name, *found)
    raise FileNotFoundError(
        f"expected {name}.npz, or {name}_train, {name}_valid and {name}_test "
        f"({', '.join(ENDINGS)}), or one table {name} of these, found none in {str(folder)!r}"
    )


def drawn(images: Dataset) -> Dataset:
    """Return MNIST with each pixel drawn once, by its grey level."""
    rng = np.random.default_rng(SEED)
    tables = [
        (rng.random(x.shape, dtype=np.float32) < np.floor(x) / 255).astype(np.float32)
        for x in images.parts().values()
    ]
    return _dataset("mnist", tables, "pixels drawn once, with seed 0")


Found = tuple[list[np.ndarray], str] | None
"""Rows of training, validation and test, and how they were split."""
OWN = "its own rows of each part"


def _archive(name: str, folder: Path) -> Found:
    """Read NAME.npz, if it is there."""
    path = folder / f"{name}.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as found:
        missing = [f"{part}_data" for part in PARTS if f"{part}_data" not in found]
        if missing:
            raise ValueError(f"{path}: expected an array {missing[0]}, found {list(found)}")
        return [_checked(found[f"{part}_data"], name, path) for part in PARTS], OWN


def _three_tables(name: str, folder: Path) -> Found:
    """Read NAME_train, NAME_valid and NAME_test, if they are there."""
    paths = [path for part in PARTS if (path := _text(folder, f"{name}_{part}")) is not None]
    if len(paths) < len(PARTS):
        return None
    return [_checked(_table(path), name, path) for path in paths], OWN


def _one_table(name: str, folder: Path) -> Found:
    """Read one table, if it is there, and draw as many rows of each part as the paper has."""
    path, sizes = _text(folder, name), SETS[name].rows
    if path is None:
        return None
    x = _checked(_table(path), name, path)
    if len(x) != sum(sizes):
        raise ValueError(f"{path}: expected {sum(sizes)} rows, got {len(x)}")
    rows = random_split(len(x), *sizes[1:], np.random.default_rng(SEED))
    return [x[part] for part in rows], "parts drawn at random, of the paper's sizes"


def _dataset(name: str, tables: list[np.ndarray], split: str) -> Dataset:
    columns = tuple(f"x{d}" for d in range(tables[0].shape[1]))
    return Dataset(name, *tables, f"{name}: {split}", "", "arXiv 1502.03509", columns)


def _text(folder: Path, stem: str) -> Path | None:
    """Return the table of that name, whichever its ending, or None."""
    return next((path for end in ENDINGS if (path := folder / f"{stem}{end}").is_file()), None)


def _table(path: Path) -> np.ndarray:
    """Read numbers between commas or spaces."""
    with open(path, encoding="utf-8") as lines:
        comma = "," in lines.readline()
    try:
        return np.loadtxt(path, delimiter="," if comma else None, dtype=np.float32, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path}: expected lines of zeros and ones: {error}") from None


def _checked(x: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Return zeros and ones (N, D), or say where there is something else."""
    features = SETS[name].features
    if x.ndim != 2 or x.shape[1] != features:
        raise ValueError(f"{path}: expected (N, {features}) numbers, got shape {x.shape}")
    wrong = (x != 0) & (x != 1)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{path}: expected zeros and ones, got {x[row, column]} in row {row}, column {column}"
        )
    return x.astype(np.float32)
