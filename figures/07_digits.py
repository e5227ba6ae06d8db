"""On 1,297 digits a Gaussian beats MADE and MAF: they fit the training images better, and unseen images worse.

The networks have tens to hundreds of thousands of free parameters, the Gaussian 2,144. Although training stops when
validation has not improved for ten epochs, the distance from training to test likelihood, the overfitting, is
several times the Gaussian's.

Likelihoods are in nats an image in the space where they are usually reported: dequantised, spread by the logit with
α = 1e-6, standardised. Bits per dimension count the whole flow, preprocessing included, in grey levels.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

import afnp
from figures import recipes
from figures.common import COLORS, caption, verified

SHOWN = 12
"""Images in a row."""

MARKS = {"train": ("o", "sky"), "val": ("^", "yellow"), "test": ("s", "ink")}
WORDS = {"train": "training", "val": "validation", "test": "test"}


def data(quick: bool = False) -> dict:
    recipe = recipes.digits(quick)
    scores = recipes.log_probs(recipe)
    reference = scores["Gaussian"]["test"][0]
    numbers: dict = {
        "rows": {split: len(getattr(recipe.data, split)) for split in recipes.SPLITS},
        "models": {name: _summary(by_split, reference) for name, by_split in scores.items()},
    }
    for name, flow in recipe.flows.items():
        history = recipe.histories[name]
        numbers["models"][name] |= {
            "parameters": _free_parameters(flow),
            "epochs": len(history.train_loss),
            "best_epoch": history.best_epoch + 1,
            "seconds": history.seconds,
            "verified": verified(flow, quick=True),
        }
    D = recipe.data.train.shape[1]
    numbers["models"]["Gaussian"]["parameters"] = D + D * (D + 1) // 2
    return {"numbers": numbers, "images": _images(recipe)}


def _summary(scores: dict, reference: np.ndarray) -> dict:
    lead = scores["test"][0] - reference
    bits = {split: afnp.data.bits_per_dim(log_p, 64).mean() for split, (_, log_p) in scores.items()}
    return {
        "nats": {split: log_p.mean() for split, (log_p, _) in scores.items()},
        "bits_per_dim": bits,
        "test_lead_over_gaussian": lead.mean(),
        "test_lead_standard_error": lead.std() / np.sqrt(len(lead)),
    }


def _free_parameters(flow: afnp.Flow) -> int:
    """Count biases and the weights that no mask silences."""
    linears = [linear for layer in flow.layers if layer.layout.size for linear in layer.conditioner.linears]
    return int(sum(linear.prefix.sum() + len(linear.prefix) for linear in linears))


def _images(recipe: recipes.Recipe) -> dict[str, np.ndarray]:
    """Return a row of images for the test data and for each model, quantised to grey levels, (n, 8, 8)."""
    fixed = [layer for layer in recipe.flows["MAF"].layers if not layer.layout.size]
    x = {"data": recipe.data.test[:SHOWN]}
    x["Gaussian"] = afnp.Flow(fixed).generate(recipes.gaussian(recipe).sample(SHOWN, rng=0))[0]
    x |= {name: flow.sample(SHOWN, rng=0) for name, flow in recipe.flows.items()}
    return {name: afnp.data.quantize(rows, recipe.data.levels).reshape(-1, 8, 8) for name, rows in x.items()}


def draw(data: dict) -> Figure:
    numbers, images = data["numbers"], data["images"]
    figure = Figure(figsize=(13, 4.6))
    grid = figure.add_gridspec(len(images), 2, width_ratios=(1.25, 1))
    for k, (name, rows) in enumerate(images.items()):
        _draw_images(figure.add_subplot(grid[k, 0]), name, rows)
    _draw_likelihoods(figure.add_subplot(grid[:, 1]), numbers)
    caption(figure, _claim(numbers))
    return figure


def _claim(numbers: dict) -> str:
    nats = {name: model["nats"] for name, model in numbers["models"].items()}
    best = {split: max(nats, key=lambda name: nats[name][split]) for split in ("train", "test")}
    gaps = ", ".join(f"{name} {scores['train'] - scores['test']:.1f}" for name, scores in nats.items())
    return (
        f"{numbers['rows']['train']:,} digits: {best['train']} fits the training images best, {best['test']} the "
        f"test images; nats lost from training to test: {gaps}"
    )


def _draw_images(ax, name: str, rows: np.ndarray) -> None:
    strip = np.concatenate(np.pad(rows.astype(float), ((0, 0), (0, 0), (0, 1)), constant_values=np.nan), axis=1)
    ax.imshow(strip[:, :-1], cmap="gray_r", vmin=0, vmax=16)
    ax.set(xticks=(), yticks=())
    ax.spines[:].set_visible(False)
    label = "test images" if name == "data" else f"{name}\nsamples"
    ax.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)


def _draw_likelihoods(ax, numbers: dict) -> None:
    for y, (name, model) in enumerate(numbers["models"].items(), start=1):
        nats = model["nats"]
        ax.plot([min(nats.values()), max(nats.values())], [y, y], "-", color=COLORS["light"], linewidth=5, zorder=0)
        for split, (marker, color) in MARKS.items():
            ax.plot(nats[split], y, marker, color=COLORS[color], markersize=9, linestyle="none")
            if y == 1:
                ax.annotate(WORDS[split], (nats[split], y), (0, 12), textcoords="offset points", rotation=45)
        ax.text(0.0, y + 0.2, _line(name, model), transform=ax.get_yaxis_transform(), va="top", linespacing=1.4)
    ax.set(xlabel="mean log-likelihood, nats an image (standardised logits; right is better)", yticks=())
    ax.set_ylim(3.75, 0.1)
    ax.spines["left"].set_visible(False)


def _line(name: str, model: dict) -> str:
    lead, error = model["test_lead_over_gaussian"], model["test_lead_standard_error"]
    compared = (
        f", {abs(lead):.1f} ± {error:.1f} nats {'above' if lead > 0 else 'below'} the Gaussian" if lead else ""
    )
    test = f"test {model['nats']['test']:.1f} nats = {model['bits_per_dim']['test']:.2f} bits/dim"
    return f"{name}: {test}{compared}\n{model['parameters']:,} free parameters".replace("-", "−")
