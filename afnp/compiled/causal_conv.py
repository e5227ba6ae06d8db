r"""Compiled queues: walk along a series with each unit evaluated once, to sample it or to give its density.

.. math:: z^{(l)}_t = W^{(l)} a_t + V^{(l)} \mathrm{ring}_l[t \bmod d_l] + b^{(l)}, \qquad
          \mathrm{ring}_l[t \bmod d_l] \leftarrow a_t

The definition, with all formulas, is :class:`afnp.networks.causal_conv.CausalConv`. One step writes
the newest activation where the oldest was read, so that a layer remembers d_l activations and
nothing else: memory does not grow with the length of a series, nor does the work of a step. Both
directions are the same walk. They differ in who is known: sampling hears the x that it has just
made, the density the x that was given.

One body serves two layouts. Many samples lie side by side, as lanes, and products run through the
register tile. Of a handful, each is walked alone, and it is the channels that fill the vectors:
then weights lie transposed.

Letters: N samples, D steps, R channels, G rows of z, K params a step, I inputs a step, L layers, T
lanes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from afnp.compiled.simd.register_tile import add_product, inline, jit, lanes, sincos, tanh
from afnp.compiled.threads import FEW
from afnp.compiled.tiles import load, plain
from afnp.compiled.univariate.dispatch import generate, normalize

__all__ = ["ConvolutionWeights", "walk"]

KINDS = ("gated", "relu", "tanh")


class ConvolutionWeights(NamedTuple):
    """Weights as the kernels take them: (out, in) for lanes, (in, out) for single samples."""

    E: Any
    W: Any
    V: Any
    S: Any
    H: Any
    s: Any
    h: Any
    dilations: Any
    kind: int
    """Place in ``KINDS``."""


class WalkMemory(NamedTuple):
    """Memory of one walk: lanes are the last axis, or missing."""

    ring: Any
    """(Σ d_l, R[, T])."""
    e: Any
    b: Any
    """(R[, T]) and (L, G[, T]): biases with the context in them."""
    heard: Any
    a: Any
    z: Any
    y: Any


# ---- what differs between lanes and channels -----------------------------------------------------


def _add(z, W, a):
    """Do z += W a."""


@overload(_add)
def _add_implementation(z, W, a):
    def by_lanes(z, W, a):
        add_product(z, W, a, 0, len(z), 0, len(a))

    def by_channels(z, W, a):
        c = 0
        while c + 4 <= len(a):  # four columns at a time: z is loaded and stored less often
            p, q, r, s = W[c], W[c + 1], W[c + 2], W[c + 3]
            for g in range(len(z)):
                z[g] += p[g] * a[c] + q[g] * a[c + 1] + r[g] * a[c + 2] + s[g] * a[c + 3]
            c += 4
        while c < len(a):
            for g in range(len(z)):
                z[g] += W[c, g] * a[c]
            c += 1

    return by_lanes if z.ndim == 2 else by_channels


@inline
def _gate(kind, z, y):
    """Write the gate of z into y, both as vectors: the first half of z is z^f, the rest z^g."""
    half, zero, R = z.dtype.type(0.5), z.dtype.type(0), y.size
    for r in range(R):
        if kind == 0:
            y[r] = tanh(z[r]) * (half + half * tanh(half * z[R + r]))
        elif kind == 1:
            y[r] = max(z[r], zero)
        else:
            y[r] = tanh(z[r])


# ---- one step ------------------------------------------------------------------------------------


@jit  # not inlined: it is the same for every univariate, and compiled once
def _step(net, t, work, h):
    """Write h_t, and put every layer's newest activation into its ring."""
    a, z, y, first = work.a, work.z, work.y, 0
    a[:] = work.e
    _add(a, net.E, work.heard)
    for l in range(len(net.dilations)):
        past = work.ring[first + t % net.dilations[l]]
        z[:] = work.b[l]
        _add(z, net.V[l], past)
        _add(z, net.W[l], a)
        past[:] = a
        _gate(net.kind, z.reshape(-1), y.reshape(-1))
        for r in range(len(a)):
            a[r] += net.s[l, r]
        _add(a, net.S[l], y)
        first += net.dilations[l]
    for k in range(len(h)):
        h[k] = net.h[k]
    _add(h, net.H, a)


@inline
def _hear(heard, x):
    """Write what the next step hears of x (T,) into lanes ``heard`` (I, T)."""
    for n in range(x.size):
        if len(heard) == 1:
            heard[0, n] = x[n]
        else:
            heard[1, n], heard[0, n] = sincos(x[n])


# ---- all steps -----------------------------------------------------------------------------------


@jit
def _walk_lanes(net, tau, e, b, source, target, log_det, sampling, reverse, work, h, values):
    """Map source (N, D) to target, T samples at a time; ``values`` (3, T) are point, image and log-derivative."""
    (N, D), T = source.shape, values.shape[1]
    point, image, log = values[0], values[1], values[2]
    for begin in range(0, N, T):
        count = min(T, N - begin)
        load(work.e, e, begin)
        for l in range(len(b)):
            load(work.b[l], b[l], begin)
        work.ring[:], work.heard[:], point[:] = 0, 0, 0
        for t in range(D):
            at = D - 1 - t if reverse else t
            for n in range(count):
                point[n] = source[begin + n, at]
            _step(net, t, work, h)
            log[:] = 0
            if sampling:
                generate(tau, h, point, image, log)
                _hear(work.heard, image)
            else:
                normalize(tau, h, point, image, log)
                _hear(work.heard, point)
            for n in range(count):
                target[begin + n, at] = image[n]
                log_det[begin + n] += log[n]


@jit
def _walk_alone(net, tau, e, b, source, target, log_det, sampling, reverse, work, h, values):
    """Do the same, one sample after the other; of h (K, T) only the first column is used."""
    N, D = source.shape
    point, image, log = values[0, :1], values[1, :1], values[2, :1]
    for n in range(N):
        work.e[:], work.b[:], work.ring[:], work.heard[:] = e[n], b[:, n], 0, 0
        for t in range(D):
            at = D - 1 - t if reverse else t
            point[0], log[0] = source[n, at], 0
            _step(net, t, work, h[:, 0])
            if sampling:
                generate(tau, h[:, :1], point, image, log)
                _hear(work.heard.reshape(-1, 1), image)
            else:
                normalize(tau, h[:, :1], point, image, log)
                _hear(work.heard.reshape(-1, 1), point)
            target[n, at] = image[0]
            log_det[n] += log[0]


KERNELS = (_walk_lanes, _walk_alone)


def _weights(p: dict, net, alone: bool) -> ConvolutionWeights:
    def weights(name):
        return np.ascontiguousarray(np.swapaxes(p[name], -1, -2)) if alone else plain(p[name])

    E, W, V, S, H = (weights(name) for name in "EWVSH")
    dilations, kind = np.array(net.dilations, dtype=np.int64), KINDS.index(net.activation)
    return ConvolutionWeights(E, W, V, S, H, plain(p["s"]), plain(p["h"]), dilations, kind)


def walk(
    p: dict, net, tau, context, rows, sampling: bool, reverse: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Map noise to data (``sampling``) or data to noise, both (N, D); also give the log-determinant (N,).

    Logarithms are added up in float64, whatever the type of the rows: there may be a million of
    them.
    """
    rows, (N, D), dtype, alone = plain(rows), rows.shape, rows.dtype, len(rows) <= FEW
    R, G, L, T = net.channels, net.gates, len(net.dilations), lanes(dtype)
    shapes = [(sum(net.dilations), R), (R,), (L, G), (net.embedding,), (R,), (G,), (R,)]
    work = WalkMemory(*(np.zeros(shape if alone else (*shape, T), dtype) for shape in shapes))
    e, b = (plain(bias) for bias in net.biases(p, context))
    result, log_det, weights = np.empty((N, D), dtype), np.zeros(N), _weights(p, net, alone)
    h, values, kernel = np.zeros((net.numbers, T), dtype), np.zeros((3, T), dtype), KERNELS[alone]
    kernel(weights, tau, e, b, rows, result, log_det, sampling, reverse, work, h, values)
    return result, log_det.astype(dtype)
