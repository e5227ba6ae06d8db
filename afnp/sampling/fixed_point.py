r"""Sampling by fixed-point iteration: guess all features, and let the flow correct them at once.

.. math::
    x^{(k+1)}_i = \tau\big(u_i;\, h_i(x^{(k)}_{<i})\big) \quad \text{for all } i \text{ at once},
    \qquad x^{(0)} = u

A sample solves x = τ(u; h(x)), D equations of which the i-th hears only what comes before it.
Substitution solves them one after the other. Here all of them are evaluated side by side, again and
again: the *Jacobi* iteration of Song et al. (arXiv 2002.03629). Both solve the same equations, so
the same noise gives the same sample.

**D sweeps always suffice.** h_1 hears nothing, so x_1 is right after one sweep, whatever the guess
was; then so is x_2 after two. The dependence is strictly triangular, its matrix nilpotent: the
error after D sweeps is not small, it is zero, however badly the iteration behaves on its way. A
contracting flow is right much earlier, and a sweep that changes nothing says so: x is then a
solution, and there is only one.

*Gauss-Seidel* takes blocks of B features in order: Jacobi sweeps inside a block, and what the
blocks before it found is known. Sums over the known are made once a block, so sweeps repeat only
the diagonal of the triangle. It is one algorithm with a dial: B = D is Jacobi, and B = 1 is forward
substitution (:mod:`afnp.sampling.substitution`).

A feature that is not right yet may be anything, also infinite; :mod:`afnp.sampling.sweeps` keeps
such garbage from those who do not hear it. So D sweeps suffice also where the iteration overflows.

Letters: N rows, D features, B features of a block, T transforms that are solved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from afnp.inputs import choose, integer
from afnp.sampling.sweeps import settle

__all__ = ["METHODS", "GaussSeidel", "Jacobi", "Record", "Sweeps", "method_of", "sweep"]

METHODS = ("substitution", "naive", "jacobi", "gauss-seidel")
"""How ``generate`` may work; all give the same numbers."""


class Sweeps:
    """What a transform needs to know of a method that sweeps: how to solve x = τ(u; h(x))."""

    block: int | None
    """B, or None for all features."""
    tolerance: float

    def blocks(self, D: int) -> list[tuple[int, int]]:
        """Return the first and one past the last feature of each block."""
        B = self.block or D
        return [(first, min(first + B, D)) for first in range(0, D, B)]

    def solve(self, network, generate: Callable, u: np.ndarray) -> tuple[np.ndarray, ...]:
        """Map u (N, D), in generation order, to x (N, D), log|det dx/du|, sweeps, multiply-adds."""
        x = u.astype(np.result_type(u, network.dtype))
        log_det = np.zeros(len(u), x.dtype)
        sweeps, work = np.zeros(len(u), dtype=np.int64), np.zeros(len(u), dtype=np.int64)
        for first, last in self.blocks(u.shape[1]):
            here = np.s_[:, first:last]
            once, each = network.begin(x, first, last)
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                log, taken, passes = settle(
                    network.hear, generate, u[here], x[here], self.tolerance
                )
            log_det += log
            sweeps += taken
            work += once + passes * each
        return x, log_det, sweeps, work


@dataclass(frozen=True)
class Jacobi(Sweeps):
    r"""Sweep over all features at once, at most D times.

    .. math::
        x^{(k+1)} = \tau(u;\, h(x^{(k)})), \qquad
        \text{until } \max_i |x^{(k+1)}_i - x^{(k)}_i| \le \varepsilon

    Parameters
    ----------
    tolerance : float
        ε, in units of each transform's x. At 0, the default, a row stops when nothing changes any
        more, and the sample is exact. Above, the sample and its log-determinant are approximate, by
        how much the flow decides.

    Raises
    ------
    ValueError
        If the tolerance is negative, or not a finite number.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(8, hidden=(16,), seed=0)
    >>> x, loose = flow.sample(3, method=Jacobi()), flow.sample(3, method=Jacobi(tolerance=1e-3))
    >>> bool((abs(x - flow.sample(3)) < 1e-14).all()), bool((abs(x - loose) < 1e-3).all())
    (True, True)
    """

    tolerance: float = 0.0
    block = None

    def __post_init__(self):
        _check_tolerance(self.tolerance)


@dataclass(frozen=True)
class GaussSeidel(Sweeps):
    r"""Sweep over blocks of features in order, each at most B times.

    .. math::
        x^{(k+1)}_i = \tau\big(u_i;\, h_i(x_{<b},\, x^{(k)}_{b}, \dots, x^{(k)}_{i-1})\big)
        \quad \text{for all } i \text{ of the block that begins with } b

    Parameters
    ----------
    block : int
        B; at 1 this is forward substitution, from D on it is :class:`Jacobi`.
    tolerance : float
        As of :class:`Jacobi`, block by block.

    Raises
    ------
    ValueError
        If the block is below 1, or the tolerance negative or not a finite number.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(8, hidden=(16,), seed=0)
    >>> x = flow.sample(3, method=GaussSeidel(block=4))
    >>> bool((abs(x - flow.sample(3)) < 1e-14).all())
    True
    """

    block: int = 16
    tolerance: float = 0.0

    def __post_init__(self):
        integer("block", self.block, least=1)
        _check_tolerance(self.tolerance)


def _check_tolerance(value) -> None:
    try:
        good = 0 <= value < math.inf
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"tolerance: expected a finite number of at least 0, got {value!r}")


def method_of(method: str | Sweeps, backend: str) -> str | Sweeps:
    """Return a method by its name or as it is; refuse what does not exist, or not on that backend.

    Examples
    --------
    >>> method_of("gauss-seidel", "auto")
    GaussSeidel(block=16, tolerance=0.0)
    """
    if isinstance(method, str):
        choose("method", method, METHODS)
        method = {"jacobi": Jacobi(), "gauss-seidel": GaussSeidel()}.get(method, method)
    elif not isinstance(method, Sweeps):
        raise ValueError(
            f"method: expected a name or one of Jacobi and GaussSeidel, got {method!r}"
        )
    if method == "naive" and backend in ("numba", "cuda"):
        raise ValueError(
            f"backend: method 'naive' is the NumPy definition; got backend {backend!r}"
        )
    return method


# ---- what it took --------------------------------------------------------------------------------


class Record(NamedTuple):
    """What a sample took, for each of the T transforms that had to be solved, data to noise."""

    sweeps: np.ndarray
    """(N, T) how many sweeps each row took, the last of which changed nothing unless there were D
    (or, over all blocks, as many as the block is long)."""
    multiply_adds: np.ndarray
    """(N, T) arithmetic of the network spent on each row, also that of waiting for its
    neighbours."""

    def settled(self, transform: int) -> np.ndarray:
        """Return how many rows needed no further sweep after 0, 1, 2, ... of them.

        Examples
        --------
        >>> Record(np.array([[1], [3], [3]]), np.array([[10], [30], [30]])).settled(0)
        array([0, 1, 1, 3])
        """
        return np.bincount(self.sweeps[:, transform], minlength=1).cumsum()


def sweep(
    flow, u, context=None, method: str | Sweeps = "jacobi", backend: str = "auto"
) -> tuple[np.ndarray, np.ndarray, Record]:
    """Map noise u (N, D) to data as ``flow.generate`` does, and say what it took.

    Parameters
    ----------
    flow : Flow
    u, context, backend
        As for :meth:`afnp.Flow.generate`.
    method : {"jacobi", "gauss-seidel"}, Jacobi or GaussSeidel
        The names stand for the classes with their defaults.

    Returns
    -------
    x : (N, D) array
    log_det : (N,) array
        log|det dx/du|, nats.
    record : Record

    Raises
    ------
    ValueError
        As ``flow.generate``; and for a method that does not sweep.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(8, hidden=(16,), transforms=2, seed=0)
    >>> x, log_det, record = sweep(flow, np.zeros((5, 8)), method=GaussSeidel(block=1))
    >>> record.sweeps.tolist()[0]
    [8, 8]
    >>> record.multiply_adds[0].sum() == flow.cost.total.generate.multiply_adds
    np.True_
    """
    solver = method_of(method, backend)
    if not isinstance(solver, Sweeps):
        raise ValueError(
            f"method: expected one that sweeps, {METHODS[2]!r} or {METHODS[3]!r}, got {method!r}"
        )

    x, log_det, *taken = flow.generate_counting(u, context, solver, backend)
    return x, log_det, Record(*taken)
