r"""Natural patches are far from Gaussian: MADE, MAF and spline flows gain tens of nats over one.

.. math:: x_i = \frac{k_i + v_i}{256} - \frac1{64} \sum_j \frac{k_j + v_j}{256}, \quad
          i = 1, \dots, 63,
          \qquad v \sim \mathrm{Uniform}[0, 1)^{64}

Patches of 8 x 8 pixels from five photographs inside scikit-image, prepared as BSDS300 is in the MAF
paper (arXiv 1705.07057): noise against the grey levels' steps, the patch's mean subtracted, the
last pixel, which the others determine, dropped. Log-likelihoods are in the paper's unit, nats a
patch with pixels from 0 to 1, but not comparable with its numbers: the photographs differ, and
there are five. No pixel of a test patch is in a training patch: whole regions of 64 x 64 pixels
belong to one part. Patches of a region resemble each other, so standard errors are taken over the
27 test regions.

A difference of neighbouring pixels is a filter as the first cells of sight are said to be: mostly
near zero, sometimes large. Its kurtosis, 0 for a Gaussian, is large for photographs (Field 1987),
and shows what a model's samples lack. It is taken over differences from -1 to 1, which photographs
can have; the share of a model's samples outside is a number of its own.

The spline flow is two transforms of rational-quadratic splines (arXiv 1906.04032) behind an affine
one: splines bend a bounded interval, and the affine transform brings the rare large values into it.

Letters: N rows, D = 63 columns.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.chain_rule import GaussianChain
from afnp.data import load
from afnp.networks import masks
from afnp.transforms import masked
from figures import common
from figures.common import COLORS, caption, note
from figures.recipes import checked

SIDE = 8
REGION = 225
"""Rows of a region, which lie together."""
SHOWN = (5, 7)
"""Rows and columns of patches that are shown of each."""
LOOKS = {
    "test patches": ("ink", "-"),
    "Gaussian": ("grey", ":"),
    "MADE": ("red", "--"),
    "MAF": ("green", "-."),
    "spline flow": ("blue", "-"),
}
EPOCHS = {"MADE": 8, "MAF": 8, "spline flow": 6}
PARTS = ("train", "val", "test")


def data(quick: bool = False) -> dict:
    known = load("patches_63")
    fixed = afnp.preprocessing(known.train)
    x_train, x_val = (x[:: 30 if quick else 1] for x in (known.train, known.val))
    drawn = {"test patches": known.test}
    n = 500 if quick else len(known.test)
    normal = GaussianChain(known.train.mean(axis=0), np.cov(known.train, rowvar=False, bias=True))
    models = {"Gaussian": _summary(normal.log_prob, known)}
    log_p = {"Gaussian": normal.log_prob(known.test)}
    drawn["Gaussian"] = normal.sample(n, rng=1)
    for name, flow in flows(fixed, quick).items():
        _, history = common.trained(
            flow,
            x_train,
            x_val,
            epochs=2 if quick else EPOCHS[name],
            batch_size=100,
            learning_rate=1e-3,
            patience=6,
        )
        models[name] = _summary(lambda x, flow=flow: flow.log_prob(x).astype(np.float64), known) | {
            "epochs": len(history.val_loss),
            "best_epoch": history.best_epoch + 1,
            "seconds": history.seconds,
            **({} if quick else {"verified": checked(flow)}),
        }
        log_p[name], drawn[name] = (
            flow.log_prob(known.test).astype(np.float64),
            flow.sample(n, rng=1),
        )
    for name, of in models.items():
        of |= _lead(log_p[name] - log_p["Gaussian"])
    slopes = {name: differences(x) for name, x in drawn.items()}
    possible = {name: d[np.abs(d) <= 1] for name, d in slopes.items()}
    numbers = {
        "rows": {part: len(getattr(known, part)) for part in PARTS},
        "test_regions": len(known.test) // REGION,
        "models": models,
        "kurtosis": {name: kurtosis(d) for name, d in possible.items()},
        "impossible_share": {name: 1 - len(possible[name]) / len(d) for name, d in slopes.items()},
        "seconds": float(sum(of.get("seconds", 0.0) for of in models.values())),
    }
    shown = {name: spread(whole(x), SHOWN[0] * SHOWN[1]) for name, x in drawn.items()}
    return {"numbers": numbers, "patches": shown, "differences": possible}


def flows(fixed: list, quick: bool) -> dict[str, afnp.Flow]:
    """Build the flows, on standardised pixels, in float32."""
    D = SIDE**2 - 1
    hidden = (128,) if quick else (256, 256)
    orders = [masks.order_of(name, D) for name in ("natural", "reverse")]
    affine = masked(D, hidden)
    bent = [masked(D, hidden, order, "spline", {"bins": 8}) for order in orders[::-1]]
    return {
        "MADE": afnp.made(D, hidden, dtype=np.float32, preprocess=fixed),
        "MAF": afnp.maf(D, hidden, transforms=5, dtype=np.float32, preprocess=fixed),
        "spline flow": afnp.Flow([*fixed, affine, *bent], dtype=np.float32),
    }


# ---- scores --------------------------------------------------------------------------------------


def _summary(log_prob, known) -> dict:
    return {"nats": {part: float(log_prob(getattr(known, part)).mean()) for part in PARTS}}


def _lead(lead: np.ndarray) -> dict:
    """Return the mean lead over the Gaussian, and its standard error over regions."""
    means = lead.reshape(-1, REGION).mean(axis=1)
    return {
        "test_lead_over_gaussian": float(means.mean()),
        "test_lead_standard_error": float(means.std(ddof=1) / np.sqrt(len(means))),
    }


def whole(x: np.ndarray) -> np.ndarray:
    """Give patches (N, 63) their last pixel back, and their shape: (N, 8, 8)."""
    return np.column_stack([x, -x.sum(axis=1)]).reshape(-1, SIDE, SIDE)


def differences(x: np.ndarray) -> np.ndarray:
    """Return the differences of horizontal neighbours in patches x (N, 63), flat."""
    return np.diff(whole(x), axis=2).ravel()


def kurtosis(d: np.ndarray) -> float:
    r"""Return the excess kurtosis of values, 0 for a Gaussian.

    .. math:: \kappa = \frac{\overline{(d - \bar d)^4}}{\overline{(d - \bar d)^2}^2} - 3
    """
    square = (np.asarray(d, np.float64) - np.mean(d, dtype=np.float64)) ** 2
    return float((square**2).mean() / square.mean() ** 2 - 3)


def spread(x: np.ndarray, n: int) -> np.ndarray:
    """Return n rows, evenly from the first to the last."""
    return x[np.linspace(0, len(x) - 1, n).astype(int)]


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(14, 7.4))
    grid = figure.add_gridspec(2, 1, height_ratios=(1, 1.4))
    above = grid[0].subgridspec(1, len(LOOKS))
    below = grid[1].subgridspec(1, 2)
    for place, (name, x) in zip(above, data["patches"].items(), strict=True):
        _draw_patches(figure.add_subplot(place), name, x)
    _draw_nats(figure.add_subplot(below[0]), numbers)
    _draw_differences(figure.add_subplot(below[1]), data["differences"], numbers)
    caption(figure, _claim(numbers))
    note(figure, _small_print(numbers))
    return figure


def _claim(numbers: dict) -> str:
    models = numbers["models"]
    found = ", ".join(f"{name} {of['nats']['test']:.1f}" for name, of in models.items())
    best = max(models, key=lambda name: models[name]["nats"]["test"])
    lead, error = (models[best][f"test_lead_{key}"] for key in ("over_gaussian", "standard_error"))
    gain = "" if best == "Gaussian" else f"; {best} is {lead:.0f} ± {error:.0f} above the Gaussian"
    return f"Natural 8 × 8 patches, log p of unseen regions in nats: {found}{gain}".replace(
        "-", "−"
    )


def _small_print(numbers: dict) -> str:
    rows = numbers["rows"]
    regions = numbers["test_regions"]
    return (
        f"{rows['train']:,} training, {rows['test']:,} test patches of {regions} other regions of "
        "the same five photographs, 63 columns, pixels from 0 to 1. Standard errors of leads: over "
        "test regions.\n"
        "Patches above lack their mean and share one scale of grey, black −0.25, white +0.25. "
        f"Differences beyond ±1, which no photograph has: {_outside(numbers)}."
    )


def _outside(numbers: dict) -> str:
    shares = {
        name: share for name, share in numbers["impossible_share"].items() if name != "test patches"
    }
    return ", ".join(f"{name} {share:.2%}" for name, share in shares.items())


def _draw_patches(ax, name: str, x: np.ndarray) -> None:
    rows, columns = SHOWN
    padded = np.pad(x.astype(float), ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    sheet = (
        padded.reshape(rows, columns, SIDE + 1, SIDE + 1)
        .swapaxes(1, 2)
        .reshape(rows * (SIDE + 1), -1)
    )
    ax.imshow(sheet[:-1, :-1], cmap="gray", vmin=-0.25, vmax=0.25)
    ax.set(xticks=(), yticks=())
    ax.spines[:].set_visible(False)
    ax.set_title(name)


def _draw_nats(ax, numbers: dict) -> None:
    marks = {
        "train": ("o", "sky", "training"),
        "val": ("^", "yellow", "validation"),
        "test": ("s", "ink", "test"),
    }
    for y, (name, of) in enumerate(numbers["models"].items()):
        nats = of["nats"]
        ax.plot(
            [min(nats.values()), max(nats.values())],
            [y, y],
            "-",
            color=COLORS["light"],
            linewidth=5,
            zorder=0,
        )
        for part, (marker, color, word) in marks.items():
            ax.plot(
                nats[part],
                y,
                marker,
                color=COLORS[color],
                markersize=8,
                linestyle="none",
                label=word if y == 0 else None,
            )
        lead = "{test_lead_over_gaussian:+.1f} ± {test_lead_standard_error:.1f}".format(**of)
        text = f"{nats['test']:.1f}" + ("" if name == "Gaussian" else f"  ({lead})")
        ax.text(nats["test"], y + 0.2, text.replace("-", "−"), ha="center", va="top")
    ax.set(
        yticks=range(len(numbers["models"])),
        yticklabels=numbers["models"],
        xlabel="nats a patch (right is better)",
    )
    ax.set_ylim(len(numbers["models"]) - 0.3, -0.6)
    ax.margins(x=0.12)
    ax.legend(
        ncols=3,
        loc="lower left",
        bbox_to_anchor=(0, 0.98),
        columnspacing=1,
        handletextpad=0.1,
        borderpad=0,
    )


def _draw_differences(ax, slopes: dict, numbers: dict) -> None:
    edges = np.linspace(-0.6, 0.6, 97)
    for name, d in slopes.items():
        color, line = LOOKS[name]
        share = np.histogram(d, edges)[0] / (len(d) * (edges[1] - edges[0]))
        middle = (edges[1:] + edges[:-1]) / 2
        label = f"{name}, kurtosis {round(numbers['kurtosis'][name], 1) + 0.0:.1f}".replace(
            "-", "−"
        )
        ax.plot(
            middle[share > 0],
            share[share > 0],
            line,
            marker="",
            color=COLORS[color],
            linewidth=2.4 if name == "test patches" else 1.4,
            label=label,
        )
    ax.set(yscale="log", xlabel="difference of neighbouring pixels", ylabel="density")
    ax.set_title("edges are rare and large")
    ax.legend(loc="upper left", bbox_to_anchor=(0.64, 1.08))
