r"""Two graphs fit the same data alike, and only the true one foresees what an intervention does.

.. math:: p(x) = \prod_i p(x_i \mid x_{\mathrm{pa}(i)}), \qquad
          p(x \mid \mathrm{do}(t = v)) = [t = v] \prod_{i \ne t} p(x_i \mid x_{\mathrm{pa}(i)})

A treatment t works through m on the outcome y; a confounder z drives both t and y. In the data a
high t goes with a low y, though t raises y: z does it. Two flows of one affine transform each are
trained on the same rows. One knows the graph z → t → m → y ← z; the other has the arrow between z
and t reversed, which excludes nothing and fits as well. Held at t = v, the first gives what the
simulator gives; in the second z follows t, and it repeats the correlation. Right: the same people,
had they had t = 1, by the first flow and by the simulator with their own noise. Substitution takes
as many steps as the graph is deep. After Pearl; for flows arXiv 2306.05415.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.applications.intervention import intervene
from figures.common import COLORS, caption, note, trained, verified

NAMES = ("z", "t", "m", "y")
Z, T, M, Y = range(4)
TRUE = ((T, Z), (M, T), (Y, M), (Y, Z))
"""Arrows as (effect, cause)."""
REVERSED = ((Z, T), *TRUE[1:])
VALUES = np.linspace(-2, 2, 9)
"""What t is held at."""
HELD = 1.0
"""What it is held at for the same people."""


def data(quick: bool = False) -> dict:
    """Train both flows, and compare what they foresee with the simulator."""
    rng = np.random.default_rng(0)
    n = 2000 if quick else 6000
    train, test = (simulate(noise(n, rng)) for _ in range(2))
    flows = {
        "true": flow_of(TRUE, train, quick),
        "reversed": flow_of(REVERSED, train, quick),
    }
    u = noise(2000 if quick else 20_000, rng)
    found = {name: means(flow, len(u)) for name, flow in flows.items()}
    people = test[:300]
    would = intervene(flows["true"], people, {"t": HELD})
    truth = simulate(noise_of(people), do={T: HELD})
    return {
        "numbers": {
            "rows": n,
            "values": VALUES,
            "log_prob": {name: float(flow.log_prob(test).mean()) for name, flow in flows.items()},
            "log_prob_truth": float(true_log_prob(test).mean()),
            "steps": {name: flow.cost.total.generate.depth for name, flow in flows.items()},
            "do": {
                "simulator": [float(simulate(u, do={T: v})[:, Y].mean()) for v in VALUES],
                **found,
            },
            "given": given(test),
            "counterfactual_rms": float(np.sqrt(np.mean((would - truth)[:, Y] ** 2))),
            "spread": float(truth[:, Y].std()),
            "checks": verified(flows["true"], quick),
        },
        "would": would[:, Y],
        "truth": truth[:, Y],
    }


# ---- the world -----------------------------------------------------------------------------------


def noise(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((n, 4))


def equations(x: np.ndarray) -> dict[int, tuple]:
    """Return each feature's mean, a function of its causes in x (N, 4), and its spread."""
    z, t, m, _ = x.T
    return {
        Z: (0 * z, 1.0),
        T: (0.8 * z, 0.6),
        M: (t + 0.3 * t * t, 0.4),
        Y: (0.8 * m - 2.0 * z, 0.5),
    }


def simulate(u: np.ndarray, do: dict | None = None) -> np.ndarray:
    """Make rows z, t, m, y of noise (N, 4), some of them held at a value."""
    x = np.zeros_like(u)
    for i in (Z, T, M, Y):
        mean, spread = equations(x)[i]
        x[:, i] = mean + spread * u[:, i]
        if do and i in do:
            x[:, i] = do[i]
    return x


def noise_of(x: np.ndarray) -> np.ndarray:
    """Return the noise (N, 4) that made rows."""
    parts = equations(x)
    return np.stack([(x[:, i] - parts[i][0]) / parts[i][1] for i in range(4)], axis=1)


def true_log_prob(x: np.ndarray) -> np.ndarray:
    """Return the simulator's own log-density (N,), nats."""
    u = noise_of(x)
    spread = sum(np.log(equations(x)[i][1]) for i in range(4))
    return -0.5 * (u * u).sum(axis=1) - 2 * np.log(2 * np.pi) - spread


# ---- the flows -----------------------------------------------------------------------------------


def graph_of(arrows) -> np.ndarray:
    """Return the graph (4, 4) of arrows (effect, cause)."""
    graph = np.zeros((4, 4), dtype=bool)
    graph[tuple(np.transpose(arrows))] = True
    return graph


def flow_of(arrows, rows: np.ndarray, quick: bool) -> afnp.Flow:
    """Return a flow of a graph, trained on rows."""
    flow = afnp.maf(4, (64, 64), transforms=1, structure=graph_of(arrows), seed=1)
    trained(flow, rows, epochs=30 if quick else 40, batch_size=100, learning_rate=3e-3)
    flow.columns = NAMES
    return flow


def means(flow: afnp.Flow, n: int) -> list[float]:
    """Return the mean outcome of n samples with t held at each value."""
    x = flow.sample(n, rng=1)
    return [float(intervene(flow, x, {"t": v})[:, Y].mean()) for v in VALUES]


def given(x: np.ndarray) -> list[float]:
    """Return the mean outcome of rows whose t lies near each value, within half a step."""
    half = (VALUES[1] - VALUES[0]) / 2
    near = np.abs(x[:, T, None] - VALUES) < half
    return [float(x[rows, Y].mean()) if rows.sum() > 9 else float("nan") for rows in near.T]


# ---- the picture ---------------------------------------------------------------------------------

LINES = {
    "simulator": ("simulator, t held", "ink", "-", (-52, 6)),
    "true": ("flow of the true graph", "blue", "o", (50, -18)),
    "reversed": ("flow with z and t reversed", "red", "s", (34, 14)),
}
PLACES = {Z: (0.5, 0.9), T: (0.12, 0.5), M: (0.5, 0.12), Y: (0.88, 0.5)}


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(12, 4.8))
    axes = figure.subplots(1, 3, width_ratios=(0.8, 1.4, 1.1))
    _draw_graph(axes[0], numbers)
    _draw_means(axes[1], numbers)
    _draw_people(axes[2], data)
    caption(figure, __doc__.split("\n")[0])
    logs = numbers["log_prob"]
    note(
        figure,
        f"Log-density of unseen rows, nats: true graph {logs['true']:.3f}, reversed "
        f"{logs['reversed']:.3f}, the simulator's own {numbers['log_prob_truth']:.3f}. "
        f"{numbers['rows']:,} training rows, nobody's t held.",
    )
    return figure


def _draw_graph(ax, numbers: dict) -> None:
    for effect, cause in TRUE:
        ax.annotate(
            "",
            PLACES[effect],
            PLACES[cause],
            arrowprops={
                "arrowstyle": "-|>",
                "shrinkA": 16,
                "shrinkB": 16,
                "color": COLORS["ink"],
                "linewidth": 1.6,
            },
        )
    for i, place in PLACES.items():
        color = COLORS["red"] if i == T else COLORS["ink"]
        ax.plot(*place, "o", markersize=26, color="white", markeredgecolor=color)
        ax.text(*place, NAMES[i], ha="center", va="center", fontsize=12, color=color)
    ax.text(0.02, 0.72, "reversed in\nthe other", fontsize=9, color=COLORS["red"], ha="left")
    ax.set(xlim=(0, 1), ylim=(0, 1), title="the true graph")
    ax.set_axis_off()


def _draw_means(ax, numbers: dict) -> None:
    values = numbers["values"]
    ax.plot(values, numbers["given"], "x", color=COLORS["grey"])
    for name, (label, color, line, offset) in LINES.items():
        found = numbers["do"][name]
        kind = {"linestyle": "-", "marker": ""} if line == "-" else {"marker": line}
        style = kind if line == "-" else {**kind, "linestyle": "", "fillstyle": "none"}
        ax.plot(values, found, color=COLORS[color], **style)
        _label(ax, label, (values[-3], found[-3]), offset, color)
    _label(ax, "data, t near the value", (values[1], numbers["given"][1]), (66, -3), "grey")
    ax.set(title="mean outcome", xlabel="treatment t", ylabel="y")


def _label(ax, text: str, at: tuple, offset: tuple, color: str) -> None:
    place = {"textcoords": "offset points", "ha": "center", "fontsize": 9}
    ax.annotate(text, at, offset, color=COLORS[color], **place)


def _draw_people(ax, data: dict) -> None:
    ends = [float(min(data["truth"])), float(max(data["truth"]))]
    ax.plot(ends, ends, color=COLORS["light"], linewidth=1, marker="")
    ax.plot(data["truth"], data["would"], ".", color=COLORS["blue"], markersize=3)
    rms = data["numbers"]["counterfactual_rms"]
    ax.text(0.05, 0.92, f"rms difference {rms:.2f}", transform=ax.transAxes, fontsize=9)
    ax.set(
        title=f"the same people, had t been {HELD:.0f}",
        xlabel="y by the simulator, their own noise",
        ylabel="y by the flow of the true graph",
    )
