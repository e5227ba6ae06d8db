r"""Compiled staircases: the triangular product (density) and the triangular solve (sampling), side by side.

.. math::
    \text{product:} \quad z_r &= b_r + \sum_{c < \mathrm{prefix}_r} W_{rc}\, a_c \quad \text{for all rows at once}

    \text{solve:} \quad &\text{the same sums, but rows of degree } i \text{ when } x_1 \dots x_i \text{ are known}

Both do the same arithmetic on the same numbers: :mod:`afnp.sampling.substitution` says why, and is
the definition that this file must match. The solve is the blocked algorithm of linear algebra: for
a block of features, one product brings in everything known before the block, and a short loop
finishes it feature by feature.

Samples are cut into tiles of T lanes and threads take whole tiles, so that results do not depend on
the number of threads. A tile keeps every unit of the network as a row of T contiguous values, and
all arithmetic of consequence runs through one register tile: four rows of W times T lanes, the sums
held in vector registers.

One call runs a whole stack of transforms of one shape: for each of them in turn, all tiles, whose
samples stay in tiles in between. A coupling transform is the autoregressive one with two blocks:
its first features pass, and its network depends on them alone, so that both directions are products.

What it costs. Either direction multiplies each weight below the staircase once a sample: 2 N Σ
prefix operations, about half of a dense pass, where the textbook's sampler makes D dense passes. A
tile reads those weights once for its T samples: 2 T / (bytes of a value) operations a byte, 32 in
float32, so that arithmetic and not memory sets the pace. One sample alone has half an operation a
byte in float32 and waits for memory: :mod:`afnp.compiled.small_batch`. Sequential is the depth of
the solve, D short steps a tile, and not the work.

Letters: N samples, D features, C context inputs, K params a feature, T lanes a tile, M transforms.
"""

from __future__ import annotations

import numpy as np

from afnp.compiled.simd.register_tile import add_product, jit, lanes, set_product
from afnp.compiled.tiles import (
    FIRST,
    ROWS,
    Stack,
    embed,
    finish,
    first_row_of_x,
    layer_views,
    load,
    params_of,
    plain,
    store,
    working_memory,
)
from afnp.compiled.univariate.dispatch import generate, normalize

__all__ = ["product", "product_keeping_tiles", "solve"]


# ---- one tile, one transform ---------------------------------------------------------------------


@jit
def _product_tile(theta, stack, m, tile):
    """Run the whole network on a tile, each row over its own prefix."""
    table = stack.table[m]
    for l in range(len(table)):
        row = table[l]
        W, b, z, a = layer_views(theta, row, tile)
        prefix = stack.prefix[m, row[FIRST] : row[FIRST] + row[ROWS]]
        r = 0
        while r < len(z):
            last = min(r + 4, len(z))
            set_product(z, b, W, a, r, last, prefix[r])
            for riser in range(r + 1, last):
                add_product(z, W, a, riser, riser + 1, prefix[r], prefix[riser])
            r = last
        finish(table, l, tile, z, stack.activation, 0, len(z))


@jit
def _solve_tile(theta, stack, m, tau, tile, u, log_det):
    """Run the network block by block of features, and give x_i as soon as its params are there."""
    table, start, order, x_at = (
        stack.table[m],
        stack.start[m],
        stack.order[m],
        first_row_of_x(stack),
    )
    L, D, C, E = len(table), len(order), stack.context, stack.embedding
    for first in range(0, D, stack.block):
        last = min(first + stack.block, D)
        for l in range(L):
            W, b, z, a = layer_views(theta, table[l], tile)
            known = C + E * first if l == 0 else start[l - 1, first]
            set_product(z, b, W, a, start[l, first], start[l, last], known)
        for i in range(first, last):
            for l in range(L):
                begin, end = start[l, i], start[l, i + 1]
                if begin == end:
                    continue
                W, _, z, a = layer_views(theta, table[l], tile)
                known = C + E * first if l == 0 else start[l - 1, first]
                add_product(z, W, a, begin, end, known, stack.prefix[m, table[l, FIRST] + begin])
                finish(table, l, tile, z, stack.activation, begin, end)
            generate(tau, params_of(stack, m, tile, i), u[order[i]], tile[x_at + i], log_det)
            embed(stack, tile, i, i + 1)


# ---- all tiles, all transforms -------------------------------------------------------------------


@jit
def _product(theta, stack, tau, context, x, u, log_det, tiles, values):
    """Map x (N, D) to u (N, D), and write log|det du/dx| into log_det (N, 1); use the tiles in turn."""
    D, C, T, x_at = x.shape[1], stack.context, tiles.shape[3], first_row_of_x(stack)
    for k in range(len(values)):
        load(values[k, :D], x, k * T)
        values[k, D] = 0
    for m in range(len(stack.table)):
        order = stack.order[m]
        for k in range(len(values)):
            tile = tiles[m % tiles.shape[0], k % tiles.shape[1]]
            load(tile[:C], context, k * T)
            for i in range(D):
                tile[x_at + i] = values[k, order[i]]
            embed(stack, tile, 0, D)
            _product_tile(theta, stack, m, tile)
            for i in range(stack.fixed, D):
                normalize(
                    tau,
                    params_of(stack, m, tile, i),
                    tile[x_at + i],
                    values[k, order[i]],
                    values[k, D],
                )
    for k in range(len(values)):
        store(values[k, :D], u, k * T)
        store(values[k, D:], log_det, k * T)


@jit
def _solve(theta, stack, tau, context, u, x, log_det, tiles, values):
    """Map u (N, D) to x (N, D), and write log|det dx/du| into log_det (N, 1)."""
    D, C, T, x_at, tile = (
        u.shape[1],
        stack.context,
        tiles.shape[3],
        first_row_of_x(stack),
        tiles[0, 0],
    )
    for k in range(len(values)):
        load(values[k, :D], u, k * T)
        values[k, D] = 0
    for m in range(len(stack.table) - 1, -1, -1):
        order = stack.order[m]
        for k in range(len(values)):
            load(tile[:C], context, k * T)
            if stack.fixed:
                for i in range(stack.fixed):
                    tile[x_at + i] = values[k, order[i]]
                embed(stack, tile, 0, stack.fixed)
                _product_tile(theta, stack, m, tile)
                for i in range(stack.fixed, D):
                    generate(
                        tau,
                        params_of(stack, m, tile, i),
                        values[k, order[i]],
                        tile[x_at + i],
                        values[k, D],
                    )
            else:
                _solve_tile(theta, stack, m, tau, tile, values[k], values[k, D])
            for i in range(D):
                values[k, order[i]] = tile[x_at + i]
    for k in range(len(values)):
        store(values[k, :D], x, k * T)
        store(values[k, D:], log_det, k * T)


def _run(kernel, theta, stack: Stack, tau, context, rows, tiles) -> tuple[np.ndarray, np.ndarray]:
    context, rows = plain(context), plain(rows)
    (N, D), T = rows.shape, lanes(rows.dtype)
    values = working_memory("values", (-(-N // T), D + 1, T), rows.dtype)
    result, log_det = np.empty((N, D), dtype=rows.dtype), np.empty((N, 1), dtype=rows.dtype)
    kernel(theta, stack, tau, context, rows, result, log_det, tiles, values)
    return result, log_det[:, 0]


def _one_tile(stack: Stack, dtype: np.dtype) -> np.ndarray:
    return working_memory("tile", (1, 1, stack.tile_rows, lanes(dtype)), dtype)


def product(theta, stack: Stack, tau, context, x) -> tuple[np.ndarray, np.ndarray]:
    """Map data x (N, D) to noise u (N, D) and log|det du/dx| (N,)."""
    return _run(_product, theta, stack, tau, context, x, _one_tile(stack, x.dtype))


def product_keeping_tiles(theta, stack: Stack, tau, context, x) -> tuple:
    """Do the same, and also return every tile: the cache of :func:`afnp.compiled.gradient.backward`."""
    T = lanes(x.dtype)
    tiles = np.empty((len(stack.table), max(1, -(-len(x) // T)), stack.tile_rows, T), dtype=x.dtype)
    return *_run(_product, theta, stack, tau, context, x, tiles), tiles


def solve(theta, stack: Stack, tau, context, u) -> tuple[np.ndarray, np.ndarray]:
    """Map noise u (N, D) to data x (N, D) and log|det dx/du| (N,)."""
    return _run(_solve, theta, stack, tau, context, u, _one_tile(stack, u.dtype))
