r"""Derivatives without calculus: complex steps, central differences, and bitwise dependency.

.. math:: J_{nij} = \frac{\partial u_{ni}}{\partial x_{nj}}
          = \frac{\operatorname{Im} f_i(x_n + i h e_j)}{h} + O(h^2)

A complex step subtracts nothing, so h may be 1e-30 of x and the derivative is good to rounding
(Squire and Trapp 1998, doi 10.1137/S003614459631241X); it needs code that stays analytic. Central
differences need nothing, and stop at about 1e-9.

Letters: N rows, D features; f maps rows (M, D) to rows (M, D'), each on its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from afnp.verify.worker import safe_point

__all__ = [
    "central_jacobian",
    "complex_step_jacobian",
    "complex_steps",
    "dependency_pattern",
    "moved",
]

Map = Callable[[np.ndarray], np.ndarray]

AT_ONCE = 1024
"""So many rows are compared bit by bit in one call, if one base point does not take more."""


def _columns(f: Map, z: np.ndarray) -> np.ndarray:
    """Apply f to z (N, D, D), whose z[n, j] is row n with feature j changed; return (N, D', D)."""
    safe_point()
    N, D, _ = z.shape
    return np.asarray(f(z.reshape(N * D, D))).reshape(N, D, -1).transpose(0, 2, 1)


def complex_steps(x: np.ndarray, h: float = 1e-30) -> np.ndarray:
    r"""Return how far to step from each number of x: far less than it is, be it as small as it may.

    .. math:: h \min(1, |x|), \qquad h \text{ at } x = 0

    Examples
    --------
    The logarithm bends within 1e-40 of 1e-40.

    >>> x = np.array([0.0, 1e-40, 3.0])
    >>> complex_steps(x)
    array([1.e-30, 1.e-70, 1.e-30])
    """
    size = np.where(x == 0, 1.0, np.minimum(1.0, np.abs(x)))
    return np.maximum(h * size, np.finfo(np.float64).tiny)


def complex_step_jacobian(f: Map, x: np.ndarray, h: float = 1e-30) -> np.ndarray:
    r"""Return all Jacobians (N, D', D) of f at x (N, D), to rounding, in one call of N·D rows.

    .. math:: J_{nij} = \operatorname{Im} f_i(x_n + i h_{nj} e_j) / h_{nj},
              \qquad h_{nj} = h \min(1, |x_{nj}|), \text{ or } h \text{ at } 0

    Row n·D + j of that call is row n of x with feature j moved: ``np.repeat(context, D, axis=0)``
    fits.

    Parameters
    ----------
    f : callable
        Maps complex128 rows (M, D) to complex128 rows (M, D').
    x : (N, D) real array

    Raises
    ------
    TypeError
        If f returns real numbers: it dropped the imaginary part, and the derivative with it.

    Examples
    --------
    >>> complex_step_jacobian(lambda x: x[:, :1] * x, np.array([[3.0, 5.0]]))
    array([[[6., 0.],
            [5., 3.]]])
    >>> complex_step_jacobian(np.log, np.array([[1e-40]]))
    array([[[1.e+40]]])
    """
    x = np.asarray(x, dtype=np.float64)
    steps = complex_steps(x, h)[:, None, :]
    J = _columns(f, x[:, None, :] + 1j * steps * np.eye(x.shape[1]))
    if not np.iscomplexobj(J):
        raise TypeError(f"expected complex results from complex rows, got dtype {J.dtype}")
    return J.imag / steps


def central_jacobian(f: Map, x: np.ndarray, h: float | None = None) -> np.ndarray:
    r"""Return all Jacobians (N, D', D) of f at the rows of x (N, D) by central differences.

    .. math:: J_{nij} = \frac{f_i(x_n + h_{nj} e_j) - f_i(x_n - h_{nj} e_j)}{2 h_{nj}}
              + O(h^2) + O(\epsilon / h),
              \qquad h_{nj} = h \max(1, |x_{nj}|)

    Parameters
    ----------
    f : callable
    x : (N, D) array
    h : float, optional
        ε^(1/3) of x's dtype if left out, which balances the two errors.

    Examples
    --------
    >>> central_jacobian(np.sin, np.zeros((1, 1))).round(8)
    array([[[1.]]])
    """
    x = np.asarray(x)
    h = float(np.cbrt(np.finfo(x.dtype).eps)) if h is None else h
    step = (h * np.maximum(1, np.abs(x)))[:, :, None] * np.eye(x.shape[1])
    up = (x[:, None, :] + step).astype(x.dtype)
    down = (x[:, None, :] - step).astype(x.dtype)
    # what was really moved, after rounding
    width = np.einsum("njj->nj", up.astype(np.float64) - down)
    return (_columns(f, up).astype(np.float64) - _columns(f, down)) / width[:, None, :]


def moved(f: Map, x: np.ndarray, other: np.ndarray) -> np.ndarray:
    r"""Return which outputs move, bit by bit, when an input of x takes its value in ``other``.

    .. math:: A_{ij} = \bigvee_b \big[\, f_i(x_b) \ne
              f_i(x_{b1}, \dots, \mathrm{other}_{bj}, \dots, x_{bD}) \,\big]

    Row j of a block of D rows has input j replaced; it is compared with row j of a block that is
    not, in a batch of the same size, because equal rows of one product need not be equal bit by
    bit, but rows at the same place are.

    Parameters
    ----------
    f : callable
    x, other : (B, D) arrays
        Base points and where their inputs go; the patterns of all are united.

    Returns
    -------
    (D', D) bool array

    Examples
    --------
    >>> moved(lambda z: z.cumsum(axis=1), np.zeros((1, 3)), np.ones((1, 3))).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """
    D = x.shape[1]
    together = max(1, AT_ONCE // D)
    found = []
    for k in range(0, len(x), together):
        safe_point()
        still = np.repeat(x[k : k + together, None, :], D, axis=1)
        changed = np.where(np.eye(D, dtype=bool), other[k : k + together, None, :], still)
        before, after = (np.asarray(f(z.reshape(-1, D))) for z in (still, changed))
        same = (before == after) | (np.isnan(before) & np.isnan(after))
        found.append(~same.reshape(-1, D, same.shape[1]).all(axis=0))
    return np.any(found, axis=0).T


def dependency_pattern(f: Map, x: np.ndarray, rng, step: float = 1.0) -> np.ndarray:
    r"""Return which outputs of f depend on which inputs at x, exactly, in two passes of D rows.

    .. math:: A_{ij} = \big[\, f_i(x) \ne f_i(x + \delta_j e_j) \,\big], \qquad
              \tfrac12 \le |\delta_j| / \mathrm{step} \le \tfrac32

    Bitwise equality has no tolerance: it sees a leak of weight 1e-9, and gives no false alarm. NaN
    would be the wrong probe, because 0 · NaN is NaN. A dependency can hide at one base point
    (behind a dead ReLU), so several may be given: their patterns are united.

    Parameters
    ----------
    f : callable
    x : (D,) or (B, D) array
        Base points.
    rng : seed or numpy.random.Generator
        Draws sizes and signs of the steps.
    step : float

    Examples
    --------
    >>> dependency_pattern(lambda z: z.cumsum(axis=1), np.zeros(3), rng=0).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """
    rng = np.random.default_rng(rng)
    x = np.atleast_2d(x)
    delta = step * rng.uniform(0.5, 1.5, x.shape) * rng.choice([-1.0, 1.0], x.shape)
    return moved(f, x, (x + delta).astype(x.dtype))
