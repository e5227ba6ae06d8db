"""Six affine layers carry two moons almost to Gaussian noise; their density integrates to 1.

Top: test points on their way from data to noise, coloured by the moon they came from. Bottom: the
true density, the learned one, and their difference. A flow of continuous layers bends and stretches
the plane but cannot tear it, so some density is left where the truth has none. How far the flow is
from the truth, KL(true || flow), is estimated from test points (with its standard error) and
integrated on the grid.

The integrals are trapezoid sums on a grid much wider than the data; the one that should be 1 is
refined wherever there is density. The density is smooth (the networks use tanh), so the sum
converges faster than any power of the step; the same sum at twice the step shows how far it has
come.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.data.toy import lower_moon, upper_moon
from figures import recipes
from figures.common import COLORS, caption, verified

GRID = (-4.0, 5.0), (-4.0, 4.5)
VIEW = (-1.6, 2.6), (-1.15, 1.65)
EMPTY = 1e-10
"""Density, per unit square, that the fine grid leaves out: less than 1e-8 on the whole grid."""
RARE = 1e-3
"""The rare region: where the true density is below this, per unit square."""


def data(quick: bool = False) -> dict:
    recipe = recipes.two_moons(quick)
    flow = recipe.flows["MAF"]
    history = recipe.histories["MAF"]
    x = recipe.data.test
    step, parts = (0.04, 2) if quick else (0.02, 4)
    x1, x2 = (np.arange(low, high + step / 2, step) for low, high in GRID)
    log_p, log_q = (
        _on_grid(log_density, x1, x2) for log_density in (recipe.data.log_density, flow.log_prob)
    )
    p = np.exp(log_p)
    q = np.exp(log_q)
    area = step**2
    fine = _refined(flow.log_prob, x1, x2, q, step, parts)
    excess = recipe.data.log_density(x) - flow.log_prob(x)
    return {
        "numbers": {
            "integral": fine.sum() * area / parts**2,
            "integral_at_twice_the_step": fine[:, ::2, ::2].sum() * area / (parts / 2) ** 2,
            "step": step / parts,
            "kl_test": excess.mean(),
            "kl_test_standard_error": excess.std() / np.sqrt(len(x)),
            "kl_integral": (p * (log_p - log_q)).sum() * area,
            "rare_mass_true": p[p < RARE].sum() * area,
            "rare_mass_flow": q[p < RARE].sum() * area,
            "layers": len(flow.layers) - 1,
            "train_rows": len(recipe.data.train),
            "epochs": len(history.train_loss),
            "seconds": history.seconds,
            "verified": verified(flow, quick),
        },
        "stages": _stages(flow, x),
        "upper": _squared_distance(x, upper_moon) < _squared_distance(x, lower_moon),
        "x1": x1,
        "x2": x2,
        "p": p,
        "q": q,
    }


def _on_grid(log_density, x1: np.ndarray, x2: np.ndarray) -> np.ndarray:
    """Evaluate at every pair; rows are x2, columns x1."""
    points = np.stack(np.meshgrid(x1, x2), axis=-1).reshape(-1, 2)
    return log_density(points).reshape(len(x2), len(x1))


def _refined(
    log_density, x1: np.ndarray, x2: np.ndarray, q: np.ndarray, step: float, parts: int
) -> np.ndarray:
    """Evaluate on a finer grid, (M, parts, parts), around the M nodes that are not all EMPTY."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(q, 1), (3, 3)).max(axis=(2, 3))
    rows, columns = np.nonzero(around > EMPTY)
    offsets = np.arange(parts) * step / parts
    first = np.broadcast_to(x1[columns, None, None] + offsets, (len(rows), parts, parts))
    second = np.broadcast_to(x2[rows, None, None] + offsets[:, None], first.shape)
    points = np.stack([first, second], axis=-1).reshape(-1, 2)
    return np.exp(log_density(points)).reshape(first.shape)


def _stages(flow, x: np.ndarray) -> list[np.ndarray]:
    """Return x standardised, then the output of each autoregressive layer."""
    stages = []
    for k in range(1, len(flow.layers) + 1):
        head = afnp.Flow(flow.layers[:k])
        head.theta = flow.theta[: head.theta.size]
        stages.append(head.normalize(x)[0])
    return stages


def _squared_distance(x: np.ndarray, curve) -> np.ndarray:
    points = curve(np.linspace(0, 1, 200))
    return ((x[:, None] - points) ** 2).sum(axis=-1).min(axis=1)


def draw(data: dict) -> Figure:
    figure = Figure(figsize=(12, 5.9))
    numbers = data["numbers"]
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.75))
    _draw_stages(above, data)
    _draw_densities(below, data)
    caption(
        figure,
        f"{numbers['layers']} affine layers carry two moons almost to Gaussian noise; the density "
        f"they learn integrates to 1 within {_power(abs(numbers['integral'] - 1))}, and is "
        f"{numbers['kl_test']:.3f} ± {numbers['kl_test_standard_error']:.3f} nats from the truth "
        "on test points",
    )
    return figure


def _power(x: float) -> str:
    """Round up to one digit, as in 5·10⁻⁸."""
    exponent = int(np.floor(np.log10(max(x, 1e-16))))
    return rf"${int(np.ceil(x / 10.0**exponent))} \cdot 10^{{{exponent}}}$"


def _draw_stages(figure, data: dict) -> None:
    stages = data["stages"]
    upper = data["upper"]
    last = len(stages) - 1
    limit = np.ceil(np.quantile(np.abs(stages), 0.999))
    for k, (ax, z) in enumerate(
        zip(figure.subplots(1, last + 1, sharex=True, sharey=True), stages, strict=True)
    ):
        for rows, color in ((upper, "blue"), (~upper, "red")):
            ax.plot(*z[rows].T, ".", color=COLORS[color], markersize=1.4, rasterized=True)
        ax.set(
            xlim=(-limit, limit), ylim=(-4, 4), aspect="equal", xticks=(-4, 0, 4), yticks=(-3, 0, 3)
        )
        ax.set_title(
            {0: "data x, standardised", last: f"layer {last}: noise u"}.get(k, f"layer {k}")
        )
        ax.set_xlabel("feature 1")
    figure.axes[0].set_ylabel("feature 2")


def _draw_densities(figure, data: dict) -> None:
    p = data["p"]
    q = data["q"]
    numbers = data["numbers"]
    top = max(p.max(), q.max())
    off = abs(q - p).max()
    half = (data["x1"][1] - data["x1"][0]) / 2
    extent = [
        data["x1"][0] - half,
        data["x1"][-1] + half,
        data["x2"][0] - half,
        data["x2"][-1] + half,
    ]
    panels = (
        ("true density p", p, "cividis", 0, top),
        (
            f"learned density q: KL(p || q) = {numbers['kl_integral']:.3f} nats",
            q,
            "cividis",
            0,
            top,
        ),
        (
            f"q − p; {numbers['rare_mass_flow']:.1%} of q lies where p < {RARE}",
            q - p,
            "RdBu_r",
            -off,
            off,
        ),
    )
    for ax, (title, z, cmap, low, high) in zip(
        figure.subplots(1, 3, sharey=True), panels, strict=True
    ):
        image = ax.imshow(
            z,
            cmap=cmap,
            vmin=low,
            vmax=high,
            extent=extent,
            origin="lower",
            interpolation="bilinear",
        )
        ax.set(xlim=VIEW[0], ylim=VIEW[1], xlabel="$x_1$", title=title)
        bar = figure.colorbar(image, ax=ax, location="bottom", shrink=0.7, aspect=35)
        bar.set_label("density per unit square")
        bar.outline.set_visible(False)
    figure.axes[0].set_ylabel("$x_2$")
