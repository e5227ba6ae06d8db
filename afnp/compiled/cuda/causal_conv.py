r"""Queues on a GPU: one thread block walks a tile of series step by step, to sample them.

.. math:: z^{(l)}_t = W^{(l)} a_t + V^{(l)} \mathrm{ring}_l[t \bmod d_l] + b^{(l)}, \qquad
          \mathrm{ring}_l[t \bmod d_l] \leftarrow a_t

The definition, with all formulas, is :class:`afnp.networks.causal_conv.CausalConv`; the algorithm
is that of :mod:`afnp.compiled.causal_conv`. Time runs inside the kernel. Series are independent of
each other, so that a tile needs nobody else; within it, a step takes two barriers a layer: one
until y is there, one until the next a is.

A tile has two memories. The *window*, in shared memory, holds the newest a and y. The *memory*, in
global memory, holds the rings and the biases with the context in them. Both are rows of T
contiguous values, neighbouring threads touch neighbouring values, and a thread's own views of
them are its lane's alone. Weights lie transposed, so that neighbouring channels are neighbours too:
many series make wide tiles, few make narrow ones full of channels.

Letters: N samples, D steps, C context inputs, R channels, G rows of z, L layers, T lanes. Thread
(t, g) of a block does the channels g, g + groups, g + 2 groups, ... of lane t.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from afnp.compiled.causal_conv import KINDS
from afnp.compiled.cuda import device as gpu
from afnp.compiled.cuda.device import activate, affine_generate, cuda, device, kernel
from afnp.compiled.tiles import plain

__all__ = ["ConvolutionStep", "DeviceConvolution", "lanes", "walk_all"]

LANES, THREADS = 32, 256
"""The widest tile, and threads of a block: lanes times groups."""


class DeviceConvolution(NamedTuple):
    """One transform as the kernel reads it, on the GPU: weights are (in, out)."""

    E: Any
    F: Any
    e: Any
    W: Any
    V: Any
    U: Any
    b: Any
    S: Any
    s: Any
    H: Any
    h: Any
    dilations: Any
    rings: int
    """Σ d_l."""
    kind: int
    """Place in ``KINDS``."""
    reverse: bool
    bound: float


# ---- what does not change from step to step ------------------------------------------------------


@device
def _begin(net, context, row, memory, window):
    """Empty the rings, and add what the context says to the biases.

    Before the first step all inputs are zero.
    """
    (L, G), R, C = net.b.shape, len(net.e), context.shape[1]
    for r in range(cuda.threadIdx.y, net.rings * R, cuda.blockDim.y):
        memory[r] = 0
    for r in range(cuda.threadIdx.y, R, cuda.blockDim.y):
        e = net.e[r]
        for c in range(C):
            e += net.F[c, r] * context[row, c]
        memory[net.rings * R + r] = e
    for item in range(cuda.threadIdx.y, L * G, cuda.blockDim.y):
        l, g = item // G, item % G
        b = net.b[l, g]
        for c in range(C):
            b += net.U[l, c, g] * context[row, c]
        memory[(net.rings + 1) * R + item] = b
    window[2 * R] = 0


# ---- one step ------------------------------------------------------------------------------------


@device
def _embed(net, e, x, a):
    """Write the first a of a step."""
    for r in range(cuda.threadIdx.y, len(net.e), cuda.blockDim.y):
        a[r] = e[r] + net.E[0, r] * x[0]


@device
def _sum(net, l, g, a, past, z):
    """Return z plus row g of W a + V past."""
    # whole arrays, indexed here: views of their rows would take more registers
    for c in range(len(net.e)):
        z += net.W[l, c, g] * a[c] + net.V[l, c, g] * past[c]
    return z


@device
def _gate(net, l, b, a, past, y):
    """Write the gate of layer l."""
    R, half, zero = len(net.e), net.e.dtype.type(0.5), net.e.dtype.type(0)
    for r in range(cuda.threadIdx.y, R, cuda.blockDim.y):
        f = _sum(net, l, r, a, past, b[r])
        if net.kind == 0:
            g = _sum(net, l, R + r, a, past, b[R + r])
            y[r] = math.tanh(f) * (half + half * math.tanh(half * g))
        else:
            y[r] = activate(net.kind - 1, f, zero)


@device
def _advance(net, l, a, past, y):
    """Put a where the oldest was read, and what layer l adds to it into its place."""
    R = len(net.e)
    for r in range(cuda.threadIdx.y, R, cuda.blockDim.y):
        past[r] = a[r]
        new = a[r] + net.s[l, r]
        for k in range(R):
            new += net.S[l, k, r] * y[k]
        a[r] = new


@device
def _step(net, t, memory, window):
    """Run the network on the last inputs; a is then the last layer's."""
    (L, G), R, first = net.b.shape, len(net.e), 0
    a, y, biases = window[:R], window[R : 2 * R], memory[net.rings * R :]
    _embed(net, biases, window[2 * R :], a)
    cuda.syncthreads()
    for l in range(L):
        at = (first + t % net.dilations[l]) * R
        past = memory[at : at + R]
        _gate(net, l, biases[R + l * G :], a, past, y)
        cuda.syncthreads()
        _advance(net, l, a, past, y)
        cuda.syncthreads()
        first += net.dilations[l]


@device
def _generate(net, a, u):
    """Return x and its log-derivative from noise u."""
    m, s = net.h[0], net.h[1]
    for r in range(len(net.e)):
        m += net.H[r, 0] * a[r]
        s += net.H[r, 1] * a[r]
    return affine_generate(m, s, u, net.bound)


# ---- all steps of all tiles ----------------------------------------------------------------------


@device
def _walk_lane(net, x, row, memory, window):
    """Turn a row of x from noise into data in place; return its log|det|.

    Each sum of logarithms keeps what rounding took from it: there may be a million of them (Kahan).
    """
    R, D, zero = len(net.e), x.shape[1], net.e.dtype.type(0)
    total, lost = zero, zero
    for t in range(D):
        _step(net, t, memory, window)
        if cuda.threadIdx.y == 0:
            at = D - 1 - t if net.reverse else t
            value, alpha = _generate(net, window, x[row, at] if row < len(x) else zero)
            window[2 * R] = value
            if row < len(x):
                x[row, at] = value
            alpha -= lost
            sum_before, total = total, total + alpha
            lost = (total - sum_before) - alpha
        cuda.syncthreads()
    return total


@kernel
def _walk(net, context, x, log_det, memories):
    """Turn x (N, D) from noise into data in place, and add log|det dx/du| to log_det (N,)."""
    T = cuda.blockDim.x
    memory = memories[cuda.blockIdx.x, :, cuda.threadIdx.x]
    window = cuda.shared.array(0, net.e.dtype)[cuda.threadIdx.x :: T]
    for begin in range(cuda.blockIdx.x * T, len(x), cuda.gridDim.x * T):
        row = begin + cuda.threadIdx.x
        _begin(net, context, min(row, len(x) - 1), memory, window)
        cuda.syncthreads()
        total = _walk_lane(net, x, row, memory, window)
        if cuda.threadIdx.y == 0 and row < len(x):
            log_det[row] += total


# ---- from the CPU --------------------------------------------------------------------------------


class ConvolutionStep(NamedTuple):
    """One transform to sample."""

    p: dict
    """The parameters of its conditioner, by name."""
    net: Any
    """:class:`afnp.networks.causal_conv.CausalConv`."""
    bound: float
    reverse: bool


def lanes(n: int, multiprocessors: int) -> int:
    """Return T for n samples: a power of two, as wide as leaves a tile for every multiprocessor.

    Examples
    --------
    >>> [lanes(n, 132) for n in (1, 1000, 10_000)]
    [1, 4, 32]
    """
    T = LANES
    while T > 1 and T * multiprocessors > n:
        T //= 2
    return T


def _window_rows(net) -> int:
    return 2 * net.channels + 1


def _memory_rows(net) -> int:
    return (sum(net.dilations) + 1) * net.channels + len(net.dilations) * net.gates


def _fitting(T: int, rows: int, itemsize: int) -> int:
    """Return T, halved until a window of so many rows fits into shared memory."""
    while T > 1 and rows * T * itemsize > gpu.SHARED_BYTES:
        T //= 2
    if rows * T * itemsize > gpu.SHARED_BYTES:
        most = (gpu.SHARED_BYTES // itemsize - 1) // 2
        raise ValueError(f"backend 'cuda' walks with at most {most} channels, got {rows // 2}")
    return T


def _network(step: ConvolutionStep, dtype: np.dtype) -> DeviceConvolution:
    def on_gpu(name: str):
        return cuda.to_device(
            plain(step.p[name] if name in "ebsh" else np.swapaxes(step.p[name], -1, -2))
        )

    return DeviceConvolution(
        **{name: on_gpu(name) for name in "EFeWVUbSsHh"},
        dilations=cuda.to_device(np.array(step.net.dilations, dtype=np.int32)),
        rings=sum(step.net.dilations),
        kind=KINDS.index(step.net.activation),
        reverse=step.reverse,
        bound=dtype.type(step.bound),
    )


def _walk_batch(steps: Sequence[ConvolutionStep], T: int, context, u, x, log_det) -> None:
    """Sample all steps on the GPU, where x stays between them."""
    window, rows = (
        max(f(step.net) for step in steps) * u.itemsize * T for f in (_window_rows, _memory_rows)
    )
    grid = min(-(-len(u) // T), gpu.room(rows))
    groups = min(THREADS // T, max(step.net.channels for step in steps))
    memories = cuda.device_array((grid, rows // (u.itemsize * T), T), u.dtype)
    arrays = [cuda.to_device(plain(a)) for a in (context, u, log_det)]
    for step in steps:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Grid size")  # few samples make few tiles
            launch = _walk[grid, (T, groups), 0, window]
        launch(_network(step, u.dtype), *arrays, memories)
    arrays[1].copy_to_host(x)
    arrays[2].copy_to_host(log_det)


def walk_all(
    steps: Sequence[ConvolutionStep], context, u, method="substitution"
) -> tuple[np.ndarray, np.ndarray]:
    """Map noise u (N, D) through all steps in turn to data x (N, D).

    Also give the sum of their log|det| (N,).

    Raises
    ------
    RuntimeError
        If numba-cuda or a GPU is missing.
    ValueError
        If a network has more channels than shared memory holds, or for a method that iterates.
    """
    if method != "substitution":
        raise ValueError(
            "backend: convolutions are iterated by 'numpy' (also as 'auto' or 'numba'), got 'cuda'"
        )
    multiprocessors = gpu.multiprocessors()
    T = _fitting(
        lanes(len(u), multiprocessors), max(_window_rows(step.net) for step in steps), u.itemsize
    )
    x, log_det = np.empty(u.shape, dtype=u.dtype), np.zeros(len(u), dtype=u.dtype)
    with gpu.lock:
        for batch in gpu.batches(context, u):
            _walk_batch(steps, T, context[batch], u[batch], x[batch], log_det[batch])
    return x, log_det
