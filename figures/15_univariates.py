r"""Every univariate increases; a scale must be bounded both ways for float32 to keep the noise.

.. math:: u = \tau^{-1}(x; h), \qquad \frac{du}{dx} > 0, \qquad x = \mu + u\, e^{\alpha(a)}

Top: the six univariates, from data to noise, at three random parameters h each, and their
log-derivatives. That they increase is measured on the curves; that the log-derivatives are right,
by complex steps; that they are continuous, by the largest jump between neighbours, which shrinks
with the step.

Bottom: the four scales of the affine one. A sampler writes x = mu + u e^alpha; where e^alpha is
small beside mu, float32 rounds u away, and the density of the flow's own sample is that of another
point. A bounded alpha cannot get there; softplus and the gate are bounded from above alone.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from afnp.univariate import UNIVARIATES
from afnp.univariate.affine import SCALES, Affine
from figures.common import COLORS, caption, note

OPTIONS: dict[str, dict] = {
    "spline": {"bins": 6, "bound": 4.0},
    "circular_spline": {"bins": 6},
    "logistic_mixture": {"components": 4},
    "gaussian_mixture": {"components": 4},
}
DRAWN = ("affine", "additive", *OPTIONS)
DRAWS = 3
GAIN = {"affine": 0.6, "additive": 1.5, "spline": 0.9, "circular_spline": 0.9}
"""Of the random parameters; 1.2 for the mixtures."""
A = 50.0
"""The scales are tried over [-A, A]."""
EPS32 = float(np.finfo(np.float32).eps)
DASHES = {"tanh": "-", "exp": "--", "softplus": "-.", "sigmoid": ":"}
HUES = {"tanh": "blue", "exp": "red", "softplus": "green", "sigmoid": "yellow"}


def data(quick: bool = False) -> dict:
    """Evaluate curves and log-derivatives, then the round trips of the four scales."""
    M, rows = (2001, 200) if quick else (8001, 2000)
    rng = np.random.default_rng(3)
    curves = {name: curves_of(name, M, rng) for name in DRAWN}
    a = np.linspace(-A, A, 101)
    scales = {name: scale_of(name, a, rows) for name in SCALES}
    numbers = {
        "smallest_derivative": {
            name: float(np.exp(of["log"]).min()) for name, of in curves.items()
        },
        "always_increasing": {name: bool((rises(of) > 0).all()) for name, of in curves.items()},
        "largest_error_of_log_derivative": max(of["error"] for of in curves.values()),
        "largest_jump": {name: jump(of["log"]) for name, of in curves.items()},
        "largest_jump_at_half_the_step": {
            name: jump(of["log_fine"]) for name, of in curves.items()
        },
        "a": [-A, A],
        "rows": rows,
        "alpha_range": {
            name: [of["alpha"].min(), of["alpha"].max()] for name, of in scales.items()
        },
        "rms_error": {name: float(of["rms"].max()) for name, of in scales.items()},
        "largest_error": {name: float(of["largest"].max()) for name, of in scales.items()},
        "forgets_below_a": {name: forgets(a, of["rms"]) for name, of in scales.items()},
    }
    return {"numbers": numbers, "curves": curves, "scales": scales, "a": a}


def curves_of(name: str, M: int, rng: np.random.Generator) -> dict:
    """Return x (M,), u and log du/dx (DRAWS, M) at random parameters, and log du/dx halfway."""
    tau = UNIVARIATES[name](**OPTIONS.get(name, {}))
    h = GAIN.get(name, 1.2) * rng.standard_normal((DRAWS, 1, tau.numbers))
    end = np.pi if tau.periodic else 5.0
    x = np.linspace(-end, end, M)
    fine = np.linspace(-end, end, 2 * M - 1)
    x, fine = (np.where(z < end, z, np.nextafter(end, 0)) for z in (x, fine))
    u, log = normalize(tau, h, x)
    moved = normalize(tau, h.astype(complex), x + 1e-30j)[0]
    return {
        "x": x,
        "u": u,
        "log": log,
        "log_fine": normalize(tau, h, fine)[1],
        "error": float(np.abs(np.log(moved.imag / 1e-30) - log).max()),
        "periodic": tau.periodic,
    }


def normalize(tau, h: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map x (M,) with each of h (DRAWS, 1, K) to u and log du/dx, both (DRAWS, M)."""
    shape = len(h), len(x)
    return tau.normalize(np.broadcast_to(h, (*shape, tau.numbers)), np.broadcast_to(x, shape))[:2]


def rises(of: dict) -> np.ndarray:
    """Return how far u moves from point to point; on the circle once round."""
    step = np.diff(of["u"], axis=1)
    return np.where(step < -np.pi, step + 2 * np.pi, step) if of["periodic"] else step


def jump(log: np.ndarray) -> float:
    """Return the largest difference between neighbours."""
    return float(np.abs(np.diff(log, axis=1)).max())


def scale_of(name: str, a: np.ndarray, rows: int) -> dict:
    """Return alpha(a), and what a round trip from noise to data and back in float32 does to u."""
    rng = np.random.default_rng(0)
    tau = Affine(scale=name)
    mu, u = (rng.standard_normal((rows, 1)).astype(np.float32) for _ in range(2))
    h = np.stack(np.broadcast_arrays(mu, a.astype(np.float32)), axis=-1)
    x, _ = tau.generate(h, np.broadcast_to(u, h.shape[:2]))
    error = np.abs(tau.normalize(h, x)[0].astype(np.float64) - u)
    return {
        "alpha": SCALES[name](a, tau.bound),
        "rms": np.sqrt((error**2).mean(axis=0)),
        "largest": error.max(axis=0),
    }


def forgets(a: np.ndarray, rms: np.ndarray) -> float | None:
    """Return the largest a at which the error is more than a tenth of the noise, or None."""
    lost = a[rms > 0.1]
    return float(lost.max()) if len(lost) else None


def draw(data: dict) -> Figure:
    """Draw curves over log-derivatives, and below them the scales."""
    figure = Figure(figsize=(13.6, 8.6))
    caption(figure, __doc__.split("\n")[0])
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.55, 1))
    draw_curves(top.subplots(2, len(data["curves"]), sharex="col", sharey="row"), data["curves"])
    alpha, error = bottom.subplots(1, 2)
    draw_alpha(alpha, data)
    draw_error(error, data)
    numbers = data["numbers"]
    note(
        figure,
        f"Top: {DRAWS} random parameters each; log-derivatives agree with complex steps within "
        f"{numbers['largest_error_of_log_derivative']:.0e}. Grey: the identity; on the circle u "
        "jumps from π to −π, which is one point.\n"
        f"Bottom right: root mean square of the error of u over {numbers['rows']:,} round trips u "
        "→ x → u, μ and u standard normal; thin: the largest.",
    )
    return figure


def draw_curves(axes, curves: dict[str, dict]) -> None:
    """Draw a column for each univariate."""
    for column, (name, of) in enumerate(curves.items()):
        above, below = axes[:, column]
        above.plot(of["x"], of["x"], color=COLORS["light"], linewidth=1.2, linestyle="-", marker="")
        for k, color in enumerate(("blue", "red", "green")[: len(of["u"])]):
            u = np.where(np.diff(of["u"][k], prepend=of["u"][k, 0]) < -np.pi, np.nan, of["u"][k])
            for ax, y in ((above, u), (below, of["log"][k])):
                ax.plot(
                    of["x"],
                    y,
                    color=COLORS[color],
                    linestyle=("-", "--", "-.")[k],
                    linewidth=1.5,
                    marker="",
                )
        above.set_title(name.replace("_", " "))
        below.set_xlabel("x")
        end, name = (np.pi, "π") if of["periodic"] else (5, "5")
        below.set_xticks([-end, 0, end], [f"−{name}", "0", name])
    axes[0, 0].set(ylabel="noise u", ylim=(-6.5, 6.5))
    axes[1, 0].set_ylabel("log du/dx (nats)")


def draw_alpha(axes, data: dict) -> None:
    """Draw the log-scale over the network's output, each curve named, with its range."""
    numbers = data["numbers"]["alpha_range"]
    nudges = {"exp": 0, "tanh": 5, "softplus": -0.5, "sigmoid": -6}
    for name, of in data["scales"].items():
        axes.plot(data["a"], of["alpha"], DASHES[name], color=COLORS[HUES[name]], marker="")
        low, high = (f"{round(end) + 0:d}".replace("-", "−") for end in numbers[name])
        where = A + 2, of["alpha"][-1] + nudges[name]
        axes.text(*where, f"{name}: {low} to {high}", va="center", color=COLORS[HUES[name]])
    axes.set(
        xlim=(-A, A + 32),
        ylim=(-A - 4, A + 4),
        xlabel="what the network says, a",
        xticks=(-50, -25, 0, 25, 50),
    )
    axes.set_ylabel(r"log-scale $\alpha(a)$")
    axes.set_title("the affine univariate's four scales")


def draw_error(axes, data: dict) -> None:
    """Draw what float32 makes of u."""
    for name, of in data["scales"].items():
        axes.semilogy(data["a"], of["rms"], DASHES[name], color=COLORS[HUES[name]], marker="")
        axes.semilogy(
            data["a"], of["largest"], "-", color=COLORS[HUES[name]], marker="", linewidth=0.6
        )
    axes.set(xlim=(-A, A), ylim=(1e-8, 30), xlabel="what the network says, a", ylabel="error of u")
    axes.axhline(EPS32, color=COLORS["grey"], linewidth=0.8, linestyle=":", marker="", zorder=0)
    axes.text(-A, EPS32 / 1.3, "float32's ε", va="top", fontsize=9, color=COLORS["grey"])
    axes.text(1 - A, 0.4, "exp, softplus, sigmoid:\nu is lost", fontsize=9, va="top")
    largest = data["numbers"]["largest_error"]["tanh"]
    axes.text(1 - A, 2.5e-4, f"tanh: at most {largest:.5f}", fontsize=9, color=COLORS[HUES["tanh"]])
    axes.set_title("float32: from noise to data and back")
