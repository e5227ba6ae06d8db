r"""At large D a sample converges in far fewer iterations than features; substitution is faster.

.. math:: x^{(k+1)}_i = \tau(u_i;\, h_i(x^{(k)}_{<i})) \ \text{for all } i \text{ at once},
          \qquad T_{\text{Jacobi}} \approx \text{iterations} \cdot T_{\text{density}}

Jacobi iterations (arXiv 2002.03629) need no order and little interpreter, but repeat the whole
network pass; Gauss-Seidel repeats only the diagonal blocks; substitution repeats nothing. So they
pay, if at all, where a step costs more than its arithmetic: in NumPy. How many there are, the flow
decides: a fresh one is nearly the identity, training couples features, and where all depend on all
before them, as in galaxies, all D iterations are needed. Left and right: one affine MADE with two
hidden layers of max(64, D) units, 100 samples, float32; an iteration counts until nothing changes,
bit by bit, the last one included. Middle: MAFs of five transforms.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.data import load
from afnp.sampling.fixed_point import GaussSeidel, Jacobi, iterate
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
)

N = 100
STARTS = {
    "as initialised": ({}, "blue", "o-"),
    "gain 1, outputs × 0.1": ({"gain": 1.0, "last": 0.1}, "green", "^-."),
    "gain 1": ({"gain": 1.0, "last": 1.0}, "red", "s--"),
}
"""How the weights of an untrained flow are drawn: keyword arguments of ``initialize``, and how they
are drawn."""

TIMED = "as initialised"
WAYS = {
    "naive": ("naive", "numpy"),
    "substitution": ("substitution", "numpy"),
    "jacobi": ("jacobi", "numpy"),
    "gauss_seidel": ("gauss-seidel", "numpy"),
    "compiled_substitution": ("substitution", "numba"),
    "compiled_jacobi": ("jacobi", "numba"),
    "compiled_gauss_seidel": ("gauss-seidel", "numba"),
}
SETS = {"galaxies": (128, 2e-3, "red", "s-"), "digits": (256, 1e-3, "blue", "o-")}
"""Width of both hidden layers, learning rate, and how they are drawn."""


def data(quick: bool = False) -> dict:
    D = [4, 8, 16, 32] if quick else [4, 8, 16, 32, 64, 128, 256, 512]
    with one_thread():
        counts = {name: [count(d, options) for d in D] for name, (options, _, _) in STARTS.items()}
        training = {name: over_training(name, quick) for name in SETS}
        times = {
            name: [measure(d, STARTS[name][0], quick) for d in D] for name in (TIMED, "gain 1")
        }
        computer = machine()
    numbers = {
        "samples": N,
        "D": D,
        "block": GaussSeidel().block,
        "sweeps": {
            name: {k: [c[k] for c in rows] for k in rows[0]} for name, rows in counts.items()
        },
        "training": training,
        **{name: _table(rows, D) for name, rows in times.items()},
    }
    return {"numbers": numbers, "machine": computer}


# ---- iterations over D ---------------------------------------------------------------------------


def made(D: int, options: dict) -> afnp.Flow:
    """Return an untrained MADE whose weights are drawn with these options."""
    hidden = max(64, D)
    flow = afnp.made(D, hidden=(hidden, hidden), dtype=np.float32, seed=1)
    (layer,) = flow.layers
    layer.conditioner.initialize(
        layer.layout.views(flow.theta), np.random.default_rng(1), **options
    )
    return flow


def noise(D: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, D), dtype=np.float32)


def count(D: int, options: dict) -> dict:
    """Return the iterations that samples need, and the arithmetic in density passes."""
    flow = made(D, options)
    u = noise(D)
    one_pass = flow.cost.total.normalize.multiply_adds
    result = {}
    for name, method in (("jacobi", Jacobi()), ("gauss_seidel", GaussSeidel())):
        record = iterate(flow, u, method=method, backend="numba")[2]
        result |= {
            f"{name}_mean": record.iterations.mean(),
            f"{name}_most": int(record.iterations.max()),
            f"{name}_passes": round(record.multiply_adds.mean() / one_pass, 3),
        }
    return result


def over_training(name: str, quick: bool) -> dict:
    """Train a MAF of five transforms, and count its samples' iterations on the way."""
    known, (width, rate, _, _) = load(name), SETS[name]
    rows = known.train[: 500 if quick else None]
    flow = afnp.maf(
        rows.shape[1],
        (width, width),
        transforms=5,
        dtype=np.float32,
        preprocess=afnp.preprocessing(known.train, levels=known.levels),
    )
    stages = [0, 1, 2] if quick else [0, 1, 3, 10, 20]
    counts = [_mean_sweeps(flow)]
    for epochs in np.diff(stages):
        trained(
            flow,
            rows,
            known.val,
            epochs=int(epochs),
            batch_size=100,
            learning_rate=rate,
            schedule="constant",
        )
        counts.append(_mean_sweeps(flow))
    return {"D": flow.features, "epochs": stages, **{k: [c[k] for c in counts] for k in counts[0]}}


def _mean_sweeps(flow: afnp.Flow) -> dict:
    """Return the iterations of each transform, over samples: mean, and mean of the slowest."""
    u = noise(flow.features)
    x, _, record = iterate(flow, u, backend="numba")
    by_substitution = flow.generate(u, backend="numba")[0]
    scale = np.abs(by_substitution).max()
    return {
        "mean": record.iterations.mean(),
        "slowest_transform": record.iterations.mean(axis=0).max(),
        "most": int(record.iterations.max()),
        "difference": float(np.abs(x - by_substitution).max() / scale),
    }


# ---- time over D ---------------------------------------------------------------------------------


def measure(D: int, options: dict, quick: bool) -> dict:
    """Return the milliseconds of each way for N rows, and how far apart their samples are."""
    flow = made(D, options)
    u = noise(D)
    samples = {}

    def generate(name):
        method, backend = WAYS[name]
        samples[name] = flow.generate(u, method=method, backend=backend)[0]

    calls = {name: lambda name=name: generate(name) for name in WAYS}
    slow = {"naive": calls.pop("naive")}
    seconds = median_seconds(calls, 3 if quick else 15 if D < 200 else 5)
    seconds |= median_seconds(slow, 1 if quick or D > 200 else 3, warm=False)
    scale = np.abs(samples["naive"]).max()
    difference = max(float(np.abs(x - samples["naive"]).max() / scale) for x in samples.values())
    return {
        "difference": difference,
        **{name: {k: 1e3 * t for k, t in s.items()} for name, s in seconds.items()},
    }


def _table(rows: list[dict], D: list[int]) -> dict:
    """Turn measurements over D into columns; slopes are those of the last three."""
    times = {name: np.array([row[name]["minimum"] for row in rows]) for name in WAYS}
    return {
        **{f"{name}_ms": t.round(4) for name, t in times.items()},
        **{f"{name}_median_ms": [round(row[name]["median"], 4) for row in rows] for name in WAYS},
        **{f"slope_{name}": slope(D[-3:], t[-3:]) for name, t in times.items()},
        "largest_difference": max(row["difference"] for row in rows),
    }


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(13.5, 5.4))
    axes = figure.subplots(1, 3, width_ratios=(1, 0.9, 1.35))
    _draw_sweeps(axes[0], numbers)
    _draw_training(axes[1], numbers["training"])
    _draw_times(axes[2], numbers)
    caption(figure, __doc__.split("\n")[0])
    last = numbers["D"][-1]
    gain = numbers["gain 1"]
    note(
        figure,
        f"Right: the flow as initialised, where iterations are fewest. At gain 1 and D = {last}, "
        f"Jacobi takes {gain['jacobi_ms'][-1]:,.0f} ms in NumPy and "
        f"{gain['compiled_jacobi_ms'][-1]:,.0f} ms compiled, Gauss-Seidel "
        f"{gain['gauss_seidel_ms'][-1]:,.0f} and {gain['compiled_gauss_seidel_ms'][-1]:,.0f},\n"
        f"substitution {gain['substitution_ms'][-1]:,.0f} and "
        f"{gain['compiled_substitution_ms'][-1]:,.1f}. Blocks of {numbers['block']} features. "
        f"Fastest calls, {N} samples in float32, one core: {data['machine']['cpu']}",
    )
    return figure


def _draw_sweeps(ax, numbers: dict) -> None:
    D = numbers["D"]
    ax.loglog(D, D, color=COLORS["grey"], linewidth=1, linestyle=":", marker="")
    ax.annotate(
        "D", (D[-1], D[-1]), (4, 0), textcoords="offset points", color=COLORS["grey"], va="center"
    )
    for name, (_, color, line) in reversed(STARTS.items()):
        counts = numbers["sweeps"][name]["jacobi_mean"]
        ax.loglog(D, counts, line, color=COLORS[color], label=name)
    ax.legend(loc="upper left", frameon=False, fontsize=9)
    _powers_of_two(ax, D, D)
    ax.set(title="untrained", xlabel="features D", ylabel="Jacobi iterations, mean of samples")


def _draw_training(ax, training: dict) -> None:
    for (name, (_, _, color, line)), above in zip(SETS.items(), (-14, 8), strict=True):
        found = training[name]
        places = np.arange(len(found["epochs"]))
        ax.axhline(found["D"], color=COLORS[color], linewidth=1, linestyle=":", marker="")
        ax.text(0, found["D"], f"D = {found['D']}", color=COLORS[color], va="bottom", fontsize=9)
        ax.plot(places, found["mean"], line, color=COLORS[color])
        ax.annotate(
            f"{name}: {found['mean'][-1]:.1f}",
            (places[-1], found["mean"][-1]),
            (0, above),
            textcoords="offset points",
            ha="right",
            color=COLORS[color],
        )
    ax.set(
        title="while training",
        xlabel="epochs",
        ylabel="Jacobi iterations, mean of samples and transforms",
    )
    ax.set_yscale("log", base=2)
    ax.set_xticks(places, [str(epochs) for epochs in found["epochs"]])
    _plain_numbers(ax.yaxis, [2**k for k in range(8)])
    ax.set_ylim(1.8, 90)


LINES = {
    "naive": ("textbook loop", "grey", "D-"),
    "jacobi": ("Jacobi", "red", "s-"),
    "gauss_seidel": ("Gauss-Seidel", "green", "^-"),
    "substitution": ("substitution", "blue", "o-"),
    "compiled_jacobi": ("Jacobi, compiled", "red", "s--"),
    "compiled_gauss_seidel": ("Gauss-Seidel, compiled", "green", "^--"),
    "compiled_substitution": ("substitution, compiled", "blue", "o--"),
}


def _draw_times(ax, numbers: dict) -> None:
    D = numbers["D"]
    found = numbers[TIMED]
    ends = {name: found[f"{name}_ms"][-1] for name in LINES}
    gap = 0.042 * np.log(ends["naive"] / found["compiled_substitution_ms"][0])
    for (name, (label, color, line)), height in zip(
        LINES.items(), below(list(ends.values()), gap), strict=True
    ):
        ax.loglog(D, found[f"{name}_ms"], line, color=COLORS[color], markersize=4)
        ax.annotate(
            f"{label}: {ends[name]:,.{0 if ends[name] > 100 else 1}f} ms",
            (D[-1], height),
            (8, 0),
            textcoords="offset points",
            va="center",
            color=COLORS[color],
            fontsize=9,
            annotation_clip=False,
        )
    _powers_of_two(ax, D)
    ax.set(title=f"{TIMED}: time", xlabel="features D", ylabel=f"time for {N} samples (ms)")


def _powers_of_two(ax, x: list[int], y: list[int] | None = None) -> None:
    ax.set_xscale("log", base=2)
    _plain_numbers(ax.xaxis, x)
    if y:
        ax.set_yscale("log", base=2)
        _plain_numbers(ax.yaxis, [1, 2, *y])


def _plain_numbers(axis, ticks: list[int]) -> None:
    axis.set_ticks(ticks, [str(tick) for tick in ticks])
    axis.set_tick_params(which="minor", length=0)
