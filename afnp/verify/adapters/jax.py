r"""Flows of JAX, and what looks like a transformed distribution of TensorFlow Probability.

.. math:: x \in \mathbb R^{N \times D} \text{ (NumPy)} \to \operatorname{vmap}(\text{flow})
          \to \text{NumPy}

JAX compiles anew for every number of rows, so rows are filled up to a power of two.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

__all__ = ["flowjax_flow", "tfp_flow"]


class Compiled:
    """Functions of rows, compiled, in the precision that the process has.

    Attributes
    ----------
    compile : callable
        What compiles.
    """

    def __init__(self) -> None:
        import jax

        self.jax, self.compile = jax, jax.jit

    def precision(self) -> AbstractContextManager:
        """Return in what surroundings a function is called."""
        return nullcontext()

    def function(self, f: Callable) -> Callable:
        """Return f, a function of JAX's arrays of rows, as a function of NumPy's."""
        compiled = self.compile(f)

        def of_arrays(*arrays):
            N = len(arrays[0])
            size = 1 << (N - 1).bit_length() if N else 0
            filled = [np.concatenate([a, np.repeat(a[-1:], size - N, axis=0)]) for a in arrays]
            with self.precision():
                answer = compiled(*filled)
            return (
                tuple(np.array(a[:N]) for a in answer)
                if isinstance(answer, tuple)
                else np.array(answer[:N])
            )

        return of_arrays

    def early(self, f: Callable) -> Callable:
        """Compile f, with what does not depend on its arguments computed before, as shapes."""

        def with_shapes(*arrays):
            with self.jax.ensure_compile_time_eval():
                return f(*arrays)

        return self.jax.jit(with_shapes)

    def choose(self, f: Callable, rows: list[np.ndarray]) -> None:
        """Compile in the first way that f allows, or leave it out.

        TFP's rational-quadratic splines trace the rank of an array, and cannot be compiled as they
        are.
        """
        for way in (self.jax.jit, self.early):
            self.compile = way
            try:
                self.function(f)(*rows)
            except Exception:
                continue
            return
        self.compile = _as_it_is

    def key(self, rng: np.random.Generator) -> Any:
        """Return a key of JAX's that a generator draws."""
        return self.jax.random.PRNGKey(int(rng.integers(2**31)))


class Rowwise(Compiled):
    """A flow cast to float64, whose functions of one row are mapped over many."""

    def __init__(self, flow: Any):
        import equinox
        import paramax

        super().__init__()
        jax = self.jax
        with self.precision():

            def cast(leaf):
                return (
                    jax.numpy.asarray(leaf, dtype="float64")
                    if equinox.is_inexact_array(leaf)
                    else leaf
                )

            self.flow = paramax.unwrap(jax.tree_util.tree_map(cast, flow))

    def precision(self) -> AbstractContextManager:
        """Return surroundings in which JAX knows float64."""
        return self.jax.enable_x64(True)

    def function(self, f: Callable) -> Callable:
        """Return f, a function of one row and one context, as a function of arrays of rows."""
        return super().function(self.jax.vmap(f))

    def sampler(self, draw: Callable) -> Callable:
        """Return a draw of one key and context as a function of n, a generator and n contexts."""
        mapped = self.function(draw)

        def sample(n, rng, *context):
            with self.precision():
                keys = np.asarray(self.jax.random.split(self.key(rng), n))
            return mapped(keys, *context)

        return sample


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
    """Return what has a bijector, a distribution and log_prob; its results decide the type.

    A context goes in as ``conditional_input``, as TFP's own networks have it.
    """
    bijector, features = flow.bijector, features or int(tuple(flow.event_shape)[0])
    function, seed, broadcast = _eager, _seed, np.broadcast_to
    rows = [np.zeros((1, width), dtype=_dtype(flow)) for width in (features, context) if width]

    def given(c) -> dict[str, Any]:
        return {"conditional_input": c[0]} if c else {}

    def of_all(c) -> dict[str, Any]:
        return {"bijector_kwargs": given(c)} if c else {}

    def log_det(values, which: str, c):
        """Return one number a row: a constant one comes once for all of them."""
        found = getattr(bijector, f"{which}_log_det_jacobian")(values, event_ndims=1, **given(c))
        return broadcast(found, values.shape[:1])

    def normalize(x, *c):
        return bijector.inverse(x, **given(c)), log_det(x, "inverse", c)

    def generate(u, *c):
        return bijector.forward(u, **given(c)), log_det(u, "forward", c)

    def log_prob(x, *c):
        return flow.log_prob(x, **of_all(c))

    def sample(n, rng, *c):
        return np.array(flow.sample(n, seed=seed(rng), **of_all(c)))

    if ".substrates.jax." in type(bijector).__module__:
        compiled = Compiled()
        function, seed = compiled.function, compiled.key
        broadcast = compiled.jax.numpy.broadcast_to
        compiled.choose(log_prob, rows)
    found = {f.__name__: function(f) for f in (normalize, generate, log_prob)}
    dtype = found["log_prob"](*rows).dtype
    facts = {"features": features, "context": context or 0, "dtype": dtype}
    return {**found, "sample": sample, **facts}


def _dtype(flow: Any) -> Any:
    """Return the type of a distribution's values, as NumPy names it; float32 if it does not say."""
    own = getattr(flow, "dtype", np.float32)
    return getattr(own, "as_numpy_dtype", own)


def _eager(f: Callable) -> Callable:
    """Return f as a function of NumPy's arrays."""

    def of_arrays(*arrays):
        answer = f(*arrays)
        return tuple(map(np.array, answer)) if isinstance(answer, tuple) else np.array(answer)

    return of_arrays


def _as_it_is(f: Callable) -> Callable:
    return f


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))
