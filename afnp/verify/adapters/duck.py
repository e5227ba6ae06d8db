r"""Objects that have the methods of a flow, whoever wrote them.

.. math:: \text{object} \to \{\text{normalize}, \text{generate}, \text{log\_prob}, \text{sample}\}

Of a PyTorch module a copy in float64 is taken, so that its parameters stay as they are.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from afnp.verify.adapters.torch import Tensors

__all__ = ["METHODS", "duck_flow"]

METHODS = ("normalize", "generate", "log_prob", "sample")
"""What an object may do, at least one of them."""
FACTS = ("base", "support", "periodic", "allowed", "dtype")
"""What an object may also say, under the names that ``check_flow`` gives them."""


def duck_flow(flow: Any, features: int | None, context: int | None) -> dict[str, Any]:
    """Return the methods that are there as functions of arrays, and what else the object says."""
    said = {name: value for name in FACTS if (value := getattr(flow, name, None)) is not None}
    facts = {
        **{name: value for name, value in said.items() if not callable(value) or name == "base"},
        "features": _count(features, getattr(flow, "features", None)),
        "context": _count(context, getattr(flow, "context", None)) or 0,
    }
    if _is_module(flow):
        return {**_tensor_methods(flow), **facts, "dtype": np.float64}
    methods = {name: getattr(flow, name) for name in METHODS if hasattr(flow, name)}
    if "sample" in methods:
        methods["sample"] = _sampler(methods["sample"])
    return {**methods, **facts}


def _count(given: int | None, own: Any) -> int | None:
    """Return what the caller said, or else what the object says, if that is a number."""
    if given is not None:
        return given
    return int(own) if isinstance(own, int | np.integer) else None


def _is_module(flow: Any) -> bool:
    """Return whether an object is a module of PyTorch.

    Without importing it, for then none can be.
    """
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(flow, torch.nn.Module)


def _tensor_methods(flow: Any) -> dict[str, Callable]:
    """Return a module's methods, of a copy in float64, as functions of arrays."""
    tensors = Tensors(flow)
    module = tensors.module
    found = {
        name: tensors.function(getattr(module, name))
        for name in ("normalize", "generate", "log_prob")
        if hasattr(module, name)
    }
    if hasattr(module, "sample"):
        found["sample"] = tensors.sampler(module.sample)
    if hasattr(module, "normalize"):
        found["jacobian"] = tensors.jacobian(module.normalize)
    return found


def _sampler(sample: Callable) -> Callable:
    """Return a method ``sample(n, ...)`` as one that takes a generator, under the method's name."""
    names = list(inspect.signature(sample).parameters)
    for name in ("rng", "random_state", "generator", "seed", "key"):
        if name in names:
            return _named(sample, name)
    return sample


def _named(sample: Callable, name: str) -> Callable:
    """Hand the generator on under a name; as a number where a seed is wanted."""

    def draw(n, rng, *context):
        source = int(rng.integers(2**31)) if name in ("seed", "random_state", "key") else rng
        given = {"context": context[0]} if context else {}
        return sample(n, **{name: source}, **given)

    return draw
