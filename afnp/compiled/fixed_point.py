r"""Fixed-point sweeps compiled: a tile of samples iterates until all of its lanes have converged.

.. math::
    z_r = \underbrace{b_r + \sum_{c < \mathrm{known}} W_{rc}\, a_c}_{\text{once a block}}
        + \underbrace{\sum_{\mathrm{known} \le c < \mathrm{prefix}_r} W_{rc}\, a_c}_{\text{each sweep}}

The algorithm is that of :mod:`afnp.sampling.sweeps`, its definition; tiles, tables and products are
those of :mod:`afnp.compiled.staircase`. Tiles sweep independently of each other, so that a tile
whose samples have converged costs nothing more. Within a tile a converged lane only waits. Every row of
W is read up to its prefix and no further: unconverged values, infinite ones too, never
reach what does not depend on them, and nothing needs repair.

Letters: N samples, D features, C context inputs, K params a feature, T lanes a tile, M transforms.
"""

from __future__ import annotations

import numpy as np

from afnp.compiled.simd.register_tile import add_product, inline, jit, lanes, set_product
from afnp.compiled.tiles import (
    FIRST,
    Z_AT,
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
from afnp.compiled.univariate.dispatch import generate
from afnp.sampling.sweeps import block_work, places

__all__ = ["solve"]

SUM, TRIAL, NEW, MOVED, WAITING, SCRATCH_ROWS = range(6)
"""Rows of a tile's scratch: log-derivatives of features that are right, with those of the others added, a feature's
next value, whether a lane changed, and whether it still sweeps."""


# ---- one tile, one block of features -------------------------------------------------------------


@inline
def _known(stack, m, l, first):
    """Return how many inputs of layer l are known before the block that begins with ``first``."""
    return stack.context + stack.embedding * first if l == 0 else stack.start[m, l - 1, first]


@jit
def _sum_known(theta, stack, m, tile, base, first, last):
    """Write b + W a over what is known into the block's rows of ``base``."""
    for l in range(stack.table.shape[1]):
        row, start = stack.table[m, l], stack.start[m, l]
        W, b, z, a = layer_views(theta, row, tile)
        sums = base[row[Z_AT] : row[Z_AT] + len(z)]
        set_product(sums, b, W, a, start[first], start[last], _known(stack, m, l, first))


@jit
def _pass(theta, stack, m, tile, base, first, last):
    """Run the block's rows of the network, each over its own prefix."""
    table = stack.table[m]
    for l in range(len(table)):
        W, _, z, a = layer_views(theta, table[l], tile)
        begin, end, known = (
            stack.start[m, l, first],
            stack.start[m, l, last],
            _known(stack, m, l, first),
        )
        prefix = stack.prefix[m, table[l, FIRST] : table[l, FIRST] + len(z)]
        z[begin:end] = base[table[l, Z_AT] + begin : table[l, Z_AT] + end]
        r = begin
        while r < end:
            stop = min(r + 4, end)
            add_product(z, W, a, r, stop, known, prefix[r])
            for riser in range(r + 1, stop):
                add_product(z, W, a, riser, riser + 1, prefix[r], prefix[riser])
            r = stop
        finish(table, l, tile, z, stack.activation, begin, end)


@inline
def _take(x, scratch, tolerance):
    """Let the lanes that still sweep take their next value, and mark those that it moved."""
    for n in range(x.size):
        if scratch[WAITING, n] > 0:
            if not abs(scratch[NEW, n] - x[n]) <= tolerance:
                scratch[MOVED, n] = 1
            x[n] = scratch[NEW, n]


@jit
def _sweep(stack, m, tau, tile, u, scratch, i, last, tolerance):
    """Give x_i for good, and the next guess of the features behind it."""
    order, x_at = stack.order[m], first_row_of_x(stack)
    scratch[MOVED] = 0
    generate(tau, params_of(stack, m, tile, i), u[order[i]], scratch[NEW], scratch[SUM])
    _take(tile[x_at + i], scratch, tolerance)
    scratch[TRIAL] = scratch[SUM]
    for j in range(i + 1, last):
        generate(tau, params_of(stack, m, tile, j), u[order[j]], scratch[NEW], scratch[TRIAL])
        _take(tile[x_at + j], scratch, tolerance)
    embed(stack, tile, i, last)


@jit
def _converge(
    theta, stack, m, tau, tile, base, u, scratch, first, last, tolerance, log_det, sweeps
):
    """Iterate a block of features; add to log_det (T,) and sweeps (T,), and return how often the network ran."""
    T = log_det.size
    _sum_known(theta, stack, m, tile, base, first, last)
    scratch[SUM] = 0
    for n in range(T):
        scratch[WAITING, n] = sweeps[n] >= 0
    for i in range(first, last):
        _pass(theta, stack, m, tile, base, first, last)
        _sweep(stack, m, tau, tile, u, scratch, i, last, tolerance)
        waiting = 0
        for n in range(T):
            if scratch[WAITING, n] > 0:
                sweeps[n] += 1
                if scratch[MOVED, n] == 0 or i + 1 == last:
                    log_det[n] += scratch[TRIAL, n]
                    scratch[WAITING, n] = 0
                else:
                    waiting += 1
        if not waiting:
            return i + 1 - first
    return last - first


# ---- all tiles, all transforms -------------------------------------------------------------------


@jit
def _solve(
    theta,
    stack,
    tau,
    context,
    u,
    x,
    log_det,
    values,
    tile,
    base,
    scratch,
    tolerance,
    cuts,
    cost,
    sweeps,
    work,
):
    """Map u (N, D) to x (N, D); write log|det dx/du| (N, 1), sweeps and multiply-adds (N, M)."""
    D, C, T, x_at = u.shape[1], stack.context, tile.shape[1], first_row_of_x(stack)
    taken = np.empty(T, dtype=np.int64)
    for k in range(len(values)):
        load(values[k, :D], u, k * T)
        values[k, D] = 0
    for m in range(len(stack.table) - 1, -1, -1):
        order = stack.order[m]
        for k in range(len(values)):
            count, spent = min(T, len(u) - k * T), 0
            taken[:count], taken[count:] = 0, -1  # lanes past the end never sweep
            load(tile[:C], context, k * T)
            for i in range(D):
                tile[x_at + i] = values[k, order[i]]
            embed(stack, tile, 0, D)
            for b in range(len(cuts) - 1):
                passes = _converge(
                    *(theta, stack, m, tau, tile, base, values[k], scratch),
                    *(cuts[b], cuts[b + 1], tolerance, values[k, D], taken),
                )
                spent += cost[b, 0] + passes * cost[b, 1]
            for i in range(D):
                values[k, order[i]] = tile[x_at + i]
            sweeps[k * T : k * T + count, m] = taken[:count]
            work[k * T : k * T + count, m] = spent
    for k in range(len(values)):
        store(values[k, :D], x, k * T)
        store(values[k, D:], log_det, k * T)


def solve(theta, stack: Stack, tau, network, method, context, u) -> tuple[np.ndarray, ...]:
    """Map noise u (N, D) to data x (N, D); also give log|det dx/du| (N,), sweeps and multiply-adds, (N, M) each."""
    context, u, blocks = plain(context), plain(u), method.blocks(u.shape[1])
    (N, D), T, M = u.shape, lanes(u.dtype), len(stack.table)
    prefixes = [linear.prefix for linear in network.linears]
    cost = [
        block_work(places(network.starts, stack.context, stack.embedding, *cut), prefixes)
        for cut in blocks
    ]
    x, log_det = np.empty((N, D), dtype=u.dtype), np.empty((N, 1), dtype=u.dtype)
    sweeps, work = np.empty((N, M), dtype=np.int64), np.empty((N, M), dtype=np.int64)
    memory = working_memory("sweeps", (2 * stack.tile_rows + SCRATCH_ROWS, T), u.dtype)
    tile, base, scratch = np.split(memory, [stack.tile_rows, 2 * stack.tile_rows])
    values = working_memory("values", (-(-N // T), D + 1, T), u.dtype)
    cuts = np.array([0, *(last for _, last in blocks)])
    tolerance = u.dtype.type(method.tolerance)
    _solve(
        *(theta, stack, tau, context, u, x, log_det, values, tile, base, scratch),
        *(tolerance, cuts, np.array(cost), sweeps, work),
    )
    return x, log_det[:, 0], sweeps, work
