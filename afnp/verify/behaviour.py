r"""Checks of behaviour: what a function must not do besides computing its value.

.. math:: f(A) = f(A) \text{ again, whatever was asked in between, whatever rows stand beside } A

Everything here is compared bit by bit, except one row alone against the same row in a batch: a matrix product
may add in another order when its shape changes.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from afnp.verify.parameters import randomize, restored
from afnp.verify.results import NotRun, Result, check, judge
from afnp.verify.subject import Subject

__all__ = ["batch_independence", "deterministic", "pure", "shapes", "staleness"]


Call = tuple[str, Callable, np.ndarray, np.ndarray]
"""Name, function, rows and context."""


def _functions(subject: Subject, rng: np.random.Generator, n: int) -> Iterator[Call]:
    """Yield every function of rows that is there, with n rows for it; it returns arrays of as many rows."""
    x, u, c = subject.rows(rng, n)
    for name, normalize in subject.normalizers.items():
        yield name, normalize, x, c
    for name, generate in subject.generators.items():
        yield name, generate, u, c
    log_prob = subject.log_prob
    if log_prob is not None:
        yield "log_prob", lambda x, c: (log_prob(x, c),), x, c


def _equal(one, two) -> bool:
    """Compare two tuples of arrays bit by bit, NaN equal to NaN."""
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, two, strict=True))


def _copies(arrays) -> tuple[np.ndarray, ...]:
    return tuple(np.array(array) for array in arrays)


def _found(problems: list[str], why: str) -> Result:
    """Return failed with the first problem, if there is one."""
    status = "failed" if problems else "passed"
    return Result(status=status, reason="; ".join(problems[:3]), measured=len(problems), tolerance=0, why=why)


@check("C15")
def shapes(subject: Subject, rng: np.random.Generator) -> Result:
    r"""N rows give N rows of the same type, and N finite log-determinants.

    .. math:: (N, D) \to (N, D), (N,)
    """
    problems = []
    n = int(rng.integers(3, 9))
    for name, function, x, c in _functions(subject, rng, n):
        for array, shape in zip(function(x, c), [(n,)] if name == "log_prob" else [x.shape, (n,)], strict=True):
            array = np.asarray(array)
            if array.shape != shape or array.dtype != subject.dtype:
                got = f"{array.shape} {array.dtype}"
                problems.append(f"{name} gives {got} where {shape} {subject.dtype} is expected")
            if not np.isfinite(array).all():
                problems.append(f"{name} gives numbers that are not finite")
    return _found(problems, "shapes and types are exact")


@check("C7")
def deterministic(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Asked for A, then B, then A again, every function answers the same; parameters stay; a seed is a sample.

    .. math:: f(A),\; f(B),\; f(A)' : \quad f(A) = f(A)' \text{ bitwise}, \quad \theta = \theta' \text{ bitwise}
    """
    problems = []
    theta = _theta(subject)
    for name, function, x, c in _functions(subject, rng, n=int(rng.integers(4, 12))):
        first = _copies(function(x.copy(), c.copy()))
        function(x[:-1] + x[1:] / 8 if name != "log_prob" else x[1:].copy(), c[1:].copy())
        if not _equal(first, function(x.copy(), c.copy())):
            problems.append(f"{name} answers the same question differently")
    if subject.sample is not None:
        seed, c = int(rng.integers(2**31)), rng.standard_normal((5, subject.context)).astype(subject.dtype)
        if not _equal([subject.sample(5, seed, c)], [subject.sample(5, seed, c)]):
            problems.append("sample differs for the same seed")
    if not np.array_equal(theta, _theta(subject)):
        problems.append("parameters changed")
    return _found(problems, "bitwise: the same arithmetic twice")


def _theta(subject: Subject) -> np.ndarray:
    return np.empty(0) if subject.flow is None else subject.flow.theta.copy()


@check("C8")
def pure(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Read-only input is accepted, and no input is changed.

    .. math:: x \to f(x), \qquad x \text{ as before, bitwise}
    """
    problems = []
    for name, function, x, c in _functions(subject, rng, n=int(rng.integers(2, 9))):
        writeable, frozen = (x.copy(), c.copy()), (x.copy(), c.copy())
        function(*writeable)
        if not _equal(writeable, (x, c)):
            problems.append(f"{name} changes its input")
        for array in frozen:
            array.setflags(write=False)
        try:
            function(*frozen)
        except (ValueError, TypeError) as exception:
            problems.append(f"{name} refuses read-only input ({exception})")
    return _found(problems, "bitwise: input is not output")


@check("C9")
def batch_independence(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Rows do not hear each other: replacing the others changes nothing.

    .. math:: f(x_1, \dots, x_n, \dots, x_N)_n = f(x_1', \dots, x_n, \dots, x_N')_n \text{ bitwise}, \quad
              \approx f(x_n)_1
    """
    problems, errors, tolerances = [], [], []
    n = int(rng.integers(4, 12))
    row = int(rng.integers(n))
    other = {name: rows for name, _, *rows in _functions(subject, rng, n)}
    for name, function, x, c in _functions(subject, rng, n):
        among, changed = _copies(function(x.copy(), c.copy())), [a.copy() for a in other[name]]
        changed[0][row], changed[1][row] = x[row], c[row]
        if not _equal([a[row] for a in among], [np.asarray(a)[row] for a in function(*changed)]):
            problems.append(f"{name}: row {row} of {n} moves when the others are replaced")
        alone = function(x[row : row + 1].copy(), c[row : row + 1].copy())
        differences = [np.ravel(a[row] - np.asarray(b)[0]) for a, b in zip(among, alone, strict=True)]
        errors.append(np.concatenate(differences))
        tolerances.append(_rounding_of_row(subject, name, x[row : row + 1], c[row : row + 1], rng))
    if problems:
        return _found(problems, "")
    if not errors:
        raise NotRun("needs normalize, generate or log_prob")
    return judge(
        np.abs(np.concatenate(errors)),
        np.concatenate(tolerances),
        "bitwise beside others; alone: eps x measured condition",
        ("output",),
    )


def _rounding_of_row(subject: Subject, name: str, x: np.ndarray, c: np.ndarray, rng) -> np.ndarray:
    """Return what rounding may do to one row's outputs, flat."""

    def outputs(arithmetic) -> np.ndarray:
        direction = arithmetic.generate if name in subject.generators else arithmetic.normalize
        y, log_det = direction(x.astype(subject.precise), c.astype(subject.precise))
        if name == "log_prob":
            return np.array([log_det[0] - (y[0] ** 2).sum() / 2])
        return np.append(y[0], log_det[0]).astype(np.float64)

    size = subject.safety * subject.eps * (np.sqrt(subject.features) + np.abs(outputs(subject.reference)))
    return subject.rounding(outputs, rng) + size


@check("C16")
def staleness(subject: Subject, rng: np.random.Generator) -> Result:
    r"""When parameters change in place, every direction follows, and follows back.

    .. math:: g_{\theta'}(u) = \text{what } \theta' \text{ gives explicitly}, \quad g_\theta(u) \text{ as before}
    """
    if subject.flow is None:
        raise NotRun("needs the parameters of an afnp flow")
    if not subject.flow.theta.size:
        raise NotRun("the flow has no parameters")
    calls = list(_functions(subject, rng, n=int(rng.integers(2, 9))))
    before = [_copies(function(x, c)) for _, function, x, c in calls]
    with restored(subject.flow) as flow:
        randomize(flow, int(rng.integers(2**31)))
        calls_after = list(_functions(subject, rng, n=4))
        parts = [_against_explicit(subject, *call, rng) for call in calls_after]
        unmoved = [name for (name, f, x, c), old in zip(calls, before, strict=True) if _equal(f(x, c), old)]
    problems = [f"{name} did not notice new parameters" for name in unmoved]
    again = [_copies(function(x, c)) for _, function, x, c in calls]
    lost = [call[0] for call, a, b in zip(calls, before, again, strict=True) if not _equal(a, b)]
    problems += [f"{name} did not come back with the old parameters" for name in lost]
    if problems:
        return _found(problems, "")
    errors, tolerances = (np.concatenate([part[i] for part in parts]) for i in range(2))
    return judge(errors, tolerances, "eps x measured condition", ("output",), limit=np.sqrt(subject.eps))


def _against_explicit(subject: Subject, name: str, function, x, c, rng) -> tuple[np.ndarray, np.ndarray]:
    """Return relative errors against arithmetic with the parameters passed explicitly, and tolerances, flat."""

    def outputs(arithmetic) -> np.ndarray:
        direction = arithmetic.generate if name in subject.generators else arithmetic.normalize
        y, log_det = direction(x.astype(subject.precise), c)
        return np.hstack([y, log_det[:, None]])

    if name == "log_prob":
        return np.empty(0), np.empty(0)
    y, log_det = function(x, c)
    expected = outputs(subject.reference)
    error = np.abs(np.hstack([y, log_det[:, None]]) - expected)
    size = 1 + np.sqrt(subject.features) + np.abs(expected)
    tolerance = subject.rounding(outputs, rng) + subject.safety * subject.eps * size
    return (error / size).ravel(), (tolerance / size).ravel()
