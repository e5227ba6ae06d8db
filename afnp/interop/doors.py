"""What doors to other libraries share: layers put together, and modules of torch asked in peace."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from afnp.bases import Base
from afnp.flow import Flow
from afnp.transforms import ActNorm, Autoregressive, Inverse, Permutation, Standardize, Transform

__all__ = ["Step", "assembled", "expect", "in_evaluation", "turned_around"]

Step = tuple[Transform, dict[str, np.ndarray]]
"""A layer, and its arrays by name."""


def expect(flow: Any, library: str, kind: str) -> None:
    """Refuse what is no flow of a library: none of its classes has that name.

    Examples
    --------
    >>> expect(3, "zuko", "Flow")
    Traceback (most recent call last):
        ...
    ValueError: flow: expected a Flow of zuko, got int
    """
    known = any(
        (base.__module__.split(".")[0], base.__name__) == (library, kind)
        for base in type(flow).__mro__
    )
    if not known:
        raise ValueError(f"flow: expected a {kind} of {library}, got {type(flow).__name__}")


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


def turned_around(steps: Sequence[Step], where: str) -> list[Step]:
    """Return the layers that go the other way, with their arrays.

    Raises
    ------
    ValueError
        If a layer has no inverse here: its kind, and where it stands.

    Examples
    --------
    >>> [(layer, _)] = turned_around([(Permutation([2, 0, 1]), {})], "transform 0")
    >>> layer.order.tolist()
    [1, 2, 0]
    """
    return [_turned(layer, arrays, where) for layer, arrays in reversed(steps)]


def _turned(layer: Transform, arrays: dict[str, np.ndarray], where: str) -> Step:
    if isinstance(layer, Inverse):
        return layer.transform, arrays
    if type(layer) is Autoregressive:
        return Inverse(layer), arrays
    if isinstance(layer, Permutation):
        return Permutation(np.argsort(layer.order)), arrays
    if type(layer) is Standardize:
        return Standardize(-layer.mean / layer.std, 1 / layer.std), arrays
    if isinstance(layer, ActNorm):
        m, s = arrays["m"], arrays["s"]
        return layer, {"m": -m * np.exp(-s), "s": -s}
    raise ValueError(f"{where}: cannot import an inverse of a {type(layer).__name__}")


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
