r"""A handful of samples: the same product and solve, where the cost is reading the weights once.

.. math:: z_{nr} = b_r + \sum_{c < \mathrm{prefix}_r} W_{rc}\, a_{nc}

With one sample there is nothing to fill the lanes of a tile, but a row of W is contiguous: the sum
itself runs through the vector registers. Every weight below the staircase is read once from memory,
for all samples. For the univariate the samples become lanes: in the product those of all features
side by side, in the solve those of one feature.

Letters: N samples, D features, C context inputs, K params a feature.
"""

from __future__ import annotations

import numpy as np

from afnp.compiled.compiler import jit, kernel
from afnp.compiled.simd.register_tile import fetch, sincos, tanh
from afnp.compiled.simd.vector import width
from afnp.compiled.threads import FEW
from afnp.compiled.tiles import START, StackPlan, first_row_of_x, params_row, plain
from afnp.compiled.univariate.dispatch import CompiledUnivariate, call

__all__ = ["FEW", "product", "solve"]


@jit
def _rows(theta, stack, m, l, a, first, last):
    """Compute rows first..last-1 of layer l for all samples: z, and its activation.

    ``a`` is (N, tile rows).
    """
    layer, zero = stack.layers[m, l], a.dtype.type(0)
    begin, J, I = layer["first"], layer["rows"], layer["columns"]
    deepest = l + 1 == stack.layers.shape[1]
    for r in range(first, last):
        w, prefix, following = layer["w_at"] + r * I, stack.prefix[m, begin + r], r + last - first
        if following < J:
            fetch(theta, layer["w_at"] + following * I, prefix)
        for n in range(a.shape[0]):
            total = zero
            weights = theta[w : w + prefix]
            known = a[n, layer["in_at"] : layer["in_at"] + prefix]
            for c in range(weights.size):
                total += weights[c] * known[c]
            total += theta[layer["b_at"] + r]
            if layer["skip_at"] >= 0:
                total += a[n, layer["skip_at"] + r]
            a[n, layer["z_at"] + r] = total
            if not deepest:
                active = total
                if layer["phi"] == 0:
                    active = zero if total < zero else total
                elif layer["phi"] == 1:
                    active = tanh(total)
                a[n, stack.layers[m, l + 1]["in_at"] + r] = active


@jit
def _embed(stack, a, first, last):
    """Write the network's inputs of features first..last-1: the cosine and sine of angles."""
    if stack.embedding == 2:
        x = first_row_of_x(stack)
        for n in range(a.shape[0]):
            for i in range(first, last):
                sine, cosine = sincos(a[n, x + i])
                a[n, stack.context + 2 * i], a[n, stack.context + 2 * i + 1] = cosine, sine


@jit
def _map(stack, m, address, constants, a, sources, first, last, rows):
    """Map features first..last-1 of all samples as lanes.

    ``rows`` (K + 3, lanes) is h, point, image, log.

    Lanes past the end repeat whatever was there.
    """
    K, N, lane = stack.params, a.shape[0], START
    for i in range(first, last):
        h = params_row(stack, m, i)
        for n in range(N):
            for k in range(K):
                rows[k, lane] = a[n, h + k]
            rows[K, lane] = sources[n, stack.order[m, i]]
            rows[K + 2, lane] = 0
            lane += 1
    call(address, constants, rows, 0, K, rows, K, rows, K + 1, rows, K + 2, rows.shape[1])


@kernel
def few_product_kernel(theta, stack, address, constants, context, x, log_det, a, rows):
    """Replace x (N, D) by u, and write log|det du/dx|."""
    (N, D), x_at, K = x.shape, first_row_of_x(stack), stack.params
    for n in range(N):
        log_det[n] = 0
        for c in range(context.shape[1]):
            a[n, c] = context[n, c]
    for m in range(stack.layers.shape[0]):
        for n in range(N):
            for i in range(D):
                a[n, x_at + i] = x[n, stack.order[m, i]]
        _embed(stack, a, START, D)
        for l in range(stack.layers.shape[1]):
            _rows(theta, stack, m, l, a, START, stack.layers[m, l]["rows"])
        _map(stack, m, address, constants, a, x, stack.fixed, D, rows)
        lane = START
        for i in range(stack.fixed, D):
            for n in range(N):
                x[n, stack.order[m, i]] = rows[K + 1, lane]
                log_det[n] += rows[K + 2, lane]
                lane += 1


@kernel
def few_solve_kernel(theta, stack, address, constants, context, u, log_det, a, rows):
    """Replace u (N, D) by x, and write log|det dx/du|."""
    (N, D), x_at, K, fixed = u.shape, first_row_of_x(stack), stack.params, stack.fixed
    for n in range(N):
        log_det[n] = 0
        for c in range(context.shape[1]):
            a[n, c] = context[n, c]
    for m in range(stack.layers.shape[0] - 1, -1, -1):
        for n in range(N):
            for i in range(fixed):
                a[n, x_at + i] = u[n, stack.order[m, i]]
        _embed(stack, a, START, fixed)
        for i in range(fixed, D):
            if fixed == 0 or i == fixed:
                for l in range(stack.layers.shape[1]):
                    begin, end = stack.start[m, l, i], stack.start[m, l, i + 1]
                    if fixed > 0:
                        begin, end = START, stack.layers[m, l]["rows"]
                    _rows(theta, stack, m, l, a, begin, end)
            _map(stack, m, address, constants, a, u, i, i + 1, rows)
            for n in range(N):
                a[n, x_at + i] = rows[K + 1, n]
                log_det[n] += rows[K + 2, n]
            if fixed == 0:
                _embed(stack, a, i, i + 1)
        for n in range(N):
            for i in range(fixed, D):
                u[n, stack.order[m, i]] = a[n, x_at + i]


def _run(kernel, address: int, points: int, theta, stack: StackPlan, tau, context, rows) -> tuple:
    result, log_det = np.array(rows, order="C"), np.empty(len(rows), dtype=rows.dtype)
    V = width(rows.dtype)
    scratch = np.zeros((stack.params + 3, -(-points // V) * V), rows.dtype)
    a = np.empty((len(rows), stack.tile_rows), rows.dtype)
    kernel(theta, stack, address, tau.constants, plain(context), result, log_det, a, scratch)
    return result, log_det


def product(
    theta, stack: StackPlan, tau: CompiledUnivariate, context, x
) -> tuple[np.ndarray, np.ndarray]:
    """Map data x (N, D) to noise u (N, D) and log|det du/dx| (N,)."""
    return _run(few_product_kernel, tau.normalize, x.size, theta, stack, tau, context, x)


def solve(
    theta, stack: StackPlan, tau: CompiledUnivariate, context, u
) -> tuple[np.ndarray, np.ndarray]:
    """Map noise u (N, D) to data x (N, D) and log|det dx/du| (N,)."""
    return _run(few_solve_kernel, tau.generate, len(u), theta, stack, tau, context, u)
