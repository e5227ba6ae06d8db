r"""An annealed flow finds 65,536 wells by their energy alone: exact samples bear out its weights.

.. math:: E(x) = \sum_{k=1}^{16} \Big[ -\tfrac12 a_k - 6 a_k^2 + a_k^4 + \tfrac12 b_k^2 \Big],
          \qquad \frac{\mathrm{ESS}}{N} = \frac1{\mathbb E_q[(p/q)^2]}
          = \frac1{\mathbb E_p[\,p/q\,]}, \qquad x = (a_1, b_1, \dots, a_{16}, b_{16})

The many-well density of flow annealed importance sampling (arXiv 2208.01893): 16 double wells side
by side, 2^16 of them in 32 dimensions. Its normaliser is known by quadrature of one feature, and
exact samples are inverses of one distribution function. Two flows q of the same couplings learn it
from its energy, without a sample of it: one while a temperature falls to 1, one at 1 throughout.

Both expectations are the same effective sample size. The first is over the flow's own samples, all
that is at hand for another energy, and it knows nothing of wells that the flow never enters. The
second is over exact samples, and does: they agree where no well is missing. Levels that were
published for this density are not repeated here; they come by another training.

Letters: N samples, K = 16 double wells.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.train.energy import ImportanceSample, importance_sample
from figures.common import COLORS, caption, note

K = 16
LINEAR, SQUARE, FOURTH = -0.5, -6.0, 1.0
GRID = np.linspace(-4, 4, 80_001)
"""Of a_k: what lies outside has less than exp(-150) of the density."""
WAYS = {"annealed": ("blue", "o"), "at kT throughout": ("red", "s")}
HOTTEST, EPOCHS, STEPS, BATCH = 8.0, 60, 20, 256
"""The temperature that annealing begins with; steps an epoch, and samples a step."""


# ---- the density ---------------------------------------------------------------------------------


def along(a: np.ndarray) -> np.ndarray:
    """Return the energy of a_k, of any shape."""
    square = a * a
    return LINEAR * a + (SQUARE + FOURTH * square) * square


def many_wells(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the energy (N,) of x (N, 2 K), and its gradient."""
    a, b = x[:, ::2], x[:, 1::2]
    gradient = np.empty_like(x)
    gradient[:, ::2] = LINEAR + 2 * SQUARE * a + 4 * FOURTH * a**3
    gradient[:, 1::2] = b
    return along(a).sum(axis=1) + 0.5 * (b * b).sum(axis=1), gradient


def distribution() -> np.ndarray:
    """Return the distribution function of a_k on the grid, times its normaliser."""
    p = np.exp(-along(GRID))
    steps = np.diff(GRID) * (p[1:] + p[:-1]) / 2
    return np.concatenate([[0.0], np.cumsum(steps)])


def log_z() -> float:
    """Return the logarithm of the integral of exp(-E)."""
    return K * (math.log(distribution()[-1]) + 0.5 * math.log(2 * math.pi))


def left() -> float:
    """Return the exact share of samples with a_k below zero."""
    F = distribution()
    return float(np.interp(0.0, GRID, F) / F[-1])


def exact(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n exact samples (n, 2 K): a_k by the inverse of its distribution function."""
    F = distribution()
    x = rng.standard_normal((n, 2 * K))
    x[:, ::2] = np.interp(rng.random((n, K)), F / F[-1], GRID)
    return x


# ---- the numbers ---------------------------------------------------------------------------------


def data(quick: bool = False) -> dict:
    """Train both flows, and look at them with their own samples and with exact ones."""
    n = 2_000 if quick else 50_000
    flows = {way: trained(way, quick) for way in WAYS}
    x = exact(n, np.random.default_rng(2))
    found = {way: importance_sample(flow, many_wells, n, rng=1) for way, flow in flows.items()}
    return {
        "numbers": {
            "samples": n,
            "log_z": log_z(),
            "left": left(),
            "evaluations": (2 if quick else EPOCHS) * STEPS * BATCH,
            "ways": {way: said(flows[way], found[way], x) for way in WAYS},
        },
        "first": {way: sample.x[:, ::2].ravel() for way, sample in found.items()},
    }


def trained(way: str, quick: bool) -> afnp.Flow:
    """Train spline couplings; annealed, the temperature is at 1 for the last fifth of the time."""
    flow = afnp.nsf(
        2 * K, (64, 64), 4, coupling=True, bound=4.0, activation="tanh", dtype="float32"
    )
    afnp.fit_energy(
        flow,
        many_wells,
        epochs=2 if quick else EPOCHS,
        steps=STEPS,
        batch_size=BATCH,
        learning_rate=5e-3,
        temperature=_falling if way == "annealed" else None,
        progress=False,
    )
    return flow


def _falling(done: float) -> float:
    return HOTTEST ** max(0.0, 1 - 1.25 * done)


def said(flow: afnp.Flow, found: ImportanceSample, x: np.ndarray) -> dict:
    """Return what a flow's own samples say of it, and what exact samples x (N, 2 K) do."""
    log_ratio = -many_wells(x)[0] - log_z() - flow.log_prob(x).astype(np.float64)
    return {
        "effective_fraction": found.fraction,
        "exact_fraction": 1 / float(np.exp(log_ratio).mean()),
        "log_z_error": found.log_normaliser - log_z(),
        "log_z_standard_error": found.standard_error,
        "nats": float(log_ratio.mean()),
        "nats_two_standard_errors": float(2 * log_ratio.std() / math.sqrt(len(x))),
        "left": (found.x[:, ::2] < 0).mean(axis=0),
    }


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(13, 4.6))
    axes = figure.subplots(1, 3, width_ratios=(1.1, 1.1, 1))
    _draw_density(axes[0], data["first"])
    _draw_shares(axes[1], numbers)
    _draw_sizes(axes[2], numbers)
    caption(figure, __doc__.split("\n")[0])
    note(figure, _small_print(numbers))
    return figure


def _draw_density(ax, first: dict) -> None:
    edges = np.linspace(-2.6, 2.6, 79)
    a = (edges[1:] + edges[:-1]) / 2
    ax.plot(a, np.exp(-along(a)) / distribution()[-1], color=COLORS["ink"], marker="")
    for way, values in first.items():
        height, _ = np.histogram(values, edges, density=True)
        ax.stairs(height, edges, color=COLORS[WAYS[way][0]], linewidth=1.4)
    ax.set(xlabel="$a_k$, all 16 together", ylabel="density", ylim=(0, None))
    ax.set_title("samples of both flows,\nand the exact density (black)")


def _draw_shares(ax, numbers: dict) -> None:
    ax.axhline(numbers["left"], color=COLORS["ink"], linewidth=1)
    for way, (color, mark) in WAYS.items():
        shares = numbers["ways"][way]["left"]
        ax.plot(np.arange(1, K + 1), shares, mark, color=COLORS[color], label=way, linestyle="")
    top = 1.35 * max(max(found["left"]) for found in numbers["ways"].values())
    ax.set(xlabel="double well k", xticks=(1, 4, 8, 12, 16), ylim=(-0.03, top))
    ax.set_title("share of samples in the left well\n(line: exact)")
    ax.legend(loc="upper right", frameon=False)


def _draw_sizes(ax, numbers: dict) -> None:
    names = ("effective_fraction", "exact_fraction")
    for way, (color, mark) in WAYS.items():
        fractions = [numbers["ways"][way][name] for name in names]
        ax.plot((0, 1), fractions, mark + "-", color=COLORS[color])
        for place, fraction in enumerate(fractions):
            text = f"{fraction:.3f}" if fraction > 0.0005 else f"{fraction:.0e}"
            below = way != "annealed"
            ax.annotate(
                text,
                (place, fraction),
                (0, -18 if below else 9),
                textcoords="offset points",
                ha="center",
                color=COLORS[color],
            )
    least = min(found[name] for found in numbers["ways"].values() for name in names)
    ax.set(yscale="log", xlim=(-0.4, 1.4), ylim=(least / 50, 8))
    ax.set_xticks((0, 1), ("by its own\nsamples", "by exact\nsamples"))
    ax.set_title("effective part of the samples")


def _small_print(numbers: dict) -> str:
    ways = "; ".join(
        f"{way}: log Z {found['log_z_error']:+.2f} ± {2 * found['log_z_standard_error']:.2f} from "
        f"the exact, {found['nats']:.2f} ± {found['nats_two_standard_errors']:.2f} nats from the "
        "density"
        for way, found in numbers["ways"].items()
    )
    return (
        f"32 dimensions, log Z = {numbers['log_z']:.2f}. {numbers['evaluations']:,} evaluations of "
        f"the energy for each flow, {numbers['samples']:,} samples, two standard errors.\n{ways}."
    ).replace("-", "\N{MINUS SIGN}")
