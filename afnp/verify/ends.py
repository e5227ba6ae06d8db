r"""Ends of data: what lies so far out that no number holds it.

.. math:: x = l + e^v, \qquad \log x_{\min} < v < \log x_{\max}

Behind an open bound data are exponentials: noise that is not far out may have an image that is
infinite, or that is the end itself. That is how numbers are, and no defect.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from afnp.flow import Flow
from afnp.transforms import Bounds

if TYPE_CHECKING:
    from afnp.verify.subject import Subject

__all__ = ["between", "beyond"]

HELD = 0.9
"""Exponents are held up to this part of the largest one."""

ROOM = 1e-3
"""Data lie below this part of the largest number."""


def beyond(subject: Subject, u: np.ndarray, context: np.ndarray) -> np.ndarray:
    """Return which rows of noise u (N, D) have an image behind bounds that no number holds, (N,).

    What the layers behind the bounds give is asked in float64; none of plain functions.
    """
    far = np.zeros(len(u), dtype=bool)
    flow = subject.flow
    first = None if flow is None else _bounds_of(flow)
    if flow is None or first is None:
        return far
    v, c = u.astype(np.float64), subject.points.inner(context)
    parameters = flow.split(flow.theta.astype(np.float64))
    pairs = list(zip(flow.layers, parameters, strict=True))
    with np.errstate(all="ignore"):
        for layer, p in reversed(pairs[first + 1 :]):
            v = layer.generate(p, v, c)[0]
    most = -HELD * np.log(float(np.finfo(subject.data_dtype).tiny))
    low, high = flow.layers[first].ends  # type: ignore[misc]
    return (np.abs(v[:, np.isfinite(low) | np.isfinite(high)]) > most).any(axis=1)


def between(flow: Flow) -> tuple[np.ndarray, np.ndarray]:
    """Return between what numbers (D,) data lie: the last ones inside bounds, and none huge."""
    dtype = flow.data_dtype
    most = np.full(flow.features, ROOM * float(np.finfo(dtype).max))
    if not flow.layers or not isinstance(flow.layers[0], Bounds):
        return -most, most
    low, high = (end.astype(dtype) for end in flow.layers[0].ends)
    inside = np.nextafter(low, np.inf, dtype=dtype), np.nextafter(high, -np.inf, dtype=dtype)
    return np.maximum(inside[0], -most), np.minimum(inside[1], most)


def _bounds_of(flow: Flow) -> int | None:
    """Return where the flow has bounds, if it has any."""
    return next((k for k, layer in enumerate(flow.layers) if isinstance(layer, Bounds)), None)
