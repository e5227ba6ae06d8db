r"""With keys and values kept, an attention flow samples T tokens for the cost of one pass.

.. math:: \text{cache: } b \sum_t (12 M^2 + 2 t M), \qquad
          \text{every prefix: } b \sum_t t\, (12 M^2 + (t + 1) M)

multiply-adds a row in b blocks of width M. A token's key and value never change once it is known,
as the hidden units of a masked network never change: the KV cache evaluates each unit once, in T
steps that wait for each other.

Right: the same conditioner on 1,297 digits, as 16 tokens of 2 by 2 pixels in two directions, with
splines, beside other flows on the same rows, all stopped by validation. Nats an image after
dequantisation, logit and standardisation, as in the figure of the digits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.constructors import tarflow
from afnp.transforms import Autoregressive, attentive, image_order
from figures import recipes
from figures.common import (
    COLORS,
    below,
    caption,
    machine,
    median_seconds,
    note,
    one_thread,
    slope,
    trained,
    verified,
)

N = 10
SHAPE = {"width": 64, "heads": 4, "blocks": 2}
WAYS = {
    "prefix": ("every prefix again", "red", "s-"),
    "cached": ("keys and values kept", "blue", "o-"),
    "density": ("one density pass", "green", "^--"),
}
MARKS = {"train": ("o", "sky"), "val": ("^", "yellow"), "test": ("s", "ink")}
WORDS = {"train": "training", "val": "validation", "test": "test"}


def data(quick: bool = False) -> dict:
    """Time the samplers over T, and score the flows on digits."""
    T = [4, 8, 16] if quick else [8, 16, 32, 64, 128]
    with one_thread():
        rows = [measure(t, quick) for t in T]
        computer = machine()
    times = {way: np.array([1e3 * row[way]["minimum"] for row in rows]) for way in WAYS}
    last = slice(-3, None)
    numbers = {
        "samples": N,
        "tokens": T,
        **{f"{way}_ms": times[way].round(3) for way in WAYS},
        **{
            f"{way}_median_ms": [round(1e3 * row[way]["median"], 3) for row in rows] for way in WAYS
        },
        **{f"slope_{way}": slope(T[last], times[way][last]) for way in WAYS},
        "ratio": (times["prefix"] / times["cached"]).round(2),
        "multiply_adds": [row["work"] for row in rows],
        "largest_difference": max(row["difference"] for row in rows),
        "digits": digits(quick),
    }
    return {"numbers": numbers, "T": np.array(T), "times": times, "machine": computer}


def measure(T: int, quick: bool) -> dict:
    """Return the seconds of each way for T tokens of one feature, and the samples' difference."""
    layer = attentive(T, **SHAPE)
    rng = np.random.default_rng(0)
    p = layer.layout.views(np.zeros(layer.layout.size))
    layer.conditioner.initialize(p, rng, last=0.3)
    u = rng.standard_normal((N, T))
    nothing = np.empty((N, 0))
    shorter = [attentive(t, **SHAPE).conditioner for t in range(1, T + 1)]
    sampled = {}

    def keep(way: str, sample: Callable) -> Callable:
        return lambda: sampled.update({way: sample()})

    slow = {"prefix": keep("prefix", lambda: every_prefix(layer, shorter, p, u))}
    fast = {
        "cached": keep("cached", lambda: layer.generate(p, u, nothing)[0]),
        "density": lambda: layer.normalize(p, u, nothing),
    }
    seconds = median_seconds(slow, 2 if quick or T > 64 else 4, warm=False) | median_seconds(
        fast, 7
    )
    difference = float(np.abs(sampled["cached"] - sampled["prefix"]).max())
    return {**seconds, "difference": difference, "work": layer.cost.generate.multiply_adds}


def every_prefix(layer: Autoregressive, shorter: list, p: dict, u: np.ndarray) -> np.ndarray:
    """Sample as without a cache: token t from a pass over the tokens before it."""
    x = np.zeros_like(u)
    for t, net in enumerate(shorter):
        h, _ = net.forward({**p, "places": p["places"][: t + 1]}, x[:, :0], x[:, : t + 1])
        x[:, t], _ = layer.univariate.generate(h[:, t], u[:, t])
    return x


def digits(quick: bool) -> dict:
    """Return each flow's nats an image, and what it took."""
    recipe = recipes.digits(quick)
    fixed = [layer for layer in recipe.flows["MAF"].layers if not layer.layout.size]
    shape = {"width": 8, "heads": 2} if quick else {"width": 32, "heads": 4}
    hidden = (64,) if quick else (128, 128)
    new = {
        "spline flow": afnp.nsf(64, hidden, 2, dtype=np.float32, preprocess=fixed),
        "attention": tarflow(
            64,
            patch=4,
            blocks=1,
            transforms=2,
            order=image_order(8, 8, 2),
            univariate="spline",
            dtype=np.float32,
            preprocess=fixed,
            **shape,
        ),
    }
    options = {
        "spline flow": {"epochs": 2 if quick else 60, "learning_rate": 1e-3},
        "attention": {"epochs": 2 if quick else 30, "learning_rate": 2e-3},
    }
    for name, flow in new.items():
        rows = recipe.data
        more = {"batch_size": 100, "patience": 10} | options[name]
        recipe.histories[name] = trained(flow, rows.train, rows.val, **more)[1]
    recipe = recipe._replace(flows=recipe.flows | new)
    verified(new["attention"], quick=True)
    return {
        name: _summary(recipe, name, scores) for name, scores in recipes.log_probs(recipe).items()
    }


def _summary(recipe: recipes.Recipe, name: str, scores: dict) -> dict:
    summary = {"nats": {split: float(log_p.mean()) for split, (log_p, _) in scores.items()}}
    test = scores["test"][0]
    summary["test_standard_error"] = float(test.std() / np.sqrt(len(test)))
    if name in recipe.flows:
        history = recipe.histories[name]
        summary |= {"parameters": recipe.flows[name].theta.size, "epochs": len(history.train_loss)}
        summary["seconds"] = history.seconds
    return summary


def draw(data: dict) -> Figure:
    figure = Figure(figsize=(12.4, 5))
    caption(figure, __doc__.split("\n")[0])
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _draw_times(left, data)
    _draw_digits(right, data["numbers"]["digits"])
    numbers = data["numbers"]
    cpu = data["machine"]
    note(
        figure,
        f"Left: {N} samples, float64, {SHAPE['blocks']} blocks of width {SHAPE['width']}; fastest "
        f"calls, one core: {cpu['cpu']};\n{cpu['blas']}. Both samplers give the same numbers "
        f"within {numbers['largest_difference']:.0e}.",
    )
    return figure


def _draw_times(axes, data: dict) -> None:
    numbers = data["numbers"]
    T = data["T"]
    times = data["times"]
    ends = [times[way][-1] for way in WAYS]
    gap = 0.11 * np.log(max(ends) / min(t for way in WAYS for t in times[way]))
    for (way, (label, color, line)), height in zip(WAYS.items(), below(ends, gap), strict=True):
        axes.loglog(T, times[way], line, color=COLORS[color])
        text = f"{label}: {times[way][-1]:,.0f} ms\n(slope {numbers[f'slope_{way}']:.1f})"
        place = {
            "xytext": (9, 0),
            "textcoords": "offset points",
            "va": "center",
            "annotation_clip": False,
        }
        axes.annotate(text, (T[-1], height), color=COLORS[color], **place)
    for t, slow, fast in list(zip(T, times["prefix"], times["cached"], strict=True))[2:]:
        axes.text(
            t, np.sqrt(slow * fast), f"×{slow / fast:.0f}", ha="center", va="center", fontsize=9
        )
    axes.set(xlabel="tokens T", ylabel=f"time for {N} rows (ms)")
    axes.set_xscale("log", base=2)
    axes.set_xticks(T, [str(t) for t in T])
    axes.minorticks_off()


def _draw_digits(axes, models: dict) -> None:
    for row, model in enumerate(models.values()):
        for split, (mark, color) in MARKS.items():
            axes.plot(model["nats"][split], row, mark, color=COLORS[color], markersize=7)
    for split, value in next(iter(models.values()))["nats"].items():
        level = {"train": -0.42, "val": -0.62, "test": -0.82}[split]
        axes.text(value, level, WORDS[split], ha="center", fontsize=8.5, color=COLORS["ink"])
    axes.set_yticks(range(len(models)), list(models))
    axes.set(
        ylim=(len(models) - 0.5, -1),
        xlabel="mean log-likelihood of a digit (nats); right is better",
    )
    best = max(models, key=lambda name: models[name]["nats"]["test"])
    gap = models["attention"]["nats"]["test"] - models["spline flow"]["nats"]["test"]
    than = f"{abs(gap):.1f} nats {'above' if gap > 0 else 'below'} the spline flow"
    axes.set_title(f"Test digits: attention {than};\nbest: {best}")
