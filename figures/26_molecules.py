r"""A flow on a molecule's internal coordinates samples it, and its density is Boltzmann's.

.. math:: p(\varphi, d, \theta) = p(\varphi)\, p(d, \theta \mid \varphi), \qquad
          \log p(x) = \log p(\varphi, d, \theta) - 2 \sum \log d - \sum \log \sin\theta, \qquad
          p(x) \propto e^{-E(x) / kT}

Alanine dipeptide, 22 atoms, 60 internal coordinates. The simulation held the 12 bonds to hydrogen
at fixed lengths; the density is one of the other 48: 19 dihedrals φ by circular splines on the
torus, then 9 bonds d and 20 angles θ by an affine flow that is given cos φ and sin φ. Both
densities are exact, and so is their product. The hydrogens of a methyl group are alike: training
frames are shown again, the three of each handed on at random. Frames are a time series: test frames
come in five whole blocks of it, and standard errors are over blocks.

Above: backbone angles of frames and of samples, and test log-likelihoods. Rivals: independent von
Mises dihedrals beside one Gaussian, with its full covariance, of bonds and angles; and the same
with every dihedral that keeps within 90° of its mean moved over to the Gaussian. Below, samples are
put back to Cartesian coordinates: the nine bonds that move (dots and bars: mean and standard
deviation), and the closest pair of atoms more than three bonds apart. Last, the density beside the
energy, which the flow was never told. If q were right, every point would be on the line of slope 1,
whose height is -log Z.

Reweighting, the idea of Boltzmann generators (arXiv 1812.01729): a sample from q counts with the
weight w = exp(-E/kT) / q(x), and averages become those of Boltzmann's law, however far q is from
it; it is paid for in effective sample size. Test frames with their energies already tell how much,
as they come from p ∝ w q:

.. math:: \frac{\mathrm{ESS}}{N} = \frac{(\mathrm E_q w)^2}{\mathrm E_q w^2}
          = \frac{1}{\mathrm E_p[w]\, \mathrm E_p[1/w]}, \qquad
          \mathrm{KL}(p \,\|\, q) = \mathrm E_p \log w - \log Z, \qquad \frac1Z = \mathrm E_p[1/w]

KL is how many nats q still lacks; Z is one number, taken from the flow's weights, as a mean of 1/w
is steady only where q is close to p. All this is for the basins that the simulation saw (φ > 0 is
not among them), and from few frames: what q gets most wrong is the rarest, so that ESS comes out
rather too high and KL too low. With rigid bonds p has one more factor, Fixman's; its logarithm
varies by less than a thousandth of a nat here, and is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.data import load
from afnp.data.molecules import ALANINE, ATOMS, KT, METHYLS, RIGID, alanine_energies
from afnp.train import History
from afnp.univariate.circular import wrap
from afnp.univariate.stable import logsumexp
from figures.common import COLORS, caption, note, trained, verified

internal = ALANINE.to_internal
BONDS, TURNS = ALANINE.atoms - 1, ALANINE.width - ALANINE.atoms + 3
"""Columns before: d. Columns from: φ. Between them: θ."""
REAL = np.flatnonzero(np.concatenate([~RIGID, np.ones(TURNS - BONDS, dtype=bool)]))
"""Columns of bonds and angles that move."""
COPIES = 9
BLOCKS = 5
FLOW, MIXED, SIMPLE = "flow", "Gaussian, von Mises for what turns", "Gaussian, von Mises dihedrals"
APART = 3  # bonds; nearer atoms are not looked at for clashes


class Molecule(NamedTuple):
    """A flow of the 48 coordinates that move: dihedrals about their circular means, then others."""

    turning: afnp.Flow
    rest: afnp.Flow
    centre: np.ndarray  # (19,) circular means
    rigid: np.ndarray  # (12,) lengths

    def log_prob(self, q: np.ndarray) -> np.ndarray:
        """Return log q (N,), nats, per radian and nanometre."""
        phi = wrap(q[:, TURNS:] - self.centre)
        rest = self.rest.log_prob(q[:, REAL], circle(phi))
        return (self.turning.log_prob(phi) + rest).astype(np.float64)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw q (n, 60)."""
        phi = self.turning.sample(n, rng)
        q = np.empty((n, ALANINE.width))
        q[:, REAL] = self.rest.sample(n, rng, circle(phi))
        q[:, :BONDS][:, RIGID] = self.rigid
        q[:, TURNS:] = wrap(phi.astype(np.float64) + self.centre)
        return q


def circle(phi: np.ndarray) -> np.ndarray:
    """Return cos φ and sin φ side by side: a condition without a seam."""
    return np.concatenate([np.cos(phi), np.sin(phi)], axis=1)


def data(quick: bool = False) -> dict:
    parts = frames(2000 if quick else None)
    energies = alanine_energies()
    q = internal(parts[0])
    test = internal(parts[2])
    seen = np.concatenate(
        [q, *(internal(handed_on(parts[0], seed)) for seed in range(1 if quick else COPIES - 1))]
    )
    flow, histories = fitted(seen, internal(parts[1]), quick)
    models = {
        FLOW: flow.log_prob,
        MIXED: gaussian(seen, steady(seen)),
        SIMPLE: gaussian(seen, False),
    }
    log_q = {name: f(test) for name, f in models.items()}
    boltzmann = -energies.test / KT
    volume = ALANINE.log_det(test)
    sampled = flow.sample(500 if quick else 8000, np.random.default_rng(0))
    x = ALANINE.to_cartesian(sampled)
    known = np.concatenate(parts)
    near = {"frames": closest(known), "samples": closest(x)}
    numbers = {
        "rows": dict(zip(("train", "val", "test"), map(len, parts), strict=True))
        | {"samples": len(x)},
        "test_nats_and_standard_error": {name: blocked(values) for name, values in log_q.items()},
        "cartesian_nats_and_standard_error": {
            name: blocked(values - volume) for name, values in log_q.items()
        },
        "lead_and_standard_error": {
            name: blocked(log_q[FLOW] - log_q[name]) for name in (MIXED, SIMPLE)
        },
        "energies": beside_energies(log_q, boltzmann + volume),
        **decoded(known, x, near),
        "seconds": sum(history.seconds for history in histories),
        "epochs": [len(history.train_loss) for history in histories],
        "parameters": flow.turning.theta.size + flow.rest.theta.size,
        "verified": [verified(part, quick=True) for part in (flow.turning, flow.rest)],
    }
    return {
        "numbers": numbers,
        "maps": {"frames": backbone(internal(known)), "samples": backbone(sampled)},
        "bonds": [ALANINE.to_internal(part)[:, :BONDS][:, ~RIGID] for part in (known, x)],
        "closest": near,
        "energy": np.column_stack([boltzmann, log_q[FLOW] - volume]),
    }


# ---- frames --------------------------------------------------------------------------------------


def frames(rows: int | None) -> list[np.ndarray]:
    """Return frames (N, 22, 3), nanometres, of the three parts."""
    known = load("alanine_frames")
    return [part.reshape(len(part), -1, 3) for part in (known.train[:rows], known.val, known.test)]


def handed_on(x: np.ndarray, seed: int) -> np.ndarray:
    """Return the frames with each methyl group's hydrogens moved on 0, 1 or 2 places at random.

    Turned, not swapped: a swap would make a mirror image of the group.
    """
    rng, x, N = np.random.default_rng([seed, 26]), x.copy(), np.arange(len(x))[:, None]
    for hydrogens in map(np.array, METHYLS):
        x[:, hydrogens] = x[N, hydrogens[(np.arange(3) + rng.integers(3, size=N.shape)) % 3]]
    return x


def fitted(q: np.ndarray, q_val: np.ndarray, quick: bool) -> tuple[Molecule, list[History]]:
    """Train both flows; settings by validation."""
    phi = q[:, TURNS:]
    rigid = q[:, :BONDS][:, RIGID].mean(axis=0)
    centre = np.angle(np.exp(1j * phi).mean(axis=0))
    phi = wrap(phi - centre)
    phi_val = wrap(q_val[:, TURNS:] - centre)
    shape = {"hidden": (64, 64), "transforms": 2, "activation": "tanh", "dtype": np.float32}
    turning = afnp.nsf(phi.shape[1], circular=True, **shape)
    fixed = afnp.preprocessing(q[:, REAL])
    rest = afnp.maf(len(REAL), context=2 * phi.shape[1], preprocess=fixed, **shape)
    options = {
        "epochs": 8 if quick else 60,
        "learning_rate": 3e-3 if quick else 5e-4,
        "weight_decay": 1e-4,
    }
    options |= {"batch_size": 100 if quick else 200, "patience": 10}
    context = {"context": circle(phi), "context_val": circle(phi_val)}
    _, first = trained(turning, phi, phi_val, **options)
    _, second = trained(rest, q[:, REAL], q_val[:, REAL], **context, **options)
    return Molecule(turning, rest, centre, rigid), [first, second]


# ---- the rivals ----------------------------------------------------------------------------------


def steady(q: np.ndarray) -> np.ndarray:
    """Return which dihedrals stay within 90° of their circular means in all rows, (19,) bool."""
    phi = q[:, TURNS:]
    return (np.cos(phi - np.angle(np.exp(1j * phi).mean(axis=0))) > 0).all(axis=0)


def gaussian(q: np.ndarray, real: np.ndarray | bool) -> Callable:
    r"""Return log p of von Mises dihedrals and of a Gaussian of bonds, angles, ``real`` dihedrals.

    .. math:: \log p = \sum_k \left(\kappa_k \cos(\varphi_k - \mu_k)
              - \log 2\pi I_0(\kappa_k)\right)
              + \log \mathcal N(y;\, m, \Sigma), \qquad
              \frac{I_1(\kappa)}{I_0(\kappa)} = |\mathrm E\, e^{i\varphi}|
    """
    real = np.broadcast_to(real, q.shape[1] - TURNS)
    mean = np.exp(1j * q[:, TURNS:]).mean(axis=0)

    def parts(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        phi = wrap(q[:, TURNS:] - np.angle(mean))
        return phi[:, ~real], np.concatenate([q[:, REAL], phi[:, real]], axis=1)

    y = parts(q)[1]
    m = y.mean(axis=0)
    factor = np.linalg.cholesky(np.cov(y.T))
    kappa = np.array([concentration(length) for length in np.abs(mean[~real])])
    constant = np.log(np.diag(factor)).sum() + y.shape[1] / 2 * np.log(2 * np.pi)
    constant += (np.log(2 * np.pi) + log_i0(kappa)).sum()

    def log_prob(q: np.ndarray) -> np.ndarray:
        phi, y = parts(q)
        u = np.linalg.solve(factor, (y - m).T)
        return (kappa * np.cos(phi)).sum(axis=1) - 0.5 * (u * u).sum(axis=0) - constant

    return log_prob


ANGLES = (np.arange(20000) + 0.5) / 20000 * 2 * np.pi


def log_i0(kappa: np.ndarray) -> np.ndarray:
    """Return log I₀(κ), κ and all: the mean of e^(κ (cos - 1)) over the circle never overflows."""
    return np.array([k + np.log(np.exp(k * (np.cos(ANGLES) - 1)).mean()) for k in kappa])


def concentration(length: float) -> float:
    """Solve I₁(κ) / I₀(κ) = length by bisection; the ratio is the mean of cos, and grows with κ."""
    cos = np.cos(ANGLES)
    low = 0.0
    high = 1e5
    while high - low > 1e-9 * (1 + low):
        kappa = (low + high) / 2
        weight = np.exp(kappa * (cos - 1))
        low, high = (kappa, high) if weight @ cos < length * weight.sum() else (low, kappa)
    return low


# ---- what is measured ----------------------------------------------------------------------------


def blocked(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error over blocks of neighbouring frames."""
    means = np.array([block.mean() for block in np.array_split(values, BLOCKS)])
    return float(values.mean()), float(means.std(ddof=1) / np.sqrt(BLOCKS))


def beside_energies(log_q: dict[str, np.ndarray], target: np.ndarray) -> dict[str, dict]:
    """Compare each log q with Boltzmann's log p but for log Z, on frames from p (see above)."""
    log_Z = -log_mean(log_q[FLOW] - target)
    return {
        name: beside_energy(values, target) | {"kl": (target - values).mean() - log_Z}
        for name, values in log_q.items()
    }


def beside_energy(log_q: np.ndarray, target: np.ndarray) -> dict:
    log_w = target - log_q
    return {
        "correlation": np.corrcoef(log_q, target)[0, 1],
        "spread_of_log_w": log_w.std(),
        "effective_share": np.exp(-log_mean(log_w) - log_mean(-log_w)),
    }


def log_mean(a: np.ndarray) -> float:
    """Return the logarithm of the mean of e^a."""
    return float(logsumexp(a) - np.log(len(a)))


def far_pairs() -> np.ndarray:
    """Return the pairs (2, K) of atoms more than ``APART`` bonds from each other."""
    steps = np.eye(ALANINE.atoms, dtype=int)
    steps[tuple(ALANINE.bonds.T)] = steps[tuple(ALANINE.bonds.T[::-1])] = 1
    i, j = np.nonzero(np.linalg.matrix_power(steps, APART) == 0)
    return np.stack([i, j])[:, i < j]


def closest(x: np.ndarray) -> np.ndarray:
    """Return the distance (N,) of the closest far pair in each frame, nanometres."""
    i, j = far_pairs()
    return np.sqrt(((x[:, i] - x[:, j]) ** 2).sum(axis=2)).min(axis=1)


def other_angles(x: np.ndarray) -> np.ndarray:
    """Return the bond angles (N, K), degrees, that are no coordinates: the third at an atom."""
    told = {frozenset(triple) for triple in ALANINE.angles.tolist()}
    near = {
        b: [int(i + j - b) for i, j in ALANINE.bonds if b in (i, j)] for b in range(ALANINE.atoms)
    }
    every = [(i, b, j) for b, others in near.items() for i, j in itertools.combinations(others, 2)]
    i, b, j = np.array([triple for triple in every if frozenset(triple) not in told]).T
    e = x[:, i] - x[:, b]
    f = x[:, j] - x[:, b]
    return np.rad2deg(
        np.arccos((e * f).sum(axis=2) / np.sqrt((e * e).sum(axis=2) * (f * f).sum(axis=2)))
    )


def decoded(known: np.ndarray, x: np.ndarray, near: dict) -> dict:
    """Compare frames and samples: bonds, angles that no model was told of, closest pairs."""
    bonds = [internal(part)[:, :BONDS] for part in (known, x)]
    angles = [other_angles(part) for part in (known, x)]
    strange = (
        (angles[1] < angles[0].min(axis=0) - 5) | (angles[1] > angles[0].max(axis=0) + 5)
    ).any(axis=1)
    ratio = angles[1][~strange].std(axis=0) / angles[0].std(axis=0)
    return {
        "bonds_nm": {
            name: {"frames": (a.mean(), a.std()), "samples": (b.mean(), b.std())}
            for name, a, b in zip(bond_names(), bonds[0].T, bonds[1].T, strict=True)
        },
        "other_angles": {
            "how_many": len(ratio),
            "means_differ_by_degrees": np.abs(
                angles[1].mean(axis=0) - angles[0].mean(axis=0)
            ).max(),
            "strange_samples": strange.mean(),
            "ratio_of_spreads_of_the_others": (ratio.min(), ratio.max()),
        },
        "closest_nm": {
            name: {"least": d.min(), "median": np.median(d)} for name, d in near.items()
        },
        "samples_closer_than_any_frame": (near["samples"] < near["frames"].min()).mean(),
    }


def bond_names() -> list[str]:
    """Return the bonds' names: ′ for atoms of the acetyl group, ″ for the methylamide group."""
    names = [name + "′" * (k < 6) + "″" * (k > 15) for k, name in enumerate(ATOMS)]
    return ["-".join(names[atom] for atom in sorted(bond)) for bond in ALANINE.bonds.tolist()]


def backbone(q: np.ndarray, bins: int = 60) -> np.ndarray:
    """Return counts of (φ, ψ) in bins."""
    return np.histogram2d(*q[:, TURNS : TURNS + 2].T, bins=bins, range=[(-np.pi, np.pi)] * 2)[0]


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(13, 8.6))
    axes = figure.subplots(2, 3)
    maps = data["maps"]
    titles = (
        f"{int(maps['frames'].sum()):,} frames",
        f"{numbers['rows']['samples']:,} samples of the flow",
    )
    images = [
        draw_map(ax, counts, title)
        for ax, counts, title in zip(axes[0], maps.values(), titles, strict=False)
    ]
    figure.colorbar(images[1], ax=axes[0, 1], label="−log(count / largest)", shrink=0.85, aspect=25)
    draw_scores(axes[0, 2], numbers)
    draw_bonds(axes[1, 0], data["bonds"])
    draw_closest(axes[1, 1], data["closest"], numbers)
    draw_energy(axes[1, 2], data["energy"], numbers["energies"][FLOW])
    caption(figure, claim(numbers))
    note(figure, small_print(numbers))
    return figure


def claim(numbers: dict) -> str:
    ours, rival = (numbers["energies"][name] for name in (FLOW, MIXED))
    lead = numbers["lead_and_standard_error"][MIXED][0]
    return (
        f"A molecule's 48 moving coordinates: the flow leads the better Gaussian by {lead:.1f} "
        f"nats a frame and lacks {ours['kl']:.1f} (the Gaussian {rival['kl']:.1f}); its "
        f"log-density follows −E / kT with correlation {ours['correlation']:.2f}"
    )


def small_print(numbers: dict) -> str:
    found = numbers["energies"]
    other = numbers["other_angles"]
    shares = "; ".join(
        f"{name} {100 * one['effective_share']:.2g} %" for name, one in found.items()
    )
    low, high = other["ratio_of_spreads_of_the_others"]
    return (
        f"Effective sample size when reweighted to Boltzmann's law, from {numbers['rows']['test']} "
        f"test frames (rather too high): {shares}.\n"
        f"{other['how_many']} bond angles are no coordinates. {100 * other['strange_samples']:.1f} "
        "% of samples have one more than 5° outside all frames; in the rest, spreads are "
        f"{low:.2f} to {high:.2f} times theirs."
    )


def draw_map(ax, counts: np.ndarray, title: str):
    """Draw −log of counts over φ (across) and ψ (up)."""
    with np.errstate(divide="ignore"):
        height = np.ma.masked_invalid(np.log(counts.max()) - np.log(counts.T))
    edges = np.linspace(-180, 180, len(counts) + 1)
    image = ax.pcolormesh(edges, edges, height, vmin=0, vmax=6, rasterized=True)
    ticks = np.arange(-180, 181, 90)
    ax.set(aspect="equal", xticks=ticks, yticks=ticks, xlabel="φ [°]", ylabel="ψ [°]", title=title)
    return image


def draw_scores(ax, numbers: dict) -> None:
    cartesian = numbers["cartesian_nats_and_standard_error"]
    for y, (name, (nats, error)) in enumerate(numbers["test_nats_and_standard_error"].items()):
        ax.errorbar(
            nats, y, xerr=error, fmt="s", color=COLORS["blue" if y == 0 else "grey"], capsize=3
        )
        text = f"{name}\n{nats:.2f} ± {error:.2f}; Cartesian {cartesian[name][0]:.1f}".replace(
            "-", "−"
        )
        ax.text(0.02, y - 0.16, text, transform=ax.get_yaxis_transform(), va="bottom")
    ax.set(ylim=(2.5, -0.9), yticks=(), title="test log-likelihood, ± standard error")
    ax.set_xlabel("nats a frame, per nm and radian")
    ax.margins(x=0.1)
    ax.spines["left"].set_visible(False)


def draw_bonds(ax, bonds: list[np.ndarray]) -> None:
    names = np.array(bond_names())[~RIGID]
    order = np.argsort(bonds[0].mean(axis=0))
    for lengths, color, marker, shift in zip(
        bonds, ("ink", "blue"), "os", (-0.15, 0.15), strict=True
    ):
        mean = 1e3 * lengths.mean(axis=0)[order]
        spread = 1e3 * lengths.std(axis=0)[order]
        at = np.arange(len(order)) + shift
        label = "frames" if shift < 0 else "samples"
        ax.errorbar(
            mean,
            at,
            xerr=spread,
            fmt=marker,
            color=COLORS[color],
            markersize=4,
            capsize=2,
            label=label,
        )
    ax.set_yticks(range(len(order)), names[order])
    ax.set(
        ylim=(len(order) - 0.4, -0.6),
        xlabel="bond length [pm]",
        title="bonds, mean ± standard deviation",
    )
    ax.legend(loc="upper right")


def draw_closest(ax, near: dict, numbers: dict) -> None:
    edges = 1e3 * np.linspace(
        min(d.min() for d in near.values()), max(d.max() for d in near.values()), 60
    )
    for (name, d), color, line in zip(near.items(), ("ink", "blue"), "-:", strict=True):
        density = np.histogram(1e3 * d, edges, density=True)[0]
        drawn = {"color": COLORS[color], "linestyle": line}
        ax.stairs(density, edges, **drawn, linewidth=1.8, baseline=None, label=name)
    share = numbers["samples_closer_than_any_frame"]
    ax.set(ylim=(0, 1.35 * ax.get_ylim()[1]), xlabel="distance [pm]", ylabel="density [1/pm]")
    ax.set_title(f"closest atoms more than {APART} bonds apart")
    text = f"{100 * share:.2g} % of samples are\ncloser than any frame"
    ax.text(0.97, 0.97, text, transform=ax.transAxes, ha="right", va="top", fontsize=9)
    ax.legend(loc="upper left")


def draw_energy(ax, energy: np.ndarray, found: dict) -> None:
    x, y = energy.T
    ends, height = np.array([x.min(), x.max()]), (y - x).mean() + found["kl"]  # -log Z
    ax.plot(ends, ends + height, "-", color=COLORS["red"], linewidth=1)
    ax.plot(x, y, ".", color=COLORS["ink"], markersize=2.5, alpha=0.6, rasterized=True)
    ax.set(
        xlabel="−E / kT",
        ylabel="log q(x), Cartesian [nats]",
        title=f"{len(x)} test frames, kT = {KT:.3f} kJ/mol",
    )
    text = f"line: slope 1\nlog w spreads by {found['spread_of_log_w']:.2f}"
    ax.text(0.97, 0.05, text, transform=ax.transAxes, ha="right", va="bottom", fontsize=9)
