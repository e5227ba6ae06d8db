"""Exercises of lesson 02: from conditionals to a flow."""

import numpy as np
from checker import Exercise

from afnp.chain_rule import GaussianChain

_rng = np.random.default_rng(2)


def _log_normal(u):
    return -0.5 * (u**2 + np.log(2 * np.pi))


def _banana(x):
    return x[:, :1], (x[:, 1:] - 0.6 * x[:, :1] ** 2) * np.exp(-0.4 * x[:, :1])


def _normalize(x):
    return np.concatenate(_banana(x), axis=1)


def _cholesky(cov):
    return GaussianChain(np.zeros(len(cov)), cov).cholesky


def _conditional(mean, cov, x1):
    return mean[1] + cov[1, 0] / cov[0, 0] * (x1 - mean[0]), np.sqrt(
        cov[1, 1] - cov[1, 0] ** 2 / cov[0, 0]
    )


EXERCISES = [
    Exercise(
        "log_density",
        answer=lambda x: _log_normal(np.log(x)) - np.log(x),
        cases=[(np.array([1.0]),), (np.array([0.2, 2.0, 5.0]),), (_rng.uniform(0.01, 9, 7),)],
        hints=(
            "The noise that makes x is u = log(x): put it into log p(u) = -(u**2 + log(2 pi)) / 2.",
            "Then add the logarithm of du/dx, and du/dx = 1/x.",
        ),
        mistakes={
            "leaving out the slope du/dx": lambda x: _log_normal(np.log(x)),
            "adding log dx/du instead of log du/dx: the sign is turned": lambda x: (
                _log_normal(np.log(x)) + np.log(x)
            ),
            "putting x itself into the normal density": lambda x: _log_normal(x) - np.log(x),
        },
        because="This is the log-normal distribution, and you needed no table of distributions.",
    ),
    Exercise(
        "exponential",
        answer=lambda v: -np.log(1 - v),
        cases=[(np.array([0.0]),), (np.array([0.5, 0.9]),), (_rng.random(6),)],
        hints=(
            "The share of the distribution below x is F(x) = 1 - exp(-x). Which x has the "
            "share v below it?",
            "Solve v = 1 - exp(-x) for x.",
        ),
        mistakes={
            "returning F(v) instead of its inverse": lambda v: 1 - np.exp(-v),
            (
                "taking -log(v), which falls where it should rise (and is infinite at v = 0)"
            ): lambda v: -np.log(v),
        },
        because=(
            "The step of lesson 01 has become a smooth curve: the inverse of the cumulative "
            "distribution."
        ),
    ),
    Exercise(
        "normalize",
        answer=_normalize,
        cases=[
            (np.array([[0.0, 0.0]]),),
            (np.array([[1.0, 2.0], [-1.0, 0.3]]),),
            (_rng.standard_normal((5, 2)),),
        ],
        hints=(
            "u_1 = x_1. With x_1 known, solve x_2 = mu(x_1) + exp(alpha(x_1)) u_2 for u_2.",
            "Subtract the shift first, then divide by the scale exp(alpha(x_1)). "
            "np.stack(..., axis=1) joins the columns.",
        ),
        mistakes={
            "multiplying by exp(+alpha) instead of exp(-alpha)": lambda x: np.stack(
                [x[:, 0], (x[:, 1] - 0.6 * x[:, 0] ** 2) * np.exp(0.4 * x[:, 0])], axis=1
            ),
            "scaling before shifting": lambda x: np.stack(
                [x[:, 0], x[:, 1] * np.exp(-0.4 * x[:, 0]) - 0.6 * x[:, 0] ** 2], axis=1
            ),
        },
        because=(
            "Data in, noise out. Unlike generate, it needs no waiting: all of x is there from "
            "the start."
        ),
    ),
    Exercise(
        "two_points",
        answer="c",
        prediction=True,
        hints=(
            "The area of a small tile is multiplied by the determinant of the map's derivative.",
            "The bend sits in the lower left corner of that matrix: does the determinant look "
            "at it?",
        ),
        mistakes={"thinking that a longer, more slanted tile is a larger one": "a"},
        because=(
            "A slanted tile is longer and thinner: a shear moves probability about without "
            "diluting it."
        ),
    ),
    Exercise(
        "cholesky",
        answer=_cholesky,
        cases=[
            (np.array([[4.0, 2.0], [2.0, 2.0]]),),
            (np.array([[1.0, -0.6], [-0.6, 1.0]]),),
            (np.diag([9.0, 0.25]),),
        ],
        hints=(
            "x_1 = L_11 u_1 has variance L_11**2; and the covariance of x_1 and x_2 is L_11 L_21.",
            "The variance of x_2 is L_21**2 + L_22**2: subtract what u_1 explains, then take "
            "the root.",
        ),
        mistakes={
            "returning the transpose: u_1 must reach both features": lambda cov: _cholesky(cov).T,
            "leaving variances where standard deviations belong": lambda cov: np.array(
                [
                    [cov[0, 0], 0],
                    [cov[1, 0] / np.sqrt(cov[0, 0]), cov[1, 1] - cov[1, 0] ** 2 / cov[0, 0]],
                ]
            ),
            "forgetting to subtract what u_1 already explains": lambda cov: np.array(
                [[np.sqrt(cov[0, 0]), 0], [cov[1, 0] / np.sqrt(cov[0, 0]), np.sqrt(cov[1, 1])]]
            ),
        },
        because=(
            "L times its transpose is cov again: you factored a covariance by thinking about noise."
        ),
    ),
    Exercise(
        "given",
        answer=_conditional,
        cases=[
            (np.zeros(2), np.array([[1.0, 0.5], [0.5, 1.0]]), 2.0),
            (np.array([1.0, -1.0]), np.array([[4.0, 2.0], [2.0, 2.0]]), 0.0),
            (np.array([0.5, 3.0]), np.array([[2.0, -1.0], [-1.0, 3.0]]), -1.5),
        ],
        hints=(
            "From x = mean + L u: seeing x_1 tells u_1 = (x_1 - mean_1) / L_11. Put it into the "
            "second row.",
            "x_2 = mean_2 + L_21 u_1 + L_22 u_2, and only u_2 is still unknown: it has mean 0 and "
            "deviation 1.",
        ),
        mistakes={
            "keeping the whole deviation of x_2, as if x_1 told nothing": lambda mean, cov, x1: (
                mean[1] + cov[1, 0] / cov[0, 0] * (x1 - mean[0]),
                np.sqrt(cov[1, 1]),
            ),
            "returning the variance instead of the standard deviation": lambda mean, cov, x1: (
                mean[1] + cov[1, 0] / cov[0, 0] * (x1 - mean[0]),
                cov[1, 1] - cov[1, 0] ** 2 / cov[0, 0],
            ),
            "forgetting to subtract the mean of x_1": lambda mean, cov, x1: (
                mean[1] + cov[1, 0] / cov[0, 0] * x1,
                np.sqrt(cov[1, 1] - cov[1, 0] ** 2 / cov[0, 0]),
            ),
        },
        because=(
            "Linear mean, constant spread: a flow is what comes when both may be any function "
            "of the past."
        ),
    ),
]
