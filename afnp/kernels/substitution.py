r"""Forward substitution: sample an autoregressive flow by evaluating each hidden unit once.

.. math::
    z^{(l)}_r &= b^{(l)}_r + \sum_{c < \mathrm{prefix}^{(l)}_r} W^{(l)}_{rc}\, a^{(l-1)}_c
                 \;\;\big(+\; z^{(l-2)}_r \text{ where layer } l \text{ closes a residual block}\big),
    \qquad a^{(l)}_r = \phi(z^{(l)}_r)

    x_i &= \tau(u_i;\, h_i), \qquad h_i = \text{rows } iK \dots iK + K - 1 \text{ of the last } z

Density knows all of x, and is a triangular *product*. Sampling learns x one feature at a time, and is a
triangular *solve*: when x_i becomes known, so do the hidden units of degree i, and with them the parameters of
feature i + 1. The textbook loop runs the whole network D times, D times the work of one density pass; here each
row of each staircase is multiplied once, which is the work of one density pass. What stays sequential is the
*depth*, D steps, not the *work*: TRSM beside TRMM.

Prior art: the running pre-activations of NADE (arXiv 1605.02226), NetKet's FastMaskedDense layers, and the
caching of causal convolutions in Fast WaveNet (arXiv 1611.09482, 1704.06001).

Letters: N samples, D features, C context inputs, K numbers a feature, L layers; J_l rows in layer l.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["Staircase", "substitute"]


class Staircase(NamedTuple):
    """One masked layer of a network whose units are sorted by degree."""

    W: np.ndarray
    """(J, I) weights; only the first ``prefix[r]`` of row r are read."""
    b: np.ndarray
    """(J,) biases."""
    prefix: np.ndarray
    """(J,) how many units of the layer below each row hears."""
    start: np.ndarray
    """(D + 1,) rows start[i] to start[i + 1] become known when i features are: units of degree i, or the
    output rows of feature i."""
    skip: bool
    """Whether the layer adds the pre-activation of two layers below (the end of a residual block)."""


def substitute(
    layers: list[Staircase],
    activation: Callable[[np.ndarray], np.ndarray],
    generate: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    u: np.ndarray,
    context: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Map noise to data, feature by feature, in the generation order.

    Parameters
    ----------
    layers : list of Staircase
        From the input side; the last one gives K numbers a feature.
    activation : callable
        φ, between layers.
    generate : callable
        τ: (h (N, K), u (N,)) to (x (N,), log dx/du (N,)).
    u : (N, D) array
    context : (N, C) array

    Returns
    -------
    x : (N, D) array
    log_det : (N,) array
        Sum of the log-derivatives, nats.
    """
    (N, D), C = u.shape, context.shape[1]
    z = [np.empty((len(layer.b), N), dtype=u.dtype) for layer in layers]
    a = [np.empty((C + D, N), dtype=u.dtype), *(np.empty_like(z_l) for z_l in z[:-1])]
    a[0][:C] = context.T
    log_det = np.zeros(N, dtype=u.dtype)
    for i in range(D):
        for l, (W, b, prefix, start, skip) in enumerate(layers):
            rows = slice(start[i], start[i + 1])
            if rows.start == rows.stop:
                continue
            known = prefix[rows.start]
            z[l][rows] = W[rows, :known] @ a[l][:known] + b[rows, None]
            if skip:
                z[l][rows] += z[l - 2][rows]
            if l < len(layers) - 1:
                a[l + 1][rows] = activation(z[l][rows])
        h = z[-1][start[i] : start[i + 1]].T
        a[0][C + i], log_derivative = generate(h, u[:, i])
        log_det += log_derivative
    return np.ascontiguousarray(a[0][C:].T), log_det
