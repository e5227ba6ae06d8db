r"""Compiled gradients on the staircase: the products of backpropagation, skipping what the masks forbid.

.. math::
    \frac{\partial \mathcal L}{\partial W_{rc}} = \sum_n d_{z, rn}\, a_{cn} \quad (c < \mathrm{prefix}_r), \qquad
    d_{a, cn} = \sum_{r:\, \mathrm{prefix}_r > c} W_{rc}\, d_{z, rn}

The definition is :class:`afnp.networks.layers.MaskedLinear`; this file does the same sums tile by
tile, with the register tile of :mod:`afnp.compiled.staircase`, on the tiles that the forward
product kept.

Letters: N rows, D features, C context inputs, K params a feature, T lanes a tile, M transforms; J
rows and I columns of a layer.
"""

from __future__ import annotations

import numpy as np

from afnp.compiled.simd.register_tile import fresh1, fresh4, jit, tile1, tile4
from afnp.compiled.tiles import (
    B_AT,
    COLUMNS,
    FIRST,
    ROWS,
    SKIP,
    W_AT,
    Z_AT,
    Stack,
    first_row_of_x,
    layer_views,
    load,
    params_of,
    plain,
    store,
    working_memory,
)
from afnp.compiled.univariate.dispatch import backward

__all__ = ["stack_backward"]


@jit
def _transpose(a, a_T):
    """Write a (I, T) into a_T (T, >= I), a few columns at a time so that whole cache lines are written."""
    for first in range(0, len(a), 16):
        last = min(first + 16, len(a))
        for n in range(a.shape[1]):
            for c in range(first, last):
                a_T[n, c] = a[c, n]


@jit
def _weights(d_z, a_T, prefix, d_W, patch):
    """Add d_z a^T into d_W: blocks of four rows and T columns, by way of ``patch`` where they stick out."""
    T, no_bias, r = d_z.shape[1], d_z[0], 0
    while r < len(d_z):
        last = min(r + 4, len(d_z))
        whole = r + 4 <= len(d_z)
        for c in range(0, prefix[last - 1], T):
            if whole and c + T <= prefix[r]:
                tile4(d_W[r:, c:], no_bias, d_z[r:], a_T[:, c:], T)
                continue
            patch[:] = 0
            if whole:
                tile4(patch, no_bias, d_z[r:], a_T[:, c:], T)
            else:
                for row in range(r, last):
                    tile1(patch[row - r :], no_bias, d_z[row:], a_T[:, c:], T)
            for row in range(r, last):
                for column in range(c, min(c + T, prefix[row])):
                    d_W[row, column] += patch[row - r, column - c]
        r = last


@jit
def _inputs(W, d_z, prefix, d_a):
    """Do d_a = (M ⊙ W)^T d_z: four columns over the rows that hear them all, and singly over the few others."""
    W_T, J, heard, zeros = W.T, len(W), 0, np.zeros(4, dtype=W.dtype)
    c = 0
    while c < len(d_a):
        last = min(c + 4, len(d_a))
        while heard < J and prefix[heard] < last:
            heard += 1
        if last - c == 4:
            fresh4(d_a[c:], zeros, W_T[c:, heard:], d_z[heard:], J - heard)
        else:
            for column in range(c, last):
                fresh1(d_a[column:], zeros, W_T[column:, heard:], d_z[heard:], J - heard)
        for column in range(c, last):
            riser = heard
            while riser > 0 and prefix[riser - 1] > column:
                riser -= 1
            tile1(d_a[column:], zeros, W_T[column:, riser:], d_z[riser:], heard - riser)
        c = last


@jit
def _activate_backward(kind, a, d_a):
    """Turn d_a into d_z: relu lets pass where a > 0, tanh multiplies by 1 - a²."""
    zero, one = a.dtype.type(0), a.dtype.type(1)
    for r in range(len(a)):
        if kind == 0:
            for n in range(a.shape[1]):
                d_a[r, n] = d_a[r, n] if a[r, n] > zero else zero
        else:
            for n in range(a.shape[1]):
                d_a[r, n] *= one - a[r, n] * a[r, n]


@jit
def _network_backward(theta, stack, m, tile, d, d_inputs, d_theta, a_T, patch):
    """Run the layers from the last: ``d`` holds d_z of each in the rows where ``tile`` holds z."""
    table = stack.table[m]
    for l in range(len(table) - 1, -1, -1):
        row = table[l]
        W, _, _, a = layer_views(theta, row, tile)
        d_W = d_theta[row[W_AT] : row[B_AT]].reshape(row[ROWS], row[COLUMNS])
        d_z = d[row[Z_AT] : row[Z_AT] + row[ROWS]]
        prefix = stack.prefix[m, row[FIRST] : row[FIRST] + row[ROWS]]
        for r in range(len(d_z)):
            d_theta[row[B_AT] + r] += d_z[r].sum()
        _transpose(a, a_T)
        _weights(d_z, a_T, prefix, d_W, patch)
        if l == 0:
            _inputs(W, d_z, prefix, d_inputs)
            break
        below = table[l - 1]
        d_below = d[below[Z_AT] : below[Z_AT] + below[ROWS]]
        _inputs(W, d_z, prefix, d_below)
        _activate_backward(stack.activation, a, d_below)
        if l + 1 < len(table) and table[l + 1, SKIP]:
            d_below += d[table[l + 1, Z_AT] : table[l + 1, Z_AT] + table[l + 1, ROWS]]


@jit
def _add_heard(stack, tile, d_inputs, order, d_x):
    """Add what came back through the network: d_x += d_input, for angles d_sin cos x - d_cos sin x."""
    C, E = stack.context, stack.embedding
    for i in range((len(d_inputs) - C) // E):
        if E == 1:
            d_x[order[i]] += d_inputs[C + i]
        else:
            c, s = C + 2 * i, C + 2 * i + 1
            d_x[order[i]] += d_inputs[s] * tile[c] - d_inputs[c] * tile[s]


@jit
def _backward(theta, stack, tau, tiles, d_u, d_log_det, d_x, d_theta, d_values):
    T, D, x_at, fixed = tiles.shape[3], d_u.shape[1], first_row_of_x(stack), stack.fixed
    d, heard = np.empty_like(tiles[0, 0]), stack.table[0, 0, COLUMNS]
    d_inputs, d_direct = np.empty((heard, T), dtype=d.dtype), np.empty((D, T), dtype=d.dtype)
    a_T = np.zeros((T, stack.table[:, :, COLUMNS].max() + T), dtype=d.dtype)
    patch = np.empty((4, T), dtype=d.dtype)
    for k in range(len(d_values)):
        load(d_values[k, :D], d_u, k * T)
        load(d_values[k, D:], d_log_det, k * T)
    for m in range(len(stack.table) - 1, -1, -1):
        order = stack.order[m]
        for k in range(len(d_values)):
            tile, d_log = tiles[m, k], d_values[k, D]
            for i in range(fixed, D):
                h, d_h, d_out = (
                    params_of(stack, m, tile, i),
                    params_of(stack, m, d, i),
                    d_values[k, order[i]],
                )
                backward(tau, h, tile[x_at + i], d_out, d_log, d_h, d_direct[i])
            _network_backward(theta, stack, m, tile, d, d_inputs, d_theta, a_T, patch)
            for i in range(fixed, D):
                d_values[k, order[i]] = d_direct[i]
            _add_heard(stack, tile, d_inputs, order, d_values[k])
    for k in range(len(d_values)):
        store(d_values[k, :D], d_x, k * T)


def stack_backward(theta, stack: Stack, tau, tiles, d_u, d_log_det, d_theta) -> np.ndarray:
    """Add the parameters' gradient into d_theta (P,); return d_x (N, D)."""
    d_u, d_log_det = plain(d_u), plain(d_log_det)[:, None]
    (N, D), T = d_u.shape, tiles.shape[3]
    d_x = np.empty_like(d_u)
    d_values = working_memory("d_values", (-(-N // T), D + 1, T), d_u.dtype)
    _backward(theta, stack, tau, tiles, d_u, d_log_det, d_x, d_theta, d_values)
    return d_x
