r"""Parameters: names and shapes laid over one flat vector.

.. math:: \theta = (\theta_0, \theta_1, \dots, \theta_{P-1}), \qquad
          W = \theta[a : a + J I]\ \text{seen as}\ (J, I)

One flat vector makes Adam six lines, a gradient check one loop, and a checkpoint one array. A
gradient is another flat vector with the same layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

__all__ = ["Layout", "Parameters", "Parts", "Views", "register"]


def register(registry: dict[str, Any], cls: type) -> None:
    """Enter a class by its name, unless a class of another module has that name already.

    Examples
    --------
    >>> registry = {}
    >>> register(registry, Views)
    >>> registry["Views"] is Views
    True
    """
    there = registry.get(cls.__name__, cls)
    if (there.__module__, there.__qualname__) == (cls.__module__, cls.__qualname__):
        registry[cls.__name__] = cls  # a notebook's cell, run once more


class Views(dict):
    """Named views of one vector, which is kept as ``flat``.

    Compiled code takes the vector whole.
    """

    def __init__(self, flat: np.ndarray):
        super().__init__()
        self.flat = flat


class Parts(list):
    """Each layer's views of one vector, in order; the base distribution's are kept as ``base``."""

    def __init__(self, layers: list[Views], base: Views, flat: np.ndarray):
        super().__init__(layers)
        self.base, self.flat = base, flat
        self.fused: list[Views] | None = None
        """The same numbers as compiled code takes them, once asked for."""


class Parameters(Mapping):
    """The parameters of a model by name, ``"0.W1"`` for W1 of layer 0; reading and writing.

    Values are views: what is written into them changes the model, and assigning copies.

    Examples
    --------
    >>> theta = np.zeros(3)
    >>> parameters = Parameters({"a": theta[:1], "b": theta[1:]})
    >>> parameters["b"] = [1.0, 2.0]
    >>> theta, list(parameters)
    (array([0., 1., 2.]), ['a', 'b'])
    """

    def __init__(self, views: dict[str, np.ndarray]):
        self._views = views

    def _view(self, name: str) -> np.ndarray:
        if name not in self._views:
            raise KeyError(f"{name!r}: expected one of {', '.join(map(repr, self._views))}")
        return self._views[name]

    def __getitem__(self, name: str) -> np.ndarray:
        return self._view(name)

    def __setitem__(self, name: str, values) -> None:
        view, values = self._view(name), np.asarray(values)
        if values.shape != view.shape or values.dtype.kind not in "fiub":
            raise ValueError(
                f"{name}: expected real numbers of shape {view.shape}, got {values.shape}, "
                f"{values.dtype}"
            )
        view[...] = values

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __contains__(self, name) -> bool:
        return name in self._views

    def __repr__(self) -> str:
        lines = [f"  {name:12s} {view.shape}" for name, view in self._views.items()]
        return "\n".join([f"Parameters of {len(self)} arrays", *lines])


class Layout:
    """Names and shapes over one flat vector; gives views, never copies.

    Parameters
    ----------
    shapes : dict of str to tuple of int
        In the order in which they lie in the vector.

    Examples
    --------
    >>> layout = Layout({"W": (2, 3), "b": (2,)})
    >>> theta = np.zeros(layout.size)
    >>> p = layout.views(theta)
    >>> p["b"][:] = 1.0
    >>> theta
    array([0., 0., 0., 0., 0., 0., 1., 1.])
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        self.shapes = dict(shapes)
        self.size = 0
        self._places: list[tuple[str, slice, tuple[int, ...]]] = []
        for name, shape in self.shapes.items():
            start, self.size = self.size, self.size + prod(shape)
            self._places.append((name, slice(start, self.size), shape))

    def views(self, theta: np.ndarray) -> Views:
        """Return each name's part of ``theta`` (P,), in its shape.

        Raises
        ------
        ValueError
            If ``theta`` is not a vector of the layout's size.
        """
        if theta.shape != (self.size,):
            raise ValueError(f"parameters: expected shape ({self.size},), got {theta.shape}")
        views = Views(theta)
        for name, place, shape in self._places:
            views[name] = theta[place].reshape(shape)
        return views
