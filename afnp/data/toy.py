r"""Two-dimensional toy densities with their exact log-density.

Two moons, rings, spiral and eight Gaussians are one idea: a point on a curve, plus Gaussian noise,

.. math:: p(x) = \int_0^1 w(t)\, N\bigl(x;\ c(t),\ \sigma^2 I\bigr)\, dt
          \approx \sum_k w_k\, N(x;\ c_k, \sigma^2 I)

The integral has no closed form, but it has one dimension and a smooth integrand. Fejer's nodes on
open curves (crowded at the ends, which dominate far away) and equally spaced nodes on closed ones
converge geometrically once their spacing is below sigma; there are enough of them here for rounding
error to be all that is left (a test doubles them and sees no change). For eight Gaussians the sum
is the definition. The checkerboard is uniform on eight squares.

Letters: N samples, K nodes; t in [0, 1] the place on a curve c; sigma the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from afnp.inputs import plain_array

from .dataset import Array, Dataset, first_bad, generator

SIGMA = 0.1
SIZES = (10_000, 2_000, 2_000)
CHUNK = 1_024  # rows at a time: N x K numbers at once would be too many


# Curves: t (K,) to points (K, 2)


def circle(radius: float, t: Array) -> Array:
    """Go round a circle about the origin."""
    return radius * np.stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)], axis=-1)


def upper_moon(t: Array) -> Array:
    """Half a unit circle around the origin."""
    return np.stack([np.cos(np.pi * t), np.sin(np.pi * t)], axis=-1)


def lower_moon(t: Array) -> Array:
    """Half a unit circle around (1, 1/2), turned down."""
    return np.stack([1 - np.cos(np.pi * t), 0.5 - np.sin(np.pi * t)], axis=-1)


def spiral_arm(sign: int, t: Array) -> Array:
    """One and a half turns of an Archimedean spiral, radius pi t."""
    return (
        sign
        * np.pi
        * t[:, None]
        * np.stack([-np.cos(3 * np.pi * t), np.sin(3 * np.pi * t)], axis=-1)
    )


class Curves(NamedTuple):
    """Curves of equal weight, the noise around them, and how to integrate along them."""

    curves: tuple[Callable[[Array], Array], ...]
    nodes: int  # on each curve
    closed: bool = False
    outward: bool = False  # w(t) = 2t instead of 1: t is the root of a uniform number
    sigma: float = SIGMA


CURVES = {
    "two_moons": Curves((upper_moon, lower_moon), nodes=256),
    "rings": Curves(tuple(partial(circle, r) for r in (1.0, 2.0, 3.0)), nodes=512, closed=True),
    "spiral": Curves((partial(spiral_arm, 1), partial(spiral_arm, -1)), nodes=768, outward=True),
    "eight_gaussians": Curves((partial(circle, 2.0),), nodes=8, closed=True, sigma=0.2),
}


def fejer(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Nodes and weights (n,) of Fejer's rule on [0, 1], exact for polynomials of degree below n.

    .. math:: t_k = \tfrac12 (1 - \cos\theta_k), \quad \theta_k = (k + \tfrac12) \pi / n, \quad
              w_k = \tfrac1n \Bigl(1 - 2 \sum_{j=1}^{n/2} \frac{\cos 2 j \theta_k}{4 j^2 - 1}\Bigr)

    Examples
    --------
    >>> t, w = fejer(12)
    >>> bool(abs(w @ t**10 - 1 / 11) < 1e-15)
    True
    """
    theta = (np.arange(n) + 0.5) * np.pi / n
    j = np.arange(1, n // 2 + 1)
    w = (1 - 2 * (np.cos(2 * theta[:, None] * j) / (4 * j**2 - 1)).sum(axis=1)) / n
    return (1 - np.cos(theta)) / 2, w


@lru_cache
def quadrature(name: str, refine: int = 1) -> tuple[Array, Array]:
    """Nodes (K, 2) on the curves of a toy set, and their weights (K,), which sum to one."""
    toy = CURVES[name]
    n = toy.nodes * refine
    t, w = (np.arange(n) / n, np.full(n, 1 / n)) if toy.closed else fejer(n)
    if toy.outward:
        w = 2 * t * w
    return np.concatenate([c(t) for c in toy.curves]), np.tile(w, len(toy.curves)) / len(toy.curves)


def mixture_log_density(x: Array, centres: Array, weights: Array, sigma: float) -> Array:
    r"""Log-density of round Gaussians of equal width.

    .. math:: \log \sum_k \exp\Bigl(\log w_k - \frac{|x - c_k|^2}{2\sigma^2}\Bigr)
              - \log(2\pi\sigma^2)

    Parameters
    ----------
    x : (N, 2)
    centres, weights : (K, 2), (K,)

    Returns
    -------
    (N,), nats

    Examples
    --------
    >>> mixture_log_density(np.zeros((1, 2)), np.zeros((1, 2)), np.ones(1), 1.0).round(4)
    array([-1.8379])
    """
    out = np.empty(len(x))
    for start in range(0, len(x), CHUNK):
        rows = x[start : start + CHUNK]
        square = (rows[:, :1] - centres[:, 0]) ** 2 + (rows[:, 1:] - centres[:, 1]) ** 2
        e = np.log(weights) - square / (2 * sigma**2)
        top = e.max(axis=1)
        out[start : start + CHUNK] = top + np.log(np.exp(e - top[:, None]).sum(axis=1))
    return out - np.log(2 * np.pi * sigma**2)


def curves_draw(name: str, n: int, rng: np.random.Generator) -> Array:
    """Choose a curve, a place t on it, and add the noise, (n, 2)."""
    toy = CURVES[name]
    which = rng.integers(len(toy.curves), size=n)
    t = np.sqrt(rng.random(n)) if toy.outward else rng.random(n)
    if name == "eight_gaussians":
        t = np.floor(8 * t) / 8
    places = np.stack([curve(t) for curve in toy.curves])
    return places[which, np.arange(n)] + toy.sigma * rng.standard_normal((n, 2))


def curves_log_density(name: str, x: ArrayLike) -> Array:
    """Exact log p(x) of a toy set made of curves: (N, 2) to (N,), nats."""
    return mixture_log_density(points(x), *quadrature(name), CURVES[name].sigma)


def checkerboard_draw(n: int, rng: np.random.Generator) -> Array:
    """Choose a column, one of its two squares, and a place in it: uniform, (n, 2)."""
    column, pick = rng.integers(4, size=n), rng.integers(2, size=n)
    row = 2 * pick + column % 2
    return np.stack([column, row], axis=1) + rng.random((n, 2)) - 2.0


def checkerboard_log_density(x: ArrayLike) -> Array:
    r"""Uniform on the eight unit squares of [-2, 2)^2 whose corners add up to an even number.

    .. math:: p(x) = 1/8 \text{ if } \lfloor x_1 \rfloor + \lfloor x_2 \rfloor \text{ is even,
              else } 0

    Examples
    --------
    >>> checkerboard_log_density([[0.5, 0.5], [0.5, 1.5], [9.0, 9.0]]).round(3)
    array([-2.079,   -inf,   -inf])
    """
    x = points(x)
    inside = ((x >= -2) & (x < 2)).all(axis=1) & (np.floor(x).sum(axis=1) % 2 == 0)
    return np.where(inside, -np.log(8.0), -np.inf)


def points(x: ArrayLike) -> NDArray[np.float64]:
    """Finite points (N, 2), or ValueError."""
    x = np.asarray(plain_array(x, "x"), np.float64)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"x: expected points of shape (N, 2), got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(
            f"x: expected finite numbers, got {x[first_bad(~np.isfinite(x))]} at row, column "
            f"{first_bad(~np.isfinite(x))}"
        )
    return x


TOYS = {
    "two_moons": "two interleaved half circles with Gaussian noise 0.1; a one-dimensional integral",
    "rings": "three concentric rings of radius 1, 2, 3 with Gaussian noise 0.1, equally likely",
    "checkerboard": "uniform on eight unit squares of a 4 x 4 board; a density with jumps",
    "eight_gaussians": "eight Gaussians of width 0.2 on a circle of radius 2; well separated modes",
    "spiral": "two interleaved spiral arms of one and a half turns with Gaussian noise 0.1",
}


def toy_set(name: str, seed: int = 0) -> Dataset:
    """Make a toy set: 10,000 / 2,000 / 2,000 independent draws and the exact ``log_density``.

    Examples
    --------
    >>> data = toy_set("two_moons", seed=1)
    >>> data.train.shape, data.log_density([[0.0, 1.0]]).round(3)
    ((10000, 2), array([-0.453]))
    """
    if name not in TOYS:
        raise ValueError(f"toy set: expected one of {', '.join(TOYS)}, got {name!r}")
    rng = generator(seed)
    board = name == "checkerboard"
    draw = checkerboard_draw if board else partial(curves_draw, name)
    train, val, test = (draw(n, rng) for n in SIZES)
    return Dataset(
        name,
        train,
        val,
        test,
        description=TOYS[name],
        license="generated by afnp, no rights reserved (CC0)",
        source="afnp.data.toy",
        columns=("x1", "x2"),
        log_density=checkerboard_log_density if board else partial(curves_log_density, name),
    )
