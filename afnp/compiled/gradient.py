r"""Compiled gradients on the staircase: backpropagation's products without what the masks forbid.

.. math::
    d_{a, cn} = \sum_{r:\, \mathrm{prefix}_r > c} W_{rc}\, d_{z, rn}, \qquad
    \frac{\partial \mathcal L}{\partial W_{rc}} = \sum_n d_{z, rn}\, a_{cn}
    \quad (c < \mathrm{prefix}_r)

The definition is :class:`afnp.networks.layers.MaskedLinear`; this file does the same sums with the
register tile of :mod:`afnp.compiled.staircase`, on the tiles that the forward product kept.

The two sums run over different things, and so do the threads. First each thread takes some tiles of
samples from the noise back to the data, and leaves d_z and the transposed activations. Then each
thread takes some rows of W, and sums them over all samples: every weight's gradient is written
once, by one thread and in one order, whatever the number of threads.

Letters: N samples, D features, C context inputs, K params a feature, T lanes a tile, M transforms;
J rows and I columns of a layer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from afnp.compiled.compiler import jit, kernel
from afnp.compiled.simd.register_tile import (
    VECTORS,
    add1,
    add4,
    lanes,
    set1,
    set4,
    transpose,
)
from afnp.compiled.staircase import product_kernel
from afnp.compiled.threads import in_threads, sharers
from afnp.compiled.tiles import (
    START,
    StackPlan,
    first_row_of_x,
    load,
    params_row,
    plain,
    reusable,
    store,
    working_memory,
)
from afnp.compiled.univariate.dispatch import CompiledUnivariate, call_backward

__all__ = ["Kept", "product_keeping_tiles", "stack_backward"]

WORTH_A_THREAD = 2**22
"""Rows times parameters that make another thread worth waking."""
CHUNK = 64
"""Tiles whose d_z and transposed activations are kept at a time, so that memory stays bounded."""


# ---- forward, keeping every tile -----------------------------------------------------------------


class Kept(NamedTuple):
    """What ``backward`` needs of the forward product."""

    tiles: np.ndarray
    """(tiles M rows, T): all transforms of a tile below each other, and so all tiles."""
    rows: int
    """N."""


def _parts(n: int, tiles: int, parameters: int) -> list[slice]:
    """Cut tiles into one part a thread, if the work is worth it."""
    threads = sharers(min(tiles, n * parameters // WORTH_A_THREAD))
    cuts = [tiles * k // threads for k in range(threads + 1)]
    return [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def product_keeping_tiles(theta, stack: StackPlan, tau: CompiledUnivariate, context, x) -> tuple:
    """Map data x (N, D) to noise u (N, D) and log|det du/dx| (N,), in threads.

    Also return every tile.
    """
    context, x = plain(context), plain(x)
    (N, D), T = x.shape, lanes(x.dtype)
    u, log_det = np.empty_like(x), np.empty((N, 1), dtype=x.dtype)
    height = len(stack.layers) * stack.tile_rows
    memory = reusable((-(-N // T) * height, T), x.dtype)

    def work(part: slice) -> None:
        rows, own = slice(part.start * T, part.stop * T), memory[part.start * height :]
        values = working_memory("values", ((part.stop - part.start) * (D + 1), T), x.dtype)
        product_kernel(
            *(theta, stack, tau.normalize, tau.constants, context[rows], x[rows]),
            *(u[rows], log_det[rows], own, True, values),
        )

    in_threads(work, _parts(N, -(-N // T), theta.size))
    return u, log_det[:, 0], Kept(memory, N)


# ---- from the noise back to the data: each thread some samples -----------------------------------


@jit
def _transpose(memory, at, rows, a_T, place):
    """Write rows of a tile as columns, in panels of T by T values, each of them contiguous."""
    T, V, c = memory.shape[1], memory.shape[1] // VECTORS, START
    while c < rows:
        to = place + c // T * T * T + c % T
        if c + V <= rows:
            for n in range(0, T, V):
                transpose(memory, (at + c) * T + n, T, a_T, to + n * T, T)
        else:
            for n in range(T):
                for k in range(rows - c):
                    a_T[to + n * T + k] = memory[at + c + k, n]
        c += V


@jit
def _inputs(theta, stack, m, l, deltas, z, d_a, zeros):
    """Do d_a = (M ⊙ W)^T d_z.

    Four columns over the rows that see them all, and singly over the few others.
    """
    layer, T, c = stack.layers[m, l], deltas.shape[1], START
    J, I, first = layer["rows"], layer["columns"], layer["first"]
    full = START
    while c < I:
        last = c + 4 if c + 4 < I else I
        while full < J and stack.prefix[m, first + full] < last:
            full += 1
        out, w, a = (d_a + c) * T, layer["w_at"] + full * I + c, (z + full) * T
        if last - c == 4:
            set4(deltas, out, T, zeros, 0, theta, w, 1, I, deltas, a, T, J - full)
        else:
            for j in range(last - c):
                set1(deltas, out + j * T, T, zeros, 0, theta, w + j, 1, I, deltas, a, T, J - full)
        for column in range(c, last):
            r = full
            while r > 0 and stack.prefix[m, first + r - 1] > column:
                r -= 1
            out, w, a = (d_a + column) * T, layer["w_at"] + r * I + column, (z + r) * T
            add1(deltas, out, T, zeros, 0, theta, w, 1, I, deltas, a, T, full - r)
        c = last


@jit
def _activate_backward(kind, memory, a, deltas, d, rows):
    """Turn d_a into d_z: relu lets pass where a > 0, tanh multiplies by 1 - a², z itself by 1."""
    zero, one = memory.dtype.type(0), memory.dtype.type(1)
    for r in range(rows):
        if kind == 0:
            for n in range(memory.shape[1]):
                deltas[d + r, n] = deltas[d + r, n] if memory[a + r, n] > zero else zero
        elif kind == 1:
            for n in range(memory.shape[1]):
                deltas[d + r, n] *= one - memory[a + r, n] * memory[a + r, n]


@jit
def _network_backward(theta, stack, m, memory, at, deltas, d, a_T, place, zeros):
    """Run the layers from the last.

    ``deltas`` holds d_z of each in the rows where ``memory`` holds z.
    """
    T = memory.shape[1]
    for l in range(stack.layers.shape[1] - 1, -1, -1):
        layer = stack.layers[m, l]
        z, a = d + layer["z_at"], at + layer["in_at"]
        _transpose(memory, a, layer["columns"], a_T, place + layer["t_at"] * T)
        if l == 0:
            _inputs(theta, stack, m, l, deltas, z, d + layer["in_at"], zeros)
            break
        below = d + stack.layers[m, l - 1]["z_at"]
        _inputs(theta, stack, m, l, deltas, z, below, zeros)
        phi = stack.layers[m, l - 1]["phi"]
        _activate_backward(phi, memory, a, deltas, below, layer["columns"])
        if l + 1 < stack.layers.shape[1] and stack.layers[m, l + 1]["skip_at"] >= 0:
            carried = d + stack.layers[m, l + 1]["z_at"]
            for r in range(layer["columns"]):
                for n in range(deltas.shape[1]):
                    deltas[below + r, n] += deltas[carried + r, n]


@jit
def _add_inputs(stack, m, memory, at, deltas, d, values, value):
    """Add what the network sends back: d_x += d_input, for angles d_sin cos x - d_cos sin x."""
    C, E = stack.context, stack.embedding
    for i in range((stack.layers[m, 0]["columns"] - C) // E):
        to, c = value + stack.order[m, i], C + E * i
        for n in range(memory.shape[1]):
            if E == 1:
                values[to, n] += deltas[d + c, n]
            else:
                values[to, n] += (
                    deltas[d + c + 1, n] * memory[at + c, n]
                    - deltas[d + c, n] * memory[at + c + 1, n]
                )


@kernel
def samples_kernel(
    theta,
    stack,
    address,
    constants,
    memory,
    d_u,
    d_log_det,
    d_x,
    deltas,
    a_T,
    width,
    values,
    direct,
    zeros,
):
    """Take d_u (N, D), d_log_det (N, 1) back to d_x (N, D); d_z and transposed activations stay."""
    D, K, T, M = d_u.shape[1], stack.params, memory.shape[1], stack.layers.shape[0]
    x_at, fixed = first_row_of_x(stack), stack.fixed
    for k in range(values.shape[0] // (D + 1)):
        value = k * (D + 1)
        load(values, value, d_u, k * T)
        load(values, value + D, d_log_det, k * T)
        for m in range(M - 1, -1, -1):
            at, place = (k * M + m) * stack.tile_rows, (k * M + m) * T * width
            for i in range(fixed, D):
                h, d = at + params_row(stack, m, i), value + stack.order[m, i]
                call_backward(
                    *(address, constants, memory, h, K, memory, at + x_at + i),
                    *(values, d, value + D, deltas, h, direct, i, T),
                )
            _network_backward(theta, stack, m, memory, at, deltas, at, a_T, place, zeros)
            for i in range(fixed, D):
                to = value + stack.order[m, i]
                for n in range(T):
                    values[to, n] = direct[i, n]
            _add_inputs(stack, m, memory, at, deltas, at, values, value)
        store(values, value, d_x, k * T)


# ---- from d_z to the weights: each thread some rows of W -----------------------------------------


@jit
def _ragged(
    stack, m, layer, N, fresh, deltas, z, height, d_theta, r, last, c, a_T, a, step, patch, zeros
):
    """Sum rows r..last-1, four or one, by T columns from c on; write those below the staircase."""
    T, k = deltas.shape[1], START
    if stack.prefix[m, layer["first"] + last - 1] <= c:
        return
    for row in range(last - r):
        for n in range(T):
            patch[row, n] = 0
    while k * T < N:
        n, d = (T if N - k * T > T else N - k * T), (z + r + k * height) * T
        if last - r == 4:
            add4(patch, 0, T, zeros, 0, deltas, d, T, 1, a_T, a + k * step, T, n)
        else:
            add1(patch, 0, T, zeros, 0, deltas, d, T, 1, a_T, a + k * step, T, n)
        k += 1
    for row in range(last - r):
        stop = stack.prefix[m, layer["first"] + r + row] - c
        to = layer["w_at"] + (r + row) * layer["columns"] + c
        target = d_theta[to : to + (T if stop > T else (stop if stop > 0 else 0))]
        for n in range(target.size):
            target[n] = patch[row, n] if fresh else target[n] + patch[row, n]


@jit
def _bias(N, fresh, deltas, z, height, d_theta, place):
    """Write the sum of a row of d_z over N samples, or add it."""
    T, k, total = deltas.shape[1], START, deltas.dtype.type(0)
    while k * T < N:
        for n in range(T if N - k * T > T else N - k * T):
            total += deltas[z + k * height, n]
        k += 1
    d_theta[place] = total if fresh else d_theta[place] + total


@kernel
def weights_kernel(stack, N, fresh, deltas, a_T, width, d_theta, begins, ends, patch, zeros):
    """Sum d_z a^T over N samples into d_theta.

    Of each layer (M, L) the rows from ``begins`` to ``ends``.

    T columns at a time, so that their activations stay in the cache for all rows. A block that
    sticks out of the staircase goes by way of ``patch`` (4, T).
    """
    T, M = deltas.shape[1], stack.layers.shape[0]
    height, step = M * stack.tile_rows, M * T * width
    for m in range(M):
        for l in range(stack.layers.shape[1]):
            layer, begin, end = stack.layers[m, l], begins[m, l], ends[m, l]
            I, z, first = layer["columns"], m * stack.tile_rows + layer["z_at"], layer["first"]
            for r in range(begin, end):
                _bias(N, fresh, deltas, z + r, height, d_theta, layer["b_at"] + r)
            c = START
            while begin < end and c < stack.prefix[m, first + end - 1]:
                a, r = (m * width + layer["t_at"] + c) * T, begin
                # blocks that stick out of the staircase, or are no four rows
                while r < end and not (r + 4 <= end and c + T <= stack.prefix[m, first + r]):
                    four = r + 4 <= end
                    last = r + 4 if four else r + 1
                    _ragged(
                        stack,
                        m,
                        layer,
                        N,
                        fresh,
                        deltas,
                        z,
                        height,
                        d_theta,
                        r,
                        last,
                        c,
                        a_T,
                        a,
                        step,
                        patch,
                        zeros,
                    )
                    r = last
                whole = r + (end - r) // 4 * 4
                # the rest of whole blocks: a panel of activations stays in the cache for all rows
                k = START
                while k * T < N:
                    n = T if N - k * T > T else N - k * T
                    for row in range(r, whole, 4):
                        w, d = layer["w_at"] + row * I + c, (z + row + k * height) * T
                        if fresh and k == 0:
                            set4(d_theta, w, I, zeros, 0, deltas, d, T, 1, a_T, a, T, n)
                        else:
                            add4(d_theta, w, I, zeros, 0, deltas, d, T, 1, a_T, a + k * step, T, n)
                    k += 1
                for row in range(whole, end):
                    _ragged(
                        stack,
                        m,
                        layer,
                        N,
                        fresh,
                        deltas,
                        z,
                        height,
                        d_theta,
                        row,
                        row + 1,
                        c,
                        a_T,
                        a,
                        step,
                        patch,
                        zeros,
                    )
                c += T


def _shares(stack: StackPlan, threads: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut all rows of all layers, in fours, into parts of equal work.

    Where each begins and ends, (M, L).
    """
    M, L = stack.layers.shape
    if threads == 1:
        return [(np.zeros((M, L), np.int64), stack.layers["rows"].copy())]
    begins = (
        stack.layers["first"]
        + stack.layers["rows"].sum(axis=1, keepdims=True) * np.arange(M)[:, None]
    )
    ends = begins + stack.layers["rows"]
    work = np.concatenate([[0], np.cumsum(stack.prefix.reshape(-1) + 1)])
    cuts = np.searchsorted(work, work[-1] * np.arange(threads + 1) / threads)
    shares = []
    for a, b in zip(cuts[:-1], cuts[1:], strict=True):
        rows = [np.clip(cut - begins, 0, stack.layers["rows"]) for cut in (a, b)]
        # whole fours of a layer, so that every row is summed alike
        shares.append(tuple(np.where(cut < ends - begins, cut // 4 * 4, cut) for cut in rows))
    return shares


def stack_backward(
    theta, stack: StackPlan, tau: CompiledUnivariate, kept: Kept, d_u, d_log_det, d_theta
) -> np.ndarray:
    """Write the parameters' gradient into d_theta (P,), in threads; return d_x (N, D).

    Gradients of masked weights are not written.
    """
    d_u, d_log_det = plain(d_u), plain(d_log_det)[:, None]
    (N, D), T = d_u.shape, kept.tiles.shape[1]
    d_x, tiles, height = np.empty_like(d_u), -(-N // T), len(stack.layers) * stack.tile_rows
    width = int(stack.layers["t_at"][0, -1] + -(-stack.layers["columns"][0, -1] // T) * T)
    chunk = min(tiles, CHUNK)
    deltas = reusable((chunk * height, T), d_u.dtype)
    a_T = reusable((chunk * len(stack.layers) * T * width + T,), d_u.dtype)

    for start in range(0, tiles, CHUNK):
        stop = min(start + CHUNK, tiles)

        def samples(part: slice, start=start) -> None:
            first, last = start + part.start, start + part.stop
            rows, own = slice(first * T, last * T), slice(part.start * height, None)
            values = working_memory("values", ((last - first) * (D + 1), T), d_u.dtype)
            samples_kernel(
                *(theta, stack, tau.backward, tau.constants, kept.tiles[first * height :]),
                *(d_u[rows], d_log_det[rows], d_x[rows], deltas[own]),
                *(a_T[part.start * len(stack.layers) * T * width :], width, values),
                *(working_memory("direct", (D, T), d_u.dtype), np.zeros(4, d_u.dtype)),
            )

        def weights(share: tuple, start=start, stop=stop) -> None:
            weights_kernel(
                *(
                    stack,
                    min(N, stop * T) - start * T,
                    int(start == 0),
                    deltas,
                    a_T,
                    width,
                    d_theta,
                ),
                *share,
                *(working_memory("patch", (4, T), d_u.dtype), np.zeros(4, d_u.dtype)),
            )

        in_threads(samples, _parts(N, stop - start, theta.size))
        in_threads(weights, _shares(stack, sharers(N * theta.size // WORTH_A_THREAD)))
    return d_x
