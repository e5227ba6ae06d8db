r"""Proof that the libraries compute the same thing: counts, masks, and numbers.

.. math::
    h = W_2 \phi(W_1 \phi(W_0 x + b_0) + b_1) + b_2 \;\;(\text{every } W \text{ under its mask}),
    \qquad
    u = \tau(h, x), \qquad
    \log p = \log \mathcal N(u) + \sum \log \partial \tau / \partial x

From what a worker wrote (weights, masks, some rows, its own raw outputs and log-densities) three
things follow: the raw outputs are those of the masked network above, in plain NumPy; the
log-densities, by the call that is timed, are those of the flow above in plain NumPy, where tau is
affine with the library's own scale, or a spline with its own knots (:mod:`figures.bench.splines`);
and the same weights, hidden units sorted by degree, give the same raw outputs in afnp's network,
whose staircases are then exactly the library's masks.

Letters: N rows, D features, H hidden units, T transforms, n params a feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from afnp.networks import MaskedMLP, masks
from figures.bench.configurations import Configuration
from figures.bench.splines import SPLINES, curve

__all__ = [
    "ROWS",
    "SCALES",
    "SPLINE_TOLERANCE",
    "TOLERANCE",
    "Network",
    "NotTheSame",
    "Proof",
    "in_afnp",
    "prove",
    "read",
]

ROWS = 64
"""N, how many rows a worker shows."""

TOLERANCE = 1e-4
"""Largest difference allowed, in units of the largest number: float32 sums of 1000 terms, T of them
in a row."""

SPLINE_TOLERANCE = 1e-5
"""The same of log-densities of splines: a least slope of 0.01 in place of 0.001 moves them by less
than 1e-4."""


class NotTheSame(ValueError):
    """A library computes something else."""


class Network(NamedTuple):
    """A transform of a library: three masked layers, and features' places before and after."""

    before: np.ndarray
    after: np.ndarray
    W: list[np.ndarray]
    mask: list[np.ndarray]
    b: list[np.ndarray]
    raw: np.ndarray
    """(N, n D) what the library made of the rows, the numbers of a feature side by side."""

    @property
    def numbers(self) -> int:
        """How many params a feature: n."""
        return len(self.b[-1]) // len(self.before)


class Proof(NamedTuple):
    """What was found, for tables; errors are relative to the largest number."""

    parameters: int
    connections: int
    """Ones in all masks."""
    raw_error: float
    log_prob_error: float
    afnp_error: float
    own_degrees: bool
    """Whether afnp itself spreads the degrees of hidden units like this, or was given the
    library's."""


# ---- scale and shift: how each library reads the two numbers of a feature ------------------------


def _softplus(a):
    return np.logaddexp(a, 0)


def _scale_afnp(h):
    alpha = 7 * np.tanh(h[..., 1] / 7)
    return -alpha, -h[..., 0] * np.exp(-alpha)


def _scale_zuko(h):
    return h[..., 1] / (1 + np.abs(h[..., 1] / math.log(1e-3))), h[..., 0]


def _scale_nflows(h):
    return np.log(_softplus(h[..., 0]) + 1e-3), h[..., 1]


def _scale_normflows(h):
    return np.log(1 / (1 + np.exp(-h[..., 0] - 2)) + 1e-3), h[..., 1]


def _scale_flowjax(h):
    return np.log(_softplus(h[..., 1] + math.log(math.expm1(0.99))) + 0.01), h[..., 0]


SCALES: dict[str, tuple[Callable, str]] = {
    "afnp": (_scale_afnp, "exp(-7 tanh(a / 7))"),
    "zuko": (_scale_zuko, "exp(a / (1 + |a| / 6.9))"),
    "nflows": (_scale_nflows, "softplus(a) + 0.001"),
    "normflows": (_scale_normflows, "sigmoid(a + 2) + 0.001"),
    "flowjax": (_scale_flowjax, "softplus(a + 0.53) + 0.01"),
}
"""Library: the function from raw numbers (N, D, 2) to log s and t, (N, D) each, and s(a) in
words."""


def numbers_of(name: str, configuration: Configuration) -> int:
    """Return n, as the library has it."""
    return SPLINES[name].numbers(configuration.bins) if configuration.bins else 2


def univariate_of(name: str, bins: int) -> Callable:
    """Return the library's tau: raw params (N, D, n) and x (N, D) to u and log du/dx, (N, D)."""

    def affine(h, x):
        log_s, t = SCALES[name][0](h)
        return x * np.exp(log_s) + t, log_s

    def spline(h, x):
        return curve(SPLINES[name].knots(*np.split(h, [bins, 2 * bins], axis=-1)), x)

    return spline if bins else affine


# ---- plain NumPy ---------------------------------------------------------------------------------


def read(path: str | Path) -> tuple[list[Network], np.ndarray, np.ndarray]:
    """Return the networks, the rows (N, D), and the library's log-densities (N,)."""
    with np.load(path, allow_pickle=False) as arrays:
        networks: list[Network] = []
        while f"{len(networks)}_raw" in arrays:
            k = len(networks)
            layers = range(sum(name.startswith(f"{k}_W") for name in arrays))
            W, mask, b = ([arrays[f"{k}_{part}{l}"] for l in layers] for part in ("W", "mask", "b"))
            networks.append(
                Network(
                    arrays[f"{k}_before"],
                    arrays[f"{k}_after"],
                    W,
                    [m != 0 for m in mask],
                    b,
                    arrays[f"{k}_raw"],
                )
            )
        return networks, arrays["x"], arrays["log_prob"]


def plain_network(network: Network, x: np.ndarray) -> np.ndarray:
    """Map rows (N, D) to raw outputs (N, n D)."""
    a = x
    for l, (W, mask, b) in enumerate(zip(network.W, network.mask, network.b, strict=True)):
        z = a @ np.where(mask, W, 0).T + b
        a = np.maximum(z, 0) if l < len(network.W) - 1 else z
    return a


def plain_log_prob(networks: list[Network], univariate: Callable, x: np.ndarray) -> np.ndarray:
    """Return the flow's log-density of rows, (N,), in float64."""
    x, total = x.astype(np.float64), np.zeros(len(x))
    for network in networks:
        x = x[:, network.before]
        u, log_derivative = univariate(plain_network(network, x).reshape(*x.shape, -1), x)
        x = u[:, network.after]
        total = total + log_derivative.sum(axis=1)
    return total - (x * x).sum(axis=1) / 2 - x.shape[1] * math.log(2 * math.pi) / 2


def error(got: np.ndarray, true: np.ndarray) -> float:
    """Return the largest difference in units of the largest number.

    Examples
    --------
    >>> error(np.array([1.0, 4.5]), np.array([1.0, 4.0]))
    0.125
    """
    if got.shape != true.shape:
        return math.inf
    return float(np.abs(got - true).max() / np.abs(true).max())


# ---- the same weights in afnp --------------------------------------------------------------------


def in_afnp(network: Network) -> tuple[MaskedMLP, dict[str, np.ndarray], list[np.ndarray], bool]:
    """Lay a network's weights into afnp's masked network, units sorted by degree.

    Returns
    -------
    net : MaskedMLP
        With the library's degrees where afnp would choose others.
    p : dict
        Its parameters.
    units : list of array
        Which of the library's units comes r-th, a layer each: features, hidden units, raw outputs.
    own : bool
        Whether afnp chooses the same degrees.

    Raises
    ------
    NotTheSame
        If the sorted masks are not the staircases of these degrees.
    """
    n = network.numbers
    degrees = _degrees(network)
    order = np.argsort(degrees.pop()[::n], kind="stable")
    units = [
        order,
        *(np.argsort(d, kind="stable") for d in degrees),
        (n * order[:, None] + np.arange(n)).ravel(),
    ]
    net, own = _network_of(len(order), n, [np.sort(d) for d in degrees])
    p = {}
    for l, (linear, columns, rows) in enumerate(
        zip(net.linears, units[:-1], units[1:], strict=True)
    ):
        sorted_mask, W = (array[l][rows][:, columns] for array in (network.mask, network.W))
        if not np.array_equal(sorted_mask, masks.mask(linear.prefix, len(columns))):
            raise NotTheSame(f"layer {l}: its mask is no staircase when units are sorted by degree")
        p[linear.W], p[linear.b] = np.ascontiguousarray(W), network.b[l][rows]
    return net, p, units, own


def _degrees(network: Network) -> list[np.ndarray]:
    """Return how many features each unit of each layer depends on, by its masks."""
    degrees = []
    reached = np.eye(len(network.before), dtype=np.float32)
    for mask in network.mask:
        reached = (mask.astype(np.float32) @ reached > 0).astype(np.float32)
        degrees.append(reached.sum(axis=1).astype(np.int64))
    return degrees


def _network_of(D: int, n: int, hidden_degrees: list[np.ndarray]) -> tuple[MaskedMLP, bool]:
    """Return afnp's network with these degrees, and whether they are those that it chooses."""
    widths = [len(degrees) for degrees in hidden_degrees]
    ours = [masks.degrees_of_hidden(width, D) for width in widths]
    own = all(np.array_equal(a, b) for a, b in zip(hidden_degrees, ours, strict=True))
    return MaskedMLP(D, n, widths, degrees=hidden_degrees), own


def afnp_raw(network: Network, x: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return raw outputs (N, n D) of the same weights in afnp; and ``own``."""
    net, p, units, own = in_afnp(network)
    raw = np.empty((len(x), len(units[-1])), dtype=x.dtype)
    raw[:, units[-1]] = net.forward(p, x[:, :0], x[:, units[0]])[0].reshape(len(x), -1)
    return raw, own


# ---- the verdict ---------------------------------------------------------------------------------


def prove(name: str, configuration: Configuration, parameters: int, path: str | Path) -> Proof:
    """Compare what a library wrote with plain NumPy and with afnp.

    Raises
    ------
    NotTheSame
        If a count, a shape, a mask or a number differs.
    """
    networks, x, log_prob = read(path)
    D = configuration.features
    H = configuration.hidden
    T = configuration.transforms
    n = numbers_of(name, configuration)
    univariate = univariate_of(name, configuration.bins)
    _expect("parameters", configuration.parameters_of(n), parameters)
    _expect("transforms", T, len(networks))
    for network in networks:
        _expect("weights", [(H, D), (H, H), (n * D, H)], [W.shape for W in network.W])
        _expect("biases", [(H,), (H,), (n * D,)], [b.shape for b in network.b])
    in_numpy = [error(network.raw, plain_network(network, x)) for network in networks]
    in_afnp_too = [afnp_raw(network, x) for network in networks]
    found = Proof(
        parameters,
        connections=sum(int(mask.sum()) for network in networks for mask in network.mask),
        raw_error=max(in_numpy),
        log_prob_error=error(log_prob, plain_log_prob(networks, univariate, x)),
        afnp_error=max(
            error(raw, n.raw) for (raw, _), n in zip(in_afnp_too, networks, strict=True)
        ),
        own_degrees=all(own for _, own in in_afnp_too),
    )
    limits = {"raw_error": TOLERANCE, "log_prob_error": TOLERANCE, "afnp_error": TOLERANCE}
    if configuration.bins:
        limits["log_prob_error"] = SPLINE_TOLERANCE
    for what, limit in limits.items():
        if not getattr(found, what) <= limit:
            raise NotTheSame(f"{what}: expected at most {limit:g}, got {getattr(found, what):.1e}")
    return found


def _expect(what: str, expected, got) -> None:
    if expected != got:
        raise NotTheSame(f"{what}: expected {expected}, got {got}")
