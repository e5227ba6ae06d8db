r"""A trained autoregressive layer has a triangular Jacobian: its determinant is a product.

.. math:: u_i = (x_i - \mu_i)\, e^{-\alpha_i}, \qquad
          \frac{\partial u_i}{\partial x_j} = \begin{cases}
          0 & j > i \\ e^{-\alpha_i} & j = i \\
          -e^{-\alpha_i} \partial \mu_i / \partial x_j - u_i\, \partial \alpha_i / \partial x_j & j
          < i \end{cases}

A whole MAF stacks such layers in different orders. Its Jacobian is full; but it is a product of
triangular ones, so the determinant is still the product of all diagonals, which
``numpy.linalg.slogdet`` confirms. The data are the 8 × 8 digits, the Jacobians complex steps at one
test image; the fixed preprocessing before the layers, pixel by pixel, multiplies column j by its
own derivative.
"""

from __future__ import annotations

import numpy as np
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

import afnp
from afnp.data import load
from afnp.verify import Subject, complex_step_jacobian
from figures.common import COLORS, caption, trained

ALPHA = 0.05
LINEAR = 1e-2  # below this the colour scale is linear


def data(quick: bool = False) -> dict:
    """Train one MADE layer and a MAF on digits; return the Jacobians of both at one test image."""
    digits = load("digits", seed=0)
    train = digits.train
    val = digits.val
    x = digits.test[:1]
    made = fitted(1, train, val, quick)
    maf = fitted(5, train, val, quick)
    J = jacobian(made, x)
    J_maf = jacobian(maf, x)
    D = made.features
    above = np.triu(np.ones((D, D), dtype=bool), 1)
    log_det = made.normalize(x)[1][0]
    log_det_maf = maf.normalize(x)[1][0]
    numbers = {
        "features": D,
        "forbidden_entries": int(above.sum()),
        "forbidden_that_are_exactly_zero": int((J[above] == 0).sum()),
        "allowed_that_are_not_zero": int((J[~above] != 0).sum()),
        "log_det": log_det,
        "error_of_diagonal": abs(np.log(np.abs(J.diagonal())).sum() - log_det),
        "error_of_slogdet": abs(np.linalg.slogdet(J)[1] - log_det),
        "maf_entries_that_are_not_zero": int((J_maf != 0).sum()),
        "maf_log_det": log_det_maf,
        "maf_error_of_slogdet": abs(np.linalg.slogdet(J_maf)[1] - log_det_maf),
        "maf_error_of_product": product_error(maf, x, J_maf),
        "nats_made": -made.log_prob(digits.test).mean(),
        "nats_maf": -maf.log_prob(digits.test).mean(),
    }
    return {"numbers": numbers, "made": J, "maf": J_maf, "above": above}


def fitted(transforms: int, train, val, quick: bool) -> afnp.Flow:
    """Return a trained flow: pixels to the real line, transforms natural and reversed in turn."""
    flow = afnp.maf(
        train.shape[1],
        hidden=(64,) if quick else (128, 128),
        transforms=transforms,
        preprocess=afnp.preprocessing(train, levels=17, alpha=ALPHA),
    )
    return trained(flow, train, val, epochs=2 if quick else 20)[0]


def jacobian(flow: afnp.Flow, x: np.ndarray) -> np.ndarray:
    """Return du/dx (D, D) at the row x (1, D)."""
    normalize = Subject.of_flow(flow).analytic
    return complex_step_jacobian(lambda z: normalize(z, np.empty((len(z), 0)))[0], x)[0]


def product_error(flow: afnp.Flow, x: np.ndarray, J: np.ndarray) -> float:
    """Return how far the product of the layers' Jacobians is from J, over J's largest entry."""
    product = np.eye(flow.features)
    for layer, p in zip(flow.layers, flow.split(flow.theta), strict=True):

        def normalize(z, layer=layer, p=p):
            return layer.normalize(p, z, np.empty((len(z), 0)))[0]

        product = complex_step_jacobian(normalize, x)[0] @ product
        x = normalize(x)
    return float(np.abs(product - J).max() / np.abs(J).max())


def draw(data: dict) -> Figure:
    """Draw the symbolic Jacobian, the layer's and the whole flow's."""
    figure = Figure(figsize=(13.6, 5.8), layout="none")
    caption(figure, __doc__.split("\n")[0])
    numbers = data["numbers"]
    J = data["made"]
    J_maf = data["maf"]
    symbolic, one, all_, bar = (
        figure.add_axes((left / 13.6, 1.1 / 5.8, width / 13.6, 3.9 / 5.8))
        for left, width in ((0.1, 3.1), (3.85, 3.9), (8.4, 3.9), (12.4, 0.15))
    )
    draw_symbolic(symbolic)
    largest = max(np.abs(J).max(), np.abs(J_maf).max())
    norm = SymLogNorm(LINEAR, vmin=-largest, vmax=largest, base=10)
    draw_jacobian(one, np.ma.array(J, mask=data["above"] & (J == 0)), norm)
    one.set_title(f"one trained layer, D = {len(J)}: triangular")
    zeros = (
        f"{numbers['forbidden_that_are_exactly_zero']:,} of {numbers['forbidden_entries']:,} "
        "entries"
    )
    one.text(62, 4, f"above the diagonal,\n{zeros}\nare exactly 0", ha="right", va="top")
    one.set_xlabel(
        f"input $x_j$, pixel j\n\nlog-determinant {numbers['log_det']:.6f} nats:\n"
        f"sum of the log-diagonal within {numbers['error_of_diagonal']:.0e}, "
        f"slogdet within {numbers['error_of_slogdet']:.0e}"
    )
    picture = draw_jacobian(all_, J_maf, norm)
    all_.set_title(
        "five trained layers, every second one reversed:\nnot triangular, but a product of "
        "triangular ones"
    )
    all_.set_xlabel(
        f"input $x_j$, pixel j\n\nlog-determinant {numbers['maf_log_det']:.6f} nats, summed over "
        "the layers:\n"
        f"slogdet within {numbers['maf_error_of_slogdet']:.0e}"
    )
    figure.colorbar(picture, cax=bar).set_label(
        r"$\partial u_i / \partial x_j$  (per grey level; log scale, both signs)"
    )
    return figure


def draw_symbolic(axes) -> None:
    """Write the 3 × 3 case out."""
    axes.set(xlim=(-0.6, 2.75), ylim=(4.6, -0.6))
    axes.axis("off")
    axes.set_title("the pattern, D = 3")
    for i in range(3):
        for j in range(3):
            if j == i:
                text = rf"$e^{{-\alpha_{i + 1}}}$"
                color = COLORS["blue"]
            elif j < i:
                text = rf"$\dfrac{{\partial u_{i + 1}}}{{\partial x_{j + 1}}}$"
                color = COLORS["ink"]
            else:
                text = "0"
                color = COLORS["grey"]
            axes.text(j, i, text, ha="center", va="center", fontsize=17, color=color)
    for x, inwards in ((-0.5, 0.12), (2.5, -0.12)):
        axes.plot(
            [x + inwards, x, x, x + inwards],
            [-0.5, -0.5, 2.5, 2.5],
            color=COLORS["ink"],
            linewidth=1.4,
            ls="-",
            marker="",
        )
    lines = (
        r"$u_i = (x_i - \mu_i)\, e^{-\alpha_i}$",
        r"$\mu_i, \alpha_i$ depend only on $x_1, \dots, x_{i-1}$",
        r"$\log|\det J| = -(\alpha_1 + \alpha_2 + \alpha_3)$",
    )
    for k, line in enumerate(lines):
        axes.text(-0.5, 3.1 + 0.6 * k, line, fontsize=12, va="center")


def draw_jacobian(axes, J: np.ndarray, norm: SymLogNorm):
    """Draw a Jacobian, signed; masked entries stay empty."""
    D = len(J)
    picture = axes.imshow(J, norm=norm, cmap="cividis", extent=(0.5, D + 0.5, D + 0.5, 0.5))
    axes.set(
        xlabel="input $x_j$, pixel j",
        ylabel="output $u_i$, pixel i",
        xticks=(1, 16, 32, 48, 64),
        yticks=(1, 16, 32, 48, 64),
    )
    return picture
