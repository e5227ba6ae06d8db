r"""Who may depend on whom: orders, degrees, and masks that are staircases.

.. math:: M_{rc} = 1 \iff c < \mathrm{prefix}_r, \qquad
          \mathrm{prefix}_0 \le \mathrm{prefix}_1 \le \dots

MADE (arXiv 1502.03509) gives every unit a degree: input i has degree i, a hidden unit of degree m
depends on units of degree at most m, and the outputs for feature i on hidden units of degree below
i. When the units of every layer are sorted by degree, each row of each mask is a *prefix* of ones,
and prefixes never decrease: the mask is a staircase, and one integer a row says all of it. A
context is what is known before the first feature: inputs of degree 0, in front.

Letters: D features, C context inputs, H hidden units. Only integers live here.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from afnp.inputs import integer

__all__ = [
    "Panel",
    "degrees_of_hidden",
    "degrees_of_inputs",
    "image_order",
    "lost_dependencies",
    "mask",
    "order_of",
    "panels",
    "prefixes",
    "reach",
]


def order_of(
    order: str | Sequence[int] | np.ndarray, features: int, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Return a generation order as indices: feature ``order[r]`` is generated r-th.

    Parameters
    ----------
    order : {"natural", "reverse", "random"} or a permutation of 0..D-1
    features : int
        D.
    rng : numpy.random.Generator, optional
        Needed by "random" only.

    Raises
    ------
    ValueError
        If ``order`` is neither a known name nor a permutation of 0..D-1.

    Examples
    --------
    >>> order_of("reverse", 3)
    array([2, 1, 0])
    """
    if isinstance(order, str):
        if order == "random" and rng is None:
            raise ValueError("order 'random' needs a numpy.random.Generator")
        if order not in ("natural", "reverse", "random"):
            raise ValueError(
                f"order: expected 'natural', 'reverse', 'random' or a permutation, got {order!r}"
            )
        natural = np.arange(features)
        if order == "random":
            return rng.permutation(features)  # type: ignore[union-attr]
        return natural[::-1].copy() if order == "reverse" else natural
    try:
        indices = np.array([operator.index(i) for i in order], dtype=np.int64)
    except TypeError:
        indices = np.array([-1])
    if not np.array_equal(np.sort(indices), np.arange(features)):
        raise ValueError(f"order: expected a permutation of 0..{features - 1}, got {order!r}")
    return indices


def image_order(height: int, width: int, side: int) -> np.ndarray:
    """Return the pixels of an image, stored by rows, patch by square patch, (height · width,).

    Raises
    ------
    ValueError
        If patches of that side do not tile the image.

    Examples
    --------
    >>> image_order(2, 4, 2)
    array([0, 1, 4, 5, 2, 3, 6, 7])
    """
    side = integer("side", side, least=1)
    if height % side or width % side:
        raise ValueError(f"side: expected a common divisor of {height} and {width}, got {side}")
    pixels = np.arange(height * width).reshape(height // side, side, width // side, side)
    return pixels.swapaxes(1, 2).reshape(-1)


def degrees_of_inputs(features: int, context: int = 0) -> np.ndarray:
    """Return the degrees of the C context inputs (0) and then of the D features (1..D).

    Examples
    --------
    >>> degrees_of_inputs(3, context=2)
    array([0, 0, 1, 2, 3])
    """
    return np.concatenate([np.zeros(context, dtype=np.int64), np.arange(1, features + 1)])


def degrees_of_hidden(width: int, features: int, context: int = 0) -> np.ndarray:
    r"""Return the degrees of H hidden units, sorted and spread evenly over the useful ones.

    .. math:: m_k = \mathrm{lowest} + \lfloor k\, n / H \rfloor, \qquad n = D - \mathrm{lowest}

    Useful degrees are 1..D-1: no output may depend on degree D. With a context they are 0..D-1,
    because units of degree 0 depend on the context alone, and carry it to the first output. Even
    spreading keeps nearly all dependencies even when H < D - 1: only neighbours of missing degrees
    lose theirs.

    Examples
    --------
    >>> degrees_of_hidden(6, features=4)
    array([1, 1, 2, 2, 3, 3])
    >>> degrees_of_hidden(4, features=4, context=1)
    array([0, 1, 2, 3])
    """
    lowest = 0 if context or features == 1 else 1
    return lowest + np.arange(width) * (features - lowest) // width


def prefixes(rows: np.ndarray, columns: np.ndarray, strict: bool = False) -> np.ndarray:
    """Return how many of the sorted ``columns`` degrees each of the ``rows`` degrees may use.

    A row of degree m uses columns of degree at most m, or less than m where ``strict`` (the
    outputs).

    Examples
    --------
    >>> prefixes(np.array([1, 1, 2, 3]), np.array([1, 2, 3]))
    array([1, 1, 2, 3])
    >>> prefixes(np.array([1, 2, 3]), np.array([1, 1, 2, 2]), strict=True)
    array([0, 2, 4])
    """
    return np.searchsorted(columns, rows, side="left" if strict else "right")


def mask(prefix: np.ndarray, columns: int) -> np.ndarray:
    r"""Write a staircase out as a matrix, (rows, columns), the Jacobian's own shape.

    .. math:: M_{rc} = [\, c < \mathrm{prefix}_r \,]

    Examples
    --------
    >>> mask(np.array([0, 1, 3]), 3).astype(int)
    array([[0, 0, 0],
           [1, 0, 0],
           [1, 1, 1]])
    """
    return np.arange(columns) < np.asarray(prefix)[:, None]


def reach(staircases: Sequence[np.ndarray]) -> np.ndarray:
    r"""Return how many network inputs reach each output through a stack of staircases.

    .. math:: r^{(1)} = \mathrm{prefix}^{(1)}, \qquad
              r^{(l)}_k = r^{(l-1)}\big[\mathrm{prefix}^{(l)}_k - 1\big]
              \quad (0 \text{ where the prefix is } 0)

    A product of staircases is a staircase: the longest path to a unit runs through the last unit
    that it depends on.

    Examples
    --------
    >>> reach([np.array([1, 2, 3]), np.array([0, 1, 3])])
    array([0, 1, 3])
    """
    reached = np.asarray(staircases[0])
    for prefix in staircases[1:]:
        reached = np.concatenate([[0], reached])[prefix]
    return reached


def lost_dependencies(
    staircases: Sequence[np.ndarray], features: int, context: int = 0
) -> tuple[int, int]:
    r"""Count the legal dependencies, and those that the hidden widths make impossible.

    .. math:: \mathrm{legal} = D\,C + \frac{D(D-1)}{2}, \qquad
              \mathrm{lost} = \mathrm{legal} - \sum_i \mathrm{reach}_i

    The last staircase has one row a feature. Output i may depend on the context and on features
    1..i-1.

    Returns
    -------
    legal, lost : int

    Examples
    --------
    Three features through one hidden unit (degree 1): output 3 cannot depend on feature 2.

    >>> lost_dependencies([np.array([1]), np.array([0, 1, 1])], features=3)
    (3, 1)
    """
    legal = features * context + features * (features - 1) // 2
    return legal, legal - int(reach(staircases).sum())


class Panel(NamedTuple):
    """Some rows of a staircase.

    All use the columns before ``tread``, none uses one from ``riser`` on.
    """

    rows: slice
    tread: int
    riser: int
    beyond: np.ndarray
    """(rows, riser - tread) bool: which of the columns between a row does not use."""


def panels(prefix: np.ndarray, height: int) -> list[Panel]:
    """Cut a staircase into panels of ``height`` rows, so that most zeros are never multiplied.

    A matrix product over each panel's first ``riser`` columns needs the mask only right of the
    tread. P panels leave (1 + 1/P)/2 of the dense work of a square layer. The first panel has no
    tread: a small layer is one masked product. Rows that all use the same columns need no mask:
    tread and riser are one.

    Examples
    --------
    >>> for panel in panels(np.array([1, 1, 2, 2, 3]), height=3):
    ...     print(panel.rows, panel.tread, panel.riser, panel.beyond.astype(int).tolist())
    slice(0, 3, None) 0 2 [[0, 1], [0, 1], [0, 0]]
    slice(3, 5, None) 2 3 [[1], [0]]
    """
    result = []
    for first in range(0, len(prefix), height):
        used = prefix[first : first + height]
        tread = int(used[0]) if first else 0
        riser = int(used[-1])
        beyond = ~mask(used - tread, riser - tread)
        if not beyond.any():  # W itself will do
            tread, beyond = riser, beyond[:, :0]
        result.append(Panel(slice(first, first + len(used)), tread, riser, beyond))
    return result
