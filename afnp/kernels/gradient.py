r"""Compiled gradients on the staircase: the products of backpropagation, skipping what the masks forbid.

.. math::
    \frac{\partial \mathcal L}{\partial W_{rc}} = \sum_n d_{z, rn}\, a_{cn} \quad (c < \mathrm{prefix}_r), \qquad
    d_{a, cn} = \sum_{r:\, \mathrm{prefix}_r > c} W_{rc}\, d_{z, rn}

The definition is :class:`afnp.layers.MaskedLinear`; this file does the same sums tile by tile, with the register
tile of :mod:`afnp.kernels.compiled`, on the tiles that the forward product kept.

Letters: N rows, D features, C context inputs, K numbers a feature, T lanes a tile, J rows and I columns of a layer.
"""

from __future__ import annotations

import numpy as np

from afnp.kernels.compiled import (
    B_AT,
    COLUMNS,
    FIRST,
    ROWS,
    SKIP,
    W_AT,
    Z_AT,
    Plan,
    _layer,
    plain,
)
from afnp.kernels.tile import exp, jit, tanh, tile1, tile4

__all__ = ["backward"]


@jit
def _affine_backward(h, x, d_u, d_log, d_h, d_x, bound):
    """Do d_x = d_u e^-alpha, d_mu = -d_x, d_a = (-d_u u - d_log)(1 - t²); see :mod:`afnp.univariate.affine`."""
    one = x.dtype.type(1)
    for n in range(x.size):
        t = tanh(h[1, n] / bound)
        s = exp(-bound * t)
        d_x[n] = d_u[n] * s
        d_h[0, n] = -d_x[n]
        d_h[1, n] = (-d_u[n] * (x[n] - h[0, n]) * s - d_log[n]) * (one - t * t)


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
    T = d_z.shape[1]
    r = 0
    while r < len(d_z):
        last = min(r + 4, len(d_z))
        whole = r + 4 <= len(d_z)
        for c in range(0, prefix[last - 1], T):
            if whole and c + T <= prefix[r]:
                tile4(d_W[r:, c:], d_z[r:], a_T[:, c:], T)
                continue
            patch[:] = 0
            if whole:
                tile4(patch, d_z[r:], a_T[:, c:], T)
            else:
                for row in range(r, last):
                    tile1(patch[row - r :], d_z[row:], a_T[:, c:], T)
            for row in range(r, last):
                for column in range(c, min(c + T, prefix[row])):
                    d_W[row, column] += patch[row - r, column - c]
        r = last


@jit
def _inputs(W, d_z, prefix, d_a):
    """Do d_a = (M ⊙ W)^T d_z: four columns over the rows that hear them all, and singly over the few others."""
    d_a[:] = 0
    W_T, J, heard = W.T, len(W), 0
    c = 0
    while c < len(d_a):
        last = min(c + 4, len(d_a))
        while heard < J and prefix[heard] < last:
            heard += 1
        if last - c == 4:
            tile4(d_a[c:], W_T[c:, heard:], d_z[heard:], J - heard)
        else:
            for column in range(c, last):
                tile1(d_a[column:], W_T[column:, heard:], d_z[heard:], J - heard)
        for column in range(c, last):
            riser = heard
            while riser > 0 and prefix[riser - 1] > column:
                riser -= 1
            tile1(d_a[column:], W_T[column:, riser:], d_z[riser:], heard - riser)
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
def _network_backward(theta, plan, tile, d, d_inputs, d_theta, a_T, patch):
    """Run the layers from the last: ``d`` holds d_z of each in the rows where ``tile`` holds z."""
    table = plan.table
    for l in range(len(table) - 1, -1, -1):
        row = table[l]
        W, _, a = _layer(theta, row, tile)
        d_W = d_theta[row[W_AT] : row[B_AT]].reshape(row[ROWS], row[COLUMNS])
        d_z = d[row[Z_AT] : row[Z_AT] + row[ROWS]]
        prefix = plan.prefix[row[FIRST] : row[FIRST] + row[ROWS]]
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
        _activate_backward(plan.activation, a, d_below)
        if l + 1 < len(table) and table[l + 1, SKIP]:
            d_below += d[table[l + 1, Z_AT] : table[l + 1, Z_AT] + table[l + 1, ROWS]]


@jit
def _backward(theta, plan, bound, tiles, order, d_u, d_log_det, d_x, d_theta):
    T, D, K = tiles.shape[2], len(order), plan.numbers
    C, at = plan.table[0, COLUMNS] - D, plan.table[-1, Z_AT]
    d = np.empty_like(tiles[0])
    d_inputs, d_direct = np.empty((C + D, T), dtype=d.dtype), np.empty((D, T), dtype=d.dtype)
    a_T = np.zeros((T, plan.table[:, COLUMNS].max() + T), dtype=d.dtype)
    patch, d_out, d_log = np.empty((4, T), dtype=d.dtype), np.empty(T, dtype=d.dtype), np.empty(T, dtype=d.dtype)
    for k in range(len(tiles)):
        tile, begin = tiles[k], k * T
        count = min(T, len(d_u) - begin)
        d_out[:] = 0
        d_log[:] = 0
        d_log[:count] = d_log_det[begin : begin + count]
        for i in range(D):
            for n in range(count):
                d_out[n] = d_u[begin + n, order[i]]
            h, d_h = tile[at + i * K : at + i * K + K], d[at + i * K : at + i * K + K]
            _affine_backward(h, tile[C + i], d_out, d_log, d_h, d_direct[i], bound)
        _network_backward(theta, plan, tile, d, d_inputs, d_theta, a_T, patch)
        for i in range(D):
            for n in range(count):
                d_x[begin + n, order[i]] = d_direct[i, n] + d_inputs[C + i, n]


def backward(theta, plan: Plan, bound: float, tiles, order, d_u, d_log_det, d_theta) -> np.ndarray:
    """Add the parameters' gradient into d_theta (P,); return d_x (N, D)."""
    d_u, d_log_det = plain(d_u), plain(d_log_det)
    d_x = np.empty_like(d_u)
    _backward(theta, plan, d_u.dtype.type(bound), tiles, order, d_u, d_log_det, d_x, d_theta)
    return d_x
