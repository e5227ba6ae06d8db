"""Exercises of lesson 12: many at once."""

import numpy as np
from checker import Exercise

_rng = np.random.default_rng(12)


def _triangular(D, size):
    """Return a step x -> u + tanh(L x) with L strictly lower triangular, and a first guess."""
    rng = np.random.default_rng(D)
    L, u = size * np.tril(rng.standard_normal((D, D)), -1), rng.standard_normal(D)

    def step(x):
        return u + np.tanh(L @ x)

    return step, np.zeros(D)


def _jacobi(step, x):
    sweeps = 0
    for sweeps in range(1, len(x) + 1):  # noqa: B007
        new = step(x)
        settled = (new == x).all()
        x = new
        if settled:
            break
    return x, sweeps


def _jacobi_until_small(step, x):
    for sweeps in range(1, len(x) + 1):
        new = step(x)
        if np.abs(new - x).max() < 1e-3:
            return new, sweeps
        x = new
    return x, len(x)


def _jacobi_without_the_proof(step, x):
    last, sweeps = _jacobi(step, x)
    return last, sweeps - 1


def _weights(queries, keys):
    scores = queries @ keys.T / np.sqrt(queries.shape[1])
    w = np.where(
        np.tri(len(queries), dtype=bool), np.exp(scores - scores.max(axis=1, keepdims=True)), 0
    )
    return w / w.sum(axis=1, keepdims=True)


def _without_a_mask(queries, keys, values):
    w = np.exp(queries @ keys.T / np.sqrt(queries.shape[1]))
    return w / w.sum(axis=1, keepdims=True) @ values


def _not_itself(queries, keys, values):
    w = np.where(
        np.tri(len(queries), k=-1), np.exp(queries @ keys.T / np.sqrt(queries.shape[1])), 0
    )
    return w / np.maximum(w.sum(axis=1, keepdims=True), 1e-300) @ values


def _masked_after(queries, keys, values):
    w = np.exp(queries @ keys.T / np.sqrt(queries.shape[1]))
    return np.tri(len(queries)) * (w / w.sum(axis=1, keepdims=True)) @ values


def _attend(query, keys, values):
    w = np.exp(keys @ query / np.sqrt(len(query)))
    return w / w.sum() @ values


def _queue_step(a, ring, t, W_now, W_then):
    place, new = t % len(ring), ring.copy()
    new[place] = a
    return W_now * a + W_then * ring[place], new


def _written_before_read(a, ring, t, W_now, W_then):
    new = _queue_step(a, ring, t, W_now, W_then)[1]
    return W_now * a + W_then * new[t % len(ring)], new


def _next_place(a, ring, t, W_now, W_then):
    new = ring.copy()
    new[(t + 1) % len(ring)] = a
    return W_now * a + W_then * ring[(t + 1) % len(ring)], new


_QKV = tuple(_rng.standard_normal((3, 6, 4)))

EXERCISES = [
    Exercise(
        "certain",
        answer=32,
        prediction=True,
        hints=(
            "Whom does the first feature hear? When is it right? And the second?",
            "Each sweep makes at least one more feature right, for good.",
        ),
        mistakes={
            "counting one sweep too few: the first makes only the first feature right": 31,
            "expecting one sweep to be enough": 1,
            "counting pairs of features": 496,
        },
        because="One feature more with every sweep: the iteration cannot fail, only be slow.",
    ),
    Exercise(
        "jacobi",
        answer=_jacobi,
        cases=[
            _triangular(6, 2.0),
            _triangular(20, 0.05),
            _triangular(3, 0.0),
            _triangular(1, 1.0),
        ],
        hints=(
            "new = step(x); if (new == x).all(), this was the last sweep. Count it too.",
            "for sweeps in range(1, len(x) + 1): ... and after D sweeps stop in any case.",
        ),
        mistakes={
            "stopping when the change is small, not when there is none": _jacobi_until_small,
            "not counting the sweep that proved it": _jacobi_without_the_proof,
            "always sweeping D times": lambda step, x: (_jacobi(step, x)[0], len(x)),
        },
        because="Exact, and with a certificate: a sweep that changes nothing.",
    ),
    Exercise(
        "attend",
        answer=_attend,
        cases=[
            (_QKV[0][5], _QKV[1], _QKV[2]),
            (_QKV[0][0], _QKV[1][:1], _QKV[2][:1]),
            (2 * _QKV[0][2], _QKV[1][:3], _QKV[2][:3]),
        ],
        hints=(
            "keys @ query are the scores (t,), before the division by the root of the width, which "
            "is len(query).",
            "Exponentials, divided by their sum, are the weights (t,); weights @ values is y.",
        ),
        mistakes={
            "dividing by the square root of the number of tokens instead of that of the width": (
                lambda query, keys, values: _attend(
                    query * np.sqrt(len(query) / len(keys)), keys, values
                )
            ),
            "weighting the keys instead of the values": lambda query, keys, values: _attend(
                query, keys, keys
            ),
            "giving all tokens the same weight": lambda query, keys, values: values.mean(axis=0),
        },
        because="No mask is needed: the future is not there yet.",
    ),
    Exercise(
        "causal_attention",
        answer=lambda queries, keys, values: _weights(queries, keys) @ values,
        cases=[_QKV, tuple(part[:1] for part in _QKV), tuple(3 * part for part in _QKV)],
        hints=(
            "The token of row t hears rows 0 to t, itself included: keys[: t + 1] and so on.",
            "np.array([attend(queries[t], ..., ...) for t in range(len(queries))]); what stands "
            "for the dots?",
        ),
        mistakes={
            "letting every token hear all of them, the future too": _without_a_mask,
            "leaving out the token itself": _not_itself,
            (
                "masking after dividing by the sum, so that the weights do not add up to 1"
            ): _masked_after,
        },
        because="Lesson 4's staircase again, with weights that the data choose.",
    ),
    Exercise(
        "keys_computed",
        answer=lambda tokens: (tokens * (tokens + 1) // 2, tokens),
        cases=[(1,), (3,), (1000,)],
        hints=(
            "Without: one key for the first token, two for the second, ... all for the last.",
            "1 + 2 + ... + tokens = tokens (tokens + 1) / 2. With the cache, each token's key is "
            "computed once.",
        ),
        mistakes={
            "running all tokens each time": lambda tokens: (tokens * tokens, tokens),
            "counting pairs of different tokens": lambda tokens: (
                tokens * (tokens - 1) // 2,
                tokens,
            ),
        },
        because="For a thousand tokens, five hundred times less.",
    ),
    Exercise(
        "receptive",
        answer=1024,
        prediction=True,
        hints=(
            "Drag the slider above: 2, 4, 8, 16 inputs with 1, 2, 3, 4 layers.",
            "Each layer doubles the number: 2 to the power of the number of layers.",
        ),
        mistakes={
            "taking the largest dilation for the reach": 512,
            "adding up the dilations and forgetting the present": 1023,
            "counting two inputs a layer": 20,
        },
        because="1 + 1 + 2 + 4 + ... + 512: the reach doubles while the cost only adds up.",
    ),
    Exercise(
        "queue_step",
        answer=_queue_step,
        cases=[
            (0.5, np.array([1.0, 2.0, 3.0]), 0, 2.0, 10.0),
            (0.5, np.array([1.0, 2.0, 3.0]), 5, 2.0, 10.0),
            (-1.0, np.array([4.0]), 7, 0.3, -0.2),
        ],
        hints=(
            "The place is t % len(ring): there stands the input of so many steps ago, before you "
            "write.",
            "Read the old input there before you write the new one; and write into a copy.",
        ),
        mistakes={
            "writing before reading, which finds a_t where the old input was": _written_before_read,
            "being one place too far": _next_place,
            "reading without writing": lambda a, ring, t, W_now, W_then: (
                W_now * a + W_then * ring[t % len(ring)],
                ring.copy(),
            ),
        },
        because="Memory that does not grow, however long the series is.",
    ),
]
