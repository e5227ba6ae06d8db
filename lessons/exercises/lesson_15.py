"""Exercises of lesson 15: a flow of your own, judged as a whole."""

import numpy as np
from checker import Exercise, Malformed

from afnp import minimal
from afnp.verify import check_flow

_rng = np.random.default_rng(15)
_MADE = minimal.MADE(4, (7,), _rng)
_DEGREES = _MADE.degrees[1]
_W = [M * W for M, W in zip(_MADE.masks, _MADE.W, strict=True)]
_b = [_rng.standard_normal(len(W)) / 2 for W in _W]
_MADE.b = _b
_ROWS = _rng.standard_normal((5, 4))


def _masks(degrees, D):
    features = np.arange(1, D + 1)
    outputs = np.repeat(features, 2)
    return degrees[:, None] >= features, outputs[:, None] > degrees


def _conditionals(x, W, b):
    h = np.tanh(x @ W[0].T + b[0]) @ W[1].T + b[1]
    return h[:, 0::2], 7 * np.tanh(h[:, 1::2] / 7)


def _normalize(x, conditionals):
    mu, alpha = conditionals(x)
    return (x - mu) * np.exp(-alpha), -alpha.sum(axis=1)


def _bent(x):
    mu = np.cumsum(np.sin(x), axis=1) - np.sin(x)
    return mu, np.tanh(mu)


def _generate(u, W, b, degrees, late=0):
    """Substitution; with late=1 the units of a degree are computed a feature too late."""
    x, hidden = np.zeros_like(u), np.zeros((len(u), len(degrees)))
    log_det = np.zeros(len(u))
    for i in range(u.shape[1]):
        h = hidden @ W[1][2 * i : 2 * i + 2].T + b[1][2 * i : 2 * i + 2]
        alpha = 7 * np.tanh(h[:, 1] / 7)
        x[:, i] = h[:, 0] + np.exp(alpha) * u[:, i]
        log_det += alpha
        due = degrees == i + 1 - late
        hidden[:, due] = np.tanh(x @ W[0][due].T + b[0][due])
    return x, log_det


def _all_at_once(u, W, b, degrees):
    mu, alpha = _conditionals(u, W, b)
    return mu + np.exp(alpha) * u, alpha.sum(axis=1)


class _Flow:
    """Two layers of the one-page flow, with a fault where one is asked for."""

    def __init__(self, features=3, transforms=2, turned=True, fault=""):
        self.features, self.turned, self.fault = features, turned, fault
        self.layers = minimal.maf(features, (8,), transforms, seed=3)

    def normalize(self, x):
        total = 0
        for k, made in enumerate(self.layers):
            x, log_det, _ = made.normalize(x)
            x = x[:, ::-1] if self.turned else x
            total = total + (0 if self.fault == "one layer" and k else log_det)
        return x, total

    def generate(self, u):
        for made in reversed(self.layers):
            u = made.substitution(u[:, ::-1] if self.turned else u)
        sign = 1 if self.fault == "sign" else -1
        return u, sign * self.normalize(u)[1]

    def log_prob(self, x):
        u, log_det = self.normalize(x)
        constant = 0 if self.fault == "constant" else np.log(2 * np.pi)
        return log_det - 0.5 * (u**2 + constant).sum(axis=1)

    def sample(self, N, rng):
        width = 0.5 if self.fault == "noise" else 1.0
        return self.generate(width * rng.standard_normal((N, self.features)))[0]


def _judge_flow(flow):
    names = ("normalize", "generate", "log_prob", "sample")
    missing = [name for name in names if not callable(getattr(flow, name, None))]
    features = getattr(flow, "features", None)
    if isinstance(flow, type) or missing or not isinstance(features, int):
        said = f"it lacks {', '.join(missing)}" if missing else "features must be a whole number"
        said = "that is the class itself" if isinstance(flow, type) else said
        raise Malformed(f"expected an object with features and {', '.join(names)}: {said}")
    if features < 3:
        return "with fewer than three features much stays hidden (lesson 14): make it three or more"
    functions = {name: getattr(flow, name) for name in names}
    report = check_flow(**functions, features=features, level="quick")
    failed = [result for result in report.results if result.status == "failed"]
    if failed:
        return f"check_flow, level quick: {failed[0].name} fails: {failed[0].note}"
    x = np.random.default_rng(0).standard_normal((3, features))
    u, log_det = flow.normalize(x)
    off = flow.log_prob(x) - log_det + 0.5 * (u**2 + np.log(2 * np.pi)).sum(axis=1)
    if np.abs(off).max() > 1e-9:
        return f"log_prob is {off[0]:+.4f} nats off the change of variables with normal noise"
    x = np.random.default_rng(1).standard_normal((1, features))
    moved = x + 0.1 * np.eye(features)
    still = flow.normalize(moved)[0] == flow.normalize(x)[0]
    if still.any():
        j, i = np.argwhere(still)[0] + 1
        return f"u_{i} does not depend on x_{j}: are there two layers, and is the order turned?"
    return None


EXERCISES = [
    Exercise(
        "masks",
        answer=_masks,
        cases=[(np.array([1, 1, 2, 3]), 4), (_DEGREES, 4), (np.array([1]), 2)],
        hints=(
            "Lesson 4: a hidden unit hears features up to its degree, an output those below "
            "its own.",
            "np.repeat gives each feature two output rows, mu and s; both are compared with "
            "degrees.",
        ),
        mistakes={
            "letting an output hear hidden units of its own degree": lambda degrees, D: (
                _masks(degrees, D)[0],
                np.repeat(np.arange(1, D + 1), 2)[:, None] >= degrees,
            ),
            "giving all mu first and then all s": lambda degrees, D: (
                _masks(degrees, D)[0],
                np.tile(np.arange(1, D + 1), 2)[:, None] > degrees,
            ),
        },
        because="Whatever the weights will be, no feature can now hear itself or a later one.",
    ),
    Exercise(
        "conditionals",
        answer=_conditionals,
        cases=[(_ROWS, _W, _b), (_ROWS[:1], _W, _b)],
        hints=(
            "One hidden layer with tanh, then a linear one; its columns are mu_1, s_1, mu_2, "
            "s_2, ...",
            "Every second column is a mu; the others go through the soft clip of lesson 2.",
        ),
        mistakes={
            "forgetting the soft clip": lambda x, W, b: (
                (h := np.tanh(x @ W[0].T + b[0]) @ W[1].T + b[1])[:, 0::2],
                h[:, 1::2],
            ),
            "forgetting the bend": lambda x, W, b: (
                (h := (x @ W[0].T + b[0]) @ W[1].T + b[1])[:, 0::2],
                7 * np.tanh(h[:, 1::2] / 7),
            ),
        },
        because="All conditionals, in one pass.",
    ),
    Exercise(
        "normalize",
        answer=_normalize,
        cases=[(_ROWS, _bent), (_ROWS[:1], _bent)],
        hints=(
            "u_i = (x_i - mu_i) exp(-alpha_i), for all features at once.",
            "Lesson 3: the determinant is the product of the diagonal. Which sign has its "
            "logarithm?",
        ),
        mistakes={
            "giving the log-determinant of the other direction": lambda x, conditionals: (
                _normalize(x, conditionals)[0],
                -_normalize(x, conditionals)[1],
            ),
            "undoing the scale before the shift": lambda x, conditionals: (
                x * np.exp(-conditionals(x)[1]) - conditionals(x)[0],
                _normalize(x, conditionals)[1],
            ),
        },
        because="The density side is complete.",
    ),
    Exercise(
        "wrong_mask",
        answer="c",
        prediction=True,
        hints=(
            "The network of normalize would read x_i for u_i. Is the diagonal still exp(-alpha_i)?",
            "And the sampler: when it needs mu_i, which hidden units has it not computed yet?",
        ),
        mistakes={
            "thinking that the two directions share the mistake": "a",
            "thinking of the determinant alone": "b",
        },
        because="A leak spoils the determinant, and no sampler can follow it.",
    ),
    Exercise(
        "generate",
        answer=_generate,
        cases=[(_ROWS, _W, _b, _DEGREES), (_ROWS[:2], _W, _b, _DEGREES)],
        hints=(
            "Lesson 7: feature by feature. Its two output rows read the hidden units known so far.",
            "After column i (counted from 0) of x is there, the units of degree i + 1 are due.",
        ),
        mistakes={
            "computing hidden units one feature too late": lambda u, W, b, degrees: _generate(
                u, W, b, degrees, late=1
            ),
            "reading the noise instead of the data": _all_at_once,
        },
        because="Each hidden unit once: sampling costs what a density costs.",
    ),
    Exercise(
        "my_flow",
        answer=_Flow(),
        judge=_judge_flow,
        hints=(
            "Test the parts alone first: does generate undo normalize, and do the log-dets cancel?",
            "Turning the order is x[:, ::-1]. It has determinant 1 up to sign; undo it on the "
            "way back.",
        ),
        mistakes={
            "giving both log-determinants the same sign": _Flow(fault="sign"),
            "counting the log-determinant of the first layer alone": _Flow(fault="one layer"),
            "leaving out the constant of the normal density": _Flow(fault="constant"),
            "sampling with noise that is too narrow": _Flow(fault="noise"),
            "never turning the order": _Flow(turned=False),
            "testing with two features": _Flow(features=2),
        },
        because="At level quick it passes everything. Now run it at level paranoid.",
    ),
]
