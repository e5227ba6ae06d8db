"""Exercises of lesson 09: better bends."""

from statistics import NormalDist

import numpy as np
from checker import Exercise

_rng = np.random.default_rng(9)
_cdf, _pdf, _quantile = (
    np.vectorize(f) for f in (NormalDist().cdf, NormalDist().pdf, NormalDist().inv_cdf)
)


def _parts(x, w, mu, sigma):
    standard = (x[:, None] - mu) / sigma
    return (w * _cdf(standard)).sum(axis=1), standard


def _mixture(x, w, mu, sigma):
    F, standard = _parts(x, w, mu, sigma)
    u = _quantile(F)
    return u, np.log((w / sigma * _pdf(standard)).sum(axis=1)) - np.log(_pdf(u))


def _without_sigma(x, w, mu, sigma):
    F, standard = _parts(x, w, mu, sigma)
    u = _quantile(F)
    return u, np.log((w * _pdf(standard)).sum(axis=1)) - np.log(_pdf(u))


def _stopped_at_uniform(x, w, mu, sigma):
    F, standard = _parts(x, w, mu, sigma)
    return F, np.log((w / sigma * _pdf(standard)).sum(axis=1))


def _mixed_noise(x, w, mu, sigma):
    _, standard = _parts(x, w, mu, sigma)
    u = (w * standard).sum(axis=1)
    return u, np.full(len(x), np.log((w / sigma).sum()))


def _some_mixture(K):
    w = _rng.uniform(0.2, 1, K)
    return np.linspace(-1.5, 2, 6), w / w.sum(), _rng.normal(0, 1, K), _rng.uniform(0.5, 1.5, K)


def _share(xi, slope, left, right):
    rho, kappa = xi * (slope * xi + left * (1 - xi)), (1 - xi) * (slope * (1 - xi) + right * xi)
    return rho, kappa, right * xi**2 + 2 * slope * xi * (1 - xi) + left * (1 - xi) ** 2


def _one_bin(xi, slope, left, right):
    rho, kappa, omega = _share(xi, slope, left, right)
    return rho / (rho + kappa), slope**2 * omega / (rho + kappa) ** 2


def _slope_of_the_share(xi, slope, left, right):
    rho, kappa, omega = _share(xi, slope, left, right)
    return rho / (rho + kappa), slope * omega / (rho + kappa) ** 2


def _places(h, B, least):
    w = np.exp(h - h.max()) / np.exp(h - h.max()).sum()
    return -B + 2 * B * np.concatenate([[0.0], np.cumsum(least + (1 - len(h) * least) * w)])


def _overflowing_places(h, B, least):
    w = np.exp(h) / np.exp(h).sum()
    return -B + 2 * B * np.concatenate([[0.0], np.cumsum(least + (1 - len(h) * least) * w)])


def _factors(eta, slope, left, right):
    nu = left + right - 2 * slope
    return slope - left + eta * nu, left - eta * nu, -slope * eta


def _undo_bin(eta, slope, left, right):
    gamma_2, gamma_1, gamma_0 = _factors(eta, slope, left, right)
    return -2 * gamma_0 / (gamma_1 + np.sqrt(gamma_1 * gamma_1 - 4 * gamma_2 * gamma_0))


def _school_root(eta, slope, left, right):
    gamma_2, gamma_1, gamma_0 = _factors(eta, slope, left, right)
    return (-gamma_1 + np.sqrt(gamma_1 * gamma_1 - 4 * gamma_2 * gamma_0)) / (2 * gamma_2)


_SHARES = np.array([0.0, 0.1, 0.5, 0.8, 1.0])

EXERCISES = [
    Exercise(
        "mixture",
        answer=_mixture,
        cases=[
            (np.array([-1.0, 0.0, 2.0]), np.array([1.0]), np.array([0.5]), np.array([2.0])),
            _some_mixture(2),
            _some_mixture(4),
        ],
        hints=(
            "(x[:, None] - mu) / sigma has a row for each x, a column for each component.",
            "Sum F and F' over components, the columns. Then u is a quantile, and the "
            "slope F' over a density at u.",
        ),
        mistakes={
            "leaving out the 1 / sigma of each component's density": _without_sigma,
            "stopping at F(x), which is uniform and not yet normal": _stopped_at_uniform,
            "mixing the components' noise instead of their distribution functions": _mixed_noise,
        },
        because="With one component it is shift and scale again.",
        tolerance=1e-7,
    ),
    Exercise(
        "halvings",
        answer=33,
        prediction=True,
        hints=(
            "After k halvings the interval is 8 / 2**k long. When is that below 1e-9?",
            "2**k > 8e9: k is the logarithm of 8e9 to the base 2, rounded up.",
        ),
        mistakes={
            "rounding down": 32,
            "counting in decimal places, one for each power of ten": 10,
            "starting from an interval of length 1": 30,
        },
        because="Every one of them a look at the whole mixture, for every feature of every sample.",
    ),
    Exercise(
        "one_bin",
        answer=_one_bin,
        cases=[
            (0.25, 1.0, 1.0, 1.0),
            (np.linspace(0, 1, 5), 2.0, 0.5, 3.0),
            (_rng.uniform(0, 1, 6), *_rng.uniform(0.2, 3, (3, 6))),
        ],
        hints=(
            "Write rho, kappa and omega as three lines, just as the formulas stand there.",
            "What is asked for are two quotients of these, rho + kappa below in the one and its "
            "square in the other.",
        ),
        mistakes={
            "giving the slope of the share by xi: by x it is the straight line's slope times it": (
                _slope_of_the_share
            ),
            "exchanging the slopes of the two ends": lambda xi, slope, left, right: _one_bin(
                xi, slope, right, left
            ),
        },
        because="All terms are positive, so the curve can only rise.",
    ),
    Exercise(
        "places",
        answer=_places,
        cases=[
            (np.zeros(4), 1.0, 0.0),
            (np.array([1.0, -2.0, 0.5]), 3.0, 0.05),
            (_rng.normal(0, 2, 8), 4.0, 1e-3),
            (np.array([800.0, 0.0]), 4.0, 1e-3),
        ],
        hints=(
            "The shares are a softmax; np.cumsum adds them up; the first knot is -B, so begin "
            "with a 0.",
            "Subtract h.max() before np.exp: the shares stay the same, and nothing overflows.",
        ),
        mistakes={
            "leaving out the first knot": lambda h, B, least: _places(h, B, least)[1:],
            "forgetting the least share": lambda h, B, least: _places(h, B, 0.0),
            "taking np.exp of large numbers, which overflows": _overflowing_places,
        },
        because="Any numbers at all become knots that rise.",
    ),
    Exercise(
        "undo_bin",
        answer=_undo_bin,
        cases=[
            (_SHARES, 2.0, 0.5, 3.0),
            (_SHARES, 1.5, 1.5, 1.5),
            (_rng.uniform(0, 1, 6), *_rng.uniform(0.2, 3, (3, 6))),
        ],
        hints=(
            "Read the three gammas off the equation: they are the factors of xi squared, of xi, "
            "and what stands alone.",
            "Of the two ways to write the root, take the one that does not divide by gamma_2.",
        ),
        mistakes={
            "dividing by gamma_2, which is zero where the piece is straight": _school_root,
            "going there once more instead of back": lambda eta, slope, left, right: _one_bin(
                eta, slope, left, right
            )[0],
        },
        because="A square root and a division: as cheap as the way there.",
    ),
    Exercise(
        "wrap",
        answer=lambda x: np.remainder(x + np.pi, 2 * np.pi) - np.pi,
        cases=[
            (np.array([0.5, -3.0, 3.0]),),
            (np.array([4.0, -4.0, 100.0, -100.0]),),
            (np.array([[np.pi, -np.pi], [0.0, 2 * np.pi]]),),
        ],
        hints=(
            "np.remainder(x, 2 * np.pi) is in [0, 2 pi). What must happen before and after?",
            "Shift by half a turn on the way in, and back on the way out.",
        ),
        mistakes={
            "wrapping to [0, 2 pi)": lambda x: np.remainder(x, 2 * np.pi),
            "cutting off what is outside": lambda x: np.clip(x, -np.pi, np.pi),
            "using arctan2, which leaves pi as it is; on the circle it is -pi": lambda x: (
                np.arctan2(np.sin(x), np.cos(x))
            ),
        },
        because="Turn, take the remainder, turn back.",
    ),
    Exercise(
        "integral",
        answer=lambda log_p: float(np.mean(np.exp(log_p)) * (2 * np.pi) ** 2),
        cases=[
            (np.full(9, -2 * np.log(2 * np.pi)),),
            (_rng.normal(-4, 1, 50),),
            (_rng.normal(-3, 2, 400),),
        ],
        hints=(
            "An integral is the mean of the density times the area.",
            "The mean of the density, not of its logarithm; and the square's side is 2 pi.",
        ),
        mistakes={
            "leaving out the area": lambda log_p: np.mean(np.exp(log_p)),
            "averaging the logarithms": lambda log_p: np.exp(np.mean(log_p)) * (2 * np.pi) ** 2,
            "adding up the densities, as if each point had the area 1": lambda log_p: np.sum(
                np.exp(log_p)
            ),
        },
        because="Evenly spread points are enough: a torus has no edge that they could miss.",
    ),
]
