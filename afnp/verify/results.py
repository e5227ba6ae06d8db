r"""What a check says: one Result.

.. math:: \text{passed} \iff \mathrm{error}_i \le \mathrm{tolerance}_i \quad \text{for every } i

A number that is not finite is an error larger than any tolerance; a check that could not run has
not passed.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from afnp.verify.subject import Subject

__all__ = ["Finding", "NotRun", "Result", "beyond_rounding", "check", "found", "judge"]

PASSED, FAILED, NOT_RUN, EXPECTED = "passed", "failed", "not run", "expected"


class NotRun(Exception):
    """Raised inside a check that cannot decide: something it needs is missing, or too ill-conditioned."""


class Finding(Exception):
    """Raised inside a check that has seen enough: the message is the reason why it failed."""


@dataclass(frozen=True)
class Result:
    """The answer of one check.

    Attributes
    ----------
    name, code : str
        The check, and its number in the list C1 to C16.
    status : {"passed", "failed", "not run", "expected"}
        "expected" is a failure that was announced.
    reason : str
        Why it failed or was not run.
    measured, tolerance : float or None
        Error and tolerance where error / tolerance is largest.
    why : str
        Why that tolerance; for a check that draws samples, the smallest error that it would see.
    worst : dict of str to int
        Where that was: row, feature, layer, ...
    notes : tuple of str
        What is worth knowing and no failure.
    seconds : float
    evidence : dict of str to array
        What :meth:`afnp.verify.Report.plot` draws.
    """

    name: str = ""
    code: str = ""
    status: str = PASSED
    reason: str = ""
    measured: float | None = None
    tolerance: float | None = None
    why: str = ""
    worst: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    evidence: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def note(self) -> str:
        """What to say beside the numbers."""
        place = ", ".join(f"{k} {v}" for k, v in self.worst.items())
        said = {PASSED: self.why, NOT_RUN: self.reason}.get(self.status)
        if said is None:
            said = "; ".join(filter(None, [self.reason, self.why if self.tolerance else ""]))
            said += f" [{place}]" if place else ""
        return "; ".join(filter(None, [said, *self.notes]))

    @property
    def ratio(self) -> float:
        """How large the error is in units of its tolerance."""
        if self.measured is None or self.tolerance is None:
            return 0.0
        if not np.isfinite(self.measured):
            return np.inf
        return (
            self.measured / self.tolerance if self.tolerance else (np.inf if self.measured else 0.0)
        )

    def __str__(self) -> str:
        """Print one row of the report's table."""
        numbers = "".join(
            f"{'-' if v is None else format(v, '.1e'):>9s}" for v in (self.measured, self.tolerance)
        )
        return f"{self.code:4s}{self.name:20s}{self.status:9s}{numbers}{self.seconds:8.2f} s  {self.note}"


def found(problems: list[str], why: str, notes: tuple[str, ...] = ()) -> Result:
    """Return failed with the first problems, if there are any.

    Examples
    --------
    >>> found([], "exact").status, found(["a sign"], "exact").reason
    ('passed', 'a sign')
    """
    return Result(
        status=FAILED if problems else PASSED,
        reason="; ".join(problems[:3]),
        measured=len(problems),
        tolerance=0,
        why=why,
        notes=notes,
    )


def judge(
    error, tolerance, why: str, axes: tuple[str, ...], limit=np.inf, reason: str = ""
) -> Result:
    """Compare errors with tolerances of the same shape, elementwise; name the worst place by ``axes``.

    Entries whose tolerance is above ``limit``, or infinite, say nothing and are left out, unless
    their error is not finite.

    Raises
    ------
    NotRun
        If every tolerance is above its limit.

    Examples
    --------
    >>> result = judge(np.array([1e-16, 3e-3]), np.array([1e-12, 1e-9]), "eps", ("row",))
    >>> result.status, result.measured, result.worst
    ('failed', 0.003, {'row': 1})
    """
    error, tolerance = np.broadcast_arrays(
        np.asarray(error, dtype=float), np.asarray(tolerance, dtype=float)
    )
    informative = (tolerance <= limit) & (tolerance < np.inf) | ~np.isfinite(error)
    if not informative.any():
        raise NotRun("too ill-conditioned: no tolerance is small enough to see anything")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / tolerance)
    ratio = np.where(
        informative, np.where(np.isfinite(error) & ~np.isnan(ratio), ratio, np.inf), -1.0
    )
    place = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    return Result(
        status=PASSED if ratio[place] <= 1 else FAILED,
        reason=reason,
        measured=float(error[place]),
        tolerance=float(tolerance[place]),
        why=why,
        worst=dict(zip(axes, map(int, place), strict=True)),
    )


def beyond_rounding(tolerance: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return tolerances (N, D), without limit in rows of which rounding may move any number by all its size.

    Far from where it was measured, how such a row moves says nothing, not of its other numbers
    either.

    Examples
    --------
    >>> beyond_rounding(np.array([[1e-9, 2.0], [1e-9, 1e-9]]), np.ones((2, 2)))
    array([[   inf,    inf],
           [1.e-09, 1.e-09]])
    """
    return np.where((tolerance > size).any(axis=1, keepdims=True), np.inf, tolerance)


Check = Callable[["Subject", np.random.Generator], Result]


def check(code: str) -> Callable[[Check], Check]:
    """Turn a function into a check: in disguise, timed, and every exception in it becomes a Result."""

    def decorate(function: Check) -> Check:
        @functools.wraps(function)
        def timed(subject: Subject, rng: np.random.Generator) -> Result:
            start = time.perf_counter()
            try:
                with np.errstate(
                    all="ignore"
                ):  # what is not finite is found as a number, not as a warning
                    result = function(subject.disguised(rng), rng)
            except NotRun as exception:
                result = Result(status=NOT_RUN, reason=str(exception))
            except Finding as exception:
                result = Result(status=FAILED, reason=str(exception))
            except (
                Exception,
                SystemExit,
            ) as exception:  # what a stranger's code raises is a finding, no crash
                result = Result(
                    status=FAILED, reason=f"raised {type(exception).__name__}: {exception}"
                )
            seconds = time.perf_counter() - start
            return dataclasses.replace(result, name=function.__name__, code=code, seconds=seconds)

        timed.code = code  # type: ignore[attr-defined]
        return timed

    return decorate
