r"""The triangular solve (sampling) on a GPU: one thread block a tile of samples.

.. math::
    z_r = b_r + \underbrace{
            \sum_{c < \mathrm{begun}} W_{rc}\, a_c
        }_{\text{product, for a block of features}}
        + \underbrace{
            \sum_{\mathrm{begun} \le c < \mathrm{prefix}_r} W_{rc}\, a_c
        }_{\text{solve, one by one}}

The algorithm is that of :mod:`afnp.compiled.staircase`; :mod:`afnp.sampling.substitution` is the
definition of both. For a block of features, one product brings in everything known before it; then
a short loop finishes the block feature by feature, with a barrier after every layer. Samples are
cut into tiles of T lanes, and a tile reads each weight once. The product runs through a register
tile: R rows of W times S samples a thread.

A tile has two memories. The *window* holds what the current block of features computes: shared
memory, if it fits. The *known* holds what is finished and only later products read: global memory.
Both are rows of T contiguous values, so that neighbouring threads touch neighbouring values.

Letters: N samples, D features, C context inputs, L layers, T = 32 S lanes a tile. Thread (t, g) of
a block does the rows that fall to group g, for lanes t, t + 32, t + 64, ... A warp is one group,
and reads one weight at a time.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from afnp.compiled.cuda import device as gpu
from afnp.compiled.cuda.device import activate, affine_generate, cuda, device, kernel
from afnp.compiled.tiles import LAYER_NAMES, NetworkPlan, network_plan, plain

__all__ = ["DevicePlan", "StaircaseStep", "device_plan", "fitting_window", "solve_all"]

LANES, GROUPS = 32, 8
"""Threads of a block: side by side on samples, times rows."""
R, S = 8, 4
"""Rows and samples of the register tile: R + S loads for R * S multiply-adds."""
BLOCKS = 2
"""Blocks a multiprocessor works on at a time: as many as their registers allow."""


# ---- the network as a table of layers ------------------------------------------------------------

DEVICE_LAYER = np.dtype([(name, np.int32) for name in (*LAYER_NAMES, "a_at")], align=True)
"""A layer on the GPU, as in :data:`afnp.compiled.tiles.LAYER`, but ``in_at`` is the row of the
known where a layer's inputs begin, ``z_at`` the row of the window where its z begins, and ``a_at``
the row of the window where those of its inputs begin that the block itself computes. Row 0 sums
log|det|."""


class DeviceStaircase(NamedTuple):
    """One transform as the kernels read it, on the GPU."""

    theta: np.ndarray
    """Parameters, with every W transposed: R rows of W are neighbours. R values of no meaning
    follow."""
    layers: np.ndarray
    """(L,) of :data:`DEVICE_LAYER`."""
    prefix: np.ndarray
    start: np.ndarray
    order: np.ndarray
    activation: int
    block: int
    samples: int
    bound: float


def device_layers(plan: NetworkPlan) -> np.ndarray:
    """Return the layers of a plan as they go to the GPU."""
    layers = np.zeros(len(plan.layers), DEVICE_LAYER)
    for name in LAYER_NAMES:
        layers[name] = plan.layers[name]
    return layers


def _window(plan: NetworkPlan, block: int) -> tuple[np.ndarray, int]:
    """Return ``DeviceStaircase.layers`` for blocks of ``block`` features, and the window's rows."""
    L, D = len(plan.layers), plan.start.shape[1] - 1
    firsts = np.arange(0, D, block)
    heights = (plan.start[:, np.minimum(firsts + block, D)] - plan.start[:, firsts]).max(axis=1)
    layers = device_layers(plan)
    layers["in_at"] = np.cumsum(layers["columns"]) - layers["columns"]
    layers["a_at"] = 1
    residual, at = (plan.layers["skip_at"] >= 0).any(), 1 + block
    for l in range(L):
        layers[l]["z_at"], at = at, at + heights[l]
        if l + 1 < L:
            # without residual blocks nobody needs z again, and its activation takes its place
            layers[l + 1]["a_at"] = at if residual else layers[l]["z_at"]
            at += heights[l] if residual else 0
    return layers, int(at)


def fitting_window(plan: NetworkPlan, row_bytes: int) -> tuple[np.ndarray, int, int, bool]:
    """Return layers, features a block and rows of the largest window that fits, and if one does."""
    for block in [*range(plan.block, 0, -1), plan.block]:
        layers, rows = _window(plan, block)
        if fits := rows * row_bytes <= gpu.SHARED_BYTES:
            break
    return layers, block, rows, fits


def _transposed(theta: np.ndarray, plan: NetworkPlan) -> np.ndarray:
    """Return ``DeviceStaircase.theta``."""
    result = np.zeros(theta.size + R, dtype=theta.dtype)
    for row in plan.layers:
        W, (J, I) = slice(row["w_at"], row["b_at"]), (row["rows"], row["columns"])
        result[W].reshape(I, J)[:] = theta[W].reshape(J, I).T
        result[row["b_at"] : row["b_at"] + J] = theta[row["b_at"] : row["b_at"] + J]
    return result


# ---- the register tile ---------------------------------------------------------------------------


def _register_tile(samples: int):
    """Build ``tile``: z[:R] = b[first:] + W[first:, :columns] @ known[:columns], for samples."""

    @device
    def tile(net, l, first, last, columns, known, window, z_at):
        row, T = net.layers[l], samples * LANES
        sums = cuda.local.array((R, samples), net.theta.dtype)
        for j in range(R):
            for s in range(samples):
                sums[j, s] = net.theta[row["b_at"] + first + j]
        W, a = net.theta[row["w_at"] + first :], known[row["in_at"] * T + cuda.threadIdx.x :]
        # indices without a sign: Numba lets negative ones count from the end, which costs in the
        # inner loop
        w_at, a_at, J = np.uint64(0), np.uint64(0), np.uint64(row["rows"])
        end = np.uint64(columns) * J
        while w_at < end:
            for j in range(R):
                for s in range(samples):
                    sums[j, s] += W[w_at + np.uint64(j)] * a[a_at + np.uint64(s * LANES)]
            w_at += J
            a_at += np.uint64(T)
        for j in range(R):
            if first + j < last:
                for s in range(samples):
                    window[(z_at + j) * T + s * LANES + cuda.threadIdx.x] = sums[j, s]

    return tile


_tile4, _tile1 = _register_tile(S), _register_tile(1)


# ---- one tile ------------------------------------------------------------------------------------


@device
def _load(net, context, x, begin, first, last, known, window, zero):
    """Fetch the noise of a block of features, and with the first block the context.

    Lanes past the end become 0.
    """
    C = context.shape[1] if first == 0 else 0
    for item in range(cuda.threadIdx.y, (C + last - first) * net.samples, cuda.blockDim.y):
        i, lane = item // net.samples, item % net.samples * LANES + cuda.threadIdx.x
        inside = begin + lane < len(x)
        if i < C:
            known[i * net.samples * LANES + lane] = context[begin + lane, i] if inside else zero
        else:
            at = (net.layers[0]["a_at"] + i - C) * net.samples * LANES + lane
            window[at] = x[begin + lane, net.order[first + i - C]] if inside else zero


@device
def _product(net, C, first, last, known, window):
    """Sum the z of a block of features over all that is known before it, R rows a turn."""
    turn = cuda.threadIdx.y
    for l in range(len(net.layers)):
        columns = C + first if l == 0 else net.start[l - 1, first]
        top, bottom = net.start[l, first], net.start[l, last]
        while top + turn * R < bottom:
            z_at = net.layers[l]["z_at"] + turn * R
            if net.samples == 1:
                _tile1(net, l, top + turn * R, bottom, columns, known, window, z_at)
            else:
                _tile4(net, l, top + turn * R, bottom, columns, known, window, z_at)
            turn += cuda.blockDim.y
        turn -= (bottom - top + R - 1) // R


@device
def _finish(net, C, l, i, first, known, window, zero):
    """Add what the block itself computed to the rows of layer l that only wait for feature i - 1.

    Activate them.
    """
    row, T = net.layers[l], net.samples * LANES
    begun = C + first if l == 0 else net.start[l - 1, first]
    for item in range(
        cuda.threadIdx.y, (net.start[l, i + 1] - net.start[l, i]) * net.samples, cuda.blockDim.y
    ):
        r = net.start[l, i] + item // net.samples
        lane = item % net.samples * LANES + cuda.threadIdx.x
        place = (r - net.start[l, first]) * T + lane
        z = window[row["z_at"] * T + place]
        J = np.uint64(row["rows"])
        w_at = np.uint64(row["w_at"] + r)
        a_at = np.uint64(row["a_at"] * T + lane)
        end = w_at + np.uint64(net.prefix[row["first"] + r]) * J
        w_at += np.uint64(begun) * J
        while w_at < end:
            z += net.theta[w_at] * window[a_at]
            w_at += J
            a_at += np.uint64(T)
        if row["skip_at"] >= 0:
            z += window[net.layers[l - 2]["z_at"] * T + place]
        window[row["z_at"] * T + place] = z
        if l + 1 < len(net.layers):
            a = activate(net.activation, z, zero)
            window[net.layers[l + 1]["a_at"] * T + place] = a
            known[(net.layers[l + 1]["in_at"] + r) * T + lane] = a


@device
def _generate(net, C, i, first, x, begin, known, window):
    """Give x_i, and add its log-derivative to row 0 of the window."""
    T, L = net.samples * LANES, len(net.layers)
    for lane in range(cuda.threadIdx.y * LANES + cuda.threadIdx.x, T, cuda.blockDim.y * LANES):
        x_at = (net.layers[0]["a_at"] + i - first) * T + lane
        h_at = (net.layers[L - 1]["z_at"] + 2 * (i - first)) * T + lane
        value, alpha = affine_generate(window[h_at], window[h_at + T], window[x_at], net.bound)
        window[x_at] = value
        window[lane] += alpha
        known[(C + i) * T + lane] = value
        if begin + lane < len(x):
            x[begin + lane, net.order[i]] = value


@device
def _solve_block(net, context, x, begin, first, known, window, zero):
    """Run the network for a block of features, and give x_i as soon as its params are there."""
    C, last = context.shape[1], min(first + net.block, len(net.order))
    _load(net, context, x, begin, first, last, known, window, zero)
    cuda.syncthreads()
    _product(net, C, first, last, known, window)
    cuda.syncthreads()
    for i in range(first, last):
        for l in range(len(net.layers)):
            if net.start[l, i] < net.start[l, i + 1]:
                _finish(net, C, l, i, first, known, window, zero)
                cuda.syncthreads()
        _generate(net, C, i, first, x, begin, known, window)
        cuda.syncthreads()


# ---- all tiles -----------------------------------------------------------------------------------


@device
def _solve(net, context, x, log_det, known, window):
    T, zero = net.samples * LANES, net.theta.dtype.type(0)
    for begin in range(cuda.blockIdx.x * T, len(x), cuda.gridDim.x * T):
        for lane in range(cuda.threadIdx.y * LANES + cuda.threadIdx.x, T, cuda.blockDim.y * LANES):
            window[lane] = zero
        for first in range(0, len(net.order), net.block):
            _solve_block(net, context, x, begin, first, known, window, zero)
        for lane in range(cuda.threadIdx.y * LANES + cuda.threadIdx.x, T, cuda.blockDim.y * LANES):
            if begin + lane < len(x):
                log_det[begin + lane] += window[lane]


@kernel
def _solve_shared(net, context, x, log_det, known, windows):
    """Turn x (N, D) from noise into data in place, and add log|det dx/du| to log_det (N,)."""
    _solve(net, context, x, log_det, known[cuda.blockIdx.x], cuda.shared.array(0, net.theta.dtype))


@kernel
def _solve_global(net, context, x, log_det, known, windows):
    """Do the same with windows in global memory, for features with more rows than shared memory."""
    _solve(net, context, x, log_det, known[cuda.blockIdx.x], windows[cuda.blockIdx.x])


# ---- from the CPU --------------------------------------------------------------------------------


class DevicePlan:
    """A network's tables, and what lies of it on the GPU.

    Parameters stay there until any bit of them changes.
    """

    def __init__(self, plan: NetworkPlan):
        self.host, self.known_rows = plan, int(plan.layers["columns"].sum())
        self._seen: Any = None
        self._theta: Any = None
        self._tables: dict[int, tuple] = {}

    def theta(self, theta: np.ndarray):
        """Return ``DeviceStaircase.theta``."""
        bits = np.ascontiguousarray(theta).view(f"i{theta.itemsize}")
        if (
            self._seen is None
            or self._seen.dtype != bits.dtype
            or not np.array_equal(self._seen, bits)
        ):
            self._seen, self._theta = bits.copy(), cuda.to_device(_transposed(theta, self.host))
        return self._theta

    def tables(self, row_bytes: int) -> tuple:
        """Return layers, prefix, start on the GPU, features a block, window rows, if these fit."""
        if row_bytes not in self._tables:
            layers, block, rows, fits = fitting_window(self.host, row_bytes)
            integers = [self.host.prefix.astype(np.int32), self.host.start.astype(np.int32)]
            on_gpu = [cuda.to_device(a) for a in (layers, *integers)]
            self._tables[row_bytes] = *on_gpu, block, rows, fits
        return self._tables[row_bytes]


class StaircaseStep(NamedTuple):
    """One transform to solve."""

    theta: np.ndarray
    plan: DevicePlan
    bound: float
    order: np.ndarray


_plans: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def device_plan(network) -> DevicePlan:
    """Return the plan of a masked network; it lives as long as the network."""
    if (plan := _plans.get(network)) is None:
        plan = _plans[network] = DevicePlan(network_plan(network))
    return plan


def _solve_batch(
    steps: Sequence[StaircaseStep], multiprocessors: int, context, u, x, log_det
) -> None:
    """Solve all steps on the GPU, where x stays between them."""
    # narrow tiles are slower, but better than idle multiprocessors or windows in global memory
    widths = (S, 1) if len(u) >= S * LANES * multiprocessors else (1,)
    fitting = (
        s for s in widths if all(step.plan.tables(s * LANES * u.itemsize)[-1] for step in steps)
    )
    samples = next(fitting, widths[0])
    T, row_bytes = samples * LANES, samples * LANES * u.itemsize
    tables = [step.plan.tables(row_bytes) for step in steps]
    heights = [
        max(step.plan.known_rows for step in steps),
        max(0 if fits else rows for *_, rows, fits in tables),
    ]
    grid = min(-(-len(u) // T), BLOCKS * multiprocessors, gpu.room(sum(heights) * row_bytes))
    memories = [cuda.device_array((grid, max(1, height) * T), u.dtype) for height in heights]
    arrays = [cuda.to_device(plain(a)) for a in (context, u, log_det)]
    for step, (layers, prefix, start, block, rows, fits) in zip(steps, tables, strict=True):
        theta = step.plan.theta(step.theta)
        order = cuda.to_device(np.asarray(step.order, dtype=np.int32))
        activation, bound = step.plan.host.activation, u.dtype.type(step.bound)
        net = DeviceStaircase(
            theta, layers, prefix, start, order, activation, block, samples, bound
        )
        kernel, shared = (_solve_shared, rows * row_bytes) if fits else (_solve_global, 0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Grid size")  # few samples make few tiles
            launch = kernel[grid, (LANES, GROUPS), 0, shared]
        launch(net, *arrays, *memories)
    arrays[1].copy_to_host(x)
    arrays[2].copy_to_host(log_det)


def solve_all(steps: Sequence[StaircaseStep], context, u) -> tuple[np.ndarray, np.ndarray]:
    """Map noise u (N, D) through all steps in turn to data x (N, D).

    Also give the sum of their log|det| (N,).

    Raises
    ------
    RuntimeError
        If numba-cuda or a GPU is missing.
    """
    multiprocessors = gpu.multiprocessors()
    x, log_det = np.empty(u.shape, dtype=u.dtype), np.zeros(len(u), dtype=u.dtype)
    with gpu.lock:
        for batch in gpu.batches(context, u):
            _solve_batch(steps, multiprocessors, context[batch], u[batch], x[batch], log_det[batch])
    return x, log_det
