r"""Proof that an imported flow is the flow it was: both directions, row by row.

.. math:: \max_n \|x_n - x'_n\|_\infty \le \varepsilon\,(1 + \max |x'|), \qquad
          \max_n |\log p(x'_n) - \log p'(x'_n)| \le \varepsilon\,(1 + \max |\log p'|)

x and p are ours, x' and p' theirs, from the same noise and the same contexts: each library computes
both sides for itself, so that a parameter read wrongly shows itself.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from afnp.flow import Flow

__all__ = ["ROWS", "TOLERANCE", "prove"]

ROWS = 64
"""N: how many rows are compared."""
TOLERANCE = {"float64": 1e-6, "float32": 1e-4}
"""The difference allowed, in units of one plus the largest number that is compared."""


def prove(
    flow: Flow,
    log_prob: Callable[[np.ndarray, np.ndarray | None], np.ndarray],
    generate: Callable[[np.ndarray, np.ndarray | None], np.ndarray],
    library: str,
) -> None:
    """Compare a flow with the functions of the library that it came from, or goes to.

    Parameters
    ----------
    flow : Flow
        Ours.
    log_prob : function of x (N, D) and context (N, C) or None
        Theirs; returns (N,), nats.
    generate : function of u (N, D) and context (N, C) or None
        Theirs; maps noise of ``flow.base`` to data (N, D).
    library : str
        Its name, for the error.

    Raises
    ------
    ArithmeticError
        Where the two part: in samples or in log-densities, the row, both values, and by how much.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(2, hidden=(4,), transforms=1)
    >>> prove(flow, flow.log_prob, lambda u, context: flow.generate(u)[0], "itself")
    >>> prove(flow, flow.log_prob, lambda u, context: abs(0 * u), "another")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ArithmeticError: samples: row ... here and [0. 0.] in another: they part by ...
    """
    u, context = _noise(flow)
    x = np.asarray(generate(u, context))
    tolerance = TOLERANCE[flow.dtype.name]
    _compare("samples", flow.generate(u, context)[0], x, tolerance, library)
    expected = np.asarray(log_prob(x, context))
    _compare("log_prob", flow.log_prob(x, context), expected, tolerance, library)


def _noise(flow: Flow) -> tuple[np.ndarray, np.ndarray | None]:
    """Draw u (N, D) and contexts (N, C) in the spread that the flow expects, always the same."""
    rng = np.random.default_rng(0)
    u = flow.base.sample(flow.own.base, ROWS, rng, flow.dtype)
    if not flow.context:
        return u, None
    mean, std = flow.config().get("context_scale", (0.0, 1.0))
    context = np.asarray(mean) + np.asarray(std) * rng.standard_normal((ROWS, flow.context))
    return u, context.astype(flow.dtype)


def _compare(
    what: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float, library: str
) -> None:
    if ours.shape != theirs.shape:
        raise ArithmeticError(f"{what}: expected {ours.shape}, got {theirs.shape} from {library}")
    difference = np.abs(ours.astype(np.float64) - theirs)
    allowed = tolerance * (1 + np.abs(theirs).max())
    if not difference.max() <= allowed:
        row = int(np.argmax(difference.reshape(ROWS, -1).max(axis=1)))
        raise ArithmeticError(
            f"{what}: row {row} is {_said(ours[row])} here and {_said(theirs[row])} in {library}: "
            f"they part by {difference.max():.2g}, expected at most {allowed:.2g}"
        )


def _said(values: np.ndarray) -> str:
    return np.array2string(np.asarray(values), precision=6, threshold=6)
