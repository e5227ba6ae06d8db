r"""Density as outlier score: good at unseen digits and malignant cells, misled by simple images.

.. math:: s(x) = -\log p(x), \qquad
          \mathrm{AUROC} = P(s(x_{\mathrm{anomaly}}) > s(x_{\mathrm{normal}}))
          + \tfrac12 P(s(x_{\mathrm{anomaly}}) = s(x_{\mathrm{normal}}))

AUROC is 1 when every anomaly is told from every normal row, 1/2 when the score knows nothing, below
1/2 when it is misled. No model sees an anomaly before the test, and nothing is chosen by looking at
one: training, bandwidths, and the space of Gaussian and kernel density (grey levels, or logits as
in the flow) go by likelihoods of normal rows.

Cells: trained on benign cells of scikit-learn's breast_cancer (30 columns, standardised), malignant
ones are the anomalies; five splits. Digits: one class is left out and becomes the anomaly, all ten
in turn (dequantised; all densities are of the same noisy pixels).

Why it fails: a density counts volume. Under a model of pictures, a simple picture (blank, of little
ink, smooth) can have a higher density than every typical one and still never be drawn, as the zero
vector under a Gaussian of many dimensions: the points near it have no volume. Nalisnick et al.
(arXiv 1810.09136) found that deep models of photos give house numbers, and those of clothes
(Fashion-MNIST) digits (MNIST), the higher likelihoods. ``python -m figures outliers --data DIR``
repeats the latter: DIR has a folder ``fashion_mnist`` of the four idx files, and may have ``mnist``
for all of MNIST instead of 5,000 images.

Letters: N rows, D columns.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.chain_rule import GaussianChain
from afnp.data import dequantize, load, quantize
from afnp.data.idx import FILES
from figures.common import COLORS, caption, note, trained
from figures.recipes import checked

FLOW, GAUSSIAN, FOREST, KERNELS = "flow", "Gaussian", "isolation forest", "kernel density"
LOOKS = {
    FLOW: ("blue", "o"),
    GAUSSIAN: ("red", "s"),
    FOREST: ("green", "^"),
    KERNELS: ("yellow", "D"),
}
SPLITS = 5
BANDWIDTHS = np.geomspace(0.1, 4, 14)
BROUGHT = ("fashion_mnist", "mnist")


class Parts(NamedTuple):
    """Normal rows to train, to choose and to test on, and anomalies; each (N, D)."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    anomalies: np.ndarray


def data(quick: bool = False, folder: str | os.PathLike | None = None) -> dict:
    folders = _folders(folder)
    cells = [_scores(cell_parts(seed), _cell_flow, quick) for seed in range(2 if quick else SPLITS)]
    left_out = [_scores(digit_parts(c), _digit_flow, quick, 17) for c in range(1 if quick else 10)]
    simple, pictures = _simple_pictures(quick)
    numbers = {
        "cells": {name: [found[name] for found in cells] for name in LOOKS},
        "digits": {name: [found[name] for found in left_out] for name in LOOKS},
        "simple": simple,
        "cells_mean": {name: float(np.mean([found[name] for found in cells])) for name in LOOKS},
        "digits_mean": {
            name: float(np.mean([found[name] for found in left_out])) for name in LOOKS
        },
        "flow_seconds": {
            "cells": float(sum(found["seconds"] for found in cells)),
            "digits": float(sum(found["seconds"] for found in left_out)),
        },
    }
    clothes = None
    if folders:
        numbers["clothes"], clothes = _clothes(folders, quick)
    return {"numbers": numbers, "pictures": pictures, "clothes": clothes}


def _folders(folder: str | os.PathLike | None) -> dict[str, Path]:
    """Return where the sets to be brought are; say what to do where the clothes are missing."""
    if folder is None:
        return {}
    found = {name: Path(folder) / name for name in BROUGHT if (Path(folder) / name).is_dir()}
    if "fashion_mnist" not in found:
        raise ValueError(
            f"folder: expected {Path(folder) / 'fashion_mnist'} with the four idx files of the "
            f"set, found no such folder; put {', '.join(FILES)} (or the same with .gz) there"
        )
    return found


# ---- parts ---------------------------------------------------------------------------------------


def cell_parts(seed: int) -> Parts:
    """Split benign cells at random, 60, 20 and 20 %; malignant ones are the anomalies."""
    from sklearn.datasets import load_breast_cancer

    known = load_breast_cancer()
    benign = known.data[known.target == 1]
    malignant = known.data[known.target == 0]
    rows = np.random.default_rng(seed).permutation(len(benign))
    N = len(benign)
    train, val, test = (benign[part] for part in np.split(rows, [6 * N // 10, 8 * N // 10]))
    centre = train.mean(axis=0)
    scale = train.std(axis=0)
    return Parts(*((x - centre) / scale for x in (train, val, test, malignant)))


def digit_parts(left_out: int | None) -> Parts:
    """Leave a class out of all parts of the digits; its rows are the anomalies (None: none)."""
    known = load("digits")
    pairs = [
        (getattr(known, part), getattr(known, f"context_{part}").argmax(axis=1))
        for part in ("train", "val", "test")
    ]
    normal = [x[classes != left_out] for x, classes in pairs]
    return Parts(*normal, np.concatenate([x[classes == left_out] for x, classes in pairs]))


# ---- scores --------------------------------------------------------------------------------------


def auroc(normal: np.ndarray, anomalies: np.ndarray) -> float:
    """Return the share of pairs in which the anomaly scores higher; equal scores count half."""
    normal = np.sort(normal)
    below, upto = (np.searchsorted(normal, anomalies, side).mean() for side in ("left", "right"))
    return float((below + upto) / 2 / len(normal))


def _scores(
    parts: Parts, build: Callable, quick: bool, levels: int | None = None
) -> dict[str, float]:
    """Return each method's AUROC, and the seconds that training the flow took."""
    flow, seconds = build(parts, quick)
    log_ps = {FLOW: flow.log_prob, **rivals(parts, levels, quick)}
    return {name: auroc(-f(parts.test), -f(parts.anomalies)) for name, f in log_ps.items()} | {
        "seconds": seconds
    }


def _cell_flow(parts: Parts, quick: bool) -> tuple[afnp.Flow, float]:
    flow = afnp.maf(parts.train.shape[1], hidden=(64,), transforms=5, activation="tanh")
    return _fitted(
        flow,
        parts,
        quick,
        epochs=200,
        batch_size=50,
        learning_rate=2e-3,
        weight_decay=1e-3,
        patience=20,
    )


def _digit_flow(parts: Parts, quick: bool) -> tuple[afnp.Flow, float]:
    fixed = afnp.preprocessing(parts.train, levels=17)
    size = {"hidden": (64,), "transforms": 1} if quick else {"hidden": (256,), "transforms": 2}
    flow = afnp.nsf(64, **size, order="random", dtype=np.float32, preprocess=fixed)
    return _fitted(flow, parts, quick, epochs=40, batch_size=100, learning_rate=1e-3, patience=5)


def _fitted(
    flow: afnp.Flow, parts: Parts, quick: bool, epochs: int, **options
) -> tuple[afnp.Flow, float]:
    _, history = trained(flow, parts.train, parts.val, epochs=2 if quick else epochs, **options)
    return flow, history.seconds


def rivals(parts: Parts, levels: int | None = None, quick: bool = False) -> dict[str, Callable]:
    """Fit the other methods; each scores normal rows high, densities by log p(x), nats."""
    from sklearn.ensemble import IsolationForest

    spaces = [afnp.Flow(afnp.preprocessing(parts.train))]
    if levels is not None:
        spaces.append(afnp.Flow(afnp.preprocessing(parts.train, levels=levels)))
    forest = IsolationForest(n_estimators=30 if quick else 300, random_state=0).fit(parts.train)
    return {
        GAUSSIAN: _likeliest(
            [_through(space, gaussian(_into(space, parts.train))) for space in spaces], parts.val
        ),
        FOREST: forest.score_samples,
        KERNELS: _likeliest(
            [
                _through(space, kernels(_into(space, parts.train), h))
                for space in spaces
                for h in BANDWIDTHS[:: 6 if quick else 1]
            ],
            parts.val,
        ),
    }


def gaussian(z: np.ndarray) -> Callable:
    """Return the log-density of the Gaussian of full covariance."""
    return GaussianChain(z.mean(axis=0), np.cov(z, rowvar=False, bias=True)).log_prob


def kernels(z: np.ndarray, bandwidth: float) -> Callable:
    """Return the log-density of round Gaussians on all training rows."""
    from sklearn.neighbors import KernelDensity

    return KernelDensity(bandwidth=bandwidth).fit(z).score_samples


def _into(space: afnp.Flow, x: np.ndarray) -> np.ndarray:
    return space.normalize(x)[0]


def _through(space: afnp.Flow, log_density: Callable) -> Callable:
    """Turn a density of z into one of x = x(z)."""

    def log_prob(x: np.ndarray) -> np.ndarray:
        z, log_det = space.normalize(x)
        return log_density(z) + log_det

    return log_prob


def _likeliest(candidates: list[Callable], val: np.ndarray) -> Callable:
    return max(candidates, key=lambda log_prob: log_prob(val).mean())


# ---- where it fails ------------------------------------------------------------------------------


def simple_pictures(x: np.ndarray) -> dict[str, np.ndarray]:
    """Make pictures that nobody would take for complete digits from test digits x (N, 64)."""
    k = quantize(x, 17)
    rng = np.random.default_rng(5)
    made = {
        "blank": np.zeros_like(k),
        "half the ink": k // 2,
        "smoothed": _smoothed(k),
        "upper half only": np.where(np.arange(64) < 32, k, 0),
        "pixels shuffled": rng.permuted(k, axis=1),
        "ink inverted": 16 - k,
    }
    return {name: dequantize(pixels, 17, rng) for name, pixels in made.items()}


def _smoothed(k: np.ndarray) -> np.ndarray:
    """Replace each pixel by the mean of three by three, rounded; the edge is repeated outwards."""
    image = np.pad(k.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)), "edge")
    nine = sum(image[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3))
    return np.rint(nine / 9).astype(int).reshape(len(k), 64)


def _simple_pictures(quick: bool) -> tuple[dict, dict]:
    """Score them by models of all ten digits."""
    parts = digit_parts(None)
    flow, _ = _digit_flow(parts, quick)
    made = simple_pictures(parts.test)
    log_ps = {FLOW: flow.log_prob, **rivals(parts, 17, quick)}
    areas = {
        name: {k: auroc(-f(parts.test), -f(x)) for k, x in made.items()}
        for name, f in log_ps.items()
    }
    of_flow = {
        name: flow.log_prob(x).astype(np.float64)
        for name, x in {"test digits": parts.test, **made}.items()
    }
    numbers = {
        "auroc": areas,
        "mean_nats": {name: float(log_p.mean()) for name, log_p in of_flow.items()},
        "test_digits_below_the_mean_blank": float(
            np.mean(of_flow["test digits"] < of_flow["blank"].mean())
        ),
        **({} if quick else {"verified": checked(flow)}),
    }
    images = {
        name: quantize(x[:1], 17).reshape(8, 8)
        for name, x in {"test digits": parts.test, **made}.items()
    }
    return numbers, {"log_p": of_flow, "images": images}


def _clothes(folders: dict[str, Path], quick: bool) -> tuple[dict, dict]:
    """Train a MAF on clothes, and score other clothes and digits."""
    clothes = load("fashion_mnist", folder=folders["fashion_mnist"])
    digits = load("mnist", folder=folders["mnist"]) if "mnist" in folders else load("mnist_5k")
    D = clothes.train.shape[1]
    few = 200 if quick else None
    parts = Parts(
        clothes.train[: few or 10_000],
        clothes.val[: few or 1_000],
        clothes.test[:few],
        digits.test[:few],
    )
    fixed = afnp.preprocessing(parts.train, levels=256)
    flow = afnp.maf(D, (D,), transforms=2, dtype=np.float32, preprocess=fixed)
    flow, seconds = _fitted(
        flow, parts, quick, epochs=10, batch_size=100, learning_rate=1e-3, patience=5
    )
    log_p = {"clothes": flow.log_prob(parts.test), "digits": flow.log_prob(parts.anomalies)}
    bits = {
        name: afnp.data.bits_per_dim(values.astype(np.float64), D) for name, values in log_p.items()
    }
    numbers = {
        "auroc": {FLOW: auroc(bits["clothes"], bits["digits"])},
        "bits_per_dim": {name: float(values.mean()) for name, values in bits.items()},
        "seconds": seconds,
    }
    return numbers, bits


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    pictures = data["pictures"]
    figure = Figure(figsize=(14, 8.4))
    wide = 3 if data["clothes"] is None else 2
    layout = figure.add_gridspec(2, 6, height_ratios=(1, 1.1))
    _draw_cells(figure.add_subplot(layout[0, :2]), numbers)
    _draw_digits(figure.add_subplot(layout[0, 2:]), numbers)
    _draw_simple(figure, layout[1, :wide], pictures)
    _draw_areas(figure.add_subplot(layout[1, wide : 2 * wide]), numbers["simple"])
    if data["clothes"] is not None:
        _draw_clothes(figure.add_subplot(layout[1, 4:]), data["clothes"], numbers["clothes"])
    caption(figure, _claim(numbers))
    note(figure, _small_print(numbers))
    return figure


def _claim(numbers: dict) -> str:
    cells, digits = (
        {name: numbers[of][name] for name in LOOKS} for of in ("cells_mean", "digits_mean")
    )
    blank = numbers["simple"]["auroc"][FLOW]["blank"]
    return (
        f"-log p(x) as an outlier score, AUROC of the flow: malignant cells {cells[FLOW]:.2f} "
        f"({_best(cells)}), a digit left out {digits[FLOW]:.2f} ({_best(digits)}), blank images "
        f"{blank:.2f}"
    ).replace("-log", "−log")


def _best(areas: dict) -> str:
    name = max((name for name in areas if name != FLOW), key=areas.__getitem__)
    return f"{name} {areas[name]:.2f}"


def _small_print(numbers: dict) -> str:
    nats = numbers["simple"]["mean_nats"]
    text = (
        "Blank images: the flow gives them {:.0f} nats on average, test digits {:.0f}; {:.0%} of "
        "test digits score as stranger than the average blank one.\nDensity is probability per "
        "volume: simple pictures may lie where it is high, in a volume too small ever to be drawn "
        "from (arXiv 1810.09136)."
    ).format(
        nats["blank"], nats["test digits"], numbers["simple"]["test_digits_below_the_mean_blank"]
    )
    if "clothes" in numbers:
        bits = numbers["clothes"]["bits_per_dim"]
        text += " Clothes cost {clothes:.2f} bits a pixel, digits {digits:.2f}.".format(**bits)
    return text.replace("-", "−")


def _draw_cells(ax, numbers: dict) -> None:
    for y, name in enumerate(LOOKS):
        color, marker = LOOKS[name]
        areas = numbers["cells"][name]
        ax.plot(
            areas, np.full(len(areas), y), marker, color=COLORS[color], alpha=0.6, linestyle="none"
        )
        ax.text(
            min(areas), y - 0.18, f"{name} {np.mean(areas):.3f}", color=COLORS["ink"], va="bottom"
        )
    ax.set(ylim=(len(LOOKS) - 0.5, -0.8), yticks=(), xlabel="AUROC, one mark a split")
    ax.margins(x=0.1)
    ax.set_title("malignant cells, trained on benign ones")
    ax.spines["left"].set_visible(False)


def _draw_digits(ax, numbers: dict) -> None:
    for k, (name, areas) in enumerate(numbers["digits"].items()):
        color, marker = LOOKS[name]
        x = np.arange(len(areas)) + 0.13 * (k - 1.5)
        ax.plot(
            x,
            areas,
            marker,
            color=COLORS[color],
            label=f"{name} {np.mean(areas):.2f}",
            linestyle="none",
        )
    ax.axhline(0.5, color=COLORS["grey"], linewidth=0.8, linestyle="-", marker="")
    for x in range(len(areas) - 1):
        ax.axvline(x + 0.5, color=COLORS["light"], linewidth=0.8, linestyle="-", marker="")
    ax.set(
        xticks=range(len(areas)),
        xlabel="the digit left out of training",
        ylabel="AUROC",
        ylim=(None, 1.02),
    )
    ax.set_title("digits of a class never seen")
    ax.legend(
        ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.0), handletextpad=0.1, columnspacing=1
    )


def _draw_simple(figure: Figure, place, pictures: dict) -> None:
    names = list(pictures["images"])
    grid = place.subgridspec(len(names), 2, width_ratios=(1, 9), wspace=0.02, hspace=0.1)
    values = np.concatenate(list(pictures["log_p"].values()))
    edges = np.linspace(*np.quantile(values, (0.005, 1)), 60)
    for row, name in enumerate(names):
        image = figure.add_subplot(grid[row, 0])
        ax = figure.add_subplot(grid[row, 1])
        image.imshow(pictures["images"][name], cmap="gray_r", vmin=0, vmax=16)
        image.set(xticks=(), yticks=())
        counts, _ = np.histogram(pictures["log_p"][name].clip(edges[0], edges[-1]), edges)
        ax.stairs(counts, edges, fill=True, color=COLORS["ink" if row == 0 else "blue"])
        ax.set(yticks=(), xlim=edges[[0, -1]])
        ax.spines["left"].set_visible(False)
        ax.text(0.2, 0.95, name, transform=ax.transAxes, va="top")
        if row < len(names) - 1:
            ax.set_xticklabels([])
        else:
            ax.set_xlabel("log p(x) of the flow of all digits [nats]; far right: “most normal”")


def _draw_areas(ax, simple: dict) -> None:
    kinds = list(next(iter(simple["auroc"].values())))
    for k, (name, areas) in enumerate(simple["auroc"].items()):
        color, marker = LOOKS[name]
        y = np.arange(len(kinds)) + 0.13 * (k - 1.5)
        ax.plot([areas[kind] for kind in kinds], y, marker, color=COLORS[color], linestyle="none")
    ax.axvspan(-0.03, 0.5, color=COLORS["light"], alpha=0.6, linewidth=0)
    ax.text(0.02, -0.45, "misled", color=COLORS["grey"])
    ax.set(
        yticks=range(len(kinds)),
        yticklabels=kinds,
        ylim=(len(kinds) - 0.5, -0.7),
        xlim=(-0.03, 1.03),
    )
    ax.set(xlabel="AUROC (marks as above)")
    ax.set_title("pictures that are no digits, against test digits")


def _draw_clothes(ax, bits: dict, numbers: dict) -> None:
    edges = np.linspace(*np.quantile(np.concatenate(list(bits.values())), (0.001, 0.999)), 60)
    for name, color, line in (("clothes", "ink", "-"), ("digits", "red", "--")):
        counts = np.histogram(bits[name], edges)[0] / len(bits[name])
        ax.stairs(counts, edges, color=COLORS[color], linestyle=line, linewidth=1.6, label=name)
    ax.set(yticks=(), xlabel="bits a pixel, −log₂ p(x) / D; right: “stranger”")
    ax.set_title(f"MAF of clothes: AUROC of digits {numbers['auroc'][FLOW]:.2f}")
    ax.legend()
