r"""Flows of JAX, and what looks like a transformed distribution of TensorFlow Probability.

.. math:: x \in \mathbb R^{N \times D} \text{ (NumPy)} \to \operatorname{vmap}(\text{flow})
          \to \text{NumPy}

JAX compiles anew for every number of rows, so rows are filled up to a power of two.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["flowjax_flow", "tfp_flow"]


class Rowwise:
    """A flow cast to float64, whose functions of one row are mapped over many and compiled."""

    def __init__(self, flow: Any):
        import equinox
        import jax
        import paramax

        self.jax, self.flow = jax, flow
        with jax.enable_x64(True):

            def cast(leaf):
                return (
                    jax.numpy.asarray(leaf, dtype="float64")
                    if equinox.is_inexact_array(leaf)
                    else leaf
                )

            self.flow = paramax.unwrap(jax.tree_util.tree_map(cast, flow))

    def function(self, f: Callable) -> Callable:
        """Return f, a function of one row and one context, as a function of arrays of rows."""
        mapped = self.jax.jit(self.jax.vmap(f))

        def of_arrays(*arrays):
            N = len(arrays[0])
            size = 1 << (N - 1).bit_length() if N else 0
            filled = [np.concatenate([a, np.repeat(a[-1:], size - N, axis=0)]) for a in arrays]
            with self.jax.enable_x64(True):
                answer = mapped(*filled)
            return (
                tuple(np.array(a[:N]) for a in answer)
                if isinstance(answer, tuple)
                else np.array(answer[:N])
            )

        return of_arrays

    def sampler(self, draw: Callable) -> Callable:
        """Return a draw of one key and context as a function of n, a generator and n contexts."""
        mapped = self.function(draw)

        def sample(n, rng, *context):
            with self.jax.enable_x64(True):
                keys = np.asarray(
                    self.jax.random.key_data(self.jax.random.split(self._key(rng), n))
                )
            return mapped(keys, *context)

        return sample

    def _key(self, rng: np.random.Generator):
        return self.jax.random.key(int(rng.integers(2**31)))


def flowjax_flow(flow: Any, features: int | None, context: int | None) -> dict[str, Any]:
    """Return a flowjax distribution: its bijection's ``inverse`` goes from data to noise."""
    rowwise = Rowwise(flow)
    made, jax = rowwise.flow, rowwise.jax

    def normalize(x, *c):
        return made.bijection.inverse_and_log_det(x, *c)

    def generate(u, *c):
        return made.bijection.transform_and_log_det(u, *c)

    def log_prob(x, *c):
        return made._log_prob(x, *c)

    def draw(key, *c):
        return made._sample(jax.random.wrap_key_data(key), *c)

    return {
        "normalize": rowwise.function(normalize),
        "generate": rowwise.function(generate),
        "log_prob": rowwise.function(log_prob),
        "sample": rowwise.sampler(draw),
        "jacobian": rowwise.function(jax.jacfwd(lambda x, *c: normalize(x, *c)[0])),
        "features": features or int(flow.shape[0]),
        "context": context if context is not None else int((flow.cond_shape or (0,))[0]),
        "dtype": np.float64,
    }


def tfp_flow(flow: Any, features: int | None, context: int | None) -> dict[str, Any]:
    """Return what has a bijector, a distribution and log_prob; its results decide the type."""
    bijector = flow.bijector

    def log_det(values, which: str):
        return getattr(bijector, f"{which}_log_det_jacobian")(values, event_ndims=1)

    def normalize(x):
        return np.array(bijector.inverse(x)), np.array(log_det(x, "inverse"))

    def generate(u):
        return np.array(bijector.forward(u)), np.array(log_det(u, "forward"))

    def sample(n, rng):
        return np.array(flow.sample(n, seed=int(rng.integers(2**31))))

    features = features or int(tuple(flow.event_shape)[0])
    found = {
        "normalize": normalize,
        "generate": generate,
        "sample": sample,
        "features": features,
        "context": 0,
    }
    dtype = np.array(flow.log_prob(np.zeros((1, features), dtype=np.float32))).dtype
    return {**found, "log_prob": lambda x: np.array(flow.log_prob(x)), "dtype": dtype}
