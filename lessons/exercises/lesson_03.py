"""Exercises of lesson 03: the triangular Jacobian."""

import numpy as np
from checker import Exercise

from afnp.verify import complex_step_jacobian

_rng = np.random.default_rng(3)


def _u(x):
    """Return the lesson's flow of three features for rows x (N, 3)."""
    x1, x2, x3 = x.T
    u1 = (x1 - 0.5) * np.exp(-0.2)
    u2 = (x2 - np.sin(x1)) * np.exp(-0.3 * x1)
    return np.stack([u1, u2, (x3 - x1 * x2) * np.exp(-np.tanh(x2))], axis=1)


def _third_row(x):
    return complex_step_jacobian(_u, x[None])[0, 2]


def _without_the_scale_in_x2(x):
    return np.array([-x[1], -x[0], 1.0]) * np.exp(-np.tanh(x[1]))


def _cofactor_det(J):
    return float(np.linalg.det(J))


def _log_det(J):
    return float(np.log(np.abs(np.diagonal(J))).sum())


def _lower(D):
    return np.tril(_rng.standard_normal((D, D)), -1) + np.diag(_rng.uniform(0.2, 2, D))


def _leaky(i, j, size=1e-7):
    """Return a map of five features that is triangular but for one dependency, of u_i on x_j."""
    weights = np.tril(np.random.default_rng(i + 7 * j).standard_normal((5, 5)))
    weights[i, j] = size

    def u_of_x(x):
        return np.tanh(x) @ weights.T

    u_of_x.__name__ = f"u_{i}{j}"
    return u_of_x


def _leak(f, x):
    J = complex_step_jacobian(f, x[None])[0]
    i, j = np.argwhere(np.triu(J, 1))[0]
    return int(i), int(j)


EXERCISES = [
    Exercise(
        "third_row",
        answer=_third_row,
        cases=[(np.array([0.3, -0.4, 1.1]),), (np.array([-1.0, 0.8, 0.2]),), (np.zeros(3),)],
        hints=(
            "u_3 = (x_3 - x_1 x_2) e^(-tanh x_2): x_1 and x_3 appear once, x_2 twice.",
            "The product rule for x_2: -x_1 e^(-tanh x_2) - u_3 (1 - tanh(x_2)**2).",
        ),
        mistakes={
            "treating the scale as if it did not depend on x_2": _without_the_scale_in_x2,
            "giving x_2's term the wrong sign": lambda x: (
                2 * _without_the_scale_in_x2(x) * np.array([0, 1, 0])
                + _third_row(x) * np.array([1, -1, 1])
            ),
        },
        because=(
            "Messy below the diagonal, and it will not matter; on the diagonal, just the scale."
        ),
    ),
    Exercise(
        "det",
        answer=_cofactor_det,
        cases=[
            (np.array([[3.0]]),),
            (_rng.standard_normal((2, 2)),),
            (_rng.standard_normal((4, 4)),),
            (_lower(5),),
        ],
        hints=(
            "A 1 x 1 matrix is its own determinant: that ends the recursion.",
            "np.delete(J[1:], k, axis=1) is J without its first row and column k. Signs "
            "alternate, + first.",
        ),
        mistakes={
            "adding all terms instead of alternating their signs": lambda J: (
                J[0, 0]
                if len(J) == 1
                else sum(J[0, k] * _cofactor_det(np.delete(J[1:], k, 1)) for k in range(len(J)))
            ),
            "multiplying the diagonal, which is right for triangular matrices only": lambda J: (
                float(np.prod(np.diagonal(J)))
            ),
        },
        because="D terms, each with D - 1 terms of its own, and so on: D! products.",
    ),
    Exercise(
        "survivors",
        answer=1,
        prediction=True,
        hints=(
            "The first row has one entry that is not zero. Which column is used up then?",
            "Row after row, only the diagonal is left to choose.",
        ),
        mistakes={"counting all the permutations": 720, "counting one for each row": 6},
        because="Only the product along the diagonal is left, and this is the whole secret.",
    ),
    Exercise(
        "log_det",
        answer=_log_det,
        cases=[(_lower(3),), (np.diag([2.0, -0.5, 1.0]),), (np.eye(800) * 0.1,)],
        hints=(
            "np.diagonal(J) is the diagonal. The logarithm of a product is a sum of logarithms.",
            "Take absolute values before the logarithms, and logarithms before the sum.",
        ),
        mistakes={
            (
                "taking the logarithm after the product, which underflows with many features"
            ): lambda J: np.log(np.abs(np.prod(np.diagonal(J)))),
            "forgetting the absolute value": lambda J: np.log(np.diagonal(J)).sum(),
            "adding up the whole matrix": lambda J: np.log(np.abs(J).sum()),
        },
        because="D logarithms and D additions.",
    ),
    Exercise(
        "sort_by_order",
        answer=lambda J, order: J[np.ix_(order, order)],
        cases=[
            (np.arange(9.0).reshape(3, 3), (2, 0, 1)),
            (_rng.standard_normal((4, 4)), (1, 3, 0, 2)),
            (_rng.standard_normal((3, 3)), (0, 1, 2)),
        ],
        hints=(
            "J[order] sorts the rows; the columns must be sorted in the same way.",
            "What comes out of that has sorted rows: index it once more, along its second "
            "axis. (Or ask help(np.ix_).)",
        ),
        mistakes={
            "sorting the rows only": lambda J, order: J[list(order)],
            (
                "sorting by the inverse permutation: that is each feature's place, not the "
                "feature at each place"
            ): (lambda J, order: J[np.ix_(np.argsort(order), np.argsort(order))]),
        },
        because="Both sides by the same permutation: the diagonal stays on the diagonal.",
    ),
    Exercise(
        "leak",
        answer=_leak,
        cases=[
            (_leaky(0, 3), np.full(5, 0.3)),
            (_leaky(2, 4), np.full(5, -0.2)),
            (_leaky(1, 2, 1e-3), np.ones(5) / 2),
        ],
        hints=(
            "complex_step_jacobian(f, x[None])[0] is J at x: which entry above the diagonal is "
            "not zero?",
            "np.triu(J, 1) keeps what is above the diagonal, np.argwhere finds what is not zero.",
        ),
        mistakes={
            "giving the input first and the output second": lambda f, x: _leak(f, x)[::-1],
            "counting from one": lambda f, x: tuple(k + 1 for k in _leak(f, x)),
        },
        because=(
            "One illegal glance of size 1e-7, found exactly. No picture of samples would have "
            "shown it."
        ),
    ),
]
