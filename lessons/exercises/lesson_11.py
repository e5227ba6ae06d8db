"""Exercises of lesson 11: conditions."""

import math

import numpy as np
from checker import Exercise

import afnp
from afnp.verify import randomize

_rng = np.random.default_rng(11)


def _hears(f, x, c):
    base = f(x[None], c[None])[0]
    moved = [f(x[None], (c + 1.5 * unit)[None])[0] != base for unit in np.eye(len(c))]
    return np.stack(moved, axis=1)


def _any_at_once(f, x, c):
    moved = f(x[None], c[None] + 1.5)[0] != f(x[None], c[None])[0]
    return np.repeat(moved[:, None], len(c), axis=1)


def _map_that_hears(pattern):
    """Return u = f(x, c) in which u_i hears c_j where the pattern says so, sometimes softly."""
    D = len(pattern)
    weights = np.asarray(pattern) * np.geomspace(1, 1e-6, D)[:, None]
    L = np.tril(np.random.default_rng(D).standard_normal((D, D)), -1)

    def u(x, c):
        return x + np.tanh(x) @ L.T + np.tanh(c) @ weights.T

    return u


def _phi(u):
    return np.array([0.5 * math.erfc(-float(value) / math.sqrt(2)) for value in u])


def _flow(seed, context):
    """Return a flow of one feature, and rows of it with their conditions."""
    flow = randomize(
        afnp.maf(1, hidden=(8,), transforms=2, context=context, activation="tanh"), seed=seed
    )
    c = _rng.standard_normal((12, context))
    u = np.linspace(-2, 2, 12)[:, None]
    return flow, flow.generate(u, c, backend="numpy")[0], c


def _pit(flow, x, c):
    return _phi(flow.normalize(x, c, backend="numpy")[0][:, 0])


def _posterior(log_p, prior):
    joint = log_p + np.log(prior)
    weights = np.exp(joint - joint.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _posterior_that_underflows(log_p, prior):
    joint = np.exp(log_p) * prior
    return joint / joint.sum(axis=1, keepdims=True)


def _over_rows(log_p, prior):
    weights = np.exp(log_p - log_p.max()) * prior
    return weights / weights.sum(axis=0)


_LOG_P = np.array([[-1.0, -2.0, -0.5], [-3.0, -1.0, -1.5]])
_PRIOR = np.array([0.5, 0.3, 0.2])
_F = np.concatenate([[0.004, 0.03, 0.97, 0.999], np.linspace(0.11, 0.93, 30)])

EXERCISES = [
    Exercise(
        "listeners",
        answer=(2, 3, 4),
        any_length=True,
        prediction=True,
        hints=(
            "The outputs for feature i hear hidden units of degree less than i. Go through the "
            "four.",
            "Which hidden units have a degree less than 1?",
        ),
        mistakes={
            "expecting that whoever stands behind the hidden units hears what they hear": (
                1,
                2,
                3,
                4,
            ),
            "expecting the condition to act like a feature in front: only the next one hears it": (
                1,
            ),
        },
        because=(
            "The first feature listens to no hidden unit at all, so what they know is lost on it."
        ),
    ),
    Exercise(
        "hears",
        answer=_hears,
        cases=[
            (_map_that_hears([[1, 1], [1, 1], [1, 1]]), np.zeros(3), np.zeros(2)),
            (_map_that_hears([[0, 0, 0], [1, 0, 1]]), np.array([0.3, -1.0]), np.ones(3) / 2),
            (_map_that_hears([[1, 0], [0, 1], [1, 1], [0, 0]]), np.full(4, 0.2), np.zeros(2)),
        ],
        hints=(
            "base = f(x[None], c[None])[0]; then do the same with a c in which one number is "
            "changed.",
            "Compare with !=, not with a tolerance. One column for each number of the condition.",
        ),
        mistakes={
            "putting the conditions in the rows: row i belongs to u_i": lambda f, x, c: (
                _hears(f, x, c).T
            ),
            "moving all of the condition at once": _any_at_once,
            "calling small changes none": lambda f, x, c: np.stack(
                [
                    abs(f(x[None], (c + unit)[None])[0] - f(x[None], c[None])[0]) > 1e-3
                    for unit in np.eye(len(c))
                ],
                axis=1,
            ),
        },
        because=(
            "Two calls for each number of the condition, compared bit by bit: no mask can lie "
            "to you."
        ),
    ),
    Exercise(
        "pit",
        answer=_pit,
        cases=[_flow(0, 1), _flow(1, 3)],
        hints=(
            "The probability below x is the probability of noise below u(x; c), and Phi knows "
            "that one.",
            "The flow's normalize takes x and c; its noise has one column. Phi is 1/2 "
            "erfc(-u / sqrt(2)), number by number.",
        ),
        mistakes={
            "giving the probability above the truth": lambda flow, x, c: 1 - _pit(flow, x, c),
            (
                "giving the density at the truth instead of the probability below it"
            ): lambda flow, x, c: np.exp(flow.log_prob(x, c)),
            "giving the density of the noise": lambda flow, x, c: (
                np.exp(-0.5 * flow.normalize(x, c)[0][:, 0] ** 2) / np.sqrt(2 * np.pi)
            ),
        },
        because="A cumulative distribution without an integral: the flow has done it already.",
        tolerance=1e-8,
    ),
    Exercise(
        "too_sure",
        answer="c",
        prediction=True,
        hints=(
            "Where does the truth come to lie, again and again, if the claimed density is too "
            "narrow?",
            "Far out in its tails: F near 0, or near 1.",
        ),
        mistakes={
            "taking narrow densities for a narrow histogram": "b",
            "forgetting that F is uniform only if the densities are right": "a",
            "describing densities in the wrong place instead": "d",
        },
        because="Too many truths in the tails. Densities that are too wide make the hump.",
    ),
    Exercise(
        "coverage",
        answer=lambda F, share: np.mean(np.abs(F - 0.5) < share / 2),
        cases=[(_F, 0.9), (_F, 0.5), (_rng.beta(0.6, 0.6, 200), 0.9)],
        hints=(
            "The central interval that holds a share leaves (1 - share) / 2 of the density on "
            "each side.",
            "So the truth is inside where F lies between (1 - share) / 2 and (1 + share) / 2.",
        ),
        mistakes={
            "taking the interval from the lower end instead of the middle": lambda F, share: (
                np.mean(F < share)
            ),
            "cutting 1 - share from both sides instead of half of it from each": lambda F, share: (
                np.mean((1 - share < F) & (share > F))
            ),
            "counting the truths outside": lambda F, share: np.mean(np.abs(F - 0.5) >= share / 2),
        },
        because="One number for one promise; the histogram of F holds all of them at once.",
    ),
    Exercise(
        "posterior",
        answer=_posterior,
        cases=[
            (_LOG_P, _PRIOR),
            (_LOG_P, np.full(3, 1 / 3)),
            (_LOG_P * 7 - 2000.0, _PRIOR),
        ],
        hints=(
            "Add log(prior) to each column: that is the logarithm of Bayes' numerator.",
            "Subtract each row's maximum before np.exp: numerator and denominator shrink alike.",
        ),
        mistakes={
            (
                "taking exponentials first, which are all 0 from -746 nats on"
            ): _posterior_that_underflows,
            "leaving out the prior": lambda log_p, prior: _posterior(log_p, np.ones_like(prior)),
            "dividing by the sum over images instead of that over classes": _over_rows,
        },
        because="Ten densities, one rule of 1763, and a generator has become a reader.",
    ),
]
