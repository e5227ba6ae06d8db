r"""Run the checks: on an afnp flow, or on anybody's functions.

.. math:: \text{report}(f) = \{\, \text{check}_k(\text{subject}(f), \text{seed}) \,\}_k
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Collection, Sequence
from threading import TIMEOUT_MAX
from typing import Any

import numpy as np

from afnp.flow import Flow
from afnp.inputs import choose, integer, real
from afnp.verify.adapters.targets import functions_of_target
from afnp.verify.checks import CHECKS
from afnp.verify.copying import independent_copy
from afnp.verify.functions import Functions, fields
from afnp.verify.levels import level_of
from afnp.verify.parameters import randomize
from afnp.verify.report import Report
from afnp.verify.results import EXPECTED, FAILED, NOT_RUN, PASSED, Result
from afnp.verify.subject import Subject
from afnp.verify.worker import Worker

__all__ = ["check_flow"]

RENDERINGS = ("auto", "numpy", "numba")
"""What ``backends`` may name."""

TIME_LIMIT = 300.0
"""Seconds that a check may take before it is given up."""


def check_flow(
    flow: Any = None,
    *,
    level: str = "full",
    seed: int = 0,
    checks: Sequence[str] | None = None,
    expected_failures: Collection[str] = (),
    parameters: str = "random",
    backends: Sequence[str] | None = None,
    time_limit: float | None = TIME_LIMIT,
    **functions: Any,
) -> Report:
    r"""Check a flow: structure, log-determinants, inverses, density, samples, gradient, behaviour.

    .. math:: \text{ok} \iff \text{nothing failed and something passed}

    Parameters
    ----------
    flow : Flow, dict, or any object that :func:`afnp.verify.adapt` knows; optional
        An afnp flow; an object with the methods normalize, generate, log_prob or sample; a
        dictionary of functions; a flow of another library. Or else give functions by name.
    level : {"quick", "full", "paranoid"}
        How many points, parameters, samples and renderings are looked at:
        :mod:`afnp.verify.levels`.
    seed : int
        For everything that is random here.
    checks : sequence of str, optional
        Names in ``CHECKS``; all, if left out.
    expected_failures : collection of str
        Names of checks that must fail. One that passes all the same is a failure.
    parameters : {"random", "own"}
        A flow is checked at random parameters, because fresh ones hide defects, or at its own. What
        is checked is a copy: yours keeps its parameters, also after an interruption.
    backends : sequence of str, optional
        Renderings of a flow to check, instead of the level's; one that does not run here fails.
    time_limit : float or None
        Seconds that each check may take. One that takes longer fails, and ends after the call of a
        function that it is at; with None it may take as long as it likes.
    **functions
        The fields of :class:`afnp.verify.Functions`: normalize, generate, log_prob, sample,
        features, context, allowed, base, ... Beside an external flow they say what it does not.

    Raises
    ------
    ValueError
        If neither or both of flow and functions are given, or an argument makes no sense.

    Examples
    --------
    >>> from afnp import maf
    >>> report = check_flow(maf(2, hidden=(4,), transforms=2), checks=["log_det", "round_trip"])
    >>> report.ok, report.passed
    (True, ['log_det', 'round_trip'])
    >>> report = check_flow(normalize=lambda x: (2 * x, np.zeros(len(x))), features=3)
    >>> report.failed
    ['log_det']
    """
    names = _names(checks, expected_failures)
    choose("parameters", parameters, ("random", "own"))
    chosen, seed = level_of(level), integer("seed", seed, least=0)
    if backends is not None:
        backends = _listed("backends", backends, RENDERINGS)
    if time_limit is not None:
        real("time_limit", time_limit, 0.0, TIMEOUT_MAX, "[]")
    given = _given(flow, functions)

    def subject() -> Subject:
        if isinstance(given, Functions):
            return Subject.of_functions(given, chosen)
        return Subject.of_flow(independent_copy(given), backends, chosen)

    run = _Run(subject, names, seed, parameters == "random", time_limit)
    results = _against_expectation(run.results(), expected_failures)
    return Report(results, level, _described(flow, run.subject), run.subject.kind)


def _given(flow: Any, functions: dict[str, Any]) -> Flow | Functions:
    """Return what is to be checked: one of afnp's flows, or a record of functions."""
    unknown = [name for name in functions if name not in fields()]
    if unknown:
        raise ValueError(f"functions: expected names among {', '.join(fields())}, got {unknown}")
    named = {name: value for name, value in functions.items() if value is not None}
    both = [name for name in ("normalize", "generate", "log_prob", "sample") if name in named]
    if (flow is None) == (not both):
        raise ValueError(
            "expected either a flow, or functions (normalize, generate, log_prob, sample)"
        )
    if flow is None:
        return Functions(**named)
    if not isinstance(flow, Flow):
        return functions_of_target(flow, **named)
    needless = {n: v for n, v in named.items() if (n, v) not in _facts(flow)}
    if needless:
        raise ValueError(
            f"{next(iter(needless))}: an afnp flow says this itself; leave the argument out"
        )
    return flow


def _facts(flow: Flow) -> list[tuple[str, Any]]:
    """Return what may be said of one of afnp's flows all the same, because it is so."""
    return [("features", flow.features), ("context", flow.context), ("dtype", flow.dtype)]


def _names(checks: Sequence[str] | None, expected: Collection[str]) -> list[str]:
    """Return the names of the checks to run, all of them known."""
    names = list(CHECKS) if checks is None else _listed("checks", checks, CHECKS)
    _listed("expected_failures", expected, names)
    return names


def _listed(argument: str, given: Any, known: Collection[str]) -> list[str]:
    """Return some names as a list, all of them known."""
    sound = isinstance(given, Collection) and not isinstance(given, str | bytes | np.ndarray)
    wrong = [name for name in given if name not in known] if sound else repr(given)
    if wrong:
        raise ValueError(f"{argument}: expected names among {', '.join(known)}, got {wrong}")
    return list(given)


def _described(flow: Any, subject: Subject) -> str:
    """Say in a line what was checked, and how it was differentiated."""
    external = flow is None or isinstance(flow, dict | Functions)
    name = "functions" if external else type(flow).__name__
    facts = f"{subject.features} features, context {subject.context}, {subject.dtype}"
    return f"{name}: {facts}; {subject.calculus}"


class _Run:
    """One subject, its checks, and what they have said so far."""

    def __init__(
        self,
        make: Callable[[], Subject],
        names: list[str],
        seed: int,
        random: bool,
        limit: float | None,
    ):
        self.make, self.names, self.seed, self.random = make, names, seed, random
        self.subject = self._prepared(0)
        self.limit = limit
        self.found: dict[str, list[Result]] = {name: [] for name in names}

    def results(self) -> list[Result]:
        """Run every check as often as the level says, in a random order each time.

        Return them in the usual one.
        """
        with Worker(self.limit) as worker:
            for repeat in range(self.subject.level.repeats):
                self._once(repeat, worker)
        return [_worst(self.found[name]) for name in self.names]

    def _seed(self, repeat: int) -> int:
        if not repeat:
            return self.seed
        return int(np.random.default_rng([self.seed, repeat, 5]).integers(2**31))

    def _prepared(self, repeat: int) -> Subject:
        """Return a subject that nobody has touched, at the parameters of this repeat."""
        subject = self.make()
        if subject.flow is not None and self.random:
            randomize(subject.flow, self._seed(repeat))
        subject.points.shared.seed = self._seed(repeat)
        return subject

    def _once(self, repeat: int, worker: Worker) -> None:
        if repeat:
            self.subject = self._prepared(repeat)
        order = np.random.default_rng([self.seed, repeat, 3]).permutation(self.names)
        for name in order.tolist():
            if not any(result.status == FAILED for result in self.found[name]):
                # by name: a new check does not move the others
                rng = np.random.default_rng([self.seed, repeat, zlib.crc32(name.encode())])
                self.found[name].append(self._asked(name, repeat, rng, worker))

    def _asked(self, name: str, repeat: int, rng: np.random.Generator, worker: Worker) -> Result:
        """Run a check; one that does not come back has failed, and keeps what it was working on."""
        subject = self.subject
        try:
            result = worker.run(lambda: CHECKS[name](subject, rng))
        except TimeoutError as error:
            self.subject = self._prepared(repeat)
            code = CHECKS[name].code  # type: ignore[attr-defined]
            result = Result(name, code, FAILED, str(error), seconds=self.limit or 0.0)
        return dataclasses.replace(result, seed=self.seed, repeat=repeat)


def _worst(results: list[Result]) -> Result:
    """Return what is worst of several runs of one check, with the time of all and every note."""
    rank = {FAILED: 2, PASSED: 1, NOT_RUN: 0}
    worst = max(results, key=lambda result: (rank[result.status], result.ratio))
    notes = tuple(dict.fromkeys(note for result in results for note in result.notes))
    return dataclasses.replace(
        worst, seconds=sum(result.seconds for result in results), notes=notes
    )


def _against_expectation(results: list[Result], expected: Collection[str]) -> list[Result]:
    """Turn failures that were announced into expected ones, and their absence into a failure."""

    def compared(result: Result) -> Result:
        if result.name in expected and result.status == FAILED:
            return dataclasses.replace(result, status=EXPECTED)
        if result.name in expected and result.status == PASSED:
            return dataclasses.replace(
                result, status=FAILED, reason="was expected to fail, and passed"
            )
        return result

    return [compared(result) for result in results]
