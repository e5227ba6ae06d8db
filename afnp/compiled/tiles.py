r"""Tiles: T samples side by side as lanes, and the tables that say where a network lies in one.

.. math:: \text{tile}_{rn}, \quad r \text{ an input, pre-activation or activation},
          \; n \text{ a sample}

A tile keeps everything that a network computes for T samples: one row of T contiguous values for
each unit. All tiles of a call lie below each other in one ``memory`` (rows, T), and a tile is the
place ``at`` where its rows begin there. A :class:`StackPlan` says, for transforms of one shape that
follow each other, which rows these are, and where in the parameter vector the weights lie.

Kernels name rows and never cut arrays: a view costs Numba more time to compile than its arithmetic.

Letters: N samples, D features, C context inputs, K params a feature, T lanes a tile, M transforms.
"""

from __future__ import annotations

import math
import sys
import threading
import weakref
from typing import Any, NamedTuple

import numpy as np

from afnp.compiled.compiler import jit
from afnp.compiled.simd.register_tile import add1, add4, lanes, set1, set4, sincos, tanh

__all__ = [
    *("LAYER", "NetworkPlan", "ONE", "START", "StackPlan", "network_plan", "stack_of"),
    *("add_rows", "embed", "finish", "first_row_of_x", "load", "params_row", "set_rows", "store"),
    *("plain", "reusable", "working_memory"),
]

WIDEST = lanes(np.dtype(np.float32))
"""Lanes of the widest tile."""
LAYER = np.dtype(
    [
        ("w_at", np.int64),
        ("b_at", np.int64),
        ("rows", np.int64),
        ("columns", np.int64),
        ("in_at", np.int64),
        ("z_at", np.int64),
        ("first", np.int64),
        ("skip_at", np.int64),
        ("t_at", np.int64),
        ("phi", np.int64),
    ],
    align=True,
)
"""A layer: offsets of W and b in theta, rows and columns of W, first row in a tile of its inputs
and of its z, offset into ``prefix``, the row of the z that it adds, or -1, the column where its
inputs begin among the transposed ones of all layers, and what the layer above is given: 0 for relu
of z, 1 for tanh, 2 for z itself."""
LAYER_NAMES = tuple(LAYER.names or ())


class NetworkPlan(NamedTuple):
    """Where everything of a masked network lies: in the parameter vector and in a tile."""

    layers: np.ndarray
    """(L,) of :data:`LAYER`."""
    prefix: np.ndarray
    start: np.ndarray
    """(L, D + 1), see :class:`afnp.sampling.substitution.Staircase`."""
    params: int
    """K."""
    tile_rows: int
    block: int
    """Features a block of the solve: some 16 rows of the narrowest layer, as fit a GPU's memory."""
    activation: int
    """0 for relu, 1 for tanh."""


class StackPlan(NamedTuple):
    """M transforms of one shape, from the data to the noise: their plans, one above the other."""

    layers: Any
    """(M, L) of :data:`LAYER`."""
    prefix: Any
    start: Any
    order: Any
    """(M, D): feature ``order[m, r]`` comes r-th in transform m."""
    context: int
    fixed: int
    """How many features, the first of the order, pass through (coupling)."""
    params: int
    tile_rows: int
    block: int
    activation: int
    embedding: int
    """E, network inputs a feature: 1, or 2 for an angle's cosine and sine, and x is kept beside."""


def network_plan(network) -> NetworkPlan:
    """Lay out a masked network whose parameters are W and b of each layer in turn.

    It keeps the plan.
    """
    if network not in _plans:
        _plans[network] = _plan(network, network.context + network.features, network.features)
    return _plans[network]


_plans: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _plan(network, inputs: int, features: int) -> NetworkPlan:
    layers = np.zeros(len(network.linears), LAYER)
    theta_at, in_at, first, tile_at, t_at = 0, 0, 0, inputs, 0
    activation = ("relu", "tanh").index(network.activation)
    parts = zip(network.linears, network.skips, network.bare, strict=True)
    for l, (linear, skip, bare) in enumerate(parts):
        J, I = linear.shapes[linear.W]
        skip_at = layers[l - 2]["z_at"] if skip else -1
        phi = 2 if bare else activation
        layers[l] = (theta_at, theta_at + J * I, J, I, in_at, tile_at, first, skip_at, t_at, phi)
        # without residual blocks nobody needs z again, and its activation takes its place
        in_at = tile_at + J if network.residual else tile_at
        theta_at, first, tile_at = theta_at + J * I + J, first + J, in_at + J
        t_at += -(-I // WIDEST) * WIDEST  # whole vectors of any precision
    narrowest = min(layers["rows"][:-1].tolist(), default=features)
    return NetworkPlan(
        layers=layers,
        prefix=np.concatenate([linear.prefix for linear in network.linears]).astype(np.int64),
        start=np.array(network.starts, dtype=np.int64),
        params=network.numbers,
        tile_rows=int(tile_at),
        block=min(features, max(4, math.ceil(16 * features / narrowest))),
        activation=activation,
    )


def stack_of(networks: list, orders: list[np.ndarray], context: int, fixed: int = 0) -> StackPlan:
    """Lay out M networks of one shape whose parameters follow each other in one vector."""
    E, D = networks[0].embedding, len(orders[0])
    plans = [_plan(network, context + (D if E == 1 else 3 * D), D) for network in networks]
    layers = np.array([plan.layers for plan in plans])
    sizes = [network.layout.size for network in networks]
    theta_at = np.cumsum([0, *sizes[:-1]])[:, None]
    layers["w_at"] += theta_at
    layers["b_at"] += theta_at
    return StackPlan(
        layers=layers,
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


START, ONE = np.int64(0), np.int64(1)
"""For arguments: a literal would be a type of its own, and what takes it compiled twice."""


# ---- layers of a tile ----------------------------------------------------------------------------


@jit
def set_rows(theta, layer, memory, at, out, first, last, end):
    """Do z[first:last] = b[first:last] + W[first:last, :end] @ a[:end]; z begins at row ``out``."""
    T, I = memory.shape[1], layer["columns"]
    a, r = (at + layer["in_at"]) * T, first
    while r < last:
        z, b, w = (out + r) * T, layer["b_at"] + r, layer["w_at"] + r * I
        if r + 4 <= last:
            set4(memory, z, T, theta, b, theta, w, I, 1, memory, a, T, end)
            r += 4
        else:
            set1(memory, z, T, theta, b, theta, w, I, 1, memory, a, T, end)
            r += 1


@jit
def add_rows(theta, layer, memory, at, first, last, begin, end):
    """Do z[first:last] += W[first:last, begin:end] @ a[begin:end]."""
    T, I = memory.shape[1], layer["columns"]
    a, r = (at + layer["in_at"] + begin) * T, first
    while r < last:
        z, w = (at + layer["z_at"] + r) * T, layer["w_at"] + r * I + begin
        if r + 4 <= last:
            add4(memory, z, T, theta, 0, theta, w, I, 1, memory, a, T, end - begin)
            r += 4
        else:
            add1(memory, z, T, theta, 0, theta, w, I, 1, memory, a, T, end - begin)
            r += 1


@jit
def finish(stack, m, l, memory, at, first, last):
    """Add the skipped z to rows first..last-1 of layer l, and write their activations."""
    layer, zero, T = stack.layers[m, l], memory.dtype.type(0), memory.shape[1]
    z = at + layer["z_at"]
    if layer["skip_at"] >= 0:
        skipped = at + layer["skip_at"]
        for r in range(first, last):
            for n in range(T):
                memory[z + r, n] += memory[skipped + r, n]
    if l + 1 < stack.layers.shape[1]:
        a = at + stack.layers[m, l + 1]["in_at"]
        for r in range(first, last):
            if layer["phi"] == 0:
                for n in range(T):
                    value = memory[z + r, n]
                    memory[a + r, n] = zero if value < zero else value
            elif layer["phi"] == 1:
                for n in range(T):
                    memory[a + r, n] = tanh(memory[z + r, n])
            else:
                for n in range(T):
                    memory[a + r, n] = memory[z + r, n]


@jit
def first_row_of_x(stack):
    """Return where x lies in a tile: the network reads it there, unless angles are embedded."""
    return stack.context if stack.embedding == 1 else stack.context + 2 * stack.order.shape[1]


@jit
def embed(stack, memory, at, first, last):
    """Write the network's inputs of features first..last-1: the cosine and sine of angles."""
    if stack.embedding == 2:
        x, pair = at + first_row_of_x(stack), at + stack.context
        for i in range(first, last):
            for n in range(memory.shape[1]):
                sine, cosine = sincos(memory[x + i, n])
                memory[pair + 2 * i, n] = cosine
                memory[pair + 2 * i + 1, n] = sine


@jit
def params_row(stack, m, i):
    """Return where in a tile h, the K params of the i-th feature of transform m, begins."""
    last = stack.layers[m, stack.layers.shape[1] - 1]
    return last["z_at"] + (i - stack.fixed) * stack.params


# ---- to and from rows of samples -----------------------------------------------------------------


@jit
def load(memory, at, source, begin):
    """Copy source (N, I) from row ``begin`` on into lanes; lanes past the end become 0."""
    for n in range(memory.shape[1]):
        inside = begin + n < source.shape[0]
        for i in range(source.shape[1]):
            memory[at + i, n] = source[begin + n, i] if inside else 0


@jit
def store(memory, at, target, begin):
    """Copy lanes into target (N, I) from row ``begin`` on."""
    for n in range(memory.shape[1]):
        if begin + n < target.shape[0]:
            for i in range(target.shape[1]):
                target[begin + n, i] = memory[at + i, n]


class _Buffers(threading.local):
    """A thread's working memory, by name and type."""

    def __init__(self):
        self.kept: dict[tuple[str, np.dtype], np.ndarray] = {}


_buffers = _Buffers()


def plain(a: np.ndarray) -> np.ndarray:
    """Return ``a`` in C order and writable: Numba compiles anew for every other kind of array."""
    return np.require(a, requirements=["C", "W"])


def working_memory(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of any content, which each thread keeps between calls.

    Fresh pages cost time.
    """
    key, size = (name, dtype), math.prod(shape)
    kept = _buffers.kept
    if key not in kept or kept[key].size < size:
        kept[key] = np.empty(size, dtype=dtype)
    return kept[key][:size].reshape(shape)


_pool: list[np.ndarray] = []


def _free(k: int) -> bool:
    """Return whether nobody but the pool holds its k-th array, nor a view of it."""
    return sys.getrefcount(_pool[k]) <= 2


def reusable(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of any content, whose memory is used again once nobody holds it any more."""
    size = math.prod(shape) * dtype.itemsize
    with _pool_lock:
        fitting = [k for k in range(len(_pool)) if _free(k) and size <= _pool[k].size <= 2 * size]
        if not fitting:
            for k in reversed([k for k in range(len(_pool)) if _free(k)][: -POOLED or None]):
                del _pool[k]
            _pool.append(np.empty(size, dtype=np.uint8))
            fitting = [len(_pool) - 1]
        return _pool[fitting[0]][:size].view(dtype).reshape(shape)


_pool_lock = threading.Lock()
POOLED = 8
"""Arrays that are kept although nobody holds them."""
