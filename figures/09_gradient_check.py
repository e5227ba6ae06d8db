r"""Finite differences confirm a gradient to some ten digits, the complex step to all sixteen.

.. math:: \frac{\mathcal L(\theta + h) - \mathcal L(\theta)}{h}
          = \mathcal L' + O(h) + O(\epsilon / h)

          \frac{\mathcal L(\theta + h) - \mathcal L(\theta - h)}{2h}
          = \mathcal L' + O(h^2) + O(\epsilon / h)

          \frac{\operatorname{Im} \mathcal L(\theta + ih)}{h} = \mathcal L' + O(h^2)

A difference loses the digits that its two terms share, so its error is U-shaped in h. The complex
step subtracts nothing: h may be tiny. The reference is the hand-written backward pass of a small
MAF.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.verify import randomize
from figures.common import COLORS, caption, note, slope

EPS = float(np.finfo(np.float64).eps)
METHODS = ("forward", "central", "complex")


def data(quick: bool = False) -> dict:
    """Compare three numerical gradients with the hand-written one, over the step size."""
    flow = randomize(afnp.maf(4, hidden=(16, 16), transforms=2, activation="tanh"), seed=3)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 4))
    gradient = flow.loss_and_grad(x)[1]
    chosen = rng.choice(np.flatnonzero(gradient), 8 if quick else 60, replace=False)
    h = 10.0 ** (np.arange(-20, 0.1, 1.0) if quick else np.arange(-20, 0.1, 0.25))
    errors = {name: np.empty_like(h) for name in METHODS}
    for k, step in enumerate(h):
        for name, estimate in estimates(flow, x, chosen, step).items():
            difference = np.linalg.norm(estimate - gradient[chosen])
            errors[name][k] = difference / np.linalg.norm(gradient[chosen])
    falling = (h >= 1e-13) & (h <= 1e-9)
    rising = (h >= 1e-6) & (h <= 1e-2)
    numbers = {
        "parameters": flow.theta.size,
        "parameters_checked": len(chosen),
        **{f"best_error_{name}": errors[name].min() for name in METHODS},
        **{f"best_step_{name}": h[errors[name].argmin()] for name in METHODS[:2]},
        "complex_error_at_1e-20": errors["complex"][0],
        "slope_left_forward": slope(h[falling], errors["forward"][falling]),
        "slope_left_central": slope(h[falling], errors["central"][falling]),
        "slope_right_forward": slope(h[rising], errors["forward"][rising]),
        "slope_right_central": slope(h[h >= 1e-4][:-1], errors["central"][h >= 1e-4][:-1]),
        "slope_right_complex": slope(h[h >= 1e-6][:-1], errors["complex"][h >= 1e-6][:-1]),
    }
    return {"numbers": numbers, "h": h, "errors": errors}


def estimates(
    flow: afnp.Flow, x: np.ndarray, chosen: np.ndarray, h: float
) -> dict[str, np.ndarray]:
    """Return the three numerical derivatives by the chosen parameters."""
    no_context = np.empty((len(x), 0))
    theta = flow.theta

    def loss(k: int, step: complex):
        moved = theta.astype(type(step))
        moved[k] += step
        return -flow.log_prob_with(flow.split(moved), x, no_context).mean()

    here = loss(0, 0.0)
    up, down = (np.array([loss(k, step) for k in chosen]) for step in (h, -h))
    imaginary = np.array([loss(k, 1j * h).imag for k in chosen])
    return {"forward": (up - here) / h, "central": (up - down) / (2 * h), "complex": imaginary / h}


def draw(data: dict) -> Figure:
    """Draw the errors over the step size, the best of each, and the powers of h in theory."""
    figure = Figure(figsize=(9.4, 5.8))
    caption(figure, __doc__.split("\n")[0])
    axes = figure.subplots()
    h = data["h"]
    errors = data["errors"]
    numbers = data["numbers"]
    for name, color, line in (
        ("complex", "blue", "-"),
        ("forward", "red", "--"),
        ("central", "green", "-."),
    ):
        axes.loglog(
            h, np.maximum(errors[name], EPS / 100), color=COLORS[color], linestyle=line, marker=""
        )
    for name, color, corner in (
        ("forward", "red", (3e-8, 5e-4)),
        ("central", "green", (3e-13, 2e-11)),
    ):
        k = errors[name].argmin()
        axes.annotate(
            f"{name} difference,\nat best {errors[name][k]:.0e} at h = {h[k]:.0e}",
            (h[k], errors[name][k]),
            xytext=corner,
            ha="center",
            va="center",
            color=COLORS[color],
            arrowprops={"arrowstyle": "-|>", "color": COLORS[color], "shrinkB": 4},
        )
    complex_text = f"complex step, {numbers['complex_error_at_1e-20']:.0e} at h = 1e-20"
    axes.text(h[0], 1e-15, complex_text, color=COLORS["blue"], va="bottom")
    axes.axhline(EPS, color=COLORS["grey"], linewidth=1, linestyle=":", marker="")
    axes.text(1, EPS / 2, "ε of float64", ha="right", va="top", color=COLORS["grey"])
    for x, y, power in ((2e-14, 1e-3, "∝ 1/h"), (3e-4, 2e-3, "∝ h"), (2e-3, 1e-7, "∝ h²")):
        axes.text(x, y, power, ha="center", va="center", color=COLORS["ink"])
    axes.set(
        xlabel="step size h",
        ylabel="relative error of the gradient",
        ylim=(2e-17, 1e2),
        xlim=(5e-21, 2),
    )
    note(
        figure,
        "Reference: the hand-written backward pass; two tanh layers, "
        f"{numbers['parameters_checked']} of its {numbers['parameters']} parameters, 16 rows, "
        "float64.",
    )
    return figure
