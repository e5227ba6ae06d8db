r"""A flow tells its likelihood, a VAE only bounds its own: on two moons the gap shows.

.. math:: \mathcal L_K(x) = \mathbb E \log \frac1K \sum_{k=1}^K
          \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)}
          \;\le\; \mathcal L_{K+1}(x) \;\le\; \log p(x), \qquad z_k \sim q(z \mid x)

K = 1 is the evidence lower bound (ELBO, arXiv 1312.6114) that the VAE is trained on; more samples
tighten it (IWAE, arXiv 1509.00519). What a bound lacks has two causes that it cannot tell apart:
the model may be wrong, or the bound loose. Here both are known. z has one dimension, so log p(x) =
log ∫ p(x | z) p(z) dz of the same VAE is a sum over a grid, as exact as one likes; and the data's
own density is known, so the mean of log p over test points falls short of the truth's by the
Kullback-Leibler divergence. The flow's value needs no bound and no integral.

The VAE: q(z | x) = N(m(x), s(x)²), p(z) = N(0, 1), p(x | z) = N(f(z), σ² I), two networks of tanh
units and one number σ, trained by reparametrised samples z = m + s ε with the derivatives written
here.

.. math:: -\mathcal L_1 = \frac{|x - f(z)|^2}{2 \sigma^2} + 2 \log \sigma + \log 2\pi
          + \tfrac12 \big(m^2 + s^2 - 1 - 2 \log s\big)

A GAN samples from f(z) without p(x | z): its distribution lies on a curve (one latent dimension)
or, with as many dimensions as the data, has a density that nobody can evaluate. There is no number
to draw, and none to compare.

Letters: N rows, H hidden units, K samples, M nodes of the grid.
"""

from __future__ import annotations

import math
import time

import numpy as np
from matplotlib.figure import Figure

from afnp.networks.layers import ACTIVATIONS, MaskedLinear
from afnp.params import Layout
from afnp.train import Adam
from figures import recipes
from figures.common import COLORS, caption, note

SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
LOG_2PI = math.log(2 * math.pi)
REACH = 9.0
"""The grid of z ends here: p(z) beyond is 2e-19."""
WINDOW = (-1.7, 2.7), (-1.2, 1.7)
CHUNK = 2**22


class Network:
    """Two hidden layers of tanh units between linear maps: forward beside backward."""

    def __init__(self, inputs: int, hidden: int, outputs: int, name: str):
        widths = [inputs, hidden, hidden, outputs]
        self.linears = [
            MaskedLinear(np.full(J, I), I, f"{name}{l}")
            for l, (I, J) in enumerate(zip(widths, widths[1:], strict=False))
        ]
        self.shapes = {
            key: shape for linear in self.linears for key, shape in linear.shapes.items()
        }

    def forward(self, p: dict, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Map x (N, I) to y (N, J); the cache holds what each linear map received."""
        inputs = [x]
        for linear in self.linears[:-1]:
            inputs.append(ACTIVATIONS["tanh"].forward(linear.forward(p, inputs[-1])))
        return self.linears[-1].forward(p, inputs[-1]), inputs

    def backward(self, p: dict, inputs: list[np.ndarray], d_y: np.ndarray, g: dict) -> np.ndarray:
        """Add the gradients into g; return d_x (N, I)."""
        d_a = self.linears[-1].backward(p, inputs[-1], d_y, g)
        for linear, a, before in zip(
            self.linears[-2::-1], inputs[:0:-1], inputs[-2::-1], strict=True
        ):
            d_a = linear.backward(p, before, ACTIVATIONS["tanh"].backward(a, d_a), g)
        return d_a


class VAE:
    """A variational autoencoder of one latent dimension; see the module's formulas."""

    def __init__(self, hidden: int = 64, seed: int = 0):
        self.encoder = Network(2, hidden, 2, "_q")
        self.decoder = Network(1, hidden, 2, "_p")
        self.layout = Layout({**self.encoder.shapes, **self.decoder.shapes, "log_sigma": (1,)})
        self.theta = np.zeros(self.layout.size)
        rng = np.random.default_rng(seed)
        for key, W in self.layout.views(self.theta).items():
            if key.startswith("W"):
                W[:] = rng.standard_normal(W.shape) / math.sqrt(W.shape[1])

    def loss_and_grad(
        self, theta: np.ndarray, x: np.ndarray, eps: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Return the mean of -L_1 at the given noise (N, 1), and its gradient (P,)."""
        p = self.layout.views(theta)
        grad = np.zeros_like(theta)
        N = len(x)
        g = self.layout.views(grad)
        log_sigma = p["log_sigma"][0]
        h, cache_q = self.encoder.forward(p, x)
        m = h[:, :1]
        log_s = h[:, 1:]
        s = np.exp(log_s)
        f, cache_p = self.decoder.forward(p, m + s * eps)
        precision = np.exp(-2 * log_sigma)
        square = ((x - f) ** 2).sum(axis=1)
        rebuilt = 0.5 * precision * square + 2 * log_sigma + LOG_2PI
        divergence = 0.5 * (m * m + s * s - 1 - 2 * log_s)[:, 0]

        d_z = self.decoder.backward(p, cache_p, precision * (f - x) / N, g)
        self.encoder.backward(
            p, cache_q, np.hstack([d_z + m / N, d_z * eps * s + (s * s - 1) / N]), g
        )
        g["log_sigma"] += (2 - precision * square).sum() / N
        return (rebuilt + divergence).mean(), grad

    def log_joint(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return log p(x | z) + log p(z), (N, K), for x (N, 2) and z (N, K), or z (1, K)."""
        p = self.layout.views(self.theta)
        f = self.decoder.forward(p, z.reshape(-1, 1))[0].reshape(*z.shape, 2)
        square = (x[:, :1] - f[..., 0]) ** 2 + (x[:, 1:] - f[..., 1]) ** 2
        log_sigma = p["log_sigma"][0]
        return (
            -0.5 * np.exp(-2 * log_sigma) * square
            - 2 * log_sigma
            - LOG_2PI
            - 0.5 * (z * z + LOG_2PI)
        )

    def log_weights(self, x: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
        """Return log p(x, z) - log q(z | x) at draws from q, (N, K): their mean is the ELBO."""
        h, _ = self.encoder.forward(self.layout.views(self.theta), x)
        m = h[:, :1]
        log_s = h[:, 1:]
        eps = rng.standard_normal((len(x), samples))
        return self.log_joint(x, m + np.exp(log_s) * eps) + 0.5 * (eps * eps + LOG_2PI) + log_s

    def log_prob(self, x: np.ndarray, nodes: int = 8001) -> np.ndarray:
        """Integrate z out on a grid, (N,): the trapezoidal rule, good for smooth functions."""
        z = np.linspace(-REACH, REACH, nodes)[None, :]
        log_p = []
        for start in range(0, len(x), max(1, CHUNK // nodes)):
            log_p.append(log_mean_exp(self.log_joint(x[start : start + max(1, CHUNK // nodes)], z)))
        return np.concatenate(log_p) + math.log(2 * REACH * nodes / (nodes - 1))


def log_mean_exp(a: np.ndarray) -> np.ndarray:
    """Return log mean exp along the last axis."""
    top = a.max(axis=-1, keepdims=True)
    return np.log(np.exp(a - top).mean(axis=-1)) + top[..., 0]


def train(
    x: np.ndarray, epochs: int, seed: int = 0, batch: int = 200, rate: float = 3e-3
) -> tuple[VAE, float]:
    """Train a VAE with Adam, the rate falling to zero; return it and the seconds taken."""
    start = time.perf_counter()
    vae = VAE(seed=seed)
    rng = np.random.default_rng([seed, 1])
    adam = Adam(vae.theta.size, vae.theta.dtype)
    steps = epochs * (len(x) // batch)
    for step in range(steps):
        rows = x[rng.integers(len(x), size=batch)]
        _, grad = vae.loss_and_grad(vae.theta, rows, rng.standard_normal((batch, 1)))
        adam.step(vae.theta, grad, 0.5 * rate * (1 + math.cos(math.pi * step / steps)))
    return vae, time.perf_counter() - start


# ---- the numbers ---------------------------------------------------------------------------------


def data(quick: bool = False) -> dict:
    recipe = recipes.two_moons(quick)
    flow = recipe.flows["MAF"]
    x = recipe.data.test[: 200 if quick else None]
    vae, seconds = train(recipe.data.train, epochs=5 if quick else 200)
    log_w = vae.log_weights(x, SAMPLES[-1], np.random.default_rng(1))
    bounds = {K: log_mean_exp(log_w.reshape(len(x), -1, K)).mean(axis=1) for K in SAMPLES}
    exact = vae.log_prob(x)
    truth = recipe.data.log_density(x)
    of_flow = flow.log_prob(x)
    gap = exact - bounds[1]
    numbers = {
        "test_rows": len(x),
        "truth": truth.mean(),
        "truth_below_and_standard_error": {
            "flow": _mean_and_error(truth - of_flow),
            "VAE, exact": _mean_and_error(truth - exact),
            **{f"VAE, K = {K}": _mean_and_error(truth - bound) for K, bound in bounds.items()},
        },
        "bound_gap": {str(K): float((exact - bound).mean()) for K, bound in bounds.items()},
        "elbo_gap_quantiles": np.quantile(gap, (0.05, 0.5, 0.95)),
        "quadrature_error": float(np.abs(vae.log_prob(x[:100], 16001) - exact[:100]).max()),
        "sigma": float(np.exp(vae.layout.views(vae.theta)["log_sigma"][0])),
        "parameters": {"flow": flow.theta.size, "VAE": vae.theta.size},
        "seconds": {"flow": recipe.histories["MAF"].seconds, "VAE": seconds},
    }
    maps = {
        "truth": recipe.data.log_density,
        "flow": flow.log_prob,
        "VAE": lambda x: vae.log_prob(x, 2001),
    }
    points = grid(40 if quick else 150)
    M = math.isqrt(len(points))
    return {
        "numbers": numbers,
        "maps": {name: np.exp(log_p(points)).reshape(M, M) for name, log_p in maps.items()},
        "points": x,
        "gap": gap,
        "curve": vae.decoder.forward(
            vae.layout.views(vae.theta), np.linspace(-3, 3, 1201)[:, None]
        )[0],
    }


def grid(M: int) -> np.ndarray:
    """Lay M by M points over the window, (M², 2)."""
    x1, x2 = ((np.arange(M) + 0.5) / M * (high - low) + low for low, high in WINDOW)
    return np.stack(np.meshgrid(x1, x2), axis=-1).reshape(-1, 2)


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(13, 7.6))
    layout = figure.add_gridspec(2, 6, height_ratios=(1, 1.25))
    top = max(p.max() for p in data["maps"].values())
    for k, (name, p) in enumerate(data["maps"].items()):
        ax = figure.add_subplot(layout[0, 2 * k : 2 * k + 2])
        ax.imshow(p, origin="lower", extent=(*WINDOW[0], *WINDOW[1]), vmin=0, vmax=top)
        ax.set(xticks=(), yticks=(), title={"VAE": "VAE, z integrated out"}.get(name, name))
        ax.spines[:].set_visible(False)
    _draw_bounds(figure.add_subplot(layout[1, :4]), numbers)
    _draw_gaps(figure, figure.add_subplot(layout[1, 4:]), data)
    caption(figure, _claim(numbers))
    note(figure, _small_print(numbers))
    return figure


def _claim(numbers: dict) -> str:
    below = numbers["truth_below_and_standard_error"]
    gap = numbers["bound_gap"]
    return (
        f"Two moons: the flow's log p(x) is exact, on average {below['flow'][0]:.3f} nats from the "
        f"truth; the VAE's ELBO is {below['VAE, K = 1'][0]:.2f} below, of which "
        f"{below['VAE, exact'][0]:.2f} is the model and {gap['1']:.2f} nothing but the bound"
    )


def _small_print(numbers: dict) -> str:
    low, middle, high = numbers["elbo_gap_quantiles"]
    below = numbers["truth_below_and_standard_error"]
    parameters = numbers["parameters"]
    return (
        f"{numbers['test_rows']:,} test points. Standard errors of the distances from the truth: "
        f"flow {below['flow'][1]:.3f}, VAE {below['VAE, exact'][1]:.3f}. From point to point the "
        f"ELBO is {low:.2f} to {high:.2f} nats below log p (5 to 95 %; median {middle:.2f}):\n"
        "points compared by their bounds are compared by looseness too. Parameters: flow "
        f"{parameters['flow']:,}, VAE {parameters['VAE']:,}; z has one dimension, σ = "
        f"{numbers['sigma']:.3f} (the data's noise: 0.1).\n"
        "A GAN has no place in this picture: it draws samples, but neither its density nor a bound "
        "on it can be evaluated, so nothing says how far it is from the truth."
    )


def _draw_bounds(ax, numbers: dict) -> None:
    below = numbers["truth_below_and_standard_error"]
    K = np.array(SAMPLES)
    bound = np.array([-below[f"VAE, K = {k}"][0] for k in SAMPLES])
    ax.plot(K, bound, "s-", color=COLORS["red"])
    for name, value, color, line in (
        ("the truth", 0.0, "ink", "-"),
        ("flow, exact", -below["flow"][0], "blue", "-"),
        ("VAE, exact (integrated)", -below["VAE, exact"][0], "red", "--"),
    ):
        ax.axhline(value, color=COLORS[color], linestyle=line, linewidth=1.4, marker="")
        up = 1 if name == "the truth" else -1  # the next line lies close below it
        ax.annotate(
            name,
            (1, value),
            (0, 3 * up),
            textcoords="offset points",
            va="bottom" if up == 1 else "top",
            color=COLORS[color],
        )
    ax.annotate(
        "ELBO", (1, bound[0]), (8, -3), textcoords="offset points", va="center", color=COLORS["red"]
    )
    middle = len(SAMPLES) // 2
    ax.annotate(
        "importance-weighted bound",
        (K[middle], bound[middle]),
        (6, -12),
        textcoords="offset points",
        va="top",
        color=COLORS["red"],
    )
    ax.set_xscale("log", base=2)
    ax.set(
        xlabel="K, samples of z for each point",
        ylabel="nats from the truth (mean over test points)",
    )
    ax.set(
        xlim=(0.85, K[-1] * 1.2),
        ylim=(None, 0.06),
        xticks=K[::2],
        xticklabels=[str(k) for k in K[::2]],
    )
    ax.set_title("What is known of log p(x)")


def _draw_gaps(figure: Figure, ax, data: dict) -> None:
    x = data["points"]
    gap = data["gap"]
    rows = np.argsort(gap)
    shown = ax.scatter(
        *x[rows].T,
        c=gap[rows],
        s=7,
        cmap="cividis",
        vmin=0,
        vmax=np.quantile(gap, 0.98),
        rasterized=True,
    )
    ax.plot(*data["curve"].T, "-", color=COLORS["red"], linewidth=0.8, marker="")
    ax.set(xlim=WINDOW[0], ylim=WINDOW[1], xticks=(), yticks=(), aspect="equal")
    ax.set_title("log p(x) − ELBO(x) [nats]; red: f(z), |z| < 3")
    figure.colorbar(shown, ax=ax, shrink=0.8)
