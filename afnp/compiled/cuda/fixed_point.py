r"""Fixed-point iterations on a GPU: a tile of samples iterates until its lanes have converged.

.. math::
    z_r = \underbrace{b_r + \sum_{c < \mathrm{known}} W_{rc}\, a_c}_{\text{once a block}}
        + \underbrace{
            \sum_{\mathrm{known} \le c < \mathrm{prefix}_r} W_{rc}\, a_c
        }_{\text{each iteration}}

The algorithm is that of :mod:`afnp.sampling.blocks`, its definition, as
:mod:`afnp.compiled.fixed_point` has it: tiles iterate independently, a converged lane only waits,
and every row of W is read up to its prefix and no further, so that unconverged values never reach
what does not depend on them. An iteration takes one barrier a layer and two more, where
substitution takes as many for every feature; the last of them tells all threads of a tile whether
anybody still moves. So one launch does a whole transform, and nothing goes back to the CPU.

Letters: N samples, D features, C context inputs, L layers, T lanes a tile. Thread (t, g) of a block
does the rows g, g + groups, ... of a layer, and then such features, for lane t; its views of memory
are that lane's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from afnp.compiled.cuda import device as gpu
from afnp.compiled.cuda.causal_conv import lanes
from afnp.compiled.cuda.device import activate, affine_generate, cuda, device, kernel
from afnp.compiled.cuda.staircase import StaircaseStep, device_layers
from afnp.compiled.tiles import NetworkPlan, plain
from afnp.sampling.blocks import block_work, places

__all__ = ["DeviceNetwork", "solve_all"]

THREADS = 256
"""Threads of a block: lanes times groups."""
MOVED, WAITING = range(2)
"""Of each lane: whether its last iteration changed something, and whether it still iterates."""


class DeviceNetwork(NamedTuple):
    """One transform as the kernel reads it, on the GPU."""

    theta: Any
    """Parameters, with every W transposed."""
    layers: Any
    prefix: Any
    start: Any
    """As in :class:`afnp.compiled.tiles.NetworkPlan`: where everything lies in theta and in the
    rows of a tile."""
    order: Any
    tile_rows: int
    activation: int
    bound: float


class Lane(NamedTuple):
    """What one lane remembers."""

    tile: Any
    """Context, x, and every layer's z and a; ``base`` has the sums over the known in the places of
    z."""
    base: Any
    u: Any
    log: Any
    """Noise and log-derivatives in generation order, (D,) each."""
    state: Any


# ---- one block of features -----------------------------------------------------------------------


@device
def _known(net, l, first):
    """Return how many inputs of layer l are known before the block that begins with ``first``."""
    return net.layers[0]["columns"] - len(net.order) + first if l == 0 else net.start[l - 1, first]


@device
def _add(net, l, r, first, last, a, z):
    """Return z plus the sum of W_rc a_c over first <= c < last."""
    J = net.layers[l]["rows"]
    W, a = net.theta[net.layers[l]["w_at"] + first * J + r :: J], a[first:]
    for c in range(last - first):
        z += W[c] * a[c]
    return z


@device
def _sum_known(net, lane, first, last):
    """Write b + W a over what is known into the block's rows of ``base``."""
    for l in range(len(net.layers)):
        a = lane.tile[net.layers[l]["in_at"] :]
        base = lane.base[net.layers[l]["z_at"] :]
        known = _known(net, l, first)
        for r in range(net.start[l, first] + cuda.threadIdx.y, net.start[l, last], cuda.blockDim.y):
            base[r] = _add(net, l, r, 0, known, a, net.theta[net.layers[l]["b_at"] + r])
    cuda.syncthreads()


@device
def _pass(net, lane, first, last):
    """Run the block's rows of the network, each over its own prefix."""
    L, zero = len(net.layers), net.theta.dtype.type(0)
    for l in range(L):
        row, known = net.layers[l], _known(net, l, first)
        for r in range(net.start[l, first] + cuda.threadIdx.y, net.start[l, last], cuda.blockDim.y):
            prefix, base = net.prefix[row["first"] + r], lane.base[row["z_at"] + r]
            z = _add(net, l, r, known, prefix, lane.tile[row["in_at"] :], base)
            if row["skip_at"] >= 0:
                z += lane.tile[net.layers[l - 2]["z_at"] + r]
            lane.tile[row["z_at"] + r] = z
            if l + 1 < L:
                lane.tile[net.layers[l + 1]["in_at"] + r] = activate(net.activation, z, zero)
        cuda.syncthreads()


@device
def _take(net, lane, i, last, tolerance):
    """Let a lane that iterates take the next values of features i.., and mark it if they moved."""
    h = lane.tile[net.layers[len(net.layers) - 1]["z_at"] :]
    x = lane.tile[net.layers[0]["columns"] - len(net.order) :]
    if lane.state[WAITING] > 0:
        for j in range(i + cuda.threadIdx.y, last, cuda.blockDim.y):
            new, lane.log[j] = affine_generate(h[2 * j], h[2 * j + 1], lane.u[j], net.bound)
            if not abs(new - x[j]) <= tolerance:
                lane.state[MOVED] = 1  # from several threads, but all of them write the same
            x[j] = new
    cuda.syncthreads()


@device
def _still_moving(lane, final):
    """Let a lane wait if its iteration was the last it needed, and say whether it needs another."""
    going = 1 if lane.state[WAITING] > 0 and lane.state[MOVED] > 0 and not final else 0
    lane.state[WAITING], lane.state[MOVED] = going, 0
    return going


@device
def _converge(net, lane, inside, iterations, first, last, tolerance):
    """Iterate a block of features.

    Count in ``iterations`` (1,), and return how often the network ran.
    """
    if cuda.threadIdx.y == 0:
        lane.state[WAITING], lane.state[MOVED] = inside, 0
    _sum_known(net, lane, first, last)
    for i in range(first, last):
        _pass(net, lane, first, last)
        _take(net, lane, i, last, tolerance)
        going = 0
        if cuda.threadIdx.y == 0:
            if lane.state[WAITING] > 0:
                iterations[0] += 1
            going = _still_moving(lane, i + 1 == last)
        if not cuda.syncthreads_or(going):
            return i + 1 - first
    return last - first


# ---- one transform, all tiles --------------------------------------------------------------------


@device
def _lane(net, memory):
    """Cut a lane's memory into its parts."""
    rows, D = net.tile_rows, len(net.order)
    rest = memory[2 * rows :]
    return Lane(memory[:rows], memory[rows : 2 * rows], rest[:D], rest[D : 2 * D], rest[2 * D :])


@device
def _load(net, context, x, lane):
    """Fetch a row of context and noise; the noise is also the first guess of x."""
    C = len(context)
    for c in range(cuda.threadIdx.y, C, cuda.blockDim.y):
        lane.tile[c] = context[c]
    for i in range(cuda.threadIdx.y, len(net.order), cuda.blockDim.y):
        lane.u[i] = x[net.order[i]]
        lane.tile[C + i] = lane.u[i]


@device
def _store(net, C, lane, x):
    """Write a row of x, and return its log|det| to the first thread of each lane."""
    total = net.theta.dtype.type(0)
    for i in range(cuda.threadIdx.y, len(net.order), cuda.blockDim.y):
        x[net.order[i]] = lane.tile[C + i]
    if cuda.threadIdx.y == 0:
        for i in range(len(net.order)):
            total += lane.log[i]
    return total


@kernel
def _solve(net, context, x, log_det, memories, tolerance, cuts, cost, iterations, work):
    """Turn x (N, D) from noise into data in place, and add log|det dx/du| to log_det (N,).

    Blocks of features end at ``cuts``; ``cost`` is of each block's known, once, and of each of its
    iterations. What a row took goes into ``iterations`` (N,) and ``work`` (N,).
    """
    T, lane = cuda.blockDim.x, _lane(net, memories[cuda.blockIdx.x, :, cuda.threadIdx.x])
    for begin in range(cuda.blockIdx.x * T, len(x), cuda.gridDim.x * T):
        row, spent = min(begin + cuda.threadIdx.x, len(x) - 1), 0
        # lanes past the end repeat the last row, and wait
        inside = begin + cuda.threadIdx.x < len(x)
        _load(net, context[row], x[row], lane)
        cuda.syncthreads()
        for b in range(len(cuts) - 1):
            passes = _converge(net, lane, inside, iterations[row:], cuts[b], cuts[b + 1], tolerance)
            spent += cost[b, 0] + passes * cost[b, 1]
        if inside:
            total = _store(net, context.shape[1], lane, x[row])
            if cuda.threadIdx.y == 0:
                log_det[row] += total
                work[row] = spent


# ---- from the CPU --------------------------------------------------------------------------------


def _cost(plan: NetworkPlan, C: int, blocks: list[tuple[int, int]]) -> np.ndarray:
    """Return the multiply-adds a row of each block.

    Over the known, once, and inside, in each iteration.
    """
    prefixes = np.split(plan.prefix, plan.layers["first"][1:])
    return np.array(
        [block_work(places(list(plan.start), C, 1, *cut), prefixes) for cut in blocks],
        dtype=np.int64,
    )


def _network(step: StaircaseStep, dtype: np.dtype) -> DeviceNetwork:
    plan = step.plan.host
    layers = cuda.to_device(device_layers(plan))
    integers = [plan.prefix, plan.start, np.asarray(step.order)]
    prefix, start, order = [cuda.to_device(a.astype(np.int32)) for a in integers]
    theta, bound = step.plan.theta(step.theta), dtype.type(step.bound)
    return DeviceNetwork(
        theta, layers, prefix, start, order, plan.tile_rows, plan.activation, bound
    )


def _solve_batch(
    steps: Sequence[StaircaseStep], method, T: int, context, u, x, log_det, iterations, work
) -> None:
    """Solve all steps on the GPU, where x stays between them."""
    (N, D), C, blocks = u.shape, context.shape[1], method.blocks(u.shape[1])
    height = max(2 * step.plan.host.tile_rows for step in steps) + 2 * D + len((MOVED, WAITING))
    grid = min(-(-N // T), gpu.room(height * T * u.itemsize))
    memories = cuda.device_array((grid, height, T), u.dtype)
    arrays = [cuda.to_device(plain(a)) for a in (context, u, log_det)]
    cuts = cuda.to_device(np.array([0, *(last for _, last in blocks)], dtype=np.int32))
    for k, step in enumerate(steps):
        taken = [cuda.to_device(np.zeros(N, dtype=np.int64)) for _ in range(2)]
        cost = cuda.to_device(_cost(step.plan.host, C, blocks))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Grid size")  # few samples make few tiles
            launch = _solve[grid, (T, THREADS // T)]
        launch(
            _network(step, u.dtype),
            *arrays,
            memories,
            u.dtype.type(method.tolerance),
            cuts,
            cost,
            *taken,
        )
        iterations[:, k], work[:, k] = (a.copy_to_host() for a in taken)
    arrays[1].copy_to_host(x)
    arrays[2].copy_to_host(log_det)


def solve_all(steps: Sequence[StaircaseStep], context, u, method) -> tuple[np.ndarray, ...]:
    """Map noise u (N, D) through all steps in turn to data x (N, D).

    Also give the sum of their log|det| (N,).

    ``method`` is one of :mod:`afnp.sampling.fixed_point`. Last come iterations and multiply-adds of
    each row and step, (N, M) each, from the data to the noise.

    Raises
    ------
    RuntimeError
        If numba-cuda or a GPU is missing.
    """
    T = lanes(len(u), gpu.multiprocessors())
    x, log_det = np.empty(u.shape, dtype=u.dtype), np.zeros(len(u), dtype=u.dtype)
    iterations, work = (np.zeros((len(u), len(steps)), dtype=np.int64) for _ in range(2))
    with gpu.lock:
        for batch in gpu.batches(context, u):
            results = (a[batch] for a in (x, log_det, iterations, work))
            _solve_batch(steps, method, T, context[batch], u[batch], *results)
    return x, log_det, iterations[:, ::-1], work[:, ::-1]
