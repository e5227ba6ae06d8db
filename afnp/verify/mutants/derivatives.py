r"""Wrong gradients: the loss is right, its hand-written derivative is not.

.. math:: g_k \ne \frac{\partial \mathcal L}{\partial \theta_k}
"""

from __future__ import annotations

import numpy as np

from afnp.networks.layers import ACTIVATIONS
from afnp.verify.mutants.registry import mutant, replace


@mutant("affine", kills="gradients")
def gradient_without_log_det(flow):
    """The backward pass of the univariate forgets its log-derivative."""

    @replace(flow.layers[0].univariate, "backward")
    def backward(backward, cache, d_u, d_log):
        return backward(cache, d_u, 0 * d_log)


@mutant("affine", kills="gradients")
def gradient_without_the_clamp(flow):
    """The soft clip's own derivative, 1 - tanh^2, is missing."""
    replace(flow.layers[0].univariate, "slope")(lambda slope, alpha: np.ones_like(alpha))


@mutant("affine", kills="gradients")
def gradient_stops_between_layers(flow):
    """d_x takes the direct path only, not the one through the network: a detach() too many."""

    @replace(flow.layers[1].conditioner, "backward")
    def backward(backward, *arguments):
        return 0 * backward(*arguments)


@mutant("affine", kills="gradients")
def gradient_of_the_sum(flow):
    """The gradient is of the sum over rows, the loss their mean: right for one row."""

    @replace(flow, "loss_and_grad")
    def loss_and_grad(loss_and_grad, x, *rest, **way):
        loss, gradient = loss_and_grad(x, *rest, **way)
        return loss, gradient * len(x)


@mutant("affine", kills="gradients")
def gradient_of_the_last_row(flow):
    """One bias's gradient comes from the last row alone: "=" for "+=" in a loop over rows."""
    linear = flow.layers[0].conditioner.linears[1]

    @replace(linear, "backward")
    def backward(backward, p, x, d_y, g):
        before = g[linear.b].copy()
        d_x = backward(p, x, d_y, g)
        g[linear.b][:] = before + d_y[-1]
        return d_x


@mutant("affine", kills="gradients")
def gradient_of_a_masked_entry(flow):
    """An entry that is never read gets a gradient, tiny as it may be.

    Weight decay then moves it.
    """

    @replace(flow, "loss_and_grad")
    def loss_and_grad(loss_and_grad, x, *rest, **way):
        loss, gradient = loss_and_grad(x, *rest, **way)
        gradient[np.flatnonzero(gradient == 0)[0]] = 1e-30
        return loss, gradient


@mutant("affine", kills="gradients")
def gradient_through_dead_units(flow):
    """ReLUs pass gradients on where they are off: the derivative taken at the wrong array."""
    net = flow.layers[0].conditioner
    phi = ACTIVATIONS[net.activation]

    def backward(p, cache, d_h, g):
        d_z = d_h.reshape(len(d_h), -1)
        for l in reversed(range(len(net.linears))):
            d_a = net.linears[l].backward(p, cache[l], d_z, g)
            d_z = phi.backward(cache[l] ** 0, d_a)
        return d_a[:, net.context :]

    net.backward = backward


@mutant("residual", kills="gradients")
def gradient_without_the_skip(flow):
    """The backward pass of a residual block leaves out its shortcut."""

    @replace(flow.layers[0].conditioner, "backward")
    def backward(backward, p, cache, d_h, g):
        net = flow.layers[0].conditioner
        kept, net.skips = net.skips, [False] * len(net.skips)
        try:
            return backward(p, cache, d_h, g)
        finally:
            net.skips = kept


@mutant("plane", kills="gradients")
def gradient_of_half_the_base(flow):
    """The base's gradient is -u / 2: the square's factor 2 forgotten."""
    replace(flow.base, "backward")(lambda backward, *arguments: backward(*arguments) / 2)


@mutant("affine", kills="gradients")
def gradient_clipped(flow):
    """The gradient is clipped where it is computed, not where it is used."""

    @replace(flow, "loss_and_grad")
    def loss_and_grad(loss_and_grad, x, *rest, **way):
        loss, gradient = loss_and_grad(x, *rest, **way)
        return loss, np.clip(gradient, -0.1, 0.1)


@mutant("affine", kills="gradients")
def gradient_in_half_precision(flow):
    """Gradients pass through float16, as mixed precision does by mistake."""

    @replace(flow, "loss_and_grad")
    def loss_and_grad(loss_and_grad, x, *rest, **way):
        loss, gradient = loss_and_grad(x, *rest, **way)
        return loss, gradient.astype(np.float16).astype(flow.dtype)
