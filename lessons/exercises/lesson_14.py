"""Exercises of lesson 14: trusting a flow."""

import numpy as np
from checker import Exercise

from afnp.verify import complex_step_jacobian

_rng = np.random.default_rng(14)

QUESTIONS = ("connectivity", "log_det", "round_trip", "antisymmetry", "normalisation", "agreement")
CULPRITS = ("log_det", "none", "connectivity", "normalisation", "antisymmetry", "agreement")


def _density(slope, constant=0.0):
    """Return the log-density of a bent normal distribution, and what its total is multiplied by."""

    def log_prob(x):
        u = np.stack([x[:, 0], x[:, 1] - slope * x[:, 0] ** 2], axis=1)
        return constant - 0.5 * (u * u).sum(axis=1) - np.log(2 * np.pi)

    return log_prob


def _grid(B, cells):
    side = (np.arange(cells) + 0.5) / cells * 2 * B - B
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def _total(log_prob, B, cells):
    return np.exp(log_prob(_grid(B, cells))).sum() * (2 * B / cells) ** 2


def _mean_density(log_prob, B, cells):
    return np.exp(log_prob(_grid(B, cells))).mean()


def _sum_of_logs(log_prob, B, cells):
    return log_prob(_grid(B, cells)).sum() * (2 * B / cells) ** 2


def _says(sign, leak=0.0):
    """Return a map of three features that gives its own log-determinant, right or wrong."""
    rng = np.random.default_rng(3)
    to_mu, to_alpha = np.tril(rng.standard_normal((2, 3, 3)), -1)
    to_mu[0, 2] = leak

    def normalize(x):
        alpha = np.tanh(x @ to_alpha.T)
        return (x - np.sin(x @ to_mu.T)) * np.exp(-alpha), -sign * alpha.sum(axis=1)

    return normalize


def _true_log_det(normalize, x):
    return np.linalg.slogdet(complex_step_jacobian(lambda rows: normalize(rows)[0], x))[1]


def _diagonal_only(normalize, x):
    J = complex_step_jacobian(lambda rows: normalize(rows)[0], x)
    return np.log(np.abs(np.diagonal(J, axis1=1, axis2=2))).sum(axis=1)


def _judge_culprits(yours):
    if not isinstance(yours, (tuple, list)) or len(yours) != len(CULPRITS):
        return "expected six strings, one for each of 1 to 6"
    for number, (said, right) in enumerate(zip(yours, CULPRITS, strict=True), start=1):
        if not isinstance(said, str) or said.strip().lower() not in (*QUESTIONS, "none"):
            return f"suspect {number}: expected a name from QUESTIONS, or 'none'"
        if said.strip().lower() != right:
            return f"suspect {number}: that is not it"
    return None


def _bound(log_w):
    top = log_w.max(axis=1)
    return top + np.log(np.exp(log_w - top[:, None]).mean(axis=1))


_LOG_W = _rng.normal(-2, 1.5, (4, 6))

EXERCISES = [
    Exercise(
        "total",
        answer=_total,
        cases=[
            (_density(0.0), 6.0, 60),
            (_density(0.5, np.log(3)), 5.0, 40),
            (_density(0.3, -0.2), 2.0, 31),
        ],
        hints=(
            "The middles on [-B, B] are (np.arange(cells) + 0.5) / cells * 2 * B - B.",
            "np.meshgrid makes all pairs; sum np.exp(log_prob(pairs)), times the area of a "
            "cell, (2 B / cells)**2.",
        ),
        mistakes={
            "averaging the density instead of multiplying by the area": _mean_density,
            "adding up logarithms of the density": _sum_of_logs,
            "taking a cell's side for its area": lambda log_prob, B, cells: (
                np.exp(log_prob(_grid(B, cells))).sum() * 2 * B / cells
            ),
        },
        because="The plainest question to a density, and it needs nothing but the density.",
        tolerance=1e-8,
    ),
    Exercise(
        "which_part",
        answer="c",
        prediction=True,
        hints=(
            "The map itself is right in both directions. And the log-determinants?",
            "If two numbers cancel, do they still when both signs are turned?",
        ),
        mistakes={
            "blaming the map, which is right": "a",
            "forgetting that both signs are wrong: the sum of the two is still 0": "b",
        },
        because=(
            "Two errors that cancel are invisible to a test that only asks whether they cancel."
        ),
    ),
    Exercise(
        "is_its_own_inverse",
        answer=lambda order: bool((order[order] == np.arange(len(order))).all()),
        cases=[
            (np.array([1, 0]),),
            (np.array([2, 0, 1]),),
            (np.array([2, 1, 0]),),
            (np.array([1, 0, 3, 2]),),
            (np.array([1, 2, 3, 0]),),
        ],
        hints=(
            "order[order] applies the permutation twice.",
            "Compare order[order] with np.arange(len(order)), and ask whether all entries agree.",
        ),
        mistakes={
            "asking whether it is the identity": lambda order: bool(
                (order == np.arange(len(order))).all()
            ),
            "asking whether it is the reversal": lambda order: bool(
                (order == np.arange(len(order))[::-1]).all()
            ),
        },
        because="From three features on some orders are not, and those are the ones to test with.",
    ),
    Exercise(
        "true_log_det",
        answer=_true_log_det,
        cases=[
            (_says(1.0), _rng.standard_normal((4, 3))),
            (_says(-1.0), _rng.standard_normal((4, 3))),
            (_says(1.0, leak=0.7), _rng.standard_normal((4, 3))),
        ],
        hints=(
            "complex_step_jacobian(f, x) gives all Jacobians (N, D, D) of f, which maps rows "
            "to rows.",
            "f is lambda rows: normalize(rows)[0]; np.linalg.slogdet returns signs and logarithms.",
        ),
        mistakes={
            "believing what normalize says": lambda normalize, x: normalize(x)[1],
            (
                "multiplying the diagonal only, which is right for triangular Jacobians"
            ): _diagonal_only,
            "returning the sign instead of the logarithm": lambda normalize, x: np.linalg.slogdet(
                complex_step_jacobian(lambda rows: normalize(rows)[0], x)
            )[0],
        },
        because="It knows nothing of masks, orders or log-scales, so it cannot share their errors.",
    ),
    Exercise(
        "culprits",
        answer=CULPRITS,
        judge=_judge_culprits,
        prediction=True,
        hints=(
            "for number in FILES: for question in QUESTIONS: examine(number, question)",
            "One of the six passes everything: there is an honest flow among them.",
        ),
        mistakes={
            "suspecting everybody of the same": ("log_det",) * 6,
            "trusting everybody": ("none",) * 6,
        },
        because="Five defects, five different checks; MUTANTS has many more to try yourself on.",
    ),
    Exercise(
        "bound",
        answer=_bound,
        cases=[(_LOG_W,), (_LOG_W[:, :1],), (_LOG_W * 5 - 2000.0,)],
        hints=(
            "The logarithm of np.exp(log_w).mean(axis=1), if nothing underflowed.",
            "Take out each row's maximum before np.exp, and add it again after np.log.",
        ),
        mistakes={
            "averaging logarithms: that is the ELBO, K times over": lambda log_w: log_w.mean(
                axis=1
            ),
            "adding the weights without dividing by K": lambda log_w: (
                _bound(log_w) + np.log(log_w.shape[1])
            ),
            "taking exponentials first, which underflow": lambda log_w: np.log(
                np.exp(log_w).mean(axis=1)
            ),
        },
        because="By Jensen's inequality its mean is at most log p(x), and grows with K.",
    ),
    Exercise(
        "who_wins",
        answer="c",
        prediction=True,
        hints=(
            "An ELBO of -1.40 says that the VAE's log-likelihood is at least -1.40. And at most?",
            "The VAE may lie at -1.39 or at -1.0. The flow is at -1.35.",
        ),
        mistakes={
            "comparing a value with a bound as if both were values": "a",
            "assuming that the bound must be loose": "b",
        },
        because="Had the ELBO been above -1.35, the VAE would have won for certain.",
    ),
    Exercise(
        "rubbish_costs",
        answer=lambda share: -np.log(share),
        cases=[(1.0,), (0.5,), (0.01,)],
        hints=(
            "The model's density is at least share p(x): take the logarithm.",
            "log(share p(x)) = log share + log p(x).",
        ),
        mistakes={
            "giving the change with its sign: the loss is a positive number": lambda share: np.log(
                share
            ),
            "taking the share of rubbish instead": lambda share: -np.log1p(-share * (1 - 1e-9)),
            "giving the factor instead of its logarithm": lambda share: 1 / share,
        },
        because="So a few nats may hide a lot of rubbish: look at samples too.",
    ),
]
