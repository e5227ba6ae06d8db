r"""Wrong compiled code: the NumPy rendering is right, the one that users run is not.

.. math:: f_{\mathrm{Numba}}(x) \ne f_{\mathrm{NumPy}}(x)
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from afnp.params import Layout
from afnp.verify.mutants.registry import mutant, replace

BOTH = ("numpy", "numba")
TILE = 64


def in_stage(flow, name: str):
    """Put a function in the place of a compiled stack's method, in every copy of the flow too."""

    def put(function: Callable) -> Callable:
        class Planted(type(flow)):  # type: ignore[misc]
            @functools.cached_property
            def compiled_stages(self) -> list:
                from afnp.compiled.stages import stages_of  # the list of mutants needs no Numba

                stages = stages_of(self.layers)
                replace(stages[0], name)(function)
                return stages

        flow.__class__ = Planted
        return function

    return put


@mutant("affine", kills="staleness", backends=BOTH)
def compiled_weights_stale(flow):
    """Compiled code keeps the weights that it was first given."""
    kept: list = []

    @in_stage(flow, "_run")
    def run(run, direction, p, values, context):
        if not kept:
            kept.append(Layout({"theta": p.flat.shape}).views(p.flat.copy()))
        return run(direction, kept[0], values, context)


@mutant("affine", kills="batch_independence", backends=BOTH)
def compiled_last_row_forgotten(flow):
    """The last row of a batch gets its neighbour's answer: a loop over range(n - 1)."""

    @in_stage(flow, "_run")
    def run(run, direction, p, values, context):
        y, log_det = run(direction, p, values, context)
        if len(y) > 1:
            y[-1], log_det[-1] = y[-2], log_det[-2]
        return y, log_det


@mutant("affine", kills="batch_independence", backends=BOTH)
def compiled_tail_of_a_tile_forgotten(flow):
    """Rows that do not fill a tile of 64 keep the last tile's numbers.

    Wrong from the 65th row on.
    """

    @in_stage(flow, "_run")
    def run(run, direction, p, values, context):
        y, log_det = run(direction, p, values, context)
        whole = len(y) // TILE * TILE
        if whole and len(y) > whole:
            left = len(y) - whole
            y[whole:], log_det[whole:] = y[whole - left : whole], log_det[whole - left : whole]
        return y, log_det


@mutant("affine", kills="batch_independence", backends=BOTH)
def compiled_context_of_the_first_row(flow):
    """Every row of a tile gets the first row's context: a broadcast in the wrong loop."""

    @in_stage(flow, "_run")
    def run(run, direction, p, values, context):
        return run(direction, p, values, np.repeat(context[:1], len(context), axis=0))


@mutant("affine", kills="batch_independence", backends=BOTH)
def compiled_few_rows_without_context(flow):
    """The path for a handful of rows forgets the context."""

    @in_stage(flow, "_run")
    def run(run, direction, p, values, context):
        return run(direction, p, values, 0 * context if len(values) <= 8 else context)


@mutant("affine", kills="deterministic", backends=BOTH)
def compiled_log_det_never_reset(flow):
    """The log-determinant is added to what the last call of that size left in the buffer."""
    left: dict = {}

    @in_stage(flow, "_run")
    def run(run, direction, p, values, context):
        y, log_det = run(direction, p, values, context)
        log_det = left[len(y)] = log_det + left.get(len(y), 0)
        return y, log_det


@mutant("affine", kills="log_det", backends=BOTH)
def compiled_in_float32(flow):
    """A constant of the wrong type makes the compiled arithmetic single precision."""

    @in_stage(flow, "_run")
    def run(run, direction, p, values, context):
        return tuple(
            array.astype(np.float32).astype(values.dtype)
            for array in run(direction, p, values, context)
        )


@mutant("affine", kills="round_trip", backends=BOTH)
def compiled_solve_reversed(flow):
    """The compiled solve writes the features back in reverse."""

    @in_stage(flow, "_run")
    def run(run, direction, p, values, context):
        y, log_det = run(direction, p, values, context)
        return (y[:, ::-1].copy(), log_det) if direction == "solve" else (y, log_det)


@mutant("affine", kills="gradients", backends=BOTH)
def compiled_gradient_without_its_last_row(flow):
    """The compiled gradient leaves out the last row of a batch."""

    @in_stage(flow, "backward")
    def backward(backward, p, cache, d_u, d_log_det, g):
        d_u, d_log_det = d_u.copy(), d_log_det.copy()
        d_u[-1], d_log_det[-1] = 0, 0
        return backward(p, cache, d_u, d_log_det, g)
