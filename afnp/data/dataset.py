r"""What a data set is, and the three small acts that prepare one: split, dequantise, count in bits.

.. math:: x = k + v, \quad v \sim \mathrm{Uniform}[0, 1), \qquad k = \lfloor x \rfloor

Letters: N rows (samples), D columns (features), L integer levels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from afnp.inputs import plain_array

Array = NDArray[np.floating[Any]]
SHIPPED = Path(__file__).resolve().parents[1] / "datasets"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Train, validation and test rows with everything one needs to use and to cite them.

    Attributes
    ----------
    name : str
        The name that ``afnp.data.load`` knows it by.
    train, val, test : ndarray (N, D)
        Finite floats in the set's own units; nothing is standardised.
    description, license, source : str
        What it is, what one may do with it, where it comes from.
    columns : tuple of str
        D column names.
    levels : int or None
        None for continuous data. For dequantised images the number L of integer levels: x is in [0,
        L).
    context_train, context_val, context_test : ndarray (N, C) or None
        A natural condition, one row a sample (for images: the class, one-hot).
    log_density : callable or None
        For toy sets the exact log p(x) in nats, (N, 2) to (N,).
    """

    name: str
    train: Array
    val: Array
    test: Array
    description: str
    license: str
    source: str
    columns: tuple[str, ...]
    levels: int | None = None
    context_train: Array | None = None
    context_val: Array | None = None
    context_test: Array | None = None
    log_density: Callable[[ArrayLike], Array] | None = None

    def parts(self) -> dict[str, Array]:
        """Return the rows (N, D) of each part by its name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{part} {x.shape}" for part, x in self.parts().items())
        return f"Dataset({self.name!r}, {sizes}, levels={self.levels})"


def generator(seed: int) -> np.random.Generator:
    """Make the generator of an explicit seed; ValueError unless it is a non-negative integer."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed: expected a non-negative integer, got {seed!r}")
    return np.random.default_rng(seed)


def random_split(
    n: int, n_val: int, n_test: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], ...]:
    """Row numbers of train, validation and test: a random permutation of 0..n-1, cut in three.

    Examples
    --------
    >>> [len(rows) for rows in random_split(10, 2, 3, np.random.default_rng(0))]
    [5, 2, 3]
    """
    n_train = n - n_val - n_test
    train, val, test = np.split(rng.permutation(n), [n_train, n_train + n_val])
    return train, val, test


def block_split(
    n: int, blocks: int, n_val: int, n_test: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], ...]:
    """Split a time series in whole blocks: neighbours in time, which are alike, stay on one side.

    The series 0..n-1 is cut into contiguous blocks; a random permutation deals `n_val` of them to
    validation, `n_test` to test and the others to train. Within each part the rows stay in their
    order in time.

    Examples
    --------
    >>> train, val, test = block_split(12, 4, 1, 1, np.random.default_rng(0))
    >>> print(val, test)
    [3 4 5] [ 9 10 11]
    """
    pieces = np.array_split(np.arange(n), blocks)
    train, val, test = (
        np.sort(np.concatenate([pieces[i] for i in part]))
        for part in random_split(blocks, n_val, n_test, rng)
    )
    return train, val, test


def check_levels(levels: int) -> None:
    """ValueError unless `levels` is an integer of at least 2."""
    if isinstance(levels, bool) or not isinstance(levels, (int, np.integer)) or levels < 2:
        raise ValueError(f"levels: expected an integer of at least 2, got {levels!r}")


def first_bad(wrong: NDArray[np.bool_]) -> tuple[int, ...]:
    """Index of the first True."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))


def dequantize(pixels: ArrayLike, levels: int, rng: np.random.Generator) -> NDArray[np.float64]:
    r"""Spread integer levels over the unit cells above them.

    .. math:: x = k + v, \quad v \sim \mathrm{Uniform}[0, 1), \qquad x \in [0, L)

    A density fitted to x bounds the probability of k from below (Theis et al. 2016, arXiv
    1511.01844), so that log-likelihoods of discrete images become meaningful. `quantize` undoes it
    exactly: where rounding would carry k + v up to k + 1, the next smaller float is taken.

    Parameters
    ----------
    pixels : array
        Integers 0..levels-1 (of any dtype), any shape.
    levels : int
        L, the number of levels.
    rng : numpy Generator
        Where the noise comes from.

    Raises
    ------
    ValueError
        For a value that is no integer in 0..L-1 (its index is named), or an `rng` that is no
        Generator.

    Examples
    --------
    >>> x = dequantize([[0, 16, 3]], 17, np.random.default_rng(0))
    >>> x.round(2)
    array([[ 0.64, 16.27,  3.04]])
    >>> quantize(x, 17)
    array([[ 0, 16,  3]])
    """
    check_levels(levels)
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}")
    k = np.asarray(plain_array(pixels, "pixels"), np.float64)
    wrong = ~((k >= 0) & (k < levels) & (k == np.floor(k)))
    if wrong.any():
        at = first_bad(wrong)
        raise ValueError(f"pixels: expected integers 0..{levels - 1}, got {k[at]} at index {at}")
    x = k + rng.random(k.shape)
    return np.where(x < k + 1, x, np.nextafter(k + 1, 0.0))


def quantize(x: ArrayLike, levels: int) -> NDArray[np.int64]:
    r"""Find the level each value belongs to; values outside [0, L) go to the nearest level.

    .. math:: k = \min(\max(\lfloor x \rfloor, 0), L - 1)

    Examples
    --------
    >>> quantize([-0.1, 0.0, 2.999, 17.5], 17)
    array([ 0,  0,  2, 16])
    """
    check_levels(levels)
    values = np.asarray(plain_array(x, "x"), np.float64)
    if np.isnan(values).any():
        raise ValueError(f"x: expected numbers, got nan at index {first_bad(np.isnan(values))}")
    return np.clip(np.floor(values), 0, levels - 1).astype(np.int64)


def bits_per_dim(log_prob: ArrayLike, features: int, scale: float = 1.0) -> NDArray[np.float64]:
    r"""Nats of a whole sample as bits of one feature, counted in integer levels.

    .. math:: b = -\frac{\log p(x)}{D \ln 2} + \log_2 s

    `log_prob` is log p(x) in nats, with x measured in a unit that holds s levels. With x in [0, L),
    as `dequantize` returns it, a level is one unit: s = 1 and nothing is added. Had x been divided
    by L, p would be larger by L^D, and s = L brings back the same number: +8 bits for 256 levels on
    [0, 1). `speech`, in units of 2^15 levels, takes s = 2**15. Less is better; a uniform density
    over all L levels needs log2 L.

    Parameters
    ----------
    log_prob : array, any shape
        log p(x) of whole samples, nats.
    features : int
        D.
    scale : float
        s, levels in one unit of x.

    Examples
    --------
    >>> uniform = -64 * np.log(256)             # log-density of the uniform on [0, 256)^64
    >>> print(bits_per_dim(uniform, 64).round(6), bits_per_dim(0.0, 64, scale=256))
    8.0 8.0
    """
    if isinstance(features, bool) or not isinstance(features, (int, np.integer)) or features < 1:
        raise ValueError(f"features: expected a positive integer, got {features!r}")
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale: expected a positive number of levels a unit, got {scale!r}")
    nats = np.asarray(plain_array(log_prob, "log_prob"), np.float64)
    if np.isnan(nats).any():
        raise ValueError(
            f"log_prob: expected numbers, got nan at index {first_bad(np.isnan(nats))}"
        )
    return np.asarray(-nats / (features * np.log(2)) + np.log2(scale))


def one_hot(labels: ArrayLike, classes: int) -> NDArray[np.float64]:
    """Class numbers (N,) as rows of the identity, (N, classes).

    Raises
    ------
    ValueError
        If a label is no integer in 0..classes-1 (names its index).

    Examples
    --------
    >>> one_hot([2, 0], 3)
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """
    if isinstance(classes, bool) or not isinstance(classes, (int, np.integer)) or classes < 1:
        raise ValueError(f"classes: expected a positive integer, got {classes!r}")
    given = plain_array(labels, "labels")
    if given.dtype.kind not in "iuf" or given.ndim != 1:
        raise ValueError(
            f"labels: expected integers (N,), got shape {given.shape}, dtype {given.dtype}"
        )
    wrong = ~((given >= 0) & (given < classes) & (given == np.floor(given)))
    if wrong.any():
        at = first_bad(wrong)
        raise ValueError(
            f"labels: expected integers 0..{classes - 1}, got {given[at]} at index {at[0]}"
        )
    return np.eye(classes)[given.astype(np.intp)]


def pixel_names(height: int, width: int) -> tuple[str, ...]:
    """Column names of a flattened image, row by row: r0c0, r0c1, ..."""
    return tuple(f"r{i}c{j}" for i in range(height) for j in range(width))


def extra(module: str, name: str) -> Any:
    """Import a module of the optional extra ``data``, or say what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"data set {name!r} needs {module.split('.')[0]}, which is not installed: pip install "
            "'afnp[data]'"
        ) from error
