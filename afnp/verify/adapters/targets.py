r"""What may be checked: flows of any library, functions in a dictionary or a module, a factory.

.. math:: \text{anything} \to
          \{\text{normalize}, \text{generate}, \text{log\_prob}, \text{sample}, D, C, \dots\}
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from types import FunctionType, ModuleType
from typing import Any

from afnp.flow import Flow
from afnp.verify.adapters import adapt
from afnp.verify.functions import Functions, fields

__all__ = ["build", "found_object", "functions_of_target"]


def functions_of_target(thing: Any, **known: Any) -> Functions:
    """Return the record of functions that an external flow stands for.

    Parameters
    ----------
    thing : dict, module, Functions, or a flow that :func:`afnp.verify.adapt` knows
    **known
        What the caller says besides: it counts more than what the thing says.

    Raises
    ------
    ValueError
        If it is none of these, or has a name that means nothing here.

    Examples
    --------
    >>> functions_of_target({"log_prob": abs}, features=2).names
    ('log_prob',)
    """
    if isinstance(thing, Functions):
        thing = {name: vars(thing)[name] for name in fields()}
    if isinstance(thing, ModuleType):
        thing = {name: value for name, value in vars(thing).items() if name in fields()}
    if not isinstance(thing, dict):
        thing = adapt(thing, known.get("features"), known.get("context"))
    given = {**thing, **known}
    unknown = [name for name in given if name not in fields()]
    if unknown:
        raise ValueError(f"functions: expected names among {', '.join(fields())}, got {unknown}")
    return Functions(**given)


def build(thing: Any) -> Any:
    """Return the thing, or what it makes if it is a factory.

    A function without arguments, or a class.

    Examples
    --------
    >>> build(lambda: {"features": 1}), build({"features": 1})
    ({'features': 1}, {'features': 1})
    """
    if isinstance(thing, Flow | dict | ModuleType | Functions):
        return thing
    if not isinstance(thing, type | functools.partial | FunctionType):
        return thing
    try:
        inspect.signature(thing).bind()
    except TypeError as error:
        name = getattr(thing, "__name__", repr(thing))
        raise ValueError(f"{name}: expected a function without arguments; {error}") from None
    except ValueError:  # a class of C's says nothing of its arguments
        pass
    return thing()


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
    except (ValueError, TypeError, ImportError) as error:  # a path, or a relative name
        raise ValueError(f"{name}: expected package.module:object; {error}") from None
    for part in filter(None, attribute.split(".")):
        if not hasattr(found, part):
            raise ValueError(f"{name}: {module} has no {attribute!r}")
        found = getattr(found, part)
    return found
