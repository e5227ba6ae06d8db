r"""Compiled staircases: triangular product (density) and triangular solve (sampling), side by side.

.. math::
    \text{product:} \quad z_r &= b_r + \sum_{c < \mathrm{prefix}_r} W_{rc}\, a_c
    \quad \text{for all rows at once}

    \text{solve:} \quad &\text{the same sums, but rows of degree } i
    \text{ when } x_1 \dots x_i \text{ are known}

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
its first features pass, and its network depends on them alone: both directions are products.

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

from afnp.compiled.compiler import jit, kernel
from afnp.compiled.simd.register_tile import lanes
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
    store,
    working_memory,
)
from afnp.compiled.univariate.dispatch import CompiledUnivariate, call

__all__ = ["network", "product", "product_kernel", "solve"]


# ---- one tile, one transform ---------------------------------------------------------------------


@jit
def network(theta, stack, m, memory, at):
    """Run the whole network on a tile, each row over its own prefix."""
    for l in range(stack.layers.shape[1]):
        layer, r = stack.layers[m, l], START
        while r < layer["rows"]:
            last = r + 4 if r + 4 < layer["rows"] else layer["rows"]
            known = stack.prefix[m, layer["first"] + r]
            set_rows(theta, layer, memory, at, at + layer["z_at"], r, last, known)
            for riser in range(r + 1, last):
                prefix = stack.prefix[m, layer["first"] + riser]
                if prefix > known:
                    add_rows(theta, layer, memory, at, riser, riser + 1, known, prefix)
            r = last
        finish(stack, m, l, memory, at, START, layer["rows"])


@jit
def _solve_tile(theta, stack, m, address, constants, memory, at, values, u):
    """Run the network block by block of features, and give x_i as soon as its params are there."""
    L, D, C, E = stack.layers.shape[1], stack.order.shape[1], stack.context, stack.embedding
    x, K, T = at + first_row_of_x(stack), stack.params, memory.shape[1]
    first = START
    while first < D:
        last = first + stack.block if first + stack.block < D else D
        for l in range(L):
            layer = stack.layers[m, l]
            known = C + E * first if l == 0 else stack.start[m, l - 1, first]
            z, begin, end = at + layer["z_at"], stack.start[m, l, first], stack.start[m, l, last]
            set_rows(theta, layer, memory, at, z, begin, end, known)
        for i in range(first, last):
            for l in range(L):
                begin, end = stack.start[m, l, i], stack.start[m, l, i + 1]
                if begin < end:
                    layer = stack.layers[m, l]
                    known = C + E * first if l == 0 else stack.start[m, l - 1, first]
                    prefix = stack.prefix[m, layer["first"] + begin]
                    if known < prefix:
                        add_rows(theta, layer, memory, at, begin, end, known, prefix)
                    finish(stack, m, l, memory, at, begin, end)
            h, noise = at + params_row(stack, m, i), u + stack.order[m, i]
            call(address, constants, memory, h, K, values, noise, memory, x + i, values, u + D, T)
            embed(stack, memory, at, i, i + 1)
        first = last


# ---- all tiles, all transforms -------------------------------------------------------------------


@jit
def load_all(rows, values):
    """Copy rows (N, D) into lanes, D + 1 rows a tile; the last one, of logarithms, becomes 0."""
    D, T = rows.shape[1], values.shape[1]
    for k in range(values.shape[0] // (D + 1)):
        load(values, k * (D + 1), rows, k * T)
        for n in range(T):
            values[k * (D + 1) + D, n] = 0


@jit
def store_all(values, rows, log_det):
    """Copy lanes into rows (N, D) and log_det (N, 1)."""
    D, T = rows.shape[1], values.shape[1]
    for k in range(values.shape[0] // (D + 1)):
        store(values, k * (D + 1), rows, k * T)
        store(values, k * (D + 1) + D, log_det, k * T)


@jit
def copy_in(stack, m, memory, at, values, value, count):
    """Write the first ``count`` features, in the order of transform m, into a tile."""
    x = at + first_row_of_x(stack)
    for i in range(count):
        source = value + stack.order[m, i]
        for n in range(memory.shape[1]):
            memory[x + i, n] = values[source, n]
    embed(stack, memory, at, START, count)


@jit
def copy_out(stack, m, memory, at, values, value):
    """Write a tile's features back."""
    x = at + first_row_of_x(stack)
    for i in range(stack.order.shape[1]):
        target = value + stack.order[m, i]
        for n in range(memory.shape[1]):
            values[target, n] = memory[x + i, n]


@kernel
def product_kernel(theta, stack, address, constants, context, x, u, log_det, memory, kept, values):
    """Map x (N, D) to u (N, D), and write log|det du/dx| into log_det (N, 1).

    ``memory`` keeps every tile of every transform, or else is one tile for all.
    """
    D, K, T = x.shape[1], stack.params, memory.shape[1]
    tiles, x_at = values.shape[0] // (D + 1), first_row_of_x(stack)
    load_all(x, values)
    for m in range(stack.layers.shape[0]):
        for k in range(tiles):
            value = k * (D + 1)
            at = (k * stack.layers.shape[0] + m) * stack.tile_rows if kept else START
            load(memory, at, context, k * T)
            copy_in(stack, m, memory, at, values, value, D)
            network(theta, stack, m, memory, at)
            for i in range(stack.fixed, D):
                h = at + params_row(stack, m, i)
                to = value + stack.order[m, i]
                point = at + x_at + i
                call(
                    address,
                    constants,
                    memory,
                    h,
                    K,
                    memory,
                    point,
                    values,
                    to,
                    values,
                    value + D,
                    T,
                )
    store_all(values, u, log_det)


@kernel
def solve_kernel(theta, stack, address, constants, context, u, x, log_det, memory, values):
    """Map u (N, D) to x (N, D), and write log|det dx/du| into log_det (N, 1)."""
    D, K, T, x_at = u.shape[1], stack.params, memory.shape[1], first_row_of_x(stack)
    load_all(u, values)
    for m in range(stack.layers.shape[0] - 1, -1, -1):
        for k in range(values.shape[0] // (D + 1)):
            value = k * (D + 1)
            load(memory, START, context, k * T)
            if stack.fixed:
                copy_in(stack, m, memory, START, values, value, stack.fixed)
                network(theta, stack, m, memory, START)
                for i in range(stack.fixed, D):
                    h, at, to = params_row(stack, m, i), value + stack.order[m, i], x_at + i
                    call(
                        address,
                        constants,
                        memory,
                        h,
                        K,
                        values,
                        at,
                        memory,
                        to,
                        values,
                        value + D,
                        T,
                    )
            else:
                _solve_tile(theta, stack, m, address, constants, memory, START, values, value)
            copy_out(stack, m, memory, START, values, value)
    store_all(values, x, log_det)


# ---- from Python ---------------------------------------------------------------------------------


def _values(rows: np.ndarray) -> np.ndarray:
    (N, D), T = rows.shape, lanes(rows.dtype)
    return working_memory("values", (-(-N // T) * (D + 1), T), rows.dtype)


def _results(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.empty(rows.shape, dtype=rows.dtype), np.empty((len(rows), 1), dtype=rows.dtype)


def _one_tile(stack: StackPlan, dtype: np.dtype) -> np.ndarray:
    return working_memory("tile", (stack.tile_rows, lanes(dtype)), dtype)


def product(
    theta, stack: StackPlan, tau: CompiledUnivariate, context, x
) -> tuple[np.ndarray, np.ndarray]:
    """Map data x (N, D) to noise u (N, D) and log|det du/dx| (N,)."""
    return _product(theta, stack, tau, context, x, _one_tile(stack, x.dtype), False)


def _product(theta, stack, tau, context, x, memory, kept: bool) -> tuple[np.ndarray, np.ndarray]:
    context, x = plain(context), plain(x)
    u, log_det = _results(x)
    product_kernel(
        *(theta, stack, tau.normalize, tau.constants, context, x, u, log_det),
        *(memory, kept, _values(x)),
    )
    return u, log_det[:, 0]


def solve(
    theta, stack: StackPlan, tau: CompiledUnivariate, context, u
) -> tuple[np.ndarray, np.ndarray]:
    """Map noise u (N, D) to data x (N, D) and log|det dx/du| (N,)."""
    context, u = plain(context), plain(u)
    x, log_det = _results(u)
    solve_kernel(
        *(theta, stack, tau.generate, tau.constants, context, u, x, log_det),
        *(_one_tile(stack, u.dtype), _values(u)),
    )
    return x, log_det[:, 0]
