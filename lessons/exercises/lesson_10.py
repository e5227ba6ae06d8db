"""Exercises of lesson 10: images."""

import numpy as np
from checker import Exercise

_rng = np.random.default_rng(10)


def _bound_and_truth(log_p):
    top = log_p.max(axis=0)
    return log_p.mean(axis=0), top + np.log(np.exp(log_p - top).mean(axis=0))


def _underflowing(log_p):
    return log_p.mean(axis=0), np.log(np.exp(log_p).mean(axis=0))


def _over_pictures(log_p):
    return _bound_and_truth(log_p.T)


def _sum_for_mean(log_p):
    bound, truth = _bound_and_truth(log_p)
    return bound, truth + np.log(len(log_p))


def _logit(share, lam):
    shrunk, rest = lam + (1 - 2 * lam) * share, lam + (1 - 2 * lam) * (1 - share)
    log_slope = np.log1p(-2 * lam) - np.log(shrunk) - np.log(rest)
    return np.log(shrunk) - np.log(rest), log_slope.sum(axis=1)


def _without_the_shrinking(share, lam):
    logits, log_det = _logit(share, lam)
    return logits, log_det - share.shape[1] * np.log1p(-2 * lam)


def _upside_down(share, lam):
    logits, log_det = _logit(share, lam)
    return logits, -log_det


def _bits(log_p, D, levels):
    return -log_p / (D * np.log(2)) + np.log2(levels)


def _from_logits(log_p, x, lam, K):
    log_det = _logit(x / K, lam)[1]
    return _bits(log_p + log_det, x.shape[1], K)


def _without_division(log_p, x, lam, K):
    return _bits(log_p + _logit(x / K, lam)[1], x.shape[1], 1)


def _wrong_way(log_p, x, lam, K):
    return _bits(log_p - _logit(x / K, lam)[1], x.shape[1], K)


def _forgotten_logit(log_p, x, lam, K):
    return _bits(log_p, x.shape[1], K)


EXERCISES = [
    Exercise(
        "spikes",
        answer="c",
        prediction=True,
        hints=(
            "How high is a spike of area one, when it is half as wide?",
            "Twice as high, and every pixel stands exactly on top of one.",
        ),
        mistakes={
            "thinking of a spike that misses the data": "a",
            "thinking of probabilities, which cannot be above one; densities can": "b",
        },
        because="Half as wide is twice as high, and log 2 can be had again and again.",
    ),
    Exercise(
        "bound_and_truth",
        answer=_bound_and_truth,
        cases=[
            (np.array([[0.0, -1.0], [-2.0, -1.0]]),),
            (_rng.normal(-3, 1, (5, 4)),),
            (_rng.normal(-2000, 10, (8, 3)),),
        ],
        hints=(
            "The draws are along axis 0. The bound averages logarithms, the truth averages "
            "densities.",
            "Subtract the largest log p of each column before np.exp, and add it again after "
            "np.log.",
        ),
        mistakes={
            "taking np.exp of -2000, which is zero": _underflowing,
            "averaging over the pictures instead of the draws": _over_pictures,
            "adding the draws up where their mean was asked for": _sum_for_mean,
        },
        because="The first is never above the second. With few draws, the second is still too low.",
    ),
    Exercise(
        "logit",
        answer=_logit,
        cases=[
            (np.array([[0.5, 0.25]]), 0.05),
            (_rng.uniform(0, 1, (4, 3)), 1e-2),
            (np.array([[0.0, 1.0], [0.3, 0.9]]), 1e-6),
        ],
        hints=(
            "shrunk first. Then its logit is the difference of two logarithms.",
            "The slope is 1 / (shrunk (1 - shrunk)) for the logit, and a constant for the "
            "shrinking: a sum of logarithms, over all pixels.",
        ),
        mistakes={
            "forgetting that the share was shrunk by 1 - 2 lambda first": _without_the_shrinking,
            "giving the log-determinant of the way back": _upside_down,
            "giving a log-determinant for each pixel instead of their sum": lambda share, lam: (
                _logit(share, lam)[0],
                np.log1p(-2 * lam)
                - np.log(lam + (1 - 2 * lam) * share)
                - np.log(lam + (1 - 2 * lam) * (1 - share)),
            ),
        },
        because="The term is largest for black and white pixels: there the line is stretched most.",
        tolerance=1e-7,
    ),
    Exercise(
        "bits",
        answer=_bits,
        cases=[
            (np.array([-64.0, 0.0]), 64, 1),
            (np.array([-100.0, 250.0, 0.0]), 64, 256),
            (_rng.normal(0, 100, 5), 784, 256),
        ],
        hints=(
            "Turn the sign, divide by D and by np.log(2). Then the unit: what is a density per "
            "level?",
            "Per level it is smaller by the factor levels in each dimension: + np.log2(levels).",
        ),
        mistakes={
            "leaving out the unit": lambda log_p, D, levels: -log_p / (D * np.log(2)),
            "turning the unit's sign": lambda log_p, D, levels: (
                -log_p / (D * np.log(2)) - np.log2(levels)
            ),
            "adding the unit once a picture instead of once a dimension": lambda log_p, D, levels: (
                (-log_p / np.log(2) + np.log2(levels)) / D
            ),
        },
        because="Nats, dimensions, sign and unit: all four must be right.",
    ),
    Exercise(
        "uniform_bits",
        answer=float(np.log2(17)),
        prediction=True,
        hints=(
            "In one dimension: how many yes-or-no questions find one of 17 levels?",
            "log p = -64 log 17, divided by -64 log 2.",
        ),
        mistakes={
            "counting in nats": float(np.log(17)),
            "counting whole bits, which a clever coder need not": 5,
            "giving the bits of the whole picture": float(64 * np.log2(17)),
        },
        because="Any model worth its name must stay below.",
    ),
    Exercise(
        "from_logits",
        answer=_from_logits,
        cases=[
            (np.array([-80.0, -75.0]), _rng.uniform(0, 17, (2, 64)), 1e-6, 17),
            (np.array([-3.0]), np.array([[100.0, 200.0]]), 0.05, 256),
            (_rng.normal(-10, 5, 4), _rng.uniform(0, 256, (4, 6)), 1e-6, 256),
        ],
        hints=(
            "Two steps lead from x to the logits, and both have log-determinants: the division "
            "by K, and the logit.",
            "log p(x) is log_p, plus the log-determinant of logit(x / K, lam), minus D log K; "
            "then bits per dimension.",
        ),
        mistakes={
            "leaving out the division by K": _without_division,
            "leaving out the logit": _forgotten_logit,
            "subtracting the logit's log-determinant instead of adding it": _wrong_way,
        },
        because="Now numbers of different papers can be laid side by side.",
        tolerance=1e-7,
    ),
]
