r"""Probabilistic forecasts: paths drawn from a conditional flow, and how good they are.

.. math:: x_{t+k} \sim p_\theta(\,\cdot \mid x_{t+k-W}, \dots, x_{t+k-1}), \qquad
          k = 0, 1, \dots, S - 1

Each drawn value moves into the window of the next. A flow of one feature with the last W values as
its context is all that this needs; :mod:`afnp.data.series` cuts the windows that it is trained on.

Letters: N forecasts, W values of a window, S steps, M paths or samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from afnp.bases import StandardNormal
from afnp.inputs import check_rows, generator, integer, plain_array
from afnp.univariate.normal import normal_tail

if TYPE_CHECKING:
    from afnp.flow import Flow

__all__ = ["crps", "pit", "sample_paths"]


def sample_paths(flow: Flow, history, steps: int, paths: int = 100, rng=0) -> np.ndarray:
    r"""Draw futures from a flow that gives the next value's density, conditional on a window.

    .. math:: x_{t+k} \sim p_\theta(\,\cdot \mid x_{t+k-W}, \dots, x_{t+k-1})

    Parameters
    ----------
    flow : Flow
        Of one feature, with a context of W.
    history : (N, T) array
        What is known when each forecast is made; its last W values count.
    steps, paths : int
        S and M.
    rng : seed or Generator

    Returns
    -------
    (N, M, S) array

    Raises
    ------
    ValueError
        If the flow has no window or more than one feature, or the history is shorter than the
        window.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(1, hidden=(4,), transforms=1, context=3)
    >>> sample_paths(flow, [[0.0, 1.0, 2.0]], steps=5, paths=2).shape
    (1, 2, 5)
    """
    W = _window(flow)
    S, M = integer("steps", steps, least=1), integer("paths", paths, least=1)
    known = check_rows(history, None, np.float64, "history")  # the flow says what it rounds
    if known.shape[1] < W:
        raise ValueError(f"history: the flow's window is {W} values long, got {known.shape[1]}")
    rng = generator("rng", rng)
    line = np.empty((len(known) * M, W + S))
    line[:, :W] = np.repeat(known[:, -W:], M, axis=0)
    for k in range(S):
        line[:, W + k] = flow.sample(len(line), rng, context=line[:, k : W + k])[:, 0]
    return line[:, W:].reshape(len(known), M, S)


def pit(flow: Flow, x, context=None) -> np.ndarray:
    r"""Return each value's place in its predictive distribution, (N,): uniform if that is right.

    .. math:: F(x \mid c) = \int_{-\infty}^{x} p(x' \mid c)\, dx' = \Phi(\pm u(x; c))

    u rises with x, or falls with it where a linear layer turns the axis (then the sign is -), so
    the probability integral transform is exact.

    Parameters
    ----------
    flow : Flow
        Of one feature and standard normal noise.
    x : (N, 1) array
    context : (N, C) array, optional

    Examples
    --------
    >>> import afnp
    >>> pit(afnp.maf(1, hidden=(4,), transforms=1), [[0.0], [1.0]]).round(3)
    array([0.5  , 0.841])
    """
    if flow.features != 1 or not isinstance(flow.base, StandardNormal):
        raise ValueError(
            "flow: expected one feature and standard normal noise, "
            f"got {flow.features} and {type(flow.base).__name__}"
        )
    u = flow.normalize(x, context)[0][:, 0].astype(np.float64)
    if len(u):
        u = u * _direction(flow, None if context is None else np.asarray(context)[:1])
    below = np.exp(normal_tail(np.abs(u))[0])
    return np.where(u > 0, 1 - below, below)


def crps(samples: ArrayLike, x: ArrayLike) -> np.ndarray:
    r"""Score forecasts given as samples by the continuous ranked probability; less is better.

    .. math:: \mathrm{CRPS}(F, x) = \int \big(F(s) - 1[s \ge x]\big)^2 ds
              = \mathbb E|X - x| - \tfrac12\, \mathbb E|X - X'|

    In the unit of x; for a forecast without doubt it is the absolute error (Gneiting and Raftery
    2007, doi 10.1198/016214506000001437). The second mean is taken over pairs of different samples,
    so that more samples do not make a forecast look better.

    Parameters
    ----------
    samples : (..., M) array
        At least two.
    x : (...) array
        What came.

    Returns
    -------
    (...) array

    Raises
    ------
    ValueError
        If the shapes do not fit, or a value is not a finite number (names its index).

    Examples
    --------
    >>> print(crps([[0.0, 1.0], [0.0, 1.0]], [0.5, 3.0]))
    [0. 2.]
    """
    X, x = _series("samples", samples), _series("x", x)
    if X.ndim < 1 or X.shape[:-1] != x.shape or X.shape[-1] < 2:
        raise ValueError(
            f"samples: expected shape {x.shape} and an axis of 2 or more, got {X.shape}"
        )
    X, M = np.sort(X, axis=-1), X.shape[-1]
    # sum over pairs |X - X'| = sum_m (2 m - M + 1) X_(m), in increasing order, m from 0
    spread = X @ (2 * np.arange(M) - M + 1) / (M * (M - 1))
    return np.abs(X - x[..., None]).mean(axis=-1) - spread


def _direction(flow: Flow, context) -> int:
    """Return 1 if x rises with u, -1 if it falls: the same everywhere, as the map is one to one."""
    low, high = flow.generate([[-1.0], [1.0]], context)[0][:, 0]
    if low == high:
        raise FloatingPointError("flow: noise of -1 and of 1 give the same x; it has no width")
    return 1 if low < high else -1


def _series(name: str, values: ArrayLike) -> np.ndarray:
    """Return an array of finite float64 of any shape, or say where it is none."""
    values = plain_array(values, name)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected real numbers, got dtype {values.dtype}")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        at = tuple(bad[0].tolist())
        raise ValueError(f"{name}: expected finite numbers, got {values[at]} at index {at}")
    return values.astype(np.float64)


def _window(flow: Flow) -> int:
    if flow.features != 1 or not flow.context:
        raise ValueError(
            f"flow: expected one feature and a window as its context, got {flow.features} and a "
            "context of "
            f"{flow.context}"
        )
    return flow.context
