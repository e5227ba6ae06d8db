r"""Graphs: which feature may depend on which, when each is known, and what paths reach.

.. math:: p(x) = \prod_i p(x_i \mid x_{\mathrm{pa}(i)}), \qquad
          \mathrm{level}(i) = \begin{cases} 0 & \mathrm{pa}(i) = \emptyset \\
          1 + \max_{j \in \mathrm{pa}(i)} \mathrm{level}(j) & \text{else} \end{cases}

An order lets x_i depend on all that comes before it; a directed acyclic graph on its *parents*
alone. It is a matrix: A[i, j] is true where x_i may depend on x_j. Features of one level do not
depend on each other, and are sampled together: as many steps as the graph is deep.

Letters: D features. Only integers and booleans live here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afnp.inputs import frame_names, frame_of, plain_array

__all__ = [
    "ROWS",
    "adjacency_of",
    "cycle_of",
    "follow",
    "levels_of",
    "names_of",
    "reachability",
    "topological",
]

ROWS = 1024
"""Rows of a pattern that are multiplied at a time: of a large graph, a product is 8 times as wide
as what it says."""


def adjacency_of(structure, features: int) -> np.ndarray:
    """Return a directed acyclic graph as a matrix (D, D) of bool, or say what is wrong with it.

    Parameters
    ----------
    structure : (D, D) array of bool, or of 0 and 1; or a DataFrame whose index is its columns
        Entry [i, j] is true where x_i may depend on x_j. The diagonal is false.
    features : int
        D.

    Raises
    ------
    ValueError
        If the shape is another, an entry is neither 0 nor 1, or there is a cycle, which is named.

    Examples
    --------
    >>> adjacency_of([[0, 0, 0], [1, 0, 0], [0, 1, 0]], 3)
    array([[False, False, False],
           [ True, False, False],
           [False,  True, False]])
    >>> adjacency_of([[0, 0, 1], [1, 0, 0], [0, 1, 0]], 3)
    Traceback (most recent call last):
        ...
    ValueError: structure: expected no cycle, got 0 -> 1 -> 2 -> 0, each one a cause of the next
    """
    names = names_of(structure) or tuple(map(str, range(features)))
    frame = frame_of(structure)
    values = plain_array(structure if frame is None else frame.to_numpy(), "structure")
    if values.shape != (features, features):
        raise ValueError(
            f"structure: expected shape ({features}, {features}), one row and one column a "
            f"feature, got {values.shape}"
        )
    if values.dtype.kind not in "biuf":
        raise ValueError(f"structure: expected booleans, or 0 and 1, got dtype {values.dtype}")
    odd = np.argwhere((values != 0) & (values != 1))
    if len(odd):
        row, column = odd[0]
        raise ValueError(
            f"structure: row {row}, column {column} is {values[row, column]}; expected 0 or 1"
        )
    adjacency = values.astype(bool)
    cycle = cycle_of(adjacency)
    if cycle:
        path = " -> ".join(names[i] for i in [*cycle, cycle[0]])
        raise ValueError(f"structure: expected no cycle, got {path}, each one a cause of the next")
    return adjacency


def names_of(structure) -> tuple[str, ...] | None:
    """Return the names of the features, where the graph is a DataFrame, and None where it is not.

    Raises
    ------
    ValueError
        If rows and columns are named differently.
    """
    frame = frame_of(structure)
    if frame is None:
        return None
    columns = frame_names(frame)
    index = tuple(map(str, frame.index))
    if index != columns:
        raise ValueError(f"structure: expected rows named like the columns {columns}, got {index}")
    return columns


def cycle_of(adjacency: np.ndarray) -> list[int]:
    """Return the features of one cycle, each a parent of the next; nothing if there is none.

    Examples
    --------
    >>> cycle_of(np.array([[0, 1], [1, 0]], dtype=bool)), cycle_of(np.eye(2, k=1, dtype=bool))
    ([0, 1], [])
    """
    left = _without_sources(adjacency)
    if not left.any():
        return []
    walk = [int(np.flatnonzero(left)[0])]
    while walk[-1] not in walk[:-1]:  # whoever is left has a parent that is left
        walk.append(int(np.flatnonzero(adjacency[walk[-1]] & left)[0]))
    cycle = walk[walk.index(walk[-1]) + 1 :][::-1]
    first = cycle.index(min(cycle))
    return cycle[first:] + cycle[:first]


def _without_sources(adjacency: np.ndarray) -> np.ndarray:
    """Return which features remain, (D,), when those without a remaining parent are taken away."""
    left = np.ones(len(adjacency), dtype=bool)
    while True:
        next_left = left & adjacency[:, left].any(axis=1)
        if (next_left == left).all():
            return left
        left = next_left


def levels_of(adjacency: np.ndarray) -> np.ndarray:
    """Return the level of each feature, (D,): the length of the longest path that ends there.

    Examples
    --------
    >>> levels_of(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0]], dtype=bool))
    array([0, 1, 2])
    """
    levels = np.full(len(adjacency), -1)
    level = 0
    while (levels < 0).any():
        unknown = levels < 0
        levels[unknown & ~adjacency[:, unknown].any(axis=1)] = level
        level += 1
    return levels


def topological(adjacency: np.ndarray) -> np.ndarray:
    """Return a generation order: level by level, and by number within one.

    Examples
    --------
    >>> topological(np.array([[0, 0, 1], [0, 0, 0], [0, 0, 0]], dtype=bool))
    array([1, 2, 0])
    """
    return np.argsort(levels_of(adjacency), kind="stable")


def reachability(adjacency: np.ndarray, steps: int | None = None) -> np.ndarray:
    r"""Return whom each feature reaches backwards in at most so many steps, itself in none.

    .. math:: R = (I + A)^{\mathrm{steps}} > 0

    Parameters
    ----------
    adjacency : (D, D) array of bool
    steps : int, optional
        All ancestors (the transitive closure), if left out.

    Examples
    --------
    >>> chain = np.eye(4, k=-1, dtype=bool)
    >>> reachability(chain, 2).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [1, 1, 1, 0],
           [0, 1, 1, 1]])
    >>> bool((reachability(chain) == np.tri(4)).all())
    True
    """
    step = adjacency | np.eye(len(adjacency), dtype=bool)
    reached = np.eye(len(adjacency), dtype=bool)
    for _ in range(len(adjacency) if steps is None else steps):
        farther = follow([reached, step])
        if (farther == reached).all():
            break
        reached = farther
    return reached


def follow(patterns: Sequence[np.ndarray]) -> np.ndarray:
    """Return which rows of the last pattern reach which columns of the first, as bool."""
    reached = patterns[0]
    for pattern in patterns[1:]:
        columns = reached.astype(np.float32)
        reached = np.empty((len(pattern), columns.shape[1]), dtype=bool)
        for k in range(0, len(pattern), ROWS):
            paths = pattern[k : k + ROWS].astype(np.float32) @ columns
            np.greater(paths, 0, out=reached[k : k + ROWS])
    return reached
