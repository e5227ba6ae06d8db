"""MADE and MAF overfit 1,297 digits within tens of epochs, and 16,000 galaxies hardly at all.

On digits training goes on to gain while validation, after its best epoch, gets worse; early
stopping keeps the best epoch's parameters (rings), and even they stay behind a Gaussian. On
galaxies validation follows training to the end.

The loss is minus the mean log-likelihood of the standardised data, nats a row. The training loss is
the mean over the epoch's batches, while the parameters move, so it starts above validation. Below:
the learning rate, half a cosine wave planned over all epochs and cut off where training stopped.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from figures import recipes
from figures.common import COLORS, caption

RECIPES = {"digits": recipes.digits, "galaxies": recipes.galaxies}
INKS = {"MADE": "blue", "MAF": "red"}


def data(quick: bool = False) -> dict:
    numbers = {}
    curves = {}
    for name, function in RECIPES.items():
        recipe = function(quick)
        curves[name] = {model: _curves(recipe, model) for model in recipe.flows}
        numbers[name] = {
            "rows": len(recipe.data.train),
            "gaussian_val": _gaussian_loss(recipe),
            "models": {
                model: _summary(recipe, model, curves[name][model]) for model in recipe.flows
            },
        }
    return {"numbers": numbers, "curves": curves}


def _curves(recipe: recipes.Recipe, model: str) -> dict[str, np.ndarray]:
    """Return losses and learning rate, one entry an epoch; losses in the standardised space."""
    history = recipe.histories[model]
    flow = recipe.flows[model]
    log_det = {
        split: recipes.standardize(flow, getattr(recipe.data, split))[1].mean()
        for split in ("train", "val")
    }
    return {
        "train": np.array(history.train_loss) + log_det["train"],
        "val": np.array(history.val_loss) + log_det["val"],
        "rate": np.array(history.learning_rate),
    }


def _gaussian_loss(recipe: recipes.Recipe) -> float:
    z, _ = recipes.standardize(recipe.flows["MAF"], recipe.data.val)
    return -recipes.gaussian(recipe).log_prob(z).mean()


def _summary(recipe: recipes.Recipe, model: str, curves: dict) -> dict:
    history = recipe.histories[model]
    train = curves["train"]
    val = curves["val"]
    best = history.best_epoch
    return {
        "epochs": len(train),
        "best_epoch": best + 1,
        "stopped": history.stopped,
        "seconds": history.seconds,
        "train_at_best": train[best],
        "val_at_best": val[best],
        "train_at_end": train[-1],
        "val_at_end": val[-1],
    }


def draw(data: dict) -> Figure:
    figure = Figure(figsize=(12, 6))
    numbers = data["numbers"]
    axes = figure.subplots(2, 2, sharex="col", height_ratios=(3.2, 1))
    for (loss, rate), (name, curves) in zip(axes.T, data["curves"].items(), strict=True):
        _draw_losses(loss, curves, numbers[name])
        _draw_rates(rate, curves)
        loss.set_title(f"{name}, {numbers[name]['rows']:,} training rows")
    axes[0, 0].set_ylabel("loss: −log-likelihood, nats a row")
    axes[1, 0].set_ylabel("learning rate")
    caption(figure, _claim(numbers))
    return figure


def _claim(numbers: dict) -> str:
    rises = []
    for name, entry in numbers.items():
        each = (
            f"{m['val_at_end'] - m['val_at_best']:.1f} ({model})"
            for model, m in entry["models"].items()
        )
        rises.append(f"{' and '.join(each)} on {entry['rows']:,} {name}")
    return f"After its best epoch the validation loss rises by {', and by '.join(rises)}, nats"


def _draw_losses(ax, curves: dict, numbers: dict) -> None:
    top = max(c["train"][0] for c in curves.values())
    for model, c in curves.items():
        color = COLORS[INKS[model]]
        best = numbers["models"][model]["best_epoch"]
        epochs = np.arange(1, len(c["train"]) + 1)
        note = {"color": color, "textcoords": "offset points"}
        ax.plot(epochs, c["train"], "--", color=color, linewidth=1.2)
        ax.plot(epochs, c["val"], "-", color=color)
        ax.plot(
            best,
            c["val"][best - 1],
            "o",
            color=color,
            markerfacecolor="white",
            markersize=9,
            markeredgewidth=1.8,
        )
        ends = {"training": c["train"][-1], f"validation, best at {best}": c["val"][-1]}
        for word, side in zip(sorted(ends, key=ends.__getitem__), ("top", "bottom"), strict=True):
            end = ends[word]
            off, side = (f", up to {end:,.0f}", "top") if end > top else ("", side)
            ax.annotate(
                f"{model} {word}{off}", (epochs[-1], min(end, top)), (8, 0), **note, va=side
            )
    ax.axhline(numbers["gaussian_val"], color=COLORS["grey"], linewidth=1, linestyle=":")
    ax.annotate(
        "Gaussian, validation",
        (1, numbers["gaussian_val"]),
        xycoords=ax.get_yaxis_transform(),
        ha="right",
        va="bottom",
        color=COLORS["grey"],
    )
    longest = max(len(c["train"]) for c in curves.values())
    low = min(c["train"].min() for c in curves.values())
    ax.set(xlim=(0.5, longest * 1.45), ylim=(low - 0.08 * (top - low), top + 0.03 * (top - low)))


def _draw_rates(ax, curves: dict) -> None:
    for (model, c), width in zip(curves.items(), (4, 1.5), strict=True):
        ax.plot(
            np.arange(1, len(c["rate"]) + 1),
            c["rate"],
            "-",
            color=COLORS[INKS[model]],
            linewidth=width,
        )
    ax.set(xlabel="epoch", ylim=(0, None))
    ax.ticklabel_format(axis="y", scilimits=(0, 0), useMathText=True)
