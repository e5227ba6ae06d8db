r"""Sampling by fixed-point iteration: guess all features, and let the flow correct them at once.

.. math::
    x^{(k+1)}_i = \tau\big(u_i;\, h_i(x^{(k)}_{<i})\big) \quad \text{for all } i \text{ at once},
    \qquad x^{(0)} = u

A sample solves x = τ(u; h(x)), D equations of which the i-th depends only on what comes before it.
Substitution solves them one after the other. Here all of them are evaluated side by side, again and
again: the *Jacobi* iteration of Song et al. (arXiv 2002.03629). Both solve the same equations, so
the same noise gives the same sample.

**D iterations always suffice.** h_1 depends on nothing, so x_1 is right after one iteration,
whatever the guess was; then so is x_2 after two. The dependence is strictly triangular, its matrix
nilpotent: the error after D iterations is not small, it is zero, however badly the iteration
behaves on its way. A contracting flow is right much earlier, and an iteration that changes nothing
says so: x is then a solution, and there is only one.

*Gauss-Seidel* takes blocks of B features in order: Jacobi iterations inside a block, and what the
blocks before it found is known. Sums over the known are made once a block, so iterations repeat
only the diagonal of the triangle. It is one algorithm with a dial: B = D is Jacobi, and B = 1 is
forward substitution (:mod:`afnp.sampling.substitution`).

*Newton* (DEER, arXiv 2309.12252) corrects all features at once by a triangular system that also
knows how they depend on each other: few iterations, each of them dear.

A feature that is not right yet may be anything, also infinite; :mod:`afnp.sampling.blocks` keeps
such garbage from those who do not depend on it. So D iterations suffice also where one overflows.

Letters: N rows, D features, B features of a block, T transforms that are solved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from afnp.inputs import choose, integer
from afnp.sampling.blocks import Whole, settle

__all__ = [
    "METHODS",
    "GaussSeidel",
    "Jacobi",
    "Newton",
    "Record",
    "FixedPoint",
    "exponent",
    "likelihood_error",
    "method_of",
    "needs_numpy",
    "slope_of",
    "iterate",
]

METHODS = ("substitution", "naive", "jacobi", "gauss-seidel", "newton")
"""How ``generate`` may work; all give the same numbers."""


class FixedPoint:
    """What a transform needs to know of a method that iterates: how to solve x = τ(u; h(x))."""

    block: int | None
    """B, or None for all features."""
    tolerance: float | None
    max_iterations: int | None
    """At most so many iterations a block, or None for as many as it has features."""
    compiled: bool = True
    """Whether compiled code knows the method too."""

    def blocks(self, D: int) -> list[tuple[int, int]]:
        """Return the first and one past the last feature of each block."""
        B = self.block or D
        return [(first, min(first + B, D)) for first in range(0, D, B)]

    def solve(self, network, univariate, p, u: np.ndarray, context: np.ndarray) -> tuple:
        """Map u (N, D), in generation order, to x, log|det dx/du|, iterations, multiply-adds."""
        network = network.solver(p, context)
        x = u.astype(np.result_type(u, network.dtype))
        log_det = np.zeros(len(u), x.dtype)
        iterations, work = np.zeros(len(u), dtype=np.int64), np.zeros(len(u), dtype=np.int64)
        for first, last in self.blocks(u.shape[1]):
            here = np.s_[:, first:last]
            once, each = network.begin(x, first, last)
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                log, taken, passes = settle(
                    network.params,
                    univariate.generate,
                    u[here],
                    x[here],
                    self.tolerance or 0.0,
                    self.max_iterations,
                )
            log_det += log
            iterations += taken
            work += once + passes * each
        return x, log_det, iterations, work


@dataclass(frozen=True)
class Jacobi(FixedPoint):
    r"""Iterate over all features at once, at most D times.

    .. math::
        x^{(k+1)} = \tau(u;\, h(x^{(k)})), \qquad
        \text{until } \max_i |x^{(k+1)}_i - x^{(k)}_i| \le \varepsilon

    Parameters
    ----------
    tolerance : float
        ε, in units of each transform's x. At 0, the default, a row stops when nothing changes any
        more, and the sample is exact. Above, the sample and its log-determinant are approximate, by
        how much the flow decides: :func:`likelihood_error` says it.
    max_iterations : int, optional
        Stop after so many iterations, wherever they are; D, which is exact, if left out.

    Raises
    ------
    ValueError
        If the tolerance is negative, or not a finite number, or the iterations are below 1.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(8, hidden=(16,), seed=0)
    >>> x, loose = flow.sample(3, method=Jacobi()), flow.sample(3, method=Jacobi(tolerance=1e-3))
    >>> bool((abs(x - flow.sample(3)) < 1e-14).all()), bool((abs(x - loose) < 1e-3).all())
    (True, True)
    """

    tolerance: float = 0.0
    max_iterations: int | None = None
    block = None

    def __post_init__(self):
        _check_stopping(self.tolerance, self.max_iterations)


@dataclass(frozen=True)
class GaussSeidel(FixedPoint):
    r"""Iterate over blocks of features in order, each at most B times.

    .. math::
        x^{(k+1)}_i = \tau\big(u_i;\, h_i(x_{<b},\, x^{(k)}_{b}, \dots, x^{(k)}_{i-1})\big)
        \quad \text{for all } i \text{ of the block that begins with } b

    Parameters
    ----------
    block : int
        B; at 1 this is forward substitution, from D on it is :class:`Jacobi`.
    tolerance, max_iterations
        As of :class:`Jacobi`, block by block.

    Raises
    ------
    ValueError
        If the block or the iterations are below 1, or the tolerance negative or not a finite
        number.

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
    max_iterations: int | None = None

    def __post_init__(self):
        integer("block", self.block, least=1)
        _check_stopping(self.tolerance, self.max_iterations)


@dataclass(frozen=True)
class Newton(FixedPoint):
    r"""Newton's method on the triangular system, at most D iterations (DEER, arXiv 2309.12252).

    .. math::
        (I - T)\, \delta = \tau(u;\, h(x^{(k)})) - x^{(k)}, \qquad x^{(k+1)} = x^{(k)} + \delta,
        \qquad T_{ij} = \frac{\partial}{\partial x_j}\, \tau\big(u_i;\, h_i(x^{(k)})\big)

    T is strictly triangular, and I - T is solved by substitution. Its rows come from the
    hand-written derivatives of the density: with f = τ⁻¹, at the point τ(u; h(x⁽ᵏ⁾)),

    .. math:: T_{ij} = -\Big(\frac{\partial f_i}{\partial h_i} \cdot
              \frac{\partial h_i}{\partial x_j}\Big) \Big/ \frac{\partial f_i}{\partial x_i}

    **Never more than D iterations.** Row i says δ_i = τ(u_i; h_i) - x_i + Σ_{j<i} T_ij δ_j. Let
    the first k features be exact (at the start k = 0). Then h_1, ..., h_{k+1} are the true ones, so
    that δ_1 = ... = δ_k = 0, and in row k + 1 the whole sum vanishes: x_{k+1} becomes
    τ(u_{k+1}; h_{k+1}), exact, whatever T and the other features were. In other words, the
    iteration's derivative is strictly triangular and so nilpotent: its D-th power is zero. Near the
    solution the error is squared each time, and where h is linear one iteration is enough.

    **What it costs.** T takes a derivative pass of the network for each of D rows. That pays only
    where they run side by side and each step of a substitution is a long wait: the arithmetic of
    one iteration is D times that of the whole, exact substitution.

    Parameters
    ----------
    tolerance : float, optional
        The largest |δ_i| of the last iteration, in units of each transform's x. If left out, the
        square root of the precision: a step of that size leaves about its square, which is
        rounding.
    max_iterations : int, optional
        Stop after so many; D, which is exact, if left out.

    Raises
    ------
    ValueError
        If the tolerance is negative, or not a finite number, or the iterations are below 1.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(8, hidden=(16,), seed=0)
    >>> bool((abs(flow.sample(3, method=Newton()) - flow.sample(3)) < 1e-12).all())
    True
    """

    tolerance: float | None = None
    max_iterations: int | None = None
    block = None
    compiled = False

    def __post_init__(self):
        _check_stopping(0.0 if self.tolerance is None else self.tolerance, self.max_iterations)

    def solve(self, network, univariate, p, u: np.ndarray, context: np.ndarray) -> tuple:
        """Map u (N, D), in order, to x (N, D), log|det dx/du|, iterations, multiply-adds."""
        whole, D = Whole(network, p, context), u.shape[1]
        x = u.astype(np.result_type(u, whole.dtype))
        whole.begin(x, 0, D)
        tolerance = self.tolerance
        if tolerance is None:
            tolerance = float(np.sqrt(np.finfo(x.dtype).eps))

        def correct(rows: np.ndarray, x_rows, h, new, k: int) -> np.ndarray:
            slope = np.zeros((*x_rows.shape, h.shape[2]), h.dtype)
            slope[:, k:] = slope_of(univariate, h, new)
            T = network.jacobian(p, context[rows], x_rows, slope)[:, k:, k:]
            corrected = x_rows[:, k:] + _unit_triangular(T, new - x_rows[:, k:])
            good = np.isfinite(corrected).all(axis=1, keepdims=True)
            return np.where(good, corrected, new)

        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            log_det, taken, passes = settle(
                whole.params, univariate.generate, u, x, tolerance, self.max_iterations, correct
            )
        of_jacobian = D * network.cost + D * (D - 1) // 2
        return x, log_det, taken, passes * network.cost + taken * of_jacobian


def slope_of(univariate, h: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return dτ/dh (n, B, K) where x = τ(u; h), by the derivative of the inverse."""
    *_, cache = univariate.normalize(h, x)
    d_h, d_x = univariate.backward(cache, np.ones_like(x), np.zeros_like(x))
    return -d_h / d_x[..., None]


def exponent(T: np.ndarray, steps: int = 8) -> np.ndarray:
    r"""Return the finite-time Lyapunov exponent of Jacobi's iteration, (N,), nats an iteration.

    .. math:: \lambda = \frac1k \log \lVert T^k \rVert_2, \qquad
              x^{(k)} - x \approx T^k\, (x^{(0)} - x)

    Below zero errors shrink by e^λ an iteration, whatever D is. Above they grow, until T^D = 0 ends
    it: all iterations are needed. In the chain x_i = u_i + w x_{i-1} it is log |w|.

    Parameters
    ----------
    T : (N, D, D) array
        Derivatives of an iteration, as :meth:`afnp.transforms.Autoregressive.iteration_matrix`
        gives them.
    steps : int
        k, below D.

    Examples
    --------
    >>> exponent(0.5 * np.eye(20, k=-1)[None]).round(3)
    array([-0.693])
    """
    product = np.linalg.matrix_power(T, integer("steps", steps, least=1))
    with np.errstate(divide="ignore"):
        return np.log(np.linalg.norm(product, ord=2, axis=(1, 2))) / steps


def _unit_triangular(T: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return δ (n, B) of (I - T) δ = right, T (n, B, B) strictly lower triangular."""
    delta = right.copy()
    for i in range(1, right.shape[1]):
        delta[:, i] += (T[:, i, :i] * delta[:, :i]).sum(axis=1)
    return delta


def _check_stopping(value, most) -> None:
    if most is not None:
        integer("max_iterations", most, least=1)
    try:
        good = 0 <= value < math.inf
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"tolerance: expected a finite number of at least 0, got {value!r}")


def method_of(method: str | FixedPoint, backend: str) -> str | FixedPoint:
    """Return a method by its name or as it is; refuse what does not exist, or not on that backend.

    Examples
    --------
    >>> method_of("gauss-seidel", "auto")
    GaussSeidel(block=16, tolerance=0.0, max_iterations=None)
    """
    if isinstance(method, str):
        choose("method", method, METHODS)
        named = {"jacobi": Jacobi(), "gauss-seidel": GaussSeidel(), "newton": Newton()}
        method = named.get(method, method)
    elif not isinstance(method, FixedPoint):
        raise ValueError(
            f"method: expected a name or one of Jacobi, GaussSeidel and Newton, got {method!r}"
        )
    if method == "naive" and backend in ("numba", "cuda"):
        raise ValueError(
            f"backend: method 'naive' is the NumPy definition; got backend {backend!r}"
        )
    if needs_numpy(method) and backend in ("numba", "cuda"):
        raise ValueError(f"backend: Newton's method runs in NumPy; got backend {backend!r}")
    if backend == "cuda" and isinstance(method, FixedPoint) and method.max_iterations is not None:
        raise ValueError("backend: 'cuda' has no max_iterations; 'auto' and 'numpy' have")
    return method


def needs_numpy(method: str | FixedPoint) -> bool:
    """Return whether a method, as ``method_of`` returns it, has no compiled rendering."""
    return method == "naive" or (isinstance(method, FixedPoint) and not method.compiled)


# ---- what it took --------------------------------------------------------------------------------


class Record(NamedTuple):
    """What a sample took, for each of the T transforms that had to be solved, data to noise."""

    iterations: np.ndarray
    """(N, T) how many iterations each row took, the last of which changed nothing unless there were
    D (or, over all blocks, as many as the block is long)."""
    multiply_adds: np.ndarray
    """(N, T) arithmetic of the network spent on each row, also that of waiting for its
    neighbours."""

    def settled(self, transform: int) -> np.ndarray:
        """Return how many rows needed no further iteration after 0, 1, 2, ... of them.

        Examples
        --------
        >>> Record(np.array([[1], [3], [3]]), np.array([[10], [30], [30]])).settled(0)
        array([0, 1, 1, 3])
        """
        return np.bincount(self.iterations[:, transform], minlength=1).cumsum()


def iterate(
    flow, u, context=None, method: str | FixedPoint = "jacobi", backend: str = "auto"
) -> tuple[np.ndarray, np.ndarray, Record]:
    """Map noise u (N, D) to data as ``flow.generate`` does, and say what it took.

    Parameters
    ----------
    flow : Flow
    u, context, backend
        As for :meth:`afnp.Flow.generate`.
    method : {"jacobi", "gauss-seidel", "newton"}, Jacobi, GaussSeidel or Newton
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
        As ``flow.generate``; and for a method that does not iterate.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(8, hidden=(16,), transforms=2, seed=0)
    >>> x, log_det, record = iterate(flow, np.zeros((5, 8)), method=GaussSeidel(block=1))
    >>> record.iterations.tolist()[0]
    [8, 8]
    >>> record.multiply_adds[0].sum() == flow.cost.total.generate.multiply_adds
    np.True_
    """
    solver = method_of(method, backend)
    if not isinstance(solver, FixedPoint):
        raise ValueError(
            f"method: expected one of {', '.join(map(repr, METHODS[2:]))}, got {method!r}"
        )

    x, log_det, *taken = flow.generate_counting(u, context, solver, backend)
    return x, log_det, Record(*taken)


def likelihood_error(
    flow, u, context=None, method: str | FixedPoint = "jacobi", backend: str = "auto"
) -> np.ndarray:
    r"""Return how far the true density of an inexact sample is from the claimed one, (N,), nats.

    .. math:: \log p(\hat x) - \Big(\log p_{\mathrm{base}}(u)
              - \log\Big|\det \frac{\partial \hat x}{\partial u}\Big|\Big)

    The parenthesis is what ``generate`` claims for the noise it was given; log p(x̂) is one density
    pass. An exact method leaves rounding. What a tolerance leaves is missing from every weight of
    importance sampling, energy and file size that is computed from the claim.

    Parameters
    ----------
    flow, u, context, method, backend
        As for :func:`iterate`.

    Examples
    --------
    >>> import afnp
    >>> flow, u = afnp.maf(8, hidden=(16,), seed=0), np.ones((3, 8))
    >>> exact, loose = (abs(likelihood_error(flow, u, method=Jacobi(tol))) for tol in (0, 1e-2))
    >>> bool((exact < 1e-12).all()), bool((loose > exact).all())
    (True, True)
    """
    x, log_det, _ = iterate(flow, u, context, method, backend)
    claimed = flow.base.log_prob(flow.own.base, np.asarray(u, dtype=flow.dtype)) - log_det
    return flow.log_prob(x, context) - claimed
