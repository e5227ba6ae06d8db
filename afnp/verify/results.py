r"""What a check says: one Result a check, one Report a flow.

.. math:: \text{passed} \iff \mathrm{error}_i \le \mathrm{tolerance}_i \quad \text{for every } i

A number that is not finite is an error larger than any tolerance; a check that could not run has not passed.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from afnp.verify.subject import Subject

__all__ = ["NotRun", "Report", "Result", "check", "judge"]

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"


class NotRun(Exception):
    """Raised inside a check that cannot decide: something it needs is missing, or too ill-conditioned."""


@dataclass(frozen=True)
class Result:
    """The answer of one check.

    Attributes
    ----------
    name, code : str
        The check, and its number in the list C1 to C16.
    status : {"passed", "failed", "not run"}
    reason : str
        Why it failed or was not run; what was compared, where it passed.
    measured, tolerance : float or None
        Error and tolerance where error / tolerance is largest.
    why : str
        Why that tolerance.
    worst : dict of str to int
        Where that was: row, feature, layer, ...
    seconds : float
    """

    name: str = ""
    code: str = ""
    status: str = PASSED
    reason: str = ""
    measured: float | None = None
    tolerance: float | None = None
    why: str = ""
    worst: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        """Print one row of the report's table."""
        numbers = "".join(f"{'-' if v is None else format(v, '.1e'):>9s}" for v in (self.measured, self.tolerance))
        place = ", ".join(f"{k} {v}" for k, v in self.worst.items())
        note = {PASSED: self.why, NOT_RUN: self.reason}.get(self.status, f"{self.reason} [{place}]")
        return f"{self.code:4s}{self.name:20s}{self.status:8s}{numbers}{self.seconds:8.2f} s  {note}"


@dataclass(frozen=True)
class Report:
    """The results of all checks on one flow; print it.

    Examples
    --------
    >>> report = Report([Result("round_trip"), Result("log_det", status="failed", reason="sign")])
    >>> report.ok, report.passed, report.failed
    (False, ['round_trip'], ['log_det'])
    """

    results: list[Result]

    def _names(self, status: str) -> list[str]:
        return [result.name for result in self.results if result.status == status]

    @property
    def passed(self) -> list[str]:
        """Names of the checks that passed."""
        return self._names(PASSED)

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return self._names(FAILED)

    @property
    def not_run(self) -> list[str]:
        """Names of the checks that could not run; they have not passed."""
        return self._names(NOT_RUN)

    @property
    def ok(self) -> bool:
        """Whether something passed and nothing failed."""
        return bool(self.passed) and not self.failed

    def __getitem__(self, name: str) -> Result:
        """Return the result of one check by name."""
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(f"no check {name!r} in this report; it has {', '.join(r.name for r in self.results)}")

    def __str__(self) -> str:
        """Print the table: a row a check, then the count."""
        head = f"{'':4s}{'check':20s}{'status':8s}{'error':>9s}{'allowed':>9s}{'time':>10s}  note"
        count = f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.not_run)} not run"
        return "\n".join([head, *map(str, self.results), count])

    def raise_if_failed(self) -> None:
        """Raise an AssertionError that shows the table, unless ``ok``."""
        if not self.ok:
            raise AssertionError(f"\n{self}")


def judge(error, tolerance, why: str, axes: tuple[str, ...], limit=np.inf, reason: str = "") -> Result:
    """Compare errors with tolerances of the same shape, elementwise; name the worst place by ``axes``.

    Entries whose tolerance is above ``limit`` say nothing and are left out, unless their error is not finite.

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
    error, tolerance = np.broadcast_arrays(np.asarray(error, dtype=float), np.asarray(tolerance, dtype=float))
    informative = (tolerance <= limit) | ~np.isfinite(error)
    if not informative.any():
        raise NotRun("too ill-conditioned: no tolerance is small enough to see anything")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / tolerance)
    ratio = np.where(informative, np.where(np.isfinite(error) & ~np.isnan(ratio), ratio, np.inf), -1.0)
    place = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    return Result(
        status=PASSED if ratio[place] <= 1 else FAILED,
        reason=reason,
        measured=float(error[place]),
        tolerance=float(tolerance[place]),
        why=why,
        worst=dict(zip(axes, map(int, place), strict=True)),
    )


Check = Callable[["Subject", np.random.Generator], Result]


def check(code: str) -> Callable[[Check], Check]:
    """Turn a function into a check: it is timed, and every exception in it becomes a Result."""

    def decorate(function: Check) -> Check:
        @functools.wraps(function)
        def timed(subject: Subject, rng: np.random.Generator) -> Result:
            start = time.perf_counter()
            try:
                with np.errstate(all="ignore"):  # what is not finite is found as a number, not as a warning
                    result = function(subject, rng)
            except NotRun as exception:
                result = Result(status=NOT_RUN, reason=str(exception))
            except Exception as exception:  # whatever a stranger's code raises is a finding, not a crash
                result = Result(status=FAILED, reason=f"raised {type(exception).__name__}: {exception}")
            seconds = time.perf_counter() - start
            return dataclasses.replace(result, name=function.__name__, code=code, seconds=seconds)

        return timed

    return decorate
