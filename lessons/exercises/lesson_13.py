"""Exercises of lesson 13: what people do with it."""

import numpy as np
from checker import Exercise

_rng = np.random.default_rng(13)
_BOLTZMANN = 0.0083145


def _crps(samples, x):
    S = len(samples)
    apart = np.abs(samples[:, None] - samples).sum() / (S * (S - 1))
    return np.abs(samples - x).mean() - apart / 2


def _free_energy(log_p, kelvin):
    return -_BOLTZMANN * kelvin * (log_p - log_p.max())


def _effective(log_w):
    w = np.exp(log_w - log_w.max())
    return w.sum() ** 2 / (w**2).sum()


def _auroc(normal, outliers):
    apart = outliers[:, None] - normal
    return np.mean((apart > 0) + 0.5 * (apart == 0))


_LOG_P = _rng.normal(-2, 1, (4, 5))
_LOG_W = _rng.normal(0, 1, 30)

EXERCISES = [
    Exercise(
        "kilobytes",
        answer=lambda log_p, samples: -np.mean(log_p) / np.log(2) * samples / 8 / 1000,
        cases=[(np.array([-5.0, -7.0, -6.0]), 1000), (_rng.normal(-6, 1, 50), 48_000)],
        hints=(
            "Nats to bits: divide by the natural logarithm of 2. And mind the sign.",
            "There are so many samples; 8 bits are a byte, 1000 bytes a kilobyte.",
        ),
        mistakes={
            "counting nats for bits": lambda log_p, samples: -np.mean(log_p) * samples / 8000,
            "counting bits for bytes": lambda log_p, samples: (
                -np.mean(log_p) / np.log(2) * samples / 1000
            ),
            "leaving the sign: a file of negative size": lambda log_p, samples: (
                np.mean(log_p) / np.log(2) * samples / 8000
            ),
        },
        because="Every bit of a better likelihood is a bit less to store.",
    ),
    Exercise(
        "crps",
        answer=_crps,
        cases=[
            (np.array([0.0, 1.0]), 0.5),
            (_rng.normal(70, 10, 20), 64.0),
            (np.array([3.0, 3.0, 3.0]), 5.0),
        ],
        hints=(
            "np.abs(samples[:, None] - samples) holds |X - X'| for all pairs, zeros on the "
            "diagonal.",
            "Divide its sum by S (S - 1), the number of ordered pairs of different draws, and "
            "halve it.",
        ),
        mistakes={
            "averaging over S * S pairs, those of a draw with itself included": lambda samples, x: (
                np.abs(samples - x).mean() - np.abs(samples[:, None] - samples).mean() / 2
            ),
            "forgetting to halve the second mean": lambda samples, x: (
                2 * _crps(samples, x) - np.abs(samples - x).mean()
            ),
            "giving the mean error alone": lambda samples, x: np.abs(samples - x).mean(),
        },
        because="The second term pays for spread that was honestly announced.",
    ),
    Exercise(
        "free_energy",
        answer=_free_energy,
        cases=[(_LOG_P, 300.0), (_LOG_P[0], 600.0)],
        hints=(
            "-0.0083145 kelvin log_p is the free energy, up to a constant.",
            "Subtract the smallest value of the result, so that the lowest is 0.",
        ),
        mistakes={
            "leaving the constant as it came": lambda log_p, kelvin: -_BOLTZMANN * kelvin * log_p,
            "turning the energy upside down: what is probable lies low": lambda log_p, kelvin: (
                _BOLTZMANN * kelvin * (log_p - log_p.min())
            ),
            "leaving out the temperature": lambda log_p, kelvin: (
                -_BOLTZMANN * (log_p - log_p.max())
            ),
        },
        because="A factor of ten in probability is 5.7 kJ/mol at room temperature.",
    ),
    Exercise(
        "effective",
        answer=_effective,
        cases=[(np.zeros(8),), (_LOG_W,), (_LOG_W * 3 - 5000.0,)],
        hints=(
            "A common factor of all weights cancels: subtract log_w.max() before np.exp.",
            "The square of a sum, over a sum of squares: equal weights give their number, "
            "one large weight gives 1.",
        ),
        mistakes={
            "taking exponentials first, which underflow": lambda log_w: (
                np.exp(log_w).sum() ** 2 / (np.exp(log_w) ** 2).sum()
            ),
            "dividing by the number of draws, which gives a share": lambda log_w: (
                _effective(log_w) / len(log_w)
            ),
            "counting the logarithms instead of the weights": lambda log_w: (
                log_w.sum() ** 2 / (log_w**2).sum()
            ),
        },
        because="All weights equal: N draws count for N. One weight huge: they count for one.",
    ),
    Exercise(
        "auroc",
        answer=_auroc,
        cases=[
            (np.array([1.0, 2.0, 3.0]), np.array([2.0, 5.0])),
            (_rng.standard_normal(40), _rng.standard_normal(30) + 1),
            (np.zeros(4), np.zeros(3)),
        ],
        hints=(
            "outliers[:, None] > normal compares all pairs.",
            "The mean of that, plus half the mean of outliers[:, None] == normal.",
        ),
        mistakes={
            "counting equal scores as wins": lambda normal, outliers: np.mean(
                outliers[:, None] >= normal
            ),
            "not counting equal scores at all": lambda normal, outliers: np.mean(
                outliers[:, None] > normal
            ),
            "asking for the normal ones to score higher": lambda normal, outliers: (
                1 - _auroc(normal, outliers)
            ),
        },
        because="No threshold had to be chosen.",
    ),
    Exercise(
        "easier",
        answer="a",
        prediction=True,
        hints=(
            "Which of the two shapes is more like parts of other digits?",
            "A one is a stroke; sevens, fours and nines have it too. A zero is a ring with a hole.",
        ),
        mistakes={
            "expecting the simplest shape to be the most surprising": "b",
            "expecting all that was never seen to be improbable": "c",
        },
        because="Never seen is not the same as improbable.",
    ),
]
