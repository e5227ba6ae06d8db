r"""A flow learns a density from its energy alone, and its weights say how well, where it has been.

.. math:: F(\theta) = \mathbb E_u \big[ E(x) + \log p(u)
          - \log\left|\det \tfrac{\partial x}{\partial u}\right| \big] \ge -\log Z, \qquad
          w = \frac{e^{-E(x)}}{p_\theta(x)}, \qquad
          \frac{\mathrm{ESS}}{N} = \frac{(\sum w)^2}{N \sum w^2}

Two wells, two angles and a field. The wells lie at x_1 = -1 and 1, with a wall of 8 kT between
them, and log Z is known by quadrature. Annealed from a high temperature, a flow fills both. Begun
in one of them it stays there, with about as good an effective sample size and half of Z: the
weights know nothing of what was never sampled.

The angles are alanine dipeptide's torsions at 300 K. Their surface is -log of the density of a
circular spline flow, fitted to the frames of a simulation, so that log Z = 0; a flow of couplings
then learns it from that energy and its gradient, without a frame.

The field is φ⁴ on a ring of rings, L by L sites with

.. math:: E(\phi) = \sum_x \Big[ \tfrac12 \sum_\mu (\phi_{x+\mu} - \phi_x)^2
          + \tfrac{m^2}2 \phi_x^2 + \lambda \phi_x^4 \Big]

as lattice field theory trains flows for (arXiv 1904.12072). Couplings and the inverse
autoregressive flow go through their samples in one pass, there and back. The masked autoregressive
flow samples by substitution, and goes back by the transposed one, each unit once. What the weighted
samples say of the field is compared with Hamiltonian Monte Carlo, which uses the same energy and
its gradient.

Letters: N rows, D = L² sites, K chains.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.train.energy import ImportanceSample, importance_sample
from figures.common import COLORS, caption, note

DEPTH, WIDTH = 8.0, 0.5
"""Of the wall between the wells, in kT, and the second feature's standard deviation."""
L, MASS, COUPLING = 4, -1.0, 0.5
"""Sites along a side, m² and λ: no longer a Gaussian, not yet in two phases."""
FAMILIES = {"couplings": afnp.realnvp, "IAF": afnp.iaf, "MAF": afnp.maf}
FRAMES, GRID = 4000, 121
"""Frames that the surface of the angles is fitted to, and places along each of them in the map."""
LOOK = 1000
"""Samples that each point of the curves is made of."""


# ---- the energies --------------------------------------------------------------------------------


def double_well(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return DEPTH (x_1² - 1)² + x_2² / (2 WIDTH²) and its gradient."""
    a, b = x.T
    energy = DEPTH * (a * a - 1) ** 2 + 0.5 * (b / WIDTH) ** 2
    return energy, np.stack([4 * DEPTH * a * (a * a - 1), b / WIDTH**2], axis=1)


def log_z_of_wells() -> float:
    """Return log ∫ exp(-E), by quadrature of the first feature."""
    a = np.linspace(-3, 3, 20_001)
    along = np.exp(-DEPTH * (a * a - 1) ** 2).sum() * (a[1] - a[0])
    return math.log(along * WIDTH * math.sqrt(2 * math.pi))


def surface_of_torsions(quick: bool) -> afnp.Flow:
    """Return the density of two angles, fitted to frames of molecular dynamics."""
    frames = afnp.data.load("alanine_300K").train[:FRAMES]
    surface = afnp.nsf(2, (16, 16), 2, circular=True, seed=1)
    epochs = 6 if quick else 20
    afnp.fit(surface, frames, epochs=epochs, batch_size=200, learning_rate=1e-2, progress=False)
    return surface


def field(
    x: np.ndarray, mass: float = MASS, coupling: float = COUPLING
) -> tuple[np.ndarray, np.ndarray]:
    """Return the energy (N,) of fields (N, L²), and its gradient."""
    phi = x.reshape(len(x), L, L)
    neighbours = sum(np.roll(phi, step, axis) for axis in (1, 2) for step in (1, -1))
    force = 4 * phi - neighbours  # minus the lattice's second derivative
    square = phi * phi
    energy = 0.5 * phi * force + 0.5 * mass * square + coupling * square * square
    gradient = force + mass * phi + 4 * coupling * phi * square
    return energy.sum(axis=(1, 2)), gradient.reshape(x.shape)


def correlations(x: np.ndarray) -> np.ndarray:
    """Return the mean of φ_x φ_{x+r} over sites and both axes, (N, L // 2 + 1), of each field."""
    phi = x.reshape(len(x), L, L)
    return np.stack(
        [
            np.mean([(phi * np.roll(phi, r, axis)).mean(axis=(1, 2)) for axis in (1, 2)], axis=0)
            for r in range(L // 2 + 1)
        ],
        axis=1,
    )


# ---- the rival that uses the same energy ---------------------------------------------------------


def hamiltonian(energy, x: np.ndarray, rounds: int, rng, step=0.18, steps=8) -> np.ndarray:
    r"""Return states of Hamiltonian Monte Carlo after every round, (rounds, K, D), from x (K, D).

    .. math:: v \leftarrow v - \tfrac h2 \nabla E, \quad x \leftarrow x + h v, \quad
              v \leftarrow v - \tfrac h2 \nabla E

    ``steps`` times, and then accepted with probability min(1, exp(-ΔE - Δv²/2)). The step h is
    drawn anew each round: after half a period of a mode, x would be -x, round by round.
    """
    states = []
    value, gradient = energy(x)
    for _ in range(rounds):
        v = rng.standard_normal(x.shape)
        before = value + 0.5 * (v * v).sum(axis=1)
        h = step * rng.uniform(0.5, 1.5)
        y, slope = x, gradient
        for _ in range(steps):
            v = v - 0.5 * h * slope
            y = y + h * v
            there, slope = energy(y)
            v = v - 0.5 * h * slope
        after = there + 0.5 * (v * v).sum(axis=1)
        taken = np.log(rng.random(len(x))) < before - after
        x, gradient = np.where(taken[:, None], (y, slope), (x, gradient))
        value = np.where(taken, there, value)
        states.append(x)
    return np.array(states)


# ---- the numbers ---------------------------------------------------------------------------------


def data(quick: bool = False) -> dict:
    n = 4_000 if quick else 50_000
    wells = {
        name: importance_sample(flow, double_well, n, rng=1)
        for name, flow in (
            ("annealed", _annealed(quick)),
            ("begun in one well", _begun_in_one_well(quick)),
        )
    }
    surface = surface_of_torsions(quick)
    torsions = importance_sample(_on_the_torsions(surface, quick), _energy_of(surface), n, rng=1)
    curves, fields = {}, {}
    for name, constructor in FAMILIES.items():
        curves[name], fields[name] = _trained_on_the_field(constructor, n, quick)
    chains = hamiltonian(
        field, np.zeros((200, L * L)), 60 if quick else 600, np.random.default_rng(2)
    )
    by_chain = np.array([correlations(x) for x in chains[len(chains) // 4 :]]).mean(axis=0)
    log_z = log_z_of_wells()
    return {
        "numbers": {
            "samples": n,
            "wells_log_z": log_z,
            "wells": {name: _said(found, log_z) for name, found in wells.items()},
            "torsions": _said(torsions, 0.0),
            "field_sites": L * L,
            "field": {name: _said(found) for name, found in fields.items()},
            "correlation_hmc": by_chain.mean(axis=0),
            "correlation_hmc_standard_error": by_chain.std(axis=0, ddof=1) / math.sqrt(200),
            **_weighted(fields["couplings"]),
        },
        "wells": wells,
        "torsions": torsions,
        "log_surface": surface.log_prob(_grid()).reshape(GRID, GRID),
        "curves": curves,
    }


def _annealed(quick: bool) -> afnp.Flow:
    """Train a spline flow while the temperature falls from 8 to 1 in four fifths of the time."""
    flow = afnp.nsf(2, (32, 32), 3, coupling=True, bound=3.0, activation="tanh")
    afnp.fit_energy(
        flow,
        double_well,
        epochs=8 if quick else 20,
        batch_size=512,
        learning_rate=5e-3,
        temperature=lambda done: 8 ** max(0.0, 1 - 1.25 * done),
        progress=False,
    )
    return flow


def _begun_in_one_well(quick: bool) -> afnp.Flow:
    """Train an affine flow that begins as a narrow Gaussian at x_1 = 1."""
    start = afnp.transforms.Standardize([1.0, 0.0], [0.1, WIDTH])
    flow = afnp.maf(2, (32,), 2, activation="tanh", preprocess=[start])
    epochs = 5 if quick else 20
    afnp.fit_energy(flow, double_well, epochs=epochs, learning_rate=2e-3, progress=False)
    return flow


def _energy_of(flow: afnp.Flow):
    """Return -log p of a flow and its gradient, as functions of x."""
    return lambda x: (-flow.log_prob(x), -flow.score(x))


def _on_the_torsions(surface: afnp.Flow, quick: bool) -> afnp.Flow:
    """Train circular couplings while the temperature falls from 5 to 1 in half of the time."""
    flow = afnp.nsf(2, (16, 16), 4, coupling=True, circular=True)
    afnp.fit_energy(
        flow,
        _energy_of(surface),
        epochs=15 if quick else 30,
        learning_rate=1e-2,
        temperature=lambda done: 1 + 4 * max(0.0, 1 - 2 * done),
        progress=False,
    )
    return flow


def _grid() -> np.ndarray:
    """Return places of both angles, (GRID², 2), in radians."""
    line = np.linspace(-np.pi, np.pi, GRID)
    return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)


def _trained_on_the_field(constructor, n: int, quick: bool) -> tuple[list, ImportanceSample]:
    """Train a flow of one family; return the fraction that is effective after each epoch."""
    options = {"split": _checkerboard()} if constructor is afnp.realnvp else {}
    transforms = 8 if options else 4
    flow = constructor(L * L, (64,), transforms, activation="tanh", **options)
    fractions = [importance_sample(flow, field, LOOK, rng=3).fraction]

    def look(_) -> None:
        fractions.append(importance_sample(flow, field, LOOK, rng=3).fraction)

    afnp.fit_energy(
        flow,
        field,
        epochs=4 if quick else 20,
        learning_rate=5e-3,
        callbacks=[look],
        progress=False,
    )
    return fractions, importance_sample(flow, field, n, rng=1)


def _checkerboard() -> list[bool]:
    """Choose every second site, so that a site that is changed has neighbours that are not."""
    return [(row + column) % 2 == 0 for row in range(L) for column in range(L)]


def _said(found: ImportanceSample, log_z: float | None = None) -> dict:
    said = {
        "effective_fraction": found.fraction,
        "largest_share": found.largest_share,
        "log_z": found.log_normaliser,
        "log_z_standard_error": found.standard_error,
    }
    if log_z is not None:
        said["part_of_z"] = math.exp(found.log_normaliser - log_z)
    return said


def _weighted(found: ImportanceSample) -> dict:
    """Return weighted means of the field's correlations, and their standard errors."""
    values = correlations(found.x)
    w = np.exp(found.log_weights - found.log_weights.max())
    w /= w.sum()
    mean = w @ values
    return {
        "correlation_flow": mean,
        "correlation_flow_standard_error": np.sqrt((w**2) @ (values - mean) ** 2),
    }


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(16, 4.4))
    axes = figure.subplots(1, 5, width_ratios=(1, 1, 1, 0.9, 1.1))
    for ax, (name, found) in zip(axes, data["wells"].items(), strict=False):
        _draw_wells(ax, name, found, numbers["wells"][name])
    axes[0].set_ylabel("density of $x_1$")
    _draw_torsions(axes[2], data["log_surface"], data["torsions"], numbers["torsions"])
    _draw_correlations(axes[3], numbers)
    _draw_curves(axes[4], data["curves"])
    caption(figure, __doc__.split("\n")[0])
    note(figure, _small_print(numbers))
    return figure


def _small_print(numbers: dict) -> str:
    good, stuck = numbers["wells"].values()
    field_said = ", ".join(
        f"{name} {100 * said['effective_fraction']:.0f} %, log Z {said['log_z']:.3f} ± "
        f"{said['log_z_standard_error']:.3f}"
        for name, said in numbers["field"].items()
    )
    return (
        f"{numbers['samples']:,} samples each. Two wells: log Z = {numbers['wells_log_z']:.3f}; "
        f"annealed {good['log_z']:.3f} ± {good['log_z_standard_error']:.3f}, begun in one well "
        f"{stuck['log_z']:.3f} ± {stuck['log_z_standard_error']:.3f}: the error bar does not know "
        "of the other well. Torsions: log Z = 0 by construction, "
        f"{numbers['torsions']['log_z']:.3f} ± {numbers['torsions']['log_z_standard_error']:.3f}.\n"
        f"φ⁴ on {numbers['field_sites']} sites, effective part of the samples: {field_said}.\n"
        "Effective sample sizes are Kish's, of generated samples; the field's correlations those "
        "of the couplings."
    )


def _draw_wells(ax, name: str, found: ImportanceSample, said: dict) -> None:
    edges = np.linspace(-1.6, 1.6, 81)
    a = (edges[1:] + edges[:-1]) / 2
    exact = np.exp(-DEPTH * (a * a - 1) ** 2)
    ax.plot(a, exact / exact.sum() / (a[1] - a[0]), color=COLORS["ink"], marker="")
    height, _ = np.histogram(found.x[:, 0], edges, density=True)
    ax.stairs(height, edges, fill=True, color=COLORS["sky"], alpha=0.6)
    ax.set(xlabel="$x_1$", ylim=(0, None))
    ax.set_title(
        f"{name}:\nESS {100 * said['effective_fraction']:.0f} % of the samples,\n"
        f"{100 * said['part_of_z']:.1f} % of Z"
    )
    ax.annotate("exact", (0, 0.2), ha="center", color=COLORS["ink"])
    ax.annotate(
        "samples of the flow", (0.5, 0.93), xycoords="axes fraction", ha="center", color="#2a7fb0"
    )


def _draw_torsions(ax, log_surface: np.ndarray, found: ImportanceSample, said: dict) -> None:
    line = np.linspace(-180, 180, GRID)
    levels = log_surface.max() - np.array([8.0, 6.0, 4.0, 2.0])  # kT above the lowest
    ax.contour(
        line, line, log_surface.T, levels, colors=COLORS["ink"], linewidths=0.8, linestyles="solid"
    )
    shown = np.degrees(found.x[:2000])
    ax.plot(*shown.T, ".", color=COLORS["sky"], markersize=2, alpha=0.6, zorder=0)
    ax.set(
        xlabel="φ, degrees",
        ylabel="ψ, degrees",
        xlim=(-180, 180),
        ylim=(-180, 180),
        xticks=(-180, 0, 180),
        yticks=(-180, 0, 180),
    )
    ax.set_title(
        f"alanine's torsions:\nESS {100 * said['effective_fraction']:.0f} % of the samples,\n"
        f"{100 * said['part_of_z']:.1f} % of Z"
    )


def _draw_correlations(ax, numbers: dict) -> None:
    r = np.arange(L // 2 + 1)
    ax.errorbar(
        r - 0.04,
        numbers["correlation_hmc"],
        3 * numbers["correlation_hmc_standard_error"],
        color=COLORS["ink"],
        linestyle="",
        marker="o",
        markersize=7,
        fillstyle="none",
    )
    ax.errorbar(
        r + 0.04,
        numbers["correlation_flow"],
        3 * numbers["correlation_flow_standard_error"],
        color=COLORS["red"],
        linestyle="",
        marker="s",
    )
    ax.annotate(
        "○ Hamiltonian\n   Monte Carlo",
        (0.35, 0.8),
        xycoords="axes fraction",
        color=COLORS["ink"],
    )
    ax.annotate("■ flow, weighted", (0.35, 0.7), xycoords="axes fraction", color=COLORS["red"])
    ax.set(xlabel="distance r, sites", xticks=r, ylim=(0, None), xlim=(-0.4, r[-1] + 0.4))
    ax.set_title("φ⁴ field:\n$\\langle \\phi_x \\phi_{x+r} \\rangle$,\nthree standard errors")


def _draw_curves(ax, curves: dict) -> None:
    looks = dict(zip(curves, (("blue", "-"), ("red", "--"), ("green", "-.")), strict=True))
    for name, fractions in curves.items():
        color, line = looks[name]
        ax.plot(fractions, color=COLORS[color], linestyle=line, marker="")
    place = -1.0
    for name in sorted(curves, key=lambda name: curves[name][-1]):
        place = max(curves[name][-1], place + 0.055)
        at = len(curves[name]) - 1, place
        ax.annotate(f" {name}", at, color=COLORS[looks[name][0]], va="center")
    last = max(map(len, curves.values())) - 1
    ax.set(xlabel="epochs of 20 steps", ylim=(0, 1.02), xlim=(0, 1.35 * last))
    ax.set_title("φ⁴ field:\neffective part of the samples\nduring training")
