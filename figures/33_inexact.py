r"""At a high Lyapunov exponent a tolerance takes nearly all iterations and leaves a tenth of a nat.

.. math::
    \text{error} = \Big|\log p(\hat x) - \Big(\log p_{\mathrm{base}}(u)
          - \log\Big|\det \frac{\partial \hat x}{\partial u}\Big|\Big)\Big|, \qquad
    \lambda = \frac1k \log \lVert T^k \rVert_2, \quad
    T = \frac{\partial\, \tau(u; h(x))}{\partial x}

Parallel sampling trades exactness for fewer steps: Jacobi iterations, over all features or in
blocks, stop at a tolerance (0.005 and 0.001 in STARFlow-V, arXiv 2511.20462), and Newton's method
(DEER, arXiv 2309.12252) takes fewer, dearer ones. What a tolerance leaves is an error of the
likelihood that a sample claims. Left: the processor's time against that error, for three
conditioners trained on the same stretches of a voice, and for a masked MLP on longer ones; all in
NumPy on one core. Many processors change the times, and not the errors. Right: the exponent λ of an
iteration, k = 8, foretells how many there are. Below zero an error shrinks by e^λ each time; above
it grows, until the triangle ends it after at most D. Substitution is exact in all of them: hidden
units, keys and values, or queues, once each.
"""

from __future__ import annotations

import time

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

import afnp
from afnp.data import speech_waveform
from afnp.sampling.fixed_point import (
    GaussSeidel,
    Jacobi,
    Newton,
    exponent,
    iterate,
)
from afnp.transforms import attentive, convolutional
from figures.common import COLORS, caption, machine, note, one_thread, trained

D = 64
WIDE = 784
"""Of the masked MLP on long stretches."""
N = 10
BLOCK = 16
TOLERANCES = (5e-3, 1e-3)
FLOOR = 1e-5
"""Where errors below a millionth of a nat are drawn."""
WAYS = {
    "jacobi": ("Jacobi", "red", "s-"),
    "gauss_seidel": (f"blocks of {BLOCK}", "green", "^-"),
    "newton": ("Newton", "pink", "D-"),
}
EXACT = {
    "naive": ("textbook loop", "grey", "x"),
    "substitution": ("substitution", "blue", "o"),
}
TITLES = {
    "masked": "masked MLP",
    "wide": f"masked MLP, D = {WIDE}",
    "attention": "attention",
    "convolution": "convolution",
}
CACHES = {
    "masked": "substitution",
    "wide": "substitution",
    "attention": "keys and values",
    "convolution": "queues",
}
"""What substitution is called in each network."""
GAINS = (0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0, 3.0)
"""Factors of the last layer of a network that has not been trained."""


def data(quick: bool = False) -> dict:
    """Train the flows, and sample each in every way."""
    flows = {name: flow_of(name, quick) for name in TITLES}
    with one_thread():
        numbers = {name: measure(flow, quick) for name, flow in flows.items()}
        computer = machine()
    points = {name: predict(flow, numbers[name]) for name, flow in flows.items()}
    points["untrained"] = scan()
    return {
        "numbers": {
            "D": D,
            "wide": WIDE,
            "samples": N,
            "block": BLOCK,
            "tolerances": list(TOLERANCES),
            "flows": numbers,
            "exponents": points,
        },
        "machine": computer,
    }


# ---- the flows -----------------------------------------------------------------------------------


def voice(n: int, D: int) -> np.ndarray:
    """Return n stretches of D samples, (n, D), in units of their spread, jittered by a step."""
    wave = speech_waveform("train")[0].astype(np.float64)
    rng = np.random.default_rng(0)
    first = rng.integers(0, len(wave) - D, n)
    rows = wave[first[:, None] + np.arange(D)]
    return (rows + rng.random(rows.shape)) / wave.std()


def flow_of(name: str, quick: bool) -> afnp.Flow:
    """Return a flow of two affine transforms in opposite directions, trained on the voice."""
    if name == "masked":
        flow, epochs = afnp.maf(D, (128, 128), transforms=2, seed=1), 20
    elif name == "wide":
        flow, epochs = afnp.maf(WIDE, (WIDE,), transforms=2, seed=1), 20
    elif name == "attention":
        layers = [
            attentive(D, patch=4, width=16, heads=2, blocks=1, order=order)
            for order in ("natural", "reverse")
        ]
        flow, epochs = afnp.Flow(layers, seed=1), 4
    else:
        layers = [convolutional(D, 8, (1, 2, 4, 8), reverse=back) for back in (False, True)]
        flow, epochs = afnp.Flow(layers, seed=1), 5
    rows = voice(200 if quick else 2000, flow.features)
    trained(flow, rows, epochs=1 if quick else epochs, batch_size=50, learning_rate=3e-3)
    return flow


def untrained(gain: float) -> afnp.Flow:
    """Return one transform of random weights, its outputs multiplied by a gain."""
    flow = afnp.maf(D, (128, 128), transforms=1, seed=2)
    (layer,) = flow.layers
    layer.conditioner.initialize(
        layer.layout.views(flow.theta), np.random.default_rng(2), gain=1.0, last=gain
    )
    return flow


# ---- time and error ------------------------------------------------------------------------------


def methods() -> dict[str, list[tuple]]:
    """Return each iterating way's methods by their tolerances, exact ones last."""
    tolerances = [*TOLERANCES, 0.0]
    return {
        "jacobi": [(t, Jacobi(t)) for t in tolerances],
        "gauss_seidel": [(t, GaussSeidel(BLOCK, t)) for t in tolerances],
        "newton": [(t, Newton(t or None)) for t in tolerances],
    }


def measure(flow: afnp.Flow, quick: bool) -> dict:
    """Return milliseconds, error in nats, and iterations of each way of sampling."""
    u = np.random.default_rng(3).standard_normal((N, flow.features))

    def generate(method) -> tuple:
        return flow.generate(u, method=method, backend="numpy")

    found: dict = {way: {"ms": milliseconds(lambda way=way: generate(way), quick)} for way in EXACT}
    for way in EXACT:
        found[way]["nats"] = float(np.abs(_error(flow, u, *generate(way))).mean())
    for way, rows in methods().items():
        found[way] = {name: [] for name in ("ms", "nats", "worst_nats", "iterations")}
        for _, method in rows:
            start = time.process_time()
            x, log_det, record = iterate(flow, u, method=method, backend="numpy")
            ms = 1e3 * (time.process_time() - start)
            if way != "newton":  # a second or more, once
                ms = milliseconds(lambda m=method: generate(m), quick)
            errors = np.abs(_error(flow, u, x, log_det))
            row = {
                "ms": ms,
                "nats": float(errors.mean()),
                "worst_nats": float(errors.max()),
                "iterations": record.iterations.mean(axis=0).tolist(),
            }
            for name, value in row.items():
                found[way][name].append(value)
    return found


def milliseconds(call, quick: bool) -> float:
    """Return the processor's time of the fastest of some calls, more of them if they are short."""
    taken: list[float] = []
    while len(taken) < (1 if quick else 4) or (not quick and sum(taken) < 0.5):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return 1e3 * min(taken)


def _error(flow: afnp.Flow, u: np.ndarray, x: np.ndarray, log_det: np.ndarray) -> np.ndarray:
    return flow.log_prob(x) - (flow.base.log_prob(flow.own.base, u) - log_det)


# ---- the exponent --------------------------------------------------------------------------------


def exponents(flow: afnp.Flow) -> list[float]:
    """Return the exponent of each transform, a mean over samples."""
    x, found, none = flow.sample(N, rng=4), [], np.empty((N, 0))
    for layer, p in zip(flow.layers, flow.own, strict=True):
        found.append(float(exponent(layer.iteration_matrix(p, x, none)).mean()))
        x, _ = layer.evaluate(p, x, none)
    return found


def predict(flow: afnp.Flow, measured: dict) -> dict:
    """Return the exponents beside the iterations that each transform took to within 0.001."""
    at = TOLERANCES.index(1e-3)
    counts = {way: measured[way]["iterations"][at] for way in ("jacobi", "newton")}
    return {"exponent": exponents(flow), **counts}


def scan() -> dict:
    """Do the same for networks that have not been trained, from tame to wild."""
    found: dict = {"exponent": [], "jacobi": [], "newton": []}
    u = np.random.default_rng(3).standard_normal((N, D))
    for gain in GAINS:
        flow = untrained(gain)
        found["exponent"] += exponents(flow)
        for way, method in (("jacobi", Jacobi(1e-3)), ("newton", Newton(1e-3))):
            taken = iterate(flow, u, method=method, backend="numpy")[2].iterations
            found[way] += taken.mean(axis=0).tolist()
    return found


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(17, 5.4))
    axes = figure.subplots(1, 5, width_ratios=(1, 1, 1, 1, 1.25))
    for ax, name in zip(axes, TITLES, strict=False):
        _draw_errors(ax, name, numbers)
    axes[0].set_ylabel("error of the claimed log-density, mean (nats)")
    _draw_exponents(axes[-1], numbers["exponents"])
    caption(figure, __doc__.split("\n")[0])
    note(figure, _note(data))
    return figure


def _draw_errors(ax, name: str, numbers: dict) -> None:
    found = numbers["flows"][name]
    for way, (label, color, line) in WAYS.items():
        row = found[way]
        ax.loglog(row["ms"], _drawn(row["nats"]), line, color=COLORS[color], linewidth=1.4)
        at = row["ms"][0], _drawn(row["nats"])[0]
        _label(ax, label, at, LABELS.get((name, way), (0, 9)), color)
    for way, (label, color, mark) in EXACT.items():
        label = CACHES[name] if way == "substitution" else label
        at = found[way]["ms"], _drawn([found[way]["nats"]])[0]
        ax.plot(*at, mark, color=COLORS[color], markersize=9)
        _label(ax, label, at, LABELS.get((name, way), (0, -20)), color)
    exponents = numbers["exponents"][name]["exponent"]
    shown = " and ".join(f"{round(value, 1) + 0.0:.1f}" for value in exponents).replace(
        "-", "\N{MINUS SIGN}"
    )
    ax.set_title(f"{TITLES[name]}: λ = {shown}")
    ax.set(xlabel=f"processor's time for {N} samples (ms)", ylim=(FLOOR / 4, 1))
    ax.set_yticks(
        [FLOOR, 1e-4, 1e-3, 1e-2, 0.1, 1], ["exact", "0.0001", "0.001", "0.01", "0.1", "1"]
    )
    ax.tick_params(axis="y", which="minor", length=0)
    low, high = ax.get_xlim()
    ax.set_xlim(low / 6, 2 * high)  # room for the labels
    ax.xaxis.set_minor_formatter(NullFormatter())  # powers of ten alone: others would overlap


def _drawn(nats: list[float]) -> np.ndarray:
    """Return errors as they are drawn: what is nothing but rounding, at the bottom."""
    return np.where(np.array(nats) < 1e-6, FLOOR, nats)


LABELS = {
    ("masked", "substitution"): (0, 11),
    ("attention", "substitution"): (-6, 11),
    ("convolution", "substitution"): (0, 11),
    ("masked", "jacobi"): (-6, 9),
    ("masked", "gauss_seidel"): (34, 4),
    ("attention", "gauss_seidel"): (42, 12),
    ("convolution", "jacobi"): (-18, 9),
    ("wide", "gauss_seidel"): (-24, 9),
    ("wide", "substitution"): (-12, 11),
    ("convolution", "gauss_seidel"): (42, -3),
}
"""Where labels stand that would meet others, in points beside a way's first point."""


def _label(ax, text: str, at: tuple, offset: tuple, color: str) -> None:
    ax.annotate(
        text,
        at,
        offset,
        textcoords="offset points",
        ha="center",
        color=COLORS[color],
        fontsize=9,
    )


MARKS = {
    "masked": "blue",
    "wide": "sky",
    "attention": "green",
    "convolution": "red",
    "untrained": "grey",
}


def _draw_exponents(ax, points: dict) -> None:
    ax.axvline(0, color=COLORS["light"], linewidth=1)
    ax.axhline(D, color=COLORS["grey"], linewidth=1, linestyle=":")
    ax.text(-3.4, D, f"D = {D}", va="bottom", fontsize=9, color=COLORS["grey"])
    for name, color in MARKS.items():
        found = points[name]
        ax.plot(found["exponent"], found["jacobi"], "s", color=COLORS[color])
        ax.plot(found["exponent"], found["newton"], "D", color=COLORS[color], fillstyle="none")
        place = int(np.argmax(found["jacobi"])) if name != "untrained" else 0
        at = found["exponent"][place], found["jacobi"][place]
        offset = {
            "convolution": (-74, -23),
            "untrained": (22, 24),
            "masked": (-42, -3),
            "wide": (-16, 9),
        }.get(name, (0, 9))
        _label(ax, TITLES.get(name, "masked MLP,\nuntrained"), at, offset, color)
    ax.set_yscale("log", base=2)
    ax.set_yticks([2, 4, 8, 16, 32, 64], ["2", "4", "8", "16", "32", "64"])
    ax.set(
        title="■ Jacobi, ◇ Newton, each transform",
        xlabel="Lyapunov exponent λ (nats an iteration)",
        ylabel="iterations to within 0.001",
        ylim=(2, 90),
    )


def _note(data: dict) -> str:
    flows = data["numbers"]["flows"]
    loose = {name: flows[name]["jacobi"] for name in TITLES}
    words = ", ".join(
        f"{TITLES[name]} {row['nats'][0]:.2g} (worst {row['worst_nats'][0]:.2g})"
        for name, row in loose.items()
    )
    times = ", ".join(
        f"{flows[name]['substitution']['ms']:.1f} and {row['ms'][0]:.1f} ms"
        for name, row in loose.items()
    )
    return (
        "On each line, from above: tolerance 0.005, 0.001, and until nothing changes (Newton: "
        f"1.5e-8). {D} features (one flow: {WIDE}), two transforms, float64, NumPy, one core: "
        f"{data['machine']['cpu']}\n"
        f"Jacobi at 0.005 leaves, in nats: {words}.\n"
        f"Substitution, exact, and Jacobi at 0.005 take: {times}."
    )
