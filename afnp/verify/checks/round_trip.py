r"""Check of the round trip: each direction undoes the other.

.. math:: g(f(x)) = x, \qquad f(g(u)) = u

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from afnp.verify.explain import explained, region_of
from afnp.verify.results import Result, beyond_rounding, check, compare
from afnp.verify.subject import Subject

__all__ = ["round_trip"]


@check("C5")
def round_trip(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Each direction undoes the other, with rows permuted in between, for every way to generate.

    .. math:: g(f(x)) = x, \qquad f(g(u)) = u
    """
    subject.need("normalize", "generate")
    _, u, c = subject.points.rows(rng)
    x, _, c_x = subject.points.rows(rng)
    exact = [
        (
            u,
            subject.tolerance.rounding(
                lambda a: a.normalize(*_again(a.generate(u, c)[0], c, subject))[0], rng
            ),
        ),
        (
            x,
            subject.tolerance.rounding(
                lambda a: a.generate(*_again(a.normalize(x, c_x)[0], c_x, subject))[0], rng
            ),
        ),
    ]
    errors, tolerances, scales, starts, ends = [], [], [], [], []
    for normalize, generate in subject.pairs:
        trips = _trip(generate, normalize, u, c, rng), _trip(normalize, generate, x, c_x, rng)
        for (start, rounding), end in zip(exact, trips, strict=True):
            errors.append(np.abs(subject.difference(end, start)))
            starts.append(start)
            ends.append(end)
            scales.append(1 + np.abs(start))
            tolerances.append(
                beyond_rounding(rounding, scales[-1])
                + subject.tolerance.safety * subject.tolerance.eps * scales[-1]
            )
    limit = np.sqrt(subject.tolerance.eps) * np.array(scales)
    why = "eps x measured condition; points that lose half the digits left out"
    result = compare(errors, tolerances, why, ("trip", "row", "feature"), limit=limit)
    errors_of_x = np.array(errors)[1::2].max(axis=(0, 1))
    result = dataclasses.replace(result, evidence={"round_trip": errors_of_x})
    trip, row, i = (result.worst[name] for name in ("trip", "row", "feature"))
    start, end = starts[trip][row], ends[trip][row]
    wrong = (np.array(errors[trip]) > tolerances[trip]).any(axis=1)
    of, back = ("u", "normalize(generate(u))") if trip % 2 == 0 else ("x", "generate(normalize(x))")
    return explained(
        result,
        claim=f"{back} = {of}",
        reason=f"{back} is not {of}",
        values={f"{of}[{i}] is": float(start[i]), "it comes back as": float(end[i])},
        worst={"row": row, "feature": i},
        x=tuple(map(float, start)),
        of=of,
        cause=region_of(wrong, np.asarray(starts[trip], dtype=np.float64)),
    )


def _again(x: np.ndarray, context: np.ndarray, subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    return x.astype(subject.tolerance.precise), context


def _trip(there, back, x: np.ndarray, c: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Go there and back with fresh arrays, and other row numbers back, so that no cache helps."""
    rows = rng.permutation(len(x))
    middle = there(x.copy(), c.copy())[0]
    end = np.empty_like(x)
    end[rows] = back(np.array(middle[rows]), np.array(c[rows]))[0]
    return end
