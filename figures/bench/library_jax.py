r"""The flow in JAX: flowjax.

.. math:: u = \tau(h, x), \qquad h = \mathrm{MADE}(x), \qquad
          \tau \text{ affine, or a spline of K bins}

Every call is compiled by XLA, once a shape, at the first call.

Letters: N rows, D features, H hidden units, T transforms, n params a feature.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["LIBRARIES"]

RATE = 1e-5
"""Learning rate of the training step: the flow stays where it is, however often it is timed."""

BOUND = 5.0
"""Splines bend within [-5, 5]."""


class Flowjax:
    """flowjax: compiled by XLA for every shape, at the first call."""

    package = "flowjax"
    setup = (
        "everything under filter_jit, one compilation a shape; StandardNormal as base "
        "(Normal(...), as in its examples, adds 2 D trainable numbers); its own random "
        "permutations between transforms"
    )
    spline = (
        "RationalQuadraticSpline(knots=K - 1, interval=5): knots are those within, so that there "
        "are K bins; the slopes at -5 and 5 are free (not 1 as in the tails): 3 K + 1 numbers a "
        "feature"
    )

    def load(self) -> None:
        """Import the library."""
        import equinox
        import flowjax.bijections
        import flowjax.distributions
        import flowjax.flows
        import flowjax.train.losses
        import flowjax.train.train_utils
        import jax
        import optax
        import paramax

        self.flowjax, self.jax, self.eqx, self.paramax, self.optax = (
            flowjax,
            jax,
            equinox,
            paramax,
            optax,
        )

    def build(self, D: int, H: int, T: int, seed: int, bins: int = 0) -> None:
        """Make the flow and the optimiser."""
        base = self.flowjax.distributions.StandardNormal((D,))
        spline = self.flowjax.bijections.RationalQuadraticSpline
        self.flow = self.flowjax.flows.masked_autoregressive_flow(
            self.jax.random.key(seed),
            base_dist=base,
            flow_layers=T,
            nn_width=H,
            nn_depth=2,
            transformer=spline(knots=bins - 1, interval=BOUND) if bins else None,
        )
        self.compiled_log_prob = self.eqx.filter_jit(lambda flow, x: flow.log_prob(x))
        self.compiled_sample = self.eqx.filter_jit(lambda flow, key, n: flow.sample(key, (n,)))
        self.optimizer = self.optax.adam(RATE)
        self.key = self.jax.random.key(seed + 1)
        self.loss = self.flowjax.train.losses.MaximumLikelihoodLoss()
        params, _ = self._partition()
        self.state = self.optimizer.init(params)
        self.parameters = sum(a.size for a in self.jax.tree_util.tree_leaves(params))

    def _partition(self) -> tuple:
        """Return the trainable part and the rest, as its ``fit_to_data`` does."""
        fixed = self.paramax.NonTrainable
        return self.eqx.partition(
            self.flow, self.eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, fixed)
        )

    def data(self, x):
        """Return rows (N, D) as the library takes them."""
        return self.jax.numpy.asarray(x)

    def log_prob(self, x):
        """Return the log-density of rows, (N,)."""
        return self.compiled_log_prob(self.flow, x).block_until_ready()

    def sample(self, n: int):
        """Draw n rows."""
        self.key, key = self.jax.random.split(self.key)
        return self.compiled_sample(self.flow, key, n).block_until_ready()

    def train(self, x) -> float:
        """Take a step of Adam, flowjax's own; return the loss."""
        params, static = self._partition()
        params, self.state, loss = self.flowjax.train.train_utils.step(
            params, static, x, optimizer=self.optimizer, opt_state=self.state, loss_fn=self.loss
        )
        self.flow = self.eqx.combine(params, static)
        return float(loss)

    def _layer(self, k: int):
        """Return transform k of the stack: its masked network and its permutation."""
        arrays, rest = self.eqx.partition(
            self.flow.bijection.bijection.bijection, self.eqx.is_array
        )
        chain = self.eqx.combine(self.jax.tree_util.tree_map(lambda a: a[k], arrays), rest)
        return chain.bijections

    def networks(self) -> list[dict]:
        """Return each transform's weights, masks, biases, and features' places before and after."""
        found = []
        D = self.flow.shape[0]
        before = self.jax.numpy.arange(D)
        for k in range(
            len(
                self.flow.bijection.bijection.bijection.bijections[0]
                .masked_autoregressive_mlp.layers[0]
                .bias
            )
        ):
            made, permute = self._layer(k)
            linears = made.masked_autoregressive_mlp.layers
            found.append(
                {
                    "before": before,
                    "after": range(len(before)),
                    "W": [linear.weight.args[1] for linear in linears],
                    "b": [linear.bias for linear in linears],
                    "mask": [linear.weight.args[0] for linear in linears],
                }
            )
            before = permute.transform(self.jax.numpy.arange(D))
        return found

    def raw(self, k: int, x):
        """Return transform k's raw conditioner outputs, (N, n D), from features in its order."""
        made, _ = self.paramax.unwrap(self._layer(k))
        return self.jax.vmap(made.masked_autoregressive_mlp)(x)

    def products(self) -> list[str]:
        """Return who multiplies matrices."""
        return [f"XLA's own, jaxlib {self.jax.lib.__version__}"]

    def threads(self) -> dict[str, int]:
        """Return how many threads the library's pools have: XLA takes every core it may use."""
        return {
            "xla": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        }


LIBRARIES: dict[str, Any] = {"flowjax": Flowjax}
