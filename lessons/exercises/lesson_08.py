"""Exercises of lesson 08: the other way round."""

import numpy as np
from checker import Exercise

_rng = np.random.default_rng(8)


class _Conditionals:
    """A small triangular map: mu and alpha of feature i from the features before it."""

    def __init__(self, D, seed):
        rng = np.random.default_rng(seed)
        self.to_mu, self.to_alpha = (np.tril(rng.standard_normal((D, D)), -1) for _ in range(2))
        self.mu, self.alpha = rng.standard_normal((2, D)) / 2
        self.__name__ = "conditionals"

    def __call__(self, rows):
        mu, alpha = np.tanh(rows @ self.to_mu.T), np.tanh(rows @ self.to_alpha.T)
        return self.mu + mu, self.alpha + alpha / 2


def _log_normal(u):
    return -0.5 * (u**2 + np.log(2 * np.pi)).sum(axis=1)


def _iaf_sample(u, conditionals):
    mu, alpha = conditionals(u)
    return mu + u * np.exp(alpha), _log_normal(u) - alpha.sum(axis=1)


def _added_log_det(u, conditionals):
    mu, alpha = conditionals(u)
    return mu + u * np.exp(alpha), _log_normal(u) + alpha.sum(axis=1)


def _base_at_x(u, conditionals):
    mu, alpha = conditionals(u)
    x = mu + u * np.exp(alpha)
    return x, _log_normal(x) - alpha.sum(axis=1)


def _iaf_log_prob(x, conditionals):
    u = np.zeros_like(x)
    for i in range(x.shape[1]):
        mu, alpha = conditionals(u)
        u[:, i] = (x[:, i] - mu[:, i]) * np.exp(-alpha[:, i])
    return _log_normal(u) - conditionals(u)[1].sum(axis=1)


def _as_a_maf(x, conditionals):
    mu, alpha = conditionals(x)
    return _log_normal((x - mu) * np.exp(-alpha)) - alpha.sum(axis=1)


def _in_one_pass(x, conditionals):
    mu, alpha = conditionals(np.zeros_like(x))
    return _log_normal((x - mu) * np.exp(-alpha)) - alpha.sum(axis=1)


class _Network:
    """mu and alpha of the features in the second block, from those in the first."""

    def __init__(self, first, second, seed):
        rng = np.random.default_rng(seed)
        self.to_mu, self.to_alpha = rng.standard_normal((2, second, first))
        self.__name__ = "network"

    def __call__(self, x_first):
        return x_first @ self.to_mu.T + 0.3, np.tanh(x_first @ self.to_alpha.T)


def _block(text, seed):
    passing = np.array([number == "1" for number in text])
    values = np.random.default_rng(seed).standard_normal((4, len(text)))
    return values, passing, _Network(int(passing.sum()), int((~passing).sum()), seed)


_BLOCKS = [_block("12", 0), _block("11222", 1), _block("212112", 2)]


def _couple(x, passing, network):
    mu, alpha = network(x[:, passing])
    u = x.copy()
    u[:, ~passing] = (x[:, ~passing] - mu) * np.exp(-alpha)
    return u, -alpha.sum(axis=1)


def _uncouple(u, passing, network):
    mu, alpha = network(u[:, passing])
    x = u.copy()
    x[:, ~passing] = mu + u[:, ~passing] * np.exp(alpha)
    return x


def _blocks_side_by_side(x, passing, network):
    u, log_det = _couple(x, passing, network)
    return np.concatenate([u[:, passing], u[:, ~passing]], axis=1), log_det


def _scale_first(u, passing, network):
    mu, alpha = network(u[:, passing])
    x = u.copy()
    x[:, ~passing] = (mu + u[:, ~passing]) * np.exp(alpha)
    return x


def _steps(family, D, T):
    return {"MAF": (T, T * D), "IAF": (T * D, T), "coupling": (T, T)}[family]


def _free_energy(u, log_det, log_target):
    return float(np.mean(_log_normal(u) - log_det - log_target))


def _energies(N, D):
    return _rng.standard_normal((N, D)), _rng.normal(0.3, 1, N), _rng.normal(-2, 1, N)


_SAMPLES = [
    (_rng.standard_normal((3, 1)), _Conditionals(1, 0)),
    (_rng.standard_normal((5, 4)), _Conditionals(4, 1)),
    (_rng.standard_normal((2, 7)), _Conditionals(7, 2)),
]

EXERCISES = [
    Exercise(
        "iaf_sample",
        answer=_iaf_sample,
        cases=_SAMPLES,
        hints=(
            "mu, alpha = conditionals(u), once; x is the formula above, for all features together.",
            "log p(x) is the normal log-density of u, summed over features, minus "
            "alpha.sum(axis=1).",
        ),
        mistakes={
            "adding the log-determinant: where the flow stretches, the density of x is thinner": (
                _added_log_det
            ),
            "asking the normal density about x instead of u": _base_at_x,
        },
        because="One pass, and the sample comes with its density.",
    ),
    Exercise(
        "iaf_log_prob",
        answer=_iaf_log_prob,
        cases=_SAMPLES,
        hints=(
            "The network wants u, which you do not have. Its first mu and alpha do not look at "
            "u at all.",
            "Round i of D: ask the network about the u so far, believe its column i, and "
            "solve for u_i. Then sum up as above.",
        ),
        mistakes={
            (
                "asking the network about the data: that is the density of another flow, a MAF"
            ): _as_a_maf,
            "asking the network once, about zeros": _in_one_pass,
        },
        because="D rounds, for a number that the sampler had for nothing.",
    ),
    Exercise(
        "couple",
        answer=_couple,
        cases=_BLOCKS,
        hints=(
            "mu, alpha = network(x[:, passing]); then u = x.copy(), and change the columns "
            "~passing.",
            "Only the second block is scaled, and by exp(-alpha): what is the logarithm of the "
            "product of these scales?",
        ),
        mistakes={
            "putting the blocks side by side instead of back in their places": _blocks_side_by_side,
            "giving the log-determinant of the way back": lambda x, passing, network: (
                _couple(x, passing, network)[0],
                -_couple(x, passing, network)[1],
            ),
        },
        because="The network may be anything: it is heard, not inverted.",
    ),
    Exercise(
        "uncouple",
        answer=_uncouple,
        cases=_BLOCKS,
        hints=(
            "u_first is x_first, so the network says the same as on the way there.",
            "Solve the formula of u_second for x_second: undo the scale first, then the shift. "
            "Work on a copy.",
        ),
        mistakes={
            "shifting before scaling: what was done last must be undone first": _scale_first,
            "coupling once more instead of back": lambda u, passing, network: _couple(
                u, passing, network
            )[0],
        },
        because="One pass there, one pass back.",
    ),
    Exercise(
        "full",
        answer=3,
        prediction=True,
        hints=(
            "After one, the second block has heard the first. After two, the first has heard a "
            "second that had heard the first. Who has not heard whom?",
            "Two features of the second block have not yet heard each other: they must hear a "
            "first block that has heard them both.",
        ),
        mistakes={
            ("counting one for each block: each has heard the other, but not all of itself"): 2,
            "thinking of one layer of MAF and its mirror": 1,
        },
        because="News within the second block must travel through the first: there, and back.",
    ),
    Exercise(
        "steps",
        answer=_steps,
        cases=[("MAF", 7, 1), ("IAF", 7, 1), ("coupling", 7, 1), ("MAF", 64, 5), ("IAF", 3, 4)],
        hints=(
            "A transform that waits takes D steps, one that does not takes one. The T "
            "transforms wait in line.",
            "MAF waits when it samples, IAF when it scores strangers, a coupling never.",
        ),
        mistakes={
            "exchanging MAF and IAF": lambda family, D, T: _steps(family, D, T)[::-1],
            "forgetting that every transform waits anew": lambda family, D, T: (
                _steps(family, D, 1)[0] * (T if family == "MAF" else 1),
                _steps(family, D, 1)[1],
            ),
        },
        because="The same work in either direction; what differs is who stands in a queue.",
    ),
    Exercise(
        "free_energy",
        answer=_free_energy,
        cases=[_energies(1, 1), _energies(6, 2), _energies(40, 5)],
        hints=(
            "log q(x) comes from the noise: the normal log-density of u, minus log|det dx/du|.",
            "The normal log-density is summed over the features of a row; the mean over rows "
            "comes last.",
        ),
        mistakes={
            (
                "adding log|det dx/du|, which belongs to the other direction"
            ): lambda u, log_det, log_target: float(np.mean(_log_normal(u) + log_det - log_target)),
            "leaving out the target": lambda u, log_det, log_target: float(
                np.mean(_log_normal(u) - log_det)
            ),
            "turning the sign: that is the lower bound of log Z": lambda u, log_det, log_target: (
                -_free_energy(u, log_det, log_target)
            ),
        },
        because="Minus this number is a lower bound of log Z, known to statisticians as the ELBO.",
    ),
]
