r"""Trained flows of other libraries out of torch files, each by its library's door.

.. math:: \text{file of tensors} + \text{maker} \to \text{module} \to \text{flow}

A torch file can hold anything that pickle can, code too: it is opened with ``weights_only=True``,
which takes tensors alone. What these are the parameters of, a function of yours makes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from afnp.flow import Flow
from afnp.verify.adapters.targets import found_object

__all__ = ["DOORS", "import_file", "library_of"]

DOORS = {
    "zuko": "from_zuko",
    "sbi": "from_sbi",
    "nflows": "from_nflows",
    "normflows": "from_normflows",
}
"""By library, the function that takes its flows: of the module of the library's name here."""


def import_file(path: Path, maker: str, library: str | None = None) -> Flow:
    """Return the flow that a torch file holds the parameters of, proved to be the same.

    Parameters
    ----------
    path : Path
        What ``torch.save(module.state_dict(), path)`` wrote.
    maker : str
        ``package.module:function``; called without arguments, it returns the module.
    library : str, optional
        One of ``DOORS``; that of the module's class if left out.

    Raises
    ------
    ImportError
        If torch, or the library, is not installed.
    ValueError
        If the file holds no parameters or those of another module, or a part of the flow cannot be
        imported.
    ArithmeticError
        If the two flows compute something else.
    """
    state = _state_of(path)
    make = found_object(maker)
    if not callable(make):
        raise ValueError(f"{maker}: expected a function that makes the flow, got {make!r}")
    module = _made(make, maker)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: does not fit what {maker} makes; {error}") from None
    name = library or library_of(module)
    door = getattr(importlib.import_module(f"afnp.interop.{name}"), DOORS[name])
    return door(module.eval())


def _state_of(path: Path) -> dict:
    """Return the tensors in a torch file, by name."""
    torch = _torch()
    with path.open("rb") as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever bytes of another kind provoke
            reason = str(error).split("\n")[0].split(". ")[0]  # without advice to trust it
            raise ValueError(
                f"{path}: expected tensors by name, as torch.save(module.state_dict(), path) "
                f"writes them; {reason}"
            ) from None
    if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
        raise ValueError(
            f"{path}: expected tensors by name, as torch.save(module.state_dict(), path) writes "
            f"them, got a {type(state).__name__}"
        )
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {name} has values that are not finite")
    return dict(state)


def _made(make: Callable, maker: str) -> Any:
    """Return the module that a function makes."""
    try:
        module = make()
    except TypeError as error:
        raise ValueError(f"{maker}: expected a function without arguments; {error}") from error
    if not isinstance(module, _torch().nn.Module):
        raise ValueError(f"{maker}: expected a torch module, got a {type(module).__name__}")
    return module


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise ImportError("torch is not installed; pip install 'afnp[zuko]' brings it") from None


def library_of(module: Any) -> str:
    """Return the library of a module's class, or of a class that it extends.

    Raises
    ------
    ValueError
        If it is none of ``DOORS``.
    """
    for kind in type(module).__mro__:
        package = kind.__module__.split(".")[0]
        if package in DOORS:
            return package
    raise ValueError(
        f"--from: expected one of {', '.join(DOORS)}, for a {type(module).__name__} does not say "
        "which library it is of"
    )
