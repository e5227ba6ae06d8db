"""Exercises of lesson 01: the chain rule."""

import numpy as np
from checker import Exercise

from afnp.chain_rule import factorize

_rng = np.random.default_rng(1)


def _table(*levels):
    p = _rng.random(levels)
    return p / p.sum()


def _row_log_prob(conditionals, x):
    return sum(np.log(p[tuple(x[: i + 1])]) for i, p in enumerate(conditionals))


def _level(p, v):
    return int((np.cumsum(p) <= v).sum())


def _counts(levels):
    return [int(np.prod(levels[:i])) * (K - 1) for i, K in enumerate(levels)]


ALARM = np.zeros((2, 2, 2))
"""p[burglars, earthquake, alarm]; the first two know nothing of each other."""
for _burglars, _earthquake, _rings in [(0, 0, 0.01), (0, 1, 0.5), (1, 0, 0.9), (1, 1, 0.95)]:
    ALARM[_burglars, _earthquake] = (
        (0.9, 0.1)[_burglars] * (0.8, 0.2)[_earthquake] * np.array([1 - _rings, _rings])
    )


def _judge_order(order):
    try:
        second = factorize(ALARM, order)[1]
    except ValueError as error:
        return str(error)
    if np.allclose(second[0], second[1]):
        return None
    rows = " and ".join(str(row.round(3)) for row in second)
    return f"in the order {list(order)} the second factor has the rows {rows}"


EXERCISES = [
    Exercise(
        "conditional",
        answer=lambda p: factorize(p)[1],
        cases=[(np.array([[0.6, 0.1], [0.0, 0.3]]),), (_table(3, 2),), (_table(2, 5),)],
        hints=(
            "p(x_2 | x_1) is p(x_1, x_2) / p(x_1), and p(x_1) is the sum over x_2, the last axis.",
            "keepdims=True in p.sum(...) leaves an axis of length one, and the division "
            "broadcasts.",
        ),
        mistakes={
            "dividing by p(x_2) instead of p(x_1)": lambda p: p / p.sum(axis=0),
            "summing over the right axis, but dividing columns instead of rows": lambda p: (
                p / p.sum(axis=1)
            ),
        },
        because="Every row sums to one: given x_1, it is a distribution over x_2.",
    ),
    Exercise(
        "thousand",
        answer="b",
        prediction=True,
        hints=(
            "The smallest number that float64 can hold is about 5e-324.",
            "Nothing here is undefined, so it is not NaN; and 0.3 ** 1000 is about 1e-523.",
        ),
        mistakes={"forgetting that a float64 has a smallest exponent": "a"},
        because="The next cell shows it.",
    ),
    Exercise(
        "row_log_prob",
        answer=_row_log_prob,
        cases=[
            (factorize(_table(2, 2)), (1, 0)),
            (factorize(_table(2, 3, 2)), (0, 2, 1)),
            ([np.array([0.0, 1.0]), np.full((2, 2), 0.5)], (0, 1)),
        ],
        hints=(
            "Factor number i is indexed by the first i + 1 entries of x: "
            "conditionals[i][tuple(x[: i + 1])].",
            "Take the logarithm of each such entry, and add them up.",
        ),
        mistakes={
            "multiplying the logarithms instead of adding them": lambda conditionals, x: np.prod(
                [np.log(p[tuple(x[: i + 1])]) for i, p in enumerate(conditionals)]
            ),
            "leaving out the logarithm": lambda conditionals, x: np.prod(
                [p[tuple(x[: i + 1])] for i, p in enumerate(conditionals)]
            ),
        },
        because="It is the exact log-probability; no sum over all other events was needed.",
    ),
    Exercise(
        "level",
        answer=_level,
        cases=[
            (np.array([0.5, 0.5]), 0.7),
            (np.array([0.2, 0.5, 0.3]), 0.1),
            (np.array([0.2, 0.5, 0.3]), 0.69),
        ]
        + [(np.array([0.0, 1.0]), 0.0), (np.array([0.25, 0.25, 0.5]), 0.25)],
        hints=(
            "np.cumsum(p) gives the right ends of the intervals on which the levels lie.",
            "Count how many of those ends are at or below v: that is the level.",
        ),
        mistakes={
            (
                "counting only the ends below v, so that a v on an edge falls one too low"
            ): lambda p, v: int((np.cumsum(p) < v).sum()),
            "taking the most likely level whatever the noise is": lambda p, v: int(np.argmax(p)),
        },
        because="Noise in, data out: this is a flow already, with steps instead of slopes.",
    ),
    Exercise(
        "free_numbers",
        answer=_counts,
        cases=[((2, 2, 2),), ((3, 4),), ((2, 5, 3, 2),), ((7,),)],
        hints=(
            "A distribution over K levels has K - 1 free numbers, because they sum to one.",
            "There is one such distribution for each past, and there are K_1 K_2 ... K_(i-1) "
            "pasts.",
        ),
        mistakes={
            "forgetting that each distribution sums to one": lambda levels: [
                int(np.prod(levels[: i + 1])) for i in range(len(levels))
            ],
            "forgetting that there is one distribution for each past": lambda levels: [
                K - 1 for K in levels
            ],
        },
        because=(
            "They add up to K_1 ... K_D - 1 in every order: the chain rule by itself saves nothing."
        ),
    ),
    Exercise(
        "quiet_order",
        answer=(0, 1, 2),
        judge=_judge_order,
        hints=(
            "Which two of the three know nothing of each other before the alarm is heard?",
            "Put the two causes first, in either order.",
        ),
        mistakes={"putting the effect before a cause": (2, 0, 1)},
        because=(
            "The second factor is the same in both rows: it does not listen. With the alarm "
            "first, it must."
        ),
    ),
]
