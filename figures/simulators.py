r"""Eight simulators with known posteriors, and where their references are read from.

.. math:: \theta \sim p(\theta), \quad x \sim p(x \mid \theta); \qquad
          \text{wanted: } p(\theta \mid x_o) \text{ for ten observations } x_o

The tasks of the benchmark of simulation-based inference (arXiv 2101.04653, appendix T), written
from their formulas. PyPI's ``sbibm`` 1.1.0 (MIT) holds the ten observations of each, the parameters
behind them, and 10,000 samples of each exact posterior: :func:`open_references` reads its wheel, or
the folder it was unpacked to. Nothing of it is shipped here.

Letters: N simulations, D parameters theta, C numbers x of a simulation.
"""

from __future__ import annotations

import bz2
import io
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["OBSERVATIONS", "TASKS", "References", "Task", "design", "open_references"]

OBSERVATIONS = 10
"""Of each task."""

Draw = Callable[[int, np.random.Generator], np.ndarray]
LogDensity = Callable[[np.ndarray], np.ndarray]
LogLikelihood = Callable[[np.ndarray, np.ndarray], np.ndarray]
Simulate = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class Task(NamedTuple):
    """A prior and a simulator."""

    parameters: int
    outputs: int
    prior: Draw
    """prior(n, rng) -> theta (n, D)"""
    simulate: Simulate
    """simulate(theta, rng) -> x (n, C)"""
    log_prior: LogDensity
    """log_prior(theta) -> (n,) nats, up to a constant"""
    log_likelihood: LogLikelihood
    """log_likelihood(theta, x) -> (n,) nats, up to what depends on x alone; x (n, C) or (1, C)"""
    bounds: tuple[float, float | None] | None = None
    """Of each parameter, where the prior is a box or a half-line."""
    folder: str = ""
    """Of its references; its own name if left out."""
    file: str = "observation.csv"


def box(half: float, D: int) -> Draw:
    """Return the uniform distribution on [-half, half]^D."""
    return lambda n, rng: rng.uniform(-half, half, (n, D))


def normal(variance: float, D: int) -> Draw:
    """Return independent normals of mean 0."""
    return lambda n, rng: math.sqrt(variance) * rng.standard_normal((n, D))


def in_box(half: float) -> LogDensity:
    """Return the log-density of the box, but for its constant."""
    return lambda theta: np.where((np.abs(theta) <= half).all(axis=1), 0.0, -np.inf)


def in_ball(variance: float) -> LogDensity:
    """Return the log-density of independent normals of mean 0, but for its constant."""
    return lambda theta: -np.square(theta).sum(axis=1) / (2 * variance)


# ---- simulators ----------------------------------------------------------------------------------


def two_moons(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Draw a crescent that theta moves: two crescents of theta lead to one x.

    .. math:: x = \begin{pmatrix} r \cos a + 1/4 - |\theta_1 + \theta_2| / \sqrt 2 \\
              r \sin a + (\theta_2 - \theta_1) / \sqrt 2 \end{pmatrix}, \quad
              a \sim U(-\tfrac\pi2, \tfrac\pi2), \; r \sim \mathrm{Normal}(0.1, 0.01^2)
    """
    a = rng.uniform(-math.pi / 2, math.pi / 2, len(theta))
    r = rng.normal(0.1, 0.01, len(theta))
    return centre(theta) + np.column_stack([r * np.cos(a), r * np.sin(a)])


def centre(theta: np.ndarray) -> np.ndarray:
    """Return the middle of the circle of which a crescent is half."""
    total, difference = theta[:, 0] + theta[:, 1], theta[:, 1] - theta[:, 0]
    return np.column_stack([0.25 - np.abs(total) / math.sqrt(2), difference / math.sqrt(2)])


def two_moons_likelihood(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    r"""Return :math:`\log p(r) - \log r` where x lies at radius r, right of the middle."""
    away = x - centre(theta)
    r = np.hypot(*away.T)
    with np.errstate(divide="ignore"):
        log_p = -np.square((r - 0.1) / 0.01) / 2 - np.log(r)
    return np.where(away[:, 0] > 0, log_p, -np.inf)


def gaussian_linear(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Draw :math:`x \sim \mathrm{Normal}(\theta, 0.1\, I)`."""
    return theta + math.sqrt(0.1) * rng.standard_normal(theta.shape)


def gaussian_linear_likelihood(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    r"""Return :math:`-|x - \theta|^2 / (2 \cdot 0.1)`."""
    return -np.square(x - theta).sum(axis=1) / 0.2


def gaussian_mixture(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Draw from a wide or a narrow normal around theta.

    .. math:: x \sim \tfrac12 \mathrm{Normal}(\theta, I)
              + \tfrac12 \mathrm{Normal}(\theta, 0.01\, I)
    """
    scale = np.where(rng.random((len(theta), 1)) < 0.5, 1.0, 0.1)
    return theta + scale * rng.standard_normal(theta.shape)


def gaussian_mixture_likelihood(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the logarithm of the sum of both densities in the plane."""
    square = np.square(x - theta).sum(axis=1)
    return np.logaddexp(-square / 2, math.log(100) - square / 0.02)


def slcp(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Draw four points of a normal in the plane: a simple likelihood, a complex posterior.

    .. math:: x_k \sim \mathrm{Normal}\left(\begin{pmatrix} \theta_1 \\ \theta_2 \end{pmatrix},
              \begin{pmatrix} s_1^2 & \rho s_1 s_2 \\ \rho s_1 s_2 & s_2^2 \end{pmatrix}\right),
              \quad s_1 = \theta_3^2, \; s_2 = \theta_4^2, \; \rho = \tanh \theta_5
    """
    e = rng.standard_normal((2, len(theta), 4))
    m1, m2, s1, s2 = (column[:, None] for column in (*theta[:, :2].T, *np.square(theta[:, 2:4]).T))
    rho = np.tanh(theta[:, 4])[:, None]
    first = m1 + s1 * e[0]
    second = m2 + s2 * (rho * e[0] + np.sqrt(1 - rho * rho) * e[1])
    return np.stack([first, second], axis=2).reshape(len(theta), 8)


def slcp_likelihood(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the log-density of four points of a normal in the plane."""
    points = x.reshape(len(x), 4, 2)
    s1, s2 = np.square(theta[:, 2:4]).T
    rho = np.tanh(theta[:, 4])
    z1 = (points[:, :, 0] - theta[:, :1]) / s1[:, None]
    z2 = (points[:, :, 1] - theta[:, 1:2]) / s2[:, None]
    rest = 1 - rho * rho
    square = (z1 * z1 - 2 * rho[:, None] * z1 * z2 + z2 * z2).sum(axis=1)
    return -square / (2 * rest) - 4 * np.log(s1 * s2) - 2 * np.log(rest)


def sir(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Count the infected among 1,000 people on ten days of an epidemic.

    .. math:: x_k \sim \mathrm{Binomial}(1000, I(17 k) / P), \; k = 0 \dots 9
    """
    return rng.binomial(1000, infected(theta)).astype(float)


def sir_likelihood(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the logarithm of ten binomial probabilities."""
    share = infected(theta)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(x > 0, x * np.log(share), 0.0) + (1000 - x) * np.log1p(-share)
    return terms.sum(axis=1)


def infected(theta: np.ndarray) -> np.ndarray:
    r"""Return the share of people (n, 10) who are infected on days 0, 17, ... 153.

    .. math:: \dot S = -\beta S I / P, \qquad \dot I = \beta S I / P - \gamma I

    P = 10^6 people, of whom one is infected on day 0. Runge and Kutta's classical method, in
    :math:`\log I`, in steps of 1/4 day.
    """
    P, steps = 1e6, 4
    beta, gamma = theta.T

    def slope(state: np.ndarray) -> np.ndarray:
        S, log_I = state
        return np.array([-beta * S * np.exp(log_I) / P, beta * S / P - gamma])

    state = np.array([np.full(len(theta), P - 1), np.zeros(len(theta))])
    seen = [state[1]]
    for step in range(1, 9 * 17 * steps + 1):
        state = runge_kutta(slope, state, 1 / steps)
        if step % (17 * steps) == 0:
            seen.append(state[1])
    return np.clip(np.exp(np.column_stack(seen)) / P, 0, 1)


def runge_kutta(slope: Callable[[np.ndarray], np.ndarray], y: np.ndarray, h: float) -> np.ndarray:
    """Take one step of length h of the classical method of fourth order."""
    k1 = slope(y)
    k2 = slope(y + h / 2 * k1)
    k3 = slope(y + h / 2 * k2)
    k4 = slope(y + h * k3)
    return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


# ---- a neuron ------------------------------------------------------------------------------------


def design() -> np.ndarray:
    r"""Return the matrix V (100, 10) of the neuron: an offset, and the stimulus of nine steps.

    .. math:: V_{t0} = 1, \qquad V_{tj} = I_{t - j + 1}, \quad I_t \sim \mathrm{Normal}(0, 1)

    The benchmark's stimulus is 100 normal numbers of the Mersenne twister with seed 42.
    """
    stimulus = np.random.RandomState(42).standard_normal(100)
    V = np.zeros((100, 10))
    V[:, 0] = 1
    for j in range(1, 10):
        V[j - 1 :, j] = stimulus[: 101 - j]
    return V


def glm_prior(n: int, rng: np.random.Generator) -> np.ndarray:
    r"""Draw an offset of variance 2, and a smooth filter f with precision :math:`F^T F`.

    .. math:: F_{i, i-2} = 1, \quad F_{i, i-1} = -2, \quad F_{ii} = 1 + \sqrt{(i - 1) / 9}
    """
    offset = math.sqrt(2) * rng.standard_normal((n, 1))
    return np.hstack([offset, np.linalg.solve(roughness(), rng.standard_normal((9, n))).T])


def roughness() -> np.ndarray:
    """Return F (9, 9): second differences of a filter, and more of its later steps themselves."""
    step = np.eye(9) - np.eye(9, k=-1)
    return step @ step + np.diag(np.sqrt(np.arange(9) / 9))


def glm_log_prior(theta: np.ndarray) -> np.ndarray:
    """Return the log-density of offset and filter, but for its constant."""
    return -(theta[:, 0] ** 2) / 4 - np.square(theta[:, 1:] @ roughness().T).sum(axis=1) / 2


def bernoulli_glm_raw(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Draw the spikes of 100 steps: :math:`x_t \sim \mathrm{Bernoulli}(\sigma((V \theta)_t))`."""
    p = 1 / (1 + np.exp(-theta @ design().T))
    return (rng.random(p.shape) < p).astype(float)


def bernoulli_glm(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Draw spikes x, and keep what is sufficient: :math:`V^T x`."""
    return bernoulli_glm_raw(theta, rng) @ design()


def bernoulli_glm_likelihood(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    r"""Return :math:`\theta^T x - \sum_t \log(1 + e^{(V \theta)_t})` for what is sufficient."""
    return (theta * x).sum(axis=1) - np.logaddexp(0, theta @ design().T).sum(axis=1)


def bernoulli_glm_raw_likelihood(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the same for spikes x."""
    return bernoulli_glm_likelihood(theta, x @ design())


def sir_prior(n: int, rng: np.random.Generator) -> np.ndarray:
    r"""Draw rates :math:`\beta \sim \mathrm{LogNormal}(\log 0.4, 0.5)`, gamma (log 0.125, 0.2)."""
    return np.exp(rng.normal(np.log([0.4, 0.125]), [0.5, 0.2], (n, 2)))


def sir_log_prior(theta: np.ndarray) -> np.ndarray:
    """Return the log-density of the two rates, but for its constant."""
    log_theta = np.log(theta)
    z = (log_theta - np.log([0.4, 0.125])) / [0.5, 0.2]
    return -np.square(z).sum(axis=1) / 2 - log_theta.sum(axis=1)


TASKS = {
    "two_moons": Task(2, 2, box(1, 2), two_moons, in_box(1), two_moons_likelihood, (-1, 1)),
    "gaussian_linear": Task(
        10, 10, normal(0.1, 10), gaussian_linear, in_ball(0.1), gaussian_linear_likelihood
    ),
    "gaussian_linear_uniform": Task(
        10, 10, box(1, 10), gaussian_linear, in_box(1), gaussian_linear_likelihood, (-1, 1)
    ),
    "gaussian_mixture": Task(
        2, 2, box(10, 2), gaussian_mixture, in_box(10), gaussian_mixture_likelihood, (-10, 10)
    ),
    "slcp": Task(5, 8, box(3, 5), slcp, in_box(3), slcp_likelihood, (-3, 3)),
    "bernoulli_glm": Task(
        10, 10, glm_prior, bernoulli_glm, glm_log_prior, bernoulli_glm_likelihood
    ),
    "bernoulli_glm_raw": Task(
        10,
        100,
        glm_prior,
        bernoulli_glm_raw,
        glm_log_prior,
        bernoulli_glm_raw_likelihood,
        folder="bernoulli_glm",
        file="observation_raw.csv",
    ),
    "sir": Task(2, 10, sir_prior, sir, sir_log_prior, sir_likelihood, (0.0, None)),
}


# ---- references ----------------------------------------------------------------------------------


class References(NamedTuple):
    """What is known of a task's ten observations."""

    x: np.ndarray
    """(10, C) observations"""
    theta: np.ndarray
    """(10, D) parameters behind them"""
    samples: np.ndarray
    """(10, 10000, D) of the exact posteriors"""


def open_references(where: str | os.PathLike, name: str) -> References:
    """Read the observations of a task, and its exact posteriors, from sbibm 1.1.0.

    Parameters
    ----------
    where : path
        The wheel, a folder that holds it, or the folder to which it was unpacked.
    name : str
        Of ``TASKS``.

    Raises
    ------
    ValueError
        If there is no wheel and no folder of that content; it says how to get one.
    """
    task = TASKS[name]
    read = _reader(Path(where))
    found = []
    for number in range(1, OBSERVATIONS + 1):
        folder = f"sbibm/tasks/{task.folder or name}/files/num_observation_{number}"
        samples = bz2.decompress(read(f"{folder}/reference_posterior_samples.csv.bz2"))
        files = [read(f"{folder}/{task.file}"), read(f"{folder}/true_parameters.csv"), samples]
        found.append([_table(content) for content in files])
    x, theta, samples = (np.array(parts) for parts in zip(*found, strict=True))
    return References(x[:, 0], theta[:, 0], samples)


def _table(content: bytes) -> np.ndarray:
    """Read numbers below a line of names, (rows, columns)."""
    return np.loadtxt(io.BytesIO(content), delimiter=",", skiprows=1, ndmin=2)


def _reader(where: Path) -> Callable[[str], bytes]:
    """Return what reads a file of the package by its name."""
    wheels = sorted(where.glob("sbibm-*.whl")) if where.is_dir() else [where]
    for folder in (where, where.parent):
        if (folder / "sbibm" / "tasks").is_dir():
            return lambda name: (folder / name).read_bytes()
    if not (wheels and wheels[0].is_file() and zipfile.is_zipfile(wheels[0])):
        raise ValueError(
            f"--data: expected sbibm's wheel or the folder it was unpacked to, got {str(where)!r}. "
            "Get it with `pip download --no-deps sbibm==1.1.0`"
        )

    def read(name: str) -> bytes:
        with zipfile.ZipFile(wheels[0]) as archive:
            return archive.read(name)

    return read
