r"""Every joint distribution is a product of conditionals, and any order gives the same product.

.. math:: p(x_1, \dots, x_4) = \prod_{r=1}^{4} p(x_{o_r} \mid x_{o_1}, \dots, x_{o_{r-1}})

The graph is complete: every variable depends on all before it. Nothing is assumed, so nothing
is lost; only the factors change with the order. The numbers come from a random table of 48 entries.
"""

from __future__ import annotations

from itertools import permutations
from math import prod

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from afnp.chain_rule import factorize, joint
from figures.common import COLORS, caption, note

LEVELS = (2, 3, 2, 4)
ORDERS = ((0, 1, 2, 3), (2, 0, 3, 1))
STATE = (1, 2, 0, 3)
NODE_COLORS = [COLORS[name] for name in ("ink", "blue", "green", "red")]


def data(quick: bool = False) -> dict:
    """Factor one table in two orders for the drawing, and in all 24 for the claim."""
    table = np.random.default_rng(4).dirichlet(np.ones(np.prod(LEVELS))).reshape(LEVELS)
    chains = [{"order": order, "factors": factors(table, order)} for order in ORDERS]
    errors = [
        np.abs(joint(factorize(table, order), order) / table - 1).max()
        for order in permutations(range(len(LEVELS)))
    ]
    numbers = {
        "p_state": table[STATE],
        "products": [prod(chain["factors"]) for chain in chains],
        "arrows": sum(range(len(LEVELS))),
        "orders": len(errors),
        "largest_relative_error": max(errors),
        "epsilon": np.finfo(float).eps,
    }
    return {"numbers": numbers, "chains": chains}


def factors(table: np.ndarray, order: tuple[int, ...]) -> list[float]:
    """Return the conditionals' values at STATE, in the order."""
    state = [STATE[i] for i in order]
    return [float(p[tuple(state[: r + 1])]) for r, p in enumerate(factorize(table, order))]


def draw(data: dict) -> Figure:
    """Draw the two graphs one below the other, each with its factors and their product."""
    figure = Figure(figsize=(9, 6.2))
    caption(figure, __doc__.split("\n")[0])
    numbers = data["numbers"]
    for axes, chain, product in zip(
        figure.subplots(2), data["chains"], numbers["products"], strict=True
    ):
        draw_chain(axes, chain, product)
    state = ", ".join(map(str, STATE))
    note(
        figure,
        f"Factors at x = ({state}); the table itself says p(x) = {numbers['p_state']:.12f}.\n"
        f"All {numbers['orders']} orders, all {np.prod(LEVELS)} entries: largest relative error "
        f"{numbers['largest_relative_error']:.1e} (float64 rounds at {numbers['epsilon']:.1e}).",
    )
    return figure


def draw_chain(axes, chain: dict, product: float) -> None:
    """Draw one graph: an arrow from each node to all later ones, factors underneath."""
    order = chain["order"]
    axes.set(xlim=(-0.5, 5.2), ylim=(-1.15, 1.55))
    axes.axis("off")
    names = [f"$x_{i + 1}$" for i in order]
    for r, (name, factor) in enumerate(zip(names, chain["factors"], strict=True)):
        color = NODE_COLORS[r]
        axes.plot(
            r * 1.25,
            0,
            "o",
            markersize=30,
            markerfacecolor="white",
            markeredgecolor=color,
            linestyle="",
        )
        axes.text(r * 1.25, 0, name, ha="center", va="center", fontsize=13, color=color)
        given = r"\,|\," + ",".join(name[1:-1] for name in names[:r]) if r else ""
        axes.text(
            r * 1.25,
            -0.62,
            f"$p({name[1:-1]}{given})$",
            ha="center",
            va="center",
            fontsize=11,
            color=color,
        )
        axes.text(r * 1.25, -0.98, f"{factor:.4f}", ha="center", va="center", color=color)
        axes.text(r * 1.25 + 0.62, -0.98, "×" if r < 3 else "=", ha="center", va="center")
        for earlier in range(r):
            axes.add_patch(arrow(earlier * 1.25, r * 1.25, color))
    axes.text(5.0, -0.98, f"{product:.12f}", ha="center", va="center", fontweight="bold")
    axes.text(5.0, -0.62, "$p(x_1, x_2, x_3, x_4)$", ha="center", va="center", fontsize=11)


def arrow(start: float, stop: float, color: str) -> FancyArrowPatch:
    """Return an arc from one node to a later one, the higher the further."""
    straight = stop - start < 1.3
    return FancyArrowPatch(
        (start, 0),
        (stop, 0),
        connectionstyle="arc3,rad=0" if straight else "arc3,rad=-0.45",
        arrowstyle="-|>",
        mutation_scale=13,
        shrinkA=16,
        shrinkB=16,
        linewidth=1.5,
        color=color,
    )
