"""On 16,000 galaxies every flow beats a Gaussian by far; samples of the best look like data.

Every panel is a plane of two quantities: grey shades hold 50, 90 and 99 % of the galaxies in it,
red lines the same of samples of the flow that validation finds best. The flow was trained on
redshift and six magnitudes; drawn are redshift, the magnitude r, and the five colours (differences
of neighbouring magnitudes), which carry the same seven numbers: the magnitudes alone rise and fall
together, and differences show errors that would hide in them. Both histograms are smoothed alike.

Likelihoods are in nats a galaxy, the seven columns standardised, on test galaxies. The Kolmogorov
distance is the greatest difference of two cumulative distributions; two sets of the same
distribution stay below the "5 %" distance in 95 of 100 cases. The seconds of training vary with
what else runs.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from figures import recipes
from figures.common import COLORS, caption, verified

LABELS = (
    "redshift",
    "r [mag]",
    "u − g [mag]",
    "g − r [mag]",
    "r − i [mag]",
    "i − z [mag]",
    "z − y [mag]",
)
SHARES = (0.99, 0.9, 0.5)
BINS = 56
CRITICAL = 1.358
"""Kolmogorov's 5 % point: sup |F_n - F_m| · sqrt(n m / (n + m)) exceeds it once in twenty."""


def data(quick: bool = False) -> dict:
    recipe = recipes.galaxies_family(quick)
    everything = np.concatenate([getattr(recipe.data, split) for split in recipes.SPLITS])
    galaxies = _quantities(everything)
    test = _quantities(recipe.data.test)
    scores = recipes.log_probs(recipe)
    best = max(recipe.flows, key=lambda name: scores[name]["val"][0].mean())
    samples = _quantities(recipe.flows[best].sample(len(galaxies), rng=0).astype(np.float64))
    distances = [_kolmogorov(a, b) for a, b in zip(test.T, samples.T, strict=True)]
    critical = CRITICAL * np.sqrt(1 / len(test) + 1 / len(samples))
    models = {name: _summary(by_split) for name, by_split in scores.items()}
    for name, history in recipe.histories.items():
        models[name] |= {"seconds": history.seconds, "epochs": len(history.train_loss)}
        models[name] |= {
            "verified": verified(recipe.flows[name], quick or name not in ("MADE", "MAF"))
        }
    edges = [np.linspace(*np.quantile(column, (0.001, 0.999)), BINS + 1) for column in galaxies.T]
    return {
        "numbers": {
            "models": models,
            "sampled": best,
            "rows": {split: len(getattr(recipe.data, split)) for split in recipes.SPLITS},
            "kolmogorov_distances": dict(zip(LABELS, distances, strict=True)),
            "kolmogorov_distance_5_percent": critical,
        },
        "edges": edges,
        "data": _histograms(galaxies, edges),
        "samples": _histograms(samples, edges),
    }


def _summary(scores: dict) -> dict:
    test = scores["test"][0]
    return {
        "nats": {split: log_p.mean() for split, (log_p, _) in scores.items()},
        "test_standard_error": test.std() / np.sqrt(len(test)),
    }


def _quantities(x: np.ndarray) -> np.ndarray:
    """Turn redshift and magnitudes u g r i z y into redshift, r, and colours, (N, 7)."""
    return np.column_stack([x[:, 0], x[:, 3], x[:, 1:-1] - x[:, 2:]])


def _kolmogorov(a: np.ndarray, b: np.ndarray) -> float:
    """Return the greatest difference of two samples' cumulative distributions."""
    places = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(v), places, side="right") / len(v) for v in (a, b)]
    return abs(below[0] - below[1]).max()


def _histograms(x: np.ndarray, edges: list[np.ndarray]) -> dict[tuple[int, ...], np.ndarray]:
    """Count every column (i,) and every pair (i, j), i > j, smoothed; a pair's rows are j."""
    counts: dict[tuple[int, ...], np.ndarray] = {}
    for i, (column, bins) in enumerate(zip(x.T, edges, strict=True)):
        counts[i,] = np.histogram(column, bins)[0] / len(x)
        for j in range(i):
            plane = np.histogram2d(column, x[:, j], (bins, edges[j]))[0] / len(x)
            counts[i, j] = _smooth(_smooth(plane).T).T
    return counts


def _smooth(plane: np.ndarray) -> np.ndarray:
    return np.apply_along_axis(np.convolve, 0, plane, np.array([1, 4, 6, 4, 1]) / 16, mode="same")


def _levels(plane: np.ndarray) -> list[float]:
    """Return the heights above which the densest 99, 90 and 50 % lie, rising."""
    heights = np.sort(plane, axis=None)[::-1]
    return [heights[np.searchsorted(heights.cumsum(), share * heights.sum())] for share in SHARES]


def draw(data: dict) -> Figure:
    figure = Figure(figsize=(12, 11))
    D = len(LABELS)
    axes = figure.subplots(D, D, sharex="col")
    for i in range(D):
        for j in range(D):
            if j > i:
                axes[i, j].remove()
            elif i == j:
                _draw_marginal(axes[i, i], data, i)
            else:
                _draw_plane(axes[i, j], data, i, j)
        axes[-1, i].set_xlabel(LABELS[i])
        if i:
            axes[i, 0].set_ylabel(LABELS[i])
    figure.align_ylabels(axes[1:, 0])
    _draw_likelihoods(figure.add_axes((0.53, 0.61, 0.45, 0.22)), data["numbers"])
    figure.text(0.45, 0.905, _explanation(data["numbers"]), va="top", linespacing=1.5)
    caption(figure, _claim(data["numbers"]))
    return figure


def _claim(numbers: dict) -> str:
    nats = {name: model["nats"]["test"] for name, model in numbers["models"].items()}
    best = numbers["sampled"]
    flows = [name for name in nats if name != "Gaussian"]
    worst = min(flows, key=nats.__getitem__)
    return (
        f"Test galaxies: {nats[best]:.2f} nats under a {best}, {nats[worst]:.2f} under a {worst}, "
        f"{nats['Gaussian']:.2f} under a Gaussian"
    ).replace("-", "−")


def _explanation(numbers: dict) -> str:
    return (
        f"Grey: {sum(numbers['rows'].values()):,} galaxies. Red: as many samples of the "
        f"{numbers['sampled']}.\n"
        "Shades and lines hold the densest 50, 90 and 99 %.\n"
        "Greatest distance of a quantity's cumulative distributions, samples to test: "
        f"{max(numbers['kolmogorov_distances'].values()):.3f}\n"
        f"(chance alone exceeds {numbers['kolmogorov_distance_5_percent']:.3f} in 5 % of cases)"
    )


def _draw_marginal(ax, data: dict, i: int) -> None:
    ax.stairs(data["data"][i,], data["edges"][i], fill=True, color=COLORS["light"])
    ax.stairs(data["samples"][i,], data["edges"][i], color=COLORS["red"], linewidth=1.2)
    ax.set(yticks=(), xlim=data["edges"][i][[0, -1]], ylim=(0, None))
    ax.spines["left"].set_visible(False)


def _draw_plane(ax, data: dict, i: int, j: int) -> None:
    x, y = ((e[1:] + e[:-1]) / 2 for e in (data["edges"][j], data["edges"][i]))
    plane = data["data"][i, j]
    sampled = data["samples"][i, j]
    ax.contourf(x, y, plane, [*_levels(plane), np.inf], colors=["#D9D9D9", "#ADADAD", "#7A7A7A"])
    ax.contour(x, y, sampled, _levels(sampled), colors=COLORS["red"], linewidths=0.8)
    ax.set(xlim=data["edges"][j][[0, -1]], ylim=data["edges"][i][[0, -1]])
    if j:
        ax.set_yticklabels(())


def _draw_likelihoods(ax, numbers: dict) -> None:
    for y, (name, model) in enumerate(numbers["models"].items()):
        nats = model["nats"]["test"]
        seconds = model.get("seconds")
        ax.errorbar(
            nats, y, xerr=2 * model["test_standard_error"], fmt="s", color=COLORS["ink"], capsize=3
        )
        ax.text(nats, y - 0.28, f"{nats:.2f}".replace("-", "−"), ha="center")
        how = "closed form" if seconds is None else f"trained {seconds:.0f} s"
        ax.text(
            -0.02, y, f"{name}\n{how}", transform=ax.get_yaxis_transform(), ha="right", va="center"
        )
    ax.set(ylim=(len(numbers["models"]) - 0.5, -0.8), yticks=())
    ax.set_xlabel("test log-likelihood, nats a galaxy (standardised), ± 2 standard errors")
    ax.spines["left"].set_visible(False)
