r"""Fixed-point iterations compiled: a tile of samples iterates until its lanes have converged.

.. math::
    z_r = \underbrace{b_r + \sum_{c < \mathrm{known}} W_{rc}\, a_c}_{\text{once a block}}
        + \underbrace{
            \sum_{\mathrm{known} \le c < \mathrm{prefix}_r} W_{rc}\, a_c
        }_{\text{each iteration}}

The algorithm is that of :mod:`afnp.sampling.blocks`, its definition; tiles, tables and products are
those of :mod:`afnp.compiled.staircase`. Tiles iterate independently of each other, so that a tile
whose samples have converged costs nothing more. Within a tile a converged lane only waits. Every
row of W is read up to its prefix and no further: unconverged values, infinite ones too, never
reach what does not depend on them, and nothing needs repair.

Letters: N samples, D features, C context inputs, K params a feature, T lanes a tile, M transforms.
"""

from __future__ import annotations

import numpy as np

from afnp.compiled.compiler import jit, kernel
from afnp.compiled.simd.register_tile import lanes
from afnp.compiled.staircase import copy_in, copy_out, load_all, store_all
from afnp.compiled.tiles import (
    START,
    StackPlan,
    add_rows,
    embed,
    finish,
    first_row_of_x,
    load,
    params_row,
    plain,
    set_rows,
    working_memory,
)
from afnp.compiled.univariate.dispatch import CompiledUnivariate, call
from afnp.sampling.blocks import block_work, places

__all__ = ["solve"]

SUM, TRIAL, NEW, MOVED, WAITING, SCRATCH_ROWS = range(6)
"""Rows of a tile's scratch: log-derivatives of features that are right, with those of the others
added, a feature's next value, whether a lane changed, and whether it still iterates."""


# ---- one tile, one block of features -------------------------------------------------------------


@jit
def _known(stack, m, l, first):
    """Return how many inputs of layer l are known before the block that begins with ``first``."""
    if l == 0:
        return stack.context + stack.embedding * first
    return stack.start[m, l - 1, first]


@jit
def _sum_known(theta, stack, m, memory, base, first, last):
    """Write b + W a over what is known into the block's rows of ``base``, a tile of its own."""
    for l in range(stack.layers.shape[1]):
        layer, begin, end = stack.layers[m, l], stack.start[m, l, first], stack.start[m, l, last]
        known = _known(stack, m, l, first)
        set_rows(theta, layer, memory, START, base + layer["z_at"], begin, end, known)


@jit
def _pass(theta, stack, m, memory, base, first, last):
    """Run the block's rows of the network, each over its own prefix."""
    for l in range(stack.layers.shape[1]):
        layer, begin, end = stack.layers[m, l], stack.start[m, l, first], stack.start[m, l, last]
        known, z = _known(stack, m, l, first), layer["z_at"]
        for r in range(begin, end):
            for n in range(memory.shape[1]):
                memory[z + r, n] = memory[base + z + r, n]
        r = begin
        while r < end:
            stop = r + 4 if r + 4 < end else end
            prefix = stack.prefix[m, layer["first"] + r]
            add_rows(theta, layer, memory, START, r, stop, known, prefix)
            for riser in range(r + 1, stop):
                own = stack.prefix[m, layer["first"] + riser]
                add_rows(theta, layer, memory, START, riser, riser + 1, prefix, own)
            r = stop
        finish(stack, m, l, memory, START, begin, end)


@jit
def _take(memory, x, scratch, tolerance):
    """Let the lanes that still iterate take their next value, and mark those that it moved."""
    for n in range(memory.shape[1]):
        if memory[scratch + WAITING, n] > 0:
            if not abs(memory[scratch + NEW, n] - memory[x, n]) <= tolerance:
                memory[scratch + MOVED, n] = 1
            memory[x, n] = memory[scratch + NEW, n]


@jit
def _iterate(stack, m, address, constants, memory, values, u, scratch, i, last, tolerance):
    """Give x_i for good, and the next guess of the features behind it."""
    x, K, T = first_row_of_x(stack), stack.params, memory.shape[1]
    for n in range(T):
        memory[scratch + MOVED, n] = 0
    log = scratch + SUM
    for j in range(i, last):
        noise, h = u + stack.order[m, j], params_row(stack, m, j)
        call(address, constants, memory, h, K, values, noise, memory, scratch + NEW, memory, log, T)
        _take(memory, x + j, scratch, tolerance)
        if j == i:
            log = scratch + TRIAL
            for n in range(T):
                memory[log, n] = memory[scratch + SUM, n]
    embed(stack, memory, START, i, last)


@jit
def _converge(
    theta,
    stack,
    m,
    address,
    constants,
    memory,
    base,
    values,
    u,
    scratch,
    first,
    last,
    tolerance,
    limit,
    taken,
):
    """Iterate a block of features, at most ``limit`` times; return how often the network ran.

    Adds to the values' row of logarithms, and to each lane's count ``taken`` (T,).
    """
    T, log_det = memory.shape[1], u + stack.order.shape[1]
    _sum_known(theta, stack, m, memory, base, first, last)
    for n in range(T):
        memory[scratch + SUM, n] = 0
        memory[scratch + WAITING, n] = 1 if taken[n] >= 0 else 0
    stop = first + limit if first + limit < last else last
    for i in range(first, stop):
        _pass(theta, stack, m, memory, base, first, last)
        _iterate(stack, m, address, constants, memory, values, u, scratch, i, last, tolerance)
        waiting = 0
        for n in range(T):
            if memory[scratch + WAITING, n] > 0:
                taken[n] += 1
                if memory[scratch + MOVED, n] == 0 or i + 1 == stop:
                    values[log_det, n] += memory[scratch + TRIAL, n]
                    memory[scratch + WAITING, n] = 0
                else:
                    waiting += 1
        if not waiting:
            return i + 1 - first
    return stop - first


# ---- all tiles, all transforms -------------------------------------------------------------------


@kernel
def fixed_point_kernel(
    theta, stack, address, constants, context, u, x, log_det, values, memory,
    tolerance, limit, cuts, cost, taken, iterations, work,
):  # fmt: skip
    """Map u (N, D) to x (N, D); write log|det dx/du| (N, 1), iterations and multiply-adds (N, M).

    ``memory`` is two tiles, the second of sums over the known, and the scratch rows.
    """
    (N, D), T = u.shape, memory.shape[1]
    base, scratch = stack.tile_rows, 2 * stack.tile_rows
    load_all(u, values)
    for m in range(stack.layers.shape[0] - 1, -1, -1):
        for k in range(values.shape[0] // (D + 1)):
            value, spent = k * (D + 1), START
            for n in range(T):
                taken[n] = 0 if k * T + n < N else -1  # lanes past the end never iterate
            load(memory, START, context, k * T)
            copy_in(stack, m, memory, START, values, value, D)
            for b in range(cuts.size - 1):
                passes = _converge(
                    *(theta, stack, m, address, constants, memory, base, values, value, scratch),
                    *(cuts[b], cuts[b + 1], tolerance, limit, taken),
                )
                spent += cost[b, 0] + passes * cost[b, 1]
            copy_out(stack, m, memory, START, values, value)
            for n in range(T):
                if k * T + n < N:
                    iterations[k * T + n, m] = taken[n]
                    work[k * T + n, m] = spent
    store_all(values, x, log_det)


def solve(
    theta, stack: StackPlan, tau: CompiledUnivariate, network, method, context, u
) -> tuple[np.ndarray, ...]:
    """Map noise u (N, D) to data x (N, D); also give log|det dx/du| (N,), and costs.

    These are the iterations and multiply-adds of each transform, (N, M) each.
    """
    context, u, blocks = plain(context), plain(u), method.blocks(u.shape[1])
    (N, D), T, M = u.shape, lanes(u.dtype), len(stack.layers)
    prefixes = [linear.prefix for linear in network.linears]
    cost = [
        block_work(places(network.starts, stack.context, stack.embedding, *cut), prefixes)
        for cut in blocks
    ]
    x, log_det = np.empty((N, D), dtype=u.dtype), np.empty((N, 1), dtype=u.dtype)
    iterations, work = np.empty((N, M), dtype=np.int64), np.empty((N, M), dtype=np.int64)
    memory = working_memory("iterations", (2 * stack.tile_rows + SCRATCH_ROWS, T), u.dtype)
    values = working_memory("values", (-(-N // T) * (D + 1), T), u.dtype)
    fixed_point_kernel(
        *(theta, stack, tau.generate, tau.constants, context, u, x, log_det, values, memory),
        *(u.dtype.type(method.tolerance), np.int64(method.max_iterations or D)),
        np.array([0, *(last for _, last in blocks)]),
        *(np.array(cost), np.empty(T, dtype=np.int64), iterations, work),
    )
    return x, log_det[:, 0], iterations, work
