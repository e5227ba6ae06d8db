"""Exercises of lesson 04: masks."""

import numpy as np
from checker import Exercise

from afnp.networks import masks

_rng = np.random.default_rng(4)


def _mask(hears, heard, strict):
    return hears[:, None] > heard[None, :] if strict else hears[:, None] >= heard[None, :]


def _masked_linear(x, W, b, M):
    return x @ (M * W).T + b


def _lost(degrees, D):
    inputs = np.arange(1, D + 1)
    paths = _mask(inputs, degrees, True).astype(int) @ _mask(degrees, inputs, False)
    return D * (D - 1) // 2 - int((paths > 0).sum())


_LAYER = (
    _rng.standard_normal((4, 3)),
    _rng.standard_normal((5, 3)),
    _rng.standard_normal(5),
    _rng.random((5, 3)) < 0.5,
)
_GARBAGE = tuple(
    np.where(_LAYER[3], _LAYER[1], 1e6) if k == 1 else part for k, part in enumerate(_LAYER)
)


def _judge_design(design):
    degrees = np.asarray(design)
    if degrees.shape != (3,) or degrees.dtype.kind not in "iu":
        return f"expected three whole numbers, got {design!r}"
    if degrees.min() < 1 or degrees.max() > 3:
        return f"with four features the useful degrees are 1, 2 and 3, got {degrees.tolist()}"
    paths = _mask(np.arange(1, 5), degrees, True).astype(int) @ _mask(
        degrees, np.arange(1, 5), False
    )
    lost = [(j + 1, i + 1) for i in range(4) for j in range(i) if not paths[i, j]]
    if lost == [(2, 3)]:
        return None
    said = ", ".join(f"feature {j} for output {i}" for j, i in lost) or "nothing"
    return f"with the degrees {degrees.tolist()} what is lost is: {said}"


EXERCISES = [
    Exercise(
        "mask",
        answer=_mask,
        cases=[
            (np.array([1, 2]), np.array([1, 2, 3]), False),
            (np.array([1, 2, 3]), np.array([1, 2]), True),
            (np.array([3, 1, 2, 1]), np.array([1, 2, 3]), False),
            (np.arange(1, 5), np.array([2, 2, 1, 3, 1]), True),
        ],
        hints=(
            "hears[:, None] is a column and heard[None, :] a row: comparing them gives a whole "
            "matrix.",
            "Use >= where equal degrees may be heard, and > where strict is true.",
        ),
        mistakes={
            (
                "hearing equal degrees at the output as well: each u_i would know its own x_i"
            ): lambda hears, heard, strict: _mask(hears, heard, False),
            (
                "turning the comparison round, so that units hear the future"
            ): lambda hears, heard, strict: ~_mask(hears, heard, strict),
            "returning the transpose: rows are those who hear": lambda hears, heard, strict: (
                _mask(hears, heard, strict).T
            ),
        },
        because=(
            "One rule, two uses; the only strict inequality of the whole network is at the output."
        ),
    ),
    Exercise(
        "moved",
        answer=(4, 5),
        any_length=True,
        prediction=True,
        hints=(
            "Output i speaks of p(x_i | x_<i). Which of the conditionals have x_3 in their past?",
            "Not the third itself: mu_3 and alpha_3 must not know x_3. Only those after it.",
        ),
        mistakes={
            "letting the third output hear its own feature": (3, 4, 5),
            "looking into the past": (1, 2),
        },
        because="The next cell shows it, bit by bit.",
    ),
    Exercise(
        "masked_linear",
        answer=_masked_linear,
        cases=[_LAYER, _GARBAGE],
        hints=(
            "M * W, entry by entry, switches connections off.",
            "x holds a sample a row, W an output a row: multiply x by the transpose of the "
            "masked matrix, and add b.",
        ),
        mistakes={
            "leaving the mask out": lambda x, W, b, M: x @ W.T + b,
            "masking the result instead of the weights": lambda x, W, b, M: (
                (x @ W.T) * M.any(axis=1) + b
            ),
        },
        because="This is the whole of MADE: an ordinary layer, with some connections cut.",
    ),
    Exercise(
        "prefix",
        answer=lambda hears, heard, strict: masks.prefixes(hears, heard, strict),
        cases=[
            (np.array([1, 1, 2, 3]), np.array([1, 2, 3, 4]), False),
            (np.arange(1, 5), np.array([1, 1, 2, 3]), True),
            (np.array([1, 3, 3]), np.array([2, 2, 3]), False),
        ],
        hints=(
            "A row of the mask begins with ones and ends with zeros; the prefix is how many "
            "ones there are.",
            "Your function mask gives that matrix: along which axis must it be summed? "
            "(np.searchsorted needs no matrix.)",
        ),
        mistakes={
            "counting along the columns": lambda hears, heard, strict: _mask(
                hears, heard, strict
            ).sum(axis=0),
            "counting equal degrees where the rule is strict": lambda hears, heard, strict: _mask(
                hears, heard, False
            ).sum(axis=1),
        },
        because="A whole mask in one integer a row. The package stores nothing else.",
    ),
    Exercise(
        "lost",
        answer=_lost,
        cases=[
            (np.array([1]), 3),
            (np.array([1, 2, 3]), 4),
            (np.array([3, 1, 1, 5]), 7),
            (masks.degrees_of_hidden(32, 64), 64),
        ],
        hints=(
            "An output i hears an input j if some hidden unit k has j <= m_k < i: multiply the "
            "two masks.",
            "There are D * (D - 1) // 2 legal pairs; take away those for which the product is "
            "positive.",
        ),
        mistakes={
            "adding up the paths instead of counting the pairs that have one": lambda degrees, D: (
                D * (D - 1) // 2
                - int(
                    (
                        _mask(np.arange(1, D + 1), degrees, True).astype(int)
                        @ _mask(degrees, np.arange(1, D + 1), False)
                    ).sum()
                )
            ),
            "counting the pairs that are kept": lambda degrees, D: (
                D * (D - 1) // 2 - _lost(degrees, D)
            ),
        },
        because=(
            "Nothing crashes when dependencies are lost. The flow is a valid one, and quietly "
            "a poorer one."
        ),
    ),
    Exercise(
        "design",
        answer=(1, 3, 3),
        judge=_judge_design,
        hints=(
            "Output 3 hears feature 2 through a hidden unit of degree 2, and through no other.",
            "So no unit may have degree 2; but degree 1 must be there for outputs 2 and 3, "
            "degree 3 for output 4.",
        ),
        mistakes={
            "leaving out degree 1, on which three other pairs depend": (2, 3, 3),
            "losing nothing": (1, 2, 3),
        },
        because=(
            "A path from j to i needs a degree m with j <= m < i, and from 2 to 3 only m = 2 "
            "will do."
        ),
    ),
]
