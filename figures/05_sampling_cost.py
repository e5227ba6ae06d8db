r"""Compiled, sampling by substitution costs about one density pass; the textbook loop, D of them.

.. math:: T_{\text{loop}} \approx D \cdot T_{\text{density}}, \qquad
          T_{\text{substitution}} \approx T_{\text{density}} + D \cdot
          \text{(overhead of a short step)}

One affine MADE with two hidden layers, 100 samples in float32, one core. The loop runs the whole
network once a feature; substitution evaluates each hidden unit once, and returns the same samples.
What remains sequential is the depth: D short steps, each of a few NumPy calls, or of nearly nothing
once compiled.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

import afnp
from figures.common import COLORS, caption, machine, median_seconds, note, one_thread, slope

N = 100
NAMES = ("naive", "substitution", "density", "compiled_substitution", "compiled_density")


def data(quick: bool = False) -> dict:
    """Time the three over D, then once at the size of an MNIST model."""
    D = [8, 16, 32, 64] if quick else [8, 16, 32, 64, 128, 256, 512]
    with one_thread():
        rows = [measure(d, max(64, d), quick) for d in D]
        image = measure(64, 128, quick) if quick else measure(784, 1024, quick)
        computer = machine()
    times = {name: np.array([row[name]["minimum"] for row in rows]) for name in NAMES}
    end = slice(-3, None)
    numbers = {
        "samples": N,
        "D": D,
        **{f"{name}_ms": times[name].round(4) for name in NAMES},
        **{f"{name}_median_ms": [round(row[name]["median"], 4) for row in rows] for name in NAMES},
        **{f"slope_{name}": slope(D[end], times[name][end]) for name in NAMES},
        "slopes_from_D": D[end][0],
        "ratio": (times["naive"] / times["substitution"]).round(2),
        "naive_over_density": (times["naive"] / times["density"]).round(2),
        "substitution_over_density": (times["substitution"] / times["density"]).round(2),
        "compiled_substitution_over_density": (
            times["compiled_substitution"] / times["compiled_density"]
        ).round(2),
        "image_D": image["D"],
        "image_hidden": image["hidden"],
        **{f"image_{name}_ms": image[name]["minimum"] for name in NAMES},
        **{f"image_{name}_median_ms": image[name]["median"] for name in NAMES},
        "image_ratio": image["naive"]["minimum"] / image["substitution"]["minimum"],
        "image_compiled_ratio": image["naive"]["minimum"]
        / image["compiled_substitution"]["minimum"],
        "largest_difference": max(row["difference"] for row in [*rows, image]),
    }
    return {"numbers": numbers, "D": np.array(D), "times": times, "machine": computer}


def measure(D: int, hidden: int, quick: bool) -> dict:
    """Return the milliseconds of each way for N rows, and how far apart the samples are."""
    flow = afnp.made(D, hidden=(hidden, hidden), dtype=np.float32, seed=1)
    u = np.random.default_rng(0).standard_normal((N, D), dtype=np.float32)
    samples = {}

    def generate(name, method, backend):
        samples[name] = flow.generate(u, method=method, backend=backend)[0]

    slow = {"naive": lambda: generate("naive", "naive", "numpy")}
    fast = {
        "substitution": lambda: generate("substitution", "substitution", "numpy"),
        "compiled_substitution": lambda: generate("compiled", "substitution", "numba"),
        "density": lambda: flow.log_prob(samples["substitution"], backend="numpy"),
        "compiled_density": lambda: flow.log_prob(samples["substitution"], backend="numba"),
    }
    seconds = {
        **median_seconds(slow, 2 if quick or D > 200 else 5, warm=False),
        **median_seconds(fast, 15),
    }
    milliseconds = {name: {k: 1e3 * t for k, t in seconds[name].items()} for name in NAMES}
    difference = max(
        np.abs(samples[name] - samples["naive"]).max() for name in ("substitution", "compiled")
    )
    return {"D": D, "hidden": hidden, "difference": difference, **milliseconds}


def draw(data: dict) -> Figure:
    """Draw the costs on logarithmic axes, with the ratio of the two NumPy samplers."""
    figure = Figure(figsize=(10.4, 6))
    caption(figure, __doc__.split("\n")[0])
    axes = figure.subplots()
    numbers = data["numbers"]
    D = data["D"]
    times = data["times"]
    for name, label, color, line, nudge in (
        ("naive", "textbook loop, NumPy", "red", "s-", 0),
        ("substitution", "substitution, NumPy", "blue", "o--", 0),
        ("compiled_substitution", "substitution, compiled", "blue", "o-", 7),
        ("compiled_density", "density pass, compiled", "green", "^-", -7),
    ):
        axes.loglog(D, times[name], line, color=COLORS[color])
        image = numbers["image_D"], numbers[f"image_{name}_ms"]
        axes.loglog(*image, line[0], color=COLORS[color], markerfacecolor="white", markersize=7)
        axes.annotate(
            f"{label}: {image[1]:,.{0 if image[1] > 100 else 1}f} ms",
            image,
            xytext=(10, nudge),
            textcoords="offset points",
            va="center",
            color=COLORS[color],
            annotation_clip=False,
        )
    points = [*zip(D, times["naive"], times["substitution"], strict=True)]
    points.append((numbers["image_D"], numbers["image_naive_ms"], numbers["image_substitution_ms"]))
    for d, slow, fast in points[3:]:
        middle = np.sqrt(slow * fast)
        axes.plot(
            [d, d],
            [fast, slow],
            color=COLORS["light"],
            linewidth=1,
            linestyle="-",
            marker="",
            zorder=0,
        )
        axes.text(
            d,
            middle,
            f"×{slow / fast:.0f}",
            ha="center",
            va="center",
            fontsize=9,
            backgroundcolor="white",
        )
    cpu = data["machine"]
    slopes = [
        f"{numbers[f'slope_{name}']:.1f}"
        for name in ("naive", "substitution", "compiled_substitution")
    ]
    note(
        figure,
        f"Open marks and times: D = {numbers['image_D']} with 2 × {numbers['image_hidden']} units. "
        f"Slopes from D = {numbers['slopes_from_D']}: "
        f"{slopes[0]} (loop), {slopes[1]} (NumPy), {slopes[2]} (compiled).\n"
        f"Fastest calls, float32, one core: {cpu['cpu']}; {cpu['blas']}",
    )
    axes.set(
        xlabel="features D (two hidden layers of max(64, D) units each)",
        ylabel=f"time for {N} rows (ms)",
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(D, [f"{d:,}" for d in D])
    axes.minorticks_off()
    return figure
