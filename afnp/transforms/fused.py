r"""Transforms of one shape in a row, compiled as one: a single call into the kernels runs them all.

.. math:: u = (f_M \circ \dots \circ f_1)(x)

A call from Python costs some microseconds, as much as the arithmetic of a small flow, and samples
that leave the kernels must be transposed out of their tiles and back. The definition is each
transform's own NumPy rendering.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from afnp.params import Layout, Views
from afnp.sampling.fixed_point import Sweeps
from afnp.transforms.autoregressive import Autoregressive
from afnp.transforms.coupling import Coupling

__all__ = ["Fused", "fuse"]


def fuse(layers: Sequence) -> list:
    """Return the layers, with those that the kernels can run together replaced by one :class:`Fused`."""
    runs = [(shape, list(run)) for shape, run in itertools.groupby(layers, _shape)]
    return [stage for shape, run in runs for stage in (run if shape is None else [Fused(run)])]


def _shape(layer) -> tuple | None:
    """Return what must be equal for transforms to be one stack, or None if the kernels do not know the layer."""
    from afnp.compiled.univariate.dispatch import known

    if type(layer) not in (Autoregressive, Coupling) or not known(
        layer.name, layer.univariate.config()
    ):
        return None
    net = layer.conditioner
    kind = type(layer).__name__, layer.name, str(layer.univariate.config())
    return *kind, net.features, net.hidden, net.activation, net.residual


class Fused:
    """A stack of transforms with the face of one; ``p.flat`` holds the parameters of all, in their order."""

    def __init__(self, layers: list):
        from afnp.compiled.tiles import stack_of  # numba takes half a second to import

        self.layers = layers
        self.layout = Layout({"theta": (sum(layer.layout.size for layer in layers),)})
        networks, orders = (
            [layer.conditioner for layer in layers],
            [layer.order for layer in layers],
        )
        self.stack = stack_of(networks, orders, layers[0].context, getattr(layers[0], "fixed", 0))

    def _tau(self, dtype: np.dtype):
        from afnp.compiled.univariate.dispatch import form

        return form(self.layers[0].name, self.layers[0].univariate.config(), dtype)

    def _run(self, direction: str, p: Views, values: np.ndarray, context: np.ndarray) -> tuple:
        from afnp.compiled import small_batch as few
        from afnp.compiled import staircase as compiled

        kernels = few if len(values) <= few.FEW else compiled
        return getattr(kernels, direction)(
            p.flat, self.stack, self._tau(values.dtype), context, values
        )

    def normalize(
        self, p: Views, x: np.ndarray, context: np.ndarray, backend="numba", keep: bool = True
    ) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,) and, to ``keep``, the cache of ``backward``."""
        from afnp.compiled import staircase as compiled

        if keep:
            return compiled.product_keeping_tiles(
                p.flat, self.stack, self._tau(x.dtype), context, x
            )
        return *self._run("product", p, x, context), None

    def generate(
        self, p: Views, u: np.ndarray, context: np.ndarray, method="substitution", backend="numba"
    ) -> tuple:
        """Map u (N, D) to x (N, D); also give log|det dx/du| (N,)."""
        if isinstance(method, Sweeps) and not self.stack.fixed:
            return self._sweep(p, u, context, method)
        return self._run("solve", p, u, context)

    def _sweep(self, p: Views, u: np.ndarray, context: np.ndarray, method: Sweeps) -> tuple:
        """Do the same by fixed-point sweeps, and note what they took."""
        from afnp.compiled import fixed_point as sweeps_compiled

        tau, network = self._tau(u.dtype), self.layers[0].conditioner
        x, log_det, *taken = sweeps_compiled.solve(
            p.flat, self.stack, tau, network, method, context, u
        )
        method.note(*taken)
        return x, log_det

    def backward(
        self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views
    ) -> np.ndarray:
        """Add the parameters' gradients of ``normalize`` into g; return d_x (N, D)."""
        from afnp.compiled import gradient

        return gradient.stack_backward(
            p.flat, self.stack, self._tau(d_u.dtype), cache, d_u, d_log_det, g.flat
        )
