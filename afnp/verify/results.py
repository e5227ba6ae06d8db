r"""What a check says: one Result.

.. math:: \text{passed} \iff \mathrm{error}_i \le \mathrm{tolerance}_i \quad \text{for every } i

A number that is not finite is an error larger than any tolerance; a check that could not run has
not passed.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from afnp.verify.subject import Subject

__all__ = [
    "CHECKS",
    "READ",
    "Finding",
    "NotRun",
    "Result",
    "beyond_rounding",
    "check",
    "collect",
    "compare",
]

PASSED, FAILED, NOT_RUN, EXPECTED = "passed", "failed", "not run", "expected"


READ = {
    "dependency": "lesson 03; museum: kamenbliznashki/normalizing_flows, a random input order",
    "connectivity": "lesson 04; museum: nflows PR #85, a first feature without context",
    "triangular": "lesson 03",
    "log_det": "lesson 03; museum: flowjax #208, flowjax #169",
    "monotone": "lesson 09",
    "round_trip": "lesson 14; museum: rll/deepul #10, an order not undone",
    "antisymmetry": "lesson 02; museum: ikostrikov/pytorch-flows #16",
    "identities": "lesson 02; museum: uvadlc #93, a constant of the likelihood",
    "deterministic": "lesson 14",
    "pure": "lesson 14",
    "batch_independence": "lesson 14; museum: wohlert/semi-supervised-pytorch #21",
    "normalisation": "lesson 14; museum: flowjax #102",
    "agreement": "lesson 14; museum: gpapamak/maf, a clamp in the sampler only",
    "noise": "lesson 14; museum: gpapamak/maf, a clamp in the sampler only",
    "randomness": "lesson 14",
    "gradients": "lesson 05",
    "edges": "lesson 09; museum: nflows #87, a discriminant below 0",
    "odd_input": "lesson 14; museum: TFP #1203",
    "shapes": "lesson 14; museum: zuko, an empty batch",
    "staleness": "lesson 14",
}
"""Where to read about what a check looks at: a lesson, and who made such a mistake before."""

CLAIMS = {
    "dependency": "nothing moves with what it must not depend on, not by a bit",
    "connectivity": "everything moves with all that it may depend on",
    "triangular": "du/dx is triangular, and its diagonal that of the univariates",
    "log_det": "log_det of normalize = log|det du/dx|",
    "monotone": "u_i rises with x_i",
    "round_trip": "each direction undoes the other",
    "antisymmetry": "log_det of generate = - log_det of normalize, at the same x",
    "identities": "log_prob(x) = base(u) + log_det of normalize",
    "normalisation": "the density integrates to 1",
    "agreement": "samples lie in their density as uniform numbers do",
    "noise": "normalize(sample(n)) is noise of the base",
    "deterministic": "the same question has the same answer",
    "pure": "no function changes what it is given",
    "batch_independence": "the answer for a row does not depend on the other rows",
    "randomness": "samples come from the generator that is given, and from nothing else",
    "gradients": "the gradient is that of the loss",
    "edges": "far out and at the ends of the support numbers are finite, and there is a way back",
    "odd_input": "nonsense gives an error or nonsense, in its own row alone",
    "shapes": "rows in, rows and one number a row out, in the type of the flow",
    "staleness": "new parameters count at once",
}
"""What should hold, where a check says nothing more exact."""

OFTEN = {
    "dependency": "a mask with <= for <, or an order where its inverse is needed",
    "connectivity": "layers that are too narrow, or hidden units that never see the context",
    "deterministic": "dropout or noise that is on, a module in training mode, a generator of its "
    "own",
    "pure": "an operation in place, such as x -= mean",
    "batch_independence": "a sum, a mean or a normalisation over the batch",
    "randomness": "a generator of its own, or a fixed seed",
    "staleness": "something kept from before the parameters changed",
}
"""What usually lies behind a failure that needs no pattern of numbers."""

SHOWN = 8
"""So many numbers of a row are printed."""


class NotRun(Exception):
    """Raised inside a check that cannot decide.

    Something it needs is missing, or too ill-conditioned.
    """


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
    seed, repeat : int
        Of ``check_flow``, and how often the level had run before: what finds it again.
    claim : str
        What should hold, where it does not.
    values : dict of str to float
        The two numbers that should be one, by what gave them.
    x : tuple of float
        The row at which they were found.
    of : str
        What that row is: x, or u.
    cause : str
        The likely one, where the differences have a pattern that is known.
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
    seed: int | None = None
    repeat: int = 0
    claim: str = ""
    values: dict[str, float] = field(default_factory=dict)
    x: tuple[float, ...] = ()
    of: str = "x"
    cause: str = ""
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

    def explanation(self) -> str:
        """Say what should hold, what was found where, the likely cause, and where to read about it.

        Examples
        --------
        >>> print(
        ...     Result(
        ...         "log_det",
        ...         status="failed",
        ...         claim="log_det = log|det du/dx|",
        ...         seed=0,
        ...         worst={"row": 3},
        ...         values={"normalize gives": 1.5, "its Jacobian": -1.5},
        ...         x=(0.5, 2.0),
        ...         cause="opposite sign",
        ...     ).explanation()
        ... )
        log_det
          should hold   log_det = log|det du/dx|
          found         normalize gives 1.5, its Jacobian -1.5; row 3, x = [0.5, 2], seed 0
          likely cause  opposite sign
          read          lesson 03 of 'afnp lessons'; replayed in tests/test_museum.py: flowjax \
#208, flowjax #169
        """
        often = OFTEN.get(self.name, "") if self.measured is not None else ""
        lines = {
            "should hold": self.claim or CLAIMS.get(self.name, ""),
            "found": "; ".join(filter(None, [self._found(), self._place()])),
            "likely cause": self.cause or (often and f"often {often}"),
            "read": _found_in(READ.get(self.name, "")),
        }
        said = [f"  {head:14s}{line}" for head, line in lines.items() if line]
        return "\n".join([self.name, *said])

    def _found(self) -> str:
        """Say what was found: the numbers that should be one, or the reason and its size."""
        if self.values:
            return ", ".join(f"{name} {value:.6g}" for name, value in self.values.items())
        if self.measured is None or not self.tolerance:
            return self.reason
        size = f"{self.measured:.2g} where {self.tolerance:.2g} is allowed"
        return f"{self.reason}: {size}" if self.reason else f"an error of {size}"

    def _place(self) -> str:
        """Say where that was, and what finds it again."""
        said = ("output", "input") if self.reason else ()  # the reason names these
        place = [f"{k} {i}" for k, i in self.worst.items() if i >= 0 and k not in said]
        if self.x:
            place.append(f"{self.of} = {_short(self.x)}")
        if self.seed is not None:
            place.append(f"seed {self.seed}" + (f", repeat {self.repeat}" if self.repeat else ""))
        return ", ".join(place)

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
        found = f"{self.code:4s}{self.name:20s}{self.status:9s}{numbers}"
        return f"{found}{self.seconds:8.2f} s  {self.note}"


def _found_in(text: str) -> str:
    """Say where lessons and museum are found, for somebody who does not know them."""
    text = re.sub(r"(lesson \d+)", r"\1 of 'afnp lessons'", text)
    return text.replace("museum:", "replayed in tests/test_museum.py:")


def _short(x: tuple[float, ...]) -> str:
    """Print a row: its first numbers, and how many more there are."""
    shown = ", ".join(f"{value:.6g}" for value in x[:SHOWN])
    return f"[{shown}" + (f", ... {len(x) - SHOWN} more]" if len(x) > SHOWN else "]")


def collect(problems: list[str], why: str, notes: tuple[str, ...] = ()) -> Result:
    """Return failed with the first problems, if there are any.

    Examples
    --------
    >>> collect([], "exact").status, collect(["a sign"], "exact").reason
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


def compare(
    error, tolerance, why: str, axes: tuple[str, ...], limit=np.inf, reason: str = ""
) -> Result:
    """Compare errors with tolerances of the same shape, elementwise.

    Name the worst place by ``axes``.

    Entries whose tolerance is above ``limit``, or infinite, say nothing and are left out, unless
    their error is not finite.

    Raises
    ------
    NotRun
        If every tolerance is above its limit.

    Examples
    --------
    >>> result = compare(np.array([1e-16, 3e-3]), np.array([1e-12, 1e-9]), "eps", ("row",))
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
    """Return tolerances (N, D), without limit in rows where rounding may move a number by its size.

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

CHECKS: dict[str, Check] = {}
"""Every check by its name: the files of :mod:`afnp.verify.checks` enter theirs."""


def check(code: str) -> Callable[[Check], Check]:
    """Turn a function into a check: in disguise, timed, and every exception in it becomes a Result.

    It enters ``CHECKS`` under its name; reports list checks by their code, as C3.
    """

    def decorate(function: Check) -> Check:
        @functools.wraps(function)
        def timed(subject: Subject, rng: np.random.Generator) -> Result:
            start = time.perf_counter()
            # what is not finite is found as a number, not as a warning; and what an external flow
            # raises is a finding, no crash
            try:
                with np.errstate(all="ignore"):
                    result = function(subject.disguised(rng), rng)
            except NotRun as exception:
                result = Result(status=NOT_RUN, reason=str(exception))
            except Finding as exception:
                result = Result(status=FAILED, reason=str(exception))
            except (Exception, SystemExit) as exception:
                reason = f"raised {type(exception).__name__}: {exception}"
                result = Result(status=FAILED, reason=reason)
            seconds = time.perf_counter() - start
            return dataclasses.replace(result, name=function.__name__, code=code, seconds=seconds)

        timed.code = code  # type: ignore[attr-defined]
        CHECKS[function.__name__] = timed
        return timed

    return decorate
