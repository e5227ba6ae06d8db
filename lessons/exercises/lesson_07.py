"""Exercises of lesson 07: sampling."""

import numpy as np
from checker import Exercise

from afnp.networks import masks

_rng = np.random.default_rng(7)


def _made(D, H):
    """Return weights of a small masked network, with its function conditionals(x) -> mu, alpha."""
    m, features = masks.degrees_of_hidden(H, D), np.arange(1, D + 1)
    M0, M1 = m[:, None] >= features, np.repeat(features[:, None] > m, 2, axis=0)
    W0, W1 = M0 * _rng.standard_normal((H, D)), 0.3 * M1 * _rng.standard_normal((2 * D, H))

    def conditionals(x):
        h = np.maximum(x @ W0.T, 0) @ W1.T
        return h[:, 0::2], np.tanh(h[:, 1::2])

    return conditionals


def _naive(u, conditionals):
    x = np.zeros_like(u)
    for i in range(u.shape[1]):
        mu, alpha = conditionals(x)
        x[:, i] = mu[:, i] + np.exp(alpha[:, i]) * u[:, i]
    return x


def _one_pass(u, conditionals):
    mu, alpha = conditionals(u)
    return mu + np.exp(alpha) * u


def _one_short(u, conditionals):
    x = np.zeros_like(u)
    for _ in range(u.shape[1] - 1):
        mu, alpha = conditionals(x)
        x = mu + np.exp(alpha) * u
    return x


def _forward_substitution(L, u):
    x = np.zeros(len(u))
    for i in range(len(u)):
        x[i] = (u[i] - L[i, :i] @ x[:i]) / L[i, i]
    return x


def _no_division(L, u):
    x = np.zeros(len(u))
    for i in range(len(u)):
        x[i] = u[i] - L[i, :i] @ x[:i]
    return x


def _system(D):
    L = np.tril(_rng.standard_normal((D, D)), -1) + np.diag(_rng.uniform(0.5, 2, D))
    return L, _rng.standard_normal(D)


def _multiplications(prefixes, D):
    return D * sum(int(prefix.sum()) for prefix in prefixes), sum(
        int(prefix.sum()) for prefix in prefixes
    )


_STAIRS = [np.array([1, 1, 2, 2]), np.array([0, 0, 2, 2, 4, 4])]

EXERCISES = [
    Exercise(
        "naive",
        answer=_naive,
        cases=[
            (_rng.standard_normal((2, 1)), _made(1, 2)),
            (_rng.standard_normal((4, 3)), _made(3, 6)),
            (_rng.standard_normal((5, 6)), _made(6, 10)),
        ],
        hints=(
            "Begin with x full of zeros. In round i, call conditionals(x), and fill in column "
            "i alone.",
            "In round i the columns before i are right, so column i of mu and alpha is: the "
            "formula of the text, for that column.",
        ),
        mistakes={
            "calling the network once, on the noise: its past was noise, not data": _one_pass,
            "going round once too few: the last feature never hears the one before it": _one_short,
        },
        because="Correct, and wasteful: each round computes everything, and keeps one column.",
    ),
    Exercise(
        "wasted",
        answer=63 / 64,
        prediction=True,
        hints=(
            "With D = 64 the network runs 64 times. In how many of these runs is a given "
            "hidden unit of use?",
            "Each unit need be computed once: when the last feature that it hears is known.",
        ),
        mistakes={"guessing a half, which is the share of zeros in the masks": 0.5},
        because="For a given unit one run in 64 is of use: before it too early, after it again.",
    ),
    Exercise(
        "units_of_degree",
        answer=lambda degrees, i: (
            int(np.searchsorted(degrees, i)),
            int(np.searchsorted(degrees, i, side="right")),
        ),
        cases=[
            (np.array([1, 1, 2, 3, 3, 3]), 1),
            (np.array([1, 1, 2, 3, 3, 3]), 3),
            (np.array([1, 3, 3]), 2),
            (np.array([1, 2, 3]), 4),
        ],
        hints=(
            "The degrees are sorted, so units of one degree lie side by side: find where they "
            "start and stop.",
            "np.searchsorted finds the place of i in a sorted array; its argument side says: "
            "before its equals, or behind.",
        ),
        mistakes={
            "giving the last unit instead of the place after it": lambda degrees, i: (
                int(np.searchsorted(degrees, i)),
                int(np.searchsorted(degrees, i, side="right")) - 1,
            ),
            "giving everything known so far instead of what is new": lambda degrees, i: (
                0,
                int(np.searchsorted(degrees, i, side="right")),
            ),
        },
        because="Two integers: the rows of a weight matrix that a new feature switches on.",
    ),
    Exercise(
        "forward_substitution",
        answer=_forward_substitution,
        cases=[_system(1), _system(3), _system(8)],
        hints=(
            "Row i of L x = u has one unknown that is not known yet: x_i itself.",
            "Bring what L[i, :i] makes of the known x to the other side; the diagonal entry "
            "is left as x_i's factor.",
        ),
        mistakes={
            "forgetting to divide by the diagonal": _no_division,
            "looking at the diagonal only": lambda L, u: u / np.diagonal(L),
        },
        because="One pass over L, although every step waits for the one before it.",
    ),
    Exercise(
        "multiplications",
        answer=_multiplications,
        cases=[(_STAIRS, 3), ([np.array([1, 2, 3])], 4), ([*_STAIRS, np.array([6, 6])], 5)],
        hints=(
            "A row that reads its first prefix inputs costs prefix multiplications: add up all "
            "prefixes.",
            "The loop does this D times. Substitution does it once.",
        ),
        mistakes={
            "counting rows instead of what they read": lambda prefixes, D: (
                D * sum(len(prefix) for prefix in prefixes),
                sum(len(prefix) for prefix in prefixes),
            ),
            "letting substitution pay for each feature, too": lambda prefixes, D: (
                D * sum(int(prefix.sum()) for prefix in prefixes),
                D * sum(int(prefix.sum()) for prefix in prefixes),
            ),
        },
        because="A factor of D exactly: sampling does the work of one density pass.",
    ),
]
