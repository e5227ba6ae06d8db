"""What doors to other libraries share: layers put together, and modules of torch asked in peace."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from afnp.bases import Base
from afnp.flow import Flow
from afnp.transforms import Transform

__all__ = ["Step", "assembled", "in_evaluation"]

Step = tuple[Transform, dict[str, np.ndarray]]
"""A layer, and its arrays by name."""


def assembled(steps: Sequence[Step], dtype: np.dtype, noise: type[Base] | None = None) -> Flow:
    """Return the flow of layers with their arrays, from data to noise of a kind, or normal noise.

    Examples
    --------
    >>> from afnp.transforms import ActNorm
    >>> flow = assembled([(ActNorm(2), {"m": [1.0, 2.0], "s": [0.0, 0.0]})], np.dtype("float64"))
    >>> flow.normalize([[1.0, 2.0]])[0]
    array([[0., 0.]])
    """
    if not steps:
        raise ValueError("flow: expected at least one transform to import, got none")
    layers = [layer for layer, _ in steps]
    base = None if noise is None else noise(layers[0].features)
    flow = Flow(layers, context=max(layer.context for layer in layers), dtype=dtype, base=base)
    for place, (_, arrays) in enumerate(steps):
        for name, values in arrays.items():
            flow.parameters[f"{place}.{name}"] = values
    return flow


@contextmanager
def in_evaluation(module: Any) -> Iterator[None]:
    """Ask a module of torch in evaluation, without gradients and without its warnings.

    Each of its parts is left in the mode in which it was.
    """
    import torch

    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's code
            yield
    finally:
        for part, mode in modes:
            part.training = mode
