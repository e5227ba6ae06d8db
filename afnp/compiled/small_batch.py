r"""A handful of samples: the same product and solve, where the cost is reading the weights once.

.. math:: z_{nr} = b_r + \sum_{c < \mathrm{prefix}_r} W_{rc}\, a_{nc}

With one sample there is nothing to fill the lanes of a tile, but a row of W is contiguous: the sum
itself runs through the vector registers. Every weight below the staircase is read once from memory,
for all samples.

Letters: N samples, D features, C context inputs, K params a feature.
"""

from __future__ import annotations

import numpy as np

from afnp.compiled.simd.register_tile import fetch, jit, tanh
from afnp.compiled.threads import FEW
from afnp.compiled.tiles import (
    B_AT,
    COLUMNS,
    FIRST,
    IN_AT,
    ROWS,
    SKIP,
    W_AT,
    Z_AT,
    Stack,
    embed,
    first_row_of_x,
    plain,
)
from afnp.compiled.univariate.dispatch import generate, normalize

__all__ = ["FEW", "product", "solve"]


@jit
def _rows(theta, stack, m, l, a, first, last):
    """Compute rows first..last-1 of layer l for all samples: z, and its activation; ``a`` is (N, tile rows)."""
    table = stack.table[m]
    row, zero = table[l], a.dtype.type(0)
    W = theta[row[W_AT] : row[B_AT]].reshape(row[ROWS], row[COLUMNS])
    for r in range(first, last):
        heard, following = W[r, : stack.prefix[m, row[FIRST] + r]], r + last - first
        if following < len(W):
            fetch(W[following], len(heard))  # type: ignore[call-arg]
        for n in range(len(a)):
            known = a[n, row[IN_AT] : row[IN_AT] + len(heard)]
            total = zero
            for c in range(len(heard)):
                total += heard[c] * known[c]
            total += theta[row[B_AT] + r]
            if row[SKIP]:
                total += a[n, table[l - 2, Z_AT] + r]
            a[n, row[Z_AT] + r] = total
            if l + 1 < len(table):
                active = max(total, zero) if stack.activation == 0 else tanh(total)
                a[n, table[l + 1, IN_AT] + r] = active


@jit
def _params_of(stack, m, a, i):
    """Return h (K, N) of the i-th feature."""
    at = stack.table[m, -1, Z_AT] + (i - stack.fixed) * stack.params
    return a[:, at : at + stack.params].T


@jit
def _product(theta, stack, tau, context, x, log_det, a):
    """Replace x (N, D) by u."""
    C, D, x_at = stack.context, x.shape[1], first_row_of_x(stack)
    a[:, :C] = context
    log_det[:] = 0
    for m in range(len(stack.table)):
        order = stack.order[m]
        for i in range(D):
            a[:, x_at + i] = x[:, order[i]]
        embed(stack, a.T, 0, D)
        for l in range(stack.table.shape[1]):
            _rows(theta, stack, m, l, a, 0, stack.table[m, l, ROWS])
        for i in range(stack.fixed, D):
            normalize(tau, _params_of(stack, m, a, i), a[:, x_at + i], x[:, order[i]], log_det)


@jit
def _solve(theta, stack, tau, context, u, log_det, a):
    """Replace u (N, D) by x."""
    C, D, fixed, x_at = stack.context, u.shape[1], stack.fixed, first_row_of_x(stack)
    a[:, :C] = context
    log_det[:] = 0
    for m in range(len(stack.table) - 1, -1, -1):
        order, start = stack.order[m], stack.start[m]
        for i in range(fixed):
            a[:, x_at + i] = u[:, order[i]]
        embed(stack, a.T, 0, fixed)
        for i in range(fixed, D):
            for l in range(stack.table.shape[1]):
                first, last = (
                    (start[l, i], start[l, i + 1]) if fixed == 0 else (0, stack.table[m, l, ROWS])
                )
                if fixed == 0 or i == fixed:
                    _rows(theta, stack, m, l, a, first, last)
            generate(tau, _params_of(stack, m, a, i), u[:, order[i]], a[:, x_at + i], log_det)
            if fixed == 0:
                embed(stack, a.T, i, i + 1)
        for i in range(fixed, D):
            u[:, order[i]] = a[:, x_at + i]


def _run(kernel, theta, stack: Stack, tau, context, rows) -> tuple[np.ndarray, np.ndarray]:
    result, log_det = np.array(rows, order="C"), np.empty(len(rows), dtype=rows.dtype)
    kernel(
        theta,
        stack,
        tau,
        plain(context),
        result,
        log_det,
        np.empty((len(rows), stack.tile_rows), rows.dtype),
    )
    return result, log_det


def product(theta, stack: Stack, tau, context, x) -> tuple[np.ndarray, np.ndarray]:
    """Map data x (N, D) to noise u (N, D) and log|det du/dx| (N,)."""
    return _run(_product, theta, stack, tau, context, x)


def solve(theta, stack: Stack, tau, context, u) -> tuple[np.ndarray, np.ndarray]:
    """Map noise u (N, D) to data x (N, D) and log|det dx/du| (N,)."""
    return _run(_solve, theta, stack, tau, context, u)
