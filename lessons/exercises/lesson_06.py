"""Exercises of lesson 06: stacking."""

import numpy as np
from checker import Exercise

import afnp
from afnp.verify import randomize

_rng = np.random.default_rng(6)


def _stack(layers, features=3):
    orders = ("natural", "reverse", [1, 2, 0])
    flows = [
        randomize(afnp.made(features, hidden=(8,), order=orders[k]), seed=k) for k in range(layers)
    ]
    return flows, _rng.standard_normal((5, features))


def _stacked_log_prob(flows, x):
    total = 0.0
    for flow in flows:
        x, log_det = flow.normalize(x)
        total = total + log_det
    return total - 0.5 * (x**2 + np.log(2 * np.pi)).sum(axis=1)


def _each_with_its_own_base(flows, x):
    total = 0.0
    for flow in flows:
        total = total + flow.log_prob(x)
        x = flow.normalize(x)[0]
    return total


def _same_x_for_all(flows, x):
    u = _pushed(flows, x)
    log_dets = sum(flow.normalize(x)[1] for flow in flows)
    return log_dets - 0.5 * (u**2 + np.log(2 * np.pi)).sum(axis=1)


def _pushed(flows, x):
    for flow in flows:
        x = flow.normalize(x)[0]
    return x


def _compare(ours, theirs):
    gap = ours - theirs
    return gap.mean(), gap.std() / np.sqrt(len(gap))


_OURS = _rng.normal(-3.0, 4.0, 50)
_THEIRS = _OURS + _rng.normal(0.2, 0.5, 50)

EXERCISES = [
    Exercise(
        "same_order",
        answer="a",
        prediction=True,
        hints=(
            "In the natural order, what may the shift and the scale of the first feature "
            "depend on?",
            "On nothing: every layer shifts and scales x_1 by constants. What is five times in "
            "a row?",
        ),
        mistakes={"expecting that depth alone bends anything": "b"},
        because="A constant shift and scale, five times over, is a constant shift and scale.",
    ),
    Exercise(
        "stacked_log_prob",
        answer=_stacked_log_prob,
        cases=[_stack(1), _stack(2), _stack(3)],
        hints=(
            "Go through the flows as listed: x, log_det = flow.normalize(x), and add up the "
            "log_dets.",
            "At the end x is noise: add its standard normal log-density, once, summed over "
            "features.",
        ),
        mistakes={
            "adding the base density after every layer instead of once": _each_with_its_own_base,
            "giving every layer the data instead of what the layer before it made": _same_x_for_all,
        },
        because="A flow is a list of flows, and a loop.",
    ),
    Exercise(
        "in_other_units",
        answer=lambda log_p, scale: log_p - np.log(scale).sum(),
        cases=[
            (np.array([-1.0, 2.0]), np.array([10.0])),
            (np.array([0.5, -3.0, 1.0]), np.array([0.001, 2.0, 5.0])),
        ],
        hints=(
            "x' = scale * x is a flow, the simplest of all: dx/dx' = 1 / scale in each feature.",
            "log p(x') = log p(x) + log|det dx/dx'|, and the determinant is a product over "
            "features.",
        ),
        mistakes={
            "turning the sign: larger numbers are spread more thinly": lambda log_p, scale: (
                log_p + np.log(scale).sum()
            ),
            "dividing by the scale instead of subtracting its logarithm": lambda log_p, scale: (
                log_p / np.prod(scale)
            ),
        },
        because="Likelihoods of different papers can be compared only in the same units.",
    ),
    Exercise(
        "compare",
        answer=_compare,
        cases=[(_OURS, _THEIRS), (_THEIRS, _OURS), (np.array([1.0, 2.0]), np.array([0.0, 3.0]))],
        hints=(
            "Both models are judged on the same rows, so look at the difference row by row.",
            "The standard error of a mean is the standard deviation of a row, over the root "
            "of the number of rows.",
        ),
        mistakes={
            "treating the two as independent, which forgets that easy rows are easy for both": (
                lambda ours, theirs: (
                    ours.mean() - theirs.mean(),
                    np.sqrt((ours.var() + theirs.var()) / len(ours)),
                )
            ),
            "giving the scatter of one row instead of that of the mean": lambda ours, theirs: (
                (ours - theirs).mean(),
                (ours - theirs).std(),
            ),
        },
        because=(
            "A small steady advantage can be certain although each model's own scatter is large."
        ),
    ),
    Exercise(
        "times_as_probable",
        answer=lambda nats: np.exp(nats),
        cases=[(0.0,), (1.0,), (-2.5,), (np.array([0.1, 3.0]),)],
        hints=(
            "A nat is a unit of natural logarithms, and a difference of two is the logarithm of a "
            "ratio.",
            "Undo the logarithm.",
        ),
        mistakes={
            "undoing a logarithm to the base 2: that would be bits": lambda nats: 2.0**nats,
            "giving the difference for the ratio": lambda nats: nats + 1,
        },
        because="So a nat is a factor of e, for a typical row.",
    ),
]
