r"""Levels: how long to look.

.. math:: \text{quick} \subset \text{full} \subset \text{paranoid}

Every level runs every check. A higher one looks at more points, at more random parameters, and at
more renderings, and draws more samples, so that it sees smaller errors.
"""

from __future__ import annotations

from typing import NamedTuple

from afnp.inputs import choose

__all__ = ["LEVELS", "Level", "level_of"]


class Level(NamedTuple):
    """What a level costs.

    Attributes
    ----------
    name : str
    repeats : int
        How often every check runs, each time at other parameters and points.
    points : int
        Base points, or lines, that a check of structure or of monotony looks at.
    jacobians : int
        Points at which a log-determinant is compared, at most.
    samples : int
        Rows that are drawn to compare the sampler with the density; split over the repeats.
    noise : int
        Numbers of noise, samples times features, that one repeat looks at.
    refinements : int
        How often the quadrature along a line is refined, at most.
    parameters : int
        Up to so many parameters every derivative is checked; above, this many / 25, and directions.
    meshes : tuple of int
        Cells a side of the quadrature in one and two dimensions.
    work : float
        Multiply-adds that an integral of a flow may cost, roughly: a large flow is asked at fewer
        points.
    backends : tuple of str
        Renderings of an afnp flow; "auto" is what users call.
    """

    name: str
    repeats: int
    points: int
    jacobians: int
    samples: int
    noise: int
    refinements: int
    parameters: int
    meshes: tuple[int, ...]
    work: float
    backends: tuple[str, ...]


LEVELS = {
    level.name: level
    for level in (
        Level("quick", 1, 2, 8, 300, 8000, 40, 1000, (48, 96, 192), 3e9, ("numpy",)),
        Level(
            "full",
            2,
            4,
            16,
            10_000,
            40_000,
            50,
            1200,
            (64, 128, 256, 512),
            1.5e11,
            ("auto", "numpy", "numba"),
        ),
        Level(
            "paranoid",
            6,
            8,
            32,
            60_000,
            200_000,
            60,
            20_000,
            (64, 128, 256, 512, 1024),
            1e13,
            ("auto", "numpy", "numba"),
        ),
    )
}
"""By name."""


def level_of(name: str) -> Level:
    """Return a level by its name.

    Examples
    --------
    >>> level_of("quick").repeats
    1
    """
    choose("level", name, list(LEVELS))
    return LEVELS[name]
