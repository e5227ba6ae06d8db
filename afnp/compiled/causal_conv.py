r"""Compiled queues: each unit evaluated once along a series, to sample it or to give its density.

.. math:: z^{(l)}_t = W^{(l)} a_t + V^{(l)} \mathrm{ring}_l[t \bmod d_l] + b^{(l)}, \qquad
          \mathrm{ring}_l[t \bmod d_l] \leftarrow a_t

The definition, with all formulas, is :class:`afnp.networks.causal_conv.CausalConv`. One step writes
the newest activation where the oldest was read, so that a layer remembers d_l activations and
nothing else: memory does not grow with the length of a series, nor does the work of a step. Both
directions are the same walk. They differ in what a step depends on: sampling on the x that it has
just made, the density on the x that was given.

Many samples lie side by side, as lanes, and products run through the register tile. Of a handful,
each is walked alone, and it is the channels that fill the vectors: then weights lie transposed.

A walk's memory is a list of rows: rings, e, b, the newest inputs, a, z, y, h, and a point, its
image and its log-derivative. A row has T lanes, or is a single value.

Letters: N samples, D steps, R channels, G rows of z, K params a step, I inputs a step, L layers, T
lanes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from afnp.compiled.compiler import jit, kernel
from afnp.compiled.simd.register_tile import add1, add4, lanes, sincos, tanh
from afnp.compiled.simd.vector import width
from afnp.compiled.threads import FEW
from afnp.compiled.tiles import START, load, plain
from afnp.compiled.univariate.dispatch import CompiledUnivariate, call

__all__ = ["KINDS", "ConvolutionWeights", "walk"]

KINDS = ("gated", "relu", "tanh")
"""Activations, by the number that kernels are given."""


class ConvolutionWeights(NamedTuple):
    """Weights as the kernels take them: (out, in) for lanes, (in, out) for single samples."""

    E: Any
    """(R I,), as all that follow one vector; I inputs a step."""
    W: Any
    V: Any
    """(L G R,)."""
    S: Any
    """(L R R,)."""
    H: Any
    """(K R,)."""
    s: Any
    """(L, R)."""
    h: Any
    """(K,)."""
    dilations: Any
    kind: int
    """Place in ``KINDS``."""
    gates: int
    inputs: int


class WalkRows(NamedTuple):
    """Where in a walk's memory everything begins."""

    e: int
    b: int
    inputs: int
    a: int
    z: int
    y: int
    h: int
    point: int

    @classmethod
    def of(cls, net) -> WalkRows:
        """Lay out a network's memory: the rings come first."""
        R, G, L = net.channels, net.gates, len(net.dilations)
        heights = [sum(net.dilations) * R, R, L * G, net.embedding, R, G, R, net.numbers]
        return cls(*(int(at) for at in np.cumsum(heights)))


# ---- many samples, as lanes ----------------------------------------------------------------------


@jit
def _add(memory, z, W, w, J, I, a):
    """Do z += W a, for rows z and a of lanes, and W (J, I) from the w-th weight on."""
    T, r = memory.shape[1], START
    while r < J:
        if r + 4 <= J:
            add4(memory, (z + r) * T, T, W, 0, W, w + r * I, I, 1, memory, a * T, T, I)
            r += 4
        else:
            add1(memory, (z + r) * T, T, W, 0, W, w + r * I, I, 1, memory, a * T, T, I)
            r += 1


@jit
def _copy(memory, to, source, rows):
    for r in range(rows):
        for n in range(memory.shape[1]):
            memory[to + r, n] = memory[source + r, n]


@jit
def _gate(kind, memory, z, y, R):
    """Write the gate of z into y: the first half of z is z^f, the rest z^g."""
    half, zero = memory.dtype.type(0.5), memory.dtype.type(0)
    for r in range(R):
        for n in range(memory.shape[1]):
            f = memory[z + r, n]
            if kind == 0:
                g = half + half * tanh(half * memory[z + R + r, n])
                memory[y + r, n] = tanh(f) * g
            elif kind == 1:
                memory[y + r, n] = zero if f < zero else f
            else:
                memory[y + r, n] = tanh(f)


@jit
def _step(net, at, t, memory):
    """Write h_t, and put every layer's newest activation into its ring."""
    R, G, I, T = net.s.shape[1], net.gates, net.inputs, memory.shape[1]
    first = START
    _copy(memory, at.a, at.e, R)
    _add(memory, at.a, net.E, START, R, I, at.inputs)
    for l in range(net.dilations.size):
        past = (first + t % net.dilations[l]) * R
        _copy(memory, at.z, at.b + l * G, G)
        _add(memory, at.z, net.V, l * G * R, G, R, past)
        _add(memory, at.z, net.W, l * G * R, G, R, at.a)
        _copy(memory, past, at.a, R)
        _gate(net.kind, memory, at.z, at.y, R)
        for r in range(R):
            for n in range(T):
                memory[at.a + r, n] += net.s[l, r]
        _add(memory, at.a, net.S, l * R * R, R, R, at.y)
        first += net.dilations[l]
    for k in range(net.h.size):
        for n in range(T):
            memory[at.h + k, n] = net.h[k]
    _add(memory, at.h, net.H, START, net.h.size, R, at.a)


@kernel
def walk_lanes_kernel(
    net, at, address, constants, e, b, source, target, log_det, sampling, reverse, memory
):
    """Map source (N, D) to target, T samples at a time."""
    (N, D), T, K, begin = source.shape, memory.shape[1], net.h.size, START
    point, image, log = at.point, at.point + 1, at.point + 2
    while begin < N:
        for r in range(memory.shape[0]):
            for n in range(T):
                memory[r, n] = 0
        load(memory, at.e, e, begin)
        for l in range(b.shape[0]):
            load(memory, at.b + l * net.gates, b[l], begin)
        for t in range(D):
            i = D - 1 - t if reverse else t
            for n in range(T):
                if begin + n < N:
                    memory[point, n] = source[begin + n, i]
                memory[log, n] = 0
            _step(net, at, t, memory)
            call(address, constants, memory, at.h, K, memory, point, memory, image, memory, log, T)
            known = image if sampling else point
            for n in range(T):
                if net.inputs == 1:
                    memory[at.inputs, n] = memory[known, n]
                else:
                    sine, cosine = sincos(memory[known, n])
                    memory[at.inputs, n] = cosine
                    memory[at.inputs + 1, n] = sine
            for n in range(T):
                if begin + n < N:
                    target[begin + n, i] = memory[image, n]
                    log_det[begin + n] += memory[log, n]
        begin += T


# ---- single samples: the channels fill the vectors -----------------------------------------------


@jit
def _add_alone(z, W, a):
    """Do z += W a, W transposed, four columns at a time: z is loaded and stored less often."""
    G, c = z.size, START
    while c + 4 <= a.size:
        p, q = W[c * G : (c + 1) * G], W[(c + 1) * G : (c + 2) * G]
        r, s = W[(c + 2) * G : (c + 3) * G], W[(c + 3) * G : (c + 4) * G]
        for g in range(G):
            z[g] += p[g] * a[c] + q[g] * a[c + 1] + r[g] * a[c + 2] + s[g] * a[c + 3]
        c += 4
    while c < a.size:
        p = W[c * G : (c + 1) * G]
        for g in range(G):
            z[g] += p[g] * a[c]
        c += 1


@jit
def _copy_alone(z, values):
    for g in range(z.size):
        z[g] = values[g]


@jit
def _gate_alone(kind, z, y):
    """Write the gate of z into y: the first half of z is z^f, the rest z^g."""
    half, zero, R = z.dtype.type(0.5), z.dtype.type(0), y.size
    f, g = z[:R], z[z.size - R :]
    for r in range(R):
        if kind == 0:
            y[r] = tanh(f[r]) * (half + half * tanh(half * g[r]))
        elif kind == 1:
            y[r] = zero if f[r] < zero else f[r]
        else:
            y[r] = tanh(f[r])


@jit
def _step_alone(net, at, t, memory):
    """Write h_t, and put every layer's newest activation into its ring."""
    R, G, I, first = net.s.shape[1], net.gates, net.inputs, START
    a, z, y = memory[at.a : at.a + R], memory[at.z : at.z + G], memory[at.y : at.y + R]
    _copy_alone(a, memory[at.e : at.e + R])
    _add_alone(a, net.E, memory[at.inputs : at.inputs + I])
    for l in range(net.dilations.size):
        place, b = (first + t % net.dilations[l]) * R, at.b + l * G
        past = memory[place : place + R]
        _copy_alone(z, memory[b : b + G])
        _add_alone(z, net.V[l * G * R : (l + 1) * G * R], past)
        _add_alone(z, net.W[l * G * R : (l + 1) * G * R], a)
        _copy_alone(past, a)
        _gate_alone(net.kind, z, y)
        for r in range(R):
            a[r] += net.s[l, r]
        _add_alone(a, net.S[l * R * R : (l + 1) * R * R], y)
        first += net.dilations[l]
    h = memory[at.h : at.h + net.h.size]
    _copy_alone(h, net.h)
    _add_alone(h, net.H, a)


@kernel
def walk_alone_kernel(
    net, at, address, constants, e, b, source, target, log_det, sampling, reverse, memory, rows
):
    """Do the same, one sample after the other.

    ``rows`` (K + 3, lanes) are h, point, image and log.
    """
    (N, D), K = source.shape, net.h.size
    for n in range(N):
        for r in range(memory.size):
            memory[r] = 0
        for r in range(e.shape[1]):
            memory[at.e + r] = e[n, r]
        for l in range(b.shape[0]):
            for g in range(net.gates):
                memory[at.b + l * net.gates + g] = b[l, n, g]
        for t in range(D):
            i = D - 1 - t if reverse else t
            _step_alone(net, at, t, memory)
            for k in range(K):
                rows[k, 0] = memory[at.h + k]
            rows[K, 0], rows[K + 2, 0] = source[n, i], 0
            call(address, constants, rows, 0, K, rows, K, rows, K + 1, rows, K + 2, rows.shape[1])
            known = rows[K + 1, 0] if sampling else rows[K, 0]
            if net.inputs == 1:
                memory[at.inputs] = known
            else:
                sine, cosine = sincos(known)
                memory[at.inputs], memory[at.inputs + 1] = cosine, sine
            target[n, i] = rows[K + 1, 0]
            log_det[n] += rows[K + 2, 0]


# ---- from Python ---------------------------------------------------------------------------------


def _weights(p: dict, net, alone: bool) -> ConvolutionWeights:
    def weights(name):
        return plain(np.swapaxes(p[name], -1, -2) if alone else p[name]).reshape(-1)

    E, W, V, S, H = (weights(name) for name in "EWVSH")
    dilations, kind = np.array(net.dilations, dtype=np.int64), KINDS.index(net.activation)
    s, h = plain(p["s"]), plain(p["h"])
    return ConvolutionWeights(E, W, V, S, H, s, h, dilations, kind, net.gates, net.embedding)


def walk(
    p: dict, net, tau: CompiledUnivariate, context, rows, sampling: bool, reverse: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Map noise to data (``sampling``) or data to noise, both (N, D).

    Also give the log-determinant (N,).

    Logarithms are added up in float64, whatever the type of the rows: there may be a million of
    them.
    """
    rows, (N, D), dtype, alone = plain(rows), rows.shape, rows.dtype, len(rows) <= FEW
    e, b = (plain(bias) for bias in net.biases(p, context))
    result, log_det, weights = np.empty((N, D), dtype), np.zeros(N), _weights(p, net, alone)
    at, address = WalkRows.of(net), tau.generate if sampling else tau.normalize
    common = weights, at, address, tau.constants, e, b, rows, result, log_det, sampling, reverse
    if alone:
        lane_rows = np.zeros((net.numbers + 3, width(dtype)), dtype)
        walk_alone_kernel(*common, np.empty(at.point, dtype), lane_rows)
    else:
        walk_lanes_kernel(*common, np.empty((at.point + 3, lanes(dtype)), dtype))
    return result, log_det.astype(dtype)
