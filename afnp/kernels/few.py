r"""A handful of samples: the same product and solve, where the cost is reading the weights once.

.. math:: z_{nr} = b_r + \sum_{c < \mathrm{prefix}_r} W_{rc}\, a_{nc}

With one sample there is nothing to fill the lanes of a tile, but a row of W is contiguous: the sum itself runs
through the vector registers. Every weight below the staircase is read once from memory, for all samples.

Letters: N samples, D features, C context inputs, K numbers a feature.
"""

from __future__ import annotations

import numpy as np

from afnp.kernels.compiled import (
    B_AT,
    COLUMNS,
    FIRST,
    IN_AT,
    ROWS,
    SKIP,
    W_AT,
    Z_AT,
    Plan,
    _affine_generate,
    _affine_normalize,
    _run,
)
from afnp.kernels.tile import jit, tanh

__all__ = ["FEW", "product", "solve"]

FEW = 8
"""Up to so many samples this file is faster than tiles."""


@jit
def _rows(theta, plan, l, a, first, last):
    """Compute rows first..last-1 of layer l for all samples: z, and its activation; ``a`` is (N, tile rows)."""
    row, zero = plan.table[l], a.dtype.type(0)
    W = theta[row[W_AT] : row[B_AT]].reshape(row[ROWS], row[COLUMNS])
    for r in range(first, last):
        heard = W[r, : plan.prefix[row[FIRST] + r]]
        for n in range(len(a)):
            known = a[n, row[IN_AT] : row[IN_AT] + len(heard)]
            total = zero
            for c in range(len(heard)):
                total += heard[c] * known[c]
            total += theta[row[B_AT] + r]
            if row[SKIP]:
                total += a[n, plan.table[l - 2, Z_AT] + r]
            a[n, row[Z_AT] + r] = total
            if l + 1 < len(plan.table):
                active = max(total, zero) if plan.activation == 0 else tanh(total)
                a[n, plan.table[l + 1, IN_AT] + r] = active


@jit
def _product(theta, plan, bound, context, x, order, u, log_det, a):
    C, D, K = context.shape[1], len(order), plan.numbers
    out = np.empty(len(x), dtype=x.dtype)
    a[:, :C] = context
    for i in range(D):
        a[:, C + i] = x[:, order[i]]
    for l in range(len(plan.table)):
        _rows(theta, plan, l, a, 0, plan.table[l, ROWS])
    log_det[:] = 0
    for i in range(D):
        at = plan.table[-1, Z_AT] + i * K
        _affine_normalize(a[:, at : at + K].T, a[:, C + i], out, log_det, bound)
        u[:, order[i]] = out


@jit
def _solve(theta, plan, bound, context, u, order, x, log_det, a):
    C, D, K = context.shape[1], len(order), plan.numbers
    a[:, :C] = context
    log_det[:] = 0
    for i in range(D):
        for l in range(len(plan.table)):
            _rows(theta, plan, l, a, plan.start[l, i], plan.start[l, i + 1])
        at = plan.table[-1, Z_AT] + i * K
        _affine_generate(a[:, at : at + K].T, u[:, order[i]], a[:, C + i], log_det, bound)
        x[:, order[i]] = a[:, C + i]


def product(theta, plan: Plan, bound: float, context, x, order) -> tuple[np.ndarray, np.ndarray]:
    """Map data x (N, D) to noise u (N, D) and log|det du/dx| (N,)."""
    return _run(_product, theta, plan, bound, context, x, order, np.empty((len(x), plan.tile_rows), x.dtype))


def solve(theta, plan: Plan, bound: float, context, u, order) -> tuple[np.ndarray, np.ndarray]:
    """Map noise u (N, D) to data x (N, D) and log|det dx/du| (N,)."""
    return _run(_solve, theta, plan, bound, context, u, order, np.empty((len(u), plan.tile_rows), u.dtype))
