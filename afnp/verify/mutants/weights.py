r"""What several mutants share: a network with other weights, a layer with another context.

.. math:: f_{\theta} \to f_{m(\theta)}, \qquad g_{\theta} \to g_{m(\theta)}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from afnp.params import Layout
from afnp.verify.mutants.registry import replace

__all__ = ["change_context", "change_weights"]


def change_weights(net: Any, change: Callable[[dict], None]) -> None:
    """Let the network read parameters in which ``change`` has put zeros.

    Density, sampler and gradient alike.
    """

    def changed(p):
        copy = Layout(net.layout.shapes).views(p.flat.copy())
        change(copy)
        return copy

    @replace(net, "forward")
    def forward(forward, p, context, x):
        return forward(changed(p), context, x)

    @replace(net, "backward")
    def backward(backward, p, cache, d_h, g):
        d_x = backward(changed(p), cache, d_h, g)
        change(g)
        return d_x

    @replace(net, "staircases")
    def staircases(staircases, p):
        return staircases(changed(p))


def change_context(layer: Any, change: Callable) -> None:
    """Give both directions of a layer ``change(context)`` in place of the context."""
    for name in ("normalize", "generate"):

        @replace(layer, name)
        def direction(direction, p, rows, context, *way):
            return direction(p, rows, change(context), *way)
