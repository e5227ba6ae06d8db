r"""A copy that shares nothing which can change: a check may do to it what it likes.

.. math:: f \to f', \qquad \theta' = \theta, \quad
          \theta' \text{ and } \theta \text{ in different memory}

``copy.deepcopy`` shares functions. A method that somebody has replaced by a function of his own
would then still read, and write, the parameters of the original through the variables that it
encloses. Here those variables are copied too.
"""

from __future__ import annotations

import io
import pickle
import types
from typing import Any, NamedTuple

__all__ = ["independent_copy"]

SHARED = (type, types.ModuleType, types.CodeType)
"""What cannot change, or is the same for everybody."""


class Reference(NamedTuple):
    """Something that the copy shares with the original."""

    thing: Any


class _Writer(pickle.Pickler):
    """Pickle in memory; what is shared is kept in a list, and written as its place there."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, protocol=4)  # 5 would keep frozen arrays frozen
        self.shared: list[Any] = []

    def persistent_id(self, thing: Any) -> int | None:
        if isinstance(thing, Reference):
            self.shared.append(thing.thing)
        elif isinstance(thing, SHARED) or _is_plain_function(thing):
            self.shared.append(thing)
        else:
            return None
        return len(self.shared) - 1

    def reducer_override(self, thing: Any):
        if not isinstance(thing, types.FunctionType):
            return NotImplemented
        cells = [Reference(EMPTY) if _is_empty(c) else c.cell_contents for c in _cells(thing)]
        state = cells, thing.__defaults__, thing.__kwdefaults__
        return _hollow, (Reference(thing),), state, None, None, _filled


class _Reader(pickle.Unpickler):
    """Read what the writer wrote."""

    def __init__(self, file: io.BytesIO, shared: list[Any]):
        super().__init__(file)
        self.shared = shared

    def persistent_load(self, place: int) -> Any:
        return self.shared[place]


EMPTY = object()
"""Content of a cell that has none yet."""


def _cells(function: types.FunctionType) -> tuple:
    return function.__closure__ or ()


def _is_empty(cell) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def _is_plain_function(thing: Any) -> bool:
    """Return whether a function has nothing of its own that could change."""
    if isinstance(thing, types.FunctionType):
        return not (thing.__closure__ or thing.__defaults__ or thing.__kwdefaults__)
    if isinstance(thing, types.BuiltinFunctionType):
        return thing.__self__ is None or isinstance(thing.__self__, types.ModuleType)
    return False


def _hollow(function: types.FunctionType) -> types.FunctionType:
    """Return the function with empty cells."""
    cells = tuple(types.CellType() for _ in _cells(function))
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, None, cells or None
    )
    copy.__dict__.update(function.__dict__)
    copy.__qualname__ = function.__qualname__
    return copy


def _filled(function: types.FunctionType, state: tuple) -> None:
    """Put copies of what the original enclosed into the cells."""
    contents, function.__defaults__, function.__kwdefaults__ = state
    for cell, content in zip(_cells(function), contents, strict=True):
        if content is not EMPTY:
            cell.cell_contents = content


def independent_copy(thing: Any) -> Any:
    """Return a copy of a flow that shares no array and no function's variable with the original.

    Classes, modules and code are shared.

    Raises
    ------
    ValueError
        If something in it cannot be copied, as an open file.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> def build():
    ...     flow = SimpleNamespace(theta=[1.0])
    ...     flow.log_prob = lambda: flow.theta[0]
    ...     return flow
    >>> flow = build()
    >>> copy = independent_copy(flow)
    >>> copy.theta[0] = 2.0
    >>> flow.log_prob(), copy.log_prob()
    (1.0, 2.0)
    """
    file = io.BytesIO()
    writer = _Writer(file)
    try:
        writer.dump(thing)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise ValueError(
            f"flow: expected one that can be copied, for its checks change parameters; got {error}"
        ) from error
    file.seek(0)
    return _Reader(file, writer.shared).load()
