r"""Tiles: T samples side by side as lanes, and the tables that say where a network lies in one.

.. math:: \text{tile}_{rn}, \quad r \text{ an input, pre-activation or activation}, \; n \text{ a sample}

A tile keeps everything that a network computes for T samples, one row of T contiguous values for
each unit. A :class:`Stack` says, for transforms of one shape that follow each other, which rows
these are, and where in the parameter vector the weights lie.

Letters: N samples, D features, C context inputs, K params a feature, T lanes a tile, M transforms.
"""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

import numpy as np

from afnp.compiled.simd.register_tile import inline, jit, sincos, tanh

__all__ = [
    *("NetworkPlan", "Stack", "network_plan", "stack_of"),
    *("B_AT", "COLUMNS", "FIRST", "IN_AT", "ROWS", "SKIP", "W_AT", "Z_AT"),
    *("embed", "finish", "first_row_of_x", "layer_views", "load", "params_of", "store"),
    *("plain", "working_memory"),
]


# ---- networks as tables of integers --------------------------------------------------------------

W_AT, B_AT, ROWS, COLUMNS, IN_AT, Z_AT, FIRST, SKIP = range(8)


class NetworkPlan(NamedTuple):
    """Where everything of a masked network lies: in the parameter vector and in a tile's rows."""

    table: np.ndarray
    """(L, 8): offsets of W and b in theta, rows and columns of W, first tile row of the layer's input and of its
    z, offset into ``prefix``, and whether the layer adds the z of two layers below."""
    prefix: np.ndarray
    start: np.ndarray
    """(L, D + 1), see :class:`afnp.sampling.substitution.Staircase`."""
    params: int
    """K."""
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
    params: int
    tile_rows: int
    block: int
    activation: int
    embedding: int
    """E, network inputs a feature: 1, or 2 for an angle's cosine and sine, and x is kept beside them."""


def network_plan(network) -> NetworkPlan:
    """Lay out a masked network whose parameters are W and b of each layer in turn; it keeps the plan."""
    if (plan := getattr(network, "_plan", None)) is None:
        plan = network._plan = _plan(network, network.context + network.features, network.features)
    return plan


def _plan(network, inputs: int, features: int) -> NetworkPlan:
    table, theta_at, in_at, first, tile_at = [], 0, 0, 0, inputs
    for linear, skip in zip(network.linears, network.skips, strict=True):
        J, I = linear.shapes[linear.W]
        table.append([theta_at, theta_at + J * I, J, I, in_at, tile_at, first, skip])
        # without residual blocks nobody needs z again, and its activation takes its place
        in_at = tile_at + J if network.residual else tile_at
        theta_at, first, tile_at = theta_at + J * I + J, first + J, in_at + J
    narrowest = min((row[ROWS] for row in table[:-1]), default=features)
    return NetworkPlan(
        table=np.array(table, dtype=np.int64),
        prefix=np.concatenate([linear.prefix for linear in network.linears]).astype(np.int64),
        start=np.array(network.starts, dtype=np.int64),
        params=network.numbers,
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
        params=plans[0].params,
        tile_rows=plans[0].tile_rows,
        block=min(D, 4 * plans[0].block),
        activation=plans[0].activation,
        embedding=E,
    )


# ---- layers of a tile ----------------------------------------------------------------------------


@inline
def activate(kind, z, a, first, last):
    zero = z.dtype.type(0)
    for r in range(first, last):
        if kind == 0:
            for n in range(z.shape[1]):
                a[r, n] = max(z[r, n], zero)
        else:
            for n in range(z.shape[1]):
                a[r, n] = tanh(z[r, n])


@inline
def layer_views(theta, row, tile):
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
def finish(table, l, tile, z, activation, first, last):
    """Add the skipped z and apply the activation to rows first..last-1 of layer l."""
    if table[l, SKIP]:
        z[first:last] += tile[table[l - 2, Z_AT] + first : table[l - 2, Z_AT] + last]
    if l + 1 < len(table):
        a = tile[table[l + 1, IN_AT] : table[l + 1, IN_AT] + table[l, ROWS]]
        activate(activation, z, a, first, last)


@inline
def first_row_of_x(stack):
    """Return where x lies in a tile: the network reads them, unless angles are embedded."""
    return stack.context if stack.embedding == 1 else stack.context + 2 * stack.order.shape[1]


@inline
def embed(stack, tile, first, last):
    """Write the network's inputs of features first..last-1."""
    if stack.embedding == 2:
        for i in range(first, last):
            at, x = stack.context + 2 * i, tile[first_row_of_x(stack) + i]
            for n in range(x.size):
                tile[at + 1, n], tile[at, n] = sincos(x[n])


@inline
def params_of(stack, m, tile, i):
    """Return h (K, T) of the i-th feature of transform m."""
    at = stack.table[m, -1, Z_AT] + (i - stack.fixed) * stack.params
    return tile[at : at + stack.params]


# ---- to and from rows of samples ----------------------------------------------------------------


@jit
def load(rows, source, begin):
    """Copy source (N, I) from row ``begin`` on into lanes, (I, T); lanes past the end become 0."""
    count = min(rows.shape[1], len(source) - begin)
    rows[:, count:] = 0
    for n in range(count):
        for i in range(source.shape[1]):
            rows[i, n] = source[begin + n, i]


@jit
def store(rows, target, begin):
    """Copy lanes (I, T) into target (N, I) from row ``begin`` on."""
    for n in range(min(rows.shape[1], len(target) - begin)):
        for i in range(target.shape[1]):
            target[begin + n, i] = rows[i, n]


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
