"""On 1,297 digits splines and mixtures beat a Gaussian; affine flows do not; random orders help.

The networks have tens of thousands to over half a million free parameters, the Gaussian 2,144.
Although training stops when validation has not improved for ten epochs, the distance from training
to test likelihood, the overfitting, is several times the Gaussian's: they fit the training images
better, and in raster order affine flows fit unseen images worse. Every member is trained twice by
one recipe, on pixels in raster order (every second transform in the reverse, couplings in a
checkerboard's columns) and in random orders, a new one for each transform (couplings: random
halves).

Likelihoods are in nats an image in the space where they are usually reported: dequantised, spread
by the logit with α = 1e-6, standardised. Bits per dimension count the whole flow, preprocessing
included, in grey levels.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

import afnp
from figures import recipes
from figures.common import COLORS, caption, note

SHOWN = 12
"""Images in a row."""
RANDOM = ", random orders"
"""How the names of flows end that take pixels in random orders."""

MARKS = {"train": ("o", "sky"), "val": ("^", "yellow"), "test": ("s", "ink")}
WORDS = {"train": "training", "val": "validation", "test": "test"}


def data(quick: bool = False) -> dict:
    recipe = recipes.digits_family(quick)
    scores = recipes.log_probs(recipe)
    reference = scores["Gaussian"]["test"][0]
    numbers: dict = {
        "rows": {split: len(getattr(recipe.data, split)) for split in recipes.SPLITS},
        "models": {
            name: _summary(scores[name], reference) for name in ("Gaussian", *_pairs(recipe.flows))
        },
    }
    for name, flow in recipe.flows.items():
        history = recipe.histories[name]
        numbers["models"][name] |= {
            "parameters": _free_parameters(flow),
            "epochs": len(history.train_loss),
            "best_epoch": history.best_epoch + 1,
            "seconds": history.seconds,
            **({} if quick else {"verified": recipes.checked(flow)}),
        }
    D = recipe.data.train.shape[1]
    numbers["models"]["Gaussian"]["parameters"] = D + D * (D + 1) // 2
    return {"numbers": numbers, "images": _images(recipe)}


def _pairs(flows: dict[str, afnp.Flow]) -> list[str]:
    """Return the flows' names, that of random orders after that of raster order."""
    return [name + order for name in flows if not name.endswith(RANDOM) for order in ("", RANDOM)]


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
    linears = [
        linear for layer in flow.layers if layer.layout.size for linear in layer.conditioner.linears
    ]
    return int(sum(linear.prefix.sum() + len(linear.prefix) for linear in linears))


def _images(recipe: recipes.Recipe) -> dict[str, np.ndarray]:
    """Return rows of images of the test data and of most models, in grey levels, (n, 8, 8)."""
    fixed = [layer for layer in recipe.flows["MAF"].layers if not layer.layout.size]
    x = {"data": recipe.data.test[:SHOWN]}
    x["Gaussian"] = afnp.Flow(fixed).generate(recipes.gaussian(recipe).sample(SHOWN, rng=0))[0]
    shown = [name for name in recipe.flows if not name.endswith(RANDOM)] + ["spline flow" + RANDOM]
    x |= {name: recipe.flows[name].sample(SHOWN, rng=0) for name in shown}
    return {
        name: afnp.data.quantize(rows, recipe.data.levels).reshape(-1, 8, 8)
        for name, rows in x.items()
    }


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    images = data["images"]
    figure = Figure(figsize=(14, 7))
    grid = figure.add_gridspec(len(images), 2, width_ratios=(1, 1))
    for k, (name, rows) in enumerate(images.items()):
        _draw_images(figure.add_subplot(grid[k, 0]), name, rows)
    _draw_likelihoods(figure.add_subplot(grid[:, 1]), numbers)
    caption(figure, _claim(numbers))
    note(figure, _small_print(numbers))
    return figure


def _claim(numbers: dict) -> str:
    test = {name: model["nats"]["test"] for name, model in numbers["models"].items()}
    ahead = [name for name in test if not name.endswith(RANDOM) and test[name] > test["Gaussian"]]
    gain = [test[name + RANDOM] - test[name] for name in test if name + RANDOM in test]
    best = max(test, key=test.__getitem__)
    return (
        f"{numbers['rows']['train']:,} digits, pixels in raster order: {_list(ahead)} on unseen "
        f"images. Random orders change each member by {min(gain):+.1f} to {max(gain):+.1f} nats; "
        f"best: {best}, {test[best]:.1f}"
    ).replace("-", "−")


def _list(ahead: list[str]) -> str:
    if not ahead:
        return "no flow beats a Gaussian"
    return f"{' and '.join(ahead)} {'beats' if len(ahead) == 1 else 'beat'} a Gaussian"


def _small_print(numbers: dict) -> str:
    each = {name: model for name, model in numbers["models"].items() if not name.endswith(RANDOM)}
    return (
        "Free parameters: "
        + ", ".join(f"{name} {model['parameters']:,}" for name, model in each.items())
        + "."
    )


def _draw_images(ax, name: str, rows: np.ndarray) -> None:
    strip = np.concatenate(
        np.pad(rows.astype(float), ((0, 0), (0, 0), (0, 1)), constant_values=np.nan), axis=1
    )
    ax.imshow(strip[:, :-1], cmap="gray_r", vmin=0, vmax=16)
    ax.set(xticks=(), yticks=())
    ax.spines[:].set_visible(False)
    label = "test images" if name == "data" else name.replace(", ", ",\n")
    ax.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)


def _draw_likelihoods(ax, numbers: dict) -> None:
    """Draw a line for each flow, random orders under raster order; numbers stand at the right."""
    y = 0.0
    at = ax.get_yaxis_transform()
    for name, model in numbers["models"].items():
        random = name.endswith(RANDOM)
        y += 0.8 if random else 1.5
        nats = model["nats"]
        ax.plot(
            [min(nats.values()), max(nats.values())],
            [y, y],
            "-",
            color=COLORS["light"],
            linewidth=5,
            zorder=0,
        )
        for split, (marker, color) in MARKS.items():
            ax.plot(nats[split], y, marker, color=COLORS[color], markersize=8, linestyle="none")
            if name == "Gaussian":
                ax.annotate(
                    WORDS[split],
                    (nats[split], y),
                    (0, 8),
                    textcoords="offset points",
                    rotation=45,
                    rotation_mode="anchor",
                )
        ax.text(
            -0.02, y, RANDOM.strip(", ") if random else name, transform=at, ha="right", va="center"
        )
        for x, text in (
            (1.08, f"{nats['test']:.1f}"),
            (1.2, f"{model['bits_per_dim']['test']:.2f}"),
        ):
            ax.text(x, y, text.replace("-", "−"), transform=at, ha="right", va="center")
    for x, text in ((1.08, "nats"), (1.2, "bits/dim")):
        ax.text(x, 0.6, text, transform=at, ha="right", va="center", color=COLORS["grey"])
    ax.text(1.2, 0.0, "test images", transform=at, ha="right", va="center", color=COLORS["grey"])
    ax.set(
        xlabel="mean log-likelihood, nats an image (standardised logits; right is better)",
        yticks=(),
    )
    ax.set_ylim(y + 0.6, -0.3)
    ax.spines["left"].set_visible(False)
