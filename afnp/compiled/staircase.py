r"""Compiled staircases: the triangular product (density) and the triangular solve (sampling), side by side.

.. math::
    \text{product:} \quad z_r &= b_r + \sum_{c < \mathrm{prefix}_r} W_{rc}\, a_c \quad \text{for all rows at once}

    \text{solve:} \quad &\text{the same sums, but rows of degree } i \text{ when } x_1 \dots x_i \text{ are known}

Both do the same arithmetic on the same numbers: :mod:`afnp.sampling.substitution` says why, and is
the definition that this file must match. The solve is the blocked algorithm of linear algebra: for
a block of features, one product brings in everything known before the block, and a short loop
finishes it feature by feature.

Samples are cut into tiles of T lanes and threads take whole tiles, so that results do not depend on
the number of threads. A tile keeps every unit of the network as a row of T contiguous numbers, and
all arithmetic of consequence runs through one register tile: four rows of W times T lanes, the sums
held in vector registers.

One call runs a whole stack of transforms of one shape: for each of them in turn, all tiles, whose
samples stay in tiles in between. A coupling transform is the autoregressive one with two blocks:
its first features pass, and its network hears them alone, so that both directions are products.

What it costs. Either direction multiplies each weight below the staircase once a sample: 2 N Σ
prefix operations, about half of a dense pass, where the textbook's sampler makes D dense passes. A
tile reads those weights once for its T samples: 2 T / (bytes of a number) operations a byte, 32 in
float32, so that arithmetic and not memory sets the pace. One sample alone has half an operation a
byte in float32 and waits for memory: :mod:`afnp.compiled.small_batch`. Sequential is the depth of
the solve, D short steps a tile, and not the work.

Letters: N samples, D features, C context inputs, K numbers a feature, T lanes a tile, M transforms.
"""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

import numpy as np

from afnp.compiled.simd.register_tile import (
    add_product,
    inline,
    jit,
    lanes,
    set_product,
    sincos,
    tanh,
)
from afnp.compiled.univariate.dispatch import generate, normalize

__all__ = ["Plan", "Stack", "plan_of", "product", "product_keeping_tiles", "solve", "stack_of"]


# ---- networks as tables of integers --------------------------------------------------------------

W_AT, B_AT, ROWS, COLUMNS, IN_AT, Z_AT, FIRST, SKIP = range(8)


class Plan(NamedTuple):
    """Where everything of a masked network lies: in the parameter vector and in a tile's rows."""

    table: np.ndarray
    """(L, 8): offsets of W and b in theta, rows and columns of W, first tile row of the layer's input and of its
    z, offset into ``prefix``, and whether the layer adds the z of two layers below."""
    prefix: np.ndarray
    start: np.ndarray
    """(L, D + 1), see :class:`afnp.sampling.substitution.Staircase`."""
    numbers: int
    tile_rows: int
    block: int
    """Features a block of the solve: enough for some 16 rows of the narrowest layer, as fit a GPU's fast memory."""
    activation: int
    """0 for relu, 1 for tanh."""


class Stack(NamedTuple):
    """M transforms of one shape, from the data to the noise: their plans, one above the other."""

    table: np.ndarray
    prefix: np.ndarray
    start: np.ndarray
    order: np.ndarray
    """(M, D): feature ``order[m, r]`` comes r-th in transform m."""
    context: int
    fixed: int
    """How many features, the first of the order, pass through (coupling)."""
    numbers: int
    tile_rows: int
    block: int
    activation: int
    embedding: int
    """E, network inputs a feature: 1, or 2 for an angle's cosine and sine, and x is kept beside them."""


def plan_of(network) -> Plan:
    """Lay out a masked network whose parameters are W and b of each layer in turn; it keeps the plan."""
    if (plan := getattr(network, "_plan", None)) is None:
        plan = network._plan = _plan(network, network.context + network.features, network.features)
    return plan


def _plan(network, inputs: int, features: int) -> Plan:
    table, theta_at, in_at, first, tile_at = [], 0, 0, 0, inputs
    for linear, skip in zip(network.linears, network.skips, strict=True):
        J, I = linear.shapes[linear.W]
        table.append([theta_at, theta_at + J * I, J, I, in_at, tile_at, first, skip])
        # without residual blocks nobody needs z again, and its activation takes its place
        in_at = tile_at + J if network.residual else tile_at
        theta_at, first, tile_at = theta_at + J * I + J, first + J, in_at + J
    narrowest = min((row[ROWS] for row in table[:-1]), default=features)
    return Plan(
        table=np.array(table, dtype=np.int64),
        prefix=np.concatenate([linear.prefix for linear in network.linears]).astype(np.int64),
        start=np.array(network.starts, dtype=np.int64),
        numbers=network.numbers,
        tile_rows=tile_at,
        block=min(features, max(4, math.ceil(16 * features / narrowest))),
        activation=("relu", "tanh").index(network.activation),
    )


def stack_of(networks: list, orders: list[np.ndarray], context: int, fixed: int = 0) -> Stack:
    """Lay out M networks of one shape whose parameters follow each other in one vector."""
    E, D = networks[0].embedding, len(orders[0])
    plans = [_plan(network, context + (D if E == 1 else 3 * D), D) for network in networks]
    tables = np.array([plan.table for plan in plans])
    sizes = [network.layout.size for network in networks]
    tables[:, :, [W_AT, B_AT]] += np.cumsum([0, *sizes[:-1]])[:, None, None]
    return Stack(
        table=tables,
        prefix=np.array([plan.prefix for plan in plans]),
        start=np.array([plan.start for plan in plans]),
        order=np.array(orders, dtype=np.int64),
        context=context,
        fixed=fixed,
        numbers=plans[0].numbers,
        tile_rows=plans[0].tile_rows,
        block=min(D, 4 * plans[0].block),
        activation=plans[0].activation,
        embedding=E,
    )


# ---- layers of a tile ----------------------------------------------------------------------------


@inline
def _activate(kind, z, a, first, last):
    zero = z.dtype.type(0)
    for r in range(first, last):
        if kind == 0:
            for n in range(z.shape[1]):
                a[r, n] = max(z[r, n], zero)
        else:
            for n in range(z.shape[1]):
                a[r, n] = tanh(z[r, n])


@inline
def _layer(theta, row, tile):
    """Return W, b, z, a (its inputs) of a table row, as views."""
    W = theta[row[W_AT] : row[B_AT]].reshape(row[ROWS], row[COLUMNS])
    b = theta[row[B_AT] : row[B_AT] + row[ROWS]]
    return (
        W,
        b,
        tile[row[Z_AT] : row[Z_AT] + row[ROWS]],
        tile[row[IN_AT] : row[IN_AT] + row[COLUMNS]],
    )


@inline
def _finish(table, l, tile, z, activation, first, last):
    """Add the skipped z and apply the activation to rows first..last-1 of layer l."""
    if table[l, SKIP]:
        z[first:last] += tile[table[l - 2, Z_AT] + first : table[l - 2, Z_AT] + last]
    if l + 1 < len(table):
        a = tile[table[l + 1, IN_AT] : table[l + 1, IN_AT] + table[l, ROWS]]
        _activate(activation, z, a, first, last)


@inline
def _rows_of_x(stack):
    """Return where x lies in a tile: it is what the network hears, unless angles are embedded."""
    return stack.context if stack.embedding == 1 else stack.context + 2 * stack.order.shape[1]


@inline
def _embed(stack, tile, first, last):
    """Write what the network hears of features first..last-1."""
    if stack.embedding == 2:
        for i in range(first, last):
            at, x = stack.context + 2 * i, tile[_rows_of_x(stack) + i]
            for n in range(x.size):
                tile[at + 1, n], tile[at, n] = sincos(x[n])


@inline
def _numbers(stack, m, tile, i):
    """Return h (K, T) of the i-th feature of transform m."""
    at = stack.table[m, -1, Z_AT] + (i - stack.fixed) * stack.numbers
    return tile[at : at + stack.numbers]


# ---- one tile, one transform ---------------------------------------------------------------------


@jit
def _product_tile(theta, stack, m, tile):
    """Run the whole network on a tile, each row over its own prefix."""
    table = stack.table[m]
    for l in range(len(table)):
        row = table[l]
        W, b, z, a = _layer(theta, row, tile)
        prefix = stack.prefix[m, row[FIRST] : row[FIRST] + row[ROWS]]
        r = 0
        while r < len(z):
            last = min(r + 4, len(z))
            set_product(z, b, W, a, r, last, prefix[r])
            for riser in range(r + 1, last):
                add_product(z, W, a, riser, riser + 1, prefix[r], prefix[riser])
            r = last
        _finish(table, l, tile, z, stack.activation, 0, len(z))


@jit
def _solve_tile(theta, stack, m, tau, tile, u, log_det):
    """Run the network block by block of features, and give x_i as soon as its numbers are there."""
    table, start, order, x_at = stack.table[m], stack.start[m], stack.order[m], _rows_of_x(stack)
    L, D, C, E = len(table), len(order), stack.context, stack.embedding
    for first in range(0, D, stack.block):
        last = min(first + stack.block, D)
        for l in range(L):
            W, b, z, a = _layer(theta, table[l], tile)
            known = C + E * first if l == 0 else start[l - 1, first]
            set_product(z, b, W, a, start[l, first], start[l, last], known)
        for i in range(first, last):
            for l in range(L):
                begin, end = start[l, i], start[l, i + 1]
                if begin == end:
                    continue
                W, _, z, a = _layer(theta, table[l], tile)
                known = C + E * first if l == 0 else start[l - 1, first]
                add_product(z, W, a, begin, end, known, stack.prefix[m, table[l, FIRST] + begin])
                _finish(table, l, tile, z, stack.activation, begin, end)
            generate(tau, _numbers(stack, m, tile, i), u[order[i]], tile[x_at + i], log_det)
            _embed(stack, tile, i, i + 1)


# ---- all tiles, all transforms -------------------------------------------------------------------


@jit
def _load(rows, source, begin):
    """Copy source (N, I) from row ``begin`` on into lanes, (I, T); lanes past the end become 0."""
    count = min(rows.shape[1], len(source) - begin)
    rows[:, count:] = 0
    for n in range(count):
        for i in range(source.shape[1]):
            rows[i, n] = source[begin + n, i]


@jit
def _store(rows, target, begin):
    """Copy lanes (I, T) into target (N, I) from row ``begin`` on."""
    for n in range(min(rows.shape[1], len(target) - begin)):
        for i in range(target.shape[1]):
            target[begin + n, i] = rows[i, n]


@jit
def _product(theta, stack, tau, context, x, u, log_det, tiles, values):
    """Map x (N, D) to u (N, D), and write log|det du/dx| into log_det (N, 1); use the tiles in turn."""
    D, C, T, x_at = x.shape[1], stack.context, tiles.shape[3], _rows_of_x(stack)
    for k in range(len(values)):
        _load(values[k, :D], x, k * T)
        values[k, D] = 0
    for m in range(len(stack.table)):
        order = stack.order[m]
        for k in range(len(values)):
            tile = tiles[m % tiles.shape[0], k % tiles.shape[1]]
            _load(tile[:C], context, k * T)
            for i in range(D):
                tile[x_at + i] = values[k, order[i]]
            _embed(stack, tile, 0, D)
            _product_tile(theta, stack, m, tile)
            for i in range(stack.fixed, D):
                normalize(
                    tau,
                    _numbers(stack, m, tile, i),
                    tile[x_at + i],
                    values[k, order[i]],
                    values[k, D],
                )
    for k in range(len(values)):
        _store(values[k, :D], u, k * T)
        _store(values[k, D:], log_det, k * T)


@jit
def _solve(theta, stack, tau, context, u, x, log_det, tiles, values):
    """Map u (N, D) to x (N, D), and write log|det dx/du| into log_det (N, 1)."""
    D, C, T, x_at, tile = u.shape[1], stack.context, tiles.shape[3], _rows_of_x(stack), tiles[0, 0]
    for k in range(len(values)):
        _load(values[k, :D], u, k * T)
        values[k, D] = 0
    for m in range(len(stack.table) - 1, -1, -1):
        order = stack.order[m]
        for k in range(len(values)):
            _load(tile[:C], context, k * T)
            if stack.fixed:
                for i in range(stack.fixed):
                    tile[x_at + i] = values[k, order[i]]
                _embed(stack, tile, 0, stack.fixed)
                _product_tile(theta, stack, m, tile)
                for i in range(stack.fixed, D):
                    generate(
                        tau,
                        _numbers(stack, m, tile, i),
                        values[k, order[i]],
                        tile[x_at + i],
                        values[k, D],
                    )
            else:
                _solve_tile(theta, stack, m, tau, tile, values[k], values[k, D])
            for i in range(D):
                values[k, order[i]] = tile[x_at + i]
    for k in range(len(values)):
        _store(values[k, :D], x, k * T)
        _store(values[k, D:], log_det, k * T)


_local = threading.local()


def plain(a: np.ndarray) -> np.ndarray:
    """Return ``a`` in C order and writable: Numba compiles anew for every other kind of array."""
    return np.require(a, requirements=["C", "W"])


def working_memory(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of any content, which each thread keeps between calls: fresh pages cost time."""
    key, size = name + dtype.name, math.prod(shape)
    buffer = getattr(_local, key, None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size, dtype=dtype)
        setattr(_local, key, buffer)
    return buffer[:size].reshape(shape)


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
