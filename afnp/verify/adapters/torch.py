r"""Flows of PyTorch's libraries: zuko, nflows, normflows.

.. math:: x \in \mathbb R^{N \times D} \text{ (NumPy)} \to \text{tensor} \to \text{flow}
          \to \text{NumPy}

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["nflows_flow", "normflows_flow", "zuko_flow"]


class Tensors:
    """A module, copied in float64, and the way from arrays to tensors and back."""

    def __init__(self, module: Any):
        import torch

        self.torch = torch
        self.module = copy.deepcopy(module).double().eval()

    def _in(self, arrays) -> list:
        """Share memory with what may be written, so that a flow that changes its input is seen.

        Copy the rest.
        """
        blocks = [np.ascontiguousarray(a, dtype=np.float64) for a in arrays]
        return [self.torch.from_numpy(a if a.flags.writeable else a.copy()) for a in blocks]

    @contextmanager
    def float64(self) -> Iterator[None]:
        """Let what a library makes itself, zeros or noise, be float64 too.

        A switch of the process.
        """
        usual = self.torch.get_default_dtype()
        self.torch.set_default_dtype(self.torch.float64)
        try:
            yield
        finally:
            self.torch.set_default_dtype(usual)

    def function(self, f: Callable) -> Callable:
        """Return f, which takes and gives tensors, as a function of arrays."""

        def of_arrays(*arrays):
            with self.torch.no_grad(), self.float64():
                answer = f(*self._in(arrays))
            if not isinstance(answer, tuple):
                return answer.detach().numpy()
            return tuple(a.detach().numpy() for a in answer)

        return of_arrays

    def jacobian(self, f: Callable) -> Callable:
        """Return the Jacobian (N, D, D) of f's first result by PyTorch's own backward passes."""

        def of_arrays(x, *context):
            x, *rest = self._in((x.copy(), *context))
            x.requires_grad_(True)
            with self.float64():
                u = f(x, *rest)[0]
            rows = [
                self.torch.autograd.grad(u[:, i].sum(), x, retain_graph=True)[0]
                for i in range(u.shape[1])
            ]
            return self.torch.stack(rows, dim=1).numpy()

        return of_arrays

    def sampler(self, draw: Callable) -> Callable:
        """Return ``draw(n, *context)`` as a function of n and a generator that seeds PyTorch's."""

        def sample(n, rng, *context):
            seed = int(rng.integers(2**63))
            with self.torch.random.fork_rng(), self.torch.no_grad(), self.float64():
                self.torch.manual_seed(seed)
                x = draw(n, *self._in(context))
            return x.detach().numpy()

        return sample


def _described(
    tensors: Tensors, normalize, generate, log_prob, draw, features, context
) -> dict[str, Any]:
    """Return the arguments of ``check_flow``."""
    return {
        "normalize": tensors.function(normalize),
        "generate": tensors.function(generate),
        "log_prob": tensors.function(log_prob),
        "sample": tensors.sampler(draw),
        "jacobian": tensors.jacobian(normalize),
        "features": features,
        "context": context or 0,
        "dtype": np.float64,
    }


def zuko_flow(flow: Any, features: int | None, context: int | None) -> dict[str, Any]:
    """Return a zuko flow: a module that makes a distribution of a context, or that distribution."""
    tensors = Tensors(flow) if hasattr(flow, "parameters") else None
    if tensors is None:
        raise ValueError(
            "flow: expected zuko's lazy flow, which can be copied, "
            "got the distribution that it makes"
        )
    module = tensors.module
    context = _context_of(flow) if context is None else context

    def distribution(c):
        return module(*c)

    def normalize(x, *c):
        return distribution(c).transform.call_and_ladj(x)

    def generate(u, *c):
        return distribution(c).transform.inv.call_and_ladj(u)

    def log_prob(x, *c):
        return distribution(c).log_prob(x)

    def draw(n, *c):
        return distribution(c).sample(() if c else (n,))

    if features is None:
        features = int(module(*_example(tensors, context)).event_shape[0])
    found = _described(tensors, normalize, generate, log_prob, draw, features, context)

    def noise(n, rng):
        with tensors.torch.random.fork_rng():
            tensors.torch.manual_seed(int(rng.integers(2**63)))
            base = distribution(_example(tensors, context)).base
            return base.sample((n,)).reshape(n, features).numpy()

    circle = (
        {"support": (-math.pi, math.pi), "periodic": True} if type(flow).__name__ == "NCSF" else {}
    )
    return {**found, "noise": noise, **circle}


def _example(tensors: Tensors, context: int) -> list:
    """Return a context of zeros as arguments, if there is a context."""
    return [tensors.torch.zeros(context, dtype=tensors.torch.float64)] if context else []


def _context_of(flow: Any) -> int:
    """Return C, by trying: zuko's flows do not say how wide their context is."""
    import torch

    for width in range(65):
        try:
            with torch.no_grad():
                made = copy.deepcopy(flow).double()(
                    *([torch.zeros(width, dtype=torch.float64)] if width else [])
                )
                made.log_prob(torch.zeros(made.event_shape, dtype=torch.float64))
        except Exception:
            continue
        return width
    raise ValueError("context: expected its width, which this flow does not say")


def nflows_flow(flow: Any, features: int | None, context: int | None) -> dict[str, Any]:
    """Return an nflows Flow; its samples come a context at a time."""
    tensors = Tensors(flow)
    module = tensors.module

    def embedded(c):
        return module._embedding_net(c[0]) if c else None

    def normalize(x, *c):
        return module._transform(x, context=embedded(c))

    def generate(u, *c):
        return module._transform.inverse(u, context=embedded(c))

    def log_prob(x, *c):
        return module.log_prob(x, *c)

    def draw(n, *c):
        return module.sample(1, c[0])[:, 0] if c else module.sample(n)

    features = features or int(module._distribution._shape[0])
    context = _linear_context(module) if context is None else context
    return _described(tensors, normalize, generate, log_prob, draw, features, context)


def _linear_context(module: Any) -> int:
    """Return C from the layers that take a context, by their names in nflows and normflows."""
    for name, layer in module.named_modules():
        if name.endswith(("context_layer", "context_layers.0")) and hasattr(layer, "in_features"):
            return int(layer.in_features)
    return 0


def normflows_flow(flow: Any, features: int | None, context: int | None) -> dict[str, Any]:
    """Return a normflows flow, which calls noise to data forward, and data to noise inverse."""
    tensors = Tensors(flow)
    module = tensors.module

    def normalize(x, *c):
        return module.inverse_and_log_det(x, *c)

    def generate(u, *c):
        return module.forward_and_log_det(u, *c)

    def log_prob(x, *c):
        return module.log_prob(x, *c)

    def draw(n, *c):
        return module.sample(n, *c)[0]

    shape = getattr(module.q0, "shape", None)
    if features is None and shape is not None:
        features = int(shape[0] if not isinstance(shape, int) else shape)
    context = _linear_context(module) if context is None else context
    return _described(tensors, normalize, generate, log_prob, draw, features, context)
