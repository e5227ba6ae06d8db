r"""What may be checked: a flow, functions in a dictionary or a module, a factory, a flow of another library.

.. math:: \text{anything} \to \{\text{normalize}, \text{generate}, \text{log\_prob}, \text{sample}, D, C, \dots\}
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from types import ModuleType
from typing import Any

from afnp.flow import Flow
from afnp.verify.adapters import adapt

__all__ = ["ARGUMENTS", "FUNCTIONS", "callables_of", "found_object", "made"]

FUNCTIONS = ("normalize", "generate", "log_prob", "sample")
FACTS = ("features", "context", "allowed", "complex_step", "dtype", "data", "support", "periodic")
ARGUMENTS = (*FUNCTIONS, "jacobian", "noise", *FACTS)
"""What a dictionary of functions may hold, as :func:`afnp.verify.check_flow` takes it."""


def callables_of(thing: Any, **known: Any) -> dict[str, Any]:
    """Return the arguments that describe a stranger's flow to ``check_flow``.

    Parameters
    ----------
    thing : dict, module, or a flow that :func:`afnp.verify.adapt` knows
    **known
        ``features`` or ``context``, where the thing itself does not say.

    Raises
    ------
    ValueError
        If it is none of these, or has a name that means nothing here.

    Examples
    --------
    >>> sorted(callables_of({"log_prob": abs, "features": 2}))
    ['features', 'log_prob']
    """
    known = {name: value for name, value in known.items() if value is not None}
    if isinstance(thing, ModuleType):
        thing = {name: getattr(thing, name) for name in ARGUMENTS if hasattr(thing, name)}
    if not isinstance(thing, dict):
        return adapt(thing, **known)
    unknown = [name for name in thing if name not in ARGUMENTS]
    if unknown:
        raise ValueError(f"functions: expected names among {', '.join(ARGUMENTS)}, got {unknown}")
    if not any(thing.get(name) for name in FUNCTIONS):
        raise ValueError(f"functions: expected at least one of {', '.join(FUNCTIONS)}")
    return {**thing, **known}


def made(thing: Any) -> Any:
    """Return the thing, or what it makes if it is a factory: a function without arguments, or a class.

    Examples
    --------
    >>> made(lambda: {"features": 1}), made({"features": 1})
    ({'features': 1}, {'features': 1})
    """
    if isinstance(thing, Flow | dict | ModuleType):
        return thing
    if isinstance(thing, type | functools.partial) or hasattr(thing, "__code__"):
        return thing()
    return thing


def found_object(name: str) -> Any:
    """Return what ``package.module:object`` names; a module alone is the module.

    Raises
    ------
    ValueError
        If there is no such module, or no such object in it.

    Examples
    --------
    >>> found_object("afnp.constructors:maf").__name__
    'maf'
    """
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{name}: expected package.module:object, or a model file that exists")
    if os.getcwd() not in sys.path:  # as python -m does
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name}: no module named {error.name!r}") from None
    for part in filter(None, attribute.split(".")):
        if not hasattr(found, part):
            raise ValueError(f"{name}: {module} has no {attribute!r}")
        found = getattr(found, part)
    return found
