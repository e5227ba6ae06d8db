r"""Functions of rows, as a checker calls them.

In no recognisable way, and with every answer looked at.

.. math:: f(x)_n = f(x_{\pi(1)}, \dots, x_{\pi(M)})_{\pi^{-1}(n)}, \quad M \ge N \text{ with decoys}

Whoever answers must not know what is asked for. A disguised function gets its rows shuffled among
decoys, which are copies of them: a random number of rows from 17 to 64, or up to 47 more than there
were. The same number of rows is always shuffled alike, so that two such calls may still be compared
bit by bit.

Letters: N rows, D features, C context inputs, M rows with decoys.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from afnp.verify.results import Finding
from afnp.verify.worker import safe_point

__all__ = ["FEWEST", "MOST", "Rows", "batch_size"]

FEWEST, MOST = 17, 64
"""Batches of a check have some number of rows from FEWEST to MOST, unless it needs more, or asks
for fewer."""


def batch_size(rng: np.random.Generator) -> int:
    """Return a random number of rows that says nothing about who asks."""
    return int(rng.integers(FEWEST, MOST + 1))


class Rows:
    """A function of rows (N, D) and their context (N, C), whose answer has N rows.

    Else that is a finding.

    Parameters
    ----------
    name : str
        For the report.
    function : callable
        Gives rows (N, D) and log-determinants (N,), or, if it ``scores``, log-densities (N,) alone.
    scores : bool
    rng : numpy.random.Generator, optional
        Disguises the calls.

    Examples
    --------
    >>> double = Rows("double", lambda x, c: (2 * x, np.zeros(1)))
    >>> double(np.ones((3, 2)), np.empty((3, 0)))
    Traceback (most recent call last):
        ...
    afnp.verify.results.Finding: double gives shapes (3, 2), (1,) where (3, 2), (3,) are expected
    """

    def __init__(
        self,
        name: str,
        function: Callable,
        scores: bool = False,
        rng: np.random.Generator | None = None,
    ):
        self.name, self.function, self.scores, self.rng = name, function, scores, rng
        self._layouts: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def disguised(self, rng: np.random.Generator) -> Rows:
        """Return the same function, to be called in disguise."""
        return Rows(
            self.name, self.function, self.scores, np.random.default_rng(rng.integers(2**63))
        )

    def __call__(self, x: np.ndarray, context: np.ndarray):
        """Return what the function gives for these rows, in their order."""
        if self.rng is None or not len(x):
            return self._asked(x, context)
        order, back = self._layout(len(x), self.rng)
        answer = self._asked(x[order], context[order])
        return answer[back] if self.scores else tuple(array[back] for array in answer)

    def _layout(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return which row stands where, and where each row is found again."""
        if n not in self._layouts:
            size = int(rng.integers(max(n, FEWEST), max(n + MOST - FEWEST, MOST) + 1))
            order = rng.permutation(np.concatenate([np.arange(n), rng.integers(n, size=size - n)]))
            self._layouts[n] = order, np.unique(order, return_index=True)[1]
        return self._layouts[n]

    def _asked(self, x: np.ndarray, context: np.ndarray):
        safe_point()
        answer = self.function(x, context)
        if self.scores:
            return _of_shapes(self.name, (answer,), [(len(x),)])[0]
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise Finding(
                f"{self.name} gives {_described(answer)} "
                "where (rows, log-determinants) are expected"
            )
        return _of_shapes(self.name, answer, [x.shape, (len(x),)])


def _of_shapes(name: str, answer, shapes: list[tuple]) -> tuple[np.ndarray, ...]:
    """Return the answer as arrays of these shapes."""
    arrays = tuple(np.asarray(array) for array in answer)
    got = [array.shape for array in arrays]
    if got != shapes:
        listed, expected = (", ".join(map(str, s)) for s in (got, shapes))
        verb = "are" if len(shapes) > 1 else "is"
        noun = "shapes" if len(shapes) > 1 else "shape"
        raise Finding(f"{name} gives {noun} {listed} where {expected} {verb} expected")
    kinds = [array.dtype for array in arrays if array.dtype.kind not in "fc"]
    if kinds:
        raise Finding(f"{name} gives {kinds[0]} where numbers are expected")
    return arrays


def _described(answer) -> str:
    """Say what an answer is, in a few words."""
    if isinstance(answer, tuple | list):
        return f"{len(answer)} things"
    shape = getattr(answer, "shape", None)
    return f"a {type(answer).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")
