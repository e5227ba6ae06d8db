r"""What each direction of a transform costs: network passes, depth, and arithmetic.

.. math:: \mathrm{work} = \sum_l \sum_r \mathrm{prefix}^{(l)}_r \ \text{multiply-adds a row}, \qquad
          \mathrm{work}_{\text{naive loop}} = D \cdot \mathrm{work}

MAF and IAF are one transform read in two directions, and are easily confused: in MAF the density is
one network pass and sampling is a triangular solve, in IAF the other way round. The solve evaluates
each unit once, so it does the arithmetic of *one* pass, but in D steps that wait for each other;
the textbook loop does D passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["FREE", "Cost", "CostTable", "Work", "elementwise"]


class Work(NamedTuple):
    """One direction, for one row."""

    passes: int
    """Network passes, by arithmetic: a substitution is one."""
    depth: int
    """Steps that wait for each other: 1 for a product, D for a substitution, 0 without a
    network."""
    multiply_adds: int
    """Useful ones: zeros above the staircases are not counted."""

    def __str__(self) -> str:
        if not self.multiply_adds:
            return "free"
        counts = (
            (self.passes, "pass", "es"),
            (self.depth, "step", "s"),
            (self.multiply_adds, "mul-add", "s"),
        )
        return ", ".join(f"{n:,} {name}{end * (n != 1)}" for n, name, end in counts if n)

    def followed_by(self, other: Work) -> Work:
        """Return the work of both, one after the other."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def repeated(self, times: int) -> Work:
        """Return the work of so many repetitions, one after the other."""
        return Work(*(times * number for number in self))


class Cost(NamedTuple):
    """Both directions of a transform or of a flow.

    ``naive`` is the slower one by the textbook loop.
    """

    normalize: Work
    generate: Work
    naive: Work

    def __add__(self, other):
        """Return the costs of two transforms in a row."""
        return Cost(*(one.followed_by(two) for one, two in zip(self, other, strict=True)))


def elementwise(features: int) -> Cost:
    """Return the costs of a map of each feature for itself."""
    work = Work(0, 0, features)
    return Cost(work, work, work)


FREE = Cost(Work(0, 0, 0), Work(0, 0, 0), Work(0, 0, 0))
"""What takes no arithmetic, such as a permutation."""


class CostTable:
    """The costs of a flow, transform by transform; prints as a table.

    Parameters
    ----------
    layers : sequence of transforms

    Attributes
    ----------
    rows : list of (str, Cost)
    total : Cost

    Examples
    --------
    >>> from afnp.transforms import Inverse, masked
    >>> CostTable([masked(3, (4,)), Inverse(masked(3, (4,)))])
    transform       normalize (data to noise)       generate (noise to data)
    Autoregressive  1 pass, 1 step, 18 mul-adds     1 pass, 3 steps, 18 mul-adds
    Inverse         1 pass, 3 steps, 18 mul-adds    1 pass, 1 step, 18 mul-adds
    flow            2 passes, 4 steps, 36 mul-adds  2 passes, 4 steps, 36 mul-adds
    naive loop instead of substitution: 6 passes, 6 steps, 108 mul-adds
    """

    def __init__(self, layers: Sequence):
        self.rows = [(type(layer).__name__, layer.cost) for layer in layers]
        self.total = sum((cost for _, cost in self.rows), FREE)

    def __repr__(self) -> str:
        head = ("transform", "normalize (data to noise)", "generate (noise to data)")
        rows = [head]
        for name, cost in (*self.rows, ("flow", self.total)):
            rows.append((name, str(cost.normalize), str(cost.generate)))
        widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("".join(cells).rstrip())
        return "\n".join([*lines, f"naive loop instead of substitution: {self.total.naive}"])
