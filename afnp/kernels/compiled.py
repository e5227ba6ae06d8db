r"""Compiled staircases: the triangular product (density) and the triangular solve (sampling), side by side.

.. math::
    \text{product:} \quad z_r &= b_r + \sum_{c < \mathrm{prefix}_r} W_{rc}\, a_c \quad \text{for all rows at once}

    \text{solve:} \quad &\text{the same sums, but rows of degree } i \text{ when } x_1 \dots x_i \text{ are known}

Both do the same arithmetic on the same numbers: :mod:`afnp.kernels.substitution` says why, and is the definition
that this file must match. The solve is the blocked algorithm of linear algebra: for a block of features, one
product brings in everything known before the block, and a short loop finishes it feature by feature.

Samples are cut into tiles of T lanes and threads take whole tiles, so that results do not depend on the number of
threads. A tile keeps every unit of the network as a row of T contiguous numbers, and all arithmetic of consequence
runs through one register tile: four rows of W times T lanes, the sums held in vector registers.

Letters: N samples, D features, C context inputs, K numbers a feature, T lanes a tile.
"""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

import numpy as np

from afnp.kernels.tile import add_product, exp, jit, lanes, tanh

__all__ = ["Plan", "plan_of", "product", "product_keeping_tiles", "solve"]


# ---- the network as tables of integers -----------------------------------------------------------------------

W_AT, B_AT, ROWS, COLUMNS, IN_AT, Z_AT, FIRST, SKIP = range(8)


class Plan(NamedTuple):
    """Where everything of a masked network lies: in the parameter vector and in a tile's rows."""

    table: np.ndarray
    """(L, 8): offsets of W and b in theta, rows and columns of W, first tile row of the layer's input and of its
    z, offset into ``prefix``, and whether the layer adds the z of two layers below."""
    prefix: np.ndarray
    start: np.ndarray
    """(L, D + 1), see :class:`afnp.kernels.substitution.Staircase`."""
    numbers: int
    tile_rows: int
    block: int
    """Features a block of the solve."""
    activation: int
    """0 for relu, 1 for tanh."""


def plan_of(network) -> Plan:
    """Lay out a masked network whose parameters are W and b of each layer in turn; it keeps the plan."""
    if (plan := getattr(network, "_plan", None)) is None:
        plan = network._plan = _plan(network)
    return plan


def _plan(network) -> Plan:
    table, theta_at, in_at, first = [], 0, 0, 0
    tile_at = network.context + network.features
    for linear, skip in zip(network.linears, network.skips, strict=True):
        J, I = linear.shapes[linear.W]
        table.append([theta_at, theta_at + J * I, J, I, in_at, tile_at, first, skip])
        # without residual blocks nobody needs z again, and its activation takes its place
        in_at = tile_at + J if network.residual else tile_at
        theta_at, first, tile_at = theta_at + J * I + J, first + J, in_at + J
    narrowest = min((row[ROWS] for row in table[:-1]), default=network.features)
    return Plan(
        table=np.array(table, dtype=np.int64),
        prefix=np.concatenate([linear.prefix for linear in network.linears]).astype(np.int64),
        start=np.array(network.starts, dtype=np.int64),
        numbers=network.numbers,
        tile_rows=tile_at,
        block=min(network.features, max(4, math.ceil(16 * network.features / narrowest))),
        activation=("relu", "tanh").index(network.activation),
    )


# ---- layers of a tile -----------------------------------------------------------------------------------------


@jit
def _activate(kind, z, a, first, last):
    zero = z.dtype.type(0)
    for r in range(first, last):
        if kind == 0:
            for n in range(z.shape[1]):
                a[r, n] = max(z[r, n], zero)
        else:
            for n in range(z.shape[1]):
                a[r, n] = tanh(z[r, n])


@jit
def _affine_normalize(h, x, u, log_det, bound):
    """Do u = (x - mu) exp(-alpha), log_det -= alpha, lane by lane; see :mod:`afnp.univariate.affine`."""
    for n in range(x.size):
        alpha = bound * tanh(h[1, n] / bound)
        u[n] = (x[n] - h[0, n]) * exp(-alpha)
        log_det[n] -= alpha


@jit
def _affine_generate(h, u, x, log_det, bound):
    """Do x = mu + u exp(alpha), log_det += alpha, lane by lane."""
    for n in range(u.size):
        alpha = bound * tanh(h[1, n] / bound)
        x[n] = h[0, n] + u[n] * exp(alpha)
        log_det[n] += alpha


# ---- one tile ------------------------------------------------------------------------------------------------


@jit
def _layer(theta, row, tile):
    """Return W, z, a (its inputs) of a table row, as views."""
    W = theta[row[W_AT] : row[B_AT]].reshape(row[ROWS], row[COLUMNS])
    return W, tile[row[Z_AT] : row[Z_AT] + row[ROWS]], tile[row[IN_AT] : row[IN_AT] + row[COLUMNS]]


@jit
def _fill_bias(theta, row, z, first, last):
    for r in range(first, last):
        z[r, :] = theta[row[B_AT] + r]


@jit
def _finish(table, l, tile, z, activation, first, last):
    """Add the skipped z and apply the activation to rows first..last-1 of layer l."""
    if table[l, SKIP]:
        z[first:last] += tile[table[l - 2, Z_AT] + first : table[l - 2, Z_AT] + last]
    if l + 1 < len(table):
        a = tile[table[l + 1, IN_AT] : table[l + 1, IN_AT] + table[l, ROWS]]
        _activate(activation, z, a, first, last)


@jit
def _load(tile, at, source, begin, order):
    """Copy rows begin.. of ``source`` (N, M) into lanes, its columns in ``order``; lanes past the end become 0."""
    count = min(tile.shape[1], len(source) - begin)
    tile[at : at + len(order), count:] = 0
    for n in range(count):
        for i in range(len(order)):
            tile[at + i, n] = source[begin + n, order[i]]


@jit
def _product_tile(theta, plan, tile):
    """Run the whole network on a tile, each row over its own prefix."""
    for l in range(len(plan.table)):
        row = plan.table[l]
        W, z, a = _layer(theta, row, tile)
        prefix = plan.prefix[row[FIRST] : row[FIRST] + row[ROWS]]
        _fill_bias(theta, row, z, 0, len(z))
        r = 0
        while r < len(z):
            last = min(r + 4, len(z))
            add_product(z, W, a, r, last, 0, prefix[r])
            for riser in range(r + 1, last):
                add_product(z, W, a, riser, riser + 1, prefix[r], prefix[riser])
            r = last
        _finish(plan.table, l, tile, z, plan.activation, 0, len(z))


@jit
def _solve_tile(theta, plan, bound, tile, x_at, u, begin, order, noise, log_det):
    """Run the network block by block of features, and give x_i as soon as its numbers are there."""
    L, D, K = len(plan.table), len(order), plan.numbers
    for first in range(0, D, plan.block):
        last = min(first + plan.block, D)
        for l in range(L):
            row, start = plan.table[l], plan.start[l]
            W, z, a = _layer(theta, row, tile)
            known = x_at + first if l == 0 else plan.start[l - 1, first]
            _fill_bias(theta, row, z, start[first], start[last])
            add_product(z, W, a, start[first], start[last], 0, known)
        for i in range(first, last):
            for l in range(L):
                row, start = plan.table[l], plan.start[l]
                if start[i] == start[i + 1]:
                    continue
                W, z, a = _layer(theta, row, tile)
                known = x_at + first if l == 0 else plan.start[l - 1, first]
                add_product(z, W, a, start[i], start[i + 1], known, plan.prefix[row[FIRST] + start[i]])
                _finish(plan.table, l, tile, z, plan.activation, start[i], start[i + 1])
            h = tile[plan.table[L - 1, Z_AT] + i * K : plan.table[L - 1, Z_AT] + (i + 1) * K]
            for n in range(min(len(noise), len(u) - begin)):
                noise[n] = u[begin + n, order[i]]
            _affine_generate(h, noise, tile[x_at + i], log_det, bound)


# ---- all tiles -----------------------------------------------------------------------------------------------


@jit
def _product(theta, plan, bound, context, x, order, u, log_det, tiles):
    """Map x (N, D) to u (N, D), and write log|det du/dx| into log_det (N,); use the tiles in turn."""
    T, C, K = tiles.shape[2], context.shape[1], plan.numbers
    identity = np.arange(C)
    for begin in range(0, len(x), T):
        tile = tiles[begin // T % len(tiles)]
        out, total = tile[-1], tile[-2]
        count = min(T, len(x) - begin)
        _load(tile, 0, context, begin, identity)
        _load(tile, C, x, begin, order)
        _product_tile(theta, plan, tile)
        total[:] = 0
        for i in range(len(order)):
            at = plan.table[-1, Z_AT] + i * K
            _affine_normalize(tile[at : at + K], tile[C + i], out, total, bound)
            for n in range(count):
                u[begin + n, order[i]] = out[n]
        log_det[begin : begin + count] = total[:count]


@jit
def _solve(theta, plan, bound, context, u, order, x, log_det, tiles):
    """Map u (N, D) to x (N, D), and write log|det dx/du| into log_det (N,)."""
    tile = tiles[0]
    T, C = tile.shape[1], context.shape[1]
    noise, total = tile[-1], tile[-2]
    identity = np.arange(C)
    for begin in range(0, len(u), T):
        count = min(T, len(u) - begin)
        _load(tile, 0, context, begin, identity)
        noise[:] = 0
        total[:] = 0
        _solve_tile(theta, plan, bound, tile, C, u, begin, order, noise, total)
        for n in range(count):
            for i in range(len(order)):
                x[begin + n, order[i]] = tile[C + i, n]
        log_det[begin : begin + count] = total[:count]


_local = threading.local()


def plain(a: np.ndarray) -> np.ndarray:
    """Return ``a`` in C order and writable: Numba compiles anew for every other kind of array."""
    return np.require(a, requirements=["C", "W"])


def _tiles(plan: Plan, dtype: np.dtype) -> np.ndarray:
    """Return one tile, (1, tile rows + 2, T), of working memory, which each thread keeps between calls."""
    shape = (1, plan.tile_rows + 2, lanes(dtype))
    size = math.prod(shape)
    buffer = getattr(_local, dtype.name, None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size, dtype=dtype)
        setattr(_local, dtype.name, buffer)
    return buffer[:size].reshape(shape)


def _run(kernel, theta, plan: Plan, bound: float, context, values, order, tiles) -> tuple[np.ndarray, np.ndarray]:
    context, values = plain(context), plain(values)
    result, log_det = np.empty(values.shape, dtype=values.dtype), np.empty(len(values), dtype=values.dtype)
    kernel(theta, plan, values.dtype.type(bound), context, values, order, result, log_det, tiles)
    return result, log_det


def product(theta, plan: Plan, bound: float, context, x, order) -> tuple[np.ndarray, np.ndarray]:
    """Map data x (N, D) to noise u (N, D) and log|det du/dx| (N,)."""
    return _run(_product, theta, plan, bound, context, x, order, _tiles(plan, x.dtype))


def product_keeping_tiles(theta, plan: Plan, bound: float, context, x, order) -> tuple:
    """Do the same, and also return every tile: the cache of :func:`afnp.kernels.gradient.backward`."""
    T = lanes(x.dtype)
    tiles = np.empty((max(1, -(-len(x) // T)), plan.tile_rows + 2, T), dtype=x.dtype)
    return *_run(_product, theta, plan, bound, context, x, order, tiles), tiles


def solve(theta, plan: Plan, bound: float, context, u, order) -> tuple[np.ndarray, np.ndarray]:
    """Map noise u (N, D) to data x (N, D) and log|det dx/du| (N,)."""
    return _run(_solve, theta, plan, bound, context, u, order, _tiles(plan, u.dtype))
